"""Fits every law of every kind of block on the rows of `corners.csv`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fit.blocks import BLOCKS, DELAYS, TERMS, Block, term_values
from fit.laws import DELAY_LAWS, VOLTAGE_LAWS
from fit.model import NORMAL_90, ErrorSummary, FittedBlock, FittedLaw, LawComparison, Number
from fit.regression import Estimate, Samples, estimate_with_errors, leave_out
from flow.table import PARAMETERS
from hw.errors import ConfigError, ModelError

WHOLE = "accelerator"
"""Rows of whole designs: they validate and take no part in any fit."""
UNITS = {"area_um2": "um2", "leakage_w": "W", **{name: "s" for name in DELAYS}}
_GEOMETRY = {
    "sram": re.compile(r".*_(?P<words>\d+)x(?P<bits>\d+)"),
    "two_clock_fifo": re.compile(r".*_w(?P<bits>\d+)_d(?P<words>\d+)"),
}
"""Blocks whose parameters stand in the module's name."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is the same in all rows of one fit."""

    process: str
    temperature_c: float
    back_bias_v: float
    layout: str

    @staticmethod
    def columns() -> list[str]:
        return ["process", "temperature_c", "back_bias_v", "layout"]


def select(frame: pd.DataFrame, **wanted) -> tuple[pd.DataFrame, Condition]:
    """The rows of one technology and condition, with `words` and `bits`; raises `ConfigError` if `wanted` leaves several or none."""
    for name, value in wanted.items():
        if value is not None:
            frame = frame[frame[name] == value]
    for name in ["technology", *Condition.columns()]:
        values = sorted(frame[name].unique(), key=str)
        if len(values) != 1:
            shown = ", ".join(map(str, values)) or "none"
            raise ConfigError(f"rows to fit must have one {name}, not {shown}; choose one of those measured")
    unknown = set(frame["block"]) - set(BLOCKS) - {WHOLE}
    if unknown:
        raise ConfigError(f"block must be one of {', '.join(BLOCKS)}, {WHOLE}, not {min(unknown)}; add its terms to fit/blocks.py")
    frame = frame.copy()
    for name in ("words", "bits"):
        frame[name] = 0.0
        for block, pattern in _GEOMETRY.items():
            rows = frame["block"] == block
            found = frame.loc[rows, "module"].str.fullmatch(pattern)
            if not found.all():
                bad = frame.loc[rows, "module"][~found].iloc[0]
                raise ConfigError(f"module of a {block} must end in its words and bits, not be called {bad!r}")
            frame.loc[rows, name] = frame.loc[rows, "module"].str.extract(pattern)[name].astype(float)
    first = frame.iloc[0]
    return frame, Condition(**{name: first[name] for name in Condition.columns()})


def quantities(rows: pd.DataFrame) -> list[str]:
    """The quantities that rows of one block have: area, leakage, delays, energy of each event and of an idle cycle."""
    events = sorted(rows.loc[rows["phase"] == "active", "event"].unique())
    return ["area_um2", "leakage_w", *DELAYS, *(f"{event}_energy_j" for event in events), "idle_energy_j"]


def samples_of(rows: pd.DataFrame, block: Block, quantity: str) -> Samples | None:
    """The measurements of one quantity of one block, each once; None if all are zero (there is no such path or energy)."""
    if quantity.endswith("_energy_j"):
        event = quantity.removesuffix("_energy_j")
        rows = rows[(rows["phase"] == "idle") if event == "idle" else (rows["phase"] == "active") & (rows["event"] == event)]
        rows = rows.drop_duplicates(["module", "design", "workload", block.supply])
        value, low, high = (rows[f"energy_per_cycle_{part}j"].to_numpy(dtype=float) for part in ("", "lo_", "hi_"))
        half = (high - low) / 2
    else:
        rows = rows.drop_duplicates(["module"] if quantity == "area_um2" else ["module", block.supply])
        value, half = rows[quantity].to_numpy(dtype=float), np.zeros(len(rows))
    if not value.any():
        return None
    if (value <= 0).any() or not np.isfinite(value).all():
        bad = rows[~(value > 0)].iloc[0]
        raise ModelError(f"{quantity} of {block.name} must be positive in every row or zero in all, not {value[~(value > 0)][0]:g} ({bad['module']})")
    terms = term_values(block.terms_of(quantity), {name: rows[name].to_numpy(dtype=float) for name in (*PARAMETERS, "words", "bits")})
    return Samples(
        terms=np.column_stack(list(terms.values())), vdd_v=rows[block.supply].to_numpy(dtype=float), value=value,
        sampling_log_sd=half / NORMAL_90 / value, variant=_variants(rows, block),
    )  # fmt: skip


def _variants(rows: pd.DataFrame, block: Block) -> np.ndarray:
    """A number for each distinct set of the block's parameters [rows]."""
    if not block.parameters:
        return np.zeros(len(rows), dtype=int)
    return np.unique(rows[list(block.parameters)].to_numpy(dtype=float), axis=0, return_inverse=True)[1].ravel()


