"""Synthesis: the netlist computes what the Verilog says, and what a designer would reject is refused."""

import json
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from small_library import GATES, write_technology

from flow.synth import RECIPES, SynthResult, synthesize
from flow.tech import load_technology
from flow.verilog import module_source
from hw.errors import ConfigError, ToolError

PDK = Path(__file__).parents[3] / "shared" / "pdk"

MAC = """
// Four signed 8x8 multipliers and an accumulator; the operands are registered.
module mac(input clk, input en, input clear, input [31:0] a, input [31:0] b, output signed [31:0] q, output idle);
  reg signed [31:0] acc = 5;
  reg signed [7:0] x0, x1, x2, x3, y0, y1, y2, y3;
  wire signed [31:0] sum = x0 * y0 + x1 * y1 + x2 * y2 + x3 * y3;
  always @(posedge clk) if (en) begin
    {x3, x2, x1, x0} <= a;
    {y3, y2, y1, y0} <= b;
    acc <= clear ? sum : acc + sum;
  end
  assign q = acc;
  assign idle = ~en;
endmodule
"""

# As Amaranth writes it: a synchronous reset that dominates the enable, and initial values.
COUNTER = """
module counter(clk, rst, en, o);
  input clk; input rst; input en; output [7:0] o;
  wire [7:0] o;
  reg [7:0] count = 8'h00;
  reg [7:0] \\$next ;
  always @(posedge clk) count <= \\$next ;
  always @* begin
    \\$next = count;
    if (en) \\$next = count + 1'h1;
    if (rst) \\$next = 8'h00;
  end
  assign o = count;
endmodule
"""


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def build(tmp_path, shared_cache):
    """A function that synthesizes Verilog text with the small library."""

    def run(text: str, module: str, *, library: dict | None = None, **options) -> SynthResult:
        source = tmp_path / "design.v"
        source.write_text(text)
        technology = load_technology(write_technology(tmp_path, **(library or {})))
        return synthesize(
            **{
                "verilog": [source],
                "module": module,
                "clocks": ["clk"] if "clk" in text else [],
                "technology": technology,
                "corner": technology.nominal_corner(),
                "cache": shared_cache,
                **options,
            }
        )

    return run


class Simulation:
    """A mapped netlist of the small library, evaluated cell by cell with the functions written out here again."""

    FUNCTIONS = {
        "INV": lambda a: not a,
        "BUF": lambda a: a,
        "NAND2": lambda a, b: not (a and b),
        "NOR2": lambda a, b: not (a or b),
        "XOR2": lambda a, b: a != b,
        "AOI21": lambda a, b, c: not ((a and b) or c),
        "TIEHI": lambda: True,
        "TIELO": lambda: False,
    }

    def __init__(self, result: SynthResult):
        module = json.loads(result.netlist_json.read_text())["modules"][result.module]
        self.ports = module["ports"]
        self.cells = [(cell["type"], {pin: bits[0] for pin, bits in cell["connections"].items()}) for cell in module["cells"].values()]
        self.driver = {pins["Y"]: (kind, pins) for kind, pins in self.cells if "Y" in pins}
        self.gates = {pins["GCK"]: pins for kind, pins in self.cells if kind == "ICG"}
        self.state = {pins["Q"]: random.Random(pins["Q"]).random() < 0.5 for kind, pins in self.cells if kind == "DFF"}
        self.values: dict[int, bool] = {}

    def set(self, **inputs: int) -> None:
        self.values = {self.ports[name]["bits"][i]: bool(value >> i & 1) for name, value in inputs.items() for i in range(len(self.ports[name]["bits"]))}
        self.values |= self.state

    def value(self, net: int) -> bool:
        if net not in self.values:
            kind, pins = self.driver[net]
            self.values[net] = bool(self.FUNCTIONS[kind](*(self.value(pins[pin]) for pin in "ABC" if pin in pins)))
        return self.values[net]

    def get(self, port: str) -> int:
        return sum(self.value(net) << i for i, net in enumerate(self.ports[port]["bits"]))

    def rise(self) -> None:
        """One rising edge of the clock: every flop whose clock gate, if it has one, is enabled takes its input."""
        flops = [pins for kind, pins in self.cells if kind == "DFF"]
        enabled = [pins for pins in flops if pins["CK"] not in self.gates or self.value(self.gates[pins["CK"]]["EN"])]
        self.state |= {pins["Q"]: self.value(pins["D"]) for pins in enabled}


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("clock_gating", [True, False])
def test_the_netlist_multiplies_and_accumulates(build, recipe, clock_gating):
    result = build(MAC, "mac", recipe=RECIPES[recipe], clock_gating=clock_gating)
    assert result.gated_fraction == (1.0 if clock_gating else 0.0) and result.flops == 96
    assert result.cell_counts.get("ICG", 0) == (1 if clock_gating else 0)
    simulation, rng = Simulation(result), random.Random(1)
    operands, accumulator = None, None
    for cycle in range(40):
        a, b = (rng.choice([0, 0x80808080, 0x7F7F7F7F, 0xFFFFFFFF, rng.getrandbits(32)]) for _ in range(2))
        clear, enable = int(cycle < 4 or rng.random() < 0.2), int(cycle < 4 or rng.random() < 0.7)
        simulation.set(en=enable, clear=clear, a=a, b=b, clk=0)
        assert simulation.get("idle") == 1 - enable
        if accumulator is not None:
            assert simulation.get("q") == accumulator & 0xFFFFFFFF
        simulation.rise()
        if enable:
            if operands is not None:
                total = sum(signed(operands[0] >> 8 * i, 8) * signed(operands[1] >> 8 * i, 8) for i in range(4))
                accumulator = total if clear else accumulator + total
            operands = (a, b)


