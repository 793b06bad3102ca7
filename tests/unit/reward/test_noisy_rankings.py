"""What noisy rankings teach, in small (the whole is `tests.real.rewards`): words that people like, rankings that err."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rlhf.config.load import load_config
from rlhf.config.training import RewardConfig
from rlhf.labels.scripted import calibrate
from rlhf.models.roles import RoleSource, build_shared_base
from rlhf.records import CandidateSet
from tests.conftest import REPOSITORY
from tests.real.rewards import AGREEMENT, Arm, Row, Setting, agreement, rank, train
from tests.tiny import TINY_LORA, tiny_base

WORDS = ("cat", "dog", "mat", "house", "sat", "ran")
LIKED = np.array([2.0, -2.0, 1.0, -1.0, 0.0, 0.0])
LEARNING = RewardConfig(
    pooling="mean",
    epochs=4,
    learning_rate=1e-2,
    head_learning_rate=1e-2,
    batch_prompts=16,
    micro_batch_prompts=16,
    normalisation_prompts=8,
)
LEARNED, TESTED = 400, 200


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Six-word answers, four to a prompt, whose worth is the sum of their words'."""
    run = tmp_path_factory.mktemp("rewards")
    (run / "round-1").mkdir()
    base = tiny_base(run / "round-1")
    build_shared_base(base, {"policy": RoleSource(fresh=TINY_LORA)}).save_role("policy", run / "round-1/sft")
    draw = np.random.default_rng(0)
    sets: list[CandidateSet] = []
    truth: dict[str, np.ndarray] = {}
    while len(sets) < LEARNED + TESTED:
        picks = draw.integers(len(WORDS), size=(4, 6))
        texts = tuple(" ".join(WORDS[word] for word in row) for row in picks.tolist())
        if len(set(texts)) == len(texts):
            sets.append(CandidateSet(f"p-{len(sets):04d}", f"the {len(sets)} sat", texts))
            truth[sets[-1].prompt_id] = LIKED[picks].sum(axis=1)
    config = dataclasses.replace(load_config(REPOSITORY / "tests/pipeline/tiny.yaml"), reward=LEARNING)
    noise = calibrate(list(truth.values()), AGREEMENT)
    return Setting(config, run, sets[:LEARNED], sets[LEARNED:], truth, noise)


@pytest.fixture(scope="module")
def learned(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Row:
    return train(setting, Arm("all", LEARNED), tmp_path_factory.mktemp("all"), 1)[1]


def test_two_annotators_agree_as_often_as_was_asked(setting: Setting) -> None:
    found = agreement(*(rank(setting, [*setting.train, *setting.tested], name, 1) for name in ("one", "two")))
    assert found == pytest.approx(AGREEMENT, abs=0.02)


def test_the_truth_is_found_behind_the_noise(learned: Row) -> None:
    assert learned["gold_accuracy"] > 0.85
    # The labels themselves are right less often than the model that learned from them.
    assert learned["label_accuracy"] < learned["gold_accuracy"]
    assert learned["ece_after_temperature"] < 0.05


def test_reversed_labels_pull_the_accuracy_on_labels_towards_a_coin(learned: Row) -> None:
    assert learned["flipped_label_accuracy"] == pytest.approx(learned["flipped_label_accuracy_expected"], abs=0.03)


@pytest.mark.slow
def test_fewer_spoiled_and_shuffled_rankings_teach_less(setting: Setting, learned: Row, tmp_path: Path) -> None:
    arms = {
        "few": Arm("few", 40),
        "spoiled": Arm("spoiled", LEARNED, flips=0.25),
        "shuffled": Arm("shuffled", LEARNED, changes=(("control", "shuffled"),)),
    }
    found = {name: train(setting, arm, tmp_path, 1)[1]["gold_accuracy"] for name, arm in arms.items()}
    assert found["shuffled"] == pytest.approx(0.5, abs=0.15)
    assert found["few"] < learned["gold_accuracy"] - 0.03
    assert found["spoiled"] < learned["gold_accuracy"]
    assert found["spoiled"] > found["shuffled"] + 0.1


@pytest.mark.slow
def test_whole_orders_teach_what_all_pairs_teach(setting: Setting, learned: Row, tmp_path: Path) -> None:
    orders = train(setting, Arm("orders", LEARNED, changes=(("likelihood", "plackett_luce"),)), tmp_path, 1)[1]
    assert orders["gold_accuracy"] == pytest.approx(learned["gold_accuracy"], abs=0.03)
