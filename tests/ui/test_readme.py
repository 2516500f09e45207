"""What a visitor sees of the README first, drawn as GitHub draws it: what it is, two commands, the picture of the page.

SCREENSHOTS=folder keeps the first screens to look at.
"""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from tests.conftest import ROOT
from tests.ui.pages import keep_picture

pytestmark = pytest.mark.ui
SCREENS = {1280: 800, 390: 844}  # pixels: width and height of a small laptop and of a phone
SIDE = 384  # what GitHub's page takes next to a README on a laptop
STYLE = """
body { margin: 0; padding: 32px; font: 16px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif;
  color: #1f2328; overflow-wrap: break-word; }
h1 { font-size: 2em; margin: 0 0 16px; padding-bottom: .3em; border-bottom: 1px solid #d1d9e0b3; line-height: 1.25; }
h2 { font-size: 1.5em; margin: 24px 0 16px; padding-bottom: .3em; border-bottom: 1px solid #d1d9e0b3; }
p, table, pre { margin: 0 0 16px; } a { color: #0969da; } img { max-width: 100%; display: block; }
code { font: 85% ui-monospace, "Liberation Mono", monospace; background: #818b981f; padding: .2em .4em; }
pre { padding: 16px; overflow: auto; background: #f6f8fa; border-radius: 6px; line-height: 1.45; }
pre code { padding: 0; background: none; white-space: pre; }
table { border-collapse: collapse; display: block; overflow: auto; }
td, th { border: 1px solid #d1d9e0; padding: 6px 13px; }
@media (max-width: 600px) { body { padding: 16px; } }
"""

# How many letters of a command are in sight.
ROOM = """() => {
  const pre = document.querySelector('pre'), code = pre.firstElementChild, range = document.createRange();
  range.setStart(code.firstChild, 0), range.setEnd(code.firstChild, 10);
  const letter = range.getBoundingClientRect().width / 10;
  return (pre.clientWidth - 2 * parseFloat(getComputedStyle(pre).paddingLeft)) / letter;
}"""


@pytest.fixture
def readme(browser, request):
    """A page with a README of a language at a width."""
    name, width = request.param
    context = browser.new_context(viewport={"width": width - SIDE if width > 600 else width, "height": SCREENS[width]})
    page = context.new_page()
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render((ROOT / name).read_text(encoding="utf-8"))
    head = f'<!doctype html><meta charset="utf-8"><base href="http://readme.test/"><style>{STYLE}</style>'
    page.route("http://readme.test/**", lambda route: route.fulfill(path=ROOT / route.request.url.split("/", 3)[3]))
    page.set_content(head + html, wait_until="load")
    keep_picture(page, f"{name.removesuffix('.md')}-{width}")
    yield page
    context.close()


def bottom(page, selector, place=0):
    box = page.locator(selector).nth(place).bounding_box()
    return box["y"] + box["height"]


@pytest.mark.parametrize(
    "readme", [(name, width) for name in ("README.md", "README_zh.md") for width in SCREENS], indirect=True
)
def test_the_first_screen(readme):
    height = readme.viewport_size["height"]
    commands = [line.split("#")[0].strip() for line in readme.locator("pre").first.inner_text().splitlines()]
    assert [command.rsplit("/", 1)[-1] for command in commands] == ["train.sh", "app.py"]
    room = readme.evaluate(ROOM)
    assert max(map(len, commands)) <= room, "a command is cut"
    assert bottom(readme, "pre") < bottom(readme, "img") <= height
    assert readme.evaluate("document.images[0].naturalWidth") > 0, "the picture is not there"
    assert bottom(readme, "p", 1) <= height / 2, "what it is"
    assert readme.evaluate("document.documentElement.scrollWidth <= innerWidth")
