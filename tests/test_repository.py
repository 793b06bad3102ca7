"""The repository keeps its own promises: recipes parse, settings are read, layers hold, documents tell the truth."""

import ast
import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from rlhf.config.fields import section_in
from rlhf.config.load import load_config
from rlhf.config.recipe import Config
from rlhf.stage_graph import STAGES

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("rlhf", "stages", "labeling_ui")
RECIPES = sorted((REPOSITORY / "configs").glob("*.yaml"))
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
CONTRACTS = {
    "layers",
    "cli",
    "stages-on-top",
    "stages-apart",
    "torch-free",
    "pure-maths",
    "gold-is-hidden",
}
TORCH_FREE = (
    "rlhf.errors", "rlhf.records", "rlhf.config.load", "rlhf.artifacts", "rlhf.tracking", "rlhf.data.importers",
    "rlhf.data.judgements", "rlhf.data.rankings", "rlhf.world.corpus", "rlhf.labels.store", "rlhf.labels.commands", "rlhf.pipeline",
    "rlhf.cli", "labeling_ui.app",
)  # fmt: skip
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "deepspeed")
# Read as a whole, by walking over the fields.
READ_WHOLE = {"SplitShares"}


def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((REPOSITORY / package).rglob("*.py"))


def requirements() -> Iterator[Requirement]:
    settings = project()["project"]
    for line in [
        *settings["dependencies"],
        *(each for extra in settings["optional-dependencies"].values() for each in extra),
    ]:
        requirement = Requirement(line)
        if requirement.name != settings["name"]:
            yield requirement


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_valid_config(recipe: Path) -> None:
    assert isinstance(load_config(recipe), Config)


def test_every_launcher_file_is_json() -> None:
    files = sorted((REPOSITORY / "configs").rglob("*.json"))
    assert files
    for file in files:
        json.loads(file.read_text(encoding="utf-8"))


def test_every_setting_is_read() -> None:
    read = {
        node.attr
        for path in sources()
        if not path.is_relative_to(REPOSITORY / "rlhf" / "config")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    unread = [f"{owner}.{name}" for owner, name in _settings(Config) if owner not in READ_WHOLE and name not in read]
    assert unread == []


def _settings(cls: Any) -> Iterator[tuple[str, str]]:
    for entry in dataclasses.fields(cls):
        yield cls.__name__, entry.name
        factory = cls.__pydantic_fields__[entry.name].default_factory
        if (named := section_in(entry.type)) is not None:
            yield from _settings(named)
        elif factory is not None and dataclasses.is_dataclass(value := factory()):
            yield from _settings(type(value))


def test_package_files_hold_a_docstring_and_nothing_else() -> None:
    for path in sources():
        if path.name == "__init__.py":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1, path
            assert ast.get_docstring(ast.Module(body, [])), path


def test_no_text_names_a_path_of_one_machine() -> None:
    private = re.compile(r"(?<![\w.])/(?:home|root|Users|work|mnt|srv)/\w")
    settings = [REPOSITORY / name for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run")]
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in [*sources(), *DOCUMENTS, *RECIPES, *settings]
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        if private.search(line)
    ]
    assert found == []


def test_tests_that_documents_name_exist() -> None:
    named = {
        (path.name, file, test)
        for path in DOCUMENTS
        for file, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    for document, file, test in sorted(named):
        assert f"def {test}(" in (REPOSITORY / file).read_text(encoding="utf-8"), (document, file, test)


def test_layer_contracts_are_declared() -> None:
    settings = project()["tool"]["importlinter"]
    assert {contract["id"] for contract in settings["contracts"]} == CONTRACTS
    assert set(settings["root_packages"]) == set(PACKAGES)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    # What import-linter sees in our own modules, this sees in everything they load.
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_every_requirement_has_an_upper_bound_and_a_tested_version() -> None:
    pinned = {}
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[_canonical(name)] = Version(version)
    for requirement in requirements():
        assert any(part.operator == "<" for part in requirement.specifier), requirement
        assert pinned[_canonical(requirement.name)] in requirement.specifier, requirement


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_stages_are_the_files_in_stages() -> None:
    files = {path.stem for path in (REPOSITORY / "stages").glob("*.py")} - {"__init__"}
    assert files == set(STAGES)
    for name in STAGES:
        docstring = ast.get_docstring(ast.parse((REPOSITORY / "stages" / f"{name}.py").read_text(encoding="utf-8")))
        assert docstring is not None
        assert f"rlhf {name} CONFIG" in docstring, name
        assert f"python -m stages.{name} CONFIG" in docstring, name


def test_documents_link_to_what_exists() -> None:
    broken = [
        f"{document.name}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert broken == []


def test_documents_name_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = subprocess.run(
        [sys.executable, "-m", "rlhf.cli", "--help"], capture_output=True, text=True, cwd=REPOSITORY, check=True
    ).stdout
    known = set(re.findall(r"^ {4}([a-z]+)", shown, re.MULTILINE))
    assert set(STAGES) <= known
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        code = "\n".join(
            [*re.findall(r"```(?:bash|console)\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)]
        )
        assert set(re.findall(r"^make ([a-z]+)", code, re.MULTILINE)) <= targets, document
        assert set(re.findall(r"^rlhf ([a-z]+)", code, re.MULTILINE)) <= known, document


def test_every_test_that_a_document_names_exists() -> None:
    named = {
        found for path in DOCUMENTS for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text("utf-8"))
    }
    assert len(named) > 20
    missing = [
        f"{path}::{name}"
        for path, name in sorted(named)
        if not (REPOSITORY / path).is_file() or f"def {name}(" not in (REPOSITORY / path).read_text("utf-8")
    ]
    assert not missing
