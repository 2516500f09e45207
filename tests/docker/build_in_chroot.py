"""Carry out the steps of docker/Dockerfile.cpu without Docker, in a Debian made by debootstrap, and use what they make.

    sudo .venv/bin/python tests/docker/build_in_chroot.py            # about 8 minutes, 3 GB in /tmp, removed at the end

Needs root, debootstrap and a network with Debian's and Python's packages. After the steps the image's user trains two
steps of SFT, and the monitor of docker/compose.yaml starts and passes its healthcheck. What Docker adds (layers,
cgroups, its network) is not tried.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.docker.dockerfile import Step, context, steps  # noqa: E402

IMAGES = {"debian:bookworm-slim": "bookworm"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Image:
    """A root file system, and the state that instructions leave for later ones."""

    def __init__(self, root: Path):
        self.root = root
        self.user, self.workdir, self.command = "root", "/", []
        self.environment = {"PATH": PATH}
        self.arguments = {"DEBIAN_FRONTEND": "noninteractive"}
        self.helpers: dict[str, str] = {}

    def apply(self, step: Step) -> None:
        print(f"== {step.instruction} {step.text}", flush=True)
        getattr(self, f"_{step.instruction.lower()}")(step.text)

    def _from(self, text: str) -> None:
        subprocess.run(["debootstrap", "--variant=minbase", IMAGES[text], str(self.root)], check=True, stdout=2)
        for kind in ("proc", "dev"):
            subprocess.run(["mount", "--rbind", f"/{kind}", str(self.root / kind)], check=True)
        for name in ("resolv.conf", "hosts"):
            if os.path.exists(f"/etc/{name}"):
                shutil.copy(f"/etc/{name}", self.root / "etc" / name)
        self._use_pip_of_host()

    def _use_pip_of_host(self) -> None:
        """The host's settings of pip; files and folders that they name are seen under /mnt."""
        for name, value in os.environ.items():
            if name.lower().endswith("_proxy"):
                self.helpers[name] = value
            if not name.startswith("PIP_") or name == "PIP_CONFIG_FILE":
                continue
            if os.path.exists(value):
                target = self.root / "mnt" / name.lower()
                target.mkdir() if os.path.isdir(value) else target.touch()
                subprocess.run(["mount", "--bind", value, str(target)], check=True)
                value = f"/mnt/{name.lower()}"
            self.helpers[name] = value

    def _shell(self, text: str) -> None:
        assert text == '["/bin/bash", "-o", "pipefail", "-c"]', text

    def _arg(self, text: str) -> None:
        name, _, value = text.partition("=")
        self.arguments[name] = value

    def _env(self, text: str) -> None:
        for pair in shlex.split(text):
            name, _, value = pair.partition("=")
            self.environment[name] = value.replace("${PATH}", self.environment["PATH"])

    def _user(self, text: str) -> None:
        self.user = self.arguments["UID"] if text == "${UID}" else text

    def _workdir(self, text: str) -> None:
        (self.root / text.lstrip("/")).mkdir(exist_ok=True)
        self.workdir = text

    def _expose(self, text: str) -> None:
        assert text == "7860"

    def _cmd(self, text: str) -> None:
        self.command = text

    def _run(self, text: str) -> None:
        done = self.start(text, **self.arguments).wait()
        if done:
            sys.exit(f"RUN {text}: status {done}")

    def _copy(self, text: str) -> None:
        owner, *sources, target = text.removeprefix("--chown=").split()
        made = set()
        for name in context(ROOT):
            for source in sources:
                inside = name if source == "." else name[len(source) :].lstrip("/")
                if source == "." or name == source or name.startswith(f"{source}/"):
                    goal = Path(target) / (inside or name)
                    made.add(self._place(name, goal))
        assert made, f"COPY {text}: no such file in the build context"
        names = "".join(f"{name}\0" for name in sorted(made))
        chown = ["chroot", str(self.root), "sh", "-c", f"cd {self.workdir} && xargs -0 chown {owner}"]
        subprocess.run(chown, input=names.encode(), check=True)

    def _place(self, name: str, goal: Path) -> str:
        full = self.root / self.workdir.lstrip("/") / goal
        full.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, full)
        return goal.parts[0] if len(goal.parts) > 1 else str(goal)

    def start(self, text: str, **more: str) -> subprocess.Popen:
        """Start a command as the image's user in its folder."""
        values = {**self.environment, **self.helpers, **more}
        pairs = [f"{name}={value}" for name, value in values.items()]
        shell = ["/bin/bash", "-o", "pipefail", "-c", f"cd {self.workdir} && {text}"]
        groups = self.user if self.user == "root" else f"{self.user}:{self.user}"
        return subprocess.Popen(["chroot", f"--userspec={groups}", str(self.root), "env", "-i", *pairs, *shell])


def use(image: Image) -> None:
    """Train and look, as the image's user."""
    import yaml

    check = image.start("id && test -w outputs && ! test -w /etc && ! test -e .git").wait()
    assert check == 0, "the user of the image"
    trained = image.start("TOTAL_STEPS=2 EXPERIMENT_NAME=in-chroot USE_WANDB=false ./sft/train.sh").wait()
    assert trained == 0, f"./sft/train.sh: status {trained}"
    assert (image.root / "kit/outputs/in-chroot/model/config.json").is_file()
    monitor = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["monitor"]
    health = shlex.join(monitor["healthcheck"]["test"][1:])
    assert image.start(f"{health} 2>/dev/null").wait() != 0, "healthy before the monitor runs"
    page = image.start(f"exec {shlex.join(monitor['command'])}")
    try:
        until = time.monotonic() + 300  # a busy machine
        while image.start(f"{health} 2>/dev/null").wait():
            assert time.monotonic() < until and page.poll() is None, "the monitor is not healthy"
            time.sleep(1)
    finally:
        page.terminate()
    print(f"monitor: healthy, ended with {page.wait(30)}")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit("needs root and debootstrap: apt-get install debootstrap")
    if "--inside" not in sys.argv:  # mounts of this namespace go with it
        inside = ["unshare", "--mount", "--propagation", "private", sys.executable, __file__, "--inside"]
        sys.exit(subprocess.run(inside).returncode)
    work = Path(tempfile.mkdtemp(prefix="kit-chroot-"))
    work.chmod(0o755)  # the image's user must pass
    begin = time.monotonic()
    try:
        image = Image(work)
        for step in steps(ROOT / "docker/Dockerfile.cpu"):
            image.apply(step)
        use(image)
        print(f"Dockerfile.cpu: every step ran, trained and served ({time.monotonic() - begin:.0f} s)")
    finally:
        for kind in ("mnt/*", "proc", "dev"):
            for path in work.glob(kind):
                subprocess.run(["umount", "--lazy", "--recursive", str(path)], stderr=subprocess.DEVNULL)
        if not any(os.path.ismount(work / kind) for kind in ("proc", "dev")):
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
