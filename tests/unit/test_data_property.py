"""For random rows in every form, every text of every column that counts as used is in what comes out."""

import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.convert import BadRows, Options, Source, convert
from common.data.losses import texts_in
from common.data.names import ANSWERS, QUESTIONS
from common.data.rows import loaded

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Words that cannot occur in each other by chance: each text ends with its own mark.
SAID = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


class Texts:
    """Draws texts that differ from all others of a row."""

    def __init__(self, draw):
        self.draw, self.made = draw, []

    def __call__(self):
        text = f"{self.draw(SAID)} ‹{len(self.made)}›"
        self.made.append(text)
        return text


def pairs_of(text, draw, shape):
    """Turns of history in one of the shapes that files have."""
    turns = [(text(), text()) for _ in range(draw(st.integers(1, 2)))]
    if shape == "lists":
        return [list(turn) for turn in turns]
    if shape == "objects":
        return [{"human": q, "assistant": a} for q, a in turns]
    return [m for q, a in turns for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]


@st.composite
def rows(draw):
    """An algorithm, a row in any form, and the texts that it holds."""
    text = Texts(draw)
    algorithm = draw(st.sampled_from(["sft", "grpo", "dpo"]))
    form = draw(st.sampled_from(["columns", "messages", "turns"]))
    row = {}
    if form == "columns":
        row[draw(st.sampled_from(QUESTIONS))] = text()
        if draw(st.booleans()):
            row["context"] = text()
        if draw(st.booleans()):
            row["choices"] = [text(), text()]
    elif form == "messages":
        names = draw(st.sampled_from([("role", "content", "user"), ("from", "value", "human")]))
        row[draw(st.sampled_from(["messages", "conversations"]))] = [{names[0]: names[2], names[1]: text()}]
    else:
        row["conversation"] = [{"human": text()}]
    if draw(st.booleans()):
        row["system"] = text()
    if draw(st.booleans()):
        history = pairs_of(text, draw, draw(st.sampled_from(["lists", "objects", "messages"])))
        row["history"] = json.dumps(history) if draw(st.booleans()) else history
    if algorithm == "dpo":
        row["chosen"], row["rejected"] = text(), text()
    elif "choices" in row:
        row["answer"] = draw(st.sampled_from(["A", "B"]))
        text.made.append(row["answer"])
    else:
        row[draw(st.sampled_from(ANSWERS))] = text()
    if draw(st.booleans()):
        row = {name.capitalize(): value for name, value in row.items()}
    names = draw(st.permutations(list(row)))
    return algorithm, {name: row[name] for name in names}, text.made


def converted(row, algorithm, **options):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "d.jsonl", Path(folder) / "o.parquet"
        source.write_text(json.dumps(row), encoding="utf-8")
        report = convert([Source(source)], target, Options(algorithm, **options))
        return loaded(pq.read_table(target).to_pylist()[0]), report


@given(rows())
@MANY
def test_every_text_of_a_known_form_comes_out(case):
    algorithm, row, texts = case
    made, report = converted(row, algorithm)
    out = list(texts_in(made))
    assert all(any(text in one for one in out) for text in texts)
    assert not report.notes


@given(
    rows(), st.sampled_from(["response", "output", "query", "problem", "passage", "system_prompt", "images", "notes"])
)
@MANY
def test_one_more_column_is_in_the_row_or_named(case, more):
    algorithm, row, texts = case
    if more in {name.lower() for name in row}:
        return
    extra = "extra words ‹extra›"
    try:
        made, report = converted({**row, more: extra}, algorithm)
    except BadRows as error:
        assert any(name in str(error) for name in (*row, more))
        made, report = converted({**row, more: extra}, algorithm, allow_loss=True)
    out = list(texts_in(made))
    lost = [text for text in [*texts, extra] if not any(text in one for one in out)]
    assert len(lost) <= len(report.notes)
