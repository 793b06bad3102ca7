"""Load the frozen base model that all roles share, and hold it to its recorded identity.

A base artifact is a folder with `base.json`. It names where the weights are: in the folder itself (`embedded`), in
another folder (`local`), or on the hub at a pinned commit (`hub`). The weights are safetensors only, and their hash is
checked at every load: an adapter fits one base and no other.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlhf.config.base import BaseConfig
from rlhf.errors import ArtifactError, ConfigError, ResourceError
from rlhf.hashing import hash_file, hash_value
from rlhf.models.origin import weight_files
from rlhf.text import TextFormat, load_text_format

BASE_FILE = "base.json"
HEAD_TOLERANCE = 1e-3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaseSpec:
    """What `base.json` says of a base model."""

    kind: Literal["embedded", "local", "hub"]
    model: str
    revision: str | None
    weights_hash: str
    tokenizer_hash: str
    prompt_format_hash: str
    prompt_format: str
    end_token_ids: list[int]
    context_length: int
    parameters: int
    architecture: str
    quantization: str
    trust_remote_code: bool


@dataclass(frozen=True)
class LoadedBase:
    """A frozen causal language model in evaluation mode, with its text format and identity."""

    model: Any
    text: TextFormat
    weights_hash: str
    spec: BaseSpec
    gradient_checkpointing: bool = False


def describe_base(config: BaseConfig, folder: Path) -> dict[str, Any]:
    """Resolve the configured base, load it once, and write its identity to `folder/base.json`.

    Args:
        config: The configuration's `base` section.
        folder: The base artifact; an embedded base lies there already.

    Returns:
        The content of `base.json`.

    Raises:
        ArtifactError: The weights are missing, damaged, or not safetensors.
        ConfigError: The hub does not know the model, or the prompt format does not fit it.
    """
    kind, model, revision = _resolve(config)
    source = _locate(kind, model, revision, folder)
    text = load_text_format(source, config)
    weights = hash_weight_files(source)
    # On the CPU: a base may be larger than one GPU.
    dtype = torch.float32 if kind == "embedded" else torch.bfloat16
    loaded = _load_model(source, config, dtype, torch.device("cpu"))
    _check_head(loaded, source)
    spec = BaseSpec(
        kind=kind,
        model=model,
        revision=revision,
        weights_hash=weights,
        tokenizer_hash=text.tokenizer_hash,
        prompt_format_hash=text.hash,
        prompt_format=text.style,
        end_token_ids=list(text.end_token_ids),
        context_length=text.context_length,
        parameters=sum(_full_size(parameter) for parameter in loaded.parameters()),
        architecture=type(loaded).__name__,
        quantization=config.quantization,
        trust_remote_code=config.trust_remote_code,
    )
    (folder / BASE_FILE).write_text(json.dumps(asdict(spec), indent=2) + "\n", encoding="utf-8")
    return asdict(spec)


def read_base_spec(folder: Path) -> BaseSpec:
    """Read `base.json`.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    path = folder / BASE_FILE
    try:
        return BaseSpec(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; run the stage `base` first") from error
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); run the stage `base` again") from error


def load_base(folder: Path, config: BaseConfig, precision: Literal["fp32", "bf16"]) -> LoadedBase:
    """Load the base that an artifact names, frozen, on this process's device, after checking that it is still the same.

    Args:
        folder: The base artifact.
        config: The configuration's `base` section (attention kernel, quantisation, trust).
        precision: Number format of the weights.

    Raises:
        ArtifactError: The weights, the tokenizer or the prompt format are not those of `base.json`.
    """
    spec = read_base_spec(folder)
    source = base_source(spec, folder)
    found = hash_weight_files(source)
    if found != spec.weights_hash:
        raise ArtifactError(
            f"base {spec.model} in {source}: its weights changed since the stage `base` (hash {found[:12]}, recorded "
            f"{spec.weights_hash[:12]}); put the old files back, or run the stage `base` again and all that follow"
        )
    text = _checked_text(spec, source, config)
    model = _load_model(source, config, DTYPES[precision], local_device())
    # Adapters record this name: a hub id, or the last part of a path, since shared files name no one's folders.
    model.name_or_path = {"embedded": "embedded", "local": Path(spec.model).name}.get(spec.kind, spec.model)
    return LoadedBase(model, text, spec.weights_hash, spec, config.gradient_checkpointing)


