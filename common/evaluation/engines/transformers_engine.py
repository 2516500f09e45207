"""Answers from a transformers model, on CPU or GPU: batches by length, a token budget, an OOM that halves it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.attention import exact_attention
from common.evaluation.engines.engine import Answer, Ask, Deliver, Meter, Pieces, cut_at_stop
from common.evaluation.model_path import ModelSource
from common.evaluation.settings import EvaluationError, Settings
from common.hf_engine.end_tokens import end_ids
from common.hf_engine.generation import Request, cache_bytes_per_token, generate
from common.hf_engine.sampling import SamplingParams

if TYPE_CHECKING:
    import torch

    from common.evaluation.settings import Backend

MAX_ROWS = 256  # answers at once; more gain nothing on a CPU
# A batch ends before a prompt of less than this share of its longest, once it has so many rows: padding costs more than
# another batch. Measured with benchmarks/evaluation.py; a GPU needs more rows to be busy.
LENGTH_SHARE = 0.5
ROWS_BEFORE_SHARE = {"cpu": 16, "cuda": 64}
PREFILL_TOKENS = 65_536  # prompt tokens, padding included, in one forward pass
MEMORY_SHARE = 0.6  # of the free memory, for keys and values
ONE_GPU_SHARE = 0.8  # of a GPU's memory that weights may take before a model is spread over several
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class Answering(Request):
    """A request that knows its ask, ends at stop texts and reports its end.

    Args:
        ask: What it answers.
        engine: Whose meter it moves.
        deliver: Gets the answer at the end; None when nobody waits for it.
        pieces: Shows the text as it grows, or None.
    """

    ask: Ask | None = None
    engine: TransformersEngine | None = None
    deliver: Deliver | None = None
    pieces: Pieces | None = None

    def add(self, token_id: int, log_prob: float) -> None:
        """Append a token; at the last one the answer goes out at once."""
        super().add(token_id, log_prob)
        self.engine.meter.tokens += 1
        if self.engine.stop and not self.finished:
            tail = self.engine.decode(self.token_ids[-self.engine.stop_window :])
            self.finished = cut_at_stop(tail, self.engine.stop)[1]
        if self.pieces is not None:
            self.pieces.update(self.engine.decode(self.token_ids), last=self.finished)
        if self.finished and self.deliver is not None:
            self.deliver(self.answer())

    def answer(self) -> Answer:
        """What is there so far."""
        text, cut = cut_at_stop(self.engine.decode(self.token_ids), self.engine.stop)
        ended = cut or (bool(self.token_ids) and self.token_ids[-1] in self.stop_ids)
        finish = "stop" if ended else "length"
        return Answer(self.ask.row, self.ask.sample, text, len(self.token_ids), len(self.prompt_ids), finish)


class TransformersEngine:
    """Batched generation with left padding; see ``common.hf_engine.generation``.

    Args:
        source: The model; a LoRA adapter is folded into it in memory.
        tokenizer: Its tokenizer.
        settings: Sampling.
        stop: Stop texts.
        device: ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` spreads a model over all GPUs.
        dtype: One of ``DTYPES``; auto is float32 on a CPU and the model's own on a GPU.
        batch_tokens: Tokens of a batch, padding and room for the answers included; None: what memory allows.
        trust_remote_code: Run code in the model's folder.
    """

    name = "transformers"

    def __init__(
        self,
        source: ModelSource,
        tokenizer: Any,
        settings: Settings,
        stop: Sequence[str] = (),
        device: str = "cpu",
        dtype: str = "auto",
        batch_tokens: int | None = None,
        trust_remote_code: bool = False,
    ):
        import transformers

        self.version = transformers.__version__
        self.tokenizer = tokenizer
        self.model = load(source, device, dtype, trust_remote_code)
        self.meter = Meter()
        self.batch_tokens = batch_tokens
        self.stop_ids = end_ids(self.model.generation_config, tokenizer)
        self.ask_with(settings, stop)
        pad = tokenizer.pad_token_id
        self.pad_token_id = pad if pad is not None else min(self.stop_ids, default=0)
        self.halvings = 0

    def ask_with(self, settings: Settings, stop: Sequence[str]) -> None:
        """Sampling and stop texts of what is asked from now on."""
        self.settings, self.stop = settings, tuple(stop)
        self.stop_window = 8 + max((len(end) for end in self.stop), default=0)

    def decode(self, token_ids: list[int]) -> str:
        """Text of token ids, without special tokens, as verl's reward managers decode it."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def answer(self, asks: Sequence[Ask], deliver: Deliver) -> None:
        """Answer all, the longest prompts first, so that memory that does not suffice shows at once."""
        self.meter.start()
        waiting = [self._request(ask, deliver) for ask in asks]
        waiting.sort(key=lambda request: (-len(request.prompt_ids), request.ask.row, request.ask.sample))
        while waiting:
            size = self._batch_size(waiting)
            batch, waiting = waiting[:size], waiting[size:]
            try:
                generate(self.model, batch, self.pad_token_id)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                waiting = self._after_oom(batch, deliver) + waiting

    def _request(self, ask: Ask, deliver: Deliver | None, pieces: Pieces | None = None) -> Answering:
        settings = self.settings
        seed = None if settings.greedy else ask.seed
        params = SamplingParams(settings.temperature, settings.top_p, settings.top_k, seed=seed)
        return Answering(
            ask.prompt_ids, params, ask.max_tokens, self.stop_ids, ask=ask, engine=self, deliver=deliver, pieces=pieces
        )

    def _batch_size(self, waiting: Sequence[Answering]) -> int:
        """How many of the waiting requests fit into one batch."""
        least = ROWS_BEFORE_SHARE.get(self.model.device.type, MAX_ROWS)
        return rows_that_fit(waiting, self.batch_tokens or self._budget(), least)

    def _budget(self) -> int:
        """Tokens for which free memory has room: keys and values, and the logits of a row spread over its tokens."""
        free = free_memory(self.model.device)
        return max(1, int(free * MEMORY_SHARE / cache_bytes_per_token(self.model)) >> self.halvings)

    def _after_oom(self, batch: Sequence[Answering], deliver: Deliver) -> list[Answering]:
        """Halve the budget; what had finished is delivered already, the rest is asked again."""
        left = [request for request in batch if not request.finished]
        release_memory()
        if len(batch) == 1:
            for request in left:
                length = len(request.prompt_ids)
                answer = Answer(request.ask.row, request.ask.sample, prompt_tokens=length, finish="error")
                answer.error = f"does not fit into memory even alone (prompt of {length:,} tokens)"
                deliver(answer)
            return []
        total = max(len(request.prompt_ids) + request.max_tokens for request in batch)
        self.halvings += 1
        self.batch_tokens = max(total, len(batch) * total // 2)
        for request in left:
            self.meter.tokens -= len(request.token_ids)
        return [self._request(request.ask, deliver) for request in left]

    def stream(self, ask: Ask, show: Callable[[str], None], stopped: Any) -> Answer:
        """Answer one ask, showing the text as it grows."""
        self.meter.start()
        request = self._request(ask, None, Pieces(self.decode, self.stop, show))
        request.aborted = stopped
        generate(self.model, [request], self.pad_token_id)
        request.pieces.update(self.decode(request.token_ids), last=True)
        return request.answer()

    def close(self) -> None:
        """Free the model."""
        self.model = None
        release_memory()


def rows_that_fit(waiting: Sequence[Request], budget: int, least: int) -> int:
    """How many of the first requests make a batch, at least 1 of those that are there.

    Args:
        waiting: Requests, those of like length next to each other.
        budget: Tokens of a batch, padding and room for the answers included.
        least: Rows from which on a prompt much shorter than the longest starts a separate batch.
    """
    longest = total = size = 0
    for request in waiting[:MAX_ROWS]:
        longest = max(longest, len(request.prompt_ids))
        if size >= least and len(request.prompt_ids) < LENGTH_SHARE * longest:
            break
        total = max(total, len(request.prompt_ids) + request.max_tokens)
        if size and ((size + 1) * longest > PREFILL_TOKENS or (size + 1) * total > budget):
            break
        size += 1
    return size


def load(source: ModelSource, device: str, dtype: str, trust_remote_code: bool) -> torch.nn.Module:
    """Load a model in eval mode.

    Raises:
        EvaluationError: If it cannot be loaded.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    options: dict[str, Any] = {"dtype": kind, "trust_remote_code": trust_remote_code}
    if device == "auto":
        options["device_map"] = "auto"
    try:
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
        options["attn_implementation"] = exact_attention(config.to_dict())
        model = AutoModelForCausalLM.from_pretrained(source.path, **options)
        if source.adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, source.adapter).merge_and_unload()
        return (model if device == "auto" else model.to(device)).eval()
    except (OSError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise EvaluationError(f"--model_path {source.given}: does not fit into the memory of {device}") from error
        raise EvaluationError(f"--model_path {source.given}: cannot be loaded: {first_line(error)}") from error


def load_tokenizer(source: ModelSource, trust_remote_code: bool) -> Any:
    """Load the tokenizer of a model; an adapter's own comes first.

    Raises:
        EvaluationError: If there is none.
    """
    from transformers import AutoTokenizer

    own = source.adapter is not None and (source.adapter / "tokenizer_config.json").is_file()
    try:
        return AutoTokenizer.from_pretrained(
            source.adapter if own else source.path, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(
            f"--model_path {source.given}: its tokenizer cannot be loaded: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on a GPU or a CPU."""
    import torch

    words = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
    kinds = (torch.cuda.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(word in str(error) for word in words)


def free_memory(device: torch.device) -> int:
    """Free bytes of a device; what torch holds of a GPU and does not use counts as free."""
    import psutil
    import torch

    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return psutil.virtual_memory().available


def release_memory() -> None:
    """Give memory that is not used any more back to the system."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def choose_devices(source: ModelSource, backend: Backend) -> list[str]:
    """Where the copies of a model go: one on each GPU, or one over all of them when it does not fit on one.

    Raises:
        EvaluationError: If a device is asked for that is not there.
    """
    import torch

    given, there = backend.device, torch.cuda.device_count()
    if given not in ("auto", "cpu") and not there:
        raise EvaluationError(f"--device {given}: torch sees no GPU here; use --device cpu")
    if given == "cpu" or not there:
        return ["cpu"] * (backend.gpus or 1)
    if given not in ("auto", "cuda"):
        return [given]
    if backend.gpus and backend.gpus > there:
        raise EvaluationError(f"--gpus {backend.gpus}: there are {there} GPUs")
    gpus = backend.gpus or there
    weights = sum(file.stat().st_size for file in Path(source.path).glob("*.safetensors"))
    if gpus > 1 and weights > ONE_GPU_SHARE * torch.cuda.mem_get_info(0)[1]:
        return ["auto"]
    return [f"cuda:{index}" for index in range(gpus)]
