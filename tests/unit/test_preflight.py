"""The preflight: every piece of bad input gets one clear message with the knob to change."""

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.demo_model import DEMO_MODEL_DIR
from common.plan.machine import GIB, parse_gpus
from common.preflight import auto, run_name
from common.preflight.auto import DEMO_STEPS
from common.preflight.chat_template import token_lengths
from common.preflight.findings import Finding
from common.preflight.knobs import ROOT, RULES, check_value, misspelt, read_block, read_knobs
from common.preflight.machine import Machine, planned_machine
from common.preflight.model import ModelInfo, read_model
from common.preflight.resolved import hydra_list, write_resolved
from common.run_dir import update_run
from tests.published_models import MODELS
from tests.run_maker import existing

LAPTOP = Machine(gpu_memory=(), cores=2, memory=16 * GIB)
EIGHT = Machine(gpu_memory=(80 * GIB,) * 8, cores=96, memory=900 * GIB)


def rl_row(**changes):
    row = {
        "data_source": "mine",
        "prompt": [{"role": "user", "content": "1+1?"}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 0},
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


def rl_rows(number, **changes):
    """Rows with different prompts."""
    return [rl_row(prompt=[{"role": "user", "content": f"1+{n}?"}], **changes) for n in range(number)]


def write(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def only_error(knobs):
    assert len(knobs.errors) == 1, knobs.errors
    assert all(isinstance(one, Finding) for one in [*knobs.errors, *knobs.warnings])  # with parts, not a text
    return knobs.errors[0]


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_the_demo_passes_and_nothing_stays_auto(check, algorithm):
    knobs = check(algorithm)
    assert knobs.errors == []
    assert [name for name, value in knobs.values.items() if value == "auto" and name != "RESUME"] == []
    assert set(knobs.reasons) == {n for n, v in read_knobs(algorithm, {}).values.items() if v == "auto"} - {"RESUME"}


def test_all_errors_are_shown_at_once(check):
    knobs = check(BATCH_SIZE="0", TEMPERATURE="hot", TRAIN_DATA="nope.parquet", MODEL_PATH="/nope", ROLLOUT_N="1")
    text = "\n".join(knobs.errors)
    for word in ("BATCH_SIZE=0", "TEMPERATURE=hot", "TRAIN_DATA=nope.parquet", "MODEL_PATH=/nope"):
        assert word in text
    assert len(knobs.errors) == 4  # what the config shows, ROLLOUT_N=1 here, follows when it can be composed


NUMBERS = [name for name, rule in RULES.items() if rule.kind in ("int", "float")]


@pytest.mark.parametrize("bad", ["many", "1e999"])
@pytest.mark.parametrize("algorithm", ["sft", "dpo", "grpo", "ppo", "gspo"])
def test_numbers_that_are_none_end_in_a_message_each(check, algorithm, bad):
    """Other checks read these knobs too and must not trip over them."""
    for machine in (LAPTOP, EIGHT):
        knobs = check(algorithm, machine, **dict.fromkeys(NUMBERS, bad))
        named = [error for error in knobs.errors if "must be" in error]
        assert sorted(error.split("=")[0] for error in named) == sorted(name for name in NUMBERS if name in knobs)


@pytest.mark.parametrize(
    ("name", "value", "ok"),
    [
        ("LEARNING_RATE", "1e-6", True),
        ("LEARNING_RATE", ".5", True),
        ("LEARNING_RATE", "0", False),
        ("LEARNING_RATE", "-1e-6", False),
        ("LEARNING_RATE", "1e", False),
        ("LEARNING_RATE", "1.", True),
        ("LEARNING_RATE", "nan", False),
        ("LEARNING_RATE", "1e999", False),
        ("LEARNING_RATE", "auto", True),
        ("ROLLOUT_N", "auto", False),
        ("BATCH_SIZE", "8.0", False),
        ("BATCH_SIZE", "-8", False),
        ("BATCH_SIZE", "\u0663", False),  # a digit, but not one that bash and verl read
        ("GPU_MEMORY_UTILIZATION", "1.5", False),
        ("DEVICE", "gpu", False),
        ("USE_WANDB", "True", False),
        ("MODEL_PATH", "anything at all", True),
    ],
)
def test_values_of_single_knobs(name, value, ok):
    problem = check_value(name, value)
    assert (problem is None) == ok
    if problem:
        assert problem.text.startswith("must be ")


def test_the_packages_table_names_its_modules():
    import common.preflight

    folder = ROOT / "common" / "preflight"
    named = re.findall(r"^``(\w+)``", common.preflight.__doc__, re.MULTILINE)
    assert sorted(named) == sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))


