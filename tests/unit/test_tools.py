"""Tools: the examples, the process they run in, what happens when they misbehave, the metrics."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.verl_ext.tool_descriptions import descriptions
from common.verl_ext.tool_process import MAX_CHARACTERS, call, load_functions
from tests.agent_loops import Scripted, converse
from tests.conftest import ROOT

TOOLS = ROOT / "grpo" / "tools"

NAUGHTY = '''
import os
import time
from verl.tools.function_tool import function_tool

@function_tool
def raises(text: str) -> str:
    """Raises.

    Args:
        text: Any.
    """
    raise KeyError(text)

@function_tool("endless")
def loops(text: str) -> str:
    """Never ends, and holds the interpreter's lock.

    Args:
        text: Any.
    """
    return "a" * 10 if 9 ** 9 ** 9 else ""

@function_tool
def megabyte(text: str) -> str:
    """Returns a lot.

    Args:
        text: Any.
    """
    return "<" + 1_000_000 * "x" + ">"

@function_tool
def dies(text: str) -> str:
    """Takes its process down.

    Args:
        text: Any.
    """
    os._exit(3)

@function_tool
async def waits(text: str) -> dict:
    """Asynchronous.

    Args:
        text: Any.
    """
    return {"text": text, "number": 3}
'''


@pytest.fixture
def naughty(tmp_path):
    path = tmp_path / "naughty.py"
    path.write_text(NAUGHTY)
    return path


@pytest.mark.parametrize(
    ("expression", "answer"),
    [("37 * 84", "3108"), ("(2 + 3) * 4 / 8", "2.5"), ("-7 // 2", "-4"), ("17 % 5", "2"), (" 1e3 ", "1000")],
)
def test_calculator(expression, answer):
    functions = load_functions(TOOLS / "calculator.py")
    assert call(functions, ("calculator", {"expression": expression})) == ("ok", answer)


def test_modules_of_verl_that_are_loaded_stay_what_they_were():
    import verl.tools.function_tool as before

    load_functions(TOOLS / "calculator.py")
    import verl.tools.function_tool as after

    assert after is before


@pytest.mark.parametrize(
    "expression", ["__import__('os').getcwd()", "9**9**9", "1/0", "10**400", "'a' * 9", "True + 1", "", "2 +"]
)
def test_calculator_refuses(expression):
    kind, words = call(load_functions(TOOLS / "calculator.py"), ("calculator", {"expression": expression}))
    assert kind == "error" and words


def test_search_finds_the_paragraph(tmp_path, monkeypatch):
    (tmp_path / "notes.md").write_text("# Tea\n\nGreen tea is steeped for two minutes.\n\nCoffee is ground fresh.\n")
    (tmp_path / "zh.txt").write_text("绿茶要泡两分钟。\n\n咖啡要现磨。\n")
    (tmp_path / "secret.env").write_text("KEY=steeped")
    monkeypatch.setenv("SEARCH_FOLDER", str(tmp_path))
    functions = load_functions(TOOLS / "search.py")
    kind, found = call(functions, ("search", {"query": "how long is green tea steeped?"}))
    assert kind == "ok" and found.startswith("notes.md: Green tea") and "KEY" not in found
    assert call(functions, ("search", {"query": "咖啡"}))[1].startswith("zh.txt: 咖啡")
    assert call(functions, ("search", {"query": "zebra"})) == ("ok", "Nothing found.")
    monkeypatch.setenv("SEARCH_FOLDER", str(tmp_path / "gone"))
    assert "SEARCH_FOLDER" in call(load_functions(TOOLS / "search.py"), ("search", {"query": "tea"}))[1]


def test_a_file_that_needs_more_of_verl_gets_it(tmp_path):
    path = tmp_path / "more.py"
    path.write_text(
        "from verl.tools.schemas import ToolResponse\nfrom verl.tools.function_tool import function_tool\n"
        '@function_tool\ndef echo(text: str) -> str:\n    """Echo.\n\n    Args:\n        text: Any.\n    """\n'
        "    return ToolResponse(text=text).text\n"
    )
    assert call(load_functions(path), ("echo", {"text": "hello"})) == ("ok", "hello")


def test_descriptions_are_what_the_demo_data_shows():
    from grpo.tools.make_data import DESCRIPTION

    assert descriptions(TOOLS / "calculator.py") == [DESCRIPTION]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nonsense", "nonsense"),
        ("from verl.tools.function_tool import function_tool\n@function_tool\ndef f(x): return x", "f"),
    ],
)
def test_a_bad_file_is_said(tmp_path, text, words):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        descriptions(path)


def test_tools_that_misbehave_neither_stop_nor_flood_the_run(naughty):
    from common.verl_ext.tool_loop import ToolFailed, ToolPool

    pool = ToolPool(str(naughty), limit_s=1.0)

    async def ask(name):
        try:
            return await pool.call(name, {"text": "it"})
        except ToolFailed as error:
            return f"failed: {error}"

    async def all_at_once():
        return await asyncio.gather(*(ask(name) for name in ("raises", "endless", "megabyte", "dies", "waits")))

    started = time.monotonic()
    raises, endless, megabyte, dies, waits = asyncio.run(all_at_once())
    assert time.monotonic() - started < 30
    assert raises == "failed: KeyError: 'it'"
    assert endless == "failed: it took longer than 1 s"
    assert len(megabyte) == MAX_CHARACTERS and megabyte[0] + megabyte[-1] == "<>"
    assert "status 3" in dies
    assert waits == {"text": "it", "number": 3}
    assert asyncio.run(ask("waits")) == waits  # the processes that were killed are replaced


def test_calls_and_failures_are_counted():
    from common.verl_ext.tool_metrics import tool_metrics

    fields = [{"tool_calls": 2, "tool_failures": 1}, {"tool_calls": 0, "tool_failures": 0}, {"tool_calls": 1}, {}]
    assert tool_metrics(fields) == {
        "tools/calls/mean": 0.75,
        "tools/calls/max": 2,
        "tools/used": 0.5,
        "tools/failures": pytest.approx(1 / 3),
    }
    assert tool_metrics([]) == {"tools/calls/mean": 0, "tools/calls/max": 0, "tools/used": 0, "tools/failures": 0}


def test_a_run_without_calls_warns_after_20_steps():
    from common.metrics.names import check_health, friendly

    history = [friendly({"tools/calls/mean": 0.0, "critic/score/mean": 0.5}) for _ in range(20)]
    assert not [w for w in check_health(history[:19]) if w.name == "tool_calls"]
    warning = next(w for w in check_health(history) if w.name == "tool_calls")
    assert "TOOLS_PATH" in warning.advice
    failing = [friendly({"tools/calls/mean": 1.0, "tools/failures": 0.9}) for _ in range(3)]
    assert [w.name for w in check_health(failing)] == ["tool_failures"]


# ---- the loop, with verl's own code and a model that says what it is given to say -----------------------------------


@pytest.fixture
def answer_with():
    """Run the kit's tool loop on one prompt; returns verl's output, the prompts seen and the answer as text."""
    from transformers import AutoTokenizer
    from verl.experimental.agent_loop.agent_loop import ToolListWrap
    from verl.tools.function_tool import load_function_tools_from_path

    from common.demo_model import DEMO_MODEL_DIR
    from common.verl_ext.tool_loop import KitToolAgentLoop

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)

    def run(path, answers, **turns):
        limits = {"max_user_turns": None, "max_assistant_turns": 5, "max_parallel_calls": 1, "format": "hermes"}
        limits |= {
            "max_tool_response_length": 64,
            "tool_response_truncate_side": "middle",
            "function_tool_path": str(path),
        }
        server = Scripted(tokenizer, answers, lambda step: {"global_steps": 1})
        tools = ToolListWrap(load_function_tools_from_path(str(path)))
        given = {"raw_prompt": [{"role": "user", "content": "What is 37 * 84?"}]}
        output, text = converse(KitToolAgentLoop, server, {**limits, **turns}, (2048, 1024), given, tools=tools)
        return output, server.prompts, text

    return run


def tool_call(name, **arguments):
    import json

    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_the_model_gets_the_result_and_only_its_own_tokens_are_trained_on(answer_with):
    answers = [tool_call("calculator", expression="37 * 84"), "#### 3108"]
    output, prompts, text = answer_with(TOOLS / "calculator.py", answers)
    assert '"name": "calculator"' in prompts[0] and prompts[1].endswith(
        "<|im_start|>tool\n3108<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text.rstrip().endswith("#### 3108<|im_end|>")
    assert (output.extra_fields["tool_calls"], output.extra_fields["tool_failures"]) == (1, 0)
    assert output.num_turns == 4 and len(output.response_mask) == len(output.response_ids) == len(
        output.response_logprobs
    )
    generated = sum(logprob == -0.5 for logprob in output.response_logprobs)
    assert 0 < sum(output.response_mask) == generated < len(output.response_mask)


def test_what_a_bad_call_gets_back(answer_with, naughty):
    answers = [tool_call("raises", text="x"), tool_call("nobody"), tool_call("megabyte", text="x"), "done"]
    output, prompts, _ = answer_with(naughty, answers)
    assert "Error executing tool 'raises': KeyError: 'x'" in prompts[1]
    assert "Unknown function 'nobody'" in prompts[2]
    assert "...(truncated)..." in prompts[3] and len(prompts[3]) < len(prompts[2]) + 300
    assert (output.extra_fields["tool_calls"], output.extra_fields["tool_failures"]) == (3, 2)


def test_turns_are_limited_and_an_answer_without_a_call_ends(answer_with):
    calls = [tool_call("calculator", expression="1 + 1")] * 4
    output, prompts, _ = answer_with(TOOLS / "calculator.py", calls, max_assistant_turns=3)
    assert len(prompts) == 3 and output.extra_fields["tool_calls"] == 2
    output, prompts, _ = answer_with(TOOLS / "calculator.py", ["#### 3108"])
    assert len(prompts) == 1 and output.extra_fields["tool_calls"] == 0
