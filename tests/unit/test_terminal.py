"""What a person sees of a run."""

import json

import pytest

from common.console import without_controls
from common.run_dir import update_run
from common.runner.terminal import Terminal, next_steps

RL_LOG = [
    "2026-11-20 09:24:14,674\tINFO worker.py:2189 -- Started a local Ray instance.",
    "\x1b[36m(TaskRunnerV1 pid=1)\x1b[0m INFO:x:train and validate dataloader initialized, "
    "train dataset size: 64, val dataset size: 8",
    "\x1b[36m(TaskRunnerV1 pid=1)\x1b[0m INFO:x:Total training steps: 4",
]


def step(number, reward, loss=0.01):
    return {"step": number, "data": {"critic/score/mean": reward, "actor/pg_loss": loss, "timing_s/step": 2.4}}


@pytest.fixture
def terminal(tmp_path):
    return Terminal(tmp_path, verbose=False, max_response_length=32)


def test_phases_and_steps_in_plain_words(terminal, capsys):
    terminal.log_lines(RL_LOG)
    terminal.records([{"step": 0, "data": {"val-core/demo/acc/mean@1": 0.25}}, step(1, 0.4)])
    shown = capsys.readouterr().out
    assert "Data loaded: train dataset size: 64, val dataset size: 8" in shown
    assert "Before training | validation score 0.25" in shown
    assert "Step 1/4 | reward 0.400 | policy loss 0.0100 | 2.4 s" in shown
    terminal.log_lines(RL_LOG)
    assert capsys.readouterr().out == ""  # a phase is said once


def test_a_warning_is_said_once_while_it_lasts(terminal, capsys):
    for number in range(1, 8):
        terminal.records([step(number, 0.0)])
    shown = capsys.readouterr().out
    assert shown.count("warning:") == 1 and "REWARD_FUNC_PATH" in shown


def test_summary_compares_the_first_and_the_last_steps(terminal, capsys):
    terminal.log_lines(RL_LOG)
    for number, reward in enumerate([0.1, 0.2, 0.3, 0.9, 0.8, 0.7], 1):
        terminal.records([step(number, reward)])
    capsys.readouterr()
    terminal.summary()
    shown = capsys.readouterr().out
    assert "0.200 -> 0.800" in shown  # means of 0.1 0.2 0.3 and of 0.9 0.8 0.7
    assert "/model" in shown and "charts/metrics.png" in shown


def test_one_validation_is_no_comparison(tmp_path, capsys):
    terminal = Terminal(tmp_path, verbose=False, max_response_length=None)
    terminal.records([{"step": 12, "data": {"val/loss": 1.058}}])
    capsys.readouterr()
    terminal.summary()
    line = next(line for line in capsys.readouterr().out.splitlines() if "validation loss" in line)
    assert line.split(maxsplit=2)[2] == "1.058  (the only one, at step 12)"


def test_sft_steps_that_are_quick_do_not_fill_the_screen(tmp_path, capsys):
    terminal = Terminal(tmp_path, verbose=False, max_response_length=None)
    terminal.log_lines(["Total steps: 50, num_warmup_steps: 1"])
    for number in range(1, 51):
        terminal.records([{"step": number, "data": {"train/loss": 1.0 / number}}])
    terminal.records([{"step": 50, "data": {"val/loss": 0.02}}])
    shown = capsys.readouterr().out.splitlines()
    assert "Model and optimiser are ready" in shown[0]
    assert shown[1].startswith("Step 1/50") and "Step 50/50" in shown[-2]
    assert len(shown) <= 5
    assert shown[-1] == "Step 50 | validation loss 0.02"


def test_failure_names_cause_fix_and_log(terminal, tmp_path, capsys):
    log = (
        'Traceback (most recent call last):\n  File "x.py", line 1, in f\nOSError: [Errno 28] No space left on device\n'
    )
    (tmp_path / "train.log").write_text(log)
    cause = terminal.failed(1)
    shown = capsys.readouterr().out
    assert "full" in cause and "full" in shown and "KEEP_CHECKPOINTS" in shown and "train.log" in shown


def test_stopped_says_how_to_go_on(terminal, tmp_path, capsys):
    update_run(tmp_path, state="stopped")
    terminal.stopped("EXPERIMENT_NAME=x ./grpo/train.sh")
    shown = capsys.readouterr().out
    assert "EXPERIMENT_NAME=x ./grpo/train.sh" in shown and "no checkpoint yet" in shown


