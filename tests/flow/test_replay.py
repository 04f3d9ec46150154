"""Replay of recorded boundaries: against Icarus Verilog on the same netlist, and on small netlists by hand."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import gate_library
import numpy as np
import pytest

from flow.liberty import read_library
from flow.netlist import read_netlist
from flow.profile import combine, independent_profile, layout
from flow.replay import Recording, Replayer, to_bits
from hw.errors import ToolError

# Everything the replay must handle: clock gate, full adders, asynchronous reset, falling-edge flop, constants, feedthrough.
DESIGN = """
module block (input clk, input rst_n, input en, input clear, input [3:0] a, input [3:0] b,
              output reg [7:0] acc, output reg [2:0] count, output [1:0] tied, output reg late, output through);
  reg [3:0] ar;
  always @(posedge clk) if (en) ar <= a;
  always @(posedge clk) if (en) acc <= clear ? 8'd0 : acc + ar * b;
  always @(posedge clk or negedge rst_n) if (!rst_n) count <= 0; else count <= count + 1;
  always @(negedge clk) late <= count[0] ^ a[0];
  assign tied = 2'b10;
  assign through = b[1];
endmodule
"""

# The library's cells written again by hand: the reference must not come from the tables under test.
CELLS = """
module INV(input A, output Y); assign Y = ~A; endmodule
module BUF(input A, output Y); assign Y = A; endmodule
module NAND2(input A, B, output Y); assign Y = ~(A & B); endmodule
module NOR2(input A, B, output Y); assign Y = ~(A | B); endmodule
module AND2(input A, B, output Y); assign Y = A & B; endmodule
module OR2(input A, B, output Y); assign Y = A | B; endmodule
module XOR2(input A, B, output Y); assign Y = A != B; endmodule
module MUX2(input A, B, S, output Y); assign Y = S ? B : A; endmodule
module FA(input A, B, C, output CO, S); assign {CO, S} = A + B + C; endmodule
module DFF(input CK, D, output reg Q); always @(posedge CK) Q <= D; endmodule
module DFFQN(input CK, D, output reg QN); always @(posedge CK) QN <= ~D; endmodule
module DFFN(input CK, D, output reg Q); always @(negedge CK) Q <= D; endmodule
module DFFR(input CK, D, RN, output reg Q, output QN); assign QN = ~Q; always @(posedge CK or negedge RN) if (!RN) Q <= 0; else Q <= D; endmodule
module ICG(input CK, E, output GCK); reg m; always @* if (!CK) m = E; assign GCK = CK & m; endmodule
module TIE(output H, L); assign H = 1; assign L = 0; endmodule
"""

CYCLES = 400


def stimulus(seed: int, cycles: int = CYCLES) -> dict[str, np.ndarray]:
    """Integers [cycles] of each input: reset for three cycles and again later, a clear, then mixed enables."""
    draw = np.random.default_rng(seed)
    t = np.arange(cycles)
    s = {"rst_n": ((t >= 3) & (t != 57)).astype(int), "en": draw.integers(0, 2, cycles), "clear": (draw.random(cycles) < 0.1).astype(int)}
    s |= {"a": draw.integers(0, 16, cycles), "b": draw.integers(0, 16, cycles)}
    for name, start in (("en", 1), ("clear", 1)):
        s[name][2:6] = start
    return s


def expected_outputs(s: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the RTL's ports hold before each rising edge, from a plain loop over the Verilog's meaning."""
    cycles, ar, acc, count = len(s["en"]), 0, 0, 0
    out = {name: np.zeros(cycles, dtype=int) for name in ("acc", "count", "tied", "late", "through")}
    for t in range(cycles):
        count = count if s["rst_n"][t] else 0
        # The falling edge comes in the middle of the cycle, after count and a have taken this cycle's values.
        values = {"acc": acc, "count": count, "tied": 2, "late": count & 1 ^ s["a"][t] & 1, "through": s["b"][t] >> 1 & 1}
        for name, value in values.items():
            out[name][t] = value
        if s["en"][t]:
            ar, acc = s["a"][t], 0 if s["clear"][t] else (acc + ar * s["b"][t]) % 256
        count = (count + 1) % 8 if s["rst_n"][t] else 0
    return out