def law_name(quantity: str, delay_law: str) -> str:
    """The voltage law of a quantity."""
    if quantity in DELAYS:
        return delay_law
    return {"area_um2": "constant", "leakage_w": "leakage"}.get(quantity, "switching")


def compare_delay_laws(frame: pd.DataFrame, reference_vdd_v: float, temperature_c: float) -> LawComparison:
    """Each delay law's errors at voltages left out, over every delay of every core block; the chosen one has the least mean.

    A law whose fit does not converge on one of them is left out of the comparison. With two voltages or fewer nothing can be left out,
    and the law with the fewest parameters is taken.
    """
    parts: dict[str, list] = {name: [] for name in DELAY_LAWS}
    for block, rows in _by_block(frame):
        for quantity in DELAYS:
            samples = samples_of(rows, block, quantity)
            if samples is None or len(np.unique(samples.vdd_v)) < 3:
                continue
            for name in list(parts):
                try:
                    errors, _ = leave_out(samples, samples.vdd_v, VOLTAGE_LAWS[name], reference_vdd_v, temperature_c)
                except ModelError:
                    # A law that these delays cannot determine is no candidate.
                    del parts[name]
                    continue
                parts[name].append((errors, samples.vdd_v))
    summaries = {name: ErrorSummary.of(np.concatenate([e for e, _ in found]), np.concatenate([v for _, v in found])) for name, found in parts.items() if found}
    chosen = min(summaries, key=lambda name: summaries[name].mean) if summaries else min(DELAY_LAWS, key=lambda name: len(VOLTAGE_LAWS[name].parameters))
    return LawComparison(chosen=chosen, left_out_voltages=summaries)


def fit_blocks(
    frame: pd.DataFrame, delay_law: str, reference_vdd_v: float, temperature_c: float, *, errors: bool = True, progress: Callable[[str], None] = lambda _: None
) -> dict[str, FittedBlock]:
    """A fitted block for each kind in `frame` (rows of one condition). Without `errors`, variants are not left out: faster, for validation."""
    blocks = {}
    for block, rows in _by_block(frame):
        progress(block.name)
        laws, absent = {}, []
        for quantity in quantities(rows):
            samples = samples_of(rows, block, quantity)
            if samples is None:
                absent.append(quantity)
            else:
                law = VOLTAGE_LAWS[law_name(quantity, delay_law)]
                laws[quantity] = _fit(samples, block, quantity, law, reference_vdd_v, temperature_c, errors)
        blocks[block.name] = FittedBlock(
            domain=block.domain, supply=block.supply, laws=laws, absent=tuple(absent), provisional=bool(rows["provisional"].any()),
            ranges={name: (float(rows[name].min()), float(rows[name].max())) for name in block.parameters},
        )  # fmt: skip
    return blocks


def _by_block(frame: pd.DataFrame):
    for name, block in BLOCKS.items():
        rows = frame[frame["block"] == name]
        if len(rows):
            yield block, rows


def _fit(samples: Samples, block: Block, quantity: str, law, reference_vdd_v: float, temperature_c: float, errors: bool) -> FittedLaw:
    from fit.regression import estimate

    try:
        if errors:
            found, left_out = estimate_with_errors(samples, law, reference_vdd_v, temperature_c)
        else:
            found, left_out = estimate(samples, law, reference_vdd_v, temperature_c), np.full(len(samples.value), np.nan)
    except ModelError as error:
        raise ModelError(f"{quantity} of {block.name}: {error}") from None
    return as_law(found, samples, left_out, block, quantity)


def as_law(found: Estimate, samples: Samples, left_out: np.ndarray, block: Block, quantity: str) -> FittedLaw:
    """The estimate as it stands in the model file."""
    unit = UNITS.get(quantity, "J")
    names = block.terms_of(quantity)

    def number(name, formula, value, unit, error, status):
        return Number(name=name, formula=formula, value=float(value), unit=unit, standard_error=float(error) if np.isfinite(error) else None, status=status)

    return FittedLaw(
        quantity=quantity, unit=unit,
        terms=tuple(
            number(name, TERMS[name].formula, *rest)
            for name, *rest in zip(names, found.coefficients, [unit] * len(names), found.coefficient_errors, found.coefficient_status, strict=True)
        ),
        voltage_law=found.law.name,
        voltage_parameters=tuple(
            number(p.name, found.law.formula, value, p.unit, error, status)
            for p, value, error, status in zip(found.law.parameters, found.voltage_values, found.voltage_errors, found.voltage_status, strict=True)
        ),
        reference_vdd_v=found.reference_vdd_v, voltage_range_v=(float(samples.vdd_v.min()), float(samples.vdd_v.max())), condition=found.condition,
        residual_log_sd=found.residual_log_sd, log_sd=found.log_sd, left_out=ErrorSummary.of(left_out, samples.variant), rows=len(samples.value),
        variants=len(np.unique(samples.variant)),
    )  # fmt: skip
