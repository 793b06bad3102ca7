"""From a YAML file and command-line overrides to a checked `Config`; the only place that parses either."""

import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import TypeAdapter, ValidationError
from yaml.constructor import ConstructorError

from rlhf.config.fields import effect_of, plain, section_in
from rlhf.config.recipe import Config
from rlhf.errors import ConfigError, report_all

SNAPSHOT = "config.yaml"
"""The resolved recipe that a run folder keeps beside its rounds."""
LONGEST_SHOWN = 60
"""Characters of a wrong value that a message repeats."""
SHORTHANDS = {"sft": {"none": {"method": "none"}}}


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-5 as a number and a date as text, and refuses a key that is given twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a second key here, where those that a merge (`<<: *other`) brings along are not among them yet."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if (key.tag, key.value) in seen:
                raise ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Tell the place of a value that is not of the kind it looks like; no setting may hold a NUL character."""
        if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
            raise ConstructorError(None, None, f"a NUL character in {_shortened(node.value)!r}", node.start_mark)
        try:
            return cast(Any, super().construct_object(node, deep))  # pyright: ignore[reportUnknownMemberType] (as below)
        except (ValueError, LookupError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{_shortened(str(node.value))!r} looks like {kind} and is none; write it in quotes if it is text"
            raise ConstructorError(None, None, problem, node.start_mark) from error


_MERGE = "tag:yaml.org,2002:merge"
_Loader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType] (PyYAML's stubs name no types here)
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", cast(Any, _Loader).construct_yaml_str)


def recipe_path(name: str | Path) -> Path:
    """Find a recipe: a file, the name of one that is installed with the package, or the one a run folder was made by.

    Raises:
        ConfigError: There is no such file; lists the installed recipes.
    """
    given = Path(name)
    try:
        if given.is_file():
            return given
        if (given / SNAPSHOT).is_file():
            return given / SNAPSHOT
    except OSError as error:
        raise ConfigError(f"{name}: no config file can be reached by this name ({error.strerror})") from error
    installed = recipes_folder()
    stem = given.name.removesuffix(".yaml")
    if (installed / f"{stem}.yaml").is_file() and str(name) in (stem, f"{stem}.yaml", f"configs/{stem}.yaml"):
        return installed / f"{stem}.yaml"
    known = ", ".join(sorted(path.stem for path in installed.glob("*.yaml"))) or "none"
    raise ConfigError(f"{name}: no such config file; installed recipes are {known}")


def recipes_folder() -> Path:
    """Return the folder of the recipes: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def run_folder(place: Path) -> Path:
    """Return the run folder that a recipe file names; any other path is returned as it is.

    Raises:
        ConfigError: The recipe is missing or has mistakes.
    """
    return load_config(place).run if place.suffix in (".yaml", ".yml") else place


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and overlay it with overrides such as `--ppo.learning-rate 1e-4` or `ppo.updates=20`.

    Raises:
        ConfigError: Lists everything that is wrong, with dotted paths and did-you-mean.
    """
    source = recipe_path(path)
    values = _read_yaml(source)
    if Path(path).is_dir():
        values["run"] = str(path)
    for key, text in read_overrides(overrides):
        _assign(values, key, text)
    return parse_config(values, str(source))


def parse_config(values: dict[str, Any], source: str) -> Config:
    """Check plain values.

    Raises:
        ConfigError: Lists everything that is wrong.
    """
    for name, shorthand in SHORTHANDS.items():
        if isinstance(values.get(name), str) and values[name] in shorthand:
            values = values | {name: shorthand[values[name]]}
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        problems = [_describe(entry) for entry in error.errors()]
        report_all(
            ConfigError, problems, f"{source}: {len(problems)} {'mistake' if len(problems) == 1 else 'mistakes'}"
        )
        raise


def config_help(only: str | None = None) -> str:
    """Return every field with its default, its effect and its docstring; of one section where `only` names it."""
    lines: list[str] = []
    for path, default, effect, text in _described_fields(Config):
        if only is None or path.startswith(f"{only}.") or "." not in path:
            lines.append(f"  {path} = {json.dumps(default)}  [{effect}]\n      {text}")
    return "\n".join(lines)


def _described_fields(cls: Any, prefix: str = "") -> Iterable[tuple[str, Any, str, str]]:
    for name, info in cls.__pydantic_fields__.items():
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        if (named := section_in(info.annotation)) is not None:
            yield from _described_fields(named, f"{prefix}{name}.NAME.")
            continue
        if dataclasses.is_dataclass(default):
            yield from _described_fields(type(default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", plain(default), effect_of(cls, name), info.description or ""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, so that editors complete and check it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | TypeAdapter(Config).json_schema()


def dump_config(config: Config) -> str:
    """Return the resolved configuration as YAML; `load_config` reads it back unchanged."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    values = _parse_yaml(text, str(path))
    if values is None:
        raise ConfigError(f"{path}: the file is empty; a recipe needs at least `run:`")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `name: value` lines at the top, found {type(values).__name__}")
    return cast(dict[str, Any], values)


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1} column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{source}{place}: not YAML that a recipe may hold ({problem})") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: brackets or blocks are nested too deeply for a recipe") from error


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def read_overrides(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Return dotted field and text of overrides in either form: `--a.b-c value`, `--a.b-c=value`, `a.b_c=value`.

    Raises:
        ConfigError: Lists what is no override, or lacks a value.
    """
    pending, found, problems = list(overrides), list[tuple[str, str]](), list[str]()
    while pending:
        item = pending.pop(0)
        key, equals, text = item.removeprefix("--").partition("=")
        if not item.startswith("--") and not equals:
            problems.append(f"{item!r} is no override; write --section.field VALUE or section.field=VALUE")
            continue
        if not equals:
            if not pending or pending[0].startswith("--"):
                problems.append(f"{item} needs a value")
                continue
            text = pending.pop(0)
        found.append((key.replace("-", "_"), text))
    report_all(ConfigError, problems, "overrides:")
    return found


def _assign(values: dict[str, Any], dotted: str, text: str) -> None:
    """Set one value in a copy of every section on its way: YAML lets two sections share one (`&name`, `*name`)."""
    *sections, name = dotted.split(".")
    for entry in sections:
        inner = values.get(entry)
        if inner is None:
            inner = {}
        if isinstance(inner, str) and inner in SHORTHANDS.get(entry, {}):
            inner = SHORTHANDS[entry][inner]
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted}: {entry!r} is {inner!r}, not a section with fields")
        values[entry] = dict(cast(dict[str, Any], inner))
        values = values[entry]
    values[name] = _parse_yaml(text, f"--{dotted} {_shortened(text)!r}")


def _describe(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    kind, value = error["type"], error.get("input")
    if kind == "unexpected_keyword_argument":
        return f"{path}: no such field{_did_you_mean(error['loc'])}"
    if kind == "missing":
        return f"{path}: missing; it has no default"
    if kind == "dataclass_type":
        names = [entry.name for entry in dataclasses.fields(_section_at(error["loc"]))]
        fields = ", ".join(names[:6]) + (" and others" if len(names) > 6 else "")
        return f"{path}: a section, whose fields are {fields}, found {_found(value)}"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(value, (dict, list)) or dataclasses.is_dataclass(value) or kind == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message}, found {_found(value)}"


def _found(value: Any) -> str:
    try:
        return _shortened(repr(value))
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"


def _section_at(location: Sequence[Any]) -> Any:
    """Return the class of the section at a place in the recipe; None where there is none."""
    cls: Any = Config
    for part in location:
        if (named := section_in(cls)) is not None:
            cls = named
            continue
        cls = next((entry.type for entry in dataclasses.fields(cls) if entry.name == part), None)
        if not dataclasses.is_dataclass(cls) and section_in(cls) is None:
            return None
    return cls if dataclasses.is_dataclass(cls) else None


def _did_you_mean(location: Sequence[Any]) -> str:
    cls = _section_at(location[:-1])
    if cls is None:
        return ""
    names = [entry.name for entry in dataclasses.fields(cls)]
    close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.55)
    if close:
        return f"; did you mean {close[0]!r}?"
    home = sorted(_sections_with(str(location[-1]), Config))
    if home:
        return f"; it belongs to {' or '.join(home)}"
    return f"; known are {', '.join(names)}"


def _sections_with(name: str, cls: Any, prefix: str = "") -> Iterable[str]:
    for entry in dataclasses.fields(cls):
        if dataclasses.is_dataclass(entry.type):
            yield from _sections_with(name, entry.type, f"{prefix}{entry.name}.")
        elif entry.name == name and prefix:
            yield prefix.removesuffix(".")
        elif entry.name == name:
            yield "the top level"


def write_schema(path: Path | None) -> None:
    """Write the JSON Schema to a file, or to standard output."""
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")
