# shellcheck shell=bash
# The Python of the kit, for train.sh, test.sh and serve.sh. Sourced, never run.

die() { printf 'error: %s\n' "$*" >&2; exit 2; }

# Outputs: the Python that has verl, to stdout: VENV_DIR's (with another engine, say), else that of an active environment
# that setup_env.sh has filled, else .venv, else the active environment. The current folder must be the kit's.
find_python() {
  local python="${PWD}/.venv/bin/python" active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
  if [[ -n "${VENV_DIR:-}" ]]; then
    [[ -x "${VENV_DIR}/bin/python" ]] || die "VENV_DIR=${VENV_DIR}: no environment there; ./setup_env.sh makes it"
    (cd "${VENV_DIR}/bin" && printf '%s/python\n' "${PWD}")
    return
  fi
  [[ -z "${active}" || ! -f "${active}/.setup_env" ]] || python="${active}/bin/python"
  [[ -x "${python}" ]] || python="$(command -v python3 || command -v python || true)"
  [[ -n "${python}" ]] || die "no Python found; run ./setup_env.sh first"
  printf '%s\n' "${python}"
}
