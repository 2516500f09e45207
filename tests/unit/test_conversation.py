"""Every chat template: ids are those of the whole conversation; learnt are the answers with their end, nothing else.

What must be learnt is looked up in the table below, written by reading each template, and found in the rendered text
with regular expressions; nothing is taken from the code under test.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from common.data.conversation import Renderer, RenderError, pair_tokens

TEMPLATES = Path(__file__).resolve().parents[1] / "data" / "chat_templates"
MODEL = Path(__file__).resolve().parents[2] / "common" / "demo_model" / "model"
IM = (r"<\|im_start\|>assistant\n", r"<\|im_end\|>")
THINK = (r"<\|im_start\|>assistant\n(?:<think>\n(?!\n</think>)|<think>\n(?=\n</think>))?", r"<\|im_end\|>")
NO_THINK = (r"<\|im_start\|>assistant\n(?:<think>\n\n</think>\n\n|<think>\n)?", r"<\|im_end\|>")
NEMOTRON = (r"<\|im_start\|>assistant\n(?:<think></think>|<think>\n)", r"<\|im_end\|>")
COHERE = r"<\|START_OF_TURN_TOKEN\|><\|CHATBOT_TOKEN\|>"
LLAMA = (r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n", r"<\|eot_id\|>")
GEMMA = (r"<start_of_turn>model\n", r"<end_of_turn>")
PHI = (r"<\|assistant\|>\n", r"<\|end\|>")
# What inference gives before an answer, and what ends one.
FRAMES = {
    "cohere": (COHERE, r"<\|END_OF_TURN_TOKEN\|>"),
    "cohere2": (COHERE + r"<\|START_RESPONSE\|>", r"<\|END_RESPONSE\|><\|END_OF_TURN_TOKEN\|>"),
    "deepseekv3": (r"(?:<｜Assistant｜>|<｜tool▁outputs▁end｜>)", r"<｜end▁of▁sentence｜>"),
    "gemma": GEMMA,
    "gemma3": GEMMA,
    "glm4moe": (r"<\|assistant\|>", r"(?:<\|user\|>|<\|observation\|>|\Z)"),
    "gptoss": (r"<\|start\|>assistant", r"(?:<\|end\|>|<\|return\|>|<\|call\|>)"),
    "lfm2": IM,
    "lfm2_2_5": IM,
    "llama3": LLAMA,
    "llama3_1": LLAMA,
    "llama3_2": LLAMA,
    "nemotron_3_nano": NEMOTRON,
    "nemotron_3_super": NEMOTRON,
    "nemotron_3_ultra": NEMOTRON,
    "phi3": PHI,
    "phi3_5": PHI,
    "qwen2_5": IM,
    "qwen3": IM,
    "qwen3_5_nothink": NO_THINK,
    "qwen3_5_think": THINK,
    "qwen3_6": THINK,
    "qwen3_instruct_2507": IM,
}


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CALL = {"id": "call12345", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "two"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number", "description": "one"}}},
    },
}
TALK = [
    *(said("user", "Ask one."), said("assistant", "Answer one.")),
    *(said("user", "Ask two."), said("assistant", "Answer two.")),
    *(said("user", "Ask three."), said("assistant", "Answer three.")),
]
THOUGHTS = [
    said("user", "Ask one."),
    said("assistant", "Answer one.", reasoning_content="Thought one."),
    said("user", "Ask two."),
    said("assistant", "Answer two.", reasoning_content="Thought two."),
]
CALLS = [
    said("user", "Ask one."),
    said("assistant", "", tool_calls=[CALL]),
    said("tool", "Found 3", name="add", tool_call_id="call12345"),
    said("assistant", "Answer two."),
]
CASES = {"one": (TALK[:2], 1), "three": (TALK, 3), "thoughts": (THOUGHTS, 2), "calls": (CALLS, 2)}
WITHOUT_CALLS = ("cohere", "cohere2", "gemma", "gemma3", "lfm2", "llama3", "phi3", "phi3_5")


def tokenizer_of(name: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer.bos_token = tokenizer.bos_token or "<|im_start|>"
    return tokenizer


def expected_spans(text: str, frame: tuple[str, str]) -> list[tuple[int, int]]:
    return [found.span(1) for found in re.finditer(f"{frame[0]}(.*?{frame[1]})", text, re.DOTALL)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FRAMES)
def test_the_answers_and_nothing_else_is_learnt(name: str, case: str) -> None:
    messages, turns = CASES[case]
    tools = [TOOL] if case == "calls" else None
    tokenizer = tokenizer_of(name)
    renderer = Renderer.of(tokenizer)
    if case == "calls" and name in WITHOUT_CALLS:
        with pytest.raises(RenderError, match=r"alternate|leaves out the tool call of message 2"):
            renderer.tokens(tokenizer, messages, tools)
        return
    ids, mask = renderer.tokens(tokenizer, messages, tools)
    asked = messages
    if name == "deepseekv3" and case == "calls":  # its template joins the arguments to a text
        function = {"name": "add", "arguments": '{"a": 1, "b": "two"}'}
        asked = [messages[0], {**messages[1], "tool_calls": [{**CALL, "function": function}]}, *messages[2:]]
    assert ids == tokenizer.apply_chat_template(asked, tools=tools, tokenize=True, return_dict=False)

    text = tokenizer.apply_chat_template(asked, tools=tools, tokenize=False)
    spans = expected_spans(text, FRAMES[name])
    assert len(spans) == turns
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    right = [int(any(start < until and end > begin for begin, until in spans)) for start, end in offsets]
    assert mask == right


@pytest.mark.parametrize(
    ("name", "messages", "rule"),
    [
        ("gemma", [said("system", "Be brief."), *TALK[:2]], "System role not supported"),
        ("gemma3", [TALK[0], TALK[0], TALK[1]], "Conversation roles must alternate"),
        ("phi3", CALLS, "leaves out the tool call of message 2"),
    ],
)
def test_what_a_template_cannot_show_is_refused_with_its_rule(name: str, messages: list, rule: str) -> None:
    with pytest.raises(RenderError, match=rule):
        Renderer.of(tokenizer_of(name)).render(messages)


def test_a_turn_of_weight_0_is_shown_and_not_learnt() -> None:
    messages = [TALK[0], {**TALK[1], "weight": 0}, TALK[2], {**TALK[3], "weight": 1.0}]
    rendered = Renderer.of(tokenizer_of("qwen2_5")).render(messages)
    assert "Answer one." in rendered.text
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["Answer two.<|im_end|>"]


@pytest.mark.parametrize(
    ("thinking", "learnt"),
    [
        (None, "<think>\nThought two.\n</think>\n\nAnswer two.<|im_end|>"),
        (True, "<think>\nThought two.\n</think>\n\nAnswer two.<|im_end|>"),
        (False, "Answer two.<|im_end|>"),  # inference gives the empty thought
    ],
)
def test_thoughts_are_learnt_or_left_out(thinking: bool | None, learnt: str) -> None:
    rendered = Renderer.of(tokenizer_of("qwen3"), thinking).render(THOUGHTS)
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["Answer one.<|im_end|>", learnt]


def test_the_sft_dataset_gives_what_the_renderer_says(tmp_path: Path) -> None:
    from common.data.verl_datasets import SFTDataset

    pq.write_table(pa.Table.from_pylist([{"messages": TALK}, {"messages": TALK[:2]}]), tmp_path / "a.parquet")
    tokenizer = tokenizer_of("gemma")
    config = SimpleNamespace(get=lambda key, default=None: {"pad_mode": "no_padding"}.get(key, default))
    item = SFTDataset(str(tmp_path / "a.parquet"), tokenizer, config)[1]
    assert tokenizer.decode(item["input_ids"][item["loss_mask"].bool()]) == "Answer one.<end_of_turn>"


OPENS_THE_NEXT = (
    "{% for m in messages %}<|S|><|{{ m.role }}|>{{ m.content }}<|E|>{% endfor %}<|S|>"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_mark_that_opens_the_next_turn_is_not_learnt() -> None:
    """Command A writes it behind the last answer too; the tokenizer's end token says where the answer ends."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template, tokenizer.eos_token = OPENS_THE_NEXT, "<|E|>"
    rendered = Renderer.of(tokenizer).render(TALK[:4])
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["Answer one.<|E|>", "Answer two.<|E|>"]


