"""A cell library small enough to calculate with by hand, as a technology that the flow can load.

Every delay is linear: `intrinsic + resistance x load + 0.1 x input slew`, the same for both edges, and
every transition is `5 ps + 2 x resistance x load`. All times scale with `1 / vdd_v`.
"""

from pathlib import Path

SLEW_SHARE = 0.1
SETUP_PS, HOLD_PS = 12.0, 3.0
CLOCK_TO_Q_PS, CLOCK_TO_Q_KOHM = 30.0, 2.0
WIRE_BASE_FF, WIRE_STEP_FF = 0.5, 0.75

# name: area, function, input pins with their capacitance in fF, intrinsic delay in ps, resistance in kohm
GATES = {
    "INV": (1.0, "!A", {"A": 1.0}, 4.0, 2.0),
    "BUF": (1.5, "A", {"A": 1.0}, 9.0, 1.0),
    "NAND2": (1.5, "!(A & B)", {"A": 1.0, "B": 1.1}, 6.0, 2.5),
    "NOR2": (1.5, "!(A | B)", {"A": 1.0, "B": 1.1}, 7.0, 3.0),
    "XOR2": (3.0, "A ^ B", {"A": 2.0, "B": 2.1}, 14.0, 3.0),
    "AOI21": (2.0, "!((A & B) | C)", {"A": 1.0, "B": 1.1, "C": 1.2}, 8.0, 3.0),
}
CLOCK_PIN_FF, DATA_PIN_FF = 0.8, 0.9

# Linear tables need two points only, but ABC reads its delays off the middle of them.
_SLEWS_PS, _LOADS_FF = (0.0, 10.0, 20.0, 50.0, 1000.0), (0.0, 2.0, 5.0, 20.0, 1000.0)


def _points(values) -> str:
    return ", ".join(f"{value:.6f}" for value in values)


def _table(kind: str, values: list[list[float]]) -> str:
    rows = ", ".join(f'"{_points(row)}"' for row in values)
    return f"{kind} (grid) {{ values ({rows}); }}"


def _arc(related: str, intrinsic_ps: float, kohm: float, scale: float, extra: str) -> str:
    delay = [[scale * (intrinsic_ps + kohm * load + SLEW_SHARE * slew / scale) for load in _LOADS_FF] for slew in _SLEWS_PS]
    edge = [[scale * (5.0 + 2.0 * kohm * load) for load in _LOADS_FF] for _ in _SLEWS_PS]
    tables = " ".join(_table(kind, delay if kind.startswith("cell") else edge) for kind in ("cell_rise", "cell_fall", "rise_transition", "fall_transition"))
    return f'timing () {{ related_pin : "{related}"; {extra} {tables} }}'


def _constraint(kind: str, value_ps: float, scale: float) -> str:
    value = f'values ("{scale * value_ps:.6f}")'
    return f'timing () {{ related_pin : "CK"; timing_type : {kind}_rising; rise_constraint (scalar) {{ {value}; }} fall_constraint (scalar) {{ {value}; }} }}'


