"""How well the model predicts whole designs that took no part in its fit, beside an uncalibrated ideal model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from scipy.stats import t as student_t

from fit.blocks import DERIVED, term_values
from fit.compose import predict, within_range
from fit.estimation import CORNER, WHOLE, corners_of
from fit.model import NORMAL_90, Comparison, ErrorSummary, FittedModel, Interval, reference_corner
from fit.tables import Tables
from fit.workloads import STATISTICS
from flow.table import PARAMETERS

QUANTITIES = {"fmax": "fmax", "leakage": "leakage", "area": "area", "energy per core cycle": "energy"}
"""What is compared, and whose interval (`FittedModel.intervals`) belongs to it."""


def held_out_errors(tables: Tables, held_out: Sequence[str], model: FittedModel) -> pd.DataFrame:
    """`design_errors` of the designs `held_out`, which took no part in the fit of `model`."""
    whole = set(_whole_designs(tables))
    found = (design_errors(tables.corners, name, model, held_out) for name in held_out if name in whole)
    return pd.concat([pd.DataFrame(), *found], ignore_index=True)


def designs_in_turn(tables: Tables, model: FittedModel) -> pd.DataFrame:
    """`design_errors` of each whole design, predicted by a fit without it (with the laws and terms of `model`).

    Left out with a design is every variant of a block that the design uses, under whatever name it was measured, except where
    the block has no other variant.
    """
    from fit.fitting import fit_corners

    rows, designs = tables.corners, _whole_designs(tables)
    found = [pd.DataFrame()]
    for name in designs if len(designs) > 1 else ():
        without = fit_corners(tables.left_out(name), near=model)
        found.append(design_errors(rows, name, without, [name]))
    return pd.concat(found, ignore_index=True)


def fitted_errors(tables: Tables, model: FittedModel) -> pd.DataFrame:
    """`design_errors` of the whole designs that `model` was fitted on."""
    found = (design_errors(tables.corners, name, model, [name]) for name in _whole_designs(tables))
    return pd.concat([pd.DataFrame(), *found], ignore_index=True)


def _whole_designs(tables: Tables) -> list[str]:
    """The designs that were measured whole, by name."""
    return sorted(tables.corners.loc[tables.corners["block"] == WHOLE, "design"].unique())


def intervals(fitted: pd.DataFrame, in_turn: pd.DataFrame) -> dict[str, Interval]:
    """The width of the 90 % interval of each quantity: inside the fitted range from `fitted_errors`, beyond it from `designs_in_turn`.

    Designs differ in what no term describes, and all corners of a design together; so it is designs that are left out. Each design counts once,
    with its median error; their root mean square sets the width, errors beyond three times the median counting as that, so that a design which
    lies beyond all others does not widen what is said of those inside; few designs widen it as Student's distribution tells.
    """
    found = {}
    for quantity, name in QUANTITIES.items() if len(in_turn) else ():
        sizes = []
        for errors in (fitted, in_turn):
            rows = errors[errors["quantity"] == quantity]
            own = np.abs(np.log(rows["predicted"] / rows["measured"])).groupby(rows["design"]).median()
            few = np.sqrt(1 + 1 / len(own)) * student_t.ppf(0.95, max(1, len(own) - 1)) / NORMAL_90
            sizes.append(float(np.sqrt(np.mean(np.minimum(own, 3 * np.median(own)) ** 2)) * few))
        found[name] = Interval(log_sd=sizes[0], outside_log_sd=max(sizes), designs=len(own))
    return found


def design_errors(rows: pd.DataFrame, design: str, model: FittedModel, unseen: Sequence[str]) -> pd.DataFrame:
    """One row for each quantity and corner of a measured design: measured, predicted, log_sd, ideal. Leakage and energy are those of what stands on
    the core's supply, the area that of the whole design.

    The ideal model has one figure a multiplier, from the whole designs not in `unseen`, at the reference voltage; energy goes with
    V^2, leakage and frequency with V. NaN without such designs.
    """
    own = rows[(rows["block"] == WHOLE) & (rows["design"] == design) & (rows["domain"] == "core")]
    p = {name: own[name].iloc[:1].to_numpy(dtype=float) for name in PARAMETERS}
    corners = own.drop_duplicates(CORNER).sort_values(CORNER)
    vdd, sram_vdd, temperature_c, back_bias_v = (corners[name].to_numpy(dtype=float) for name in CORNER)
    found = predict(model, p, vdd, sram_vdd_v=sram_vdd, temperature_c=temperature_c, back_bias_v=back_bias_v, extrapolate=True)
    own_parts = rows[(rows["design"] == design) & (rows["block"] != WHOLE)]
    energy = energy_per_cycle(model, own_parts, corners)
    seen = rows[(rows["block"] == WHOLE) & ~rows["design"].isin(unseen) & (rows["domain"] == "core") & (rows["vdd_v"] == model.reference_vdd_v)]
    seen = seen[(seen["temperature_c"] == model.temperature_c) & (seen["back_bias_v"] == model.back_bias_v)].drop_duplicates("design")
    at_reference = seen[CORNER].head(1)
    each, multipliers, scale = seen[list(_SIZE)].prod(axis=1), float(own[list(_SIZE)].iloc[0].prod()), vdd / model.reference_vdd_v
    seen_parts = [rows[(rows["design"] == name) & (rows["block"] != WHOLE)] for name in seen["design"]]
    seen_energy = [energy_per_cycle(model, parts, at_reference)[0][0] for parts in seen_parts]
    seen_leakage = [leakage_w(model, parts, at_reference)[0] for parts in seen_parts]

    def table(quantity: str, measured: ArrayLike, predicted: ArrayLike, log_sd: ArrayLike, ideal: ArrayLike) -> pd.DataFrame:
        columns = {"measured": measured, "predicted": predicted, "log_sd": log_sd, "ideal": ideal}
        flat = {name: np.broadcast_to(np.asarray(value, dtype=float), vdd.shape) for name, value in columns.items()}
        where = {name: corners[name].to_numpy() for name in CORNER}
        return pd.DataFrame({"quantity": quantity, "design": design, **where, "outside": not within_range(model, p)[0], **flat})

    area = (seen["area_um2"] / each).median() * multipliers
    ideal_leakage, ideal_energy = (np.median(found / each) * multipliers if len(seen) else np.nan for found in (seen_leakage, seen_energy))
    parts = [
        table("fmax", 1 / corners["min_period_s"], found.fmax_hz[0], found.fmax_log_sd[0], (1 / seen["min_period_s"]).median() * scale),
        table("leakage", leakage_w(model, own_parts, corners), found.core_leakage_w[0], found.leakage_log_sd[0], ideal_leakage * scale),
        table("area", corners["area_um2"], found.area_um2[0], found.area_log_sd[0], area).iloc[:1],
        table("energy per core cycle", energy[0], energy[1], found.energy_log_sd[0], ideal_energy * scale**2),
    ]
    return pd.concat(parts, ignore_index=True)


_SIZE = ("rows", "cols", "lanes")


def leakage_w(model: FittedModel, own: pd.DataFrame, corners: pd.DataFrame) -> np.ndarray:
    """Measured leakage of a design's blocks on the core's supply, at `corners` [rows]."""
    once = own[on_core_supply(model, own)].drop_duplicates(["module", *CORNER])
    sums = (once["leakage_w"] * once["instances"]).groupby([once[name] for name in CORNER]).sum()
    return sums.reindex(pd.MultiIndex.from_frame(corners[CORNER])).to_numpy()


def on_core_supply(model: FittedModel, rows: pd.DataFrame) -> pd.Series:
    """Which rows of blocks are of one that stands on the core's supply."""
    return rows["block"].map({name: block.domain == "core" for name, block in model.blocks.items()}).fillna(False).astype(bool)


