"""Robust regression of one law: value = (sum of coefficient x structural term) x (voltage law over its reference).

Coefficients are never negative. Residuals are logarithmic, so that small and large blocks count alike, weighted by their
sampling error, and bounded in influence (soft L1). What the data cannot determine is left out and says so:

* `fitted`: determined by the data;
* `at_bound`: the best value is the bound (for a coefficient: 0);
* `undetermined`: a coefficient whose term does not vary independently of the terms before it among the variants measured; it is 0;
* `assumed`: a voltage parameter for which too few voltages were measured; it has the law's assumed value.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares, nnls
from scipy.stats import t as student_t

from fit.laws import VoltageLaw
from hw.errors import ModelError

MODEL_ERROR_FLOOR = 0.01
"""Standard deviation (of the logarithm) that a law is never expected to beat: keeps precise rows from ruling the fit."""
NEGLIGIBLE_SHARE = 1e-3
"""A term that makes up less than this of every prediction sits on its bound of 0."""
MOST_FOLDS = 10
"""Fits without some of the groups, at most."""
_INDEPENDENT = 1e-5
"""Least part of a normalized term that must be independent of the terms before it."""
_NORMAL_90 = 1.6448536269514722


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Rows to fit. `terms` [rows, terms]; `vdd_v`, `value` (> 0), `sampling_log_sd`, `variant` (number of the parameter set) [rows]."""

    terms: NDArray
    vdd_v: NDArray
    value: NDArray
    sampling_log_sd: NDArray
    variant: NDArray

    def take(self, rows: NDArray) -> "Samples":
        """Only those rows."""
        return Samples(**{name: getattr(self, name)[rows] for name in ("terms", "vdd_v", "value", "sampling_log_sd", "variant")})


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Coefficients [terms] at the reference voltage and voltage parameters, each with its status; standard errors are NaN where unknown.

    `condition` is that of the normalized terms kept; `log_sd` the standard deviation of a prediction for a variant not
    measured (of its logarithm, widened for few variants so that +-1.645 of it covers 90 %).
    """

    law: VoltageLaw
    reference_vdd_v: float
    temperature_c: float
    coefficients: NDArray
    coefficient_errors: NDArray
    coefficient_status: tuple[str, ...]
    voltage_values: NDArray
    voltage_errors: NDArray
    voltage_status: tuple[str, ...]
    condition: float
    residual_log_sd: float
    log_sd: float

    def predict(self, terms: NDArray, vdd_v: NDArray) -> NDArray:
        """The law at [rows] terms and voltages."""
        return terms @ self.coefficients * self.law.relative(vdd_v, self.reference_vdd_v, self.temperature_c, self.voltage_values)


def estimate(samples: Samples, law: VoltageLaw, reference_vdd_v: float, temperature_c: float, near: "Estimate | None" = None) -> Estimate:
    """Fit without standard errors (see `estimate_with_errors`); raises `ModelError` if it does not converge.

    `near` is a fit to start from, of nearly the same rows: it saves time and does not change the solution.
    """
    kept = _independent_terms(samples)
    voltages = np.unique(samples.vdd_v)
    fitted = min(len(law.parameters), len(voltages) - 1)
    low, high = _voltage_bounds(law, voltages)
    values = np.clip([p.assumed for p in law.parameters], low, high)
    weight = 1 / np.hypot(samples.sampling_log_sd, MODEL_ERROR_FLOOR)
    weight = weight / weight.max()
    scale = np.array([_typical_ratio(samples.value, samples.terms[:, k]) for k in kept])
    columns = samples.terms[:, kept] * scale
    log_value = np.log(samples.value)

    def relative(theta):
        return law.relative(samples.vdd_v, reference_vdd_v, temperature_c, np.concatenate([theta, values[fitted:]]))

    def residual(x):
        return weight * (np.log(np.maximum(columns @ x[: len(kept)], 1e-30) * relative(x[len(kept) :])) - log_value)

    def jacobian(x):
        by_coefficient = columns / np.maximum(columns @ x[: len(kept)], 1e-30)[:, None]
        by_voltage = np.empty((len(log_value), fitted))
        for j in range(fitted):
            step = np.zeros(fitted)
            step[j] = 1e-6
            by_voltage[:, j] = (np.log(relative(x[len(kept) :] + step)) - np.log(relative(x[len(kept) :] - step))) / 2e-6
        return weight[:, None] * np.hstack([by_coefficient, by_voltage])

    bounds = (np.concatenate([np.zeros(len(kept)), low[:fitted]]), np.concatenate([np.full(len(kept), np.inf), high[:fitted]]))

    def solve(start, **options):
        found = least_squares(residual, start, jac=jacobian, bounds=bounds, x_scale="jac", method="dogbox", max_nfev=400, **options)
        if found.status > 0:
            return found
        # Dogbox can go to and fro between bounds; the reflective method does not.
        inside = np.clip(found.x, bounds[0] + 1e-9, bounds[1] - 1e-9)
        return least_squares(residual, inside, jac=jacobian, bounds=bounds, x_scale="jac", method="trf", max_nfev=2000, **options)

    if near is None:
        first = nnls(columns * (relative(values[:fitted]) / samples.value * weight)[:, None], weight)[0]
        start = np.concatenate([np.maximum(first, 1e-3), np.clip(values[:fitted], low[:fitted] + 1e-3, high[:fitted] - 1e-3)])
        solution = solve(start)
    else:
        start = np.concatenate([np.maximum(near.coefficients[kept] / scale, 1e-6), np.clip(near.voltage_values[:fitted], low[:fitted], high[:fitted])])
        solution = OptimizeResult(x=start, fun=residual(start), status=1)
    # The residual up to which a row counts in full comes from the solution before; it settles as the pull of outliers fades.
    spread, before = max(1.4826 * np.median(np.abs(solution.fun)), 1e-4), np.inf
    while spread < 0.7 * before:
        solution = solve(solution.x, loss="soft_l1", f_scale=spread)
        spread, before = max(1.4826 * np.median(np.abs(solution.fun)), 1e-4), spread
    if solution.status <= 0 or not np.all(np.isfinite(solution.x)):
        raise ModelError(f"fit of the {law.name} law must converge, not stop with: {solution.message}; look at the table's rows")

    x = solution.x
    share = (columns * x[: len(kept)] / (columns @ x[: len(kept)])[:, None]).max(axis=0)
    x[: len(kept)][share < NEGLIGIBLE_SHARE] = 0.0
    coefficients, status = np.zeros(samples.terms.shape[1]), ["undetermined"] * samples.terms.shape[1]
    for position, k in enumerate(kept):
        coefficients[k] = x[position] * scale[position]
        status[k] = "fitted" if x[position] > 0 else "at_bound"
    values[:fitted] = x[len(kept) :]
    edge = 1e-3 * (high - low)
    voltage_status = tuple(
        "assumed" if j >= fitted else "at_bound" if not low[j] + edge[j] < values[j] < high[j] - edge[j] else "fitted" for j in range(len(values))
    )
    freedom = max(1, len(log_value) - np.count_nonzero(x))
    residual_log_sd = float(np.sqrt(np.sum((solution.fun / weight) ** 2) / freedom))
    return Estimate(
        law=law, reference_vdd_v=reference_vdd_v, temperature_c=temperature_c, coefficients=coefficients, coefficient_errors=np.full(len(coefficients), np.nan),
        coefficient_status=tuple(status), voltage_values=values, voltage_errors=np.full(len(values), np.nan), voltage_status=voltage_status,
        condition=float(np.linalg.cond(_normalized(samples.terms[:, kept]))), residual_log_sd=residual_log_sd, log_sd=residual_log_sd,
    )  # fmt: skip


def leave_out(
    samples: Samples, groups: NDArray, law: VoltageLaw, reference_vdd_v: float, temperature_c: float, near: Estimate | None = None
) -> tuple[NDArray, list[Estimate]]:
    """Relative errors [rows] of each row predicted by a fit without its group, and those fits; no fits if there is one group only.

    More than `MOST_FOLDS` groups are left out several at a time.
    """
    errors, fits = np.full(len(samples.value), np.nan), []
    names, number = np.unique(groups, return_inverse=True)
    number = number % MOST_FOLDS
    for fold in np.unique(number) if len(names) > 1 else ():
        out = number == fold
        fits.append(estimate(samples.take(~out), law, reference_vdd_v, temperature_c, near))
        errors[out] = fits[-1].predict(samples.terms[out], samples.vdd_v[out]) / samples.value[out] - 1
    return errors, fits


def estimate_with_errors(samples: Samples, law: VoltageLaw, reference_vdd_v: float, temperature_c: float) -> tuple[Estimate, NDArray]:
    """The fit of all rows with jackknife errors, and the relative error [rows] of each variant left out (NaN with one variant).

    Standard errors are the jackknife over variants: residuals of one variant at different voltages go together, so
    rows are not independent but variants are. A parameter that a fit without one of the variants does not determine has none.
    """
    whole = estimate(samples, law, reference_vdd_v, temperature_c)
    errors, fits = leave_out(samples, samples.variant, law, reference_vdd_v, temperature_c, whole)
    if not fits:
        rows = len(samples.value)
        return replace(whole, log_sd=whole.residual_log_sd * student_t.ppf(0.95, max(1, rows - 1)) / _NORMAL_90), errors
    n = len(fits)

    def jackknife(name, status):
        values = np.array([getattr(fit, name) for fit in fits])
        known = np.array([[s in ("fitted", "at_bound") for s in getattr(fit, status)] for fit in fits]).all(axis=0)
        known &= np.array([s != "assumed" and s != "undetermined" for s in getattr(whole, status)], dtype=bool)
        return np.where(known, np.sqrt((n - 1) / n * np.sum((values - values.mean(axis=0)) ** 2, axis=0)), np.nan)

    with np.errstate(invalid="ignore"):
        logs = np.log1p(np.maximum(errors, -0.999))
    per_variant = np.array([np.mean(logs[samples.variant == v] ** 2) for v in np.unique(samples.variant)])
    log_sd = float(np.sqrt(per_variant.mean()) * student_t.ppf(0.95, n - 1) / _NORMAL_90)
    return replace(
        whole, coefficient_errors=jackknife("coefficients", "coefficient_status"), voltage_errors=jackknife("voltage_values", "voltage_status"),
        log_sd=max(log_sd, whole.residual_log_sd),
    ), errors  # fmt: skip


def _independent_terms(samples: Samples) -> list[int]:
    """Terms, in their order, that vary independently of the ones before; one fewer than variants, so that a variant can be left out."""
    _, first = np.unique(samples.variant, return_index=True)
    matrix = _normalized(samples.terms[first])
    most = max(1, len(first) - 1)
    kept, basis = [], np.zeros((len(first), 0))
    for k in range(matrix.shape[1]):
        rest = matrix[:, k] - basis @ (basis.T @ matrix[:, k])
        if len(kept) < most and np.linalg.norm(rest) > _INDEPENDENT:
            kept.append(k)
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    if not kept:
        raise ModelError("structural terms must have one that is not zero, not none; look at the table's parameter columns")
    return kept


def _typical_ratio(value: NDArray, term: NDArray) -> float:
    present = term > 0
    return float(np.median(value[present] / term[present]))


def _normalized(matrix: NDArray) -> NDArray:
    """Each column over its length; a column of zeros stays."""
    return matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)


def _voltage_bounds(law: VoltageLaw, voltages: NDArray) -> tuple[NDArray, NDArray]:
    """Bounds of the voltage parameters; the alpha-power law has no current below its threshold, which therefore lies below every voltage."""
    low, high = (np.array([getattr(p, side) for p in law.parameters], dtype=float) for side in ("low", "high"))
    if law.name == "alpha_power":
        high[0] = min(high[0], voltages.min() - 0.02)
    return low, high
