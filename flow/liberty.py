"""Liberty files read into plain typed values in SI units: `read_library(path) -> Library`.

A `Library` holds cells, pins, leakage by state, internal energy, timing arcs and tables, all frozen and in SI units.
`flow.liberty_text` holds the text format itself, and writes it.

Source of the format's meaning: Liberty User Guide, volumes 1 and 2 (open-source Liberty).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from flow.files import read_once
from flow.liberty_text import Attribute, Group, parse_text, read_text
from hw.errors import ConfigError, ModelError

_LIBRARIES_KEPT = 64
"""Libraries that a process remembers; one of `fdsoi28p` takes about 3 MB."""

# --- typed values -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Table:
    """A look-up table of one quantity in SI units.

    `axes` names the axes in order of `values.shape`: `slew_s` (input transition), `load_f` (total output
    capacitance), `related_slew_s` and `constrained_slew_s` (of constraints), `related_load_f`. `points` holds
    the breakpoints of each axis. A scalar table has no axes and `values.shape == ()`.
    """

    axes: tuple[str, ...]
    points: tuple[np.ndarray, ...]
    values: np.ndarray

    def at(self, *, extrapolate: bool = False, **coordinates: np.ndarray | float) -> np.ndarray:
        """Values interpolated linearly along each axis, for broadcastable `coordinates` named like the axes.

        Coordinates the table does not depend on are ignored. Outside the breakpoints it raises `ModelError`,
        unless `extrapolate`, which continues the outermost segments as timing tools do.
        """
        result, weights = None, []
        for axis, points in zip(self.axes, self.points, strict=True):
            if axis not in coordinates:
                raise ModelError(f"table look-up must be given {axis}, not only {sorted(coordinates)}")
            x = np.asarray(coordinates[axis], dtype=float)
            if not extrapolate and np.any((x < points[0] * (1 - 1e-9)) | (x > points[-1] * (1 + 1e-9))):
                found = f"{x.min():g} to {x.max():g}"
                raise ModelError(f"{axis} must be within {points[0]:g} to {points[-1]:g}, not {found}; keep inside or ask to extrapolate")
            if len(points) == 1:
                weights.append([(np.zeros(x.shape, dtype=int), np.ones(x.shape))])
                continue
            low = np.clip(np.searchsorted(points, x, side="right") - 1, 0, len(points) - 2)
            high_share = (x - points[low]) / (points[low + 1] - points[low])
            weights.append([(low, 1 - high_share), (low + 1, high_share)])
        if not weights:
            return np.asarray(self.values)
        for corner in weights[0] if len(weights) == 1 else [(a, b) for a in weights[0] for b in weights[1]]:
            if len(weights) == 1:
                term = self.values[corner[0]] * corner[1]
            else:
                (i, wi), (j, wj) = corner
                term = self.values[i, j] * wi * wj
            result = term if result is None else result + term
        assert result is not None  # there are weights
        return result


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Static power of a cell in the state `when` (None: any state not given); the powers of all `pg_pin`s add up."""

    power_w: float
    when: str | None = None
    pg_pin: str | None = None


@dataclass(frozen=True, kw_only=True)
class InternalPower:
    """Energy of one edge at this pin, excluding what charges the output load.

    `related_pins` names the inputs that cause the edge (empty: the edge is at this input pin itself). The energies
    of all `pg_pin`s add up. Values may be negative for one edge: charge returned; rise and fall together are not.
    """

    related_pins: tuple[str, ...] = ()
    when: str | None = None
    pg_pin: str | None = None
    rise_j: Table | None = None
    fall_j: Table | None = None


