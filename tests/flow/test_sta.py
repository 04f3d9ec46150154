"""Timing against hand calculation, and the ways in which OpenSTA would quietly say something else."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_library import (
    CLOCK_TO_Q_KOHM,
    CLOCK_TO_Q_PS,
    DATA_PIN_FF,
    GATES,
    HOLD_PS,
    SETUP_PS,
    SLEW_SHARE,
    WIRE_BASE_FF,
    WIRE_STEP_FF,
    write_technology,
)

from flow.corner import Corner
from flow.sta import boundary_delay_s, time_design
from flow.synth import RECIPES, synthesize
from flow.tech import load_technology
from hw.errors import ConfigError, ToolError

PDK = Path(__file__).parents[3] / "shared" / "pdk"

# Two flops with three inverters between them; the first inverter also drives a NAND2 to an output.
CHAIN = """
module chain(clk, d, b, q, y);
  input clk, d, b; output q, y; wire clk, d, b, q, y, n0, n1, n2, n3;
  DFF first (.CK(clk), .D(d), .Q(n0));
  INV i0 (.A(n0), .Y(n1));
  INV i1 (.A(n1), .Y(n2));
  INV i2 (.A(n2), .Y(n3));
  NAND2 g (.A(n1), .B(b), .Y(y));
  DFF second (.CK(clk), .D(n3), .Q(q));
endmodule
"""
OUTPUT_FF = 4 * GATES["INV"][2]["A"]  # what an output port carries


@pytest.fixture
def timing(tmp_path):
    """A function that times Verilog netlists given as text."""

    def run(*texts: str, module: str = "chain", clocks=("clk",), vdds_v=(1.0,), library: dict | None = None, **options):
        paths = []
        for number, text in enumerate(texts):
            paths.append(tmp_path / f"netlist{number}.v")
            paths[-1].write_text(text)
        technology = load_technology(write_technology(tmp_path, vdds_v=vdds_v, **(library or {})))
        corners = [corner.at_sram(1.0) for corner in technology.corners]
        arguments = {"netlists": paths, "module": module, "technology": technology, "corners": corners, "clocks": clocks, "cache": tmp_path / "cache"}
        return time_design(**{**arguments, "jobs": 2, **options})

    return run


def wire_ff(fanout: int) -> float:
    return WIRE_BASE_FF + WIRE_STEP_FF * fanout


def through(cells: list[tuple[str, float]], slew_ps: float = 0.0) -> float:
    """Delay in ps through `(cell, load in fF)` in turn; the first sees an edge of `slew_ps`."""
    delay_ps = 0.0
    for name, load_ff in cells:
        intrinsic_ps, kohm = (CLOCK_TO_Q_PS, CLOCK_TO_Q_KOHM) if name == "DFF" else GATES[name][3:]
        delay_ps += intrinsic_ps + kohm * load_ff + SLEW_SHARE * slew_ps
        slew_ps = 5.0 + 2.0 * kohm * load_ff
    return delay_ps


def pin_ff(cell: str, pin: str) -> float:
    return GATES[cell][2][pin]


# Loads of the nets of CHAIN: pins and the wire that their number makes.
N0, N1, N2, N3 = (
    pin_ff("INV", "A") + wire_ff(1),
    pin_ff("INV", "A") + pin_ff("NAND2", "A") + wire_ff(2),
    pin_ff("INV", "A") + wire_ff(1),
    DATA_PIN_FF + wire_ff(1),
)
OUT = OUTPUT_FF + wire_ff(1)


@pytest.mark.parametrize("vdd_v", [1.0, 0.8])
def test_each_class_of_path_is_what_a_hand_calculation_says(timing, vdd_v):
    (result,) = timing(CHAIN, vdds_v=(vdd_v,))
    clock = result["clk"]
    between = through([("DFF", N0), ("INV", N1), ("INV", N2), ("INV", N3)])
    assert clock.reg_to_reg.delay_s == pytest.approx((between + SETUP_PS) / vdd_v * 1e-12, rel=1e-4)
    assert (clock.reg_to_reg.start, clock.reg_to_reg.end) == ("first/Q", "second/D")
    assert clock.reg_to_output.delay_s == pytest.approx(through([("DFF", N0), ("INV", N1), ("NAND2", OUT)]) / vdd_v * 1e-12, rel=1e-4)
    assert (clock.reg_to_output.start, clock.reg_to_output.end) == ("first/Q", "y")
    assert clock.hold_slack_s == pytest.approx((between - HOLD_PS) / vdd_v * 1e-12, rel=1e-4)
    # An input is driven by a buffer, whose delay from a sharp edge is part of the path.
    to_flop, to_gate = DATA_PIN_FF + wire_ff(1), pin_ff("NAND2", "B") + wire_ff(1)
    intrinsic = GATES["BUF"][3]
    assert clock.input_to_reg.delay_s == pytest.approx((through([("BUF", to_flop)]) - intrinsic + SETUP_PS) / vdd_v * 1e-12, rel=1e-4)
    assert clock.input_to_output.delay_s == pytest.approx((through([("BUF", to_gate), ("NAND2", OUT)]) - intrinsic) / vdd_v * 1e-12, rel=1e-4)
    assert clock.input_to_output.start == "b"
    assert clock.min_period_s == clock.reg_to_reg.delay_s and clock.critical_path == clock.reg_to_reg


def test_corners_come_in_the_order_asked_for_and_scale_with_voltage(timing):
    results = timing(CHAIN, vdds_v=(1.0, 0.5, 0.8))
    assert [result.corner.vdd_v for result in results] == [1.0, 0.5, 0.8]
    periods_s = [result["clk"].min_period_s for result in results]
    assert [period_s / periods_s[0] for period_s in periods_s] == pytest.approx([1, 2, 1.25], rel=1e-4)


def test_a_default_wire_load_of_the_library_changes_nothing(timing):
    huge = 'default_wire_load : "huge";\nwire_load ("huge") { resistance : 0; capacitance : 1; area : 0; slope : 500; fanout_length (1, 500); }'
    assert timing(CHAIN, library={"extra": huge}) == timing(CHAIN)


HALVES = """
module left(clk, d, o); input clk, d; output o; wire clk, d, o, n;
  DFF f (.CK(clk), .D(d), .Q(n)); INV i (.A(n), .Y(o)); endmodule
