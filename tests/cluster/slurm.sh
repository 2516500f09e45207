#!/usr/bin/env bash
# A Slurm of two machines on this one, and a training that cluster/slurm.sbatch starts over both of them.
#
#   sudo tests/cluster/slurm.sh [sft/train.sh key=value ...]        # knobs from the environment; default: SFT of the demo, 2 steps
#
# Needs root and Debian's slurm-wlm and munge. Everything lives in namespaces (processes, network, mounts) and a folder of
# /tmp, and goes with them; no service of this machine is touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ "${1:-}" != --inside ]]; then
  for program in slurmctld slurmd sbatch munged unshare; do
    command -v "${program}" >/dev/null || { echo "error: no ${program}; apt-get install slurm-wlm munge" >&2; exit 2; }
  done
  work="$(mktemp -d /tmp/kit-slurm-XXXXXX)"
  trap 'rm -rf "${work}"' EXIT
  status=0
  unshare --mount --net --uts --pid --fork --kill-child --mount-proc --propagation private bash "$0" --inside "${work}" "$@" || status=$?
  exit "${status}"
fi
work="$2"
shift 2
ip link set lo up
# Slurm's getaddrinfo wants an address that is not loopback
ip link add wire type veth peer name end
ip addr add 10.77.0.1/24 dev wire
ip addr add 10.77.0.2/24 dev wire
ip link set wire up
ip link set end up
hostname n1
chmod 755 "${work}"  # munge refuses a socket that not all can reach
mkdir "${work}"/{state,spool,outputs}
printf '127.0.0.1 localhost\n10.77.0.1 n1\n10.77.0.2 n2\n' >"${work}/hosts"
mount --bind "${work}/hosts" /etc/hosts
dd if=/dev/urandom of="${work}/munge.key" bs=64 count=1 status=none
chmod 400 "${work}/munge.key"
cat >"${work}/slurm.conf" <<CONF
ClusterName=kit
SlurmctldHost=n1(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=${work}/munge.socket
StateSaveLocation=${work}/state
SlurmdSpoolDir=${work}/spool/%n
SlurmdPidFile=${work}/slurmd-%n.pid
SlurmctldPidFile=${work}/slurmctld.pid
SlurmdLogFile=${work}/slurmd-%n.log
SlurmctldLogFile=${work}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=n1 NodeHostname=n1 NodeAddr=10.77.0.1 Port=17001 CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname=n1 NodeAddr=10.77.0.2 Port=17002 CPUs=1 State=UNKNOWN
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="${work}/slurm.conf"
munged --force --foreground --key-file="${work}/munge.key" --socket="${work}/munge.socket" --pid-file="${work}/munge.pid" \
  --seed-file="${work}/munge.seed" --log-file="${work}/munge.log" --origin=127.0.0.1 >/dev/null 2>&1 &
until [[ -S "${work}/munge.socket" ]]; do sleep 0.1; done
slurmctld -D -f "${SLURM_CONF}" >/dev/null 2>&1 &
for node in n1 n2; do slurmd -D -N "${node}" -f "${SLURM_CONF}" >"${work}/slurmd.${node}.out" 2>&1 & done
for _ in $(seq 60); do
  if [[ "$(sinfo -h -o %T 2>/dev/null)" == idle ]]; then break; fi
  sleep 1
done
sinfo -N -o '%N %T' || { cat "${work}"/slurmctld.log "${work}"/slurmd*; exit 1; }

if [[ $# -eq 0 ]]; then set -- sft/train.sh; fi
export OUTPUTS_DIR="${work}/outputs" DEVICE="${DEVICE:-cpu}" N_GPUS="${N_GPUS:-1}" TOTAL_STEPS="${TOTAL_STEPS:-2}"
export USE_WANDB=false EXPERIMENT_NAME=by-slurm
status=0
# No GPUs here; all else is as the file has it
sbatch --wait --gpus-per-node=0 --output="${work}/job.out" cluster/slurm.sbatch "$@" || status=$?
cat "${work}/job.out"
if [[ "${status}" -ne 0 ]]; then
  tail -n 20 "${work}"/slurmctld.log "${work}"/slurmd*.log
  exit "${status}"
fi
grep -q '"state": *"finished"' "${work}/outputs/by-slurm/run.json"
shards="$(find "${work}/outputs/by-slurm/checkpoints" -name 'model_world_size_2_rank_*.pt' | wc -l)"
if [[ "${shards}" -lt 2 ]]; then echo "error: ${shards} shards of 2 machines" >&2; exit 1; fi
echo "slurm: $* ran on 2 machines (${shards} shards), ${SECONDS} s"
