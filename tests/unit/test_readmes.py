"""The READMEs: English and Chinese have the same build, links lead somewhere, knob tables are those of train.sh."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.preflight.knobs import read_block
from tests.conftest import ROOT

ALGORITHMS = sorted(script.parent for script in ROOT.glob("*/train.sh"))
NESTED = ROOT / "ppo" / "reward_model"
FOLDERS = [ROOT, *ALGORITHMS, ROOT / "monitor", NESTED, ROOT / "examples"]
NAMES = ("README.md", "README_zh.md")
tables = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "write_knob_tables.py")))

FENCE = re.compile(r"\s*(`{3,}|~{3,})")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HTML_LINK = re.compile(r"""<(?:a|img)\b[^>]*?\b(?:href|src)=["']([^"']+)["']""")
EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def read(path: Path) -> str:
    """Return the text with its line ends as they are."""
    assert path.is_file(), f"{path.relative_to(ROOT)} is missing"
    return path.read_bytes().decode("utf-8")


def split_code(text: str) -> tuple[list[str], list[str]]:
    """Return the lines outside of fenced code, and the fenced blocks with their fences."""
    prose: list[str] = []
    blocks: list[str] = []
    block: list[str] = []
    fence = ""
    for line in text.split("\n"):
        match = FENCE.match(line)
        if fence:
            block.append(line)
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                blocks.append("\n".join(block))
                block, fence = [], ""
        elif match:
            block, fence = [line], match[1]
        else:
            prose.append(line)
    assert not fence, f"fenced block without an end: {block[0]}"
    return prose, blocks


def headings(text: str) -> list[str]:
    return [line for line in split_code(text)[0] if re.match(r"#{1,6}\s", line)]


def links(text: str) -> list[str]:
    prose = re.sub(r"`[^`\n]+`", "`code`", "\n".join(split_code(text)[0]))
    return LINK.findall(prose) + HTML_LINK.findall(prose)


def table_knobs(text: str) -> list[str]:
    """Return the names in backticks that look like knobs, from the first column of the tables."""
    rows = [line.strip() for line in split_code(text)[0] if line.strip().startswith("|")]
    return [name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row.split("|")[1])]


def label(folder: Path) -> str:
    return "root" if folder == ROOT else folder.name


each_pair = pytest.mark.parametrize("folder", FOLDERS, ids=label)
each_name = pytest.mark.parametrize("name", NAMES)


def test_the_algorithms_are_found():
    assert {"sft", "grpo"} <= {folder.name for folder in ALGORITHMS}


@each_pair
def test_both_languages_have_the_same_headings(folder):
    english, chinese = (headings(read(folder / name)) for name in NAMES)
    levels = [[line.split()[0] for line in lines] for lines in (english, chinese)]
    assert english
    assert levels[0] == levels[1], f"{english}\n{chinese}"


@each_pair
def test_both_languages_have_the_same_code(folder):
    english, chinese = (split_code(read(folder / name))[1] for name in NAMES)
    assert english
    assert english == chinese


@each_pair
@each_name
def test_each_language_links_to_the_other(folder, name):
    other = next(one for one in NAMES if one != name)
    assert other in links(read(folder / name))


@each_pair
@each_name
def test_relative_links_lead_somewhere(folder, name):
    targets = [link.split("#")[0] for link in links(read(folder / name)) if not EXTERNAL.match(link)]
    missing = [target for target in targets if target and not (folder / target).exists()]
    assert not missing


@pytest.mark.parametrize("folder", [*ALGORITHMS, NESTED], ids=label)
@each_name
def test_the_knob_table_is_that_of_knobs_yaml_and_train_sh(folder, name):
    text = read(folder / name)
    assert tables.written(text, tables.read_rows(), folder.name, tables.READMES[name]) == text, (
        "run: python docs/write_knob_tables.py"
    )
    described = table_knobs(text)
    assert len(described) == len(set(described)), "a knob has two rows"
    assert set(described) == set(read_block(folder / "train.sh")) - tables.ELSEWHERE


def test_code_is_told_from_text():
    indented = "   ```bash\n   # not a heading [x](gone.md)\n   ```"
    nested = "~~~~\n```\n~~~~"
    text = f"# A\n\n{indented}\n{nested}\n## B\n[a](b.md#c) `[d](e)` ![f](g.png 'h')"
    prose, blocks = split_code(text)
    assert blocks == [indented, nested]
    assert headings(text) == ["# A", "## B"]
    assert links(text) == ["b.md#c", "g.png"]
    assert len(prose) == 4
