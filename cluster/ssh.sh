#!/usr/bin/env bash
# A run over machines that ssh reaches without a password, each with the kit in the same folder and OUTPUTS_DIR on a disk
# that all share:
#
#   HOSTS="10.0.0.1 10.0.0.2" OUTPUTS_DIR=/shared/outputs ./cluster/ssh.sh grpo/train.sh
#   HOSTS="gpu1 gpu2" MODEL_PATH=/models/Qwen3-8B OUTPUTS_DIR=/shared/outputs ./cluster/ssh.sh sft/train.sh trainer.total_epochs=2
#
# HOSTS: the machines, the first one leads and is called MASTER_ADDR; KIT: the kit's folder on them (default: this one).
# Knobs that are set here go with it. Ctrl-C stops all. It must stay: start it in tmux, on one of the machines.
set -euo pipefail
die() { printf 'error: %s\n' "$*" >&2; exit 2; }

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
script="${1:-}"
shift || true
[[ -f "${root}/${script}" && "${script}" == */train.sh ]] || die "'${script}': name a train.sh of the kit, e.g. grpo/train.sh"
read -ra hosts <<<"${HOSTS:-}"
[[ "${#hosts[@]}" -gt 1 ]] || die "HOSTS='${HOSTS:-}': name at least two machines, HOSTS=\"gpu1 gpu2\""
[[ "${OUTPUTS_DIR:-}" == /* ]] || die "OUTPUTS_DIR='${OUTPUTS_DIR:-}': give the absolute path of a folder that all machines share"
kit="${KIT:-${root}}"
MASTER_ADDR="${MASTER_ADDR:-${hosts[0]#*@}}"
MASTER_PORT="${MASTER_PORT:-29500}"

# The knobs in the block of the script, and what the launchers themselves read.
names="$(sed -nE 's/^([A-Z][A-Z0-9_]*)="\$\{.*/\1/p' "${root}/${script}") MASTER_ADDR MASTER_PORT OUTPUTS_DIR CLUSTER_TIMEOUT"
settings=()
for name in ${names}; do
  if [[ -n "${!name+set}" && "${name}" != NNODES ]]; then settings+=("${name}=${!name}"); fi
done

pid_file() { printf '.verl-kit-%s-%s.pid' "${MASTER_PORT}" "$1"; }  # in the home folder there
# shellcheck disable=SC2329  # the trap calls it
stop() {
  trap '' INT TERM
  for rank in "${!hosts[@]}"; do
    ssh -n -o BatchMode=yes "${hosts[rank]}" "kill -TERM \$(cat $(pid_file "${rank}"))" 2>/dev/null &
  done
}
trap stop INT TERM

set -m  # each in a separate process group: Ctrl-C is for `stop`
jobs=()
for rank in "${!hosts[@]}"; do
  command="echo \$\$ >$(pid_file "${rank}") && cd $(printf '%q' "${kit}") && exec env"
  command+="$(printf ' %q' NNODES="${#hosts[@]}" NODE_RANK="${rank}" "${settings[@]}" "./${script}" "$@")"
  ssh -n -o BatchMode=yes "${hosts[rank]}" "${command}" > >(sed -u "s/^/[${hosts[rank]}] /") 2>&1 &
  jobs+=("$!")
done

status=0
for job in "${jobs[@]}"; do
  code=0
  wait "${job}" || code=$?
  while kill -0 "${job}" 2>/dev/null; do  # a signal ended the waiting, not the job
    code=0
    wait "${job}" || code=$?
  done
  if [[ "${status}" -eq 0 ]]; then status="${code}"; fi
done
exit "${status}"
