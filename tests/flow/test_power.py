"""The power engine: by hand on small netlists, against OpenSTA, and what must always hold."""

import gzip
import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import gate_library as gates
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from flow.liberty import InternalPower, Table, read_library
from flow.netlist import read_netlist
from flow.power import PowerModel, sampled_mean
from flow.power_tables import Tables, leakage_by_state, look_up
from flow.profile import independent_profile, layout
from flow.replay import Recording, Replayer, to_bits
from flow.tools import run_tool
from hw.errors import ToolError


def near(value, rel: float = 1e-9):
    """Equal within `rel` alone: pytest's own absolute tolerance of 1e-12 is larger than any energy here."""
    return pytest.approx(value, rel=rel, abs=0)


PDK = Path(__file__).resolve().parents[2].parent / "shared" / "pdk"
NS, PF, PJ, NW = 1e-9, 1e-12, 1e-12, 1e-9
V = gates.VDD_V

CHAIN = """
module block(input clk, a, b, output q, output y);
  wire n, x; INV u1(.A(a), .Y(n)); XOR2 u2(.A(n), .B(b), .Y(x)); DFF u3(.CK(clk), .D(x), .Q(q)); BUF u4(.A(q), .Y(y));
endmodule
"""
CONDITIONS = dict(clocks=("clk",), input_slew_s=0.03 * NS, clock_slew_s=0.05 * NS, output_load_f=0.004 * PF, wire_cap_f=0.0007 * PF)

