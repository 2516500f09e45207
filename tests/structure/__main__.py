"""Print what the structure test holds."""

from pathlib import Path

from tests.structure import graph as g

ROOT = Path(__file__).resolve().parents[2]
KNOB = "TOKENS_PER_GPU"

if __name__ == "__main__":
    arrows = g.imports(ROOT)
    print(f"product lines {g.lines(ROOT):,} in {len(arrows)} modules")
    print(f"packages that import each other {len(g.two_way(arrows))}: {g.two_way(arrows)}")
    print(f"circles of files {len(g.circles(arrows))}: {g.circles(arrows)}")
    print(f"arrows out of common {len(g.upward(arrows))}: {g.upward(arrows)}")
    print(f"files that name {KNOB} {len(g.passes(ROOT, KNOB))}: {' '.join(g.passes(ROOT, KNOB))}")