@dataclass(frozen=True, kw_only=True)
class TimingArc:
    """A delay arc (`delay_*`, `transition_*`) or a constraint (`constraint_*`), by edge of this pin, in seconds."""

    related_pins: tuple[str, ...]
    timing_type: str = "combinational"
    sense: str | None = None
    when: str | None = None
    delay_rise_s: Table | None = None
    delay_fall_s: Table | None = None
    transition_rise_s: Table | None = None
    transition_fall_s: Table | None = None
    constraint_rise_s: Table | None = None
    constraint_fall_s: Table | None = None


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A signal pin. `clock_gate_role` is clock, enable, test, out or obs on a clock gate. Limits are None when not given."""

    name: str
    direction: str
    capacitance_f: float = 0.0
    rise_capacitance_f: float = 0.0
    fall_capacitance_f: float = 0.0
    function: str | None = None
    is_clock: bool = False
    clock_gate_role: str | None = None
    max_capacitance_f: float | None = None
    max_transition_s: float | None = None
    internal_power: tuple[InternalPower, ...] = ()
    timing: tuple[TimingArc, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """An `ff` or `latch` group: `state` and `inverse_state` are the names that output functions refer to."""

    kind: str
    state: str
    inverse_state: str
    clocked_on: str | None = None
    next_state: str | None = None
    enable: str | None = None
    data_in: str | None = None
    clear: str | None = None
    preset: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One library cell. `leakage_w` is the state-independent figure (the mean over states where a file gives none)."""

    name: str
    area_um2: float
    leakage_w: float
    leakage: tuple[Leakage, ...] = ()
    pins: Mapping[str, Pin] = field(default_factory=dict)
    sequential: tuple[Sequential, ...] = ()
    clock_gate: str | None = None
    dont_use: bool = False
    footprint: str | None = None

    def inverted_outputs(self) -> tuple[str, ...]:
        """Outputs that show the complement of the data input, by the output's function, by `next_state`, but not by both."""
        names = []
        for state in self.sequential:
            stored = (state.next_state or state.data_in or "").replace(" ", "").strip("()")
            for pin in self.pins.values():
                if pin.direction == "output" and pin.function is not None:
                    shown = pin.function.replace(" ", "").strip("()")
                    flips = [shown in (state.inverse_state, f"!{state.state}", f"{state.state}'"), stored.startswith("!")]
                    if shown.strip("!'") in (state.state, state.inverse_state) and sum(flips) == 1:
                        names.append(pin.name)
        return tuple(names)


@dataclass(frozen=True, kw_only=True)
class Library:
    """A Liberty file. Slew thresholds are fractions of the swing; `slew_derate` is as stated, not applied."""

    name: str
    source: str
    vdd_v: float
    temperature_c: float
    process: float
    operating_conditions: str | None
    slew_lower: float
    slew_upper: float
    slew_derate: float
    cells: Mapping[str, Cell]
    wire_loads: tuple[str, ...] = ()
    default_wire_load: str | None = None


# --- tree to typed values -----------------------------------------------------------------------

_PREFIX = {"": 1.0, "k": 1e3, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15, "a": 1e-18}
_AXIS = {
    "input_net_transition": ("slew_s", "time"),
    "input_transition_time": ("slew_s", "time"),
    "total_output_net_capacitance": ("load_f", "capacitance"),
    "related_out_total_output_net_capacitance": ("related_load_f", "capacitance"),
    "equal_or_opposite_output_net_capacitance": ("related_load_f", "capacitance"),
    "related_pin_transition": ("related_slew_s", "time"),
    "constrained_pin_transition": ("constrained_slew_s", "time"),
}
_CLOCK_GATE_ROLES = ("clock", "enable", "test", "out", "obs")


def _numbers(text: str) -> np.ndarray:
    return np.array(text.replace(",", " ").split(), dtype=float)