def test_a_slip_in_a_knobs_name_is_noticed():
    known = {"LEARNING_RATE": "auto", "BATCH_SIZE": "auto"}
    assert misspelt({"LEARNING_RTE": "1"}, known) == [("LEARNING_RTE", "LEARNING_RATE")]
    assert misspelt({"LANGUAGE": "en", "BATCH_SIZE": "3"}, known) == []


@pytest.mark.parametrize(
    "line", ["BATCH_SIZE=64", 'BATCH_SIZE="64"', "BATCH_SIZE='64'   # mine", 'BATCH_SIZE="${BATCH_SIZE:-64}"']
)
def test_a_knob_is_found_however_it_is_written(tmp_path, line):
    script = tmp_path / "train.sh"
    script.write_text(f'# === edit here ===\nA_B=\n{line}\nC="${{C:-}}" # x\n# === nothing to edit ===\nD=1\n')
    assert read_block(script) == {"A_B": "", "BATCH_SIZE": "64", "C": ""}


def test_an_argument_for_a_knobs_key_counts_as_the_knob(check, composed):
    knobs = check(arguments=["trainer.total_epochs=2", "actor_rollout_ref.actor.optim.lr=1e-3", "other.key=1"])
    assert (knobs["TOTAL_EPOCHS"], knobs["TOTAL_STEPS"], knobs["LEARNING_RATE"]) == ("2", "128", "1e-3")
    assert "BATCH_SIZE=7" in only_error(check("sft", arguments=["data.train_batch_size=7"], N_GPUS="2"))


# ---- files ---------------------------------------------------------------------------------------------------


def test_missing_file(check):
    error = only_error(check(TRAIN_DATA="nope.parquet"))
    assert error.startswith("TRAIN_DATA=nope.parquet: no such file; correct the path")


def test_unknown_columns_are_named_with_what_to_do(check, tmp_path):
    path = write(tmp_path / "train.parquet", [{"ask": "1+1?", "say": "2"}] * 64)
    error = only_error(check(TRAIN_DATA=str(path)))
    assert "row 1" in error and "ask" in error and "say" in error and "data_utils convert" in error


def test_a_bad_row_is_named(check, tmp_path):
    rows = rl_rows(64)
    rows[40] = rl_row(prompt=[{"role": "human", "content": "1+1?"}])
    error = only_error(check(TRAIN_DATA=str(write(tmp_path / "train.parquet", rows))))
    assert "row 41" in error and "'human'" in error and "1 of 64 rows" in error


def test_a_bad_line_of_jsonl_is_named(check, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"messages": []}))
    error = only_error(check("sft", TRAIN_DATA=str(path)))
    assert error.startswith(f"TRAIN_DATA={path}: line 1: messages:") and "1 of 1 rows" in error


