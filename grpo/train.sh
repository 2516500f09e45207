#!/usr/bin/env bash
# GRPO: sample a group of answers to each prompt, score them, push up those above the group's mean.
#
#   ./grpo/train.sh                                        # the built-in demo, on any machine, in minutes
#   MODEL_PATH=/models/my-sft TRAIN_DATA=gsm8k.parquet ./grpo/train.sh
#   VARIANT=dapo ./grpo/train.sh                           # another method of the family, see grpo/variants
#   ./grpo/train.sh algorithm.norm_adv_by_std_in_grpo=false # any key of verl; wins over all else
#   DRY_RUN=1 ./grpo/train.sh                              # check everything, print the command, start nothing
#
# Needs ./setup_env.sh. Each knob below can be set here or in the environment; auto is chosen and explained at
# the start. What to set them to: grpo/README.md (中文: grpo/README_zh.md).
set -euo pipefail
# shellcheck source=common/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common/launch.sh"
set -a
# ================================ edit here ================================
# ---- Model and data ----
MODEL_PATH="${MODEL_PATH:-demo}"                     # Hugging Face folder or id; demo: a built-in model of 1M parameters
TRAIN_DATA="${TRAIN_DATA:-grpo/data/train.parquet}"  # parquet, jsonl, json, csv, xlsx, ...; several files: a.jsonl,b.csv
VAL_DATA="${VAL_DATA:-auto}"                         # the same; auto: the sample's, else a share of TRAIN_DATA that is left out of training
REWARD_FUNC_PATH="${REWARD_FUNC_PATH:-grpo/reward_func.py}" # Python file that scores an answer
REWARD_FUNC_NAME="${REWARD_FUNC_NAME:-compute_score}" # the function in it
DATA_ORDER="${DATA_ORDER:-shuffled}"                 # shuffled | difficulty (easiest first) | weighted: by data_utils difficulty, docs/data.md
MAX_PROMPT_LENGTH="${MAX_PROMPT_LENGTH:-auto}"       # tokens; longer prompts are left out and counted
MAX_RESPONSE_LENGTH="${MAX_RESPONSE_LENGTH:-auto}"   # tokens; longer answers are cut
# ---- Batch ----
BATCH_SIZE="${BATCH_SIZE:-auto}"                     # prompts per step; each gets ROLLOUT_N answers
MINI_BATCH_SIZE="${MINI_BATCH_SIZE:-auto}"           # prompts per optimiser update; divides BATCH_SIZE
TOKENS_PER_GPU="${TOKENS_PER_GPU:-auto}"             # tokens per forward pass; out of memory? lower this first
# ---- Optimisation ----
LEARNING_RATE="${LEARNING_RATE:-auto}"               # peak; about 1e-6 for full fine-tuning, 1e-5 for LoRA
OPTIMIZER="${OPTIMIZER:-adamw}"                      # adamw | adamw_8bit (a quarter of its memory) | muon (half, often fewer steps)
LR_SCHEDULER="${LR_SCHEDULER:-constant}"             # constant | linear | cosine | wsd | plateau
WARMUP_RATIO="${WARMUP_RATIO:-0.0}"                  # share of the steps in which the learning rate climbs
TOTAL_EPOCHS="${TOTAL_EPOCHS:-auto}"                 # passes over the training data
TOTAL_STEPS="${TOTAL_STEPS:-auto}"                   # stop after this many steps; auto: TOTAL_EPOCHS decides
EARLY_STOP_PATIENCE="${EARLY_STOP_PATIENCE:-0}"      # stop after so many validations without a better score; 0: never
LORA_RANK="${LORA_RANK:-0}"                          # 0: all weights train; 8-64: LoRA, less memory
LORA_ALPHA="${LORA_ALPHA:-auto}"                     # scale of the adapter; usually 2 x LORA_RANK
LORA_TARGETS="${LORA_TARGETS:-all-linear}"           # layers with an adapter, e.g. q_proj,v_proj
LORA_ADAPTER_PATH="${LORA_ADAPTER_PATH:-}"           # folder of an adapter to start from; empty: a new one
SEED="${SEED:-1}"                                    # order of the data and sampling of the answers
# ---- Algorithm ----
VARIANT="${VARIANT:-grpo}"                           # grpo | dapo | dr_grpo | rloo | ...: a file in grpo/variants
ALGORITHM_PATH="${ALGORITHM_PATH:-}"                 # Python file with an advantage estimator or policy loss
ADV_ESTIMATOR="${ADV_ESTIMATOR:-auto}"               # how rewards become advantages; auto: as the method has it
POLICY_LOSS="${POLICY_LOSS:-auto}"                   # how advantages become a loss; auto: as the method has it
ROLLOUT_N="${ROLLOUT_N:-8}"                          # answers per prompt (the group), at least 2
TEMPERATURE="${TEMPERATURE:-1.0}"                    # of sampling in training; validation is greedy
KL_LOSS_COEF="${KL_LOSS_COEF:-auto}"                 # pull towards the starting model; 0.001-0.04, 0: none
CLIP_RATIO_LOW="${CLIP_RATIO_LOW:-auto}"             # how far an update may go down, as a share of the probability
CLIP_RATIO_HIGH="${CLIP_RATIO_HIGH:-auto}"           # and up; larger explores more
OVERLONG_BUFFER="${OVERLONG_BUFFER:-auto}"           # tokens before the length limit in which an answer loses reward (dapo)
TOOLS_PATH="${TOOLS_PATH:-}"                         # Python file with tools the model may call; empty: none
TOOL_FORMAT="${TOOL_FORMAT:-hermes}"                 # how the model writes a call, see the README
TOOL_TIMEOUT="${TOOL_TIMEOUT:-10}"                   # seconds for one call
ENV_PATH="${ENV_PATH:-}"                             # Python file with an environment: reset(row) and step(action); empty: none
ENV_TIMEOUT="${ENV_TIMEOUT:-30}"                     # seconds for one reset or step
MAX_TURNS="${MAX_TURNS:-5}"                          # answers of the model in one conversation; with tools, all but the last may call
MAX_TOOL_RESPONSE_LENGTH="${MAX_TOOL_RESPONSE_LENGTH:-512}" # characters of a tool's answer or an observation; longer ones lose their middle
# ---- Hardware ----
DEVICE="${DEVICE:-auto}"                             # cuda | cpu; auto: cuda when there is a GPU
N_GPUS="${N_GPUS:-auto}"                             # GPUs of this node; on the CPU: training processes
NNODES="${NNODES:-1}"                                # machines; start this script on each, see docs/cluster.md
TRAIN_ENGINE="${TRAIN_ENGINE:-fsdp2}"                 # fsdp2 | fsdp: how weights and states are split over the GPUs
MODEL_PARALLEL="${MODEL_PARALLEL:-auto}"             # TRAIN_ENGINE=megatron: GPUs that share a model, tensor x pipeline x context x expert: 4x2x1x1
ATTENTION="${ATTENTION:-auto}"                       # flash_attention_2 | sdpa_varlen | sdpa | eager (Gemma 2)
FUSED_KERNELS="${FUSED_KERNELS:-auto}"               # true: logits in chunks, never whole in memory | false
SEQUENCE_PARALLEL="${SEQUENCE_PARALLEL:-auto}"       # GPUs that share each sequence; for sequences too long for one GPU
OFFLOAD="${OFFLOAD:-auto}"                           # true: states wait in host memory; full: they stay there
ROLLOUT_ENGINE="${ROLLOUT_ENGINE:-auto}"             # vllm | sglang | hf (transformers: slow, runs anywhere)
TENSOR_PARALLEL_SIZE="${TENSOR_PARALLEL_SIZE:-auto}" # GPUs that share one copy of the rollout model
GPU_MEMORY_UTILIZATION="${GPU_MEMORY_UTILIZATION:-auto}" # share of a GPU's memory for the rollout engine, 0-1
TRAINER_MODE="${TRAINER_MODE:-sync}"                 # sync | colocate (open answers continue after the update) | separate (ROLLOUT_GPUS only answer)
ROLLOUT_GPUS="${ROLLOUT_GPUS:-auto}"                 # GPUs that only answer, in separate
MAX_OFF_POLICY_THRESHOLD="${MAX_OFF_POLICY_THRESHOLD:-8}" # steps from a prompt to its update, in colocate and separate
MAX_OFF_POLICY_STRATEGY="${MAX_OFF_POLICY_STRATEGY:-drop}" # answers above it: drop | wait (training waits for those under way)
# ---- Output ----
EXPERIMENT_NAME="${EXPERIMENT_NAME:-auto}"           # folder under outputs/; the name of an interrupted run resumes it
SAVE_FREQ="${SAVE_FREQ:-auto}"                       # steps between checkpoints; the last step always saves
KEEP_CHECKPOINTS="${KEEP_CHECKPOINTS:-2}"            # newest checkpoints to keep; RL also keeps the best by validation
TEST_FREQ="${TEST_FREQ:-auto}"                       # steps between validations; the last step always validates
VAL_METRICS="${VAL_METRICS:-}"                       # more curves of validation, e.g. format:mean,pass4=acc:best@4
RESUME="${RESUME:-auto}"                             # auto | never | a run or checkpoint to resume from
PROMETHEUS="${PROMETHEUS:-false}"                    # true: the rollout engine, Ray and TransferQueue are measured too, docs/observability.md
TRACKERS="${TRACKERS:-auto}"                         # none | wandb,swanlab,mlflow,trackio,clearml; auto: those you are logged in to
USE_WANDB="${USE_WANDB:-auto}"                       # true | false; auto: true when you are logged in
WANDB_PROJECT="${WANDB_PROJECT:-verl_grpo}"          # Weights & Biases project
WANDB_ENTITY="${WANDB_ENTITY:-}"                     # Weights & Biases team or user; empty: your default
WANDB_RUN_NAME="${WANDB_RUN_NAME:-}"                 # Weights & Biases name; empty: EXPERIMENT_NAME
# ======================= nothing to edit below this line =======================
set +a
# also sets, from the knobs (common/preflight/derived.py): REMOVE_PADDING EPOCH_LIMIT OFFLOAD_POLICY RESUME_MODE
#   RESUME_PATH LOGGERS SHUFFLE OPTIMIZER_IMPL OPTIMIZER_CLASS OPTIMIZER_OPTIONS VERL_LR_SCHEDULER TRAINER
#   AGENT_LOOP USE_KL_LOSS CHECKPOINT_BACKEND VERL_TRAINER_MODE PARAMETER_SYNC_STEP
prepare_run grpo "$@"

