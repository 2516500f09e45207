"""The house stays one to live in: arrows go one way, and what was brought down does not grow again."""

import ast

from tests.conftest import ROOT
from tests.structure import graph as g

ARROWS = g.imports(ROOT)
MOST_FILES_OF_A_KNOB = 20  # TOKENS_PER_GPU, which the plan, the preflight and five scripts must know


def test_no_two_packages_import_each_other():
    assert g.two_way(ARROWS) == []


def test_no_circle_of_files():
    assert g.circles(ARROWS) == []


def test_nothing_that_is_shared_imports_an_algorithm_or_the_monitor():
    assert g.upward(ARROWS) == []


def test_a_knob_passes_few_files():
    assert len(g.passes(ROOT, "TOKENS_PER_GPU")) <= MOST_FILES_OF_A_KNOB


def test_the_table_of_a_package_names_modules_that_are_there():
    tables = g.tables(ROOT)
    assert {"common", "common.data", "common.preflight", "common.rewards", "common.runner", "monitor"} <= set(tables)
    there = set().union(*(parts for _, parts in tables.values()))
    stale = set().union(*(rows for rows, _ in tables.values())) - there
    assert stale == set()


def test_the_graph_sees_what_it_should(tmp_path):
    """A circle and a two-way pair made by hand are found, an import for types alone is none."""
    files = {
        "common/a/one.py": "import common.b.two\nfrom common.b import three",
        "common/b/two.py": "def f():\n    from common.a import one",
        "common/b/three.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from common.a.one import X",
        "common/b/four.py": "from monitor import app",
        "monitor/app.py": "from common.b.four import x",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        ast.parse(text)
    arrows = g.imports(tmp_path)
    assert g.two_way(arrows) == [("common.a", "common.b"), ("common.b", "monitor")]
    assert g.circles(arrows) == [["common.a.one", "common.b.two"], ["common.b.four", "monitor.app"]]
    assert g.upward(arrows) == [("common.b.four", "monitor.app")]
    assert g.lines(tmp_path) == 9
