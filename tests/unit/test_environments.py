"""Environments: the processes of episodes, what happens when they misbehave, the agent loop, the examples."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from common.verl_ext.environment_process import after_reset, after_step, seed_of
from common.verl_ext.environments import Environments, EpisodeFailed
from common.verl_ext.observations import cut, with_observation
from common.worker import WorkerNotStarted
from tests.agent_loops import Scripted, converse
from tests.conftest import ROOT
from tests.unit.test_preflight import only_error

EXAMPLES = ROOT / "grpo" / "environments"
ROW = {"reward_model": {"ground_truth": "6"}, "prompt": [{"role": "user", "content": "Guess."}]}

NAUGHTY = """
import os, time

class Environment:
    def reset(self, row):
        if row.get("what") == "raises": raise KeyError("goal")
        if row.get("what") == "hangs": time.sleep(60)
        self.count = 0
        return None

    def step(self, action):
        self.count += 1
        if action == "endless": 9 ** 9 ** 9
        if action == "dies": os._exit(3)
        if action == "raises": raise ValueError("no such move")
        if action == "text": return "observation"
        if action == "nan": return "o", float("nan"), False
        if action == "long": return "<" + 1000 * "x" + ">", 0.25, False
        return str(self.count), 0.5, self.count == 3
"""


@pytest.fixture
def opened(tmp_path):
    """Environments of a text or a file, ended after the test."""
    made = []

    def open_(source, limit_s=5.0):
        path = source
        if isinstance(source, str):
            path = tmp_path / f"env{len(made)}.py"
            path.write_text(source)
        made.append(Environments(str(path), limit_s))
        return made[-1]

    yield open_
    for one in made:
        one.stop()


def children_of(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed]


def gone(pids, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        states = [Path(f"/proc/{pid}/stat") for pid in pids]
        if not any(state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z" for state in states):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("result", "read"),
    [
        (("o", 1, True), ("o", 1.0, True, True)),
        (("o", 0, True), ("o", 0.0, True, False)),
        (("o", 1, False), ("o", 1.0, False, False)),
        (("o", 0, True, {"success": True}), ("o", 0.0, True, True)),
        (("o", 0.5, False, True, {}), ("o", 0.5, True, False)),  # truncated: over, and not done
        ((None, 1, True, False, {"is_success": False}), ("", 1.0, True, False)),
    ],
)
def test_steps_in_gymnasiums_forms(result, read):
    assert after_step(result) == read


@pytest.mark.parametrize("result", ["o", ("o", 1), ("o", "much", False), ("o", float("inf"), False), ("o", 1, True, 2)])
def test_other_steps_are_refused(result):
    with pytest.raises(ValueError, match="step returned"):
        after_step(result)


def test_reset_returns_an_observation_or_gymnasiums_pair():
    assert (after_reset(None), after_reset("o"), after_reset(("o", {}))) == ("", "o", "o")
    with pytest.raises(ValueError, match="reset returned"):
        after_reset(("o", 1))


def test_one_seed_for_all_answers_to_a_row():
    assert seed_of(1, ROW) == seed_of(1, json.loads(json.dumps(ROW))) != seed_of(2, ROW)
    assert seed_of(1, ROW) != seed_of(1, {**ROW, "prompt": []})


def test_observations_become_turns():
    user, system = {"role": "user", "content": "Play."}, {"role": "system", "content": "S"}
    assert with_observation([system, user], "o") == [system, {"role": "user", "content": "Play.\no"}]
    assert with_observation([system], "o") == [system, {"role": "user", "content": "o"}]
    assert with_observation([user], "") == [user]
    assert cut("abcdef", 6) == "abcdef" and cut("abcdefgh", 4) == "ab...(truncated)...gh"


def test_episodes_do_not_share_their_state(opened):
    environments = opened(NAUGHTY)
    first, second = environments.open({"a": 1}), environments.open({"a": 2})
    assert (first.ask("reset", {}), second.ask("reset", {})) == ("", "")
    assert first.ask("step", "x") == ("1", 0.5, False, False)
    assert first.ask("step", "x")[0] == "2" and second.ask("step", "x")[0] == "1"
    assert first.ask("step", "x") == ("3", 0.5, True, True)


def test_functions_of_a_module_do_too(opened):
    environments = opened(
        "n = 0\ndef reset(row):\n    global n\n    n += 1\n    return n\ndef step(a): return n, 0, True"
    )
    for _ in range(2):
        assert environments.open({}).ask("reset", {}) == "1"


def test_an_episode_that_misbehaves_takes_no_other_one_with_it(opened):
    environments = opened(NAUGHTY, limit_s=1.0)
    good = environments.open({})
    good.ask("reset", {})
    words = {}
    for what in ("endless", "dies", "raises", "text", "nan"):
        bad = environments.open({})
        bad.ask("reset", {})
        with pytest.raises(EpisodeFailed) as caught:
            bad.ask("step", what)
        words[what] = str(caught.value)
        bad.close()
    assert words["endless"] == "step took longer than 1 s"
    assert "process ended in step" in words["dies"]
    assert words["raises"] == "step raised ValueError: no such move"
    assert "must return" in words["text"] and "finite number" in words["nan"]
    for what, said in (("raises", "reset raised KeyError: 'goal'"), ("hangs", "reset took longer than 1 s")):
        with pytest.raises(EpisodeFailed, match=said):
            environments.open({}).ask("reset", {"what": what})
    assert good.ask("step", "x")[0] == "1"


@pytest.mark.parametrize(
    ("text", "words"),
    [("import nonsense", "nonsense"), ("x = 1", "no reset and no step"), ("class Environment: 1", "reset")],
)
def test_a_bad_file_is_said(opened, text, words):
    with pytest.raises(WorkerNotStarted, match=words):
        opened(text).open({})


def test_closed_and_hanging_episodes_leave_no_process(opened):
    environments = opened(NAUGHTY, limit_s=0.5)
    episodes = [environments.open({"n": n}) for n in range(5)]
    for episode in episodes:
        episode.ask("reset", {})
    mother = environments._process.pid
    children = children_of(mother)
    assert len(children) == 5
    with pytest.raises(EpisodeFailed):
        episodes[0].ask("step", "endless")
    for episode in episodes:
        episode.close()
    assert gone(children)


def test_kill_9_in_the_middle_of_an_episode_leaves_nothing_behind(tmp_path):
    (tmp_path / "env.py").write_text(NAUGHTY)
    program = (
        "import sys; from common.verl_ext.environments import Environments\n"
        "e = Environments(sys.argv[1], 600.0); a = e.open({}); a.ask('reset', {})\n"
        "b = e.open({}); b.ask('reset', {}); print(e._process.pid, flush=True); a.ask('step', 'endless')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "env.py")]
    agent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    mother = int(agent.stdout.readline())
    children = children_of(mother)
    assert len(children) == 2
    time.sleep(0.3)
    os.kill(agent.pid, signal.SIGKILL)
    agent.wait()
    assert gone([mother, *children])


# ---- the examples ------------------------------------------------------------------------------------------------


def test_number_game(opened):
    game = opened(EXAMPLES / "number_game.py").open(ROW)
    assert game.ask("reset", ROW) == "Which number from 1 to 9?"
    assert game.ask("step", "I say 3") == ("larger", 0.0, False, False)
    assert game.ask("step", "") == ("a number from 1 to 9", 0.0, False, False)
    assert game.ask("step", "8.")[0] == "smaller"
    assert game.ask("step", "6") == ("smaller", 1.0, True, True)


def test_a_second_try_counts_half(opened):
    open_episode = opened(EXAMPLES / "second_try.py").open
    first, second, lost = (open_episode(ROW) for _ in range(3))  # the answer is 6
    assert [one.ask("reset", ROW) for one in (first, second, lost)] == ["", "", ""]
    assert first.ask("step", "1 + 5 = 6\n#### 6")[1:] == (1.0, True, True)
    assert second.ask("step", "6") == ("No. Write the number behind ####.", 0.0, False, False)
    assert second.ask("step", "####6")[1:] == (0.5, True, True)
    assert lost.ask("step", "#### -6")[1:] == (0.0, False, False)
    assert lost.ask("step", "#### " + "6" * 30)[1:] == (0.0, True, False)


def test_grid_world_starts_alike_for_a_group(opened):
    environments = opened(EXAMPLES / "grid_world.py")
    first = environments.open(ROW).ask("reset", ROW)
    walk = environments.open(ROW)
    seen = walk.ask("reset", ROW)
    assert seen == first and seen.startswith("goal: ")
    ahead = {name: int(steps) for steps, name in (one.split() for one in seen.removeprefix("goal: ").split(", "))}
    way = [name for name, steps in ahead.items() for _ in range(steps)]
    results = [walk.ask("step", f"Go {move}.") for move in way]
    assert [done for _, _, done, _ in results] == [False] * (len(way) - 1) + [True]
    assert results[-1] == ("goal: here", pytest.approx(0.98), True, True)
    assert len({environments.open({"n": n}).ask("reset", {}) for n in range(12)}) > 3


class Api(BaseHTTPRequestHandler):
    """Says what it is given to say, as a chat completion; notes what it was asked."""

    says, asked = [], []

    def do_POST(self):  # noqa: N802
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": self.says.pop(0)}}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


def test_a_language_model_as_the_user(opened, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("USER_API_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("USER_API_MODEL", "m")
    Api.says[:], Api.asked[:] = ["I need a hat.", "A red one.", "[Solved]"], []
    row = {"extra_info": {"goal": "a red hat"}, "prompt": []}
    talk = opened(EXAMPLES / "chat_user.py", limit_s=30.0).open(row)
    assert talk.ask("reset", row) == "I need a hat."
    assert talk.ask("step", "Which colour?") == ("A red one.", 0.0, False, False)
    assert talk.ask("step", "Here you are.") == ("[Solved]", 1.0, True, True)
    server.shutdown()
    assert "a red hat" in Api.asked[0]["messages"][0]["content"]
    assert [turn["role"] for turn in Api.asked[2]["messages"]] == ["system", *["user", "assistant"] * 2, "user"]


# ---- the loop, with verl's own code and a model that says what it is given to say -----------------------------------


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Play one episode through the kit's loop; returns verl's output, the server and the answer as text."""
    from transformers import AutoTokenizer

    from common.demo_model import DEMO_MODEL_DIR
    from common.verl_ext import environment_loop

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)

    def run(source, answers, turns=5, prompt_length=256, response_length=256, row=ROW, limit_s="2"):
        path = source
        if isinstance(source, str):
            path = tmp_path / "played.py"
            path.write_text(source)
        monkeypatch.setenv("ENV_PATH", str(path))
        monkeypatch.setenv("ENV_TIMEOUT", limit_s)
        server = Scripted(tokenizer, answers, lambda step: {"min_global_steps": step, "max_global_steps": step})
        limits = {"max_assistant_turns": turns, "max_tool_response_length": 64}
        given = {name: value for name, value in row.items() if name != "prompt"}
        given |= {"raw_prompt": row["prompt"], "uid": "u", "session_id": 0}
        lengths = prompt_length, response_length
        output, text = converse(environment_loop.EnvironmentLoop, server, limits, lengths, given)
        return output, server, text

    yield run
    for environments in environment_loop._environments.values():
        environments.stop()
    environment_loop._environments.clear()


