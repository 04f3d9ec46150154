"""Robust regression of one law: value = offset + (sum of coefficient x structural term) x (corner law over its reference).

It is done as for panel data. Within a curve (one variant of a block doing one thing) only the corner differs, so the corner law is
fitted to the curves' logarithms whatever their heights. What is left of each curve is its height at the reference corner; between curves only
the structure differs, so the coefficients are fitted to the heights. Coefficients are never negative. Rows are weighted by their
sampling error and bounded in influence (soft L1). What the data cannot determine is left out and says so:

* `fitted`: determined by the data;
* `at_bound`: the best value is the bound (for a coefficient: 0);
* `unused`: its effect is within what variants left out in turn can tell, so that predictions are better without it; it is 0;
* `undetermined`: a coefficient whose term does not vary independently of the terms before it among the variants measured; it is 0;
* `assumed`: a corner parameter for which too few corners were measured; it has the law's assumed value;
* `shared`: the same where the fit starts from another one: it has that one's value.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls
from scipy.stats import t as student_t

from fit.laws import CORNER_AXES, Corners, VoltageLaw
from fit.model import Status
from hw.errors import ModelError

MODEL_ERROR_FLOOR = 0.01
"""Standard deviation (of the logarithm) that a law is never expected to beat: keeps precise rows from ruling the fit."""
NEGLIGIBLE_SHARE = 1e-3
"""A term that makes up less than this of every prediction sits on its bound of 0."""
NORMAL_90 = 1.6448536269514722
"""Half-width of a 90 % interval in standard deviations."""
_INDEPENDENT = 1e-5
"""Least part of a normalized term that must be independent of the terms before it."""
_HARMLESS = 1.02
"""A term is not used if the error of variants left out is at most this much larger without it."""
_FLOOR = 1e-4
"""Errors of variants left out below this do not matter."""
_LEAST_EFFECT = 1e-9
"""A corner parameter that moves no weighted residual by this over its whole range is not determined by them."""
_LEAST_REMAINDER = 0.02
"""Least part of a value that must remain above its offset; a remainder below is known too badly and counts as this."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Rows to fit. `terms` [rows, terms]; `corners` and the others [rows]: `value` > 0, `offset` the part of it that is known, `sampling_log_sd`,
    `curve` numbers what differs in the corner only, `variant` the parameter sets."""

    terms: NDArray
    corners: Corners
    value: NDArray
    offset: NDArray
    sampling_log_sd: NDArray
    curve: NDArray
    variant: NDArray

    def take(self, rows: NDArray) -> "Samples":
        """Only those rows."""
        names = ("terms", "value", "offset", "sampling_log_sd", "curve", "variant")
        return Samples(corners=Corners(*(axis[rows] for axis in self.corners)), **{name: getattr(self, name)[rows] for name in names})


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Coefficients [terms] at the reference corner and corner parameters, each with its status; standard errors are NaN where unknown.

    `condition` is that of the normalized terms kept; `log_sd` the standard deviation of a prediction for a variant not
    measured (of its logarithm, widened for few variants so that +-1.645 of it covers 90 %).
    """

    law: VoltageLaw
    reference: Corners
    coefficients: NDArray
    coefficient_errors: NDArray
    coefficient_status: tuple[Status, ...]
    corner_values: NDArray
    corner_errors: NDArray
    corner_status: tuple[Status, ...]
    condition: float
    residual_log_sd: float
    log_sd: float

    def predict(self, samples: Samples) -> NDArray:
        """The law at the terms, corners and offsets of `samples` [rows]."""
        return samples.offset + samples.terms @ self.coefficients * self.law.relative(samples.corners, self.reference, self.corner_values)


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """Heights at the reference corner of the curves, with the terms, weight and variant of each."""

    terms: NDArray
    height: NDArray
    weight: NDArray
    variant: NDArray