class _Reader:
    """Holds what every number of one file needs: its units, its table templates, its name for messages."""

    def __init__(self, library: Group, source: str):
        self.root, self.source = library, source
        time, voltage = self.unit("time_unit", "1ns", "s"), self.unit("voltage_unit", "1V", "v")
        capacitance = self.capacitance_unit()
        # Liberty gives internal energy in (voltage unit)^2 x (capacitance unit).
        self.scale = {"time": time, "capacitance": capacitance, "energy": voltage**2 * capacitance}
        self.scale |= {"voltage": voltage, "leakage": self.unit("leakage_power_unit", "1nW", "w")}
        self.templates: dict[str, Group] = {g.args[0]: g for g in library.groups("lu_table_template", "power_lut_template") if g.args}

    def fail(self, item: Group | Attribute, text: str) -> ConfigError:
        return ConfigError(f"{text} ({self.source}, line {item.line})")

    @overload
    def number(self, group: Group, name: str, default: float) -> float: ...

    @overload
    def number(self, group: Group, name: str, default: float | None) -> float | None: ...

    def number(self, group: Group, name: str, default: float | None) -> float | None:
        value = group.get(name)
        if value is None:
            return default
        try:
            return float(value)
        except ValueError:
            raise self.fail(group, f"{name} must be a number, not {value!r}") from None

    def unit(self, name: str, default: str, symbol: str) -> float:
        value = self.root.get(name, default)
        found = re.fullmatch(r"([\d.eE+-]+)\s*([a-z]?)" + symbol, value.strip(), re.IGNORECASE)
        if not found or found[2].lower() not in _PREFIX:
            raise self.fail(self.root, f"{name} must be a number and a unit such as {default}, not {value!r}")
        return float(found[1]) * _PREFIX[found[2].lower()]

    def capacitance_unit(self) -> float:
        value = self.root.complex("capacitive_load_unit") or ("1", "pf")
        try:
            return float(value[0]) * _PREFIX[value[1].lower().removesuffix("f")]
        except (ValueError, IndexError, KeyError):
            raise self.fail(self.root, f"capacitive_load_unit must be a number and ff or pf, not {value!r}") from None

    def table(self, group: Group, quantity: str) -> Table:
        """A table with its template resolved: indices of the table itself win over those of the template."""
        axes, points = [], []
        template_name = group.args[0] if group.args else "scalar"
        template = self.templates.get(template_name)
        if template is None and template_name != "scalar":
            raise self.fail(group, f"{group.kind} must use a template of this library, not {template_name!r}")
        try:
            for number in (1, 2, 3):
                if template is None or (variable := template.get(f"variable_{number}")) is None:
                    break
                index = group.complex(f"index_{number}") or template.complex(f"index_{number}")
                if variable not in _AXIS or not index:
                    raise self.fail(group, f"{group.kind} must have a known variable_{number} with an index, not {variable!r}")
                axis, kind = _AXIS[variable]
                axes.append(axis)
                points.append(_numbers(",".join(index)) * self.scale[kind])
            values = _numbers(",".join(group.complex("values") or ())) * self.scale[quantity]
        except ValueError:
            raise self.fail(group, f"{group.kind} must hold numbers only") from None
        shape = tuple(len(p) for p in points)
        if values.size != int(np.prod(shape)) or not np.all(np.isfinite(values)):
            raise self.fail(group, f"{group.kind} must hold {'x'.join(map(str, shape)) or 1} finite values, not {values.size}")
        if any(np.any(np.diff(p) <= 0) for p in points):
            raise self.fail(group, f"the indices of {group.kind} must increase")
        return Table(axes=tuple(axes), points=tuple(points), values=values.reshape(shape))

    def tables(self, group: Group, quantity: str, names: Mapping[str, str]) -> dict[str, Table]:
        return {names[g.kind]: self.table(g, quantity) for g in group.groups(*names)}

    def internal_power(self, group: Group) -> InternalPower:
        tables = self.tables(group, "energy", {"rise_power": "rise_j", "fall_power": "fall_j"})
        for both in group.groups("power"):
            tables = {"rise_j": self.table(both, "energy"), "fall_j": self.table(both, "energy")}
        related = tuple((group.get("related_pin") or "").split())
        return InternalPower(related_pins=related, when=group.get("when"), pg_pin=group.get("related_pg_pin"), **tables)

    def timing(self, group: Group) -> TimingArc:
        names = {"cell_rise": "delay_rise_s", "cell_fall": "delay_fall_s", "rise_transition": "transition_rise_s"}
        names |= {"fall_transition": "transition_fall_s", "rise_constraint": "constraint_rise_s", "fall_constraint": "constraint_fall_s"}
        return TimingArc(
            related_pins=tuple((group.get("related_pin") or "").split()),
            timing_type=group.get("timing_type", "combinational"),
            sense=group.get("timing_sense"),
            when=group.get("when"),
            **self.tables(group, "time", names),
        )

    def pin(self, group: Group, name: str) -> Pin:
        direction = group.get("direction")
        if direction is None:
            raise self.fail(group, f"pin {name} must have a direction")
        default_f = self.number(self.root, f"default_{direction}_pin_cap", 0.0)
        capacitance = self.number(group, "capacitance", default_f)
        limit_f, limit_s = self.number(group, "max_capacitance", None), self.number(group, "max_transition", None)
        farad, second = self.scale["capacitance"], self.scale["time"]
        role = next((r for r in _CLOCK_GATE_ROLES if group.get(f"clock_gate_{r}_pin") == "true"), None)
        return Pin(
            name=name,
            direction=direction,
            capacitance_f=capacitance * farad,
            rise_capacitance_f=self.number(group, "rise_capacitance", capacitance) * farad,
            fall_capacitance_f=self.number(group, "fall_capacitance", capacitance) * farad,
            function=group.get("function"),
            is_clock=group.get("clock") == "true",
            clock_gate_role=role,
            max_capacitance_f=None if limit_f is None else limit_f * farad,
            max_transition_s=None if limit_s is None else limit_s * second,
            internal_power=tuple(self.internal_power(g) for g in group.groups("internal_power")),
            timing=tuple(self.timing(g) for g in group.groups("timing")),
        )

    def sequential(self, group: Group) -> Sequential:
        if len(group.args) < 2:
            raise self.fail(group, f"{group.kind} must name its state and its inverse")
        names = ("clocked_on", "next_state", "enable", "data_in", "clear", "preset")
        return Sequential(kind=group.kind, state=group.args[0], inverse_state=group.args[1], **{n: group.get(n) for n in names})

    def cell(self, group: Group) -> Cell:
        if not group.args:
            raise self.fail(group, "cell must have a name")
        watt = self.scale["leakage"]
        leakage = []
        for state in group.groups("leakage_power"):
            value = self.number(state, "value", None)
            if value is None:
                raise self.fail(state, "leakage_power must have a value")
            leakage.append(Leakage(power_w=value * watt, when=state.get("when"), pg_pin=state.get("related_pg_pin")))
        pins: dict[str, Pin] = {}
        for pin in group.groups("pin"):
            for name in pin.args:
                pins[name] = self.pin(pin, name)
        return Cell(
            name=group.args[0],
            area_um2=self.number(group, "area", 0.0),
            leakage_w=self.default_leakage(group, leakage),
            leakage=tuple(leakage),
            pins=pins,
            sequential=tuple(self.sequential(g) for g in group.groups("ff", "latch")),
            clock_gate=group.get("clock_gating_integrated_cell"),
            dont_use=group.get("dont_use") == "true",
            footprint=group.get("cell_footprint"),
        )

    def default_leakage(self, group: Group, leakage: list[Leakage]) -> float:
        """`cell_leakage_power`, else the entries without a state, else the mean over states, else the library's default."""
        stated = self.number(group, "cell_leakage_power", None)
        if stated is not None:
            return stated * self.scale["leakage"]
        anywhere = [entry.power_w for entry in leakage if entry.when is None]
        if anywhere:
            return sum(anywhere)
        if leakage:
            return sum(entry.power_w for entry in leakage) / len({entry.when for entry in leakage})
        return self.number(self.root, "default_cell_leakage_power", 0.0) * self.scale["leakage"]

    def read(self) -> Library:
        library = self.root
        conditions = {g.args[0]: g for g in library.groups("operating_conditions") if g.args}
        name = library.get("default_operating_conditions") or next(iter(conditions), None)
        chosen = library if name is None else conditions.get(name, library)
        at = {key: self.number(chosen, key, self.number(library, f"nom_{key}", None)) for key in ("voltage", "temperature", "process")}
        if at["voltage"] is None or at["temperature"] is None:
            raise self.fail(library, "library must state its nom_voltage and nom_temperature")
        cells: dict[str, Cell] = {}
        for group in library.groups("cell"):
            cell = self.cell(group)
            if cell.name in cells:
                raise self.fail(group, f"cell {cell.name} must be defined once")
            cells[cell.name] = cell
        if not cells:
            raise self.fail(library, "library must hold at least one cell")
        lower = self.number(library, "slew_lower_threshold_pct_rise", 20.0)
        upper = self.number(library, "slew_upper_threshold_pct_rise", 80.0)
        return Library(
            name=library.args[0] if library.args else "",
            source=self.source,
            vdd_v=at["voltage"] * self.scale["voltage"],
            temperature_c=at["temperature"],
            process=1.0 if at["process"] is None else at["process"],
            operating_conditions=name if name in conditions else None,
            slew_lower=lower / 100,
            slew_upper=upper / 100,
            slew_derate=self.number(library, "slew_derate_from_library", 1.0),
            cells=cells,
            wire_loads=tuple(g.args[0] for g in library.groups("wire_load") if g.args),
            default_wire_load=library.get("default_wire_load"),
        )


