"""Delay of an inverter that drives four of its kind (FO4): the yardstick of a corner, straight from ngspice."""

from pathlib import Path

from flow.cells.netlist import Cell
from flow.cells.spice import SLEW_LOWER, SLEW_UPPER, TIGHT, printed_values
from flow.corner import Corner
from flow.tools import find_tool, run_tool
from hw.errors import ToolError

_STAGES = 5


def fo4_s(inverter: Cell, cards: Path, corner: Corner, folder: Path) -> float:
    """Mean of rising and falling delay of `inverter` with four of its kind as load and no wire between cells, in seconds.

    The second and third stage of a chain are measured, so the input slew is that of the chain itself.
    """
    vdd = corner.vdd_v
    circuit = [
        f"* FO4 at {corner}",
        f".include {cards.absolute()}",
        f".options {TIGHT}",
        f".temp {corner.temperature_c:g}",
        inverter.subcircuit(),
        f"Vvdd vdd 0 {vdd:.6g}",
        f"Vvbn vbn 0 {corner.back_bias_v:.6g}",
        f"Vvbp vbp 0 {-corner.back_bias_v:.6g}",
    ]
    for stage in range(_STAGES):
        circuit.append(f"X{stage} n{stage} n{stage + 1} vdd vbn vbp {inverter.name}")
        circuit += [f"Xload{stage}{i} n{stage + 1} open{stage}{i} vdd vbn vbp {inverter.name}" for i in range(3 if stage < _STAGES - 1 else 4)]

    def measure(window_s: float, label: str) -> float | None:
        full = window_s / 20 / (SLEW_UPPER - SLEW_LOWER)
        deck = folder / f"{label}.sp"
        script = [
            f"Vin n0 0 pwl(0 0 {window_s / 20:.6g} 0 {window_s / 20 + full:.6g} {vdd:.6g})",
            ".control",
            "set num_threads=1",
            "echo POINT 0",
            f"tran {window_s / 800:.6g} {window_s:.6g} 0 {window_s / 800:.6g}",
            f"meas tran early when v(n1)={vdd / 2:.6g} cross=last",
            f"meas tran late when v(n3)={vdd / 2:.6g} cross=last",
            f"meas tran last when v(n5)={vdd / 2:.6g} cross=last",
            *("quit", ".endc", ".end"),
        ]
        deck.write_text("\n".join([*circuit, *script]) + "\n")
        found = printed_values(run_tool([find_tool("ngspice"), "-b", deck.name], cwd=folder, timeout_s=120, step=label).output).get(0, {})
        return (found["late"] - found["early"]) / 2 if found.keys() >= {"early", "late", "last"} else None

    for decade in range(-10, -3):
        rough = measure(10.0**decade, f"fo4_{-decade}")
        if rough is not None and rough > 0:
            # Once more with a window, and so an input slew and a time step, that suit this corner.
            for window in (20, 40):
                fine = measure(window * rough, f"fo4_fine{window}")
                if fine is not None and fine > 0:
                    return fine
    raise ToolError(f"the FO4 delay must be measurable at {corner}, not absent; repeat the decks in {folder} with ngspice -b")
