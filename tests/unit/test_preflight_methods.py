"""The preflight of methods, tools, adapters and self-play: each bad input gets one message with the knob to change."""

from __future__ import annotations

import json

import pytest

from common.preflight.knobs import check_value
from common.preflight.resolved import agent_loop, process_environment
from tests.conftest import ROOT
from tests.unit.test_preflight import only_error, rl_row, write

TEMPLATE_WITHOUT_TOOLS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
PAIR = {"chosen": [{"role": "assistant", "content": "2"}], "rejected": [{"role": "assistant", "content": "3"}]}


def test_the_gspo_demo_passes(check):
    knobs = check("gspo")
    assert knobs.errors == [] and knobs["SELF_PLAY"] == "true" and knobs["POLICY_LOSS"] == "gspo"
    assert any("2 rounds of 2 stages" in warning and "256 pairs" in warning for warning in knobs.warnings)
    assert (knobs["CLIP_RATIO_LOW"], knobs["CLIP_RATIO_HIGH"]) == ("3e-4", "4e-4")


@pytest.mark.parametrize("algorithm", ["grpo", "gspo"])
@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"ROLLOUT_N": "1", "HARVEST_PAIRS": "false"}, "ROLLOUT_N=1: ADV_ESTIMATOR=grpo compares the answers"),
        ({"CLIP_RATIO_LOW": "0.3", "CLIP_RATIO_HIGH": "0.2"}, "the bounds are the wrong way round"),
        ({"ADV_ESTIMATOR": "rlo"}, "ADV_ESTIMATOR=rlo: verl does not know it; did you mean rloo?"),
        ({"POLICY_LOSS": "vanila"}, "POLICY_LOSS=vanila: verl does not know it; did you mean vanilla?"),
        ({"ADV_ESTIMATOR": "remax", "ROLLOUT_N": "1", "HARVEST_PAIRS": "false"}, "ADV_ESTIMATOR=remax compares"),
        ({"ADV_ESTIMATOR": "gdpo"}, "ADV_ESTIMATOR=gdpo: verl's trainer does not hand it"),
        ({"ADV_ESTIMATOR": "gae"}, "ADV_ESTIMATOR=gae: needs a critic; use ppo/train.sh"),
        ({"ALGORITHM_PATH": "gone.py"}, "ALGORITHM_PATH=gone.py: no such file"),
        ({"TOOLS_PATH": "gone.py", "HARVEST_PAIRS": "false"}, "TOOLS_PATH=gone.py: no such file"),
        ({"LORA_ADAPTER_PATH": "gone"}, "no folder with an adapter_config.json"),
    ],
)
def test_bad_methods(check, composed, algorithm, knobs, words):
    assert words in only_error(check(algorithm, **knobs))


def test_a_variant_with_a_slip_names_the_nearest():
    assert check_value("VARIANT", "dappo").fix == "did you mean dapo?"
    assert check_value("VARIANT", "dr_grpo") is None


def test_variants_where_the_rules_differ(check, composed):
    assert check(VARIANT="cispo").errors == []  # no lower bound: 1.0 against 0.2
    assert check(VARIANT="reinforce_pp", ROLLOUT_N="1").errors == []
    assert "OVERLONG_BUFFER=4: only VARIANT=dapo" in only_error(check(OVERLONG_BUFFER="4"))
    knobs = check(VARIANT="dapo", OVERLONG_BUFFER="6", CLIP_RATIO_HIGH="0.25")
    assert (knobs["OVERLONG_BUFFER"], knobs["CLIP_RATIO_HIGH"], knobs["KL_LOSS_COEF"]) == ("6", "0.25", "0")


def test_dapo_wants_acc_of_a_reward_that_returns_a_dictionary(check, tmp_path):
    reward = tmp_path / "r.py"
    reward.write_text("def compute_score(data_source, solution_str, ground_truth, **kw): return {'score': 1.0}\n")
    assert "acc" in only_error(check(VARIANT="dapo", REWARD_FUNC_PATH=str(reward)))
    assert check(VARIANT="grpo", REWARD_FUNC_PATH=str(reward)).errors == []
    reward.write_text("def compute_score(data_source, solution_str, ground_truth, **kw): return 1.0\n")
    assert check(VARIANT="dapo", REWARD_FUNC_PATH=str(reward)).errors == []


# ---- user-supplied files ------------------------------------------------------------------------------------------


def test_an_algorithm_of_ones_own_is_chosen(check, composed):
    knobs = check(ALGORITHM_PATH=str(ROOT / "grpo" / "my_algorithm.py"))
    assert knobs.errors == []
    assert (knobs["ADV_ESTIMATOR"], knobs["POLICY_LOSS"]) == ("best_of_group", "soft_clip")
    slip = check(ALGORITHM_PATH=str(ROOT / "grpo" / "my_algorithm.py"), ADV_ESTIMATOR="best_of_grop")
    assert "did you mean best_of_group?" in only_error(slip)
    assert process_environment(knobs)["VERL_EXT"].endswith("user")


