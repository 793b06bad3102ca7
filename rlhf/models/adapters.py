"""LoRA adapters by name on one base: attach, copy, save, load (Hu et al. 2021).

On disk an adapter is a PEFT folder. Saving gathers every weight and checks key set, shapes and sizes; loading checks
them again, and the base that the adapter was trained on. Initialisations that change the base weights are refused:
they would change every other role.
"""

import copy
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhf.config.base import LoraSection
from rlhf.errors import ArtifactError, ConfigError
from rlhf.models.base import gathered, is_adapter_weight

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
BASE_KEY = "base_weights_hash"
SAFE_INITS = (True, False, "gaussian", "orthogonal", "mica")
_PREFIX = "base_model.model."


def attach_lora(
    model: Any, lora: LoraSection, name: str, *, trainable: bool, dropout: float | None = None
) -> PeftModel:
    """Add a fresh adapter (B = 0, so it changes nothing yet) under a name.

    Args:
        model: A causal language model, or a PeftModel that already carries adapters.
        lora: Rank, alpha and targets.
        name: Name of the adapter.
        trainable: Whether its weights get gradients; no other flag moves.
        dropout: Replaces `lora.dropout`; roles that share a base use 0.

    Raises:
        ConfigError: A target is no linear layer of the model.
    """
    targets = _check_targets(base_of(model), lora.targets)
    config = _lora_config(lora, targets, lora.dropout if dropout is None else dropout, "CAUSAL_LM")
    return _add(model, config, name, trainable=trainable)


def attach_trunk_lora(model: Any, lora: LoraSection, name: str, linear: Sequence[str]) -> PeftModel:
    """Add a fresh trainable adapter without dropout to some layers of a model that is no causal language model.

    Args:
        model: Any model of the library's.
        lora: Rank, alpha and targets.
        name: Name of the adapter.
        linear: Full names of the linear layers that may get one.

    Raises:
        ConfigError: A target is none of them.
    """
    known = sorted({layer.split(".")[-1] for layer in linear})
    wanted = known if "all-linear" in lora.targets else list(lora.targets)
    _require_known(wanted, known)
    targets = [layer for layer in linear if layer.split(".")[-1] in wanted]
    config = _lora_config(lora, targets, 0.0, None)
    config.fan_in_fan_out = isinstance(model.get_submodule(targets[0]), Conv1D)
    return _add(model, config, name, trainable=True)


def _lora_config(lora: LoraSection, targets: str | list[str], dropout: float, task: str | None) -> LoraConfig:
    return LoraConfig(
        r=lora.rank,
        lora_alpha=int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=targets,
        lora_dropout=dropout,
        bias="none",
        task_type=task,
    )


def copy_adapter(model: PeftModel, source: str, target: str, *, trainable: bool) -> None:
    """Make adapter `target` an exact copy of adapter `source`; it is added where it does not exist yet."""
    if target not in model.peft_config:
        _add(model, copy.deepcopy(model.peft_config[source]), target, trainable=trainable)
    origin = dict(adapter_parameters(model, source))
    with torch.no_grad():
        for key, parameter in adapter_parameters(model, target):
            parameter.copy_(origin[key])


