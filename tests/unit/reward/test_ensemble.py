"""Several heads on one adapter: what they are, how they learn, what their disagreement costs; one head is as ever."""

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf.config.load import load_config
from rlhf.errors import ArtifactError, ConfigError
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from rlhf.reward.examples import emphasise, encode_pairs, pair_batch
from rlhf.reward.losses import each_head, preference_loss
from rlhf.reward.model import (
    Item,
    RewardInfo,
    head_scores,
    import_reward,
    load_reward_info,
    publish_reward,
    score_heads,
    score_ids,
    set_normalisation,
    stack_rows,
)
from rlhf.runtime import start_runtime
from rlhf.stage_graph import fields_of
from rlhf.text import TextFormat
from stages.reward import _change_imported
from tests.pipeline.conftest import RECIPE
from tests.tiny import shake, tiny_base
from tests.trackers import DisturbingTracker, die
from tests.unit.reward.planted import planted_config, planted_pairs, reward_base, train_planted
from tests.unit.reward.test_model import ITEMS
from tests.unit.reward.test_trainer import published


def test_the_penalty_is_that_many_variances_of_normalised_scores() -> None:
    info = RewardInfo("last", score_std=2.0, heads=3, head_means=(1.0, 0.0, -1.0), uncertainty_penalty=0.5)
    # z = (3 - 1) / 2, (4 - 0) / 2, (5 + 1) / 2 = 1, 2, 3: mean 2, variance (1 + 0 + 1) / 3.
    assert info.normalise([3.0, 4.0, 5.0]) == pytest.approx(2 - 0.5 * 2 / 3)
    assert dataclasses.replace(info, uncertainty_penalty=0.0).normalise([3.0, 4.0, 5.0]) == pytest.approx(2.0)
    # The flipped control turns what is preferred, not the fear of what is unknown.
    assert dataclasses.replace(info, control="flipped").normalise([3.0, 4.0, 5.0]) == pytest.approx(-2 - 0.5 * 2 / 3)
    # Twice the raw scale with twice the deviation: the same penalty, so that it means the same for every model.
    wide = dataclasses.replace(info, score_std=4.0, head_means=(2.0, 0.0, -2.0))
    assert wide.normalise([6.0, 8.0, 10.0]) == pytest.approx(info.normalise([3.0, 4.0, 5.0]))


def test_one_head_is_written_as_before(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    publish_reward(shared, RewardInfo("last", prompt_format_hash=text.hash), tmp_path / "one", start_runtime())
    content = json.loads((tmp_path / "one" / "reward.json").read_text())
    assert list(content) == [
        "pooling", "score_mean", "score_std", "temperature", "control", "base_weights_hash", "prompt_format_hash",
        "calibration",
    ]  # fmt: skip
    assert {key: tuple(value.shape) for key, value in load_file(tmp_path / "one" / "head.safetensors").items()} == {
        "weight": (1, 32),
        "bias": (1,),
    }
    assert load_reward_info(tmp_path / "one") == RewardInfo("last", prompt_format_hash=text.hash)


def test_one_head_asked_for_is_one_head_not_asked_for(tmp_path: Path) -> None:
    hashes = []
    for name, changes in (("plain", {}), ("one", {"heads": 1, "uncertainty_penalty": 0.0})):
        outcome, shared, _, folder, runtime = train_planted(
            tmp_path, planted_config(epochs=1, **changes), prompts=16, name=name
        )
        publish_reward(shared, outcome.info, folder, runtime)
        files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "metrics.jsonl"]
        hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert hashes[0] == hashes[1]


def test_heads_are_drawn_apart_and_read_each_by_itself(tmp_path: Path) -> None:
    shared, _ = reward_base(tmp_path, heads=4)
    weight = shared.heads["reward"].state_dict()["weight"]
    assert weight.shape == (4, 32)
    assert len({tuple(row) for row in weight.tolist()}) == 4
    ids, mask = stack_rows(ITEMS, 0)
    states = shared.hidden("reward", ids)
    torch.testing.assert_close(shared.read_heads("reward", states)[2], states @ weight[2])
    torch.testing.assert_close(shared.read_head("reward", states), shared.read_heads("reward", states).mean(dim=0))
    assert head_scores(shared, ids, mask, "mean").shape == (4, len(ITEMS))