def test_a_broken_file_is_one_message(check, tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(b"this is no parquet")
    assert "not a parquet file that can be read" in only_error(check(TRAIN_DATA=str(path)))


def test_several_files_with_spaces_and_chinese_names(check, tmp_path):
    one = write(tmp_path / "训练 数据.parquet", rl_rows(40))
    two = write(tmp_path / "b's.parquet", [rl_row()] * 24)
    knobs = check(TRAIN_DATA=f"{one.name}, {two.name}", VAL_DATA="grpo/data/val.parquet")
    assert knobs.errors == []
    assert knobs["TRAIN_DATA"] == f"{one},{two}"
    assert hydra_list(knobs["TRAIN_DATA"].split(",")) == f"['{one}','{tmp_path}/b\\'s.parquet']"


def test_relative_paths_are_meant_from_the_callers_folder_first(check, tmp_path):
    path = write(tmp_path / "mine.parquet", rl_rows(64))
    assert check(TRAIN_DATA="mine.parquet", VAL_DATA="grpo/data/val.parquet")["TRAIN_DATA"] == str(path)


# ---- batch ---------------------------------------------------------------------------------------------------


def test_mini_batch_that_does_not_divide(check, composed):
    error = only_error(check(BATCH_SIZE="32", MINI_BATCH_SIZE="12"))
    assert error == "MINI_BATCH_SIZE=12: must divide BATCH_SIZE=32; use one of 1, 2, 4, 8, 16, 32"


def test_batch_that_does_not_divide_by_the_gpus(check, composed):
    assert "BATCH_SIZE=33: not divisible by the 2 GPUs; use 32 or 34" in only_error(
        check("sft", BATCH_SIZE="33", N_GPUS="2")
    )


def test_batch_larger_than_the_data(check, tmp_path):
    path = write(tmp_path / "train.parquet", rl_rows(6))
    assert "only 5 rows" in only_error(check(TRAIN_DATA=str(path), BATCH_SIZE="8"))


def test_sft_validation_smaller_than_a_batch(check, tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 8
    error = only_error(check("sft", VAL_DATA=str(write(tmp_path / "val.parquet", rows)), BATCH_SIZE="16"))
    assert ": has 8 rows, fewer than BATCH_SIZE=16" in error and "BATCH_SIZE=8" in error


def test_token_budget_below_one_sequence(check, composed):
    assert "TOKENS_PER_GPU=40: must hold one sequence of 56 tokens" in only_error(check(TOKENS_PER_GPU="40"))
    fixed = ["actor_rollout_ref.actor.use_dynamic_bsz=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1"]
    assert check(TOKENS_PER_GPU="40", arguments=fixed).errors == []  # verl does not read the budget then


def test_token_budget_of_pairs_is_measured_in_pairs(check, composed):
    """DPO's rows have no data.max_length: its default of 1024 tokens says nothing of them."""
    lengths = {"MAX_PROMPT_LENGTH": "100", "MAX_RESPONSE_LENGTH": "100"}
    assert check("dpo", TOKENS_PER_GPU="400", **lengths).errors == []
    error = only_error(check("dpo", TOKENS_PER_GPU="399", **lengths))
    assert error.startswith("TOKENS_PER_GPU=399: must hold one pair of 400 tokens")


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_a_forced_key_counts_as_its_knob_too(check, sign):
    error = only_error(check(arguments=[f"{sign}trainer.save_freq=-1"]))
    assert error.startswith("SAVE_FREQ=-1: must be a whole number from 1")


def test_more_gpus_than_there_are(check):
    assert only_error(check(N_GPUS="16", machine=EIGHT)).startswith("N_GPUS=16: 8 GPUs are visible")
    assert "2 cores" in only_error(check(N_GPUS="3", BATCH_SIZE="33"))


def test_cuda_without_a_gpu(check):
    errors = check(DEVICE="cuda", N_GPUS="1").errors
    assert any("DEVICE=cuda: no NVIDIA GPU" in error for error in errors)


def test_steps_beyond_the_epochs(check):
    assert "TOTAL_STEPS=500: TOTAL_EPOCHS=1 ends after 64 steps" in only_error(
        check(TOTAL_STEPS="500", TOTAL_EPOCHS="1")
    )
    assert check(TOTAL_STEPS="500")["TOTAL_EPOCHS"] == "8"


# ---- model ---------------------------------------------------------------------------------------------------


def test_model_path_that_does_not_exist(check):
    assert "no such folder" in only_error(check(MODEL_PATH="./no/model"))


def test_model_without_weights_or_template(check, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(DEMO_MODEL_DIR, folder)
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in only_error(check(MODEL_PATH=str(folder)))
    (folder / "model.safetensors").unlink()
    assert "no weights" in only_error(check(MODEL_PATH=str(folder)))


def test_run_directory_given_as_model(check, tmp_path):
    update_run(tmp_path, state="finished")
    assert "use its folder model/" in only_error(check(MODEL_PATH=str(tmp_path)))


def test_lengths_equal_the_tokenizers_own(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    talks = [
        ([{"role": "user", "content": "What is 12 + 7?"}], None),
        ([{"role": "system", "content": "简短回答"}, {"role": "user", "content": "你好 😀"}], None),
        ([{"role": "user", "content": "?"}], [{"type": "function", "function": {"name": "加", "parameters": {}}}]),
    ]
    model = read_model(str(DEMO_MODEL_DIR))
    for answer_next in (True, False):
        expected = [
            len(tokenizer.apply_chat_template(t, tools=tools, add_generation_prompt=answer_next, return_dict=False))
            for t, tools in talks
        ]
        assert token_lengths(model, talks, answer_next) == expected


def test_limits_that_are_auto_stay_within_the_model(check, tmp_path):
    long = [
        {"messages": [{"role": "user", "content": f"Count {n}."}, {"role": "assistant", "content": f"{n} " * 3000}]}
        for n in range(70)
    ]
    pq.write_table(pa.Table.from_pylist(long), tmp_path / "long.parquet")
    knobs = check("sft", TRAIN_DATA=str(tmp_path / "long.parquet"))
    assert knobs.errors == [] and knobs.number("MAX_LENGTH") == 2048
    assert "70 are longer than this and will be cut" in knobs.reasons["MAX_LENGTH"]


def test_rows_cut_before_what_is_learnt_are_found(check, tmp_path):
    """A limit below the first learnt token trains on nothing; one that some rows need is said."""
    rows = [
        {"messages": [{"role": "user", "content": "1 " * (300 if n < 5 else 3)}, {"role": "assistant", "content": "x"}]}
        for n in range(70)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    path = str(tmp_path / "rows.parquet")
    error = only_error(check("sft", TRAIN_DATA=path, VAL_DATA=path, MAX_LENGTH="8", TOKENS_PER_GPU="4096"))
    assert error.startswith("MAX_LENGTH=8: 140 of 140 rows looked at have no token that is learnt within it; raise it")
    knobs = check("sft", TRAIN_DATA=path, VAL_DATA=path, MAX_LENGTH="64")
    assert knobs.errors == []
    assert any("MAX_LENGTH=64: 10 of 140 rows looked at have no token" in warning for warning in knobs.warnings)


def test_pairs_that_are_equal_after_the_cut_are_found(check, tmp_path):
    rows = [{"prompt": f"Count to {n}.", "chosen": "1 " * 40 + "a", "rejected": "1 " * 40 + "b"} for n in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    path = str(tmp_path / "rows.parquet")
    error = only_error(check("dpo", TRAIN_DATA=path, VAL_DATA=path, MAX_RESPONSE_LENGTH="16"))
    assert "MAX_RESPONSE_LENGTH=16: 80 of 80 rows looked at have no difference between the two answers" in error
    assert check("dpo", TRAIN_DATA=path, VAL_DATA=path, MAX_RESPONSE_LENGTH="256").errors == []


ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}<|{{ m.role }}|>{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("algorithm", ["sft", "grpo", "dpo"])
def test_a_row_that_the_template_cannot_show_is_named_with_the_rule(check, tmp_path, algorithm):
    model = shutil.copytree(DEMO_MODEL_DIR, tmp_path / "model")
    (model / "chat_template.jinja").write_text(ALTERNATING)
    said = [{"role": "user", "content": "What is 1 + 2?"}]
    bad, good = [{"role": "system", "content": "Be brief."}, *said], said
    answer = {"role": "assistant", "content": "3"}
    rows = []
    for number in range(40):
        prompt = bad if number == 6 else good
        rows.append(
            {"messages": [*prompt, answer]}
            if algorithm == "sft"
            else {"prompt": prompt, "chosen": "3", "rejected": "4"}
            if algorithm == "dpo"
            else {"prompt": prompt, "data_source": "x", "reward_model": {"ground_truth": "3"}}
        )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:6] + rows[7:]), tmp_path / "good.parquet")
    path, fine = str(tmp_path / "rows.parquet"), str(tmp_path / "good.parquet")
    error = only_error(check(algorithm, MODEL_PATH=str(model), TRAIN_DATA=path, VAL_DATA=fine, PREFLIGHT="fast"))
    assert f"TRAIN_DATA={path}: row 7: the chat template cannot show it: roles must alternate" in error
    assert "1 of 40 rows" in error and "leave out such rows" in error


def test_thoughts_that_the_template_does_not_show_are_said(check, tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} + 1?"},
                {"role": "assistant", "content": str(n + 1), "reasoning_content": f"{n} and one more."},
            ]
        }
        for n in range(70)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    path = str(tmp_path / "rows.parquet")
    knobs = check("sft", TRAIN_DATA=path, VAL_DATA=path)
    assert any("leaves out thoughts of the last turn in 70 of 70 rows" in warning for warning in knobs.warnings)
    without = check("sft", TRAIN_DATA=path, VAL_DATA=path, THINKING="false")
    assert without.errors == [] and not any("leaves out" in warning for warning in without.warnings)


def test_prompts_over_the_limit_are_counted(check):
    knobs = check(MAX_PROMPT_LENGTH="17")
    assert any("MAX_PROMPT_LENGTH=17" in warning and "left out" in warning for warning in knobs.warnings)
    assert "every prompt is longer" in only_error(check(MAX_PROMPT_LENGTH="5"))


# ---- reward --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "returned None"),
        ("raise KeyError('x')", "raised KeyError: 'x' (line 2)"),
        ("return {'acc': 1.0}", "without 'score'"),
        ("return {'score': 1.0, 'reward': 1.0}", "a key named 'reward'"),
        ("return 'good'", "'good'"),
        ("return float('nan')", "nan"),
    ],
)
def test_reward_function_that_cannot_be_used(check, tmp_path, body, words):
    path = tmp_path / "my_reward.py"
    path.write_text(f"def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    {body}\n")
    error = only_error(check(REWARD_FUNC_PATH=str(path)))
    assert "REWARD_FUNC_PATH" in error and words in error


