#!/usr/bin/env bash
# Makes .venv with what this machine can use, imports it, and names the next command. Safe to run again.
#
#   ./setup_env.sh                   NVIDIA GPU: verl with vLLM (about 4.6 GB); none: CPU builds (about 0.5 GB)
#   ./setup_env.sh --engine sglang   SGLang instead of vLLM; one engine per environment
#   ./setup_env.sh --cpu             the CPU builds, whatever the machine has
#   ./setup_env.sh --dev             also pytest, ruff and shellcheck
#   ./setup_env.sh --plan            only says what would be installed and how much would be downloaded
#   ./setup_env.sh --check           only shows what is there, missing, or of another version
#   ./setup_env.sh --here            into the active conda environment or venv instead of .venv
#   ./setup_env.sh --uv              installs with uv instead of pip
#
# For machines without internet:
#   ./setup_env.sh --bundle DIR      collects all wheels in DIR instead of installing, for this stack and this Python;
#                                    --part-size 60M cuts them into parts, --python 3.12 is for another Python
#   ./setup_env.sh --from DIR        installs from such a folder, with no network
#   --keep torch,transformers        with either: packages that the Python there has already and that stay as they are
#
# Settings, as environment variables:
#   PYTHON            the Python to make .venv from: 3.10, 3.11 or 3.12 (default: the first that works)
#   VENV_DIR          another folder than .venv; activate it before you run a script
#   TORCH_INDEX_URL   where the CPU build of torch comes from. Default on Linux: the PyTorch index, if it answers
#                     within 3 s. Empty: only the index that pip uses anyway, where torch may bring 3 GB of CUDA.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
unset PYTHONPATH PYTHONHOME  # would mix other packages into the new environment
PIP_VERSION=26.3             # half the time of the pip that comes with Python 3.11
MIN_DRIVER=580               # the GPU stacks are CUDA 13 builds
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

log() { printf '%s\n' "$@"; }
row() { printf '  %-14s %-40s %s\n' "$@"; }
die() { printf 'setup_env.sh: %s\n' "$*" >&2; exit 1; }
refuse() { printf 'setup_env.sh: %s; see ./setup_env.sh --help\n' "$*" >&2; exit 2; }

# ---- Options
mode=install engine="" cpu="" dev="" here="" installer=pip bundle="" keep="" part_size="" wanted_python=""
value() { [ -n "${2:-}" ] || refuse "$1 needs a value"; printf '%s' "$2"; }
while [ $# -gt 0 ]; do
    case "$1" in
        --engine)
            case "${2:-}" in vllm|sglang|none) ;; *) refuse "--engine takes vllm, sglang or none, not '${2:-}'" ;; esac
            [ -z "$engine" ] || [ "$engine" = "$2" ] || refuse "one engine per environment: vllm or sglang, not both"
            engine="$2"; shift ;;
        --cpu) cpu=1 ;;
        --dev) dev=dev ;;
        --here) here=1 ;;
        --bundle|--from) bundle="$(value "$@")" mode="${1#--}"; shift ;;
        --python) wanted_python="$(value "$@")"; shift ;;
        --keep) keep="$(value "$@")"; shift ;;
        --part-size) part_size="$(value "$@")"; shift ;;
        --uv) installer=uv ;;
        --plan|--check) mode="${1#--}" ;;
        -h|--help) sed -n '2,/^$/s/^# \{0,1\}//p' setup_env.sh; exit 0 ;;
        *) refuse "unknown option '$1'" ;;
    esac
    shift
done
[ "$engine" != none ] || { cpu=1 engine=""; }
[ -n "$bundle" ] || [ -z "$keep$part_size$wanted_python" ] ||
    refuse "--keep, --part-size and --python go with --bundle or --from"
[ "$mode" = bundle ] || [ -z "$part_size" ] || refuse "--part-size goes with --bundle"
[ -z "$here" ] || [ -z "$bundle" ] || refuse "--here does not go with --$mode"
[ -z "$wanted_python" ] || PYTHON="${PYTHON:-python$wanted_python}"
[ -z "$cpu" ] || [ -z "$engine" ] || refuse "--cpu and --engine $engine exclude each other"
[ "$installer" = pip ] || command -v uv > /dev/null || refuse "--uv: there is no uv on PATH"

# ---- The environment to fill
env_dir="${VENV_DIR:-.venv}"
if [ -n "$here" ]; then
    env_dir="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
    [ -n "$env_dir" ] || refuse "--here: no conda environment or venv is active; activate one, or leave --here out"
