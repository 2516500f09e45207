"""Every variable that a launch sets in addition to the knobs: its name, the knobs it follows from, who reads it.

``resolved.py`` gives them their values. What is not in this table does not exist: a test compares it with each
train.sh, with the YAML files and with what a launch exports.
"""

from __future__ import annotations

from dataclasses import dataclass

SCRIPT = "train.sh"  # an argument for verl in a train.sh
CONFIG = "config"  # ${oc.env:...} in a YAML file, for what differs between machines
PROCESS = "process"  # read by the kit's own code in the trainer's processes
LIBRARY = "library"  # read by torch, Ray or vLLM; a user may have set it too
LAUNCHER = "launcher"  # read by common/runner and gspo/rounds.py


@dataclass(frozen=True)
class Derived:
    """One variable.

    Args:
        name: Its name; ``USE_`` for a switch of verl.
        knobs: Those it follows from.
        reader: Who reads it.
        what: What it is.
    """

    name: str
    knobs: tuple[str, ...]
    reader: str
    what: str


DERIVED = (
    Derived("REMOVE_PADDING", ("ATTENTION",), SCRIPT, "whether sequences are packed; sdpa and eager cannot"),
    Derived("EPOCH_LIMIT", ("TOTAL_EPOCHS",), SCRIPT, "passes over the data, one more in RL: TOTAL_STEPS ends it"),
    Derived("OFFLOAD_POLICY", ("OFFLOAD",), SCRIPT, "true for OFFLOAD=full; OFFLOAD itself becomes true or false"),
    Derived("RESUME_MODE", ("RESUME", "EXPERIMENT_NAME"), SCRIPT, "resume_path, or disable"),
    Derived("RESUME_PATH", ("RESUME", "EXPERIMENT_NAME"), SCRIPT, "the global_step_N folder to resume from, or null"),
    Derived("RENDEZVOUS", ("NNODES",), SCRIPT, "how torchrun's processes find each other"),
    Derived("RENDEZVOUS_ADDR", ("NNODES",), SCRIPT, "where they do"),
    Derived("MACHINE_RANK", ("NNODES",), SCRIPT, "of this machine, 0 for the first; set on each by common/cluster"),
    Derived("MACHINE_ADDR", ("NNODES",), SCRIPT, "its address on the way to the others"),
    Derived("TRAINER", ("NNODES",), SCRIPT, "verl's entry point, or the kit's for several machines"),
    Derived("LOGGERS", ("TRACKERS", "USE_WANDB"), SCRIPT, "where metrics are written"),
    Derived("DATASET", ("DATA_FORM",), SCRIPT, "the class that reads the rows"),
    Derived("SHUFFLE", ("DATA_ORDER",), SCRIPT, "whether verl shuffles the rows"),
    Derived("OPTIMIZER_IMPL", ("OPTIMIZER",), SCRIPT, "the module that the optimiser is in"),
    Derived("OPTIMIZER_CLASS", ("OPTIMIZER",), SCRIPT, "its class"),
    Derived("OPTIMIZER_OPTIONS", ("OPTIMIZER", "MODEL_PATH"), SCRIPT, "what it is made with beside verl's settings"),
    Derived("VERL_LR_SCHEDULER", ("LR_SCHEDULER",), SCRIPT, "constant where the kit makes the schedule, else the same"),
    Derived(
        "AGENT_LOOP", ("TOOLS_PATH", "ENV_PATH", "ADV_ESTIMATOR"), SCRIPT, "verl's agent loop that writes the answers"
    ),
    Derived("USE_KL_LOSS", ("KL_LOSS_COEF", "KL_IN", "KL_COEF"), SCRIPT, "whether the loss has a KL term"),
    Derived("USE_KL_IN_REWARD", ("KL_IN", "KL_COEF"), SCRIPT, "whether the KL is taken off the reward"),
    Derived("KL_CONTROL", ("KL_TARGET",), SCRIPT, "adaptive, or fixed"),
    Derived("USE_REWARD_MODEL", ("REWARD",), SCRIPT, "whether a reward model is served"),
    Derived("REWARD_MODEL_POOL", ("REWARD", "REWARD_MODEL_GPUS"), SCRIPT, "whether it has its own GPUs"),
    Derived("REWARD_MODEL_SHARES", ("REWARD", "REWARD_MODEL_GPUS"), SCRIPT, "whether it frees the GPUs it shares"),
    Derived("REWARD_MODEL_MEMORY", ("REWARD", "REWARD_MODEL_GPUS"), SCRIPT, "share of a GPU's memory for it"),
    Derived("REWARD_KWARGS", ("REWARD", "API_REWARD_CONFIG", "ON_FAILURE"), SCRIPT, "arguments of the reward function"),
    Derived("VERL_TRAINER_MODE", ("TRAINER_MODE",), SCRIPT, "verl's name of it"),
    Derived("PARAMETER_SYNC_STEP", ("BATCH_SIZE", "MINI_BATCH_SIZE"), SCRIPT, "updates between two weight syncs"),
    Derived("CHECKPOINT_BACKEND", ("TRAINER_MODE", "DEVICE"), SCRIPT, "what carries weights to GPUs that only answer"),
    Derived("SELF_PLAY", ("SELF_PLAY_ROUNDS", "HARVEST_PAIRS"), SCRIPT, "whether rounds are run, stage by stage"),
    Derived("RUN_DIR", ("EXPERIMENT_NAME",), CONFIG, "the folder of the run"),
    Derived("MAX_NUM_SEQS", ("GPU_MEMORY_UTILIZATION",), CONFIG, "answers that the engine decodes at once"),
    Derived("ENFORCE_EAGER", ("MODEL_PATH",), CONFIG, "true for small models: no CUDA graphs"),
    Derived("DISABLE_LOG_STATS", ("PROMETHEUS",), CONFIG, "whether the rollout engine counts nothing"),
    Derived("AGENT_WORKERS", ("N_GPUS",), CONFIG, "processes that prepare prompts and store answers"),
    Derived("REWARD_WORKERS", ("N_GPUS", "REWARD"), CONFIG, "processes that call the reward function"),
    Derived("STORAGE_UNITS", ("N_GPUS",), CONFIG, "TransferQueue's processes that hold samples"),
    Derived("RAY_CPUS", ("N_GPUS",), CONFIG, "CPUs that Ray may use"),
    Derived("ALGORITHM", (), PROCESS, "the folder of the train.sh"),
    Derived(
        "VERL_EXT",
        ("DEVICE", "ROLLOUT_ENGINE", "ATTENTION", "TOOLS_PATH", "ENV_PATH"),
        PROCESS,
        "parts of common/verl_ext to load",
    ),
    Derived("VERL_PLATFORM", ("DEVICE",), LIBRARY, "cpu on the CPU (read by verl)"),
    Derived("VERL_USE_EXTERNAL_MODULES", ("DEVICE", "ROLLOUT_ENGINE"), LIBRARY, "the kit's extensions (read by verl)"),
    Derived("OMP_WAIT_POLICY", ("DEVICE",), LIBRARY, "waiting threads sleep"),
    Derived("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", ("DEVICE",), LIBRARY, "Ray leaves the GPU variables alone"),
    Derived("RAY_ADDRESS", (), LIBRARY, "local: Ray starts its own cluster"),
    Derived("VLLM_CPU_KVCACHE_SPACE", ("ROLLOUT_ENGINE",), LIBRARY, "GiB of vLLM's cache on the CPU"),
    Derived("VLLM_CPU_OMP_THREADS_BIND", ("TENSOR_PARALLEL_SIZE",), LIBRARY, "cores of each of vLLM's workers"),
    Derived("VLLM_NO_USAGE_STATS", ("ROLLOUT_ENGINE",), LIBRARY, "vLLM reports nothing home"),
    Derived("TORCHDYNAMO_DISABLE", ("ROLLOUT_ENGINE",), LIBRARY, "no Inductor on the CPU"),
    Derived("RESUME_FROM", ("RESUME", "EXPERIMENT_NAME"), LAUNCHER, "the folder of RESUME_PATH, without quotes"),
    Derived("READY_DATA", ("TRAIN_DATA", "VAL_DATA"), LAUNCHER, "where the preflight put converted data"),
    Derived("KNOBS_JSON", (), LAUNCHER, "the knobs as resolved"),
    Derived("KNOBS_AUTO", (), LAUNCHER, "names of the knobs that were auto"),
    Derived("NUMBERS_TO_TRY", (), LAUNCHER, "knobs with values to try after a failure, by its cause"),
)
# Knobs that the trainer's processes read from the environment. All others end with the command: LAM, BETA or DEVICE are
# names that another program might read as its own.
PROCESS_KNOBS = (
    *("SEED", "NNODES", "ALGORITHM_PATH", "TOOL_TIMEOUT", "ENV_PATH", "ENV_TIMEOUT", "WANDB_ENTITY", "WANDB_PROJECT"),
    *("LR_SCHEDULER", "VALUE_LOSS_COEF", "VAL_METRICS", "PROMETHEUS"),
)


def names(*readers: str) -> tuple[str, ...]:
    """The variables that some readers read; all without one."""
    return tuple(one.name for one in DERIVED if not readers or one.reader in readers)


# What command.sh exports to run again as it is; never a secret.
COMMAND_VARIABLES = ("PYTHONPATH", *names(CONFIG, PROCESS, LIBRARY), *PROCESS_KNOBS)
# What a stage of self-play must not inherit from the whole run: it makes its own.
OF_ONE_LAUNCH = (*names(SCRIPT, CONFIG, PROCESS, LAUNCHER), "VERL_PLATFORM", "VERL_USE_EXTERNAL_MODULES")
