"""How delay, energy and leakage depend on supply voltage, temperature and back bias: each law is one formula.

Every law is used relative to its value at a reference corner, so that the coefficients beside it (see `fit.blocks`)
are seconds, joules and watts at that corner. `VOLTAGE_LAWS` lists the laws by name with the bounds of their parameters.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOLTZMANN_V_PER_K = 1.380649e-23 / 1.602176634e-19
"""k/q, exact in the SI of 2019."""


REFERENCE_C = 25.0
"""Temperature to which the laws' parameters refer."""


def thermal_voltage_v(temperature_c: ArrayLike) -> NDArray:
    """kT/q: 25.7 mV at 25 C."""
    return BOLTZMANN_V_PER_K * (np.asarray(temperature_c, dtype=float) + 273.15)


def ekv_delay(
    vdd_v: ArrayLike, temperature_c: ArrayLike, back_bias_v: ArrayLike, threshold_v: float, slope: float, threshold_per_c: float, body: float, mobility: float
) -> NDArray:  # fmt: skip
    """V (T/T0)^(mobility - 2) / ln^2(1 + exp((V - Vt) / (2 n kT/q))): a gate's delay, up to a factor.

    C V over the saturation current of Enz, Krummenacher, Vittoz, "An analytical MOS transistor model valid in all regions
    of operation", Analog Integrated Circuits and Signal Processing 8 (1995). Exponential below the threshold Vt (V),
    square-law above it; n is the slope factor. The current's factor goes with (kT/q)^2 and with the carriers' mobility, T^-mobility. Valid
    where velocity saturation does not limit the current. Vt falls with temperature and with forward bias: see `threshold`.
    """
    return saturated_ekv_delay(vdd_v, temperature_c, back_bias_v, threshold_v, 2.0, slope, threshold_per_c, body, mobility)


def alpha_power_delay(
    vdd_v: ArrayLike, temperature_c: ArrayLike, back_bias_v: ArrayLike, threshold_v: float, alpha: float, threshold_per_c: float, body: float, mobility: float
) -> NDArray:  # fmt: skip
    """V (T/T0)^mobility / (V - Vt)^alpha: a gate's delay, up to a factor.

    Sakurai, Newton, IEEE JSSC 25 (1990). Valid well above the threshold only: V - Vt > about 4 kT/q.
    """
    over = np.maximum(np.asarray(vdd_v) - threshold(threshold_v, threshold_per_c, body, temperature_c, back_bias_v), 1e-6)
    return np.asarray(vdd_v) * _warmer(temperature_c) ** mobility / over**alpha


def saturated_ekv_delay(
    vdd_v: ArrayLike, temperature_c: ArrayLike, back_bias_v: ArrayLike, threshold_v: float, alpha: float, slope: float, threshold_per_c: float,
    body: float, mobility: float,
) -> NDArray:  # fmt: skip
    """V (T/T0)^(mobility - alpha) / ln^alpha(1 + exp((V - Vt) / (alpha n kT/q))): a gate's delay, up to a factor.

    The EKV form with the alpha-power law's exponent, so that the current is exp((V - Vt) / (n kT/q)) below the threshold and
    (V - Vt)^alpha above it: alpha = 2 without velocity saturation, towards 1 with it. alpha = 2 is `ekv_delay`.
    """
    over = np.asarray(vdd_v) - threshold(threshold_v, threshold_per_c, body, temperature_c, back_bias_v)
    return np.asarray(vdd_v) * _warmer(temperature_c) ** (mobility - alpha) / _softplus(over / (alpha * slope * thermal_voltage_v(temperature_c))) ** alpha


def resistive_ekv_delay(
    vdd_v: ArrayLike, temperature_c: ArrayLike, back_bias_v: ArrayLike, threshold_v: float, resistance: float, slope: float, threshold_per_c: float,
    body: float, mobility: float,
) -> NDArray:  # fmt: skip
    """V (T/T0)^(mobility - 2) (1 / q^2 + resistance / q), q = ln(1 + exp((V - Vt) / (2 n kT/q))): a gate's delay, up to a factor.

    The EKV current q^2 in series with what limits it to be linear in the overdrive (velocity saturation, source resistance):
    1/I = 1/q^2 + r/q. r = 0 is `ekv_delay`.
    """
    over = np.asarray(vdd_v) - threshold(threshold_v, threshold_per_c, body, temperature_c, back_bias_v)
    q = _softplus(over / (2 * slope * thermal_voltage_v(temperature_c)))
    return np.asarray(vdd_v) * _warmer(temperature_c) ** (mobility - 2) * (1 / q**2 + resistance / q)


