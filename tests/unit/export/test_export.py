"""What leaves the house loads elsewhere, and the check notices when it does not."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf.config.reporting import ExportConfig
from rlhf.errors import ArtifactError
from rlhf.export.adapter import base_name
from rlhf.export.expectations import run_verification
from rlhf.export.folder import export_policy
from rlhf.export.merged import why_not_merged
from rlhf.export.verify import answer_all, first_difference, verify
from rlhf.hashing import hash_file
from rlhf.provenance import trace
from tests.tiny import shake, tiny_base, tiny_model, tiny_shared

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
PROMPTS = [f"the dog ran to house {number}" for number in range(4)]
CHAIN = [{"stage": "ppo", "identity": "0123456789abcdef0123", "round": 1, "imported": None}]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    shared = tiny_shared(folder, scale=4.0)
    shake(shared, "policy", std=0.2)
    shared.save_role("policy", folder / "policy")
    verification = export_policy(
        shared,
        tiny_base(folder).text,
        tiny_base(folder).spec,
        folder / "export",
        policy=folder / "policy",
        base_source=folder / "base",
        prompts=PROMPTS,
        config=ExportConfig(verify_prompts=2),
        annotators="scripted",
        evaluation=None,
        chain=CHAIN,
    )
    return folder, verification


@pytest.fixture
def export(workshop, tmp_path):
    return shutil.copytree(workshop[0] / "export", tmp_path / "export")


def test_a_fresh_process_reproduces_adapter_and_merged_model(workshop):
    _, verification = workshop
    assert verification["passed"]
    for part in ("adapter", "merged"):
        assert verification[part]["max_logit_difference"] <= 1e-4
        assert verification[part]["greedy_identical"] == verification[part]["prompts"] == 2


def test_the_adapter_is_the_policys_byte_for_byte_and_names_its_base(workshop):
    folder, _ = workshop
    weights = "adapter_model.safetensors"
    assert hash_file(folder / "export/adapter" / weights) == hash_file(folder / "policy" / weights)
    settings = json.loads((folder / "export/adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "base"
    assert (folder / "export/base/model.safetensors").is_file()
    assert not (folder / "export/base/base.json").exists()


def test_generation_config_names_every_end_token(workshop):
    folder, _ = workshop
    ends = tiny_base(folder).text.end_token_ids
    for part in ("adapter", "merged"):
        found = json.loads((folder / "export" / part / "generation_config.json").read_text())["eos_token_id"]
        assert (tuple(found) if isinstance(found, list) else (found,)) == ends


def test_no_file_names_a_folder_of_this_machine(workshop):
    folder, _ = workshop
    for path in (folder / "export").rglob("*"):
        if path.suffix in (".json", ".md", ".jinja"):
            assert str(folder) not in path.read_text(), path.name


def test_an_exported_file_can_be_traced_and_a_changed_one_is_noticed(export):
    assert trace(export / "adapter" / "adapter_model.safetensors") == CHAIN
    (export / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="changed"):
        trace(export / "adapter" / "adapter_config.json")


def test_a_changed_adapter_fails_the_check(export):
    path = export / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: tensor * 1.1 for name, tensor in weights.items()}, path, metadata={"format": "pt"})
    found = verify(export)
    assert not found["passed"]
    assert not found["adapter"]["passed"]
    assert found["merged"]["passed"]


def test_a_merged_model_without_the_adapter_fails_the_check(export):
    shutil.copyfile(export / "base" / "model.safetensors", export / "merged" / "model.safetensors")
    found = verify(export)
    assert found["adapter"]["passed"]
    assert not found["merged"]["passed"]


def test_a_near_tie_is_no_failure_and_another_token_is_one(export):
    plan_file = export / "verification" / "plan.json"
    plan = json.loads(plan_file.read_text())
    shutil.rmtree(export / "merged")
    row = plan["prompts"][0]
    row["response_ids"] = [*row["response_ids"][:-1], (row["response_ids"][-1] + 1) % 250 + 1]
    plan_file.write_text(json.dumps(plan))
    assert not verify(export)["adapter"]["passed"]
    row["margins"][-1] = 0.0
    plan_file.write_text(json.dumps(plan))
    found = verify(export)["adapter"]
    assert (found["passed"], found["near_ties"]) == (True, 1)


def test_a_failing_check_stops_the_export_with_the_numbers(tmp_path):
    part = {"passed": False, "max_logit_difference": 0.5, "tolerance": 1e-4, "greedy_identical": 1, "prompts": 3}
    result = json.dumps({"passed": False, "adapter": part, "merged": None})
    (tmp_path / "verify.py").write_text(f"import sys\nsys.stdout.write({result!r})\nsys.exit(1)\n")
    with pytest.raises(ArtifactError, match=r"adapter: logits differ by up to 0.5 .* 1 of 3 greedy"):
        run_verification(tmp_path)


def test_a_check_that_breaks_down_is_no_passed_one(tmp_path):
    (tmp_path / "verify.py").write_text("raise SystemExit('no such base')\n")
    with pytest.raises(ArtifactError, match="no such base"):
        run_verification(tmp_path)


def test_four_bit_bases_are_not_merged_and_local_bases_are_named_without_their_folder(workshop):
    spec = tiny_base(workshop[0]).spec
    assert why_not_merged(spec) is None
    assert "4-bit" in (why_not_merged(replace(spec, quantization="4bit")) or "")
    assert base_name(replace(spec, kind="hub", model="org/model")) == "org/model"
    assert base_name(replace(spec, kind="local", model="/home/ann/llama")) == "llama"


def test_answers_given_together_are_those_given_alone():
    model = tiny_model(40, scale=5.0, seed=1).eval()
    drawn = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 40, (length,), generator=drawn).tolist() for length in (2, 9, 4, 12, 7)]
    plan = {"prompts": [{"prompt_ids": ids} for ids in prompts], "max_new_tokens": 12, "pad_token_id": 0}
    longest = answer_all(model, plan | {"end_token_ids": [99]})
    plan["end_token_ids"] = [longest[0][3], longest[1][6]]  # some answers end where these come, others do not
    alone = [answer_all(model, plan | {"prompts": [row]})[0] for row in plan["prompts"]]
    assert answer_all(model, plan) == alone
    assert len({len(answer) for answer in alone}) > 1
    for answer, uncut in zip(alone, longest, strict=True):
        assert answer == uncut[: len(answer)]
        assert (answer[-1] in plan["end_token_ids"]) == (len(answer) < len(uncut))


def test_first_difference():
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 3], [1, 2]) == 1
    assert first_difference([1], [1, 2]) == 1


def test_expected_logits_are_those_of_the_policy_and_not_of_the_base(export):
    expected = load_file(export / "verification" / "expectations.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in expected.values())
    path = export / "adapter" / "adapter_model.safetensors"
    save_file(
        {name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"}
    )
    assert verify(export)["adapter"]["max_logit_difference"] > 0.1
