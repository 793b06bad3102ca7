"""Talk with the SFT and the aligned policy side by side: one base in memory, two roles.

Torch and its family are imported when the models are loaded, not before.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.artifacts import RunFolder
from rlhf.config.load import load_config
from rlhf.errors import ConfigError, DataError, printable
from rlhf.records import PromptText

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from rlhf.models.roles import SharedBase
    from rlhf.text import TextFormat

ROLES = {"reference": "SFT", "policy": "aligned"}
QUIT = ("", "quit", "exit")
MAX_NEW_TOKENS = 256
COLDEST, HOTTEST = 1e-3, 5.0
SEEDS = 2**31
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one policy said; `ended` is whether it stopped by itself."""

    text: str
    tokens: int
    ended: bool


Answerer = Callable[[PromptText, int], dict[str, Answer]]
"""(prompt, number of the question) to the answers by role."""


def chat_with_run(
    run_folder: Path,
    prompt: str | None,
    *,
    temperature: float = 0.7,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> None:
    """Answer one prompt, or every prompt typed until an empty line, with both policies of a run.

    Raises:
        ArtifactError: The run has no finished policy yet.
        ConfigError: The temperature or the seed is out of its range.
        DataError: The prompt is empty, is no text that the model can read, or is longer than its context.
    """
    from rich.console import Console

    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:
        raise ConfigError(f"--temperature is {temperature}; give 0 (greedy), or a number from {COLDEST} to {HOTTEST:g}")
    if not 0 <= seed < SEEDS:
        raise ConfigError(f"--seed is {seed}; give a whole number from 0 to {SEEDS - 1}")
    if prompt is not None and not prompt.strip():
        raise DataError("--prompt is empty; say something, or leave it out to type prompts")
    shared, text = load_run(run_folder)

    def answer(question: PromptText, number: int) -> dict[str, Answer]:
        return answer_both(
            shared, text, question, temperature=temperature, seed=seed + number, max_new_tokens=max_new_tokens
        )

    converse(answer, prompt, Console())


def load_run(run_folder: Path) -> "tuple[SharedBase, TextFormat]":
    """Load the base of a run's latest round once, with the SFT adapter and the aligned one as roles on it.

    Raises:
        ArtifactError: The folder is no run, or its policy is not finished.
    """
    from rlhf.models.base import load_base
    from rlhf.models.roles import RoleSource, build_shared_base

    run = RunFolder.open(run_folder)
    policy = run.read("ppo", "chat")
    base, sft = run.read("base", "chat"), run.find("sft")
    config = load_config(policy.file("config.yaml"))
    log.info("loading %s", run_folder)
    loaded = load_base(base.path, config.base, config.precision)
    # Without an SFT artifact there is nothing to compare with but the bare base: a zero adapter.
    reference = RoleSource(folder=sft.path) if sft else RoleSource(fresh=config.sft.lora)
    return build_shared_base(loaded, {"reference": reference, "policy": RoleSource(folder=policy.path)}), loaded.text


def answer_both(
    shared: "SharedBase", text: "TextFormat", prompt: PromptText, *, temperature: float, seed: int, max_new_tokens: int
) -> dict[str, Answer]:
    """Return each role's answer; both draw the same random numbers, so a difference is the policy's.

    Raises:
        DataError: The prompt is longer than the model's context.
    """
    from rlhf.sampling import Sampling, sample

    ids = text.encode_prompt(prompt)
    room = min(max_new_tokens, text.context_length - len(ids))
    answers: dict[str, Answer] = {}
    for role in ROLES:
        drawn = sample(
            shared, role, [ids], text, Sampling(temperature, room), seed=seed, batch_size=1, keys=[0], merge=False
        )
        response = drawn.response_ids[0]
        answers[role] = Answer(text.decode_response(response).strip(), len(response), drawn.ended[0])
    return answers


def converse(answer: Answerer, prompt: str | None, console: "Console") -> None:
    """Show the answers to one prompt, or to each prompt typed until an empty line or the end of the input.

    Raises:
        DataError: The one prompt cannot be answered, or the input is not UTF-8 text.
    """
    if prompt is not None:
        console.print(side_by_side(answer(prompt, 0)))
        return
    console.print("Type a prompt; an empty line ends the talk. Each prompt stands alone.", style="dim")
    number = 0
    while True:
        try:
            typed = console.input("\n[bold]› [/]").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        except UnicodeDecodeError as error:
            raise DataError(f"the input is not UTF-8 text ({error.reason}); type the prompt in UTF-8") from error
        if typed.lower() in QUIT:
            return
        try:
            console.print(side_by_side(answer(typed, number)))
        except DataError as error:
            console.print(printable(str(error)), style="red", markup=False)
        number += 1


def side_by_side(answers: Mapping[str, Answer]) -> "RenderableType":
    """Return the answers as panels in equal columns."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(expand=True, padding=(0, 1))
    panels: list[Any] = []
    for role, answer in answers.items():
        table.add_column(ratio=1)
        # Text, not markup, and without control characters: what a model wrote must not steer the terminal.
        body = Text(printable(answer.text)) if answer.text else Text("(empty)", style="dim italic")
        note = f"{answer.tokens} tokens" + ("" if answer.ended else ", cut off")
        style = "blue" if role == "policy" else "bright_black"
        panels.append(
            Panel(
                body, title=ROLES[role], subtitle=note, title_align="left", subtitle_align="right", border_style=style
            )
        )
    table.add_row(*panels)
    return table