module right(clk, i, q); input clk, i; output q; wire clk, i, q, n;
  INV g (.A(i), .Y(n)); DFF f (.CK(clk), .D(n), .Q(q)); endmodule
"""
TOP = """
module top(clk, d, q); input clk, d; output q; wire clk, d, q, m;
  left a (.clk(clk), .d(d), .o(m)); right b (.clk(clk), .i(m), .q(q)); endmodule
"""


def test_a_design_is_timed_through_its_hierarchy_and_blocks_compose(timing):
    (whole,) = timing(TOP, HALVES, module="top")
    loads = [pin_ff("INV", "A") + wire_ff(1)] * 2 + [DATA_PIN_FF + wire_ff(1)]
    expected_ps = through(list(zip(("DFF", "INV", "INV"), loads, strict=True))) + SETUP_PS
    assert whole["clk"].reg_to_reg.delay_s == pytest.approx(expected_ps * 1e-12, rel=1e-4)
    assert (whole["clk"].reg_to_reg.start, whole["clk"].reg_to_reg.end) == ("a/f/Q", "b/f/D")
    (left,), (right,) = timing(HALVES, module="left"), timing(HALVES, module="right")
    composed_s = boundary_delay_s(left["clk"], right["clk"])
    # The boundary is counted with an output's load and with an input's driver, so it is on the safe side.
    assert whole["clk"].reg_to_reg.delay_s < composed_s < 1.25 * whole["clk"].reg_to_reg.delay_s


GATED = """
module gated(clk, d, en, q); input clk, d, en; output q; wire clk, d, en, q, n, m, gclk;
  DFF e (.CK(clk), .D(en), .Q(n)); INV i (.A(n), .Y(m));
  ICG gate (.CK(clk), .EN(m), .GCK(gclk)); DFF f (.CK(gclk), .D(d), .Q(q)); endmodule
