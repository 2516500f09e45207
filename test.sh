#!/usr/bin/env bash
# Is the model better? Talk to it, or ask it a file of questions and get an Excel file with scores.
#
#   ./test.sh --model_path outputs/RUN                            # chat
#   ./test.sh --model_path outputs/RUN --batch --greedy           # the run's validation file into an Excel file
#   ./test.sh --model_path outputs/RUN --compare demo --batch --input_file questions.json --output_file results.xlsx
#   ./test.sh --help                                              # every option; docs/evaluation.md explains them
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${root}/.venv/bin/python" active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
[[ -z "${active}" || ! -f "${active}/.setup_env" ]] || python="${active}/bin/python"  # as in common/launch.sh
if [[ -n "${VENV_DIR:-}" ]]; then
  python="$(cd "${root}" && cd "${VENV_DIR}/bin" 2>/dev/null && pwd || true)/python"
  [[ -x "${python}" ]] || { echo "error: VENV_DIR=${VENV_DIR}: no environment there; ./setup_env.sh makes it" >&2; exit 2; }
fi
[[ -x "${python}" ]] || python="$(command -v python3 || command -v python || true)"
[[ -n "${python}" ]] || { echo "error: no Python found; run ./setup_env.sh first" >&2; exit 2; }
export PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}"
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-true}" TRANSFORMERS_VERBOSITY="${TRANSFORMERS_VERBOSITY:-error}"
exec "${python}" -m common.test_model "$@"
