"""Attacks on the sandbox, as root and as a plain user, with and without namespaces."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from common.rewards.code import code
from common.rewards.sandbox import execute as mechanism
from common.rewards.sandbox import probe as sandbox_probe
from common.rewards.sandbox import run as sandbox

ROOT = Path(__file__).parents[2]
NOBODY = 65534
SECRET = "hf_0123456789"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these protections are Linux's")

# name -> (program, limits that differ from LIMITS)
LIMITS = {"timeout_s": 5, "total_s": 10, "memory_mb": 512, "disk_mb": 8, "tasks": 20}
FORKS = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
        count += 1
except OSError:
    pass
print(count)
"""
ATTACKS = {
    "endless_loop": ("while True: pass", {"timeout_s": 0.5}),
    "endless_sleep": ("import time; time.sleep(1000)", {"timeout_s": 0.5}),
    "endless_with_closed_output": ("import os, time; os.close(1); time.sleep(1000)", {"timeout_s": 0.5}),
    "cpu_limit": ("import resource as r; print(r.getrlimit(r.RLIMIT_CPU))", {"timeout_s": 2.5}),
    "raise_a_limit": (
        """
import resource as r
try:
    r.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40))
except ValueError:
    print("refused")
""",
        {},
    ),
    "forks": (FORKS, {}),
    "allowed_forks": (FORKS, {"forks": True}),
    "threads": (
        """
import threading
threading.stack_size(1 << 16)
stop, count = threading.Event(), 0
try:
    while count < 200:
        threading.Thread(target=stop.wait, daemon=True).start()
        count += 1
except RuntimeError:
    pass
stop.set()
print(count)
""",
        {},
    ),
    "ten_gigabytes": ("x = bytearray(10 << 30); print('got it')", {}),
    "more_and_more": (
        """
x = []
try:
    while len(x) < 1000:
        x.append(bytes([1]) * (1 << 24))
except MemoryError:
    n = len(x)
    x = None
    print(n * 16)
""",
        {},
    ),
    "endless_output": ("while True: print('x' * 1000)", {}),
    "fill_disk": (
        """
for i in range(40):
    with open(f"f{i}", "wb", buffering=0) as f:
        f.write(bytes(1 << 20))
import time
time.sleep(0.3)
print("wrote 40 MB")
""",
        {},
    ),
    "many_files": (
        """
for i in range(20000):
    open(f"f{i}", "w").close()
import time
time.sleep(0.3)
print("20000 files")
""",
        {},
    ),
    "one_big_file": (
        """
with open("f", "wb") as f:
    f.truncate(1 << 30)
print("1 GB")
""",
        {},
    ),
    "write_outside": (
        """
for path in PATHS:
    try:
        open(path + "/written", "w").close()
    except OSError:
        pass
""",
        {},
    ),
    "spoil_user_file": (
        """
import os
attacks = [lambda: os.open(MINE, os.O_RDONLY | os.O_TRUNC), lambda: os.truncate(MINE, 0), lambda: os.remove(MINE)]
for attack in [*attacks, lambda: os.chmod(MINE, 0o777), lambda: os.utime(MINE, (0, 0))]:
    try:
        attack()
    except OSError:
        pass
""",
        {},
    ),
    "socket": (
        """
import socket
try:
    socket.socket()
    print("opened")
except OSError:
    print("refused")
""",
        {},
    ),
    "environment": (
        """
import glob, os
print([k for k in os.environ if k != "LC_CTYPE"])
for path in glob.glob("/proc/*/environ"):
    try:
        if "SECRET" in open(path).read():
            print(path)
    except OSError:
        pass

def is_open(fd):
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False
print([fd for fd in range(5, 1000) if is_open(fd)])
""",
        {},
    ),
    "read_secret": (
        """
import os
os.symlink(MINE, "link") if hasattr(os, "symlink") and LINKS else None
for path in [MINE, "link", *HOME]:
    try:
        print(open(path).read()[:20])
    except OSError:
        pass
""",
        {},
    ),
    "list_folders": (
        """
import os
for path in ["/root", "/home", "/proc", PATHS[0]]:
    try:
        print(sorted(set(os.listdir(path)) - set(PREFIX)))
    except OSError:
        pass
""",
        {},
    ),
    "daemon": (
        """
import os, time
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(30)
        os._exit(0)
    os.wait()
    print("left one")
except OSError:
    print("refused")
""",
        {"forks": True},
    ),
    "kill_trainer": (
        """
import os
try:
    os.kill(PARENT, 9)
    print("sent")
except OSError:
    print("refused")
""",
        {},
    ),
    "privileges": (
        """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
print(libc.prctl(39, 0, 0, 0, 0))
for number in (0x10000000, 0x40000000, 0x20000):
    print(libc.unshare(number))
print(libc.ptrace(0, 0, 0, 0))
for attack in (lambda: open("/etc/shadow").read(), lambda: socket.sethostname(os.uname().nodename)):
    try:
        os.setuid(0)
    except OSError:
        pass
    try:
        attack()
        print("done")
    except OSError:
        print("refused")
""",
        {},
    ),
    "x32_calls": (
        """
import ctypes
print(ctypes.CDLL(None).syscall(0x40000000 + 41, 1, 1, 0))
""",
        {},
    ),
    "allowed_things": (
        """
import asyncio, threading, tempfile, random, decimal, re

async def f():
    await asyncio.sleep(0)
    return "async"
print(asyncio.run(f()))
t = threading.Thread(target=print, args=("thread",))
t.start()
t.join()
with tempfile.TemporaryFile("w+") as file:
    file.write("file")
    file.seek(0)
    print(file.read())
""",
        {},
    ),
}

