"""Which packages travel in a bundle for a Python that has some already."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "requirements"))  # it imports its neighbour, check
from requirements import bundle  # noqa: E402


def stack(**requirements: list[str]) -> dict[str, dict]:
    """Entries of pip's report."""
    return {name.replace("_", "-"): {"metadata": {"requires_dist": lines}} for name, lines in requirements.items()}


PACKAGES = stack(
    verl=["torch>=2", "ray[default]", "numpy; python_version >= '3'"],
    torch=["triton==3.7; sys_platform == 'linux'", "cuda-toolkit[cublas]"],
    ray=["aiohttp; extra == 'default'", "gpustat ; extra == 'train' or extra == \"all\""],
    hub=["triton; extra == 'torch'", "numpy"],
    cuda_toolkit=["nvidia-cublas==13; extra == 'cublas'"],
    numpy=[], triton=[], aiohttp=[], gpustat=[], nvidia_cublas=[],
)  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "roots", "expected"),
    [
        (set(), ["verl==9", "hub"], "verl torch ray hub numpy triton aiohttp cuda-toolkit nvidia-cublas"),
        # What only torch needs stays with it, though hub names it in an extra that nobody asks for.
        ({"torch"}, ["verl==9", "hub"], "verl ray hub numpy aiohttp"),
        ({"torch"}, ["hub[Torch]==1"], "hub numpy triton"),
        ({"torch"}, ["ray", "ray[default,train]>=2"], "ray aiohttp gpustat"),
    ],
)
def test_what_a_kept_package_brings_with_it_stays_at_home(keep, roots, expected):
    assert bundle.needed(PACKAGES, keep, roots) == set(expected.split())


def test_a_package_to_keep_that_is_not_there_is_named():
    with pytest.raises(bundle.BundleError, match="--keep tohrc: not in this stack"):
        bundle.needed(PACKAGES, {"tohrc"}, ["verl"])
