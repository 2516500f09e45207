#!/usr/bin/env bash
# Use a trained model: OpenAI's API on this machine, for chat pages, scripts and other programs.
#
#   ./serve.sh outputs/RUN                 # http://127.0.0.1:8000/v1, the model's name is RUN
#   ./serve.sh outputs/RUN demo            # two models side by side, each by its name
#   ./serve.sh --help                      # every option; docs/serving.md explains them
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=common/find_python.sh
source "${root}/common/find_python.sh"
python="$(cd "${root}" && find_python)"
export PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}"
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-true}" TRANSFORMERS_VERBOSITY="${TRANSFORMERS_VERBOSITY:-error}"
exec "${python}" -m common.serving "$@"