DRIVER = """
import json, os, sys, time
from common.rewards.sandbox import execute as mechanism
from common.rewards.sandbox import run as sandbox
from common.rewards.sandbox import probe as sandbox_probe
from common.rewards.code import code
order = json.load(sys.stdin)
plan = [name for name in mechanism.plan() if name not in order["without"]]
results = {"plan": plan}
for name, (program, limits) in order["attacks"].items():
    limits = mechanism.Limits(**limits)
    token, start = "attack-" + os.urandom(8).hex(), time.monotonic()
    program = program.replace("PARENT", str(os.getpid()))
    test = {"kind": "stdin", "input": "", "limit": 5000}
    results[name] = mechanism.execute(program, [test], limits, plan, token)[0]
    results[name]["seconds"], results[name]["left"] = time.monotonic() - start, sandbox_probe.processes_with(token)
json.dump(results, sys.stdout)
"""


@functools.lru_cache(maxsize=1)
def python_for_all():
    """A Python that any user can run; the one of the tests may be in a closed home folder."""
    check = "import sys; assert sys.version_info >= (3, 10); import common.rewards.sandbox.run"
    for python in (sys._base_executable, "/usr/bin/python3"):
        try:
            done = subprocess.run([python, "-c", check], user=NOBODY, group=NOBODY, cwd=ROOT, capture_output=True)
        except OSError:  # not there, or closed
            continue
        if done.returncode == 0:
            return python
    return None


