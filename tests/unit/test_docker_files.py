"""The files in docker/: what is written there by hand agrees with what the kit pins, and opens nothing to others."""

import re

import pytest
import yaml

from tests.conftest import ROOT
from tests.docker.dockerfile import context, ignored, patterns, steps

DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def test_both_images_are_there():
    assert [path.name for path in DOCKERFILES] == ["Dockerfile", "Dockerfile.cpu"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_a_user_of_its_own_and_names_its_base_exactly(path):
    found = steps(path)
    users = [step.text for step in found if step.instruction == "USER"]
    assert users and users[-1] not in ("root", "0")
    assert not any(step.instruction == "RUN" for step in found[found.index(("COPY", "--chown=kit:kit . .")) :])
    base = next(step.text for step in found if step.instruction == "FROM")
    base = next((step.text.removeprefix("BASE=") for step in found if step.text.startswith("BASE=")), base)
    assert re.fullmatch(r"[\w/]+:[\w.-]+", base) and not base.endswith("latest")


def test_the_gpu_image_has_the_vllm_that_the_kit_pins():
    major, minor = re.search(r"^vllm==(\d+)\.(\d+)", (ROOT / "requirements/vllm.txt").read_text(), re.M).groups()
    (base,) = re.findall(r"^ARG BASE=verlai/verl:vllm(\d+)\.", DOCKERFILES[0].read_text(), re.M)
    assert base == f"{major}{minor}"


def test_no_port_is_published_beyond_this_machine():
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    assert [name for name, service in SERVICES.items() if service.get("network_mode") == "host"] == ["train"]


def test_services_are_given_little_and_the_monitor_less():
    for service in SERVICES.values():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert service["init"] is True and not service.get("privileged")
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert all(volume.endswith(":ro") for volume in SERVICES["monitor"]["volumes"])
    assert SERVICES["monitor"]["healthcheck"]["test"][0] == "CMD"
    started = [name for name, service in SERVICES.items() if not service.get("profiles")]
    assert started == ["monitor"], "a plain `up` must start no training"


def test_secrets_runs_and_environments_stay_out_of_an_image():
    left_out = patterns(ROOT)
    for path in (
        ".env",
        ".git/config",
        "outputs/run/model/a",
        ".venv/bin/python",
        ".venv-vllm-cpu/x",
        "a/__pycache__/b",
    ):
        assert ignored(path, left_out), path
    for path in ("grpo/train.sh", "monitor/app.py", "requirements/lock.txt", "common/demo_model/model/config.json"):
        assert not ignored(path, left_out), path
    inside = context(ROOT)
    assert {"setup_env.sh", "requirements.txt", "common/launch.sh"} <= set(inside)
    assert not any(path.startswith(("tests/", "outputs/")) for path in inside)


def test_steps_joins_lines_and_refuses_what_it_does_not_know(tmp_path):
    path = tmp_path / "Dockerfile"
    path.write_text("# note\nRUN one \\\n  # inside\n  && two\nCMD x\n")
    assert steps(path) == [("RUN", "one && two"), ("CMD", "x")]
    path.write_text("ADD a b\n")
    with pytest.raises(AssertionError, match="ADD is not known"):
        steps(path)
