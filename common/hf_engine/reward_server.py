"""A reward model on transformers behind the routes of vLLM's server: ``/classify`` and ``/v1/chat/completions``.

A sequence classifier answers the first, a causal language model the second. verl starts it as the server of a reward
model (`common.hf_engine.reward_model`); by hand, to have a judge or a scoring service on this machine:

    python -m common.hf_engine.reward_server --model DIR --port 8000
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from aiohttp import web

from common.attention import exact_attention

GATHER_SECONDS = 0.01  # requests that arrive within this time are answered as one batch
LARGEST_BATCH = 64
LARGEST_BODY = 16 * 2**20  # bytes of a request
DEFAULT_ANSWER = 256  # tokens, when a chat request does not say


class Batcher:
    """Runs a function over the items of requests that arrive together, in a thread.

    Args:
        run: From a list of items to a list of results.
    """

    def __init__(self, run: Callable[[list], list]):
        self._run = run
        self._waiting: list[tuple[Any, asyncio.Future]] = []
        self._worker: asyncio.Task | None = None

    async def __call__(self, item: Any) -> Any:
        """The result for one item; what the function raises reaches every request of the batch."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_SECONDS)
            batch, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
            try:
                results = await asyncio.to_thread(self._run, [item for item, _ in batch])
            except Exception as error:
                for _, done in batch:
                    done.set_exception(error)
            else:
                for (_, done), result in zip(batch, results, strict=True):
                    done.set_result(result)


class RewardServer:
    """The routes, on one model.

    Args:
        path: Folder of the model and its tokenizer.
        device: ``cpu`` or ``cuda``.
        num_threads: Torch threads, on the CPU only; 0 leaves them as they are.
        max_length: Longest input, tokens; longer ones are refused.
    """

    def __init__(self, path: str, device: str = "cpu", num_threads: int = 0, max_length: int | None = None):
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

        if num_threads and device == "cpu":
            torch.set_num_threads(num_threads)
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        architecture = (config.architectures or [""])[0]
        self.generates = "ForCausalLM" in architecture
        auto_class = AutoModelForCausalLM if self.generates else AutoModelForSequenceClassification
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self.path = path
        self.device = torch.device(device)
        self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        attention = exact_attention(config.to_dict())
        model = auto_class.from_pretrained(path, dtype=dtype, attn_implementation=attention, trust_remote_code=False)
        self.model = model.to(self.device).eval()
        self.max_length = max_length or self.model.config.max_position_embeddings
        self._classify = Batcher(self.scores)
        self._chat = Batcher(self.answers)
        self._runner: web.AppRunner | None = None

    # ---- the model ---------------------------------------------------------------------------------------

    @torch.inference_mode()
    def scores(self, token_ids: Sequence[list[int]]) -> list[list[float]]:
        """The classifier's logits at the last token of each input; what follows it is padding, and masked.

        Args:
            token_ids: B inputs, none empty.

        Returns:
            B lists of as many numbers as the model has labels.
        """
        lengths = torch.tensor([len(ids) for ids in token_ids])
        longest = int(lengths.max())
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in token_ids], device=self.device)
        mask = (torch.arange(longest)[None, :] < lengths[:, None]).long().to(self.device)
        hidden = self.model.base_model(input_ids=ids, attention_mask=mask)[0]
        last = hidden[torch.arange(len(token_ids)), lengths - 1]
        return self.model.score(last).float().tolist()

    def answers(self, requests: Sequence[tuple[list[int], int, float]]) -> list[list[int]]:
        """Generated token ids for (prompt ids, most tokens, temperature)."""
        from common.hf_engine.end_tokens import end_ids
        from common.hf_engine.generation import Request, generate
        from common.hf_engine.sampling import SamplingParams

        stop_ids = end_ids(self.model.generation_config, self.tokenizer)
        batch = [
            Request(ids, SamplingParams.from_verl({"temperature": temperature}), most, stop_ids)
            for ids, most, temperature in requests
        ]
        pad = self.tokenizer.pad_token_id
        generate(self.model, batch, pad if pad is not None else min(stop_ids, default=0))
        return [request.token_ids for request in batch]

    # ---- the routes --------------------------------------------------------------------------------------

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_get("/health", self._health)
        app.router.add_post("/classify", self._on_classify)
        app.router.add_post("/v1/chat/completions", self._on_chat)
        return app

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serve until `stop`; returns ``host:port``."""
        self._runner = web.AppRunner(self.app())
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        return f"{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"model": self.path})

    async def _on_classify(self, request: web.Request) -> web.Response:
        if self.generates:
            return _refuse(f"{self.path} is a causal language model; it answers /v1/chat/completions")
        body = await request.json()
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        inputs = [self.tokenizer(text)["input_ids"] for text in texts]
        if any(not 0 < len(ids) <= self.max_length for ids in inputs):
            return _refuse(f"an input has {max(map(len, inputs))} tokens; from 1 to {self.max_length} are taken")
        found = await asyncio.gather(*(self._classify(ids) for ids in inputs))
        logits = torch.tensor(found)
        if body.get("use_activation", True):
            logits = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
        data = [
            {"index": index, "label": f"LABEL_{row.argmax()}", "probs": row.tolist(), "num_classes": len(row)}
            for index, row in enumerate(logits)
        ]
        return web.json_response({"object": "list", "created": int(time.time()), "model": self.path, "data": data})

    async def _on_chat(self, request: web.Request) -> web.Response:
        if not self.generates:
            return _refuse(f"{self.path} is a classifier; it answers /classify")
        body = await request.json()
        text = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_ANSWER
        most = min(asked, self.max_length - len(ids))
        if most < 1:
            return _refuse(f"the messages have {len(ids)} tokens; up to {self.max_length} with the answer are taken")
        answer = await self._chat((ids, most, float(body.get("temperature", 1.0))))
        message = {"role": "assistant", "content": self.tokenizer.decode(answer, skip_special_tokens=True)}
        reason = "length" if len(answer) == most else "stop"
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(answer), "total_tokens": len(ids) + len(answer)}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return web.json_response(
            {"object": "chat.completion", "created": int(time.time()), "model": self.path, "choices": [choice]}
            | {"usage": usage}
        )


def _refuse(words: str) -> web.Response:
    return web.json_response({"error": {"message": words}}, status=400)


def main() -> None:
    """Command line entry: serve one model on this machine."""
    parser = argparse.ArgumentParser(prog="python -m common.hf_engine.reward_server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder of a sequence classifier or a causal language model")
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1; 0: any (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: all cores")
    arguments = parser.parse_args()
    asyncio.run(_serve(RewardServer(arguments.model, arguments.device, arguments.threads), arguments.port))


async def _serve(server: RewardServer, port: int) -> None:
    print(f"serving {server.path} on http://{await server.start(port=port)}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
