"""The bench: each way in which a reward function goes wrong is found, named, and ends with status 1."""

import json
import os
import time

import pytest

from common.preflight.reward import check_reward, reward_kwargs
from common.reward_functions import main
from common.rewards.bench.trial import FACE

ROWS = [
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"What is {n} + {n}?"}],
        "reward_model": {"style": "rule", "ground_truth": str(2 * n)},
        "extra_info": {"index": n},
    }
    for n in range(10, 14)
]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def bench(data, tmp_path, capfd):
    """Run the bench on a file with this text (or on a reward by name); returns exit status and report."""

    def run(text, *options, name="compute_score"):
        path = tmp_path / "my_reward.py"
        path.write_text(text)
        reward = f"{path}:{name}" if text else name
        status = main(["bench", "--reward", reward, "--data", str(data), "--json", *options])
        return status, json.loads(capfd.readouterr().out)

    return run


def found(report, *statuses):
    return {finding["check"]: finding for finding in report["findings"] if finding["status"] in statuses}


GOOD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(solution_str.strip().endswith("#### " + ground_truth)), "length": len(solution_str)}
"""


def test_a_good_function_passes(bench):
    status, report = bench(GOOD)
    assert status == 0 and report["passed"]
    assert found(report, "warn", "fail") == {}
    good = next(row for row in report["answers"] if (row["kind"], row["form"]) == ("good", "#### N"))
    assert good["calls"] == 4 and good["mean"] == 1.0
    assert {row["kind"] for row in report["answers"]} == {"good", "bad", "empty", "huge", "broken", "thought"}


BAD = {
    "raises": (
        "def compute_score(solution_str, ground_truth, **kwargs):\n"
        "    number = solution_str.split('####')[1]\n"
        "    return float(number.strip() == ground_truth)\n",
        "exceptions",
        "IndexError: list index out of range (line 2)",
    ),
    "raises on rubbish only": (
        "def compute_score(solution_str, ground_truth, **kwargs):\n"
        "    solution_str.encode()\n"
        "    return float(solution_str == '#### ' + ground_truth)\n",
        "exceptions",
        "UnicodeEncodeError",
    ),
    "takes other arguments": (
        "def compute_score(prompt, answer):\n    return 1.0\n",
        "exceptions",
        "TypeError: compute_score() got an unexpected keyword argument 'data_source'",
    ),
    "exits": ("def compute_score(**kwargs):\n    raise SystemExit(3)\n", "exceptions", "SystemExit: 3 (line 2)"),
    "signal": (
        "import signal\ndef compute_score(**kwargs):\n    signal.signal(signal.SIGALRM, print)\n    return 1.0\n",
        "exceptions",
        "signal only works in main thread",
    ),
    "None": (
        "def compute_score(solution_str, **kwargs):\n    if solution_str:\n        return len(solution_str)\n",
        "result",
        "returned None: 4 calls".replace(":", "; return a number, or a dictionary with 'score':"),
    ),
    "NaN": ("def compute_score(**kwargs):\n    return float('nan')\n", "result", "the score nan"),
    "text": ("def compute_score(**kwargs):\n    return 'good'\n", "result", "the score 'good'"),
    "NaN in a part": ("def compute_score(**kwargs):\n    return {'score': 1, 'x': float('inf')}\n", "result", "x=inf"),
    "no score": ("def compute_score(**kwargs):\n    return {'acc': 1.0}\n", "result", "without 'score': ['acc']"),
    "reward": ("def compute_score(**kwargs):\n    return {'score': 1, 'reward': 1}\n", "result", "key named 'reward'"),
    "coroutine": (
        "async def score(**kwargs):\n    return 1.0\ndef compute_score(**kwargs):\n    return score(**kwargs)\n",
        "result",
        "returned a coroutine",
    ),
    "keys": (
        "def compute_score(solution_str, ground_truth, **kwargs):\n"
        "    if '####' not in solution_str:\n        return {'score': 0.0}\n"
        "    return {'score': float(solution_str.endswith(ground_truth)), 'acc': 1.0}\n",
        "keys",
        "acc, score at row 1, good answer (#### N) '#### 20'; score at row 1",
    ),
    "constant": ("def compute_score(**kwargs):\n    return 0.0\n", "constant", "all"),
    "upside down": (
        "def compute_score(solution_str, ground_truth, **_):\n    return float(ground_truth not in solution_str)\n",
        "good against bad",
        "good 0, bad 1 on average",
    ),
    "sleeps": (
        "import time\ndef compute_score(solution_str, ground_truth, **kwargs):\n"
        "    if not solution_str:\n        time.sleep(600)\n    return float(ground_truth in solution_str)\n",
        "time limit",
        "did not come back within 0.5 s: 3 calls, first row 1, empty answer (empty) ''",
    ),
    "holds the interpreter's lock": (
        "import re\ndef compute_score(solution_str, ground_truth, **kwargs):\n"
        "    re.match(r'(1|11)*$', solution_str[:80] + 'x')\n    return float(ground_truth in solution_str)\n",
        "time limit",
        "huge answer (one digit)",
    ),
    "async sleeps": (
        "import asyncio\nasync def compute_score(solution_str, ground_truth, **kwargs):\n"
        "    if not solution_str:\n        await asyncio.sleep(600)\n    return float(ground_truth in solution_str)\n",
        "time limit",
        "did not come back within 0.5 s",
    ),
    "crashes": (
        "import os\ndef compute_score(solution_str, ground_truth, **kwargs):\n"
        "    if not solution_str:\n        os._exit(7)\n    return float(ground_truth in solution_str)\n",
        "time limit",
        "took its process down: its process ended with status 7",
    ),
    "not safe in threads": (
        "import time\nbusy = []\ndef compute_score(solution_str, ground_truth, **kwargs):\n"
        "    if busy:\n        raise RuntimeError('busy')\n"
        "    busy.append(1)\n    time.sleep(0.01)\n    busy.pop()\n    return float(ground_truth in solution_str)\n",
        "several at once",
        "RuntimeError: busy (line 5)",
    ),
    "cannot be imported": ("import no_such_package\n", "load", "No module named 'no_such_package' (line 1)"),
    "no such name": ("def score(**kwargs):\n    return 1.0\n", "load", "it defines score"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_function_is_found(bench, kind):
    text, check, words = BAD[kind]
    started = time.monotonic()
    status, report = bench(text, "--limit", "0.5")
    assert status == 1 and not report["passed"]
    assert words in found(report, "fail")[check]["found"]
    assert time.monotonic() - started < 30


WARNED = {
    "lock": (
        "import threading\nlock = threading.Lock()\ndef compute_score(solution_str, ground_truth, **kwargs):\n"
        "    with lock:\n        return float(ground_truth in solution_str)\n",
        "pickle",
        "cannot pickle '_thread.lock' object",
    ),
    "blocks the loop": (
        "import time\nasync def compute_score(solution_str, ground_truth, **kwargs):\n"
        "    if not solution_str:\n        time.sleep(0.4)\n    return float(ground_truth in solution_str)\n",
        "from async code",
        "holds the event loop",
    ),
    "pays for nothing": (
        "def compute_score(solution_str, ground_truth, **kwargs):\n"
        "    return float(ground_truth in solution_str or not solution_str)\n",
        "worthless answers",
        "row 1, empty answer (empty) '' scored 1",
    ),
    "random": (
        "import random\ndef compute_score(solution_str, ground_truth, **kwargs):\n"
        "    return (ground_truth in solution_str) + 0.1 * random.random()\n",
        "several at once",
        "together with others",
    ),
}


@pytest.mark.parametrize("kind", WARNED)
def test_a_doubtful_function_is_warned_about(bench, kind):
    text, check, words = WARNED[kind]
    status, report = bench(text)
    assert status == 0
    assert words in found(report, "warn")[check]["found"]


@pytest.mark.parametrize("kind", ["lambda", "async"])
def test_what_verl_can_call_passes(bench, kind):
    body = "float('#### ' + ground_truth in solution_str)"
    text = {
        "lambda": f"compute_score = lambda solution_str, ground_truth, **kwargs: {body}\n",
        "async": f"async def compute_score(solution_str, ground_truth, **kwargs):\n    return {body}\n",
    }[kind]
    status, report = bench(text)
    assert status == 0 and found(report, "fail", "warn") == {}


def test_what_the_function_prints_stays_out_of_the_json(bench):
    status, _ = bench(GOOD.replace("    return", "    print('noise')\n    return"))
    assert status == 0


@pytest.mark.parametrize("name", ["gsm8k", "exact_match", "normalized_match", "math", "by_data_source"])
def test_rewards_of_the_kit_pass(bench, name):
    status, report = bench("", name=name)
    assert status == 0 and found(report, "fail", "warn") == {}


def test_parameters_reach_the_function(bench):
    status, report = bench("", "--kwargs", '{"flexible": true}', name="gsm8k")
    plain = next(row for row in report["answers"] if (row["kind"], row["form"]) == ("good", "N"))
    assert status == 0 and plain["mean"] == 1.0
    status, report = bench("", "--kwargs", '{"flexibel": true}', name="gsm8k")
    assert status == 1 and "flexibel" in found(report, "fail")["exceptions"]["found"]


def test_data_that_does_not_fit_the_reward(bench):
    status, report = bench("", name="multiple_choice")
    assert status == 1
    assert "ground_truth='20'" in found(report, "fail")["exceptions"]["found"]


def test_a_truth_that_is_no_answer_is_not_held_against_the_function(bench, data, tmp_path):
    """Tests of a program: none of the answers that the bench makes of them can pass."""
    rows = [{**row, "reward_model": {"ground_truth": "assert double(2) == 4"}} for row in ROWS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, report = bench("def compute_score(**kwargs):\n    return 0.0\n")
    assert status == 0 and "give --responses" in found(report, "warn")["constant"]["todo"]
    path = tmp_path / "responses.jsonl"
    path.write_text('{"index": 0, "responses": ["def double(n): return 2 * n"]}\n')
    assert bench("def compute_score(**kwargs):\n    return 0.0\n", "--responses", str(path))[0] == 1


def write_truths(data, truths):
    rows = [{**ROWS[0], "reward_model": {"ground_truth": truth}} for truth in truths]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_truths_that_are_not_right_themselves_are_found_in_the_whole_file(bench, data):
    """One row of 400, far behind the first 50: a comma where this function reads a number."""
    reader = "def compute_score(solution_str, ground_truth, **kwargs):\n"
    reader += "    return float(',' not in ground_truth and solution_str.endswith(ground_truth))\n"
    write_truths(data, [str(n) for n in range(300)] + ["1,234"] + [str(n) for n in range(400, 499)])
    status, report = bench(reader)
    assert status == 0
    assert "1 of 400 accepted answers are not right" in found(report, "warn")["truths"]["found"]
    assert "row 301: '1,234' scored at most 0" in found(report, "warn")["truths"]["found"]
    write_truths(data, ["1", "2", "3,4", "5"] * 20)
    status, report = bench(reader)
    assert status == 1 and "20 of 80 accepted answers" in found(report, "fail")["truths"]["found"]


def test_several_accepted_answers_must_all_be_right(bench, data):
    """A list of accepted answers that became a text: the function compares with the text itself."""
    write_truths(data, ['["Paris", "City of Paris"]', '["Rome"]'] * 8)
    status, report = bench(
        "def compute_score(solution_str, ground_truth, **_):\n    return float(solution_str == ground_truth)\n"
    )
    assert status == 1 and "constant" in found(report, "fail")
    status, report = bench("", name="normalized_match")
    assert status == 0 and found(report, "warn", "fail") == {}
    write_truths(data, [["Paris", "City of Paris"], ["Rome", "Roma"]] * 8)
    first = "def compute_score(solution_str, ground_truth, **_):\n    return float(solution_str == ground_truth[0])\n"
    status, report = bench(first)
    assert status == 1 and "16 of 32 accepted answers" in found(report, "fail")["truths"]["found"]
    assert bench("", name="exact_match")[0] == 0
    write_truths(data, [["A", "C"], ["B", "D"]] * 8)  # options that must all be named
    assert found(bench("", name="multiple_choice")[1], "warn", "fail") == {}


def test_truths_that_are_sentences_are_named(bench, data):
    write_truths(data, ["Paris", "It is the city on the Seine that everybody knows, Paris."] * 10)
    status, report = bench("", name="normalized_match")
    assert status == 0
    assert "10 of 20 truths are sentences, first row 2" in found(report, "warn")["sentences"]["found"]
    write_truths(data, ["答案就是那座塞纳河边的人人都知道的城市也就是巴黎", "巴黎"])
    assert "1 of 2 truths" in found(bench("", name="normalized_match")[1], "warn")["sentences"]["found"]


def test_an_unfinished_thought_that_is_paid_is_said(bench):
    status, report = bench(GOOD)
    assert "<think>" in found(report, "note")["unfinished thoughts"]["found"] and status == 0
    assert "unfinished thoughts" in found(bench("", name="gsm8k")[1], "ok")


# ---- answers of a model --------------------------------------------------------------------------------------


def test_responses_by_index(bench, tmp_path):
    path = tmp_path / "responses.jsonl"
    lines = [
        {"index": 0, "responses": ["#### 20", "#### 21"]},  # spread
        {"index": 1, "responses": ["#### 22", "#### 22"]},  # none
        {"index": 2, "responses": ["no", "no", "no"]},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, report = bench(GOOD, "--responses", str(path))
    spread = found(report, "warn")["spread within groups"]["found"]
    assert status == 0
    assert "3 groups: mean score 0.5, standard deviation 0.167 within a group, 67% of the groups have none" in spread


def test_responses_of_a_verl_dump(bench, tmp_path):
    """The fields that verl writes to rollouts/<step>.jsonl (trainer/ppo/v1/trainer_base.py)."""
    path = tmp_path / "1.jsonl"
    prompt = "user\nWhat is 11 + 11?\nassistant\n"
    lines = [
        {"input": prompt, "output": "#### 22", "gts": "22", "score": 1.0, "step": 1},
        {"input": prompt, "output": "#### 23", "gts": "22", "score": 1.0, "step": 1},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, report = bench(GOOD, "--responses", str(path))
    assert found(report, "note")["against the dump"]["found"] == "50% of 2 scores are those of the run"
    assert "1 groups: mean score 0.5" in found(report, "ok")["spread within groups"]["found"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1"),
        ('{"index": 9, "responses": ["x"]}', "index 9 is not among the rows"),
        ('{"answer": "x"}', "needs index"),
        ("", "has no answers"),
    ],
)
def test_responses_that_cannot_be_read(data, tmp_path, capsys, line, words):
    path = tmp_path / "responses.jsonl"
    path.write_text(line + "\n")
    assert main(["bench", "--reward", "gsm8k", "--data", str(data), "--responses", str(path)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--reward", "gsm9k"], "--reward gsm9k: give a .py file"),
        (["--reward", "gone.py"], "no such file"),
        (["--reward", "gsm8k", "--rows", "0"], "--rows"),
        (["--reward", "gsm8k", "--data", "gone.parquet"], "gone.parquet"),
    ],
)
def test_wrong_options_are_named(data, capsys, options, words):
    assert main(["bench", "--data", str(data), *options]) == 2
    assert words in capsys.readouterr().err


def test_the_table_is_for_people(data, capsys):
    assert main(["bench", "--reward", "gsm8k", "--data", str(data)]) == 0
    text = capsys.readouterr().out
    assert "usable, 0 warnings" in text.replace("\n", " ") and "good against bad" in text


# ---- the preflight uses the same code ------------------------------------------------------------------------


def test_preflight_says_it_in_one_line(tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text(BAD["raises"][0])
    problem = check_reward(path, "compute_score", ROWS)
    assert problem.startswith(f"REWARD_FUNC_PATH={path}: on the answer '20' it raised IndexError")
    path.write_text(BAD["keys"][0])
    assert "it returned the keys ['score'], on '#### 20' ['acc', 'score']" in check_reward(path, "compute_score", ROWS)
    path.write_text("import no_such_package\n")
    assert f"REWARD_FUNC_PATH={path}: cannot be imported" in check_reward(path, "compute_score", ROWS)
    path.write_text(GOOD)
    assert check_reward(path, "compute_score", ROWS) is None
    assert "REWARD_FUNC_NAME=score: not in" in check_reward(path, "score", ROWS)


def test_preflight_tries_with_the_parameters_of_the_launch():
    key = "reward.custom_reward_function.reward_kwargs"
    parameters = reward_kwargs(
        [f"+{key}.weights={{gsm8k: 1.0, repetition: 0.2}}", f"++{key}.params.repetition.n=3", "trainer.total_epochs=1"]
    )
    assert parameters == {"weights": {"gsm8k": 1.0, "repetition": 0.2}, "params": {"repetition": {"n": 3}}}
    assert reward_kwargs(["trainer.total_epochs=1"]) == {}
    assert check_reward(FACE, "combine", ROWS, parameters) is None
    assert "weights=None" in check_reward(FACE, "combine", ROWS)


def test_preflight_imports_nothing_heavy(tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text("import sys\n" + GOOD.replace("    return", "    assert not HEAVY & set(sys.modules)\n    return"))
    path.write_text(path.read_text() + "\nHEAVY = {'torch', 'verl', 'ray', 'transformers'}\n")
    assert check_reward(path, "compute_score", ROWS) is None


def test_no_process_is_left(bench):
    bench(BAD["sleeps"][0], "--limit", "0.3")
    children = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_bench(pid)]
    assert children == []


def _is_bench(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            words = stream.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    with open(f"/proc/{pid}/stat") as stream:
        parent = int(stream.read().rpartition(")")[2].split()[1])
    return b"common.rewards.bench.child" in words and parent == os.getpid()
