"""Diagnosis of train.log: the real cause behind Ray's and torchrun's wrappers, in the format of real verl logs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.plan.advice import numbers_to_try
from common.runner.failures import diagnose
from common.runner.known_failures import KNOWN_FAILURES

TASK = "\x1b[36m(TaskRunnerV1 pid=2596)\x1b[0m "
AGENT = "\x1b[36m(AgentLoopWorkerTQ pid=7019)\x1b[0m "
BENIGN = """\
INFO:2026-11-20 09:30:45,065:Platform override from VERL_PLATFORM: cpu
/venv/site-packages/verl/workers/engine/__init__.py:32: UserWarning: torchtitan engine is not available: \
ModuleNotFoundError("No module named 'torchtitan'")
  warnings.warn(f"torchtitan engine is not available: {e!r}", stacklevel=1)
"""
# How the driver of a Ray run ends: Hydra's line, its traceback, Ray's wrapper, the worker's traceback, the error.
DRIVER = """\
Error executing job with overrides: ['algorithm.adv_estimator=grpo', 'trainer.total_epochs=1']
Traceback (most recent call last):
  File "/venv/site-packages/verl/trainer/main_ppo.py", line 184, in main
    run_ppo(config, task_runner_class=TaskRunnerV1)
  File "/venv/site-packages/ray/_private/worker.py", line 1053, in get_objects
    raise value.as_instanceof_cause()
