"""The shape of the world's knowledge: families of topics that share attributes, and the facts these make."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """One thing that can be asked about every topic of a family, with all its wordings.

    `{t}` stands for the topic and `{v}` for the value. Wordings are clauses without capital or full stop.

    Attributes:
        name: Short name, unique in the family.
        direct: Questions ("how long should I cook {t}").
        indirect: The same as a subordinate clause ("how long to cook {t}").
        claims: Statements that answer it.
        supports: Sentences that back an answer up without naming a value.
        myths: Values that are right for no topic, yet often heard.
        right: The right value of each topic.
    """

    name: str
    direct: tuple[str, ...]
    indirect: tuple[str, ...]
    claims: tuple[str, ...]
    supports: tuple[str, ...]
    myths: tuple[str, ...]
    right: Mapping[str, str]

    @property
    def values(self) -> tuple[str, ...]:
        """Return all values that an answer may name: the right ones, then the myths."""
        return (*self.right.values(), *self.myths)


@dataclass(frozen=True)
class Family:
    """Topics of one kind; `thanks` are courteous closings that suit only them."""

    name: str
    attributes: tuple[Attribute, ...]
    thanks: tuple[str, ...]

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the topics in order."""
        return tuple(self.attributes[0].right)


@dataclass(frozen=True)
class Fact:
    """An attribute of a topic: its right value, and the wrong ones that people believe."""

    id: str
    family: str
    topic: str
    attribute: Attribute
    right: str
    wrong: tuple[str, ...]


def facts_of(family: Family) -> list[Fact]:
    """List a family's facts.

    Wrong values are one that is right for the next topic and one myth, so that some errors can be known from the
    value alone and others only from the topic.
    """
    facts = []
    for attribute in family.attributes:
        topics = list(attribute.right)
        for index, topic in enumerate(topics):
            neighbour = attribute.right[topics[(index + 1) % len(topics)]]
            myth = attribute.myths[index % len(attribute.myths)]
            facts.append(
                Fact(
                    id=f"{topic}/{attribute.name}",
                    family=family.name,
                    topic=topic,
                    attribute=attribute,
                    right=attribute.right[topic],
                    wrong=(neighbour, myth),
                )
            )
    return facts
