"""Fits the coefficients of `fit.cycles` on the event counters of RTL simulations (`cycles.csv`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import t as student_t

from fit.cycles import COEFFICIENTS, Coefficients, DramTimes, dram_times, layer_cycles
from fit.model import NORMAL_90, Comparison, CycleModel, ErrorSummary, Number, Status
from fit.workloads import config_of
from hw.dram import load_dram_part
from hw.errors import ConfigError, ModelError
from hw.layers import LayerShape
from hw.lowering import LOWERED_FIELDS, LoweredLayer, lower
from hw.tiling import PROBLEMS, Architecture, Tiling, Traffic, architecture, measure

CALIBRATION, FRESH = (Path(__file__).parent / "campaign" / f"{half}.csv" for half in ("calibration", "validation"))
"""Random cases on the RTL that ship (`fit.cycle_campaign`): those that are fitted, and those that no fit sees."""
IDEAL = "ideal"
"""Name in the table of a memory without limits of its own."""
_SHAPE = ("in_channels", "out_channels", "in_h", "in_w", "kernel_h", "kernel_w", "stride_h", "stride_w",
          "pad_top", "pad_bottom", "pad_left", "pad_right", "dilation", "groups")  # fmt: skip
_Numbers = TypeVar("_Numbers", bound=NamedTuple)
_INDEPENDENT = 1e-3
"""Least part of a coefficient's normalized effect that the others must not be able to imitate."""
_MOST_FOLDS = 12
_MOST_ADD_STEPS = 65
_OUTSIDE = Coefficients._fields.index("outside")


def cycle_tables(own: Path | None = None) -> tuple[Path, ...]:
    """The tables of cycles that are fitted: the random cases that ship and `own`, by default those of the measured designs."""
    return CALIBRATION, own or Path("build/tables/cycles.csv")


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Rows of `cycles.csv` as arrays [rows, fields], with what was measured [rows].

    `compute_cycles` are those in which the compute engine was not waiting for loads, stores or the program.
    """

    architectures: NDArray
    layers: NDArray
    tilings: NDArray
    traffic: NDArray
    dram: NDArray
    core_period_s: NDArray
    mem_period_s: NDArray
    core_cycles: NDArray
    compute_cycles: NDArray
    ideal_cycles: NDArray
    layer: NDArray
    design: NDArray

    def take(self, rows: NDArray) -> "Cases":
        """Only those rows."""
        return Cases(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def cases_of(frame: pd.DataFrame) -> Cases:
    """The rows of `cycles.csv` as arrays; raises `ConfigError` for a tiling that is not legal or counters that contradict the traffic."""
    architectures, layers, tilings, traffic, dram, ideal = [], [], [], [], [], []
    for _, row in frame.iterrows():
        config = config_of(row)
        shape = LayerShape.model_validate({"name": "row", "kind": row["kind"]} | {name: int(row[name]) for name in _SHAPE})
        tiling, arch = Tiling(*(int(row[name]) for name in Tiling._fields)), architecture(config)
        for add_steps in range(1, _MOST_ADD_STEPS if shape.kind == "add" else 2):  # how many weights an add needed has no column: the steps tell
            lowered = lower(config, shape, batch=int(row["batch"]), fold=bool(row["fold"]), add_steps=add_steps).numbers
            counted = measure(arch, lowered, tiling)
            if counted.pixel_steps >= row["compute_busy"]:
                break
        where = f"{row['design']}, {row['layer']}"
        if counted.problem:
            raise ConfigError(f"tiling must fit the {PROBLEMS[counted.problem]}, not {tuple(tiling)} ({where}); simulate again")
        if counted.pixel_steps != row["compute_busy"]:
            raise ConfigError(f"compute_busy must be the tiling's {counted.pixel_steps} steps, not {row['compute_busy']} ({where}); simulate again")
        architectures.append(arch)
        layers.append(lowered)
        tilings.append(tiling)
        traffic.append(counted)
        dram.append(dram_times(None if row["dram"] == IDEAL else load_dram_part(row["dram"]), arch, lowered, tiling, counted))
        ideal.append(shape.macs * int(row["batch"]) / config.multipliers)
    waiting = frame[["stall_load", "stall_store", "stall_program"]].sum(axis=1)
    return Cases(
        architectures=np.array(architectures, dtype=np.int64), layers=np.array(layers, dtype=np.int64), tilings=np.array(tilings, dtype=np.int64),
        traffic=np.array(traffic, dtype=np.int64), dram=np.array(dram, dtype=float), core_period_s=frame["core_period_s"].to_numpy(dtype=float),
        mem_period_s=frame["mem_period_s"].to_numpy(dtype=float), core_cycles=frame["core_cycles"].to_numpy(dtype=float),
        compute_cycles=(frame["core_cycles"] - waiting).to_numpy(dtype=float), ideal_cycles=np.array(ideal),
        layer=frame["layer"].to_numpy(dtype=str), design=frame["design"].to_numpy(dtype=str),
    )  # fmt: skip


@njit(cache=True)
def _predict(
    architectures: NDArray, layers: NDArray, tilings: NDArray, traffic: NDArray, dram: NDArray, core_period_s: NDArray, mem_period_s: NDArray,
    coefficients: NDArray, result: NDArray,
) -> None:  # fmt: skip
    for i in range(result.shape[0]):
        a, l, t = _architecture(architectures[i]), _layer(layers[i]), _tiling(tilings[i])  # noqa: E741
        found = layer_cycles(a, l, t, _traffic(traffic[i]), _dram(dram[i]), core_period_s[i], mem_period_s[i], _coefficients(coefficients))
        result[i, 0], result[i, 1], result[i, 2] = found.total, found.compute + coefficients[_OUTSIDE], found.bound


def _unpacker(kind: type[_Numbers]) -> Callable[[NDArray], _Numbers]:
    """A compiled function that makes a named tuple of an array's elements."""
    from numba.np.unsafe.ndarray import to_fixed_tuple

    size = len(kind._fields)

    @njit
    def unpack(row: NDArray) -> _Numbers:
        return kind(*to_fixed_tuple(row, size))

    return unpack


