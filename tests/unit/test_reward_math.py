"""The math reward: it agrees with math-verify, also in threads, and no answer holds it up."""

import math as python_math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from common.reward_functions import math
from common.rewards import math_reward
from common.rewards.math_reward import last_box
from tests.conftest import ROOT

RIGHT = {"score": 1.0, "acc": 1.0, "format": 1.0}
WRONG = {"score": 0.0, "acc": 0.0, "format": 1.0}
RUNAWAY = r"\boxed{9^{9^{9^{9^{9}}}}}"


def score(answer, truth, **parameters):
    return math(data_source="math", solution_str=answer, ground_truth=truth, extra_info={}, **parameters)


def test_a_comma_divides_a_list_or_groups_of_three_digits():
    """Nothing tells 1,22 with a decimal comma from the list 1, 22; so it is the list."""
    assert score("1.22", "1,22")["score"] == score("1000.99", "1000,99")["score"] == 0.0
    assert score("22 and 1", "1,22")["score"] == 1.0
    assert score(r"\boxed{7,425,000}", "7425000.0")["score"] == 1.0


PAIRS = [  # (truth, answer), of the kinds that math-verify names: what is expected is asked of math-verify itself
    ("$-5$", "-5"),
    ("$7425000$", "7,425,000"),
    ("$1000.99$", "$1,000.99$"),
    ("$0.4$", ".4"),
    ("$10/9$", r"\frac{10}{9}"),
    ("$-10/9$", r"-\frac{10}{9}"),
    ("$1/3$", r"0.333333"),
    ("$1/3$", r"0.3334"),
    ("$1/3$", r"\frac13"),
    ("$1/3$", r"\dfrac{1}{3}"),
    ("$1/3$", r"\left( \frac{1}{3} \right)"),
    ("$1/3$", r"\frac{1}{3} \text{ meters}"),
    ("$1/3$", r"k = \frac{1}{3}"),
    (r"$\sqrt{3}$", r"\sqrt3"),
    (r"$28\%$", r"28\%"),
    (r"$28\%$", "28"),
    ("$0.28$", "28"),
    (r"$\{1,2,3\}$", r"\{3,2,1\}"),
    (r"$\{1,3\} \cup \{2,4\}$", r"\{1,2,3,4\}"),
    ("$[0,1)$", "[0,1)"),
    ("$[0,9)$", "[0,1)"),
    ("$(0,9)$", "[0,9)"),
    ("$x=5$", "5"),
    ("$5$", "x=5"),
    ("$1 < x < 2$", "(1,2)"),
    ("$2-2p$", "2(1-p)"),
    ("$x^2+2x+1$", "(x+1)^2"),
    ("$x^2+2x+1$", "(x-1)^2"),
    (r"$(3, \frac{\pi}{2})$", r"\left( 3, \frac{\pi}{2} \right)"),
    (r"$\text{Evelyn}$", r"\text{Evelyn}"),
    (r"$\text{Evelyn}$", r"\text{Carla}"),
    (r"$90^\circ$", r"90^\circ"),
    (r"$\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}$", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
    (r"$\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}$", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}"),
    (r"$\frac{14}{3}$", r"4\frac{2}{3}"),
    ("$14{,}916$", "14916"),
]


def test_agrees_with_math_verify_boxed_and_in_a_sentence():
    from math_verify import parse, verify

    for truth, value in PAIRS:
        for answer in (rf"Therefore it is $\boxed{{{value}}}$.", f"The final answer is ${value.strip('$')}$."):
            expected = verify(parse(truth), parse(answer))
            assert score(answer, truth)["score"] == float(expected), (truth, answer)


SENTENCES = [  # (truth, answer) as written; the first is the example of math-verify's README
    ("${1,3} \\cup {2,4}$", "${1,2,3,4}$"),
    (r"The answer is $\frac{1}{2}$", "The answer is 1/2"),
    (r"$28\%$", "28 percent"),
    (r"$28\%$", "$28$ %"),
    (r"$28\%$", r"$\boxed{28}$ pct"),
    (r"$28$", "28/100"),
    ("$9$", "Answer \\[ \n 9 \n \\]"),
    ("$9$", "Answer $ \n 9 \n $"),
    ("$10$", r"Answer \( (9+1) \)"),
    ("$2.74$", "Soucis : 2,74 $ a.."),
    ("$1000.99$", "the number is not 10 which is 1,000.99€"),
    ("$1000.99$", "not it's not 10 it's 1,000.99m²"),
    ("$2$", "AZYUK2A"),
    ("$2-2p$", r"If $2-x=p$, then $x=2-p$. Thus $x-p=\boxed{2-2p}$."),
    (r"\boxed{\begin{pmatrix} 0 & 3 \\ 0 & -1 \end{pmatrix}}", r"$$\begin{pmatrix} 0 & 3 \\ 0 & -1 \end{pmatrix}$$"),
    (r"$\frac{14}{3}$", r"$f(-2)=\frac{-8}{-4}+\frac{-5}{-3}+1=2+\frac{5}{3}+1=\frac{14}{3}$"),
]


@pytest.mark.parametrize(("truth", "answer"), SENTENCES)
def test_agrees_with_math_verify_on_whole_answers(truth, answer):
    from math_verify import parse, verify

    assert score(answer, truth)["score"] == float(verify(parse(truth), parse(answer)))


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        (r"$\boxed{72}$", "72", RIGHT),
        (r"$\boxed{072}$", "72", RIGHT),
        (r"$\boxed{73}$", "72", WRONG),
        (r"\boxed{1}, no: \boxed{2}", "2", RIGHT),  # the last box
        (r"\boxed{1}, no: \boxed{2}", "1", WRONG),
        (r"\boxed{2} and an open \boxed{3", "2", RIGHT),
        (r"\fbox{2}", "2", RIGHT),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{\sqrt{2}}{2}", RIGHT),
        (r"\boxed{x^2+1}", "1+x^2", RIGHT),  # a bare expression as the truth
        (r"\boxed{\frac{3}{6}}", r"We get $\boxed{\frac12}$ in all.", RIGHT),  # a whole solution as the truth
        (r"\boxed{72}", 72, RIGHT),
        (r"\boxed{}", "72", {"score": 0.0, "acc": 0.0, "format": 0.0}),  # an empty box holds no answer
    ],
)
def test_hard_cases(answer, truth, expected):
    assert score(answer, truth) == expected