WIDTHS = {"rst_n": 1, "en": 1, "clear": 1, "a": 4, "b": 4, "acc": 8, "count": 3, "tied": 2, "late": 1, "through": 1}


def recording(seed: int = 1, name: str = "window", cycles: int = CYCLES, **changes) -> Recording:
    s = stimulus(seed, cycles)
    values = {n: to_bits(v, WIDTHS[n]) for n, v in (s | expected_outputs(s)).items()}
    return replace(Recording(name=name, cycles=cycles, values=values), **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def library(folder):
    return read_library(gate_library.write_liberty(folder / "gates.lib"))


@pytest.fixture(scope="module")
def mapped(folder, library):
    return gate_library.map_verilog(DESIGN, "block", folder / "gates.lib", folder)


@pytest.fixture(scope="module")
def netlist(mapped, library):
    netlist = read_netlist(mapped[0], library)
    used = {netlist.types[k].name for k in netlist.cell_type}
    assert {"ICG", "FA", "DFFR", "DFFN", "TIE"} <= used, "the design must exercise these cells"
    return netlist


@pytest.fixture(scope="module")
def replayer(netlist):
    return Replayer(netlist, clocks=("clk",))


def map_and_read(verilog: str, folder: Path, library):
    """A netlist of hand-instantiated cells, by way of Yosys."""
    folder.mkdir(exist_ok=True)
    return read_netlist(gate_library.map_verilog(verilog, "block", gate_library.write_liberty(folder / "gates.lib"), folder)[0], library, top="block")


# --- against another simulator ------------------------------------------------------------------

BENCH = """
`timescale 1ns/1ns
module tb;
  reg clk = 0; reg [10:0] stimulus [0:%(last)d]; reg [10:0] now; integer t;
  wire [7:0] acc; wire [2:0] count; wire [1:0] tied; wire late, through;
  block dut (.clk(clk), .rst_n(now[0]), .en(now[1]), .clear(now[2]), .a(now[6:3]), .b(now[10:7]),
             .acc(acc), .count(count), .tied(tied), .late(late), .through(through));
  initial begin
    $dumpfile("wave.vcd"); $dumpvars(1, dut);
    $readmemb("stimulus.txt", stimulus);
    now = stimulus[0]; #10;
    for (t = 1; t <= %(last)d; t = t + 1) begin clk = 1; now <= stimulus[t]; #5 clk = 0; #5; end
    $finish;
  end
endmodule
"""


def vcd_activity(path: Path, start: int, end: int) -> dict[str, tuple[int, float]]:
    """Toggles in [start, end) and share of that time at 1, by net (`name` or `name[i]`), from a VCD file."""
    names: dict[str, list[str]] = {}
    value: dict[str, str] = {}
    since: dict[str, int] = {}
    toggles: dict[str, int] = {}
    high: dict[str, int] = {}
    now = 0

    def change(net: str, bit: str) -> None:
        if net in value and value[net] == bit:
            return
        if value.get(net) == "1":
            high[net] = high.get(net, 0) + max(0, min(now, end) - max(since[net], start))
        if net in value and start <= now < end:
            toggles[net] = toggles.get(net, 0) + 1
        value[net], since[net] = bit, now

    for line in path.read_text().splitlines():
        words = line.split()
        if line.startswith("$var"):
            width, code, name = int(words[2]), words[3], words[4].removeprefix("\\")
            names.setdefault(code, []).append([f"{name}[{i}]" for i in range(width)] if width > 1 else [name])
        elif line.startswith("#"):
            now = int(line[1:])
        elif line[:1] in "01xz" and line[1:] in names:
            for bits in names[line[1:]]:
                change(bits[0], line[0])
        elif line.startswith("b") and words[1] in names:
            for bits in names[words[1]]:
                text = words[0][1:].rjust(len(bits), "0" if words[0][1] in "01" else words[0][1])
                for net, bit in zip(bits, reversed(text), strict=True):
                    change(net, bit)
    now = end
    for net in list(value):
        change(net, "end")
    return {net: (toggles.get(net, 0), high.get(net, 0) / (end - start)) for net in value}


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed (apt-get install iverilog)")
def test_every_net_toggles_and_rests_as_in_icarus_verilog(folder, mapped, netlist, replayer):
    profile = replayer.replay(recording())["all"]
    s = stimulus(1)
    words = s["rst_n"] | s["en"] << 1 | s["clear"] << 2 | s["a"] << 3 | s["b"] << 7
    (folder / "stimulus.txt").write_text("\n".join(f"{w:011b}" for w in words))
    (folder / "bench.v").write_text(BENCH % {"last": CYCLES - 1} + CELLS)
    subprocess.run(["iverilog", "-g2012", "-o", "sim", "bench.v", mapped[1].name], cwd=folder, check=True, timeout=60)
    subprocess.run(["vvp", "sim"], cwd=folder, check=True, timeout=60, capture_output=True)
    reference = vcd_activity(folder / "wave.vcd", 10 * profile.excluded_cycles, 10 * CYCLES)
    compared = 0
    for number, name in enumerate(netlist.net_names):
        if name in reference:
            toggles, duty = reference[name]
            assert round(profile.toggles_per_cycle[number] * profile.cycles) == toggles, name
            assert profile.duty[number] == pytest.approx(duty, abs=1e-12), name
            compared += 1
    assert compared > 0.9 * netlist.nets and profile.cycles == CYCLES - profile.excluded_cycles
    gated = next(n for n in range(netlist.nets) if profile.clock_nets[n] and netlist.driver[n] >= 0)
    assert 0.5 < profile.toggles_per_cycle[gated] < 1.5  # enabled in about half of the cycles, two edges each


# --- what a profile holds -----------------------------------------------------------------------


def test_counts_by_state_agree_with_counts_by_net(netlist, replayer):
    profile, places = replayer.replay(recording())["all"], layout(netlist)
    for cell in range(netlist.cells):
        logic = netlist.types[netlist.cell_type[cell]]
        nets = netlist.pin_net[netlist.pin_start[cell] : netlist.pin_start[cell + 1]]
        states = profile.state_probability[places.state_start[cell] : places.state_start[cell + 1]]
        edges = profile.edges_per_cycle[places.edge_start[cell] : places.edge_start[cell + 1]].reshape(len(logic.inputs), logic.states)
        arcs = profile.arcs_per_cycle[places.arc_start[cell] : places.arc_start[cell + 1]].reshape(len(logic.outputs), len(logic.inputs), logic.states)
        index = np.arange(logic.states)
        assert states.sum() == pytest.approx(1)
        for i in range(len(logic.inputs)):
            assert states[index >> i & 1 == 1].sum() == pytest.approx(profile.duty[nets[i]])
            assert edges[i].sum() == pytest.approx(profile.toggles_per_cycle[nets[i]])
            assert abs(edges[i][index >> i & 1 == 1].sum() - edges[i].sum() / 2) <= 0.5 / profile.cycles + 1e-12
        for o in range(len(logic.outputs)):
            out = nets[len(logic.inputs) + o]
            assert states[logic.outputs_table[o] == 1].sum() == pytest.approx(profile.duty[out])
            assert arcs[o].sum() == pytest.approx(profile.toggles_per_cycle[out])
            if logic.kind == "combinational":
                # Each move is charged to an input in a state where that input alone moves the output.
                for i in range(len(logic.inputs)):
                    assert not np.any(arcs[o, i][logic.outputs_table[o] == logic.outputs_table[o][index ^ 1 << i]])


def test_moves_are_charged_to_the_inputs_that_matter(tmp_path, library):
    netlist = map_and_read(
        "module block(input clk, a, b, s, output y, q); MUX2 u(.A(a), .B(b), .S(s), .Y(y)); DFF f(.CK(clk), .D(y), .Q(q)); endmodule", tmp_path / "m", library
    )
    a, b, s = np.array([0, 0, 1, 0, 1, 1, 0]), np.array([0, 1, 0, 1, 0, 0, 1]), np.array([0, 0, 0, 0, 0, 1, 1])
    y = np.where(s, b, a)
    values = {n: to_bits(v, 1) for n, v in {"a": a, "b": b, "s": s, "y": y, "q": np.concatenate([[0], y[:-1]])}.items()}
    profile = Replayer(netlist, clocks=("clk",)).replay(Recording(name="hand", cycles=7, values=values, registers={"q": 0}), warm_up_cycles=1)["all"]
    mux = netlist.cell_names.index("u")
    start = layout(netlist).arc_start[mux]
    arcs = profile.arcs_per_cycle[start : start + 24].reshape(3, 8).sum(axis=1) * profile.cycles
    # y: 0 0 1 0 1 0 1. With s = 0 input a moves it three times although b moves too; then s moves it, then b.
    assert arcs.tolist() == [3, 1, 1]
    flop = layout(netlist).arc_start[netlist.cell_names.index("f")]
    logic = netlist.types[netlist.cell_type[netlist.cell_names.index("f")]]
    moves = profile.arcs_per_cycle[flop:][: 2 * logic.states].reshape(2, logic.states).sum(axis=1) * profile.cycles
    assert moves[logic.inputs.index("D")] == 0 and moves[logic.inputs.index("CK")] == 4


def test_inputs_that_move_together_share_the_move(tmp_path, library):
    verilog = "module block(input clk, a, b, output y, q); AND2 u(.A(a), .B(b), .Y(y)); DFF f(.CK(clk), .D(y), .Q(q)); endmodule"
    netlist = map_and_read(verilog, tmp_path / "both", library)
    a = np.array([0, 0, 1, 0])
    values = {n: to_bits(v, 1) for n, v in {"a": a, "b": a, "y": a, "q": np.concatenate([[0], a[:-1]])}.items()}
    profile = Replayer(netlist, clocks=("clk",)).replay(Recording(name="both", cycles=4, values=values, registers={"q": 0}))["all"]
    start = layout(netlist).arc_start[netlist.cell_names.index("u")]
    arcs = profile.arcs_per_cycle[start : start + 8].reshape(2, 4) * profile.cycles
    # By state A + 2 B: either may be the last to rise, at 3; either may be the first to fall, while the other is still up.
    assert arcs.tolist() == [[0, 0, 0.5, 0.5], [0, 0.5, 0, 0.5]]


def test_a_carry_that_no_single_input_moves_is_charged_to_one_that_completes_it(tmp_path, library):
    verilog = "module block(input clk, a, output y, s, q); FA u(.A(a), .B(a), .C(a), .CO(y), .S(s)); DFF f(.CK(clk), .D(y), .Q(q)); endmodule"
    netlist = map_and_read(verilog, tmp_path / "carry", library)
    a = np.array([0, 0, 1, 0])
    values = {n: to_bits(v, 1) for n, v in {"a": a, "y": a, "s": a, "q": np.concatenate([[0], a[:-1]])}.items()}
    profile = Replayer(netlist, clocks=("clk",)).replay(Recording(name="carry", cycles=4, values=values, registers={"q": 0}))["all"]
    adder = netlist.cell_names.index("u")
    logic = netlist.types[netlist.cell_type[adder]]
    carry = logic.outputs.index("CO")
    arcs = profile.arcs_per_cycle[layout(netlist).arc_start[adder] :][: 2 * 24].reshape(2, 3, 8)[carry] * profile.cycles
    # A, then B, then C: 000 -> 111 raises the carry with B, at A + 2 B + 4 C = 3; 111 -> 000 drops it with B, at 4.
    assert {(int(i), int(s)): arcs[i, s] for i, s in np.argwhere(arcs)} == {(1, 3): 1.0, (1, 4): 1.0}


def test_phases_split_the_window_exactly(netlist, replayer):
    whole = replayer.replay(recording())["all"]
    busy = np.random.default_rng(5).random(CYCLES) < 0.3
    parts = replayer.replay(recording(phases={"busy": busy, "idle": ~busy}))
    assert parts["busy"].cycles + parts["idle"].cycles == whole.cycles
    assert parts["busy"].cycles == busy[whole.excluded_cycles :].sum()
    together = combine(list(parts.values()), phase="all")
    for name in ("toggles_per_cycle", "duty", "state_probability", "edges_per_cycle", "arcs_per_cycle"):
        assert getattr(together, name) == pytest.approx(getattr(whole, name), abs=1e-12), name
    with pytest.raises(ToolError, match="phase idle must be a mask of 400 cycles that no other phase holds"):
        replayer.replay(recording(phases={"busy": busy, "idle": np.ones(CYCLES, dtype=bool)}))
    with pytest.raises(ToolError, match="phase rare must hold a cycle after the first"):
        replayer.replay(recording(phases={"rare": np.arange(CYCLES) == 0}))


def test_combined_profiles_know_what_all_of_them_know(netlist, replayer):
    profile = replayer.replay(recording())["all"]
    known = profile.annotated.copy()
    known[7] = False
    other = replace(profile, annotated=known, cycles=3 * profile.cycles, duty=0 * profile.duty, unsettled=("r",))
    both = combine([profile, other])
    assert not both.annotated[7] and both.annotated.sum() == netlist.nets - 1 and both.unsettled == ("r",)
    assert both.cycles == 4 * profile.cycles and both.duty == pytest.approx(profile.duty / 4)
    with pytest.raises(ToolError, match="profiles to combine must be of one netlist"):
        combine([profile, replace(profile, netlist="another")])


def test_the_same_replay_gives_the_same_numbers(replayer):
    first, second = (replayer.replay(recording())["all"] for _ in range(2))
    assert np.array_equal(first.arcs_per_cycle, second.arcs_per_cycle) and np.array_equal(first.duty, second.duty)


# --- the unknown initial state ------------------------------------------------------------------


def test_warm_up_ends_when_registers_no_longer_depend_on_their_start(replayer):
    profile = replayer.replay(recording())["all"]
    # The edge that ends cycle 2 clears acc and loads ar; from cycle 3 to cycle 4 every change is known.
    assert profile.excluded_cycles == 4 and profile.unsettled == () and profile.annotated_fraction == 1.0


HOLD = """
module block (input clk, en, a, d, output y, output reg q);
  reg kept; always @(posedge clk) if (en) kept <= d;
  reg seen; always @(posedge clk) seen <= kept & a;
  assign y = seen; always @(posedge clk) q <= a;
endmodule
"""


def hold_recording(kept: int, registers: dict[str, int]) -> Recording:
    draw = np.random.default_rng(2)
    a = draw.integers(0, 2, 50)
    before = np.concatenate([[0], a[:-1]])
    values = {"en": np.zeros(50, dtype=int), "a": a, "d": draw.integers(0, 2, 50), "y": before & kept, "q": before}
    return Recording(name="hold", cycles=50, values={n: to_bits(v, 1) for n, v in values.items()}, registers=registers)


def test_a_register_that_is_never_written_is_reported_and_its_nets_not_annotated(tmp_path, library):
    replayer = Replayer(map_and_read(HOLD, tmp_path / "hold", library), clocks=("clk",))
    profile = replayer.replay(hold_recording(1, {"kept": 1, "gone_in_synthesis": 1}), warm_up_cycles=5)["all"]
    assert profile.unsettled == () and profile.annotated_fraction == 1.0 and profile.excluded_cycles == 2
    # Left unknown, its nets do not count as known and the output that shows it is not compared, but the others are.
    unknown = hold_recording(1, {})
    profile = replayer.replay(unknown, warm_up_cycles=5)["all"]
    assert profile.unsettled == ("kept",) and profile.excluded_cycles == 5
    nets = {replayer.netlist.net_names[n] for n in np.flatnonzero(~profile.annotated)}
    assert {"kept", "y"} <= nets and "q" not in nets and profile.annotated_fraction < 0.9
    values = dict(unknown.values)
    with pytest.raises(ToolError, match=r"netlist must do as the RTL: q\[0\].*; 1 registers have no known initial value \(kept\)"):
        replayer.replay(replace(unknown, values=values | {"q": 1 - values["q"]}), warm_up_cycles=5)
    with pytest.raises(ToolError, match=r"at least one output must be known, not none .*\(kept\)"):
        replayer.replay(replace(unknown, values={n: v for n, v in values.items() if n != "q"}), warm_up_cycles=5)


def test_an_initial_value_reaches_a_flop_through_its_inverter(tmp_path, library):
    verilog = """
    module block (input clk, en, d, output y); wire g, n, k; ICG gate(.CK(clk), .E(en), .GCK(g));
    DFFQN flop(.CK(g), .D(d), .QN(n)); INV inv(.A(n), .Y(k)); assign y = k; endmodule
    """
    replayer = Replayer(map_and_read(verilog, tmp_path / "inverted", library), clocks=("clk",))
    zeros = np.zeros(20, dtype=int)
    for y in (0, 1):
        values = {"en": to_bits(zeros, 1), "d": to_bits(1 - zeros, 1), "y": to_bits(zeros + y, 1)}
        profile = replayer.replay(Recording(name="inv", cycles=20, values=values, registers={"y": y}), warm_up_cycles=2)["all"]
        assert profile.unsettled == () and profile.excluded_cycles == 1


# --- what is refused ----------------------------------------------------------------------------


def test_a_netlist_that_differs_from_the_rtl_is_named_with_port_and_cycle(replayer):
    window = recording()
    wrong = window.values["acc"].copy()
    wrong[123, 5] ^= 1
    bit = wrong[123, 5]
    with pytest.raises(ToolError, match=rf"netlist must do as the RTL: acc\[5\] must be {bit} in cycle 123, not {1 - bit}; 1 cycles differ"):
        replayer.replay(replace(window, values=dict(window.values) | {"acc": wrong}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v | {"b": v["b"][:, :3]}, r"recorded b must be bits of shape \(400, 4\)"),
        (lambda v: v | {"b": v["b"] * 2}, "recorded b must be bits"),
        (lambda v: {n: b for n, b in v.items() if n != "a"}, "recording must hold every input and only ports of the netlist, not differ in a"),
        (lambda v: v | {"zz": v["a"]}, "not differ in zz"),
        (lambda v: {n: b for n, b in v.items() if n in ("rst_n", "en", "clear", "a", "b")}, "recording must hold outputs to compare"),
    ],
)
def test_recordings_that_do_not_fit_are_refused(replayer, change, message):
    window = recording()
    with pytest.raises(ToolError, match=message):
        replayer.replay(replace(window, values=change(dict(window.values))))