def estimate(samples: Samples, law: VoltageLaw, reference: Corners, *, select: bool = False, near: NDArray | None = None) -> Estimate:
    """Fit without standard errors (see `estimate_with_errors`). `near` are corner parameters to start from, and to keep where
    these corners cannot determine them.

    With `select` only those terms are used that lower the error of variants left out in turn. Raises `ModelError`
    if the fit does not converge.
    """
    if not samples.terms.any():
        raise ModelError("structural terms must have one that is not zero, not none; look at the table's parameter columns")
    values, corner_status = _fit_corners(samples, law, reference, near)
    curves = _heights(samples, law, reference, values)
    kept = _independent_terms(curves)
    used = _select(curves, kept) if select else kept
    coefficients = np.zeros(samples.terms.shape[1])
    status: list[Status] = ["undetermined"] * samples.terms.shape[1]
    for k in kept:
        status[k] = "unused"
    found = _solve_structure(curves, used)
    for k, value in zip(used, found, strict=True):
        coefficients[k], status[k] = value, "fitted" if value > 0 else "at_bound"
    if not coefficients.any():
        raise ModelError("a coefficient must be above 0, not all 0; look at the table's rows")
    result = Estimate(
        law=law, reference=reference, coefficients=coefficients, coefficient_errors=np.full(len(coefficients), np.nan), coefficient_status=tuple(status),
        corner_values=values, corner_errors=np.full(len(values), np.nan), corner_status=corner_status,
        condition=float(np.linalg.cond(_normalized(curves.terms[:, used]))), residual_log_sd=np.nan, log_sd=np.nan,
    )  # fmt: skip
    residual = np.log(np.maximum(result.predict(samples), 1e-3 * samples.value) / samples.value)
    freedom = max(1, len(residual) - np.count_nonzero(coefficients) - corner_status.count("fitted"))
    spread = float(np.sqrt(np.sum(residual**2) / freedom))
    return replace(result, residual_log_sd=spread, log_sd=spread)


def leave_out(samples: Samples, groups: NDArray, law: VoltageLaw, reference: Corners, near: NDArray | None = None) -> tuple[NDArray, list[Estimate]]:
    """Relative errors [rows] of each row predicted by a fit without its group, and those fits; no fits if there is one group only."""
    errors, fits = np.full(len(samples.value), np.nan), []
    names = np.unique(groups)
    for name in names if len(names) > 1 else ():
        out = groups == name
        fits.append(estimate(samples.take(~out), law, reference, near=near))
        errors[out] = fits[-1].predict(samples.take(out)) / samples.value[out] - 1
    return errors, fits


def leave_voltages_out(samples: Samples, law: VoltageLaw, reference: Corners) -> NDArray:
    """Relative errors [rows] of each row predicted from the other voltages of its curve, by the corner law alone."""
    errors = np.full(len(samples.value), np.nan)
    _, number = np.unique(samples.curve, return_inverse=True)
    for vdd_v in np.unique(samples.corners.vdd_v):
        out = samples.corners.vdd_v == vdd_v
        train, test = samples.take(~out), samples.take(out)
        values, _ = _fit_corners(train, law, reference)
        known, at = np.unique(number[~out]), number[out]
        height = np.full(number.max() + 1, np.nan)
        height[known] = _heights(train, law, reference, values).height
        errors[out] = (test.offset + height[at] * law.relative(test.corners, reference, values)) / test.value - 1
    return errors