@functools.cache  # one for each of WAYS
def attack(who, without, bwrap):
    """Runs all attacks as `who`; gives their results and what the machine looks like afterwards."""
    python, user = sys.executable, {}
    if who == "plain user" and os.geteuid() == 0:
        python, user = python_for_all(), {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        if python is None:
            pytest.skip("no Python here that another user could run")
    elif who == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    elif "namespaces" in without and "uid" not in without:
        python = python_for_all() or sys.executable  # without a separate file system, the new user has to reach it
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        mine = Path(folder, "token")
        mine.write_text(SECRET)
        os.utime(mine, (1e9, 1e9))
        if user:
            os.chown(mine, NOBODY, NOBODY)
        paths = [folder, "/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~")]
        home = [os.path.expanduser(path) for path in ("~/.netrc", "~/.bashrc", "~/.cache/huggingface/token")]
        names = {"PATHS": paths, "MINE": str(mine), "HOME": home, "LINKS": "namespaces" not in without}
        names["PREFIX"] = [part for path in sys.path for part in path.split("/")] + [".pyenv"]
        given = "".join(f"{key} = {value!r}\n" for key, value in names.items())
        attacks = {name: (given + program, {**LIMITS, **more}) for name, (program, more) in ATTACKS.items()}
        if {"namespaces", "uid"} <= set(without):  # nothing to kill them by: `run` refuses this, see below
            attacks = {name: (program, {**limits, "forks": False}) for name, (program, limits) in attacks.items()}
        environment = {
            "PATH": os.environ["PATH"] if bwrap else "/nowhere",
            "SECRET": SECRET,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [python, "-c", DRIVER], input=json.dumps({"attacks": attacks, "without": list(without)}), text=True,
            capture_output=True, cwd=ROOT, env=environment, timeout=100, **user,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        written = [path for path in paths if os.path.exists(os.path.join(path, "written"))]
        for path in written:
            os.remove(os.path.join(path, "written"))
        status = mine.stat() if mine.exists() else None
        results["machine"] = {
            "written": written,
            "token": mine.exists() and mine.read_text(),
            "mode": status and oct(status.st_mode),
            "time": status and status.st_mtime,
        }
    return results


WAYS = [(who, without, False) for who in ("root", "plain user") for without in ((), ("namespaces", "uid", "nproc"))]
WAYS += [("root", ("namespaces",), False), ("root", (), True), ("plain user", (), True)]
WAYS += [("root", ("landlock",), True), ("plain user", ("landlock",), True)]  # so that bwrap alone hides files


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}, {'bwrap, ' * way[2]}without {' '.join(way[1]) or 'nothing'}")
def results(request):
    found = attack(*request.param)
    if request.param[2] and "bwrap" not in found["plan"]:
        pytest.skip("bwrap is not installed, or may make no namespaces here")
    assert ("bwrap" in found["plan"]) == request.param[2]
    if "landlock" not in found["plan"] and "namespaces" not in found["plan"] or "seccomp" not in found["plan"]:
        pytest.skip("this machine offers too little")
    return found


@linux
@pytest.mark.parametrize("name", ["endless_loop", "endless_sleep", "endless_with_closed_output"])
def test_time(results, name):
    assert results[name]["status"] == "timeout"
    assert 0.5 <= results[name]["seconds"] < 3


@linux
def test_limits_are_set_and_stay(results):
    assert results["cpu_limit"]["out"] == "(3, 3)\n"  # 2.5 s, rounded up
    assert results["raise_a_limit"]["out"] == "refused\n"


@linux
def test_forks_are_refused(results):
    assert results["forks"]["out"] == "0\n"


@linux
def test_allowed_forks_are_counted(results):
    most = 24 if "nproc" in results["plan"] else 0
    assert int(results["allowed_forks"]["out"]) <= most
    if most:
        assert int(results["allowed_forks"]["out"]) >= 10


@linux
def test_threads_are_counted_where_the_kernel_can(results):
    assert int(results["threads"]["out"]) <= (24 if "nproc" in results["plan"] else 200)


@linux
def test_memory(results):
    assert results["ten_gigabytes"]["status"] == "error"
    assert 100 < int(results["more_and_more"]["out"]) < 512


@linux
def test_output(results):
    assert results["endless_output"]["status"] == "output"
    assert len(results["endless_output"]["out"]) == 5000


@linux
@pytest.mark.parametrize("name", ["fill_disk", "many_files", "one_big_file"])
def test_disk(results, name):
    assert results[name]["status"] in ("error", "disk", "crash")
    assert results[name]["out"] == ""


@linux
def test_nothing_outside_is_written(results):
    assert results["machine"] == {"written": [], "token": SECRET, "mode": "0o100644", "time": 1e9}


@linux
def test_network(results):
    assert results["socket"]["out"] == "refused\n"
    assert results["x32_calls"]["out"] in ("-1\n", "")


@linux
def test_environment_and_descriptors(results):
    assert results["environment"]["out"] == "[]\n[]\n"


@linux
def test_files_of_the_user_are_not_read(results):
    assert results["read_secret"]["out"] == ""
    assert not any(line not in ("[]", "") for line in results["list_folders"]["out"].split("\n"))


@linux
def test_nothing_is_left_running(results):
    assert results["daemon"]["out"] in ("left one\n", "refused\n")
    assert [name for name in ATTACKS if results[name]["left"]] == []


@linux
def test_signals_and_privileges(results):
    assert results["kill_trainer"]["out"] == "refused\n"
    assert results["privileges"]["out"].split() == ["1", "-1", "-1", "-1", "-1", "refused", "refused"]


