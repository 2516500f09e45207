"""docs/platform.md: both languages alike, and every address and field in it is there."""

import re

from tests.conftest import ROOT
from tests.unit.test_readmes import headings, links, split_code
from training_platform.queue.request import JobRequest

PAGES = [(ROOT / "docs" / name).read_text() for name in ("platform.md", "platform_zh.md")]


def test_both_languages_are_alike():
    levels = [[line.split()[0] for line in headings(page)] for page in PAGES]
    assert levels[0] == levels[1] and split_code(PAGES[0])[1] == split_code(PAGES[1])[1]
    assert "platform_zh.md" in links(PAGES[0]) and "platform.md" in links(PAGES[1])
    missing = [link for page in PAGES for link in links(page) if not (ROOT / "docs" / link).exists()]
    assert missing == []


def test_every_field_has_a_row(platform):
    for page in PAGES:
        rows = [line.split("|")[1] for line in split_code(page)[0] if line.startswith("| `")]
        named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
        assert JobRequest.model_fields.keys() <= named


def test_every_address_is_there(platform):
    paths = platform.client.get("/openapi.json").json()["paths"]
    for named in re.findall(r"`(?:GET |POST )?(/api/[\w/.]+)`", PAGES[0]):
        shape = re.sub(r"/ID\b", "/{uuid}", named).replace("/NAME", "/{name}")
        assert shape in paths, named
    for end in (
        "metrics",
        "metrics.csv",
        "checkpoints",
        "log",
        "samples",
        "health",
        "events",
        "start",
        "stop",
        "select",
        "evaluate",
    ):
        assert f"/api/jobs/{{uuid}}/{end}" in paths
