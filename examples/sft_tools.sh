#!/usr/bin/env bash
# SFT on tool calls, all weights, on 4 x 80 GB.
#
#   model   Qwen/Qwen2.5-7B-Instruct, whose chat template has tools
#   data    llamafactory/glaive_toolcall_en: conversations with calls and results of tools; loss on the model's turns alone
#   plan    52 of 79 GiB on each GPU; roughly 2 s a step (A100 80GB) for conversations of 300 tokens
#   curve   val_loss falls within the first hundred steps and then slowly; when it rises again, stop there. No figure was
#           published with these settings
#   source  the data set's card; the form of calls: the Qwen2.5 chat template (Hermes)
set -euo pipefail
# shellcheck source=examples/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
GPUS="${GPUS:-4x80GB}"

[[ -n "${TRAIN_DATA:-}" ]] ||
  get "${DATA}/tools.parquet" convert llamafactory/glaive_toolcall_en "${DATA}/tools.parquet" --algo sft --dedup
export MODEL_PATH="${MODEL_PATH:-Qwen/Qwen2.5-7B-Instruct}"
export TRAIN_DATA="${TRAIN_DATA:-${DATA}/tools.parquet}" VAL_DATA="${VAL_DATA:-auto}"
export TOTAL_EPOCHS="${TOTAL_EPOCHS:-2}"
start sft "$@"
