"""Sources of the score through the command line: PPO without a reward model, evaluation by the same sum."""

import json

import pytest

from rlhf.artifacts import Artifact
from rlhf.tracking import read_metrics
from tests.pipeline.conftest import RECIPE, Shell
from tests.tiny import tiny_classifier

pytestmark = pytest.mark.slow

RULES = """
def short(prompts, completions, completion_ids, **kwargs):
    assert all(isinstance(text, str) for text in prompts + completions)
    return [-len(ids) / 10 for ids in completion_ids]
"""
SOURCES = (
    "--score.reward", "0", "--score.functions.short.function", "rules.py:short", "--score.length.weight", "0.05",
    "--score.classifiers", "{tone: {model: tone, weight: 0}}", "--score.normalisation_prompts", "8",
    "--ppo.updates", "1", "--ppo.critic_warmup_updates", "0",
)  # fmt: skip


def test_ppo_and_evaluation_score_by_the_same_sum_without_a_reward_model(copy: Shell) -> None:
    (copy.folder / "rules.py").write_text(RULES)
    tiny_classifier(copy.folder / "tone")
    copy.rlhf("ppo", str(RECIPE), *SOURCES)
    copy.rlhf("evaluate", str(RECIPE), *SOURCES)
    ppo, evaluate = (Artifact.open(copy.run / "round-1" / stage) for stage in ("ppo", "evaluate"))
    assert "reward" not in ppo.manifest.inputs.parents | evaluate.manifest.inputs.parents
    recorded = json.loads(ppo.file("score.json").read_text())["sources"]
    assert "score.json" in ppo.manifest.content
    assert ppo.facts["score_sources"] == recorded
    tone = recorded[0]
    assert (tone["name"], len(tone["weights_hash"])) == ("tone", 64)
    assert tone["std"] > 0
    numbers = read_metrics(ppo.file("metrics.jsonl"))[1]
    assert numbers["ppo/score_mean"] == pytest.approx(-0.15 * numbers["ppo/length_tokens"], abs=1e-5)
    assert numbers["ppo/score_length"] == pytest.approx(-numbers["ppo/length_tokens"], abs=1e-5)
    assert "ppo/score_tone" in numbers
    for policy in json.loads(evaluate.file("evaluation.json").read_text())["policies"].values():
        assert policy["score"]["value"] == pytest.approx(-0.15 * policy["length_tokens"]["value"], abs=1e-5)

    (copy.folder / "rules.py").write_text(RULES.replace("/ 10", "/ 20"))
    told = copy.rlhf("run", str(RECIPE), *SOURCES, "--dry-run").stderr
    assert "ppo        would run: file rules.py changed" in told
    refused = copy.rlhf("evaluate", str(RECIPE), *SOURCES, check=False)
    assert refused.returncode == 1
    assert "trained on other score sources than the recipe names now (short changed)" in refused.stderr
    assert "Traceback" not in refused.stderr
