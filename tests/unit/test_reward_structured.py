"""Rewards whose ground truth describes what an answer must be: instructions, JSON Schema, SQL, citations."""

import json
import sqlite3
import time

import pytest

from common.reward_functions import citations, combine, constraints, json_schema, sql
from common.rewards.constraint_checks import CHECKS, language_of, sentences, words
from common.rewards.structured import kind_of

# kind, parameters, an answer that keeps it, one that does not
KINDS = [
    ("keywords:existence", {"keywords": ["river", "桥"]}, "The river has a 桥.", "The rivers have bridges."),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, "relation": "at least"}, "Sun and sun.", "Sunny sun."),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "狗"]}, "A category.", "一只狗。"),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 3, "let_relation": "less than"}, "Eel", "Eele"),
    ("language:response_language", {"language": "zh"}, "今天天气很好，我们去 park 吧。", "The weather is nice."),
    ("language:response_language", {"language": "de"}, "Das ist nicht der Weg, den ich mit dir gehe.", "This is it."),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "Mr. Li ran. 他赢了！",
        "Dr. Wu ran.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    (
        "length_constraints:number_words",
        {"num_words": 5, "relation": "less than"},
        "it's 三个字",
        "one two three four five",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        "First.\n\nthen we go.",
        "First.\n\nThence we go.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name], 【日期】", "Dear [name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Write!", "The PS is short"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n**b**"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1 a SECTION 2",
        "SECTION 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<On rivers>>\nWater.", "<< >>"),
    ("combination:two_responses", {}, "One.******Two.", "Same.******Same."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Why is it?"}, "Why is it? Because.", "Because."),
    ("startend:end_checker", {"end_phrase": "That is all."}, 'He said: "That is all."', "That is all. Bye."),
    ("startend:quotation", {}, "“好的。”", '"No'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "A BIG dog",
        "Big dog",
    ),
    ("change_case:english_capital", {}, "THIS IS THE END OF IT.", "This IS IT."),
    ("change_case:english_lowercase", {}, "this is the end of it.", "this is It."),
    ("punctuation:no_comma", {}, "No commas here.", "没有，逗号"),
]


@pytest.mark.parametrize(("kind", "parameters", "kept", "broken"), KINDS)
def test_each_kind_of_instruction(kind, parameters, kept, broken):
    truth = {"instruction_id_list": [kind], "kwargs": [{**parameters, "unused": None}]}
    assert constraints("ifeval", kept, json.dumps(truth)) == {"score": 1.0, "acc": 1.0, "format": 1.0}
    assert constraints("ifeval", broken, truth)["score"] == 0.0
    assert constraints("ifeval", "", truth) == {"score": 0.0, "acc": 0.0, "format": 0.0}


def test_every_kind_of_ifeval_is_tried():
    assert {kind for kind, *_ in KINDS} == set(CHECKS) and len(CHECKS) == 25


def test_all_instructions_or_their_share():
    truth = [
        {"id": "punctuation:no_comma"},
        {"id": "length_constraints:number_words", "num_words": 2, "relation": "exactly"},
    ]
    assert constraints("x", "Two words", truth)["score"] == 1.0
    assert constraints("x", "Three, two words", truth)["score"] == 0.0
    assert constraints("x", "Now three words", truth, partial=True) == {"score": 0.5, "acc": 0.0, "format": 1.0}
    assert constraints("x", "<think>a, b, c</think>Two words", truth)["score"] == 1.0  # the thought may have commas
    assert constraints("x", "<think>Two words", truth)["format"] == 0.0


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ({"instruction_id_list": ["no:such"], "kwargs": [{}]}, "instruction 'no:such' is not known"),
        ([{"id": "keywords:existence"}], "missing 1 required positional argument: 'keywords'"),
        ([{"id": "language:response_language", "language": "xx"}], "language 'xx' is not known"),
        ("plain text", "ground_truth='plain text'"),
        ({"kwargs": [{}]}, "constraints needs instructions"),
    ],
)
def test_instructions_that_cannot_be_checked(truth, words):
    with pytest.raises(ValueError, match=words):
        constraints("x", "An answer", truth)


