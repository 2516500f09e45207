"""The functions of libraries that the kit replaces, and how that is done."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.verl_ext.source import Source, SourceChanged, expect, find

FOLDER = Path(__file__).resolve().parent
CARRIED = ("verl", "transfer_queue")  # libraries whose modules hold names that they have imported from each other


@dataclass(frozen=True)
class Replacement:
    """A function or class of a library that the kit replaces.

    Args:
        target: ``package.module:name`` or ``package.module:Class.method``.
        expected: Text of its source that the replacement was written against.
        module: File of this folder; its ``replacement(original)`` returns what takes the place.
        part: The part of a run that needs it, see `load`.
        read: The definition that holds the text, where it is not the target itself.
        seeded: Whether ``replacement`` takes the run's seed too.
        only_with: Modules of which one must have been imported by the process; empty: any process.
    """

    target: str
    expected: str
    module: str
    part: str
    read: str = ""
    seeded: bool = False
    only_with: tuple[str, ...] = ()

    @property
    def is_installed(self) -> bool:
        """Whether the library is there at all; the rollout engines are not everywhere."""
        return importlib.util.find_spec(self.target.partition(":")[0].partition(".")[0]) is not None

    @property
    def source(self) -> Source:
        """The definition as installed.

        Raises:
            SourceChanged: If it is not there.
        """
        return find(self.read or self.target)

    @property
    def doc(self) -> str:
        """The docstring of its file: why, where, upstream, until when."""
        text = (FOLDER / f"{self.module}.py").read_text(encoding="utf-8")
        return ast.get_docstring(ast.parse(text)) or ""

    @property
    def why(self) -> str:
        """First line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def until(self) -> str:
        """The paragraph of the docstring that says when it can go."""
        found = [part for part in self.doc.split("\n\n") if part.startswith("Until: ")]
        return " ".join(found[0].removeprefix("Until: ").split()) if found else ""


TRAINER = "verl.trainer.ppo.v1.trainer_base:PPOTrainer"
HANDLER = "verl.utils.checkpoint.checkpoint_handler:CheckpointHandler"
BACKEND = 'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"'
REPLACEMENTS = (
    Replacement("verl.utils.distributed:initialize_global_process_group", BACKEND, "process_group", "cpu"),
    Replacement("verl.utils.distributed:initialize_global_process_group_ray", BACKEND, "process_group_ray", "cpu"),
    Replacement(
        "verl.utils.fsdp_utils:load_fsdp_model_to_gpu",
        'torch.device(f"{get_device_name()}:{device_id}")',
        "load_weights",
        "cpu",
    ),
    Replacement(
        "omegaconf:OmegaConf.resolve",
        "OmegaConf.resolve(config)",
        "config_texts",
        "rl",
        read="verl.trainer.main_ppo:TaskRunnerV1.run",
    ),
    Replacement(
        "torch.distributed.rendezvous:TCPStore",
        "is_master=start_daemon",
        "store_address",
        "rl",
        read="torch.distributed.rendezvous:_create_c10d_store",
    ),
    Replacement(
        "verl.utils.torch_functional:logprobs_from_logits_v2",
        "torch.stack([torch.logsumexp(logit, dim=-1) for logit in logits])",
        "log_probs",
        "all",
    ),
    Replacement("verl.utils.tracking:Tracking.__init__", 'self.logger["file"] = FileLogger(', "trackers", "all"),
    Replacement(
        "verl.utils.seqlen_balancing:rearrange_micro_batches",
        "num_micro_batches = min(num_groups, ceildiv(total_seqlen, max_token_len))",
        "padded_batches",
        "padded",
    ),
    Replacement(
        "verl.trainer.ppo.reward:_call_with_kwargs", "return raw_fn(*args, **merged_kwargs)", "reward_call", "rl"
    ),
    Replacement(
        "verl.trainer.ppo.reward:_call_with_kwargs_async",
        "return await raw_fn(*args, **merged_kwargs)",
        "reward_call_async",
        "rl",
    ),
    Replacement("verl.workers.utils.losses:value_loss", "return vf_loss, metrics", "value_coef", "value_coef"),
    Replacement(
        "verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_lr_scheduler",
        'if lr_scheduler_type == "constant":',
        "schedule",
        "schedule",
    ),
    Replacement(
        "verl.utils.model:load_valuehead_model", 'attn_implementation="flash_attention_2"', "critic_attention", "ppo"
    ),
    Replacement(
        f"{HANDLER}._load_dataloader_state",
        "self.train_dataloader.load_state_dict(dataloader_state_dict)",
        "epoch_end",
        "supervised",
    ),
    Replacement(
        f"{HANDLER}.save_checkpoint", "max_ckpt_to_keep = self.max_ckpt_to_keep", "complete_marker", "supervised"
    ),
    Replacement(
        "torch.utils.data:DistributedSampler",
        "self.train_dataset, shuffle=True, num_replicas=dp_size, rank=dp_rank, drop_last=True",
        "seeded_sampler",
        "supervised",
        read="verl.trainer.sft_trainer:SFTTrainer._build_dataloader",
        seeded=True,
    ),
    Replacement(
        "verl.experimental.reward_loop.reward_loop:RewardLoopWorker.compute_score_disrm",
        'output = await self._post_request(payloads, "classify")',
        "hf_reward",
        "hf_reward",
    ),
    Replacement(
        "verl.trainer.ppo.v1.utils:compute_advantage_for_multi_trajectories",
        "if adv_estimator != core_algos.AdvantageEstimator.GRPO:",
        "remax",
        "remax",
    ),
    Replacement(f"{TRAINER}._compute_metrics", '"training/num_turns/mean": num_turns.mean()', "tool_metrics", "tools"),
    Replacement(
        f"{TRAINER}.step", "batch = self.step(metrics, self.timing_raw)", "trainer_step", "trainer", f"{TRAINER}.fit"
    ),
    Replacement(
        f"{TRAINER}._validate",
        "val_metrics: dict = self._validate()",
        "trainer_validate",
        "trainer",
        f"{TRAINER}.fit",
    ),
    Replacement(
        f"{TRAINER}._compute_metrics",
        'max_response_length = batch.batch["responses"].shape[-1]',
        "share_cut",
        "trainer",
        "verl.trainer.ppo.metric_utils:compute_data_metrics",
    ),
    Replacement(
        "verl.utils.fsdp_utils:fsdp2_sharded_save_to_cpu",
        "local_cpu_tensor = local_gpu_tensor.detach().cpu()",
        "cpu_copy",
        "separate",
    ),
    Replacement(
        "transfer_queue.utils.zmq_utils:create_zmq_socket",
        "socket = ctx.socket(socket_type)",
        "queue_socket",
        "queue",
    ),
    Replacement(
        "transfer_queue.utils.zmq_utils:get_node_ip_address",
        "ray.util.get_node_ip_address()",
        "queue_address",
        "queue_on_one_machine",
    ),
    Replacement("verl.utils.tracking:Tracking.__init__", "self.logger = {}", "tracking", "report"),
    Replacement(
        "hydra:main",
        "def main_decorator(task_function: TaskFunction) -> Callable[[], None]:",
        "trainer_main",
        "report",
        read="hydra.main:main",
    ),
    Replacement(
        "vllm._custom_ops:_supports_onednn",
        "ops._supports_onednn",
        "vllm_onednn",
        "vllm_cpu",
        read="vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm",
        only_with=("vllm.v1.worker", "vllm.v1.executor"),
    ),
)

