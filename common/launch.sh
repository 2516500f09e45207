# shellcheck shell=bash
# Launch helpers shared by the five train.sh files. Sourced, never run.
# Nothing here knows a key of verl: what is trained, and how, is written in the train.sh.

# shellcheck source=common/find_python.sh
source "$(dirname "${BASH_SOURCE[0]}")/find_python.sh"

CALLER_DIR="${PWD}"                                  # relative paths in knobs may be meant from here
cd "$(dirname "${BASH_SOURCE[0]}")/.." || die "cannot enter the folder of ${BASH_SOURCE[0]}"
NNODES="${NNODES:-${PET_NNODES:-${SLURM_STEP_NUM_NODES:-${SKYPILOT_NUM_NODES:-}}}}" # what a scheduler says of it
export CALLER_DIR PYTHONPATH="${PWD}${PYTHONPATH:+:${PYTHONPATH}}"

# Stop unless every argument is a key=value for verl.
refuse_flags() {
  local argument
  for argument in "$@"; do
    [[ "${argument}" == -* ]] && die "${argument}: options are not taken; set a knob at the top of ${0}," \
      "or in the environment (N_GPUS=2 ${0}), or pass verl keys as key=value (trainer.total_epochs=1)"
    [[ "${argument}" == *=* || "${argument}" == "~"* ]] || die "${argument}: expected key=value, e.g. trainer.total_epochs=1"
  done
}

# Export the knobs of a file that the preflight has written: NAME and VALUE, each ended by a zero byte.
export_resolved() {
  local name value
  while IFS= read -r -d '' name && IFS= read -r -d '' value; do
    export "${name}=${value}"
  done <"$1"
}

# Check the knobs and resolve those that are auto, before anything is started or written; with NNODES above 1 the
# launchers of all machines meet first, and the first machine does it for all.
# Arguments: $1 algorithm; the rest: the key=value arguments.
# Sets and exports: every knob as resolved, RUN_DIR, and what the trainer's processes need.
# The preflight itself starts the script a second time, with RESOLVED_KNOBS, to learn the command that it will check.
prepare_run() {
  local algorithm="$1" check=common.preflight resolved
  shift
  if [[ -n "${RESOLVED_KNOBS:-}" ]]; then
    export_resolved "${RESOLVED_KNOBS}"
    return
  fi
  refuse_flags "$@"
  PYTHON="$(find_python)"
  if [[ "${NNODES}" =~ ^[0-9]{1,6}$ && "${NNODES}" -gt 1 && "${DRY_RUN:-0}" != 1 ]]; then check=common.cluster; fi
  resolved="$(mktemp)"
  "${PYTHON}" -m "${check}" "${algorithm}" --resolved "${resolved}" -- "$@" || { rm -f "${resolved}"; exit 2; }
  export_resolved "${resolved}"
  rm -f "${resolved}"
}

# Run the training command in its run directory and show it; with DRY_RUN=1 only print it.
# The shell becomes the runner, so a signal to this script reaches it.
run_training() {
  local -a command=("$@")
  if [[ "${TRAIN_ENGINE:-}" == megatron && -n "${MODEL_PARALLEL:-}" ]]; then  # other keys than those of FSDP
    mapfile -d '' -t command < <("${PYTHON}" -m common.preflight.engine_keys "$@")
    (( ${#command[@]} > 0 )) || die "TRAIN_ENGINE=megatron: the command could not be written; the reason is above"
    set -- "${command[@]}"
  fi
  if [[ -n "${RESOLVED_KNOBS:-}" ]]; then
    printf '%s\0' "$@"
    exit
  fi
  exec "${PYTHON}" -m common.runner -- "$@"
}
