"""The readers of foreign bytes in the kit: what they read, good samples of it, and the errors that callers expect."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from common.data.readers.files import DataError
from common.rewards.api.verdict import BadReplyError
from common.verl_ext.version import pinned
from tests.fuzz import formats
from tests.fuzz.mutations import DEPTHS, changed_line, changed_tree, mutated

ROWS = 200  # of a data file; a file may be long, a row may not


@dataclass(frozen=True)
class Reader:
    """A reader and how its inputs are made.

    Args:
        name: Of the reader.
        read: Reads a file; raises one of `errors` or nothing.
        samples: Makes small good inputs.
        file: Name that the input must have, with a folder where the reader wants one.
        errors: What the callers catch, by the reader's docstring.
        made: Makes inputs that are right in the outer format and wrong within; half of all inputs.
        tokens: Words of the format.
        count: Inputs in the normal run, about a second of them.
    """

    name: str
    read: Callable[[Path], object]
    samples: Callable[[], list[bytes]]
    file: str
    errors: tuple[type[Exception], ...] = ()
    made: Callable[[Random, Sequence[bytes]], bytes] | None = None
    tokens: tuple[bytes, ...] = ()
    count: int = 400

    def make(self, random: Random, samples: list[bytes]) -> bytes:
        """One input out of the samples."""
        if self.made and random.random() < 0.5:
            return self.made(random, samples)
        return mutated(random, samples, self.tokens)


def _lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _changed_lines(random: Random, samples: Sequence[bytes]) -> bytes:
    """One line of a file in JSON lines is another tree."""
    lines = random.choice([sample for sample in samples if sample.startswith((b'{"', b"[{"))]).splitlines()
    chosen = random.randrange(len(lines))
    lines[chosen] = changed_tree(random, json.loads(lines[chosen])).encode(errors="surrogatepass")
    return b"\n".join(lines) + b"\n"


def _changed_json(random: Random, samples: Sequence[bytes]) -> bytes:
    """A file that is one JSON text, with other values in it."""
    return changed_tree(random, json.loads(random.choice(samples))).encode(errors="surrogatepass")


# ---- logs --------------------------------------------------------------------------------------------------------

_METRICS = _lines(
    {"step": 1, "data": {"actor/pg_loss": 0.1, "critic/score/mean": 0.5, "timing_s/step": 2.0}},
    {"step": 2, "data": {"actor/pg_loss": 0.2}},
    {"loss": 0.5, "epoch": 0.1},
    {"global_step": 3, "train/loss": 0.4},
)
_CONSOLE = (
    b"\x1b[36m(TaskRunner pid=123)\x1b[0m step:34 - training/global_step:34 - actor/pg_loss:-0.01 - "
    b"a - b:np.float64(0.1) - c:tensor([0.5], device='cuda:0')\n"
    b"Step 1,000/10,000 | Loss: 0.234 | KL: 0.0012 | 2.4 s\n"
    b"Step 1/29: reward_mean=0.15, kl=.5 [15.2s]\nEpoch 1/3: PL:0.32 R:1.56\n"
    b"{'loss': 0.5, 'grad_norm': '1.5', 'learning_rate': 1e-06, 'epoch': 0.1}\n"
    b"Training:  10%|#         | 10/100 [00:10<01:30,  1.00it/s]\r"
    b"Training:  11%|#         | 11/100 [00:10<01:30, 1.00it/s]\n"
)
_LOG_TOKENS = (
    b"step:1 - ", b" - ", b"Step 3/10 ", b"Epoch 1/3: ", b"tensor(", b"np.float64(", b"array([", b"'loss': ",
    b'{"step":', b"nan",
    b" | ", b"1.5 s", b"[1.5s]", b"50%|", b"| 5/10 [", b"it/s", b"1,000", b"a:1 ", b"a b: ", b"e-5", b"inf",
    b"\x1b[0m", b"Loss: ",
)  # fmt: skip


def _made_log(random: Random, samples: Sequence[bytes]) -> bytes:
    if random.random() < 0.3:
        return _changed_lines(random, samples)
    return changed_line(random, samples, _LOG_TOKENS)


def _read_log(path: Path) -> None:
    from monitor.columns import Columns
    from monitor.log_parser import LogParser

    columns = Columns()
    columns.add(LogParser().feed(path.read_bytes()))


_FAILED = rb"""# attempt 1, 2026-01-01
(TaskRunner pid=1, ip=10.0.0.1) Traceback (most recent call last):
(TaskRunner pid=1, ip=10.0.0.1)   File "/kit/verl/trainer/ppo/reward.py", line 10, in _call_with_kwargs
(TaskRunner pid=1, ip=10.0.0.1)   File "/home/me/reward.py", line 5, in compute_score
(TaskRunner pid=1, ip=10.0.0.1) ZeroDivisionError: division by zero
[rank0]: Traceback (most recent call last):
[rank0]:   File "a.py", line 1, in f
[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB
The above exception was the direct cause of the following exception:

ray::f() (pid=3, ip=1.2.3.4)
Traceback (most recent call last):
  File "b.py", line 2, in g
    x = 1
ray.exceptions.RayTaskError(ValueError): ray::TaskRunner.run() (pid=4, ip=1.2.3.4)
hydra.errors.ConfigAttributeError: Key 'actor.lr' is not in struct
ERROR 01-01 10:00:00 [core.py:1] EngineCore failed to start.
RuntimeError: NCCL error, address already in use
Killed
"""


def _failure_samples() -> list[bytes]:
    from common.runner.known_failures import KNOWN_FAILURES

    words = "\n".join(known.pattern.replace("\\", "") for known in KNOWN_FAILURES)
    return [_FAILED, b"Traceback (most recent call last):\n" + words.encode() + b"\n", b"all is well\nno error\n"]


_FAILURE_TOKENS = (
    b"Traceback (most recent call last):\n", b"ray::f() (pid=3)", b"The above exception was the direct cause of",
    b"(pid=1) ",
    b"[rank0]: ", b'  File "a.py", line 1, in f\n', b"ValueError: x\n", b"KeyboardInterrupt\n", b"# attempt 2\n",
    b"\x1b[36m",
    b"RayTaskError(", b"(A pid=1, ip=", b"ERROR 01-01 10:00:00 [", b"SIGTERM", b"out of memory", b"Key '",
    b"' is not in struct",
)  # fmt: skip


def _made_failure(random: Random, samples: Sequence[bytes]) -> bytes:
    """A separate line, or within a traceback."""
    line = changed_line(random, samples, _FAILURE_TOKENS)
    return (
        random.choice((b"", b"Traceback (most recent call last):\n")) + line + random.choice((b"", b"ValueError: x\n"))
    )


def _read_failure(path: Path) -> None:
    from common.runner.failures import diagnose

    diagnose(path)
    diagnose(path.read_bytes().decode("utf-8", errors="replace"))


# ---- runs --------------------------------------------------------------------------------------------------------

_RUN = {
    "id": "1a2b3c4d", "state": "running", "host": "elsewhere", "pid": 12, "pid_started": 1.7e9,
    "algorithm": "grpo", "attempt": 1,
    "model": "demo", "model_name": "demo", "reason": "", "started": "2026-01-01T10:00:00+00:00", "git_commit": "0" * 40,
    "knobs": {"TOTAL_STEPS": "100", "MODEL_PATH": "demo", "LR": "1e-6"}, "versions": {"verl": pinned()},
    "data": {"train": []},
}  # fmt: skip


def _run_samples() -> list[bytes]:
    runs = (_RUN, {**_RUN, "state": "finished", "reason": "x"}, {**_RUN, "stages": [{"name": "a", "state": "failed"}]})
    return [json.dumps(run, indent=2).encode() for run in runs]


def _read_run(path: Path) -> None:
    from common.run_dir import read_run

    run = read_run(path.parent)
    run.get("knobs", {}).get("LR")
    run.get("data", {}).get("train")
    _ask_whether_alive(run)


def _ask_whether_alive(run: dict) -> None:
    """As if this machine had started it."""
    import os

    from common.run_dir import is_alive

    is_alive({**run, "state": "running", "host": os.uname().nodename})


def _read_row(path: Path) -> None:
    from monitor.compare import differences, knobs_of
    from monitor.runs import RunIndex

    index = RunIndex(path.parent.parent)
    index.scan()
    row = index.rows["run"]
    if row.state == "damaged":  # what a run.json says is never a reason
        raise AssertionError(row.reason)
    differences({"a": knobs_of(row.run), "b": {}})
    _ask_whether_alive(row.run)


_CONFIG = b"""actor_rollout_ref:
  actor: {optim: {lr: 1.0e-06}, ppo_mini_batch_size: 256}
  model:
    path: ~/models/demo
    lora_rank: 0
data:
  train_files: [a.parquet, 'b: c']
  template: |
    line one
      line two
trainer:
  total_epochs: 15
  logger: [console, file]
  experiment_name: "a\\tb"
  started: 2026-01-01 10:00:00
  none: null
"""
_YAML_TOKENS = (
    b"&a ", b"*a", b"<<: *a\n", b"!!python/object/apply:os.system [ls]", b"!!timestamp 9999-99-99",
    b"!!int 1:99:99", b"!!binary ===",
    b"!!float x", b"!!set {a, b}", b"!!omap [a: 1]", b"!!pairs [a: 1]", b"? ", b"- ", b": ", b"---\n", b"...\n",
    b"%YAML 9.9\n",
    b"| ", b">-\n", b"!<tag:x> ", b"0o777", b"0b2", b".inf", b"1e5", b"2026-13-41", b"2026-01-01T99:99:99Z", b"=",
    b"[", b"{", b"\t",
    b"!!int ''", b"!!null x", b"!!bool 3", b"190:20:30", b"0x", b"2026-01-01T00:00:00+99:99", b"0_", b"# ", b"'", b'"',
)  # fmt: skip


def _made_config(random: Random, samples: Sequence[bytes]) -> bytes:
    """A YAML that grows by its aliases, nests in one of YAML's ways, or has values that are none of their kind."""
    what = random.random()
    if what < 0.2:
        width, depth = random.randrange(2, 12), random.randrange(2, 30)
        links = (f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * width)}]" for n in range(depth))
        return "\n".join(links).encode()
    if what < 0.5:
        depth = random.choice(DEPTHS)
        opening, closing = random.choice(
            (("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", ""), ("[{a: ", "}]"), ("!!a ", ""))
        )
        return f"a: 1\nb:\n  {opening * depth}1{closing * random.choice((depth, 0))}\n".encode()
    if what < 0.6:
        return "".join(f"{' ' * n}a:\n" for n in range(random.choice((60, 400)))).encode()
    lines = random.choice(samples).split(b"\n")
    lines.append(
        b"last: " + random.choice(_YAML_TOKENS) + random.choice((b"", b"1", b"x", random.choice(_YAML_TOKENS)))
    )
    return b"\n".join(lines)


