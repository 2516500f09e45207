#!/usr/bin/env bash
# Qwen3-4B on mathematics with GRPO, all weights, on one machine of 8 x 80 GB.
#
#   model   Qwen/Qwen3-4B
#   data    DigitalLearningGmbH/MATH-lighteval: 7,500 problems to train on, 5,000 to validate
#   plan    67 of 79 GiB on each GPU; roughly 5 min a step (A100 80GB), 58 steps an epoch
#   curve   no figure was published with these settings: val_score and the length of answers should both rise, and the
#           share of answers that are cut should fall; the monitor warns when one of them does not
#   source  GRPO: arXiv 2402.03300; a script of verl for the model: examples/grpo_trainer/run_qwen3-8b.sh
set -euo pipefail
# shellcheck source=examples/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
GPUS="${GPUS:-8x80GB}"

[[ -n "${TRAIN_DATA:-}" ]] || get "${DATA}/math/train.parquet" prepare math --to "${DATA}/math"
export MODEL_PATH="${MODEL_PATH:-Qwen/Qwen3-4B}"
export TRAIN_DATA="${TRAIN_DATA:-${DATA}/math/train.parquet}" VAL_DATA="${VAL_DATA:-${DATA}/math/val.parquet}"
export REWARD_FUNC_PATH=common/reward_functions.py REWARD_FUNC_NAME=math
export MAX_RESPONSE_LENGTH="${MAX_RESPONSE_LENGTH:-8192}" BATCH_SIZE="${BATCH_SIZE:-128}"
start grpo "$@"
