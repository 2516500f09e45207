"""A run's model on a hub: the card, nothing private in it, broken off and resumed; stand-ins for both hubs."""

import hashlib
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from common.checkpoints import cli
from common.checkpoints.card import About, check_private, interval, write_card
from common.run_dir import update_run
from tests.hub_server import Hub
from tests.tiny_models import write_tiny_model

KNOBS = {
    "LEARNING_RATE": "1e-6",
    "ROLLOUT_N": "8",
    "MODEL_PATH": "/home/ann/models/base",
    "WANDB_ENTITY": "anns-team",
    "N_GPUS": "8",
    "REWARD_FUNC_PATH": "/home/ann/reward.py",
    "SOME_NOTE": "see /srv/secret",
}


@pytest.fixture
def run(tmp_path):
    """A run with a model, an adapter, a curve, two validations and a benchmark."""
    folder = tmp_path / "runs" / "mine"
    write_tiny_model("qwen2", folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(config | {"_name_or_path": str(tmp_path / "base")}))
    (folder / "model" / "merged_from.json").write_text(json.dumps({"checkpoint": str(folder)}))
    (folder / "model" / "lora_adapter").mkdir()
    adapter = {"r": 8, "base_model_name_or_path": "/home/ann/models/base"}
    (folder / "model" / "lora_adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "model" / "lora_adapter" / "adapter_model.safetensors").write_bytes(b"adapter")
    for name in ("charts", "validation", "evaluation"):
        (folder / name).mkdir()
    (folder / "charts" / "metrics.png").write_bytes(b"png")
    records = [{"step": step, "data": {"val-core/x/acc/mean@1": value}} for step, value in ((0, 0.25), (20, 0.75))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for step, right in ((0, 2), (20, 6)):
        rows = [{"input": f"private prompt {i}", "score": 0.5, "acc": float(i < right)} for i in range(8)]
        (folder / "validation" / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = [
        {"name": name, "accuracy": value, "low": value - 0.1, "high": value + 0.1, "rows": 30}
        for name, value in (("mine", 0.5), ("/home/ann/models/base", 0.25))
    ]
    suite = {"aime24": {"settings": {"set": "AIME 2024"}, "models": models}}
    (folder / "evaluation" / "math.summary.json").write_text(json.dumps(suite))
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\ntags:\n- x\nlicense: apache-2.0\n---\n")
    update_run(
        folder,
        algorithm="grpo",
        model=str(base),
        data={"train": ["/home/ann/data/train.parquet", "openai/gsm8k"], "validation": []},
        knobs=KNOBS,
        versions={"verl": "1.2.3", "torch": "2.13"},
        host="anns-machine",
    )
    return folder


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub

    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield made
    made.close()


def publish(run, *options, repo="ann/mine"):
    return cli.main(["publish", str(run), repo, *options])


def test_the_repository_is_private_whole_and_has_a_card(run, hub, capsys):
    assert publish(run) == 0, capsys.readouterr().err
    made = hub.repos["ann/mine"]
    assert made["private"] is True and hub.uploads[-1] == "README.md"
    assert made["files"]["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "metrics.png"} <= set(made["files"])
    assert "merged_from.json" not in made["files"] and "_name_or_path" not in json.loads(made["files"]["config.json"])
    everything = b"".join(data for name, data in made["files"].items() if not name.startswith("tokenizer")).decode(
        "latin-1"
    )
    for private in ("/home/ann", "anns-team", "anns-machine", "private prompt", "/srv/secret", str(run.parent)):
        assert private not in everything
    card = made["files"]["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0" and front["datasets"] == ["openai/gsm8k"]
    assert front["library_name"] == "transformers" and "base_model" not in front  # a folder has no id
    assert "| 0 | 0.250 | 0.071 to 0.591 | 8 |" in card and "| 20 | 0.750 | 0.409 to 0.929 | 8 |" in card
    assert "| AIME 2024 | mine | 50.0% | 40.0% to 60.0% | 30 |" in card and "| AIME 2024 | base | 25.0%" in card
    assert "| `LEARNING_RATE` | `1e-6` |" in card and "train.parquet" in card and "8 GPUs on 1 machine\n" in card
    assert "![Metrics of the training, by step](metrics.png)" in card
    assert not (run / ".publish-merged").exists()


def test_broken_off_and_resumed(run, hub, capsys):
    hub.break_after = 3
    assert publish(run) == 2
    said = capsys.readouterr().err
    assert "3 files were uploaded now" in said and "The same command resumes" in said
    assert len(hub.uploads) == 3 and "README.md" not in hub.uploads
    hub.break_after = None
    assert publish(run) == 0
    assert len(hub.uploads) == len(set(hub.uploads)) and capsys.readouterr().out.count("is there") == 3
    before = list(hub.uploads)
    assert publish(run) == 0 and hub.uploads == before  # nothing new
    (run / "metrics.jsonl").write_text("")
    assert publish(run) == 0 and hub.uploads == [*before, "README.md"]


def test_an_adapter_names_its_base_model(run, hub, capsys):
    assert publish(run, "--lora") == 2 and "--base is missing" in capsys.readouterr().err
    assert publish(run, "--lora", "--base", "Qwen/Qwen3-4B", "--licence", "mit", repo="ann/adapter") == 0
    files = hub.repos["ann/adapter"]["files"]
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "Qwen/Qwen3-4B"
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert front["base_model"] == "Qwen/Qwen3-4B" and front["library_name"] == "peft" and front["license"] == "mit"
    assert files["adapter_model.safetensors"] == b"adapter" and "model.safetensors" not in files


def test_what_everybody_can_read_needs_the_word(run, hub, capsys):
    hub.repos["ann/mine"] = {"private": False, "files": {}}
    assert publish(run) == 2 and "everybody can read it" in capsys.readouterr().err and not hub.uploads
    assert publish(run, "--public") == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--repo"], "not the name of a repository"),
        (["--no-licence"], "--licence is missing"),
        (["--no-token"], "hf auth login"),
        (["--no-adapter", "--lora"], "has no adapter"),
        (["--secret"], "something like a key"),
    ],
)
def test_mistakes(run, hub, capsys, monkeypatch, options, words):
    import shutil

    if "--no-licence" in options:
        update_run(run, model="nobody/nothing")
    if "--no-token" in options:
        monkeypatch.setenv("HF_TOKEN", "hf_bad")
    if "--no-adapter" in options:
        shutil.rmtree(run / "model" / "lora_adapter")
    if "--secret" in options:
        update_run(run, knobs=KNOBS | {"EXTRA": "hf_" + "a" * 30})
    options = [option for option in options if option == "--lora"]
    repo = "mine" if words.startswith("not the name") else "ann/mine"
    assert publish(run, *options, repo=repo) == 2
    assert words in capsys.readouterr().err and not hub.uploads


def test_a_dry_run_shows_the_folder(run, capsys):
    assert publish(run, "--dry-run") == 0
    assert "nothing was uploaded" in capsys.readouterr().out
    assert (run / ".publish-merged" / "README.md").read_text().startswith("---\nlicense:")


def test_values_of_secret_variables_are_found(run):
    with pytest.raises(ValueError, match="the value of MY_TOKEN stands in"):
        check_private("x swordfish99 y", {"MY_TOKEN": "swordfish99"}, run)
    with pytest.raises(ValueError, match="a path of this machine"):
        check_private(f"see {run.parent}/x", {}, run)
    check_private("the key to success is 42", {"API_KEY": "short"}, run)


def test_intervals_by_hand():
    low, high = interval([[1.0]] * 6 + [[0.0]] * 2)  # Wilson for 6 of 8, z = 1.96
    assert abs(low - 0.4093) < 1e-4 and abs(high - 0.9285) < 1e-4
    t = 12.7062  # Student's, of one degree
    assert interval([[0.5], [1.5]]) == pytest.approx((1 - t * 0.5, 1 + t * 0.5), abs=1e-4)
    assert interval([[0.0, 1.0], [2.0, 1.0]]) == interval([[0.5], [1.5]])  # two answers to a prompt are one cluster
    assert interval([[1.0, 0.0]]) is None


def test_the_interval_over_several_data_sources_is_not_known(run):
    data = {"val-core/a/b/acc/mean@1": 0.5, "val-core/c/acc/mean@1": 1.0, "val-aux/num_turns/mean": 2.0}
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 20, "data": data}) + "\n")
    card = write_card(run, About("ann/mine", "base", "apache-2.0", False, False))
    assert "| 0 | 0.250 | 0.071 to 0.591 | 8 |" in card and "| 20 | 0.750 | not known | 8 |" in card