def _read_config(path: Path) -> None:
    from monitor import compare

    compare._config.cache_clear()
    compare.differences({"a": compare.config_of(path), "b": {}})


_ROLLOUTS = _lines(
    {"input": "user\nWhat is 1+1?\nassistant\n", "output": "2", "gts": "2", "score": 1.0, "step": 1,
    "uid": "ab_0_0", "acc": True},
    {"input": "user\nWhat is 1+1?\nassistant\n", "output": "三", "gts": None, "score": 0, "step": 1, "uid": "ab_1_0"},
    {"input": "x", "output": "", "score": None, "pred": ["1"]},
)  # fmt: skip


def _read_samples(path: Path) -> None:
    from monitor import samples

    samples._read.cache_clear()
    for step in samples.steps_of(path.parent):
        found, _ = samples.read_step(path.parent, step)
        samples.choose(found, "1+1 the", "high")
        samples.share_of_flat_groups(found)
        for one in found[:3]:
            samples.group_of(found, one)
            samples.question(one.prompt)
            samples.follow(path.parent, one.prompt, seconds=0.5)


def _event_samples() -> list[bytes]:
    return [formats.record_file(formats.event_payloads())]


def _read_events(path: Path) -> None:
    import time

    from monitor.columns import Columns
    from monitor.tensorboard_events import EventReader

    reader, columns = EventReader(path), Columns()
    for _ in range(2):  # the page asks again, also behind a damaged event
        records, _ = reader.read(time.monotonic() + 10)
        columns.add(records)


