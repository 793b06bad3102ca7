"""One base, several roles."""

from pathlib import Path

import pytest
import torch

from rlhf.errors import ArtifactError
from rlhf.models.adapters import same_adapter
from rlhf.models.base import hash_weights
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from tests.tiny import TINY_LORA, shake, tiny_base, tiny_roles, tiny_shared

IDS = torch.randint(2, 250, (2, 7), generator=torch.Generator().manual_seed(0))


def _flags(shared: SharedBase) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in shared.named_parameters()}


def test_switching_roles_moves_no_flag_and_is_undone(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path)
    shake(shared, "policy", "critic")
    before, bare = _flags(shared), shared.hidden(None, IDS)
    with pytest.raises(RuntimeError, match="on purpose"), shared.role("critic"):
        raise RuntimeError("on purpose")
    for role in ("policy", "reference", "reward", "critic", None):
        shared.hidden(role, IDS)
    assert _flags(shared) == before
    assert torch.equal(shared.hidden(None, IDS), bare)


def test_only_policy_and_critic_want_gradients(tmp_path: Path) -> None:
    for name, flag in _flags(tiny_shared(tmp_path)).items():
        expected = any(part in name for part in (".policy.", ".critic.", "heads.critic"))
        assert flag == expected, name


def test_roles_differ_only_by_their_adapters(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path)
    assert torch.equal(shared.hidden("policy", IDS), shared.hidden("reference", IDS))
    assert torch.allclose(shared.hidden("reference", IDS), shared.hidden(None, IDS), atol=1e-6)  # B is 0
    shake(shared, "policy")
    assert not torch.allclose(shared.hidden("policy", IDS), shared.hidden("reference", IDS), atol=1e-3)
    assert not same_adapter(shared.peft_model, "policy", "reference")


def test_nested_roles_come_back(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path)
    shake(shared, "policy", "critic")
    expected = shared.hidden("policy", IDS)
    with shared.role("policy"):
        shared.hidden("critic", IDS)
        assert torch.equal(shared.model.base_model(input_ids=IDS).last_hidden_state, expected)


def test_gradients_reach_the_role_that_was_used_and_no_other(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path)
    shake(shared, "policy", "critic")
    shared.hidden("critic", IDS).sum().backward()
    touched = {name for name, parameter in shared.named_parameters() if parameter.grad is not None}
    assert touched
    assert all(".critic." in name for name in touched)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_recomputes_under_the_right_role(tmp_path: Path, checkpointing: bool) -> None:
    plain = tiny_shared(tmp_path)
    shake(plain, "policy", "critic")
    if checkpointing:
        plain.enable_gradient_checkpointing()
        plain.train()
    loss = plain.hidden("policy", IDS).square().sum() + plain.hidden("critic", IDS).cos().sum()
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in plain.named_parameters() if parameter.grad is not None}
    other = tiny_shared(tmp_path)
    shake(other, "policy", "critic")
    (other.hidden("policy", IDS).square().sum() + other.hidden("critic", IDS).cos().sum()).backward()
    for name, parameter in other.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, atol=1e-4), name


def test_save_and_load_give_the_same_bytes(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path)
    shake(shared, "policy", "critic")
    shared.save_role("critic", tmp_path / "first")
    other = tiny_shared(tmp_path, seed=5)
    assert not torch.equal(other.hidden("critic", IDS), shared.hidden("critic", IDS))
    other.load_role("critic", tmp_path / "first")
    other.save_role("critic", tmp_path / "second")
    for name in ("adapter_model.safetensors", "adapter_config.json", "head.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert torch.equal(other.hidden("critic", IDS), shared.hidden("critic", IDS))
    hidden = shared.hidden("critic", IDS)
    assert torch.equal(other.read_head("critic", hidden), shared.read_head("critic", hidden))


def test_a_role_from_a_folder_is_the_role_that_was_saved(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path)
    shake(shared, "reward")
    shared.save_role("reward", tmp_path / "reward")
    sources = {
        "reward": RoleSource(folder=tmp_path / "reward", head=True),
        "critic": RoleSource(copy_of="reward", head=True, trainable=True),
    }
    built = build_shared_base(tiny_base(tmp_path), sources, seed=9)
    for role in ("reward", "critic"):
        states = built.hidden(role, IDS)
        assert torch.equal(states, shared.hidden("reward", IDS))
        assert torch.equal(built.read_head(role, states), shared.read_head("reward", states))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    tiny_shared(tmp_path).save_role("policy", tmp_path / "policy")
    other = tiny_base(tmp_path, name="other", seed=3)
    with pytest.raises(ArtifactError, match="another base"):
        build_shared_base(other, {"policy": RoleSource(folder=tmp_path / "policy")})


def test_a_head_only_critic_shares_the_policy_trunk(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path, critic="head")
    shake(shared, "policy")
    assert torch.equal(shared.hidden("critic", IDS), shared.hidden("policy", IDS))
    assert [name for name, _ in shared.trainable("critic")] == ["critic.head.weight", "critic.head.bias"]
    shared.save_role("critic", tmp_path / "critic")
    assert [path.name for path in (tmp_path / "critic").iterdir()] == ["head.safetensors"]


def test_merged_decoding_gives_the_same_states_and_leaves_the_base_alone(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path)
    shake(shared, "policy")
    before = hash_weights(shared)
    with torch.no_grad():
        apart = shared.hidden("policy", IDS)
        with shared.merged("policy"):
            assert hash_weights(shared) != before
            assert torch.allclose(shared.hidden("policy", IDS), apart, atol=1e-5)
            with pytest.raises(AssertionError, match="merged"):
                shared.hidden("reference", IDS)
        assert torch.equal(shared.hidden("policy", IDS), apart)
    assert hash_weights(shared) == before


def test_bf16_bases_do_not_merge(tmp_path: Path) -> None:
    base = tiny_base(tmp_path, precision="bf16")
    shared = build_shared_base(base, tiny_roles())
    assert not shared.can_merge
    adapters = {p.dtype for n, p in shared.named_parameters() if ".lora_" in n or n.startswith("heads")}
    assert adapters == {torch.float32}
    with torch.no_grad(), shared.merged("policy"):
        assert shared.hidden("policy", IDS).dtype == torch.bfloat16


def test_heads_start_small_and_unbiased(tmp_path: Path) -> None:
    head = build_shared_base(tiny_base(tmp_path), {"reward": RoleSource(fresh=TINY_LORA, head=True)}).heads["reward"]
    assert isinstance(head, torch.nn.Linear)
    assert head.bias.item() == 0
    assert head.weight.std().item() == pytest.approx((32 + 1) ** -0.5, rel=0.5)
