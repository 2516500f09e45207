"""What a train.sh exports once its knobs are resolved."""

from __future__ import annotations

import json
import re
from pathlib import Path

from common.attention import PADDED
from common.plan.advice import by_cause
from common.plan.cores import ray_cores
from common.preflight import machines, optimizers, trackers, trainer_mode
from common.preflight.knobs import SUPERVISED, Knobs

TEXT_KNOBS = ("MODEL_PATH", "CRITIC_MODEL_PATH", "REWARD_FUNC_PATH", "WANDB_PROJECT", "WANDB_RUN_NAME")
OPTIONAL_TEXT_KNOBS = ("REFERENCE_MODEL_PATH", "LORA_ADAPTER_PATH", "TOOLS_PATH")  # empty: null
KIT_SCHEDULES = ("linear", "wsd", "plateau")  # verl has none of them: common/verl_ext/schedule.py
REWARD_SHARE = 0.3  # of each GPU, for a reward model on the GPUs that train
EAGER_BELOW = 200_000_000  # parameters
FEWEST_SEQUENCES, MOST_SEQUENCES = 256, 1024  # that the engine decodes at once; verl's default, vLLM's for large GPUs
PLAIN = re.compile(r"[A-Za-z0-9_./:@%+-]+")  # needs no quotes in a Hydra override
OTHER_TYPE = re.compile(r"null|true|false|[+-]?(nan|inf|[0-9_.]+(e[+-]?[0-9_]+)?)", re.IGNORECASE)
VLLM_ON_CPU = {  # cache of 1 GiB; no Inductor, which compiles longer than a small model runs; nothing sent home
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def hydra_quote(text: str) -> str:
    """A string as a value in a Hydra override that arrives as this very string.

    It is quoted where Hydra's grammar asks for it or would make a number, a boolean or null of it. `${` is escaped for
    OmegaConf, which would otherwise put in what the braces name, a secret of the environment among it. Backslashes
    count only before a quote, before `${` and at the end.
    """
    if PLAIN.fullmatch(text) and not OTHER_TYPE.fullmatch(text):
        return text
    text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)
    text = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text)
    text = re.sub(r"\\+\Z", lambda found: found[0] * 2, text)
    return f"'{text}'"


def hydra_list(texts: list[str]) -> str:
    """Strings as a list in a Hydra override."""
    return "[" + ",".join(hydra_quote(text) for text in texts) + "]"