def test_marks_in_brackets_end_a_turn() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = (
        "{% for m in messages %}[|{{ m.role }}|]{{ m.content }}{% if m.role == 'assistant' %}[|endofturn|]{% endif %}\n"
        "{% endfor %}{% if add_generation_prompt %}[|assistant|]{% endif %}"
    )
    rendered = Renderer.of(tokenizer).render(TALK[:4])
    learnt = [rendered.text[start:end] for start, end in rendered.spans]
    assert learnt == ["Answer one.[|endofturn|]", "Answer two.[|endofturn|]"] and not rendered.endless


def test_an_end_that_looks_like_no_mark_is_learnt() -> None:
    tokenizer = tokenizer_of("qwen2_5")
    tokenizer.chat_template = (  # as MiniMax writes it
        "{% for m in messages %}]~b]{{ 'ai' if m.role == 'assistant' else m.role }}\n{{ m.content }}[e~[\n{% endfor %}"
        "{% if add_generation_prompt %}]~b]ai\n{% endif %}"
    )
    rendered = Renderer.of(tokenizer).render(TALK[:4])
    learnt = [rendered.text[start:end] for start, end in rendered.spans]
    assert learnt == ["Answer one.[e~[", "Answer two.[e~["] and not rendered.endless


def test_what_a_template_leaves_out_is_told() -> None:
    qwen3, gptoss = Renderer.of(tokenizer_of("qwen3")), Renderer.of(tokenizer_of("llama3_1"))
    assert qwen3.render(THOUGHTS).lost == {"thoughts of earlier turns"}
    assert qwen3.render(THOUGHTS[2:]).lost == set()
    assert Renderer.of(tokenizer_of("llama3")).render(THOUGHTS[2:]).lost == {"thoughts of the last turn"}
    together = [CALLS[0], {**CALLS[1], "content": "I will add."}, *CALLS[2:]]
    assert gptoss.render(together, [TOOL]).lost == {"text next to a tool call"}
    assert qwen3.render(together, [TOOL]).lost == set()