def test_area_is_that_of_the_cells_and_recipes_differ(build):
    results = {name: build(MAC, "mac", recipe=recipe) for name, recipe in RECIPES.items()}
    areas = {name: GATES[name][0] for name in GATES} | {"DFF": 6.0, "ICG": 5.0, "TIEHI": 0.5, "TIELO": 0.5}
    for name, result in results.items():
        assert result.area_um2 == pytest.approx(sum(areas[cell] * count for cell, count in result.cell_counts.items()))
        assert result.area_nand2 == pytest.approx(result.area_um2 / 1.5) and result.recipe == name
    assert results["area"].area_um2 < results["balanced"].area_um2 < results["speed"].area_um2


def test_a_flop_with_reset_over_enable_is_gated_and_works(build):
    result = build(COUNTER, "counter")
    assert result.flops == 8 and result.gated_fraction == 1.0
    simulation, rng, count = Simulation(result), random.Random(2), None
    for cycle in range(60):
        reset, enable = int(cycle == 0 or rng.random() < 0.1), int(rng.random() < 0.6)
        simulation.set(clk=0, rst=reset, en=enable)
        if count is not None:
            assert simulation.get("o") == count
        simulation.rise()
        count = 0 if reset else ((count or 0) + enable) & 255


AMARANTH = """
from amaranth.hdl import Module, Signal
from amaranth.back import rtlil
from amaranth.lib.wiring import Component, In, Out
from pyosys import libyosys as ys

class Adder(Component):
    data: In(8)
    valid: In(1)
    total: Out(16, init=7)

    def elaborate(self, platform):
        m = Module()
        head = Signal(8, reset_less=True)
        with m.If(self.valid):
            m.d.sync += [self.total.eq(self.total + head), head.eq(self.data)]
        return m

open("design.il", "w").write(rtlil.convert(Adder(), name="adder", emit_src=False))
design = ys.Design()
for command in ("read_rtlil design.il", "proc", "write_verilog -noattr design.v"):
    ys.run_pass(command, design)
"""


