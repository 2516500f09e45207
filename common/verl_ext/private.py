"""Methods of verl that the kit overrides or calls though verl does not promise them; the rows that `check` compares.

A method that verl renames or no longer calls would leave an override without effect, and nobody would notice: wrong
tokens, or a setting that does nothing. So each is looked up in the installed files before a run (the preflight) and
where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.verl_ext.source import expect


@dataclass(frozen=True)
class Private:
    """An inner part of verl that the kit builds on.

    Args:
        target: ``package.module:Class.method``, or a variable of the module.
        expected: Texts of its source that the kit relies on; the definition must be there in any case.
        by: File of the kit that overrides or calls it.
        why: What for.
    """

    target: str
    expected: tuple[str, ...]
    by: str
    why: str


SFT, DPO = "verl.trainer.sft_trainer:SFTTrainer", "dpo/trainer.py"
FSDP, ENGINE = "verl.workers.engine.fsdp.transformer_impl:FSDPEngine", "common/cpu_backend/engine.py"
ORDER = ("_build_config()", "_build_dataset()", "_build_engine()", "_build_dataloader()", "_init_engine()")
LOOP = "verl.experimental.agent_loop.tool_agent_loop:ToolAgentLoop"
AGENT = "verl.experimental.agent_loop.agent_loop:AgentLoopBase"
PROMPTS, ROWS = "verl.utils.dataset.rl_dataset:RLHFDataset", "common/data/verl_datasets.py"
TRAINER = "verl.trainer.ppo.v1.trainer_base:PPOTrainer"
REWARDS = "verl.experimental.reward_loop.reward_loop:RewardLoopWorker"

PRIVATE = (
    Private(f"{SFT}.__init__", ORDER, DPO, "builds the trainer by these methods in this order"),
    Private(f"{SFT}._build_config", ("self.engine_config =", "self.optimizer_config ="), DPO, "extended"),
    Private(f"{SFT}._build_dataset", ("self.train_dataset, self.val_dataset =",), DPO, "replaced: pairs"),
    Private(f"{SFT}._build_engine", ("self.training_client =", "self.engine ="), DPO, "replaced: another loss"),
    Private(
        f"{SFT}._build_dataloader",
        ("self.train_sampler =", "self.global_batch_size =", "self.train_dataloader ="),
        DPO,
        "replaced: a loader of pairs",
    ),
    Private(f"{SFT}._init_engine", ("self.total_training_steps =", "self.training_client.reset()"), DPO, "extended"),
    Private(f"{SFT}._get_batch_seqlens", ("return batch_seqlens",), DPO, "called: tokens of each sequence"),
    Private(f"{SFT}.fit", ("self.resume_global_step", "self.steps_per_epoch"), DPO, "replaced: the loop over pairs"),
    Private(
        f"{FSDP}._build_module",
        ("load_valuehead_model(", "self.model_config.hf_config.num_labels = 1"),
        "ppo/reward_model/trainer.py",
        "extended: the value model as a sequence classifier",
    ),
    Private(f"{FSDP}._build_fsdp_module", ("self._autocast_dtype =", "self.scaler ="), ENGINE, "replaced: no GPU"),
    Private(
        f"{FSDP}._merged_lora_per_tensor_param",
        ("full_tensor().to(torch.bfloat16",),
        ENGINE,
        "replaced: LoRA weights in float32",
    ),
    Private(
        "verl.workers.rollout.base:_ROLLOUT_REGISTRY",
        ('("vllm", "async")',),
        "common/hf_engine/rollout.py",
        "gets an entry: verl has no call to register a rollout adapter",
    ),
    Private(
        "verl.utils.dataset.multiturn_sft_dataset:MultiTurnSFTDataset.__init__",
        ("self._read_files_and_process()",),
        ROWS,
        "replaced: whole conversations are rendered",
    ),
    Private(
        f"{PROMPTS}._read_files_and_tokenize",
        ("self.dataframe =", "self.maybe_filter_out_long_prompts("),
        ROWS,
        "replaced: limits",
    ),
    Private(f"{PROMPTS}.__getitem__", ("self._build_messages(",), ROWS, "replaced: stored tool calls are decoded"),
    Private(f"{PROMPTS}.maybe_filter_out_long_prompts", ("self._build_messages(",), ROWS, "extended: the same"),
    Private(f"{LOOP}._call_tool", ("active_tools",), "common/verl_ext/tool_loop.py", "extended: calls are counted"),
    Private(f"{LOOP}.__init__", ("self.tools =",), "common/verl_ext/tool_loop.py", "tools run in processes"),
    Private(
        f"{AGENT}._cap_text_prompt_length",
        ("self.rollout_config.prompt_length",),
        "common/verl_ext/environment_loop.py",
        "replaced: refuses where verl would cut the prompt",
    ),
    Private(
        f"{AGENT}.ct_build_initial_tokens",
        ("self._cap_text_prompt_length(prompt_ids)",),
        "common/verl_ext/environment_loop.py",
        "called: tokens of the prompt",
    ),
    Private(f"{REWARDS}._preprocess_reward_inputs", (), "common/verl_ext/hf_reward.py", "called: text of an answer"),
    Private(f"{REWARDS}._post_request", (), "common/verl_ext/hf_reward.py", "called: the question"),
    Private(
        "verl.trainer.main_ppo:run_ppo",
        ("task_runner_class.remote()", "if not ray.is_initialized():", "ray.init("),
        "common/verl_ext/train_rl.py",
        "called with a class that keeps the trainer on this machine",
    ),
    Private(
        "verl.trainer.main_ppo:main",
        ("auto_set_device(config)", "validate_config(", "run_ppo(config, task_runner_class=TaskRunnerV1)"),
        "common/verl_ext/train_rl.py",
        "done in its place for several machines",
    ),
    Private(f"{TRAINER}._save_checkpoint", (), "common/callbacks.py", "called: early stopping saves"),
)


def check(by: str) -> None:
    """Stop unless what a file of the kit builds on is in the installed verl as it was read.

    Args:
        by: The file, from the root of the kit.

    Raises:
        SourceChanged: With the first row that does not fit.
    """
    for row in PRIVATE:
        if row.by == by:
            expect(row.target, *row.expected, why=f"{by}: {row.why}")
