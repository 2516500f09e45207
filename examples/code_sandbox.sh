#!/usr/bin/env bash
# Python programs with GRPO, scored by their tests in the sandbox, on 4 x 80 GB.
#
#   model   Qwen/Qwen2.5-Coder-7B-Instruct
#   data    google-research-datasets/mbpp: 374 tasks to train on, 90 to validate; few, so many passes with many answers each
#   plan    70 of 79 GiB on each GPU; roughly 2 min a step (A100 80GB)
#   curve   reward_mean rises and val_score a little; ./test.sh --suite code shows whether HumanEval gains too. No figure was
#           published with these settings
#   source  MBPP: arXiv 2108.07732; what the sandbox keeps out: docs/code_reward.md, try it with
#           .venv/bin/python -m common.rewards.sandbox
set -euo pipefail
# shellcheck source=examples/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
GPUS="${GPUS:-4x80GB}"

if [[ -z "${TRAIN_DATA:-}" ]]; then
  get "${DATA}/mbpp_train.parquet" convert google-research-datasets/mbpp "${DATA}/mbpp_train.parquet" --algo grpo --split train
  get "${DATA}/mbpp_val.parquet" convert google-research-datasets/mbpp "${DATA}/mbpp_val.parquet" --algo grpo --split validation
fi
export MODEL_PATH="${MODEL_PATH:-Qwen/Qwen2.5-Coder-7B-Instruct}"
export TRAIN_DATA="${TRAIN_DATA:-${DATA}/mbpp_train.parquet}" VAL_DATA="${VAL_DATA:-${DATA}/mbpp_val.parquet}"
export REWARD_FUNC_PATH=common/rewards/code.py REWARD_FUNC_NAME=code
export MAX_RESPONSE_LENGTH="${MAX_RESPONSE_LENGTH:-2048}" ROLLOUT_N="${ROLLOUT_N:-16}" BATCH_SIZE="${BATCH_SIZE:-32}"
export TOTAL_EPOCHS="${TOTAL_EPOCHS:-20}"
start grpo "$@" "+reward.custom_reward_function.reward_kwargs.all_or_nothing=true"
