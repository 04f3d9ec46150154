"""Runs of one cell in ngspice: many points (ramps on inputs, loads on outputs) in one process.

A deck holds the circuit once. Its control script alters sources and loads, runs one transient a point
and measures. Exit codes say nothing about a failed measurement, so every value is checked here; a point
that fails is repeated with a longer window and then with looser options, and if it still fails the deck
stays on disk and a `ToolError` names it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flow.cells.netlist import Cell, ProcessShift
from flow.corner import Corner
from flow.tools import find_tool, run_tool
from hw.errors import ToolError

# Slews are taken between these fractions of the swing, delays at half of it.
SLEW_LOWER, SLEW_UPPER = 0.2, 0.8
SETTLED = 0.02  # an output counts as settled this close to its rail, as a fraction of the swing
STEPS = 150  # least number of time steps in a window

# The default chgtol exceeds a cell's charge and the default gmin adds to its leakage. Against a reference ten times as fine,
# these are 0.05 % off in delay, 0.6 % in transition and 0.4 % in energy (mean of an inverter, an AOI22 and a full adder, 0.45 and 1.0 V).
TIGHT = "chgtol=1e-16 trtol=1 reltol=3e-4 abstol=1e-13 gmin=1e-15"
LOOSE = "chgtol=3e-16 trtol=2 reltol=1e-3 abstol=1e-12 gmin=1e-15"
# (window multiplied by, options) of each attempt
_ATTEMPTS = ((1, TIGHT), (3, TIGHT), (3, LOOSE), (10, LOOSE))


@dataclass(frozen=True, kw_only=True)
class EdgeShape:
    """The form of input edges: the share of the swing done (`levels`, from 0 to 1) at times in units of the slew,
    counted from half the swing, of a rising and of a falling edge."""

    levels: tuple[float, ...]
    rise: tuple[float, ...]
    fall: tuple[float, ...]

    @property
    def lead(self) -> float:
        """Time from the begin of an edge to half the swing, in slews."""
        return -min(self.rise[0], self.fall[0])

    @property
    def tail(self) -> float:
        """Time from half the swing to the end of an edge, in slews."""
        return max(self.rise[-1], self.fall[-1])


_HALF = 0.5 / (SLEW_UPPER - SLEW_LOWER)
LINEAR = EdgeShape(levels=(0.0, 1.0), rise=(-_HALF, _HALF), fall=(-_HALF, _HALF))


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """An edge of an input from logic `start` to `end`, passing half the swing at `at_s`, with the slew `slew_s`.

    With `back_s` it is a pulse, which passes half the swing again then.
    """

    start: int
    end: int
    at_s: float
    slew_s: float
    back_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One transient. `inputs` gives each input a constant or a ramp; `expect` is each output's final logic value.

    `edges` names the outputs whose edge is measured. `watch` asks for the extremes of outputs that should stay still.
    `must_settle` refuses outputs that end elsewhere than expected (bisection wants to see failures instead).
    """

    inputs: Mapping[str, int | Ramp]
    loads_f: Mapping[str, float]
    window_s: float
    expect: Mapping[str, int]
    edges: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    must_settle: bool = True

    def ramp(self, pin: str) -> Ramp:
        """The edge of an input that has one."""
        ramp = self.inputs[pin]
        assert isinstance(ramp, Ramp), pin
        return ramp