def test_the_critic_starts_as_the_mean_head(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path, heads=4)
    with torch.no_grad():
        shared.heads["reward"].bias.copy_(torch.arange(4.0))  # pyright: ignore[reportCallIssue]
    publish_reward(
        shared, RewardInfo("last", heads=4, prompt_format_hash=text.hash), tmp_path / "four", start_runtime()
    )
    roles = {
        "reward": RoleSource(folder=tmp_path / "four", head=True),
        "critic": RoleSource(copy_of="reward", head=True, trainable=True),
    }
    built = build_shared_base(tiny_base(tmp_path), roles)
    own = built.heads["critic"].state_dict()
    assert own["weight"].shape == (1, 32)
    assert own["bias"].tolist() == [1.5]
    states = built.hidden("critic", stack_rows(ITEMS, 0)[0])
    torch.testing.assert_close(
        built.read_head("critic", states), shared.read_head("reward", states), atol=1e-5, rtol=1e-5
    )


def test_an_ensemble_survives_its_folder(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path, heads=3)
    shake(shared, "reward")
    plain = RewardInfo("last", heads=3, uncertainty_penalty=0.4, base_weights_hash=shared.base_hash)
    info = set_normalisation(plain, shared, text, ITEMS, 2)
    raw = np.array(score_heads(shared, text, "last", ITEMS, 2))
    assert info.head_means == pytest.approx(raw.mean(axis=0))
    assert info.score_std == pytest.approx(raw.mean(axis=1).std())
    normalised = (raw - raw.mean(axis=0)) / raw.mean(axis=1).std()
    expected = normalised.mean(axis=1) - 0.4 * normalised.var(axis=1)
    assert score_ids(shared, text, info, ITEMS, 3) == pytest.approx(expected, abs=1e-5)
    publish_reward(shared, info, tmp_path / "reward", start_runtime())
    again, found = import_reward(tiny_base(tmp_path), tmp_path / "reward", tmp_path / "reward")
    assert found == info
    assert score_ids(again, text, found, ITEMS, 3) == score_ids(shared, text, info, ITEMS, 3)


def test_heads_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    shared, _ = reward_base(tmp_path, heads=3)
    folder = tmp_path / "reward"
    publish_reward(shared, RewardInfo("last", heads=3, head_means=(0.0, 1.0, 2.0)), folder, start_runtime())
    content = json.loads((folder / "reward.json").read_text())
    for change, message in [
        ({"heads": 4}, "heads is 4, and head.safetensors has 3"),
        ({"head_means": [0.0, 1.0]}, "3 numbers are needed"),
        ({"uncertainty_penalty": -1.0}, "uncertainty_penalty is -1.0"),
        ({"head_means": 7}, "damaged"),
    ]:
        (folder / "reward.json").write_text(json.dumps(content | change))
        with pytest.raises(ArtifactError, match=message):
            load_reward_info(folder)
    save_file({"weight": torch.zeros(3, 8), "bias": torch.zeros(3)}, folder / "head.safetensors")
    with pytest.raises(ArtifactError, match="weight has shape"):
        build_shared_base(tiny_base(tmp_path), {"reward": RoleSource(folder=folder, head=True)})


def test_a_penalty_without_an_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match="one head has no variance; set heads to 2"):
        planted_config(uncertainty_penalty=0.5)


def test_an_imported_ensemble_can_be_made_more_careful(tmp_path: Path) -> None:
    info = RewardInfo("last", heads=3, uncertainty_penalty=0.2)
    options = ["--reward.import-path", str(tmp_path)]
    plain, careful = (load_config(RECIPE, [*options, *more]) for more in ([], ["--reward.uncertainty-penalty", "0.7"]))
    assert _change_imported(plain, info) == info
    assert _change_imported(careful, info).uncertainty_penalty == 0.7
    with pytest.raises(ConfigError, match=r"uncertainty_penalty is 0.7, and the reward model in .* has one head"):
        _change_imported(careful, RewardInfo("last"))
    # It decides what the imported model's scores are, so it is part of the stage's identity.
    assert fields_of("reward", careful)["reward.uncertainty_penalty"] == 0.7