def estimate_with_errors(samples: Samples, law: VoltageLaw, reference: Corners, *, select: bool = False) -> tuple[Estimate, NDArray]:
    """The fit of all rows with jackknife errors, and the relative error [rows] of each variant left out (NaN with one variant).

    Standard errors are the jackknife over variants: residuals of one variant at different corners go together, so
    rows are not independent but variants are. A parameter that a fit without one of the variants does not determine has none.
    """
    whole = estimate(samples, law, reference, select=select)
    used = np.array([s in ("fitted", "at_bound") for s in whole.coefficient_status])
    same_terms = replace(samples, terms=samples.terms * used)
    errors, fits = leave_out(same_terms, samples.variant, law, reference, whole.corner_values)
    if not fits:
        rows = len(samples.value)
        return replace(whole, log_sd=whole.residual_log_sd * student_t.ppf(0.95, max(1, rows - 1)) / NORMAL_90), errors
    n = len(fits)

    def jackknife(name: str, status: str) -> NDArray:
        values = np.array([getattr(fit, name) for fit in fits])
        known = np.array([[s in ("fitted", "at_bound") for s in getattr(fit, status)] for fit in fits]).all(axis=0)
        known &= np.array([s in ("fitted", "at_bound") for s in getattr(whole, status)], dtype=bool)
        return np.where(known, np.sqrt((n - 1) / n * np.sum((values - values.mean(axis=0)) ** 2, axis=0)), np.nan)

    logs = np.log1p(np.maximum(errors, -0.999))
    per_variant = np.array([np.mean(logs[samples.variant == v] ** 2) for v in np.unique(samples.variant)])
    log_sd = float(np.sqrt(per_variant.mean()) * student_t.ppf(0.95, n - 1) / NORMAL_90)
    return replace(
        whole, coefficient_errors=jackknife("coefficients", "coefficient_status"), corner_errors=jackknife("corner_values", "corner_status"),
        log_sd=max(log_sd, whole.residual_log_sd),
    ), errors  # fmt: skip


def _remainder(samples: Samples) -> tuple[NDArray, NDArray]:
    """What is above the offset, and the weight of its logarithm."""
    above = np.maximum(samples.value - samples.offset, _LEAST_REMAINDER * samples.value)
    weight = above / samples.value / np.hypot(samples.sampling_log_sd, MODEL_ERROR_FLOOR)
    return above, weight / weight.max()


def _fit_corners(samples: Samples, law: VoltageLaw, reference: Corners, near: NDArray | None = None) -> tuple[NDArray, tuple[Status, ...]]:
    """Corner parameters, and the status of each: as many of an axis are fitted as it has values but one."""
    left = {axis: len(np.unique(values)) - 1 for axis, values in zip(CORNER_AXES, samples.corners, strict=True)}
    several = []
    for p in law.parameters:
        several.append(left[p.axis] > 0)
        left[p.axis] -= 1
    free = np.array(several, dtype=bool)
    low, high = _corner_bounds(law, samples.corners.vdd_v)
    values = np.clip(law.assumed() if near is None else near, low, high)
    kept: Status = "assumed" if near is None else "shared"
    if not free.any():
        return values, (kept,) * len(values)
    above, weight = _remainder(samples)
    log_value = np.log(above)
    _, number = np.unique(samples.curve, return_inverse=True)
    total = np.bincount(number, weights=weight)

    def residual(theta: NDArray) -> NDArray:
        full = values.copy()
        full[free] = theta
        rest = log_value - np.log(law.relative(samples.corners, reference, full))
        return weight * (rest - (np.bincount(number, weights=weight * rest) / total)[number])

    begin = values if near is None else near
    begin = np.clip(begin[free], low[free] + 1e-3 * (high - low)[free], high[free] - 1e-3 * (high - low)[free])
    options = {"bounds": (low[free], high[free]), "x_scale": (high - low)[free]}
    if near is None:
        begin = least_squares(residual, begin, **options).x
    spread = max(1.4826 * np.median(np.abs(residual(begin))), 1e-4)
    solution = least_squares(residual, begin, loss="soft_l1", f_scale=spread, **options)
    if solution.status <= 0 or not np.all(np.isfinite(solution.x)):
        raise ModelError(f"fit of the {law.name} law must converge, not stop with: {solution.message}; look at the table's rows")
    # What moves no residual, such as the growth of a share that is 0, is not determined either: it keeps its value.
    moves = np.abs(solution.jac).max(axis=0) * (high - low)[free] > _LEAST_EFFECT
    free[free] = moves
    values[free] = solution.x[moves]
    edge = 1e-3 * (high - low)
    inner = (values > low + edge) & (values < high - edge)
    return values, tuple(kept if not f else "fitted" if i else "at_bound" for f, i in zip(free, inner, strict=True))