class Scope:
    """ModelScope's client, in the calls of modelscope-hub 0.5.1."""

    repos: dict = {}

    def repo_exists(self, repo_id, repo_type):
        return repo_id in self.repos

    def get_repo(self, repo_id, repo_type):
        return SimpleNamespace(visibility=self.repos[repo_id]["visibility"])

    def create_repo(self, repo_id, repo_type, *, visibility=None):
        self.repos[repo_id] = {"visibility": visibility, "files": {}}

    def list_repo_files(self, repo_id, repo_type, *, revision=None, recursive=True):
        files = self.repos[repo_id]["files"].items()
        return [SimpleNamespace(path=n, sha256=hashlib.sha256(d).hexdigest(), is_dir=False) for n, d in files]

    def upload_file(self, repo_id, repo_type, path_or_fileobj, path_in_repo, *, commit_message=None):
        if len(self.repos[repo_id]["files"]) == 2 and not self.repos[repo_id].get("again"):
            self.repos[repo_id]["again"] = True
            raise ConnectionError("reset by peer")
        self.repos[repo_id]["files"][path_in_repo] = path_or_fileobj.read_bytes()


def test_modelscope_broken_off_and_resumed(run, monkeypatch, capsys):
    Scope.repos = {}
    module = ModuleType("modelscope_hub.api")
    module.HubApi = Scope
    monkeypatch.setitem(sys.modules, "modelscope_hub", ModuleType("modelscope_hub"))
    monkeypatch.setitem(sys.modules, "modelscope_hub.api", module)
    assert publish(run, "--hub", "modelscope") == 2 and "reset by peer; 2 files" in capsys.readouterr().err
    assert publish(run, "--hub", "modelscope") == 0 and capsys.readouterr().out.count("is there") == 2
    made = Scope.repos["ann/mine"]
    assert made["visibility"] == "private" and list(made["files"])[-1] == "README.md"


def test_modelscope_that_is_not_installed(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    assert publish(run, "--hub", "modelscope") == 2 and "lock-modelscope.txt" in capsys.readouterr().err


def test_the_card_ends_at_the_checkpoint_that_was_selected(run):
    (run / "selected.json").write_text('{"step": 10}')
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 10, "data": {"val-core/x/acc/mean@1": 0.5}}) + "\n")
    card = write_card(run, About("ann/mine", "base", "apache-2.0", False, False))
    assert "| 10 | 0.500 | not known" in card and "| 20 |" not in card