def test_parameters_of_the_reward_reach_its_trial(check):
    kit = {"REWARD_FUNC_PATH": "common/reward_functions.py", "REWARD_FUNC_NAME": "combine"}
    assert "weights=None" in only_error(check(**kit))
    weights = "+reward.custom_reward_function.reward_kwargs.weights={gsm8k: 1.0, repetition: 0.2}"
    assert check(arguments=[weights], **kit).errors == []


def test_reward_function_of_another_name(check, tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text("def score(**kwargs):\n    return 1.0\n")
    assert "it defines score" in only_error(check(REWARD_FUNC_PATH=str(path)))


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_reward_function_that_is_fine(check, tmp_path, kind):
    path = tmp_path / "my_reward.py"
    path.write_text(f"{kind} score(**kwargs):\n    return {{'score': 1, 'acc': True}}\n")
    assert check(REWARD_FUNC_PATH=str(path), REWARD_FUNC_NAME="score").errors == []


# ---- run name ------------------------------------------------------------------------------------------------


def test_an_interrupted_run_is_resumed_and_it_is_said(check, tmp_path):
    existing(tmp_path, step=10)
    knobs = check(EXPERIMENT_NAME="mine")
    assert knobs.errors == []
    assert "resuming mine (stopped) from the checkpoint of step 10" in knobs.warnings


@pytest.mark.parametrize(
    ("fields", "knob", "words"),
    [
        ({"step": DEMO_STEPS["grpo"]}, {}, "outputs/mine makes it"),
        ({"algorithm": "sft"}, {}, "is of sft"),
        ({}, {"RESUME": "never"}, "RESUME=never"),
        ({"step": 5}, {"N_GPUS": "2"}, "written by 1 GPUs"),
        ({"step": 5, "knobs": {"LORA_RANK": "8"}}, {}, "LORA_RANK=8"),
        ({"knobs": []}, {}, "run.json: is not {...} with knobs"),
    ],
)
def test_a_name_in_use_is_refused(check, tmp_path, fields, knob, words):
    existing(tmp_path, **fields)
    assert words in only_error(check(EXPERIMENT_NAME="mine", **knob))


def test_a_finished_run_needs_more_steps(check, tmp_path):
    model = existing(tmp_path, step=DEMO_STEPS["grpo"], state="finished") / "model"
    model.mkdir()
    (model / "config.json").touch()
    assert "finished {0} of {0} steps".format(DEMO_STEPS["grpo"]) in only_error(check(EXPERIMENT_NAME="mine"))
    assert check(EXPERIMENT_NAME="mine", TOTAL_STEPS="40").errors == []


def test_a_run_under_way_is_refused(check, tmp_path, monkeypatch):
    existing(tmp_path, state="running", pid=1)
    monkeypatch.setattr(run_name, "is_alive", lambda *_: True)
    assert "under way (process 1)" in only_error(check(EXPERIMENT_NAME="mine"))


def test_a_folder_that_is_no_run_is_never_touched(check, tmp_path):
    (tmp_path / "outputs" / "mine").mkdir(parents=True)
    assert "not a run" in only_error(check(EXPERIMENT_NAME="mine"))


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "-x", "a b"])
def test_names_that_leave_the_folder_are_refused(check, name):
    assert f"EXPERIMENT_NAME={name}" in only_error(check(EXPERIMENT_NAME=name))


