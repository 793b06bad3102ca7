"""Stage candidates: K distinct responses to every prompt of the label split.

Reads base, prompts and the policy that answers (SFT, or the previous round's). Writes candidates.jsonl; near-duplicates
are merged, and a prompt without two distinct responses is left out and counted. Work is kept in chunks, so that an
interrupted run goes on where it stopped.

    rlhf candidates CONFIG  python -m stages.candidates CONFIG
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rlhf.candidates import distinct_responses, enough
from rlhf.config.recipe import Config
from rlhf.data.rankings import import_candidates
from rlhf.data.splits import require_no_overlap
from rlhf.decoding import InStep
from rlhf.entry import Work, begin, stage_main
from rlhf.errors import DataError, LabelsAtRiskError
from rlhf.hashing import derive_seed
from rlhf.labels.rounds import describe_risk, human_answers
from rlhf.models.base import load_base, load_base_text
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from rlhf.records import CandidateSet, Prompt, read_jsonl, write_jsonl
from rlhf.runtime import Runtime, answering_runtime
from rlhf.sampling import Sampling, sample
from rlhf.text import TextFormat

log = logging.getLogger(__name__)
CHUNK_PROMPTS = 64


def run(config: Config) -> Path:
    """Sample the candidates, or import them."""
    runtime = answering_runtime(config.launch)
    with begin("candidates", config, is_main=runtime.is_main, barrier=runtime.wait) as work:
        _protect_answers(work)
        if config.candidates.import_path is not None:
            sets = _import(config.candidates.import_path, config, work)
        else:
            sets = _sample_all(config, work, runtime)
        if runtime.is_main:
            write_jsonl(work.folder / "candidates.jsonl", sets)
        work.draft.processes = runtime.process_count
        sizes = Counter(len(item.responses) for item in sets)
        work.draft.splits = ("label",)
        work.draft.facts |= {"prompts": len(sets), "by_count": {str(size): sizes[size] for size in sorted(sizes)}}
        log.info("%d candidate sets: %s", len(sets), ", ".join(f"{sizes[size]} of {size}" for size in sorted(sizes)))
        final = work.run.folder("candidates")
    return final


def _import(path: Path, config: Config, work: Work) -> list[CandidateSet]:
    text = load_base_text(work.parents["base"].path, config.base)
    settings = config.candidates
    columns = {"prompt": settings.prompt_field, "responses": settings.responses_field}
    found = import_candidates(path, text.require_ordinary, columns)
    require_no_overlap(found.records, read_jsonl(work.file("prompts", "prompts.jsonl"), Prompt), ("sft", "label"))
    work.draft.facts |= {"dropped": dict(found.dropped)}
    return found.records


def _protect_answers(work: Work) -> None:
    """Refuse to replace candidates that people judged; the same candidates may be made again."""
    present = work.run.find("candidates")
    answers, people = human_answers(work.run.labels, work.run.round)
    if answers and present is not None and present.manifest.inputs.key != work.draft.inputs.key:
        why = "; ".join(work.draft.inputs.changes_from(present.manifest.inputs))
        raise LabelsAtRiskError(describe_risk(answers, people, work.run.round, why))


def _sample_all(config: Config, work: Work, runtime: Runtime) -> list[CandidateSet]:
    """Sample in chunks that the processes share: what is in one does not depend on how many there are."""
    prompts = _prompts_of_round(config, work)
    policy = work.parents.get("previous-policy", work.parents["sft"])
    base = load_base(work.parents["base"].path, config.base, config.precision)
    runtime.require_same(config, base.weights_hash)
    shared = build_shared_base(base, {"policy": RoleSource(folder=policy.path)})
    runtime.hold(shared)
    source = f"policy:{policy.identity[:12]}"
    own: list[tuple[int, list[CandidateSet]]] = []
    with work.tracker.progress(len(prompts), "candidates") as bar:
        for chunk in runtime.own_chunks(len(prompts), CHUNK_PROMPTS):
            part = work.folder / "checkpoints" / f"chunk-{chunk.start:08d}.jsonl"
            chosen = [prompts[index] for index in chunk]
            busy = bool(chosen) and not part.is_file()
            # A sharded base is gathered by all processes at once: who has nothing to do keeps step.
            if busy or (runtime.in_step is not None and runtime.any(busy)):
                asked = chosen if busy else []
                found = _sample_chunk(config, shared, base.text, asked, chunk.start, source, runtime.in_step)
                if busy:
                    _keep(part, found)
            if chosen:
                own.append((chunk.start, _read(part)))
            bar.update(len(chosen) * runtime.process_count)
    sets = [item for _, part in sorted(runtime.gather(own)) for item in part]
    if not sets:
        raise DataError("no prompt got two distinct candidates; raise candidates.temperature or candidates.samples")
    if len(sets) < len(prompts):
        log.warning("%d prompts got fewer than two distinct responses and are left out", len(prompts) - len(sets))
    work.draft.facts |= {"policy": policy.identity, "left_out": len(prompts) - len(sets)}
    return sets


def _prompts_of_round(config: Config, work: Work) -> list[Prompt]:
    """Return the label prompts of this round: each round goes on where the one before stopped."""
    rows = read_jsonl(work.file("prompts", "prompts.jsonl"), Prompt)
    label = [row for row in rows if row.split == "label"]
    if not label:
        raise DataError("the label split is empty; raise prompts.shares.label or prompts.count")
    wanted = config.candidates.max_prompts
    if wanted is None or wanted >= len(label):
        return label
    first = (work.run.round - 1) * wanted % len(label)
    return (label + label)[first : first + wanted]


def _sample_chunk(
    config: Config,
    shared: SharedBase,
    text: TextFormat,
    prompts: Sequence[Prompt],
    first: int,
    source: str,
    in_step: InStep | None,
) -> list[CandidateSet]:
    settings = config.candidates
    ids = [text.encode_prompt(prompt.prompt) for prompt in prompts for _ in range(settings.samples)]
    drawn = sample(
        shared,
        "policy",
        ids,
        text,
        Sampling(settings.temperature, settings.max_new_tokens, settings.top_p),
        seed=derive_seed(config.seed, "candidates"),
        batch_size=settings.batch_size,
        keys=range(first * settings.samples, first * settings.samples + len(ids)),
        in_step=in_step,
    )
    texts = [text.decode_response(response).strip() for response in drawn.response_ids]
    sets: list[CandidateSet] = []
    for index, prompt in enumerate(prompts):
        own = texts[index * settings.samples : (index + 1) * settings.samples]
        kept = distinct_responses(own, settings.near_duplicate, settings.count)
        if enough(kept):
            responses = tuple(own[place] for place in kept)
            sets.append(CandidateSet(prompt.id, prompt.prompt, responses, (source,) * len(responses)))
    return sets


def _keep(part: Path, sets: Sequence[CandidateSet]) -> None:
    part.parent.mkdir(exist_ok=True)
    unfinished = part.with_suffix(".tmp")
    write_jsonl(unfinished, sets)
    unfinished.replace(part)


def _read(part: Path) -> list[CandidateSet]:
    return read_jsonl(part, CandidateSet) if part.stat().st_size else []


if __name__ == "__main__":
    stage_main("candidates", run)