def library_text(
    vdd_v: float, *, temperature_c: float = 25.0, without: tuple[str, ...] = (), extra: str = "", delay_model: str = "delay_model : table_lookup;"
) -> str:
    """The library at `vdd_v`; cells in `without` are left out; `extra` is added after the units."""
    scale = 1.0 / vdd_v
    cells = {}
    for name, (area, function, inputs, intrinsic_ps, kohm) in GATES.items():
        pins = "".join(f"pin ({pin}) {{ direction : input; capacitance : {load}; }}\n" for pin, load in inputs.items())
        sense = "timing_sense : non_unate;" if name == "XOR2" else f"timing_sense : {'positive' if name == 'BUF' else 'negative'}_unate;"
        arcs = " ".join(_arc(pin, intrinsic_ps, kohm, scale, sense) for pin in inputs)
        cells[name] = f'area : {area};\n{pins}pin (Y) {{ direction : output; function : "{function}"; {arcs} }}'
    clock_pin = f"pin (CK) {{ direction : input; clock : true; capacitance : {CLOCK_PIN_FF}; }}"
    cells["DFF"] = (
        f'area : 6.0; ff (IQ, IQN) {{ clocked_on : "CK"; next_state : "D"; }}\n{clock_pin}\n'
        f"pin (D) {{ direction : input; capacitance : {DATA_PIN_FF}; {_constraint('setup', SETUP_PS, scale)} {_constraint('hold', HOLD_PS, scale)} }}\n"
        f'pin (Q) {{ direction : output; function : "IQ"; {_arc("CK", CLOCK_TO_Q_PS, CLOCK_TO_Q_KOHM, scale, "timing_type : rising_edge;")} }}'
    )
    cells["DLAT"] = (
        'area : 5.0; latch (IQ, IQN) { enable : "G"; data_in : "D"; }\n'
        "pin (G) { direction : input; clock : true; capacitance : 0.8; }\npin (D) { direction : input; capacitance : 0.9; }\n"
        f'pin (Q) {{ direction : output; function : "IQ"; {_arc("G", 20.0, 2.0, scale, "timing_type : rising_edge;")} }}'
    )
    gate_clock_pin = clock_pin.replace("clock : true;", "clock : true; clock_gate_clock_pin : true;")
    checks = f"{_constraint('setup', 20.0, scale)} {_constraint('hold', 0.0, scale)}"
    cells["ICG"] = (
        f"area : 5.0; clock_gating_integrated_cell : latch_posedge;\n{gate_clock_pin}\n"
        f"pin (EN) {{ direction : input; capacitance : 0.9; clock_gate_enable_pin : true; {checks} }}\n"
        f"pin (GCK) {{ direction : output; clock_gate_out_pin : true; {_arc('CK', 10.0, 1.0, scale, 'timing_sense : positive_unate;')} }}"
    )
    cells["TIEHI"] = 'area : 0.5; pin (Y) { direction : output; function : "1"; }'
    cells["TIELO"] = 'area : 0.5; pin (Y) { direction : output; function : "0"; }'
    body = "\n".join(f"cell ({name}) {{ {text} }}" for name, text in cells.items() if name not in without)
    thresholds = " ".join(
        f"{kind}_threshold_pct_{edge} : {value};"
        for kind, value in (("input", 50), ("output", 50), ("slew_lower", 20), ("slew_upper", 80))
        for edge in ("rise", "fall")
    )
    return (
        f"library (small) {{\n{delay_model}\n"
        'time_unit : "1ps"; voltage_unit : "1V"; current_unit : "1uA"; pulling_resistance_unit : "1kohm";\n'
        f'leakage_power_unit : "1nW"; capacitive_load_unit (1, ff);\n{extra}\n{thresholds}\n'
        f"nom_process : 1; nom_voltage : {vdd_v}; nom_temperature : {temperature_c};\n"
        "lu_table_template (grid) { variable_1 : input_net_transition; variable_2 : total_output_net_capacitance;\n"
        f'index_1 ("{_points(_SLEWS_PS)}"); index_2 ("{_points(_LOADS_FF)}"); }}\n{body}\n}}\n'
    )


def write_technology(folder: Path, *, vdds_v: tuple[float, ...] = (1.0, 0.5), dont_use: str = "", **options) -> Path:
    """A technology with a corner at each of `vdds_v` in `folder`; `options` are those of `library_text`. The first voltage is nominal."""
    corners = ""
    for vdd_v in vdds_v:
        (folder / f"small_{vdd_v}.lib").write_text(library_text(vdd_v, **options))
        corners += f"  - {{process: tt, vdd_v: {vdd_v}, temperature_c: 25, liberty: [small_{vdd_v}.lib]}}\n"
    path = folder / "technology.yaml"
    path.write_text(
        "name: small\ndescription: linear delays, for calculating by hand\npredictive: true\n"
        f"nominal_vdd_v: {vdds_v[0]}\n"
        "cells: {inverter: INV, buffer: BUF, nand2: NAND2, tie_high: TIEHI, tie_low: TIELO, clock_gate: ICG}\n"
        f"wire: {{capacitance_per_um_f: 0.25e-15, length_base_um: {WIRE_BASE_FF / 0.25}, length_per_fanout_um: {WIRE_STEP_FF / 0.25},"
        " source: made up for tests}\n"
        f"dont_use: [{dont_use}]\nsources: [made up for tests]\ncorners:\n{corners}"
    )
    return path
