"""Checkpoints and models of strangers: nothing of theirs runs, and nothing of ours gets into what is published."""

import ast
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch

from common.checkpoints.layout import Checkpoint
from common.checkpoints.merge import merge
from common.checkpoints.pickles import is_known, strange_calls
from common.demo_model import DEMO_MODEL_DIR
from common.preflight import resume, run_name
from common.preflight.knobs import read_knobs
from common.preflight.model import count_parameters
from tests.run_maker import complete
from tests.unit.test_checkpoints import small_model, write_checkpoint
from tests.unit.test_preflight import only_error

ROOT = Path(__file__).resolve().parents[2]


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("zip.pt", lambda path: torch.save({"a": Evil(), "t": torch.ones(2)}, path)),
        ("legacy.pt", lambda path: torch.save([Evil()], path, _use_new_zipfile_serialization=False)),
        ("protocol0.pt", lambda path: path.write_bytes(pickle.dumps(Evil(), protocol=0))),
        ("protocol5.pt", lambda path: path.write_bytes(pickle.dumps([1, Evil()], protocol=5))),
    ],
)
def test_what_a_pickle_would_call_is_found_without_loading_it(tmp_path, name, write):
    write(tmp_path / name)
    assert strange_calls(tmp_path) == [f"{name}: posix.system"]


def test_what_verl_writes_is_harmless_and_what_is_no_pickle_is_named(tmp_path):
    write_checkpoint(small_model(), tmp_path / "good", 2)
    state = {"random": torch.get_rng_state(), "lr": {"last_epoch": 3, "betas": (0.9, 0.95), "names": {"a", "b"}}}
    torch.save(state, tmp_path / "good" / "extra_state_world_size_1_rank_0.pt")
    assert strange_calls(tmp_path / "good") == []
    (tmp_path / "x.pt").write_bytes(b"hello")
    assert strange_calls(tmp_path) == ["x.pt: cannot be read (pickle exhausted before seeing STOP)"]


@pytest.mark.parametrize("name", ["torch.load", "torch.hub.load", "numpy.load", "builtins.eval", "builtins.getattr"])
def test_functions_that_load_more_are_not_known(name):
    assert not is_known(name) and is_known("torch._utils._rebuild_tensor_v2")


def test_a_resume_from_elsewhere_that_would_run_code_is_refused(monkeypatch, tmp_path):
    theirs = complete(tmp_path / "theirs")
    step = theirs / "checkpoints" / "global_step_4"
    torch.save({"a": Evil()}, step / "actor" / "model_world_size_1_rank_0.pt")
    from common.checkpoints.integrity import mark_complete

    mark_complete(step, attempt=1)
    for outputs, refused in ((tmp_path / "ours", True), (theirs.parent, False)):
        monkeypatch.setattr(run_name, "OUTPUTS", outputs)
        knobs = read_knobs("grpo", {"RESUME": str(step)}, ())
        knobs.errors.clear()
        found = resume.named_checkpoint(knobs, run_name.OUTPUTS)
        assert (found is None) == refused
        if refused:
            assert (
                "would run code when verl loads it: actor/model_world_size_1_rank_0.pt: posix.system" in knobs.errors[0]
            )
            assert knobs.errors[0].fix.startswith("take only its weights")


def test_merge_copies_no_file_behind_a_link_and_no_code(tmp_path):
    path = tmp_path / "run" / "checkpoints" / "global_step_7"
    write_checkpoint(small_model(), path, 1)
    folder = next(path.rglob("config.json")).parent
    (tmp_path / "id_rsa").write_text("secret")
    (folder / "README.txt").symlink_to(tmp_path / "id_rsa")
    (folder / "modeling_mine.py").write_text("import os")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    merge(Checkpoint(path, 7), tmp_path / "model")
    names = {file.name for file in (tmp_path / "model").iterdir()}
    assert "chat_template.jinja" in names and not names & {"README.txt", "modeling_mine.py"}


def test_a_header_that_claims_too_much_is_a_sentence(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ValueError, match=r"model.safetensors is not a safetensors file \(a header of 4,611,686,018"):
        count_parameters(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        count_parameters(tmp_path)


def test_code_that_a_tokenizer_brings_is_named(check, tmp_path):
    model = shutil.copytree(DEMO_MODEL_DIR, tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_mine.Mine", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    key = "actor_rollout_ref.model.trust_remote_code=true"
    error = only_error(check(MODEL_PATH=str(model)))
    assert "brings custom Python code" in error and key in error
    assert check(MODEL_PATH=str(model), arguments=(key,)).errors == []
    assert check(MODEL_PATH=str(model), arguments=(f"trainer.project_name='{key}'",)).errors != []


def test_transformers_is_never_left_to_ask_whether_foreign_code_may_run():
    left = []
    for path in sorted(
        path for folder in ("common", "dpo", "gspo", "monitor") for path in (ROOT / folder).rglob("*.py")
    ):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith((".from_pretrained", ".from_config")):
                said = {keyword.arg for keyword in call.keywords} & {"trust_remote_code", None}  # None: **options
                left += [] if said else [f"{path.relative_to(ROOT)}:{call.lineno} {ast.unparse(call)}"]
    assert [one for one in left if "DEMO_MODEL_DIR" not in one and "PeftModel" not in one] == []
