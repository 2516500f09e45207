"""JSON and YAML of strangers end in a clear error, in little time and memory."""

import json
import os
import resource
import shutil
import time

import pytest
import yaml

from common.data.inputs import read_mapping
from common.data.readers.files import DataError
from common.demo_model import DEMO_MODEL_DIR
from common.evaluation.rewards import _run_reward
from common.evaluation.settings import EvaluationError
from common.preflight.model import read_model
from common.rewards.api.settings import read_settings
from common.small_files import MAX_DEPTH, MAX_JSON, MAX_YAML, parse_yaml, read_json, read_json_object, read_yaml

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def write(tmp_path):
    def make(text, name="file"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5_000 + "}", "cannot be read as JSON"),  # Python's limit of 4,300 digits
        ("{'a': 1}", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
    ],
    ids=["deep", "digits", "quotes", "empty"],
)
def test_json_that_cannot_be_read_is_named(write, text, said):
    path = write(text)
    with pytest.raises(ValueError, match=said) as raised:
        read_json(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_file_above_the_limit_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "sparse.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 50 * 2**30)
    for read, limit in ((read_json, MAX_JSON), (read_yaml, MAX_YAML)):
        with pytest.raises(ValueError, match=f"more than {limit >> 20} MiB"):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # KiB; the file has 50 GiB


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [LAUGHS, "a: " + "[" * 20_000, "x: [" + "1," * 100_000 + "1]", "a: !!bool 3", "a: !!python/object:os.system x"],
    ids=["aliases", "deep", "long", "tag", "object"],
)
def test_yaml_that_grows_or_lies_is_refused_at_once(write, text):
    started = time.monotonic()
    with pytest.raises(ValueError):
        read_yaml(write(text))
    assert time.monotonic() - started < 5


def test_what_is_usual_is_read_as_yaml_reads_it(write):
    config = {"a": {"b": [1, 2.5, None, True, "中"]}, "c": "x: y"}
    assert read_yaml(write(yaml.safe_dump(config, allow_unicode=True))) == config
    assert parse_yaml("") is None
    assert read_json_object(write("\ufeff" + json.dumps(config))) == config  # a byte order mark, as Windows writes it
    nested = json.loads("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    assert read_yaml(write(json.dumps(nested))) == nested


def test_an_object_is_expected_where_one_is(write):
    with pytest.raises(ValueError, match="holds a list"):
        read_json_object(write("[]"))


def test_those_who_read_such_files_say_so(write, tmp_path):
    with pytest.raises(DataError, match="aliases"):
        read_mapping(write(LAUGHS, "mapping.yaml"))
    with pytest.raises(ValueError, match="API_REWARD_CONFIG=.*aliases"):
        read_settings(write(LAUGHS, "judge.yaml"))
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL_DIR, model)
    (model / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="config.json: is nested too deeply"):
        read_model(str(model))
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text(LAUGHS)
    with pytest.raises(EvaluationError, match="aliases.*--reward"):
        _run_reward(run)
    (run / ".hydra" / "config.yaml").write_text("- no\n- mapping\n")
    assert _run_reward(run) is None