@read_once(_LIBRARIES_KEPT)
def read_library(path: Path) -> Library:
    """The Liberty file at `path` (plain or .gz) in SI units; raises `ConfigError` naming file and line.

    A design is measured in many steps that all need the same libraries.
    """
    return _Reader(parse_text(read_text(path), str(path)), str(path)).read()


def fo4_s(library: Library, inverter: str) -> float:
    """FO4 delay from a library's tables: mean of both edges with four inverters as load and no wire, at the slew it sustains itself."""
    cell = library.cells.get(inverter)
    if cell is None:
        raise ConfigError(f"inverter must be a cell of its library, not {inverter!r} ({library.source})")
    load_f = 4 * next(p.capacitance_f for p in cell.pins.values() if p.direction == "input")
    arc = next(arc for p in cell.pins.values() if p.direction == "output" for arc in p.timing)
    delay_rise, delay_fall, transition_rise, transition_fall = arc.delay_rise_s, arc.delay_fall_s, arc.transition_rise_s, arc.transition_fall_s
    if delay_rise is None or delay_fall is None or transition_rise is None or transition_fall is None:
        raise ConfigError(f"inverter {inverter} must have delays and transitions of both edges, not lack some ({library.source})")
    slew_rise_s = slew_fall_s = float(delay_rise.points[0][1])
    for _ in range(30):
        # A falling input, as steep as this inverter's own falling output, makes a rising output.
        slew_rise_s, slew_fall_s = (
            float(transition_rise.at(slew_s=slew_fall_s, load_f=load_f)),
            float(transition_fall.at(slew_s=slew_rise_s, load_f=load_f)),
        )
    return float(delay_rise.at(slew_s=slew_fall_s, load_f=load_f) + delay_fall.at(slew_s=slew_rise_s, load_f=load_f)) / 2
