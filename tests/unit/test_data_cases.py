"""Files as people have them come out whole, or are refused in words that name the cause.

The files are in tests/data/cases. ``want`` are whole texts that are in the rows that come out; expected values are
written by hand from the files.
"""

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.data.convert import BadRows, Options, Source, convert
from common.data.losses import texts_in
from common.data.names import Columns, parse_map
from common.data.readers.files import DataError
from common.data.rows import loaded
from common.data_utils import main

CASES = Path(__file__).resolve().parents[1] / "data" / "cases"


def made(source, tmp_path, algorithm, maps=(), **options):
    columns = Columns(parts=tuple(parse_map(text) for text in maps))
    source = source if isinstance(source, Source) else Source(source, columns)
    target = tmp_path / "o.parquet"
    report = convert([source], target, Options(algorithm, **options))
    return [loaded(row) for row in pq.read_table(target).to_pylist()], report


def jsonl(tmp_path, *rows):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def say(*turns):
    """Messages: u user, a assistant, s system, t tool."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[1:]} for turn in turns]


MULTIPLE = "Capital of France?\nA. Rome\nB. Paris\nC. Bonn\nD. Oslo"
SFT = {
    "data-capital-columns.jsonl": [say("u2+2?", "a4")],
    "data-choices-in-columns.jsonl": [say("u" + MULTIPLE, "aB")],
    "data-options-correct.jsonl": [say("uCapital of France?\nA. Rome\nB. Paris", "aIt is Paris.\nAnswer: B")],
    "data-context-column.jsonl": [say("uWho won?\nAnn beat Bob 3:1.", "aAnn")],
    "data-empty-instruction.jsonl": [say("uWhat is 2+2?", "a4")],
    "data-empty-system.jsonl": [say("ua", "ab")],
    "data-human-assistant.jsonl": [say("uHi", "aHello", "uBye", "aSee you")],
    "data-instruction-input-response.jsonl": [say("uSort the numbers.\n3 1 2", "a1 2 3")],
    "data-list-in-jsonl.jsonl": [say("ua", "ab"), say("uc", "ad")],
    "data-dict-of-rows.json": [say("u1+1?", "a\\boxed{2}"), say("u1+2?", "a\\boxed{3}")],
    "data-prompt-chosen-sft.jsonl": [say("uSay hi.", "aHi.")],
    "data-query-response-history.jsonl": [
        say(
            "uFirst question", "aFirst answer", "uSecond question", "aSecond answer", "uThird question", "aThird answer"
        )
    ],
    "nan.jsonl": [say("uGive tips", "aSleep."), say("uq", "aa")],
    "pandas_default.xlsx": [say("u1+1?", "a2"), say("u2+2?", "a4")],
    "sft_instruction_input_response.jsonl": [
        say("uTranslate into French.\nGood morning", "aBonjour"),
        say("u1+1?", "aOne and one make \\boxed{2}."),
    ],
}


@pytest.mark.parametrize("name", SFT)
def test_whole_conversations(tmp_path, name):
    rows, _ = made(CASES / name, tmp_path, "sft")
    assert [row["messages"] for row in rows] == SFT[name]


TRUTHS = {
    "auto_truths_questions.jsonl": ["1/2", "3:45", "(1, 2)"],
    "csv_round_questions.jsonl": ["-1/2", "x/2"],
    "data-answers-list.jsonl": [["Ann Lee", "A. Lee"]],
    "data-choices-in-columns.jsonl": ["B"],
    "data-options-correct.jsonl": ["B"],
    "data-messages-answer.jsonl": ["5"],
    "data-messages-json-text.jsonl": ["5"],
    "data-truth-list.jsonl": [["Ann Lee", "A. Lee"]],
    "truth_list.jsonl": [["Paris", "City of Paris"]],
    "data-index-kinds.jsonl": ["1", "1"],
    "sft_instruction_input_response.jsonl": ["Bonjour", "2"],
}


@pytest.mark.parametrize("name", TRUTHS)
def test_truths_reach_the_reward(tmp_path, name):
    rows, _ = made(CASES / name, tmp_path, "grpo")
    assert [row["reward_model"]["ground_truth"] for row in rows] == TRUTHS[name]
    assert all(row["reward_model"]["style"] == "rule" for row in rows)


@pytest.mark.parametrize("name", ["data-messages-answer.jsonl", "data-messages-json-text.jsonl"])
def test_questions_of_messages(tmp_path, name):
    rows, _ = made(CASES / name, tmp_path, "grpo")
    asked = "What is 2+3?" if "answer" in name else "2+3?"
    assert rows[0]["prompt"] == say("u" + asked)


def test_tests_of_a_program(tmp_path):
    rows, _ = made(CASES / "data-humaneval.jsonl", tmp_path, "grpo")
    truth = json.loads(rows[0]["reward_model"]["ground_truth"])
    assert truth == {"test": "def check(candidate):\n    assert candidate(1) == 2\n", "entry_point": "inc"}
    from common.reward_functions import code

    answer = "```python\ndef inc(x):\n    return x + 1\n```"
    assert code("x", answer, rows[0]["reward_model"]["ground_truth"])["score"] == 1.0


PAIRS = {
    "data-chosen-messages.jsonl": [(say("ua"), "b", "c")],
    "data-openai-preference.jsonl": [(say("ua"), "b", "c")],
    "data-pair-own-names.jsonl": [(say("ua"), "b", "c")],
    "data-pair-input.jsonl": [(say("uSort the numbers.\n3 1 2"), "1 2 3", "3 2 1")],
    "dpo_alpaca_input.jsonl": [
        (say("uTranslate into French.\nGood morning"), "Bonjour", "Salut"),
        (say("uSay one.", "aone", "uAnd now?"), "two", "three"),
    ],
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(tmp_path, name):
    rows, _ = made(CASES / name, tmp_path, "dpo")
    want = [{"prompt": p, "chosen": say("a" + good), "rejected": say("a" + bad)} for p, good, bad in PAIRS[name]]
    assert rows == want


CALLS = {
    "data-tool-calls-no-content.jsonl": ("land", {"where": "here"}, ["Land the kite.", "done", "It is down."]),
    "data-double-encoded-arguments.jsonl": ("land", {"where": "here"}, ["Land the kite."]),
    "data-legacy-function-call.jsonl": ("w", {}, ["Weather?", "sunny", "Sunny."]),
    "tool_call_parameters.jsonl": ("w", {"city": "A"}, ["weather in A?", "sun"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_tool_calls(tmp_path, name):
    rows, _ = made(CASES / name, tmp_path, "sft")
    function, arguments, texts = CALLS[name]
    call = next(message for message in rows[0]["messages"] if message.get("tool_calls"))["tool_calls"][0]["function"]
    assert call == {"name": function, "arguments": arguments}
    assert set(texts) <= {message["content"] for message in rows[0]["messages"]}
    if "legacy" in name:
        assert json.loads(rows[0]["tools"])[0]["function"] == {"name": "w", "parameters": {}}


def test_json_lines_named_json_above_a_piece(tmp_path):
    path = tmp_path / "d.json"
    path.write_bytes(gzip.decompress((CASES / "data-jsonl-named-json.json.gz").read_bytes()))
    rows, _ = made(path, tmp_path, "sft")
    assert (
        len(rows) == 6 and rows[0]["messages"] == say("uq0", "aa0") and len(rows[1]["messages"][1]["content"]) > 2**20
    )


def test_excel(tmp_path):
    import openpyxl

    empty = json.loads((CASES / "data-xlsx-empty-header.json").read_text())
    book = openpyxl.Workbook()
    for row in empty["rows"]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    rows, _ = made(tmp_path / "a.xlsx", tmp_path, "sft")
    assert [[message["content"] for message in row["messages"]] for row in rows] == empty["want"]
    book = openpyxl.Workbook()
    book.active.append(["question", "answer"])
    book.active.append(["2+2?", "4"])
    more = book.create_sheet("more")
    more.append(["question", "answer"])
    more.append(["3+3?", "6"])
    book.save(tmp_path / "b.xlsx")
    rows, report = made(tmp_path / "b.xlsx", tmp_path, "sft")
    assert [row["messages"] for row in rows] == [say("u2+2?", "a4")] and "more" in " ".join(report.said)
    rows, _ = made(Source(tmp_path / "b.xlsx", sheet="more"), tmp_path, "sft")
    assert [row["messages"] for row in rows] == [say("u3+3?", "a6")]


def test_thoughts_make_rows_different(tmp_path):
    rows, report = made(CASES / "data-dedup-reasoning.jsonl", tmp_path, "sft", dedup=True)
    assert report.duplicates == 0
    assert [row["messages"][1]["reasoning_content"] for row in rows] == ["Two and two make four.", "Count: 1, 2, 3, 4."]


@pytest.mark.parametrize(
    ("name", "algorithm", "words"),
    [
        ("data-images-column.jsonl", "sft", "images: holds pictures or sounds and only text is supported"),
        ("images_column.jsonl", "grpo", "images: holds pictures or sounds and only text is supported"),
        ("data-kto-label-false.jsonl", "sft", "label: is False: this answer is marked as a bad one"),
        ("data-output-only-crash.jsonl", "sft", "text: plain text has no question and no answer"),
        ("data-answers-list.jsonl", "sft", "answer (all answers but the first): would be lost"),
        (
            "data-truth-list.jsonl",
            "sft",
            "no assistant turn, so there is nothing to learn (columns question, ground_truth)",
        ),
        ("data-pair-own-names.jsonl", "gspo", "all rows are pairs and none is a prompt to answer; add --self-play"),
    ],
)
def test_refused_by_name(tmp_path, name, algorithm, words):
    with pytest.raises(DataError) as caught:
        made(CASES / name, tmp_path, algorithm)
    assert words in str(caught.value)
    assert not (tmp_path / "o.parquet").exists()


def test_every_case_is_tried():
    known = {*SFT, *TRUTHS, *PAIRS, *CALLS, "data-humaneval.jsonl", "data-jsonl-named-json.json.gz"}
    known |= {"data-xlsx-empty-header.json", "data-xlsx-second-sheet.json", "data-dedup-reasoning.jsonl"}
    known |= {
        "data-images-column.jsonl",
        "images_column.jsonl",
        "data-kto-label-false.jsonl",
        "data-output-only-crash.jsonl",
    }
    assert {path.name for path in CASES.iterdir()} == known


KINDS = [
    # algorithm, row, texts that must be in what comes out
    ("sft", {"query": "q", "response": "r", "history": '[["h1", "h2"]]', "system": "sys"},
     ["q", "r", "h1", "h2", "sys"]),
    ("sft", {"question": "q", "answer": "a", "history": say("uh", "ai")},
     ["q", "a", "h", "i"]),
    ("sft", {"问题": "甲", "答案": "乙", "系统提示": "丙"}, ["甲", "乙", "丙"]),
    ("sft", {"指令": "甲", "输入": "丁", "输出": "乙"}, ["甲\n丁", "乙"]),
    ("grpo", {"题目": "选", "选项A": "东", "选项B": "西", "答案": "B", "解析": "因为西"},
     ["选\nA. 东\nB. 西", "B", "因为西"]),
    ("grpo", {"question": "q", "choices": ["x", "y", "z"], "answer": 2}, ["q\nA. x\nB. y\nC. z", "C"]),
    ("grpo", {"question": "q", "option1": "x", "option2": "y", "answer": "2"}, ["q\nA. x\nB. y", "B"]),
    ("grpo", {"question": "q", "opa": "x", "opb": "y", "opc": "z", "opd": "w", "cop": 0},
     ["q\nA. x\nB. y\nC. z\nD. w", "A"]),
    ("grpo", {"question": "q", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"},
     ["q\nA. x\nB. y", "B"]),
    ("grpo", {"question": "q", "options": '{"A": "x", "B": "y"}', "answer": "y"}, ["q\nA. x\nB. y", "B"]),
    ("grpo", {"Body": "Two apples.", "Question": "How many?", "Answer": 2.0}, ["Two apples.\n\nHow many?", "2.0"]),
    ("grpo", {"prompt": "p", "tests": [{"input": "1", "output": "2"}]}, ["p", '[{"input": "1", "output": "2"}]']),
    ("grpo", {"text": "p", "code": "c", "test_list": ["assert f(1) == 1"]},
     ["p", '{"test_list": ["assert f(1) == 1"]}']),
    ("grpo", {"prompt": "p", "reward_model": {"style": "rule", "ground_truth": {"target": ["a", "b"]}}},
     ["p", "a", "b"]),
    ("dpo", {"prompt": "p", "history": [["h", "i"]], "chosen": "c", "rejected": "r"}, ["p", "h", "i", "c", "r"]),
    ("dpo", {"messages": say("up", "ac"), "rejected_response": "r"}, ["p", "c", "r"]),
    ("dpo", {"question": "p", "response_j": "c", "response_k": "r"}, ["p", "c", "r"]),
    ("dpo", {"system": "sys", "chosen": say("up", "ac"), "rejected": say("up", "ar")}, ["sys", "p", "c", "r"]),
    ("sft", {"Question": "q", "Complex_CoT": "thought", "Response": "r"}, ["q", "thought", "r"]),
    ("sft", {"system_prompt": "s", "question": "q", "response": "r"}, ["s", "q", "r"]),
    ("sft", {"conversation": [{"system": "s", "input": "q", "output": "r"}, {"input": "q2", "output": "r2"}]},
     ["s", "q", "r", "q2", "r2"]),
    ("sft", {"conversations": [{"from": "User", "value": "q"}, {"from": "Assistant", "value": "r"}]}, ["q", "r"]),
    ("sft", {"messages": [{"role": "user", "content": [{"type": "text", "value": "q"}]}, *say("ar")]}, ["q", "r"]),
    ("sft", {"prompt": "q", "completion": "r", "label": True}, ["q", "r"]),
    ("dpo", {"query": "p", "response": "c", "rejected_response": "r"}, ["p", "c", "r"]),
    ("grpo", {"question": "q", "golden_answers": ["a", "b"]}, ["q", "a", "b"]),
    ("grpo", {"question": "q", "context": "c", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}},
     ["c\n\nq", "a", "b"]),
    ("sft", {"question": "[1, 2]", "answer": '["a", "b"]'}, ["[1, 2]", '["a", "b"]']),
    ("sft", {"question": '{"x": 1}', "answer": '[{"question": "x", "answer": "y"}]'},
     ['{"x": 1}', '[{"question": "x", "answer": "y"}]']),
    ("dpo", {"prompt": "q", "chosen": '{"a": 1}', "rejected": '["b"]'}, ["q", '{"a": 1}', '["b"]']),
]  # fmt: skip


@pytest.mark.parametrize(("algorithm", "row", "texts"), KINDS)
def test_kinds_that_nobody_listed(tmp_path, algorithm, row, texts):
    rows, _ = made(jsonl(tmp_path, row), tmp_path, algorithm)
    assert set(texts) <= set(texts_in(rows[0]))


def test_weights_of_turns_are_kept(tmp_path):
    turns = [*say("ua"), {**say("ab")[0], "loss": False}, *say("uc"), {**say("ad")[0], "weight": 1}]
    rows, _ = made(jsonl(tmp_path, {"messages": turns}), tmp_path, "sft")
    assert [message.get("weight") for message in rows[0]["messages"]] == [None, 0, None, 1]
    turns[1]["loss"] = 0.5
    with pytest.raises(BadRows, match="messages: message 2: loss: is 0.5"):
        made(jsonl(tmp_path, {"messages": turns}), tmp_path, "sft")
    with pytest.raises(BadRows, match="have the weight 0, so there is nothing to learn"):
        made(jsonl(tmp_path, {"messages": [*say("ua"), {**say("ab")[0], "weight": 0}]}), tmp_path, "sft")


def test_columns_by_name(tmp_path):
    row = {"t": "title", "b": "body", "good": "G", "bad": "B", "s": "S", "question": "other"}
    maps = ["prompt=t+b", "chosen=good", "rejected=bad", "system=s"]
    rows, report = made(jsonl(tmp_path, row), tmp_path, "dpo", maps)
    assert rows == [{"prompt": say("sS", "utitle\nbody"), "chosen": say("aG"), "rejected": say("aB")}]
    assert report.notes == {"column question is not used": 1}
    with pytest.raises(BadRows, match="nope: there is no such column for answer; there are t, b, good"):
        made(jsonl(tmp_path, row), tmp_path, "sft", ["prompt=t", "answer=nope"])
    assert main(["convert", str(jsonl(tmp_path, row)), str(tmp_path / "x.parquet"), "--map", "wrong=t"]) == 2


def test_ground_truth_by_name(tmp_path):
    row = {"q": "Q", "full": "worked", "gold": "7"}
    rows, _ = made(jsonl(tmp_path, row), tmp_path, "grpo", ["prompt=q", "answer=full", "ground_truth=gold"])
    assert rows[0]["reward_model"]["ground_truth"] == "7" and rows[0]["extra_info"]["answer"] == "worked"


def test_no_header(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("Capital?,Rome,Paris,Bonn,Oslo,B\n")
    maps = tuple(parse_map(text) for text in ["prompt=column1", "ground_truth=column6"])
    rows, _ = made(Source(path, Columns(parts=maps), header=False), tmp_path, "grpo")
    assert rows[0]["prompt"] == say("uCapital?") and rows[0]["reward_model"]["ground_truth"] == "B"


def test_a_second_column_of_a_part_is_never_lost_in_silence(tmp_path):
    row = {"question": "q", "response": "one", "output": "two"}
    with pytest.raises(BadRows, match="output: would be lost; say what it is with --map PART=output"):
        made(jsonl(tmp_path, row), tmp_path, "sft")
    rows, report = made(jsonl(tmp_path, row), tmp_path, "sft", allow_loss=True)
    assert rows[0]["messages"] == say("uq", "aone")
    assert report.notes == {"column output is left out (--allow-loss)": 1}


def test_one_list_makes_the_column_a_list(tmp_path):
    rows, _ = made(
        jsonl(tmp_path, {"question": "a", "answer": "1"}, {"question": "b", "answer": ["1", "2"]}), tmp_path, "grpo"
    )
    assert [row["reward_model"]["ground_truth"] for row in rows] == [["1"], ["1", "2"]]


def test_validate_and_preview_take_the_same_names(tmp_path, capsys):
    path = str(jsonl(tmp_path, {"t": "title", "b": "body", "good": "G"}))
    names = ["--map", "prompt=t+b", "--map", "answer=good"]
    assert main(["validate", path, "--algo", "sft", *names]) == 0
    assert main(["preview", path, "--algo", "sft", *names]) == 0
    out = capsys.readouterr().out
    assert "all rows can be used" in out and "title\nbody" in out


def test_maps_of_a_yaml_file(tmp_path):
    jsonl(tmp_path, {"t": "title", "b": "body", "good": "G", "bad": "B"})
    mapping = tmp_path / "sources.yaml"
    mapping.write_text("- {path: d.jsonl, map: {prompt: t+b, chosen: good, rejected: bad}}")
    assert main(["convert", "--mapping", str(mapping), str(tmp_path / "o.parquet"), "--algo", "dpo"]) == 0
    row = pq.read_table(tmp_path / "o.parquet").to_pylist()[0]
    assert row == {"prompt": say("utitle\nbody"), "chosen": say("aG"), "rejected": say("aB")}


def test_what_was_guessed_is_said(tmp_path, capsys):
    assert main(["convert", str(jsonl(tmp_path, {"题目": "q", "答案": "a"})), str(tmp_path / "o.parquet")]) == 0
    out = capsys.readouterr().out
    assert "made for sft, as the first row looks" in out and "problem = 题目, answer = 答案" in out