"""


def test_the_enable_of_a_clock_gate_is_an_end_and_flops_behind_it_are_clocked(timing):
    (result,) = timing(GATED, module="gated")
    loads = [pin_ff("INV", "A") + wire_ff(1), 0.9 + wire_ff(1)]
    assert result["clk"].reg_to_reg.delay_s == pytest.approx((through(list(zip(("DFF", "INV"), loads, strict=True))) + 20.0) * 1e-12, rel=1e-4)
    assert result["clk"].reg_to_reg.end == "gate/EN"
    assert result["clk"].reg_to_output.start == "f/Q"


CROSSING = """
module cross(core_clk, mem_clk, d, q); input core_clk, mem_clk, d; output q; wire core_clk, mem_clk, d, q, a, b, c, e;
  DFF c0 (.CK(core_clk), .D(d), .Q(a)); INV slow (.A(a), .Y(b)); DFF m0 (.CK(mem_clk), .D(b), .Q(c)); DFF m1 (.CK(mem_clk), .D(c), .Q(q));
endmodule
"""


def test_two_clocks_are_asynchronous_to_one_another(timing):
    (result,) = timing(CROSSING, module="cross", clocks=("core_clk", "mem_clk"))
    core, memory = result["core_clk"], result["mem_clk"]
    assert core.reg_to_reg is None and core.hold_slack_s is None and core.reg_to_output is None
    assert core.input_to_reg.end == "c0/D" and memory.input_to_reg is None
    assert memory.reg_to_reg.delay_s == pytest.approx((through([("DFF", DATA_PIN_FF + wire_ff(1))]) + SETUP_PS) * 1e-12, rel=1e-4)
    assert (memory.reg_to_reg.start, memory.reg_to_output.end) == ("m0/Q", "q")


def test_ends_that_no_path_reaches_are_counted(timing):
    (result,) = timing(CHAIN)
    assert result.untimed_endpoints == 0
    (tied,) = timing(CHAIN.replace("INV i2 (.A(n2), .Y(n3))", "TIEHI t (.Y(n3))"))
    assert tied.untimed_endpoints == 1 and tied["clk"].reg_to_reg is None


def test_logic_without_flops_has_only_one_class(timing):
    (result,) = timing("module gate(a, clk, y); input a, clk; output y; INV i (.A(a), .Y(y)); endmodule", module="gate")
    assert result["clk"].reg_to_reg is None and result["clk"].min_period_s == result["clk"].input_to_output.delay_s > 0


REFUSED = {
    "an undefined instance": (CHAIN.replace("INV i0", "INVERTER i0"), {}, "INVERTER not found"),
    "a clock that is no port": (CHAIN, {"clocks": ("clock",)}, "port .*clock.* not found"),
    "a register without a clock": (CHAIN.replace("second (.CK(clk)", "second (.CK(b)"), {}, "1 unclocked register"),
    "a combinational loop": (CHAIN.replace(".A(n0)", ".A(n2)"), {}, "combinational loop"),
    "broken Verilog": (CHAIN.replace("endmodule", ""), {}, "syntax error"),
    "a module that is not there": (CHAIN, {"module": "train"}, "train"),
    "a hang": (CHAIN, {"timeout_s": 0.01}, "must finish within 0.01 s"),
    "a library without delays": (CHAIN, {"library": {"delay_model": ""}}, "module chain must have a timed path, not none"),
    "half a period": (
        CHAIN.replace("DFF second (.CK(clk)", "INV c (.A(clk), .Y(nclk)); DFF second (.CK(nclk)"),
        {},
        "paths of chain must take whole clock periods",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_opensta_would_pass_over_is_refused(timing, case):
    text, options, message = REFUSED[case]
    with pytest.raises(ToolError, match=message) as caught:
        timing(text, **options)
    assert "\n" not in str(caught.value)


def test_clocks_must_be_named_and_different(timing):
    for clocks in ((), ("clk", "clk")):
        with pytest.raises(ConfigError, match="clocks must be different ports, at least one"):
            timing(CHAIN, clocks=clocks)


MACRO = """
library (memory) {{ delay_model : table_lookup; time_unit : "1ps"; voltage_unit : "1V"; current_unit : "1uA"; 
  pulling_resistance_unit : "1kohm"; leakage_power_unit : "1nW";
  capacitive_load_unit (1, ff); nom_process : 1; nom_voltage : {vdd_v}; nom_temperature : 25;
  input_threshold_pct_rise : 50; input_threshold_pct_fall : 50; output_threshold_pct_rise : 50; output_threshold_pct_fall : 50;
  slew_lower_threshold_pct_rise : 20; slew_lower_threshold_pct_fall : 20; slew_upper_threshold_pct_rise : 80; slew_upper_threshold_pct_fall : 80;
  cell (RAM) {{ area : 100; is_macro_cell : true;
    pin (CK) {{ direction : input; clock : true; capacitance : 3; }}
    pin (A) {{ direction : input; capacitance : 2; timing () {{ related_pin : "CK"; timing_type : setup_rising;
      rise_constraint (scalar) {{ values ("50"); }} fall_constraint (scalar) {{ values ("50"); }} }} }}
    pin (Q) {{ direction : output; timing () {{ related_pin : "CK"; timing_type : rising_edge; timing_sense : non_unate;
      cell_rise (scalar) {{ values ("400"); }} cell_fall (scalar) {{ values ("400"); }}
      rise_transition (scalar) {{ values ("20"); }} fall_transition (scalar) {{ values ("20"); }} }} }} }} }}
