"""The sets of each suite: where they come from, how they are asked, and what counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.evaluation.settings import EvaluationError

BOXED = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
LETTER = (
    "Answer the following multiple choice question. Think step by step, then write on the last line: "
    "Answer: LETTER, where LETTER is one of {letters}.\n\n{question}\n\n{options}"
)
LETTER_ZH = (
    "以下是一道{subject}的单项选择题。请一步一步思考，最后一行写“答案：X”，X 是 {letters} 中的一个。"
    "\n\n{question}\n\n{options}"
)
# Long answers of models that think, sampled: DeepSeek-R1, arXiv 2501.12948, section 3.
THINKS = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 32_768}
GREEDY = {"temperature": 0.0, "n": 1}


@dataclass(frozen=True)
class Bench:
    """One set.

    Args:
        name: For ``--suite`` and for the sheet.
        title: As people write it.
        suite: It belongs to.
        hugging_face: Id there.
        revision: Commit of it, or a branch where none is pinned.
        licence: Of the set.
        paper: Where it is described.
        split: That is asked.
        prompt: With the fields that its reader gives.
        reward: Scores an answer.
        metric: What the score is, in words.
        rows: Rows of the split at this revision, None where not known; another number is said.
        settings: ``n``, ``temperature``, ``top_p``, ``max_new_tokens``, as papers state them.
        modelscope: Id there, or None.
        subset: Folder or part of the file's name that tells a subset apart.
        reward_kwargs: Parameters of the reward.
        note: What differs from the paper.
    """

    name: str
    title: str
    suite: str
    hugging_face: str
    revision: str
    licence: str
    paper: str
    split: str
    prompt: str
    reward: str
    metric: str
    rows: int | None
    settings: dict[str, Any]
    modelscope: str | None = None
    subset: str | None = None
    reward_kwargs: dict[str, Any] = field(default_factory=dict)
    note: str = ""


SETS: dict[str, Bench] = {
    bench.name: bench
    for bench in (
        Bench(
            "gsm8k", "GSM8K", "math", "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "MIT",
            "arXiv 2110.14168", "test", BOXED, "math", "accuracy", 1319, {**GREEDY, "max_new_tokens": 4096},
            "AI-ModelScope/gsm8k", "main", note="asked without examples; the paper trains on it",
        ),
        Bench(
            "math500", "MATH-500", "math", "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "MIT",
            "arXiv 2103.03874, 2305.20050", "test", BOXED, "math", "avg@4", 500, {**THINKS, "n": 4},
            "AI-ModelScope/MATH-500",
        ),
        Bench(
            "aime24", "AIME 2024", "math", "HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
            "not stated; problems of the MAA", "maa.org/maa-invitational-competitions", "train", BOXED, "math",
            "avg@64, maj@64, pass@64", 30, {**THINKS, "n": 64},
        ),
        Bench(
            "aime25", "AIME 2025", "math", "math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b",
            "Apache-2.0; problems of the MAA", "maa.org/maa-invitational-competitions", "test", BOXED, "math",
            "avg@64, maj@64, pass@64", 30, {**THINKS, "n": 64},
        ),
        Bench(
            "amc", "AMC 12, 2022 and 2023", "math", "AI-MO/aimo-validation-amc",
            "69d78a4a2c840e82d69af6bc742bda09005f6316", "not stated; problems of the MAA",
            "maa.org/maa-invitational-competitions", "train", BOXED, "math", "avg@16, maj@16", 83, {**THINKS, "n": 16},
        ),
        Bench(
            "gpqa", "GPQA Diamond", "reasoning", "Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd",
            "CC-BY-4.0; accept its terms on its page", "arXiv 2311.12022", "gpqa_diamond", LETTER, "multiple_choice",
            "avg@4", 198, {**THINKS, "n": 4}, note="options in an order drawn by the row's number",
        ),
        Bench(
            "mmlu_pro", "MMLU-Pro", "reasoning", "TIGER-Lab/MMLU-Pro", "b189ec765aa7ed75c8acfea42df31fdae71f97be",
            "MIT", "arXiv 2406.01574", "test", LETTER, "multiple_choice", "accuracy", 12_032,
            {**GREEDY, "max_new_tokens": 4096}, note="asked without examples; the paper gives 5",
        ),
        Bench(
            "bbh", "BIG-Bench Hard", "reasoning", "lukaemon/bbh",
            "982bb89fd79532a8ac676a61fc42eb1aeec63f99", "MIT", "arXiv 2210.09261", "test",
            "{question}\n\nThink step by step, then end with a line: So the answer is X.", "normalized_match",
            "accuracy", 6511, {**GREEDY, "max_new_tokens": 2048},
            note="asked without examples; the paper gives 3; an answer of brackets alone is compared exactly",
        ),
        Bench(
            "ceval", "C-Eval", "chinese", "ceval/ceval-exam",
            "617524a00b307ff6f9933702f724131fe12ca7ce", "CC-BY-NC-SA-4.0", "arXiv 2305.08322", "val",
            LETTER_ZH, "multiple_choice", "accuracy", 1346, {**GREEDY, "max_new_tokens": 2048},
            note="the validation split, as reports have it (the answers of the test split came later); no examples",
        ),
        Bench(
            "cmmlu", "CMMLU", "chinese", "haonan-li/cmmlu", "refs/convert/parquet", "CC-BY-NC-4.0", "arXiv 2306.09212",
            "test", LETTER_ZH, "multiple_choice", "accuracy", 11_582, {**GREEDY, "max_new_tokens": 2048},
            note="asked without examples; the paper gives 5",
        ),
        Bench(
            "cmath", "CMATH", "chinese", "weitianwen/cmath", "main", "CC-BY-4.0", "arXiv 2306.16636", "test",
            "{question}\n\n请一步一步思考，并把最后的答案写在 \\boxed{{}} 里。", "math", "accuracy", 1098,
            {**GREEDY, "max_new_tokens": 2048},
        ),
        Bench(
            "humaneval", "HumanEval", "code", "openai/openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
            "MIT", "arXiv 2107.03374", "test",
            "Complete this Python function. Reply with the whole function, and its imports, in one ```python block."
            "\n\n```python\n{question}```", "humaneval", "pass@1", 164, {**GREEDY, "max_new_tokens": 2048},
            reward_kwargs={"all_or_nothing": True, "max_tests": 1000, "timeout_s": 10.0},
        ),
        Bench(
            "mbpp", "MBPP", "code", "google-research-datasets/mbpp", "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
            "CC-BY-4.0", "arXiv 2108.07732", "test",
            "You are an expert Python programmer, and here is your task: {question} Your code should pass these tests:"
            "\n\n{tests}\n\nReply with the program in one ```python block.", "code", "pass@1", 500,
            {**GREEDY, "max_new_tokens": 2048}, subset="full",
            reward_kwargs={"all_or_nothing": True, "max_tests": 1000, "timeout_s": 10.0},
            note="asked without examples; the paper gives 3",
        ),
        Bench(
            "ifeval", "IFEval", "instructions", "google/IFEval", "966cd89545d6b6acfd7638bc708b98261ca58e84",
            "Apache-2.0", "arXiv 2311.07911", "ifeval_input_data", "{question}", "ifeval", "prompts followed", 541,
            {**GREEDY, "max_new_tokens": 4096},
            note="scored by the set's own grader, as lm-evaluation-harness has it",
        ),
    )
}  # fmt: skip
SUITES = tuple(dict.fromkeys(bench.suite for bench in SETS.values()))


def choose(text: str) -> list[Bench]:
    """The sets that ``--suite`` names: suites or sets, with commas.

    Raises:
        EvaluationError: If one is not known.
    """
    chosen: dict[str, Bench] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        found = [bench for bench in SETS.values() if word in (bench.suite, bench.name)]
        if not found:
            raise EvaluationError(
                f"--suite {word}: not known; suites are {', '.join(SUITES)}, their sets {', '.join(SETS)}"
            )
        chosen |= {bench.name: bench for bench in found}
    if not chosen:
        raise EvaluationError(f"--suite is empty; suites are {', '.join(SUITES)}")
    return list(chosen.values())
