"""The door to verl: each row of its tables fits the installed verl, and nothing else in the kit replaces a function."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.verl_ext import table
from common.verl_ext.loading import PARTS_OF, PLUGINS
from common.verl_ext.private import PRIVATE, check
from common.verl_ext.source import SourceChanged, expect, find
from common.verl_ext.table import REPLACEMENTS, Replacement
from common.verl_ext.version import installed, pinned
from tests.conftest import ROOT

CODE = ("common", "monitor", "sft", "dpo", "grpo", "gspo", "ppo", "benchmarks", "requirements", "training_platform")
LIBRARIES = {"verl", "torch", "ray", "transfer_queue", "transformers", "peft", "vllm", "sglang", "torchdata", "hydra"}
REFERENCE = re.compile(r"[\w/]+\.py:\d+")
ids = [f"{row.module}-{row.part}" for row in REPLACEMENTS]


def sources() -> list[Path]:
    return sorted(file for folder in CODE for file in (ROOT / folder).rglob("*.py"))


# ---- the tables against the installed verl --------------------------------------------------------------------------


@pytest.mark.parametrize("row", REPLACEMENTS, ids=ids)
def test_each_target_is_the_code_that_was_read(row):
    if row.is_installed:
        expect(row.read or row.target, row.expected, why=row.module)
    else:
        assert row.target.startswith("vllm") and installed("vllm") == "none"


@pytest.mark.parametrize("row", REPLACEMENTS, ids=ids)
def test_each_row_says_what_where_why_and_until_when(row):
    assert len(row.why) > 40 and row.until.endswith(".")
    assert row.doc.split("\n\n")[1].startswith("Target: `" + row.target.partition(":")[2] + "`")
    assert "\nUpstream: " in row.doc
    places = set()
    if not row.only_with:  # those may be of a library that is not installed, or of several versions
        places = {find(row.read or row.target)} | ({find(row.target)} if row.target.startswith("verl") else set())
    assert set(REFERENCE.findall(row.doc)) == {f"{place.file}:{place.line}" for place in places}


@pytest.mark.parametrize("row", PRIVATE, ids=lambda row: row.target.partition(":")[2])
def test_each_inner_part_is_as_it_was_read_and_still_used(row):
    expect(row.target, *row.expected, why=row.why)
    name = row.target.rpartition(".")[2].rpartition(":")[2]
    text = (ROOT / row.by).read_text()
    assert f'private.check("{row.by}")' in text and (row.expected or name in text)


BY_KNOBS = {"hf_reward", "padded", "schedule", "separate", "value_coef", "vllm_cpu"}  # parts of some runs only


def test_a_file_per_row_and_a_row_per_file():
    """Every file that offers a replacement is in the table, each once; every part is asked for somewhere."""
    offering = {file.stem for file in table.FOLDER.glob("*.py") if "\ndef replacement(" in file.read_text()}
    assert sorted(offering) == sorted(row.module for row in REPLACEMENTS)
    known = {part for parts in PARTS_OF.values() for part in parts} | set(PLUGINS)
    known |= BY_KNOBS | {"all", "queue", "queue_on_one_machine", "report", "trainer"}
    assert {row.part for row in REPLACEMENTS} <= known


def test_the_parts_that_the_launcher_names_are_known():
    text = (ROOT / "common" / "preflight" / "resolved.py").read_text()
    named = set(re.findall(r'^        "(\w+)": ', text.partition("def verl_parts")[2].partition("\n\n\n")[0], re.M))
    assert named and named == set(PLUGINS) | BY_KNOBS


def test_the_table_is_printed():
    done = subprocess.run([sys.executable, "-m", "common.verl_ext"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for row in REPLACEMENTS if row.is_installed]
    assert len(rows) >= 17 and all(row.target in done.stdout and row.why in done.stdout for row in rows)
    assert f"verl {installed()} is installed" in done.stdout and "0 of " in done.stdout.splitlines()[-1]


# ---- nothing else replaces a function -------------------------------------------------------------------------------


def library_names(tree: ast.AST) -> dict[str, str]:
    """Names that a file has imported from a library, with where from."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(name.asname or name.name.partition(".")[0]): name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {(name.asname or name.name): f"{node.module}:{name.name}" for name in node.names}
    return {name: source for name, source in names.items() if re.split("[.:]", source)[0] in LIBRARIES}


def stored(node: ast.AST) -> list[ast.expr]:
    """What a statement assigns to or deletes."""
    if isinstance(node, (ast.Assign, ast.Delete)):
        targets = node.targets
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
        targets = [ast.Attribute(node.args[0], "any", ast.Store())]
    else:
        return []
    parts = [part for one in targets for part in (one.elts if isinstance(one, (ast.Tuple, ast.List)) else [one])]
    return [part for part in parts if isinstance(part, (ast.Attribute, ast.Subscript))]


