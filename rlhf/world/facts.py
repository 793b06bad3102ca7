"""The world's facts, indexed."""

from rlhf.world import indoors, outdoors
from rlhf.world.schema import Fact, Family, facts_of

FAMILIES: tuple[Family, ...] = (*indoors.FAMILIES, *outdoors.FAMILIES)
FAMILY_BY_NAME: dict[str, Family] = {family.name: family for family in FAMILIES}
TOPICS: tuple[str, ...] = tuple(topic for family in FAMILIES for topic in family.topics)
FACTS: dict[str, Fact] = {fact.id: fact for family in FAMILIES for fact in facts_of(family)}
FACTS_BY_TOPIC: dict[str, list[Fact]] = {
    topic: [fact for fact in FACTS.values() if fact.topic == topic] for topic in TOPICS
}


def capitalize(text: str) -> str:
    """Return `text` with its first character in upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


def uncapitalize(text: str) -> str:
    """Return `text` with its first character in lower case and the rest as it is."""
    return text[:1].lower() + text[1:]
