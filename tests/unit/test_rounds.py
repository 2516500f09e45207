"""The driver of self-play, with a stand-in for the train.sh of its stages."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import threading
import time

import pytest

from common.cluster.names import Cluster
from common.cluster.watch import open_watch
from common.demo_model import DEMO_MODEL_DIR
from common.preflight.knobs import read_block
from common.run_dir import read_metrics, read_run
from common.runner.attempt import STOP_SIGNALS
from gspo import follower
from gspo.rounds import Rounds
from tests.conftest import ROOT

# Writes what a stage leaves behind; two steps. ends as told by the file $CONTROL/<round>-<stage> when there is one.
STAGE = r"""#!/usr/bin/env bash
set -euo pipefail
folder="${OUTPUTS_DIR}/${EXPERIMENT_NAME}"; name="$(basename "${OUTPUTS_DIR}")-${EXPERIMENT_NAME}"
mkdir -p "${folder}/rollouts" "${folder}/checkpoints/global_step_2"
echo "${name} from ${MODEL_PATH} seed ${SEED} $*" >> "${CONTROL}/calls"
attempt="$(ls "${folder}" | grep -c '^metrics' || true)"
file="${folder}/metrics.jsonl"; [[ "${attempt}" == 0 ]] || file="${folder}/metrics.$((attempt + 1)).jsonl"
echo '{"step": 0, "data": {"val-core/x/acc/mean@1": 0.25}}' > "${file}"
echo '{"step": 1, "data": {"train/loss": 1.0}}' >> "${file}"
if [[ -f "${CONTROL}/${name}-stop" ]]; then rm "${CONTROL}/${name}-stop"; kill -TERM "${PPID}"; sleep 20; fi
if [[ -f "${CONTROL}/${name}" ]]; then
  rm "${CONTROL}/${name}"
  echo '{"state": "failed", "reason": "the judge is away"}' > "${folder}/run.json"; exit 1
fi
echo '{"step": 2, "data": {"train/loss": 0.5, "val-core/x/acc/mean@1": 0.75}}' >> "${file}"
python3 - "${folder}/rollouts/1.jsonl" <<'PY'
import json, sys
line = {"input": "user\nWhat is 1 + 2?\nassistant\n", "gts": "3"}
answers = [("1 + 2 = 3\n#### 3", 1.0, "u_0_0"), ("The answer is 3.", 0.0, "u_1_0")]
with open(sys.argv[1], "w") as stream:
    for output, score, uid in answers:
        stream.write(json.dumps(line | {"output": output, "score": score, "uid": uid}) + "\n")
PY
mkdir -p "${folder}/model"; echo "{\"made_by\": \"${name}\"}" > "${folder}/model/config.json"
echo '{"state": "finished"}' > "${folder}/run.json"
"""


@pytest.fixture
def signals():
    """The driver takes over the signals of its process, which here is pytest's."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def play(tmp_path, monkeypatch, signals):
    """Run the rounds with stand-ins; returns the exit status. ``control`` makes a stage fail once."""
    script = tmp_path / "stage.sh"
    script.write_text(STAGE)
    script.chmod(0o755)
    control = tmp_path / "control"
    control.mkdir()
    monkeypatch.setenv("CONTROL", str(control))
    row = {
        "data_source": "demo",
        "prompt": [{"role": "user", "content": "What is 1 + 2?"}],
        "reward_model": {"style": "rule", "ground_truth": "3"},
    }
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(row) + "\n")

    def run(fail=None, arguments=(), **knobs):
        if fail:
            (control / fail).touch()
        settings = read_block(ROOT / "gspo" / "train.sh") | {
            "MODEL_PATH": str(DEMO_MODEL_DIR),
            "TRAIN_DATA": str(data),
            "VAL_DATA": str(data),
            "MAX_RESPONSE_LENGTH": "24",
            **knobs,
        }
        rounds = Rounds(tmp_path / "run", settings, list(arguments))
        monkeypatch.setattr(rounds, "script_of", lambda stage: script)
        return rounds.run()

    run.dir, run.control = tmp_path / "run", control
    return run


def calls(play):
    return [line.split()[0] for line in (play.control / "calls").read_text().splitlines()]


ALL = ["round-1-rl", "round-1-preference", "round-2-rl", "round-2-preference"]


def test_each_stage_starts_from_the_model_of_the_one_before(play):
    assert play(arguments=["trainer.x=1"]) == 0
    lines = (play.control / "calls").read_text().splitlines()
    assert calls(play) == ALL
    starts = [line.split(" from ")[1].split(" seed ")[0] for line in lines]
    assert starts[0] == str(DEMO_MODEL_DIR)
    assert [os.path.relpath(start, play.dir) for start in starts[1:]] == [
        "round-1/rl/model",
        "round-1/preference/model",
        "round-2/rl/model",
    ]
    assert [line.endswith("trainer.x=1") for line in lines] == [True, False, True, False]
    assert [line.split(" seed ")[1].split()[0] for line in lines] == ["1", "1", "2", "2"]


