"""A small Liberty library of our own for tests, in any units, and what its tables hold as plain functions.

The numbers are invented; they bend with slew and load so that an interpolation error shows.
"""

import subprocess
import sys
from pathlib import Path

SLEWS_NS = (0.01, 0.04, 0.16, 0.64)
LOADS_PF = (0.0005, 0.002, 0.01, 0.05)
VDD_V = 0.9
# Capacitance of an input against a rising and a falling edge, as multiples of its mean.
RISE_CAP, FALL_CAP = 1.05, 0.95

# name: (inputs, {output: function}, input capacitance pF)
GATES = {
    "INV": ("A", {"Y": "!A"}, 0.0010),
    "BUF": ("A", {"Y": "A"}, 0.0011),
    "NAND2": ("A B", {"Y": "!(A & B)"}, 0.0012),
    "NOR2": ("A B", {"Y": "!(A | B)"}, 0.0013),
    "AND2": ("A B", {"Y": "A * B"}, 0.0012),
    "OR2": ("A B", {"Y": "A + B"}, 0.0012),
    "XOR2": ("A B", {"Y": "A ^ B"}, 0.0021),
    "MUX2": ("A B S", {"Y": "(A & S') | (B & S)"}, 0.0015),
    "FA": ("A B C", {"CO": "(A B) | (C (A | B))", "S": "A ^ B ^ C"}, 0.0025),
}


def transition_ns(cell: str, pin: str, rise: bool, slew_ns: float, load_pf: float) -> float:
    """Output transition of an arc, in nanoseconds."""
    k = 1 + 0.1 * (sum(map(ord, cell + pin)) % 7) + 0.15 * rise
    return 0.012 * k + 0.9 * k * load_pf + 0.12 * slew_ns + 2.0 * (slew_ns * load_pf)


def energy_pj(cell: str, pin: str, rise: bool, slew_ns: float, load_pf: float, when: str = "") -> float:
    """Internal energy of an edge, in picojoules (pF V^2)."""
    k = 1 + 0.1 * (sum(map(ord, cell + pin + when)) % 11)
    return (0.0012 if rise else 0.0009) * k * (1 + slew_ns + 3 * slew_ns * slew_ns) * (1 + 0.2 * load_pf / (load_pf + 0.01))


def pin_energy_pj(cell: str, pin: str, rise: bool, slew_ns: float, when: str = "") -> float:
    """Internal energy of an edge at an input pin, in picojoules."""
    return 0.3 * energy_pj(cell, pin, rise, slew_ns, 0.0, when)


def leakage_nw(cell: str, state: str) -> float:
    """Leakage in a state given as the Liberty condition."""
    return 0.02 + 0.01 * (sum(map(ord, cell + state)) % 13)


class _Units:
    """Liberty in nanoseconds, picofarads and nanowatts, or in picoseconds, femtofarads and picowatts."""

    def __init__(self, pico: bool):
        self.time, self.cap, self.power = (1e3, 1e3, 1e3) if pico else (1.0, 1.0, 1.0)
        self.energy = self.cap
        self.lines = [
            f'time_unit : "1{"ps" if pico else "ns"}"; leakage_power_unit : "1{"pW" if pico else "nW"}"; voltage_unit : "1V"; current_unit : "1mA";',
            f"capacitive_load_unit (1, {'ff' if pico else 'pf'}); pulling_resistance_unit : \"1kohm\";",
        ]

    def axis(self, values, scale: float) -> str:
        return '"' + ", ".join(f"{v * scale:.15g}" for v in values) + '"'

    def table(self, kind: str, template: str, value, scale: float) -> str:
        if template == "slew":
            body = self.axis([value(s, 0.0) for s in SLEWS_NS], scale)
        else:
            body = ", ".join(self.axis([value(s, c) for c in LOADS_PF], scale) for s in SLEWS_NS)
        return f"{kind} ({template}) {{ values ({body}); }}"


def _states(pins: list[str]) -> list[str]:
    states = [""]
    for pin in pins:
        states = [f"{s}{'&' if s else ''}{n}{pin}" for s in states for n in ("!", "")]
    return states


def _arcs(u: _Units, cell: str, pin: str, kind: str, sense: str, whens: tuple[str, ...] = ("",)) -> str:
    def slew(rise):
        return lambda s, c: transition_ns(cell, pin, rise, s, c)

    def energy(rise, when):
        return lambda s, c: energy_pj(cell, pin, rise, s, c, when)

    timing = "".join(
        u.table(f"cell_{e}", "both", slew(r), u.time) + u.table(f"{e}_transition", "both", slew(r), u.time) for e, r in (("rise", True), ("fall", False))
    )
    power = "".join(
        f'internal_power () {{ related_pin : "{pin}"; {f"when : {chr(34)}{w}{chr(34)};" if w else ""}'
        + u.table("rise_power", "both", energy(True, w), u.energy) + u.table("fall_power", "both", energy(False, w), u.energy) + "}"
        for w in whens
    )
    return f'timing () {{ related_pin : "{pin}"; timing_type : {kind}; timing_sense : {sense}; {timing} }}\n{power}\n'