def _heights(samples: Samples, law: VoltageLaw, reference: Corners, values: NDArray) -> _Curves:
    above, weight = _remainder(samples)
    rest = np.log(above / law.relative(samples.corners, reference, values))
    _, first, number = np.unique(samples.curve, return_index=True, return_inverse=True)
    total = np.bincount(number, weights=weight)
    return _Curves(
        terms=samples.terms[first], height=np.exp(np.bincount(number, weights=weight * rest) / total), weight=np.sqrt(total / total.max()),
        variant=samples.variant[first],
    )  # fmt: skip


def _solve_structure(curves: _Curves, used: list[int], rounds: int = 20) -> NDArray:
    """Coefficients of the terms `used`: robust least squares of relative errors, reweighted at most `rounds` times; negligible terms are 0."""
    columns = curves.terms[:, used] / curves.height[:, None]
    scale = np.maximum(np.abs(columns).max(axis=0), 1e-300)
    columns = columns / scale
    robust, found = np.ones(len(columns)), np.zeros(len(used))
    for _ in range(rounds):
        weight = curves.weight * np.sqrt(robust)
        before, found = found, nnls(columns * weight[:, None], weight)[0]
        error = columns @ found - 1
        # Errors of the logarithm where a prediction is far too low, so that it counts as much as one far too high.
        error = np.where(error < 0, np.log1p(np.maximum(error, -0.99)), error)
        spread = max(1.4826 * np.median(np.abs(curves.weight * error)), MODEL_ERROR_FLOOR)
        robust = 1 / np.sqrt(1 + (curves.weight * error / spread) ** 2)
        if np.allclose(found, before, rtol=1e-7, atol=1e-12):
            break
    total = np.maximum(columns @ found, 1e-300)
    found[(columns * found / total[:, None]).max(axis=0) < NEGLIGIBLE_SHARE] = 0.0
    return found / scale


def _select(curves: _Curves, kept: list[int]) -> list[int]:
    """Of the terms `kept` those worth using: taken away one by one as long as the error of variants left out does not grow without it."""
    variants = np.unique(curves.variant)

    def error(used: list[int]) -> float:
        squares = []
        for variant in variants:
            out = curves.variant == variant
            rest = _Curves(terms=curves.terms[~out], height=curves.height[~out], weight=curves.weight[~out], variant=curves.variant[~out])
            predicted = curves.terms[out][:, used] @ _solve_structure(rest, used, rounds=3)
            squares.append(np.mean(np.log(np.maximum(predicted, 1e-3 * curves.height[out]) / curves.height[out]) ** 2))
        return float(np.sqrt(np.mean(squares)))

    used = list(kept)
    if len(variants) < 3:
        return used[:1]
    best = error(used)
    while len(used) > 1:
        trials = [error([k for k in used if k != out]) for out in used]
        if min(trials) > _HARMLESS * max(best, _FLOOR):
            break
        best = min(best, min(trials))
        used.pop(int(np.argmin(trials)))
    return used


def _independent_terms(curves: _Curves) -> list[int]:
    """Terms, in their order, that vary independently of the ones before; one fewer than variants, so that a variant can be left out."""
    matrix = _normalized(curves.terms)
    most = max(1, len(np.unique(curves.variant)) - 1)
    kept: list[int] = []
    basis = np.zeros((len(matrix), 0))
    for k in range(matrix.shape[1]):
        rest = matrix[:, k] - basis @ (basis.T @ matrix[:, k])
        if len(kept) < most and np.linalg.norm(rest) > _INDEPENDENT:
            kept.append(k)
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    return kept


def _normalized(matrix: NDArray) -> NDArray:
    """Each column over its length; a column of zeros stays."""
    return matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)


def _corner_bounds(law: VoltageLaw, voltages: NDArray) -> tuple[NDArray, NDArray]:
    """Bounds of the corner parameters; the alpha-power law has no current below its threshold, which therefore lies below every voltage."""
    low, high = (np.array([getattr(p, side) for p in law.parameters], dtype=float) for side in ("low", "high"))
    if law.name == "alpha_power":
        high[0] = min(high[0], voltages.min() - 0.02)
    return low, high
