"""Configuration of the stages that make and judge text: prompts, candidates, rankings, pairs."""

from pathlib import Path
from typing import Literal

from rlhf.config.fields import output, result, section, speed


@section
class SplitShares:
    """Relative sizes of the five splits; they are normalised to 1."""

    sft: float = result(0.3, ge=0)
    """Prompts with demonstrations for supervised fine-tuning."""
    label: float = result(0.25, ge=0)
    """Prompts whose candidates people rank."""
    ppo: float = result(0.25, ge=0)
    """Prompts of the rollouts."""
    validation: float = result(0.05, ge=0)
    """Prompts on which checkpoints are chosen."""
    test: float = result(0.15, ge=0)
    """Prompts of the final tables."""


@section
class PromptsConfig:
    """Import, de-duplication, length filter and split of prompts."""

    sources: tuple[str, ...] = result(("embedded",), min_length=1)
    """`embedded`, files or folders (JSONL, Parquet, CSV, TXT), or `hub:NAME[:SPLIT]`."""
    demonstrations: tuple[str, ...] = result(())
    """Sources whose rows carry responses and serve SFT only; a small share becomes held-out data."""
    count: int | None = result(None, ge=1)
    """Keep at most this many prompts; the number generated for `embedded` (default 4000)."""
    prompt_field: str | None = result(None)
    """Column that holds the prompt; found by its usual names if not given."""
    response_field: str | None = result(None)
    """Column that holds the response; found by its usual names if not given."""
    prompt_words: int | None = result(None, ge=1)
    """Cut each text after this many words: the opening is the prompt, the rest the response."""
    min_tokens: int = result(1, ge=1)
    """Drop prompts with fewer tokens."""
    max_tokens: int = result(256, ge=1)
    """Drop prompts with more tokens."""
    near_duplicate: float = result(0.9, gt=0, le=1)
    """Prompts whose word 3-gram sets overlap (Jaccard) at least this much stay in one split."""
    shares: SplitShares = result(lambda: SplitShares())
    """Relative sizes of the splits."""


@section
class CandidatesConfig:
    """K distinct responses per prompt of the label split."""

    import_path: Path | None = result(None)
    """Take candidate sets from this file (JSONL, JSON, CSV, Parquet) instead of sampling them."""
    prompt_field: str | None = result(None)
    """Column of `import_path` that holds the prompt; found by its usual names if not given."""
    responses_field: str | None = result(None)
    """Column that holds the list of candidates; found by its usual names if not given."""
    policy: Literal["current", "sft", "previous"] = result("current")
    """Who answers: the latest policy there is (SFT in round 1, then the aligned policy of the round before), always SFT, or
    always the round before."""
    count: int = result(4, ge=2, le=9)
    """Candidates wanted per prompt (K); near-duplicates are merged, so a prompt may get fewer."""
    samples: int = result(6, ge=2, le=64)
    """Responses drawn per prompt, from which the distinct ones are kept."""
    max_prompts: int | None = result(None, ge=1)
    """Use at most this many label prompts per round."""
    temperature: float = result(1.0, gt=0, le=5)
    """Sampling temperature."""
    top_p: float = result(1.0, gt=0, le=1)
    """Nucleus sampling: keep the smallest set of tokens with this much probability."""
    max_new_tokens: int = result(64, ge=1)
    """Longest response, in tokens."""
    near_duplicate: float = result(0.9, gt=0, le=1)
    """Responses whose word sets overlap (Jaccard) at least this much count as one."""
    batch_size: int = speed(128, ge=1)
    """Responses decoded together, per process."""


@section
class ScriptedConfig:
    """Scripted annotators: they rank by the gold scorer plus noise and are marked as scripted everywhere."""

    annotators: int = result(6, ge=1)
    """How many there are."""
    agreement: float = result(0.75, gt=0.5, le=1)
    """Share of pairs on which two of them agree; sets the noise."""
    adversarial: int = result(0, ge=0)
    """How many of them rank upside down."""
    flips: float = result(0.0, ge=0, le=0.5)
    """Share of rankings reversed on top of the noise."""