MAC = """
module block(input clk, en, input [3:0] a, input [3:0] b, output reg [7:0] acc, output reg [3:0] ar, output zero);
  assign zero = 1'b0;
  always @(posedge clk) begin ar <= a; if (en) acc <= acc + ar * b; end
endmodule
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("power")


@pytest.fixture(scope="module")
def library(folder):
    return read_library(gates.write_liberty(folder / "gates.lib"))


def mapped(verilog: str, folder: Path, name: str, library):
    (folder / name).mkdir()
    path, _ = gates.map_verilog(verilog, "block", gates.write_liberty(folder / name / "gates.lib"), folder / name)
    return read_netlist(path, library)


@pytest.fixture(scope="module")
def chain(folder, library):
    return mapped(CHAIN, folder, "chain", library)


@pytest.fixture(scope="module")
def mac(folder, library):
    return mapped(MAC, folder, "mac", library)


@pytest.fixture(scope="module")
def chain_profile(chain):
    a = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    b = np.array([1, 1, 0, 0, 1, 0, 1, 1])
    x = (1 - a) ^ b
    q = np.concatenate([[0], x[:-1]])
    values = {n: to_bits(v, 1) for n, v in {"a": a, "b": b, "q": q, "y": q}.items()}
    return Replayer(chain, clocks=("clk",)).replay(Recording(name="hand", cycles=8, values=values, registers={"q": 0}), warm_up_cycles=1)["all"]


@pytest.fixture(scope="module")
def mac_profile(mac):
    draw, cycles = np.random.default_rng(7), 500
    a, b, en = draw.integers(0, 16, cycles), draw.integers(0, 16, cycles), draw.integers(0, 2, cycles)
    ar, acc = np.concatenate([[0], a[:-1]]), np.zeros(cycles, dtype=int)
    for t in range(1, cycles):
        acc[t] = (acc[t - 1] + en[t - 1] * ar[t - 1] * b[t - 1]) % 256
    values = {"a": to_bits(a, 4), "b": to_bits(b, 4), "en": to_bits(en, 1), "ar": to_bits(ar, 4), "acc": to_bits(acc, 8), "zero": to_bits(0 * a, 1)}
    start = {f"{name}[{i}]": 0 for name, width in (("ar", 4), ("acc", 8)) for i in range(width)}
    window = Recording(name="mac", cycles=cycles, values=values, registers=start)
    return Replayer(mac, clocks=("clk",)).replay(window)["all"]


# --- by hand ------------------------------------------------------------------------------------


def interpolated(function, slew_s: float, load_f: float) -> float:
    """What a table made from `function(slew_ns, load_pf)` holds at a point, between its breakpoints."""
    grid = [[function(s, c) for c in gates.LOADS_PF] for s in gates.SLEWS_NS]
    return float(RegularGridInterpolator((gates.SLEWS_NS, gates.LOADS_PF), grid)([slew_s / NS, load_f / PF])[0])


def test_energy_and_leakage_of_four_cells_by_hand(chain, chain_profile, library):
    """Every edge of the window is walked through in a plain loop, with loads, slews and energies worked out here."""
    result = PowerModel(chain, library, **CONDITIONS).evaluate(chain_profile)
    cap = {"INV": 0.0010, "XOR2": 0.0021, "CK": 0.0009, "D": 0.0008, "BUF": 0.0011}
    wire, out = 0.0007, 0.004
    load = {"a": cap["INV"] + wire, "n": cap["XOR2"] + wire, "b": cap["XOR2"] + wire, "x": cap["D"] + wire, "clk": cap["CK"] + wire,
            "q": cap["BUF"] + wire + out, "y": wire + out}  # fmt: skip
    pins = {"a": cap["INV"], "n": cap["XOR2"], "b": cap["XOR2"], "x": cap["D"], "clk": cap["CK"], "q": cap["BUF"], "y": 0.0}
    load = {(net, e): (c + pins[net] * (gates.RISE_CAP if e else gates.FALL_CAP) - pins[net]) * PF for net, c in load.items() for e in (0, 1)}
    slew = {(net, e): 0.03 * NS for net in ("a", "b") for e in (0, 1)} | {("clk", e): 0.05 * NS for e in (0, 1)}

    def transition(cell, pin, rise, in_slew, net):
        return interpolated(lambda s, c: gates.transition_ns(cell, pin, bool(rise), s, c), in_slew, load[net, rise]) * NS

    for e in (0, 1):
        slew["n", e] = transition("INV", "A", e, slew["a", 1 - e], "n")
    for e in (0, 1):
        slew["x", e] = max(transition("XOR2", pin, e, slew[net, i], "x") for pin, net in (("A", "n"), ("B", "b")) for i in (0, 1))
        slew["q", e] = transition("DFF", "CK", e, slew["clk", 1], "q")
    for e in (0, 1):
        slew["y", e] = transition("BUF", "A", e, slew["q", e], "y")

    def energy(cell, pin, rise, in_slew, net, when=""):
        return interpolated(lambda s, c: gates.energy_pj(cell, pin, bool(rise), s, c, when), in_slew, load[net, rise]) * PJ

    def pin_energy(cell, pin, rise, in_slew, when=""):
        return interpolated(lambda s, c: gates.pin_energy_pj(cell, pin, bool(rise), s, when), in_slew, gates.LOADS_PF[0] * PF) * PJ

    a = [0, 1, 1, 0, 1, 0, 0, 1]
    b = [1, 1, 0, 0, 1, 0, 1, 1]
    x = [(1 - i) ^ j for i, j in zip(a, b, strict=True)]
    q = [0, *x[:-1]]
    internal = clock = switching = clock_switching = leakage = 0.0
    for t in range(1, 8):
        # The rising edge sees last cycle's data; then the data move; the falling edge sees this cycle's.
        clock += pin_energy("DFF", "CK", 1, slew["clk", 1], "D" if x[t - 1] else "!D") + pin_energy("DFF", "CK", 0, slew["clk", 0], "D" if x[t] else "!D")
        clock_switching += 2 * 0.5 * load["clk", 1] * V * V
        for net, values in (("a", a), ("b", b), ("n", [1 - v for v in a]), ("x", x), ("q", q), ("y", q)):
            switching += 0.5 * load[net, 1] * V * V * (values[t] != values[t - 1])
        if a[t] != a[t - 1]:
            internal += energy("INV", "A", 1 - a[t], slew["a", a[t]], "n")
        if x[t] != x[t - 1]:
            internal += pin_energy("DFF", "D", x[t], slew["x", x[t]])
            n = 1 - a[t]
            if a[t] != a[t - 1]:
                internal += energy("XOR2", "A", x[t], slew["n", n], "x", "B" if b[t] else "!B")
            else:
                internal += energy("XOR2", "B", x[t], slew["b", b[t]], "x", "A" if n else "!A")
        if q[t] != q[t - 1]:
            internal += energy("DFF", "CK", q[t], slew["clk", 1], "q") + energy("BUF", "A", q[t], slew["q", q[t]], "y")
        for high in (1, 0):
            states = {"INV": f"{'' if a[t] else '!'}A", "XOR2": f"{'!' if a[t] else ''}A&{'' if b[t] else '!'}B", "BUF": f"{'' if q[t] else '!'}A",
                      "DFF": f"{'' if high else '!'}CK&{'' if x[t] else '!'}D"}  # fmt: skip
            leakage += sum(gates.leakage_nw(cell, state) for cell, state in states.items()) * NW / 2
    assert any(a[t] != a[t - 1] and b[t] != b[t - 1] and x[t] == x[t - 1] for t in range(1, 8)), "the window must hold a move that cancels"
    assert result.internal_per_cycle_j == near(internal / 7, 1e-12)
    assert result.switching_per_cycle_j == near(switching / 7, 1e-12)
    assert result.clock_internal_per_cycle_j == near(clock / 7, 1e-12)
    assert result.clock_switching_per_cycle_j == near(clock_switching / 7, 1e-12)
    assert result.leakage_w == near(leakage / 7, 1e-12)
    assert (result.extrapolated_fraction, result.slew_extrapolated_fraction, result.uncovered_fraction) == (0.0, 0.0, 0.0)


# --- what must always hold ----------------------------------------------------------------------


def test_groups_and_classes_add_up(mac, mac_profile, library):
    result = PowerModel(mac, library, **CONDITIONS).evaluate(mac_profile)
    assert sum(result.internal_by_class_j.values()) == near(result.internal_per_cycle_j + result.clock_internal_per_cycle_j)
    assert sum(result.switching_by_net_j.values()) == near(result.switching_per_cycle_j + result.clock_switching_per_cycle_j)
    assert sum(result.leakage_by_class_w.values()) == near(result.leakage_w)
    parts = (result.internal_per_cycle_j, result.switching_per_cycle_j, result.clock_internal_per_cycle_j, result.clock_switching_per_cycle_j)
    assert all(part > 0 for part in parts) and result.energy_per_cycle_j == near(sum(parts))
    assert result.uncovered_fraction == 0.0 and any(t.name == "AND2" for t in mac.types)
    assert result.internal_by_class_j["clock_gate"] > 0 and result.leakage_by_class_w["flop"] > 0


def test_dynamic_power_halves_with_the_frequency_and_leakage_stays(mac, mac_profile, library):
    result = PowerModel(mac, library, **CONDITIONS).evaluate(mac_profile)
    fast, slow = result.power_w(2e8), result.power_w(1e8)
    assert fast - result.leakage_w == near(2 * (slow - result.leakage_w)) and result.power_w(0.0) == result.leakage_w


def test_units_of_the_library_do_not_matter(mac, mac_profile, library, tmp_path):
    other = read_library(gates.write_liberty(tmp_path / "pico.lib", pico=True))
    one, two = (PowerModel(mac, lib, **CONDITIONS).evaluate(mac_profile) for lib in (library, other))
    for name in ("internal_per_cycle_j", "switching_per_cycle_j", "clock_internal_per_cycle_j", "clock_switching_per_cycle_j", "leakage_w"):
        assert getattr(one, name) == near(getattr(two, name), 1e-6), name


def test_switching_goes_with_the_square_of_the_voltage(mac, mac_profile, library, tmp_path):
    half = read_library(gates.write_liberty(tmp_path / "half.lib", vdd_v=V / 2))
    one, two = (PowerModel(mac, lib, **CONDITIONS).evaluate(mac_profile) for lib in (library, half))
    assert one.switching_per_cycle_j == near(4 * two.switching_per_cycle_j) and two.vdd_v == V / 2


def test_energy_of_a_window_is_that_of_its_phases(mac, library):
    draw, cycles = np.random.default_rng(8), 300
    en = (np.arange(cycles) // 50 % 2).astype(int)
    a, b = draw.integers(0, 16, cycles), draw.integers(0, 16, cycles)
    ar, acc = np.concatenate([[0], a[:-1]]), np.zeros(cycles, dtype=int)
    for t in range(1, cycles):
        acc[t] = (acc[t - 1] + en[t - 1] * ar[t - 1] * b[t - 1]) % 256
    values = {"a": to_bits(a, 4), "b": to_bits(b, 4), "en": to_bits(en, 1), "ar": to_bits(ar, 4), "acc": to_bits(acc, 8), "zero": to_bits(0 * a, 1)}
    start = {f"{name}[{i}]": 0 for name, width in (("ar", 4), ("acc", 8)) for i in range(width)}
    window = Recording(name="mac", cycles=cycles, values=values, registers=start)
    model, replayer = PowerModel(mac, library, **CONDITIONS), Replayer(mac, clocks=("clk",))
    whole = model.evaluate(replayer.replay(window)["all"])
    parts = [model.evaluate(p) for p in replayer.replay(replace(window, phases={"busy": en > 0, "idle": en == 0})).values()]
    assert sum(p.energy_per_cycle_j * p.cycles for p in parts) == near(whole.energy_per_cycle_j * whole.cycles)
    busy, idle = parts
    assert idle.clock_per_cycle_j < busy.clock_per_cycle_j and idle.switching_per_cycle_j < busy.switching_per_cycle_j


def test_wire_capacitance_may_be_a_number_an_array_or_a_function(mac, library):
    conditions = {k: v for k, v in CONDITIONS.items() if k != "wire_cap_f"}
    models = [PowerModel(mac, library, **conditions, wire_cap_f=w) for w in (1e-15, np.full(mac.nets, 1e-15), lambda n: np.full(n.nets, 1e-15))]
    assert all(np.array_equal(m.load_f, models[0].load_f) for m in models)
    bare = PowerModel(mac, library, **conditions)
    assert (models[0].load_f - bare.load_f)[2:] == near(1e-15)
    for bad in (-1e-15, np.zeros(3)):
        with pytest.raises(ToolError, match="wire_cap_f must be a number or an array"):
            PowerModel(mac, library, **conditions, wire_cap_f=bad)


def test_slews_pass_clock_buffers_wherever_they_stand_in_the_netlist(folder, library):
    verilog = """
    module block(input clk, d, output q); wire c1, c2; DFF f(.CK(c2), .D(d), .Q(q)); BUF b2(.A(c1), .Y(c2)); INV n(.A(d), .Y(unused));
    BUF b1(.A(clk), .Y(c1)); endmodule
    """
    netlist = mapped(verilog, folder, "buffered", library)
    model, numbers = PowerModel(netlist, library, **CONDITIONS), netlist.net_index()
    slew = 0.05 * NS
    for net in ("c1", "c2"):
        slew = interpolated(lambda s, c: gates.transition_ns("BUF", "A", True, s, c), slew, model.load_f[numbers[net], 1]) * NS
        assert model.slew_s[numbers[net], 1] == near(slew)
    q = interpolated(lambda s, c: gates.transition_ns("DFF", "CK", True, s, c), slew, model.load_f[numbers["q"], 1]) * NS
    assert model.slew_s[numbers["q"], 1] == near(q)


# --- tables and conditions ----------------------------------------------------------------------


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.floats(-1, 6), st.floats(-1, 9), st.integers(0, 2**32 - 1))
def test_look_up_is_linear_inside_and_outside_and_tells_which(slew, load, seed):
    x, y = np.array([0.5, 1.0, 2.5, 4.0]), np.array([0.0, 3.0, 7.0])
    values = np.random.default_rng(seed).random((4, 3))
    tables = Tables(np.array([0, 4]), np.array([0, 3]), np.array([0, 12]), x, y, values.ravel())
    value, outside = look_up(tables, 0, slew, load)
    reference = RegularGridInterpolator((x, y), values, bounds_error=False, fill_value=None)([[slew, load]])[0]
    assert value == pytest.approx(reference, abs=1e-12)
    assert outside == (slew > 4.0 or load > 7.0)


def test_leakage_takes_the_stated_state_then_the_general_figure_and_adds_supplies(library):
    from flow.liberty import Leakage
    from flow.logic import cell_logic

    nand = library.cells["NAND2"]
    logic = cell_logic(nand)
    entries = (Leakage(power_w=5.0, when="A&B", pg_pin="VDD"), Leakage(power_w=1.0, pg_pin="VDD"), Leakage(power_w=0.25, when="!A", pg_pin="VSS"))
    assert leakage_by_state(replace(nand, leakage=entries, leakage_w=4.0), logic).tolist() == [1.25, 3.0, 1.25, 7.0]
    assert leakage_by_state(replace(nand, leakage=(), leakage_w=4.0), logic).tolist() == [4.0] * 4


def with_output_power(library, cell: str, output: str, groups: tuple[InternalPower, ...]):
    """The library with other internal power groups at one output."""
    pin = replace(library.cells[cell].pins[output], internal_power=groups)
    changed = replace(library.cells[cell], pins=dict(library.cells[cell].pins) | {output: pin})
    return replace(library, cells=dict(library.cells) | {cell: changed})


def constant(value_j: float) -> Table:
    return Table(axes=(), points=(), values=np.array(value_j))


def test_conditions_supplies_and_unconditional_groups_combine(chain, chain_profile, library):
    groups = (
        InternalPower(related_pins=("A", "B"), pg_pin="VDD", when="A&B", rise_j=constant(8.0), fall_j=constant(64.0)),
        InternalPower(related_pins=("A", "B"), pg_pin="VDD", rise_j=constant(1.0), fall_j=constant(2.0)),
        InternalPower(related_pins=("A", "B"), pg_pin="VSS", rise_j=constant(100.0), fall_j=constant(-1000.0)),
    )
    model = PowerModel(chain, with_output_power(library, "XOR2", "Y", groups), **CONDITIONS)
    cell = chain.cell_names.index("u2")
    energies = model.arc_j[layout(chain).arc_start[cell] :][:8].reshape(2, 4)
    # By state A + 2 B after the move: Y is 0, 1, 1, 0; the condition holds in state 3.
    assert energies.tolist() == [[2 - 1000, 101, 101, 64 - 1000]] * 2


def test_moves_without_a_table_are_counted_and_refused(chain, chain_profile, library):
    only_a = (InternalPower(related_pins=("A",), rise_j=constant(1e-15), fall_j=constant(1e-15)),)
    model = PowerModel(chain, with_output_power(library, "XOR2", "Y", only_a), **CONDITIONS)
    with pytest.raises(ToolError, match="share of output moves without a table must be at most 0.1, not 0.1"):
        model.evaluate(chain_profile)
    assert 0.05 < model.evaluate(chain_profile, max_extrapolated_fraction=1.0).uncovered_fraction < 0.5


def test_extrapolated_look_ups_are_counted_and_refused(chain, chain_profile, library):
    with pytest.raises(ToolError, match="share of energies outside their tables must be at most 0.1, not 0.2"):
        PowerModel(chain, library, **CONDITIONS | {"output_load_f": 0.2 * PF}).evaluate(chain_profile)
    far = PowerModel(chain, library, **CONDITIONS | {"input_slew_s": 0.7 * NS})
    assert far.slew_extrapolated_fraction > 0.05
    assert far.evaluate(chain_profile, max_extrapolated_fraction=1.0).extrapolated_fraction > 0.05


def test_too_few_annotated_nets_are_refused(mac, library):
    toggles, duty = np.zeros(mac.nets), np.full(mac.nets, 0.5)
    missing = int(0.06 * mac.nets)
    toggles[10 : 10 + missing] = np.nan
    profile = independent_profile(mac, toggles, duty, clocks=("clk",))
    model = PowerModel(mac, library, **CONDITIONS)
    with pytest.raises(ToolError, match=r"annotated fraction must be at least 0.95, not 0\.9"):
        model.evaluate(profile)
    assert model.evaluate(profile, min_annotated_fraction=0.9).annotated_fraction == pytest.approx(1 - missing / (mac.nets - 2))


def test_profiles_and_libraries_of_something_else_are_refused(mac, chain_profile, library):
    with pytest.raises(ToolError, match="profile must be of netlist block"):
        PowerModel(mac, library, **CONDITIONS).evaluate(chain_profile)
    without = replace(library, cells={n: c for n, c in library.cells.items() if n != "XOR2"})
    with pytest.raises(ToolError, match="library gates must hold the cells XOR2 of netlist block"):
        PowerModel(mac, without, **CONDITIONS)


def test_standard_error_of_a_sample_matches_the_spread_of_all_samples():
    population = np.array([1.0, 4.0, 2.0, 8.0, 5.0, 7.0])
    samples = [sampled_mean(s, population=6) for s in itertools.combinations(population, 3)]
    means, errors = np.array(samples).T
    assert means.mean() == pytest.approx(population.mean())
    assert np.mean(errors**2) == pytest.approx(means.var())  # the squared error is unbiased for the variance of the mean
    assert sampled_mean(population, population=6) == (population.mean(), 0.0)
    with pytest.raises(ToolError, match="a sample must hold 2 to 6 instances, not 1"):
        sampled_mean([1.0], population=6)


# --- against OpenSTA ----------------------------------------------------------------------------


def structural_verilog(netlist) -> str:
    """The netlist as plain Verilog: cells C0, C1, ... and nets N2, N3, ..."""
    port_of = {int(net): f"{p.name}[{i}]" if len(p.nets) > 1 else p.name for p in netlist.ports.values() for i, net in enumerate(p.nets)}
    lines = [f"module block ({', '.join(netlist.ports)});"]
    lines += [f"{'input' if p.is_source else 'output'} {f'[{len(p.nets) - 1}:0]' if len(p.nets) > 1 else ''} {p.name};" for p in netlist.ports.values()]
    for cell in range(netlist.cells):
        logic = netlist.types[netlist.cell_type[cell]]
        nets = netlist.pin_net[netlist.pin_start[cell] : netlist.pin_start[cell + 1]]
        pins = ", ".join(f".{pin}({port_of.get(int(net), f'N{net}')})" for pin, net in zip(logic.inputs + logic.outputs, nets, strict=True))
        lines.append(f"{logic.name} C{cell} ({pins});")
    return "\n".join([*lines, "endmodule\n"])


def opensta(netlist, liberty: Path, folder: Path, conditions: str) -> str:
    """OpenSTA's slews, and its power with one transition per cycle on every net, at 100 MHz and 5 fF at each output port."""
    (folder / "flat.v").write_text(structural_verilog(netlist))
    pins = [f"C{c}/{o}" for c in range(netlist.cells) for t in [netlist.types[netlist.cell_type[c]]] if t.inputs for o in t.outputs]
    inputs = " ".join(p.name for p in netlist.ports.values() if p.is_source and p.name != "clk")
    (folder / "sta.tcl").write_text(f"""
read_liberty {liberty}
read_verilog flat.v
link_design block
set_operating_conditions {conditions}
create_clock -name clk -period 10 [get_ports clk]
set_clock_transition 0.05 clk
set_propagated_clock clk
set_input_transition 0.05 [all_inputs]
set_input_delay 0 -clock clk [get_ports {{{inputs}}}]
set_load 0.005 [all_outputs]
set sta_report_default_digits 7
report_checks
foreach p {{{' '.join(pins)}}} {{ report_slews $p }}
set_power_activity -global -activity 1 -duty 0.5
report_power -digits 9 -instances [get_cells *]
exit
""")
    return run_tool(["sta", "-no_splash", "-exit", "sta.tcl"], cwd=folder, timeout_s=60, step="sta", error_patterns=("^Error",)).output


