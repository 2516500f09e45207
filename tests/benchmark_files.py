"""Small files in the published form of each set of the suites, written for the tests, with right and wrong answers."""

import json
from pathlib import Path

STUB = 'from typing import List\n\n\ndef twice(xs: List[int]) -> List[int]:\n    """Each number twice as large."""\n'
CHECK = "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n    assert candidate([]) == []\n"
FUNCTION = "def twice(xs: List[int]) -> List[int]:\n    return [2 * x for x in xs]"  # without the prompt's import
IFEVAL = {
    "key": 1000,
    "prompt": "Write about rain without commas, in at least two words.",
    "instruction_id_list": ["punctuation:no_comma"],
    "kwargs": [{}],
}
EXAM = {"question": "一加一等于几？", "A": "一", "B": "二", "C": "三", "D": "四"}
PENS = "Ann has 3 pens in a red box and buys 4 more at the market on Monday. How many pens does she have?"
# Set -> (row as published, right answers, wrong answers).
ROWS = {
    "gsm8k": (
        {"question": PENS, "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
        [r"So \boxed{7}.", r"\boxed{7.0}"],
        [r"So \boxed{8}.", "I do not know."],
    ),
    "math500": (
        {"problem": "Half of one third?", "answer": r"\frac{1}{6}", "subject": "Prealgebra", "level": 1},
        [r"\boxed{\frac{1}{6}}", r"\boxed{1/6}"],
        [r"\boxed{\frac{1}{5}}"],
    ),
    "aime24": (
        {"problem": "What is 20 + 13?", "answer": "033", "id": 60},
        [r"\boxed{33}", r"\boxed{033}"],
        [r"\boxed{3}"],
    ),
    "aime25": ({"problem": "What is 40 + 30?", "answer": "70", "id": "0"}, [r"\boxed{70}"], [r"\boxed{7}"]),
    "amc": ({"problem": "What is 3 + 4?", "answer": 7.0, "id": 0, "url": "x"}, [r"\boxed{7}"], [r"\boxed{70}"]),
    "gpqa": (
        {
            "Question": "Which is a metal?",
            "Correct Answer": "Iron\n",
            **{f"Incorrect Answer {i}": name for i, name in ((1, "Neon"), (2, "Sulphur"), (3, "Argon"))},
            "High-level domain": "Chemistry",
            "Record ID": "rec1",
        },
        ["Answer: B", "The answer is (B)."],
        ["Answer: A", "B or D"],
    ),
    "mmlu_pro": (
        {"question_id": 70, "question": "Two?", "options": ["1", "2", "3", "N/A"], "answer": "B", "category": "math"},
        ["Answer: B", "**Answer: B**"],
        ["Answer: C", "Answer: B or C"],
    ),
    "bbh": (
        {"input": "not True is\nOptions:\n(A) True\n(B) False", "target": "(B)"},
        ["So the answer is (B).", "So the answer is B."],
        ["So the answer is (A)."],
    ),
    "ceval": ({"id": 0, **EXAM, "answer": "B", "explanation": ""}, ["答案：B", "所以答案是B。"], ["答案：C"]),
    "cmmlu": ({"Question": EXAM["question"], **{c: EXAM[c] for c in "ABCD"}, "Answer": "B"}, ["答案：B"], ["答案：D"]),
    "cmath": ({"question": "3 加 4 是多少？", "golden": "7", "grade": 1}, [r"\boxed{7}"], [r"\boxed{6}"]),
    "humaneval": (
        {"task_id": "HumanEval/0", "prompt": STUB, "canonical_solution": "", "test": CHECK, "entry_point": "twice"},
        [f"```python\n{FUNCTION}\n```", "```python\n    return [x + x for x in xs]\n```"],
        ["```python\ndef twice(xs):\n    return xs\n```", "no program"],
    ),
    "mbpp": (
        {
            "task_id": 11,
            "text": "Write a function to add.",
            "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
            "test_setup_code": "",
        },
        ["```python\ndef add(a, b):\n    return a + b\n```"],
        ["```python\ndef add(a, b):\n    return a * b\n```"],
    ),
    "ifeval": (IFEVAL, ["Rain falls down"], ["Rain, falls"]),
}


def write_sets(folder: Path, *names: str) -> Path:
    """A folder for ``--data`` with one row of each set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ROWS:
        (folder / f"{name}.jsonl").write_text(json.dumps(ROWS[name][0], ensure_ascii=False) + "\n", encoding="utf-8")
    return folder
