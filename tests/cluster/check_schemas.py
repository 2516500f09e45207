"""Read cluster/*.yaml and docker/compose.yaml against the schemas of their readers; unknown fields are errors.

    .venv/bin/python tests/cluster/check_schemas.py                     # compose, pods, SkyPilot; about 2 minutes
    kubectl get crd rayjobs.ray.io pytorchjobs.kubeflow.org -o yaml >crds.yaml
    .venv/bin/python tests/cluster/check_schemas.py --crds crds.yaml    # also the operators' own definitions

The schemas come with packages from PyPI, installed in temporary environments: check-jsonschema has compose's,
kubernetes-validate those of Kubernetes, skypilot its own. The operators' definitions (1 MB each) are in no package.
"""

import argparse
import copy
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"files": ("check-jsonschema==0.39.0", "kubernetes-validate==1.37.0"), "sky": ("skypilot==0.14.1",)}
INSIDE = "KIT_SCHEMAS_ENVIRONMENT"


def with_own_environment(part: str) -> int:
    """Make the environment of one part and run this file in it; the two do not fit into one."""
    with tempfile.TemporaryDirectory(prefix="kit-schemas-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = f"{folder}/bin/python"
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[part]], check=True)
        environment = {**os.environ, INSIDE: folder, "HOME": folder}  # SkyPilot writes into the home folder
        return subprocess.run([python, __file__, "--part", part, *sys.argv[1:]], env=environment).returncode


def check_compose() -> None:
    file = str(ROOT / "docker/compose.yaml")
    subprocess.run(
        [f"{os.environ[INSIDE]}/bin/check-jsonschema", "--builtin-schema", "vendor.compose-spec", file], check=True
    )


def load(name: str) -> dict:
    import yaml

    return yaml.safe_load((ROOT / "cluster" / name).read_text())


def check_pods() -> None:
    import kubernetes_validate

    job, ray = load("pytorchjob.yaml")["spec"], load("rayjob.yaml")["spec"]["rayClusterSpec"]
    templates = [replica["template"] for replica in job["pytorchReplicaSpecs"].values()]
    templates += [group["template"] for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"])]
    version = kubernetes_validate.latest_version()
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **copy.deepcopy(template)}
        kubernetes_validate.validate(pod, version, strict=True)
    print(f"ok: {len(templates)} pods, Kubernetes {version}")


def check_sky() -> None:
    import sky

    task = sky.Task.from_yaml(str(ROOT / "cluster/skypilot.yaml"))
    assert task.num_nodes == 2 and task.run and task.setup and task.volumes
    print(f"ok: skypilot.yaml, SkyPilot {sky.__version__}")


def strict(schema):
    """The schema with unknown fields refused, as `kubectl apply` does it, and Kubernetes' own types put into words."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    closed = isinstance(found.get("properties"), dict) and "additionalProperties" not in found
    if closed and not found.get("x-kubernetes-preserve-unknown-fields"):
        found["additionalProperties"] = False
    return found


def check_crds(file: Path) -> None:
    import jsonschema
    import yaml

    documents = [document for document in yaml.safe_load_all(file.read_text()) if document]
    read = [one for document in documents for one in document.get("items", [document])]
    crds = {crd["spec"]["names"]["kind"]: crd for crd in read}
    for name in ("pytorchjob.yaml", "rayjob.yaml"):
        content = load(name)
        crd = crds[content["kind"]]
        group, version = content["apiVersion"].split("/")
        assert crd["spec"]["group"] == group
        (one,) = [found for found in crd["spec"]["versions"] if found["name"] == version]
        schema = strict(one["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        jsonschema.validate(content, schema)
        print(f"ok: {name}, the operator's own definition")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crds", type=Path, help="definitions from your cluster")
    parser.add_argument("--part", choices=PACKAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if INSIDE not in os.environ:
        return max([with_own_environment(part) for part in PACKAGES])
    if arguments.part == "sky":
        check_sky()
        return 0
    check_compose()
    check_pods()
    if arguments.crds:
        check_crds(arguments.crds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
