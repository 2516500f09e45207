"""The failures that users of verl meet, with their meaning and the knob to change; read by `common.runner.failures`.

The wording of the patterns was taken from the sources of verl, its libraries, and logs of runs made to fail.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A failure that users meet: `pattern` finds it in "Type: message"; `anywhere` also finds it outside tracebacks.

    {0} in `cause` is the first group of the pattern.
    """

    pattern: str
    cause: str
    fix: str
    anywhere: bool = False


_DISK = (
    "The disk is full, so a file could not be written.",
    "Delete old runs or checkpoints, keep fewer (KEEP_CHECKPOINTS), save less often (SAVE_FREQ), or link outputs/ "
    "to another disk. The newest checkpoint may be incomplete; a resume takes the last complete one.",
)
_RAM = (
    "The machine ran out of main memory (RAM) and a worker was killed.",
    "Set OFFLOAD=false (offloading keeps weights in RAM), lower BATCH_SIZE or ROLLOUT_N, look for a memory leak in "
    "REWARD_FUNC_PATH, or give the job more memory.",
)
_MODEL = "Check the spelling of MODEL_PATH, or download the model on a machine with a network and give its folder."

# fmt: off
# The first match wins, so special rows come before general ones. Comments name the source of the message.
KNOWN_FAILURES: tuple[Known, ...] = (
    # verl/trainer/main_ppo.py and ppo/v1/*.py import it
    Known(r"No module named '(transfer_queue)'",
          "The package TransferQueue is missing; plain `pip install verl` leaves it out.",
          "Run ./setup_env.sh, or `pip install TransferQueue`."),
    # transformers/modeling_utils.py
    Known(r"flash_attn.{0,400}not installed|No module named 'flash_attn|FlashAttention2 has been toggled on",
          "FlashAttention is not installed, or does not fit this torch.",
          "Run ./setup_env.sh, or set ATTENTION=sdpa."),
    Known(r"undefined symbol",
          "A compiled package (flash-attn, vLLM) was built for another torch version.",
          "Run ./setup_env.sh again: it installs versions that fit together."),
    Known(r"No module named '([\w.]+)'", "The Python package {0} is missing.", "Run ./setup_env.sh again."),
    # vLLM v1/core/kv_cache_utils.py and v1/worker
    Known(r"Free memory on device.{0,400}less than desired GPU memory",
          "vLLM asked for more GPU memory than is free.",
          "Lower GPU_MEMORY_UTILIZATION (e.g. 0.7 -> 0.5), set OFFLOAD=true so that training leaves room, or stop "
          "other jobs on the GPU (nvidia-smi names them)."),
    Known(r"No available memory for the cache blocks|larger than the (?:maximum|available).{0,400} KV cache",
          "vLLM got too little GPU memory for its KV cache.",
          "Raise GPU_MEMORY_UTILIZATION (e.g. 0.4 -> 0.6), set OFFLOAD=true so that training leaves room, lower "
          "MAX_RESPONSE_LENGTH, or stop other jobs on the GPU."),
    # vLLM config/lora.py, device_allocator/cumem.py, model_executor/model_loader; verl checkpoint_engine
    Known(r"max_lora_rank[\s\S]{0,80}Input should be",
          "vLLM takes LoRA ranks of 1, 8, 16, 32, 64, 128, 256, 320 and 512 only.",
          "Set LORA_RANK to one of these; a run with merged LoRA (the default) takes any."),
    Known(r"Expandable segments are not compatible with memory pool",
          "PYTORCH_CUDA_ALLOC_CONF asks for expandable segments, with which vLLM cannot sleep.",
          "unset PYTORCH_CUDA_ALLOC_CONF."),
    Known(r"too large to fit in the bucket",
          "A weight is larger than the bucket in which weights go to the rollout engine.",
          "Add actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=4096 to the command."),
    Known(r"Cannot find any model weights",
          "The folder of the model has no weights that the rollout engine reads.",
          "Check that MODEL_PATH holds *.safetensors or *.bin files, all parts of them; or add "
          "actor_rollout_ref.rollout.load_format=dummy to the command: the trainer sends the weights."),
    Known(r"Bfloat16 is only supported on GPUs with compute capability",
          "This GPU has no bfloat16, in which verl trains.",
          "Use a GPU of the Ampere generation or newer (compute capability 8.0), or DEVICE=cpu for a small model."),
    # triton/runtime/build.py: it compiles its launcher at the first kernel
    Known(r"Failed to find C compiler", "Triton needs a C compiler, and there is none.",
          "Install one: apt-get install gcc."),
    Known(r"Python\.h: No such file", "Triton needs Python's C headers, and they are not installed.",
          "Install them: apt-get install python3-dev (for Python 3.12: python3.12-dev).", anywhere=True),
    # raylet, ray/exceptions.py OutOfMemoryError; before the GPU's, whose exception has the same name
    Known(r"killed due to memory pressure|node running low on memory", *_RAM, anywhere=True),
    Known(r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError: (?!Task)",
          "The GPU ran out of memory.",
          "In this order: lower TOKENS_PER_GPU; lower GPU_MEMORY_UTILIZATION; set OFFLOAD=true; set LORA_RANK=16; "
          "use more GPUs or a smaller model."),
    # Ray's object store and torch's data loaders
    Known(r"/dev/shm.{0,80}(?:No space|full|exceed)|No space left on device.{0,80}/dev/shm|ObjectStoreFullError|"
          r"Bus error|insufficient shared memory",
          "The shared memory /dev/shm is full.",
          "Start the container with --shm-size=16g, empty /dev/shm (ls /dev/shm shows what earlier runs left), or "
          "lower BATCH_SIZE.", anywhere=True),
    Known(r"No space left on device|Errno 28|PytorchStreamWriter failed writing|unexpected pos \d+ vs|"
          r"SafetensorError: .{0,400}I/?O ?error|OutOfDiskError|Disk quota exceeded", *_DISK, anywhere=True),
    # verl/single_controller/ray/base.py
    Known(r"Total available GPUs (\d+)[\d.]* is less than total desired GPUs (\d+)",
          "The run asks for {1} GPUs but Ray sees {0}.",
          "Ask for fewer (N_GPUS, NNODES), stop jobs that hold GPUs (`ray status` shows them), or check that "
          "every node has joined the cluster."),
    # verl/workers/rollout/replica.py, engine_workers.py, vllm_async_server.py; vLLM config
    Known(r"is not divisible by infer_world_size|must be divisible by tensor parallel size|"
          r"gpus_per_node should be divisible|must be divisible by gpus_per_node",
          "TENSOR_PARALLEL_SIZE does not divide the number of GPUs or of attention heads.",
          "Set TENSOR_PARALLEL_SIZE to 1, or to a number that divides both."),
    # verl/utils/config.py, workers/config/{actor,critic}.py
    Known(r"train_batch_size .{0,400} must be divisible|mini_batch_size .{0,400} must be divisible|"
          r"train_batch_size .{0,400} must be >=",
          "The batch sizes do not divide.",
          "Make BATCH_SIZE x ROLLOUT_N a multiple of the GPUs, and BATCH_SIZE a multiple of MINI_BATCH_SIZE."),
    # verl/utils/dataset/multiturn_sft_dataset.py (SFT), utils/torch_functional.py (RL)
    Known(r"sequence_length=(\d+) is larger than (?:self\.)?max_length=(\d+)",
          "A data row has {0} tokens, more than the limit of {1}.",
          "Raise MAX_LENGTH (SFT, DPO) or MAX_PROMPT_LENGTH (RL), or drop the long rows from TRAIN_DATA."),
    # transformers/tokenization_utils_base.py
    Known(r"tokenizer\.chat_template is not set|does not have a chat template",
          "The model's tokenizer has no chat template; it is probably a base model.",
          "Use the instruct version as MODEL_PATH, or put a chat_template.jinja into its folder."),
    # common/rewards/errors.py
    Known(r"RewardError: .{0,400}ApiRewardError", "The reward API cannot be used any more.",
          "Ask the endpoint: .venv/bin/python -m ppo.api_reward try. The same command again resumes the run."),
    Known(r"RewardError: the environment failed", "The environment failed more than half of a step's episodes.",
          "Look for 'An episode failed' in train.log, fix ENV_PATH or raise ENV_TIMEOUT. "
          "The same command again resumes."),
    Known(r"RewardError: ", "The reward function raised on more than 1 % of the answers of a step.",
          "Correct the function in REWARD_FUNC_PATH; it must give a number for any answer, also an empty one. "
          "reward_errors.jsonl in the run's folder has the rows and the tracebacks. The same command again resumes."),
    # verl/trainer/ppo/v1/trainer_base.py: the column is missing when every reward is None
    Known(r"key \"rm_scores\" not found|KeyError: 'rm_scores'",
          "The reward function returned None for every answer.",
          "Let the function in REWARD_FUNC_PATH return a number on every path, 0.0 for a wrong answer."),
    # verl/experimental/reward_loop/reward_manager/naive.py
    Known(r"KeyError: 'score'",
          "The reward function returned a dict without the key 'score'.",
          "Let the function in REWARD_FUNC_PATH return a number, or a dict with a number under 'score'."),
    # verl/utils/import_utils.py
    Known(r"(?:Error loading module from|Custom module file not found:) module_path='([^']+)'",
          "The file {0} cannot be loaded.",
          "Check REWARD_FUNC_PATH, and that Python can run the file alone."),
    Known(r"Object not found in module: object_name='([^']+)', module_path='([^']+)'",
          "The file {1} has no function {0}.", "Set REWARD_FUNC_NAME to a function in REWARD_FUNC_PATH."),
    # reward_manager/naive.py, dataset/rl_dataset.py, dataset/multiturn_sft_dataset.py
    Known(r"KeyError: '(reward_model|ground_truth|data_source|prompt|messages|extra_info)'",
          "The data has no column (or field) '{0}'.",
          "Convert TRAIN_DATA and VAL_DATA with common.data_utils: RL rows need prompt, data_source and "
          "reward_model.ground_truth; SFT rows need messages."),
    Known(r"(?:Unable to find|No such file or directory:) '([^']+\.(?:parquet|jsonl?))'",
          "The data file {0} does not exist.", "Correct TRAIN_DATA or VAL_DATA."),
    # verl/utils/checkpoint/fsdp_checkpoint_manager.py
    Known(r"model_world_size_(\d+)_rank_\d+\.pt",
          "The checkpoint to resume was written by another number of GPUs; this run looks for one of {0}.",
          "Resume on the number of GPUs that wrote it, or merge the checkpoint and start a new run from the model."),
    # transformers/utils/hub.py, huggingface_hub/errors.py
    Known(r"gated repo|401 Client Error|403 Client Error|Invalid user token",
          "Hugging Face refuses access to the model.",
          "Accept the licence on the model's page, and set HF_TOKEN."),
    Known(r"is not a local folder and is not a valid model|Repository Not Found|RepositoryNotFoundError|Repo id must",
          "MODEL_PATH is neither a folder here nor a model on Hugging Face.", _MODEL),
    Known(r"couldn't connect to '?https?://|OfflineModeIsEnabled|outgoing traffic has been disabled|"
          r"Network is unreachable|LocalEntryNotFoundError",
          "The model is not on this machine, and Hugging Face cannot be reached.", _MODEL),
    Known(r"[Aa]ddress already in use|EADDRINUSE",
          "A network port is taken, often by an earlier run.",
          "Stop the earlier run; `ray stop` ends what it left behind."),
    # torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp
    Known(r"Watchdog caught collective operation timeout|NCCL.{0,40}(?:timed out|timeout)|ncclSystemError|"
          r"ncclRemoteError|ncclUnhandledCudaError|DistBackendError",
          "The GPUs lost contact with each other (NCCL).",
          "Look above for a rank that failed or hung first. Else add actor_rollout_ref.nccl_timeout=3600 to the "
          "command, set NCCL_DEBUG=INFO, and on several nodes set NCCL_SOCKET_IFNAME.", anywhere=True),
    # vllm/v1/engine: its own log lines come before and are read first where they say why
    Known(r"Engine core initialization failed|EngineCore failed to start|Failed core proc",
          "vLLM did not start.",
          "Look above for the first line of (EngineCore) with an error. Most often its memory: lower "
          "GPU_MEMORY_UTILIZATION or stop other jobs on the GPU; else ROLLOUT_ENGINE=hf shows whether the rest works.",
          anywhere=True),
    # hydra/_internal/config_loader_impl.py, omegaconf/dictconfig.py; {1} becomes a suggestion
    Known(r"Could not override '([^']+)'|Key '([^']+)' is not in struct",
          "verl's config has no key '{0}'.", "Correct or remove it{1}.", anywhere=True),
    # raylet ("Worker exit type"), torch/distributed/elastic
    Known(r"exit type: SYSTEM_ERROR|SIGKILL|exitcode\s*: -9",
          "A worker process was killed from outside, nearly always because the machine ran out of main memory (RAM).",
          _RAM[1], anywhere=True),
    # torch's sampler (also as a CUDA assertion); verl/workers/engine/*/transformer_impl.py
    Known(r"contains either `?inf`?, `?nan`?|grad_norm is not finite|FloatingPointError: .{0,400} blown up",
          "Training produced NaN: the weights have blown up.",
          "Resume an earlier checkpoint with a lower LEARNING_RATE, and look for empty or broken rows in TRAIN_DATA.",
          anywhere=True),
)

# Last words of verl keys that changed or are easily mistyped, and their names now.
RENAMED_KEYS = {
    "partial_pretrain": "model.path", "max_turns": "max_assistant_turns", "contents": "save_contents",
    "micro_batch_size": "micro_batch_size_per_gpu", "warmup_steps_ratio": "lr_warmup_steps_ratio",
    "lr_scheduler": "lr_scheduler_type", "learning_rate": "lr", "lora_r": "lora_rank",
    "total_epoch": "total_epochs", "num_epochs": "total_epochs", "epochs": "total_epochs",
    "batch_size": "train_batch_size", "prompt_length": "max_prompt_length", "response_length": "max_response_length",
    "save_steps": "save_freq", "eval_steps": "test_freq", "model_backend": "model_engine",
}
# fmt: on