_architecture, _layer, _tiling = _unpacker(Architecture), _unpacker(LoweredLayer), _unpacker(Tiling)
_traffic, _dram, _coefficients = _unpacker(Traffic), _unpacker(DramTimes), _unpacker(Coefficients)
assert LOWERED_FIELDS == LoweredLayer._fields


def predict_cases(cases: Cases, coefficients: NDArray) -> NDArray:
    """[rows, 3] core cycles, those in which the engine does not wait for others, and what bounds most steps (see `fit.cycles.BOUNDS`)."""
    result = np.empty((len(cases.core_cycles), 3))
    _predict(
        cases.architectures, cases.layers, cases.tilings, cases.traffic, cases.dram, cases.core_period_s, cases.mem_period_s,
        np.asarray(coefficients, dtype=float), result,
    )  # fmt: skip
    return result


def _solve(cases: Cases, near: NDArray | None = None) -> tuple[NDArray, tuple[Status, ...]]:
    """Coefficients and the status of each; those that the rows do not determine keep their starting value (`assumed`)."""
    high = np.array([c.high for c in COEFFICIENTS])
    low = np.array([1.0 if c.unit == "1" else 0.0 for c in COEFFICIENTS])
    values = np.array([c.start for c in COEFFICIENTS]) if near is None else near.copy()
    measured = np.log(np.stack([cases.core_cycles, cases.compute_cycles], axis=1))
    # Where draining takes longer than issuing it goes on while the engine waits for loads: the counters do not tell the two apart.
    drains, steps = (cases.traffic[:, Traffic._fields.index(name)] for name in ("pixel_drains", "pixel_steps"))
    counts = np.stack([np.ones(len(steps)), 0.3 * (drains <= steps)], axis=1)

    def residual(x: NDArray, free: NDArray) -> NDArray:
        full = values.copy()
        full[free] = x
        return ((np.log(predict_cases(cases, full)[:, :2]) - measured) * counts).ravel()

    free = np.ones(len(values), dtype=bool)
    free = _determined(residual, values, free)
    start = np.clip(values[free], low[free] + 1e-6, high[free] - 1e-6)
    # The predictions have kinks where another bound takes over: tighter tolerances would make the solver dither there.
    found = least_squares(
        residual, start, bounds=(low[free], high[free]), args=(free,), x_scale=np.maximum(values[free], 1.0), diff_step=1e-4, loss="soft_l1", f_scale=0.02,
        ftol=1e-5, xtol=1e-5, gtol=1e-8, max_nfev=1000,
    )  # fmt: skip
    if found.status <= 0 or not np.all(np.isfinite(found.x)):
        raise ModelError(f"fit of the cycles must converge, not stop with: {found.message}; look at the rows of cycles.csv")
    values[free] = found.x
    edge = 1e-4 * (high - low)
    inside = (values > low + edge) & (values < high - edge)
    return values, tuple("assumed" if not f else "fitted" if i else "at_bound" for f, i in zip(free, inside, strict=True))