def check_against_opensta(netlist, library, report: str, *, wire_cap_f: float = 0.0) -> None:
    model = PowerModel(
        netlist, library, clocks=("clk",), input_slew_s=0.05 * NS, clock_slew_s=0.05 * NS, output_load_f=5e-15, wire_cap_f=wire_cap_f, clock_tree=False
    )  # fmt: skip
    power = {int(m[4]): [float(v) for v in m.group(1, 2, 3)] for m in re.finditer(r"^\s*(\S+)\s+(\S+)\s+(\S+)\s+\S+ C(\d+)$", report, re.MULTILINE)}
    slews = {(int(m[1]), m[2]): (float(m[4]), float(m[3])) for m in re.finditer(r"^C(\d+)/(\S+) \^ \S+:(\S+) v \S+:(\S+)$", report, re.MULTILINE)}
    assert set(power) == set(range(netlist.cells))
    places, switching, leakage, compared = layout(netlist), np.zeros(2), np.zeros(2), 0
    for cell in range(netlist.cells):
        logic = netlist.types[netlist.cell_type[cell]]
        if not logic.inputs:  # nothing of a tie cell moves; OpenSTA's global activity moves it all the same
            continue
        outputs = netlist.pin_net[netlist.pin_start[cell] + len(logic.inputs) : netlist.pin_start[cell + 1]]
        uniform = model.state_leakage_w[places.state_start[cell] : places.state_start[cell + 1]].mean()
        moves = 1 + model.network.nets[outputs]  # a clock has two transitions per cycle whatever the global activity
        expected = (moves * model.net_j[outputs]).sum() * 1e8
        switching += (expected, power[cell][1])
        leakage += (uniform, power[cell][2])
        assert expected == near(power[cell][1], 0.01), (cell, logic.name)
        # OpenSTA takes the cell's general figure; over the states of a clock gate, which are not all possible, the mean differs.
        assert uniform == near(power[cell][2], 0.05 if logic.kind == "clock_gate" else 0.01), (cell, logic.name)
        for output, net in zip(logic.outputs, outputs, strict=True):
            assert model.slew_s[net] / NS == pytest.approx(slews[cell, output], rel=1e-3, abs=1e-6), (cell, logic.name, output)
            compared += 1
    assert switching[0] == near(switching[1], 0.01) and leakage[0] == near(leakage[1], 0.01) and compared > 50


