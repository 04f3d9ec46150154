"""Blocks measured apart, at their recorded boundaries, against the same cells measured as one flat netlist."""

import json
import subprocess
import sys

import numpy as np
import pytest

from flow.block_power import block_power, net_wire_f, outside_load_f, port_loads
from flow.cache import run_step
from flow.liberty import fo4_s as library_fo4_s
from flow.netlist import read_netlist
from flow.power import PowerModel
from flow.recording import Waveform, record
from flow.replay import Replayer
from flow.simulation import TRACE_MARGIN_CYCLES
from flow.synth import synthesize
from flow.tech import WireModel, liberty_files, load_technology, read_libraries
from hw.errors import ToolError

DESIGN = """
module child(input clk, input en, input [5:0] a, input [5:0] b, output reg [11:0] p);
  reg [5:0] x, y; always @(posedge clk) begin x <= a; y <= b; if (en) p <= x * y; end endmodule
module parent(input clk, input en, input [5:0] a, input [5:0] b, output reg [12:0] s, output reg [12:0] r);
  reg [5:0] c, d; reg e; wire [11:0] q0, q1, q2, q3;
  child u0(.clk(clk), .en(en), .a(c), .b(d), .p(q0)); child u1(.clk(clk), .en(e), .a(d), .b(a), .p(q1));
  child u2(.clk(clk), .en(en), .a(c), .b(c), .p(q2)); child u3(.clk(clk), .en(e), .a(b), .b(d), .p(q3));
  always @(posedge clk) begin c <= a; d <= b; e <= en; s <= q0 + q1; r <= q2 ^ q3; end endmodule
"""
BENCH = """`timescale 1ps/1ps
module tb; reg clk = 0, en = 1; reg [5:0] a = 1, b = 2; wire [12:0] s, r; integer t;
  parent dut(.clk(clk), .en(en), .a(a), .b(b), .s(s), .r(r));
  initial begin 
    for (t = 0; t < 8; t = t + 1) begin #500 clk = 0; #500 clk = 1; end $dumpfile("window.vcd"); $dumpvars(0, tb);
    for (t = 0; t < 400; t = t + 1) begin #10 en = $random; a = $random; b = $random; #490 clk = 0; #500 clk = 1; end $finish; end
endmodule
"""
CYCLES = 360
NO_WIRES = WireModel(capacitance_per_um_f=1e-24, length_base_um=1, length_per_fanout_um=1, source="test")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folder, technology, Liberty of two corners, and what synthesis made of child and parent."""
    folder, technology = tmp_path_factory.mktemp("hierarchy"), load_technology("fdsoi28p")
    (folder / "design.v").write_text(DESIGN)
    (folder / "bench.v").write_text(BENCH)
    for command in (["iverilog", "-g2012", "-o", "bench", "bench.v", "design.v"], ["vvp", "-n", "bench"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    made = {
        module: synthesize(
            verilog=[folder / "design.v"], module=module, clocks=["clk"], technology=technology, corner=technology.nominal_corner(), black_boxes=boxes,
            cache=folder / "cache",
        )
        for module, boxes in (("child", ()), ("parent", ("child",)))
    }  # fmt: skip
    corners = [technology.corners[i].at_sram(1.0) for i in (2, len(technology.corners) - 1)]
    liberty = tuple(liberty_files(technology, corner, cache=folder / "cache") for corner in corners)
    return folder, technology, liberty, made


def measured(parts, module: str, wire: WireModel):
    """The power of a module at both corners, all its instances replayed."""
    folder, technology, liberty, made = parts
    boxes = {}
    if module == "parent":
        loads = run_step(
            port_loads, cache=folder / "cache", netlist=made["child"].netlist_json, places=None, module="child", black_boxes=(), liberty=liberty, wire=wire
        )
        boxes = {"child": loads}
    scopes = ("",) if module == "parent" else ("u0", "u1", "u2", "u3")
    return run_step(
        block_power, cache=folder / "cache", netlist=made[module].netlist_json, places=None, module=module, boxes=boxes, clocks=("clk",), when=(("en",),),
        trace=folder / "window.vcd", scopes=scopes, population=len(scopes), cycles=CYCLES, liberty=liberty, cells=technology.cells, wire=wire,
    )  # fmt: skip


def per_cycle(corner) -> dict[str, float]:
    """Mean over both phases of each part, weighted with their cycles."""
    cycles = sum(phase.cycles for phase in corner.phases)
    names = ("internal_j", "switching_j", "clock_j", "leakage_w")
    return {name: sum(getattr(phase, name) * phase.cycles for phase in corner.phases) / cycles for name in names}


def test_blocks_add_up_to_the_flat_netlist(parts):
    folder, technology, liberty, made = parts
    whole = {module: json.loads(made[module].netlist_json.read_text())["modules"][module] for module in ("child", "parent")}
    (folder / "both.json").write_text(json.dumps({"modules": whole}))
    script = "read_json both.json; hierarchy -top parent; flatten; opt_clean -purge; write_json flat.json"
    run = f"from pyosys import libyosys as y; d = y.Design(); [y.run_pass(c.strip(), d) for c in {script!r}.split(';')]"
    subprocess.run([sys.executable, "-c", run], cwd=folder, check=True, capture_output=True, timeout=60)
    parent, child = measured(parts, "parent", NO_WIRES), measured(parts, "child", NO_WIRES)
    for number, paths in enumerate(liberty):
        library = read_libraries(paths)
        flat = read_netlist(folder / "flat.json", library, top="parent")
        ports = {name: len(port.nets) for name, port in flat.ports.items() if name != "clk"}
        recorded = record(Waveform(folder / "window.vcd"), scope="tb.dut", clocks=("clk",), ports=ports, event=(), cycles=CYCLES)
        profile = Replayer(flat, clocks=("clk",)).replay(recorded, warm_up_cycles=TRACE_MARGIN_CYCLES)["idle"]
        fo4_s = library_fo4_s(library, technology.cells.inverter)
        outside = outside_load_f(flat, library, technology.cells.inverter, {})
        model = PowerModel(flat, library, clocks=("clk",), input_slew_s=fo4_s, clock_slew_s=fo4_s, output_load_f=0.0, outside_load_f=outside)
        one = model.evaluate(profile)
        blocks = [per_cycle(parent[number])] + [per_cycle(child[number])] * 4
        total = {name: sum(block[name] for block in blocks) for name in blocks[0]}
        assert sum(total[name] for name in ("internal_j", "switching_j", "clock_j")) == pytest.approx(one.energy_per_cycle_j, rel=0.03, abs=0)
        assert total["switching_j"] == pytest.approx(one.switching_per_cycle_j, rel=0.03, abs=0)
        assert total["clock_j"] == pytest.approx(one.clock_per_cycle_j, rel=0.03, abs=0)
        assert total["leakage_w"] == pytest.approx(one.leakage_w, rel=0.03, abs=0)


def test_loads_behind_black_boxes_are_those_of_their_own_pins(parts):
    folder, technology, liberty, made = parts
    wire = technology.wire
    library = read_libraries(liberty[0])
    child = read_netlist(made["child"].netlist_json, library, top="child")
    loads = run_step(
        port_loads, cache=folder / "cache", netlist=made["child"].netlist_json, places=None, module="child", black_boxes=(), liberty=liberty, wire=wire
    )
    for name in ("a", "en", "clk"):
        for bit, net in enumerate(child.ports[name].nets.tolist()):
            by_hand, sinks = 0.0, 0
            for cell in range(child.cells):
                logic = child.types[child.cell_type[cell]]
                for k, pin in enumerate(logic.inputs):
                    if child.pin_net[child.pin_start[cell] + k] == net:
                        by_hand, sinks = by_hand + library.cells[logic.name].pins[pin].rise_capacitance_f, sinks + 1
            by_hand += wire.capacitance_per_um_f * (wire.length_base_um + wire.length_per_fanout_um * sinks)
            assert loads[0][name][bit] == pytest.approx(by_hand, rel=1e-9, abs=0)
    parent = read_netlist(made["parent"].netlist_json, library, top="parent", black_boxes=("child",))
    outside = outside_load_f(parent, library, technology.cells.inverter, {"child": loads[0]})
    net = int(parent.ports["u0/a"].nets[2])
    users = [name for name in ("u0/a", "u0/b", "u1/a", "u1/b", "u2/a", "u2/b", "u3/a", "u3/b") if net in parent.ports[name].nets]
    expected = sum(loads[0][name[-1]][list(parent.ports[name].nets).index(net)] for name in users)
    assert outside[net] == pytest.approx(expected, rel=1e-9, abs=0) and len(users) >= 2
    inverter_f = next(p.capacitance_f for p in library.cells[technology.cells.inverter].pins.values() if p.direction == "input")
    assert outside[parent.ports["s"].nets[0]] == pytest.approx(4 * inverter_f, abs=0)
    with pytest.raises(ToolError, match="load of u0/a must be known for 6 bits"):
        outside_load_f(parent, library, technology.cells.inverter, {"child": {**loads[0], "a": (1e-15,)}})


def test_what_lies_outside_slows_edges_but_is_paid_for_elsewhere(parts):
    folder, technology, liberty, made = parts
    library = read_libraries(liberty[0])
    child = read_netlist(made["child"].netlist_json, library, top="child")
    wire_f = net_wire_f(child, technology.wire, None)
    conditions = dict(clocks=("clk",), input_slew_s=2e-11, clock_slew_s=2e-11, output_load_f=0.0, wire_cap_f=wire_f)
    outside = np.zeros(child.nets)
    outside[child.ports["p"].nets] = 5e-15
    light, heavy = PowerModel(child, library, **conditions), PowerModel(child, library, outside_load_f=outside, **conditions)
    assert np.array_equal(light.net_j, heavy.net_j)
    assert np.all(heavy.slew_s[child.ports["p"].nets] > light.slew_s[child.ports["p"].nets])
