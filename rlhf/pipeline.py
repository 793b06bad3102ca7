"""`rlhf run`: what has to run and why, each stage in a process of its own, human answers guarded."""

import logging
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.artifacts import RunFolder
from rlhf.children import run_child, run_module
from rlhf.config.load import SNAPSHOT, dump_config
from rlhf.config.recipe import Config, require_shared_batches
from rlhf.entry import INTERRUPTED, TERMINATED
from rlhf.errors import ConfigError, LabelsAtRiskError, RlhfError, WaitingForPeople
from rlhf.labels.rounds import answers_judge_others, describe_risk, human_answers, retire_round, round_complete
from rlhf.launch import launch_line
from rlhf.stage_graph import LAUNCHED, StageName, StageState, external_files, needed_stages, stage_states

log = logging.getLogger(__name__)
POLL_SECONDS = 10
SNAPSHOT_HEADER = "# The recipe of this run, as `rlhf run` resolved it; each run writes it again.\n"
PURPOSE: dict[StageName, str] = {
    "base": "prepare the base model that all roles share",
    "prompts": "import, de-duplicate and split the prompts",
    "sft": "teach the base the task with a LoRA adapter",
    "candidates": "sample distinct responses for people to rank",
    "rankings": "collect the rankings and freeze a checked export",
    "pairs": "turn rankings into weighted preference pairs",
    "reward": "train the reward model on the pairs",
    "ppo": "optimise the policy's adapter against the score",
    "evaluate": "compare SFT, best-of-n and PPO on test prompts",
    "export": "write and verify the aligned adapter",
}


class StageFailed(RlhfError):
    """A stage's process ended with an error; it has told what was wrong, unless it was killed."""

    def __init__(self, stage: str, code: int) -> None:
        if code > 0:
            super().__init__(f"stage {stage} did not finish (exit code {code}); what it said stands above")
        else:
            name = signal.Signals(-code).name
            super().__init__(f"stage {stage} was ended by {name}; run the same command again to go on from there")
        self.exit_code = code if code > 0 else 128 - code


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How `rlhf run` was asked to go about it."""

    dry_run: bool = False
    wait: bool = False
    new_round: bool = False
    discard_labels: bool = False
    target: StageName = "export"
    recipe: Path = Path("CONFIG")
    overrides: tuple[str, ...] = ()


def run_pipeline(config: Config, options: RunOptions) -> RunFolder:
    """Bring a run up to date: run what is missing or stale, in order; skip what is finished and unchanged.

    Raises:
        LabelsAtRiskError: A change would orphan answers that people gave.
        SystemExit: A stage was interrupted, or waits for people; it has said so.
        StageFailed: A stage ended with an error.
        RunLockedError: Another run works in the folder.
    """
    run = RunFolder.open(config.run)
    if options.dry_run:
        tell_plan(config, _round_for(run, options), options)
        return run
    _require_what_comes_later(config, options.target)
    _require_own_snapshot(run)
    with run.lock():
        if options.new_round:
            run = _start_round(run, config)
        states = stage_states(config, run, options.target)
        guard_human_answers(config, run, states, discard=options.discard_labels)
        todo = [state.stage for state in states if state.state != "finished"]
        if not todo:
            log.info("nothing to do: all %d stages of round %d are finished and unchanged", len(states), run.round)
            return run
        recipe = _snapshot(config, run)
        preload = [f"stages.{stage}" for stage in todo]
        for number, state in enumerate(states, start=1):
            _bring_up_to_date(state, f"[{number}/{len(states)}]", config, recipe, preload, wait=options.wait)
    return run


def tell_plan(config: Config, run: RunFolder, options: RunOptions) -> None:
    """Say which stages would run, why, and with which lines; change nothing."""
    _require_what_comes_later(config, options.target)
    states = stage_states(config, run, options.target)
    for state in states:
        if state.state == "finished":
            log.info("%-10s finished and unchanged", state.stage)
            continue
        log.info("%-10s would run: %s", state.stage, "; ".join(state.reasons) or state.state)
        log.info("           %s", shlex.join(stage_line(state.stage, config, options.recipe, options.overrides)))
    if (at_risk := _at_risk(config, run, states)) is not None:
        log.info("           but it would stop: %s", at_risk)


def _require_what_comes_later(config: Config, target: StageName) -> None:
    """Find out now what a later stage would refuse: batches, or a model's folder, a commit, a score function."""
    require_shared_batches(config)
    for stage in needed_stages(config, target):
        external_files(stage, config)


