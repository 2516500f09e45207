"""Whatever valid conversation goes in comes out the same: from each kind of file, through parquet, as verl reads it."""

import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.convert import Options, Source, convert
from common.data.rows import loaded, loaded_tools
from common.demo_model import DEMO_MODEL_DIR

# Any character of Unicode but halves of surrogate pairs; a text of white space alone is an empty turn.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda text: text.strip())
NUMBER = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(TEXT, VALUE, max_size=3)


@st.composite
def tool_turns(draw):
    """An assistant's calls, an answer of each tool, the assistant's words."""
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": draw(TEXT), "arguments": draw(ARGUMENTS)}}
        for i in range(draw(st.integers(1, 2)))
    ]
    answers = [{"role": "tool", "content": draw(TEXT), "tool_call_id": call["id"]} for call in calls]
    return [{"role": "assistant", "content": "", "tool_calls": calls}, *answers]


@st.composite
def conversations(draw):
    """A conversation whose roles are in order and which the assistant ends."""
    messages = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXT)})
        messages += draw(tool_turns()) if draw(st.booleans()) else []
        last = {"role": "assistant", "content": draw(TEXT)}
        messages.append(last | {"reasoning_content": draw(TEXT)} if draw(st.booleans()) else last)
    return messages


TOOLS = st.lists(
    st.fixed_dictionaries({"name": TEXT, "description": TEXT, "parameters": ARGUMENTS}).map(
        lambda function: {"type": "function", "function": function}
    ),
    max_size=2,
)
ROWS = st.lists(st.tuples(conversations(), TOOLS), min_size=1, max_size=4)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def through_parquet(rows, algorithm, suffix=".jsonl"):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / f"d{suffix}", Path(folder) / "o.parquet"
        lines = [json.dumps(row) for row in rows]
        text = "[" + ",\n".join(lines) + "]" if suffix == ".json" else "\n".join(lines)
        source.write_text(text, encoding="utf-8")
        report = convert([Source(source)], target, Options(algorithm))
        assert report.read == report.rows_written == len(rows)
        return pq.read_table(target).to_pylist()


@given(ROWS, st.sampled_from([".json", ".jsonl"]))
@MANY
def test_conversations(rows, suffix):
    made = through_parquet([{"messages": m, "tools": tools} for m, tools in rows], "sft", suffix)
    assert [loaded(row["messages"]) for row in made] == [messages for messages, _ in rows]
    assert [loaded_tools(row.get("tools")) or [] for row in made] == [tools for _, tools in rows]


@given(ROWS, TEXT, TEXT)
@MANY
def test_preference_pairs(rows, good, bad):
    pairs = [
        {
            "prompt": messages[:-1],
            "chosen": [{"role": "assistant", "content": good}],
            "rejected": [{"role": "assistant", "content": good + bad}],
        }
        for messages, _ in rows
    ]
    made = through_parquet(pairs, "dpo")
    assert [{name: loaded(row[name]) for name in ("prompt", "chosen", "rejected")} for row in made] == pairs


@given(ROWS, TEXT)
@MANY
def test_prompts(rows, truth):
    made = through_parquet([{"prompt": m[:-1], "ground_truth": truth, "data_source": "d"} for m, _ in rows], "grpo")
    assert [loaded(row["prompt"]) for row in made] == [messages[:-1] for messages, _ in rows]
    assert {row["reward_model"]["ground_truth"] for row in made} == {truth}


TALK = [
    {"role": "user", "content": "How much?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": None, "文": 1}}}],
    },
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "3 元"},
]
PLAIN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"default": None, "n": 1}}}
OTHER_TOOL = {"type": "function", "function": {"name": "g", "parameters": {"properties": {"q": {"type": "string"}}}}}


@pytest.fixture
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)


def test_verls_conversations_are_the_ones_that_went_in(tmp_path, tokenizer):
    """Tool calls and descriptions of different shapes in one file reach the template without a null of the others'."""
    from omegaconf import OmegaConf

    from common.data.verl_datasets import SFTDataset

    source = tmp_path / "d.jsonl"
    thinking = {"messages": PLAIN, "tools": [OTHER_TOOL], "enable_thinking": True}
    rows = [{"messages": TALK, "tools": [TOOL]}, {"messages": PLAIN}, thinking]
    source.write_text("\n".join(map(json.dumps, rows)))
    convert([Source(source)], tmp_path / "o.parquet", Options("sft"))
    config = OmegaConf.create({"pad_mode": "no_padding", "max_length": 10_000})
    dataset = SFTDataset(str(tmp_path / "o.parquet"), tokenizer, config)
    for index, row in enumerate(rows):
        item = dataset[index]
        expected = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
        assert tokenizer.decode(item["input_ids"]) == expected
        learnt = tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
        answers = [m for m in row["messages"] if m["role"] == "assistant"]
        texts = [
            tokenizer.apply_chat_template([m], tokenize=False).removeprefix("<|im_start|>assistant\n").rstrip("\n")
            for m in answers
        ]
        assert learnt == "".join(texts)


def test_verls_prompts_are_the_ones_that_went_in(tmp_path, tokenizer):
    from omegaconf import OmegaConf

    from common.data.verl_datasets import PromptDataset

    source = tmp_path / "d.jsonl"
    source.write_text(
        "\n".join(
            json.dumps({"prompt": prompt})
            for prompt in (TALK[:-1], PLAIN[:1], [{"role": "user", "content": "1 " * 99}])
        )
    )
    convert([Source(source)], tmp_path / "o.parquet", Options("grpo"))
    config = OmegaConf.create(
        {"max_prompt_length": 150, "filter_overlong_prompts": True, "filter_overlong_prompts_workers": None}
    )
    dataset = PromptDataset(str(tmp_path / "o.parquet"), tokenizer, config)
    assert [dataset[index]["raw_prompt"] for index in range(len(dataset))] == [TALK[:-1], PLAIN[:1]]