run_training "${PYTHON}" -m "${TRAINER}" \
  --config-path="${PWD}/grpo" --config-name=config +hardware="${DEVICE}" +variants="${VARIANT}" \
  data.train_files="${TRAIN_DATA}" \
  data.val_files="${VAL_DATA}" \
  data.max_prompt_length="${MAX_PROMPT_LENGTH}" \
  data.max_response_length="${MAX_RESPONSE_LENGTH}" \
  data.train_batch_size="${BATCH_SIZE}" \
  data.seed="${SEED}" \
  data.shuffle="${SHUFFLE}" \
  +data.order="${DATA_ORDER}" \
  actor_rollout_ref.model.path="${MODEL_PATH}" \
  actor_rollout_ref.model.use_remove_padding="${REMOVE_PADDING}" \
  +actor_rollout_ref.model.override_config.attn_implementation="${ATTENTION}" \
  actor_rollout_ref.model.use_fused_kernels="${FUSED_KERNELS}" \
  actor_rollout_ref.model.lora_rank="${LORA_RANK}" \
  actor_rollout_ref.model.lora_alpha="${LORA_ALPHA}" \
  actor_rollout_ref.model.target_modules="${LORA_TARGETS}" \
  actor_rollout_ref.model.lora_adapter_path="${LORA_ADAPTER_PATH}" \
  actor_rollout_ref.actor.ppo_mini_batch_size="${MINI_BATCH_SIZE}" \
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu="${TOKENS_PER_GPU}" \
  actor_rollout_ref.actor.optim.lr="${LEARNING_RATE}" \
  actor_rollout_ref.actor.optim.optimizer_impl="${OPTIMIZER_IMPL}" \
  actor_rollout_ref.actor.optim.optimizer="${OPTIMIZER_CLASS}" \
  actor_rollout_ref.actor.optim.override_optimizer_config="${OPTIMIZER_OPTIONS}" \
  actor_rollout_ref.actor.optim.lr_scheduler_type="${VERL_LR_SCHEDULER}" \
  actor_rollout_ref.actor.optim.lr_warmup_steps_ratio="${WARMUP_RATIO}" \
  algorithm.adv_estimator="${ADV_ESTIMATOR}" \
  actor_rollout_ref.actor.policy_loss.loss_mode="${POLICY_LOSS}" \
  actor_rollout_ref.actor.use_kl_loss="${USE_KL_LOSS}" \
  actor_rollout_ref.actor.kl_loss_coef="${KL_LOSS_COEF}" \
  actor_rollout_ref.actor.clip_ratio_low="${CLIP_RATIO_LOW}" \
  actor_rollout_ref.actor.clip_ratio_high="${CLIP_RATIO_HIGH}" \
  actor_rollout_ref.actor.strategy="${TRAIN_ENGINE}" \
  actor_rollout_ref.actor.fsdp_config.param_offload="${OFFLOAD}" \
  actor_rollout_ref.actor.fsdp_config.offload_policy="${OFFLOAD_POLICY}" \
  actor_rollout_ref.actor.ulysses_sequence_parallel_size="${SEQUENCE_PARALLEL}" \
  actor_rollout_ref.rollout.name="${ROLLOUT_ENGINE}" \
  actor_rollout_ref.rollout.n="${ROLLOUT_N}" \
  actor_rollout_ref.rollout.temperature="${TEMPERATURE}" \
  actor_rollout_ref.rollout.max_model_len="$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))" \
  actor_rollout_ref.rollout.agent.default_agent_loop="${AGENT_LOOP}" \
  actor_rollout_ref.rollout.multi_turn.function_tool_path="${TOOLS_PATH}" \
  actor_rollout_ref.rollout.multi_turn.format="${TOOL_FORMAT}" \
  actor_rollout_ref.rollout.multi_turn.max_assistant_turns="${MAX_TURNS}" \
  actor_rollout_ref.rollout.multi_turn.max_tool_response_length="${MAX_TOOL_RESPONSE_LENGTH}" \
  actor_rollout_ref.rollout.tensor_model_parallel_size="${TENSOR_PARALLEL_SIZE}" \
  actor_rollout_ref.rollout.gpu_memory_utilization="${GPU_MEMORY_UTILIZATION}" \
  actor_rollout_ref.rollout.n_gpus_per_node="${ROLLOUT_GPUS}" \
  actor_rollout_ref.rollout.prometheus.enable="${PROMETHEUS}" \
  actor_rollout_ref.rollout.checkpoint_engine.backend="${CHECKPOINT_BACKEND}" \
  trainer.v1.trainer_mode="${VERL_TRAINER_MODE}" \
  trainer.v1.separate_async.parameter_sync_step="${PARAMETER_SYNC_STEP}" \
  trainer.v1.sampler.max_off_policy_threshold="${MAX_OFF_POLICY_THRESHOLD}" \
  trainer.v1.sampler.max_off_policy_strategy="${MAX_OFF_POLICY_STRATEGY}" \
  reward.custom_reward_function.path="${REWARD_FUNC_PATH}" \
  reward.custom_reward_function.name="${REWARD_FUNC_NAME}" \
  +reward.reward_kwargs.overlong_buffer_cfg.len="${OVERLONG_BUFFER}" \
  trainer.n_gpus_per_node="${N_GPUS}" \
  trainer.nnodes="${NNODES}" \
  trainer.total_epochs="${EPOCH_LIMIT}" \
  trainer.total_training_steps="${TOTAL_STEPS}" \
  trainer.resume_mode="${RESUME_MODE}" \
  trainer.resume_from_path="${RESUME_PATH}" \
  trainer.save_freq="${SAVE_FREQ}" \
  +trainer.keep_checkpoints="${KEEP_CHECKPOINTS}" \
  +trainer.early_stop_patience="${EARLY_STOP_PATIENCE}" \
  trainer.test_freq="${TEST_FREQ}" \
  trainer.project_name="${WANDB_PROJECT}" \
  trainer.experiment_name="${WANDB_RUN_NAME}" \
  trainer.logger="${LOGGERS}" \
  "$@"
