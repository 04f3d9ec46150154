"""Figures of single transistors from their cards, by ngspice: currents, thresholds, swing, drain and body effect, gate capacitance."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flow.cells.spice import TIGHT, printed_values
from flow.tools import find_tool, run_tool
from hw.errors import ToolError

VDD_V, _STEP_V, _LINEAR_V, _BIAS_V = 1.0, 0.005, 0.05, 0.5
_THRESHOLD_A = 100e-9
"""Drain current at the threshold, times width over length."""


@dataclass(frozen=True, kw_only=True)
class DeviceFigures:
    """One transistor of 1 um width at 1 V and 25 C; voltages and currents as magnitudes, per um of width."""

    ion_a: float
    ioff_a: float
    vt_lin_v: float
    vt_sat_v: float
    swing_v_per_decade: float
    dibl_v_per_v: float
    body_v_per_v: float
    gate_f: float


def device_figures(
    cards: Path, *, model: str, kind: str, length_um: float, folder: Path, shift_v: float = 0.0, mobility: float = 1.0
) -> DeviceFigures:
    """Figures of `model` (kind n or p) in the file `cards`, its threshold's magnitude raised by `shift_v`, its mobility times `mobility`.

    Without back bias the well of either kind is at ground, as in our cells: that of a p transistor 1 V below its source.
    """
    sign = 1 if kind == "n" else -1
    well_v = 0.0 if kind == "n" else VDD_V
    lines = [
        f"* {model}", f".include {cards.absolute()}", f".options {TIGHT}", ".temp 25",
        "Vg g 0 0", f"Vd d 0 {sign * VDD_V:g}", "Vb b 0 0", f"M1 d g 0 b {model} w=1u l={length_um:g}u delvto={sign * shift_v:.6g} mulu0={mobility:.6g}",
        ".control", "set num_threads=1", "set wr_singlescale",
    ]  # fmt: skip
    for name, drain, body in (("sat", VDD_V, 0.0), ("lin", _LINEAR_V, 0.0), ("biased", VDD_V, _BIAS_V)):
        lines += [f"alter vd = {sign * drain:g}", f"alter vb = {sign * (well_v + body):g}"]
        lines += [f"dc vg 0 {sign * VDD_V:g} {sign * _STEP_V:g}", f"wrdata {name}.txt i(vd)"]
    # Gate capacitance over the whole swing, drain and source at ground.
    lines += ["alter vd = 0", f"alter vb = {sign * well_v:g}", f"alter @vg[pwl] = [ 0 0 1n 0 2n {sign * VDD_V:g} ]", "tran 2p 3n 0 2p", "echo POINT 0"]
    lines += ["meas tran charge integ i(vg)", "quit", ".endc", ".end"]
    deck = folder / f"{model}.sp"
    deck.write_text("\n".join(lines).replace("Vg g 0 0", "Vg g 0 pwl(0 0 1p 0)") + "\n")
    output = run_tool([find_tool("ngspice"), "-b", deck.name], cwd=folder, timeout_s=60, step=model).output
    charge = printed_values(output).get(0, {}).get("charge")
    try:
        curves = {name: np.abs(np.loadtxt(folder / f"{name}.txt")) for name in ("sat", "lin", "biased")}
    except (OSError, ValueError):
        curves = {}
    if charge is None or not curves:
        raise ToolError(f"the curves of {model} must be simulated, not fail ({deck}); repeat it with ngspice -b")

    def threshold(name: str) -> float:
        gate, current = curves[name].T
        return float(np.interp(np.log(_THRESHOLD_A / length_um), np.log(current), gate))

    gate, current = curves["sat"].T
    logs = np.log10(current)
    vt = {name: threshold(name) for name in curves}
    return DeviceFigures(
        ion_a=float(current[-1]), ioff_a=float(current[0]), vt_lin_v=vt["lin"], vt_sat_v=vt["sat"],
        swing_v_per_decade=float(np.interp(0.1, gate, gate) - 0.0) / float(np.interp(0.1, gate, logs) - logs[0]),
        dibl_v_per_v=(vt["lin"] - vt["sat"]) / (VDD_V - _LINEAR_V), body_v_per_v=(vt["sat"] - vt["biased"]) / _BIAS_V, gate_f=abs(charge) / VDD_V,
    )  # fmt: skip
