#!/usr/bin/env bash
# SFT: show the model conversations and raise the probability of the assistant's words in them.
#
#   ./sft/train.sh                                         # the built-in demo, on any machine, in minutes
#   MODEL_PATH=/models/Qwen3-4B TRAIN_DATA=mine.parquet ./sft/train.sh
#   ./sft/train.sh data.truncation=error                   # any key of verl; wins over all else
#   DRY_RUN=1 ./sft/train.sh                               # check everything, print the command, start nothing
#
# Needs ./setup_env.sh. Each knob below can be set here or in the environment; auto is chosen and explained at
# the start. What to set them to: sft/README.md (中文: sft/README_zh.md).
set -euo pipefail
# shellcheck source=common/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common/launch.sh"
set -a
# ================================ edit here ================================
# ---- Model and data ----
MODEL_PATH="${MODEL_PATH:-demo}"                     # Hugging Face folder or id; demo: a built-in model of 1M parameters
TRAIN_DATA="${TRAIN_DATA:-sft/data/train.parquet}"   # parquet, jsonl, json, csv, xlsx, ...; several files: a.jsonl,b.csv
VAL_DATA="${VAL_DATA:-auto}"                         # the same; auto: the sample's, else a share of TRAIN_DATA that is left out of training
DATA_FORM="${DATA_FORM:-conversations}"              # conversations | text: a column of raw text, packed and learnt whole (continued pretraining)
MAX_LENGTH="${MAX_LENGTH:-auto}"                     # tokens of a whole conversation; longer ones are cut
THINKING="${THINKING:-auto}"                         # true learns thoughts | false leaves them out | auto: as the template does
# ---- Batch ----
BATCH_SIZE="${BATCH_SIZE:-auto}"                     # conversations per step, over all GPUs
TOKENS_PER_GPU="${TOKENS_PER_GPU:-auto}"             # tokens per forward pass; out of memory? lower this first
# ---- Optimisation ----
LEARNING_RATE="${LEARNING_RATE:-auto}"               # peak; about 1e-5 for full fine-tuning, 1e-4 for LoRA
OPTIMIZER="${OPTIMIZER:-adamw}"                      # adamw | adamw_8bit (a quarter of its memory) | muon (half, often fewer steps)
LR_SCHEDULER="${LR_SCHEDULER:-cosine}"               # constant | linear | cosine | wsd | plateau
WARMUP_RATIO="${WARMUP_RATIO:-0.03}"                 # share of the steps in which the learning rate climbs
TOTAL_EPOCHS="${TOTAL_EPOCHS:-auto}"                 # passes over the training data
TOTAL_STEPS="${TOTAL_STEPS:-auto}"                   # stop after this many steps; auto: TOTAL_EPOCHS decides
LORA_RANK="${LORA_RANK:-0}"                          # 0: all weights train; 8-64: LoRA, less memory
LORA_ALPHA="${LORA_ALPHA:-auto}"                     # scale of the adapter; usually 2 x LORA_RANK
LORA_TARGETS="${LORA_TARGETS:-all-linear}"           # layers with an adapter, e.g. q_proj,v_proj
SEED="${SEED:-1}"                                    # order of the data
# ---- Hardware ----
DEVICE="${DEVICE:-auto}"                             # cuda | cpu; auto: cuda when there is a GPU
N_GPUS="${N_GPUS:-auto}"                             # GPUs of this node; on the CPU: training processes
NNODES="${NNODES:-1}"                                # machines; start this script on each, see docs/cluster.md
TRAIN_ENGINE="${TRAIN_ENGINE:-fsdp2}"                 # fsdp2 | fsdp: how weights and states are split over the GPUs
ATTENTION="${ATTENTION:-auto}"                       # flash_attention_2 | sdpa_varlen | sdpa | eager (Gemma 2)
FUSED_KERNELS="${FUSED_KERNELS:-auto}"               # true: logits in chunks, never whole in memory | false
SEQUENCE_PARALLEL="${SEQUENCE_PARALLEL:-auto}"       # GPUs that share each sequence; for sequences too long for one GPU
OFFLOAD="${OFFLOAD:-auto}"                           # true: states wait in host memory; full: they stay there
# ---- Output ----
EXPERIMENT_NAME="${EXPERIMENT_NAME:-auto}"           # folder under outputs/; the name of an interrupted run resumes it
SAVE_FREQ="${SAVE_FREQ:-auto}"                       # steps between checkpoints; the last step always saves
KEEP_CHECKPOINTS="${KEEP_CHECKPOINTS:-2}"            # newest checkpoints to keep; RL also keeps the best by validation
TEST_FREQ="${TEST_FREQ:-auto}"                       # steps between validations; the last step always validates
RESUME="${RESUME:-auto}"                             # auto | never | a run or checkpoint to resume from
TRACKERS="${TRACKERS:-auto}"                         # none | wandb,swanlab,mlflow,trackio,clearml; auto: those you are logged in to
USE_WANDB="${USE_WANDB:-auto}"                       # true | false; auto: true when you are logged in
WANDB_PROJECT="${WANDB_PROJECT:-verl_sft}"           # Weights & Biases project
WANDB_ENTITY="${WANDB_ENTITY:-}"                     # Weights & Biases team or user; empty: your default
WANDB_RUN_NAME="${WANDB_RUN_NAME:-}"                 # Weights & Biases name; empty: EXPERIMENT_NAME
# ======================= nothing to edit below this line =======================
set +a
# also sets, from the knobs (common/preflight/derived.py): REMOVE_PADDING EPOCH_LIMIT OFFLOAD_POLICY RESUME_MODE
#   RESUME_PATH LOGGERS DATASET OPTIMIZER_IMPL OPTIMIZER_CLASS OPTIMIZER_OPTIONS VERL_LR_SCHEDULER RENDEZVOUS
#   RENDEZVOUS_ADDR MACHINE_RANK MACHINE_ADDR
prepare_run sft "$@"

