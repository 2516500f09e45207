"""The rollout server of ``ROLLOUT_ENGINE=hf``: what verl's vLLM server does, on a transformers model.

One Ray actor per replica. Requests that arrive close together are answered as one batch; a batch runs to its
end in a thread, so that the actor keeps accepting requests, weights and aborts.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import psutil
import torch
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tokenizer import normalize_token_ids
from verl.workers.config import HFModelConfig, RolloutConfig
from verl.workers.rollout.replica import TokenOutput

from common.attention import exact_attention
from common.hf_engine.end_tokens import end_ids
from common.hf_engine.experts import ExpertWeights
from common.hf_engine.generation import Request, cache_bytes_per_token, generate
from common.hf_engine.sampling import SamplingParams

logger = logging.getLogger(__name__)

QUIET_SECONDS = 0.03  # a batch starts when no request arrived for this long
GATHER_SECONDS = 1.0  # or when the first request of it has waited this long
PREFILL_TOKENS = 65536  # prompt tokens, padding included, in one forward pass


class HFServer:
    """Generate token ids for token ids; hold the policy's weights; stop when told.

    Args:
        config: verl's ``actor_rollout_ref.rollout``.
        model_config: verl's ``actor_rollout_ref.model``.
        replica_rank: Number of this replica; offsets its seed.
        device: ``cpu`` or ``cuda``.
        num_threads: Torch threads of this process, CPU only.
    """

    def __init__(
        self, config: RolloutConfig, model_config: HFModelConfig, replica_rank: int, device: str, num_threads: int
    ):
        if device == "cpu":
            torch.set_num_threads(num_threads)
        self.config: RolloutConfig = omega_conf_to_dataclass(config)
        self.model_config: HFModelConfig = omega_conf_to_dataclass(model_config, HFModelConfig)
        self.device = torch.device(device)
        self.generator = torch.Generator(device=self.device).manual_seed(self.config.seed + replica_rank)
        self.model = self._build_model()
        self.stop_ids = end_ids(self.model_config.generation_config, self.model_config.tokenizer)
        self.pad_token_id = self._pad_token_id()
        self.global_steps: int | None = None
        self.waiting: list[tuple[Request, asyncio.Future]] = []
        self.active: dict[str, Request] = {}
        self.arrival: float = 0.0
        self.worker: asyncio.Task | None = None
        self.paused = False
        self.rejecting = False
        self.resumed = asyncio.Event()
        self.resumed.set()
        gc.freeze()  # what is loaded stays; the search for reference cycles need not go through it

    # ---- model and weights -------------------------------------------------------------------------------

    def _build_model(self) -> torch.nn.Module:
        """Load the model; with verl's ``load_format=dummy`` only its shape, as the trainer sends the weights."""
        from transformers import AutoModelForCausalLM

        dtype = torch.float32 if self.device.type == "cpu" else getattr(torch, self.config.dtype)
        config = self.model_config.hf_config
        options = {"dtype": dtype, "trust_remote_code": self.model_config.trust_remote_code}
        options["attn_implementation"] = exact_attention(config.to_dict())
        if self.config.load_format == "dummy":
            model = AutoModelForCausalLM.from_config(config, **options)
        else:
            model = AutoModelForCausalLM.from_pretrained(self.model_config.local_path, **options)
        return model.to(self.device).eval()

    def update_weights(self, tensors: list[tuple[str, torch.Tensor]], is_first: bool, is_last: bool) -> None:
        """Copy one bucket of the policy's weights into the model.

        Args:
            tensors: Parameter names as in the model or, for single experts, in its checkpoint; CPU tensors.
            is_first: Starts a new transfer.
            is_last: Ends it; from here on answers come from the new weights.

        Raises:
            KeyError: If a name is not in this model.
            RuntimeError: If the transfer ends with a weight that was not sent.
        """
        state = self.model.state_dict()
        if is_first:
            self.received: set[str] = set()
            self.experts = ExpertWeights()
        with torch.no_grad():
            for name, tensor in tensors:
                whole = (name, tensor) if name in state else self._fused(name, tensor, state)
                if whole is not None:
                    state[whole[0]].copy_(whole[1])
                    self.received.add(whole[0])
        if is_last:
            self._check_all_received(state)

    def _fused(
        self, name: str, tensor: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[str, torch.Tensor] | None:
        """The weight that holds this expert's and all others', once the last of them arrived."""
        try:
            return self.experts.add(name, tensor, state)
        except KeyError:
            fix = (
                "with LoRA set actor_rollout_ref.model.lora.merge=true so that whole weights are sent"
                if "lora_" in name or ".base_layer." in name
                else f"for a {self.model.config.model_type} set ROLLOUT_ENGINE=vllm"
            )
            raise KeyError(
                f"the trainer sent a weight {name!r} that the rollout model of ROLLOUT_ENGINE=hf does not have; {fix}"
            ) from None

    def _check_all_received(self, state: dict[str, torch.Tensor]) -> None:
        filled = {state[name].data_ptr() for name in self.received}  # tied weights share their storage
        missing = sorted(name for name, tensor in state.items() if tensor.data_ptr() not in filled)
        if missing:
            raise RuntimeError(f"weight transfer incomplete: {len(missing)} weights not sent, e.g. {missing[:3]}")

    def _pad_token_id(self) -> int:
        pad = self.model_config.tokenizer.pad_token_id
        return pad if pad is not None else min(self.stop_ids, default=0)

    async def set_global_steps(self, global_steps: int) -> None:
        """Note which training step the weights belong to; travels with each answer."""
        self.global_steps = global_steps

    # ---- generation --------------------------------------------------------------------------------------

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **multimodal: Any
    ) -> TokenOutput:
        """Answer one prompt.

        Args:
            prompt_ids: Token ids of the prompt.
            sampling_params: As verl's agent loops send them; see ``SamplingParams.from_verl``.
            request_id: For ``abort_request``.
            **multimodal: Images, videos and the like, which this engine does not take.

        Raises:
            ValueError: If the prompt leaves no room, a parameter is not available, or the input is not text.
        """
        given = sorted(key for key, value in multimodal.items() if value is not None and not key.startswith("priority"))
        if given:
            raise ValueError(f"ROLLOUT_ENGINE=hf generates from text only, got {given}; use vllm")
        prompt_ids = normalize_token_ids(prompt_ids)
        params = SamplingParams.from_verl(dict(sampling_params))
        request = Request(
            prompt_ids=list(prompt_ids),
            params=params,
            max_tokens=self._max_tokens(len(prompt_ids), params),
            stop_ids=frozenset(params.stop_token_ids) | (frozenset() if self._ignores_eos(params) else self.stop_ids),
        )
        while self.paused:
            if self.rejecting:
                request.aborted.set()
                return self._output(request)
            await self.resumed.wait()
        self.active[request_id] = request
        try:
            await self._enqueue(request)
        finally:
            self.active.pop(request_id, None)
        return self._output(request)

    def _ignores_eos(self, params: SamplingParams) -> bool:
        return params.ignore_eos or self.config.ignore_eos

    def _max_tokens(self, prompt_length: int, params: SamplingParams) -> int:
        """Room for the answer, by the same rule as verl's vLLM server (`vLLMHttpServer.generate`)."""
        config = self.config
        context = config.max_model_len or config.prompt_length + config.response_length
        room = context - prompt_length
        if room < 1:
            raise ValueError(
                f"a prompt of {prompt_length} tokens leaves no room in a context of {context}; raise MAX_PROMPT_LENGTH"
            )
        asked = params.max_tokens
        if asked is None:
            asked = min(config.response_length, config.prompt_length + config.response_length - prompt_length)
        return max(1, min(asked, room))

    def _output(self, request: Request) -> TokenOutput:
        return TokenOutput(
            token_ids=request.token_ids,
            log_probs=request.log_probs if request.params.logprobs else None,
            stop_reason="completed" if request.finished else "aborted",
            num_preempted=0,
            extra_fields={"global_steps": self.global_steps},
        )

    async def _enqueue(self, request: Request) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self.waiting.append((request, done))
        self.arrival = loop.time()
        if self.worker is None or self.worker.done():
            self.worker = loop.create_task(self._work())
        await done

    async def _work(self) -> None:
        """Answer waiting requests batch by batch until none is left."""
        while self.waiting:
            await self._gather()
            batch = self._take_batch()
            try:
                await asyncio.to_thread(
                    generate,
                    self.model,
                    [request for request, _ in batch],
                    self.pad_token_id,
                    self.generator,
                    self.config.logprobs_mode == "raw_logprobs",
                )
            except Exception as error:  # the caller of each request gets it; the server lives on
                logger.exception("generation of a batch of %d failed", len(batch))
                for _, done in batch:
                    done.set_exception(error)
            else:
                for _, done in batch:
                    done.set_result(None)

    async def _gather(self) -> None:
        """Wait for the requests of one step to come in: they arrive one by one over Ray."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while len(self.waiting) < self.config.max_num_seqs:
            now = loop.time()
            if now - self.arrival >= QUIET_SECONDS or now - started >= GATHER_SECONDS:
                return
            await asyncio.sleep(QUIET_SECONDS / 3)

    def _take_batch(self) -> list[tuple[Request, asyncio.Future]]:
        """Take the longest run of waiting requests that fits in memory."""
        limit = self._memory_limit()
        size, longest, total = 0, 0, 0
        for request, _ in self.waiting[: self.config.max_num_seqs]:
            longest = max(longest, len(request.prompt_ids))
            total = max(total, len(request.prompt_ids) + request.max_tokens)
            if size and ((size + 1) * longest > PREFILL_TOKENS or (size + 1) * total > limit):
                break
            size += 1
        batch, self.waiting = self.waiting[:size], self.waiting[size:]
        return batch

    def _memory_limit(self) -> int:
        """Tokens whose keys and values fit in the share ``gpu_memory_utilization`` of the free memory."""
        on_cuda = self.device.type == "cuda"
        free = torch.cuda.mem_get_info()[0] if on_cuda else psutil.virtual_memory().available
        return int(free * self.config.gpu_memory_utilization / cache_bytes_per_token(self.model))

    # ---- control -----------------------------------------------------------------------------------------

    async def abort_all_requests(self, reject_request: bool = False) -> dict[str, Any]:
        """Stop every answer where it is and admit none until ``resume_generation``.

        Args:
            reject_request: Answer late requests at once as aborted; otherwise they wait.

        Returns:
            ``aborted_count`` and ``request_ids``.
        """
        self.paused, self.rejecting = True, reject_request
        self.resumed.clear()
        request_ids = list(self.active)
        for request in self.active.values():
            request.aborted.set()
        while self.worker is not None and not self.worker.done():
            await asyncio.sleep(QUIET_SECONDS / 3)
        return {"aborted_count": len(request_ids), "request_ids": request_ids}

    async def abort_request(self, request_id: str) -> dict[str, Any]:
        """Stop one answer where it is."""
        request = self.active.get(request_id)
        if request is None:
            return {"aborted": False, "request_id": request_id, "error": f"Request {request_id} not found"}
        request.aborted.set()
        return {"aborted": True, "request_id": request_id}

    async def resume_generation(self) -> None:
        """Admit requests again."""
        self.paused, self.rejecting = False, False
        self.resumed.set()

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Bring the model back to the device it generates on."""
        self.model.to(self.device)

    async def sleep(self) -> None:
        """Give the device's memory to the trainer once no answer is under way."""
        while self.worker is not None and not self.worker.done():
            await asyncio.sleep(QUIET_SECONDS)
        if self.config.free_cache_engine and self.device.type == "cuda":
            self.model.to("cpu")
            torch.cuda.empty_cache()

    async def clear_kv_cache(self) -> None:
        """No cache outlives its batch."""

    async def release_kv_cache(self) -> None:
        """No cache outlives its batch."""

    async def resume_kv_cache(self) -> None:
        """No cache outlives its batch."""

    async def start_profile(self, **kwargs: Any) -> None:
        """Not profiled."""

    async def stop_profile(self) -> None:
        """Not profiled."""
