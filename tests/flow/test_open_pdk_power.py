"""The whole way of a small design in an open PDK: synthesis, placement, timing with its wires, and power of replayed activity."""

import re
import subprocess
from pathlib import Path

import pytest
from small_library import library_text

from flow.block_power import block_power
from flow.cache import run_step
from flow.flipflop_memory import memory_verilog, recorded_words
from flow.mapped_design import _timing_netlist
from flow.measure import unconditional
from flow.placement import place_module
from flow.sta import time_design
from flow.synth import synthesize
from flow.tech import liberty_files, load_technology
from hw.emit import Memory
from hw.errors import ToolError

ROOT = Path(__file__).resolve().parents[2]
PDK = ROOT.parent.parent / "shared" / "pdk" if ROOT.parent.name == "wt" else ROOT.parent / "shared" / "pdk"

UNIT = """module unit(input clk, input en, input [1:0] ra, wa, input [7:0] d, output reg [11:0] q);
 wire [7:0] word; bank b(.clk(clk), .read_en(en), .read_addr(ra), .read_data(word), .write_en(en), .write_addr(wa), .write_data(d));
 always @(posedge clk) if (en) q <= q + word[7:4] * word[3:0];
endmodule
"""
# The memory that is simulated is an array, of whose words two are not written while it is recorded.
ARRAY = """module bank(input clk, input read_en, write_en, input [1:0] read_addr, write_addr, output reg [7:0] read_data, input [7:0] write_data);
 reg [7:0] memory [0:3]; integer k; initial for (k = 0; k < 4; k = k + 1) memory[k] = k; initial read_data = 0;
 always @(posedge clk) begin if (read_en) read_data <= memory[read_addr]; if (write_en) memory[write_addr] <= write_data; end
endmodule
"""
BENCH = """`timescale 1ps/1ps
module tb; reg clk = 0, en = 1; reg [1:0] ra = 0, wa = 0; reg [7:0] d = 0; wire [11:0] q; integer t;
  unit dut(.clk(clk), .en(en), .ra(ra), .wa(wa), .d(d), .q(q));
  initial begin
    dut.q = 0;
    for (t = 0; t < 4; t = t + 1) begin #500 clk = 0; #500 clk = 1; end $dumpfile("window.vcd"); $dumpvars(0, tb);
    for (t = 0; t < 400; t = t + 1) begin #10 en = $random; wa = $random % 2; ra = $random; d = $random; #490 clk = 0; #500 clk = 1; end $finish; end
endmodule
"""
CYCLES = 360


@pytest.mark.skipif(not PDK.is_dir(), reason="open PDK data is not beside the project")
def test_a_design_in_sg13g2_has_timing_and_power_after_placement(tmp_path, monkeypatch):
    monkeypatch.setenv("PDK_ROOT", str(PDK))
    technology, cache = load_technology("sg13g2"), tmp_path / "cache"
    corners = tuple(c.at_sram(c.vdd_v) for c in technology.corners if c.process == "typ")
    assert [corner.vdd_v for corner in corners] == [1.2, 1.5]
    (tmp_path / "simulated.v").write_text(UNIT + ARRAY)
    (tmp_path / "made.v").write_text(UNIT + memory_verilog("bank", 4, 8))
    (tmp_path / "bench.v").write_text(BENCH)
    for command in (["iverilog", "-g2012", "-o", "bench", "bench.v", "simulated.v"], ["vvp", "-n", "bench"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    made = synthesize(verilog=[tmp_path / "made.v"], module="unit", clocks=["clk"], technology=technology, corner=technology.nominal_corner(), cache=cache)
    assert made.flops == 4 * 8 + 8 + 12 and made.gated_fraction == 1.0
    placed = place_module(made, clocks=["clk"], technology=technology, corner=technology.nominal_corner(), boxes={}, cache=cache)
    rows = placed.outline.height_um / technology.placement.row_height_um
    assert rows == pytest.approx(round(rows)) and placed.outline.width_um * placed.outline.height_um >= placed.area_um2 and placed.wire_um > 0
    liberty = tuple(liberty_files(technology, corner, cache=cache) for corner in corners)
    verilog, spef = run_step(
        _timing_netlist, cache=cache, netlists={"unit": (placed.netlist_json, placed.places, ())}, top="unit", liberty=liberty[0], wire=technology.wire
    )
    options = {"module": "unit", "technology": technology, "corners": corners, "clocks": ["clk"], "cache": cache}
    with_wires = [timing["clk"].reg_to_reg.delay_s for timing in time_design(netlists=[verilog], spef=spef, **options)]
    assert 0 < with_wires[1] < with_wires[0] < 5e-9
    trace = recorded_words(tmp_path / "window.vcd", [Memory(module="bank", words=4, bits=8, instances=("b",))], cycles=CYCLES, cache=cache)

    def power(trace):
        return run_step(
            block_power, cache=cache, netlist=placed.netlist_json, places=placed.places, module="unit", boxes={}, clocks=("clk",), when=(("en",),), trace=trace,
            scopes=("",), population=1, cycles=CYCLES, liberty=liberty, cells=technology.cells, wire=technology.wire,
        )  # fmt: skip

    low, high = ({phase.phase: phase for phase in corner.phases} for corner in power(trace))
    for phase in ("active", "idle"):
        assert low[phase].annotated_fraction == 1.0
        # The charge of nets and pins hardly depends on the supply: C V^2.
        assert high[phase].switching_j / low[phase].switching_j == pytest.approx((1.5 / 1.2) ** 2, rel=0.08)
        assert high[phase].clock_j > low[phase].clock_j > 0 and high[phase].leakage_w > low[phase].leakage_w > 0
    # Without the words their contents are unknown, and that is refused.
    with pytest.raises(ToolError, match="must be known"):
        power(tmp_path / "window.vcd")


def test_delays_under_a_condition_are_left_to_those_over_all_conditions(tmp_path):
    """Icarus Verilog reads the conditions of some libraries and not those of others."""
    plain, marked = library_text(1.0), tmp_path / "marked.lib"
    marked.write_text(re.sub(r"(timing *\(\) *\{)", r'\1\n  sdf_cond : "(~A & B)";\n  sdf_cond_start : "~SE";\n', plain))
    (tmp_path / "plain.lib").write_text(plain)
    assert marked.read_text().count("sdf_cond") > 10
    made = unconditional(marked, cache=tmp_path / "cache")
    assert "".join(made.read_text().split()) == "".join(plain.split())
    assert unconditional(tmp_path / "plain.lib", cache=tmp_path / "cache") == tmp_path / "plain.lib"
