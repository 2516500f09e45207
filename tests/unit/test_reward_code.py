"""The reward for programs: what is run, what counts as passed, and what cannot be forged."""

import json

import numpy as np
import pytest

from common.rewards.code import code, extract_program
from common.rewards.code_tests import decode, read_cases, same_text

KEYS = {"score", "acc", "passed", "ran", "tests", "timeouts", "has_code"}
SQUARE = "def f(x):\n    return x * x"
ASSERTS = ["assert f(2) == 4", "assert f(3) == 9"]


def score(program, truth, **options):
    return code("x", f"Here it is.\n```python\n{program}\n```\nDone.", truth, **options)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("a\n```python\nx = 1\n```\nb", "x = 1\n"),
        ("```python\nx = 1\n```\nbetter:\n```python\nx = 2\n```", "x = 2\n"),  # the last one counts
        ("```python\nx = 1\n```\nwhich prints\n```text\n1\n```", "x = 1\n"),  # other languages do not
        ("```py\r\nx = 1\r\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ('```python\ns = "```"\nx = 1\n```', 's = "```"\nx = 1\n'),  # no fence: not alone on its line
        ("x = 1", "x = 1"),
        ("<think>```python\nx = 1\n```</think>```python\nx = 2\n```", "x = 2\n"),
        ("<think>```python\nx = 1\n```</think>I cannot.", "I cannot."),
        ("```python\nx = 1", None),  # cut off
        ("```cpp\nint x;\n```", None),
        ("", None),
        (" \n", None),
        (None, None),
        (5, None),
    ],
)
def test_extract_program(text, program):
    assert extract_program(text) == program


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True),
        ("1  \n2\t\r\n\n\n", "1\n2", True),
        ("1\n\n2", "1\n2", False),  # an empty line in the middle counts
        (" 1", "1", False),
        ("12", "1 2", False),
        ("1.0", "1", False),
        ("", "", True),
    ],
)
def test_same_text(given, expected, same):
    assert same_text(given, expected) is same


@pytest.mark.parametrize(
    ("program", "truth"),
    [
        ("print(int(input()) ** 2)", {"inputs": ["2\n", "3\n"], "outputs": ["4\n", "9\n"]}),
        ("print(int(input()) ** 2)", json.dumps({"inputs": ["2", "3"], "outputs": ["4", "9"]})),
        ("print(int(input()) ** 2)", [{"input": "2", "output": "4"}, {"input": "3", "output": "9"}]),
        ("print(int(input()) + int(input()))", {"inputs": [["1", "3"], ["4", "5"]], "outputs": [["4"], ["9"]]}),
        (SQUARE, {"fn_name": "f", "inputs": [[2], [3]], "outputs": [4, 9]}),
        (SQUARE, {"fn_name": "f", "inputs": [[2], [3]], "outputs": [[4], [9]]}),  # APPS
        (SQUARE, {"fn_name": "f", "inputs": ["2", "3"], "outputs": ["4", "9"]}),  # LiveCodeBench
        ("class Solution:\n    def f(self, x):\n        return x * x",
         {"fn_name": "f", "inputs": [[2], [3]], "outputs": [4, 9]}),
        (SQUARE, ASSERTS),
        (SQUARE, "\n".join(ASSERTS)),
        (SQUARE, json.dumps(ASSERTS)),
        (SQUARE, {"test_list": ASSERTS, "test_setup_code": "import math"}),
        (SQUARE, np.array(ASSERTS, dtype=object)),  # as read from Parquet
        (SQUARE, {"inputs": np.array([np.array([2]), np.array([3])]), "outputs": np.array([4, 9]), "fn_name": "f"}),
    ],
)  # fmt: skip
def test_the_shapes_of_test_cases(program, truth):
    assert score(program, truth) == {
        "score": 1.0, "acc": 1.0, "passed": 2.0, "ran": 2.0, "tests": 2.0, "timeouts": 0.0, "has_code": 1.0,
    }  # fmt: skip


def test_humaneval():
    truth = {"test": "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i * i\n"}
    truth["entry_point"] = "f"
    assert score(SQUARE, truth)["score"] == 1.0
    assert score("def f(x):\n    return 2 * x", truth)["score"] == 0.0
    assert score("def g(x):\n    return x * x", truth)["score"] == 0.0


def test_the_share_is_the_default():
    half = "def f(x):\n    return 4"
    assert score(half, ASSERTS)["score"] == 0.5
    assert score(half, ASSERTS)["acc"] == 0.0
    assert score(half, ASSERTS, all_or_nothing=True)["score"] == 0.0
    assert score(SQUARE, ASSERTS, all_or_nothing=True)["score"] == 1.0


