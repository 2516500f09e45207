"""All checks of a launch, in the order in which later ones need earlier ones."""

from __future__ import annotations

import os
from pathlib import Path

from common.plan.cores import CPUS_PER_GPU
from common.preflight import (
    auto,
    command,
    data,
    data_checks,
    extensions,
    launch_data,
    method,
    rendering,
    reward,
    self_play,
    size_checks,
    sizing,
)
from common.preflight.config_check import ConfigCheck
from common.preflight.config_checks import check_config
from common.preflight.dead_keys import dead_arguments
from common.preflight.environment import check_environment
from common.preflight.extensions import find_path
from common.preflight.fitness import check_fitness
from common.preflight.knobs import ROOT, SUPERVISED, Knobs, knobs_of_keys
from common.preflight.machine import Machine, has_package
from common.preflight.model import DEMO, DEMO_MODEL_DIR, ModelInfo, read_model
from common.preflight.ppo import check_critic, resolve_ppo
from common.preflight.rates import check_rate
from common.preflight.reward_source import check_reward_model, choose_function
from common.preflight.run_name import OUTPUTS, choose_run
from common.preflight.verl_check import VerlCheck


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
    auto.resolve_logging(knobs)
    if everything:
        check_environment(knobs, machine, model, OUTPUTS)
        if run_dir and not unreadable:
            check_command(knobs, model, run_dir, verl)
    return run_dir


def prepare(knobs: Knobs, machine: Machine, everything: bool) -> None:
    """Hardware, model, data, batch, plan and reward, in the order in which later ones need earlier ones."""
    auto.resolve_hardware(knobs, machine)
    check_hardware(knobs, machine)
    model = knobs.model = check_model(knobs, weights=not machine.planned)
    check_fitness(knobs, model)
    auto.resolve_attention(knobs, model)
    train, validation = launch_data.make_ready(knobs)
    (train, pairs), (validation, _) = (self_play.split_prompts(knobs, files) for files in (train, validation))
    rows = sum(file.rows for file in train)
    tools = extensions.read_tools(knobs, model)
    measured = rendering.measure(knobs, model, {"TRAIN_DATA": train, "VAL_DATA": validation}, tools)
    auto.resolve_lengths(knobs, model, measured.lengths, measured.answers)
    rendering.check_taught(knobs, measured)
    if knobs.algorithm not in SUPERVISED:  # verl's RL trainers leave out prompts that are too long
        rows = int(rows * auto.share_that_fits(measured.lengths, knobs.number("MAX_PROMPT_LENGTH")))
    extensions.check_adapter(knobs)
    extensions.check_targets(knobs, model)
    auto.resolve_optimisation(knobs, model)
    own = extensions.read_algorithm(knobs)
    method.resolve_method(knobs)
    method.check_method(knobs, own)
    if rows:
        auto.resolve_batch(knobs, model, rows)
        auto.resolve_schedule(knobs, model, rows)
    resolve_ppo(knobs)
    if "CRITIC_MODEL_PATH" in knobs:
        check_critic(knobs, model, model_folder(knobs["CRITIC_MODEL_PATH"]))
    auto.resolve_reference(knobs)
    check_reference(knobs, model)
    knobs.plan = sizing.plan_run(knobs, model, machine, auto.longest_group(knobs))
    auto.resolve_without_plan(knobs)
    if rows:
        size_checks.check_batch(knobs, rows, sum(file.rows for file in validation))
    size_checks.check_parallel(knobs)
    size_checks.check_context(knobs, model)
    self_play.check_self_play(knobs, rows, pairs, sum(file.rows for file in validation))
    if everything:
        check_reward(knobs, train)
        data_checks.check_leak(knobs, train, validation)
    check_wandb(knobs)
    check_rate(knobs, model)


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
    own = bool(knobs.values.get("ALGORITHM_PATH"))
    check = ConfigCheck(
        config, knobs_of_keys(ROOT / knobs.algorithm / "train.sh"), own, launch_data.coming(knobs, run_dir)
    )
    text = model.config.get("text_config", model.config) if model else {}
    check_config(check, text.get("num_attention_heads", 0))
    named = {error.partition("=")[0] for error in knobs.errors}
    knobs.errors += [error for error in check.errors if error.partition("=")[0] not in named]
    knobs.warnings += check.warnings
    if knobs.errors or verl is None:
        return
    try:
        knobs.errors += verl.finish(config, model.config if model else {})
    except TimeoutError as error:
        knobs.warnings.append(f"{error}, so the run starts without it; is this host busy?")
    else:
        knobs.facts.append(("verl", "0.9.1", "its own validation has " + ("failed" if knobs.errors else "passed")))


