"""Delay of an inverter that drives four of its kind (FO4), straight from ngspice: the yardstick of a corner.

Beside the delay it gives the form of the edges inside such a chain. Cells are characterized with edges of that
form, stretched to each slew: with straight ramps the tables of a corner near the threshold would predict delays
that are a fifth too short, since a real edge there starts and ends slowly.
"""

from dataclasses import dataclass
from pathlib import Path

from flow.cells.netlist import Cell, ProcessShift
from flow.cells.spice import SLEW_LOWER, SLEW_UPPER, TIGHT, EdgeShape, printed_values
from flow.corner import Corner
from flow.tools import find_tool, run_tool
from hw.errors import ToolError

_STAGES = 6
_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


@dataclass(frozen=True, kw_only=True)
class Fo4:
    """Mean of the rising and the falling delay in seconds, and the form of both edges."""

    delay_s: float
    shape: EdgeShape


def measure_fo4(inverter: Cell, cards: Path, process: ProcessShift, corner: Corner, folder: Path, *, load_f: float) -> Fo4:
    """FO4 of `inverter` with four of its kind as load and no wire between cells.

    It is measured inside a chain, so the input slew is that of the chain itself. `load_f` is about the capacitance
    of four inputs, for the form of the edges. Decks are left in `folder`.
    """
    vdd = corner.vdd_v
    circuit = [
        f"* FO4 at {corner}",
        f".include {cards.absolute()}",
        process.parameters(),
        f".options {TIGHT}",
        f".temp {corner.temperature_c:g}",
        inverter.subcircuit(),
        f"Vvdd vdd 0 {vdd:.6g}",
        f"Vvbn vbn 0 {corner.back_bias_v:.6g}",
        f"Vvbp vbp 0 {-corner.back_bias_v:.6g}",
    ]
    # The edges' form is taken from two of the loads, which drive a capacitor instead of inverters that switch in turn,
    # because that is what cells are characterized with.
    sides = {3: "rise", 4: "fall"}
    for stage in range(_STAGES):
        node = stage + 1
        circuit.append(f"X{stage} n{stage} n{node} vdd vbn vbp {inverter.name}")
        for i in range(3 if stage < _STAGES - 1 else 4):
            out = sides[node] if i == 0 and node in sides else f"open{stage}{i}"
            circuit.append(f"Xload{stage}{i} n{node} {out} vdd vbn vbp {inverter.name}")
    circuit += [f"C{name} {name} 0 {load_f:.6g}" for name in sides.values()]

    def simulate(window_s: float, label: str) -> dict[str, float] | None:
        """Crossing times: `early` and `late` two stages apart, `r..` and `f..` at the levels of the edges; None if one is missing."""
        begin, full = window_s / 20, window_s / 20 / (SLEW_UPPER - SLEW_LOWER)
        wanted = {"early": f"v(n2)={vdd / 2:.6g} cross=last", "late": f"v(n4)={vdd / 2:.6g} cross=last", "end": f"v(n6)={vdd / 2:.6g} cross=last"}
        for i, level in enumerate(_LEVELS):
            wanted[f"r{i}"] = f"v(rise)={vdd * level:.6g} rise=last"
            wanted[f"f{i}"] = f"v(fall)={vdd * (1 - level):.6g} fall=last"
        script = [
            f"Vin n0 0 pwl(0 0 {begin:.6g} 0 {begin + full:.6g} {vdd:.6g})",
            ".control",
            "set num_threads=1",
            "echo POINT 0",
            f"tran {window_s / 1000:.6g} {window_s:.6g} 0 {window_s / 1000:.6g}",
            *(f"meas tran {name} when {what}" for name, what in wanted.items()),
            *("quit", ".endc", ".end"),
        ]
        deck = folder / f"{label}.sp"
        deck.write_text("\n".join([*circuit, *script]) + "\n")
        found = printed_values(run_tool([find_tool("ngspice"), "-b", deck.name], cwd=folder, timeout_s=120, step=label).output).get(0, {})
        return found if found.keys() >= wanted.keys() else None

    for decade in range(-10, -3):
        rough = simulate(10.0**decade, f"fo4_{-decade}")
        if rough is not None and rough["late"] > rough["early"]:
            # Once more with a window, and so an input slew and a time step, that suit this corner.
            for reach in (15, 30, 60):
                fine = simulate(reach * (rough["late"] - rough["early"]) / 2, f"fo4_fine{reach}")
                if fine is not None:
                    shape = EdgeShape(levels=(0.0, *_LEVELS, 1.0), rise=_course(fine, "r"), fall=_course(fine, "f"))
                    return Fo4(delay_s=(fine["late"] - fine["early"]) / 2, shape=shape)
    raise ToolError(f"the FO4 delay must be measurable at {corner}, not absent; repeat the decks in {folder} with ngspice -b")


def _course(found: dict[str, float], edge: str) -> tuple[float, ...]:
    """Times at the levels, from half the swing, in units of the slew; both ends continue as their last two levels do."""
    times = [found[f"{edge}{i}"] for i in range(len(_LEVELS))]
    half, slew = times[_LEVELS.index(0.5)], times[_LEVELS.index(SLEW_UPPER)] - times[_LEVELS.index(SLEW_LOWER)]
    times = [2 * times[0] - times[1], *times, 2 * times[-1] - times[-2]]
    return tuple(float(f"{(time - half) / slew:.4f}") for time in times)