def stage_line(stage: StageName, config: Config, recipe: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Return the exact command that runs a stage."""
    if _is_launched(stage, config):
        return launch_line(stage, recipe, overrides, config.launch)
    return [sys.executable, "-m", f"stages.{stage}", str(recipe), *overrides]


def guard_human_answers(config: Config, run: RunFolder, states: list[StageState], *, discard: bool) -> None:
    """Stop before a change that would orphan answers people gave, unless they are to be set aside.

    Raises:
        LabelsAtRiskError: Says how many answers, whose candidates, and which settings changed.
    """
    risk = _at_risk(config, run, states)
    if risk is not None and not discard:
        raise LabelsAtRiskError(risk)
    if not discard or (risk is None and not _orphaned(run)):
        return
    retired = retire_round(run.labels, run.round)
    log.info("set aside %d labeling tasks of round %d; their answers stay in the store", retired, run.round)


def _orphaned(run: RunFolder) -> bool:
    candidates = run.find("candidates")
    return candidates is not None and answers_judge_others(run.labels, run.round, candidates.file("candidates.jsonl"))


def _at_risk(config: Config, run: RunFolder, states: list[StageState]) -> str | None:
    by_stage = {state.stage: state for state in states}
    candidates = by_stage.get("candidates")
    if candidates is None or candidates.state == "finished":
        return None
    answers, annotators = human_answers(run.labels, run.round)
    if answers == 0:
        return None
    reasons = [
        f"{stage}: {'; '.join(state.reasons) or state.state}"
        for stage, state in by_stage.items()
        if state.state != "finished" and stage in ("base", "prompts", "sft", "candidates")
    ]
    return describe_risk(answers, annotators, run.round, " | ".join(reasons))


def _round_for(run: RunFolder, options: RunOptions) -> RunFolder:
    return RunFolder(run.root, run.round + 1) if options.new_round and not _round_begun(run) else run


def _round_begun(run: RunFolder) -> bool:
    """Say whether the latest round is one that an earlier --new-round started and that has no policy yet."""
    return run.round > 1 and run.find("ppo") is None


def _start_round(run: RunFolder, config: Config) -> RunFolder:
    if _round_begun(run):
        log.info("going on with round %d, which has no finished ppo stage yet", run.round)
        return run
    if run.find("ppo") is None:
        raise RlhfError(f"round {run.round} has no finished ppo stage yet; finish it before starting another round")
    following = RunFolder(run.root, run.round + 1)
    (run.root / f"round-{following.round}").mkdir()
    log.info(
        "started round %d: candidates.policy %s, pairs.rounds %s, ppo.start %s, ppo.reference %s",
        following.round,
        config.candidates.policy,
        config.pairs.rounds,
        config.ppo.start,
        config.ppo.reference,
    )
    return following


def _is_launched(stage: StageName, config: Config) -> bool:
    return stage in LAUNCHED and (config.launch.processes > 1 or config.launch.offload != "none")


def _run_stage(stage: StageName, config: Config, recipe: Path, preload: list[str]) -> int:
    if _is_launched(stage, config):
        return run_child(stage_line(stage, config, recipe))
    return run_module(f"stages.{stage}", [str(recipe)], preload)


def _require_own_snapshot(run: RunFolder) -> None:
    """Refuse a folder whose recipe somebody wrote by hand: the run's own would take its place."""
    path = run.root / SNAPSHOT
    if path.is_file() and not path.read_text(encoding="utf-8", errors="replace").startswith(SNAPSHOT_HEADER):
        raise ConfigError(
            f"{path}: `rlhf run` keeps its resolved recipe under this name, and this file is not one; "
            "choose another `run:` folder, or rename the file"
        )


def _snapshot(config: Config, run: RunFolder) -> Path:
    """Write the resolved recipe beside the rounds, so that editing the file does not split a run in two."""
    path = run.root / SNAPSHOT
    replacement = path.with_suffix(".tmp")
    replacement.write_text(SNAPSHOT_HEADER + dump_config(config), encoding="utf-8")
    replacement.replace(path)
    return path


def _bring_up_to_date(
    state: StageState, place: str, config: Config, recipe: Path, preload: list[str], *, wait: bool
) -> None:
    if state.state == "finished":
        log.info("%s %s: finished and unchanged", place, state.stage)
        return
    why = "; ".join(state.reasons)
    log.info("%s %s: %s%s", place, state.stage, PURPOSE[state.stage], f" ({why})" if why else "")
    started = time.monotonic()
    code = _run_stage(state.stage, config, recipe, preload)
    if code == WaitingForPeople.exit_code and wait:
        run = RunFolder.open(config.run)
        while not round_complete(run.labels, run.round):
            time.sleep(POLL_SECONDS)
        code = _run_stage(state.stage, config, recipe, preload)
    if code in (INTERRUPTED, TERMINATED, WaitingForPeople.exit_code):  # the stage has said so
        raise SystemExit(code)
    if code:
        raise StageFailed(state.stage, code)
    log.info("    %s took %.0f s", state.stage, time.monotonic() - started)
