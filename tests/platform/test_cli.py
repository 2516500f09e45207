"""The commands and the client."""

import json

import pytest

from tests.platform.conftest import wait_for
from training_platform import cli
from training_platform.__main__ import main
from training_platform.client import PlatformClient, PlatformError
from training_platform.sweep import jobs_of


@pytest.fixture
def run(platform, capsys):
    """Runs a command; returns its status and what it printed."""

    def ask(*arguments):
        status = main(["--url", platform.url, *arguments])
        found = capsys.readouterr()
        return status, found.out, found.err

    return ask


def test_a_job_by_commands(platform, run, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("algorithm: grpo\nname: mine\nlearning_rate: 1e-6\nknobs: {WANDB_PROJECT: steps=2}\n")
    status, out, _ = run("submit", str(file), "priority=3", "ROLLOUT_N=4", "--hold")
    uuid = out.split()[0]
    assert status == 0 and out.split()[1:] == ["created", "mine"]
    asked = platform.store.get(uuid).request
    assert asked["environment"] == {"LEARNING_RATE": "1e-06", "WANDB_PROJECT": "steps=2", "ROLLOUT_N": "4"}
    assert "created" in run("list")[1] and "mine" in run("list", "--state", "created")[1]
    assert run("start", "mine")[0] == 0
    status, out, _ = run("logs", "mine", "-f")
    assert status == 0 and "üben" in out
    assert json.loads(run("show", "mine")[1])["uuid"] == uuid
    assert "0.2" in run("metrics", "mine")[1] and run("checkpoints", "mine")[0] == 0
    assert run("logs", "mine")[1] == out
    assert "cpu0" in run("queue")[1]
    assert run("restart", "mine", "--from", "scratch", "--set", "WANDB_PROJECT=seconds=30")[1].split()[2] == "mine-2"
    platform.wait("mine-2", "running")
    assert run("stop", "mine-2")[0] == 0
    platform.wait("mine-2", "stopped")
    assert run("delete", "mine-2", "--files")[0] == 0 and not (platform.options["outputs"] / "mine-2").exists()


def test_what_goes_wrong_is_said(platform, run):
    status, _, err = run("submit", "algoritm=grpo")
    assert status == 2 and "did you mean algorithm?" in err
    assert run("show", "nothing")[0] == 2 and run("submit", "/no/file.yaml")[0] == 2
    status, out, _ = run("submit", "algorithm=grpo", "name=bad", "WANDB_PROJECT=end=preflight")
    platform.wait("bad", "failed")
    status, out, _ = run("logs", "bad", "-f")
    assert status == 1 and "error: MODEL_PATH=/nowhere" in out
    assert main(["--url", "http://127.0.0.1:9", "list"]) == 2


def test_tokens_by_command(tmp_path, capsys):
    here = ["--outputs", str(tmp_path)]
    assert main(["token", "add", "li", "--role", "write", *here]) == 0
    made = capsys.readouterr().out.strip()
    assert main(["token", "list", *here]) == 0
    listed = capsys.readouterr().out
    assert "li" in listed and "write" in listed and made not in listed
    assert main(["token", "remove", "li", *here]) == 0
    assert main(["token", "remove", "li", *here]) == 2 and main(["token", "add", *here]) == 2


def test_the_client(platform):
    with PlatformClient(platform.url) as client:
        job = client.submit(algorithm="grpo", name="run", knobs={"WANDB_PROJECT": "seconds=0.5,steps=5"})
        seen = list(job.follow(types=["metrics", "state"]))
        assert [one.data["state"] for one in seen if one.type == "state"][-1] == "finished"
        assert [row["step"] for one in seen if one.type == "metrics" for row in one.data["records"]] == [1, 2, 3, 4, 5]
        assert job.wait(5).state == "finished" and job.metrics(last=1)[0]["step"] == 5
        assert [one.name for one in client.jobs()] == ["run"] and client.queue()["queued"] == []
        with pytest.raises(PlatformError) as caught:
            client.submit(algorithm="grpo", rolout_n=3)
        assert caught.value.status == 422 and "did you mean rollout_n?" in caught.value.fields["rolout_n"]
        with pytest.raises(PlatformError, match="no such job"):
            client.job("nothing")
        held = client.submit(start=False, algorithm="grpo")
        with pytest.raises(TimeoutError):
            held.wait(0.1)
        held.delete()


def test_the_client_follows_over_a_restart_of_the_server(platform):
    with PlatformClient(platform.url) as client:
        job = client.submit(algorithm="grpo", name="run", knobs={"WANDB_PROJECT": "seconds=3,steps=30"})
        steps = []
        for message in job.follow(types=["metrics"]):
            steps += [row["step"] for row in message.data["records"]]
            if len(steps) == 5:
                platform.stop()
                platform.start()
                client._http.base_url = platform.url  # the test's servers have a new port each
        assert steps == list(range(1, 31))


def test_a_sweep(platform, run, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "job: {name: rate, algorithm: grpo, tags: [a]}\n"
        "grid: {learning_rate: [1e-6, 5e-6], knobs.ROLLOUT_N: [4, 8]}\n"
        "random: {knobs.TEMPERATURE: {low: 0.5, high: 2.0, log: true}}\ntrials: 2\n"
    )
    assert run("sweep", str(file))[0] == 0
    wait_for(lambda: len(platform.client.get("/api/jobs?state=finished").json()) == 8)
    made = [platform.store.with_run(f"rate-{n}").request for n in range(1, 9)]
    pairs = [(one["environment"]["LEARNING_RATE"], one["environment"]["ROLLOUT_N"]) for one in made]
    by_hand = [("1e-06", "4"), ("1e-06", "8"), ("5e-06", "4"), ("5e-06", "8")]
    assert pairs == [pair for pair in by_hand for _ in range(2)]
    drawn = [float(one["environment"]["TEMPERATURE"]) for one in made]
    assert len(set(drawn)) == 8 and all(0.5 <= one <= 2.0 for one in drawn)
    assert made[0]["asked"]["tags"] == ["a", "sweep:rate"] and "ROLLOUT_N=4" in made[0]["asked"]["description"]


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"grid": {"a": [1]}}, "`job:`"),
        ({"job": {"algorithm": "grpo"}}, "`grid:` or `random:`"),
        ({"job": {}, "grid": {"a": 1}}, "list of values"),
        ({"job": {}, "grid": {"a": [1]}, "trails": 2}, "trails"),
        ({"job": {}, "grid": {"a": [1]}, "trials": 0}, "trials: 0"),
        ({"job": {}, "grid": {"a": list(range(50)), "b": list(range(50))}}, "2,500 jobs"),
        ({"job": {}, "random": {"a": {"low": 0, "high": 1, "log": True}}}, "random: a"),
        ({"job": {}, "random": {"a": {"low": 1}}}, "random: a"),
    ],
)
def test_a_sweep_that_cannot_be(plan, says):
    with pytest.raises(ValueError, match=says):
        jobs_of(plan)


def test_fields_of_the_command_line(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("algorithm: sft\nnum_gpus: 2\n")
    found = cli.fields_of([str(file), "num_gpus=4", "tags=[a, b]", "LR_SCHEDULER=cosine", "start=false"])
    assert found == {
        "algorithm": "sft", "num_gpus": 4, "tags": ["a", "b"], "knobs": {"LR_SCHEDULER": "cosine"}, "start": False,
    }  # fmt: skip
