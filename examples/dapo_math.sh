#!/usr/bin/env bash
# DAPO on mathematics, from a base model, on 8 x 80 GB.
#
#   model   Qwen/Qwen2.5-Math-7B, whose context is 4,096 tokens
#   data    BytedTsinghua-SIA/DAPO-Math-17k; validation on HuggingFaceH4/MATH-500
#   plan    72 of 79 GiB on each GPU; roughly 7 min a step (A100 80GB), about 130 steps an epoch
#   curve   verl reports 36.3% of AIME 2024 for this model and data, with answers of up to 8,192 tokens on a longer context
#           than here; ./test.sh --suite aime24,math500 gives the comparison
#   source  arXiv 2503.14476; verl, docs/algo/baseline.md and recipe/dapo/test_dapo_7b_math.sh
set -euo pipefail
# shellcheck source=examples/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
GPUS="${GPUS:-8x80GB}"

if [[ -z "${TRAIN_DATA:-}" ]]; then
  get "${DATA}/dapo.parquet" convert BytedTsinghua-SIA/DAPO-Math-17k "${DATA}/dapo.parquet" --algo grpo --dedup
  get "${DATA}/math500/train.parquet" prepare math500 --to "${DATA}/math500"
fi
export MODEL_PATH="${MODEL_PATH:-Qwen/Qwen2.5-Math-7B}" VARIANT=dapo
export TRAIN_DATA="${TRAIN_DATA:-${DATA}/dapo.parquet}" VAL_DATA="${VAL_DATA:-${DATA}/math500/train.parquet}"
export REWARD_FUNC_PATH=common/reward_functions.py REWARD_FUNC_NAME=math
export MAX_PROMPT_LENGTH="${MAX_PROMPT_LENGTH:-1024}" MAX_RESPONSE_LENGTH="${MAX_RESPONSE_LENGTH:-3072}"
export BATCH_SIZE="${BATCH_SIZE:-128}" ROLLOUT_N="${ROLLOUT_N:-16}" OVERLONG_BUFFER="${OVERLONG_BUFFER:-512}"
start grpo "$@"