# ---- auto ----------------------------------------------------------------------------------------------------


def big_model(parameters):
    return ModelInfo("/models/big", {"max_position_embeddings": 32768}, parameters, "{{ messages }}")


@pytest.mark.parametrize(
    ("algorithm", "lora", "rate"),
    [("grpo", "0", "1e-6"), ("grpo", "16", "1e-5"), ("sft", "0", "1e-5"), ("sft", "16", "1e-4")],
)
def test_learning_rate_of_a_7b_model(algorithm, lora, rate):
    knobs = read_knobs(algorithm, {"LORA_RANK": lora})
    auto.resolve_optimisation(knobs, big_model(7_600_000_000))
    assert knobs["LEARNING_RATE"] == rate
    assert "7.6B parameters" in knobs.reasons["LEARNING_RATE"]


def model_folder(tmp_path, name):
    """A folder with the config of a published model and the demo's tokenizer; its weights are one small tensor."""
    folder = tmp_path / name
    shutil.copytree(DEMO_MODEL_DIR, folder)
    (folder / "config.json").write_text(json.dumps(MODELS[name][0] | {"architectures": ["Qwen2ForCausalLM"]}))
    return folder


def planned(check, tmp_path, gpus, name, algorithm="grpo", **knobs):
    machine = planned_machine(parse_gpus(gpus))
    return check(algorithm, machine=machine, MODEL_PATH=str(model_folder(tmp_path, name)), **knobs)