def test_each_head_weighs_the_prompts_for_itself(tmp_path: Path) -> None:
    _, text = reward_base(tmp_path)
    prompts = encode_pairs(text, planted_pairs(40, 1), 64, "training")
    assert emphasise(prompts, 1, 3) == prompts
    weighed = emphasise(prompts, 4, 3)
    table = np.array([prompt.emphasis for prompt in weighed])
    assert table.mean(axis=0) == pytest.approx([1.0] * 4)
    assert table.std() == pytest.approx(1.0, abs=0.25)  # exponential: deviation 1, here of 160 draws
    assert emphasise(prompts, 4, 3) == weighed != emphasise(prompts, 4, 4)
    pairs = pair_batch(weighed[:3], torch.device("cpu"))
    scores = torch.randn(
        4, sum(len(prompt.response_ids) for prompt in weighed[:3]), generator=torch.Generator().manual_seed(0)
    )
    for head, (own, view) in enumerate(each_head(scores, pairs)):
        assert torch.equal(own, scores[head])
        by_hand = sum(
            table[number, head]
            * preference_loss(own, dataclasses.replace(pairs, weight=pairs.weight * (pairs.prompt == number)))[0]
            for number in range(3)
        )
        torch.testing.assert_close(preference_loss(own, view)[0], by_hand, check_dtype=False)


def test_an_ensemble_learns_and_its_heads_differ(tmp_path: Path) -> None:
    outcome, shared, *_ = train_planted(tmp_path, planted_config(heads=4, epochs=3), prompts=96)
    assert outcome.calibration.accuracy.value > 0.9
    assert (outcome.info.heads, outcome.info.uncertainty_penalty) == (4, 0.0)
    weight = shared.heads["reward"].state_dict()["weight"]
    assert torch.pdist(weight).min() > 0.1


def test_cutting_a_step_leaves_the_training_of_an_ensemble(tmp_path: Path) -> None:
    whole = train_planted(tmp_path, planted_config(heads=4, epochs=1), prompts=20, name="whole")
    cut = train_planted(tmp_path, planted_config(heads=4, epochs=1, micro_batch_prompts=1), prompts=20, name="cut")
    for name, tensor in whole[1].state_dict().items():
        torch.testing.assert_close(cut[1].state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_killed_ensemble_ends_with_the_same_bytes(tmp_path: Path) -> None:
    config = planted_config(heads=4, epochs=2)
    outcome, shared, _, folder, runtime = train_planted(tmp_path, config, prompts=24, name="straight")
    publish_reward(shared, outcome.info, folder, runtime)
    killed = tmp_path / "killed"
    killed.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train_planted(tmp_path, config, prompts=24, name="killed", tracker=DisturbingTracker(killed, 5, die))
    assert (killed / ".checkpoints" / "step-3" / "COMPLETE").exists()
    resumed, shared, _, folder, runtime = train_planted(tmp_path, config, prompts=24, name="killed")
    publish_reward(shared, resumed.info, folder, runtime)
    assert resumed == outcome
    assert published(tmp_path, "killed") == published(tmp_path, "straight")


def test_heads_disagree_more_on_texts_unlike_those_they_learned_from(tmp_path: Path) -> None:
    """Relative to how far apart they put two responses: on other words the heads spread twice as much (2.0, three seeds).

    Not in every run, and not in absolute terms: on words that it never saw, the model puts responses less far apart.
    """
    known, strange = [], []
    for seed in (1, 2, 3):
        config = planted_config(heads=4, epochs=3)
        _, shared, text, *_ = train_planted(tmp_path, config, prompts=96, name=f"seed-{seed}", seed=seed)
        known.append(relative_spread(shared, text, ("cat", "the", "and", "ran")))
        strange.append(relative_spread(shared, text, ("QUX", "9,7", "%zz", "moon")))
    assert np.mean(strange) > 1.3 * np.mean(known), (known, strange)


def relative_spread(shared: SharedBase, text: TextFormat, words: tuple[str, ...]) -> float:
    """Return the heads' deviation of two responses' difference over the size of its mean, both as means over pairs."""
    rng = np.random.default_rng(5)
    spreads: list[float] = []
    gaps: list[float] = []
    for number in range(40):
        responses = sorted({"".join(f" {rng.choice(words)}" for _ in range(5)) for _ in range(3)})
        prompt = f"the n{number} sat"
        items: list[Item] = [
            (text.encode_prompt(prompt), text.encode_response(prompt, response)) for response in responses
        ]
        scores = np.array(score_heads(shared, text, "last", items, 4))
        for first, second in itertools.combinations(scores, 2):
            spreads.append(float((first - second).std()))
            gaps.append(abs(float((first - second).mean())))
    return float(np.mean(spreads) / np.mean(gaps))
