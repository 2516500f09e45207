#!/usr/bin/env bash
# DPO on Chinese pairs, with LoRA, on 2 x 48 GB.
#
#   model   Qwen/Qwen2.5-7B-Instruct, LoRA of rank 64
#   data    llamafactory/DPO-En-Zh-20k, its 10,000 Chinese pairs
#   plan    35 of 48 GiB on each GPU; roughly 10 s a step (A6000) for pairs of 300 tokens
#   curve   accuracy of pairs from 0.5 at the start to well above it, margins grow; both rewards falling is normal, the
#           chosen one falling fast is not: raise BETA. No figure was published with these settings
#   source  DPO: arXiv 2305.18290; the data set's card
set -euo pipefail
# shellcheck source=examples/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
GPUS="${GPUS:-2x48GB}"

[[ -n "${TRAIN_DATA:-}" ]] || get "${DATA}/dpo_zh.parquet" \
  convert llamafactory/DPO-En-Zh-20k "${DATA}/dpo_zh.parquet" --algo dpo --split dpo_zh --dedup
export MODEL_PATH="${MODEL_PATH:-Qwen/Qwen2.5-7B-Instruct}" LORA_RANK="${LORA_RANK:-64}" BETA="${BETA:-0.1}"
export TRAIN_DATA="${TRAIN_DATA:-${DATA}/dpo_zh.parquet}" VAL_DATA="${VAL_DATA:-auto}"
start dpo "$@"
