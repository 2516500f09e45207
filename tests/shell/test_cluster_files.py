"""cluster/: short files over the same train.sh. Stand-ins for ssh, srun and scontrol show what each machine is told."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from tests.conftest import ROOT

REPORT = """#!/usr/bin/env bash
# stand-in for a train.sh: writes what it was started with
MODEL_PATH="${MODEL_PATH:-demo}"
TOTAL_STEPS="${TOTAL_STEPS:-auto}"
NNODES="${NNODES:-1}"
rank="${NODE_RANK:-${SLURM_NODEID:-}}"
mkdir -p "${OUTPUTS_DIR}"
printf '%s\\n' "$PWD" "${NNODES}" "${MASTER_ADDR}" "${MASTER_PORT}" "${MODEL_PATH}" "${EXPERIMENT_NAME:-}" \\
  "${RAY_ADDRESS:-none}" "$@" >"${OUTPUTS_DIR}/${rank}.txt"
echo "hello of ${rank}"
if [[ -n "${WAIT_HERE:-}" ]]; then
  trap 'echo stopped of ${rank}; exit 130' TERM
  touch "${OUTPUTS_DIR}/up.${rank}"
  while :; do sleep 0.1; done
fi
if [[ "${MODEL_PATH}" == "fails on ${rank}" ]]; then exit 7; fi
"""
SSH = """#!/usr/bin/env bash
# stand-in for ssh -n -o BatchMode=yes HOST COMMAND: another home, another folder, this machine
[[ "$1 $2 $3" == "-n -o BatchMode=yes" ]] || exit 255
mkdir -p "${HOMES}/$4"
cd "${HOMES}/$4" && HOME="${PWD}" exec env -u MODEL_PATH -u OUTPUTS_DIR -u NNODES bash -c "$5"
"""
SRUN = """#!/usr/bin/env bash
# stand-in for srun: the command once for each machine of the job
while [[ "$1" == --* ]]; do printf '%s\\n' "$1" >>"${OUTPUTS_DIR}.srun"; shift; done
for rank in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do SLURM_NODEID="${rank}" "$@"; done
"""
SCONTROL = "#!/usr/bin/env bash\n[[ $* == 'show hostnames gpu[07-08]' ]] && printf 'gpu07\\ngpu08\\n'\n"


@pytest.fixture
def kit(tmp_path):
    """A kit with spaces in its path whose scripts only report; stand-ins first on PATH."""
    folder = tmp_path / "my kit"
    shutil.copytree(ROOT / "cluster", folder / "cluster")
    files = {
        "grpo/train.sh": REPORT,
        "bin/ssh": SSH,
        "bin/srun": SRUN,
        "bin/scontrol": SCONTROL,
        "common/launch.sh": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def start(kit, *command, **settings):
    environment = {"PATH": f"{kit}/bin:{os.environ['PATH']}", "HOMES": f"{kit}/homes", "OUTPUTS_DIR": f"{kit}/out"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=kit, env=environment | settings, stdout=pipe, stderr=pipe, text=True)


def told(kit):
    return {path.stem: path.read_text().splitlines() for path in (kit / "out").glob("*.txt")}


def test_ssh_starts_the_script_on_each_machine_with_its_place_and_the_knobs(kit):
    run = start(kit, "cluster/ssh.sh", "grpo/train.sh", "a.b=x y", HOSTS="me@gpu1 gpu2", MODEL_PATH="/a model's/$HOME")
    out, err = run.communicate(timeout=60)
    expected = [str(kit), "2", "gpu1", "29500", "/a model's/$HOME", "", "none", "a.b=x y"]
    assert run.returncode == 0, err
    assert told(kit) == {"0": expected, "1": expected}
    assert sorted(out.splitlines()) == ["[gpu2] hello of 1", "[me@gpu1] hello of 0"]


def test_ssh_ends_as_the_machine_that_failed(kit):
    run = start(kit, "cluster/ssh.sh", "grpo/train.sh", HOSTS="gpu1 gpu2", MODEL_PATH="fails on 1")
    run.communicate(timeout=60)
    assert run.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_ssh_sh_stops_every_machine(kit, number):
    script = kit / "grpo/train.sh"
    script.write_text(script.read_text().replace("${WAIT_HERE:-}", "yes"))
    run = start(kit, "cluster/ssh.sh", "grpo/train.sh", HOSTS="gpu1 gpu2")
    until = time.monotonic() + 60
    while len(list((kit / "out").glob("up.*"))) < 2:
        assert time.monotonic() < until and run.poll() is None
        time.sleep(0.05)
    run.send_signal(number)
    out, _ = run.communicate(timeout=60)
    assert {"[gpu1] stopped of 0", "[gpu2] stopped of 1"} <= set(out.splitlines())
    assert run.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "settings", "word"),
    [
        ([], {"HOSTS": "a b"}, "'': name a train.sh"),
        (["nothing.sh"], {"HOSTS": "a b"}, "'nothing.sh': name a train.sh"),
        (["grpo/train.sh"], {"HOSTS": "a"}, "HOSTS='a'"),
        (["grpo/train.sh"], {"HOSTS": "a b", "OUTPUTS_DIR": "outputs"}, "OUTPUTS_DIR='outputs'"),
    ],
)
def test_ssh_says_what_is_missing_and_reaches_nobody(kit, arguments, settings, word):
    run = start(kit, "cluster/ssh.sh", *arguments, **settings)
    _, err = run.communicate(timeout=60)
    assert (run.returncode, word in err, (kit / "homes").exists()) == (2, True, False), err


SLURM = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "4711", "RAY_ADDRESS": "auto"}


def test_slurm_starts_one_launcher_on_each_machine(kit, tmp_path):
    spool = shutil.copy(kit / "cluster/slurm.sbatch", tmp_path / "slurm_script")  # as slurmd runs it
    run = start(kit, "bash", spool, "grpo/train.sh", "a=b", **SLURM, SLURM_SUBMIT_DIR=str(kit), MODEL_PATH="m")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    expected = [str(kit), "2", "gpu07", "25133", "m", "slurm-4711", "none", "a=b"]  # 20000 + 4711 % 3000 * 3
    assert told(kit) == {"0": expected, "1": expected}
    assert {"--ntasks-per-node=1", "--kill-on-bad-exit=0"} <= set((kit / "out.srun").read_text().splitlines())


def test_slurm_in_another_folder_says_so(kit, tmp_path):
    run = start(kit, "bash", kit / "cluster/slurm.sbatch", "grpo/train.sh", **SLURM, SLURM_SUBMIT_DIR=str(tmp_path))
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2 and "submit in the kit's folder" in err


# ---- Kubernetes and SkyPilot; tests/cluster/check_schemas.py reads their whole schemas ----


def documents(name):
    return yaml.safe_load((ROOT / "cluster" / name).read_text())


def pods(name):
    spec = documents(name)["spec"]
    if name == "pytorchjob.yaml":
        return [replica["template"]["spec"] for replica in spec["pytorchReplicaSpecs"].values()]
    cluster = spec["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", ["pytorchjob.yaml", "rayjob.yaml"])
def test_pods_share_outputs_have_shared_memory_and_are_not_root(name):
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] == 1000
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert "persistentVolumeClaim" in volumes[mounts["/shared"]]
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_the_training_operator_finds_its_container_and_restarts_resume():
    job = documents("pytorchjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    for pod in pods("pytorchjob.yaml"):
        container = pod["containers"][0]
        variables = {one["name"]: one["value"] for one in container["env"]}
        assert container["name"] == "pytorch"  # PyTorchJobDefaultContainerName: MASTER_PORT comes from its port
        assert (ROOT / container["command"][0]).is_file()
        assert variables["EXPERIMENT_NAME"] and variables["OUTPUTS_DIR"].startswith("/shared/")
        assert "NNODES" not in variables, "PET_NNODES is the operator's, and right when replicas change"


def test_the_ray_job_joins_as_many_machines_as_there_are_pods():
    job = documents("rayjob.yaml")
    spec = job["spec"]
    words = spec["entrypoint"].split()
    settings = dict(word.split("=", 1) for word in words[1:-1])
    workers = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (job["apiVersion"], job["kind"], words[0]) == ("ray.io/v1", "RayJob", "env")
    assert int(settings["NNODES"]) == 1 + sum(group["replicas"] for group in workers)
    assert all(group["minReplicas"] == group["replicas"] == group["maxReplicas"] for group in workers)
    assert settings["N_GPUS"] == "8" and settings["OUTPUTS_DIR"].startswith("/shared/") and settings["EXPERIMENT_NAME"]
    assert (ROOT / words[-1].removeprefix("/kit/")).is_file()
    assert f"\nray=={spec['rayClusterSpec']['rayVersion']} " in (ROOT / "requirements/lock.txt").read_text()
    assert int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60


def test_skypilot_runs_the_script_with_the_place_that_sky_gives(kit):
    task = documents("skypilot.yaml")
    for rank in "01":
        sky = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": rank, "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n"}
        envs = task["envs"] | sky | {"OUTPUTS_DIR": f"{kit}/out", "RAY_ADDRESS": "127.0.0.1:6380"}
        run = start(kit, "bash", "-c", task["run"], **envs)
        assert run.wait(60) == 0
    expected = [str(kit), "2", "10.0.0.1", "29500", "demo", "sky-run", "none"]
    assert told(kit) == {"0": expected, "1": expected}
    assert task["num_nodes"] == 2 and json.dumps(task["envs"]["OUTPUTS_DIR"]).startswith('"/shared')
    assert "/shared" in task["volumes"]
