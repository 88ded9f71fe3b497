"""In a real browser one sees where the time of a run's candidates goes, or how to get to know it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import expect

from nas.cli import main
from nas.pareto import front
from nas.storage.store import Store
from tests.test_dashboard_browser import browser, shown, tab  # noqa: F401
from tests.test_resume import copy_of

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def explained(tiny_run, tmp_path_factory) -> Iterator[tuple[str, list[str], list[str]]]:
    """The address of a run whose front was explained, the keys of the front, and those of all others."""
    run = copy_of(tiny_run, tmp_path_factory.mktemp("explained_browser") / "copy")
    assert main(["explain", run.name, "--store", run.store_url]) == 0
    with closing(Store(run.store_url)) as store:
        found, candidates = store.run(run.name), store.candidates(run.name)
    best = [one.key for one in front(candidates, found.objectives, found.constraints)]
    others = [one.key for one in candidates if one.key not in best]
    with shown(run.store_url) as address:
        yield f"{address}/run/{run.name}", best, others


def test_the_efficiency_gap_has_every_candidate_twice_and_leads_to_them(tab, explained):  # noqa: F811
    site, best, others = explained
    tab.goto(f"{site}/hardware")
    gap = tab.locator(".card", has_text="Efficiency gap")
    points = gap.locator(".scatterlayer .trace path.point")

    expect(points).to_have_count(2 * len(best + others))
    expect(gap.locator(".xtitle")).to_have_text("time of one batch (ms), logarithmic")
    expect(
        tab.locator(".card", has_text="Where the time of the front goes").locator(".xtick text")
    ).to_have_count(len(best))
    points.last.scroll_into_view_if_needed()
    place = points.last.bounding_box()
    tab.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    expect(tab).to_have_url(re.compile(r"/candidate/[0-9a-f]{12}$"))


def test_a_candidate_of_the_front_shows_its_blocks_and_its_waterline(tab, explained):  # noqa: F811
    site, best, _ = explained
    tab.goto(f"{site}/candidate/{best[0]}")

    expect(tab.locator("#explained")).to_contain_text("wastes the most")
    expect(tab.locator("#explained .xtick text").first).to_have_text("stem")
    waterline = tab.locator(".card", has_text="Waterline")
    expect(waterline.locator(".bars path").first).to_be_attached()
    expect(waterline.locator(".legend")).to_contain_text("operations per byte")


def test_another_candidate_says_how_to_get_it(tab, explained):  # noqa: F811
    site, _, others = explained
    tab.goto(f"{site}/candidate/{others[0]}")

    expect(tab.locator("#explained .command")).to_contain_text(
        f"nas explain tiny --candidate {others[0]} --store"
    )


@pytest.mark.parametrize("width", [1400, 420])
def test_nothing_is_wider_than_the_window(tab, explained, width):  # noqa: F811
    site, best, _ = explained
    tab.set_viewport_size({"width": width, "height": 900})
    for address in (f"candidate/{best[0]}", "hardware"):
        tab.goto(f"{site}/{address}")
        expect(tab.locator(".bars path").first).to_be_attached()

        assert tab.evaluate("document.documentElement.scrollWidth") <= width
