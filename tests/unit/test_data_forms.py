"""Every common form of a row says what it says; what lacks something says which field."""

import time

import pytest

from common.data.messages import RowError
from common.data.names import Columns
from common.data.row_reader import read_example
from common.data.rows import RowOptions, final_answer, make_row

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
SYSTEM = {"role": "system", "content": "S"}
OTHER = {"role": "assistant", "content": "B"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}


def sft(row, *columns):
    return make_row(read_example(row, Columns(*columns)), RowOptions("sft", "d"), 0)


def pair(row):
    return make_row(read_example(row, Columns()), RowOptions("dpo", "d"), 0)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, ANSWER]},
        {"prompt": "Q", "response": "A"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"question": "Q", "answer": "A"},
        {"problem": "Q", "solution": "A"},
        {"instruction": "Q", "input": "", "output": "A"},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"conversations": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "id": "7"},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
    ],
)
def test_sft_forms(row):
    assert sft(row) == {"messages": [USER, ANSWER]}


def test_alpaca_with_everything():
    row = {"instruction": "Q", "input": "more", "output": "A", "system": "S", "history": [["q1", "a1"]]}
    before = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]
    assert sft(row)["messages"] == [SYSTEM, *before, {"role": "user", "content": "Q\nmore"}, ANSWER]


def test_columns_given_by_name():
    assert sft({"题目": 7, "解": "A", "answer": "no"}, "题目", "解")["messages"] == [
        {**USER, "content": "7"},
        ANSWER,
    ]
    assert sft({"q": "Q", "a": "A", "s": "S"}, "q", "a", "s")["messages"] == [SYSTEM, USER, ANSWER]


def test_sharegpt_with_tools():
    row = {
        "conversations": [
            {"from": "human", "value": "Q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": '{"y": 2}'},
            {"from": "gpt", "value": "A"},
        ],
        "tools": '[{"name": "f", "description": "d", "parameters": {}}]',
        "system": "S",
    }
    example = read_example(row, Columns())
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert example.prompt == [SYSTEM, USER, called, {"role": "tool", "content": '{"y": 2}'}]
    assert example.answer == [ANSWER] and example.tools == [TOOL]


def test_openai_tool_calls_have_text_arguments():
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
    }
    example = read_example(
        {"messages": [USER, called, {"role": "tool", "tool_call_id": "1", "content": "2"}, ANSWER]}, Columns()
    )
    assert example.prompt[1] == {"role": "assistant", "content": "", "tool_calls": [{"id": "1", **CALL}]}
    assert example.prompt[2] == {"role": "tool", "content": "2", "tool_call_id": "1"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]},
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"prompt": "Q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER], "score_chosen": 3.0},
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        {"question": "Q", "chosen": "A", "rejected": "B"},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
    ],
)
def test_preference_forms(row):
    assert pair(row) == {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}


def test_transcripts_with_several_turns():
    start = "\n\nHuman: a\n\nAssistant: b\nSee: Human: no\n\nHuman: c"
    row = pair({"chosen": start + "\n\nAssistant: good", "rejected": start + "\n\nAssistant: "})
    assert [message["content"] for message in row["prompt"]] == ["a", "b\nSee: Human: no", "c"]
    assert row["chosen"] == [{"role": "assistant", "content": "good"}] and row["rejected"][0]["content"] == ""


def test_pairs_that_part_in_the_middle_of_a_conversation():
    end = {"role": "user", "content": "and?"}
    row = pair({"chosen": [USER, ANSWER, end, ANSWER], "rejected": [USER, OTHER, end, OTHER]})
    assert row["prompt"] == [USER] and row["chosen"] == [ANSWER, end, ANSWER]


def rl(row, algorithm="grpo", **options):
    return make_row(read_example(row, Columns()), RowOptions(algorithm, "d", **options), 5)


def test_rl_rows():
    assert rl({"question": "Q", "answer": "1+1\n#### 2"}) == {
        "data_source": "d",
        "prompt": [USER],
        "ability": "general",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 5, "answer": "1+1\n#### 2"},
    }
    assert rl({"prompt": "Q"})["reward_model"] == {"style": "model", "ground_truth": ""}
    assert rl({"question": "Q", "ground_truth": 18})["reward_model"]["ground_truth"] == "18"
    assert rl({"question": "Q", "ground_truth": ["a", "b"]})["reward_model"]["ground_truth"] == ["a", "b"]


def test_verls_own_row_stays_as_it_is():
    row = {
        "data_source": "openai/gsm8k",
        "prompt": [SYSTEM, USER],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"split": "train", "index": 3, "nothing": None},
        "agent_name": "tool_agent",
    }
    assert rl(row) == {**row, "extra_info": {"split": "train", "index": 3}}


def test_self_play_rows():
    made = rl({"prompt": "Q", "chosen": "A", "rejected": "B", "self_play": True}, "gspo")
    assert made["chosen"] == [ANSWER] and made["rejected"] == [OTHER] and made["self_play"] is True
    assert "chosen" not in rl({"prompt": "Q", "self_play": True}, "gspo")
    assert "chosen" not in rl({"prompt": "Q", "chosen": "A", "rejected": "B"}, "ppo")