def test_memory_knobs_follow_from_the_plan(check, tmp_path):
    """7B on 8 x 80: 16 bytes x 7.6e9 / 8 = 14 GiB a GPU. 72B: 135 GiB a GPU, so the host keeps the states."""
    small = planned(check, tmp_path, "8x80GB", "Qwen2.5-7B")
    assert small.errors == [] and (small["OFFLOAD"], small["TENSOR_PARALLEL_SIZE"]) == ("false", "1")
    assert "14 GiB" in small.reasons["TENSOR_PARALLEL_SIZE"] and "14 of 79 GiB" in small.reasons["OFFLOAD"]
    large = planned(check, tmp_path, "8x80GB", "Qwen2.5-72B")
    assert large.errors == [] and large["OFFLOAD"] == "full"


def test_a_model_that_does_not_fit_is_an_error_with_a_way_out(check, tmp_path):
    error = only_error(planned(check, tmp_path, "1x24GB", "Qwen2.5-32B"))
    assert "does not fit" in error and "GPUs" in error
    error = only_error(planned(check, tmp_path / "two", "8x80GB", "Qwen2.5-72B", OFFLOAD="false"))
    assert "LORA_RANK=16" in error


def test_sft_offloads_for_good_or_not_at_all(check, tmp_path):
    """verl's `param_offload` brings all states back to train, so it frees nothing where nothing is generated."""
    knobs = planned(check, tmp_path, "1x24GB", "Qwen2.5-3B", "sft")
    assert knobs.errors == [] and knobs["OFFLOAD"] == "full"
    write_resolved(tmp_path / "resolved", knobs, tmp_path)
    words = (tmp_path / "resolved").read_bytes().decode().split("\0")
    values = dict(zip(words[::2], words[1::2], strict=False))
    assert (values["OFFLOAD"], values["OFFLOAD_POLICY"]) == ("false", "true")