fi
env_python="$env_dir/bin/python" log_file="$env_dir/setup_env.log"
stamp="$env_dir/.setup_env"                  # written at the end: stack, checksum of the lists, dev or nothing
unfinished="$env_dir/.setup_env.unfinished"  # there while packages are being written
record="$env_dir/.setup_env.packages"        # all packages it installed, so that a later run notices a missing one
held_stack="" held_dev=""
[ ! -f "$stamp" ] || read -r held_stack _ held_dev < "$stamp" || true

# ---- The machine, and the stack for it
gpus="" gpu_problem=""
if command -v nvidia-smi > /dev/null; then
    gpus="$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>&1)" ||
        case "$gpus" in "No devices"*) gpus="" ;; *) gpu_problem="nvidia-smi fails: ${gpus%%$'\n'*}" gpus="" ;; esac
fi
gpu_names="${gpus//$'\n'/; }"
driver="$(sed -n '1s/.*, *//p' <<< "$gpus")"
driver_problem=""
if [ -n "$driver" ] && [ "${driver%%.*}" -lt "$MIN_DRIVER" ]; then
    driver_problem="NVIDIA driver $driver is too old for CUDA 13 builds, which need $MIN_DRIVER or newer"
fi
if [ "$mode" = from ]; then  # the stack that the bundle is for
    bundled="$(sed -n 's/^ "stack": "\(.*\)",$/\1/p' "$bundle/bundle.json" 2> /dev/null)" ||
        die "--from $bundle: no bundle.json in it; give the folder that --bundle made, with all its parts"
    [ -z "$cpu$engine" ] || [ "$cpu$engine" = "${bundled/cpu/1}" ] || die "--from $bundle: is for the $bundled stack"
    case "$bundled" in cpu) cpu=1 ;; *) engine="$bundled" ;; esac
fi
stack="${cpu:+cpu}$engine"                               # what was asked for,
[ -n "$stack" ] || stack="${held_stack:-${gpus:+vllm}}"  # else what is there already, else what the machine can use
case "${stack:=cpu}" in
    cpu) title="verl on the CPU build of torch" size="about 0.5 GB" disk_gb=5 ;;
    vllm) title="verl with vLLM" size="about 4.6 GB" disk_gb=17 ;;
    sglang) title="verl with SGLang" size="about 4.8 GB" disk_gb=17 ;;
esac
lists=("requirements/$stack.txt")
if [ -n "$dev$held_dev" ]; then dev=dev lists+=(requirements/dev.txt); fi
stamp_text="$stack $(cat requirements.txt requirements/*.txt | cksum | tr ' ' -) $dev"
free_gb="$({ df -Pk "$(dirname "$env_dir")" 2> /dev/null || df -Pk .; } | awk 'END {print int($4 / 1000000)}')"

# ---- Python: 3.11 without a GPU; with one 3.12, as in verl's own installation; else what there is
version_of() {  # version_of <python> [make]: prints 3.11, say, if it runs (and can make environments)
    "$1" -c "import sys${2:+, venv, ensurepip}; print('%d.%d' % sys.version_info[:2])" 2> /dev/null || true
}
make=make candidates=(python3.12 python3.11 python3.10 python3 python)
[ "$stack" != cpu ] || candidates=(python3.11 "${candidates[@]}")
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
if [ "$mode" != bundle ] && { [ -n "$here" ] || { [ ! -f "$unfinished" ] && [ -n "$(version_of "$env_python")" ]; }; }; then
    make="" candidates=("$env_python")
fi
python="" version="" seen=""
for candidate in "${candidates[@]}"; do
    command -v "$candidate" > /dev/null || continue
    version="$(version_of "$candidate" "$make")"
    case "$version" in 3.10|3.11|3.12) python="$(command -v "$candidate")"; break ;; esac
    seen="$seen $candidate (${version:-does not work}),"
done
no_python="Python 3.10, 3.11 or 3.12 with the module venv is needed, found:${seen:- none,} so "
if [ -n "$make" ]; then no_python+="install one or name it: PYTHON=/path/to/python3.11 ./setup_env.sh"
else no_python+="remove $env_dir or use another one"; fi