def threshold(threshold_v: float, threshold_per_c: float, body: float, temperature_c: ArrayLike, back_bias_v: ArrayLike) -> NDArray:
    """Vt - threshold_per_c (T - 25 C) - body x bias: the threshold voltage, V; forward bias is positive and lowers it."""
    return threshold_v - threshold_per_c * (np.asarray(temperature_c) - REFERENCE_C) - body * np.asarray(back_bias_v)


def switching_energy(
    vdd_v: ArrayLike, temperature_c: ArrayLike, back_bias_v: ArrayLike, deviation: float, per_c: float, per_v: float, short_circuit: float,
    short_circuit_per_v: float, short_circuit_bias_per_v: float,
) -> NDArray:  # fmt: skip
    """V^(2 + d) exp(per_c (T - 25 C) + per_v bias) (1 + s exp(ks (V - 1 V) + bs bias)): energy of an event, up to a factor (the switched capacitance).

    d = 0 and s = 0 is C V^2. Gate capacitance that depends on the voltage makes the measured d differ from 0. s is the share of short-circuit current at 1 V
    without bias: both transistors of a gate conduct about half way of an edge, at V/2, which near the threshold is moderate inversion, so that the share
    grows exponentially with the supply (ks, 1/V) and with forward bias, which lowers the threshold (bs, 1/V).
    """
    supply, bias = np.asarray(vdd_v), np.asarray(back_bias_v)
    shorted = short_circuit * np.exp(short_circuit_per_v * (supply - 1) + short_circuit_bias_per_v * bias)
    return supply ** (2 + deviation) * np.exp(per_c * (np.asarray(temperature_c) - REFERENCE_C) + per_v * bias) * (1 + shorted)


def leakage_power(
    vdd_v: ArrayLike, temperature_c: ArrayLike, back_bias_v: ArrayLike, dibl_per_v: float, curvature_per_v2: float, activation_ev: float,
    body_per_v: float,
) -> NDArray:  # fmt: skip
    """V exp((k1 V + k2 V^2 + kb bias) T0/T + Ea/k (1/T0 - 1/T)): leakage power, up to a factor.

    V times the off-current I0 exp((-Vt + DIBL V + body bias) / (n kT/q)): k1 (1/V) is DIBL over n kT0/q, k2 (1/V^2) its measured change with
    voltage, kb (1/V) the body factor over n kT0/q, Ea (eV) what Vt and the prefactor amount to in temperature.
    """
    colder = 1 / _warmer(temperature_c)
    rise = dibl_per_v * np.asarray(vdd_v) + curvature_per_v2 * np.asarray(vdd_v) ** 2 + body_per_v * np.asarray(back_bias_v)
    return np.asarray(vdd_v) * np.exp(rise * colder + activation_ev / thermal_voltage_v(REFERENCE_C) * (1 - colder))


def constant(vdd_v: ArrayLike, temperature_c: ArrayLike, back_bias_v: ArrayLike) -> NDArray:
    """1: a quantity that does not depend on the corner, such as an area."""
    return np.ones(np.broadcast_shapes(np.shape(vdd_v), np.shape(temperature_c), np.shape(back_bias_v)))


def _warmer(temperature_c: ArrayLike) -> NDArray:
    """T/T0, absolute."""
    return (np.asarray(temperature_c, dtype=float) + 273.15) / (REFERENCE_C + 273.15)


def _softplus(x: NDArray) -> NDArray:
    """ln(1 + exp(x)) without overflow."""
    return np.logaddexp(0, x)


CORNER_AXES = ("vdd_v", "temperature_c", "back_bias_v")
"""What a law depends on; a parameter is determined by how many values of its axis were measured."""


@dataclass(frozen=True, kw_only=True)
class LawParameter:
    """A parameter of a voltage law: where a fit may look for it, the value assumed where the data cannot determine it, the axis that determines it."""

    name: str
    unit: str
    low: float
    high: float
    assumed: float
    axis: str = "vdd_v"


class Corners(NamedTuple):
    """Supply, junction temperature and back bias, arrays that broadcast (without axes: a single corner)."""

    vdd_v: NDArray
    temperature_c: NDArray
    back_bias_v: NDArray


@dataclass(frozen=True, kw_only=True)
class VoltageLaw:
    """A formula over (vdd_v, temperature_c, back_bias_v, *parameters); parameters of an axis in the order in which few of its values determine them."""

    name: str
    formula: str
    function: Callable[..., NDArray]
    parameters: tuple[LawParameter, ...] = ()

    def relative(self, corners: Corners, reference: Corners, values: Iterable[float] | NDArray) -> NDArray:
        """The law at `corners` over the law at the reference corner, in the corners' shape."""
        return self.function(*(np.asarray(x, dtype=float) for x in corners), *values) / self.function(*(np.float64(x) for x in reference), *values)

    def assumed(self) -> NDArray:
        """The assumed values of the parameters."""
        return np.array([p.assumed for p in self.parameters])