"""
WITH_MACRO = """
module top(clk, d, q); input clk, d; output q; wire clk, d, q, n, m;
  DFF f (.CK(clk), .D(d), .Q(n)); RAM ram (.CK(clk), .A(n), .Q(m)); DFF g (.CK(clk), .D(m), .Q(q)); endmodule
"""


def test_a_macro_brings_its_own_liberty_at_its_own_voltage(timing, tmp_path):
    macro, other = tmp_path / "ram.lib", tmp_path / "ram_low.lib"
    macro.write_text(MACRO.format(vdd_v=1.0))
    other.write_text(MACRO.format(vdd_v=0.7))
    corner = Corner(process="tt", vdd_v=0.5, temperature_c=25.0, back_bias_v=0.0, sram_vdd_v=1.0)
    (result,) = timing(WITH_MACRO, module="top", vdds_v=(0.5,), macro_liberty={corner: [macro]})
    path = result["clk"].reg_to_reg
    assert (path.start, path.end) == ("ram/Q", "g/D") and path.delay_s == pytest.approx((400 + 2 * SETUP_PS) * 1e-12, rel=1e-4)
    with pytest.raises(ConfigError, match=r"voltage of a Liberty file must be the 1 V that its corner declares, not 0\.7 V \(.*ram_low\.lib\)"):
        timing(WITH_MACRO, module="top", vdds_v=(0.5,), macro_liberty={corner: [other]})
    with pytest.raises(ToolError, match="RAM not found"):
        timing(WITH_MACRO, module="top", vdds_v=(0.5,))


MULTIPLY = """module multiply(input clk, input [7:0] a, b, output reg [15:0] p);
  reg [7:0] x, y; always @(posedge clk) begin x <= a; y <= b; p <= x * y; end endmodule"""


def test_gates_are_sized_for_the_target_period_and_recipes_trade_area_for_speed(tmp_path):
    (tmp_path / "multiply.v").write_text(MULTIPLY)
    technology = load_technology("fdsoi28p")
    corner = technology.nominal_corner()
    measured = {}
    speed = RECIPES["speed"]
    cases = (("fast", speed, None), ("relaxed", speed, 2e-9), ("unsized", replace(speed, fastest=False), None), ("small", RECIPES["area"], None))
    for name, recipe, period_s in cases:
        netlist = synthesize(
            verilog=[tmp_path / "multiply.v"],
            module="multiply",
            clocks=["clk"],
            technology=technology,
            corner=corner,
            recipe=recipe,
            period_s=period_s,
            cache=tmp_path / "cache",
        )
        (timing,) = time_design(
            netlists=[netlist.netlist], module="multiply", technology=technology, corners=[corner], clocks=["clk"], cache=tmp_path / "cache"
        )
        measured[name] = (netlist.area_um2, timing["clk"].reg_to_reg.delay_s)
    assert measured["small"][0] < measured["relaxed"][0] < measured["fast"][0]
    assert measured["fast"][1] < measured["relaxed"][1] < 2e-9 and measured["fast"][1] < measured["small"][1]
    assert measured["fast"][1] < measured["unsized"][1] and measured["unsized"][0] < measured["fast"][0]


@pytest.mark.skipif(not PDK.is_dir(), reason="open PDK data is not here")
def test_an_open_pdk_slows_down_with_its_supply(tmp_path):
    text = write_technology(tmp_path).read_text().split("corners:")[0].replace("INV", "sg13g2_inv_1").replace("BUF", "sg13g2_buf_2") + "corners:\n"
    for vdd_v, name in ((1.35, "1p35V"), (1.08, "1p08V")):
        text += f"  - {{process: slow, vdd_v: {vdd_v}, temperature_c: 125, liberty: [{PDK}/sg13g2_stdcell/sg13g2_stdcell_slow_{name}_125C.lib.gz]}}\n"
    (tmp_path / "sg13g2.yaml").write_text(text)
    technology = load_technology(tmp_path / "sg13g2.yaml")
    names = [f"n{i}" for i in range(13)]
    cells = "".join(f"sg13g2_inv_1 i{i} (.A({one}), .Y({two}));\n" for i, (one, two) in enumerate(zip(names, names[1:], strict=False)))
    flops = "".join(f"sg13g2_dfrbpq_1 f{i} (.CLK(clk), .RESET_B(r), .D({d}), .Q({q}));\n" for i, (d, q) in enumerate((("d", "n0"), ("n12", "q"))))
    (tmp_path / "chain.v").write_text(f"module chain(clk, r, d, q); input clk, r, d; output q; wire {', '.join(names)};\n{cells}{flops}endmodule\n")
    results = time_design(
        netlists=[tmp_path / "chain.v"],
        module="chain",
        technology=technology,
        corners=[known.at_sram(1.2) for known in technology.corners],
        clocks=["clk"],
        jobs=2,
        cache=tmp_path / "cache",
    )
    fast_s, slow_s = (result["clk"].reg_to_reg.delay_s for result in results)
    # Published beside the data for flop, six NAND2 and INV pairs, flop, without wires: 0.84 and 1.36 ns.
    assert 0.3e-9 < fast_s < 1.2e-9 and slow_s / fast_s == pytest.approx(1.359 / 0.838, rel=0.1)


# Two registers a, b and one c: a -> c through one inverter, b -> c through three, c -> a straight.
GROUPS = """
module cell_a(clk, d, q); input clk, d; output q; wire clk, d, q; DFF held (.CK(clk), .D(d), .Q(q)); endmodule
module grouped(clk, y);
  input clk; output y; wire clk, y, a, b, c, n0, n1, n2, n3;
  cell_a one (.clk(clk), .d(c), .q(a));
  DFF two (.CK(clk), .D(c), .Q(b));
  INV i0 (.A(b), .Y(n0));
  INV i1 (.A(n0), .Y(n1));
  INV i2 (.A(n1), .Y(n2));
  NAND2 g (.A(n2), .B(n3), .Y(y));
  INV i3 (.A(a), .Y(n3));
  DFF three (.CK(clk), .D(y), .Q(c));
