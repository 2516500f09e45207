"""The other side of `execute.py`: a small Python that confines itself and runs one program against its tests.

It reads one job as JSON from stdin and writes one report as JSON to stdout. The process that does so never runs the
program: it forks one that does, watches it, kills it and all it started. It does not know the expected outputs
either, so no program can find them in its memory.

A test is {"kind": "stdin", "input": text, "limit": bytes} (a process each), or {"kind": "expr", "code": expression,
"setup": statements}, {"kind": "call", "name": function, "args": [...]}, {"kind": "run", "code": statements}, each with
"limit": those share one process, in the name space that the program left. When it dies, a new one continues with the
next test.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

import sandbox_limits as confine
import sandbox_program

TICK = 0.02  # seconds between two looks at a silent program
MAX_FILES = 256  # in the program's folder, where that is not a separate file system
MAX_FILES_BWRAP = 4096  # there it is one, of limited size, but bwrap cannot limit the number of files


def main() -> None:
    """Does the job on stdin; everything that goes wrong outside of the program is an error in the report."""
    job = json.loads(sys.stdin.buffer.read())
    if "bwrap" in job:
        os.environ.clear()  # bwrap and the shell before it set PWD
    elif confine.LINUX:  # when memory runs out, the kernel shall take this and not the trainer
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
        except OSError:  # no /proc: then it is one candidate among others
            pass
    try:
        report = {"mechanisms": confine.probe(job["limits"], job.get("bwrap"))} if job.get("probe") else _supervise(job)
    except Exception as error:  # reported by name; the parent raises it
        report = {"error": f"{type(error).__name__}: {error}"}
    if report is not None:
        with os.fdopen(1, "w") as out:
            json.dump(report, out)
    os._exit(0)


def _supervise(job: dict) -> dict | None:
    """Prepares everything that is shared by the tests, then runs them; None in the process that only waits."""
    plan, limits = job["plan"], job["limits"]
    job["uid"] = confine.own_uid(**job.get("bwrap", {"serial": os.getpid()})) if "uid" in plan else 0
    if confine.LINUX:
        confine.kernel.prctl(confine.kernel.PR_SET_CHILD_SUBREAPER)
    signal.alarm(int(limits["total_s"]) + 10)  # the end, should everything else fail; the default action is to die
    if "bwrap" in job:  # it has made them, and dies with the trainer
        wrong = confine.made_by_bwrap(limits)
        if wrong:
            raise RuntimeError(f"bwrap: {wrong}")
        job["folder"] = confine.OWN_FOLDER
    elif "namespaces" in plan:
        confine.enter_namespaces(network="seccomp" not in plan)
        inner = os.fork()
        if inner:
            os.waitpid(inner, 0)
            return None
        confine.kernel.prctl(confine.kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        confine.build_root(limits["disk_mb"])
        job["folder"] = confine.OWN_FOLDER
    elif job["uid"]:
        os.chown(job["folder"], job["uid"], job["uid"])
    if confine.LINUX:
        confine.kernel.prctl(confine.kernel.PR_SET_DUMPABLE, 0)  # no ptrace, nothing of this process in /proc
    if "landlock" in plan:
        job["ruleset"] = _rules(job)
    os.chdir(job["folder"])
    results: list[dict] = []
    try:
        run_tests(job, results)
    except OSError as error:  # a program can bring this about, so it counts against the program
        return {"results": results, "warning": f"{type(error).__name__}: {error}"}
    return {"results": results}


def _rules(job: dict) -> int:
    kernel = confine.kernel
    flat = kernel.READ_FILE | kernel.WRITE_FILE | kernel.READ_DIR
    flat |= kernel.REMOVE_FILE | kernel.MAKE_REG | kernel.TRUNCATE  # no folders in it: they are counted one level deep
    whole = "namespaces" in job["plan"]
    readable = confine.python_folders() + confine.READABLE
    return kernel.landlock_ruleset(readable, confine.DEVICES, job["folder"], -1 if whole else flat)


def run_tests(job: dict, results: list[dict]) -> None:
    """Runs the tests in order until they or the time are used up.

    Args:
        job: The whole job; see `sandbox.execute`.
        results: Filled with `status` and `out` of each test that was reached.
    """
    tests = job["tests"]
    until = time.monotonic() + job["limits"]["total_s"]
    while len(results) < len(tests) and time.monotonic() < until:
        batch = tests[len(results) :]
        if batch[0]["kind"] == "stdin":
            results.append(_run_stdin(job, batch[0], until))
        else:
            done, started = _run_shared(job, batch, until)
            results += done
            if not started:  # the program itself does not get to its end
                results += [dict(done[-1]) for _ in batch[len(done) :]]
        if job["limits"]["stop_early"] and results[-1]["status"] != "ok":
            break


def _run_stdin(job: dict, test: dict, until: float) -> dict:
    child, reader = sandbox_program.start(job, [test], "", test["input"])
    status, data = _watch(job, child, reader, test["limit"], until, lines=False)
    return {"status": status, "out": data.decode("utf-8", "replace")}


def _run_shared(job: dict, batch: list[dict], until: float) -> tuple[list[dict], bool]:
    """Runs tests in one process; gives the results it got to (at least one) and whether the program itself ended."""
    nonce = os.urandom(16).hex()
    child, reader = sandbox_program.start(job, batch, nonce, "")
    limit = sum(test["limit"] for test in batch)
    status, data = _watch(job, child, reader, limit, until, lines=True)
    lines = data.decode("utf-8", "replace").split("\n")[:-1]  # the last one is torn, or empty
    messages = [line[len(nonce) :] for line in lines if line.startswith(nonce)]
    results = [{"status": "ok" if message[:1] == "=" else "error", "out": message[1:]} for message in messages[1:]]
    results = results[: len(batch)]
    if len(results) < len(batch):
        results.append({"status": "exit" if status == "ok" else status, "out": ""})
    return results, bool(messages)


def _watch(job: dict, child: int, reader: int, limit: int, until: float, lines: bool) -> tuple[str, bytes]:
    """Reads from a program until it ends or breaks a limit; then it is dead.

    Args:
        job: The whole job.
        child: Process number of the program.
        reader: What to read from.
        limit: Bytes it may write.
        until: `time.monotonic()` at which the whole run ends.
        lines: Whether each line it writes gives it new time.

    Returns:
        How it ended, and the bytes.
    """
    data, status, pause, seconds = bytearray(), "", TICK, job["limits"]["timeout_s"]
    deadline = min(time.monotonic() + seconds, until)
    handles = [reader]
    while not status:
        gone, code = os.waitpid(child, os.WNOHANG)
        if select.select(handles, [], [], 0 if gone else pause)[0]:
            piece = os.read(reader, 1 << 16)
            data += piece
            if not piece:  # it is about to end, or has closed its output and works on
                handles, pause = [], 0.0002
            if lines and b"\n" in piece:
                deadline = min(time.monotonic() + seconds, until)
            status = "output" if len(data) > limit else ""
            if gone and not piece and not status:
                status = _ending(code)
            elif gone and not status:
                status, data = _ending(code), data + _rest(reader, limit)
        elif gone:
            status = _ending(code)
        elif time.monotonic() > deadline:
            status = "timeout"
        elif ("bwrap" in job or "namespaces" not in job["plan"]) and _too_big(job):
            status = "disk"
        else:
            pause = min(2 * pause, TICK)
    os.close(reader)
    if not gone:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    _sweep(job, child)
    return status, bytes(data[:limit])


def _rest(reader: int, limit: int) -> bytes:
    """What is left in the pipe of a process that is gone, without waiting for others that hold it open."""
    data = bytearray()
    while len(data) <= limit and select.select([reader], [], [], 0)[0]:
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        data += piece
    return bytes(data)


def _ending(code: int) -> str:
    if os.WIFSIGNALED(code):
        return "timeout" if os.WTERMSIG(code) in (signal.SIGXCPU, signal.SIGKILL) else "crash"
    return "error" if os.WEXITSTATUS(code) else "ok"


def _too_big(job: dict) -> bool:
    if "bwrap" in job:
        return _many_files(job["folder"])
    sizes = []
    with os.scandir(job["folder"]) as entries:
        for entry in entries:
            try:
                sizes.append(entry.stat(follow_symlinks=False).st_blocks * 512)
            except FileNotFoundError:  # just removed
                continue
            if len(sizes) > MAX_FILES:
                break
    return len(sizes) > MAX_FILES or sum(sizes) > job["limits"]["disk_mb"] << 20


def _many_files(folder: str) -> bool:
    count = 0
    for _, folders, files in os.walk(folder):
        count += len(folders) + len(files)
        if count > MAX_FILES_BWRAP:
            return True
    return False


def _sweep(job: dict, child: int) -> None:
    """Kills and buries all that the program has left behind."""
    if "namespaces" in job["plan"] and os.getpid() == 1:
        _kill_all()
    elif job["uid"]:
        killer = os.fork()
        if killer == 0:
            confine.become(job["uid"])
            if os.getuid() == job["uid"] != 0:
                _kill_all()
            os._exit(0)
    else:
        _kill_group(child)
    try:
        while os.waitpid(-1, 0 if "namespaces" in job["plan"] or job["uid"] else os.WNOHANG)[0]:
            pass
    except ChildProcessError:  # all are buried
        pass


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nobody is left (macOS says the second)
        pass


def _kill_all() -> None:
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:  # there are none
        pass