@pytest.mark.parametrize(("cycles", "warm_up"), [(1, 1), (50, 0)])
def test_a_window_without_cycles_to_count_is_refused(replayer, cycles, warm_up):
    with pytest.raises(ToolError, match=f"window and warm-up must be of at least 2 and 1 cycles, not {cycles} and {warm_up}"):
        replayer.replay(recording(cycles=cycles), warm_up_cycles=warm_up)


def test_a_window_that_never_settles_has_nothing_to_count(tmp_path, library):
    replayer = Replayer(map_and_read(HOLD, tmp_path / "hold", library), clocks=("clk",))
    with pytest.raises(ToolError, match="phase all must hold a cycle after the first 50"):
        replayer.replay(hold_recording(1, {}))


def test_a_clock_gated_without_a_latch_is_refused(tmp_path, library):
    verilog = "module block(input clk, en, d, output q); wire g; AND2 u(.A(clk), .B(en), .Y(g)); DFF flop(.CK(g), .D(d), .Q(q)); endmodule"
    replayer = Replayer(map_and_read(verilog, tmp_path / "hazard", library), clocks=("clk",))
    ones = np.ones(10, dtype=int)
    changing = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 1])
    steady = {"en": to_bits(ones, 1), "d": to_bits(ones, 1), "q": to_bits(np.minimum(np.arange(10), 1), 1)}
    replayer.replay(Recording(name="steady", cycles=10, values=steady, registers={"q": 0}), warm_up_cycles=2)
    with pytest.raises(ToolError, match="a clock must not move with the data of its cycle, as that of flop flop does in cycle 3"):
        replayer.replay(Recording(name="late", cycles=10, values=steady | {"en": to_bits(changing, 1)}), warm_up_cycles=2)