_THRESHOLD = LawParameter(name="threshold_v", unit="V", low=0.05, high=0.7, assumed=0.35)
_SLOPE = LawParameter(name="slope", unit="1", low=1.0, high=3.0, assumed=1.3)
_WARMTH = (
    LawParameter(name="threshold_per_c", unit="V/K", low=0.0, high=3e-3, assumed=0.7e-3, axis="temperature_c"),
    LawParameter(name="body", unit="V/V", low=0.0, high=0.5, assumed=0.08, axis="back_bias_v"),
    LawParameter(name="mobility", unit="1", low=-1.0, high=3.0, assumed=1.0, axis="temperature_c"),
)
_WHERE = "; Vt = threshold_v - threshold_per_c (T - 25 C) - body bias"

VOLTAGE_LAWS = {
    law.name: law
    for law in (
        VoltageLaw(
            name="ekv", formula=f"V (T/T0)^(mobility - 2) / ln^2(1 + exp((V - Vt) / (2 slope kT/q))){_WHERE}", function=ekv_delay,
            parameters=(_THRESHOLD, _SLOPE, *_WARMTH),
        ),
        VoltageLaw(
            name="alpha_power", formula=f"V (T/T0)^mobility / (V - Vt)^alpha{_WHERE}", function=alpha_power_delay,
            # Its threshold must stay below the lowest voltage fitted: `fit.regression` sees to that.
            parameters=(_THRESHOLD, LawParameter(name="alpha", unit="1", low=0.8, high=3.0, assumed=1.3), *_WARMTH),
        ),
        VoltageLaw(
            name="saturated_ekv", formula=f"V (T/T0)^(mobility - alpha) / ln^alpha(1 + exp((V - Vt) / (alpha slope kT/q))){_WHERE}",
            function=saturated_ekv_delay,
            parameters=(_THRESHOLD, LawParameter(name="alpha", unit="1", low=0.8, high=2.5, assumed=1.3), _SLOPE, *_WARMTH),
        ),
        VoltageLaw(
            name="resistive_ekv", formula=f"V (T/T0)^(mobility - 2) (1/q^2 + resistance/q), q = ln(1 + exp((V - Vt) / (2 slope kT/q))){_WHERE}",
            function=resistive_ekv_delay,
            parameters=(_THRESHOLD, LawParameter(name="resistance", unit="1", low=0.0, high=2.0, assumed=0.1), _SLOPE, *_WARMTH),
        ),
        VoltageLaw(
            name="switching", function=switching_energy,
            formula="V^(2 + deviation) exp(per_c (T - 25 C) + per_v bias)"
            " (1 + short_circuit exp(short_circuit_per_v (V - 1 V) + short_circuit_bias_per_v bias))",
            parameters=(
                LawParameter(name="deviation", unit="1", low=-1.0, high=2.0, assumed=0.0),
                LawParameter(name="per_c", unit="1/K", low=-2e-3, high=5e-3, assumed=0.0, axis="temperature_c"),
                LawParameter(name="per_v", unit="1/V", low=-1.0, high=1.0, assumed=0.0, axis="back_bias_v"),
                LawParameter(name="short_circuit", unit="1", low=0.0, high=0.5, assumed=0.0),
                LawParameter(name="short_circuit_per_v", unit="1/V", low=0.0, high=15.0, assumed=6.0),
                LawParameter(name="short_circuit_bias_per_v", unit="1/V", low=0.0, high=4.0, assumed=1.0, axis="back_bias_v"),
            ),
        ),
        VoltageLaw(
            name="leakage", formula="V exp((dibl_per_v V + curvature_per_v2 V^2 + body_per_v bias) T0/T + activation_ev/k (1/T0 - 1/T))",
            function=leakage_power,
            parameters=(
                LawParameter(name="dibl_per_v", unit="1/V", low=0.0, high=12.0, assumed=3.0),
                LawParameter(name="curvature_per_v2", unit="1/V^2", low=-6.0, high=6.0, assumed=0.0),
                LawParameter(name="activation_ev", unit="eV", low=0.0, high=1.2, assumed=0.3, axis="temperature_c"),
                LawParameter(name="body_per_v", unit="1/V", low=-2.0, high=10.0, assumed=2.0, axis="back_bias_v"),
            ),
        ),
        VoltageLaw(name="constant", formula="1", function=constant),
    )
}  # fmt: skip
DELAY_LAWS = ("ekv", "alpha_power", "saturated_ekv", "resistive_ekv")
"""The delay laws that are compared by their errors at voltages left out."""