def test_words_sentences_and_languages():
    assert words("it's 3 三个字 well-known") == ["it's", "3", "三", "个", "字", "well-known"]
    assert sentences("At 3.5 m. Dr. Wu, e.g. here, ran! 他赢了。她说：“好。”") == [
        "At 3.5 m.",
        "Dr. Wu, e.g. here, ran!",
        "他赢了。",
        "她说：“好。”",
    ]
    texts = {
        "ja": "これは日本語の文章です。",
        "ko": "이것은 한국어입니다.",
        "fr": "Il est dans la maison avec les enfants.",
    }
    assert {name: language_of(text) for name, text in texts.items()} == {name: name for name in texts}
    assert language_of("12 + 7 = 19") == ""


SCHEMA = {
    "type": "object",
    "required": ["name", "tags"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1, "pattern": "^[A-Z]"},
        "age": {"anyOf": [{"type": "integer", "minimum": 0, "exclusiveMaximum": 150}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "uniqueItems": True, "maxItems": 2},
        "kind": {"enum": ["a", 1, None]},
        "pair": {"prefixItems": [{"const": 1}, {"not": {"type": "string"}}], "contains": {"multipleOf": 0.5}},
        "where": {"if": {"required": ["x"]}, "then": {"required": ["y"]}, "minProperties": 1},
    },
    "$defs": {"tag": {"oneOf": [{"type": "string"}, {"type": "number"}]}},
}
VALUES = [
    {"name": "Li", "tags": []},
    {"name": "Li", "tags": ["a", 1], "age": 3.0, "kind": None},
    {"name": "li", "tags": []},
    {"name": "", "tags": []},
    {"name": "Li"},
    {"name": "Li", "tags": [], "more": 1},
    {"name": "Li", "tags": ["a", "a"]},
    {"name": "Li", "tags": [1, 1.0]},
    {"name": "Li", "tags": ["a", "b", "c"]},
    {"name": "Li", "tags": [True]},
    {"name": "Li", "tags": [], "age": 150},
    {"name": "Li", "tags": [], "age": True},
    {"name": "Li", "tags": [], "age": None, "kind": True},
    {"name": "Li", "tags": [], "kind": 1.0},
    {"name": "Li", "tags": [], "pair": [1, 2.5]},
    {"name": "Li", "tags": [], "pair": [1, "x"]},
    {"name": "Li", "tags": [], "pair": [1.25, 0.3]},
    {"name": "Li", "tags": [], "where": {"x": 1}},
    {"name": "Li", "tags": [], "where": {"x": 1, "y": 2}},
    {"name": "Li", "tags": [], "where": {}},
    [],
    "Li",
]


def test_json_schema_as_jsonschema_has_it():
    from jsonschema import Draft202012Validator

    reference = Draft202012Validator(SCHEMA)
    expected = [float(reference.is_valid(value)) for value in VALUES]
    assert 0 < sum(expected) < len(expected)
    assert [json_schema("x", json.dumps(value), SCHEMA)["score"] for value in VALUES] == expected


@pytest.mark.parametrize(
    ("answer", "of", "score"),
    [
        ("10000000000000001", 2, 0.0),  # a float has no such number
        ("10000000000000002", 2, 1.0),
        ("1" + "0" * 400, 2, 1.0),
        ("1" + "0" * 400, 0.5, 1.0),
        ("1e400", 2, 0.0),  # beyond a float
        ("-1e400", 0.1, 0.0),
        ("1e308", 1e-308, 1.0),
        ("1e-308", 1, 0.0),
        ("0.3", 0.1, 1.0),
        ("0.35", 0.1, 0.0),
        ('"text"', 2, 1.0),
        ("true", 2, 1.0),  # no number: the keyword says nothing of it
    ],
)
def test_multiples_are_exact(answer, of, score):
    assert json_schema("x", answer, {"multipleOf": of, "title": "t"})["score"] == score