def _input(u: _Units, cell: str, pin: str, cap_pf: float, extra: str = "", power: bool = False, whens: tuple[str, ...] = ("",)) -> str:
    groups = "".join(
        f'internal_power () {{ {f"when : {chr(34)}{w}{chr(34)};" if w else ""}'
        + u.table("rise_power", "slew", lambda s, _, w=w: pin_energy_pj(cell, pin, True, s, w), u.energy)
        + u.table("fall_power", "slew", lambda s, _, w=w: pin_energy_pj(cell, pin, False, s, w), u.energy) + "}"
        for w in whens
    )
    cap, rise, fall = (f"{cap_pf * k * u.cap:.15g}" for k in (1.0, RISE_CAP, FALL_CAP))
    caps = f"capacitance : {cap}; rise_capacitance : {rise}; fall_capacitance : {fall};"
    return f"pin ({pin}) {{ direction : input; {caps} {extra} {groups if power else ''} }}\n"


def _leakage(u: _Units, cell: str, states: list[str]) -> str:
    each = "".join(f'leakage_power () {{ value : {leakage_nw(cell, s) * u.power:.15g}; when : "{s}"; }}\n' for s in states)
    mean = sum(leakage_nw(cell, s) for s in states) / len(states)
    return f"cell_leakage_power : {mean * u.power:.15g};\n{each}"


def liberty_text(*, pico: bool = False, vdd_v: float = VDD_V) -> str:
    """The library as Liberty text."""
    u, cells = _Units(pico), []
    for name, (pins, functions, cap) in GATES.items():
        names = pins.split()
        body = f"area : {1 + len(names)};\n" + _leakage(u, name, _states(names)) + "".join(_input(u, name, p, cap) for p in names)
        for output, function in functions.items():
            unate = "negative_unate" if name in ("INV", "NAND2", "NOR2") else "positive_unate" if name in ("BUF", "AND2", "OR2") else "non_unate"
            # XOR2's energy depends on the other input, and AND2's is stated only where the other input lets an edge pass.
            others = {p: next((o for o in names if o != p), "") for p in names}
            whens = {p: (others[p], f"!{others[p]}") if name == "XOR2" else (others[p],) if name == "AND2" else ("",) for p in names}
            arcs = "".join(_arcs(u, name, p, "combinational", unate, whens[p]) for p in names)
            body += f'pin ({output}) {{ direction : output; function : "{function}"; max_capacitance : {0.05 * u.cap:.15g};\n{arcs} }}\n'
        cells.append(f"cell ({name}) {{ {body} }}\n")
    zero = 'rise_constraint (scalar) { values ("0"); } fall_constraint (scalar) { values ("0"); }'
    setup = "".join(f"timing () {{ related_pin : CK; timing_type : {t}_rising; {zero} }}\n" for t in ("setup", "hold"))
    flops = {
        "DFF": ('ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }', "", {"Q": "IQ"}),
        "DFFQN": ('ff (IQ, IQN) { clocked_on : "CK"; next_state : "!D"; }', "", {"QN": "IQ"}),
        "DFFR": ('ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; clear : "!RN"; }', "RN", {"Q": "IQ", "QN": "IQN"}),
        "DFFN": ('ff (IQ, IQN) { clocked_on : "!CK"; next_state : "D"; }', "", {"Q": "IQ"}),
    }
    for name, (group, reset, outputs) in flops.items():
        edge = "falling_edge" if name == "DFFN" else "rising_edge"
        body = f"area : 6;\n{group}\n" + _leakage(u, name, _states(["CK", "D"])) 
        body += _input(u, name, "CK", 0.0009, "clock : true;", True, ("D", "!D"))
        body += _input(u, name, "D", 0.0008, setup, True) + (_input(u, name, reset, 0.0011) if reset else "")
        for output, function in outputs.items():
            arcs = _arcs(u, name, "CK", edge, "non_unate") + (_arcs(u, name, reset, "clear", "positive_unate") if reset else "")
            body += f'pin ({output}) {{ direction : output; function : "{function}"; {arcs} }}\n'
        cells.append(f"cell ({name}) {{ {body} }}\n")
    gate = _leakage(u, "ICG", _states(["CK", "E"])) + _input(u, "ICG", "CK", 0.0014, "clock : true; clock_gate_clock_pin : true;", True)
    gate += _input(u, "ICG", "E", 0.0007, "clock_gate_enable_pin : true;" + setup)
    gate += "pin (M) { direction : internal; internal_node : M; }\n"
    arcs = _arcs(u, "ICG", "CK", "combinational", "positive_unate")
    gate += f'pin (GCK) {{ direction : output; clock_gate_out_pin : true; state_function : "CK * M"; {arcs} }}'
    table = 'statetable ("CK E", "M") { table : "L L : - : L, L H : - : H, H - : - : N"; }'
    cells.append(f"cell (ICG) {{ area : 5; clock_gating_integrated_cell : latch_posedge; {table}\n{gate} }}\n")
    ties = "".join(f'pin ({pin}) {{ direction : output; function : "{value}"; }} ' for pin, value in (("H", 1), ("L", 0)))
    cells.append(f"cell (TIE) {{ area : 1; cell_leakage_power : 0; {ties} }}\n")
    slews, loads = u.axis(SLEWS_NS, u.time), u.axis(LOADS_PF, u.cap)
    return "\n".join([
        "library (gates) {", "delay_model : table_lookup;", *u.lines, f"nom_voltage : {vdd_v}; nom_temperature : 25; nom_process : 1;",
        "slew_lower_threshold_pct_rise : 20; slew_upper_threshold_pct_rise : 80; slew_lower_threshold_pct_fall : 20; slew_upper_threshold_pct_fall : 80;",
        "input_threshold_pct_rise : 50; input_threshold_pct_fall : 50; output_threshold_pct_rise : 50; output_threshold_pct_fall : 50;",
        f"operating_conditions (typical) {{ process : 1; temperature : 25; voltage : {vdd_v}; }}", "default_operating_conditions : typical;",
        f"lu_table_template (both) {{ variable_1 : input_net_transition; variable_2 : total_output_net_capacitance; index_1 ({slews}); index_2 ({loads}); }}",
        f"power_lut_template (both) {{ variable_1 : input_transition_time; variable_2 : total_output_net_capacitance; index_1 ({slews}); index_2 ({loads}); }}",
        f"power_lut_template (slew) {{ variable_1 : input_transition_time; index_1 ({slews}); }}",
        *cells, "}",
    ]) + "\n"  # fmt: skip