@dataclass(frozen=True, kw_only=True)
class Measured:
    """Results of one point: time of half swing and slew of each measured output edge, final and extreme output
    voltages, charge drawn from the supply and through each ramped input, and the window they were taken over."""

    crossing_s: dict[str, float] = field(default_factory=dict)
    transition_s: dict[str, float] = field(default_factory=dict)
    final_v: dict[str, float] = field(default_factory=dict)
    lowest_v: dict[str, float] = field(default_factory=dict)
    highest_v: dict[str, float] = field(default_factory=dict)
    supply_charge_c: float = 0.0
    input_charge_c: dict[str, float] = field(default_factory=dict)
    window_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What to simulate and where: the cell at a corner, the file of transistor cards and the process's shift of them, a folder for the decks,
    the form of input edges."""

    cell: Cell
    cards: Path
    process: ProcessShift
    corner: Corner
    folder: Path
    shape: EdgeShape = LINEAR

    def circuit(self, initial: Mapping[str, int | None], options: str) -> list[str]:
        """The deck up to its control script. `initial` fixes stored bits at time zero."""
        cell, vdd = self.cell, self.corner.vdd_v
        lines = [
            f"* {cell.name} at {self.corner}",
            f".include {self.cards.absolute()}",
            self.process.parameters(),
            f".options {options}",
            f".temp {self.corner.temperature_c:g}",
            cell.subcircuit(),
            f"Vvdd vdd 0 {vdd:.6g}",
            # Positive back bias is forward for both wells: up for the n transistors, down for the p transistors.
            f"Vvbn vbn 0 {self.corner.back_bias_v:.6g}",
            f"Vvbp vbp 0 {-self.corner.back_bias_v:.6g}",
            *(f"V{name} {name} 0 pwl(0 0 1p 0)" for name in cell.inputs),
            *(f"Cload{name} {name} 0 1f" for name in cell.outputs),
            f"Xcell {' '.join((*cell.inputs, *cell.outputs))} vdd vbn vbp {cell.name}",
        ]
        inside = {node: value for node, value in initial.items() if node in cell.nodes and node not in cell.outputs and value is not None}
        for node, value in inside.items():
            lines += [f".ic v(xcell.{node})={value * vdd:.6g}", f".nodeset v(xcell.{node})={value * vdd:.6g}"]
        return lines

    def run(self, points: Sequence[Point], *, label: str, initial: Mapping[str, int | None] | None = None) -> list[Measured]:
        """Simulate `points`, all starting from the stored bits `initial`; raises `ToolError` if one cannot be measured."""
        results: list[Measured | None] = [None] * len(points)
        problem = ""
        for attempt, (longer, options) in enumerate(_ATTEMPTS):
            left = [i for i, result in enumerate(results) if result is None]
            if not left:
                break
            name = f"{label}_{attempt}" if attempt else label
            lines = [*self.circuit(initial or {}, options), ".control", "set num_threads=1"]
            for i in left:
                lines += [f"echo POINT {i}", *self._commands(points[i], points[i].window_s * longer)]
            deck = self.folder / f"{name}.sp"
            deck.write_text("\n".join([*lines, "quit", ".endc", ".end"]) + "\n")
            output = run_tool([find_tool("ngspice"), "-b", deck.name], cwd=self.folder, timeout_s=600, step=name).output
            found = printed_values(output)
            for i in left:
                try:
                    results[i] = self._measured(points[i], found.get(i, {}), points[i].window_s * longer)
                except ValueError as error:
                    problem = f"point {i} of {deck}: {error}"
        if any(result is None for result in results):
            raise ToolError(f"every point of {self.cell.name} at {self.corner} must be simulated and settle, not fail ({problem}); repeat it with ngspice -b")
        return [result for result in results if result is not None]

    def _commands(self, point: Point, window_s: float) -> list[str]:
        vdd = self.corner.vdd_v
        lines = []
        for name, value in point.inputs.items():
            if isinstance(value, Ramp):
                course = self._course(value.start, value.end, value.at_s, value.slew_s)
                if value.back_s is not None:
                    course += " " + self._course(value.end, value.start, value.back_s, value.slew_s)
                lines.append(f"alter @v{name.lower()}[pwl] = [ 0 {value.start * vdd:.6g} {course} ]")
            else:
                lines.append(f"alter @v{name.lower()}[pwl] = [ 0 {value * vdd:.6g} 1p {value * vdd:.6g} ]")
        for name, load in point.loads_f.items():
            lines.append(f"alter cload{name.lower()} = {load:.6g}")
        lines.append(f"tran {window_s / STEPS:.6g} {window_s:.6g} 0 {window_s / STEPS:.6g}")
        lines.append("meas tran q__vdd integ i(vvdd)")
        lines += [f"meas tran q_{name} integ i(v{name})" for name, value in point.inputs.items() if isinstance(value, Ramp)]
        for name in point.edges:
            rises = point.expect[name] == 1
            for mark, level in (("a", SLEW_LOWER), ("b", 0.5), ("c", SLEW_UPPER)):
                level = level if rises else 1 - level
                lines.append(f"meas tran t{mark}_{name} when v({name})={level * vdd:.6g} {'rise' if rises else 'fall'}=last")
        lines += [f"meas tran f_{name} find v({name}) at={window_s * 0.9999:.9g}" for name in point.expect]
        for name in point.watch:
            lines += [f"meas tran l_{name} min v({name})", f"meas tran h_{name} max v({name})"]
        return [*lines, "destroy all"]

    def _course(self, start: int, end: int, at_s: float, slew_s: float) -> str:
        """An edge as times and voltages of a piecewise linear source."""
        times = self.shape.rise if end else self.shape.fall
        volts = [self.corner.vdd_v * (start + (end - start) * level) for level in self.shape.levels]
        return " ".join(f"{at_s + time * slew_s:.9g} {volt:.6g}" for time, volt in zip(times, volts, strict=True))

    def _measured(self, point: Point, values: Mapping[str, float], window_s: float) -> Measured:
        """Check and name what one point gave; raises `ValueError` saying what is wrong with it."""
        vdd = self.corner.vdd_v

        def value(name: str) -> float:
            number = values.get(name.lower())
            if number is None or not math.isfinite(number):
                raise ValueError(f"{name} is missing")
            return number

        final = {name: value(f"f_{name}") for name in point.expect}
        if point.must_settle:
            for name, expected in point.expect.items():
                if abs(final[name] - expected * vdd) > SETTLED * vdd:
                    raise ValueError(f"output {name} ends at {final[name]:.4g} V instead of {expected * vdd:.4g} V")
        edges = point.edges if point.must_settle else tuple(n for n in point.edges if f"tb_{n.lower()}" in values)
        crossing, transition = {}, {}
        for name in edges:
            crossing[name] = value(f"tb_{name}")
            if point.must_settle:
                transition[name] = value(f"tc_{name}") - value(f"ta_{name}")
                if transition[name] <= 0:
                    raise ValueError(f"the transition of {name} is {transition[name]:.4g} s")
        return Measured(
            crossing_s=crossing,
            transition_s=transition,
            final_v=final,
            lowest_v={name: value(f"l_{name}") for name in point.watch},
            highest_v={name: value(f"h_{name}") for name in point.watch},
            supply_charge_c=-value("q__vdd"),
            input_charge_c={name: -value(f"q_{name}") for name, given in point.inputs.items() if isinstance(given, Ramp)},
            window_s=window_s,
        )

    def leakage(self, states: Sequence[Mapping[str, int]], *, label: str, initial: Mapping[str, int | None] | None = None) -> list[float]:
        """Static supply power, in W, for each assignment of the inputs, near the stored bits `initial`."""
        vdd = self.corner.vdd_v
        lines = [*self.circuit(initial or {}, TIGHT), ".control", "set num_threads=1"]
        for i, state in enumerate(states):
            lines.append(f"echo POINT {i}")
            lines += [f"alter @v{name.lower()}[pwl] = [ 0 {bit * vdd:.6g} 1p {bit * vdd:.6g} ]" for name, bit in state.items()]
            lines += ["op", "let leak = -i(vvdd)", "print leak", "destroy all"]
        deck = self.folder / f"{label}.sp"
        deck.write_text("\n".join([*lines, "quit", ".endc", ".end"]) + "\n")
        found = printed_values(run_tool([find_tool("ngspice"), "-b", deck.name], cwd=self.folder, timeout_s=120, step=label).output)
        powers = [found.get(i, {}).get("leak", math.nan) * vdd for i in range(len(states))]
        if not all(math.isfinite(power) and power > 0 for power in powers):
            raise ToolError(f"leakage of {self.cell.name} at {self.corner} must be positive in every state, not {powers} ({deck}); repeat it with ngspice -b")
        return powers


_MARK = re.compile(r"^POINT (\d+)\s*$")
_RESULT = re.compile(r"^(\w+)\s*=\s*([-+.\deE]+)")


def printed_values(output: str) -> dict[int, dict[str, float]]:
    """The numbers printed after each POINT mark, by their names in lower case."""
    found: dict[int, dict[str, float]] = {}
    current: dict[str, float] = {}
    for line in output.splitlines():
        if mark := _MARK.match(line):
            current = found.setdefault(int(mark[1]), {})
        elif result := _RESULT.match(line):
            try:
                current[result[1].lower()] = float(result[2])
            except ValueError:
                continue
    return found