# ---- --check: a table, status 1 when something has to be done
if [ "$mode" = check ]; then
    status=0
    row part found status
    if [ -n "$python" ]; then row python "$version, $python" ok; else row python - "$no_python"; status=1; fi
    if [ -z "$make" ] && [ ! -f "$unfinished" ]; then row environment "$env_dir${held_stack:+, $held_stack stack}" ok
    else row environment "$env_dir" "missing or unfinished, run ./setup_env.sh"; lists=() record="" status=1; fi
    if [ -n "$gpu_problem" ]; then row GPU - "$gpu_problem"; status=1; fi
    while IFS= read -r gpu; do row GPU "${gpu:-none}" "${driver_problem:-ok}"; done <<< "$gpus"
    [ ! -f "$record" ] || lists+=("$record")
    [ -z "$python" ] || "$python" requirements/check.py table ${lists[@]+"${lists[@]}"} --machine "$disk_gb" || status=1
    exit "$status"
fi

# ---- What stands in the way
[ -n "$python" ] || die "$no_python"
[ -z "$wanted_python" ] || [ "$wanted_python" = "$version" ] ||
    die "--python $wanted_python: $python is Python $version; name the right one: PYTHON=/path/to/python$wanted_python"
if [ -z "$make" ]; then
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$version" ] ||
        die "$env_dir has Python $version, and PYTHON=$PYTHON is another one; remove $env_dir or leave PYTHON out"
    packages="$env_dir/lib/python*/site-packages"
    case "$stack" in  # the other engine, perhaps put there by hand
        vllm) ! compgen -G "$packages/sglang" > /dev/null || held_stack=sglang ;;
        sglang) ! compgen -G "$packages/vllm" > /dev/null || held_stack=vllm ;;
    esac
    [ -z "$held_stack" ] || [ "$held_stack" = "$stack" ] ||
        die "$env_dir holds the $held_stack stack, one environment takes one; remove $env_dir or set VENV_DIR"
fi
[ -z "$gpu_problem" ] || [ -n "$cpu$engine$held_stack" ] ||
    die "$gpu_problem. Repair the driver, or say what to install: --cpu or --engine vllm"
if [ "$stack" != cpu ]; then
    [ "$(uname -sm)" = "Linux x86_64" ] || die "the GPU stacks are for x86-64 Linux, this is $(uname -sm); use --cpu"
    [ -z "$driver_problem" ] || [ -n "$engine" ] || die "$driver_problem; update it, or use --cpu"
    [ -z "${TORCH_INDEX_URL:-}" ] || log "TORCH_INDEX_URL is for the CPU stack and has no effect on $stack"
fi

# ---- A finished environment: nothing to do
if [ -z "$make" ] && [ ! -f "$unfinished" ] && [ -f "$record" ] && [ "$(cat "$stamp" 2> /dev/null)" = "$stamp_text" ] &&
    packages="$("$python" requirements/check.py table "${lists[@]}" "$record")"; then
    log "$env_dir is ready, nothing to install: $title, Python $version" "$packages" "Next: ./grpo/train.sh"
    exit 0
fi

# ---- The plan
index="" torch_from="the package index"
if [ "$mode" = from ]; then
    torch_from="$bundle"
elif [ "$stack" = cpu ]; then
    if [ -n "${TORCH_INDEX_URL+set}" ]; then
        index="$TORCH_INDEX_URL"
        [ -z "$index" ] || "$python" requirements/check.py answers "$index" ||
            die "TORCH_INDEX_URL=$index does not answer, or has no torch"
    elif [ "$(uname -s)" = Linux ] && "$python" requirements/check.py answers "$TORCH_CPU_INDEX"; then
        index="$TORCH_CPU_INDEX"
    fi
    torch_from="${index:-$torch_from}"
    [ -n "$index" ] || [ "$(uname -s)" != Linux ] || size+=", or 3 GB if pip finds only CUDA builds (TORCH_INDEX_URL)"
fi
log "$env_dir: $title, Python $version ($python)"
log "  lists     ${lists[*]}"
log "  GPU       ${gpu_names:-none}"
log "  torch     from $torch_from"
log "  download  $size"
log "  disk      needs $disk_gb GB, $free_gb GB are free"
[ "$mode" != plan ] || exit 0
if [ "$mode" = bundle ]; then
    exec "$python" requirements/bundle.py make "$bundle" --stack "$stack" --lists "${lists[@]}" --keep "$keep" \
        ${part_size:+--part-size "$part_size"} ${index:+--extra-index "$index"}
