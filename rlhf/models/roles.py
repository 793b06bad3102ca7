"""SharedBase: ONE frozen base in memory, the roles of RLHF as named LoRA adapters on it, heads outside PEFT.

`policy`, `reference`, `reward` and `critic` differ in a few megabytes of adapter weights. Which of them a forward pass
uses is the list of active adapter names in each LoRA layer, and nothing else: PEFT's own `set_adapter` would also move
`requires_grad`, after which the other role silently stops learning. The flags are set once, here, for the whole run.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rlhf.config.base import LoraSection
from rlhf.models.adapters import (
    BASE_KEY,
    adapter_parameters,
    attach_lora,
    copy_adapter,
    fill,
    load_adapter,
    lora_layers,
    read_safetensors,
    save_adapter,
    write_safetensors,
)
from rlhf.models.base import LoadedBase, disable_dropout, gathered
from rlhf.models.fused import fuse
from rlhf.models.matmul import quicken
from rlhf.tensors import branch_mask, branch_positions, positions_from_mask

HEAD_WEIGHTS = "head.safetensors"
Role = Literal["policy", "reference", "reward", "critic"]


@dataclass(frozen=True)
class RoleSource:
    """Where a role's weights come from: a folder, a copy of an earlier role, or a fresh zero adapter.

    Exactly one of `folder`, `copy_of`, `fresh` and `trunk_of` is given. `trunk_of` makes a role without an adapter of
    its own: only a head on another role's trunk. A head is loaded from the folder where there is one, copied with
    `copy_of`, and drawn at random otherwise. `heads` is how many scalars a drawn head has, each drawn by itself; a folder
    has as many as were saved, and a copy is the mean of them.
    """

    folder: Path | None = None
    copy_of: str | None = None
    fresh: LoraSection | None = None
    trunk_of: str | None = None
    head: bool = False
    heads: int = 1
    trainable: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("folder", "copy_of", "fresh", "trunk_of") if getattr(self, name) is not None]
        assert len(given) == 1, f"a role comes from exactly one source, not from {given}"


class SharedBase(nn.Module):
    """The frozen base with its adapters and heads.

    Attributes:
        peft_model: The base with all adapters attached.
        heads: One linear layer (fp32) for each role that has one: to a scalar, or to one scalar per head of an ensemble.
        adapter_of: Adapter name of each role; a head-only critic has the policy's.
        base_hash: Hash of the base's weight files, written into every saved adapter.
    """

    def __init__(
        self,
        peft_model: PeftModel,
        heads: nn.ModuleDict,
        adapter_of: Mapping[str, str] | None = None,
        base_hash: str = "",
    ) -> None:
        super().__init__()
        self.peft_model = peft_model
        self.heads = heads
        self.adapter_of = dict(adapter_of or {name: name for name in peft_model.peft_config})
        self.base_hash = base_hash
        self._layers = [module for module in peft_model.modules() if isinstance(module, LoraLayer)]
        for layer in self._layers:
            fuse(layer)
        quicken(self.lm_head)
        self.gradient_checkpointing = False
        self._merged: str | None = None
        self._activate([])

    @property
    def model(self) -> Any:
        """The causal language model inside PEFT's wrapper."""
        return self.peft_model.get_base_model()

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return next(self.peft_model.parameters()).device

    @property
    def can_branch(self) -> bool:
        """Whether the trunk takes a mask of its own for every column: not with windows, recurrence or other kernels."""
        layers = DynamicCache(config=self.model.config).layers
        plain = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
        return plain and self.model.config._attn_implementation == "sdpa"

    @property
    def lm_head(self) -> nn.Linear:
        """The frozen output layer."""
        return self.model.get_output_embeddings()

    @contextmanager
    def role(self, name: str | None) -> Iterator[None]:
        """Make forward passes use one role's adapter; None is the bare base. No `requires_grad` moves."""
        adapter = None if name is None else self.adapter_of[name]
        assert self._merged in (None, adapter), f"role {name!r} used while {self._merged!r} is merged into the base"
        before = list(self._active)
        self._activate([] if adapter is None or self._merged == adapter else [adapter])
        try:
            yield
        finally:
            self._activate(before)

    def hidden(
        self,
        role: str | None,
        input_ids: Int[Tensor, "batch sequence"],
        attention_mask: Bool[Tensor, "batch sequence"] | None = None,
        branches: Int[Tensor, "batch sequence"] | None = None,
    ) -> Float[Tensor, "batch sequence hidden"]:
        """Return the trunk's last hidden states (after the final norm) under a role.

        Args:
            role: Role name, or None for the bare base.
            input_ids: Token ids.
            attention_mask: True on real tokens, wherever the padding is; positions are counted from it. None means
                that rows are padded on the right: causal attention never looks there, so no mask is needed.
            branches: Instead of a mask, where a row is a stem with branches that do not see each other: 0 on the stem, a
                number above 0 on each branch. See `can_branch`.
        """
        options: dict[str, Any] = {}
        if branches is not None:
            options = {"attention_mask": branch_mask(branches)[:, None], "position_ids": branch_positions(branches)}
        if attention_mask is not None:
            options = {
                "attention_mask": attention_mask.long(),
                "position_ids": positions_from_mask(attention_mask.bool()),
            }
        with self.role(role):
            return self.model.base_model(input_ids=input_ids, use_cache=False, **options).last_hidden_state

    def read_head(self, role: str, hidden: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape"]:
        """Apply a role's scalar head, in fp32; of several heads, the mean."""
        found = self.heads[role](hidden.float())
        return found.squeeze(-1) if found.shape[-1] == 1 else found.mean(dim=-1)

    def read_heads(self, role: str, hidden: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "heads *shape"]:
        """Apply each of a role's scalar heads, in fp32."""
        return self.heads[role](hidden.float()).movedim(-1, 0)

    def trainable(self, role: str) -> list[tuple[str, nn.Parameter]]:
        """Return (name, parameter) of a role's own trainable weights: its adapter, then its head."""
        found = [
            (f"{role}.{key}", parameter)
            for key, parameter in adapter_parameters(self.peft_model, role)
            if parameter.requires_grad
        ]
        if role in self.heads:
            head = self.heads[role].named_parameters()
            found += [(f"{role}.head.{key}", parameter) for key, parameter in head if parameter.requires_grad]
        return found

    def save_role(self, name: str, folder: Path, extra: Mapping[str, str] | None = None, *, write: bool = True) -> None:
        """Write a role: its adapter as a PEFT folder, and `head.safetensors` where it has a head.

        All processes call this; only those with `write` touch the disk.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.adapter_of[name] == name:
            save_adapter(self.peft_model, name, folder, {BASE_KEY: self.base_hash, **(extra or {})}, write=write)
        if name not in self.heads:
            return
        head = dict(self.heads[name].named_parameters())
        with gathered(list(head.values())):
            tensors = {key: parameter.detach().to("cpu", copy=True) for key, parameter in head.items()}
        assert tensors["weight"].numel() > 0, f"the head of {name!r} is empty"
        if write:
            write_safetensors(tensors, folder / HEAD_WEIGHTS, {"format": "pt", BASE_KEY: self.base_hash})

    def load_role(self, name: str, folder: Path) -> None:
        """Read a saved role back into the weights that are in memory.

        Raises:
            ArtifactError: A file is missing, damaged, or of another shape.
        """
        if self.adapter_of[name] == name:
            path = folder / "adapter_model.safetensors"
            fill(dict(adapter_parameters(self.peft_model, name)), read_safetensors(path)[0], str(path))
        if name in self.heads:
            path = folder / HEAD_WEIGHTS
            fill(dict(self.heads[name].named_parameters()), read_safetensors(path)[0], str(path))

    @property
    def can_merge(self) -> bool:
        """Whether adapters may be merged for decoding: unsharded fp32 weights only.

        In bf16 a small update drowns in rounding, and a 4-bit weight cannot take one.
        """
        weights = [_untyped(layer).get_base_layer().weight for layer in self._layers]
        return all(weight.dtype == torch.float32 and not hasattr(weight, "ds_id") for weight in weights)

    @contextmanager
    def merged(self, role: str | None) -> Iterator[None]:
        """Run one role with its adapter merged into the base, which is put back unchanged.

        The merged sums live in buffers of their own and the base tensors are set aside untouched, so what comes back
        is exact to the byte. Only this role may be used meanwhile, without gradients.
        """
        adapter = None if role is None else self.adapter_of[role]
        assert self._merged is None, f"{self._merged!r} is merged already; one role at a time"
        assert not torch.is_grad_enabled(), "merging is for decoding, without gradients"
        if adapter is None or not self.can_merge:
            yield
            return
        originals: list[tuple[nn.Parameter, Tensor]] = []
        try:
            for layer in map(_untyped, lora_layers(self.peft_model, adapter)):
                weight = layer.get_base_layer().weight
                originals.append((weight, weight.data))
                weight.data = weight.data + layer.get_delta_weight(adapter)
            self._merged = adapter
            yield
        finally:
            self._merged = None
            for weight, data in originals:
                weight.data = data

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass, each under the role of its forward pass."""

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), self._reactivated(list(self._active))

        options = {"use_reentrant": False, "context_fn": contexts}
        self.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        self.model.enable_input_require_grads()
        self.gradient_checkpointing = True

    @contextmanager
    def _reactivated(self, adapters: list[str]) -> Iterator[None]:
        before = list(self._active)
        self._activate(adapters)
        try:
            yield
        finally:
            self._activate(before)

    def _activate(self, adapters: list[str]) -> None:
        self._active = adapters
        for layer in self._layers:
            layer._active_adapter = adapters


