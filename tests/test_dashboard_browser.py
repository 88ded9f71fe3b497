"""In a real browser every page opens, leads on, stays on this machine and complains of nothing."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from nas.storage.store import Store

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# whoever runs the tests in the background hands on that Ctrl-C is ignored
SERVE = """
import signal, sys
from dashboard.app import serve
signal.signal(signal.SIGINT, signal.default_int_handler)
serve(sys.argv[1], port=int(sys.argv[2]))
"""


@contextmanager
def shown(store_url: str) -> Iterator[str]:
    """The address of a dashboard over a store, in a process of its own that Ctrl-C ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, store_url, str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert f"is shown at http://127.0.0.1:{port}" in process.stderr.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def site(tiny_run) -> Iterator[str]:
    with shown(tiny_run.store_url) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("there is no chromium on this machine; install it (apt-get install chromium)")
    expect.set_options(timeout=30_000)  # ms; a busy machine is no failure
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)


@pytest.fixture
def tab(browser) -> Iterator[Page]:
    """A tab that must neither log an error, nor get an answer that is one, nor ask another machine."""
    troubles = []
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(30_000)
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("response", lambda answer: troubles.append(answer.url) if answer.status >= 400 else None)
    page.on("request", lambda asked: troubles.append(asked.url) if leaves_this_machine(asked.url) else None)
    yield page
    page.close()
    assert troubles == []


def leaves_this_machine(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def front_points(tab: Page):
    return tab.locator("#front-figure .scatterlayer .trace path.point")


def test_the_list_of_runs_leads_to_the_front(tab, site, tiny_run):
    tab.goto(site)
    expect(tab.locator("#runs-table .status")).to_have_text("finished")

    tab.get_by_role("link", name=tiny_run.name, exact=True).click()

    expect(tab).to_have_url(f"{site}/run/{tiny_run.name}")
    expect(tab).to_have_title(f"{tiny_run.name} · ParetoShift")
    expect(tab.locator("#front-summary")).to_contain_text("20 candidates")
    expect(front_points(tab).first).to_be_attached()
    expect(tab.locator("#front-figure .xtitle")).to_have_text("latency (ms)")
    expect(tab.locator("#front-figure .ytitle")).to_have_text("accuracy (%)")


def test_a_point_of_the_front_leads_to_its_candidate_and_the_way_back_to_the_front(tab, site, tiny_run):
    tab.goto(f"{site}/run/{tiny_run.name}")
    expect(front_points(tab).first).to_be_attached()
    place = front_points(tab).last.bounding_box()

    tab.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)

    expect(tab).to_have_url(re.compile(rf"/run/{tiny_run.name}/candidate/[0-9a-f]{{12}}$"))
    key = tab.url.rsplit("/", 1)[1]
    expect(tab.locator("h1")).to_have_text(f"candidate {key}")
    expect(tab.locator(".stage-label")).to_contain_text(["input", "stem", "stage 1", "head"])
    expect(tab.locator(".command code").first).to_contain_text(
        f"nas export {tiny_run.name} --candidate {key}"
    )
    expect(tab.get_by_text("measured on onnxruntime-cpu")).to_be_visible()

    tab.go_back()

    expect(front_points(tab).first).to_be_attached()


def test_pointing_at_a_point_draws_its_intervals_and_moves_no_axis(tab, site, tiny_run):
    tab.goto(f"{site}/run/{tiny_run.name}")
    expect(front_points(tab).first).to_be_attached()
    pointer = tab.locator("#front-figure .scatterlayer .trace").first
    ticks = tab.locator("#front-figure .xtick text, #front-figure .ytick text").all_text_contents()
    place = front_points(tab).first.bounding_box()

    tab.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)

    expect(pointer.locator("path.xerror")).to_have_count(1)
    expect(tab.locator("#front-figure .hoverlayer .hovertext")).to_have_count(1)
    assert tab.locator("#front-figure .xtick text, #front-figure .ytick text").all_text_contents() == ticks

    tab.mouse.move(5, 5)

    expect(pointer.locator("path.xerror")).to_have_count(0)