@linux
def test_seccomp_alone_refuses_signals():
    """Newer kernels have Landlock for this too."""
    if mechanism.reasons()["seccomp"]:
        pytest.skip("no seccomp here")
    program = ATTACKS["kill_trainer"][0].replace("PARENT, 9", f"{os.getpid()}, 0")
    tests = [{"kind": "stdin", "input": "", "limit": 99}]
    assert mechanism.execute(program, tests, mechanism.Limits(), ["seccomp", "rlimits"])[0]["out"] == "refused\n"


@linux
def test_what_programs_need_works(results):
    assert results["allowed_things"]["out"] == "async\nthread\nfile\n", results["allowed_things"]


def test_every_mechanism_has_a_verdict():
    assert set(mechanism.reasons()) == {"namespaces", "uid", "nproc", "landlock", "seccomp", "rlimits", "bwrap"}
    found = sandbox.limits()
    assert {name for name, (held, _) in found.items() if held} >= {"wall_time", "output"}
    assert all(how for _, how in found.values())


def fake_bwrap(monkeypatch, tmp_path, script):
    """A bwrap of our own on PATH; the mechanisms are asked for anew."""
    monkeypatch.setattr(mechanism, "reasons", functools.lru_cache(mechanism.reasons.__wrapped__))
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@linux
def test_a_bwrap_that_may_not_make_namespaces_is_named_and_done_without(monkeypatch, tmp_path):
    fake_bwrap(monkeypatch, tmp_path, "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    assert "No permissions to create new namespace" in mechanism.reasons()["bwrap"]
    assert "bwrap" not in mechanism.plan()
    tests = [{"kind": "stdin", "input": "", "limit": 9}]
    assert mechanism.execute("print(1)", tests, mechanism.Limits(), mechanism.plan())[0]["out"] == "1\n"


@linux
def test_a_bwrap_that_isolates_nothing_is_not_believed(monkeypatch, tmp_path):
    """It is asked for namespaces; that it ran the child does not prove them."""
    child = 'while [ "$1" != -- ]; do shift; done; shift'
    code = f'exec "$1" -I -S -c "$(echo "$5" | cat)" {mechanism.sandbox_bwrap.HERE} x'
    script = f'{child}; python=$1; while [ "$1" != -c ]; do shift; done; set -- "$python" -I -S -c "$2"; {code}'
    fake_bwrap(monkeypatch, tmp_path, script)
    assert "process 1" in mechanism.reasons()["bwrap"]
    assert "bwrap" not in mechanism.plan()


@linux
def test_a_bwrap_that_goes_away_in_the_run_is_an_error_and_no_weaker_run(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(mechanism.SandboxError, match="bwrap"):
        mechanism.execute(
            "print(1)", [{"kind": "stdin", "input": "", "limit": 9}], mechanism.Limits(), ["namespaces", "bwrap"]
        )


@linux
def test_the_probe_sees_what_is_missing(monkeypatch):
    """Without the kernel's help the attacks get through, and are named."""
    found = sandbox_probe.try_all(["rlimits"], {"landlock": "switched off", "seccomp": "switched off"})
    lost = {name for name, (held, _) in found.items() if not held}
    assert {"processes", "leftovers", "write", "read", "network", "signals"} <= lost
    assert "switched off" in found["network"][1]


@linux
def test_the_probe_ends_where_the_home_folder_is_tmp(monkeypatch):
    """As in many containers: what got through there is one file to remove, not two."""
    monkeypatch.setenv("HOME", "/tmp")
    assert sandbox_probe._write(["rlimits"]).startswith("wrote /tmp/")


def test_require_refuses_to_run(monkeypatch):
    monkeypatch.setattr(sandbox, "_protections", lambda: {"network": (False, "no"), "read": (True, "")})
    tests = [{"kind": "stdin", "input": "", "limit": 9}]
    with pytest.raises(mechanism.SandboxError, match="cannot enforce network"):
        sandbox.run("print(1)", tests, require=("network",))
    with pytest.raises(mechanism.SandboxError, match="cannot enforce netwrok"):
        sandbox.run("print(1)", tests, require=("netwrok",))
    assert sandbox.run("print(1)", tests, require=("read",))[0]["out"] == "1\n"


def test_without_what_keeps_strangers_out_nothing_runs_unless_asked_for(monkeypatch):
    """A container without namespaces and Landlock: files and the trainer's environment could be read there."""
    monkeypatch.setattr(sandbox, "_protections", lambda: {name: (name != "read", "") for name in sandbox.REQUIRED})
    answer, tests = "```python\nprint(1)\n```", {"inputs": [""], "outputs": ["1"]}
    with pytest.raises(mechanism.SandboxError, match="cannot enforce read, so no program is run; .*sandbox_fusion"):
        code("x", answer, tests)
    assert code("x", answer, tests, require=[])["acc"] == 1.0


PAIRS = """
import os, socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    try:
        socket.socketpair(socket.AF_UNIX, kind)
        print("pair")
    except OSError:
        print("refused")
try:
    os.close(os.open("/dev/null", 3))
    print("opened")
except OSError:
    print("refused")
print(open("/dev/null").read() == "" and "read")
"""


@linux
def test_datagram_pairs_and_files_opened_without_rights_are_refused():
    """Both are ways past Landlock and past the filter of socket()."""
    if mechanism.reasons()["seccomp"]:
        pytest.skip("no seccomp here")
    tests = [{"kind": "stdin", "input": "", "limit": 99}]
    got = mechanism.execute(PAIRS, tests, mechanism.Limits(), ["seccomp", "rlimits"])[0]
    assert got["out"] == "pair\nrefused\nrefused\nrefused\nread\n"
    assert mechanism.execute(PAIRS, tests, mechanism.Limits(), ["rlimits"])[0]["out"].startswith(
        "pair\npair\npair\nopened"
    )


def test_a_folder_of_locks_that_is_not_ours_is_done_without(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"program-slots-{os.getuid()}").write_text("")  # as another user could make it first
    mechanism._slots_folder.cache_clear()
    try:
        assert mechanism._slots_folder() is None
        assert sandbox.run("print(1)", [{"kind": "stdin", "input": "", "limit": 9}], require=())[0]["out"] == "1\n"
    finally:
        mechanism._slots_folder.cache_clear()


def test_a_folder_of_locks_of_another_user_is_done_without(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    mine = os.getuid()
    monkeypatch.setattr(mechanism.os, "getuid", lambda: mine + 1)
    (tmp_path / f"program-slots-{mine + 1}").mkdir()
    mechanism._slots_folder.cache_clear()
    try:
        assert mechanism._slots_folder() is None
    finally:
        mechanism._slots_folder.cache_clear()


def test_forks_need_something_to_kill_them_by(monkeypatch):
    monkeypatch.setattr(mechanism, "plan", lambda: ["landlock", "seccomp", "rlimits"])
    with pytest.raises(mechanism.SandboxError, match="forks=True"):
        sandbox.run("print(1)", [{"kind": "stdin", "input": "", "limit": 9}], mechanism.Limits(forks=True))


@linux
@pytest.mark.parametrize("place", ["confine.own_uid", "sandbox_program._confine"])  # before and after the fork
def test_a_mechanism_that_fails_is_an_error_and_no_weaker_run(monkeypatch, place):
    broken = mechanism.BOOT.replace("sandbox_child.main()", f"sandbox_child.{place} = 1; sandbox_child.main()")
    monkeypatch.setattr(mechanism, "BOOT", broken)
    with pytest.raises(mechanism.SandboxError, match="TypeError"):
        mechanism.execute("print(1)", [{"kind": "stdin", "input": "", "limit": 9}], mechanism.Limits(), ["uid"])


def test_a_child_that_hangs_is_killed_by_the_parent(monkeypatch):
    monkeypatch.setattr(mechanism, "BOOT", "import time; time.sleep(100)")
    monkeypatch.setattr(mechanism, "GRACE", 0.2)
    start = time.monotonic()
    tests = [{"kind": "stdin", "input": "", "limit": 9}]
    assert mechanism.execute("", tests, mechanism.Limits(total_s=0.3), [])[0]["status"] == "timeout"
    assert time.monotonic() - start < 3


def test_from_many_threads_each_gets_its_own_answer():
    answers = {}

    def one(i):
        tests = [{"kind": "stdin", "input": str(i), "limit": 99}]
        answers[i] = sandbox.run("print(int(input()) ** 2)", tests)[0]["out"]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {i: f"{i * i}\n" for i in range(12)}


def test_bad_limits_are_named():
    with pytest.raises(ValueError, match="timeout_s=0 "):
        mechanism.Limits(timeout_s=0)