def test_what_was_set_is_planned_as_it_was_set(check, tmp_path):
    knobs = planned(check, tmp_path, "8x80GB", "Qwen2.5-7B", TENSOR_PARALLEL_SIZE="4", TOKENS_PER_GPU="8192")
    assert (knobs["TENSOR_PARALLEL_SIZE"], knobs["TOKENS_PER_GPU"]) == ("4", "8192")
    assert knobs.plan.setup.tensor_parallel == 4 and knobs.plan.setup.tokens == 8192


def test_share_that_fits():
    assert auto.share_that_fits([10, 20, 30, 40], 30) == 0.75
    assert auto.share_that_fits([], 30) == 1.0


def test_rows_that_verl_leaves_out_are_not_counted(check):
    few = check(MAX_PROMPT_LENGTH="16", BATCH_SIZE="32")
    all_rows = check(BATCH_SIZE="32", TOTAL_EPOCHS="1")
    assert few.number("TOTAL_EPOCHS") >= 1 and all_rows["TOTAL_STEPS"] == "64"
    assert check(MAX_PROMPT_LENGTH="16", BATCH_SIZE="32", TOTAL_EPOCHS="1").number("TOTAL_STEPS") < 64


def test_lengths_beyond_the_models_context(check):
    error = only_error(check(MAX_RESPONSE_LENGTH="4096"))
    assert "MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH=4128: the model was made for 2048 tokens" in error


def test_several_nodes_are_refused_and_flash_attention_must_be_there(check):
    assert "NNODES=2" in only_error(check(NNODES="2"))
    errors = check(machine=EIGHT, ATTENTION="flash_attention_2").errors
    assert any("flash-attn is not installed" in error for error in errors)


def test_what_the_user_set_stays(check):
    knobs = check(LEARNING_RATE="5e-5", BATCH_SIZE="16", SAVE_FREQ="3")
    assert (knobs["LEARNING_RATE"], knobs["BATCH_SIZE"], knobs["SAVE_FREQ"]) == ("5e-5", "16", "3")
    assert not {"LEARNING_RATE", "BATCH_SIZE", "SAVE_FREQ"} & set(knobs.reasons)


def test_wandb_is_on_only_with_a_login(check, monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert check()["USE_WANDB"] == "false"
    assert "not logged in" in only_error(check(USE_WANDB="true"))
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    knobs = check()
    assert knobs["USE_WANDB"] == "true"
    assert "secret" not in json.dumps([knobs.values, knobs.reasons, knobs.warnings])