run_training "${PYTHON}" -m torch.distributed.run \
  --nnodes="${NNODES}" --nproc-per-node="${N_GPUS}" --node-rank="${MACHINE_RANK}" \
  --rdzv-backend="${RENDEZVOUS}" --rdzv-endpoint="${RENDEZVOUS_ADDR}" --local-addr="${MACHINE_ADDR}" \
  -m verl.trainer.sft_trainer \
  --config-path="${PWD}/sft" --config-name=config +hardware="${DEVICE}" \
  data.train_files="${TRAIN_DATA}" \
  data.val_files="${VAL_DATA}" \
  data.custom_cls.name="${DATASET}" \
  data.max_length="${MAX_LENGTH}" \
  data.enable_thinking_default="${THINKING}" \
  data.train_batch_size="${BATCH_SIZE}" \
  data.max_token_len_per_gpu="${TOKENS_PER_GPU}" \
  model.path="${MODEL_PATH}" \
  model.use_remove_padding="${REMOVE_PADDING}" \
  +model.override_config.attn_implementation="${ATTENTION}" \
  model.use_fused_kernels="${FUSED_KERNELS}" \
  model.lora_rank="${LORA_RANK}" \
  model.lora_alpha="${LORA_ALPHA}" \
  model.target_modules="${LORA_TARGETS}" \
  optim.lr="${LEARNING_RATE}" \
  optim.optimizer_impl="${OPTIMIZER_IMPL}" \
  optim.optimizer="${OPTIMIZER_CLASS}" \
  optim.override_optimizer_config="${OPTIMIZER_OPTIONS}" \
  optim.lr_scheduler_type="${VERL_LR_SCHEDULER}" \
  optim.lr_warmup_steps_ratio="${WARMUP_RATIO}" \
  engine.strategy="${TRAIN_ENGINE}" \
  engine.param_offload="${OFFLOAD}" \
  engine.offload_policy="${OFFLOAD_POLICY}" \
  engine.ulysses_sequence_parallel_size="${SEQUENCE_PARALLEL}" \
  trainer.seed="${SEED}" \
  trainer.n_gpus_per_node="${N_GPUS}" \
  trainer.nnodes="${NNODES}" \
  trainer.total_epochs="${EPOCH_LIMIT}" \
  trainer.total_training_steps="${TOTAL_STEPS}" \
  trainer.resume_mode="${RESUME_MODE}" \
  trainer.resume_from_path="${RESUME_PATH}" \
  trainer.save_freq="${SAVE_FREQ}" \
  trainer.max_ckpt_to_keep="${KEEP_CHECKPOINTS}" \
  trainer.test_freq="${TEST_FREQ}" \
  trainer.project_name="${WANDB_PROJECT}" \
  trainer.experiment_name="${WANDB_RUN_NAME}" \
  trainer.logger="${LOGGERS}" \
  "$@"