# ---- data files --------------------------------------------------------------------------------------------------

_ROWS_OF_DATA = (
    {"prompt": "1+1?", "answer": "2", "data_source": "kit", "extra": {"index": 1, "tags": ["a"]}},
    {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "你好"}],
        "id": 12345678901234567890,
    },
    {"prompt": "x", "chosen": "a", "rejected": "b", "score": 0.5, "none": None},
)
_JSONL = [_lines(*_ROWS_OF_DATA), _lines(_ROWS_OF_DATA[1]["messages"], _ROWS_OF_DATA[1]["messages"])]
_JSON = [json.dumps(tree, indent=1).encode() for tree in (
    list(_ROWS_OF_DATA), {"data": list(_ROWS_OF_DATA), "version": 1}, {"prompt": ["a", "b"], "answer": ["c", "d"]},
    {"columns": ["a", "b"], "index": [0], "data": [[1, 2]]}, {"a": {"0": 1, "1": 2}, "b": {"0": 3, "1": 4}},
    {"id1": {"prompt": "a"}, "id2": {"prompt": "b"}}, {"data": {"id1": {"prompt": "a"}, "id2": {"prompt": "b"}}},
)]  # fmt: skip
_JSON_TOKENS = (
    b'{"a":', b"NaN", b"Infinity", b"[", b"{", b"},{", b"null", b'"columns": ["a"], ', b'"data": [1, 2], ',
    b'"data": {"0": 1}, ',
    b'"index": null, ', b"\\ud800", b'{"prompt": "x"}', b'{"role": "user"}', b",", b'"', b"//", b"\n",
)  # fmt: skip
_CSV = [
    b'prompt,answer\n1+1?,2\n"a ""quoted"", text\nover lines",b\n',
    b"prompt;answer;\nx;y;\n",
    b"sep=|\nprompt|answer\na|b\n",
    "问题\t答案\n一\t二\n".encode(),
]
_CSV_TOKENS = (b'"', b'""', b",", b";", b"\t", b"\r", b"\r\n", b'",\n"', b"sep=,\n", b"sep=\n", b"a,", b'"a"')