def replaced(text: str) -> list[str]:
    """Assignments of a source to something that it has imported from a library."""
    tree = ast.parse(text)
    names = library_names(tree)
    found = []
    for target in (target for node in ast.walk(tree) for target in stored(node)):
        base = target
        while isinstance(base, (ast.Attribute, ast.Subscript)):
            base = base.value
        if isinstance(base, ast.Name) and base.id in names:
            found.append(names[base.id])
    return found


@pytest.mark.parametrize(
    "text",
    [
        "from verl.utils import model as verl_model\nverl_model.load = 1",
        "from verl.trainer import T\nT.step, T.fit = 1, 2",
        "import torch\ntorch.utils.data.X.__init__ = 1",
        "def f():\n    import ray\n    setattr(ray.util, 'x', 1)",
        "from verl.a import TABLE\nTABLE['x'] = 1",
        "import transfer_queue.a\ndel transfer_queue.a.f",
    ],
)
def test_the_scan_sees_a_replacement(text):
    assert replaced(text)


def test_nothing_outside_the_door_replaces_a_part_of_a_library():
    allowed = {(row.by, row.target) for row in PRIVATE}
    found = {(file.relative_to(ROOT).as_posix(), target) for file in sources() for target in replaced(file.read_text())}
    assert found - allowed == set()
    calls = [file for file in sources() if "setattr(owner, name, new)" in file.read_text()]
    assert calls == [table.FOLDER / "table.py"]


def test_every_override_of_an_inner_method_is_in_the_table():
    """Methods with an underscore in classes of the kit that verl's class has too."""
    guarded = {(row.by, row.target.rpartition(".")[2]) for row in PRIVATE}
    guarded |= {(row.by, text.removeprefix("self.").partition("(")[0]) for row in PRIVATE for text in row.expected}
    seen = 0
    for file in sources():
        tree = ast.parse(file.read_text())
        names = {name: source for name, source in library_names(tree).items() if source.startswith("verl")}
        for node in ast.walk(tree):
            bases = [names[base.id] for base in getattr(node, "bases", ()) if getattr(base, "id", "") in names]
            for method in node.body if bases else ():
                if not isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) or not inner(method.name):
                    continue
                if any(defines(base, method.name) for base in bases):
                    seen += 1
                    assert (file.relative_to(ROOT).as_posix(), method.name) in guarded, f"{file}:{method.lineno}"
    assert seen >= 8


