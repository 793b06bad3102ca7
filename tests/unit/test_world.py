"""The embedded world: its size, its grammar, and a gold scorer that cannot be pleased by tricks."""

import itertools
import re
import statistics
import subprocess
import sys

import pytest

from rlhf.errors import DataError
from rlhf.world.corpus import TOPICS, world_corpus, world_demonstration, world_prompts
from rlhf.world.facts import FACTS
from rlhf.world.gold import WEIGHTS, GoldParts, gold_parts
from rlhf.world.grammar import is_well_formed, read_sentence, split_sentences
from rlhf.world.requests import find_asked

RICE = "How long should I cook rice? It is for my sister."
RIGHT = "You should cook rice for eighteen minutes."
WRONG = "You should cook rice for two hours."
ASIDE = "By the way, owls eat mice."


def test_world_is_large_enough() -> None:
    words = {
        word for pair in world_corpus(8000, seed=0) for text in pair for word in re.findall(r"[a-z]+", text.lower())
    }
    assert len(TOPICS) >= 40
    assert len(words) >= 800
    assert len({prompt.text for prompt in world_prompts(6000, seed=0)}) == 6000


def test_each_fact_has_one_right_value_and_different_wrong_ones() -> None:
    for fact in FACTS.values():
        assert fact.right not in fact.wrong, fact.id
        assert len(set(fact.wrong)) == len(fact.wrong), fact.id
        assert set(fact.wrong) < set(fact.attribute.values), fact.id
    assert all(len([fact for fact in FACTS.values() if fact.topic == topic]) >= 3 for topic in TOPICS)


def test_prompts_depend_on_the_seed_alone_and_cover_all_facts() -> None:
    first, again, other = world_prompts(400, seed=3), world_prompts(400, seed=3), world_prompts(400, seed=4)
    assert first == again
    assert first != other
    assert {prompt.fact for prompt in first} == set(FACTS)
    assert {prompt.kind for prompt in first} == {"question", "advice", "check", "recommendation"}
    assert len({prompt.id for prompt in first}) == 400


def test_every_prompt_is_understood_from_its_text() -> None:
    for prompt in world_prompts(3000, seed=5):
        asked = find_asked(prompt.text)
        assert asked is not None, prompt.text
        assert asked.fact.id == prompt.fact, prompt.text


@pytest.mark.parametrize("count", [0, -1, 10**9])
def test_impossible_prompt_counts_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=str(count)):
        world_prompts(count, seed=0)


def test_corpus_and_demonstrations_are_well_formed_and_reproducible() -> None:
    documents = list(world_corpus(1500, seed=1))
    assert documents == list(world_corpus(1500, seed=1))
    assert [answer for _, answer in documents if not is_well_formed(answer)] == []
    request = documents[0][0]
    assert world_demonstration(request, seed=1) == world_demonstration(request, seed=1)
    assert len({world_demonstration(request, seed=seed) for seed in range(20)}) >= 18


def test_demonstration_of_an_unknown_request_is_refused() -> None:
    with pytest.raises(DataError, match="quantum"):
        world_demonstration("Explain quantum gravity.", seed=0)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   ",
        "rice rice rice",
        "you should cook rice for ten minutes.",
        "You should cook rice for ten minutes",
        "You should cook owls for ten minutes.",
        "You should cook rice for mice.",
        "I hope this helps. Rice the of.",
    ],
)
def test_broken_responses_are_not_well_formed(response: str) -> None:
    assert not is_well_formed(response)


def test_sentences_are_read_for_what_they_say() -> None:
    claim = read_sentence("No, you should cook rice for ten minutes.")
    assert (claim.kind, claim.fact and claim.fact.id, claim.value, claim.verdict) == (
        "claim",
        "rice/time",
        "ten minutes",
        False,
    )
    kinds = [read_sentence(text).kind for text in split_sentences("Gladly! Simply eight minutes. Go away.")]
    assert kinds == ["kind", "fragment", "rude"]


def test_gold_parts_of_a_plain_right_answer() -> None:
    # A claim without support is .8 relevant; without a courteous phrase the tone counts .4.
    parts = gold_parts(RICE, RIGHT)
    assert parts == GoldParts(relevance=0.8, correctness=1.0, courtesy=0.4, concision=1.0)
    assert parts.total == pytest.approx(sum(WEIGHTS[name] * getattr(parts, name) for name in WEIGHTS))
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


