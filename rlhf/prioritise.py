"""`rlhf label prioritise`: which prompts of a round people should rank first, by what the run's reward model is unsure about.

Reads the round's candidates and the newest reward model up to that round; writes a priorities file, which publishing reads.
A share of the prompts is drawn at random first, without a look at the scores, and marked so: only that share can say how
things stand over all prompts. Torch and its family are imported when the models are loaded, not before.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.artifacts import Artifact, RunFolder
from rlhf.config.load import load_config
from rlhf.config.recipe import Config
from rlhf.errors import ArtifactError, DataError, LabelError
from rlhf.hashing import derive_seed
from rlhf.labels.priorities import choose_at_random, order_by_doubt, priorities_file
from rlhf.labels.publishing import answered_selections
from rlhf.labels.rounds import has_store, run_store
from rlhf.records import CandidateSet, read_jsonl

log = logging.getLogger(__name__)


def prioritise_run(
    folder: Path,
    *,
    round: int | None = None,
    random_share: float | None = None,
    seed: int | None = None,
    out: Path | None = None,
) -> str:
    """Write the priorities of a round's prompts; return what to tell the user.

    Args:
        folder: The run folder.
        round: The round; the latest where not given.
        random_share: Share of the prompts to rank that is drawn at random; the recipe's where not given.
        seed: Seed of that share; the recipe's where not given.
        out: Where to write; beside the answers where not given, where publishing this round finds it.

    Raises:
        ArtifactError: The round has no candidates yet, or the run no reward model.
        LabelError: Everything in this round is answered.
    """
    run = RunFolder.open(folder)
    run = run if round is None else RunFolder(folder, round)
    candidates, reward = _candidates(run), _newest_reward(run)
    config = load_config(candidates.file("config.yaml"))
    sets = read_jsonl(candidates.file("candidates.jsonl"), CandidateSet)
    done = _answered(run)
    open_sets = [item for item in sets if item.prompt_id not in done]
    if not open_sets:
        raise LabelError(
            f"{folder}: all {len(sets)} prompts of round {run.round} are answered; nothing is left to order"
        )
    share = config.rankings.random_share if random_share is None else random_share
    seed = derive_seed(config.seed if seed is None else seed, "prioritise", run.round)
    at_random = choose_at_random([item.prompt_id for item in sets], share, seed)
    rows = _order(config, run, reward, open_sets, at_random)
    rows += [{"prompt_id": name, "priority": 0.0, "selection": selection} for name, selection in sorted(done.items())]
    path = out or priorities_file(run.labels, run.round)
    _write(path, rows)
    count = sum(item.prompt_id in at_random for item in open_sets)
    return (
        f"{path}: {len(open_sets)} prompts of round {run.round} to rank, {count} of them at random; {len(done)} are answered\n"
        + _what_next(folder, out)
    )


def _order(
    config: Config, run: RunFolder, reward: Artifact, sets: Sequence[CandidateSet], at_random: frozenset[str]
) -> list[dict[str, Any]]:
    """Return the rows of what is to be ranked, the most urgent first."""
    from rlhf.models.base import load_base
    from rlhf.models.roles import RoleSource, build_shared_base
    from rlhf.reward.model import load_reward_info
    from rlhf.reward.own_base import load_own_reward
    from rlhf.reward.uncertainty import measure_doubt, measure_doubt_of_own

    log.info("%d prompts, by reward model %s of round %d", len(sets), reward.identity[:12], reward.manifest.round)
    info = load_reward_info(reward.path)
    if info.has_own_base:
        doubt = measure_doubt_of_own(
            load_own_reward(reward.path, config.precision), info, sets, config.reward.score_batch_size
        )
    else:
        base = load_base(run.read("base", "prioritise").path, config.base, config.precision)
        info = load_reward_info(reward.path, base)
        shared = build_shared_base(base, {"reward": RoleSource(folder=reward.path, head=True)})
        doubt = measure_doubt(shared, base.text, info, sets, config.reward.score_batch_size)
    return [
        {
            "prompt_id": sets[number].prompt_id,
            "priority": 1.0 - place / len(sets),
            "selection": "random" if sets[number].prompt_id in at_random else "priority",
            "uncertainty": float(doubt.uncertainty[number]),
            "measure": "entropy_nats" if info.heads == 1 else "spread_of_heads",
            "model": reward.identity[:12],
        }
        for place, number in enumerate(order_by_doubt(doubt.uncertainty, doubt.features))
    ]


def _candidates(run: RunFolder) -> Artifact:
    found = run.find("candidates")
    if found is None:
        raise ArtifactError(
            f"{run.root}: the candidates of round {run.round} are not there; make them with `rlhf run CONFIG --until candidates` "
            "(and --new-round for another round), then prioritise them"
        )
    return found


def _newest_reward(run: RunFolder) -> Artifact:
    for number in range(run.round, 0, -1):
        found = RunFolder(run.root, number).find("reward")
        if found is not None:
            return found
    raise ArtifactError(
        f"{run.root}: no reward model up to round {run.round}; the first prompts are best ranked in random order, as they are "
        "published anyway. Prioritise once `rlhf run` has trained one"
    )


def _answered(run: RunFolder) -> dict[str, str]:
    if not has_store(run.labels):
        return {}
    with run_store(run.labels) as store:
        return answered_selections(store, run.round)


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write whole or not at all."""
    if path.is_dir():
        raise DataError(f"--out {path}: a folder, not a file; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    unfinished.write_text("".join(lines), encoding="utf-8")
    unfinished.replace(path)


def _what_next(folder: Path, out: Path | None) -> str:
    if out is None:
        return f"`rlhf run CONFIG` and `rlhf label serve {folder}` give the tasks out in this order from now on"
    return f"name it in the recipe (rankings.priorities: {out}), or with `rlhf label init ... --priorities {out}`"
