"""Local variation: how far the delay of one gate is from the next one's, from the published matching of the device class.

The threshold of a transistor of width W and length L varies with one standard deviation of `MATCHING_V_UM` / sqrt(W L). A gate's delay
follows the thresholds it is slowed by; its sensitivity is that of the corner's own FO4 delay. Along a path of N gates the deviations
are independent, so their share of the path's delay falls with the square root of N.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from flow.cells.fo4 import measure_fo4
from flow.cells.netlist import CellLibrary, ProcessShift, all_cells
from flow.corner import Corner
from hw.errors import ConfigError

MATCHING_V_UM = 1.3e-3
"""Published for undoped fully depleted SOI transistors, 1.2 to 1.4 mV um; general knowledge of the literature, not re-read."""


@dataclass(frozen=True, kw_only=True)
class LocalVariation:
    """One standard deviation of a gate's delay at a corner, as a share of the delay, and the threshold's it comes from."""

    threshold_v: float
    sigma: float

    def derate(self, *, gates: int, sigmas: float = 3.0) -> float:
        """What to multiply the delay of a path of `gates` gates by, so that it is slower only beyond `sigmas` standard deviations."""
        if gates < 1:
            raise ConfigError(f"a path must have at least one gate, not {gates}")
        return 1 + sigmas * self.sigma / math.sqrt(gates)


def local_variation(cells: CellLibrary, corner: Corner, *, cards: Path, folder: Path) -> LocalVariation:
    """The local variation of an X1 inverter at `corner`: the mean deviation of both transistors times the slope of the delay."""
    g, process = cells.geometry, cells.processes[corner.process]
    inverter = next(cell for cell in all_cells(cells) if cell.name == "INV_X1")
    sigma_v = sum(MATCHING_V_UM / math.sqrt(width * g.length_um) for width in (g.n_width_um, g.p_width_um)) / 2

    def delay_s(shift_v: float) -> float:
        shifted = ProcessShift(threshold_v=process.threshold_v + shift_v, mobility=process.mobility, source="local variation")
        return measure_fo4(inverter, cards, shifted, corner, folder, load_f=4 * cells.characterization.load_unit_f).delay_s

    # In a chain, rising and falling edges alternate: each edge is slowed by one of the two transistors.
    return LocalVariation(threshold_v=sigma_v, sigma=math.log(delay_s(sigma_v) / delay_s(-sigma_v)) / 2)
