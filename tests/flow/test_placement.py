"""Placement, buffers, clock trees and wires: legal, the same function, and lengths, loads and delays by plain loops and by hand."""

import json

import numpy as np
import pytest
from small_library import CLOCK_TO_Q_KOHM, CLOCK_TO_Q_PS, DATA_PIN_FF, GATES, SETUP_PS, SLEW_SHARE, write_technology

from flow.buffering import UNIT_INVERTERS
from flow.netlist import build_netlist, clock_network, read_netlist
from flow.placement import Places, place_module, read_places, steiner_factor, wire_lengths_um
from flow.replay import Recording, Replayer, to_bits
from flow.sta import time_design
from flow.synth import synthesize
from flow.tech import WireModel, load_technology, read_corner
from flow.timing_netlist import TimingModule, original_name, plain_pattern, write_spef, write_timing_verilog
from hw.errors import ConfigError

# A multiplier with registers in a parent that broadcasts to four of them.
DESIGN = """
module child(input clk, input en, input [5:0] a, input [5:0] b, output reg [11:0] p);
  reg [5:0] x, y; always @(posedge clk) begin x <= a; y <= b; if (en) p <= x * y; end endmodule
module parent(input clk, input en, input [5:0] a, input [5:0] b, output [11:0] p0, output [11:0] p1, output reg [12:0] s);
  reg [5:0] c, d; wire [11:0] q, r;
  child u0(.clk(clk), .en(en), .a(c), .b(d), .p(p0)); child u1(.clk(clk), .en(en), .a(d), .b(c), .p(p1));
  child u2(.clk(clk), .en(en), .a(c), .b(c), .p(q)); child u3(.clk(clk), .en(en), .a(d), .b(d), .p(r));
  always @(posedge clk) begin c <= a; d <= b; s <= q + r; end endmodule
"""


@pytest.fixture(scope="module")
def technology():
    return load_technology("fdsoi28p")


@pytest.fixture(scope="module")
def placed(tmp_path_factory, technology):
    """Library; and by module: what synthesis made, what placement made of it, and the netlists of both."""
    folder = tmp_path_factory.mktemp("placed")
    (folder / "design.v").write_text(DESIGN)
    corner, cache, done = technology.nominal_corner(), folder / "cache", {}
    library = read_corner(technology, corner, cache=cache)
    for module, boxes in (("child", ()), ("parent", ("child",))):
        fanout = {kind: done[kind][0].input_fanout for kind in boxes}
        made = synthesize(
            verilog=[folder / "design.v"], module=module, clocks=["clk"], technology=technology, corner=corner, black_boxes=boxes, box_fanout=fanout,
            cache=cache,
        )  # fmt: skip
        outlines = {kind: done[kind][1].outline for kind in boxes}
        result = place_module(made, clocks=["clk"], technology=technology, corner=corner, boxes=outlines, cache=cache)
        netlists = [read_netlist(path, library, top=module, black_boxes=boxes) for path in (made.netlist_json, result.netlist_json)]
        done[module] = (made, result, *netlists)
    return library, done


def test_cells_stand_in_rows_inside_the_outline_and_overlap_nothing(placed, technology):
    library, done = placed
    row = technology.placement.row_height_um
    for module in ("child", "parent"):
        made, result, _, netlist = done[module]
        places = read_places(result.places, netlist)
        before = {cell for cell in json.loads(made.netlist_json.read_text())["modules"][module]["cells"]}
        boxes = {name: np.array([done["child"][1].outline.width_um, done["child"][1].outline.height_um]) for name in netlist.black_boxes}
        spans = {}
        for number, name in enumerate(netlist.cell_names):
            if name not in before:
                continue  # buffers are an estimate, not a legal layout
            # Stronger gates stand where the weaker ones were: rows and centres are those of the placer.
            x, y = places.cells[number]
            assert 0 < x < result.outline.width_um and 0 < y < result.outline.height_um + row
            assert (y - row / 2) / row == pytest.approx(round((y - row / 2) / row), abs=1e-6)
            spans.setdefault(round((y - row / 2) / row), []).append(x)
        assert all(len(set(np.round(row_of_x, 4))) == len(row_of_x) for row_of_x in spans.values())
        if boxes:
            corner_of = {name: places.ports[f"{name}/clk"][0] - np.array(done["child"][1].outline.ports["clk"][0]) for name in boxes}
            for x, y in places.cells[[n in before for n in netlist.cell_names]]:
                assert not any(np.all(low + 0.01 < (x, y)) and np.all((x, y) < low + boxes[name] - 0.01) for name, low in corner_of.items())
            lows = list(corner_of.values())
            size = next(iter(boxes.values()))
            assert all(np.any(np.abs(a - b) >= size - 1e-6) for i, a in enumerate(lows) for b in lows[i + 1 :])