def test_a_clock_gated_in_its_low_half_by_data_of_that_half_is_refused(tmp_path, library):
    verilog = """
    module block (input clk, d, output q); wire e, g; DFFN flop0(.CK(clk), .D(d), .Q(e)); OR2 u(.A(clk), .B(e), .Y(g));
    DFF flop(.CK(g), .D(d), .Q(q)); endmodule
    """
    replayer = Replayer(map_and_read(verilog, tmp_path / "low", library), clocks=("clk",))
    d = np.array([0, 0, 0, 0, 1, 1, 1])
    values = {"d": to_bits(d, 1), "q": to_bits(0 * d, 1)}
    with pytest.raises(ToolError, match="a clock must not move with the data of its cycle, as that of flop flop does in cycle 4"):
        replayer.replay(Recording(name="low", cycles=7, values=values, registers={"q": 0}), warm_up_cycles=2)


# --- black boxes and several clocks -------------------------------------------------------------


def test_black_boxes_are_driven_and_checked_from_the_recording(tmp_path, library):
    verilog = """
    (* blackbox *) module ram (input clk, input [1:0] addr, output [1:0] data); endmodule
    module block (input clk, input [1:0] i, output reg [1:0] o); wire [1:0] d;
      ram store (.clk(clk), .addr(i ^ 2'd1), .data(d)); always @(posedge clk) o <= d; endmodule
    """
    folder = tmp_path / "ram"
    folder.mkdir()
    path, _ = gate_library.map_verilog(verilog, "block", gate_library.write_liberty(folder / "gates.lib"), folder)
    netlist = read_netlist(path, library, black_boxes=["ram"])
    draw = np.random.default_rng(3)
    i, d = draw.integers(0, 4, 30), draw.integers(0, 4, 30)
    values = {"i": to_bits(i, 2), "o": to_bits(np.concatenate([[0], d[:-1]]), 2), "store/data": to_bits(d, 2), "store/addr": to_bits(i ^ 1, 2)}
    replayer = Replayer(netlist, clocks=("clk",))
    assert replayer.replay(Recording(name="ram", cycles=30, values=values))["all"].annotated_fraction == 1.0
    wrong = values | {"store/addr": to_bits(i, 2)}
    with pytest.raises(ToolError, match=r"store/addr\[0\] must be"):
        replayer.replay(Recording(name="ram", cycles=30, values=wrong))
    with pytest.raises(ToolError, match="not differ in store/data"):
        replayer.replay(Recording(name="ram", cycles=30, values={n: v for n, v in values.items() if n != "store/data"}))


