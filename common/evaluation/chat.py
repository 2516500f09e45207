"""A conversation at the terminal: answers as they come, commands with a slash, Ctrl-C stops the answer."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.console import without_controls, write_error
from common.data.messages import Message
from common.evaluation.engines.backends import make_engine
from common.evaluation.engines.engine import Answer, Ask, Engine
from common.evaluation.model_path import OUTPUTS, ModelSource, find_model
from common.evaluation.run_model import Candidate, get_ready
from common.evaluation.settings import Backend, EvaluationError, Settings
from common.files import write_atomically

HELP = """/system TEXT      set the system prompt (alone: show it; /system - removes it)
/reset            forget the conversation
/retry            answer the last question again
/params           show the settings;  /params temperature=0.2 max_new_tokens=100  sets them
/save [FILE]      save the conversation as messages (JSON; a data file for ./sft/train.sh)
/exit             leave (Ctrl-D too)
Ctrl-C stops an answer. Alt-Enter makes a new line."""
PARAMETERS = ("temperature", "top_p", "top_k", "max_new_tokens", "seed", "thinking")
WAIT_S = 0.05  # between looks at the keyboard while an answer is made


@dataclass
class Chat:
    """One conversation with one model.

    Args:
        candidate: The model.
        engine: Generates.
        settings: Sampling and prompt; changed by ``/params`` and ``/system``.
        write: Prints text as it is.
        messages: So far, without the system prompt.
    """

    candidate: Candidate
    engine: Engine
    settings: Settings
    write: Callable[[str], None]
    messages: list[Message] = field(default_factory=list)
    asked: int = 0

    def say(self, text: str) -> bool:
        """Take one line of the user; returns False to end the chat."""
        text = text.strip()
        if not text:
            return True
        if not text.startswith("/"):
            self._ask({"role": "user", "content": text})
            return True
        name, _, rest = text.partition(" ")
        if name in ("/exit", "/quit"):
            return False
        command = getattr(self, f"command_{name[1:]}", None)
        if command is None:
            self.write(f"{name}: there is no such command\n{HELP}\n")
        else:
            try:
                command(rest.strip())
            except (EvaluationError, OSError) as error:
                self.write(f"error: {error}\n")
        return True

    # ---- commands ----------------------------------------------------------------------------------------

    def command_help(self, rest: str) -> None:
        """Show the commands."""
        self.write(HELP + "\n")

    def command_system(self, rest: str) -> None:
        """Set, show or remove the system prompt."""
        if rest:
            self._set(replace(self.settings, system="" if rest == "-" else rest))
        self.write(f"system prompt: {self.settings.system or 'none'}\n")

    def command_reset(self, rest: str) -> None:
        """Forget the conversation."""
        self.messages = []
        self.write("The conversation is forgotten; the system prompt stays.\n")

    def command_retry(self, rest: str) -> None:
        """Answer the last question again."""
        while self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if not self.messages:
            raise EvaluationError("there is no question yet")
        self._ask(self.messages.pop())

    def command_params(self, rest: str) -> None:
        """Show or set how answers are sampled."""
        changes: dict[str, Any] = {}
        for word in rest.replace(",", " ").split():
            name, equals, value = word.partition("=")
            if name not in PARAMETERS or not equals:
                raise EvaluationError(f"{word}: write NAME=VALUE; names are {', '.join(PARAMETERS)}")
            kind = type(getattr(self.settings, name))
            try:
                changes[name] = kind(value)
            except ValueError as error:
                raise EvaluationError(f"{word}: {value!r} is not a valid {kind.__name__}") from error
        self._set(replace(self.settings, **changes).check())
        shown = ", ".join(f"{name}={getattr(self.settings, name)}" for name in PARAMETERS)
        self.write(f"{shown}, template={self.settings.template}\n")

    def command_save(self, rest: str) -> None:
        """Save the conversation."""
        if not self.messages:
            raise EvaluationError("there is nothing to save yet")
        path = Path(rest).expanduser() if rest else OUTPUTS / "chats" / f"{time.strftime('%m%d-%H%M%S')}.json"
        if path.suffix != ".json":
            raise EvaluationError(f"{path}: give a name that ends in .json")
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"messages": self._whole(), "model": self.candidate.source.given, "settings": self.settings.as_dict()}
        write_atomically(path, json.dumps([row], ensure_ascii=False, indent=2) + "\n")
        self.write(f"saved {path}\n")

    # ---- answers -----------------------------------------------------------------------------------------

    def _set(self, settings: Settings) -> None:
        self.settings = self.engine.settings = settings
        if self.candidate.prompter is not None:
            self.candidate.prompter.settings = settings

    def _whole(self) -> list[Message]:
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        return [*system, *self.messages]

    def _ask(self, message: Message) -> None:
        """Answer a message; it stays in the conversation only with an answer, however short."""
        messages = [*self.messages, message]
        try:
            ask = self._prompt(messages)
        except EvaluationError as error:
            self.write(f"error: {error}\n")
            return
        self.asked += 1
        started = time.monotonic()
        answer, stopped = self._stream(ask)
        seconds = time.monotonic() - started
        if answer.error is not None:
            self.write(f"\nerror: {answer.error}\n")
            return
        self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        end = " | stopped" if stopped else " | cut at max_new_tokens" if answer.finish == "length" else ""
        self.write(f"\n[{answer.tokens} tokens, {answer.tokens / max(seconds, 1e-9):.0f} tokens/s{end}]\n")

    def _prompt(self, messages: list[Message]) -> Ask:
        settings, prompter = self.settings, self.candidate.prompter
        seed = settings.seed_of(self.asked, 0)
        if prompter is None:
            system = [{"role": "system", "content": settings.system}] if settings.system else []
            return Ask(0, 0, [], [*system, *messages], settings.max_new_tokens, seed)
        [ids] = prompter.encode([prompter.render(messages)])
        room, context = settings.max_new_tokens, self.candidate.context
        if context and len(ids) >= context:
            raise EvaluationError(
                f"the conversation has {len(ids):,} tokens, and the model's context is {context:,}; /reset starts anew"
            )
        return Ask(0, 0, ids, [], min(room, context - len(ids)) if context else room, seed)

    def _stream(self, ask: Ask) -> tuple[Answer, bool]:
        """Generate in a thread, so that Ctrl-C can stop it; returns the answer and whether it was stopped."""
        stopped = threading.Event()
        found: list[Answer | BaseException] = []

        def work() -> None:
            try:
                found.append(self.engine.stream(ask, self.write, stopped))
            except Exception as error:  # shown to the user below
                found.append(error)

        thread = threading.Thread(target=work, name="answer", daemon=True)
        earlier = signal.signal(signal.SIGINT, lambda *_: stopped.set())
        try:
            thread.start()
            while thread.is_alive():
                thread.join(WAIT_S)
        finally:
            signal.signal(signal.SIGINT, earlier)
        result = found[0]
        if isinstance(result, BaseException):
            return Answer(0, 0, finish="error", error=f"{type(result).__name__}: {result}"), stopped.is_set()
        return result, stopped.is_set()


def run_chat(model: str, settings: Settings, backend: Backend) -> int:
    """Chat until the user leaves; returns the exit status."""
    if settings.n > 1:
        raise EvaluationError(f"--n {settings.n}: several answers are for --batch")

    def write(text: str) -> None:
        sys.stdout.write(without_controls(text.encode("utf-8", "replace").decode()))
        sys.stdout.flush()

    with _quiet_libraries():
        if backend.kind == "server":
            source = ModelSource(backend.server, backend.server_model or model or "server", backend.server)
        else:
            source = find_model(model)
            if source.is_recorded:
                raise EvaluationError(f"--model_path {model}: is a file of answers; a chat needs a model")
        candidate = get_ready(source, source.name, settings, backend, write_error)
        write_error(f"loading {candidate.name} ({backend.kind}) ...")
        stop = candidate.prompter.stop if candidate.prompter else settings.stop
        engine = make_engine(backend, candidate.source, candidate.tokenizer, settings, stop, for_chat=True)
    chat = Chat(candidate, engine, settings, write)
    write_error(f"{candidate.name} is ready. /help shows the commands, /exit leaves.")
    try:
        for line in _lines():
            if not chat.say(line):
                break
    finally:
        engine.close()
    return 0


def _lines() -> Iterator[str]:
    """What the user types, with history and editing of wide characters; a file or pipe is read line by line."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    words = WordCompleter(["/system", "/reset", "/retry", "/params", "/save", "/exit", "/help"], sentence=True)
    session: PromptSession[str] = PromptSession(
        history=InMemoryHistory(), key_bindings=keys, completer=words, complete_while_typing=False
    )
    while True:
        try:
            yield session.prompt("\n> ")
        except KeyboardInterrupt:
            print("(/exit or Ctrl-D leaves)")
        except EOFError:
            return


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """No warnings of libraries between the lines of a conversation."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
