"""The comparison of technologies: figures from rows by hand, what is not found is named, and the page that ships shows the library that ships."""

import re
from pathlib import Path

import pytest
from small_library import write_technology

from flow.characterize import table_corners
from flow.comparison import PAGE as PAGE_NAME
from flow.comparison import Measured, liberty_hash, page, points, present
from flow.plan import load_plan
from flow.shards import Shard
from flow.tech import load_technology

ROOT = Path(__file__).resolve().parents[2]
PLAN = load_plan("comparison")
WORKLOAD = PLAN.activity[0].name
CORNER = {"process": "tt", "vdd_v": 1.0, "temperature_c": 25.0, "back_bias_v": 0.0, "sram_vdd_v": 1.0}


def row(block: str, phase: str, cycles: int, energy_j: float, *, instances: int = 1, domain: str = "core", **more) -> dict:
    common = {"technology": "small", "module": block, "workload": WORKLOAD, "area_um2": 0.0, "leakage_w": 0.0, "min_period_s": 0.0}
    return common | CORNER | {"block": block, "phase": phase, "cycles": cycles, "energy_per_cycle_j": energy_j, "instances": instances, "domain": domain} | more


def shard(*rows: dict) -> Shard:
    macs = PLAN.runs[0].window.shape(PLAN.designs[0]).macs
    # Half of the multiplications that the array did were the layer's own.
    cycles = [{"multiplier_uses": 2 * macs}]
    return Shard(
        design=PLAN.designs[0].name, corners=list(rows), paths=[], cycles=cycles, commit="0123456789ab", command="c", tools={"sta": "2.0.17"}, inputs={}
    )


ROWS = (
    # 4 elements, of 2 of which 2 x 500 cycles were replayed: busy in 600 of 1,000.
    row("pe", "active", 600, 10e-12, instances=4), row("pe", "idle", 400, 1e-12, instances=4),
    row("glue", "idle", 500, 3e-12), row("flipflop_1r1w", "active", 100, 5e-12, instances=6), row("flipflop_1r1w", "idle", 300, 1e-12, instances=6),
    row("axi_lite", "idle", 800, 99e-12, domain="memory"),
    row("accelerator", "active", 1000, 7e-12, min_period_s=2e-9, leakage_w=3e-6, area_um2=5e4),
)  # fmt: skip


def test_figures_are_those_of_the_rows_by_hand():
    (point,) = points(shard(*ROWS), PLAN)
    elements_j = 4 * (0.6 * 10e-12 + 0.4 * 1e-12)
    core_j = elements_j + 3e-12 + 6 * (0.25 * 5e-12 + 0.75 * 1e-12)
    # 16 multipliers, busy in 6 of 10 cycles, half of the products useful.
    macs = 16 * 0.6 * 0.5
    assert point.array_energy_per_mac_j == pytest.approx(elements_j / macs)
    assert point.energy_per_mac_j == pytest.approx(core_j / macs)
    assert (point.fmax_hz, point.leakage_w, point.area_um2) == (pytest.approx(5e8), 3e-6, 5e4)


def test_each_corner_has_its_own_rows():
    other = [r | {"vdd_v": 0.5, "sram_vdd_v": 0.5, "energy_per_cycle_j": r["energy_per_cycle_j"] / 4} for r in ROWS]
    high, low = points(shard(*ROWS, *other), PLAN)
    assert (high.corner.vdd_v, low.corner.vdd_v) == (1.0, 0.5) and low.energy_per_mac_j == pytest.approx(high.energy_per_mac_j / 4)


def test_corners_without_files_are_named_and_a_technology_without_its_nominal_one_is_absent(tmp_path):
    technology = load_technology(write_technology(tmp_path))
    found, missing = present(technology)
    assert found is not None and missing == {} and found.sram is None and len(found.corners) == 2
    found, missing = present(technology, ("tt_1v*", "ss_*"))
    assert found is not None and len(found.corners) == 1 and missing == {"tt_0.5v_25c_+0bb": "left out by --corner"}
    (tmp_path / "small_0.5.lib").unlink()
    found, missing = present(technology)
    assert found is not None and [c.vdd_v for c in found.corners] == [1.0] and missing == {"tt_0.5v_25c_+0bb": "its files were not found"}
    text = page(
        PLAN, [Measured(technology=found, points=points(shard(*ROWS), PLAN), shard=shard(*ROWS), missing=missing)], ["other: its files are not there"],
        command="python -m flow.comparison", figure="f.png",
    )  # fmt: skip
    assert "| small | tt | 1 | 25 | +0 | 500 |" in text and "* other: its files are not there" in text
    assert f"| small_1.0.lib | {liberty_hash(tmp_path / 'small_1.0.lib')} |" in text
    assert "| small | tt_0.5v_25c_+0bb | not measured: its files were not found | |" in text
    (tmp_path / "small_1.0.lib").unlink()
    assert present(technology)[0] is None


def test_without_figures_of_memories_they_stand_on_the_supply_of_the_logic(tmp_path):
    technology = load_technology(write_technology(tmp_path))
    assert [(c.vdd_v, c.sram_vdd_v) for c in table_corners(technology)] == [(1.0, 1.0), (0.5, 0.5)]


def test_the_page_that_ships_shows_the_libraries_that_ship():
    """Every measured corner has its files, and those of the project's own library are what they were."""
    text = (ROOT / PAGE_NAME).read_text()
    shown = re.findall(r"^\| (\w+) \| (\w+) \| ([\d.]+) \| (-?\d+) \| ([+-][\d.]+) \| [\d.e+]+ \|", text, re.MULTILINE)
    sources = re.findall(r"^\| (\w+) \| (\S+) \| (\S+\.lib) \| ([0-9a-f]{16}) \|", text, re.MULTILINE)
    assert shown and not re.search(r"[0-9a-f]{12}-dirty|unknown", text)
    names = {(t, f"{process}_{vdd_v}v_{temperature_c}c_{'+0' if float(bias) == 0 else bias}bb") for t, process, vdd_v, temperature_c, bias in shown}
    assert names == {(t, corner) for t, corner, _, _ in sources} and len(names) == len(shown)
    for name in {t for t, _ in names}:
        technology = load_technology(name)
        assert (name, str(technology.nominal_corner()).rsplit("_", 1)[0]) in names
    own = {Path(file).name.removesuffix(".gz"): Path(file) for known in load_technology("fdsoi28p").corners for file in known.liberty}
    for t, _, file, digits in sources:
        assert t != "fdsoi28p" or liberty_hash(own[file]) == digits