def build_shared_base(base: LoadedBase, roles: Mapping[str, RoleSource], *, seed: int = 0) -> SharedBase:
    """Attach all roles to one base, in the given order; `copy_of` may name an earlier one.

    Args:
        base: The loaded base; it is wrapped in place and belongs to the result from here on.
        roles: Role name to where it comes from.
        seed: Seed of fresh adapters and heads.

    Raises:
        ArtifactError: A folder is damaged or belongs to another base.
    """
    model: Any = base.model
    heads, adapter_of = nn.ModuleDict(), {}
    width = base.model.config.get_text_config().hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, source in roles.items():
            model = _attach(model, name, source, base.weights_hash)
            adapter_of[name] = source.trunk_of or name
            if source.head:
                heads[name] = _make_head(width, source, heads, f"role {name}").requires_grad_(source.trainable)
    disable_dropout(model)
    shared = SharedBase(model, heads, adapter_of, base.weights_hash).to(base.model.device).eval()
    if base.gradient_checkpointing:
        shared.enable_gradient_checkpointing()
    return shared


def _attach(model: Any, name: str, source: RoleSource, base_hash: str) -> PeftModel:
    if source.folder is not None:
        return load_adapter(model, source.folder, name, trainable=source.trainable, base_hash=base_hash)
    if source.fresh is not None:
        return attach_lora(model, source.fresh, name, trainable=source.trainable, dropout=0.0)
    if source.copy_of is not None:
        copy_adapter(model, source.copy_of, name, trainable=source.trainable)
    return model


