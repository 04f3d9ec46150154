"""Measured cells as a Liberty library in ps, fF, fJ and nW."""

from collections.abc import Mapping, Sequence

import numpy as np

from flow.cells.measure import Arc, CellData, Energy, Grid, grid
from flow.cells.netlist import Cell
from flow.cells.spice import SLEW_LOWER, SLEW_UPPER
from flow.corner import Corner
from flow.liberty_text import Attribute, Group

_PS, _FF, _FJ, _NW = 1e-12, 1e-15, 1e-15, 1e-9
_DELAYS = {"delay_rise_s": "cell_rise", "transition_rise_s": "rise_transition", "delay_fall_s": "cell_fall", "transition_fall_s": "fall_transition"}


_ALIKE = 0.02
"""States whose energies differ by less than this share of the largest are given together, as their mean."""


def _number(value: float, digits: int = 4) -> str:
    # Beyond what the simulations are good for, and few, to keep the files small.
    return f"{value:.{digits}g}"


def _simple(**values: object) -> list[Attribute | Group]:
    return [Attribute(name=name, values=(f"{value:.6g}" if isinstance(value, float) else str(value),)) for name, value in values.items()]


def _index(number: int, values: Sequence[float], unit: float) -> Attribute:
    return Attribute(name=f"index_{number}", values=(", ".join(_number(v / unit) for v in values),), is_complex=True)


def _table(kind: str, template: str, values: Grid, unit: float, axes: Sequence[tuple[Sequence[float], float]], *, digits: int = 4) -> Group:
    rows = tuple(", ".join(_number(v / unit, digits) for v in row) for row in values)
    indices = [_index(i + 1, points, scale) for i, (points, scale) in enumerate(axes)]
    return Group(kind=kind, args=(template,), body=[*indices, Attribute(name="values", values=rows, is_complex=True)])


def _timing(arc: Arc, data: CellData) -> Group:
    body: list[Attribute | Group] = list(_simple(related_pin=arc.related, timing_sense=arc.sense, timing_type=arc.timing_type))
    axes = ((data.slews_s, _PS), (data.loads_f, _FF))
    body += [_table(kind, "delay", values, _PS, axes, digits=4 if "cell" in kind else 3) for name, kind in _DELAYS.items() if (values := getattr(arc, name))]
    return Group(kind="timing", body=body)


def _internal_power(energy: Energy, data: CellData) -> Group:
    body: list[Attribute | Group] = []
    if energy.related:
        body += _simple(related_pin=energy.related)
    if energy.when:
        body += _simple(when=energy.when)
    axes: tuple[tuple[tuple[float, ...], float], ...]
    if energy.related:
        template, axes = "energy", ((data.slews_s, _PS), (data.sampled_loads_f, _FF))
    else:
        template, axes = "input_energy", ((data.sampled_slews_s, _PS),)
    for kind, values in (("rise_power", energy.rise_j), ("fall_power", energy.fall_j)):
        if values:
            body.append(_table(kind, template, values, _FJ, axes, digits=3))
    return Group(kind="internal_power", body=body)


def _merged(energies: Sequence[Energy]) -> list[Energy]:
    """The energies of one pin with like states joined: each gets their mean, under the conditions of all of them."""
    clusters: list[list[Energy]] = []
    for energy in energies:
        for cluster in clusters:
            if energy.when and all(_alike(energy, other) for other in cluster):
                cluster.append(energy)
                break
        else:
            clusters.append([energy])
    return [_mean(cluster) for cluster in clusters]


def _arrays(energy: Energy) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in (("rise_j", energy.rise_j), ("fall_j", energy.fall_j)) if values}


def _alike(a: Energy, b: Energy) -> bool:
    first, second = _arrays(a), _arrays(b)
    if a.related != b.related or first.keys() != second.keys():
        return False
    scale = max(np.max(np.abs(values)) for values in first.values())
    return all(np.max(np.abs(values - second[name])) <= _ALIKE * scale for name, values in first.items())


def _mean(cluster: Sequence[Energy]) -> Energy:
    if len(cluster) == 1:
        return cluster[0]
    means = {name: grid(np.mean([_arrays(e)[name] for e in cluster], axis=0)) for name in _arrays(cluster[0])}
    return Energy(pin=cluster[0].pin, related=cluster[0].related, when=" | ".join(f"({e.when})" for e in cluster), **means)


def _pin(name: str, cell: Cell, data: CellData) -> Group:
    description = cell.description
    is_input, is_gate = name in cell.inputs, description.kind == "clock_gate"
    body: list[Attribute | Group] = list(_simple(direction="input" if is_input else "output"))
    if name == description.clock:
        body += _simple(clock="true")
    if is_gate:
        role = {description.clock: "clock", description.data: "enable"}.get(name, "out")
        body += _simple(**{f"clock_gate_{role}_pin": "true"})
    if is_input:
        rise, fall = data.rise_capacitance_f[name] / _FF, data.fall_capacitance_f[name] / _FF
        body += _simple(capacitance=(rise + fall) / 2, rise_capacitance=rise, fall_capacitance=fall, max_transition=data.slews_s[-1] / _PS)
    else:
        function = {"state_function": description.outputs[name]} if is_gate else {"function": description.outputs[name]}
        body += _simple(**function)
        if description.kind != "tie":
            body += _simple(max_capacitance=data.loads_f[-1] / _FF)
    for pulse in data.pulse_widths:
        if pulse.pin == name:
            body += _simple(**{f"min_pulse_width_{'high' if pulse.level else 'low'}": pulse.least_s / _PS})
    for constraint in data.constraints:
        if constraint.pin == name:
            axes = ((data.constraint_slews_s, _PS), (data.constraint_slews_s, _PS))
            tables = (("rise_constraint", constraint.rise_s), ("fall_constraint", constraint.fall_s))
            parts = [_table(kind, "constraint", values, _PS, axes, digits=3) for kind, values in tables if values]
            body.append(Group(kind="timing", body=[*_simple(related_pin=constraint.related, timing_type=constraint.timing_type), *parts]))
    body += [_timing(arc, data) for arc in data.arcs if arc.output == name]
    body += [_internal_power(energy, data) for energy in _merged([e for e in data.energies if e.pin == name])]
    return Group(kind="pin", args=(name,), body=body)