def test_wires_are_as_long_as_the_boxes_around_their_pins(placed):
    _, done = placed
    _, result, _, netlist = done["child"]
    places = read_places(result.places, netlist)
    found = wire_lengths_um(netlist, places)
    for net in range(2, netlist.nets):
        points = [tuple(places.cells[netlist.pin_cell[i]]) for i in range(len(netlist.pin_net)) if netlist.pin_net[i] == net]
        points += [tuple(places.ports[name][bit]) for name, port in netlist.ports.items() for bit, n in enumerate(port.nets) if n == net]
        half = max(x for x, _ in points) - min(x for x, _ in points) + max(y for _, y in points) - min(y for _, y in points)
        assert found[net] == pytest.approx(half * float(steiner_factor(len(points))), abs=1e-9)
    assert result.wire_um + result.clock_wire_um == pytest.approx(found.sum())
    np.testing.assert_allclose(steiner_factor([2, 3, 4, 10, 50, 60]), [1, 1, 1.0828, 1.4493, 2.7933, 2.7933 + 10 * (2.7933 - 2.6625) / 5])


def test_the_placed_netlist_does_what_the_synthesized_one_does(placed):
    _, done = placed
    rng, cycles = np.random.default_rng(5), 60
    a, b, en = rng.integers(0, 64, cycles), rng.integers(0, 64, cycles), rng.integers(0, 2, cycles)
    x, y, p, held = np.zeros(cycles, int), np.zeros(cycles, int), np.zeros(cycles, int), 0
    for t in range(1, cycles):
        x[t], y[t] = a[t - 1], b[t - 1]
        held = x[t - 1] * y[t - 1] if en[t - 1] else held
        p[t] = held
    values = {"a": to_bits(a, 6), "b": to_bits(b, 6), "en": to_bits(en, 1), "p": to_bits(p, 12)}
    toggles = []
    for netlist in done["child"][2:]:
        profile = Replayer(netlist, clocks=("clk",)).replay(Recording(name="test", cycles=cycles, values=values))["all"]
        toggles.append({name: value for name, value in zip(netlist.net_names, profile.toggles_per_cycle, strict=True) if name.startswith(("x[", "y[", "p["))})
    assert toggles[0] == toggles[1] and len(toggles[0]) == 24


def test_clock_trees_reach_every_flop_with_bounded_loads(placed, technology):
    library, done = placed
    for module in ("child", "parent"):
        _, result, before, netlist = done[module]
        network = clock_network(netlist, ["clk"])
        lengths = wire_lengths_um(netlist, read_places(result.places, netlist))
        kinds = [netlist.types[k].name for k in netlist.cell_type]
        assert sum(kind == technology.cells.clock_buffer for kind in kinds) == result.clock_buffers
        for net in np.flatnonzero(network.nets):
            pins = [i for i in np.flatnonzero(netlist.pin_net == net) if netlist.driver[net] != netlist.pin_cell[i]]
            if netlist.driver[net] < 0 or kinds[netlist.driver[net]] != technology.cells.clock_buffer:
                continue
            load_f = lengths[net] * technology.wire.capacitance_per_um_f + sum(
                library.cells[kinds[netlist.pin_cell[i]]].pins["A" if kinds[netlist.pin_cell[i]].startswith("CLKBUF") else "CK"].capacitance_f for i in pins
            )
            unit, buffer = (library.cells[name].pins for name in (technology.cells.inverter, technology.cells.clock_buffer))
            limit_f = UNIT_INVERTERS * unit["A"].capacitance_f * buffer["Y"].max_capacitance_f / unit["Y"].max_capacitance_f
            # The wire is estimated with one formula while the tree grows and with another afterwards.
            assert load_f < 1.5 * limit_f
        assert len(netlist.cells_of("flop")) == len(before.cells_of("flop"))


def test_wide_modules_get_stronger_drivers(placed, technology):
    library, done = placed
    _, result, _, netlist = done["parent"]
    assert result.signal_buffers + result.resized > 0
    lengths = wire_lengths_um(netlist, read_places(result.places, netlist))
    clock = clock_network(netlist, ["clk"]).nets
    for net in np.flatnonzero((netlist.driver >= 0) & ~clock):
        driver = library.cells[netlist.types[netlist.cell_type[netlist.driver[net]]].name]
        pin = next(pin for pin in driver.pins.values() if pin.direction == "output")
        assert lengths[net] * technology.wire.capacitance_per_um_f < 1.2 * pin.max_capacitance_f


def test_placing_twice_gives_the_same(placed, technology, tmp_path):
    _, done = placed
    made, result, _, netlist = done["child"]
    again = place_module(made, clocks=["clk"], technology=technology, corner=technology.nominal_corner(), boxes={}, cache=tmp_path / "cache")
    np.testing.assert_array_equal(read_places(again.places, netlist).cells, read_places(result.places, netlist).cells)
    assert again.netlist.read_text() == result.netlist.read_text()