def check_hardware(knobs: Knobs, machine: Machine) -> None:
    """GPUs asked for against GPUs there are; the rollout engine against the device."""
    wanted, there = knobs.number("N_GPUS"), len(machine.gpu_memory)
    on_cpu = knobs["DEVICE"] == "cpu"
    if machine.gpu_problem and not (on_cpu and "DEVICE" not in knobs.reasons):
        knobs.errors.append(f"DEVICE={knobs['DEVICE']}: {machine.gpu_problem}; mend the driver, or set DEVICE=cpu")
    elif not on_cpu and not there:
        knobs.errors.append("DEVICE=cuda: no NVIDIA GPU is visible; set DEVICE=cpu, or check nvidia-smi")
    elif not on_cpu and wanted > there:
        knobs.errors.append(
            f"N_GPUS={wanted}: {there} GPU{'s are' if there > 1 else ' is'} visible; set N_GPUS={there}"
        )
    elif on_cpu and wanted > machine.cores:
        knobs.errors.append(
            f"N_GPUS={wanted}: on the CPU this is the number of training processes, and there are {machine.cores} "
            f"cores; set N_GPUS={machine.cores} or less"
        )
    if not on_cpu and machine.cores < CPUS_PER_GPU * wanted:
        knobs.warnings.append(
            f"N_GPUS={wanted}: {machine.cores} CPU cores are few for it, 4 for each GPU keep it busy; expect slow steps"
        )
    own = knobs.number("REWARD_MODEL_GPUS") if knobs.values.get("REWARD") == "model" else 0
    if not on_cpu and wanted <= there < wanted + own:
        knobs.errors.append(
            f"REWARD_MODEL_GPUS={own}: with N_GPUS={wanted} that is {wanted + own} GPUs and {there} are visible; lower "
            "one of the two"
        )
    if knobs.number("NNODES") > 1 and not machine.planned:
        knobs.errors.append(f"NNODES={knobs['NNODES']}: training over several nodes is not there yet; set NNODES=1")
    if on_cpu:
        knobs.warnings.append(
            "no GPU is used: verl's own trainer runs on the CPU, to try and test a run before paying for a GPU; "
            "it is slow with models above some hundred million parameters"
        )
    engine = knobs.values.get("ROLLOUT_ENGINE")
    if on_cpu and engine in ("vllm", "sglang"):
        knobs.errors.append(f"ROLLOUT_ENGINE={engine}: needs a GPU; set ROLLOUT_ENGINE=hf")
    if knobs["ATTENTION"] == "flash_attention_2" and on_cpu:
        knobs.errors.append("ATTENTION=flash_attention_2: needs a GPU; set ATTENTION=sdpa_varlen, or sdpa")
    elif knobs["ATTENTION"] == "flash_attention_2" and not (machine.planned or has_package("flash_attn")):
        knobs.errors.append("ATTENTION=flash_attention_2: flash-attn is not installed; set sdpa_varlen, or install it")


def check_model(knobs: Knobs, weights: bool = True) -> ModelInfo | None:
    """Find the model and read what is needed of it."""
    given = knobs["MODEL_PATH"]
    try:
        model = read_model(model_folder(given), weights)
    except (ValueError, OSError) as error:
        knobs.errors.append(str(error))
        return None
    knobs.values["MODEL_PATH"] = model.path
    if not model.config:
        knobs.warnings.append(f"MODEL_PATH={given}: not on this machine; verl will download it from the hub")
    elif model.chat_template is None:
        knobs.errors.append(
            f"MODEL_PATH={given}: its tokenizer has no chat template; use the instruct version of the model, or add "
            "chat_template to its tokenizer_config.json"
        )
    return model


def model_folder(given: str) -> str:
    """The folder of a model as given in a knob: found from where the user is, ``demo``, or left as it is (an id)."""
    return str(DEMO_MODEL_DIR) if given == DEMO else str(find_path(given) or given)


def check_reference(knobs: Knobs, model: ModelInfo | None) -> None:
    """The reference against the loss, the adapter and the architecture of the model."""
    if "REFERENCE" not in knobs:
        return
    reference, path = knobs["REFERENCE"], knobs["REFERENCE_MODEL_PATH"]
    if reference == "adapter" and not knobs.number("LORA_RANK"):
        knobs.errors.append("REFERENCE=adapter: needs LoRA; set LORA_RANK above 0, or REFERENCE=precompute")
    if reference == "adapter" and path:
        knobs.errors.append(f"REFERENCE_MODEL_PATH={path}: REFERENCE=adapter uses the model itself; set one of the two")
    if knobs["LOSS_TYPE"] == "robust" and knobs.decimal("LABEL_SMOOTHING") == 0:
        knobs.warnings.append("LOSS_TYPE=robust with LABEL_SMOOTHING=0 is the sigmoid loss; set LABEL_SMOOTHING=0.1")
    if not path:
        return
    try:
        other = read_model(model_folder(path))
    except (ValueError, OSError) as error:
        knobs.errors.append(str(error).replace("MODEL_PATH=", "REFERENCE_MODEL_PATH=", 1))
        return
    knobs.values["REFERENCE_MODEL_PATH"] = other.path
    if model and model.config and other.config and model.vocabulary != other.vocabulary:
        knobs.errors.append(
            f"REFERENCE_MODEL_PATH={path}: knows {other.vocabulary:,} tokens and the model {model.vocabulary:,}; "
            "use a model of the same family"
        )


def check_reward(knobs: Knobs, files: list[data.DataFile]) -> None:
    """Find out where the reward comes from, and try its function on real rows."""
    if "REWARD_FUNC_PATH" not in knobs:
        return
    knobs.reward_kwargs = choose_function(knobs, find_path)
    check_reward_model(knobs, model_folder)
    served = knobs.values.get("REWARD") == "model"
    if knobs.errors or (served and not knobs["REWARD_FUNC_PATH"]):
        return
    path = find_path(knobs["REWARD_FUNC_PATH"])
    if path is None or not path.is_file():
        knobs.errors.append(f"REWARD_FUNC_PATH={knobs['REWARD_FUNC_PATH']}: no such file")
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
        said = problem.partition("ApiRewardError: ")[2] or problem
        problem = f"API_REWARD_CONFIG={knobs['API_REWARD_CONFIG']}: {said}"
    if problem:
        knobs.errors.append(problem)


def check_wandb(knobs: Knobs) -> None:
    """``USE_WANDB=true`` must not end in a question that nobody answers."""
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if knobs["USE_WANDB"] == "true" and not offline and not auto.wandb_login():
        knobs.errors.append(
            "USE_WANDB=true: you are not logged in; run wandb login, export WANDB_API_KEY, or set WANDB_MODE=offline"
        )
