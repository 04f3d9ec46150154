"""Cells: descriptions against their functions, characterization against ngspice, committed Liberty against a fresh simulation."""

import gzip
import itertools
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.cells.accuracy import compare, summary
from flow.cells.characterize import characterize_library, liberty_name
from flow.cells.constraints import _search as search_raster
from flow.cells.fo4 import measure_fo4
from flow.cells.measure import Energy, check, edge_point, energy_j
from flow.cells.netlist import all_cells, dual, load_cell_library, parse_network
from flow.cells.spice import Bench, Point, Ramp
from flow.cells.steps import sweep_for
from flow.cells.variation import local_variation
from flow.corner import Corner
from flow.liberty import read_library
from flow.logic import cell_logic, evaluate
from flow.tech import load_technology
from flow.tools import run_tool
from hw.errors import ConfigError, ToolError

TECH = Path(__file__).resolve().parents[2] / "flow" / "tech" / "fdsoi28p"
LIBRARY = load_cell_library(TECH)
CARDS = TECH / LIBRARY.transistors.cards
TYPICAL = LIBRARY.processes["tt"]
CELLS = {cell.name: cell for cell in all_cells(LIBRARY)}
COMBINATIONAL = [c for c in CELLS.values() if c.description.kind == "combinational"]
needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
needs_sta = pytest.mark.skipif(shutil.which("sta") is None, reason="OpenSTA is not installed")


def corner(vdd_v: float, *, temperature_c: float = 25.0, back_bias_v: float = 0.0, process: str = "tt") -> Corner:
    return Corner(process=process, vdd_v=vdd_v, temperature_c=temperature_c, back_bias_v=back_bias_v, sram_vdd_v=vdd_v)


def committed(vdd_v: float):
    return read_library(TECH / liberty_name("fdsoi28p", corner(vdd_v)))


# --- descriptions -------------------------------------------------------------------------------


def switch_level(cell, inputs: dict[str, int], held: dict[str, int]) -> dict[str, int]:
    """The nodes' values found by walking the transistor graph, for nodes in stage order; `held` where nothing drives."""
    values = {**held, **inputs, "VDD": 1, "VSS": 0}
    for _ in range(3 * len(cell.nodes) + 3):
        for node in cell.nodes:
            for rail, on, kind in (("VSS", 1, "n"), ("VDD", 0, "p")):
                seen, front = {node}, [node]
                while front:
                    here = front.pop()
                    for t in cell.transistors:
                        if t.kind == kind and values.get(t.gate) == on and here in (t.drain, t.source):
                            there = t.source if here == t.drain else t.drain
                            if there not in seen and there not in ("VDD", "VSS") and there not in cell.nodes:
                                front.append(there)
                            seen.add(there)
                if rail in seen:
                    values[node] = values[rail]
    return values


@pytest.mark.parametrize("cell", COMBINATIONAL, ids=lambda c: c.name)
def test_transistors_compute_the_liberty_function(cell):
    for bits in itertools.product((0, 1), repeat=len(cell.inputs)):
        inputs = dict(zip(cell.inputs, bits, strict=True))
        settled = cell.settle(inputs)
        walked = switch_level(cell, inputs, {})
        for output, function in cell.description.outputs.items():
            expected = int(evaluate(function, {k: np.asarray(bool(v)) for k, v in inputs.items()}, cell.name))
            assert settled[output] == expected == walked[output], (inputs, output)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["CK", "D", "RN"]), st.integers(0, 1)), min_size=4, max_size=30))
def test_flops_and_clock_gates_behave_as_their_textbook_models(changes):
    flop, clearable, gate = CELLS["DFF_X1"], CELLS["DFFR_X1"], CELLS["ICG_X2"]
    pins = {"CK": 0, "D": 0, "RN": 1}
    # Load a zero first, so that every model knows its bit.
    states = [c.after([{k: v for k, v in {**pins, "E": 0}.items() if k in c.inputs}, {"CK": 1}, {"CK": 0}]) for c in (flop, clearable, gate)]
    q, qr, latch = 0, 0, 0
    for pin, value in changes:
        rising = pin == "CK" and value == 1 and pins["CK"] == 0
        pins[pin] = value
        if rising:
            q, qr = pins["D"], pins["D"]
        qr = qr if pins["RN"] else 0
        latch = latch if pins["CK"] else pins["D"]
        inputs = {**pins, "E": pins["D"]}
        before = states[0]
        states = [c.settle({k: v for k, v in inputs.items() if k in c.inputs}, s) for c, s in zip((flop, clearable, gate), states, strict=True)]
        assert (states[0]["Q"], states[1]["Q"], states[2]["GCLK"]) == (q, qr, pins["CK"] & latch)
        held = {k: v for k, v in before.items() if k in flop.nodes}
        assert switch_level(flop, {k: pins[k] for k in ("CK", "D")}, held) == states[0]