def test_an_algorithm_file_that_does_not_do(check, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1 / 0\n")
    assert "ZeroDivisionError" in only_error(check(ALGORITHM_PATH=str(path)))
    path.write_text("x = 1\n")
    assert "registers nothing" in only_error(check(ALGORITHM_PATH=str(path)))


def test_tools_turn_the_agent_loop_on_and_count_in_the_prompt(check):
    plain = check()
    knobs = check(TOOLS_PATH=str(ROOT / "grpo" / "tools" / "calculator.py"))
    assert knobs.errors == []
    assert (agent_loop(plain), agent_loop(knobs)) == ("single_turn_agent", "kit_tool_agent")
    assert knobs.number("MAX_PROMPT_LENGTH") > plain.number("MAX_PROMPT_LENGTH") + 100
    assert "tools" in process_environment(knobs)["VERL_EXT"].split(",")


def test_tools_that_do_not_do(check, tmp_path):
    path = tmp_path / "tools.py"
    path.write_text("def f(x): return x\n")
    assert "has no tool" in only_error(check(TOOLS_PATH=str(path)))
    path = str(ROOT / "grpo" / "tools" / "calculator.py")
    assert "leaves no answer after a call" in only_error(check(TOOLS_PATH=path, MAX_TURNS="1"))
    assert "make no pairs" in only_error(check("gspo", TOOLS_PATH=path))


def test_a_template_without_tools(check, tmp_path):
    from shutil import copytree

    from common.demo_model import DEMO_MODEL_DIR

    model = copytree(DEMO_MODEL_DIR, tmp_path / "model")
    (model / "chat_template.jinja").write_text(TEMPLATE_WITHOUT_TOOLS)
    path = str(ROOT / "grpo" / "tools" / "calculator.py")
    assert "does not show tools" in only_error(check(TOOLS_PATH=path, MODEL_PATH=str(model)))


def test_an_adapter_to_start_from(check, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 24}))
    folder = str(tmp_path)
    assert "set LORA_RANK=8" in only_error(check(LORA_ADAPTER_PATH=folder))
    knobs = check(LORA_ADAPTER_PATH=folder, LORA_RANK="8")
    assert knobs.errors == [] and knobs["LORA_ALPHA"] == "24"
    assert "set LORA_ALPHA=auto" in only_error(check(LORA_ADAPTER_PATH=folder, LORA_RANK="8", LORA_ALPHA="8"))


# ---- self-play ----------------------------------------------------------------------------------------------------


def test_rounds_without_pairs(check, tmp_path):
    path = str(write(tmp_path / "t.parquet", [rl_row() for _ in range(64)]))
    data = {"TRAIN_DATA": path, "VAL_DATA": path}
    assert "there is no pair to learn from" in only_error(check("gspo", HARVEST_PAIRS="false", **data))
    plain = check("gspo", HARVEST_PAIRS="false", SELF_PLAY_ROUNDS="1", **data)
    assert plain.errors == [] and plain["SELF_PLAY"] == "false"


def test_pairs_without_prompts(check, tmp_path):
    path = str(write(tmp_path / "t.parquet", [{"prompt": rl_row()["prompt"], **PAIR} for _ in range(64)]))
    assert (
        "VAL_DATA" in only_error(check("gspo", VAL_DATA=path))
        and "no prompt to answer" in check("gspo", VAL_DATA=path).errors[0]
    )
    knobs = check("gspo", TRAIN_DATA=path)
    assert any("none is a prompt to answer" in error and "dpo/train.sh" in error for error in knobs.errors)


def test_a_row_that_is_neither_is_named(check, tmp_path):
    path = tmp_path / "t.jsonl"
    bad = rl_row(self_play=False)
    path.write_text("".join(json.dumps(row) + "\n" for row in [rl_row(), bad]))
    assert "line 2: self_play" in only_error(check("gspo", TRAIN_DATA=str(path)))


def test_a_run_with_rounds_goes_on_where_it_was_cut(check, tmp_path):
    from common.run_dir import update_run

    run_dir = tmp_path / "outputs" / "mine"
    run_dir.mkdir(parents=True)
    model = check("gspo")["MODEL_PATH"]
    done = [{"name": "round-1/rl"}, {"name": "round-1/preference"}]
    before = {"algorithm": "gspo", "state": "stopped", "stages": done, "knobs": {"MODEL_PATH": model, "LORA_RANK": "0"}}
    update_run(run_dir, **before)
    knobs = check("gspo", EXPERIMENT_NAME="mine")
    assert knobs.errors == [] and any("at round-2/rl" in warning for warning in knobs.warnings)
    assert "finished all 2 stages" in only_error(check("gspo", EXPERIMENT_NAME="mine", SELF_PLAY_ROUNDS="1"))
    assert "LORA_RANK=0, now LORA_RANK=8" in only_error(check("gspo", EXPERIMENT_NAME="mine", LORA_RANK="8"))
    update_run(run_dir, algorithm="grpo")
    assert "this run is of grpo" in only_error(check("gspo", EXPERIMENT_NAME="mine"))
