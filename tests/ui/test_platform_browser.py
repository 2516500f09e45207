"""The platform's page in a real browser: a job by the form, its curves while it runs, both languages, a phone.

SCREENSHOTS=folder keeps a picture of each to look at.
"""

import os

import pytest
from playwright.sync_api import expect

from tests.conftest import ROOT

pytestmark = pytest.mark.ui


@pytest.fixture
def page(browser):
    """A page that fails the test for each error of a script, and for each request to another place."""
    context = browser.new_context(locale="en-GB")
    made = context.new_page()
    problems = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    made.on("request", lambda asked: problems.append(asked.url) if "127.0.0.1" not in asked.url else None)
    made.problems = problems
    yield made
    context.close()
    assert problems == []


def picture(page, name):
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/platform-{name}.png", full_page=True)


def test_a_job_by_the_form_to_its_curves(make_platform, page):
    platform = make_platform()
    page.goto(platform.url)
    expect(page.locator("#slots")).to_have_text("cpu0: free")
    page.click("#new")
    dialog = page.locator("#form")
    dialog.locator("[name=name]").fill("by form")
    dialog.locator("summary").first.click()
    expect(dialog.locator("label", has_text="WARMUP_RATIO")).to_contain_text("in which the learning rate climbs")
    dialog.locator("[data-knob=WANDB_PROJECT]").fill("seconds=3,steps=12")
    picture(page, "form")
    dialog.locator("[name=learning_rate]").fill("-1")
    dialog.locator("[data-act=create_start]").click()
    expect(dialog.locator(".wrong")).to_contain_text("greater than 0")
    page.problems.clear()  # the browser notes the refusal as an error
    dialog.locator("[name=learning_rate]").fill("1e-6")
    dialog.locator("[data-act=create_start]").click()
    expect(page.locator("#job h2").first).to_contain_text("by-form", timeout=10_000)
    expect(page.locator("#jobs .state").first).to_have_text("running", timeout=10_000)
    expect(page.locator(".chart[data-metric=reward_mean] polyline")).to_be_visible(timeout=10_000)
    early = page.locator(".chart[data-metric=reward_mean] circle").count()
    expect(page.locator("#jobs .state").first).to_have_text("finished", timeout=20_000)
    expect(page.locator(".chart[data-metric=reward_mean] circle")).to_have_count(12)
    assert early < 12  # it came while it ran
    expect(page.locator("#job h2").first).to_contain_text("finished")
    expect(page.locator("#job pre")).to_contain_text("üben")
    picture(page, "job")
    assert platform.store.with_run("by-form").request["environment"]["LEARNING_RATE"] == "1e-06"
    page.reload()  # the address names the job
    expect(page.locator("#job h2").first).to_contain_text("by-form")


def test_stop_resume_and_delete(make_platform, page):
    platform = make_platform()
    uuid = platform.submit(name="run", does="seconds=60")
    platform.submit(name="next")
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(platform.url)
    row = page.locator(f"[data-job='{uuid}']")
    expect(page.locator("#slots")).to_have_text("cpu0: run", timeout=10_000)
    page.locator("tbody tr", has_text="next").click()
    expect(page.locator("#job")).to_contain_text("waits: place 1, needs 1, 0 free; behind job run holds 1")
    row.locator("[data-act=stop]").click()
    expect(row).to_contain_text("SIGTERM", timeout=10_000)
    expect(row.locator("[data-act=resume]")).to_be_visible()
    row.locator("[data-act=delete]").click()
    expect(row.locator("[data-act]")).to_have_count(0, timeout=10_000)  # the run stays, without a job


def test_more_jobs_than_are_shown(make_platform, page):
    platform = make_platform()
    request = platform.store.get(platform.submit(start=False, name="first")).request
    with platform.store.transaction():
        for n in range(250):
            platform.store.add(str(n), run=f"r{n}", slots={"cpu": 1}, priority=0, request=request)
    page.goto(platform.url)
    expect(page.locator("#jobs tbody tr")).to_have_count(201, timeout=20_000)
    picture(page, "many")
    page.locator("[data-act=more]").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(251, timeout=20_000)
    expect(page.locator("#jobs tbody tr").last).to_contain_text("first")


def test_what_went_wrong_is_said(make_platform, page):
    platform = make_platform()
    uuid = platform.submit(name="<img src=x onerror=alert(1)>", does="end=preflight")
    platform.wait(uuid, "failed")
    page.goto(f"{platform.url}/?job={uuid}")
    expect(page.locator("#job .wrong").first).to_contain_text("MODEL_PATH=/nowhere: no such folder")
    expect(page.locator("#job pre")).to_contain_text("error: MODEL_PATH=/nowhere")
    assert page.locator("main img").count() == 0
    picture(page, "failed")


def test_chinese_on_a_phone(browser, make_platform, tmp_path):
    platform = make_platform()
    platform.wait(platform.submit(name="a-run-with-a-rather-long-name-" + "x" * 40), "finished")
    context = browser.new_context(locale="zh-CN", viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(platform.url)
    expect(page.locator("#jobs .state").first).to_have_text("已完成")
    page.locator("tbody tr").first.click()
    expect(page.locator(".chart").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    picture(page, "phone")
    page.click("#new")
    expect(page.locator("#form h2")).to_have_text("新建任务")
    picture(page, "phone-form")
    page.locator("#form [data-act=close]").click()
    page.click("#language")
    expect(page.locator("h1")).to_have_text("Training platform")
    context.close()


def test_a_server_that_goes_and_comes_back(make_platform, page):
    platform = make_platform()
    page.goto(platform.url)
    expect(page.locator("#slots")).to_contain_text("free")
    platform.server.should_exit = True
    platform.thread.join(20)
    expect(page.locator("#lost")).to_be_visible(timeout=10_000)
    page.problems.clear()


def test_a_page_with_a_token(browser, make_platform):
    platform = make_platform(needs_token=True, token="secret")
    context = browser.new_context(http_credentials={"username": "li", "password": "secret"})
    page = context.new_page()
    page.goto(platform.url)
    expect(page.locator("#slots")).to_have_text("cpu0: free")
    context.close()


@pytest.mark.nightly
@pytest.mark.e2e
@pytest.mark.timeout(1200)
def test_a_real_job_by_the_form(make_platform, page):
    """The demo of SFT: what the preflight finds first, then the start, the curves, and the model on the disk."""
    platform = make_platform(kit=ROOT)
    page.goto(platform.url)
    page.click("#new")
    dialog = page.locator("#form")
    dialog.locator("[name=algorithm]").select_option("sft")
    dialog.locator("[name=name]").fill("real")
    dialog.locator("summary").first.click()
    dialog.locator("[data-knob=TOTAL_STEPS]").fill("4")
    dialog.locator("[data-act=check]").click()
    expect(dialog.locator(".said")).to_contain_text("auto (", timeout=300_000)
    picture(page, "real-check")
    dialog.locator("[data-act=create_start]").click()
    expect(page.locator("#job h2").first).to_contain_text("real", timeout=10_000)
    expect(page.locator(".chart[data-metric=loss] polyline")).to_be_visible(timeout=600_000)
    picture(page, "real-running")
    expect(page.locator("#jobs .state").first).to_have_text("finished", timeout=300_000)
    expect(page.locator(".chart[data-metric=loss] circle")).to_have_count(4)
    expect(page.locator("#job h2").first).to_contain_text("finished")
    picture(page, "real-finished")
    assert (platform.options["outputs"] / "real" / "model" / "config.json").is_file()