def test_a_system_prompt_for_rows_without_one():
    assert rl({"prompt": "Q"}, system="S")["prompt"] == [SYSTEM, USER]
    assert rl({"prompt": [{"role": "system", "content": "own"}, USER]}, system="S")["prompt"][0]["content"] == "own"


@pytest.mark.parametrize(
    ("answer", "pattern", "expected"),
    [
        ("x\n#### 1,200", None, "1,200"),
        ("#### 1\n#### 2 apples\nbye", None, "2 apples"),
        (r"so \boxed{\frac{1}{2}} done", None, r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2", None, "1"),
        (" plain ", None, "plain"),
        ("####\nnothing", None, "####\nnothing"),
        ("答案：7", r"答案：(\d+)", "7"),
        ("= 7", r"\d+", "7"),
    ],
)
def test_final_answers(answer, pattern, expected):
    assert final_answer(answer, pattern) == expected


def test_long_answers_are_quick():
    started = time.perf_counter()
    for text in (r"\boxed{" * 20_000, "{" * 200_000, "#" * 200_000, r"\boxed{1}" + "x" * 200_000):
        final_answer(text)
    assert time.perf_counter() - started < 1


def test_a_pattern_that_blows_up_is_stopped():
    with pytest.raises(RowError, match="took longer than 1 s"):
        final_answer("a" * 40 + "!", r"(a|aa)+$")
    with pytest.raises(RowError, match="is not in it"):
        final_answer("x", "y(.)")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "x"}, "text: plain text has no question and no answer"),
        ({"question": "", "answer": "A"}, "question: is empty"),
        ({"question": "Q", "answer": {"a": 1}}, "answer: holds dict, expected a text"),
        ({"question": None, "answer": "A"}, "question: is missing"),
        ({"messages": "x"}, "messages: holds str, expected a list"),
        ({"messages": []}, "messages: is an empty list"),
        ({"messages": [None]}, "messages: message 1 is null"),
        ({"messages": [USER, {"role": "wizard", "content": "x"}]}, "message 2 has the role 'wizard'"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "message 2 has the content null"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts of the kind image_url"),
        ({"messages": [ANSWER]}, "has no turn but the assistant's"),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "function_call", "value": "{"}]},
            "function call is not JSON",
        ),
        ({"instruction": "Q", "output": "A", "history": [["q"]]}, "history: turn 1"),
        ({"question": "Q", "answer": "A", "tools": "{"}, "tools: is not JSON"),
        ({"prompt": "Q", "chosen": "A", "rejected": None}, "rejected: is missing"),
        ({"chosen": "Human: x", "rejected": "y"}, "rejected: expected a text that begins with 'Human:'"),
        (
            {"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "other"}, OTHER]},
            "do not begin with the same prompt",
        ),
    ],
)
def test_what_is_missing_is_named(row, words):
    with pytest.raises(RowError) as caught:
        read_example(row, Columns())
    assert words in str(caught.value)


def test_dpo_needs_pairs():
    with pytest.raises(RowError, match="dpo learns from pairs"):
        pair({"question": "Q", "answer": "A"})


@pytest.mark.parametrize(
    ("row", "chosen", "rejected"),
    [
        ({"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1}, "b", "a"),
        ({"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0.0}, "a", "b"),
        ({"prompt": "q", "response_a": "a", "response_b": "b", "winner": "model_b"}, "b", "a"),
        ({"prompt": "q", "response_a": "a", "response_b": "b", "winner": "A"}, "a", "b"),
    ],
)
def test_two_answers_and_a_mark_are_a_pair(row, chosen, rejected):
    made = make_row(read_example(row, Columns()), RowOptions("dpo", "x"), 0)
    assert (made["chosen"][0]["content"], made["rejected"][0]["content"]) == (chosen, rejected)


def test_a_tie_is_no_pair():
    with pytest.raises(RowError, match="winner: 'tie' names neither response_a nor response_b"):
        read_example({"prompt": "q", "response_a": "a", "response_b": "b", "winner": "tie"}, Columns())


def test_plain_text_is_refused_for_what_it_is():
    with pytest.raises(RowError, match="text: plain text has no question and no answer"):
        read_example({"text": "Once upon a time.", "id": None}, Columns())


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ("A) 2 B) 3 C) $(1, -6)$ D) both", "3"),
        ("(A) 2 (B) 3", "3"),
        ("A. 2\nB. 3\nC. 5", "3"),
        ("A、二 B、3", "3"),
    ],
)
def test_options_in_one_text(options, right):
    row = make_row(
        read_example({"question": "1 + 2?", "options": options, "answer": "B"}, Columns()), RowOptions("grpo", "x"), 0
    )
    assert f"B. {right}" in row["prompt"][-1]["content"] and row["reward_model"]["ground_truth"] == "B"


def test_a_text_that_has_no_letters_in_order_is_no_options():
    with pytest.raises(RowError, match="expected 2 to 10 options"):
        read_example({"question": "Q", "options": "A) 2 C) 3", "answer": "A"}, Columns())