def test_each_clock_moves_its_own_flops(tmp_path, library):
    verilog = "module block(input ca, cb, d, output reg qa, output reg qb); always @(posedge ca) qa <= d; always @(posedge cb) qb <= qa; endmodule"
    netlist = map_and_read(verilog, tmp_path / "two", library)
    draw = np.random.default_rng(4)
    rises = draw.integers(0, 2, (200, 2)).astype(np.uint8)
    rises[~rises.any(axis=1), 0] = 1
    d, qa, qb = draw.integers(0, 2, 200), np.zeros(200, dtype=int), np.zeros(200, dtype=int)
    for t in range(1, 200):
        qa[t] = d[t - 1] if rises[t - 1, 0] else qa[t - 1]
        qb[t] = qa[t - 1] if rises[t - 1, 1] else qb[t - 1]
    values = {n: to_bits(v, 1) for n, v in {"d": d, "qa": qa, "qb": qb}.items()}
    window = Recording(name="two", cycles=200, values=values, rises=rises, registers={"qa": 0, "qb": 0})
    profile = Replayer(netlist, clocks=("ca", "cb")).replay(window)["all"]
    numbers = netlist.net_index()
    assert profile.cycles == rises[:-1, 0].sum()
    assert profile.toggles_per_cycle[numbers["ca"]] == 2
    assert profile.toggles_per_cycle[numbers["cb"]] * profile.cycles == pytest.approx(2 * rises[:-1, 1].sum())


