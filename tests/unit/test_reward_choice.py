"""The multiple choice reward: which sentences name a letter."""

import time

import pytest

from common.answers.letters import stated_letters
from common.reward_functions import multiple_choice

STATEMENTS = [
    ("The answer is (B).", "B"),
    ("the answer is B", "B"),
    ("Answer: B", "B"),
    ("**Answer:** C", "C"),
    ("Answer: **B**", "B"),
    ("Answer: B) Paris", "B"),
    ("The correct answer is option B", "B"),
    ("The best option is: A) 3", "A"),
    ("Option C is correct", "C"),
    ("I pick option J.", "J"),
    ("Final Answer: $\\boxed{A}$", "A"),
    (r"\boxed{\text{(E)}}", "E"),
    (r"The answer is: $\boxed{\textbf{(C)}}$", "C"),
    (r"\boxed{b}", "B"),
    ("#### B", "B"),
    ("B", "B"),
    ("(C)", "C"),
    ("**D**", "D"),
    ("The others are wrong.\nB.", "B"),
    ("The answer is A because the rest is wrong", "A"),
    ("The answer is (A), I think. No: the answer is C", "C"),  # the last clear statement
    ("The answer is C. Note that A is close.", "C"),
    ("答案是B", "B"),
    ("答案：Ｂ", "B"),
    ("正确答案为（D）", "D"),
    ("答案应该是：选项 B", "B"),
    ("故选 C。", "C"),
    ("答案不是B，答案是C", "C"),
    ("不选B", None),
    ("The answer is not B", None),
    ("I would not choose B", None),
    ("The answer is A or B", None),
    ("答案是A和B", "AB"),  # several letters, all of which are stated
    (r"\boxed{AB}", "AB"),
    ("The answer is A good idea", None),
    ("the answer is a matter of taste", None),
    ("The answer is Apple", None),
    ("The answer is K", None),
    ("ABC", "ABC"),
    ("", None),
    ("因此只有选项C是对的。", "C"),
    ("【答案】C", "C"),
    ("选项C正确。", "C"),
    ("C选项正确", "C"),
    ("C是正确答案", "C"),
    ("故C", "C"),
    ("选择C", "C"),
    ("选C", "C"),
    ("本题选C", "C"),
    ("**C**", "C"),
    ("Option C", "C"),
    ("C. text", "C"),
    ("AC", "AC"),
    ("A和C", "AC"),
    ("答案是A、C", "AC"),
    ("故选ABD", "ABD"),
    ("A man walks into a bar", None),
    ("I think so", None),
    ("不选C", None),
    ("not C", None),
    ("A is wrong so B", "B"),
    ("The answer is A = 5", None),
    (r"\boxed{A = \pi r^2}", None),
    (r"\boxed{E=mc^2}", None),
    ("<think>B fits</think><answer>B</answer>", "B"),
    ("<think>\nMaybe the answer is B. But hold on, option", None),
    ("A错误，B错误，C正确，D错误", "C"),
    ("因此A选项错误", None),
    ("所以A错误，选B", "B"),
    ("答案是C，A项错误", "C"),
    ("neither A nor C is correct", None),
    ("If C is correct, then D is not", None),
    ("The answer is not B but D", "D"),
    ("I would go with (D).", "D"),
    ("B\n\nBecause the rest is wrong.", "B"),
    ("The correct answers are A and C.", "AC"),
    ("Both A and C are correct", "AC"),
    ("A和C正确", "AC"),
    ("the answer is (b)", "B"),
    ("answer: d", "D"),
    ("The answer is A. Wait, no. It's B.", "B"),
    ("The answer is A. Wait, that's wrong.", None),
    ("正确答案是 **D**", "D"),
    ("A. x\nB. y\nC. z\nD. w", None),
    ("因此，C。", "C"),
    ("如果C正确，则矛盾", None),
    ("C不正确", None),
    ("C is not correct", None),
    ("选的是C", "C"),
    ("我选D，不选C", "D"),
    ("应选 B 而不是 A", "B"),
    ("wrong answer is B", None),
    ("It is B.", "B"),
    ("Therefore, (B).", "B"),
    ("So the answer is option (C): 42", "C"),
    ("Ans: B", "B"),
    ("<answer>C. Paris</answer>", "C"),
    ("<answer>Option C</answer>", "C"),
    ("<answer>AB</answer>", "AB"),
    (r"\boxed{\text{B. Paris}}", "B"),
    (r"\boxed{\text{A, C}}", "AC"),
    ("答案选B", "B"),
    ("综上所述，正确答案为A。", "A"),
    ("所以正确的是D", "D"),
    ("这道题应该选择B选项", "B"),
    ("正确选项：A", "A"),
    ("B项符合题意", "B"),
    ("I think the answer must be B", "B"),
    ("The answer is likely C", "C"),
    ("不能选A，应该选B", "B"),
    ("The best choice here is B.", "B"),
    ("A good answer is hard to find", None),
    ("I", "I"),
    ("A", "A"),
    ("f(C) = 5", None),
    ("The value of C is 5", None),
    (r"$\triangle ABC$ is right", None),
    ("The area is C(5,2)", None),
]