def adapter_parameters(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (key in a PEFT file, parameter) of one adapter, in the model's order."""
    marker = f".{name}."
    for full_name, parameter in model.named_parameters():
        if is_adapter_weight(full_name) and marker in full_name.split(".lora_")[1]:
            yield _PREFIX + full_name.split(_PREFIX)[-1].replace(marker, "."), parameter


def same_adapter(model: PeftModel, first: str, second: str) -> bool:
    """Tell whether two adapters hold the same numbers (ZeRO-3 shards are compared shard by shard)."""
    left, right = dict(adapter_parameters(model, first)), dict(adapter_parameters(model, second))
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def save_adapter(model: PeftModel, name: str, folder: Path, extra: Mapping[str, str], *, write: bool = True) -> None:
    """Write one adapter as a PEFT folder.

    Args:
        model: Carries the adapter.
        name: Which one.
        folder: Where to; made if need be.
        extra: Text facts kept in the weight file's header, such as the hash of the base.
        write: False on all but the main process, which still takes part in the gathering.
    """
    tensors: dict[str, Tensor] = {}
    for key, parameter in adapter_parameters(model, name):
        with gathered([parameter]):
            # A copy: shards vanish when the gathering ends, and safetensors refuses shared storage.
            tensors[key] = parameter.detach().to("cpu", copy=True).contiguous()
    empty = [key for key, tensor in tensors.items() if tensor.numel() == 0]
    assert not empty, f"adapter {name!r} has {len(tensors)} tensors, {len(empty)} of them without a number"
    layers = sum(1 for _ in lora_layers(model, name))
    assert len(tensors) == 2 * layers > 0, f"adapter {name!r} has {len(tensors)} tensors for {layers} layers"
    if not write:
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(tensors, folder / ADAPTER_WEIGHTS, {"format": "pt", **extra})
    settings = {key: _plain(value) for key, value in model.peft_config[name].to_dict().items()}
    settings["inference_mode"] = True
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_adapter(
    model: Any, folder: Path, name: str, *, trainable: bool, base_hash: str | None = None, dropout: float = 0.0
) -> PeftModel:
    """Attach the adapter of a PEFT folder under a name, after checking that it fits.

    Args:
        model: A causal language model or a PeftModel.
        folder: The PEFT folder.
        name: Name of the adapter in memory.
        trainable: Whether its weights get gradients.
        base_hash: Hash of the base in memory; a file that records another one is refused.
        dropout: Dropout on the adapter's input, whatever the folder says.

    Raises:
        ArtifactError: The folder is incomplete, damaged, of another method, or for another base.
    """
    config = read_adapter_config(folder)
    config.lora_dropout, config.inference_mode = dropout, False
    tensors, header = read_safetensors(folder / ADAPTER_WEIGHTS)
    recorded = header.get(BASE_KEY)
    if base_hash is not None and recorded is not None and recorded != base_hash:
        raise ArtifactError(
            f"adapter {folder}: it was trained on another base (weights {recorded[:12]}, this one is {base_hash[:12]})"
        )
    try:
        peft_model = _add(model, config, name, trainable=trainable)
    except ValueError as error:
        raise ArtifactError(f"adapter {folder}: its layers are not in this base ({error})") from error
    fill(dict(adapter_parameters(peft_model, name)), tensors, f"adapter {folder}")
    return peft_model


def read_adapter_config(folder: Path) -> LoraConfig:
    """Read and check `adapter_config.json`.

    Raises:
        ArtifactError: It is missing, damaged, or asks for what roles on one base cannot share.
    """
    path = folder / ADAPTER_CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; give a PEFT folder") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: damaged ({error})") from error
    if settings.get("peft_type") != "LORA":
        raise ArtifactError(f"{path}: peft_type is {settings.get('peft_type')!r}; only LORA adapters can share a base")
    if settings.get("init_lora_weights", True) not in SAFE_INITS:
        raise ArtifactError(
            f"{path}: init_lora_weights {settings['init_lora_weights']!r} changes the base weights that all roles "
            "share; convert the adapter to plain LoRA (PEFT: path_initial_model_for_weight_conversion)"
        )
    refused = [
        key
        for key in ("modules_to_save", "use_dora", "layer_replication", "alora_invocation_tokens")
        if settings.get(key)
    ]
    if refused or settings.get("bias", "none") != "none":
        raise ArtifactError(f"{path}: {', '.join(refused) or 'bias'} is set; only plain LoRA weights can share a base")
    known = set(LoraConfig.__dataclass_fields__)
    return LoraConfig(**{key: value for key, value in settings.items() if key in known})


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and its header texts.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); restore it from a backup or make it again") from error


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, header: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes depend on its content alone: the library shuffles several header texts."""
    content = save(dict(tensors))
    size = int.from_bytes(content[:8], "little")
    entries = {"__metadata__": dict(sorted(header.items())), **json.loads(content[8 : 8 + size])}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def fill(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into parameters of the same names and shapes.

    Raises:
        ArtifactError: Names or shapes differ, or a number is not finite.
    """
    missing, surplus = sorted(parameters.keys() - tensors.keys()), sorted(tensors.keys() - parameters.keys())
    if missing or surplus:
        raise ArtifactError(
            f"{source}: it lacks {len(missing)} tensors (first {missing[:1]}) and has {len(surplus)} unknown ones "
            f"(first {surplus[:1]}); it belongs to another model"
        )
    for key, parameter in parameters.items():
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        if tuple(tensors[key].shape) != shape:
            raise ArtifactError(f"{source}: {key} has shape {tuple(tensors[key].shape)}, this base needs {shape}")
        if not torch.isfinite(tensors[key]).all():
            raise ArtifactError(f"{source}: {key} holds numbers that are not finite")
    with torch.no_grad():
        for key, parameter in parameters.items():
            with gathered([parameter], write=True):
                parameter.copy_(tensors[key])


def base_of(model: Any) -> Any:
    """Return the causal language model inside PEFT's wrapper, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def lora_layers(model: nn.Module, name: str) -> Iterator[LoraLayer]:
    """Yield the layers that carry a named adapter."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and name in module.lora_A:
            yield module


def linear_names(model: Any) -> list[str]:
    """Return the last name parts of all linear layers except the output head, sorted."""
    head = model.get_output_embeddings()
    # A 4-bit layer is an nn.Linear too; its weight is merely packed.
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    return sorted({name.split(".")[-1] for name in found if not re.search(r"\.lora_[AB]\.", name)} - {"base_layer"})


def _check_targets(model: Any, targets: tuple[str, ...]) -> str | list[str]:
    if "all-linear" in targets:
        return "all-linear"
    _require_known(targets, linear_names(model))
    return list(targets)


def _require_known(targets: Sequence[str], known: Sequence[str]) -> None:
    unknown = [target for target in targets if target not in known]
    if unknown or not targets:
        raise ConfigError(f"lora.targets names {unknown or 'nothing'}; linear layers of this base: {', '.join(known)}")


def _add(model: Any, config: PeftConfig, name: str, *, trainable: bool) -> PeftModel:
    """Attach an adapter and leave the flags of all others as they were (PEFT moves them)."""
    config.base_model_name_or_path = base_of(model).name_or_path
    if isinstance(model, PeftModel):
        assert name not in model.peft_config, f"adapter {name!r} is already attached"
        flags = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
        model.add_adapter(name, config)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(flags.get(key, False))
    else:
        with warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5.23 by the old name of this property.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            model = get_peft_model(model, config, adapter_name=name)
    for _, parameter in adapter_parameters(model, name):
        parameter.requires_grad_(trainable)
    return model


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    return (
        value
        if isinstance(value, (str, int, float, bool, list, dict, type(None)))
        else str(getattr(value, "value", value))
    )