def _read_data(path: Path) -> None:
    from common.data.readers.records import read_records

    for _ in islice(read_records(path, say=_nothing), ROWS):
        pass


def _read_table(path: Path) -> None:
    """With and without a header; the second is read also where the first is refused."""
    from common.data.readers.records import read_records

    try:
        _read_data(path)
    except DataError:
        pass
    for _ in islice(read_records(path, header=False, say=_nothing), ROWS):
        pass


def _nothing(sentence: str) -> None:
    assert sentence


# ---- replies of a judge ------------------------------------------------------------------------------------------

_SAID = (
    "Correctness: 8\nClarity: 7/10",
    '<think>hm "Correctness: 1"</think>\n```json\n{"correctness": 8, "clarity": 7.5}\n```',
    "**Correctness**: 8 points\n- Clarity：９ 分",
    'I say {"scores": {"correctness": 1, "clarity": 2}} and [[5]]',
    "analysisWe add assistantfinal Correctness: 8\nClarity: 7",
)
_REPLIES = [
    {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9,
    "completion_tokens": 4}}
    for text in _SAID
]  # fmt: skip
_JUDGE_TOKENS = (
    b"Correctness: 8", b"Clarity: 7", b"\\nCorrectness: ", b"[[5]]", b"<think>", b"</think>", b"8/10", b"out of ",
    b"1,000", b"{", b"\\n",
    b"**", b"``` ", b'\\"', b"score: ", "评分：".encode(), "“".encode(), "”".encode(), b"8 ", b"- ", b"1e9",
    b"actually ", b" ", b"\\t",
    b'{\\"correctness\\": 8, \\"clarity\\": 7}', b"_", b"assistantfinal", b"Clarity ", b"* ", "８".encode(),
    "分".encode(),
)  # fmt: skip


def _judge_samples() -> list[bytes]:
    replies = [*_REPLIES, *({"results": [{"score": score}]} for score in (2.5, -5, "3", 4, 0))]
    return [json.dumps(reply, ensure_ascii=False).encode() for reply in replies]