def write_liberty(path: Path, **options) -> Path:
    """Write the library to `path` and return it."""
    path.write_text(liberty_text(**options), encoding="utf-8")
    return path


def map_verilog(
    verilog: str, top: str, liberty: Path, folder: Path, *, clock_gate: str = "ICG E:CK:GCK", tie: str = "TIE H L", adder: str = "FA A B C CO S",
    dont_use: tuple[str, ...] = (),
) -> tuple[Path, Path]:  # fmt: skip
    """Map Verilog text to the cells of `liberty` with Yosys; returns the netlist as JSON and as Verilog with the same names."""
    (folder / "design.v").write_text(verilog, encoding="utf-8")
    cell, *pins = adder.split()
    connections = ", ".join(f".{pin}({net}[i])" for pin, net in zip(pins, ("A", "B", "C", "X", "Y"), strict=True))
    (folder / "adder.v").write_text(
        '(* techmap_celltype = "$fa" *) module map_fa (A, B, C, X, Y); parameter WIDTH = 1; input [WIDTH-1:0] A, B, C; output [WIDTH-1:0] X, Y;\n'
        f"genvar i; generate for (i = 0; i < WIDTH; i = i + 1) begin : bits {cell} fa ({connections}); end endgenerate\n"
        "endmodule\n",
        encoding="utf-8",
    )
    tie_cell, high, low = tie.split()
    avoid = " ".join(f"-dont_use {name}" for name in dont_use)
    passes = [
        f"read_liberty -lib {liberty}", "read_verilog design.v", f"hierarchy -top {top}", "proc", "flatten", "opt", "wreduce", f"clockgate -pos {clock_gate}",
        "alumacc", "opt", "techmap", "opt", "extract_fa -fa", "techmap -map adder.v", "techmap", "opt_clean", f"dfflibmap {avoid} -liberty {liberty}",
        f"abc -liberty {liberty} {avoid} -script +strash;&get,-n;&nf;&put", f"hilomap -singleton -hicell {tie_cell} {high} -locell {tie_cell} {low}",
        "opt_clean -purge", "write_json mapped.json", "write_verilog -noattr -noexpr -norename mapped.v",
    ]  # fmt: skip
    script = f"from pyosys import libyosys as y\nd = y.Design()\nfor c in {passes!r}: y.run_pass(c, d)\n"
    run = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return folder / "mapped.json", folder / "mapped.v"