def test_a_technology_without_placement_rules_is_refused(placed, tmp_path):
    small = load_technology(write_technology(tmp_path))
    with pytest.raises(ConfigError, match="technology small must have its placement rules"):
        place_module(placed[1]["child"][0], clocks=["clk"], technology=small, corner=small.nominal_corner(), boxes={}, cache=tmp_path / "cache")


# --- wires as SPEF, through the hierarchy ---------------------------------------------------------


def _cell(kind: str, **pins: int) -> dict:
    return {"type": kind, "connections": {pin: [bit] for pin, bit in pins.items()}}


def _module(ports: dict[str, tuple[str, int]], cells: dict[str, dict]) -> dict:
    bits = {bit for cell in cells.values() for pins in cell["connections"].values() for bit in pins}
    return {
        "ports": {name: {"direction": way, "bits": [bit]} for name, (way, bit) in ports.items()}, "cells": cells,
        "netnames": {f"w{bit}": {"hide_name": 0, "bits": [bit]} for bit in bits},
    }  # fmt: skip


def test_wires_of_a_net_through_three_modules_delay_as_by_hand(tmp_path):
    """flop in one child -> wire in it -> wire in the top -> wire in the other child -> inverter there -> flop in the top."""
    technology = load_technology(write_technology(tmp_path, vdds_v=(1.0,)))
    corner = technology.corners[0].at_sram(1.0)
    library = read_corner(technology, corner, cache=tmp_path / "cache")
    first = _module({"c": ("input", 2), "d": ("input", 3), "q": ("output", 4)}, {"f.[1]_reg": _cell("DFF", CK=2, D=3, Q=4)})
    second = _module({"a": ("input", 2), "y": ("output", 3)}, {"i": _cell("INV", A=2, Y=3)})
    boxes = {"u.0": {**_cell("first", c=2, d=3, q=4), "port_directions": {"c": "input", "d": "input", "q": "output"}},
             "v": {**_cell("second", a=4, y=5), "port_directions": {"a": "input", "y": "output"}}}  # fmt: skip
    top = _module({"clk": ("input", 2), "d": ("input", 3), "q": ("output", 6)}, boxes | {"g_reg": _cell("DFF", CK=2, D=5, Q=6)})
    modules = {}
    at = {
        "top": ([(50, 0)], {"clk": (0, 0), "d": (0, 0), "q": (60, 0), "u.0/c": (0, 0), "u.0/d": (0, 0), "u.0/q": (10, 0), "v/a": (20, 0), "v/y": (40, 5)}),
        "first": ([(2, 1)], {"c": (0, 0), "d": (0, 0), "q": (8, 3)}), "second": ([(3, 0)], {"a": (0, 0), "y": (7, 0)}),
    }  # fmt: skip
    for name, module in (("top", top), ("first", first), ("second", second)):
        netlist = build_netlist(module, library, name=name, black_boxes=("first", "second"))
        cells, ports = at[name]
        modules[name] = TimingModule(
            netlist=netlist, places=Places(cells=np.array(cells, float), ports={port: np.array([ports[port]], float) for port in netlist.ports})
        )
    ff_per_um = 0.25
    wire = WireModel(capacitance_per_um_f=ff_per_um * 1e-15, resistance_per_um_ohm=1e-3, length_base_um=0, length_per_fanout_um=1, source="test")
    write_timing_verilog(modules, tmp_path / "d.v")
    write_spef(modules, "top", wire, tmp_path / "d.spef")
    groups = ((plain_pattern("u.0/f*"), "start"), (plain_pattern("g*"), "end"))
    (result,) = time_design(
        netlists=[tmp_path / "d.v"], module="top", technology=technology, corners=[corner], clocks=["clk"], spef=tmp_path / "d.spef", groups=groups,
        cache=tmp_path / "cache",
    )  # fmt: skip
    inv = GATES["INV"]
    # (2,1) to (8,3), (10,0) to (20,0), (0,0) to (3,0); then (3,0) to (7,0), (40,5) to (50,0).
    load_1, load_2 = (8 + 10 + 3) * ff_per_um + inv[2]["A"], (4 + 15) * ff_per_um + DATA_PIN_FF
    slew_1 = 5.0 + 2 * CLOCK_TO_Q_KOHM * load_1
    expected_ps = CLOCK_TO_Q_PS + CLOCK_TO_Q_KOHM * load_1 + inv[3] + inv[4] * load_2 + SLEW_SHARE * slew_1 + SETUP_PS
    path = result["clk"].reg_to_reg
    assert path.delay_s == pytest.approx(expected_ps * 1e-12, rel=2e-3)
    assert [original_name(modules, "top", pin) for pin in (path.start, path.end)] == ["u.0/f.[1]_reg/Q", "g_reg/D"]
    assert [(found.start_group, found.end_group) for found in result.groups] == [("start", "end")]