def test_areas_and_transistor_counts_match_hand_figures():
    assert {n: len(CELLS[n].transistors) for n in ("INV_X1", "NAND2_X1", "XOR2_X1", "FA_X1", "DFF_X1")} == {
        "INV_X1": 2, "NAND2_X1": 4, "XOR2_X1": 12, "FA_X1": 28, "DFF_X1": 26,
    }  # fmt: skip
    # Three pitches of 0.136 um at 12 tracks of 0.1 um; published: 0.49 um2, XOR 2.4 and flop 6 times that.
    nand = CELLS["NAND2_X1"].area_um2
    assert nand == pytest.approx(3 * 0.136 * 1.2)
    assert CELLS["XOR2_X1"].area_um2 / nand == pytest.approx(2.4, rel=0.05)
    assert CELLS["DFF_X1"].area_um2 / nand == pytest.approx(6, rel=0.05)
    assert len(LIBRARY.cells) >= 32 and len(CELLS) >= 50


def test_series_transistors_are_wider_by_the_stated_rule():
    assert {(t.kind, round(t.width_um, 4)) for t in CELLS["NAND3_X1"].transistors} == {("n", 0.408), ("p", 0.36)}
    aoi = [(t.kind, t.gate, round(t.width_um, 4)) for t in CELLS["AOI21_X2"].transistors]
    assert ("n", "C", 0.48) in aoi and ("n", "A", round(0.48 * 1.4, 4)) in aoi and ("p", "C", round(0.72 * 1.4, 4)) in aoi