def test_only_the_models_own_tokens_are_trained_on(play):
    output, server, text = play(EXAMPLES / "number_game.py", ["3", "8", "6"])
    assert server.prompts[0].endswith("user\nGuess.\nWhich number from 1 to 9?<|im_end|>\n<|im_start|>assistant\n")
    assert server.prompts[1].endswith("3<|im_end|>\n<|im_start|>user\nlarger<|im_end|>\n<|im_start|>assistant\n")
    assert text == (
        "3<|im_end|>\n<|im_start|>user\nlarger<|im_end|>\n<|im_start|>assistant\n"
        "8<|im_end|>\n<|im_start|>user\nsmaller<|im_end|>\n<|im_start|>assistant\n6<|im_end|>"
    )
    assert sum(output.response_mask) == 6 and len(output.response_mask) == len(output.response_ids)
    assert [p == -0.5 for p in output.response_logprobs] == [bool(m) for m in output.response_mask]
    assert output.response_mask[-1] == 1  # the end of an episode is an answer, where the reward is put
    assert (output.reward_score, output.num_turns) == (1.0, 6)
    info = {"score": 1.0, "acc": 1.0, "success": 1.0, "turns": 3.0, "env_failure": 0.0}
    assert output.extra_fields["reward_extra_info"] == info
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (1, 3)