def test_a_pair_shares_its_prompt_and_learns_both_answers() -> None:
    tokenizer = tokenizer_of("qwen2_5")
    row = {"prompt": "Ask one.", "chosen": "Good.", "rejected": [said("assistant", "Bad.")]}
    chosen, rejected = pair_tokens(Renderer.of(tokenizer), tokenizer, row)
    assert chosen.prompt == rejected.prompt
    assert tokenizer.decode(chosen.prompt).endswith("Ask one.<|im_end|>\n<|im_start|>assistant\n")
    learnt = tokenizer.decode(chosen.answer), tokenizer.decode(rejected.answer)
    assert learnt == ("Good.<|im_end|>", "Bad.<|im_end|>")


def test_a_pair_may_open_its_answers_differently() -> None:
    tokenizer = tokenizer_of("nemotron_3_nano")
    row = {"prompt": "Ask.", "chosen": [said("assistant", "Good.", reasoning_content="Hm.")], "rejected": "Bad."}
    chosen, rejected = (tokenizer.decode(side.answer) for side in pair_tokens(Renderer.of(tokenizer), tokenizer, row))
    assert chosen == "Hm.\n</think>\nGood.<|im_end|>" and rejected == "Bad.<|im_end|>"


def test_a_content_that_is_no_text_is_refused_by_number() -> None:
    parts = [{"type": "text", "text": "Ask."}]
    with pytest.raises(RenderError, match=r"message 1 \(user\): its content is not text"):
        Renderer.of(tokenizer_of("qwen2_5")).render([said("user", parts), TALK[1]])