ray.exceptions.RayTaskError({kind}): \x1b[36mray::TaskRunnerV1.run()\x1b[39m (pid=6399, ip=10.0.0.2, actor_id=70be, \
repr=<main_ppo.TaskRunnerV1 object at 0x7f107e634050>)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/venv/site-packages/verl/trainer/main_ppo.py", line 155, in run
    self.trainer.fit(self.agent_loop_manager)
{kind}: {message}

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""
CHILD_FAILED = """\
E1120 09:31:10.385000 6065 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {code}) \
local_rank: 0 (pid: 6070) of binary: /venv/bin/python
Traceback (most recent call last):
  File "/venv/site-packages/torch/distributed/launcher/api.py", line 383, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\x20
============================================================
verl.trainer.sft_trainer FAILED
Root Cause (first observed failure):
  exitcode  : {code} (pid: 6070)
============================================================
"""
REWARD = """\
Traceback (most recent call last):
  File "/venv/site-packages/verl/experimental/agent_loop/agent_loop.py", line 1026, in _compute_score
    result = await selected_reward_loop_worker_handle.compute_score.remote(data)
ray.exceptions.RayTaskError(IndexError): \x1b[36mray::RewardLoopWorker.compute_score()\x1b[39m (pid=6936, ip=10.0.0.2)
  File "/venv/site-packages/verl/experimental/reward_loop/reward_manager/naive.py", line 77, in <lambda>
    lambda: self.compute_score(
  File "/venv/site-packages/verl/trainer/ppo/reward.py", line 38, in _call_with_kwargs
    return raw_fn(*args, **merged_kwargs)
  File "/home/me/my_reward.py", line 5, in compute_score
    answer = parse(solution_str)
             ^^^^^^^^^^^^^^^^^^^
  File "/home/me/my_reward.py", line 2, in parse
    return text.split("=")[9]
  File "/usr/lib/python3.11/somewhere.py", line 7, in getitem
IndexError: list index out of range
"""


def driver(kind: str, message: str) -> str:
    return DRIVER.format(kind=kind, message=message)


def prefixed(prefix: str, text: str) -> str:
    return "".join(prefix + line + "\n" for line in text.splitlines())


def failed_prompt(uid: str) -> str:
    error = f"{AGENT}ERROR:2026-11-20 09:32:36,767:Error in _run_prompt for uid={uid}\n"
    return error + prefixed(AGENT, REWARD)


def line_of(log: str, text: str) -> int:
    return next(number for number, line in enumerate(log.split("\n"), 1) if text in line)


@pytest.mark.parametrize(
    "last_words",
    [
        ("RuntimeError", "Sync replay buffer selected terminal groups with no materializable trajectories. Enable x."),
        ("ValueError", "Received an empty list as keys."),  # the same in the validation before training
    ],
)
def test_reward_function_that_raises_is_named_with_file_and_line(last_words: tuple[str, str]):
    log = BENIGN + failed_prompt("d5aa") + failed_prompt("bd2a") + driver(*last_words)
    found = diagnose(log)
    assert found.cause == (
        "The reward function raised IndexError: list index out of range at /home/me/my_reward.py:2 in parse."
    )
    assert "REWARD_FUNC_PATH" in found.fix
    assert found.line == line_of(log, "ray::RewardLoopWorker.compute_score()")


def test_a_dropped_prompt_is_not_the_cause_of_a_later_failure():
    log = failed_prompt("d5aa") + f"{TASK}step:3 - actor/pg_loss:0.1\n"
    log += driver("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB.")
    found = diagnose(log)
    assert found.cause.startswith("The GPU ran out of memory. (torch.OutOfMemoryError: CUDA out of memory.")
    knobs = ["TOKENS_PER_GPU", "GPU_MEMORY_UTILIZATION", "OFFLOAD", "LORA_RANK"]
    assert sorted(knobs, key=found.fix.index) == knobs


def test_a_reward_function_whose_api_fails_is_the_cause_though_it_looks_like_a_symptom():
    log = failed_prompt("d5aa").replace("IndexError: list", "ConnectionError: list")
    log += driver("ValueError", "Received an empty list as keys.")
    assert diagnose(log).cause.startswith("The reward function raised ConnectionError")


def test_the_worker_that_failed_first_gives_the_line():
    worker = """\
Traceback (most recent call last):
  File "/venv/site-packages/verl/workers/engine_workers.py", line 300, in update_actor
ZeroDivisionError: float division by zero
"""
    log = BENIGN + prefixed("\x1b[36m(WorkerDict pid=12, ip=10.0.0.3)\x1b[0m ", worker)
    log += driver("ZeroDivisionError", "float division by zero")
    found = diagnose(log)
    assert found.line == 4 and found.fix is None
    assert found.cause == (
        "ZeroDivisionError: float division by zero at /venv/site-packages/verl/workers/engine_workers.py:300 "
        "in update_actor"
    )


def test_lines_of_other_processes_and_progress_bars_between_the_lines_of_a_traceback():
    log = (
        f"{TASK}\rTraining Progress: 33%|###      | 2/6 [00:08<00:16]Traceback (most recent call last):\n"
        f"{AGENT}hf-gen batch 3 steps 7 0.03s\n"
        f'{TASK}  File "/home/me/a.py", line 7, in f\n'
        "(raylet) some news\n"
        f"{TASK}ZeroDivisionError: division by zero\n"
    )
    found = diagnose(log)
    assert (found.cause, found.line) == ("ZeroDivisionError: division by zero at /home/me/a.py:7 in f", 1)


def test_sft_under_torchrun_shows_the_rank_and_not_the_launcher():
    chained = """\
Error executing job with overrides: ['data.train_files=x.parquet']
Traceback (most recent call last):
  File "pandas/_libs/hashtable_class_helper.pxi", line 7734, in pandas._libs.hashtable.PyObjectHashTable.get_item
KeyError: 'messages'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/venv/site-packages/verl/utils/dataset/multiturn_sft_dataset.py", line 165, in _read_files_and_process
KeyError: 'messages'

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""
    found = diagnose(BENIGN + chained + CHILD_FAILED.format(code=1))
    assert found.cause == "The data has no column (or field) 'messages'. (KeyError: 'messages')"
    assert "common.data_utils" in found.fix


def test_the_first_rank_to_fail_wins_over_the_ranks_that_lost_contact():
    log = (
        prefixed(
            "[rank1]: ",
            'Traceback (most recent call last):\n  File "/a.py", line 1, in f\n'
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB.",
        )  # fmt: skip
        + prefixed(
            "[rank0]: ",
            'Traceback (most recent call last):\n  File "/a.py", line 2, in g\n'
            "torch.distributed.DistBackendError: NCCL communicator was aborted on rank 0.",
        )  # fmt: skip
        + CHILD_FAILED.format(code=1)
    )
    assert diagnose(log).cause.startswith("The GPU ran out of memory.")


def test_chain_is_searched_for_a_known_cause():
    log = driver("OSError", "We couldn't connect to 'https://huggingface.co' to load the files").replace(
        "\nSet the env",
        "\nThe above exception was the direct cause of the following exception:\n\n"
        "\x1b[36mray::TaskRunnerV1.run()\x1b[39m (pid=1, ip=10.0.0.2)\n"
        '  File "/venv/site-packages/hydra/_internal/instantiate.py", line 138, in _call_target\n'
        "hydra.errors.InstantiationException: Error in call to target 'verl.workers.config.model.HFModelConfig':\n"
        "OSError(...)\n\nSet the env",
    )
    found = diagnose(log)
    assert found.cause.startswith("The model is not on this machine") and "MODEL_PATH" in found.fix


def test_unknown_chain_names_its_root():
    log = (
        "Traceback (most recent call last):\n  File \"/a.py\", line 1, in f\nKeyError: 'x'\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        'Traceback (most recent call last):\n  File "/b.py", line 2, in g\nRuntimeError: no luck\n'
    )
    assert diagnose(log).cause == "RuntimeError: no luck at /b.py:2 in g; caused by KeyError: 'x'"


def test_actor_that_dies_in_its_constructor():
    log = (
        'Traceback (most recent call last):\n  File "/venv/a.py", line 1, in f\n'
        "ray.exceptions.ActorDiedError: The actor died because of an error raised in its creation task, "
        "\x1b[36mray::reward_loop_worker_0:RewardLoopWorker.__init__()\x1b[39m (pid=16390, ip=10.0.0.2)\n"
        '  File "/venv/verl/utils/import_utils.py", line 259, in load_extern_object\n'
        "AttributeError: Object not found in module: object_name='nope', module_path='/home/me/r.py'.\n"
    )
    found = diagnose(log)
    assert found.cause.startswith("The file /home/me/r.py has no function nope.")
    assert "REWARD_FUNC_NAME" in found.fix


def test_worker_killed_for_memory_has_no_traceback_of_its_own():
    died = "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."
    raylet = (
        "\x1b[33m(raylet)\x1b[0m [2026-11-20 09:00:00,000 E 12 12] (raylet) node_manager.cc:3193: 1 Workers (tasks / "
        "actors) killed due to memory pressure (OOM), 0 Workers crashed due to other reasons at node (ID: 1)\n"
    )
    system = (
        "(raylet) A worker died or was killed while executing a task by an unexpected system error. Worker exit type: "
        "SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2.\n"
    )
    end = f'Traceback (most recent call last):\n  File "/a.py", line 1, in f\n{died}\n\tclass_name: WorkerDict\n'
    for log in (system + raylet + end, raylet + end):
        found = diagnose(log)
        assert "ran out of main memory" in found.cause and found.line == line_of(log, "memory pressure")
    assert "killed from outside" in diagnose(system + end).cause
    alone = diagnose(end)
    assert alone.cause.startswith("A worker died and left no message.") and alone.line == 1


def test_sft_killed_by_signal_9():
    bar = "Epoch 4/20:   6%|#         | 5/85 [00:10<03:11,  2.39s/it]"
    found = diagnose(bar + CHILD_FAILED.format(code=-9))
    assert "killed from outside" in found.cause and found.line == 1


def test_vllm_engine_errors_are_read_through_their_log_prefix():
    prefix = "\x1b[36m(vLLMHttpServer pid=9)\x1b[0m (EngineCore_DP0 pid=99) ERROR 10-25 13:08:43 [core.py:708] "
    engine = prefixed(prefix, 'Traceback (most recent call last):\n  File "/v/kv_cache_utils.py", line 699, in check\n'
                      "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` "
                      "when initializing the engine.")  # fmt: skip
    log = engine + driver("RuntimeError", "Engine core initialization failed. See root cause above.")
    found = diagnose(log)
    assert found.cause.startswith("vLLM got too little GPU memory") and "GPU_MEMORY_UTILIZATION" in found.fix


def test_hydra_key_errors_have_no_traceback():
    log = BENIGN + (
        "Could not override 'actor_rollout_ref.rollout.multi_turn.max_turns'.\n"
        "To append to your config use +actor_rollout_ref.rollout.multi_turn.max_turns=3\n"
        "Key 'max_turns' is not in struct\n    full_key: actor_rollout_ref.rollout.multi_turn.max_turns\n"
        "\nSet the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.\n"
    )
    found = diagnose(log)
    assert found.cause.startswith("verl's config has no key 'actor_rollout_ref.rollout.multi_turn.max_turns'.")
    assert found.fix == "Correct or remove it (did you mean max_assistant_turns?)."
    assert found.line == 4
    assert diagnose("Could not override 'trainer.totl_epochs'.\n").fix.endswith("(did you mean total_epochs?).")
    assert diagnose("Could not override 'trainer.zzz'.\n").fix == "Correct or remove it."


KNOWN_CASES = [
    ("ModuleNotFoundError: No module named 'transfer_queue'", "TransferQueue", "setup_env.sh"),
    ("ImportError: FlashAttention2 has been toggled on, but it cannot be used due to the following error: the package "
     "flash_attn seems to be not installed.", "FlashAttention", "ATTENTION=sdpa"),
    ("ImportError: flash_attn_2_cuda.so: undefined symbol: _ZN3c10", "another torch version", "setup_env.sh"),
    ("OSError: [Errno 28] No space left on device", "disk is full", "KEEP_CHECKPOINTS"),
    ("RuntimeError: [enforce fail at inline_container.cc:857] . PytorchStreamWriter failed writing file data/37: file "
     "write failed", "disk is full", "KEEP_CHECKPOINTS"),
    ("RuntimeError: [enforce fail at inline_container.cc:659] .unexpected pos 2387758464 vs 2387758376",
     "disk is full", "SAVE_FREQ"),
    ("safetensors_rust.SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)",
     "disk is full", "SAVE_FREQ"),
    ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.", "main memory",
     "OFFLOAD"),
    ("ValueError: Total available GPUs 1.0 is less than total desired GPUs 4", "asks for 4 GPUs but Ray sees 1.",
     "N_GPUS"),
    ("AssertionError: rollout world_size: 1 is not divisible by infer_world_size: 2", "TENSOR_PARALLEL_SIZE",
     "TENSOR_PARALLEL_SIZE"),
    ("AssertionError: real_train_batch_size (6) must be divisible by minimal possible batch size (4)",
     "batch sizes do not divide", "BATCH_SIZE"),
    ("ValueError: sequence_length=17 is larger than self.max_length=8", "has 17 tokens, more than the limit of 8",
     "MAX_LENGTH"),
    ("NotImplementedError: sequence_length=900 is larger than max_length=512", "has 900 tokens", "MAX_PROMPT_LENGTH"),
    ("ValueError: Cannot use chat template functions because tokenizer.chat_template is not set and no template "
     "argument was passed!", "no chat template", "instruct"),
    ("KeyError: 'key \"rm_scores\" not found in TensorDict with keys [\\'data_source\\']'", "returned None",
     "REWARD_FUNC_PATH"),
    ("KeyError: 'score'", "without the key 'score'", "REWARD_FUNC_PATH"),
    ("RuntimeError: Error loading module from module_path='/home/me/r.py'", "/home/me/r.py cannot be loaded",
     "REWARD_FUNC_PATH"),
    ("KeyError: 'reward_model'", "no column (or field) 'reward_model'", "TRAIN_DATA"),
    ("KeyError: 'prompt'", "no column (or field) 'prompt'", "common.data_utils"),
    ("FileNotFoundError: Unable to find '/data/nope.parquet'", "/data/nope.parquet does not exist", "TRAIN_DATA"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/o/global_step_9/model_world_size_2_rank_0.pt'",
     "another number of GPUs; this run looks for one of 2.", "merge"),
    ("OSError: You are trying to access a gated repo.", "refuses access", "HF_TOKEN"),
    ("OSError: nobody/none is not a local folder and is not a valid model identifier listed on "
     "'https://huggingface.co/models'", "neither a folder", "MODEL_PATH"),
    ("OSError: [Errno 98] Address already in use", "port is taken", "ray stop"),
    ("ValueError: Free memory on device cuda:0 (5.1/79.1 GiB) on startup is less than desired GPU memory utilization "
     "(0.7, 55.4 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
     "asked for more GPU memory than is free", "Lower GPU_MEMORY_UTILIZATION"),
    ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing "
     "the engine.", "too little GPU memory", "Raise GPU_MEMORY_UTILIZATION"),
    ("pydantic_core._pydantic_core.ValidationError: 1 validation error for LoRAConfig max_lora_rank Input should be "
     "1, 8, 16, 32, 64, 128, 256, 320 or 512", "LoRA ranks", "LORA_RANK"),
    ("AssertionError: Expandable segments are not compatible with memory pool.", "expandable segments", "unset"),
    ("AssertionError: Weight lm_head.weight is too large to fit in the bucket.", "larger than the bucket",
     "update_weights_bucket_megabytes=4096"),
    ("RuntimeError: Cannot find any model weights with `/models/x`", "no weights", "safetensors"),
    ("ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has "
     "compute capability 7.5.", "no bfloat16", "8.0"),
    ("RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.",
     "C compiler", "gcc"),
    ("RuntimeError: probability tensor contains either `inf`, `nan` or element < 0", "NaN", "LEARNING_RATE"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "cause", "fix"), KNOWN_CASES, ids=[case[0][:40] for case in KNOWN_CASES])
def test_known_failures(message: str, cause: str, fix: str):
    found = diagnose(f'{BENIGN}Traceback (most recent call last):\n  File "/a.py", line 1, in f\n{message}\n')
    assert cause in found.cause and fix in found.fix
    assert message[:60] in found.cause  # the original words stay visible
    assert found.line == 4


def test_nccl_watchdog_without_a_python_exception():
    log = (
        "[rank0]:[E1206 18:44:12.715298746 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective operation "
        "timeout: WorkNCCL(SeqNum=7753, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600061 milliseconds\n"
    )
    found = diagnose(log + CHILD_FAILED.format(code=-6))
    assert "NCCL" in found.cause and found.line == 1
    error = "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited"
    alone = diagnose(f'Traceback (most recent call last):\n  File "/a.py", line 1, in f\n{error}\n')
    assert error in alone.cause and "nccl_timeout" in alone.fix


def test_every_fix_and_cause_can_be_formatted():
    for known in KNOWN_FAILURES:
        groups = re.compile(known.pattern).groups
        for field in re.findall(r"\{(\d)\}", known.cause):
            assert int(field) < groups, known.pattern


def test_noise_at_exit_is_not_the_cause():
    log = driver("ZeroDivisionError", "division by zero") + (
        "Exception ignored in: <function Pool.__del__ at 0x7f>\nTraceback (most recent call last):\n"
        '  File "/p.py", line 1, in __del__\nAttributeError: \'NoneType\' object has no attribute \'dumps\'\n'
    ) + prefixed(TASK, 'Traceback (most recent call last):\n  File "/q.py", line 1, in f\nKeyError: 1')  # fmt: skip
    assert diagnose(log).cause.startswith("ZeroDivisionError: division by zero")


def test_stopped_by_the_user():
    log = 'Traceback (most recent call last):\n  File "/a.py", line 1, in f\nKeyboardInterrupt\n'
    assert diagnose(log).cause == "The run was stopped (Ctrl-C or SIGTERM)."


def test_no_error_at_all():
    assert diagnose("").cause == "The log is empty"
    found = diagnose(BENIGN + f"{TASK}step:1 - loss:0.1\n")
    assert found.cause == "The log ends without an error message; the last line is: step:1 - loss:0.1"
    assert (found.fix, found.line) == (None, None)
    assert diagnose("Epoch 1:  1%|\rEpoch 1:  2%|\n").cause.endswith("is: Epoch 1:  2%|")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("RuntimeError: boom", "RuntimeError: boom"),
        (f"{TASK}my.own.QuotaException(3): none left", "my.own.QuotaException(3): none left"),
        ("ERROR:root:no space", "ERROR:root:no space"),
        ("error: TRAIN_DATA=x: no such file", "error: TRAIN_DATA=x: no such file"),
    ],
)
def test_an_error_without_a_traceback_is_the_cause(line, cause):
    found = diagnose(f"{BENIGN}step:1 - loss:0.1\n{line}\nbye\n")
    assert (found.cause, found.line) == (cause, 5)
    later = diagnose(f"{line}\n" + "step:1 - loss:0.1\n" * 30)  # the run has trained on after it
    assert later.cause == "The log ends without an error message; the last line is: step:1 - loss:0.1"


def test_an_error_without_a_traceback_is_looked_up():
    found = diagnose("step:1\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n")
    assert found.line == 2 and "TOKENS_PER_GPU" in found.fix


def test_an_earlier_attempt_is_forgotten():
    same = driver("ZeroDivisionError", "division by zero")
    head = "# attempt 2, 2026-11-20T09:00:00+00:00: python -m verl.trainer.main_ppo\n"  # as common/runner writes it
    log = f"# attempt 1, 2026\n{same}killed without a line break{head}{same}"
    assert diagnose(log).line > line_of(log, "# attempt 2")
    assert diagnose(f"{same}{head}all well\n").cause.endswith("the last line is: all well")
    assert diagnose(same + head).cause == "The log is empty"


def test_reads_a_file_with_its_own_line_numbers(tmp_path: Path):
    path = tmp_path / "train.log"
    bars = "".join(f"\rEpoch 1/2: {n}%|" for n in range(50)) + "\n"
    text = bars + "caf\u00e9\n" + driver("ValueError", "Total available GPUs 1.0 is less than total desired GPUs 4")
    path.write_bytes(text.encode() + b"\xff\xfe\n")
    found = diagnose(path)
    assert found.cause.startswith("The run asks for 4 GPUs") and found.line == 9


def test_a_text_is_no_file_name(tmp_path: Path):
    (tmp_path / "other.log").write_text("Traceback (most recent call last):\nValueError: of another\n")
    assert diagnose(str(tmp_path / "other.log")).cause.startswith(
        "The log ends without an error message; the last line is: /"
    )
    assert "x" * 200 in diagnose("x" * 300).cause  # longer than a file name may be


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'", "The shared memory /dev/shm is full"),
        ("RuntimeError: DataLoader worker is killed by signal: Bus error.", "The shared memory /dev/shm is full"),
        ("OSError: [Errno 28] No space left on device: '/data/x.pt'", "The disk is full"),
        ("RuntimeError: Engine core initialization failed. See root cause above.", "vLLM did not start"),
    ],
)
def test_shared_memory_disk_and_engine_are_told_apart(said, cause):
    kind, message = said.split(": ", 1)
    assert diagnose(driver(kind, message)).cause.startswith(cause)


# ---- numbers to try ------------------------------------------------------------------------------------------------

KNOBS = {
    "TOKENS_PER_GPU": "16384", "GPU_MEMORY_UTILIZATION": "0.6", "OFFLOAD": "false", "LORA_RANK": "0",
    "ROLLOUT_ENGINE": "vllm", "MAX_PROMPT_LENGTH": "512", "MAX_RESPONSE_LENGTH": "1024", "BATCH_SIZE": "256",
    "ROLLOUT_N": "8", "TENSOR_PARALLEL_SIZE": "1", "N_GPUS": "8",
}  # fmt: skip


def test_numbers_after_an_oom_of_the_gpu_say_what_they_save():
    from common.plan.machine import parse_gpus
    from common.plan.memory import Setup
    from common.plan.weights import read_weights
    from tests.published_models import MODELS

    setup = Setup(read_weights(MODELS["Qwen2.5-14B"][0]), parse_gpus("4x80GB"), 16384, 1536)
    said = numbers_to_try("The GPU ran out of memory. (CUDA out of memory)", KNOBS, setup)
    assert said[0].startswith("TOKENS_PER_GPU=8192 (now 16384), saves") and said[0].endswith("GiB a GPU")
    assert said[1] == "GPU_MEMORY_UTILIZATION=0.5 (now 0.6)"
    assert "OFFLOAD=full (now false), saves" in said[3] and "LORA_RANK=16" in said[4]
    short = numbers_to_try("The GPU ran out of memory.", {**KNOBS, "TOKENS_PER_GPU": "2048"})
    assert not any("TOKENS" in text for text in short)  # one longest sequence must fit


def test_numbers_after_other_failures():
    assert numbers_to_try("The machine ran out of main memory (RAM)", KNOBS) == [
        "BATCH_SIZE=128 (now 256)",
        "ROLLOUT_N=4 (now 8)",
    ]
    cache = numbers_to_try("vLLM got too little GPU memory for its KV cache.", KNOBS)
    assert cache[0] == "GPU_MEMORY_UTILIZATION=0.75 (now 0.6)" and "TENSOR_PARALLEL_SIZE=2 (now 1)" in cache
    taken = numbers_to_try("vLLM asked for more GPU memory than is free.", KNOBS)
    assert taken == ["GPU_MEMORY_UTILIZATION=0.5 (now 0.6)"]
    assert numbers_to_try("The data has no column 'prompt'.", KNOBS) == []
