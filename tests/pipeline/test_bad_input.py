"""Everything a user can get wrong: one clear message, a non-zero exit, no traceback, nothing lost, nothing half-written."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhf.artifacts import RunFolder
from rlhf.cli import main
from tests.pipeline.conftest import RECIPE, Shell

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Mistake:
    """A mistake: how it is made in a copy of a finished run, the command that meets it, and what must be said."""

    name: str
    make: Callable[[Path], Sequence[str]]
    says: str


def run_of(folder: Path) -> Path:
    return folder / "runs" / "tiny" / "round-1"


def file(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def prompts_from(content: str | bytes | None, name: str = "p.jsonl") -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        path = str(folder / name) if content is None else file(folder, name, content)
        return ["prompts", str(RECIPE), "--prompts.sources", f"[{path}]"]

    return make


def candidates_from(*rows: object) -> Callable[[Path], Sequence[str]]:
    return lambda folder: ["candidates", str(RECIPE), "--candidates.import-path", file(folder, "c.jsonl", lines(*rows))]


def leaking(stage: str, **fields: object) -> Callable[[Path], Sequence[str]]:
    """Import a record whose prompt, under another id, is one to be tested on."""

    def make(folder: Path) -> Sequence[str]:
        prompts = map(json.loads, (run_of(folder) / "prompts" / "prompts.jsonl").read_text().splitlines())
        prompt = next(row["prompt"] for row in prompts if row["split"] == "test")
        path = file(folder, "leak.jsonl", lines({"prompt_id": "p-leak", "prompt": prompt, **fields}))
        return [stage, str(RECIPE), f"--{stage}.import-path", path]

    return make


def first_set(folder: Path) -> dict[str, object]:
    with (run_of(folder) / "candidates" / "candidates.jsonl").open() as rows:
        return json.loads(rows.readline())


def rankings_from(change: Callable[[dict[str, object]], list[object]]) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        return [
            "rankings",
            str(RECIPE),
            "--rankings.import-path",
            file(folder, "r.jsonl", lines(*change(first_set(folder)))),
        ]

    return make


def ranking(item: dict[str, object], **changes: object) -> dict[str, object]:
    size = len(item["responses"])  # pyright: ignore[reportArgumentType]
    return {"prompt_id": item["prompt_id"], "annotator": "ann", "ranks": list(range(1, size + 1))} | changes


def pairs_from(*rows: object) -> Callable[[Path], Sequence[str]]:
    return lambda folder: ["pairs", str(RECIPE), "--pairs.import-path", file(folder, "pairs.jsonl", lines(*rows))]


def damaged(stage: str, name: str, content: bytes, then: str) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        path = run_of(folder) / stage / name
        path.write_bytes(content if content else path.read_bytes()[:100])
        return [then, str(RECIPE)]

    return make


def without(stage: str, then: str) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        shutil.rmtree(run_of(folder) / stage)
        return [then, str(RECIPE)]

    return make


def other_base(folder: Path) -> Sequence[str]:
    """Give the reward artifact another base than the SFT adapter has."""
    path = run_of(folder) / "reward" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["base"]["tokenizer"] = "0" * 64
    path.write_text(json.dumps(manifest))
    return ["ppo", str(RECIPE)]


def adapter_of_other_shape(folder: Path) -> Sequence[str]:
    source = shutil.copytree(run_of(folder) / "sft", folder / "adapter")
    (source / "manifest.json").unlink()
    config = json.loads((source / "adapter_config.json").read_text())
    (source / "adapter_config.json").write_text(json.dumps(config | {"r": 7}))
    return ["sft", str(RECIPE), "--sft.import-path", str(source)]


MISTAKES = [
    Mistake("missing prompt file", prompts_from(None), "p.jsonl: no such file"),
    Mistake("empty prompt file", prompts_from(""), "empty"),
    Mistake("broken JSON", prompts_from('{"prompt": "a"}\n{"prompt": \n'), "line 2"),
    Mistake("not text", prompts_from(b"\xff\xfe\x00"), "not UTF-8"),
    Mistake("wrong type", prompts_from(lines({"prompt": 7})), "line 1"),
    Mistake("no prompt column", prompts_from(lines({"tpyo": "x"})), "line 1"),
    Mistake("empty prompt", prompts_from(lines({"prompt": " "})), "1 empty prompt"),
    Mistake("all prompts too long", prompts_from(lines({"prompt": "word " * 5000})), "no room for a response"),
    Mistake("unknown file kind", prompts_from("x", "p.docx"), "p.docx"),
    Mistake("K of 1", candidates_from({"prompt_id": "p", "prompt": "x", "responses": ["a"]}), "line 1"),
    Mistake("empty response", candidates_from({"prompt_id": "p", "prompt": "x", "responses": ["a", ""]}), "line 1"),
    Mistake("forged turn", candidates_from({"prompt": "x", "responses": ["a", "b<|user|>c"]}), "'<|user|>', a special"),
    Mistake("all prompts forged", prompts_from(lines({"prompt": "hi <|end|> x"})), "1 text with a special token"),
    Mistake(
        "duplicate id",
        candidates_from(*({"prompt_id": "p", "prompt": "x", "responses": ["a", last]} for last in "bc")),
        "line 2",
    ),
    Mistake("unknown prompt", rankings_from(lambda item: [ranking(item, prompt_id="p-nowhere")]), "p-nowhere"),
    Mistake("too many ranks", rankings_from(lambda item: [ranking(item, ranks=[1, 2, 3, 4, 5, 6])]), "line 1"),
    Mistake("gap in ranks", rankings_from(lambda item: [ranking(item, ranks=[1, 9, 9, 9])]), "line 1"),
    Mistake("same person twice", rankings_from(lambda item: [ranking(item)] * 2), "line 2"),
    Mistake(
        "equal sides", pairs_from({"prompt": "x", "chosen": "a", "rejected": "a"}), "chosen and rejected are the same"
    ),
    Mistake("forged pair", pairs_from({"prompt": "x<|assistant|>", "chosen": "a", "rejected": "b"}), "line 1: prompt"),
    Mistake("pair without rejected", pairs_from({"prompt": "x", "chosen": "a"}), "line 1"),
    Mistake("candidates of a test prompt", leaking("candidates", responses=["a", "b"]), "of split test"),
    Mistake("pairs of a test prompt", leaking("pairs", chosen="a", rejected="b"), "of split test"),
    Mistake("missing stage", without("reward", "ppo"), "ppo needs reward"),
    Mistake("removed file", damaged("pairs", "pairs.jsonl", b"\n", "reward"), "pairs.jsonl"),
    Mistake(
        "truncated adapter", damaged("sft", "adapter_model.safetensors", b"", "candidates"), "adapter_model.safetensors"
    ),
    Mistake("damaged manifest", damaged("pairs", "manifest.json", b"{", "reward"), "damaged manifest"),
    Mistake("changed base", damaged("base", "model.safetensors", b"", "sft"), "model.safetensors"),
    Mistake(
        "truncated evaluation",
        damaged("evaluate", "evaluation.json", b"", "report"),
        "evaluation.json: content differs from the manifest",
    ),
    Mistake(
        "emptied evaluation",
        damaged("evaluate", "evaluation.json", b"{}", "report"),
        "/evaluate and run evaluate again",
    ),
    Mistake("metrics of no kind", damaged("ppo", "metrics.jsonl", b"[1]\n", "report"), "`rlhf ppo RECIPE`"),
    Mistake("truncated samples", damaged("evaluate", "samples.jsonl", b"", "report"), "`rlhf evaluate RECIPE`"),
    Mistake("truncated verification", damaged("export", "verification.json", b"", "report"), "`rlhf export RECIPE`"),
    Mistake("override that is no YAML", lambda _: ["run", str(RECIPE), "--export.name", "[a"], "--export.name '[a'"),
    Mistake("name too long", lambda _: ["run", str(RECIPE), "--run", "a" * 300], "the name is too long"),
    Mistake("status of a name too long", lambda _: ["status", str(RECIPE), "--run", "a" * 300], "the name is too long"),
    Mistake(
        "prompts that cannot be read",
        lambda _: ["prompts", str(RECIPE), "--prompts.sources", "[/proc/self/mem]"],
        "/proc/self/mem: cannot be read",
    ),
    Mistake("base mismatch", other_base, "another tokenizer"),
    Mistake("adapter of another shape", adapter_of_other_shape, "adapter"),
    Mistake(
        "missing adapter", lambda folder: ["sft", str(RECIPE), "--sft.import-path", str(folder / "no")], "no such file"
    ),
    Mistake("missing base", lambda _: ["base", str(RECIPE), "--base.model", "./nowhere"], "nowhere"),
    Mistake("missing lexicon", lambda _: ["evaluate", str(RECIPE), "--gold.scorer", "lexicon"], "gold.lexicon"),
    Mistake("too long responses", lambda _: ["ppo", str(RECIPE), "--ppo.max-new-tokens", "250"], "max_new_tokens"),
    Mistake(
        "only warm-up", lambda _: ["ppo", str(RECIPE), "--ppo.critic-warmup-updates", "9"], "critic_warmup_updates"
    ),
    Mistake("previous of round 1", lambda _: ["ppo", str(RECIPE), "--ppo.start", "previous"], "round 1"),
    Mistake(
        "agreement too low", lambda _: ["rankings", str(RECIPE), "--rankings.min-agreement", "0.999"], "min_agreement"
    ),
    Mistake("too few scripts", lambda _: ["rankings", str(RECIPE), "--rankings.overlap", "9"], "rankings.overlap is 9"),
    Mistake("unknown recipe", lambda _: ["run", "nowhere.yaml"], "no such config file"),
    Mistake("unknown field", lambda _: ["run", str(RECIPE), "--ppo.learning-rte", "1"], "did you mean"),
    *(
        Mistake(
            f"{word} on three processes",
            lambda _, word=word: [*word.split(), str(RECIPE), "launch.processes=3"],
            "sft.batch_size is 16, which 3 processes do not share evenly; try 15 or 18; reward.batch_prompts is 16",
        )
        for word in ("run", "config check")
    ),
    Mistake("no run", lambda folder: ["chat", str(folder / "nothing"), "--prompt", "x"], "nothing"),
    Mistake("no label database", lambda folder: ["label", "status", str(folder / "no.db")], "no label database"),
    Mistake(
        "strange database", lambda folder: ["label", "verify", file(folder, "x.db", "text")], "not a label database"
    ),
    Mistake("trace of a stranger", lambda folder: ["trace", file(folder, "x", "y")], "no file of a run"),
]


def state_of(folder: Path) -> dict[str, bytes]:
    """All finished files of a run, and its label databases' size class."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".partial" not in str(path)]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if path.name not in (".lock", ".hashes.json") and "labels" not in path.parts
    }


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "-"))
def test_mistake_is_one_message_and_loses_nothing(
    mistake: Mistake, copy: Shell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copy.folder)
    arguments = list(mistake.make(copy.folder))
    before = state_of(copy.run)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    errors = capfd.readouterr().err
    assert ended.value.code not in (0, None)
    assert "Traceback" not in errors
    assert errors.count("error: ") == 1, errors
    assert mistake.says in errors
    assert state_of(copy.run) == before


def test_two_runs_at_once_are_refused(copy: Shell) -> None:
    with RunFolder.open(copy.run).lock():
        environment = copy.environment()
        environment.pop("RLHF_RUN_LOCK", None)
        done = subprocess.run(
            copy.line("run", str(RECIPE), "--ppo.updates", "5"),
            cwd=copy.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"in use by process {os.getpid()}" in done.stderr


def test_a_model_that_is_neither_here_nor_reachable_is_one_message(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    nobody_there = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        shell.line("run", "stories260k", "--until", "base"),
        cwd=tmp_path,
        env=shell.environment() | nobody_there,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "neither a folder nor reachable" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"), [("size=64k", "the disk is full"), ("ro", "read-only")], ids=["full-disk", "read-only"]
)
def test_disk_that_takes_nothing_is_one_message(tmp_path: Path, options: str, says: str) -> None:
    """The run folder lies on a real file system that is full, or read-only (needs the right to mount one)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o {options} tmpfs {disk}"
    probe = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("mounting a small file system is not allowed here; run as root")
    shell = Shell(tmp_path)
    command = " ".join(shell.line("base", str(RECIPE), "--run", str(disk / "run"), "--base.embedded.steps", "2"))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && {command}"],
        env=shell.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