def test_many_items_are_told_apart_in_time():
    begin = time.monotonic()
    assert json_schema("x", json.dumps(list(range(20_000))), {"type": "array", "uniqueItems": True})["score"] == 1.0
    assert time.monotonic() - begin < 5  # two by two they take half a minute
    for same, score in (('[{"a": [1]}, {"a": [1.0]}]', 0.0), ("[1, true, [1], [true], {}, [], null]", 1.0)):
        assert json_schema("x", same, {"type": "array", "uniqueItems": True})["score"] == score


def test_an_answer_may_be_nested_as_deep_as_it_likes():
    tree = {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
    assert json_schema("x", "[" * 60 + "]" * 60, tree)["score"] == 1.0
    assert json_schema("x", "[" * 60 + "1" + "]" * 60, tree)["score"] == 0.0
    assert json_schema("x", "[" * 900 + "]" * 900, tree) == {"score": 0.0, "acc": 0.0, "format": 1.0}
    loop = {"items": {"$ref": "#/items"}}
    with pytest.raises(ValueError, match="refers to itself more than 64 times"):
        json_schema("x", "[[1]]", loop)


def test_json_in_an_answer():
    truth = json.dumps({"schema": {"type": "object"}, "value": {"a": [1, {"b": None}]}})
    right = 'Here:\n```json\n{"a": [1.0, {"b": null}]}\n```\nDone.'
    assert json_schema("x", right, truth) == {"score": 1.0, "acc": 1.0, "format": 1.0}
    assert json_schema("x", '<think>{"a"</think>{"a": [1, {"b": null}]}', truth)["score"] == 1.0
    assert json_schema("x", '{"a": [true, {"b": null}]}', truth) == {"score": 0.0, "acc": 0.0, "format": 1.0}
    for broken in ("", "{'a': 1}", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100_000, None):
        assert json_schema("x", broken, truth)["format"] == 0.0


NESTED: dict = {"minimun": 3}
for _ in range(70):
    NESTED = {"items": NESTED}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "minimun": 3}, "json_schema does not know minimun"),
        ({"properties": {"a": {"unevaluatedItems": False}}}, "does not know unevaluatedItems"),
        ({"type": "text"}, "'text' is no type of JSON Schema"),
        ({"multipleOf": 0}, "multipleOf is 0; it must be a number above 0"),
        ({"$ref": "https://example.org/a.json"}, "leads out of the schema"),
        ({"$ref": "#/$defs/gone"}, "leads nowhere"),
        (NESTED, "nested more than 64 deep"),
        ({"dependentSchemas": {"a": {}}}, "does not know dependentSchemas"),
        ({"$ref": "#"}, "refers to itself more than 64 times"),
        ("[]", "json_schema needs a JSON Schema"),
    ],
)
def test_schemas_that_cannot_be_used(schema, words):
    with pytest.raises(ValueError, match=words):
        json_schema("x", "{}", schema)


TABLES = "CREATE TABLE t (n INTEGER, w TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (2, 'b');"
TRUTH = {"schema": TABLES, "query": "SELECT w, n FROM t WHERE n > 1"}


@pytest.mark.parametrize(
    ("answer", "score", "runs"),
    [
        ("SELECT w, n FROM t WHERE n >= 2;", 1.0, 1.0),
        ("So:\n```sql\nSELECT w, n * 1.0 FROM t WHERE n = 2 ORDER BY w\n```", 1.0, 1.0),
        ("SELECT DISTINCT w, n FROM t WHERE n > 1", 0.0, 1.0),  # the number of rows counts
        ("SELECT n, w FROM t WHERE n > 1", 0.0, 1.0),
        ("SELECT w, n FROM nowhere", 0.0, 0.0),
        ("DROP TABLE t", 0.0, 0.0),
        ("SELECT w, n FROM t; DELETE FROM t", 0.0, 0.0),
        ("ATTACH 'x.db' AS x", 0.0, 0.0),
        ("PRAGMA table_info(t)", 0.0, 0.0),
        ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r", 0.0, 0.0),
        ("SELECT zeroblob(900000000)", 0.0, 0.0),
        ("I do not know.", 0.0, 0.0),
        ("", 0.0, 0.0),
        (None, 0.0, 0.0),
    ],
)
def test_a_query(answer, score, runs):
    found = sql("x", answer, json.dumps(TRUTH), timeout_s=0.2)
    assert (found["score"], found["format"]) == (score, runs)