fi
[ -n "$keep" ] || [ -z "$make" ] || [ "$free_gb" -ge "$disk_gb" ] || die "too little disk space; make room, or set VENV_DIR"

# ---- Installing. Each step writes to the log; a terminal shows its newest line.
step() {  # step <what it does> <command...>
    local message="$1" status=0
    shift
    log "$message ..."
    if [ -t 1 ]; then
        "$@" 2>&1 | tee -a "$log_file" | while IFS= read -r line; do
            printf '\r\033[K    %.75s' "$line"
        done || status=$?
        printf '\r\033[K'
    else
        "$@" >> "$log_file" 2>&1 || status=$?
    fi
    [ "$status" -ne 0 ] || return 0
    tail -n 15 "$log_file" >&2
    [ -n "$make$was_unfinished" ] || rm -f "$unfinished"  # pip has put back what it had
    die "$message failed; the lines above end $log_file. Run it again when the cause is gone"
}
was_unfinished="$([ ! -f "$unfinished" ] || echo yes)"
trap 'echo; die "interrupted; run it again, it repairs what is half done"' INT
if [ -n "$make" ]; then
    if [ -d "$env_dir" ] && [ ! -f "$env_dir/pyvenv.cfg" ] && [ ! -f "$unfinished" ]; then
        rmdir "$env_dir" 2> /dev/null || die "$env_dir is there and is no environment; remove it, or set VENV_DIR"
    fi
    mkdir -p "$env_dir"
fi
exec 9>> "$unfinished"  # held open by pip too, so a pip that outlives this script keeps the lock
! command -v flock > /dev/null || flock -n 9 || die "another setup_env.sh is filling $env_dir; wait for it"
if [ -n "$make" ]; then
    # A half-written package looks like an installed one, so an unfinished environment is made anew.
    find "$env_dir" -mindepth 1 -maxdepth 1 ! -name "${unfinished##*/}" -exec rm -rf {} +
    step "[1/4] making $env_dir" "$python" -m venv "$env_dir"
fi
if [ "$mode" = from ]; then
    wheels="$env_dir/.wheels"
    rm -rf "$wheels"
    step "[1/4] checking $bundle" "$python" requirements/bundle.py join "$bundle" "$wheels" --keep "$keep"
    # Packages that stay are found behind those of this environment, in the Python that it was made from.
    [ -z "$keep" ] || "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
        "$("$env_python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/kept.pth"
    install=("$env_python" -m pip install --no-input --no-compile --no-index --no-deps --disable-pip-version-check)
    lists=()
    install+=("$wheels"/*.whl)
elif [ "$installer" = uv ]; then
    install=(uv pip install --python "$env_python" --index-strategy unsafe-best-match)
else
    install=("$env_python" -m pip install --no-input --no-compile --progress-bar off --disable-pip-version-check)
    [ -n "$here" ] || "${install[@]}" "pip==$PIP_VERSION" >> "$log_file" 2>&1 || log "pip $PIP_VERSION cannot be had"
fi
[ -z "$index" ] || install+=(--extra-index-url "$index")
[ "$stack" != sglang ] || install+=(--no-deps)  # why: requirements/sglang.txt
[ -n "$make" ] || [ -z "$was_unfinished" ] || install+=(--force-reinstall)
for list in ${lists[@]+"${lists[@]}"}; do install+=(-r "$list"); done
step "[2/4] downloading and installing" "${install[@]}"
[ "$mode" != from ] || rm -rf "$wheels"

# pip would compile file after file; this uses all cores and leaves out what few runs load. A file that no Python of
# this version can read is no failure.
seldom='/(tests?|testing|sympy|networkx|fontTools|virtualenv|modelscope|pip)/|/transformers/models/'
site="$("$env_python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
compile() { "$env_python" -m compileall -q -j 0 -x "$seldom" "$site" || true; }
step "[3/4] compiling" compile

log "[4/4] importing ..."
imports=("$env_python" requirements/check.py imports)
[ -z "$gpus" ] || [ "$stack" = cpu ] || imports+=(--gpu)
env -u PYTHONDONTWRITEBYTECODE "${imports[@]}" 2>> "$log_file" || {
    tail -n 15 "$log_file" >&2
    die "the environment does not work; the lines above end $log_file"
}
echo "$stamp_text" > "$stamp"
"$env_python" requirements/check.py record "$record"
rm -f "$unfinished"
log "Ready in $SECONDS s. Next: ./grpo/train.sh"
