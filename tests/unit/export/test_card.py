"""The model card says plainly who judged, what it rests on, and how to load it."""

import ast
import re

import pytest
import yaml

from rlhf.export.card import CardFacts, build_card
from rlhf.models.base import BaseSpec

SPEC = BaseSpec(
    kind="hub",
    model="org/model",
    revision="abc123",
    weights_hash="w" * 64,
    tokenizer_hash="t" * 64,
    prompt_format_hash="f" * 64,
    prompt_format="chat",
    end_token_ids=[2, 7],
    context_length=128,
    parameters=1000,
    architecture="LlamaForCausalLM",
    quantization="none",
    trust_remote_code=False,
)
CHAIN = [{"stage": "pairs", "identity": "9" * 64, "round": 1, "imported": "pairs|x.jsonl"}]


def card(**changes) -> str:
    facts = {"name": "demo", "spec": SPEC, "adapter_hash": "a" * 64, "lora": {"r": 8, "lora_alpha": 16.0}}
    return build_card(CardFacts(**facts | changes))


def test_front_matter_is_yaml_that_the_hub_reads():
    matter = yaml.safe_load(card().split("---")[1])
    assert matter["base_model"] == "org/model"
    assert matter["library_name"] == "peft"


@pytest.mark.parametrize(
    ("annotators", "words"),
    [("scripted", "by a program, not by people"), ("human", "by people"), (None, "not recorded")],
)
def test_it_says_who_judged(annotators, words):
    assert words in card(annotators=annotators)


@pytest.mark.parametrize("prompt_format", ["chat", "plain"])
def test_the_code_to_load_it_is_python(prompt_format):
    from dataclasses import replace

    code = re.search(r"```python\n(.*?)```", card(spec=replace(SPEC, prompt_format=prompt_format)), re.DOTALL)
    assert code is not None
    ast.parse(code.group(1))
    assert 'revision="abc123"' in code.group(1)


def test_hashes_end_tokens_and_chain_are_there():
    text = card(chain=CHAIN)
    assert all(letter * 64 in text for letter in "wtfa")
    assert "token 2 or 7" in text
    assert "pairs\\|x.jsonl" in text


def test_an_ancestor_that_was_removed_is_called_so():
    text = card(chain=[*CHAIN, {"stage": "unknown", "identity": "8" * 64, "missing": True}])
    assert f"| unknown | `{'8' * 16}` | ? | no longer in the run |" in text


def test_a_name_cannot_break_out_of_its_heading():
    heading = next(line for line in card(name="x\n# y <b> `z`").splitlines() if line.startswith("# "))
    assert heading == "# x # y &lt;b> 'z'"