def test_a_clock_tree_keeps_clock_edges_as_sharp_as_the_port(mac, library):
    plain, tree = (PowerModel(mac, library, **{**CONDITIONS, "clock_slew_s": 1e-12, "clock_tree": tree}) for tree in (False, True))
    clocks = np.flatnonzero(plain.network.nets)
    assert np.nanmax(plain.slew_s[clocks]) > 1e-12 and np.nanmax(tree.slew_s[clocks]) == 1e-12


needs_sta = pytest.mark.skipif(shutil.which("sta") is None, reason="OpenSTA is not installed (apt-get install opensta)")


@needs_sta
def test_switching_leakage_and_slews_agree_with_opensta(mac, library, folder):
    (folder / "sta").mkdir()
    report = opensta(mac, gates.write_liberty(folder / "sta" / "gates.lib"), folder / "sta", "typical")
    check_against_opensta(mac, library, report)


@needs_sta
def test_switching_leakage_and_slews_agree_with_opensta_on_an_open_library(mac, library, tmp_path):
    packed = PDK / "sky130_fd_sc_hd" / "sky130_fd_sc_hd__tt_025C_1v80.lib.gz"
    if not packed.exists():
        pytest.skip(f"open PDK data is absent ({packed})")
    liberty = tmp_path / "sky130.lib"
    liberty.write_bytes(gzip.decompress(packed.read_bytes()))
    sky130 = read_library(liberty)
    prefix = "sky130_fd_sc_hd__"
    verilog = gates.map_verilog(
        MAC, "block", liberty, tmp_path, clock_gate=f"{prefix}dlclkp_1 GATE:CLK:GCLK", tie=f"{prefix}conb_1 HI LO",
        adder=f"{prefix}fa_1 A B CIN COUT SUM", dont_use=(f"{prefix}lpflow_*", f"{prefix}probe*"),
    )[0]  # fmt: skip
    netlist = read_netlist(verilog, sky130)
    report = opensta(netlist, liberty, tmp_path, "tt_025C_1v80")
    check_against_opensta(netlist, sky130, report)
