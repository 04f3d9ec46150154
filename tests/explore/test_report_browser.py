"""The report in a real browser: what a reader does with pointer, keyboard and file system."""

import csv
import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_inputs import inputs, point, schedules

from explore.report import write_report
from explore.report_points import LIMIT, choose
from hw.config import load_design

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SOFTWARE_WEBGL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (apt-get install chromium)")
pytestmark = pytest.mark.browser  # minutes of drawing without a graphics processor: `make test-browser`


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api").sync_playwright().start()
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_WEBGL)
    yield browser
    browser.close()
    playwright.stop()


def without_figures(patch):
    """The figures for papers are looked at in test_report.py."""
    patch.setattr("explore.report_page.save_chart", lambda chart, folder: None)
    patch.setattr("explore.report_page.save_panels", lambda charts, stem: None)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        (folder / "placements").mkdir()
        Figure(figsize=(3, 2)).savefig(folder / "placements" / "r4c8l8_d16s1p1.png", dpi=100)
        return write_report(**inputs(folder / "explore"), out_dir=folder / "out", schedules=schedules(), placements=folder / "placements")


class Page:
    """An open report: the page, and everything it said or asked for."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(viewport={"width": 1300, "height": 1000}, accept_downloads=True, **options)
        self.context.set_default_timeout(240_000)
        self.page, self.said, self.asked = self.context.new_page(), [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.documentElement.dataset.explorer")

    def text(self, selector):
        return " ".join(self.page.locator(selector).inner_text().split())

    def place(self, x, y):
        """Where in the window the chart shows a point."""
        self.page.locator("#explorer-chart").scroll_into_view_if_needed()
        return self.page.evaluate(
            """([x, y]) => { const chart = document.getElementById("explorer-chart"), {xaxis, yaxis} = chart._fullLayout, box = chart.getBoundingClientRect();
            return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(y)]; }""", [x, y],
        )  # fmt: skip


@pytest.fixture
def opened(browser, report):
    page = Page(browser, report)
    yield page
    assert page.said == []
    page.context.close()


def best():
    """The fastest point of the first case, which is on its front."""
    return point("alexnet", 1, 1.0)


@needs_browser
def test_it_loads_without_errors_and_asks_for_nothing(opened, report):
    highest = point("alexnet", 1, 0.5)["efficiency_gops_w"]
    assert opened.text("#explorer-status") == f"6 points, 3 of them on the front; highest efficiency {highest:.4g} GOPS/W."
    opened.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    opened.page.locator("#fit-errors .plot-container").wait_for()
    assert [url for url in opened.asked if not url.startswith(("blob:", "data:"))] == [report.as_uri()]
    assert "not supported" not in opened.text("#explorer-chart") and opened.page.locator("#explorer-chart canvas").count() > 0


@needs_browser
def test_pointing_shows_the_sweep_and_a_click_pins_it(opened):
    x, y = opened.place(best()["throughput_ips"], best()["efficiency_gops_w"])
    opened.page.mouse.move(x - 30, y - 30)
    opened.page.mouse.move(x, y, steps=4)
    opened.page.wait_for_function("document.getElementById('explorer-chart').layout.shapes?.length === 2")
    assert "r4c8l8_d16s1p1; 1 V, 700 MHz: 140 inferences/s" in opened.text("#explorer-pointer")
    path = opened.page.evaluate("document.getElementById('explorer-chart').layout.shapes[0].path")
    assert [float(pair.split(",")[0]) for pair in path[1:].split("L")] == pytest.approx([40, 80, 140])
    slowed = opened.page.evaluate("document.getElementById('explorer-chart').layout.shapes[1]")
    assert slowed["line"]["dash"] == "dash" and [float(pair.split(",")[0]) for pair in slowed["path"][1:].split("L")] == pytest.approx([70, 35, 17.5])
    assert "DVFS effectiveness 0.125" in opened.text("#explorer-pointer")
    opened.page.mouse.click(x, y)
    opened.page.locator("#explorer-pins table").wait_for()
    assert opened.text("#explorer-status").startswith("Pinned as A: r4c8l8_d16s1p1; 1 V")
    traces = opened.page.evaluate("document.getElementById('explorer-chart').data.slice(2).map(t => [t.name, t.line?.dash ?? '', t.x.length])")
    assert traces == [["A: frequency only", "dash", 3], ["A: DVFS sweep", "", 3], ["A", "", 1]]
    assert opened.text("#chosen-name") == "r4c8l8_d16s1p1"
    opened.page.mouse.move(5, 5)
    opened.page.wait_for_function("document.getElementById('explorer-chart').layout.shapes?.length === 0")


@needs_browser
def test_filters_leave_what_passes_and_its_own_front(opened):
    page = opened.page
    page.get_by_label("supply from (V)").fill("0.6")
    page.get_by_label("supply from (V)").press("Tab")
    assert opened.text("#explorer-status").startswith("4 points, 2 of them on the front")
    page.locator("fieldset[data-name=rows] input[value='4']").uncheck()
    assert opened.text("#explorer-status").startswith("2 points, 2 of them on the front")
    assert all(name.startswith("r8_of_alexnet") for name in page.locator("#explorer-list tbody th").all_inner_texts())
    page.get_by_label("power at most (mW)").fill("0.001")
    page.get_by_label("power at most (mW)").press("Tab")
    assert opened.text("#explorer-status") == "No point passes the filters."
    page.get_by_role("button", name="Clear filters").click()
    assert opened.text("#explorer-status").startswith("6 points")
    page.locator("#case-batch").select_option("16")
    assert "batch 16" in opened.text("#explorer-scope")


@needs_browser
def test_lists_download_as_csv(opened, report, tmp_path):
    with opened.page.expect_download() as caught:
        opened.page.locator("#download-front").click()
    caught.value.save_as(tmp_path / "front.csv")
    rows = list(csv.DictReader((tmp_path / "front.csv").open()))
    pareto = [point("alexnet", 1, vdd_v) for vdd_v in (0.5, 0.7, 1.0)]
    for row, expected in zip(rows, pareto, strict=True):
        assert row["architecture"] == expected["architecture"] and row["bound"] == "dram" and row["rows"] == "4"
        for name, scale in (("throughput_ips (inferences/s)", 1), ("efficiency_gops_w (GOPS/W)", 1), ("freq_hz (MHz)", 1e-6), ("power_w (mW)", 1e3)):
            assert float(row[name]) == pytest.approx(expected[name.split()[0]] * scale, rel=1e-5), name
    opened.page.locator("details[data-table='sweeps-alexnet-b1']").evaluate("fold => { fold.open = true; }")
    with opened.page.expect_download() as caught:
        opened.page.locator("details[data-table='sweeps-alexnet-b1'] button").click()
    caught.value.save_as(tmp_path / "sweeps.csv")
    sweeps = pd.read_csv(report.parents[1] / "explore" / "dvfs.csv").query("network == 'alexnet' and batch == 1")
    np.testing.assert_allclose(pd.read_csv(tmp_path / "sweeps.csv")["efficiency_gops_w"], sweeps["efficiency_gops_w"], rtol=1e-12)


@needs_browser
def test_keyboard_alone_pins_compares_and_gets_the_design(opened, tmp_path):
    page = opened.page
    buttons = page.locator("#explorer-list button")
    for i in (0, 2):
        buttons.nth(i).focus()
        page.keyboard.press("Enter")
    cells = dict(zip(page.locator("#explorer-pins tbody th").all_inner_texts(), page.locator("#explorer-pins tbody tr").all_inner_texts(), strict=True))
    assert cells["throughput (inferences/s)"].split("\t")[1:] == ["40", "140", "3.5"]
    page.locator("#chosen-layers-table").get_by_text("Layers are recorded for points of the front only.").wait_for()
    page.locator("#chosen-voltage").focus()
    page.keyboard.press("ArrowUp")
    page.locator("#chosen-layers-table table").wait_for()
    assert page.locator("#chosen-layers-table tbody th").all_inner_texts() == ["conv1", "fc6"]
    page.locator("#chosen-download").focus()
    with page.expect_download() as caught:
        page.keyboard.press("Enter")
    caught.value.save_as(tmp_path / caught.value.suggested_filename)
    design = load_design(tmp_path / "r4c8l8_d16s1p1.yaml")
    assert design.name == "r4c8l8_d16s1p1" and design.multipliers == 256 and design.buffers.weight_bank_bytes == 16384 and design.memory.axi_data_bits == 64
    assert opened.text("#chosen-command") == "voltfront rtl --design r4c8l8_d16s1p1.yaml --out build/rtl/r4c8l8_d16s1p1"
    assert "256 multipliers" in page.locator("#chosen-diagram svg").get_attribute("aria-label")
    assert page.locator("#chosen-roofline").get_attribute("aria-label").startswith("Roofline:")


@needs_browser
def test_the_chosen_architecture_has_its_schedule_and_its_placement_or_how_to_get_them(opened, tmp_path):
    page = opened.page
    page.locator("#explorer-list button").first.click()
    page.locator("#chosen-schedule .plot-container").wait_for()
    words = opened.text("#chosen-schedule-words")
    assert words.startswith("A batch within 30 ms") and "schedule: 6 mJ; best single point: 7.5 mJ; frequency only: 8 mJ" in words
    assert "The schedule takes 25 % less than frequency only" in words
    rows = [row.split("\t") for row in page.locator("#chosen-schedule-table tbody tr").all_inner_texts()]
    assert rows == [["conv1", "0.5", "200", "10", "2"], ["fc6", "0.7", "400", "10", "2"]]
    assert page.locator("#chosen-schedule").get_attribute("aria-label") == "Core supply of 2 layers: conv1 0.5 V, fc6 0.7 V"
    picture = page.locator("#chosen-placement img")
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [300, 200] and "r4c8l8_d16s1p1" in picture.get_attribute("alt")
    with page.expect_download() as caught:
        page.locator("details[data-table='schedules-alexnet-b1'] button").evaluate("button => button.click()")
    caught.value.save_as(tmp_path / "schedules.csv")
    assert len(pd.read_csv(tmp_path / "schedules.csv")) == 6
    page.locator("fieldset[data-name=rows] input[value='4']").uncheck()
    page.locator("#explorer-list button").first.click()
    page.locator("#chosen-placement code").first.wait_for()
    assert opened.text("#chosen-placement code >> nth=0") == "voltfront placement --design r8_of_alexnet.yaml --out build/placements/r8_of_alexnet.png"
    page.wait_for_function("document.getElementById('chosen-schedule').hidden")
    assert "voltfront schedule --design r8_of_alexnet.yaml --network alexnet --batch 1 --deadline-s" in opened.text("#chosen-schedule-words")


@needs_browser
def test_every_control_has_a_name_and_dark_is_dark(browser, report):
    page = Page(browser, report, color_scheme="dark")
    unnamed = page.page.evaluate(
        """[...document.querySelectorAll("button, select, input")].filter(each => !each.closest(".modebar"))
        .filter(each => !(each.labels?.length || each.textContent.trim() || each.ariaLabel)).map(each => each.outerHTML)"""
    )
    assert unnamed == []
    background, text = page.page.evaluate("[getComputedStyle(document.body).backgroundColor, document.getElementById('explorer-chart').layout.font.color]")
    assert background == "rgb(22, 22, 22)" and text == "#e8e8e8"
    assert page.said == []
    page.context.close()


@needs_browser
def test_a_hundred_thousand_points_take_under_three_seconds(browser, tmp_path, monkeypatch):
    """Of the page's main thread; the clock of a busy machine would measure its other users."""
    without_figures(monkeypatch)
    arguments = inputs(tmp_path / "explore", networks=("alexnet",))
    for name in ("pareto", "dvfs", "layers"):
        path = tmp_path / "explore" / f"{name}.csv"
        pd.read_csv(path).query("batch == 1").to_csv(path, index=False)
    rng = np.random.default_rng(1)
    few = pd.read_parquet(tmp_path / "explore" / "points.parquet").query("batch == 1 and architecture == 'r4c8l8_d16s1p1'")
    many = few.iloc[np.tile(np.arange(3), 40_000)].reset_index(drop=True)
    factor = rng.lognormal(-2, 0.5, len(many))
    for name in ("throughput_ips", "throughput_gops", "efficiency_gops_w", "efficiency_gops_w_lo", "efficiency_gops_w_hi"):
        many[name] *= factor
    for name in ("latency_s", "latency_s_lo", "latency_s_hi"):
        many[name] /= factor
    many["architecture"] = [f"a{i // 3}" for i in range(len(many))]
    pd.concat([few, many]).to_parquet(tmp_path / "explore" / "points.parquet", index=False)
    path = write_report(**arguments, out_dir=tmp_path / "out")
    context = browser.new_context()
    context.set_default_timeout(240_000)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri())
    page.wait_for_function("document.documentElement.dataset.explorer")
    spent = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    assert f"{LIMIT // 3 * 3} points" in page.locator("#explorer-status").inner_text()
    assert 0.1 < spent["TaskDuration"] < 3, spent
    context.close()


def test_points_kept_hold_the_front_of_every_value():
    """Against a plain loop over all points."""
    rng = np.random.default_rng(7)
    count, points = 60, 5
    owner = np.repeat(np.arange(count), points)
    throughput, efficiency = rng.lognormal(0, 1, (2, count * points))
    rows, lanes = rng.choice([1, 2, 4], count), rng.choice([8, 16], count)

    def beaten(i, among):
        return any(throughput[j] >= throughput[i] and efficiency[j] >= efficiency[i] and j != i for j in among)

    needed = set()
    for values in (np.zeros(count), rows, lanes):
        for value in set(values):
            among = [i for i in range(count * points) if values[owner[i]] == value]
            needed |= {int(owner[i]) for i in among if not beaten(i, among)}
    found = choose(throughput, efficiency, owner, [rows, lanes], np.array([59]), limit=40)
    assert found.complete and needed | {59} <= set(found.architectures.tolist()) and len(set(found.architectures.tolist())) == 40
    few = choose(throughput, efficiency, owner, [rows, lanes], np.array([59]), limit=3)
    assert not few.complete and few.architectures[0] == 59 and len(few.architectures) == 3
