"""Scores of well-known models on the sets of the suites, as their makers report them, each with its source.

Every figure was read again in the file and commit that its source names (Qwen2.5's in a copy of its model card).
Prompts, examples, lengths and graders differ from those here: a difference of a few points means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

QWEN25 = "arXiv 2412.15115; github.com/docker/model-cards, Qwen2.5-7B Instruct"
R1 = "arXiv 2501.12948; github.com/deepseek-ai/DeepSeek-R1, README.md at 00f3296"
V3 = "arXiv 2412.19437; github.com/deepseek-ai/DeepSeek-V3, README.md at 06dbd30"
LLAMA = "github.com/meta-llama/llama-models, models/llama3_1/MODEL_CARD.md at 1b28708"


@dataclass(frozen=True)
class Published:
    """One score.

    Args:
        model: Its name.
        score: In percent.
        how: As the source states it.
        source: Where it stands.
    """

    model: str
    score: float
    how: str
    source: str


PUBLISHED: dict[str, list[Published]] = {
    "gsm8k": [
        Published("Qwen2.5-7B-Instruct", 91.6, "4 examples", QWEN25),
        Published("Llama-3.1-8B-Instruct", 84.5, "8 examples", LLAMA),
    ],
    "math500": [
        Published("DeepSeek-R1", 97.3, "pass@1", R1),
        Published("DeepSeek-R1-Distill-Qwen-7B", 92.8, "pass@1", R1),
        Published("DeepSeek-R1-Distill-Qwen-1.5B", 83.9, "pass@1", R1),
    ],
    "aime24": [
        Published("DeepSeek-R1", 79.8, "pass@1", R1),
        Published("DeepSeek-R1-Distill-Qwen-7B", 55.5, "pass@1; cons@64 83.3", R1),
        Published("DeepSeek-R1-Distill-Qwen-1.5B", 28.9, "pass@1; cons@64 52.7", R1),
    ],
    "gpqa": [
        Published("DeepSeek-R1", 71.5, "pass@1", R1),
        Published("DeepSeek-R1-Distill-Qwen-7B", 49.1, "pass@1", R1),
        Published("Qwen2.5-7B-Instruct", 36.4, "all of GPQA, not Diamond alone", QWEN25),
    ],
    "mmlu_pro": [
        Published("DeepSeek-R1", 84.0, "exact match", R1),
        Published("Qwen2.5-7B-Instruct", 56.3, "", QWEN25),
        Published("Llama-3.1-8B-Instruct", 48.3, "5 examples, macro average", LLAMA),
    ],
    "bbh": [Published("DeepSeek-V3-Base", 87.5, "3 examples", V3)],
    "ceval": [
        Published("DeepSeek-R1", 91.8, "exact match", R1),
        Published("DeepSeek-V3-Base", 90.1, "5 examples", V3),
    ],
    "cmmlu": [Published("DeepSeek-V3-Base", 88.8, "5 examples", V3)],
    "cmath": [Published("DeepSeek-V3-Base", 90.7, "3 examples", V3)],
    "humaneval": [
        Published("Qwen2.5-7B-Instruct", 84.8, "pass@1", QWEN25),
        Published("Llama-3.1-8B-Instruct", 72.6, "pass@1", LLAMA),
    ],
    "mbpp": [Published("Qwen2.5-7B-Instruct", 79.2, "pass@1", QWEN25)],
    "ifeval": [
        Published("DeepSeek-R1", 83.3, "prompt strict", R1),
        Published("Qwen2.5-7B-Instruct", 71.2, "prompt strict", QWEN25),
    ],
}