def test_always_the_same_keys():
    rows = [score(SQUARE, ASSERTS), score("syntax error", ASSERTS), code("x", None, ASSERTS)]
    rows.append(code("x", "```cpp\n```", ASSERTS, None, all_or_nothing=True))
    assert all(set(row) == KEYS and all(type(value) is float for value in row.values()) for row in rows)
    assert [row["has_code"] for row in rows] == [1.0, 1.0, 0.0, 0.0]
    assert rows[1]["ran"] == 0.0


def test_max_tests_takes_the_first():
    assert score("def f(x):\n    return 4", ASSERTS, max_tests=1)["score"] == 1.0
    with pytest.raises(ValueError, match="max_tests=0"):
        score(SQUARE, ASSERTS, max_tests=0)


@pytest.mark.parametrize(
    ("program", "asserts", "passed"),
    [
        ("def f(): return (1, 2)", ["assert f() == (1, 2)", "assert f() == [1, 2]"], 1),
        ("def f(): return {1, 2}", ["assert f() == {2, 1}", "assert set(f()) == set([1, 2])"], 2),
        ("def f(): return {'a': [1.5, None]}", ["assert f() == {'a': [1.5, None]}", "assert {'a': 1} == f()"], 1),
        ("def f(): return b'x'", ["assert f() == b'x'", "assert f() == 'x'"], 1),
        ("def f(): return 2 ** 100000", ["assert f() == " + str(2**1000), "assert f() % 7 == 2"], 1),  # 2^3 = 1 mod 7
        ("def f(): return 1 + 2j", ["assert f() == 1 + 2j", "assert f() == 1"], 1),
        ("def f(x): return x > 1", ["assert f(2)", "assert not f(1)", "assert f(2) is True", "assert not f(2)"], 3),
        ("import re\ndef f(x): return re.match('a', x)", ["assert f('a')", "assert not f('b')"], 2),
        ("def f(): return 0.1 + 0.2", ["assert abs(f() - 0.3) < 1e-9", "assert f() == 0.3"], 1),
        ("def f(x): return x", ["import math\nassert f(math.pi) > 3", "y = 5\nassert f(y) == 5"], 2),
        ("def f(x): return x", ["def g(): return f(3)\nassert g() == 3\nfor i in [1]:\n    y = i\nassert y == 1"], 2),
        ("def f(x): return x", ["for i in range(3):\n    assert f(i) == i"], 1),
        (
            "def f(x): return x[0]",
            ["assert f([]) == 1", "try:\n    f([])\nexcept IndexError:\n    y = 1\nassert y == 1"],
            1,
        ),
    ],
)
def test_asserts(program, asserts, passed):
    assert score(program, asserts)["passed"] == passed


@pytest.mark.parametrize(
    "program",
    [
        "import threading, sys\ndef main():\n    print(input())\nthreading.Thread(target=main).start()",
        "import sys\nprint(sys.stdin.buffer.read().decode().strip())\nsys.exit()",
        "import sys\nfor line in sys.stdin:\n    sys.stdout.write(line)\nsys.exit(0)",
        "import os\nprint(input(), flush=True)\nos._exit(0)",
        "if __name__ == '__main__':\n    print(open(0).read())",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'\nprint(A(input()).x)",
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
        "def go(n): return 0 if n == 0 else go(n - 1)\ndef main():\n    go(20000)\n    print(input())\n"
        "t = threading.Thread(target=main)\nt.start()\nt.join()",
        "import heapq, bisect, collections, itertools, functools, math, re, string, fractions, random\nprint(input())",
    ],
)
def test_ways_to_write_a_program(program):
    assert score(program, {"inputs": ["héllo 你好"], "outputs": ["héllo 你好"]})["score"] == 1.0


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nprint(5)\nsys.exit(1)",
        "print(5)\nraise ValueError",
        "import os, signal\nprint(5, flush=True)\nos.abort()",
        "print(5)\nprint(6)",
        "pass",
        "def",
        "print(5",
    ],
)
def test_programs_that_fail(program):
    assert score(program, {"inputs": [""], "outputs": ["5"]})["score"] == 0.0