def test_the_best_answer_scores_one() -> None:
    best = f"Gladly! {RIGHT} That leaves rice soft but not mushy. I hope this helps."
    assert gold_parts(RICE, best).total == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("part", "better", "worse"),
    [
        ("correctness", RIGHT, WRONG),
        ("correctness", RIGHT, f"{RIGHT} {WRONG}"),
        ("correctness", f"{RIGHT} {ASIDE}", f"{RIGHT} By the way, owls eat iron nails."),
        ("correctness", RIGHT, "Gladly!"),
        ("relevance", RIGHT, "Just eighteen minutes."),
        ("relevance", RIGHT, "You can serve rice with black beans."),
        ("relevance", "You can serve rice with black beans.", "Owls eat mice."),
        ("relevance", RIGHT, f"{RIGHT} {ASIDE}"),
        ("courtesy", f"Gladly! {RIGHT}", RIGHT),
        ("courtesy", RIGHT, f"{RIGHT} Go away."),
        ("courtesy", f"Gladly! {RIGHT} I hope this helps.", f"Gladly! {RIGHT} Go away."),
        ("concision", RIGHT, f"{RIGHT} One thing leads to another, as they say."),
        ("concision", RIGHT, f"{RIGHT} The right cooking time for rice is eighteen minutes."),
        ("concision", RIGHT, "Gladly!"),
    ],
)
def test_each_part_orders_what_it_is_about(part: str, better: str, worse: str) -> None:
    assert getattr(gold_parts(RICE, better), part) > getattr(gold_parts(RICE, worse), part)


def test_a_check_must_be_answered_in_agreement_with_itself() -> None:
    request = "Is it true that you should cook rice for two hours?"
    assert gold_parts(request, f"No, {RIGHT[0].lower()}{RIGHT[1:]}").correctness == 1.0
    assert gold_parts(request, f"Yes, {RIGHT[0].lower()}{RIGHT[1:]}").correctness == 0.5
    assert gold_parts(request, f"Yes, {WRONG[0].lower()}{WRONG[1:]}").correctness == 0.0


GOOD = f"Gladly! {RIGHT} I hope this helps."


@pytest.mark.parametrize(
    "trick",
    [
        "Gladly! Gladly!",
        "Gladly! I hope this helps.",
        f"{GOOD} {GOOD}",
        f"Gladly! {GOOD}",
        f"{GOOD} {RIGHT}",
        f"{GOOD} Have a wonderful day! Best of luck to you! Take good care of yourself.",
        f"Gladly! {RIGHT} {WRONG} You should cook rice for ten minutes. I hope this helps.",
        f"Gladly! {RIGHT} Minutes rice the the. I hope this helps.",
        "gladly rice eighteen minutes i hope this helps",
        "Gladly! " * 30,
        RIGHT * 10,
    ],
)
def test_tricks_score_below_an_honest_answer(trick: str) -> None:
    assert gold_parts(RICE, trick).total < gold_parts(RICE, GOOD).total - 0.02


@pytest.mark.parametrize("name", [*WEIGHTS, "total"])
def test_repeating_lowers_every_part_with_every_copy(name: str) -> None:
    # The answer has three sentences: with n copies of one of them, the sound share is 3 / (3 + n).
    values = [getattr(gold_parts(RICE, " ".join([GOOD, *[RIGHT] * copies])), name) for copies in range(4)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


def test_a_request_outside_the_world_has_no_right_answer() -> None:
    parts = gold_parts("What is the airspeed of a swallow?", RIGHT)
    assert parts.relevance == parts.correctness == 0.0
    assert gold_parts(RICE, "") == GoldParts(0.0, 0.0, 0.0, 0.0)


def test_demonstrations_vary_in_all_parts_and_length_tells_little() -> None:
    groups = [
        (prompt.text, [world_demonstration(prompt.text, seed) for seed in range(4)])
        for prompt in world_prompts(600, seed=8)
    ]
    for name in WEIGHTS:
        spreads = [statistics.pstdev(getattr(gold_parts(text, item), name) for item in group) for text, group in groups]
        assert statistics.mean(spreads) > 0.15, name
    verdicts = [
        (len(a.split()) > len(b.split())) == (gold_parts(text, a).total > gold_parts(text, b).total)
        for text, group in groups
        for a, b in itertools.combinations(group, 2)
        if len(a.split()) != len(b.split()) and gold_parts(text, a).total != gold_parts(text, b).total
    ]
    assert 0.4 < statistics.mean(verdicts) < 0.6


def test_world_imports_no_torch() -> None:
    code = "import rlhf.gold, rlhf.world.corpus, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
