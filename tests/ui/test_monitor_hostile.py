"""The monitor in a real browser with runs of other people, and with pages of other people: no script runs, no request
leaves, the good run next to it stays, and a foreign page reads nothing.

    python -m pytest tests/ui/test_monitor_hostile.py

SCREENSHOTS=folder keeps a picture of every tab to look at.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
from urllib.parse import urlsplit

import pytest

from monitor.plain import plain
from tests.ui.conftest import FOREIGN
from tests.ui.pages import is_too_wide, keep_picture, open_tab
from tests.unit.test_monitor_data import dump, row
from tests.unit.test_monitor_page import TABS
from tests.unit.test_monitor_runs import make_run, step

pytestmark = pytest.mark.ui
SECRET = "0.4242"  # the good run's number, which no foreign page may learn
SCRIPTS = [
    "<img src=x onerror=window.__pwned=1>",
    "<script>window.__pwned=1</script>",  # a folder in a folder: its name holds a slash
    "\"><svg onload='window.__pwned=1'>",
    "' onmouseover='window.__pwned=1' autofocus onfocus='window.__pwned=1",
    f"![x](http:{FOREIGN})<iframe srcdoc='<script>parent.__pwned=1</script>'>",
    "{{constructor.constructor('window.__pwned=1')()}}${window.__pwned=1}",
]
NAMES = [
    *SCRIPTS,
    "\u202egnp.exe \u2066\u200f\u061c",  # turns the direction of what follows
    "tab\tline\nend\x1b[31mred\x1b]0;title\x07\x00".replace("\x00", ""),
    "x" * 200,
    "javascript:window.__pwned=1",
    "run:a%00%2e%2e&run=b#c?d",
    os.fsdecode(b"\xff\xfe not UTF-8"),
]
FOREIGN_IMAGE = f"<img src='http://{FOREIGN}/t.png'> ![t](http://{FOREIGN}/t.png) [t](http://{FOREIGN}/t)"
TEXTS = " ".join([*SCRIPTS, FOREIGN_IMAGE, "\u202e", "\ud800", "\x00\x1b[2J"])
TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # letters that turn the direction of what follows
ALL = "everything <b>bad</b>"


def hostile_run(root, name):
    """A run whose every text is an attack."""
    keys = {f"{text[:60]} {number}": 0.5 for number, text in enumerate(SCRIPTS)}
    keys |= {"\ud800 half a letter": 1.0, "\u202egnp": 1.0, "a" * 190: 1.0, "critic/score/mean": 0.1}
    run = make_run(root, name, [step(n, **keys) for n in range(1, 12)])
    facts = {part: {text: text, "\ud800": "\ud800"} for part in ("knobs", "versions") for text in SCRIPTS}
    facts |= {"algorithm": TEXTS, "model_name": TEXTS, "reason": TEXTS, "state": "failed", "git_commit": TEXTS}
    (run / "run.json").write_text(json.dumps({"name": TEXTS, "started": TEXTS, **facts}))
    big = "word " * 200_000
    answers = [TEXTS, big, "<p>" * 2000, "| a | b |\n" * 50, "\u202e" * 500, ""]
    samples = [
        row(f"user\n{TEXTS}\nassistant\n", text, k / 5, "a", k, **{TEXTS[:50]: TEXTS}) for k, text in enumerate(answers)
    ]
    folder = run / "rollouts"
    folder.mkdir()
    (folder / "11.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    (run / ".hydra").mkdir()
    config = "".join(f"{json.dumps(text)}: {json.dumps(text)}\n" for text in SCRIPTS)
    (run / ".hydra" / "config.yaml").write_text(
        "deep:\n" + "".join(" " * n + f"a{n}:\n" for n in range(1, 30)) + config
    )
    lines = [*SCRIPTS, FOREIGN_IMAGE, "\x1b[31mred\x1b[0m \x1b]52;c;ZXZpbA==\x07 \x1b]8;;http://evil.example\x07link\x1b]8;;\x07",
             "\x9b31m \x1b[2J\x1b[H", "x" * 100_000, "RuntimeError: <script>window.__pwned=1</script>"]  # fmt: skip
    (run / "train.log").write_text("# attempt 1\n" + "\n".join(lines) + "\n")
    (run / "checkpoints" / "global_step_8").mkdir(parents=True)
    return run


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs") / "runs"
    good = make_run(root, "good", [step(n, **{"critic/score/mean": float(SECRET)}) for n in range(1, 9)])
    (good / "train.log").write_text("a line of the good run\n")
    dump(good / "rollouts", 8, [row("user\n2+2?\nassistant\n", f"{n}", n / 4, "a", n) for n in range(4)])
    for name in NAMES:
        make_run(root, name, [step(1, **{"critic/score/mean": 0.1})])
    hostile_run(root, ALL)
    bomb = make_run(root, "aliases", [step(1, **{"critic/score/mean": 0.1})])
    (bomb / ".hydra").mkdir()
    lines = [f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)]
    (bomb / ".hydra" / "config.yaml").write_text("a: &a [x, x]\n" + "".join(lines))
    deep = make_run(root, "deep", [step(1, **{"critic/score/mean": 0.1})])
    (deep / ".hydra").mkdir()
    (deep / ".hydra" / "config.yaml").write_text("a: " + "[" * 200_000 + "]" * 200_000)
    return root


class Watched:
    """A page, and what it did that it should not."""

    def __init__(self, browser):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.context.add_init_script(
            "addEventListener('error', (e) => { window.__errors = (window.__errors || 0) + 1 })"
        )
        self.page, self.wrong = self.context.new_page(), []
        self.page.on("dialog", lambda dialog: (self.wrong.append("dialog"), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on(
            "console", lambda said: self.wrong.append(f"console: {said.text}") if said.type == "error" else None
        )
        self.page.on("request", self._asked)
        self.page.on(
            "response", lambda got: self.wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None
        )

    def _asked(self, request):
        host = urlsplit(request.url)
        if host.scheme not in ("data", "blob") and host.hostname != "127.0.0.1":
            self.wrong.append(f"asked {request.url}")

    def check(self):
        assert self.page.evaluate("window.__pwned") is None
        assert not self.page.locator(".toast-body").count()
        assert not self.wrong, self.wrong


@pytest.fixture(scope="module")
def watched_all(browser):
    one = Watched(browser)
    yield one
    one.context.close()


@pytest.fixture
def watched(watched_all):
    """The page of all tests: a new one would read the page's scripts anew each time."""
    watched_all.page.goto("about:blank")
    watched_all.wrong.clear()
    return watched_all


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_of_a_run_that_is_an_attack(watched, url, tab):
    page = watched.page
    open_tab(page, url, tab, ALL)
    page.wait_for_timeout(300)
    if tab == "samples":
        page.locator(".sample").first.click()
        page.locator(".cards .card").first.wait_for()
    keep_picture(page, f"hostile-{tab}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{tab} is wider than the screen"
    assert not is_too_wide(page), tab
    assert not TURNS.search(page.inner_text("body")), tab
    folder, chosen = page.locator(".brand small").bounding_box(), page.locator("#run").bounding_box()
    assert folder["x"] + folder["width"] <= chosen["x"], "the log folder is under the box of runs"
    watched.check()


def test_each_run_of_a_hostile_name_can_be_opened(watched, url):
    """Its row leads to its curves, and the address that is then there leads to them again."""
    page = watched.page
    open_tab(page, url, "runs", "good")
    count = len(NAMES) + 4
    assert page.locator("table.list tbody tr").count() == count
    shown = page.locator("table.list tbody tr").evaluate_all("rows => rows.map(row => row.dataset.pick.slice(4))")
    assert {"good", "aliases", "deep", "\\xff\\xfe not UTF-8", "x" * 200} < set(shown)
    for place in range(count):
        row = page.locator("table.list tbody tr").nth(place)
        name = row.evaluate("row => row.dataset.pick.slice(4)")
        row.locator("td.name").click()
        page.get_by_role("tab", name="Curves", selected=True).wait_for()
        page.wait_for_function("name => new URLSearchParams(location.search).get('run') === name", arg=name)
        page.locator(
            ".facts b", has_text="8/20" if name == "good" else "11" if name == ALL else "1/20"
        ).first.wait_for()
        if name in ("\\xff\\xfe not UTF-8", plain(NAMES[6]), "<script>window.__pwned=1</script>"):
            page.reload()
            page.locator(".js-plotly-plot .scatterlayer path").first.wait_for(state="attached")
            assert page.locator("#run input").input_value() == name
        page.get_by_role("tab", name="Runs").click()
    page.locator("table.list tbody tr").first.wait_for()
    keep_picture(page, "hostile-names")
    assert "\\u202egnp.exe" in page.inner_text("table.list") and not TURNS.search(page.inner_text("body"))
    watched.check()


def test_hostile_runs_side_by_side(watched, url):
    page = watched.page
    open_tab(page, url, "compare", "good")
    box = page.get_by_label("Runs (up to 8)")
    for name in ("good", "aliases", "deep", ALL, plain(NAMES[6]), "x" * 200):  # next to the two that are there
        box.fill(name)
        box.press("Enter")
    page.locator("th", has_text="deep").first.wait_for()
    box.press("Escape")
    page.wait_for_timeout(500)
    keep_picture(page, "hostile-compare-names")
    assert not is_too_wide(page)
    page.locator("table.list").last.scroll_into_view_if_needed()
    keep_picture(page, "hostile-compare-differences")
    assert "onerror" in page.locator("table.list").last.inner_text()  # the settings of the attack, as a text
    watched.check()


# ---- pages of other people -------------------------------------------------------------------------------

ASK = """
    const found = [];
    const note = (text) => found.push(String(text));
    const ask = async (path, options) => {
        try { note(await (await fetch(MONITOR + path, options)).text()); } catch { note("refused"); }
    };
    for (const path of ["/csv?run=good", "/news?tab=runs", "/en/", "/en/config", "/en/gradio_api/info"]) {
        await ask(path);
        await ask(path, { credentials: "include" });
        await ask(path, { mode: "no-cors" });
    }
    const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: '{"data":["good","",""]}' };
    await ask("/en/gradio_api/run/fill_log", post);
    await ask("/en/gradio_api/run/fill_log", { ...post, mode: "no-cors", headers: { "Content-Type": "text/plain" } });
    const load = (tag, name, path) => new Promise((done) => {
        const node = document.createElement(tag);
        node.onload = () => done(`${tag} ${path} loaded`);
        node.onerror = () => done("refused");
        node[name] = MONITOR + path;
        document.body.append(node);
        setTimeout(() => done("nothing"), 3000);
    });
    const parts = [["script", "src", "/csv?run=good"], ["script", "src", "/en/config"],
                   ["script", "src", "/assets/plotly.min.js"], ["img", "src", "/png?run=good"],
                   ["img", "src", "/favicon.ico"], ["link", "href", "/en/theme.css"], ["object", "data", "/en/"]];
    (await Promise.all(parts.map((part) => load(...part)))).forEach(note);
    const frame = document.createElement("iframe");
    frame.src = MONITOR + "/en/?run=good";
    const framed = new Promise((done) => { frame.onload = done; setTimeout(done, 3000); });
    document.body.append(frame);
    await framed;
    try { note(frame.contentDocument.documentElement.innerHTML); } catch { note("refused"); }
    note(`frames of it: ${frame.contentWindow.length}`);
    await new Promise((done) => {
        const socket = new WebSocket(MONITOR.replace("http", "ws") + "/en/gradio_api/queue/join");
        socket.onopen = () => { note("a socket is open"); done(); };
        socket.onerror = done;
    });
    await new Promise((done) => {
        const events = new EventSource(MONITOR + "/en/gradio_api/queue/data?session_hash=a");
        events.onopen = () => { note("events come"); events.close(); done(); };
        events.onerror = () => { events.close(); done(); };
    });
    return found;
"""


class Foreign(http.server.BaseHTTPRequestHandler):
    """Any page of another site: nearly empty, its script comes from the test."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>foreign</title><body>")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def foreign():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Foreign)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def what_it_reads(page, *monitors):
    """What a page gets to know of the monitor under each name at once."""
    ask = "async (all) => (await Promise.all(all.map(async (MONITOR) => {" + ASK + "}))).flat()"
    found = page.evaluate(ask, monitors)
    assert not any("monitor" in frame.content() for frame in page.frames[1:])  # not even as a picture to click on
    return [text for text in found if text not in ("refused", "nothing", "")]


@pytest.mark.parametrize("site", [FOREIGN, "127.0.0.1"])  # another site; another port of this machine
def test_a_foreign_page_reads_nothing(browser, url, foreign, site):
    page = browser.new_context().new_page()
    page.goto(f"http://{site}:{foreign}/")
    said = what_it_reads(page, url, url.replace("127.0.0.1", "localhost"))
    assert said == ["frames of it: 0"] * 2, said
    page.context.close()


def test_a_name_that_is_bound_to_this_machine_reads_nothing(browser, url):
    """DNS rebinding: the page's own name leads to the monitor, so to the browser it is the page's own server."""
    page = browser.new_context().new_page()
    own = url.replace("127.0.0.1", FOREIGN)
    page.route(f"{own}/start", lambda route: route.fulfill(content_type="text/html", body="<!doctype html><body>"))
    page.goto(f"{own}/start")
    said = what_it_reads(page, own)
    assert not [text for text in said if SECRET in text or "a line of the good run" in text or "gradio" in text], said
    assert all("does not go by" in text or text == "frames of it: 0" for text in said), said
    page.context.close()


def test_a_link_leads_to_the_page_and_tells_the_other_site_nothing(browser, url, foreign):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://{FOREIGN}:{foreign}/")
    with context.expect_page() as opened:
        page.evaluate("address => { window.other = window.open(address) }", f"{url}/en/?tab=curves&run=good")
    other = opened.value
    other.locator(".js-plotly-plot .scatterlayer path").first.wait_for(state="attached")
    assert other.evaluate("window.opener") is None
    assert page.evaluate("window.other.closed || window.other.length") is True  # it cannot count its frames either
    page.goto(f"http://{FOREIGN}:{foreign}/")
    page.evaluate("address => { location = address }", f"{url}/csv?run=good")
    page.wait_for_url("**/csv?run=good")
    assert "another web site" in page.inner_text("body") and SECRET not in page.inner_text("body")
    context.close()