def test_turns_and_tokens_are_limited(play):
    output, server, _ = play(EXAMPLES / "number_game.py", ["3", "8", "6"], turns=2)
    assert len(server.prompts) == 2 and output.reward_score == 0.0
    full, server, _ = play(EXAMPLES / "number_game.py", ["1", "2", "3"], response_length=20)
    assert server.limits[0] == 20 and all(limit < 20 for limit in server.limits[1:])
    assert len(full.response_ids) <= 20 and full.response_mask[-1] == 1
    half, _, _ = play(NAUGHTY, ["this answer does not fit"], response_length=3)
    assert half.reward_score == 0.0 and len(half.response_ids) == 3  # the environment has not seen half an answer


def test_rewards_add_up_and_long_observations_lose_their_middle(play):
    output, server, _ = play(NAUGHTY, ["long", "a", "b"])
    assert output.reward_score == pytest.approx(0.25 + 0.5 + 0.5)
    assert "...(truncated)..." in server.prompts[1] and len(server.prompts[1]) < 300


@pytest.mark.parametrize("answer", ["raises", "dies", "endless", "nan"])
def test_an_episode_that_failed_counts_0_and_is_not_trained_on(play, answer):
    output, server, _ = play(NAUGHTY, ["a", answer, "never"], limit_s="1")
    assert len(server.prompts) == 2
    assert (output.reward_score, sum(output.response_mask)) == (0.0, 0)
    assert output.extra_fields["reward_extra_info"]["env_failure"] == 1.0