def _cell(cell: Cell, data: CellData) -> Group:
    description = cell.description
    mean = float(np.mean([state.leakage_w for state in data.leakage])) / _NW
    body: list[Attribute | Group] = list(_simple(area=cell.area_um2, cell_footprint=cell.name.rsplit("_", 1)[0], cell_leakage_power=mean))
    if description.kind == "clock_gate":
        body += _simple(clock_gating_integrated_cell="latch_posedge")
    body += [Group(kind="leakage_power", body=_simple(value=s.leakage_w / _NW, when=s.when)) for s in data.leakage if s.when]
    if description.kind == "flop":
        state = {"clocked_on": description.clock, "next_state": description.data}
        if description.clear:
            state["clear"] = f"!{description.clear}"
        body.append(Group(kind="ff", args=("IQ", "IQN"), body=_simple(**state)))
    if description.kind == "latch":
        body.append(Group(kind="latch", args=("IQ", "IQN"), body=_simple(enable=description.clock, data_in=description.data)))
    if description.kind == "clock_gate":
        rows = "L L : - : L, L H : - : H, H - : - : N"
        body.append(Group(kind="statetable", args=(f"{description.clock} {description.data}", "IQ"), body=_simple(table=rows)))
        body.append(Group(kind="pin", args=("IQ",), body=_simple(direction="internal", internal_node="IQ")))
    body += [_pin(name, cell, data) for name in (*cell.inputs, *cell.outputs)]
    return Group(kind="cell", args=(cell.name,), body=body)


def library_group(*, technology: str, corner: Corner, cells: Sequence[Cell], results: Mapping[str, CellData], fo4_s: float) -> Group:
    """The whole library at one corner. `results` holds the data of every cell by its name."""
    first = results[cells[0].name]
    conditions = f"{corner.process}_{corner.vdd_v:.2f}v_{corner.temperature_c:g}c".replace(".", "p").replace("-", "m")
    lower, upper = f"{SLEW_LOWER * 100:g}", f"{SLEW_UPPER * 100:g}"
    body: list[Attribute | Group] = [
        *_simple(
            delay_model="table_lookup",
            comment=f"predictive; back_bias_v {corner.back_bias_v:g}; fo4_ps {_number(fo4_s / _PS)}",
            time_unit="1ps",
            voltage_unit="1V",
            current_unit="1uA",
            leakage_power_unit="1nW",
            pulling_resistance_unit="1kohm",
        ),
        Attribute(name="capacitive_load_unit", values=("1", "ff"), is_complex=True),
        *_simple(nom_process=1.0, nom_voltage=float(corner.vdd_v), nom_temperature=float(corner.temperature_c)),
        *_simple(input_threshold_pct_rise=50, input_threshold_pct_fall=50, output_threshold_pct_rise=50, output_threshold_pct_fall=50),
        *_simple(slew_lower_threshold_pct_rise=lower, slew_lower_threshold_pct_fall=lower),
        *_simple(slew_upper_threshold_pct_rise=upper, slew_upper_threshold_pct_fall=upper, slew_derate_from_library=1.0),
        *_simple(default_cell_leakage_power=0.0, default_fanout_load=1.0, default_input_pin_cap=0.0, default_output_pin_cap=0.0),
        *_simple(default_inout_pin_cap=0.0, default_max_transition=first.slews_s[-1] / _PS),
        Group(
            kind="operating_conditions",
            args=(conditions,),
            body=_simple(process=1.0, voltage=float(corner.vdd_v), temperature=float(corner.temperature_c), tree_type="balanced_tree"),
        ),
        # After the group it names: OpenSTA reports no dynamic power otherwise.
        *_simple(default_operating_conditions=conditions),
    ]
    templates = {
        "delay": ("lu_table_template", (("input_net_transition", first.slews_s, _PS), ("total_output_net_capacitance", first.loads_f, _FF))),
        "constraint": (
            "lu_table_template",
            (("related_pin_transition", first.constraint_slews_s, _PS), ("constrained_pin_transition", first.constraint_slews_s, _PS)),
        ),
        "energy": ("power_lut_template", (("input_transition_time", first.slews_s, _PS), ("total_output_net_capacitance", first.sampled_loads_f, _FF))),
        "input_energy": ("power_lut_template", (("input_transition_time", first.sampled_slews_s, _PS),)),
    }
    for name, (kind, axes) in templates.items():
        variables = _simple(**{f"variable_{i + 1}": axis for i, (axis, _, _) in enumerate(axes)})
        body.append(Group(kind=kind, args=(name,), body=[*variables, *(_index(i + 1, points, unit) for i, (_, points, unit) in enumerate(axes))]))
    return Group(kind="library", args=(f"{technology}_{conditions}",), body=[*body, *(_cell(cell, results[cell.name]) for cell in cells)])