def test_a_row_of_the_front_leads_to_its_candidate(tab, site, tiny_run):
    tab.goto(f"{site}/run/{tiny_run.name}")
    link = tab.locator("#front-table .key a").first
    key = link.text_content()

    link.click()

    expect(tab.locator("h1")).to_have_text(f"candidate {key}")


def test_the_address_keeps_what_is_drawn(tab, site, tiny_run):
    tab.goto(f"{site}/run/{tiny_run.name}")
    tab.locator("#front-x").click()
    tab.get_by_role("option", name="MACs").click()
    expect(tab).to_have_url(f"{site}/run/{tiny_run.name}?x=macs&y=accuracy")
    expect(tab.locator("#front-figure .xtitle")).to_have_text("MACs")

    tab.reload()
    expect(tab.locator("#front-figure .xtitle")).to_have_text("MACs")

    tab.goto(f"{site}/run/{tiny_run.name}?x=bytes&y=latency_ms")
    expect(tab.locator("#front-figure .xtitle")).to_have_text("bytes (B)")
    expect(tab.locator("#front-y")).to_have_value("latency (ms)")


def test_the_training_is_drawn_with_the_sampler_s_bins(tab, site, tiny_run):
    tab.goto(f"{site}/run/{tiny_run.name}/training")

    expect(tab.locator(".ytitle").first).to_have_text("training loss (nats)")
    expect(tab.locator(".js-plotly-plot")).to_have_count(6)
    expect(tab.get_by_text("how the shift sampler shares its draws")).to_be_visible()
    expect(tab.locator(".legendtext").first).to_contain_text("MACs")


def test_an_unknown_run_is_said_kindly(tab, site, tiny_run):
    tab.goto(f"{site}/run/{tiny_run.name}x")
    expect(tab.locator(".notice")).to_contain_text(f"did you mean {tiny_run.name}?")

    tab.get_by_role("link", name="All runs").click()

    expect(tab.locator("#runs-table")).to_be_visible()


def test_the_front_grows_while_one_looks(tab, tiny_run, tmp_path):
    url = f"sqlite:///{tmp_path}/copy.db"
    copy_store(tiny_run.store_url, url)

    with shown(url) as site, Store(url) as store:
        tab.goto(f"{site}/run/{tiny_run.name}")
        expect(tab.locator("#front-summary")).to_contain_text("20 candidates")

        last = store.candidates(tiny_run.name)[-1]
        store.add_candidate(tiny_run.name, replace(last, key="0123456789ab"))
        store.update_run(tiny_run.name, status="searching")

        expect(tab.locator("#front-summary")).to_contain_text("21 candidates")
        expect(tab.locator("#run-status")).to_contain_text("searching")
        tab.goto("about:blank")  # it must not ask a server that has gone


def copy_store(old: str, new: str) -> None:
    files = [url.removeprefix("sqlite:///") for url in (old, new)]
    with closing(sqlite3.connect(files[0])) as source, closing(sqlite3.connect(files[1])) as target:
        source.backup(target)


def test_the_tab_of_a_run_leads_to_its_hardware(tab, site, tiny_run):
    tab.goto(f"{site}/run/{tiny_run.name}")

    tab.get_by_role("link", name="hardware", exact=True).click()

    expect(tab).to_have_url(f"{site}/run/{tiny_run.name}/hardware")
    expect(tab.locator("#hardware-panels")).to_contain_text("onnxruntime-cpu, 1 thread, batch 1, float32")
    expect(tab.locator(".js-plotly-plot")).to_have_count(2)
    expect(
        tab.locator("#hardware-panels .js-plotly-plot >> nth=0 >> .scatterlayer .trace path.point")
    ).to_have_count(20)


@pytest.mark.parametrize("width", [1400, 420])
def test_the_hardware_of_a_run_is_no_wider_than_the_window(tab, site, tiny_run, width):
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(f"{site}/run/{tiny_run.name}/hardware")
    expect(tab.locator("#hardware-panels .scatterlayer").first).to_be_attached()

    assert tab.evaluate("document.documentElement.scrollWidth") <= width