def test_a_failed_reset_and_a_prompt_that_is_too_long_fail_the_episode(play):
    for source, options in (
        (NAUGHTY, {"row": {**ROW, "what": "raises"}}),
        (EXAMPLES / "number_game.py", {"prompt_length": 12}),
    ):
        output, server, _ = play(source, ["3"], **options)
        assert len(server.prompts) == 1 and sum(output.response_mask) == 0
        assert output.extra_fields["reward_extra_info"]["env_failure"] == 1.0


# ---- before the start, curves, the monitor -------------------------------------------------------------------------


GAME = str(EXAMPLES / "number_game.py")


@pytest.fixture
def game_rows(tmp_path):
    """The game's data, as a launch names it."""
    path = tmp_path / "game.jsonl"
    row = {"data_source": "game", **ROW}
    path.write_text("".join(json.dumps({**row, "extra_info": {"index": n}}) + "\n" for n in range(64)))
    return {"TRAIN_DATA": str(path), "VAL_DATA": str(path)}


def test_the_preflight_plays_the_environment(check, game_rows):
    from common.preflight.resolved import agent_loop, process_environment

    knobs = check(ENV_PATH=GAME, **game_rows)
    assert knobs.errors == [] and agent_loop(knobs) == "kit_environment_agent"
    assert "environment" in process_environment(knobs)["VERL_EXT"].split(",")
    assert ("environment", "number_game.py", "reset and step tried on 6 rows") in knobs.facts
    assert knobs["MAX_RESPONSE_LENGTH"] == "240"  # 5 turns
    assert int(knobs["MAX_PROMPT_LENGTH"]) >= 26  # the row's 13 tokens and those of the first observation


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"ENV_PATH": "gone.py"}, "ENV_PATH=gone.py: no such file"),
        ({"REWARD_FUNC_PATH": "grpo/tools/search.py"}, "REWARD_FUNC_PATH=grpo/tools/search.py: the environment gives"),
        ({"ADV_ESTIMATOR": "remax"}, "its greedy answer is not played"),
        ({"TOOLS_PATH": str(ROOT / "grpo" / "tools" / "calculator.py")}, "no call would reach a tool"),
        ({"ENV_TIMEOUT": "0"}, "ENV_TIMEOUT=0: must be a number above 0"),
    ],
)
def test_what_does_not_go_with_an_environment(check, game_rows, knobs, words):
    assert words in only_error(check(**{"ENV_PATH": GAME, **game_rows, **knobs}))


def test_an_environment_that_raises_on_a_row_or_on_an_empty_answer_is_refused(check, game_rows, tmp_path):
    path = tmp_path / "env.py"
    for text, words in (
        ("def reset(row): return row['goal']\ndef step(action): return '', 0, True", "reset raised KeyError: 'goal'"),
        ("def reset(row): pass\ndef step(action): return int(action), 0, True", "step raised ValueError"),
        ("def reset(row): pass", "has no step"),
    ):
        path.write_text(text)
        assert words in only_error(check(ENV_PATH=str(path), **game_rows))
    assert "make no pairs" in only_error(check("gspo", ENV_PATH=GAME, **game_rows))
    assert "set REWARD=function" in only_error(check("ppo", ENV_PATH=GAME, REWARD="model", **game_rows))


def test_a_run_ends_when_most_of_its_episodes_fail():
    from common.callbacks import MAX_FAILED, RunCallback
    from common.rewards.errors import RewardError

    RunCallback._check_episodes(None, 3, MAX_FAILED)
    with pytest.raises(RewardError, match="75% of the episodes at step 3"):
        RunCallback._check_episodes(None, 3, 0.75)


def test_failing_episodes_warn():
    from common.metrics.names import check_health, friendly

    history = [friendly({"reward/env_failure/mean": 0.2, "reward/success/mean": 0.5}) for _ in range(3)]
    assert history[0]["success"] == 0.5
    (warning,) = check_health(history)
    assert warning.name == "episode_failures" and "ENV_PATH" in warning.advice


def test_the_monitor_shows_conversations_turn_by_turn():
    from monitor.samples import turns_of

    talk = "3\nuser\nlarger\nassistant\n8\nuser\nsmaller\nassistant\n6\n"
    assert turns_of(talk) == [
        ("assistant", "3"), ("user", "larger"), ("assistant", "8"), ("user", "smaller"), ("assistant", "6"),
    ]  # fmt: skip
    assert turns_of("#### 3") == [("assistant", "#### 3")]
    odd = "the word\nassistant\nalone"
    assert turns_of(odd) == [("assistant", odd)]