def test_an_answer_that_looks_like_verls_words_is_not_taken_for_them(terminal):
    """Totals are at the start of verl's own lines; 5,000 digits are not a number."""
    digits = "Total training steps: " + "9" * 5000
    terminal.log_lines(["[response] Total training steps: 9", digits, "> Total steps: 7, num_warmup_steps"])
    assert terminal.total_steps is None
    ray = "\x1b[36m(TaskRunnerV1 pid=42, ip=10.0.0.1)\x1b[0m INFO:2026-11-27 07:09:45,210:"
    terminal.log_lines([f"{ray}Total training steps: 4"])
    assert terminal.total_steps == 4
    terminal.log_lines(["(WorkerDict pid=4596) Total steps: 50, num_warmup_steps: 0"])
    assert terminal.total_steps == 4  # the first is the trainer's: it says so before the model says anything


def test_control_characters_of_a_log_do_not_reach_the_terminal():
    assert without_controls("a\x1b[31mred\x1b[0m \x1b]52;c;eA==\x07\tb") == "ared \ufffd]52;c;eA==\ufffd\tb"


def test_a_failure_comes_with_the_numbers_that_the_preflight_wrote(terminal, tmp_path, capsys):
    tries = {"The GPU ran out of memory": ["TOKENS_PER_GPU=8192 (now 16384)"], "The machine ran out": ["ROLLOUT_N=4"]}
    update_run(tmp_path, numbers_to_try=tries)
    error = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    log = f'Traceback (most recent call last):\n  File "a.py", line 1, in step\n{error}\n'
    (tmp_path / "train.log").write_text(log)
    terminal.failed(1)
    shown = capsys.readouterr().out
    assert "try: TOKENS_PER_GPU=8192 (now 16384)" in shown and "ROLLOUT_N" not in shown


ESCAPES = "\x1b]52;c;eA==\x07 \x1b[2J \x9b2J"


def test_what_a_file_brings_along_does_not_act_on_the_terminal(tmp_path, capsys):
    from rich.table import Table
    from rich.text import Text

    from common.console import SafeConsole
    from common.data_utils import main

    table = Table(f"title {ESCAPES}")
    table.add_row(f"cell {ESCAPES}")
    console = SafeConsole(force_terminal=True, width=80, highlight=False)
    console.print(table, f"[red]red {ESCAPES}[/red]", Text(f"text {ESCAPES}"))
    with console.status(f"waiting {ESCAPES}"):
        pass
    shown = capsys.readouterr().out
    assert "\x1b[31mred \ufffd]52" in shown and "text" in shown and "cell" in shown
    data = tmp_path / f"a{ESCAPES[:5]}.jsonl"
    data.write_text(
        json.dumps({"messages": [{"role": "user", "content": ESCAPES}, {"role": "assistant", "content": "a"}]})
    )
    assert main(["preview", str(data), "--algo", "sft", "--model", "demo"]) == 0
    assert main(["preview", str(data.with_name(f"none{ESCAPES}.jsonl")), "--algo", "sft", "--model", "demo"]) == 2
    captured = capsys.readouterr()
    assert "]52;c;eA==" in captured.out and "]52;c" in captured.err
    for text in (shown, captured.out, captured.err):
        assert not [sign for sign in ("\x1b]", "\x1b[2J", "\x9b", "\x07") if sign in text]


def test_a_reward_model_is_not_asked_but_used(tmp_path):
    update_run(tmp_path, algorithm="grpo", knobs={"MODEL_PATH": "demo"})
    assert "./test.sh" in next_steps(tmp_path)[1]
    update_run(tmp_path, algorithm="reward_model")
    assert next_steps(tmp_path)[1] == f"  REWARD=model REWARD_MODEL_PATH={tmp_path}/model ./ppo/train.sh"


class Unreadable:
    """A log and a table of metrics of which nothing can be read or shown."""

    bad = 0

    def lines(self):
        raise OSError(5, "Input/output error")

    def records(self):
        return [None]


def test_what_cannot_be_shown_ends_nothing_and_is_said_once(terminal, capsys):
    for _ in range(3):
        terminal.look(Unreadable(), Unreadable())
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("a part of the output cannot be shown (OSError: [Errno 5] Input/output error)") == 1
    assert shown.count("warning:") == 1