@pytest.mark.parametrize(("text", "letters"), STATEMENTS)
def test_stated_letters(text, letters):
    assert stated_letters(text) == (None if letters is None else frozenset(letters))


@pytest.mark.parametrize("truth", ["B", "b", "(B)", "B.", "B) Paris", "B、巴黎", "Ｂ"])
def test_forms_of_the_truth(truth):
    assert multiple_choice("cais/mmlu", "The answer is (B).", truth) == {"score": 1.0, "acc": 1.0, "format": 1.0}
    assert multiple_choice("cais/mmlu", "The answer is (C).", truth) == {"score": 0.0, "acc": 0.0, "format": 1.0}


@pytest.mark.parametrize("truth", [None, "", "K", "Paris", 1, [], [None], "A good idea"])
def test_unusable_truth_is_named(truth):
    with pytest.raises(ValueError, match="ground_truth="):
        multiple_choice("cais/mmlu", "The answer is (B).", truth)


@pytest.mark.parametrize(
    "odd",
    [None, 3, b"B", "\ud800", "answer is" + " " * 100_000 + "x", "\n(" * 50_000, "####" + " " * 100_000 + "x"]
    + ["\\boxed{" * 15_000, "(" * 100_000, "answer is:" * 10_000, "A or " * 20_000, "A" + ")" * 100_000],
)
def test_odd_answers_score_zero_soon(odd):
    started = time.perf_counter()
    assert multiple_choice("cais/mmlu", odd, "B")["score"] == 0.0
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    "truth", ["A, C", "AC", "CA", "A和C", "A、C", "(A) and (C)", ["A", "C"], '["C", "A"]', {"target": ["A", "C"]}]
)
def test_several_letters_must_all_be_named_in_any_order(truth):
    for answer in ("The answers are A and C.", "故选AC", "C, A", r"\boxed{C, A}", "<answer>A, C</answer>", "A和C正确"):
        assert multiple_choice("ceval", answer, truth)["score"] == 1.0, answer
    for answer in ("The answer is A.", "C", "故选ACD", "A or C", "不选A，选C"):
        assert multiple_choice("ceval", answer, truth)["score"] == 0.0, answer


def test_a_list_of_longer_truths_lists_what_counts():
    assert multiple_choice("x", "AC", ["AC", "AD"])["score"] == 1.0
    assert multiple_choice("x", "AD", ["AC", "AD"])["score"] == 1.0
    assert multiple_choice("x", "ACD", ["AC", "AD"])["score"] == 0.0


def test_a_truth_of_signs_alone_is_compared_exactly():
    from common.evaluation.questions import Question
    from common.evaluation.rewards import _by_truth

    assert _by_truth(Question(0, 1, ground_truth="] >"))[0].name == "exact_match"
    assert _by_truth(Question(0, 1, ground_truth="the Nile"))[0].name == "normalized_match"