_done: set[Replacement] = set()


def replace(parts: Collection[str], seed: int = 0) -> None:
    """Replace the targets of these parts, each once in a process.

    Raises:
        SourceChanged: If a target is not the code that its replacement was written against.
    """
    for row in REPLACEMENTS:
        if row.part in parts and row not in _done and _is_place(row):
            expect(row.read or row.target, row.expected, why=f"common/verl_ext/{row.module}.py")
            _put(row, {"seed": seed} if row.seeded else {})
            _done.add(row)


def _is_place(row: Replacement) -> bool:
    return not row.only_with or any(name in sys.modules for name in row.only_with)


def problems() -> list[str]:
    """What the kit replaces or builds on that the installed verl does not have as it was read; empty when all fits.

    Rows for some processes only (``only_with``) are left to those: on most machines nothing needs them.
    """
    from common.verl_ext.private import PRIVATE

    rows = [
        (row.read or row.target, (row.expected,), f"common/verl_ext/{row.module}.py")
        for row in REPLACEMENTS
        if row.is_installed
    ]
    rows += [(row.target, row.expected, f"{row.by}: {row.why}") for row in PRIVATE]
    found = []
    for target, texts, why in rows:
        try:
            expect(target, *texts, why=why)
        except SourceChanged as error:
            found.append(str(error))
    return found


def _put(row: Replacement, options: dict[str, Any]) -> None:
    """Put a replacement in its place, and in each module that has imported the original by name."""
    module_name, _, qualified = row.target.partition(":")
    owner: Any = sys.modules.get(module_name) or importlib.import_module(module_name)
    *classes, name = qualified.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    new = importlib.import_module(f"{__package__}.{row.module}").replacement(original, **options)
    setattr(owner, name, new)
    for key, module in list(sys.modules.items()) if not classes else ():
        if key.partition(".")[0] in CARRIED and getattr(module, "__dict__", {}).get(name) is original:
            setattr(module, name, new)
