#!/usr/bin/env bash
# RLHF in three steps, SFT -> reward model -> PPO with it, on 8 x 80 GB.
#
#   model   Qwen/Qwen2.5-1.5B; each step begins with what the one before wrote
#   data    vicgalle/alpaca-gpt4 for SFT; Anthropic/hh-rlhf (helpful-base), pairs for the reward model, its prompts for PPO
#   plan    PPO, the largest step: 36 of 79 GiB on each GPU; roughly 7 s a step (A100 80GB)
#   curve   SFT: val_loss falls. Reward model: accuracy of pairs above 0.6; people agree among themselves on about 0.63 of such
#           pairs (arXiv 2204.05862). PPO: reward_mean rises while kl stays small; a reward that rises with a KL above 0.1 is
#           more often a hole in the reward model than a better answer
#   source  InstructGPT, arXiv 2203.02155; HH-RLHF, arXiv 2204.05862
#
# STEPS="rm ppo" leaves steps out that are done.
set -euo pipefail
# shellcheck source=examples/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
GPUS="${GPUS:-8x80GB}"
NAME="${NAME:-rlhf}" STEPS="${STEPS:-sft rm ppo}" OUT="${OUTPUTS_DIR:-outputs}"

if [[ -z "${SFT_DATA:-}" ]]; then
  get "${DATA}/alpaca/train.parquet" prepare alpaca --to "${DATA}/alpaca"
  get "${DATA}/hh/train.parquet" prepare hh-rlhf --to "${DATA}/hh"
  get "${DATA}/hh_prompts.parquet" convert "${DATA}/hh/train.parquet" "${DATA}/hh_prompts.parquet" --algo ppo --allow-loss
fi
BASE="${MODEL_PATH:-Qwen/Qwen2.5-1.5B}"
made() { [[ "${PLAN:-0}" == 1 ]] && printf '%s\n' "${BASE}" || printf '%s\n' "${OUT}/${NAME}-$1/model"; }

for step in ${STEPS}; do
  export EXPERIMENT_NAME="${NAME}-${step}"
  case "${step}" in
    sft) MODEL_PATH="${BASE}" TRAIN_DATA="${SFT_DATA:-${DATA}/alpaca/train.parquet}" start sft "$@" ;;
    rm) MODEL_PATH="$(made sft)" TRAIN_DATA="${PAIR_DATA:-${DATA}/hh/train.parquet}" start ppo/reward_model "$@" ;;
    ppo)
      REWARD=model REWARD_MODEL_PATH="${REWARD_MODEL_PATH:-$(made rm)}" MODEL_PATH="$(made sft)" \
        TRAIN_DATA="${PROMPT_DATA:-${DATA}/hh_prompts.parquet}" start ppo "$@"
      ;;
    *) die "STEPS=${STEPS}: ${step} is not a step; they are sft, rm, ppo" ;;
  esac
done