def test_what_amaranth_emits_is_mapped_and_gated(build, tmp_path):
    subprocess.run([sys.executable, "-c", AMARANTH], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    text = (tmp_path / "design.v").read_text()
    assert "initial" in text or "= 16'h0007" in text
    result = build(text, "adder")
    assert result.flops == 24 and result.gated_fraction == 1.0
    simulation, rng = Simulation(result), random.Random(3)
    total = head = 0
    for cycle in range(40):
        data, valid, reset = rng.getrandbits(8), int(rng.random() < 0.7), int(cycle == 1)
        simulation.set(clk=0, rst=reset, data=data, valid=1 if cycle == 0 else valid)
        if cycle > 1:
            assert simulation.get("total") == total
        simulation.rise()
        if cycle == 0:
            head = data
        elif reset:
            total, head = 7, data if valid else head
        elif valid:
            total, head = (total + head) & 0xFFFF, data


def test_both_netlists_are_clean_and_use_the_same_names(build):
    result = build(MAC, "mac")
    text = result.netlist.read_text()
    assert "signed" not in text and "assign" not in text and not re.search(r"[01]'[hbd]", text)
    cells = json.loads(result.netlist_json.read_text())["modules"]["mac"]["cells"]
    names = set(re.findall(r"^  [A-Z]\w+ \\?(\S+) +\($", text, re.MULTILINE))
    assert names == set(cells) and "acc[31]_reg" in names


def test_aliases_and_constants_become_cells(build):
    text = "module m(input a, input b, output x, output y, output p, output q, output one); assign x = a; assign y = a;"
    result = build(text + " assign p = a & b; assign q = p; assign one = 1'b1; endmodule", "m")
    assert "assign" not in result.netlist.read_text() and result.cell_counts["TIEHI"] == 1
    simulation = Simulation(result)
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        simulation.set(a=a, b=b)
        assert [simulation.get(port) for port in ("x", "y", "p", "q", "one")] == [a, a, a & b, a & b, 1]


# The register r drives logic, which ABC sees; the data d goes straight to the flops of 20 gated words, which it does not.
FANOUT = """module m(input clk, input s, input [99:0] a, input [3:0] d, input [19:0] e, output reg [99:0] y, output reg [79:0] z, output r0);
  reg r; always @(posedge clk) begin r <= s; y <= a & {100{r}}; end assign r0 = r;
  genvar i; generate for (i = 0; i < 20; i = i + 1) always @(posedge clk) if (e[i]) z[4*i+:4] <= d; endgenerate endmodule"""


@pytest.mark.parametrize("limit", [4, 16])
def test_no_net_but_a_clock_has_more_sinks_than_allowed(build, limit):
    result = build(FANOUT, "m", recipe=replace(RECIPES["area"], max_fanout=limit))
    module = json.loads(result.netlist_json.read_text())["modules"]["m"]
    pins = [(pin, bits[0]) for cell in module["cells"].values() for pin, bits in cell["connections"].items() if pin not in ("Y", "Q", "GCK")]
    sinks = Counter(net for pin, net in pins if pin != "CK") + Counter(bit for port in ("y", "z", "r0") for bit in module["ports"][port]["bits"])
    assert 2 <= max(sinks.values()) == result.max_fanout <= limit
    clock = module["ports"]["clk"]["bits"][0]
    assert sum(net == clock for pin, net in pins if pin == "CK") == 101 + 20 and result.flops == 181
    simulation, rng = Simulation(result), random.Random(4)
    words: list[int | None] = [None] * 20
    for cycle in range(12):
        inputs = {"clk": 0, "s": rng.getrandbits(1), "a": rng.getrandbits(100), "d": rng.getrandbits(4), "e": rng.getrandbits(20)}
        simulation.set(**inputs)
        r = simulation.get("r0")
        simulation.rise()
        simulation.set(**inputs)
        assert simulation.get("y") == inputs["a"] * r and simulation.get("r0") == inputs["s"]
        words = [inputs["d"] if inputs["e"] >> i & 1 else word for i, word in enumerate(words)]
        z = simulation.get("z")
        assert all(word is None or z >> 4 * i & 15 == word for i, word in enumerate(words)), cycle


def test_a_clock_of_black_boxes_is_not_buffered(build):
    text = "module b(input c, input d, output q); endmodule module m(input clk, input x, output [39:0] q);"
    text += " ".join(f"b b{i}(.c(clk), .d(x), .q(q[{i}]));" for i in range(40)) + " endmodule"
    result = build(text, "m", black_boxes=["b"])
    assert result.cell_counts == {"BUF": 3} and result.max_fanout <= 16
    assert build(text, "m", black_boxes=["b"], clocks=[]).cell_counts == {"BUF": 6}
    with pytest.raises(ConfigError, match="clock must be an input of module m, not 'clock'"):
        build(text, "m", black_boxes=["b"], clocks=["clock"])


def test_an_input_of_a_black_box_counts_for_the_sinks_behind_it(build):
    text = "module b(input c, input d, output q); endmodule module m(input clk, input x, output [39:0] q);"
    text += " ".join(f"b b{i}(.c(clk), .d(x), .q(q[{i}]));" for i in range(40)) + " endmodule"
    result = build(text, "m", black_boxes=["b"], box_fanout={"b": {"d": 8}})
    cells = json.loads(result.netlist_json.read_text())["modules"]["m"]["cells"]
    nets = Counter(cell["connections"]["d"][0] for cell in cells.values() if cell["type"] == "b")
    # Two boxes of 8 sinks a buffer, twenty buffers under two more.
    assert set(nets.values()) == {2} and len(nets) == 20 and result.cell_counts == {"BUF": 22}
    child = build("module c(input clk, input a, input b, output [2:0] y); assign y = {a ^ b, a & b, a}; endmodule", "c")
    assert child.input_fanout["a"] >= 2 and set(child.input_fanout) == {"a", "b"}


def test_cells_that_must_not_be_used_are_not(build):
    assert "XOR2" in build(MAC, "mac").cell_counts
    assert "XOR2" not in build(MAC, "mac", library={"dont_use": "'X*'"}).cell_counts


HIERARCHY = """
module child #(parameter W = 4) (input clk, input [W-1:0] d, output [W-1:0] q);
  reg [W-1:0] q; /* a comment; with endmodule in it */
  always @(posedge clk) q <= BODY;
endmodule
module wrapper(input clk, input [3:0] d, output [3:0] q);
  child c(.clk(clk), .d(d), .q(q));
endmodule
module top(input clk, input [3:0] d, output [3:0] q);
  wire [3:0] m;
  wrapper w0(.clk(clk), .d(d), .q(m));
  wrapper w1(.clk(clk), .d(~m), .q(q));
endmodule
module unused(input a, output y); assign y = a; endmodule
"""


def test_black_boxes_stay_and_everything_else_is_flattened(build):
    text = HIERARCHY.replace("BODY", "d")
    flat, boxed = build(text, "top"), build(text, "top", black_boxes=["wrapper"])
    assert flat.flops == 8 and flat.black_box_counts == {}
    assert boxed.flops == 0 and boxed.black_box_counts == {"wrapper": 2} and boxed.cell_counts == {"INV": 4}
    assert "module wrapper" not in boxed.netlist.read_text() and "wrapper w0" in boxed.netlist.read_text()


def test_only_the_modules_that_take_part_are_synthesized_again(build, tmp_path):
    one, other = HIERARCHY.replace("BODY", "d"), HIERARCHY.replace("BODY", "d + 1").replace("y = a", "y = ~a")
    first = build(one, "top", black_boxes=["wrapper"])
    assert build(other, "top", black_boxes=["wrapper"]).netlist == first.netlist
    assert build(other, "wrapper").netlist != build(one, "wrapper").netlist
    (tmp_path / "design.v").write_text(one)
    assert "child" not in (source := module_source([tmp_path / "design.v"], "top", ["wrapper"])) and "unused" not in source


REFUSED = {
    "a latch": ("module m(input g, input [1:0] d, output reg [1:0] q); always @* if (g) q = d; endmodule", {}, "must have no latches, not one for m.q"),
    "an undriven wire": ("module m(input a, output y); wire u; assign y = a ^ u; endmodule", {}, "1 problem.*Wire m.u is used but has no driver"),
    "two drivers": ("module m(input a, input b, output y); assign y = a; assign y = b; endmodule", {}, "multiple conflicting drivers for m.[aby]:"),
    "a loop": ("module m(input a, output y); assign y = ~(y & a); endmodule", {}, "found logic loop in module m"),
    "an open input of a black box": (
        "module b(input i, output o); assign o = i; endmodule module m(output y); b x(.o(y)); endmodule",
        {"black_boxes": ["b"]},
        "input i of x must be connected, not open",
    ),
    "a memory that is never written": (
        "module m(input [1:0] a, output [3:0] y); reg [3:0] rom [0:3]; initial rom[1] = 7; assign y = rom[a]; endmodule",
        {},
        "memory rom of module m must be written in operation",
    ),
    "a missing flop": (COUNTER.replace("counter", "m"), {"library": {"without": ("DFF",)}}, "D flip-flops are not supported"),
    "enables that are not gated": (
        "module m(input clk, input en, input [7:0] d, output reg [7:0] q); always @(negedge clk) if (en) q <= d; endmodule",
        {},
        "must have flops behind clock gates, not none, as 8 share an enable",
    ),
    "a hang": (MAC.replace("mac", "m"), {"timeout_s": 0.05}, r"yosys_synth: python\S* must finish within 0.05 s"),
    "broken Verilog": ("module m(input a, output y); assign y = ; endmodule", {}, "yosys_synth: .* must exit with 0, not 1.*syntax error"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_netlist_nobody_would_accept_is_refused(build, case):
    text, options, message = REFUSED[case]
    with pytest.raises(ToolError, match=message) as caught:
        build(text, "m", **options)
    assert "\n" not in str(caught.value)


def test_few_flops_with_an_enable_are_left_ungated(build):
    result = build("module m(input clk, input en, input [2:0] d, output reg [2:0] q); always @(posedge clk) if (en) q <= d; endmodule", "m")
    assert result.gated_fraction == 0.0 and result.flops == 3


def test_a_small_memory_loses_its_initial_contents(build):
    text = """module m(input clk, input we, input [1:0] wa, ra, input [3:0] d, output reg [3:0] q);
      reg [3:0] mem [0:3]; integer i; initial for (i = 0; i < 4; i = i + 1) mem[i] = i;
      always @(posedge clk) begin if (we) mem[wa] <= d; q <= mem[ra]; end endmodule"""
    result = build(text, "m")
    assert result.flops == 20 and result.gated_fraction == pytest.approx(16 / 20)
    # A memory that only ever stores zeros needs flops for its initial contents alone.
    assert build(text.replace("<= d;", "<= 0;"), "m").flops == 0


def test_initial_values_decide_nothing(build):
    # With its initial value this flop would have to show 1 once.
    result = build("module m(input clk, output reg q); initial q = 1; always @(posedge clk) q <= 0; endmodule", "m")
    assert result.flops == 0 and result.cell_counts["TIELO"] == 1


def test_a_table_written_as_a_case_keeps_its_contents(build):
    table = [random.Random(5).getrandbits(8) for _ in range(32)]
    cases = " ".join(f"{i}: y = {value};" for i, value in enumerate(table))
    result = build(f"module m(input [4:0] a, output reg [7:0] y); always @* case (a) {cases} endcase endmodule", "m")
    simulation = Simulation(result)
    for address, value in enumerate(table):
        simulation.set(a=address)
        assert simulation.get("y") == value


def test_bits_that_only_keep_themselves_disappear(build):
    # Bits 0 and 1 are never loaded and nobody reads them, under either of their names.
    text = """module m(input clk, input [15:0] d, input load, input go, output reg [13:0] y);
      reg [15:0] address; wire [16:0] next = address + 16'h80; wire [15:0] kept = go ? next[15:0] : address;
      always @(posedge clk) begin
        if (load) address[15:2] <= d[15:2]; else address <= kept;
        if (go) y <= address[15:2];
      end endmodule"""
    assert build(text, "m").flops == 28


@pytest.mark.parametrize(
    ("texts", "module", "message"),
    [
        (["module m(input a); endmodule"], "n", "module must be one of those in .*, not 'n'"),
        (["module m(input a); endmodule", "module m(input b); endmodule"], "m", "module m must be defined once, not again in"),
        ([], "m", "Verilog file must be readable text, not .*absent.v"),
    ],
)
def test_sources_that_do_not_hold_the_module_are_the_users_error(tmp_path, texts, module, message):
    paths = [tmp_path / f"{i}.v" for i in range(len(texts))] or [tmp_path / "absent.v"]
    for path, text in zip(paths, texts, strict=False):
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        module_source(paths, module)


def test_a_role_that_no_cell_has_is_the_users_error(build):
    with pytest.raises(ConfigError, match="cells.clock_gate must be a cell of the technology's library, not 'ICG'"):
        build(COUNTER, "counter", library={"without": ("ICG",)})


SG13G2 = """
name: sg13g2
description: open 130 nm
predictive: false
nominal_vdd_v: 1.2
cells: {inverter: sg13g2_inv_1, buffer: sg13g2_buf_2, nand2: sg13g2_nand2_1, tie_high: sg13g2_tiehi, tie_low: sg13g2_tielo, clock_gate: sg13g2_lgcp_1}
wire: {capacitance_per_um_f: 0.15e-15, length_base_um: 10.0, length_per_fanout_um: 12.0, source: guess for a test}
dont_use: ["*_dlh*", "*_dll*", "*_sdf*", "*_sighold", "*_dlygate*"]
corners: [{process: typ, vdd_v: 1.2, temperature_c: 25, liberty: [FILE]}]
sources: [IHP open PDK]
"""


@pytest.mark.skipif(not PDK.is_dir(), reason="open PDK data is not here")
def test_a_multiply_accumulate_maps_compactly_to_an_open_pdk(tmp_path):
    file = PDK / "sg13g2_stdcell" / "sg13g2_stdcell_typ_1p20V_25C.lib.gz"
    (tmp_path / "sg13g2.yaml").write_text(SG13G2.replace("FILE", str(file)))
    (tmp_path / "mac.v").write_text(MAC)
    technology = load_technology(tmp_path / "sg13g2.yaml")
    result = synthesize(
        verilog=[tmp_path / "mac.v"],
        module="mac",
        clocks=["clk"],
        technology=technology,
        corner=technology.nominal_corner(),
        recipe=RECIPES["area"],
        cache=tmp_path / "cache",
    )
    assert result.gated_fraction == 1.0 and result.flops == 96
    # Four multipliers with their adder tree, 96 flops and the clock gate.
    assert 2000 < result.area_nand2 < 3400
    assert not any(re.search("_dl|sdf", cell) for cell in result.cell_counts)