def test_malformed_networks_and_descriptions_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"must be names joined by \*"):
        parse_network("A * !B")
    with pytest.raises(ConfigError, match=r"must be names joined by \*"):
        parse_network("A + ")
    assert dual(parse_network("A * B + C")) == ("series", ("parallel", ("gate", "A"), ("gate", "B")), ("gate", "C"))
    data = yaml.safe_load((TECH / "cells.yaml").read_text())
    data["cells"] = {
        "BAD": {"kind": "combinational", "inputs": ["A"], "outputs": {"Y": "A"}, "stages": [{"node": "a", "pull_down": "A"}, {"node": "Y", "pull_down": "a"}]}
    }
    (tmp_path / "cells.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="differ when case is ignored"):
        all_cells(load_cell_library(tmp_path))[0].subcircuit()
    data["cells"]["BAD"]["stages"] = [{"node": "Y", "pull_down": "A", "pull_up": "VSS"}]
    (tmp_path / "cells.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="node Y must be pulled one way"):
        all_cells(load_cell_library(tmp_path))[0].settle({"A": 1})
    del data["geometry"]["source"]
    (tmp_path / "cells.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="geometry.source must be given"):
        load_cell_library(tmp_path)


# --- the cards' guard bands, by direct simulation -----------------------------------------------


@needs_ngspice
def test_fo4_and_leakage_stay_in_their_guard_bands(tmp_path):
    inverter = CELLS["INV_X1"]

    def fo4(where: Corner) -> float:
        return measure_fo4(inverter, CARDS, LIBRARY.processes[where.process], where, tmp_path, load_f=3e-15).delay_s * 1e12

    def leak(where: Corner) -> float:
        bench = Bench(cell=inverter, cards=CARDS, process=LIBRARY.processes[where.process], corner=where, folder=tmp_path)
        return float(np.mean(bench.leakage([{"A": 0}, {"A": 1}], label="leak"))) / where.vdd_v

    delay = {v: fo4(corner(v)) for v in (0.45, 0.6, 0.8, 1.0)}
    for vdd, low, high in ((1.0, 11, 15), (0.8, 14, 20), (0.6, 24, 40)):
        assert low < delay[vdd] < high
    assert 8 < delay[0.45] / delay[1.0] < 20
    for vdd, amps in ((0.45, 0.112e-9), (0.6, 0.18e-9), (0.8, 0.356e-9), (1.0, 0.748e-9)):
        assert amps / 3 < leak(corner(vdd)) < amps * 3
    for vdd, change in ((1.0, -13), (0.8, -20), (0.6, -38)):
        assert 100 * (fo4(corner(vdd, back_bias_v=1.0)) / delay[vdd] - 1) == pytest.approx(change, abs=5)
    assert 8 < leak(corner(0.8, back_bias_v=1.0)) / leak(corner(0.8)) < 16
    assert 12 < leak(corner(0.8, temperature_c=125.0)) / leak(corner(0.8)) < 40
    # Slow and fast processes lie on either side, further at low voltage.
    ratio = {(p, v): fo4(corner(v, process=p)) / delay[v] for p in ("ss", "ff") for v in (0.6, 1.0)}
    assert 1.05 < ratio["ss", 1.0] < ratio["ss", 0.6] < 1.6 and 0.6 < ratio["ff", 0.6] < ratio["ff", 1.0] < 0.95
    assert leak(corner(0.8, process="ff")) > 1.5 * leak(corner(0.8)) > 3 * leak(corner(0.8, process="ss"))
    # Temperature inversion: heat speeds the cell up at 0.45 V and slows it down at 0.75 V.
    assert fo4(corner(0.45, temperature_c=125.0)) < delay[0.45]
    assert fo4(corner(0.75, temperature_c=125.0)) > fo4(corner(0.75))


@needs_ngspice
def test_measurement_agrees_with_an_independent_reading_of_the_waveform(tmp_path):
    """Delay, slew and energy of one NAND2 edge from raw waveforms at a fixed fine step, without any of the package's deck."""
    vdd, slew, load = 0.8, 20e-12, 2e-15
    ramp = slew / 0.6
    deck = f"""* independent
.include {CARDS}
{TYPICAL.parameters()}
.options chgtol=1e-18 trtol=1 reltol=1e-4 abstol=1e-14 gmin=1e-15
{CELLS["NAND2_X1"].subcircuit()}
Vvdd vdd 0 {vdd}
Va a 0 pwl(0 0 10p 0 {10e-12 + ramp} {vdd} 200p {vdd} {200e-12 + ramp} 0)
Vb b 0 {vdd}
Cl y 0 {load}
X1 a b y vdd 0 0 NAND2_X1
.tran 0.1p 400p 0 0.1p
.control
run
wrdata wave.txt v(y) i(Vvdd) i(Va)
quit
.endc
.end
"""
    (tmp_path / "independent.sp").write_text(deck)
    run_tool(["ngspice", "-b", "independent.sp"], cwd=tmp_path, timeout_s=300, step="independent")
    t, y, _, supply, _, gate = np.loadtxt(tmp_path / "wave.txt").T
    first, second = t < 190e-12, t >= 190e-12

    def cross(level: float, part: np.ndarray) -> float:
        inside = np.flatnonzero(np.diff(np.sign(y[part] - level)))[-1]
        tt, yy = t[part][inside : inside + 2], y[part][inside : inside + 2]
        return float(tt[0] + (level - yy[0]) * (tt[1] - tt[0]) / (yy[1] - yy[0]))

    def charge(current: np.ndarray, part: np.ndarray) -> float:
        return float(-np.sum((current[part][1:] + current[part][:-1]) / 2 * np.diff(t[part])))

    cell = CELLS["NAND2_X1"]
    bench = Bench(cell=cell, cards=CARDS, process=TYPICAL, corner=corner(vdd), folder=tmp_path)
    sweep = sweep_for(cell, LIBRARY, 15e-12)
    for start, part, at, load_energy in ((0, first, 10e-12 + ramp / 2, 0.0), (1, second, 200e-12 + ramp / 2, load * vdd**2)):
        point = edge_point(bench, sweep, state=cell.settle({"A": start, "B": 1}), pin="A", slew_s=slew, load_f=load)
        result = bench.run([point], label=f"edge{start}")[0]
        assert result.crossing_s["Y"] - point.inputs["A"].at_s == pytest.approx(cross(vdd / 2, part) - at, rel=0.01)
        edge = abs(cross(0.8 * vdd, part) - cross(0.2 * vdd, part))
        assert result.transition_s["Y"] == pytest.approx(edge, rel=0.015)
        expected = vdd * charge(supply, part) + vdd / 2 * charge(gate, part) - load_energy
        assert energy_j(bench, point, result, 0.0) == pytest.approx(expected, abs=0.015 * (load + 1e-15) * vdd**2)


# --- characterization end to end ----------------------------------------------------------------


@pytest.fixture
def tiny_tech(tmp_path) -> Path:
    """INV and a flop's worth of axes: enough to go through every stage in seconds."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    data = yaml.safe_load((TECH / "cells.yaml").read_text())
    data["cells"] = {name: {**data["cells"][name], "drives": [1]} for name in ("INV", "NAND2", "TIEHI")}
    data["characterization"] = {"slews_fo4": [0.5, 4.0], "loads": [1.0, 8.0], "load_unit_f": 0.75e-15, "constraint_slews_fo4": [1.0, 4.0]}
    (folder / "cells.yaml").write_text(yaml.safe_dump(data))
    shutil.copy(CARDS, folder / data["transistors"]["cards"])
    return folder


@needs_ngspice
def test_characterize_library_writes_resumes_and_repeats_its_bytes(tiny_tech, tmp_path):
    corners = [corner(0.8), corner(0.6)]
    paths = characterize_library(tech_dir=tiny_tech, corners=corners, out_dir=tmp_path / "out", workers=2, cache=tmp_path / "cache")
    assert [p.name for p in paths] == ["tiny_tt_0p80v_25c.lib.gz", "tiny_tt_0p60v_25c.lib.gz"]
    fast, slow = map(read_library, paths)
    assert (fast.vdd_v, slow.vdd_v, fast.temperature_c) == (0.8, 0.6, 25.0)
    assert set(fast.cells) == {"INV_X1", "NAND2_X1", "TIEHI_X1"}
    first = [p.read_bytes() for p in paths]
    assert b"PREDICTIVE" in gzip.decompress(first[0])[:300]
    # What is in the cache is not simulated again.
    begin = time.monotonic()
    again = characterize_library(tech_dir=tiny_tech, corners=corners, out_dir=tmp_path / "again", workers=1, cache=tmp_path / "cache")
    assert time.monotonic() - begin < 1.0
    assert [p.read_bytes() for p in again] == first


@needs_ngspice
def test_broken_cards_give_one_error_with_the_deck_kept_and_no_library(tiny_tech, tmp_path):
    cards = tiny_tech / LIBRARY.transistors.cards
    cards.write_text(cards.read_text().replace(".model plvt", ".model other"))
    with pytest.raises(ToolError) as caught:
        characterize_library(tech_dir=tiny_tech, corners=[corner(0.8)], out_dir=tmp_path / "out", workers=1, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").rglob("*.sp"))
    assert not list((tmp_path / "out").iterdir())


def test_wrong_requests_are_refused(tiny_tech, tmp_path, monkeypatch):
    common = {"tech_dir": tiny_tech, "out_dir": tmp_path, "cache": tmp_path / "cache"}
    with pytest.raises(ConfigError, match="workers must be at least 1, not 0"):
        characterize_library(corners=[corner(0.8)], workers=0, **common)
    with pytest.raises(ConfigError, match="process must be one of ff, ss, tt, not sf"):
        characterize_library(corners=[corner(0.8, process="sf")], **common)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output folder must be writable"):
        characterize_library(corners=[corner(0.8)], **{**common, "out_dir": tmp_path / "file" / "out"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="ngspice .* must be installed"):
        characterize_library(corners=[corner(0.8)], **common)


def test_a_floating_node_is_refused_before_anything_is_simulated(tiny_tech, tmp_path):
    path = tiny_tech / "cells.yaml"
    text = path.read_text()
    for old, new, problem in (
        ("pull_down: A * B", "pull_down: A * lost", "every node of a cell must be driven, not lost float \\(cell NAND2_X1"),
        ("pull_down: A * B", "pull_down: A", "every input of a cell must drive a transistor, not B none \\(cell NAND2_X1"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=problem):
            characterize_library(tech_dir=tiny_tech, corners=[corner(0.8)], out_dir=tmp_path / "out", workers=1, cache=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()


@needs_ngspice
def test_a_flavour_shifts_every_transistor(tiny_tech, tmp_path):
    shutil.copy(TECH / "flavours.yaml", tiny_tech)
    common = {"tech_dir": tiny_tech, "corners": [corner(0.8)], "workers": 1, "cache": tmp_path / "cache"}
    (slow,) = characterize_library(out_dir=tmp_path / "rvt", flavour="rvt", **common)
    (fast,) = characterize_library(out_dir=tmp_path / "lvt", **common)
    assert (slow.name, fast.name) == ("tiny_rvt_tt_0p80v_25c.lib.gz", "tiny_tt_0p80v_25c.lib.gz")
    rvt, lvt = (read_library(path).cells["INV_X1"] for path in (slow, fast))
    assert 4 < lvt.leakage_w / rvt.leakage_w < 20
    with pytest.raises(ConfigError, match="flavour must be one of rvt, not 'hvt'"):
        characterize_library(out_dir=tmp_path / "hvt", flavour="hvt", **common)


@needs_ngspice
def test_local_variation_weighs_more_at_low_supply_and_averages_along_a_path(tmp_path):
    low, high = (local_variation(LIBRARY, corner(v), cards=CARDS, folder=tmp_path) for v in (0.5, 1.0))
    # 1.3 mV um over the root of 0.03 um x 0.24 and 0.36 um: 15.3 and 12.5 mV.
    assert low.threshold_v == high.threshold_v == pytest.approx(13.9e-3, rel=0.01)
    assert 0.005 < high.sigma < 0.04 and 3 < low.sigma / high.sigma < 20
    assert low.derate(gates=16) == pytest.approx(1 + 3 * low.sigma / 4)


@needs_ngspice
def test_a_point_that_does_not_settle_is_repeated_and_then_refused(tmp_path):
    cell = CELLS["INV_X1"]
    bench = Bench(cell=cell, cards=CARDS, process=TYPICAL, corner=corner(0.8), folder=tmp_path)

    def point(window_s: float) -> Point:
        ramp = Ramp(start=0, end=1, at_s=10e-12, slew_s=5e-12)
        return Point(inputs={"A": ramp}, loads_f={"Y": 20e-15}, window_s=window_s, expect={"Y": 0}, edges=("Y",))

    # Far too short a window at first: found again with a longer one.
    patient = bench.run([point(60e-12)], label="short")[0]
    assert patient.window_s > 60e-12
    assert patient.crossing_s["Y"] == pytest.approx(bench.run([point(800e-12)], label="long")[0].crossing_s["Y"], rel=0.01)
    with pytest.raises(ToolError, match=r"ends at .* repeat it with ngspice -b"):
        bench.run([point(15e-12)], label="hopeless")
    assert (tmp_path / "hopeless.sp").exists()


def test_implausible_tables_are_refused():
    from flow.cells.measure import Arc, CellData

    good = {"name": "X", "slews_s": (1e-12,), "loads_f": (1e-15, 2e-15), "constraint_slews_s": (1e-12,), "leakage": ()}
    good |= {"sampled_slews_s": (1e-12,), "sampled_loads_f": (1e-15, 2e-15)}
    good |= {"rise_capacitance_f": {"A": 1e-15}, "fall_capacitance_f": {"A": 1e-15}}

    def arc(delays, transitions):
        return Arc(output="Y", related="A", timing_type="combinational", sense="positive_unate", delay_rise_s=(delays,), transition_rise_s=(transitions,))

    check(CellData(**good, arcs=(arc((1e-12, 2e-12), (1e-12, 2e-12)),)))
    with pytest.raises(ToolError, match="grows with load"):
        check(CellData(**good, arcs=(arc((2e-12, 1e-12), (1e-12, 2e-12)),)))
    with pytest.raises(ToolError, match="positive transitions"):
        check(CellData(**good, arcs=(arc((1e-12, 2e-12), (-1e-12, 2e-12)),)))
    with pytest.raises(ToolError, match="positive internal energy"):
        check(CellData(**good, energies=(Energy(pin="Y", related="A", rise_j=((1e-15, 1e-15),), fall_j=((-2e-15, 0.0),)),)))
    with pytest.raises(ToolError, match="positive capacitance of A"):
        check(CellData(**{**good, "rise_capacitance_f": {"A": 0.0}}))


# --- the committed library ----------------------------------------------------------------------


def test_committed_libraries_hold_every_cell_at_every_corner_and_scale_with_voltage():
    technology = load_technology("fdsoi28p")
    assert technology.predictive
    line = sorted((c for c in technology.known_corners if (c.process, c.temperature_c, c.back_bias_v) == ("tt", 25.0, 0.0)), key=lambda c: c.vdd_v)
    libraries = [read_library(path) for known in line for path in known.liberty]
    assert [lib.vdd_v for lib in libraries] == [c.vdd_v for c in line]
    assert {c.at_sram(c.vdd_v) for c in technology.known_corners} <= set(LIBRARY.corners())
    for known in technology.known_corners:
        assert Path(known.liberty[0]).name == liberty_name("fdsoi28p", known.at_sram(known.vdd_v))
        assert set(read_library(known.liberty[0]).cells) == set(CELLS)
    for library in libraries:
        assert set(library.cells) == set(CELLS)
        assert (library.slew_lower, library.slew_upper) == (0.2, 0.8)
        for name, cell in library.cells.items():
            assert cell.area_um2 == CELLS[name].area_um2
            assert cell.leakage_w > 0 and all(state.power_w > 0 for state in cell.leakage)
            logic = cell_logic(cell)
            covered = sum(logic.when(state.when).astype(int) for state in cell.leakage) if cell.leakage else np.ones(1)
            assert np.all(covered <= 1), name
        for role in ("inverter", "buffer", "nand2", "tie_high", "tie_low", "clock_gate"):
            assert getattr(technology.cells, role) in library.cells
        flop = library.cells["DFF_X1"]
        assert {arc.timing_type for arc in flop.pins["D"].timing} == {"setup_rising", "hold_rising"}
        assert {arc.timing_type for arc in library.cells["DLAT_X1"].pins["D"].timing} == {"setup_falling", "hold_falling"}
        assert {arc.timing_type for arc in library.cells["DFFR_X1"].pins["RN"].timing} == {"recovery_rising", "removal_rising"}
        # A window in which data must be stable: setup plus hold is positive.
        setup, hold = (next(a for a in flop.pins["D"].timing if a.timing_type == f"{k}_rising") for k in ("setup", "hold"))
        assert np.all(setup.constraint_rise_s.values + hold.constraint_fall_s.values > 0)
    for before, after in itertools.pairwise(libraries):
        for name, cell in after.cells.items():
            for pin in cell.pins.values():
                for arc, old in zip(pin.timing, before.cells[name].pins[pin.name].timing, strict=True):
                    for table in ("delay_rise_s", "delay_fall_s"):
                        if getattr(arc, table) is not None:
                            # The same multiples of FO4 and the same loads at either voltage.
                            assert np.all(getattr(arc, table).values[:, 1:] < getattr(old, table).values[:, 1:]), (name, pin.name)
        assert after.cells["INV_X1"].leakage_w > before.cells["INV_X1"].leakage_w


@needs_ngspice
def test_committed_points_repeat_in_a_fresh_simulation(tmp_path):
    """A seeded sample of (cell, arc, slew, load) of two corners, simulated again: delay, transition and energy."""
    rng = random.Random(20240817)
    for vdd in rng.sample([1.0, 0.5, 0.8], 2):
        library = committed(vdd)
        unit = measure_fo4(CELLS["INV_X1"], CARDS, TYPICAL, corner(vdd), tmp_path, load_f=3e-15)
        for cell in rng.sample(COMBINATIONAL, 8):
            sweep = sweep_for(cell, LIBRARY, unit.delay_s)
            bench = Bench(cell=cell, cards=CARDS, process=TYPICAL, corner=corner(vdd), folder=tmp_path, shape=unit.shape)
            output, pin = rng.choice(cell.outputs), rng.choice(cell.inputs)
            arcs = [a for a in library.cells[cell.name].pins[output].timing if a.related_pins == (pin,)]
            others = [n for n in cell.inputs if n != pin]
            sides = [dict(zip(others, bits, strict=True)) for bits in itertools.product((0, 1), repeat=len(others))]
            sides = [s for s in sides if cell.settle({**s, pin: 0})[output] != cell.settle({**s, pin: 1})[output]]
            # Where every state was simulated.
            i, j, start = rng.choice(sweep.sampled_slews), rng.choice(sweep.sampled_loads), rng.randint(0, 1)
            points = [edge_point(bench, sweep, state=cell.settle({**s, pin: start}), pin=pin, slew_s=sweep.slews_s[i], load_f=sweep.loads_f[j]) for s in sides]
            results = bench.run(points, label="again")
            leakage_w = float(np.mean([s.power_w for s in library.cells[cell.name].leakage]))
            slowest: dict[tuple[str, str], list[tuple[float, float]]] = {}
            for side, point, result in zip(sides, points, results, strict=True):
                edge = "rise" if point.expect[output] else "fall"
                sense = "positive_unate" if (edge == "rise") == (start == 0) else "negative_unate"
                slowest.setdefault((sense, edge), []).append((result.crossing_s[output] - point.inputs[pin].at_s, result.transition_s[output]))
                powers = [p for p in library.cells[cell.name].pins[output].internal_power if p.related_pins == (pin,)]
                bits = {k: np.asarray(bool(v)) for k, v in side.items()}
                stored = next(getattr(p, f"{edge}_j") for p in powers if p.when is None or bool(evaluate(p.when, bits, cell.name)))
                shared = energy_j(bench, point, result, leakage_w) / len(point.edges)
                scale = sweep.loads_f[j] * vdd**2 / 2 + abs(shared)
                # Like states are stored as their mean.
                assert stored.values[i, sweep.sampled_loads.index(j)] == pytest.approx(shared, abs=0.02 * scale), (cell.name, pin, output, vdd)
            for (sense, edge), found in slowest.items():
                arc = next(a for a in arcs if a.sense == sense)
                assert getattr(arc, f"delay_{edge}_s").values[i, j] == pytest.approx(max(d for d, _ in found), rel=0.01, abs=2e-14)
                assert getattr(arc, f"transition_{edge}_s").values[i, j] == pytest.approx(max(t for _, t in found), rel=0.01)


@needs_ngspice
def test_tables_are_met_between_their_points(tmp_path):
    """A sample of what `python -m flow.cells.accuracy` writes to accuracy.csv for 200 points."""
    rng = random.Random(7)
    found = [
        comparison
        for vdd in (0.5, 0.8)
        for comparison in compare(committed(vdd), LIBRARY, corner(vdd), cards=CARDS, count=12, rng=rng, folder=tmp_path)
    ]
    errors = summary(found)
    assert errors["delay_mean"] < 0.03 and errors["delay_worst"] < 0.08 and errors["energy_mean"] < 0.03, errors
    table = pd.read_csv(TECH / "accuracy.csv")
    assert len(table) == 200 and table["cell"].nunique() > 40
    assert table["delay_error"].abs().mean() < 0.03 and table["delay_error"].abs().max() < 0.08 and table["energy_error"].abs().mean() < 0.03


@needs_ngspice
def test_a_search_does_not_depend_on_its_guess(tmp_path):
    """Setup of a flop from the raster nearby and far away, and from beyond its reach."""
    bench = Bench(cell=CELLS["INV_X1"], cards=CARDS, process=TYPICAL, corner=corner(0.8), folder=tmp_path)

    def verdicts(which, steps, label):
        return [step >= (7, -13)[item] for item, step in zip(which, steps, strict=True)]

    for guesses in ((7, -13), (6, -14), (300, 300), (-250, 0)):
        assert search_raster(verdicts, guesses, 4, (500, 500), "time", bench) == [7, -13]
    with pytest.raises(ToolError, match="time must lie within .* FO4 delays, not outside"):
        search_raster(verdicts, (300, 300), 4, (500, 10), "time", bench)


@needs_ngspice
def test_committed_flop_repeats_clock_to_output_and_its_setup_time_separates_capture_from_failure(tmp_path):
    vdd = 0.7
    cell, library = CELLS["DFF_X1"], committed(vdd)
    arc = next(a for a in library.cells["DFF_X1"].pins["Q"].timing if a.related_pins == ("CK",))
    setup = next(a for a in library.cells["DFF_X1"].pins["D"].timing if a.timing_type == "setup_rising").constraint_rise_s
    assert setup.axes == ("related_slew_s", "constrained_slew_s")
    shape = measure_fo4(CELLS["INV_X1"], CARDS, TYPICAL, corner(vdd), tmp_path, load_f=3e-15).shape
    bench = Bench(cell=cell, cards=CARDS, process=TYPICAL, corner=corner(vdd), folder=tmp_path, shape=shape)
    state = cell.after([{"CK": 0, "D": 0}, {"CK": 1}, {"CK": 0}])
    clock_slew, data_slew = setup.points[0][1], setup.points[1][1]
    slew, load = arc.delay_rise_s.points
    late_by = 0.4 * float(arc.delay_rise_s.values[1, 1])

    def point(lead_s: float, clock_slew_s: float, load_f: float) -> Point:
        clock = Ramp(start=0, end=1, at_s=500e-12, slew_s=float(clock_slew_s))
        data = Ramp(start=0, end=1, at_s=500e-12 - lead_s, slew_s=float(data_slew))
        return Point(inputs={"CK": clock, "D": data}, loads_f={"Q": float(load_f)}, window_s=1.5e-9, expect={"Q": 1}, edges=("Q",), must_settle=False)

    ample, just, late = bench.run(
        [point(300e-12, slew[1], load[1]), point(setup.values[1, 1] + 1e-12, clock_slew, load[2]), point(setup.values[1, 1] - late_by, clock_slew, load[2])],
        label="race",
        initial=state,
    )
    assert ample.crossing_s["Q"] - 500e-12 == pytest.approx(arc.delay_rise_s.values[1, 1], rel=0.01)
    usual = float(arc.delay_rise_s.at(slew_s=clock_slew, load_f=load[2]))
    assert just.crossing_s["Q"] - 500e-12 < 1.12 * usual
    assert late.final_v["Q"] < 0.1 * vdd or late.crossing_s["Q"] - 500e-12 > 1.2 * usual


@needs_sta
def test_opensta_reads_the_committed_libraries_without_complaint_and_times_a_path(tmp_path):
    netlist = """module top(clk, d, q); input clk, d; output q; wire a, b, c;
 DFF_X1 f (.CK(clk), .D(d), .Q(a)); NAND2_X1 n (.A(a), .B(a), .Y(b)); INV_X1 i (.A(b), .Y(c)); DFF_X1 g (.CK(clk), .D(c), .Q(q));
endmodule
"""
    (tmp_path / "top.v").write_text(netlist)
    arrivals = []
    technology = load_technology("fdsoi28p")
    for known in sorted((c for c in technology.known_corners if c.back_bias_v == 0 and c.temperature_c == 25 and c.process == "tt"), key=lambda c: c.vdd_v):
        path = Path(known.liberty[0])
        (tmp_path / "x.lib").write_bytes(gzip.decompress(path.read_bytes()))
        script = """read_liberty x.lib
read_verilog top.v
link_design top
create_clock -name clk -period 5000 [get_ports clk]
puts "CELLS [llength [get_lib_cells */*]]"
puts "ARRIVAL [get_property [find_timing_paths -from [get_pins f/CK] -to [get_pins g/D]] slack]"
report_power
exit
"""
        (tmp_path / "x.tcl").write_text(script)
        output = run_tool(["sta", "-no_splash", "-exit", "x.tcl"], cwd=tmp_path, timeout_s=60, step="sta").output
        assert "Error" not in output and "Warning" not in output
        assert f"CELLS {len(CELLS)}" in output
        arrivals.append(float(output.split("ARRIVAL ")[1].split()[0]))
        totals = [line.split() for line in output.splitlines() if line.startswith("Total")]
        assert totals and float(totals[-1][1]) > 0 and float(totals[-1][3]) > 0
    assert arrivals == sorted(arrivals) and arrivals[0] < arrivals[-1] < 5000


def test_yosys_maps_logic_flops_and_clock_gates_onto_the_library(tmp_path):
    source = """module top(input clk, input en, input rst_n, input [7:0] a, b, output reg [15:0] p, output reg s);
 always @(posedge clk) if (en) p <= a * b;
 always @(posedge clk or negedge rst_n) if (!rst_n) s <= 0; else s <= ^a;
endmodule
"""
    (tmp_path / "top.v").write_text(source)
    lib = TECH / liberty_name("fdsoi28p", corner(1.0))
    script = f"""read_verilog top.v
read_liberty -lib -ignore_miss_func {lib}
synth -noabc -top top
clockgate -liberty {lib} -min_net_size 4
dfflibmap -liberty {lib}
abc -liberty {lib}
hilomap -hicell TIEHI_X1 Y -locell TIELO_X1 Y
clean
check -assert -mapped
write_verilog -noattr mapped.v
"""
    (tmp_path / "run.py").write_text(
        "from pyosys import libyosys\nd = libyosys.Design()\n" + "".join(f"libyosys.run_pass({line!r}, d)\n" for line in script.splitlines())
    )
    run_tool([sys.executable, "run.py"], cwd=tmp_path, timeout_s=120, step="yosys", error_patterns=("^ERROR",))
    words = (tmp_path / "mapped.v").read_text().split()
    used = {word for word in words if word in CELLS}
    assert words.count("ICG_X2") + words.count("ICG_X4") == 1
    assert words.count("DFF_X1") + words.count("DFF_X2") == 16
    assert words.count("DFFR_X1") + words.count("DFFR_X2") == 1
    assert len(used) >= 8 and not any(word.startswith("$_") for word in words)
