"""In a real browser the page of a supernet's health opens, is whole, and grows while one looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from nas import health_reports
from nas.storage.store import Store
from tests.test_dashboard import RUN
from tests.test_dashboard_browser import browser, shown, tab  # noqa: F401
from tests.test_dashboard_health import AGAINST
from tests.trials import SAMPLED, noisy

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def examined(tmp_path_factory) -> Iterator[tuple[str, str]]:
    """The addresses of a dashboard and its store, with a run whose supernet was examined both ways."""
    folder = tmp_path_factory.mktemp("health")
    url = f"sqlite:///{folder / 'nas.db'}"
    with Store(url) as store:
        store.add_run(replace(RUN, folder=str(folder / "run")))
        health_reports.keep(store.run(RUN.name), AGAINST)
        for one in [SAMPLED, *noisy(32, noise=0.3)]:
            store.add_trial(RUN.name, one)
    with shown(url) as address:
        yield address, url


def test_the_tab_of_a_run_leads_to_its_health(tab, examined):  # noqa: F811
    site, _ = examined
    tab.goto(f"{site}/run/{RUN.name}")

    tab.get_by_role("link", name="health", exact=True).click()

    expect(tab).to_have_url(f"{site}/run/{RUN.name}/health")
    expect(tab.locator("#health-verdict")).to_contain_text("inherited accuracy ranks 32 architectures with τ")
    expect(tab.locator(".js-plotly-plot")).to_have_count(5)
    expect(tab.locator("#health-agreement .scatterlayer .trace path.point")).to_have_count(32)
    expect(tab.locator("#health-agreement .xtitle")).to_have_text("inherited accuracy (%)")
    expect(tab.locator("#health-sampled .bars path")).to_have_count(2)


def test_a_link_leads_to_what_it_was_compared_with_besides(tab, examined):  # noqa: F811
    site, _ = examined
    tab.goto(f"{site}/run/{RUN.name}/health")

    tab.get_by_role("link", name="seed0, seed1 of planted.csv").click()

    expect(tab).to_have_url(re.compile(rf"/run/{RUN.name}/health/planted-[0-9a-f]{{8}}$"))
    expect(tab.locator("#health-choice .here")).to_have_text("seed0, seed1 of planted.csv, with a minus")
    expect(tab.locator("#health-agreement .ytitle")).to_have_text("seed0, seed1 of planted.csv, with a minus")
    expect(tab.locator("#health-agreement .scatterlayer .trace path.point")).to_have_count(32)


@pytest.mark.parametrize("width", [1400, 420])
def test_nothing_is_wider_than_the_window(tab, examined, width):  # noqa: F811
    site, _ = examined
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(f"{site}/run/{RUN.name}/health")
    expect(tab.locator("#health-usages .bars path").first).to_be_attached()

    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_a_new_trial_is_shown_while_one_looks(tab, examined):  # noqa: F811
    site, url = examined
    tab.goto(f"{site}/run/{RUN.name}/health")
    expect(tab.locator("#health-verdict")).to_contain_text("32 architectures")

    with Store(url) as store:
        for one in noisy(33, noise=0.3)[-4:]:
            store.add_trial(RUN.name, one)

    expect(tab.locator("#health-verdict")).to_contain_text("33 architectures")
    tab.goto("about:blank")  # it must not ask a server that has gone