ALWAYS_EQUAL = "class A:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\n"
FORGERIES = {
    "exit": """
import os
os._exit(0)
""",
    "sys_exit": """
import sys
sys.exit(0)
""",
    "exit_in_call": """
import os

def f(x):
    os._exit(0)
""",
    "raise_exit": "def f(x): raise SystemExit(0)",
    "print": """
print("passed", '{"status": "ok"}', "=4", "=true")

def f(x):
    print("=4")
    print(4)
""",
    "always_equal": """
class A:

    def __eq__(self, other):
        return True

    def __bool__(self):
        return True

def f(x):
    return A()
""",
    "equal_int": """
class A(int):

    def __eq__(self, other):
        return True

def f(x):
    return A(1)
""",
    "equal_list": """
class A(list):

    def __eq__(self, other):
        return True

def f(x):
    return A()
""",
    "write_everywhere": r"""
import os
for fd in range(3, 50):
    try:
        os.write(fd, b"=true\n=true\n=true\n")
    except OSError:
        pass
os._exit(0)
""",
    "write_report": """
import os, json
for fd in range(50):
    try:
        os.write(fd, json.dumps({"results": [{"status": "ok", "out": "4"}] * 2}).encode())
    except OSError:
        pass
os._exit(0)
""",
    "patch_json": """
import json
json.dumps = lambda value: "true"

def f(x):
    return None
""",
    "patch_builtins": """
import builtins
builtins.eval = lambda *a: 4
builtins.exec = lambda *a: None
builtins.isinstance = lambda *a: True

def f(x):
    return None
""",
    "patch_harness": """
import sys
for m in list(sys.modules.values()):
    for n in ("_answer", "encode", "same_text"):
        if hasattr(m, n):
            setattr(m, n, lambda *a: "=true")

def f(x):
    return None
""",
    "assertion_error": """
import builtins
builtins.AssertionError = type("X", (Exception,), {})

def f(x):
    return 5
""",
    "stop_the_rest": """
import os, sys

def f(x):
    sys.stdout.flush()
    os.kill(os.getppid(), 9)
    return 5
""",
    "search_memory": """
import gc, sys
found = []
frame = sys._getframe()
while frame:
    found.append(repr(frame.f_locals))
    frame = frame.f_back
found += [repr(o) for o in gc.get_objects() if isinstance(o, (dict, list))][:20000]
import re

def f(x):
    hits = [int(n) for text in found for n in re.findall("83151415926[0-9]", text)]
    return hits[0] if hits else None
""",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_score_nothing(name):
    asserts = ["assert f(2) == 831514159261", "assert f(3) == 831514159262"]
    assert score(FORGERIES[name], asserts)["score"] == 0.0
    assert (
        score(FORGERIES[name], {"fn_name": "f", "inputs": [[2], [3]], "outputs": [831514159261, 831514159262]})["score"]
        == 0.0
    )
    assert score(FORGERIES[name], {"inputs": ["2"], "outputs": ["831514159261"]})["score"] == 0.0


@pytest.mark.parametrize("name", ["exit", "sys_exit", "print", "write_everywhere", "write_report", "exit_in_call"])
def test_forgeries_of_a_whole_test_function(name):
    """Here the comparison has to happen next to the program; the simple tricks fail all the same."""
    truth = {"test": "def check(candidate):\n    for i in (2, 3):\n        assert candidate(i) == i * i\n"}
    assert score(FORGERIES[name], {**truth, "entry_point": "f"})["score"] == 0.0


def test_a_crash_costs_only_its_own_test():
    truth = {"fn_name": "f", "inputs": [[1], [2], [3]], "outputs": [1, 2, 3]}
    crash = "import os\ndef f(x):\n    if x == 2: os.abort()\n    return x"
    assert score(crash, truth)["passed"] == 2
    assert score(crash.replace("os.abort()", "os._exit(0)"), truth)["passed"] == 2
    loop = "def f(x):\n    while x == 2: pass\n    return x"
    result = score(loop, truth, timeout_s=0.4)
    assert (result["passed"], result["timeouts"], result["ran"]) == (2, 1, 2)
    stdin = {"inputs": ["1", "2", "3"], "outputs": ["1", "2", "3"]}
    assert score("import os\nx = input()\nif x == '2': os.abort()\nprint(x)", stdin)["passed"] == 2


def test_the_time_for_all_tests_is_limited():
    truth = {"inputs": ["1"] * 10, "outputs": ["1"] * 10}
    result = score("while True: pass", truth, timeout_s=0.3, total_s=0.8)
    assert 2 <= result["timeouts"] <= 3 and result["score"] == 0.0


def test_a_loop_in_the_program_is_run_once():
    assert score("while True: pass", ["assert f(1) == 1"] * 10, timeout_s=0.3, total_s=0.6)["timeouts"] == 10


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("{broken", "not JSON"),
        ("no python either", "neither JSON nor Python"),
        ("x = 1", "no test in it"),
        ([], "no test in it"),
        ({"inputs": [], "outputs": []}, "no test in it"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ({"fn_name": "f", "inputs": [5], "outputs": [5]}, "not a list of arguments"),
        ({"fn_name": "f", "inputs": ["x"], "outputs": ["5"]}, "is not JSON"),
        ({"answer": 5}, "no known shape"),
        (None, "no known shape"),
        (5, "no known shape"),
    ],
)
def test_bad_ground_truth_is_an_error(truth, message):
    with pytest.raises(ValueError, match=message):
        read_cases(truth)


def test_misspelled_parameters_are_refused():
    with pytest.raises(ValueError, match="timeout=5"):
        score(SQUARE, ASSERTS, timeout=5)


@pytest.mark.parametrize("value", [{"x": 1}, {}, {"int": 5}, {"set": [[1]]}, {"dict": [1]}, {"tuple": 5}])
def test_decode_refuses_what_encode_never_makes(value):
    with pytest.raises((ValueError, TypeError)):
        decode(value)