def energy_per_cycle(model: FittedModel, own: pd.DataFrame, corners: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic energy of the core's blocks in a cycle of the measured workloads, at `corners` [rows]: measured, and by the model's laws.

    Each phase of a block counts with its share of the block's cycles; the measured activity serves both. Memories have none and are left out.
    """
    own, both = with_energy(model, own), ["energy_per_cycle_j", "predicted"]
    sums = own[both].mul(own["weight"], axis=0).groupby([own[name] for name in CORNER]).sum()
    sums = sums.reindex(pd.MultiIndex.from_frame(corners[CORNER]))
    return sums["energy_per_cycle_j"].to_numpy(), sums["predicted"].to_numpy()


def with_energy(model: FittedModel, own: pd.DataFrame) -> pd.DataFrame:
    """The rows of a design's blocks on the core's supply with `weight`, how often the phase is in a cycle of the workloads, and the `predicted` energy, J."""
    own = own[on_core_supply(model, own) & (own["cycles"] > 0)].copy()
    share = own["cycles"] / own.groupby(["module", "workload", *CORNER])["cycles"].transform("sum")
    own["weight"] = share * own["instances"] / own.groupby("module")["workload"].transform("nunique")
    own["predicted"] = 0.0
    for (name, phase, event), group in own.groupby(["block", "phase", "event"]):
        law = model.blocks[name].laws.get("idle_energy_j" if phase == "idle" else f"{event}_energy_j")
        if law is not None:
            parameters = {c: group[c].to_numpy(dtype=float) for c in (*PARAMETERS, *DERIVED, *STATISTICS)}
            terms = term_values(tuple(t.name for t in law.terms), parameters)
            own.loc[group.index, "predicted"] = law.structure(terms) * law.factor(corners_of(group, model.blocks[name].supply), reference_corner(model))
    return own


def compare(errors: pd.DataFrame, split: str, model: FittedModel) -> tuple[Comparison, ...]:
    """The figures of each quantity over all rows of `design_errors`."""
    comparisons = []
    for quantity, interval in QUANTITIES.items() if len(errors) else ():
        rows = errors[errors["quantity"] == quantity]
        if rows.empty:
            continue
        ratio = rows["predicted"] / rows["measured"]
        by_voltage = [group for _, group in rows.groupby(CORNER) if min(group["measured"].nunique(), group["predicted"].nunique()) >= 3]
        ranks = [spearmanr(group["predicted"], group["measured"]).statistic for group in by_voltage]
        log_sd = rows["log_sd"]
        if known := model.intervals.get(interval):
            log_sd = np.where(rows["outside"], known.outside_log_sd, known.log_sd)
        summary = ErrorSummary.of(ratio - 1, rows["design"])
        assert summary is not None, "predictions and measurements are finite"
        comparisons.append(
            Comparison(
                quantity=quantity, split=split, model=summary,
                ideal=ErrorSummary.of(rows["ideal"] / rows["measured"] - 1, rows["design"]), rank_correlation=float(np.mean(ranks)) if ranks else None,
                interval_coverage=float(np.mean(np.abs(np.log(ratio)) <= NORMAL_90 * log_sd)), half_width=float(np.expm1(NORMAL_90 * np.median(log_sd))),
                outside_range=int(rows["outside"].sum()),
            )
        )  # fmt: skip
    return tuple(comparisons)