@section
class RankingsConfig:
    """Who ranks the candidates, and when the round is complete."""

    source: Literal["people", "scripted"] = result("people")
    """`people` rank in the browser, `scripted` annotators stand in for them."""
    import_path: Path | None = result(None)
    """Take rankings from this file (JSONL, JSON, CSV, Parquet) instead."""
    prompt_field: str | None = result(None)
    """Column of `import_path` that holds the prompt, where neither `prompt_id` nor `id` names the candidate set."""
    responses_field: str | None = result(None)
    """Column that holds the list of candidates, where the rows carry them; found by its usual names if not given."""
    ranks_field: str | None = result(None)
    """Column, or field of each of `annotations`, that holds the ranks, 1 is best; `ranks` if not given."""
    scores_field: str | None = result(None)
    """Column, or field of each of `annotations`, of scores to rank by, higher is better; instead of `ranks_field`."""
    annotator_field: str | None = result(None)
    """Column, or field of each of `annotations`, that names the annotator; `annotator` if not given."""
    overlap: int = result(3, ge=1, le=50)
    """Annotators per prompt."""
    min_agreement: float | None = result(None, ge=0, le=1)
    """Stop with a message if the pairwise agreement is below this."""
    scripted: ScriptedConfig = result(lambda: ScriptedConfig())
    """The scripted annotators."""
    guidelines: Path | None = output(None)
    """Markdown file shown beside each task."""
    database: str | None = output(None)
    """Keep people's answers on a PostgreSQL server, `postgresql://USER@HOST/DATABASE`, instead of in the run folder."""
    max_overlap: int | None = result(None, ge=1, le=50)
    """Most annotators of a task on which they disagree; one is added at a time."""
    extra_below: float | None = result(None, ge=0, le=1)
    """A task whose annotators agree less than this gets one more, up to `max_overlap`."""
    task_limit: int | None = result(None, ge=1, le=1_000_000)
    """Most tasks of a round for one annotator."""
    training: Path | None = output(None)
    """JSONL of candidate sets with `ranks` and `explanation`, ranked with feedback before the first real task."""
    gold: Path | None = output(None)
    """JSONL of candidate sets with known `ranks`, mixed in unseen to measure annotators."""
    gold_share: float = output(0.05, ge=0, le=0.5)
    """Share of an annotator's tasks that are gold items, while there are any."""
    repeat_share: float = output(0.05, ge=0, le=0.5)
    """Share of an annotator's tasks that he ranked before, shown in another order."""
    priorities: Path | None = output(None)
    """JSONL with `prompt_id` and `priority`: higher is ranked first, but for a random share; where not given, the file that
    `rlhf label prioritise` made for the round, if it did."""
    random_share: float = output(0.25, ge=0, le=1)
    """With priorities, share of the tasks taken at random all the same, and marked so, where the file marks none itself."""


@section
class PairsConfig:
    """From several rankings to preference pairs."""

    import_path: Path | None = result(None)
    """Take preference pairs from this file (JSONL, JSON, CSV, Parquet; TRL's format) instead."""
    prompt_field: str | None = result(None)
    """Column of `import_path` that holds the prompt; found by its usual names if not given."""
    chosen_field: str | None = result(None)
    """Column that holds the better response; `chosen` if not given."""
    rejected_field: str | None = result(None)
    """Column that holds the worse response; `rejected` if not given."""
    margin_field: str | None = result(None)
    """Column that holds the margin; `margin` if not given, or else the difference of the two sides' scores."""
    policy: Literal["hard", "soft", "weighted"] = result("weighted")
    """`hard` keeps confident pairs, `soft` labels with the probability, `weighted` weighs by confidence."""
    belief: Literal["equal", "agreement", "one_coin", "auto"] = result("equal")
    """How far each annotator is believed: all alike, by agreement with the others, by the one-coin model, or by whatever
    the number of answers can bear."""
    min_probability: float = result(0.5, ge=0.5, lt=1)
    """Drop pairs whose majority is not above this."""
    rounds: Literal["all", "own"] = result("all")
    """Train on the pairs of all rounds so far, or on this round's alone."""
    holdout: float = result(0.1, gt=0, lt=0.9)
    """Share of the label prompts kept apart to measure the reward model."""
    holdout_annotators: float = result(0.0, ge=0, le=0.5)
    """Share of the annotators whose rankings train nothing: they tell how the reward model does with new people. Fewer than
    five annotators are never divided."""