def test_a_right_answer_may_give_as_many_rows_as_the_right_query():
    truth = {"schema": TABLES, "query": "SELECT n FROM t"}
    assert sql("x", "SELECT n FROM t", truth, max_rows=2) == {"score": 1.0, "acc": 1.0, "format": 1.0}
    assert sql("x", "SELECT n FROM t UNION ALL SELECT 1", truth, max_rows=2)["format"] == 0.0


def test_no_query_is_not_a_query_without_rows():
    nothing = {"schema": TABLES, "query": "SELECT w, n FROM t WHERE n > 9"}
    assert sql("x", "SELECT w, n FROM t WHERE n > 8", nothing)["score"] == 1.0
    for answer in ("", "-- SELECT", ";", "SELECT w FROM t WHERE n > 9"):  # nor is one with other columns
        assert sql("x", answer, nothing)["score"] == 0.0


def test_the_order_counts_where_the_right_query_orders():
    ordered = {"schema": TABLES, "query": "SELECT n FROM t ORDER BY n DESC"}
    assert sql("x", "SELECT n FROM t ORDER BY n", ordered)["score"] == 0.0
    inside = {"schema": TABLES, "query": "SELECT max(n) FROM (SELECT n FROM t ORDER BY n) WHERE 'order by' <> ''"}
    assert sql("x", "SELECT 2", inside)["score"] == 1.0
    assert sql("x", "SELECT n FROM t ORDER BY n", {**ordered, "ordered": False})["score"] == 1.0


def test_a_database_file_is_only_read(tmp_path):
    file = tmp_path / "my tables.db"
    with sqlite3.connect(file) as connection:
        connection.executescript(TABLES)
    before = file.read_bytes()
    truth = {"database": str(file), "query": "SELECT count(*) FROM t"}
    assert sql("x", "SELECT 3", truth)["score"] == 1.0
    assert sql("x", "DELETE FROM t", truth)["format"] == 0.0
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ({"query": "SELECT 1"}, "sql needs"),
        ({"schema": "CREATE TABEL", "query": "SELECT 1"}, "tables cannot be made"),
        ({"schema": TABLES, "query": "SELECT x FROM t"}, "its own query fails"),
        ({"database": "/no/such.db", "query": "SELECT 1"}, "cannot be made or opened"),
    ],
)
def test_tables_that_cannot_be_used(truth, words):
    with pytest.raises(ValueError, match=words):
        sql("x", "SELECT 1", truth)


