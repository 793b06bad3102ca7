"""How a configuration field is declared: its default, its range, and what changing it changes.

Every field carries one of three tags:

- `result`: changing it changes results, and makes the stage that reads it stale;
- `speed`: changing it leaves results equal to within 1e-4;
- `output`: changing it changes only what is written.
"""

from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Literal, Protocol, cast, get_args, get_origin

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from typing_extensions import dataclass_transform

Effect = Literal["result", "speed", "output"]
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True)


class _Section(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]
    __pydantic_fields__: ClassVar[dict[str, FieldInfo]]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def section(cls: type) -> Any:
    """Declare a configuration section: a frozen, keyword-only dataclass that forbids unknown fields."""
    return pydantic_dataclass(frozen=True, kw_only=True, config=_STRICT)(cls)


def result(default: Any = ..., **constraints: Any) -> Any:
    """Declare a field that changes results."""
    return _field("result", default, constraints)


def speed(default: Any = ..., **constraints: Any) -> Any:
    """Declare a field that changes time or memory, and results by less than 1e-4."""
    return _field("speed", default, constraints)


def output(default: Any = ..., **constraints: Any) -> Any:
    """Declare a field that changes only what is written."""
    return _field("output", default, constraints)


def _field(effect: Effect, default: Any, constraints: dict[str, Any]) -> Any:
    settings: dict[str, Any] = constraints | {"json_schema_extra": {"effect": effect}}
    if callable(default):
        return Field(default_factory=default, **settings)
    if default is ...:
        return Field(**settings)
    return Field(default=default, **settings)


def effect_of(cls: type[_Section], name: str) -> Effect:
    """Return the tag of one field."""
    extra = cls.__pydantic_fields__[name].json_schema_extra
    assert isinstance(extra, dict), f"{cls.__name__}.{name} has no effect tag"
    return cast(Effect, extra["effect"])


def result_fields(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted names and plain values of all fields below `value` that change results."""
    found: dict[str, Any] = {}
    for entry in fields(value):
        inner = getattr(value, entry.name)
        if is_dataclass(inner):
            found |= result_fields(inner, f"{prefix}{entry.name}.")
        elif section_in(entry.type) is not None:
            for name, named in inner.items():
                found |= result_fields(named, f"{prefix}{entry.name}.{name}.")
        elif effect_of(value.__class__, entry.name) == "result":
            found[f"{prefix}{entry.name}"] = plain(inner)
    return found


def section_in(kind: Any) -> Any:
    """Return the section that a field of this type holds many of, by name; None for any other type."""
    inner = get_args(kind)[1] if get_origin(kind) is dict else None
    return inner if is_dataclass(inner) else None


def plain(value: Any) -> Any:
    """Return a value as JSON and YAML can hold it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in cast(dict[Any, Any], value).items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
