"""Bad and good launches, each a row: what is set, and the words that the report must have.

`{tmp}` in a value is a folder with files that `make_files` writes. The rows are checked in one process by
tests/unit/test_preflight_table.py, and one by one as a person starts them by benchmarks/preflight_table.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.demo_model import DEMO_MODEL_DIR
from tests.published_models import MODELS

RL = "actor_rollout_ref"


@dataclass(frozen=True)
class Row:
    """A launch.

    Args:
        algorithm: Folder of the train.sh.
        words: One of the errors has each of them; empty for a good launch.
        knobs: Environment.
        arguments: key=value for verl.
        gpus: Machine to plan for; empty: this one, without GPUs.
    """

    algorithm: str
    words: tuple[str, ...] = ()
    knobs: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    gpus: str = ""


def bad(algorithm, words, *arguments, gpus="", **knobs) -> Row:
    return Row(algorithm, tuple(words.split("|")), knobs, arguments, gpus)


def good(algorithm, *arguments, gpus="", **knobs) -> Row:
    return Row(algorithm, (), knobs, arguments, gpus)


def make_files(folder: Path) -> None:
    """Models and data that the rows name."""
    for name, (config, _) in MODELS.items():
        model(folder / name, config | {"architectures": ["Qwen2ForCausalLM"]})
    demo = json.loads((DEMO_MODEL_DIR / "config.json").read_text())
    model(folder / "reward-model", demo | {"architectures": ["Qwen2ForSequenceClassification"]})
    model(folder / "quantised", demo | {"quantization_config": {"quant_method": "gptq"}})
    model(folder / "qwen3_next", demo | {"model_type": "qwen3_next"})
    granite = {"model_type": "granite", "architectures": ["GraniteForCausalLM"], "logits_scaling": 8.0}
    model(folder / "granite", demo | granite)
    model(folder / "own-code", demo | {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}})
    model(folder / "few-words", demo | {"vocab_size": 100})
    model(folder / "no-tokenizer", demo)
    capped = {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 30.0}
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16, "rope_theta": 10000.0}
    phi = {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "original_max_position_embeddings": 64}
    model(folder / "two-ropes", demo | phi | {"rope_scaling": rope})
    model(folder / "one-rope", demo | phi | {"rope_scaling": rope | {"short_factor": [2.0] * 16}})
    model(folder / "capped", demo | capped | {"head_dim": 32, "hidden_activation": "gelu_pytorch_tanh"})
    for file in (folder / "no-tokenizer").glob("*token*"):
        file.unlink()
    model(folder / "no-template", demo)
    (folder / "no-template" / "chat_template.jinja").unlink()
    model(folder / "no-weights", demo)
    (folder / "no-weights" / "model.safetensors").unlink()
    (folder / "empty").mkdir()
    (folder / "empty.parquet").write_bytes(b"")
    (folder / "broken.parquet").write_bytes(b"this is no parquet file")
    (folder / "rows.csv").write_text("a,b\n1,2\n")
    rows = [rl_row(number) for number in range(64)]
    write(folder / "good.parquet", rows)
    write(folder / "few.parquet", rows[:3])
    write(folder / "columns.parquet", [{"ask": "1+1?", "say": "2"}] * 64)
    write(folder / "roles.parquet", [row | {"prompt": [{"role": "narrator", "content": "?"}]} for row in rows])
    write(folder / "sft.parquet", [talk(number) for number in range(64)])
    write(folder / "sft-few.parquet", [talk(number) for number in range(3)])
    write(folder / "same.parquet", [{"prompt": "1+1?", "chosen": "2", "rejected": "2"}] * 64)
    rewards = {
        "none": "return None",
        "raises": "raise KeyError('x')",
        "no_score": "return {'acc': 1.0}",
        "reward_key": "return {'score': 1.0, 'reward': 1.0}",
        "text": "return 'good'",
        "nan": "return float('nan')",
        "syntax": "return (",
        "fine": "return {'score': 1.0, 'acc': 1.0}",
    }
    for name, body in rewards.items():
        head = "def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):"
        (folder / f"{name}.py").write_text(f"{head}\n    {body}\n")


def model(folder: Path, config: dict) -> None:
    shutil.copytree(DEMO_MODEL_DIR, folder)
    (folder / "config.json").write_text(json.dumps(config))


def rl_row(number: int) -> dict:
    return {
        "data_source": "mine",
        "prompt": [{"role": "user", "content": f"What is {number} + 1?"}],
        "reward_model": {"style": "rule", "ground_truth": str(number + 1)},
        "extra_info": {"index": number},
    }


def talk(number: int) -> dict:
    return {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "yes"}]}


def write(path: Path, rows: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


BAD = {
    # knobs
    "variant with a slip": bad("grpo", "VARIANT=drgrpo|dr_grpo", VARIANT="drgrpo"),
    "LoRA of a layer that is not there": bad(
        "grpo", "LORA_TARGETS=q_prj|did you mean q_proj", LORA_RANK="8", LORA_TARGETS="q_prj,v_proj"
    ),
    "judge that does not answer": bad("ppo", "API_REWARD_CONFIG=|127.0.0.1:8000|api_reward try", REWARD="api"),
    "rate of no number": bad("grpo", "LEARNING_RATE=fast", LEARNING_RATE="fast"),
    "rate 0": bad("sft", "LEARNING_RATE=0", LEARNING_RATE="0"),
    "rate that destroys a 7B model": bad(
        "grpo", "LEARNING_RATE=1e-3|auto", LEARNING_RATE="1e-3", MODEL_PATH="{tmp}/Qwen2.5-7B", gpus="8x80GB"
    ),
    "rate of pretraining for DPO": bad(
        "dpo", "LEARNING_RATE=1e-3", LEARNING_RATE="1e-3", MODEL_PATH="{tmp}/Qwen2.5-7B", gpus="8x80GB"
    ),
    "rate of RL for SFT is fine, 1 is not": bad(
        "sft", "LEARNING_RATE=1.0", LEARNING_RATE="1.0", MODEL_PATH="{tmp}/Qwen3-4B", gpus="8x80GB"
    ),
    "batch 0": bad("grpo", "BATCH_SIZE=0", BATCH_SIZE="0"),
    "batch of a fraction": bad("sft", "BATCH_SIZE=8.5", BATCH_SIZE="8.5"),
    "batch above the data": bad("grpo", "BATCH_SIZE=4096|rows", BATCH_SIZE="4096"),
    "batch that the GPUs do not divide": bad("sft", "BATCH_SIZE=33|use 32 or", BATCH_SIZE="33", gpus="8x80GB"),
    "mini batch that does not divide": bad(
        "grpo", "MINI_BATCH_SIZE=12|use one of", BATCH_SIZE="32", MINI_BATCH_SIZE="12"
    ),
    "mini batch above the batch": bad("grpo", "MINI_BATCH_SIZE=64", BATCH_SIZE="32", MINI_BATCH_SIZE="64"),
    "one answer for GRPO": bad("grpo", "ROLLOUT_N=1", ROLLOUT_N="1"),
    "temperature 0": bad("grpo", "TEMPERATURE=0", TEMPERATURE="0"),
    "tokens below a sequence": bad("grpo", "TOKENS_PER_GPU=20", TOKENS_PER_GPU="20"),
    "lengths above the context": bad("grpo", "MAX_RESPONSE_LENGTH|2048 tokens", MAX_RESPONSE_LENGTH="8192"),
    "steps above the epochs": bad("sft", "TOTAL_STEPS=9999", TOTAL_STEPS="9999", TOTAL_EPOCHS="1"),
    "more GPUs than there are": bad("grpo", "N_GPUS=16|8 GPUs", N_GPUS="16", gpus="8x80GB"),
    "more processes than cores": bad("sft", "N_GPUS=512|cores", N_GPUS="512"),
    "tensor parallel 3 of 8": bad("grpo", "TENSOR_PARALLEL_SIZE=3", TENSOR_PARALLEL_SIZE="3", gpus="8x80GB"),
    "an engine across the edge of a machine": bad(
        "grpo",
        "TENSOR_PARALLEL_SIZE=6|cross machines of 4|use one of 1, 2, 4",
        TENSOR_PARALLEL_SIZE="6",
        gpus="3x4x80GB",
    ),
    "tensor parallel and heads": bad(
        "grpo",
        "TENSOR_PARALLEL_SIZE=8|28 attention heads",
        TENSOR_PARALLEL_SIZE="8",
        MODEL_PATH="{tmp}/Qwen2.5-7B",
        gpus="8x80GB",
    ),
    "tensor parallel without an engine": bad("grpo", "TENSOR_PARALLEL_SIZE=2", TENSOR_PARALLEL_SIZE="2", N_GPUS="2"),
    "cuda without a GPU": bad("grpo", "DEVICE=cuda|DEVICE=cpu", DEVICE="cuda"),
    "vllm without a GPU": bad("grpo", "ROLLOUT_ENGINE=vllm|hf", ROLLOUT_ENGINE="vllm"),
    "an engine that is none": bad("grpo", "ROLLOUT_ENGINE=vlm", ROLLOUT_ENGINE="vlm"),
    "flash attention without a GPU": bad("sft", "ATTENTION=flash_attention_2|sdpa", ATTENTION="flash_attention_2"),
    "two ropes in one batch": bad(
        "grpo",
        "MAX_RESPONSE_LENGTH=132|phi3|long_factor|within 64",
        MODEL_PATH="{tmp}/two-ropes",
        MAX_PROMPT_LENGTH="32",
        MAX_RESPONSE_LENGTH="100",
    ),
    "two ropes, SFT": bad("sft", "MAX_LENGTH=200|within 64", MODEL_PATH="{tmp}/two-ropes", MAX_LENGTH="200"),
    "capped scores without a cap": bad(
        "sft", "ATTENTION=sdpa:|gemma2|softcapping=30|set ATTENTION=eager", ATTENTION="sdpa", MODEL_PATH="{tmp}/capped"
    ),
    "capped scores, packed": bad(
        "grpo", "ATTENTION=sdpa_varlen|gemma2|eager", ATTENTION="sdpa_varlen", MODEL_PATH="{tmp}/capped"
    ),
    "capped scores, by a key": bad(
        "dpo",
        "ATTENTION=sdpa|gemma2",
        "++model.override_config.attn_implementation=sdpa",
        MODEL_PATH="{tmp}/capped",
    ),
    "a critic without a value head": bad(
        "ppo", "CRITIC_MODEL_PATH|a granite has no head for values|grpo/train.sh", MODEL_PATH="{tmp}/granite"
    ),
    "another critic without a value head": bad(
        "ppo", "/granite: a granite has no head|same tokenizer", CRITIC_MODEL_PATH="{tmp}/granite"
    ),
    "a capped critic": bad("ppo", "ATTENTION=sdpa|gemma2", CRITIC_MODEL_PATH="{tmp}/capped"),
    "a name that leaves the folder": bad("grpo", "EXPERIMENT_NAME=../x", EXPERIMENT_NAME="../x"),
    "wandb without a login": bad("grpo", "USE_WANDB=true|wandb login", USE_WANDB="true"),
    "share above 1": bad("grpo", "GPU_MEMORY_UTILIZATION=1.5", GPU_MEMORY_UTILIZATION="1.5"),
    "keep no checkpoint": bad("grpo", "KEEP_CHECKPOINTS=0", KEEP_CHECKPOINTS="0"),
    "a loss that DPO does not have": bad("dpo", "LOSS_TYPE=aot", LOSS_TYPE="aot"),
    "EXO without smoothing": bad("dpo", "LABEL_SMOOTHING=0.0|exo_pair", LOSS_TYPE="exo_pair"),
    "EXO in self-play": bad("gspo", "LOSS_TYPE=exo_pair|LABEL_SMOOTHING", LOSS_TYPE="exo_pair"),
    "adapter reference without LoRA": bad("dpo", "REFERENCE=adapter|LORA_RANK", REFERENCE="adapter"),
    # memory
    "32B in full on one small GPU": bad("grpo", "does not fit", MODEL_PATH="{tmp}/Qwen2.5-32B", gpus="1x24GB"),
    "72B without offloading": bad(
        "grpo", "does not fit|LORA_RANK=16", MODEL_PATH="{tmp}/Qwen2.5-72B", OFFLOAD="false", gpus="8x80GB"
    ),
    "7B SFT on one GPU, param_offload": bad(
        "sft", "does not fit", MODEL_PATH="{tmp}/Qwen2.5-7B", OFFLOAD="true", gpus="1x80GB"
    ),
    "an engine's share below its weights": bad(
        "grpo",
        "no room for one answer",
        MODEL_PATH="{tmp}/Qwen2.5-32B",
        TENSOR_PARALLEL_SIZE="1",
        GPU_MEMORY_UTILIZATION="0.3",
        gpus="8x80GB",
    ),
    # model
    "a folder that is not there": bad("grpo", "MODEL_PATH=/nope", MODEL_PATH="/nope"),
    "a folder without a model": bad("sft", "no config.json", MODEL_PATH="{tmp}/empty"),
    "no weights": bad("sft", "no weights", MODEL_PATH="{tmp}/no-weights"),
    "no tokenizer": bad("sft", "no tokenizer", MODEL_PATH="{tmp}/no-tokenizer"),
    "no chat template": bad("grpo", "no chat template", MODEL_PATH="{tmp}/no-template"),
    "tokenizer of another model": bad("sft", "tokenizer knows 512 tokens", MODEL_PATH="{tmp}/few-words"),
    "a reward model as policy": bad("grpo", "does not generate text", MODEL_PATH="{tmp}/reward-model"),
    "quantised weights": bad("sft", "quantised (gptq)", MODEL_PATH="{tmp}/quantised"),
    "custom code": bad("sft", "trust_remote_code=true", MODEL_PATH="{tmp}/own-code"),
    # data
    "no such file": bad("grpo", "TRAIN_DATA=nope.parquet", TRAIN_DATA="nope.parquet"),
    "no such validation file": bad("sft", "VAL_DATA=nope.parquet", VAL_DATA="nope.parquet"),
    "an empty file": bad("grpo", "TRAIN_DATA", TRAIN_DATA="{tmp}/empty.parquet"),
    "a broken file": bad("sft", "not a parquet file that can be read", TRAIN_DATA="{tmp}/broken.parquet"),
    "a file of another kind": bad("sft", "data_utils convert", TRAIN_DATA="{tmp}/rows.csv"),
    "other columns": bad("grpo", "row 1|ask, say", TRAIN_DATA="{tmp}/columns.parquet"),
    "a role that is none": bad("grpo", "narrator", TRAIN_DATA="{tmp}/roles.parquet"),
    "SFT data for RL": bad("grpo", "ground_truth='yes'", TRAIN_DATA="{tmp}/sft.parquet"),
    "RL data for SFT": bad("sft", "TRAIN_DATA|messages", TRAIN_DATA="{tmp}/good.parquet"),
    "all prompts too long": bad("grpo", "MAX_PROMPT_LENGTH=3|raise it", MAX_PROMPT_LENGTH="3"),
    "validation below a batch": bad("sft", "VAL_DATA=|: has 3 rows", VAL_DATA="{tmp}/sft-few.parquet", BATCH_SIZE="16"),
    "pairs of equals": bad("dpo", "same in every row", TRAIN_DATA="{tmp}/same.parquet"),
    # reward
    "no reward file": bad("grpo", "REWARD_FUNC_PATH=nope.py", REWARD_FUNC_PATH="nope.py"),
    "no such function": bad("grpo", "REWARD_FUNC_NAME=nope", REWARD_FUNC_NAME="nope"),
    "reward None": bad("grpo", "returned None", REWARD_FUNC_PATH="{tmp}/none.py"),
    "reward that raises": bad("grpo", "raised KeyError", REWARD_FUNC_PATH="{tmp}/raises.py"),
    "reward without a score": bad("grpo", "without 'score'", REWARD_FUNC_PATH="{tmp}/no_score.py"),
    "reward with the key reward": bad("grpo", "named 'reward'", REWARD_FUNC_PATH="{tmp}/reward_key.py"),
    "reward of text": bad("grpo", "'good'", REWARD_FUNC_PATH="{tmp}/text.py"),
    "reward NaN": bad("grpo", "nan", REWARD_FUNC_PATH="{tmp}/nan.py"),
    "reward that is not Python": bad("grpo", "SyntaxError", REWARD_FUNC_PATH="{tmp}/syntax.py"),
    # keys of older verl
    "custom_reward_function": bad("grpo", "REWARD_FUNC_PATH", "custom_reward_function.path=r.py"),
    "reward_model.reward_manager": bad("grpo", "reward.reward_manager.name", "reward_model.reward_manager=dapo"),
    "reward_model.enable": bad("grpo", "reward.reward_model.enable", "reward_model.enable=true"),
    "sandbox_fusion.url": bad("grpo", "reward.sandbox_fusion.url", "sandbox_fusion.url=http://x"),
    "reward.reward_manager": bad("grpo", "reward.reward_manager.name=dapo", "reward.reward_manager=dapo"),
    "multi_turn as a switch": bad("grpo", "default_agent_loop", f"{RL}.rollout.multi_turn=true"),
    "rollout mode sync": bad("grpo", "async", f"{RL}.rollout.mode=sync"),
    "gspo as an estimator": bad("grpo", "loss_mode=gspo", "algorithm.adv_estimator=gspo"),
    "max_num_gen_batches": bad("grpo", "max_inflight_gen_batches", "algorithm.filter_groups.max_num_gen_batches=4"),
    "partial_pretrain": bad("sft", "MODEL_PATH", "model.partial_pretrain=x"),
    "checkpoint.contents": bad("grpo", "save_contents", f"{RL}.actor.checkpoint.contents=[model]"),
    "critic.model.fsdp_config": bad("grpo", "critic.fsdp.param_offload", "critic.model.fsdp_config.param_offload=true"),
    "warmup_steps_ratio": bad("sft", "WARMUP_RATIO", "optim.warmup_steps_ratio=0.1"),
    "prompt_key of SFT": bad("sft", "messages", "data.prompt_key=question"),
    "remove_previous_ckpt_in_save": bad("grpo", "KEEP_CHECKPOINTS=1", "trainer.remove_previous_ckpt_in_save=true"),
    # values that verl's own validation lets through
    "a misspelt loss": bad("grpo", "gspoo|did you mean gspo", f"{RL}.actor.policy_loss.loss_mode=gspoo"),
    "an estimator that is none": bad("grpo", "=dppo|use one of gae, grpo", "algorithm.adv_estimator=dppo"),
    "a misspelt logger": bad("grpo", "wandbb|did you mean wandb", "trainer.logger=[console,wandbb]"),
    "a misspelt reward manager": bad("grpo", "daapo|did you mean dapo", "reward.reward_manager.name=daapo"),
    "a resume mode that is none": bad("grpo", "resume_mode=blah", "trainer.resume_mode=blah"),
    "an aggregation that is none": bad(
        "grpo", "loss_agg_mode=token_mean|did you mean token-mean", f"{RL}.actor.loss_agg_mode=token_mean"
    ),
    "a KL that is none": bad("grpo", "kl_loss_type=k9", f"{RL}.actor.kl_loss_type=k9"),
    "micro batch that does not divide": bad(
        "grpo",
        "ppo_micro_batch_size_per_gpu=5",
        f"{RL}.actor.use_dynamic_bsz=false",
        f"{RL}.actor.ppo_micro_batch_size_per_gpu=5",
    ),
    "never saving": bad("grpo", "SAVE_FREQ=-1", "trainer.save_freq=-1"),
    "a checkpoint of something": bad(
        "grpo", "optimiser|did you mean optimizer", f"{RL}.actor.checkpoint.save_contents=[model,optimiser]"
    ),
    "a checkpoint without the model": bad("grpo", "add model", f"{RL}.actor.checkpoint.save_contents=[optimizer]"),
    "sequence parallel with padding": bad(
        "grpo", "SEQUENCE_PARALLEL=2|ATTENTION=sdpa_varlen", SEQUENCE_PARALLEL="2", ATTENTION="sdpa", N_GPUS="2"
    ),
    "sequence parallel by its other key": bad(
        "grpo",
        "fsdp_config.ulysses_sequence_parallel_size=2|reference|SEQUENCE_PARALLEL=2",
        f"{RL}.actor.fsdp_config.ulysses_sequence_parallel_size=2",
        N_GPUS="2",
    ),
    "sequence parallel of a critic": bad(
        "ppo",
        "SEQUENCE_PARALLEL=3|must divide the 1 GPUs",
        "critic.fsdp.ulysses_sequence_parallel_size=3",
    ),
    "sequence parallel of a critic by a key that is not read": bad(
        "ppo", "critic.fsdp.ulysses_sequence_parallel_size=2", "critic.ulysses_sequence_parallel_size=2", N_GPUS="2"
    ),
    "sequence parallel of SFT with padding": bad(
        "sft", "not with sdpa", "engine.ulysses_sequence_parallel_size=2", N_GPUS="2", ATTENTION="sdpa"
    ),
    "sequence parallel above the key-value heads": bad(
        "sft",
        "SEQUENCE_PARALLEL=7|28 attention heads and fit its 4 key-value heads|use one of 1",
        SEQUENCE_PARALLEL="7",
        MODEL_PATH="{tmp}/Qwen2.5-7B",
        gpus="7x80GB",
    ),
    "sequence parallel of a model that carries a state": bad(
        "sft",
        "SEQUENCE_PARALLEL=2|not known to be right for qwen3_next",
        SEQUENCE_PARALLEL="2",
        N_GPUS="2",
        MODEL_PATH="{tmp}/qwen3_next",
    ),
    "sequence parallel 3 of 8": bad(
        "grpo",
        "SEQUENCE_PARALLEL=3|use one of 1, 2, 4, 8",
        f"{RL}.actor.ulysses_sequence_parallel_size=3",
        gpus="8x80GB",
    ),
    "Megatron for SFT": bad("sft", "TRAIN_ENGINE=megatron|grpo and ppo", TRAIN_ENGINE="megatron"),
    "Megatron without GPUs": bad("grpo", "TRAIN_ENGINE=megatron|needs GPUs", TRAIN_ENGINE="megatron"),
    "Megatron as an argument": bad("grpo", "TRAIN_ENGINE=megatron|needs GPUs", f"{RL}.actor.strategy=megatron"),
    "Megatron's sizes": bad(
        "grpo", "MODEL_PARALLEL=4x2|four numbers", TRAIN_ENGINE="megatron", MODEL_PARALLEL="4x2", gpus="8x80GB"
    ),
    "Megatron's sizes and heads": bad(
        "ppo",
        "MODEL_PARALLEL=8x1x1x1|28 attention heads",
        TRAIN_ENGINE="megatron",
        MODEL_PARALLEL="8x1x1x1",
        MODEL_PATH="{tmp}/Qwen2.5-7B",
        gpus="8x80GB",
    ),
    "Megatron's sizes for another engine": bad("grpo", "MODEL_PARALLEL=2x1x1x1|fsdp2", MODEL_PARALLEL="2x1x1x1"),
    "FSDP1 with all states on the host": bad(
        "grpo", "OFFLOAD=full|TRAIN_ENGINE=fsdp2", OFFLOAD="full", TRAIN_ENGINE="fsdp", gpus="8x80GB"
    ),
    "7B SFT on one GPU, FSDP1": bad(
        "sft", "does not fit", MODEL_PATH="{tmp}/Qwen2.5-7B", TRAIN_ENGINE="fsdp", gpus="1x80GB"
    ),
    "chunked head of a model that scales its logits": bad(
        "sft", "FUSED_KERNELS=true|not known to be right for granite", FUSED_KERNELS="true", MODEL_PATH="{tmp}/granite"
    ),
    "chunked head as an argument": bad(
        "grpo", "FUSED_KERNELS=true|granite", f"{RL}.model.use_fused_kernels=true", MODEL_PATH="{tmp}/granite"
    ),
    "chunked head by triton on the CPU": bad(
        "grpo",
        "impl_backend=triton|needs a GPU",
        f"{RL}.model.fused_kernel_options.impl_backend=triton",
        FUSED_KERNELS="true",
    ),
    "chunked head by liger": bad(
        "dpo",
        "impl_backend=liger|torch or triton",
        "model.fused_kernel_options.impl_backend=liger",
        FUSED_KERNELS="true",
    ),
    "chunked head and a baseline of whole logits": bad(
        "grpo", "needs whole logits|FUSED_KERNELS", f"{RL}.actor.calculate_sum_pi_squared=true", FUSED_KERNELS="true"
    ),
    "chunked head of a critic": bad("ppo", "a critic has no logits", "+critic.model.use_fused_kernels=true"),
    "FSDP groups of 3": bad("grpo", "fsdp_size=3", f"{RL}.actor.fsdp_config.fsdp_size=3", gpus="8x80GB"),
    "pipeline in the engine": bad(
        "grpo", "pipeline_model_parallel_size=2", f"{RL}.rollout.pipeline_model_parallel_size=2", gpus="8x80GB"
    ),
    "a model length below the sequence": bad("grpo", "max_model_len=32", f"{RL}.rollout.max_model_len=32"),
    "LoRA into dummy weights": bad(
        "grpo",
        "load_format=dummy|safetensors",
        f"{RL}.model.lora.merge=false",
        f"{RL}.rollout.load_format=dummy",
        LORA_RANK="8",
    ),
    "reward model without a path": bad("grpo", "REWARD_MODEL_PATH", "reward.reward_model.enable=true"),
    "tools file that is not there": bad("grpo", "no such file", f"{RL}.rollout.multi_turn.tool_config_path=/nope.yaml"),
    "tensor parallel as an argument": bad(
        "grpo", "TENSOR_PARALLEL_SIZE=3", f"{RL}.rollout.tensor_model_parallel_size=3", gpus="8x80GB"
    ),
    "SFT micro batch": bad(
        "sft", "micro_batch_size_per_gpu=5", "data.use_dynamic_bsz=false", "data.micro_batch_size_per_gpu=5"
    ),
    "resume from no checkpoint": bad("grpo", "global_step_N", "trainer.resume_from_path=/tmp"),
}

# Good ones: demos, knobs at their edges, and the settings of verl's own example scripts on the machines they name.
GOOD = {
    "grpo demo": good("grpo"),
    "sft demo": good("sft"),
    "ppo, granite with another critic": good("ppo", MODEL_PATH="{tmp}/granite", CRITIC_MODEL_PATH="demo"),
    "sft, two ropes, short": good("sft", MODEL_PATH="{tmp}/two-ropes", MAX_LENGTH="64"),
    "sft, one rope, long": good("sft", MODEL_PATH="{tmp}/one-rope", MAX_LENGTH="200"),
    "sft, capped scores": good("sft", MODEL_PATH="{tmp}/capped"),
    "grpo, capped scores, as asked": good("grpo", ATTENTION="eager", MODEL_PATH="{tmp}/capped"),
    "dpo demo": good("dpo"),
    "ppo demo": good("ppo"),
    "gspo demo": good("gspo"),
    "grpo demo, LoRA of some layers": good("grpo", LORA_RANK="8", LORA_TARGETS="q_proj,self_attn.v_proj,lm_head"),
    "grpo demo, two processes, LoRA": good("grpo", N_GPUS="2", LORA_RANK="8", BATCH_SIZE="16"),
    "sft, four epochs, cosine": good("sft", TOTAL_EPOCHS="4", LR_SCHEDULER="cosine", WARMUP_RATIO="0.1"),
    "sft, own data": good("sft", TRAIN_DATA="{tmp}/sft.parquet", VAL_DATA="{tmp}/sft.parquet", BATCH_SIZE="16"),
    "grpo, own data and reward": good(
        "grpo", TRAIN_DATA="{tmp}/good.parquet", REWARD_FUNC_PATH="{tmp}/fine.py", BATCH_SIZE="16"
    ),
    "grpo, dynamic sampling": good("grpo", "algorithm.filter_groups.enable=true"),
    "grpo, Dr. GRPO's loss": good(
        "grpo", f"{RL}.actor.loss_agg_mode=seq-mean-token-sum-norm", "algorithm.norm_adv_by_std_in_grpo=false"
    ),
    "grpo, GSPO's loss": good(
        "grpo", f"{RL}.actor.policy_loss.loss_mode=gspo", f"{RL}.actor.loss_agg_mode=seq-mean-token-mean"
    ),
    "grpo, a Hugging Face copy in each checkpoint": good(
        "grpo", f"{RL}.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]"
    ),
    "ppo demo, FSDP1": good("ppo", TRAIN_ENGINE="fsdp"),
    "7B GRPO with Megatron": good(
        "grpo", TRAIN_ENGINE="megatron", MODEL_PATH="{tmp}/Qwen2.5-7B", MODEL_PARALLEL="2x2x1x1", gpus="8x80GB"
    ),
    "7B SFT on one GPU, FSDP2": good("sft", MODEL_PATH="{tmp}/Qwen2.5-7B", TRAIN_ENGINE="fsdp2", gpus="1x80GB"),
    "sft demo, chunked head": good("sft", FUSED_KERNELS="true"),
    "sft demo, two processes share each sequence": good("sft", N_GPUS="2", SEQUENCE_PARALLEL="2"),
    "grpo demo, two processes share each sequence": good("grpo", N_GPUS="2", SEQUENCE_PARALLEL="2"),
    "dpo, simpo": good("dpo", LOSS_TYPE="simpo", BETA="2.0"),
    # examples/tuning and examples/grpo_trainer of verl
    "0.5B LoRA, 1 x 80": good(
        "grpo", gpus="1x80GB", MODEL_PATH="{tmp}/Qwen2.5-0.5B", LORA_RANK="32", LEARNING_RATE="3e-5"
    ),
    "1.5B LoRA, 1 x 80": good(
        "grpo", gpus="1x80GB", MODEL_PATH="{tmp}/Qwen2.5-1.5B", LORA_RANK="32", LEARNING_RATE="3e-5"
    ),
    "3B LoRA, 1 x 80": good(
        "grpo",
        gpus="1x80GB",
        MODEL_PATH="{tmp}/Qwen2.5-3B",
        LORA_RANK="32",
        LEARNING_RATE="3e-5",
        OFFLOAD="true",
        GPU_MEMORY_UTILIZATION="0.1",
        MAX_PROMPT_LENGTH="512",
        MAX_RESPONSE_LENGTH="1024",
    ),
    "7B LoRA, 1 x 80": good(
        "grpo",
        gpus="1x80GB",
        MODEL_PATH="{tmp}/Qwen2.5-7B",
        LORA_RANK="32",
        LEARNING_RATE="3e-5",
        OFFLOAD="true",
        GPU_MEMORY_UTILIZATION="0.2",
        MAX_PROMPT_LENGTH="512",
        MAX_RESPONSE_LENGTH="1024",
    ),
    "14B LoRA, 2 x 80": good(
        "grpo",
        gpus="2x80GB",
        MODEL_PATH="{tmp}/Qwen2.5-14B",
        LORA_RANK="32",
        LEARNING_RATE="3e-5",
        OFFLOAD="true",
        TENSOR_PARALLEL_SIZE="2",
        GPU_MEMORY_UTILIZATION="0.25",
    ),
    "32B LoRA, 4 x 80": good(
        "grpo",
        gpus="4x80GB",
        MODEL_PATH="{tmp}/Qwen2.5-32B",
        LORA_RANK="32",
        LEARNING_RATE="3e-5",
        OFFLOAD="true",
        TENSOR_PARALLEL_SIZE="4",
        GPU_MEMORY_UTILIZATION="0.3",
    ),
    "72B LoRA, 8 x 80": good(
        "grpo",
        gpus="8x80GB",
        MODEL_PATH="{tmp}/Qwen2.5-72B",
        LORA_RANK="32",
        LEARNING_RATE="3e-5",
        OFFLOAD="true",
        TENSOR_PARALLEL_SIZE="8",
        GPU_MEMORY_UTILIZATION="0.4",
    ),
    "7B, 2 x 80": good(
        "grpo",
        gpus="2x80GB",
        MODEL_PATH="{tmp}/Qwen2.5-7B",
        OFFLOAD="true",
        TENSOR_PARALLEL_SIZE="2",
        GPU_MEMORY_UTILIZATION="0.5",
    ),
    "14B, 4 x 80": good(
        "grpo",
        gpus="4x80GB",
        MODEL_PATH="{tmp}/Qwen2.5-14B",
        OFFLOAD="true",
        TENSOR_PARALLEL_SIZE="4",
        GPU_MEMORY_UTILIZATION="0.5",
    ),
    "Qwen3-8B, 8 x 80": good(
        "grpo",
        gpus="8x80GB",
        MODEL_PATH="{tmp}/Qwen3-8B",
        TENSOR_PARALLEL_SIZE="2",
        GPU_MEMORY_UTILIZATION="0.6",
        ROLLOUT_N="5",
        LEARNING_RATE="1e-6",
    ),
    "Qwen3-30B-A3B, 8 x 80": good(
        "grpo",
        gpus="8x80GB",
        MODEL_PATH="{tmp}/Qwen3-30B-A3B",
        TENSOR_PARALLEL_SIZE="4",
        OFFLOAD="true",
        LEARNING_RATE="1e-6",
    ),
    "7B SFT, 8 x 80": good("sft", gpus="8x80GB", MODEL_PATH="{tmp}/Qwen2.5-7B", LEARNING_RATE="1e-5"),
    "0.5B SFT with LoRA, 1 x 24": good(
        "sft", gpus="1x24GB", MODEL_PATH="{tmp}/Qwen2.5-0.5B", LORA_RANK="32", LEARNING_RATE="1e-4"
    ),
    "7B PPO, 8 x 80": good("ppo", gpus="8x80GB", MODEL_PATH="{tmp}/Qwen2.5-7B", OFFLOAD="true", LEARNING_RATE="1e-6"),
    "7B DPO, 8 x 80": good("dpo", gpus="8x80GB", MODEL_PATH="{tmp}/Qwen2.5-7B"),
}