# --- activity from nets alone -------------------------------------------------------------------


def test_profile_from_net_activity_agrees_where_inputs_are_independent(tmp_path, library):
    netlist = map_and_read(
        "module block(input clk, a, b, output y, output reg q); XOR2 u(.A(a), .B(b), .Y(y)); always @(posedge clk) q <= y; endmodule", tmp_path / "x", library
    )
    draw = np.random.default_rng(6)
    a, b = (draw.random(20000) < 0.3).astype(int), draw.integers(0, 2, 20000)
    values = {n: to_bits(v, 1) for n, v in {"a": a, "b": b, "y": a ^ b, "q": np.concatenate([[0], (a ^ b)[:-1]])}.items()}
    seen = Replayer(netlist, clocks=("clk",)).replay(Recording(name="x", cycles=20000, values=values))["all"]
    guess = independent_profile(netlist, seen.toggles_per_cycle, seen.duty, clocks=("clk",))
    cell, places = netlist.cell_names.index("u"), layout(netlist)
    for name, start in (("state_probability", places.state_start), ("edges_per_cycle", places.edge_start), ("arcs_per_cycle", places.arc_start)):
        part = slice(start[cell], start[cell + 1])
        assert getattr(guess, name)[part] == pytest.approx(getattr(seen, name)[part], abs=0.03), name
    assert guess.arcs_per_cycle.sum() == pytest.approx(seen.arcs_per_cycle.sum())
    assert np.array_equal(guess.clock_nets, seen.clock_nets)


def test_unknown_nets_are_not_annotated(netlist):
    toggles, duty = np.zeros(netlist.nets), np.full(netlist.nets, 0.5)
    toggles[10:20] = np.nan
    assert independent_profile(netlist, toggles, duty, clocks=("clk",)).annotated_fraction == pytest.approx(1 - 10 / (netlist.nets - 2))
    with pytest.raises(ToolError, match="toggles must be at least 0 and duties within 0 to 1"):
        independent_profile(netlist, toggles, duty + 1, clocks=("clk",))


def test_bits_are_least_significant_first_and_twos_complement():
    assert to_bits(np.array([5, -1]), 4).tolist() == [[1, 0, 1, 0], [1, 1, 1, 1]]
    assert to_bits(np.array([2**63], dtype=np.uint64), 64)[0].tolist() == [0] * 63 + [1]
    with pytest.raises(ToolError, match="integers must have at most 64 bits"):
        to_bits(np.array([1]), 65)
