"""Scores do not depend on padding or on the batch; a reward model's folder is checked when it is read."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from rlhf.config.base import BaseConfig
from rlhf.errors import ArtifactError, DataError, TrainingError
from rlhf.models.roles import RoleSource, build_shared_base
from rlhf.reward.model import (
    Item,
    Pooling,
    RewardInfo,
    head_scores,
    import_reward,
    load_reward_info,
    publish_reward,
    score_ids,
    score_texts,
    set_normalisation,
    stack_rows,
    stack_shared,
)
from rlhf.runtime import start_runtime
from tests.tiny import TINY_LORA, shake, tiny_base
from tests.unit.reward.planted import reward_base

ITEMS: list[Item] = [
    ([5, 6, 7], [8, 9, 0]),
    ([5, 6], [10, 11, 12, 13, 14, 0]),
    ([20], [21]),
    ([30, 31, 32, 33], [9, 0]),
]
POOLINGS: tuple[Pooling, ...] = ("last", "mean")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_score_does_not_depend_on_batch_or_order(tmp_path: Path, pooling: Pooling) -> None:
    shared, text = reward_base(tmp_path)
    shake(shared, "reward")
    info = RewardInfo(pooling)
    alone = [score_ids(shared, text, info, [item], 1)[0] for item in ITEMS]
    assert score_ids(shared, text, info, ITEMS, 4) == pytest.approx(alone, abs=1e-5)
    assert score_ids(shared, text, info, ITEMS[::-1], 3) == pytest.approx(alone[::-1], abs=1e-5)
    assert len({round(score, 4) for score in alone}) == len(ITEMS)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("pad", [0, 17])
def test_score_does_not_depend_on_padding(tmp_path: Path, pooling: Pooling, pad: int) -> None:
    shared, _ = reward_base(tmp_path)
    shake(shared, "reward")
    ids, mask = stack_rows(ITEMS, pad)
    real = torch.tensor([[column < len(p) + len(r) for column in range(ids.shape[1])] for p, r in ITEMS])
    with torch.no_grad():
        right = head_scores(shared, ids, mask, pooling)
        filler, off = torch.full((len(ITEMS), 5), pad), torch.zeros(len(ITEMS), 5, dtype=torch.bool)
        wide_ids, wide_mask = torch.cat([filler, ids], dim=1), torch.cat([off, mask], dim=1)
        left = head_scores(shared, wide_ids, wide_mask, pooling, attention_mask=torch.cat([off, real], dim=1))
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


SHARED = [([5, 6, 7], [[8, 9, 0], [10, 11, 12, 13, 0], [8]]), ([20], [[21], [5, 6, 7, 8, 9, 10, 0]])]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("pad", [0, 17])
def test_responses_that_share_a_prompt_do_not_see_each_other(tmp_path: Path, pooling: Pooling, pad: int) -> None:
    shared, _ = reward_base(tmp_path)
    shake(shared, "reward")
    items = [(prompt, response) for prompt, responses in SHARED for response in responses]
    found: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
    for ids, mask, *row_of in (stack_rows(items, pad), stack_shared(SHARED, pad)):
        scores = head_scores(shared, ids, mask, pooling, row_of=row_of[0] if row_of else None)[0]
        weights = [parameter for _, parameter in shared.trainable("reward")]
        # Different weights, so that no response's gradient stands for another's.
        found.append((scores, list(torch.autograd.grad((scores * torch.arange(1.0, 6.0)).sum(), weights))))
    assert stack_shared(SHARED, pad)[0].shape == (2, 12)
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("attention", "answer"), [("sdpa", True), ("eager", False)])
def test_only_some_kinds_of_attention_take_a_mask_of_their_own(tmp_path: Path, attention: str, answer: bool) -> None:
    base = tiny_base(tmp_path, config=BaseConfig(attention=attention))  # pyright: ignore[reportArgumentType]
    shared = build_shared_base(base, {"reward": RoleSource(fresh=TINY_LORA, head=True)})
    assert shared.can_branch is answer
    shared.model.config.sliding_window = 8
    shared.model.config.layer_types = ["sliding_attention"] * 2
    assert not shared.can_branch


def test_poolings_read_where_they_say(tmp_path: Path) -> None:
    shared, _ = reward_base(tmp_path)
    ids, mask = stack_rows(ITEMS[:1], 0)
    with torch.no_grad():
        per_token = shared.read_head("reward", shared.hidden("reward", ids))[0]
        last, mean = (head_scores(shared, ids, mask, pooling).item() for pooling in POOLINGS)
    # The prompt has three tokens, the response three.
    assert last == pytest.approx(per_token[5].item(), abs=1e-6)
    assert mean == pytest.approx(per_token[3:6].mean().item(), abs=1e-6)


def test_normalised_scores_of_the_samples_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    info = set_normalisation(RewardInfo("last", control="flipped"), shared, text, ITEMS, 2)
    scores = torch.tensor(score_ids(shared, text, info, ITEMS, 2), dtype=torch.float64)
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_a_model_that_tells_little_apart_is_not_made_loud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared, text = reward_base(tmp_path)
    plain = RewardInfo("last", temperature=2.0)
    raw = torch.tensor(score_ids(shared, text, plain, ITEMS, 2), dtype=torch.float64).std(correction=0).item()
    info = set_normalisation(plain, shared, text, ITEMS, 2, min_std=2 * raw)
    scores = torch.tensor(score_ids(shared, text, info, ITEMS, 2), dtype=torch.float64)
    assert scores.std(correction=0).item() == pytest.approx(0.25, abs=1e-5)
    assert "tells little apart" in caplog.text
    assert set_normalisation(plain, shared, text, ITEMS, 2, min_std=raw / 4).score_std == pytest.approx(raw)


def test_flipped_control_turns_the_sign(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    info = RewardInfo("last", score_mean=0.5, score_std=2.0)
    flipped = dataclasses.replace(info, control="flipped")
    straight = score_ids(shared, text, info, ITEMS, 4)
    assert score_ids(shared, text, flipped, ITEMS, 4) == pytest.approx([-score for score in straight])


def test_normalisation_refuses_a_model_that_says_nothing(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    with torch.no_grad():
        shared.heads["reward"].weight.zero_()  # pyright: ignore[reportCallIssue]
    with pytest.raises(TrainingError, match="all 4 SFT samples the same score"):
        set_normalisation(RewardInfo("last"), shared, text, ITEMS, 2)


def test_texts_and_ids_score_alike(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    items = [(text.encode_prompt("the cat"), text.encode_response("the cat", " sat"))]
    info = RewardInfo("mean")
    assert score_texts(shared, text, info, [("the cat", " sat")], 4) == score_ids(shared, text, info, items, 4)


@pytest.mark.parametrize("item", [([5], []), ([5] * 100, [6] * 100)])
def test_empty_and_overlong_responses_are_refused(tmp_path: Path, item: Item) -> None:
    shared, text = reward_base(tmp_path)
    with pytest.raises(DataError, match="response 1 has"):
        score_ids(shared, text, RewardInfo("last"), [ITEMS[0], item], 2)


def test_saved_reward_model_scores_the_same(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    shake(shared, "reward")
    info = RewardInfo(
        "last", score_mean=0.3, score_std=1.5, base_weights_hash=shared.base_hash, prompt_format_hash=text.hash
    )
    before = score_ids(shared, text, info, ITEMS, 4)
    folder = tmp_path / "reward"
    publish_reward(shared, info, folder, start_runtime())
    names = {path.name for path in folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "head.safetensors", "reward.json"}
    again, found = import_reward(tiny_base(tmp_path), folder, folder)
    assert found == info
    assert score_ids(again, text, found, ITEMS, 4) == before


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    shared, _ = reward_base(tmp_path)
    folder = tmp_path / "reward"
    with pytest.raises(ArtifactError, match="reward.json: no such file"):
        load_reward_info(folder)
    publish_reward(shared, RewardInfo("last", base_weights_hash="f" * 64), folder, start_runtime())
    with pytest.raises(ArtifactError, match="made on another base"):
        load_reward_info(folder, tiny_base(tmp_path))
    content = json.loads((folder / "reward.json").read_text())
    for name, value, message in [
        ("score_std", 0.0, "no usable scale"),
        ("pooling", "first", "one is unknown"),
        ("mood", "good", "damaged"),
    ]:
        (folder / "reward.json").write_text(json.dumps(content | {name: value}))
        with pytest.raises(ArtifactError, match=message):
            load_reward_info(folder)
    (folder / "reward.json").write_text(json.dumps(content))
    (folder / "head.safetensors").unlink()
    with pytest.raises(ArtifactError, match="without its head"):
        load_reward_info(folder)


def test_head_is_never_drawn_in_silence(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    folder = tmp_path / "reward"
    publish_reward(shared, RewardInfo("last", prompt_format_hash=text.hash), folder, start_runtime())
    loaded = build_shared_base(tiny_base(tmp_path), {"reward": RoleSource(folder=folder, head=True)}, seed=99)
    torch.testing.assert_close(loaded.heads["reward"].state_dict(), shared.heads["reward"].state_dict())