SOURCES = {"sources": [1, 3], "documents": ["The river is long.", "Cats sleep.", "The bridge was  built in 1900."]}


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("The river is long [1]. The bridge is old [3].", 1.0),
        ("The river is long. [1] The bridge is old.[3]", 1.0),
        ("河很长【1】。桥很旧【3】。", 1.0),
        ("The river is long and the bridge old [1, 3].", 1.0),
        ("The river is long [1]. The bridge is old.", pytest.approx(2 / 3 * 1 / 2)),  # F1 2/3, half of the sentences
        ("All of it [1-3].", pytest.approx(2 * 2 / 5)),
        ("The river is long [1]. The bridge is old [4].", 0.0),  # there is no fourth
        ('It "was built in 1900" [3], the river is long [1].', 1.0),
        ('It "was built in 1901" [3], the river is long [1].', 0.0),
        ("Nothing is cited.", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_citations(answer, score):
    assert citations("x", answer, json.dumps(SOURCES))["score"] == score
    if answer and "1901" not in answer:
        assert citations("x", answer, {"sources": [1, 3], "documents": 3})["score"] == score  # quotes are not looked up


@pytest.mark.parametrize(
    ("made_up", "score"),
    [
        ("[9-2]", 0.0),  # a range in the wrong order is no empty one
        ("[2024-01-02]", 0.0),
        ("[1-2-3]", 0.0),
        ("[12345]", 0.0),
        ("[1-999999999]", 0.0),
        (f"[{'9' * 5000}]", 0.0),
        ("[1-1]", 1.0),
        ("[1 - 1, 1]", 1.0),
    ],
)
def test_ranges_that_are_made_up(made_up, score):
    assert citations("x", f"Right [1]. Made up {made_up}.", {"sources": [1], "documents": 1})["score"] == score
    assert citations("x", "[3-1] All.", {"sources": [1, 2, 3], "documents": 3})["score"] == 1.0


@pytest.mark.parametrize("truth", [{"sources": [1]}, {"sources": [4], "documents": 3}, {"documents": 3}, "[1]"])
def test_sources_that_cannot_be_used(truth):
    with pytest.raises(ValueError, match="citations needs"):
        citations("x", "An answer [1].", truth)


def test_a_misspelled_parameter_is_refused():
    for reward in (constraints, json_schema, sql, citations):
        with pytest.raises(ValueError, match="has no such parameter"):
            reward("x", "", "{}", partail=True)


def test_as_parts_of_a_sum():
    found = combine(
        "x",
        '{"a": 1}',
        {"type": "object"},
        weights={"json_schema": 1.0, "linear_length": 0.5},
        params={"linear_length": {"max_length": 16}},
    )
    assert found["score"] == pytest.approx(1 - 0.25) and found["acc"] == 1.0


IDS = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
TRUTHS = {
    "constraints": [IDS, [{"id": "punctuation:no_comma"}]],
    "json_schema": [SCHEMA, {"schema": {"type": "null"}, "value": None}],
    "sql": [TRUTH],
    "citations": [SOURCES],
    None: ["18", "[1, 2]", '{"target": ["a"]}', '{"inputs": ["1"], "outputs": ["2"]}', "{x", 3],
}


@pytest.mark.parametrize(
    ("reward", "truth"), [(reward, truth) for reward, truths in TRUTHS.items() for truth in truths]
)
def test_a_description_is_told_from_an_answer(reward, truth):
    assert kind_of(truth) == reward
    if reward:
        assert kind_of(json.dumps(truth)) == reward


def test_the_bench_does_not_take_a_description_for_an_answer(tmp_path, capsys):
    """Real answers say whether the reward tells good from bad; the truths are not tried as answers."""
    from common.reward_functions import main

    row = {"data_source": "sql", "prompt": [{"role": "user", "content": "q"}], "extra_info": {"answer": TRUTH["query"]}}
    row["reward_model"] = {"style": "rule", "ground_truth": json.dumps(TRUTH)}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    answers = {"index": 0, "responses": ["SELECT w, n FROM t WHERE n = 2", "SELECT 1", "nothing"]}
    (tmp_path / "answers.jsonl").write_text(json.dumps(answers) + "\n")
    options = ["--data", str(tmp_path / "rows.jsonl"), "--responses", str(tmp_path / "answers.jsonl")]
    assert main(["bench", "--reward", "sql", *options]) == 0
    shown = capsys.readouterr().out
    assert "accepted answers are not right" not in shown and "FAIL" not in shown


def test_a_converted_row_keeps_its_description(tmp_path):
    import pyarrow.parquet as pq

    from common.data_utils import json_to_parquet

    rows = [{"question": "How many?", "ground_truth": TRUTH}, {"question": "Which?", "ground_truth": TRUTH}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    json_to_parquet(tmp_path / "rows.json", tmp_path / "train.parquet", "grpo")
    truth = pq.read_table(tmp_path / "train.parquet").to_pylist()[0]["reward_model"]["ground_truth"]
    assert sql("x", "SELECT w, n FROM t WHERE n = 2", truth)["score"] == 1.0
