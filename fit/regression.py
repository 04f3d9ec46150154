"""Robust regression of one law: value = offset + wires + (sum of coefficient x structural term) x (corner law over its reference).

It is done as for panel data. Within a curve (one variant of a block doing one thing) only the corner differs, so the corner law is
fitted to the curves' logarithms whatever their heights; so are the coefficients of wires, whose delay is the same at every corner: the flatter a curve,
the more of it are wires. What is left of each curve is its height at the reference corner; between curves only
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
from typing import NamedTuple

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
LEAST_SUPPLIES = 5
"""So many supplies tell what does not depend on the supply from the shape of the corner law."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Rows to fit. `terms` [rows, terms] and `wires` [rows, wires], those that no corner changes; `corners` and the others [rows]: `value` > 0, `offset`
    the part of it that is known, `sampling_log_sd`, `curve` numbers what differs in the corner only, `variant` the parameter sets."""

    terms: NDArray
    wires: NDArray
    corners: Corners
    value: NDArray
    offset: NDArray
    sampling_log_sd: NDArray
    curve: NDArray
    variant: NDArray

    def take(self, rows: NDArray) -> "Samples":
        """Only those rows."""
        names = ("terms", "wires", "value", "offset", "sampling_log_sd", "curve", "variant")
        return Samples(corners=Corners(*(axis[rows] for axis in self.corners)), **{name: getattr(self, name)[rows] for name in names})


class Start(NamedTuple):
    """Where a fit starts, and what it keeps where its own rows cannot determine it: corner parameters, and coefficients of wires."""

    corner_values: NDArray
    wires: NDArray


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Coefficients [terms] at the reference corner, of wires [wires] at any, and corner parameters, each with its status; errors are NaN where unknown.

    `condition` is that of the normalized terms kept; `log_sd` the standard deviation of a prediction for a variant not
    measured (of its logarithm, widened for few variants so that +-1.645 of it covers 90 %).
    """

    law: VoltageLaw
    reference: Corners
    coefficients: NDArray
    coefficient_errors: NDArray
    coefficient_status: tuple[Status, ...]
    wires: NDArray
    wire_errors: NDArray
    wire_status: tuple[Status, ...]
    corner_values: NDArray
    corner_errors: NDArray
    corner_status: tuple[Status, ...]
    condition: float
    residual_log_sd: float
    log_sd: float

    def predict(self, samples: Samples) -> NDArray:
        """The law at the terms, corners and offsets of `samples` [rows]."""
        gates = samples.terms @ self.coefficients * self.law.relative(samples.corners, self.reference, self.corner_values)
        return samples.offset + samples.wires @ self.wires + gates


@dataclass(frozen=True, kw_only=True)
class _CornerFit:
    """What tells the rows of a curve apart: corner parameters and coefficients of wires, each with its status."""

    values: NDArray
    status: tuple[Status, ...]
    wires: NDArray
    wire_status: tuple[Status, ...]


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """Heights at the reference corner of the curves, with the terms, weight and variant of each."""

    terms: NDArray
    height: NDArray
    weight: NDArray
    variant: NDArray


def estimate(samples: Samples, law: VoltageLaw, reference: Corners, *, select: bool = False, near: Start | None = None) -> Estimate:
    """Fit without standard errors (see `estimate_with_errors`). `near` is where to start, and what to keep where these corners cannot determine it.

    With `select` only those terms are used that lower the error of variants left out in turn. Raises `ModelError`
    if the fit does not converge.
    """
    if not samples.terms.any():
        raise ModelError("structural terms must have one that is not zero, not none; look at the table's parameter columns")
    found_corners = _fit_corners(samples, law, reference, near)
    curves = _heights(samples, law, reference, found_corners)
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
        wires=found_corners.wires, wire_errors=np.full(len(found_corners.wires), np.nan), wire_status=found_corners.wire_status,
        corner_values=found_corners.values, corner_errors=np.full(len(found_corners.values), np.nan), corner_status=found_corners.status,
        condition=float(np.linalg.cond(_normalized(curves.terms[:, used]))), residual_log_sd=np.nan, log_sd=np.nan,
    )  # fmt: skip
    residual = np.log(np.maximum(result.predict(samples), 1e-3 * samples.value) / samples.value)
    freedom = max(1, len(residual) - np.count_nonzero(coefficients) - (*found_corners.status, *found_corners.wire_status).count("fitted"))
    spread = float(np.sqrt(np.sum(residual**2) / freedom))
    return replace(result, residual_log_sd=spread, log_sd=spread)


def leave_out(samples: Samples, groups: NDArray, law: VoltageLaw, reference: Corners, near: Start | None = None) -> tuple[NDArray, list[Estimate]]:
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
        found = _fit_corners(train, law, reference)
        known, at = np.unique(number[~out]), number[out]
        height = np.full(number.max() + 1, np.nan)
        height[known] = _heights(train, law, reference, found).height
        errors[out] = (test.offset + test.wires @ found.wires + height[at] * law.relative(test.corners, reference, found.values)) / test.value - 1
    return errors


