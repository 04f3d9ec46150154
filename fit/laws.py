"""How delay, energy and leakage depend on the supply voltage: each law is one formula.

Every law is used relative to its value at a reference voltage, so that the coefficients beside it (see `fit.blocks`)
are seconds, joules and watts at that voltage. `VOLTAGE_LAWS` lists the laws by name with the bounds of their parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOLTZMANN_V_PER_K = 1.380649e-23 / 1.602176634e-19
"""k/q, exact in the SI of 2019."""


def thermal_voltage_v(temperature_c: float) -> float:
    """kT/q: 25.7 mV at 25 C."""
    return BOLTZMANN_V_PER_K * (temperature_c + 273.15)


def ekv_delay(vdd_v: ArrayLike, temperature_c: float, threshold_v: float, slope: float) -> NDArray:
    """V / ln^2(1 + exp((V - Vt) / (2 n kT/q))): a gate's delay, up to a factor.

    C V over the saturation current of Enz, Krummenacher, Vittoz, "An analytical MOS transistor model valid in all regions
    of operation", Analog Integrated Circuits and Signal Processing 8 (1995). Exponential below the threshold Vt (V),
    square-law above it; n is the slope factor. Valid where velocity saturation does not limit the current.
    """
    return vdd_v / _softplus((np.asarray(vdd_v) - threshold_v) / (2 * slope * thermal_voltage_v(temperature_c))) ** 2


def alpha_power_delay(vdd_v: ArrayLike, temperature_c: float, threshold_v: float, alpha: float) -> NDArray:
    """V / (V - Vt)^alpha: a gate's delay, up to a factor; the temperature is not used.

    Sakurai, Newton, IEEE JSSC 25 (1990). Valid well above the threshold only: V - Vt > about 4 kT/q.
    """
    return vdd_v / (np.asarray(vdd_v) - threshold_v) ** alpha


def saturated_ekv_delay(vdd_v: ArrayLike, temperature_c: float, threshold_v: float, alpha: float, slope: float) -> NDArray:
    """V / ln^alpha(1 + exp((V - Vt) / (alpha n kT/q))): a gate's delay, up to a factor.

    The EKV form with the alpha-power law's exponent, so that the current is exp((V - Vt) / (n kT/q)) below the threshold and
    (V - Vt)^alpha above it: alpha = 2 without velocity saturation, towards 1 with it. alpha = 2 is `ekv_delay`.
    """
    return vdd_v / _softplus((np.asarray(vdd_v) - threshold_v) / (alpha * slope * thermal_voltage_v(temperature_c))) ** alpha


def switching_energy(vdd_v: ArrayLike, temperature_c: float, deviation: float) -> NDArray:
    """V^(2 + d): energy of an event, up to a factor (the switched capacitance).

    d = 0 is C V^2; short-circuit current and voltage-dependent gate capacitance make the measured d differ from 0.
    """
    return np.asarray(vdd_v) ** (2 + deviation)


def leakage_power(vdd_v: ArrayLike, temperature_c: float, dibl_per_v: float, curvature_per_v2: float) -> NDArray:
    """V exp(k1 V + k2 V^2): leakage power at one temperature, up to a factor.

    V times the off-current I0 exp(DIBL V / (n kT/q)): k1 (1/V) is DIBL over n kT/q; k2 (1/V^2) its measured change with voltage.
    """
    return vdd_v * np.exp(dibl_per_v * np.asarray(vdd_v) + curvature_per_v2 * np.asarray(vdd_v) ** 2)


def constant(vdd_v: ArrayLike, temperature_c: float) -> NDArray:
    """1: a quantity that does not depend on the supply, such as an area."""
    return np.ones(np.shape(vdd_v))


def _softplus(x: ArrayLike) -> NDArray:
    """ln(1 + exp(x)) without overflow."""
    return np.logaddexp(0, x)


@dataclass(frozen=True, kw_only=True)
class LawParameter:
    """A parameter of a voltage law: where a fit may look for it, and the value assumed where the data cannot determine it."""

    name: str
    unit: str
    low: float
    high: float
    assumed: float


@dataclass(frozen=True, kw_only=True)
class VoltageLaw:
    """A formula over (vdd_v, temperature_c, *parameters); parameters in the order in which few voltages determine them."""

    name: str
    formula: str
    function: Callable[..., NDArray]
    parameters: tuple[LawParameter, ...] = ()

    def relative(self, vdd_v: ArrayLike, reference_vdd_v: float, temperature_c: float, values: ArrayLike) -> NDArray:
        """The law at `vdd_v` over the law at the reference voltage, same shape as `vdd_v`."""
        return self.function(np.asarray(vdd_v, dtype=float), temperature_c, *values) / self.function(np.float64(reference_vdd_v), temperature_c, *values)


_THRESHOLD = LawParameter(name="threshold_v", unit="V", low=0.05, high=0.7, assumed=0.35)
_SLOPE = LawParameter(name="slope", unit="1", low=1.0, high=3.0, assumed=1.3)

VOLTAGE_LAWS = {
    law.name: law
    for law in (
        VoltageLaw(name="ekv", formula="V / ln^2(1 + exp((V - threshold_v) / (2 slope kT/q)))", function=ekv_delay, parameters=(_THRESHOLD, _SLOPE)),
        VoltageLaw(
            name="alpha_power", formula="V / (V - threshold_v)^alpha", function=alpha_power_delay,
            # Its threshold must stay below the lowest voltage fitted: `fit.regression` sees to that.
            parameters=(_THRESHOLD, LawParameter(name="alpha", unit="1", low=0.8, high=3.0, assumed=1.3)),
        ),
        VoltageLaw(
            name="saturated_ekv", formula="V / ln^alpha(1 + exp((V - threshold_v) / (alpha slope kT/q)))", function=saturated_ekv_delay,
            parameters=(_THRESHOLD, LawParameter(name="alpha", unit="1", low=0.8, high=2.5, assumed=1.3), _SLOPE),
        ),
        VoltageLaw(
            name="switching", formula="V^(2 + deviation)", function=switching_energy,
            parameters=(LawParameter(name="deviation", unit="1", low=-1.0, high=2.0, assumed=0.0),),
        ),
        VoltageLaw(
            name="leakage", formula="V exp(dibl_per_v V + curvature_per_v2 V^2)", function=leakage_power,
            parameters=(
                LawParameter(name="dibl_per_v", unit="1/V", low=0.0, high=12.0, assumed=3.0),
                LawParameter(name="curvature_per_v2", unit="1/V^2", low=-6.0, high=6.0, assumed=0.0),
            ),
        ),
        VoltageLaw(name="constant", formula="1", function=constant),
    )
}  # fmt: skip
DELAY_LAWS = ("ekv", "alpha_power", "saturated_ekv")
"""The delay laws that are compared by their errors at voltages left out."""