def test_what_a_run_leaves(play):
    assert play() == 0
    run = read_run(play.dir)
    assert run["state"] == "finished"
    assert [stage["name"].replace("/", "-") for stage in run["stages"]] == ALL
    assert run["stages"][1]["pairs"].endswith("1 pairs from 1 groups of this round's answers")
    assert (run["stages"][0]["first"], run["stages"][0]["last"]) == (0.25, 0.75)
    assert [record["step"] for record in read_metrics(play.dir)] == list(range(9))
    assert json.loads((play.dir / "model" / "config.json").read_text()) == {"made_by": "round-2-preference"}
    assert not list(play.dir.glob("round-*/*/model")) and not list(play.dir.glob("round-*/*/checkpoints"))
    script = (play.dir / "command.sh").read_text()
    assert shlex.split(script.splitlines()[-1]) == ["exec", "./gspo/train.sh"] and "export SELF_PLAY_ROUNDS=2" in script


def test_a_stage_that_fails_is_named_and_the_next_start_goes_on_there(play, capsys):
    assert play(fail="round-2-rl") == 1
    run = read_run(play.dir)
    assert run["state"] == "failed" and run["reason"] == "round-2/rl: the judge is away"
    assert "EXPERIMENT_NAME=run ./gspo/train.sh" in capsys.readouterr().out
    assert (play.dir / "round-1" / "preference" / "model").is_dir()  # where the next start begins
    assert play() == 0
    assert calls(play) == [*ALL[:3], *ALL[2:]]
    assert [record["step"] for record in read_metrics(play.dir)] == list(range(9))


def test_a_signal_stops_the_stage_and_starts_no_other(play, capsys):
    assert play(fail="round-1-preference-stop") == 128 + 15
    run = read_run(play.dir)
    assert (run["state"], run["reason"]) == ("stopped", "SIGTERM") and len(run["stages"]) == 1
    assert calls(play) == ALL[:2] and "EXPERIMENT_NAME=run" in capsys.readouterr().out
    assert play() == 0
    assert calls(play) == [*ALL[:2], *ALL[1:]]


def test_more_rounds_go_on_from_the_model_of_the_run(play):
    assert play(SELF_PLAY_ROUNDS="1") == 0
    assert play(SELF_PLAY_ROUNDS="2") == 0
    lines = (play.control / "calls").read_text().splitlines()
    assert calls(play) == ALL and f"from {play.dir}/model seed" in lines[2]


def test_a_round_without_pairs_has_no_preference_stage(play, capsys):
    assert play(PAIR_MARGIN="2") == 0
    assert calls(play) == ["round-1-rl", "round-2-rl"]
    assert "there is no pair to learn from" in capsys.readouterr().out
    assert json.loads((play.dir / "model" / "config.json").read_text()) == {"made_by": "round-2-rl"}


# ---- several machines -------------------------------------------------------------------------------------------

NOTE = r"""#!/usr/bin/env bash
script="$(basename "$(dirname "$0")")"
echo "${script} ${NNODES} ${MASTER_PORT} [${SELF_PLAY_ROUNDS:-}${SELF_PLAY:-}${RUN_DIR:-}] $*" >> "${CONTROL}/calls"
"""


def test_another_machine_runs_the_stages_that_the_first_announces(tmp_path, monkeypatch, signals):
    """Its stages meet on other ports, and get nothing of the whole run: the first machine resolves their knobs."""
    for name in ("gspo", "dpo"):
        script = tmp_path / name / "train.sh"
        script.parent.mkdir()
        script.write_text(NOTE)
        script.chmod(0o755)
        (tmp_path / name / "block").write_text("")
    monkeypatch.setattr(follower, "ROOT", tmp_path)
    monkeypatch.setattr(follower, "read_block", lambda path: read_block(ROOT / path.parent.name / "train.sh"))
    monkeypatch.setenv("CONTROL", str(tmp_path))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machines = json.dumps([{"rank": rank, "host": "h", "address": "127.0.0.1"} for rank in (0, 1)])
    launch = {"CLUSTER_LAUNCH": "x", "CLUSTER_MACHINES": machines, "MACHINE_ADDR": "127.0.0.1"}
    environment = {**os.environ, **launch, "SELF_PLAY_ROUNDS": "2", "SELF_PLAY": "true", "RUN_DIR": "/r", "NNODES": "2"}
    first = open_watch(Cluster(2, 0, "127.0.0.1", port), environment)

    def lead():
        for number, name in enumerate(("gspo", "dpo", "gspo")):
            first.announce(follower.stage_key(number), name)
            time.sleep(0.3)
        calls = tmp_path / "calls"
        until = time.monotonic() + 30
        while time.monotonic() < until and (not calls.exists() or calls.read_text().count("\n") < 3):
            time.sleep(0.1)
        first.tell_end(5, "")

    leader = threading.Thread(target=lead)
    leader.start()
    status = follower.Follower(Cluster(2, 1, "127.0.0.1", port), ["trainer.seed=5"], environment).run()
    leader.join()
    first.close()
    assert status == 5
    stage = f"2 {port + 10} []"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"gspo {stage} trainer.seed=5",
        f"dpo {stage} ",
        f"gspo {stage} trainer.seed=5",
    ]


def test_the_first_machine_announces_each_stage_it_runs(play, tmp_path, monkeypatch):
    class Recorder:
        cluster, said = Cluster(2, 0, "127.0.0.1", 29500), []

        def announce(self, key, value):
            self.said.append((key, value))

        def problem(self):
            return None

        def tell_end(self, status, reason):
            self.said.append((status, reason))

    real = Rounds.__init__
    monkeypatch.setattr(Rounds, "__init__", lambda self, *arguments: real(self, *arguments, watch=Recorder()))
    assert play() == 0
    assert Recorder.said == [
        *((f"stage/{number}", name) for number, name in enumerate(("gspo", "dpo") * 2)),
        (0, ""),
    ]