def _make_head(width: int, source: RoleSource, heads: nn.ModuleDict, owner: str) -> nn.Linear:
    """Return a linear head, drawn from N(0, 1/(width + 1)) with bias 0 (Stiennon et al. 2020) or copied or loaded."""
    tensors: dict[str, Tensor] | None = None
    if source.copy_of is not None and source.copy_of in heads:
        tensors = {key: value.mean(dim=0, keepdim=True) for key, value in heads[source.copy_of].state_dict().items()}
    elif source.folder is not None and (source.folder / HEAD_WEIGHTS).exists():
        owner = str(source.folder / HEAD_WEIGHTS)
        tensors = read_safetensors(source.folder / HEAD_WEIGHTS)[0]
    count = source.heads if tensors is None else count_heads(tensors)
    head = nn.Linear(width, count, dtype=torch.float32)
    nn.init.normal_(head.weight, std=(width + 1) ** -0.5)
    nn.init.zeros_(head.bias)
    if tensors is not None:
        fill(dict(head.named_parameters()), tensors, owner)
    return head


def count_heads(tensors: Mapping[str, Tensor]) -> int:
    """Return how many scalars a saved head gives; 1 where it is no head."""
    return max(1, len(tensors["bias"])) if "bias" in tensors and tensors["bias"].dim() == 1 else 1


def _untyped(layer: LoraLayer) -> Any:
    """Return a layer as PEFT really makes it: its methods live in classes that mix this one in."""
    return layer
