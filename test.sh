#!/usr/bin/env bash
# Is the model better? Talk to it, or ask it a file of questions and get an Excel file with scores.
#
#   ./test.sh --model_path outputs/RUN                            # chat
#   ./test.sh --model_path outputs/RUN --batch --greedy           # the run's validation file into an Excel file
#   ./test.sh --model_path outputs/RUN --compare demo --batch --input_file questions.json --output_file results.xlsx
#   ./test.sh --help                                              # every option; docs/evaluation.md explains them
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=common/find_python.sh
source "${root}/common/find_python.sh"
python="$(cd "${root}" && find_python)"
export PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}"
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-true}" TRANSFORMERS_VERBOSITY="${TRANSFORMERS_VERBOSITY:-error}"
exec "${python}" -m common.test_model "$@"