def base_source(spec: BaseSpec, folder: Path) -> Path:
    """Return the folder with the files of the base that an artifact names.

    Raises:
        ArtifactError: A local folder is gone, or the hub's files are not on this machine.
    """
    return _locate(spec.kind, spec.model, spec.revision, folder)


def load_base_text(folder: Path, config: BaseConfig) -> TextFormat:
    """Load only the text format of the base that an artifact names, checked as by `load_base`.

    Raises:
        ArtifactError: The tokenizer or the prompt format is not that of `base.json`.
    """
    spec = read_base_spec(folder)
    return _checked_text(spec, base_source(spec, folder), config)


def _checked_text(spec: BaseSpec, source: Path, config: BaseConfig) -> TextFormat:
    text = load_text_format(source, config)
    if text.hash != spec.prompt_format_hash:
        changed = "tokenizer" if text.tokenizer_hash != spec.tokenizer_hash else "chat template or end tokens"
        raise ArtifactError(
            f"base {spec.model} in {source}: its {changed} changed since the stage `base`; put the old files back, or "
            "run the stage `base` again and all that follow"
        )
    return text


def hash_weight_files(source: Path, owner: str = "base") -> str:
    """Hash the safetensors files of a model folder; `owner` says in messages whose they are.

    Raises:
        ArtifactError: There are none; pickled weights are refused.
    """
    return hash_value({path.name: hash_file(path) for path in weight_files(source, owner)})


