#!/usr/bin/env bash
# Use a trained model: OpenAI's API on this machine, for chat pages, scripts and other programs.
#
#   ./serve.sh outputs/RUN                 # http://127.0.0.1:8000/v1, the model's name is RUN
#   ./serve.sh outputs/RUN demo            # two models side by side, each by its name
#   ./serve.sh --help                      # every option; docs/serving.md explains them
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
exec "${python}" -m common.serving "$@"