def _determined(residual: Callable[[NDArray, NDArray], NDArray], values: NDArray, free: NDArray) -> NDArray:
    """Which coefficients move the predictions in a way that those before cannot imitate, at `values`."""
    base, columns = residual(values, free), []
    for i in range(len(values)):
        moved = values.copy()
        moved[i] += max(0.05 * values[i], 0.05)
        columns.append((residual(moved, free) - base) / (moved[i] - values[i]) * max(values[i], 1.0))
    basis, kept = np.zeros((len(base), 0)), np.zeros(len(values), dtype=bool)
    for i, column in enumerate(columns):
        rest = column - basis @ (basis.T @ column)
        if np.linalg.norm(column) > 1e-6 * np.sqrt(len(base)) and np.linalg.norm(rest) > _INDEPENDENT * np.linalg.norm(column):
            kept[i] = True
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    return kept


def fit_cycles(
    frame: pd.DataFrame, *, held_out: Sequence[str] = (), fresh: pd.DataFrame | None = None, progress: Callable[[str], None] = lambda _: None
) -> tuple[CycleModel, tuple[Comparison, ...]]:
    """The cycle model, and its errors with layers left out in turn, on the designs `held_out` and on the rows `fresh`, the ideal model's (peak
    rate) beside them."""
    progress("cycles")
    cases = cases_of(frame)
    unseen = np.isin(cases.design, list(held_out))
    if unseen.all():
        raise ConfigError("rows of cycles.csv must include designs that are not held out, not only those; simulate others")
    seen, others = cases.take(~unseen), cases.take(unseen)
    values, status = _solve(seen)
    errors, fits = _leave_out(seen, seen.layer, values)
    n, spread = len(fits), np.full(len(values), np.nan)
    if n > 1:
        spread = np.sqrt((n - 1) / n * np.sum((np.array(fits) - np.mean(fits, axis=0)) ** 2, axis=0))
        spread[[s == "assumed" for s in status]] = np.nan
    logs = np.log1p(errors[np.isfinite(errors)])
    log_sd = float(np.sqrt(np.mean(logs**2)) * student_t.ppf(0.95, max(1, n - 1)) / NORMAL_90) if logs.size else 0.0
    model = CycleModel(
        parameters=tuple(
            Number(name=c.name, formula=c.meaning, value=float(v), unit=c.unit, standard_error=float(e) if np.isfinite(e) else None, status=s)
            for c, v, e, s in zip(COEFFICIENTS, values, spread, status, strict=True)
        ),
        log_sd=log_sd, left_out=ErrorSummary.of(errors, seen.layer), rows=len(seen.core_cycles), layers=len(np.unique(seen.layer)),
    )  # fmt: skip

    def compare(split: str, cases: Cases, found: NDArray, groups: NDArray) -> Comparison | None:
        summary = ErrorSummary.of(found, groups)
        return None if summary is None else Comparison(
            quantity="cycles", split=split, model=summary, ideal=ErrorSummary.of(_ideal_errors(cases), groups), rank_correlation=None,
            interval_coverage=float(np.mean(np.abs(np.log1p(found)) <= NORMAL_90 * log_sd)), half_width=float(np.expm1(NORMAL_90 * log_sd)),
            outside_range=0,
        )  # fmt: skip

    comparisons = [compare("layers in turn", seen, errors, seen.layer)]
    for split, left_out in (("held-out designs", others), ("random cases", None if fresh is None else cases_of(fresh))):
        if left_out is not None:
            comparisons.append(compare(split, left_out, predict_cases(left_out, values)[:, 0] / left_out.core_cycles - 1, left_out.design))
    return model, tuple(c for c in comparisons if c is not None)


def _ideal_errors(cases: Cases) -> NDArray:
    """Of the peak rate, where the layer has multiplications of its own."""
    return np.where(cases.ideal_cycles > 0, cases.ideal_cycles / cases.core_cycles - 1, np.nan)


def _leave_out(cases: Cases, groups: NDArray, near: NDArray) -> tuple[NDArray, list[NDArray]]:
    """Relative errors [rows] of each group predicted without it (in at most `_MOST_FOLDS` folds of groups), and the coefficients of each fit."""
    names, number = np.unique(groups, return_inverse=True)
    folds = number % min(len(names), _MOST_FOLDS)
    errors, fits = np.full(len(groups), np.nan), []
    for fold in np.unique(folds) if len(names) > 1 else ():
        values, _ = _solve(cases.take(folds != fold), near)
        errors[folds == fold] = predict_cases(cases.take(folds == fold), values)[:, 0] / cases.core_cycles[folds == fold] - 1
        fits.append(values)
    return errors, fits
