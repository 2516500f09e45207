"""What happens in the process that runs a model's program: it confines itself, runs it, then runs the tests.

Nothing that this process says is believed, beyond "the value of this expression was that".
"""

from __future__ import annotations

import atexit
import json
import math
import os
import signal
import sys
import types

import sandbox_limits as confine

RESULT_FD, NONCE_FD = 3, 4


def start(job: dict, batch: list[dict], nonce: str, text: str) -> tuple[int, int]:
    """Forks the process that runs the program, and waits until it is confined.

    Args:
        job: The whole job; see `sandbox.execute`.
        batch: The tests: one of kind "stdin", or any number of the others.
        nonce: The word by which the parent knows a result.
        text: What the program finds on its stdin.

    Returns:
        Its number, and a file descriptor to read its output or results from.

    Raises:
        RuntimeError: It could not be confined, and so has run nothing.
    """
    reader, writer = os.pipe()
    nonce_reader, nonce_writer = os.pipe()
    os.write(nonce_writer, nonce.encode())
    os.close(nonce_writer)
    problem_reader, problem_writer = os.pipe()
    source = _memory_file(text.encode("utf-8", "surrogatepass"))
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _live(job, batch, (source, writer, nonce_reader, problem_writer, job.get("ruleset", source)))
        except BaseException:  # also what the program raises at its very end
            code = 1
        finally:
            os._exit(code)
    for handle in (writer, nonce_reader, source, problem_writer):
        os.close(handle)
    with os.fdopen(problem_reader, "rb") as pipe:
        problem = pipe.read().decode(errors="replace")
    if problem:
        raise RuntimeError(f"a program could not be confined: {problem}")
    return child, reader


def _memory_file(data: bytes) -> int:
    """A file without a name that holds `data`, at its start."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("stdin")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    while data:
        data = data[os.write(handle, data) :]
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _live(job: dict, batch: list[dict], handles: tuple[int, ...]) -> int:
    """All that the forked process does; `handles` are moved to 20 and up first. Returns the exit status."""
    os.setsid()
    stdin_test = batch[0]["kind"] == "stdin"
    source, writer, nonce_reader, problem, ruleset = (os.dup2(handle, 20 + i) for i, handle in enumerate(handles))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(source, 0)
    os.dup2(writer if stdin_test else null, 1)
    os.dup2(null, 2)
    os.dup2(null if stdin_test else writer, RESULT_FD)
    os.dup2(nonce_reader, NONCE_FD)
    os.closerange(5, problem)
    try:
        _confine(job, ruleset, math.ceil(job["limits"]["timeout_s" if stdin_test else "total_s"]))
    except Exception as error:  # the parent raises it
        os.write(problem, f"{type(error).__name__}: {error}".encode())
        raise
    os.closerange(5, 256)
    return _run_program(job["program"], batch, "__main__" if stdin_test else "solution")


def _confine(job: dict, ruleset: int, cpu_s: int) -> None:
    """Sets the limits, then gives up every right, then the right to more files and system calls; never undone."""
    plan, limits, kernel = job["plan"], job["limits"], getattr(confine, "kernel", None)
    if "rlimits" in plan:
        confine.set_rlimits({**limits, "cpu_s": cpu_s}, "nproc" in plan)
    if job["uid"]:
        confine.become(job["uid"])
    if kernel:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        confine.drop_rights()
    if "landlock" in plan:
        kernel.landlock_apply(ruleset)
    if "seccomp" in plan:
        kernel.seccomp_apply(limits["forks"], signals="namespaces" in plan)


def _run_program(program: str, batch: list[dict], name: str) -> int:
    """Runs the program as module `name`, then the tests in its name space."""
    for index, mode in enumerate("rw"):
        stream = open(index, mode, encoding="utf-8", errors="surrogateescape", closefd=False)
        setattr(sys, ("stdin", "stdout")[index], stream)
        setattr(sys, ("__stdin__", "__stdout__")[index], stream)
    sys.argv, sys.dont_write_bytecode = ["solution.py"], True
    module = types.ModuleType(name)
    sys.modules[name] = module
    code = 0
    try:
        exec(compile(program, "solution.py", "exec"), module.__dict__)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    if name == "__main__":
        _finish(module)
        return code & 0xFF
    nonce = os.read(NONCE_FD, 64)  # not before the program has run to its end
    os.write(RESULT_FD, nonce + b"\n")
    for test in batch:
        _tell(nonce, _answer(test, module.__dict__))
    return 0


def _finish(module: types.ModuleType) -> None:
    """What Python does at the end of a program, so that no output is lost."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()  # waits for the threads
    atexit._run_exitfuncs()
    module.__dict__.clear()  # closes, and so writes out, the files that the program left open
    for stream in (sys.stdout, sys.__stdout__):
        if not stream.closed:
            stream.flush()


def _answer(test: dict, names: dict) -> str:
    """Runs one test; "=" and the value as JSON, or "!" and the name of what was raised."""
    try:
        if test.get("setup"):
            exec(compile(test["setup"], "test.py", "exec"), names)
        if test["kind"] == "run":
            exec(compile(test["code"], "test.py", "exec"), names)
            value = True
        elif test["kind"] == "expr":
            value = eval(compile(test["code"], "test.py", "eval"), names)
        elif test["name"] in names:
            value = names[test["name"]](*test["args"])
        else:
            value = getattr(names["Solution"](), test["name"])(*test["args"])
        return "=" + json.dumps(encode(value))
    except BaseException as error:  # a SystemExit of the program is a failed test too
        return "!" + type(error).__name__


def _tell(nonce: bytes, answer: str) -> None:
    data = nonce + answer.encode() + b"\n"
    while data:
        data = data[os.write(RESULT_FD, data) :]


def encode(value: object) -> object:
    """Turns a plain value into JSON that keeps tuples, sets and the like apart.

    Args:
        value: None, a bool, number, str, bytes, or lists, tuples, sets and dicts of these, or subclasses of them.

    Returns:
        What `json.dumps` takes; `code_tests.decode` turns it back.

    Raises:
        TypeError: Another kind of object: such a value cannot be compared outside.
        RecursionError: A value that contains itself.
    """
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return int(value) if -(1 << 60) < value < 1 << 60 else {"int": hex(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [encode(item) for item in value]
    for kind in (tuple, frozenset, set):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__name__} is not a plain value")