def hash_weights(model: nn.Module, *, skip: frozenset[str] = frozenset()) -> str:
    """Hash names, shapes and bytes of all frozen base weights in memory; adapters, heads and `skip` are left out.

    The hash before and after training must be the same.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_base_tensors(model, skip), key=lambda item: item[0]):
        with gathered([tensor]):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_adapter_weight(name: str) -> bool:
    """Tell a LoRA weight from a base weight by its parameter name."""
    return ".lora_" in name


@contextmanager
def gathered(parameters: list[Any], *, write: bool = False) -> Iterator[None]:
    """Make ZeRO-3 shards whole for a while; does nothing to ordinary parameters.

    Args:
        parameters: What to gather; all ranks must pass the same.
        write: Spread what the first rank wrote to all ranks at the end.
    """
    sharded = [
        parameter
        for parameter in parameters
        # What an outer context holds is whole already, and DeepSpeed refuses to gather it twice.
        if hasattr(parameter, "ds_id") and not getattr(parameter, "_ds_z3_gathered_param_context_depth", 0)
    ]
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded, modifier_rank=0 if write else None):
        yield


def _base_tensors(model: nn.Module, skip: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.named_parameters():
        if not is_adapter_weight(name) and not name.startswith("heads.") and name not in skip:
            yield name.split("base_model.model.")[-1].replace(".base_layer.", "."), tensor


def _resolve(config: BaseConfig) -> tuple[Literal["embedded", "local", "hub"], str, str | None]:
    if config.model == "embedded":
        return "embedded", ".", None
    if Path(config.model).expanduser().is_dir():
        return "local", str(Path(config.model).expanduser().resolve()), None
    if config.model.startswith((".", "/", "~")):
        raise ConfigError(f"base.model is {config.model!r}; there is no such folder")
    return "hub", config.model, _pin_revision(config.model, config.revision)


def _pin_revision(model: str, revision: str | None) -> str:
    from huggingface_hub import model_info

    try:
        commit = model_info(model, revision=revision).sha
    except _hub_errors() as error:
        raise ConfigError(
            f"base.model is {model!r} (revision {revision}); it is neither a folder nor reachable on the hub: {error}"
        ) from error
    assert commit is not None, f"the hub gave no commit for {model}"
    return commit


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises, the errors of the HTTP library under it included."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return (*HfHubHTTPError.__bases__, HFValidationError, OSError)


def _locate(kind: str, model: str, revision: str | None, folder: Path) -> Path:
    """Return the folder that holds the files of a base, downloading a hub model if need be."""
    if kind == "embedded":
        return folder
    if kind == "local":
        if not Path(model).is_dir():
            raise ArtifactError(f"base {model}: the folder is gone; put it back or run the stage `base` again")
        return Path(model)
    return fetch_model(model, revision, "base")


def fetch_model(model: str, revision: str | None, owner: str) -> Path:
    """Return the folder of a hub model's files, downloaded if need be; `owner` says in messages whose they are.

    Raises:
        ResourceError: They are neither on this machine nor reachable.
    """
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except _hub_errors() as error:
        raise ResourceError(f"{owner} {model} at {revision}: not in the cache and not downloadable: {error}") from error


def local_device() -> torch.device:
    """Return where this process computes: its own GPU where there is one, as its launcher numbered it."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def _load_model(source: Path, config: BaseConfig, dtype: torch.dtype, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading is one line of a stage's work, not a bar of its own
    options: dict[str, Any] = {}
    if config.quantization == "4bit" and is_deepspeed_zero3_enabled():
        raise ConfigError(
            "launch.zero is 3 and base.quantization is 4bit; 4-bit weights are not sharded: use zero 0 to 2"
        )
    if config.quantization == "4bit":
        options["quantization_config"] = _four_bit(dtype)
    if device.type == "cuda" and not is_deepspeed_zero3_enabled():  # which places the shards itself
        options["device_map"] = {"": device}
    _tell_deepspeed(dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            attn_implementation=config.attention,
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            **options,
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ArtifactError(f"base {source}: the weights do not load ({error})") from error
    if config.quantization == "4bit":
        keep_trainable_on_cpu(model)
    model.requires_grad_(False)
    disable_dropout(model)
    return model.eval()


def _tell_deepspeed(dtype: torch.dtype) -> None:
    """Name the number format of the shards: under ZeRO-3 a model is sharded while it loads, silently in fp32 if not told.

    These are the settings that transformers loads under, a copy of those that the engine runs under.
    """
    from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled

    settings = deepspeed_config() if is_deepspeed_zero3_enabled() else None
    if settings is not None:
        settings["bf16"] = {"enabled": dtype == torch.bfloat16}


def _four_bit(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            "base.quantization is 4bit, and bitsandbytes is not installed; install the 4bit extra"
        ) from error
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def keep_trainable_on_cpu(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in place, after which gradients would be lost on a CPU."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout rate to 0, also where a model keeps it as a number: the first ratio of PPO must be 1."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout", "resid_pdrop"):
            if isinstance(module.__dict__.get(name), float):
                setattr(module, name, 0.0)


def _full_size(parameter: Any) -> int:
    """Return the number of weights, undoing the packing of two 4-bit weights into a byte."""
    packed = 2 if type(parameter).__name__ == "Params4bit" else 1
    return int(getattr(parameter, "ds_numel", parameter.numel())) * packed


def _check_head(model: Any, source: Path) -> None:
    """Refuse a model whose logits are more than its output layer applied to the trunk (soft caps, logit scales)."""
    head = model.get_output_embeddings()
    ids = torch.arange(min(8, model.config.get_text_config().vocab_size), device=model.device)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits.float()
        parts = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state).float()
    gap = (whole - parts).abs().max().item() / max(1.0, whole.abs().max().item())
    if gap > HEAD_TOLERANCE:
        raise ConfigError(
            f"base {source}: {type(model).__name__} changes its logits after the output layer (relative gap {gap:.2g}), "
            "which the response-only output layer does not follow; use another base"
        )
