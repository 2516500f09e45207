# shellcheck shell=bash
# What the recipes share. Sourced, never run.
#
#   get FILE COMMAND...        makes a data file once, with common.data_utils
#   start ALGORITHM KEY=VALUE  starts its train.sh; PLAN=1 checks and plans for GPUS, which need not be here
set -euo pipefail
CALLER_DIR="${PWD}"                                  # relative paths in knobs may be meant from here
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=common/find_python.sh
source common/find_python.sh
PYTHON="${PYTHON:-$(find_python)}"
DATA="${DATA:-examples/data}"                        # where data files are kept

get() {
  local file="$1"
  shift
  [[ -e "${file}" ]] || "${PYTHON}" -m common.data_utils "$@"
}

start() {
  local algorithm="$1"
  shift
  if [[ "${PLAN:-0}" != 1 ]]; then "./${algorithm}/train.sh" "$@"; return; fi
  CALLER_DIR="${CALLER_DIR}" "${PYTHON}" -m common.preflight "$(basename "${algorithm}")" --gpus "${GPUS}" -- "$@"
}