def _changed_reply(random: Random, samples: Sequence[bytes]) -> bytes:
    """Other values in a reply, or a good reply in which the judge's words are damaged."""
    if random.random() < 0.5:
        return _changed_json(random, samples)
    words = mutated(
        random, [text.encode() for text in _SAID], [token.replace(b"\\n", b"\n") for token in _JUDGE_TOKENS]
    )
    text = words.decode("utf-8", errors="replace")[: random.choice((19_000, 200_000))]
    reply = {"choices": [{"message": {"content": text}, "finish_reason": random.choice(("stop", None, "length"))}]}
    return json.dumps(reply, ensure_ascii=False).encode()


def _settings() -> list:
    from common.rewards.api.settings import Criterion, Settings

    two = (Criterion("correctness", 0, 10), Criterion("clarity", 0, 10))
    pattern = (Criterion("quality", 1, 10, pattern=r"\[\[(\d+)\]\]"),)
    service = (Criterion("quality", -5, 5, path="results.0.score"),)
    judge = {
        "kind": "judge",
        "url": "http://localhost",
        "model": "m",
        "prompt": "{answer}",
        "options": {"max_tokens": 64},
    }
    return [
        Settings(criteria=two, **judge), Settings(criteria=two, structured="on", **judge),
        Settings(criteria=two[:1], **judge),
        Settings(criteria=pattern, **judge), Settings(kind="service", url="http://localhost", criteria=service),
    ]  # fmt: skip


def _read_reply(path: Path) -> None:
    """By all kinds of settings, of an answer that gives itself a score, and of one that says all the judge said."""
    from common.rewards.api.exchange import read_scores, total

    body = path.read_bytes().decode("utf-8", errors="replace")
    for settings in _settings():
        for answer in ("Correctness: 8 [[5]]", body[:20_000]):
            try:
                scores, _ = read_scores(settings, body, answer)
            except BadReplyError:
                continue
            assert 0 <= total(scores, settings.criteria) <= 1


READERS = {reader.name: reader for reader in (
    Reader("log", _read_log, lambda: [_METRICS, _CONSOLE], "train.log",
           made=_made_log, tokens=_LOG_TOKENS, count=500),
    Reader("failure", _read_failure, _failure_samples, "train.log",
           made=_made_failure, tokens=_FAILURE_TOKENS, count=600),
    Reader("run_json", _read_run, _run_samples, "run/run.json", (ValueError,), made=_changed_json, count=800),
    Reader("run_index", _read_row, _run_samples, "run/run.json", made=_changed_json, count=800),
    Reader("config", _read_config, lambda: [_CONFIG], "config.yaml",
           made=_made_config, tokens=_YAML_TOKENS, count=150),
    Reader("samples", _read_samples, lambda: [_ROLLOUTS], "1.jsonl", made=_changed_lines, count=700),
    Reader("tensorboard", _read_events, _event_samples, "events.out.tfevents.1.host", made=formats.damaged_events),
    Reader("parquet", _read_data, formats.parquet_samples, "a.parquet", (DataError,),
           made=formats.damaged_parquet, count=100),
    Reader("xlsx", _read_table, formats.xlsx_samples, "a.xlsx", (DataError,),
           made=formats.damaged_xlsx, tokens=formats.XML_TOKENS, count=250),
    Reader("json", _read_data, lambda: _JSON, "a.json", (DataError,),
           made=_changed_json, tokens=_JSON_TOKENS, count=800),
    Reader("jsonl", _read_data, lambda: _JSONL, "a.jsonl", (DataError,),
           made=_changed_lines, tokens=_JSON_TOKENS, count=800),
    Reader("gzip", _read_data, lambda: list(map(formats.packed, _JSONL)), "a.jsonl.gz", (DataError,),
           made=formats.damaged_gzip),
    Reader("csv", _read_table, lambda: _CSV, "a.csv", (DataError,), tokens=_CSV_TOKENS, count=1_000),
    Reader("judge", _read_reply, _judge_samples, "reply.json", made=_changed_reply, tokens=_JUDGE_TOKENS, count=800),
)}  # fmt: skip