def write_resolved(path: Path, knobs: Knobs, run_dir: Path) -> None:
    """Write what train.sh exports: the knobs, and what follows from them (`derived.DERIVED`)."""
    values = dict(knobs.values)
    for name in TEXT_KNOBS:
        if values.get(name):
            values[name] = hydra_quote(values[name])
    for name in OPTIONAL_TEXT_KNOBS:
        if name in values:
            values[name] = hydra_quote(values[name]) if values[name] else "null"
    if "LORA_TARGETS" in values and values["LORA_TARGETS"] != "all-linear":
        values["LORA_TARGETS"] = hydra_list([part.strip() for part in values["LORA_TARGETS"].split(",")])
    if "TOOLS_PATH" in values:
        values["AGENT_LOOP"] = agent_loop(knobs)
    if "REWARD" in values:
        served = values["REWARD"] == "model"
        values["USE_REWARD_MODEL"] = str(served).lower()
        values["REWARD_MODEL_PATH"] = hydra_quote(values["REWARD_MODEL_PATH"]) if served else "null"
        own = served and values["REWARD_MODEL_GPUS"] != "0"
        values["REWARD_MODEL_POOL"], values["REWARD_MODEL_SHARES"] = str(own).lower(), str(not own).lower()
        values["REWARD_MODEL_MEMORY"] = "0.8" if own else str(REWARD_SHARE)  # share of a GPU for its weights and cache
        values["REWARD_FUNC_PATH"] = values["REWARD_FUNC_PATH"] or "null"
        pairs = (f"{name}: {hydra_quote(value)}" for name, value in knobs.reward_kwargs.items())
        values["REWARD_KWARGS"] = "{" + ", ".join(pairs) + "}"
    if "TRAINER_MODE" in values:
        values.update(trainer_mode.derived(knobs))
    if "KL_IN" in values:
        with_kl = bool(knobs.decimal("KL_COEF"))
        values["USE_KL_LOSS"] = str(with_kl and values["KL_IN"] == "loss").lower()
        values["USE_KL_IN_REWARD"] = str(with_kl and values["KL_IN"] == "reward").lower()
        values["KL_CONTROL"] = "adaptive" if knobs.decimal("KL_TARGET") else "fixed"
    for name in ("TRAIN_DATA", "VAL_DATA"):
        values[name] = hydra_list(values[name].split(","))
    # Where verl leaves out long prompts an epoch has fewer steps than counted; TOTAL_STEPS ends the run all the same.
    values["EPOCH_LIMIT"] = str(knobs.number("TOTAL_EPOCHS") + (knobs.algorithm not in SUPERVISED))
    # verl has two switches: states wait on the host between phases, or stay there for good.
    values["OFFLOAD"] = str(knobs["OFFLOAD"] == "true").lower()
    values["OFFLOAD_POLICY"] = str(knobs["OFFLOAD"] == "full").lower()
    # Always said: verl's own search would take a checkpoint that is torn.
    values["RESUME_MODE"] = "resume_path" if knobs.resume_from else "disable"
    values["RESUME_FROM"] = str(knobs.resume_from or "")
    values["RESUME_PATH"] = hydra_quote(values["RESUME_FROM"]) if knobs.resume_from else "null"
    values |= machines.variables(knobs)
    if "DATA_FORM" in values:
        values["DATASET"] = "TextDataset" if values["DATA_FORM"] == "text" else "SFTDataset"
    if "DATA_ORDER" in values:
        values["SHUFFLE"] = str(values["DATA_ORDER"] != "difficulty").lower()
    values |= optimizers.variables(knobs)
    values["RUN_DIR"] = str(run_dir)
    values["READY_DATA"] = str(knobs.data.folder or "") if knobs.data else ""
    values["ALGORITHM"] = knobs.algorithm
    own = values["LR_SCHEDULER"] in KIT_SCHEDULES
    values["VERL_LR_SCHEDULER"] = "constant" if own else values["LR_SCHEDULER"]
    if "PROMETHEUS" in values:  # verl refuses metrics of servers that count nothing
        values["DISABLE_LOG_STATS"] = str(values["PROMETHEUS"] == "false").lower()
    values["LOGGERS"] = trackers.loggers(knobs)
    if "KL_LOSS_COEF" in values:  # without a KL there is no reference model to hold in memory
        values["USE_KL_LOSS"] = str(bool(knobs.decimal("KL_LOSS_COEF"))).lower()
    values["REMOVE_PADDING"] = str(knobs["ATTENTION"] not in PADDED).lower()  # the others know where a sequence ends
    values["KNOBS_JSON"] = json.dumps(knobs.values, ensure_ascii=False)
    values["KNOBS_AUTO"] = ",".join(knobs.reasons)
    values["NUMBERS_TO_TRY"] = json.dumps(by_cause(knobs.values, knobs.plan.setup if knobs.plan else None))
    values.update(process_environment(knobs))
    path.write_bytes(b"".join(f"{name}\0{value}\0".encode() for name, value in values.items()))


def agent_loop(knobs: Knobs) -> str:
    """The verl agent loop that writes the answers: a turn, several, an episode, or ReMax's with a greedy one."""
    greedy = knobs.values.get("ADV_ESTIMATOR") == "remax"
    if knobs.values.get("ENV_PATH"):
        return "kit_environment_agent"
    if knobs["TOOLS_PATH"]:
        return "remax_tool_agent" if greedy else "kit_tool_agent"
    return "remax_agent" if greedy else "single_turn_agent"


