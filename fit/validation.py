"""How well the model predicts whole designs that took no part in its fit, beside an uncalibrated ideal model."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from fit.blocks import BLOCKS, term_values
from fit.compose import predict, within_range
from fit.estimation import WHOLE
from fit.model import NORMAL_90, Comparison, ErrorSummary, FittedModel
from flow.table import PARAMETERS

QUANTITIES = ("fmax", "leakage", "area", "energy per core cycle")


def validate_held_out(rows: pd.DataFrame, held_out: Sequence[str], model: FittedModel) -> tuple[Comparison, ...]:
    """`model`, fitted without the designs `held_out`, on their measured rows."""
    measured = [name for name in held_out if ((rows["design"] == name) & (rows["block"] == WHOLE)).any()]
    return _compare([design_errors(rows, name, model, held_out) for name in measured], "held-out designs")


def leave_designs_out(rows: pd.DataFrame, fit_rows: Callable[[pd.DataFrame], FittedModel]) -> tuple[Comparison, ...]:
    """Each whole design left out in turn: `fit_rows` fits the rest, the model composes the design, measured rows judge.

    Left out with a design is every variant of a block that the design uses, under whatever name it was measured, except where
    the block has no other variant.
    """
    designs = sorted(rows.loc[rows["block"] == WHOLE, "design"].unique())
    if len(designs) < 2:
        return ()
    return _compare([design_errors(rows, name, fit_rows(without_design(rows, name)), [name]) for name in designs], "designs in turn")


def without_design(rows: pd.DataFrame, design: str) -> pd.DataFrame:
    """Rows to fit when `design` is left out: see `validate_designs`."""
    keep = (rows["design"] != design) & (rows["block"] != WHOLE)
    own = rows[rows["design"] == design]
    for name, block in BLOCKS.items():
        keys = list(block.parameters)
        of_block = rows["block"] == name
        if not keys:
            keep |= of_block
            continue
        used = set(own.loc[own["block"] == name, keys].itertuples(index=False, name=None))
        twins = of_block & np.array([key in used for key in rows[keys].itertuples(index=False, name=None)])
        others = of_block & ~twins
        keep = keep & ~twins if others.any() else keep | of_block
    return rows[keep]


def design_errors(rows: pd.DataFrame, design: str, model: FittedModel, unseen: Sequence[str]) -> pd.DataFrame:
    """One row for each quantity and voltage of a measured design: measured, predicted, log_sd, ideal.

    The ideal model has one figure a multiplier, from the whole designs not in `unseen`, at the reference voltage; energy goes with
    V^2, leakage and frequency with V. NaN without such designs.
    """
    own = rows[(rows["block"] == WHOLE) & (rows["design"] == design) & (rows["domain"] == "core")]
    p = {name: own[name].iloc[:1].to_numpy(dtype=float) for name in PARAMETERS}
    corners = own.drop_duplicates(["vdd_v", "sram_vdd_v"]).sort_values("vdd_v")
    vdd = corners["vdd_v"].to_numpy(dtype=float)
    found = predict(model, p, vdd, sram_vdd_v=corners["sram_vdd_v"].to_numpy(dtype=float), extrapolate=True)
    energy = energy_per_cycle(model, rows[(rows["design"] == design) & (rows["block"] != WHOLE)], vdd)
    seen = rows[(rows["block"] == WHOLE) & ~rows["design"].isin(unseen) & (rows["domain"] == "core") & (rows["vdd_v"] == model.reference_vdd_v)]
    seen = seen.drop_duplicates("design")
    each, multipliers, scale = seen[list(_SIZE)].prod(axis=1), float(own[list(_SIZE)].iloc[0].prod()), vdd / model.reference_vdd_v
    seen_energy = [energy_per_cycle(model, rows[(rows["design"] == name) & (rows["block"] != WHOLE)], vdd[-1:])[0][0] for name in seen["design"]]

    def table(quantity, measured, predicted, log_sd, ideal):
        columns = {"measured": measured, "predicted": predicted, "log_sd": log_sd, "ideal": ideal}
        flat = {name: np.broadcast_to(np.asarray(value, dtype=float), vdd.shape) for name, value in columns.items()}
        return pd.DataFrame({"quantity": quantity, "design": design, "vdd_v": vdd, "outside": not within_range(model, p)[0], **flat})

    leakage, area = ((seen[name] / each).median() * multipliers for name in ("leakage_w", "area_um2"))
    ideal_energy = np.median(seen_energy / each) * multipliers * scale**2 if len(seen) else np.nan
    parts = [
        table("fmax", 1 / corners["min_period_s"], found.fmax_hz[0], found.fmax_log_sd[0], (1 / seen["min_period_s"]).median() * scale),
        table("leakage", corners["leakage_w"], found.core_leakage_w[0], found.leakage_log_sd[0], leakage * scale),
        table("area", corners["area_um2"], found.core_area_um2[0], found.area_log_sd[0], area).iloc[:1],
        table("energy per core cycle", energy[0], energy[1], found.energy_log_sd[0], ideal_energy),
    ]
    return pd.concat(parts, ignore_index=True)


_SIZE = ("rows", "cols", "lanes")


def energy_per_cycle(model: FittedModel, own: pd.DataFrame, vdd_v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic energy of the core's blocks in a cycle of the measured workload [voltages]: measured, and by the model's laws.

    Each phase of a block counts with its share of the block's cycles; the measured activity serves both. Memories have none and are left out.
    """
    own = own[(own["domain"] == "core") & (own["cycles"] > 0)].copy()
    keys = ["module", "workload", "vdd_v", "sram_vdd_v"]
    share = own["cycles"] / own.groupby(keys)["cycles"].transform("sum")
    own["weight"] = share * own["instances"] / own.groupby("module")["workload"].transform("nunique")
    own["predicted"] = 0.0
    for (name, phase, event), group in own.groupby(["block", "phase", "event"]):
        law = model.blocks[name].laws.get("idle_energy_j" if phase == "idle" else f"{event}_energy_j")
        if law is not None:
            terms = term_values(tuple(t.name for t in law.terms), {c: group[c].to_numpy(dtype=float) for c in (*PARAMETERS, "words", "bits")})
            supply = group[model.blocks[name].supply].to_numpy(dtype=float)
            own.loc[group.index, "predicted"] = law.structure(terms) * law.voltage_factor(supply, model.temperature_c)
    sums = [(own["weight"] * own[column]).groupby(own["vdd_v"]).sum() for column in ("energy_per_cycle_j", "predicted")]
    return sums[0].reindex(vdd_v).to_numpy(), sums[1].reindex(vdd_v).to_numpy()


def _compare(found: Sequence[pd.DataFrame], split: str) -> tuple[Comparison, ...]:
    """The figures of each quantity over all designs."""
    if not found:
        return ()
    errors = pd.concat(found, ignore_index=True)
    comparisons = []
    for quantity in QUANTITIES:
        rows = errors[errors["quantity"] == quantity]
        ratio = rows["predicted"] / rows["measured"]
        by_voltage = [group for _, group in rows.groupby("vdd_v") if min(group["measured"].nunique(), group["predicted"].nunique()) >= 3]
        ranks = [spearmanr(group["predicted"], group["measured"]).statistic for group in by_voltage]
        comparisons.append(
            Comparison(
                quantity=quantity, split=split, model=ErrorSummary.of(ratio - 1, rows["design"]),
                ideal=ErrorSummary.of(rows["ideal"] / rows["measured"] - 1, rows["design"]), rank_correlation=float(np.mean(ranks)) if ranks else None,
                interval_coverage=float(np.mean(np.abs(np.log(ratio)) <= NORMAL_90 * rows["log_sd"])), outside_range=int(rows["outside"].sum()),
            )
        )  # fmt: skip
    return tuple(comparisons)