def inner(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defines(target: str, method: str) -> bool:
    try:
        find(f"{target}.{method}")
    except SourceChanged:
        return False
    return True


# ---- how rows are put in --------------------------------------------------------------------------------------------


def test_changed_source_stops_with_the_place_and_what_to_do():
    with pytest.raises(SourceChanged) as caught:
        expect("verl.trainer.ppo.reward:_call_with_kwargs", "return something_else", why="a test")
    message = str(caught.value)
    place = find("verl.trainer.ppo.reward:_call_with_kwargs")
    assert f"{place.file}:{place.line}" in message and "(a test)" in message and "'return something_else'" in message
    assert f"verl=={pinned()}" in message and "docs/upgrading-verl.md" in message


@pytest.mark.parametrize("target", ["verl.trainer.ppo.reward:gone", "verl.gone:f", "nowhere.at_all:f"])
def test_a_target_that_is_gone_stops(target):
    with pytest.raises(SourceChanged, match=re.escape(target)):
        find(target)


def test_an_inner_part_that_changed_stops_the_class_that_needs_it(monkeypatch):
    from dataclasses import replace

    from omegaconf import OmegaConf

    from common.preflight.verl_check import validate
    from common.verl_ext import private

    check("dpo/trainer.py")
    monkeypatch.setattr(private, "PRIVATE", (replace(PRIVATE[1], expected=("another source",)),))
    with pytest.raises(SourceChanged, match="another source"):
        check("dpo/trainer.py")
    assert len(table.problems()) == 1
    said = validate(OmegaConf.create({"engine": {}, "optim": {}, "checkpoint": {}}), {})
    assert any("another source" in error for error in said)  # the preflight says so before the start


def run(code: str, **environment: str) -> str:
    """Run code in a new process; returns the last line that it prints."""
    import os

    plain = {name: value for name, value in os.environ.items() if not name.startswith("VERL_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_verl_loads_the_parts_of_a_run_through_its_own_extension_point():
    """SFT on the CPU: process group, log-probabilities, checkpoints, sampler; nothing of RL; copied names too."""
    code = (
        "import verl.trainer.sft_trainer, torch.utils.data as data, torch.utils.data.distributed as torchs\n"
        "import verl.utils.distributed as d, verl.workers.engine_workers as w, verl.trainer.ppo.reward as r\n"
        "from verl.plugin.platform import get_platform\n"
        "from verl.utils.checkpoint import CheckpointHandler as C\n"
        "import verl.utils.torch_functional as t, common.verl_ext as k\n"
        "ours = [f.__module__.rpartition('.')[2] for f in (d.initialize_global_process_group_ray,\n"
        "  w.initialize_global_process_group_ray, t.logprobs_from_logits_v2, C.save_checkpoint,\n"
        "  C._load_dataloader_state, data.DistributedSampler, verl.trainer.sft_trainer.DistributedSampler)]\n"
        "rows = list(range(8))\n"
        "make = lambda **o: data.DistributedSampler(rows, num_replicas=1, rank=0, **o).seed\n"
        "plain = torchs.DistributedSampler(rows, num_replicas=1, rank=0).seed\n"
        "print(ours, get_platform().device_name, make(), make(seed=3), plain, r._call_with_kwargs.__module__,\n"
        "  data.DistributedSampler is torchs.DistributedSampler, __import__('torch').initial_seed())"
    )
    said = run(
        code,
        VERL_USE_EXTERNAL_MODULES="common.verl_ext.plugin",
        VERL_EXT="cpu",
        VERL_PLATFORM="cpu",
        ALGORITHM="sft",
        SEED="11",
    )
    modules = ["process_group_ray"] * 2 + ["log_probs", "complete_marker", "epoch_end"] + ["seeded_sampler"] * 2
    assert said == f"{modules} cpu 11 3 0 verl.trainer.ppo.reward False 11"


def test_a_row_for_some_processes_waits_for_their_module(monkeypatch):
    import types

    library = types.ModuleType("library")
    library.flag = True
    monkeypatch.setitem(sys.modules, "library", library)
    row = Replacement("library:flag", "", "vllm_onednn", "x", only_with=("library.worker",))
    monkeypatch.setattr(table, "REPLACEMENTS", (row,))
    monkeypatch.setattr(table, "expect", lambda *args, **options: None)
    monkeypatch.setattr(table, "_done", set())
    table.replace({"x"})
    assert library.flag is True
    monkeypatch.setitem(sys.modules, "library.worker", library)
    table.replace({"x"})
    assert library.flag is False


def test_a_row_is_put_in_once_and_reaches_names_that_were_copied(monkeypatch):
    import types

    first, second = types.ModuleType("verl_fake.first"), types.ModuleType("verl.fake_second")
    first.target = second.target = original = lambda: "verl's"
    other = types.ModuleType("elsewhere")
    other.target = original
    for module in (first, second, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(table, "REPLACEMENTS", (Replacement("verl_fake.first:target", "", "queue_address", "x"),))
    monkeypatch.setattr(table, "expect", lambda *args, **options: None)
    monkeypatch.setattr(table, "_done", set())
    table.replace({"x"})
    assert first.target() == second.target() == "127.0.0.1" and other.target is original
    again = first.target
    table.replace({"x"})
    assert first.target is again


# ---- the version ----------------------------------------------------------------------------------------------------


def test_verls_version_is_said_in_five_files_at_most():
    """The pin, the first lines of the READMEs, what was measured with it; all others read the pin."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    version = re.compile(rf"(?<![\d.]){re.escape(pinned())}(?![\d.]*\d)")
    naming = set()
    for name in filter(None, listed):
        file = ROOT / name
        if file.suffix in (".py", ".md", ".txt", ".yaml", ".toml", ".sh") and file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            if version.search(text) and "verl" in text:
                naming.add(name)
    allowed = {"requirements.txt", "README.md", "README_zh.md", "docs/measured.md", "docs/measured_zh.md"}
    allowed |= {"requirements/lock.txt"}  # made from requirements.txt by requirements/lock.py
    assert "requirements.txt" in naming and naming <= allowed
    assert installed() == pinned()


def test_lines_of_verl_are_named_in_the_door_only():
    """A line number that no test compares is wrong after the next version; elsewhere a function is named."""
    verl = Path(find("verl.trainer.ppo.reward:_call_with_kwargs").file).parts[0]
    files = [file for file in sources() if file.parent != table.FOLDER]
    found = {f"{file.relative_to(ROOT)}: {text}" for file in files for text in REFERENCE.findall(file.read_text())}
    assert verl == "verl" and found == set()
