"""The model card of a run: what it was trained on and how, its curve, before and after, and nothing private.

Form: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from common import __version__
from common.checkpoints.selected import selected_step
from common.intervals import mean_interval, wilson_interval
from common.metrics.names import friendly
from common.run_dir import read_metrics, read_run
from common.small_files import read_json_object

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
METHODS = {
    "sft": "supervised fine-tuning",
    "dpo": "preference optimisation",
    "ppo": "PPO",
    "grpo": "GRPO",
    "gspo": "GSPO",
}
# Knobs that say where something lies, whose it is, or what it is called: nobody else's business.
PRIVATE = re.compile(
    r"PATH|DATA|DIR|FILE|FUNC|WANDB|KEY|TOKEN|SECRET|PASSWORD|URL|HOST|ADDR|ENTITY|PROJECT|NAME|RESUME"
)
QUIET = {"", "auto", "none", "None", "null"}
SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{30,}|\bms-[0-9a-f-]{30,}"
    r"|\b[0-9a-f]{40}\b(?=.*wandb)|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


@dataclass(frozen=True)
class About:
    """What a card says beside the run.

    Args:
        repo: ``user/name``.
        base: Hub id of the base model, or its name.
        licence: Of the base model, which holds for what was made of it.
        is_adapter: The weights are a LoRA adapter.
        has_curve: ``metrics.png`` lies beside.
    """

    repo: str
    base: str
    licence: str
    is_adapter: bool
    has_curve: bool


def write_card(run_dir: Path, about: About) -> str:
    """The text of README.md.

    Args:
        run_dir: The run.
        about: The rest.
    """
    run = read_run(run_dir)
    method = METHODS.get(run.get("algorithm", ""), run.get("algorithm", "training"))
    parts = [_front(run, about), f"# {about.repo.split('/')[-1]}\n"]
    what = "A LoRA adapter of" if about.is_adapter else "Made of"
    parts.append(f"{what} {_linked(about.base)} by {method}, with verl {run.get('versions', {}).get('verl', '')}.\n")
    parts.append(_before_and_after(run_dir))
    parts.append(_benchmarks(run_dir))
    if about.has_curve:
        parts.append("## Curves\n\n![Metrics of the training, by step](metrics.png)\n")
    parts.append(_training(run))
    parts.append(_usage(about))
    licence = f"The base model's licence, {about.licence}, holds for this model too.\n"
    parts.append(f"## Licence\n\n{licence}")
    return "\n".join(part for part in parts if part)


def check_private(text: str, environment: Mapping[str, str], run_dir: Path) -> None:
    """See that nothing secret is in a text that is to be published.

    Raises:
        ValueError: If there is, with what kind of thing it is and not the thing.
    """
    found = SECRETS.search(text)
    if found:
        raise ValueError(f"something like a key stands in what would be published: {found[0][:6]}...; remove it")
    for name, value in environment.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSW", name) and len(value) >= 8 and value in text:
            raise ValueError(f"the value of {name} stands in what would be published; remove it")
    for place in {str(Path.home()), str(run_dir.resolve().parent)} - {"/"}:
        if re.search(re.escape(place) + r"(?![\w-])", text):
            raise ValueError(f"a path of this machine, {place}, stands in what would be published; remove it")


def _front(run: Mapping[str, Any], about: About) -> str:
    lines = ["---", f"license: {json.dumps(about.licence)}"]
    if HUB_ID.fullmatch(about.base):
        lines.append(f"base_model: {json.dumps(about.base)}")
        lines.append(f"base_model_relation: {'adapter' if about.is_adapter else 'finetune'}")
    lines += [f"library_name: {'peft' if about.is_adapter else 'transformers'}", "pipeline_tag: text-generation"]
    sets = [name for name in _data_names(run, "train") if HUB_ID.fullmatch(name)]
    lines += [f"datasets: {json.dumps(sets)}"] if sets else []
    lines += [f"tags: {json.dumps(['verl', run.get('algorithm', 'training')])}", "---", ""]
    return "\n".join(lines)


def _linked(base: str) -> str:
    return f"[{base}](https://huggingface.co/{base})" if HUB_ID.fullmatch(base) else base


def _data_names(run: Mapping[str, Any], kind: str) -> list[str]:
    """Names of data files without where they lie; hub ids as they are."""
    files = (run.get("data") or {}).get(kind) or []
    return [file if HUB_ID.fullmatch(file) and not Path(file).exists() else Path(file).name for file in files if file]


def _training(run: Mapping[str, Any]) -> str:
    knobs = {name: str(value) for name, value in sorted((run.get("knobs") or {}).items()) if _is_public(name, value)}
    lines = ["## Training", "", f"- method: {run.get('algorithm', 'unknown')}"]
    lines += [f"- data: {', '.join(_data_names(run, 'train')) or 'unknown'}"]
    lines += [f"- hardware: {_hardware(run)}", f"- training kit {__version__}, {_versions(run)}", ""]
    if knobs:
        lines += [
            "| knob | value |",
            "| --- | --- |",
            *(f"| `{name}` | `{value}` |" for name, value in knobs.items()),
            "",
        ]
    return "\n".join(lines)


def _is_public(name: str, value: Any) -> bool:
    text = str(value)
    return not PRIVATE.search(name) and text not in QUIET and not re.search(r"[/\\@|\n`]|://", text) and len(text) < 80


def _hardware(run: Mapping[str, Any]) -> str:
    knobs = run.get("knobs") or {}
    count, machines = knobs.get("N_GPUS") or "?", knobs.get("NNODES") or knobs.get("N_NODES") or "1"
    what = "processes on a CPU" if knobs.get("DEVICE") == "cpu" else "GPUs"
    several = "" if str(machines) == "1" else "s"
    return f"{count} {what} on {machines} machine{several}"


def _versions(run: Mapping[str, Any]) -> str:
    found = run.get("versions") or {}
    return ", ".join(
        f"{name} {found[name]}" for name in ("verl", "torch", "transformers", "vllm", "sglang") if found.get(name)
    )


def _before_and_after(run_dir: Path) -> str:
    """The first and the last validation, with intervals where the samples are there."""
    last = selected_step(run_dir)  # the weights are those of this step; later scores are another model's
    found = ((record["step"], record["data"]) for record in read_metrics(run_dir))
    scored = [(step, data) for step, data in found if "val_score" in friendly(data) and (last is None or step <= last)]
    if len(scored) < 2:
        return ""
    lines = [
        "## Before and after",
        "",
        "| step | validation score | 95% interval | answers |",
        "| --- | --- | --- | --- |",
    ]
    for step, data in (scored[0], scored[-1]):
        prompts = _samples(run_dir / "validation" / f"{step}.jsonl")
        around = interval(prompts) if len(_sources(data)) < 2 else None
        shown = f"{around[0]:.3f} to {around[1]:.3f}" if around else "not known"
        count = sum(map(len, prompts)) or "not known"
        lines.append(f"| {step} | {friendly(data)['val_score']:.3f} | {shown} | {count} |")
    return "\n".join([*lines, ""])


def _sources(data: Mapping[str, Any]) -> set[str]:
    """Data sources of a validation, as verl names them: ``val-core/SOURCE/acc/mean@1``.

    The score is the mean of theirs, and the samples do not say whose they are.
    """
    return {name.rsplit("/", 2)[0].split("/", 1)[1] for name in data if name.startswith("val-") and name.count("/") > 2}


def _samples(path: Path) -> list[list[float]]:
    """What counts of the answers to each prompt of a validation: ``acc`` where the reward gives it, else ``score``."""
    if not path.is_file():
        return []
    found: dict[str, list[float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        value = row.get("acc", row.get("score"))
        if isinstance(value, int | float) and math.isfinite(value):
            found.setdefault(str(row.get("input", number)), []).append(float(value))
    return list(found.values())


def interval(prompts: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """95% interval of a mean, None where one prompt or none cannot give it.

    Args:
        prompts: Values of the answers to each prompt; those to one prompt are not independent of each other.
    """
    if len(prompts) < 2:
        return None
    is_binary = all(value in (0.0, 1.0) for values in prompts for value in values)
    means = [mean(values) for values in prompts]
    if is_binary and all(len(values) == 1 for values in prompts):
        return wilson_interval(round(sum(means)), len(means))
    low, high = mean_interval(means)
    return (max(0.0, low), min(1.0, high)) if is_binary else (low, high)


def _benchmarks(run_dir: Path) -> str:
    """Scores that ``test.sh --suite`` left in the run; of two files the later one counts."""
    rows: dict[tuple[str, str], str] = {}
    files = sorted((run_dir / "evaluation").glob("*.summary.json"), key=lambda file: file.stat().st_mtime)
    for file in files:
        for name, one in read_json_object(file).items():
            for model in one.get("models", ()) if isinstance(one, dict) else ():
                if model.get("accuracy") is not None:
                    shown = f"{model['accuracy']:.1%} | {model['low']:.1%} to {model['high']:.1%} | {model['rows']}"
                    label = Path(str(model["name"])).name
                    rows[name, label] = f"| {one.get('settings', {}).get('set', name)} | {label} | {shown} |"
    if not rows:
        return ""
    head = [
        "## Benchmarks",
        "",
        "| set | model | score | 95% interval | questions |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows.values(), ""])


def _usage(about: About) -> str:
    if about.is_adapter:
        load = "from peft import AutoPeftModelForCausalLM\n\n"
        load += f'model = AutoPeftModelForCausalLM.from_pretrained("{about.repo}")'
    else:
        load = f'from transformers import pipeline\n\nchat = pipeline("text-generation", "{about.repo}")'
        load += '\nprint(chat([{"role": "user", "content": "Hello"}])[0]["generated_text"][-1]["content"])'
    return f"## Use\n\n```python\n{load}\n```\n"
