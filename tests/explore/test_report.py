"""The report: made from small tables written by hand."""

import json
import re
from base64 import b64encode
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib
import pandas as pd
import pytest
from plotly import graph_objects
from report_inputs import HOSTILE, PARTS_J, inputs, point

from explore.report import write_report
from explore.report_charts import unique_key
from explore.report_points import read_pictures
from hw.errors import ConfigError


class _Elements(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self._skip = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skip = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._skip = False

    def handle_data(self, data):
        self.text += "" if self._skip else data + " "


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page = write_report(**inputs(folder / "explore"), out_dir=folder / "out", headline=folder / "docs" / "pareto.png")
    return folder, page, _Elements(page.read_text(encoding="utf-8"))


def test_page_loads_nothing_from_outside(written):
    _, page, elements = written
    assert page == written[0] / "out" / "index.html"
    for tag, attributes in elements.tags:
        assert "src" not in attributes and tag not in ("link", "iframe", "img", "object"), (tag, attributes)
        link = attributes.get("href", "#")
        assert link.startswith("#") or (page.parent / link).is_file(), link
    policies = [a["content"] for tag, a in elements.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none';") and "http" not in policies[0]


def test_page_states_numbers_and_where_they_come_from(written):
    text = " ".join(written[2].text.split())
    best = point("alexnet", 1, 0.5)
    parts = {name: value * (0.25 if name.startswith("core") else 1) for name, value in PARTS_J.items()}
    dram = sum(value for name, value in parts.items() if name.startswith("DRAM")) / sum(parts.values())
    assert f"alexnet, batch 1: up to {best['efficiency_gops_w']:.4g} GOPS/W at 40 inferences/s (0.50 V, 200 MHz; r4c8l8_d16s1p1)" in text
    assert f"the DRAM spends {dram:.0%} of the energy" in text
    for number in ("1.23%", "4.56%", "5.67%", "feedbeef", "ab" * 32, "cd" * 32, "12345", "voltfront characterize"):
        assert number in text, number
    assert "Predictive technology" in text and "Provisional: the figures of sram" in text
    assert "share of the time by what bounds it: dram 77%, compute 23%" in text
    assert (
        "fdsoi28p, tt, 25 °C, back bias 0 V, core 0.5 to 1 V, frequency margin 0.1, wires: fanout; commit c0ffee123456; alexnet, batch 1, a8w8; lpddr3" in text
    )


def figures(page):
    """Data and layout of each chart by its name."""
    found = re.findall(r'<script type="application/json" class="figure" data-for="([^"]+)">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    return {key: json.loads(data) for key, data in found}


def test_charts_show_sweeps_energies_and_bounds(written):
    charts = figures(written[1])
    front = charts["front-alexnet-b1"]["data"]
    solid = [t for t in front if t["name"].startswith("DVFS")]
    dashed = [t for t in front if t["line"].get("dash") == "dash"]
    assert [t["name"] for t in solid] == ["DVFS: r8_of_alexnet (effectiveness 0.250)", "DVFS: r4c8l8_d16s1p1 (effectiveness 0.125)"]
    assert len(dashed) == 2 and dashed[0]["x"] == pytest.approx([35, 70, 140])
    assert front[0]["x"] == pytest.approx([40, 80, 140]) and len(front[0]["error_y"]["array"]) == 3

    energy = {t["name"]: t["y"] for t in charts["energy-alexnet-b16"]["data"]}
    assert energy["core dynamic"] == pytest.approx([0.25, 0.49, 1.0]) and energy["DRAM core"] == pytest.approx([4, 4, 4])
    assert sum(values[-1] for values in energy.values()) == pytest.approx(8.0)

    assert "alexnet, batch 16: energy of an inference by part, r8_of_alexnet" in written[2].text

    layers = {t["name"]: dict(zip(t["y"], t["x"], strict=True)) for t in charts["layers-alexnet-b1-balanced"]["data"]}
    assert layers == {"bound by compute": {"conv1": pytest.approx(4.2)}, "bound by dram": {"fc6": pytest.approx(13.7)}}
    assert charts["fit-errors"]["data"][0]["x"] == [1.23]


def test_plotly_knows_every_property_of_the_charts(written):
    for figure in figures(written[1]).values():
        graph_objects.Figure(figure)


def test_every_chart_has_words_and_its_files(written):
    folder, page, elements = written
    charts = {a["id"]: a for tag, a in elements.tags if a.get("class") == "chart"}
    assert set(charts) == set(figures(page)) and len(charts) == 4 + 4 + 4 + 2
    for key, attributes in charts.items():
        assert attributes["role"] == "img" and re.search(r"\d", attributes["aria-label"])
        assert (page.parent / "figures" / f"{key}.png").read_bytes().startswith(b"\x89PNG")
        assert (page.parent / "figures" / f"{key}.pdf").read_bytes().startswith(b"%PDF")
        assert ElementTree.parse(page.parent / "figures" / f"{key}.svg").getroot().tag.endswith("svg")
    assert (folder / "docs" / "pareto.png").read_bytes() == (page.parent / "figures" / "pareto.png").read_bytes()
    assert not list(page.parent.glob(".*"))


def test_same_input_gives_same_bytes(written, tmp_path):
    first = written[1].parent
    matplotlib.rcParams["svg.hashsalt"] = None
    write_report(**inputs(tmp_path / "explore"), out_dir=tmp_path / "out")
    names = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file())
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (first / name).read_bytes(), name


def test_names_from_files_stay_text(tmp_path):
    page = write_report(**inputs(tmp_path / "explore", networks=(HOSTILE,), commit=HOSTILE, block=HOSTILE), out_dir=tmp_path / "out")
    elements = _Elements(page.read_text(encoding="utf-8"))
    scripts = [attributes.get("type") for tag, attributes in elements.tags if tag == "script"]
    assert len(figures(page)) == 8 and scripts.count("application/json") == 8 + 2 * 3 + 1 and scripts.count(None) == len(scripts) - 15 == 3
    assert not any("bad.example" in a.get("href", "") for _, a in elements.tags)
    assert HOSTILE in elements.text
    texts = json.dumps(figures(page))
    assert "&lt;/script&gt;" in texts and "<" not in texts
    assert all(re.fullmatch(r"[a-z0-9-]+\.(png|svg|pdf)", path.name) for path in (tmp_path / "out" / "figures").iterdir())


def test_pictures_are_those_of_the_architectures_and_nothing_else(tmp_path):
    folder = tmp_path / "placements"
    folder.mkdir()
    for name in ("a1", "b2"):
        (folder / f"{name}.png").write_bytes(b"\x89PNG" + name.encode())
    (tmp_path / "outside.png").write_bytes(b"\x89PNG")
    assert read_pictures(folder, ["a1", "c3", "../outside", "A1"]) == {"a1": "data:image/png;base64," + b64encode(b"\x89PNGa1").decode()}
    (folder / "b2.png").write_bytes(b"<svg/>")
    with pytest.raises(ConfigError, match="picture must be a PNG file"):
        read_pictures(folder, ["b2"])


def test_names_of_files_differ():
    taken = set()
    assert [unique_key(text, taken) for text in ("A b", "a/b", "../..", "a b", "ü")] == ["a-b", "a-b-2", "x", "a-b-3", "x-2"]


def edit(path, change):
    frame = pd.read_csv(path)
    change(frame).to_csv(path, index=False)


def edit_points(folder, change):
    change(pd.read_parquet(folder / "points.parquet")).to_parquet(folder / "points.parquet", index=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: edit(d / "pareto.csv", lambda f: f.drop(columns="efficiency_gops_w_lo")), "columns must include efficiency_gops_w_lo, not lack it"),
        (lambda d: edit(d / "dvfs.csv", lambda f: f.drop(columns="effectiveness")), "columns must include effectiveness, not lack it"),
        (lambda d: edit(d / "pareto.csv", lambda f: f.assign(power_w=float("nan"))), "values of power_w must be finite numbers"),
        (lambda d: edit(d / "pareto.csv", lambda f: f.assign(freq_hz=float("inf"))), "values of freq_hz must be finite numbers"),
        (lambda d: edit(d / "pareto.csv", lambda f: f.assign(points_version=4)), "points_version must be 3, not 4"),
        (lambda d: edit(d / "pareto.csv", lambda f: f.assign(dram_phy_energy_j=f["dram_phy_energy_j"] * 1.5)), "parts of the energy must add up to"),
        (lambda d: edit(d / "pareto.csv", lambda f: f.iloc[:0]), "table must have rows, not be empty"),
        (lambda d: edit(d / "dvfs.csv", lambda f: f[f["batch"] != 16]), "dvfs.csv must have a DVFS sweep of each case, not none of alexnet, batch 16"),
        (lambda d: (d / "points.parquet").unlink(), "table must exist, not be absent"),
        (lambda d: (d / "points.parquet").write_bytes(b"PAR1 cut off"), "table must be readable Parquet"),
        (lambda d: edit_points(d, lambda f: f[f["batch"] != 16]), "table must have points of each case, not none of alexnet, 16"),
        (lambda d: edit_points(d, lambda f: f.assign(points_version=1)), "points_version must be 3, not 1"),
        (lambda d: edit_points(d, lambda f: f.assign(latency_s_lo=float("nan"))), "values of latency_s_lo must be finite numbers above 0"),
        (lambda d: edit_points(d, lambda f: f.drop(columns="rows")), "columns must include rows, not lack it"),
        (lambda d: (d / "layers.csv").write_text('"a\n'), "table must be readable CSV"),
        (lambda d: (d / "layers.csv").unlink(), "table must exist, not be absent"),
        (lambda d: (d / "run.json").write_text("[1]"), "record of the exploration must be a mapping, not list"),
        (lambda d: (d / "run.json").write_text('{"commit": '), "record of the exploration must be readable JSON"),
        (lambda d: (d / "model.json").unlink(), "model must exist, not be absent"),
    ],
)
def test_damaged_input_gets_one_line_and_leaves_the_old_report(tmp_path, damage, message):
    arguments = inputs(tmp_path / "explore")
    damage(tmp_path / "explore")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("old")
    with pytest.raises(ConfigError) as caught:
        write_report(**arguments, out_dir=tmp_path / "out")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"] and (tmp_path / "out" / "index.html").read_text() == "old"


def test_failure_while_drawing_leaves_the_old_report(tmp_path, monkeypatch):
    arguments = inputs(tmp_path / "explore")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("old")
    monkeypatch.setattr("explore.report_page.save_panels", lambda *_: 1 / 0)
    monkeypatch.setattr("explore.report_page.save_chart", lambda chart, folder: (folder / f"{chart.key}.png").write_bytes(b"half"))
    with pytest.raises(ZeroDivisionError):
        write_report(**arguments, out_dir=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"] and (tmp_path / "out" / "index.html").read_text() == "old"