def estimate_with_errors(samples: Samples, law: VoltageLaw, reference: Corners, *, select: bool = False) -> tuple[Estimate, NDArray]:
    """The fit of all rows with jackknife errors, and the relative error [rows] of each variant left out (NaN with one variant).

    Standard errors are the jackknife over variants: residuals of one variant at different corners go together, so
    rows are not independent but variants are. A parameter that a fit without one of the variants does not determine has none.
    """
    whole = estimate(samples, law, reference, select=select)
    used = np.array([s in ("fitted", "at_bound") for s in whole.coefficient_status])
    same_terms = replace(samples, terms=samples.terms * used)
    errors, fits = leave_out(same_terms, samples.variant, law, reference, Start(whole.corner_values, whole.wires))
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
        whole, coefficient_errors=jackknife("coefficients", "coefficient_status"), wire_errors=jackknife("wires", "wire_status"),
        corner_errors=jackknife("corner_values", "corner_status"), log_sd=max(log_sd, whole.residual_log_sd),
    ), errors  # fmt: skip


def _remainder(samples: Samples, wires: NDArray) -> tuple[NDArray, NDArray]:
    """What is above the offset and the wires, and the weight of its logarithm: errors are those of the whole value."""
    precision = 1 / np.hypot(samples.sampling_log_sd, MODEL_ERROR_FLOOR)
    above = np.maximum(samples.value - samples.offset - samples.wires @ wires, _LEAST_REMAINDER * samples.value)
    return above, above / samples.value * precision / precision.max()


def _fit_corners(samples: Samples, law: VoltageLaw, reference: Corners, near: Start | None = None) -> _CornerFit:
    """Corner parameters and coefficients of wires, with the status of each: as many of an axis are fitted as it has values but one, wires with enough
    supplies."""
    left = {axis: len(np.unique(values)) - 1 for axis, values in zip(CORNER_AXES, samples.corners, strict=True)}
    of_wires, several = samples.wires.shape[1], []
    enough = left["vdd_v"] >= LEAST_SUPPLIES - 1
    for p in law.parameters:
        several.append(left[p.axis] > 0)
        left[p.axis] -= 1
    free = np.array([*several, *[enough] * of_wires], dtype=bool)
    corner_low, corner_high = _corner_bounds(law, samples.corners.vdd_v)
    low, high = np.concatenate([corner_low, np.zeros(of_wires)]), np.concatenate([corner_high, _most_of_wires(samples)])
    start = np.concatenate([law.assumed(), np.zeros(of_wires)] if near is None else [near.corner_values, near.wires])
    values = np.clip(start, low, high)
    kept: Status = "assumed" if near is None else "shared"
    parameters = len(law.parameters)

    def result(status: list[Status]) -> _CornerFit:
        return _CornerFit(
            values=values[:parameters], status=tuple(status[:parameters]), wires=values[parameters:], wire_status=tuple(status[parameters:])
        )

    if not free.any():
        return result([kept] * len(values))
    _, number = np.unique(samples.curve, return_inverse=True)

    def residual(theta: NDArray) -> NDArray:
        full = values.copy()
        full[free] = theta
        above, weight = _remainder(samples, full[parameters:])
        rest = np.log(above / law.relative(samples.corners, reference, full[:parameters]))
        total = np.bincount(number, weights=weight)
        return weight * (rest - (np.bincount(number, weights=weight * rest) / total)[number])

    span = high - low
    begin = np.clip(start[free], low[free] + 1e-3 * span[free], high[free] - 1e-3 * span[free])
    options = {"bounds": (low[free], high[free]), "x_scale": span[free]}
    if near is None:
        begin = least_squares(residual, begin, **options).x
    spread = max(1.4826 * np.median(np.abs(residual(begin))), 1e-4)
    solution = least_squares(residual, begin, loss="soft_l1", f_scale=spread, **options)
    if solution.status <= 0 or not np.all(np.isfinite(solution.x)):
        raise ModelError(f"fit of the {law.name} law must converge, not stop with: {solution.message}; look at the table's rows")
    # What moves no residual, such as the growth of a share that is 0, is not determined either: it keeps its value.
    moves = np.abs(solution.jac).max(axis=0) * span[free] > _LEAST_EFFECT
    free[free] = moves
    values[free] = solution.x[moves]
    values[parameters:][values[parameters:] < 2e-3 * high[parameters:]] = 0.0
    inner = (values > low + 1e-3 * span) & (values < high - 1e-3 * span)
    return result([kept if not f else "fitted" if i else "at_bound" for f, i in zip(free, inner, strict=True)])


def _most_of_wires(samples: Samples) -> NDArray:
    """[wires] the coefficient with which the wires of one row would take all of its value."""
    above, _ = _remainder(samples, np.zeros(samples.wires.shape[1]))
    return np.array([np.min(above[term > 0] / term[term > 0]) if (term > 0).any() else 1.0 for term in samples.wires.T])


def _heights(samples: Samples, law: VoltageLaw, reference: Corners, found: _CornerFit) -> _Curves:
    above, weight = _remainder(samples, found.wires)
    rest = np.log(above / law.relative(samples.corners, reference, found.values))
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