endmodule
"""


def test_slowest_path_between_any_two_groups(timing):
    (result,) = timing(GROUPS, module="grouped", groups=(("one/*", "first"), ("two/*", "second")))
    found = {(g.start_group, g.end_group): g.path for g in result.groups}
    assert set(found) == {("first", "glue"), ("second", "glue"), ("glue", "first"), ("glue", "second")}
    assert found["second", "glue"].delay_s == pytest.approx(result["clk"].reg_to_reg.delay_s)
    assert found["first", "glue"].delay_s < found["second", "glue"].delay_s
    assert (found["first", "glue"].start, found["first", "glue"].end) == ("one/held/Q", "three/D")
    # Straight from register to register: clock to output with two sinks, and setup.
    load_ff = 2 * DATA_PIN_FF + wire_ff(2)
    assert found["glue", "first"].delay_s == pytest.approx((CLOCK_TO_Q_PS + CLOCK_TO_Q_KOHM * load_ff + SETUP_PS) * 1e-12, rel=1e-3)


def test_registers_of_a_bus_are_in_one_group(timing):
    bus = GROUPS.replace("cell_a one", "cell_a \\bank[3]_reg ")
    (result,) = timing(bus, module="grouped", groups=(("bank*", "banks"),))
    assert {(g.start_group, g.end_group) for g in result.groups} == {("banks", "glue"), ("glue", "banks"), ("glue", "glue")}
