"""`rlhf show`: formatted examples of a stage, with the token ids and the loss mask that training sees."""

from collections.abc import Iterator

from rlhf.artifacts import RunFolder
from rlhf.config.recipe import Config
from rlhf.errors import ArtifactError
from rlhf.models.base import load_base_text
from rlhf.models.classifiers import ClassifierText, load_classifier_text, locate_model
from rlhf.records import (
    CandidateSet,
    Demonstration,
    PreferencePair,
    Prompt,
    PromptText,
    Ranking,
    prompt_to_text,
    read_jsonl,
)
from rlhf.stage_graph import StageName
from rlhf.text import TextFormat


def show_stage(config: Config, stage: StageName, count: int) -> Iterator[str]:
    """Yield `count` examples of what a stage works on, ready to print.

    Raises:
        ArtifactError: The artifact that holds the examples is not finished, or the stage has none to show.
    """
    run = RunFolder.open(config.run)
    text = load_base_text(run.read("base", "show").path, config.base)
    if stage == "sft":
        for row in read_jsonl(run.read("prompts", "show").file("demonstrations.jsonl"), Demonstration)[:count]:
            yield _example(text, row.prompt_id, row.prompt, row.response)
    elif stage in ("prompts", "ppo", "evaluate"):
        for prompt in _prompts(run, stage)[:count]:
            yield f"--- {prompt.id} ({prompt.split})\n{prompt_to_text(prompt.prompt)}\n{_ids(text.encode_prompt(prompt.prompt))}"
    elif stage == "candidates":
        for row in read_jsonl(run.read("candidates", "show").file("candidates.jsonl"), CandidateSet)[:count]:
            listed = "\n".join(f"  [{index}] {response}" for index, response in enumerate(row.responses))
            yield f"--- {row.prompt_id}\n{prompt_to_text(row.prompt)}\n{listed}"
    elif stage == "rankings":
        for row in read_jsonl(run.read("rankings", "show").file("rankings.jsonl"), Ranking)[:count]:
            yield f"--- {row.prompt_id} by {row.annotator} ({row.kind}): ranks {list(row.ranks)}"
    elif stage in ("pairs", "reward"):
        own = _own_text(config) if stage == "reward" else None
        for pair in read_jsonl(run.read("pairs", "show").file("pairs.jsonl"), PreferencePair)[:count]:
            yield f"--- {pair.prompt_id}: probability {pair.probability:.2f}, weight {pair.weight:.2f}, margin {pair.margin:.2f}"
            for name, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
                yield (
                    _exchange(own, name, pair.prompt, response) if own else _example(text, name, pair.prompt, response)
                )
    else:
        raise ArtifactError(f"stage {stage} has no examples to show; try sft, candidates, pairs or ppo")


def _prompts(run: RunFolder, stage: StageName) -> list[Prompt]:
    rows = read_jsonl(run.read("prompts", "show").file("prompts.jsonl"), Prompt)
    wanted = {"ppo": "ppo", "evaluate": "test"}.get(stage)
    return [row for row in rows if wanted is None or row.split == wanted]


def _example(text: TextFormat, name: str, prompt: PromptText, response: str) -> str:
    example = text.encode_example(prompt, response)
    pieces = [
        f"{token!r}{'' if counted else ' .'}"
        for token, counted in zip(
            (text.tokenizer.decode([token]) for token in example.input_ids), example.response_mask, strict=True
        )
    ]
    return f"--- {name} (tokens marked . carry no loss)\n{' '.join(pieces)}\n{_ids(example.input_ids)}"


def _own_text(config: Config) -> ClassifierText | None:
    """Return the tokens of the reward model's own base, if it has one."""
    own = config.reward.base
    if own.model is None:
        return None
    source = locate_model(own.model, own.revision, "reward.base")
    return load_classifier_text(source, "reward.base", config.reward.max_tokens)


def _exchange(text: ClassifierText, name: str, prompt: PromptText, response: str) -> str:
    ids = text.encode(prompt, response)
    pieces = (repr(text.tokenizer.decode([token])) for token in ids)
    return f"--- {name} (as the reward model reads it)\n{' '.join(pieces)}\n{_ids(ids)}"


def _ids(tokens: list[int]) -> str:
    return f"ids: {' '.join(map(str, tokens))}"