def test_boxed_wants_the_box():
    assert score("The final answer is $72$.", "72")["score"] == 1.0
    assert score("The final answer is $72$.", "72", boxed=True) == {"score": 0.0, "acc": 0.0, "format": 0.0}
    assert score(r"\boxed{72}", "72", boxed=True) == RIGHT


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{a}", "a"),
        (r"\boxed {a}", "a"),
        (r"\boxed{\frac{a}{b}}", r"\frac{a}{b}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{\{}", r"\{"),  # an escaped brace opens nothing
        (r"\boxed{a} \boxed{b", "a"),
        (r"\boxed{a", None),
        ("boxed{a}", None),
        ("", None),
    ],
)
def test_last_box(text, inside):
    assert last_box(text) == inside


ODD = [None, "", 72, b"72", "\ud800", "\\boxed{\\text{\ud800}}", "\\boxed{" * 15_000]
ODD += [character * 100_000 for character in "}x1$ "]


@pytest.mark.parametrize("odd", ODD)
def test_odd_answers_score_zero_without_raising(odd):
    assert score(odd, "73")["score"] == 0.0


@pytest.mark.parametrize("truth", [None, "", "   ", [], [""], True, "x" * 5000])
def test_unusable_truth_is_named(truth):
    with pytest.raises(ValueError, match="ground_truth="):
        score(r"\boxed{72}", truth)


def test_runaway_is_stopped_in_a_thread_and_the_others_go_on():
    """Eight threads, of which one gets a power tower: it scores 0 near its limit, its process is gone."""
    score(r"\boxed{x/2}", "0.5x")  # starts the process
    first = math_reward._worker._process
    results, threads = {}, []

    def ask(number):
        answer = RUNAWAY if number == 3 else rf"\boxed{{\frac{{{number + 2}}}{{2}}}}"
        results[number] = score(answer, rf"\frac{{{2 * number + 4}}}{{4}}", timeout_s=0.5)["score"]

    started = time.perf_counter()
    for number in range(8):
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join(30)
    assert results == {number: float(number != 3) for number in range(8)}
    assert time.perf_counter() - started < 20
    assert first.poll() is not None, "the process that ran away is still there"


def test_runaway_is_killed_at_the_limit_and_not_by_its_own_alarm_a_second_later():
    took = []
    for number in range(2):  # the faster of two: the machine may be busy
        started = time.perf_counter()
        assert score(RUNAWAY, str(number), timeout_s=0.5)["score"] == 0.0
        took.append(time.perf_counter() - started)
        score(r"\boxed{1/2}", f"0.{number + 1}")  # the next process is ready
    assert 0.5 <= min(took) < 1.4


def test_runaway_truth_is_named():
    with pytest.raises(ValueError, match="9\\^"):
        score(r"\boxed{72}", RUNAWAY, timeout_s=0.5)


def test_no_process_for_equal_texts_and_whole_numbers(monkeypatch):
    monkeypatch.setattr(math_reward._worker, "ask", lambda *_: pytest.fail("the process was asked"))
    assert score(r"\boxed{123456789}", "123456789") == RIGHT
    assert score(r"\boxed{-0123}", "-123") == RIGHT
    assert score(r"\boxed{124}", "123456789") == WRONG


@pytest.mark.parametrize("busy", [False, True])
def test_process_ends_with_its_parent(busy):
    """The parent is killed, so that it cannot say good-bye; a busy child ends by its own alarm."""
    program = f"""
import threading
from common.rewards import math_reward
math_reward.math("x", r"\\boxed{{x/2}}", "0.5x")
print(math_reward._worker._process.pid, flush=True)
if {busy}:
    math_reward.math("x", r"{RUNAWAY}", "0.5", timeout_s=1.0)
threading.Event().wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    time.sleep(0.3 if busy else 0.0)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_forked_process_gets_a_child_of_its_own():
    """torch's data loaders fork; two processes on one pipe would read each other's answers."""
    score(r"\boxed{x/2}", "0.5x")
    pid = os.fork()
    if not pid:
        os._exit(0 if score(r"\boxed{3x/5}", "0.6x") == RIGHT else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert score(r"\boxed{3x/7}", "6x/14") == RIGHT


def test_standard_library_is_not_shadowed():
    assert python_math.isfinite(1.0)