def verl_parts(knobs: Knobs) -> list[str]:
    """The parts of `common.verl_ext.loading.load` that the run needs."""
    on_cpu, engine = knobs["DEVICE"] == "cpu", knobs.values.get("ROLLOUT_ENGINE")
    parts = {
        "cpu": on_cpu,
        "hf": engine == "hf",
        "vllm_cpu": on_cpu and engine == "vllm",
        "hf_reward": engine == "hf" and knobs.values.get("REWARD") == "model",
        "varlen": knobs["ATTENTION"] == "sdpa_varlen",
        "padded": knobs["ATTENTION"] in PADDED,
        "tools": bool(knobs.values.get("TOOLS_PATH")),
        "environment": bool(knobs.values.get("ENV_PATH")),
        "remax": knobs.values.get("ADV_ESTIMATOR") == "remax",
        "user": bool(knobs.values.get("ALGORITHM_PATH")),
        "schedule": knobs["LR_SCHEDULER"] in KIT_SCHEDULES,
        "value_coef": knobs.decimal("VALUE_LOSS_COEF") not in (None, 1.0),
        "separate": knobs.values.get("TRAINER_MODE") == "separate",
    }
    return [part for part, needed in parts.items() if needed]


def process_environment(knobs: Knobs) -> dict[str, str]:
    """Environment variables that load the kit's extensions of verl in each of its processes."""
    environment = {}
    if knobs["DEVICE"] == "cpu":
        environment["VERL_PLATFORM"] = "cpu"
        # Threads that wait by spinning stall each other when another program wants a core too.
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        if knobs.values.get("ROLLOUT_ENGINE") == "vllm":
            environment |= VLLM_ON_CPU | omp_binding(knobs)
        # Ray would hide "all GPUs" from actors that ask for none, and warn about it.
        environment["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    if knobs.values.get("REWARD_FUNC_PATH", "").endswith("ppo/api_reward.py"):
        environment["REWARD_WORKERS"] = "1"  # its limits on calls a minute hold within a process
    if knobs["DEVICE"] == "cuda" and knobs.algorithm not in SUPERVISED:
        own = trainer_mode.gpus_beside(knobs)
        counts = ray_cores(knobs.cores, max(1, knobs.number("N_GPUS")) + own)
        # An API's single reward worker, set above, stays.
        environment = counts.environment | engine_environment(knobs) | environment
    if knobs.number("NNODES") == 1 or knobs.algorithm in SUPERVISED:
        environment["RAY_ADDRESS"] = "local"  # its own Ray, not one that happens to run on this host
    environment["VERL_USE_EXTERNAL_MODULES"] = "common.verl_ext.plugin"
    return {**environment, "VERL_EXT": ",".join(verl_parts(knobs))}


def omp_binding(knobs: Knobs) -> dict[str, str]:
    """Cores of each of vLLM's workers, where several share a model; its own choice needs a NUMA node for each."""
    size = knobs.number("TENSOR_PARALLEL_SIZE")
    if size < 2:
        return {}
    cores = max(1, (knobs.cores or 1) // size)
    first = [min(number * cores, max(0, (knobs.cores or 1) - cores)) for number in range(size)]
    return {"VLLM_CPU_OMP_THREADS_BIND": "|".join(f"{at}-{at + cores - 1}" for at in first)}


def engine_environment(knobs: Knobs) -> dict[str, str]:
    """Variables that common/config/rl/hardware/cuda.yaml reads for the rollout engine; nothing without a plan."""
    if knobs.plan is None:
        return {}
    setup, memory = knobs.plan.setup, knobs.plan.memory
    answers = min(setup.answers * setup.tensor_parallel, memory.kv_tokens // max(1, setup.sequence))
    # To compile and to capture graphs takes vLLM 30-90 s at each start, which a small model never earns back.
    eager = setup.model.parameters < EAGER_BELOW
    return {
        "MAX_NUM_SEQS": str(min(max(answers, FEWEST_SEQUENCES), MOST_SEQUENCES)),
        "ENFORCE_EAGER": str(eager).lower(),
    }
