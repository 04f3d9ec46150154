"""Fits every law of every kind of block on the rows of `corners.csv`, and of every slow path on those of `paths.csv`."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fit.blocks import BLOCKS, DELAYS, DERIVED, SIDES, SKEW_TERMS, TERMS, Block, Domain, Parameters, measured_value, path_group, path_terms, term_values
from fit.compose import GLUE, uses
from fit.laws import DELAY_LAWS, REFERENCE_C, VOLTAGE_LAWS, Corners, VoltageLaw
from fit.model import NORMAL_90, ErrorSummary, FittedBlock, FittedLaw, FittedPath, LawComparison, Number, Range, Status
from fit.regression import Estimate, Samples, Start, estimate, estimate_with_errors, leave_voltages_out
from fit.workloads import STATISTICS, with_statistics
from flow.table import PARAMETERS
from hw.errors import ConfigError, ModelError

PathKey = tuple[str, str, Domain]
"""A path's start, end and domain."""
WHOLE = "accelerator"
"""Rows of whole designs: they validate and take no part in any fit."""
CORNER = ["vdd_v", "sram_vdd_v", "temperature_c", "back_bias_v"]
"""What tells the operating points of one process and layout apart."""
UNITS = {"area_um2": "um2", "leakage_w": "W", "delay_s": "s", "skew_s": "s", **{name: "s" for name in DELAYS}}
_GEOMETRY = {
    "sram": re.compile(r".*_(?P<words>\d+)x(?P<bits>\d+)"),
    "flipflop_1r1w": re.compile(r".*_(?P<words>\d+)x(?P<bits>\d+)"),
    "two_clock_fifo": re.compile(r".*_w(?P<bits>\d+)_d(?P<words>\d+)"),
}
"""Blocks whose parameters stand in the module's name."""


SLOW_PATH = 0.7
"""A path that never takes this part of a design's period is not modelled: no design that resembles those measured is limited by it."""
_CRITICAL = 0.95
_PHASE_SD = 3.0
"""Standard deviation of the energy of a phase of one cycle: what a phase begins with lasts a few cycles, so that a short one is not typical."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is the same in all rows of one fit, and the corner to which coefficients refer: the highest supply, and nearest to 25 C and no bias."""

    process: str
    layout: str
    reference: Corners

    @staticmethod
    def columns() -> list[str]:
        return ["process", "layout"]


def corners_of(rows: pd.DataFrame, supply: str = "vdd_v") -> Corners:
    """The corner of each row, with the supply in that column."""
    return Corners(*(rows[name].to_numpy(dtype=float) for name in (supply, "temperature_c", "back_bias_v")))


def choose(frame: pd.DataFrame, **wanted: str | None) -> pd.DataFrame:
    """The rows of one technology, process and layout; raises `ConfigError` if `wanted` leaves several or none."""
    for name, value in wanted.items():
        if value is not None:
            frame = frame[frame[name] == value]
    for name in ["technology", *Condition.columns()]:
        values = sorted(frame[name].unique(), key=str)
        if len(values) != 1:
            shown = ", ".join(map(str, values)) or "none"
            raise ConfigError(f"rows to fit must have one {name}, not {shown}; choose one of those measured")
    return frame


def select(frame: pd.DataFrame, **wanted: str | None) -> tuple[pd.DataFrame, Condition]:
    """`choose` of rows of `corners.csv`, with the columns `DERIVED` and the statistics of their workloads, and their `Condition`."""
    frame = choose(frame, **wanted)
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
    frame = with_sides(frame, frame)
    first, core = frame.iloc[0], frame[frame["domain"] == "core"]
    usual = {name: np.asarray(_nearest(core[name].unique(), value)) for name, value in _USUAL.items()}
    reference = Corners(vdd_v=np.asarray(core["vdd_v"].max()), **usual)
    return with_statistics(frame), Condition(process=first["process"], layout=first["layout"], reference=reference)


def _nearest(values: np.ndarray, wanted: float) -> float:
    """The one nearest to `wanted`, of two the lower."""
    return min(values, key=lambda x: (abs(x - wanted), x))


def sides_um(frame: pd.DataFrame) -> pd.DataFrame:
    """By design, its `SIDES` from the areas of its blocks, as `fit.compose.with_sides` has them from the areas' laws."""
    parts = frame[~frame["block"].isin([WHOLE, GLUE])].drop_duplicates(["design", "module"])
    area_um2 = (parts["area_um2"] * parts["instances"]).groupby([parts["design"], parts["block"]]).sum().unstack(fill_value=0.0)
    rows = parts.loc[parts["block"] == "pe_row"].groupby("design")["instances"].sum()
    row_um2 = area_um2.reindex(columns=["pe", "pe_row"], fill_value=0.0).sum(axis=1) / rows
    return pd.DataFrame({"side_um": np.sqrt(area_um2.sum(axis=1)), "row_side_um": np.sqrt(row_um2)})


def with_sides(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """`frame`, of paths or blocks, with the `SIDES` of each design, whose blocks are among `rows` of `corners.csv`."""
    sides = sides_um(rows)
    return frame.assign(**{name: frame["design"].map(sides[name]) for name in SIDES})


_USUAL = {"temperature_c": REFERENCE_C, "back_bias_v": 0.0}


def quantities(rows: pd.DataFrame) -> list[str]:
    """The quantities that rows of one block have: area, leakage, energy of each event and of an idle cycle, delays of a memory."""
    events = sorted(rows.loc[rows["phase"] == "active", "event"].unique())
    delays = DELAYS if rows["block"].iloc[0] == "sram" else ()
    return ["area_um2", "leakage_w", *delays, *(f"{event}_energy_j" for event in events), "idle_energy_j"]


def samples_of(rows: pd.DataFrame, block: Block, quantity: str) -> Samples | None:
    """The measurements of one quantity of one block, each once; None if all are zero (there is no such path or energy)."""
    corner = [block.supply, "temperature_c", "back_bias_v"]
    if quantity.endswith("_energy_j"):
        event = quantity.removesuffix("_energy_j")
        rows = rows[(rows["phase"] == "idle") if event == "idle" else (rows["phase"] == "active") & (rows["event"] == event)]
        rows = rows.drop_duplicates(["module", "design", "workload", *corner])
        value, low, high = (rows[f"energy_per_cycle_{part}j"].to_numpy(dtype=float) for part in ("", "lo_", "hi_"))
        settling = _PHASE_SD / np.sqrt(np.maximum(rows["cycles"].to_numpy(dtype=float), 1.0)) * (rows["cycles"].to_numpy() > 0)
        curves = ["module", "design", "workload"]
    else:
        # What lies between the blocks has the same name in every design.
        curves = ["module", *block.parameters]
        rows = rows.drop_duplicates(curves if quantity == "area_um2" else [*curves, *corner])
        value, settling = rows[quantity].to_numpy(dtype=float), 0.0
        low = high = value
    if not value.any():
        return None
    if (value <= 0).any() or not np.isfinite(value).all():
        bad = rows[~(value > 0)].iloc[0]
        raise ModelError(f"{quantity} of {block.name} must be positive in every row or zero in all, not {value[~(value > 0)][0]:g} ({bad['module']})")
    terms = term_values(block.terms_of(quantity), {name: rows[name].to_numpy(dtype=float) for name in (*PARAMETERS, *DERIVED, *STATISTICS)})
    return Samples(
        terms=np.column_stack(list(terms.values())), wires=_no_wires(rows), corners=corners_of(rows, block.supply), value=value, offset=np.zeros(len(rows)),
        sampling_log_sd=np.hypot((high - low) / 2 / NORMAL_90 / value, settling), curve=_numbers(rows, curves), variant=_variants(rows, block),
    )  # fmt: skip


def _variants(rows: pd.DataFrame, block: Block) -> np.ndarray:
    """A number for each distinct set of the block's parameters [rows]."""
    return _numbers(rows, list(block.parameters)) if block.parameters else np.zeros(len(rows), dtype=int)


def _numbers(rows: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """A number for each distinct combination of the columns [rows]."""
    return rows.groupby(columns, sort=True).ngroup().to_numpy()


def law_name(quantity: str, delay_law: str) -> str:
    """The voltage law of a quantity."""
    if quantity in DELAYS:
        return delay_law
    return {"area_um2": "constant", "leakage_w": "leakage"}.get(quantity, "switching")


def compare_delay_laws(paths: dict[PathKey, Samples], most: dict[PathKey, float], reference: Corners) -> LawComparison:
    """Each delay law's errors at voltages left out (between the lowest and the highest), over the paths that set a design's frequency or nearly
    (`most`, see `slowness`); the chosen one has the least mean.

    A law whose fit does not converge on one of them is left out of the comparison. With two voltages or fewer nothing can be left out,
    and the law with the fewest parameters is taken.
    """
    parts: dict[str, list] = {name: [] for name in DELAY_LAWS}
    for (start, end, domain), samples in paths.items():
        vdd_v = samples.corners.vdd_v
        if domain != "core" or len(np.unique(vdd_v)) < 4 or most[start, end, domain] < _CRITICAL:
            continue
        inner = (vdd_v > vdd_v.min()) & (vdd_v < vdd_v.max())
        for name in list(parts):
            try:
                errors = leave_voltages_out(samples, VOLTAGE_LAWS[name], reference)
            except ModelError:
                # A law that these delays cannot determine is no candidate.
                del parts[name]
                continue
            parts[name].append((errors[inner], vdd_v[inner]))
    summaries = {}
    for name, found in parts.items():
        if found and (summary := ErrorSummary.of(np.concatenate([e for e, _ in found]), np.concatenate([v for _, v in found]))):
            summaries[name] = summary
    chosen = min(summaries, key=lambda name: summaries[name].mean) if summaries else min(DELAY_LAWS, key=lambda name: len(VOLTAGE_LAWS[name].parameters))
    return LawComparison(chosen=chosen, left_out_voltages=summaries)


def grouped(paths: pd.DataFrame) -> pd.DataFrame:
    """The slowest path of each `path_group` in each design and corner of `paths.csv`."""
    groups = {pair: path_group(*pair) for pair in paths[["start", "end"]].drop_duplicates().itertuples(index=False, name=None)}
    named = [groups[pair] for pair in zip(paths["start"], paths["end"], strict=True)]
    paths = paths.assign(start=[start for start, _ in named], end=[end for _, end in named])
    return paths.loc[paths.groupby(["design", "domain", "start", "end", *CORNER])["delay_s"].idxmax()]


def skew_samples(rows: pd.DataFrame, paths: pd.DataFrame) -> Samples | None:
    """What the skew of the core's clock takes of the period of each whole design, its period less its slowest path; None where clocks are ideal."""
    keys = ["design", *CORNER]
    slowest = paths[paths["domain"] == "core"].groupby(keys)["delay_s"].max().rename("slowest_s").reset_index()
    rows = rows[rows["block"] == WHOLE].drop_duplicates(keys).merge(slowest, on=keys)
    skew_s = (rows["min_period_s"] - rows["slowest_s"]).to_numpy(dtype=float)
    skewed = skew_s > 1e-6 * rows["min_period_s"].to_numpy(dtype=float)
    if not skewed.any():
        return None
    if not skewed.all():
        bad = rows[~skewed].iloc[0]
        raise ModelError(f"the clock's skew must be above 0 in every whole design or in none, not {skew_s[~skewed][0]:g} s ({bad['design']})")
    terms = term_values(SKEW_TERMS, {"side_um": rows["side_um"].to_numpy(dtype=float)})
    return Samples(
        terms=np.column_stack(list(terms.values())), wires=_no_wires(rows), corners=corners_of(rows), value=skew_s, offset=np.zeros(len(rows)),
        sampling_log_sd=np.zeros(len(rows)),
        curve=_numbers(rows, ["design"]), variant=_numbers(rows, ["design"]),
    )  # fmt: skip


def _no_wires(rows: pd.DataFrame) -> np.ndarray:
    """[rows, 0]"""
    return np.zeros((len(rows), 0))


def split_wires(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the terms `names` of a delay those that change with the corner, and those of wires, which do not."""
    return tuple(name for name in names if not TERMS[name].wire), tuple(name for name in names if TERMS[name].wire)


def path_samples(paths: pd.DataFrame, blocks: dict[str, FittedBlock], reference: Corners) -> dict[PathKey, Samples]:
    """The measurements of the slow paths of `grouped` paths, by start, end and domain. `blocks` holds the memories' law."""
    most, found = slowness(paths), {}
    for (start, end, domain), rows in paths.groupby(["start", "end", "domain"], sort=True):
        if most[start, end, domain] < SLOW_PATH:
            continue
        memory = memory_of(start)
        p = {name: rows[name].to_numpy(dtype=float) for name in (*PARAMETERS, *SIDES)}
        offset = np.zeros(len(rows))
        if memory:
            offset = access_s(blocks, memory, p, corners_of(rows, "sram_vdd_v"), reference)
        gates, wires = (np.column_stack([_no_wires(rows), *term_values(names, p).values()]) for names in split_wires(path_terms(start, end)))
        found[start, end, domain] = Samples(
            terms=gates, wires=wires, corners=corners_of(rows), value=rows["delay_s"].to_numpy(dtype=float), offset=offset,
            sampling_log_sd=np.zeros(len(rows)), curve=_numbers(rows, ["design"]), variant=_numbers(rows, ["design"]),
        )  # fmt: skip
    return found


def slowness(paths: pd.DataFrame) -> dict[PathKey, float]:
    """Largest part of a design's period that each path (start, end, domain) takes in any row."""
    slowest = paths.groupby(["design", "domain", *CORNER])["delay_s"].transform("max")
    return (paths["delay_s"] / slowest).groupby([paths["start"], paths["end"], paths["domain"]]).max().to_dict()


def memory_of(start: str) -> str:
    """The memory whose access time is part of a path that starts there, empty if none; setup times count as logic."""
    return start if start.startswith("sram_") else ""


def access_s(blocks: dict[str, FittedBlock], memory: str, p: Parameters, corners: Corners, reference: Corners) -> np.ndarray:
    """Access time of a memory, s, for parameters and corners of one shape."""
    role = next(use for use in uses(p) if use.role == memory)
    law = blocks["sram"].laws["register_to_output_s"]
    return law.structure(term_values(tuple(t.name for t in law.terms), role.parameters)) * law.factor(corners, reference)


def fit_paths(
    paths: pd.DataFrame, samples: dict[PathKey, Samples], delay_law: str, reference: Corners, *, errors: bool = True,
    near: dict[str, FittedPath] | None = None,
) -> dict[str, FittedPath]:  # fmt: skip
    """A fitted path for each of `samples` (see `path_samples`); `errors` and `near` as of `fit_blocks`."""
    most, found = slowness(paths), {}
    for (start, end, domain), own in samples.items():
        name = f"{start} to {end}{' (memory)' if domain == 'memory' else ''}"
        before = near[name].law if near and name in near else None
        law = _fit(own, path_terms(start, end), f"delay of {name}", "delay_s", VOLTAGE_LAWS[delay_law], reference, errors, before)
        found[name] = FittedPath(start=start, end=end, domain=domain, memory=memory_of(start), law=law, most=most[start, end, domain])
    return found


def fit_skew(samples: Samples | None, delay_law: str, reference: Corners, *, errors: bool = True, near: FittedLaw | None = None) -> FittedLaw | None:
    """The law of the clock's skew from `skew_samples`; `errors` and `near` as of `fit_blocks`."""
    if samples is None:
        return None
    return _fit(samples, SKEW_TERMS, "the clock's skew", "skew_s", VOLTAGE_LAWS[delay_law], reference, errors, near)


def fit_blocks(
    frame: pd.DataFrame, delay_law: str, reference: Corners, *, errors: bool = True, near: dict[str, FittedBlock] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, FittedBlock]:  # fmt: skip
    """A fitted block for each kind in `frame` (rows of one condition).

    Without `errors`, variants are not left out: faster, for validation. `near` is a fit of more of the same rows: its choice of terms is kept.
    """
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
                before = near[block.name].laws.get(quantity) if near else None
                laws[quantity] = _fit(samples, block.terms_of(quantity), f"{quantity} of {block.name}", quantity, law, reference, errors, before)
        blocks[block.name] = FittedBlock(
            domain=block.domain, supply=block.supply, laws=laws, absent=tuple(absent), provisional=bool(rows["provisional"].any()),
            ranges=measured_ranges(rows, block.parameters, laws.values()),
        )  # fmt: skip
    return blocks


def measured_ranges(rows: pd.DataFrame, parameters: Iterable[str], laws: Iterable[FittedLaw]) -> dict[str, Range]:
    """Least and highest value of each parameter in the rows, and of each term of the laws fitted on them: a law is as unproven where a product of
    parameters is beyond all measured as where one of them is."""
    values = {name: rows[name].to_numpy(dtype=float) for name in (*PARAMETERS, *DERIVED) if name in rows}
    names = dict.fromkeys((*parameters, *(term.name for law in laws for term in (*law.terms, *law.wires))))
    return {name: measured_range(measured_value(name, values)) for name in names if name != "one"}


def measured_range(values: pd.Series | np.ndarray) -> Range:
    """Least and highest of the values."""
    return float(values.min()), float(values.max())


def _by_block(frame: pd.DataFrame) -> Iterator[tuple[Block, pd.DataFrame]]:
    for name, block in BLOCKS.items():
        rows = frame[frame["block"] == name]
        if len(rows):
            yield block, rows


def _fit(
    samples: Samples, names: tuple[str, ...], what: str, quantity: str, law: VoltageLaw, reference: Corners, errors: bool, near: FittedLaw | None
) -> FittedLaw:  # fmt: skip
    # What adds up in an area follows from how a block is built; what a path gets longer with, or what switches, is for the data to say.
    choosing = quantity == "delay_s" or (quantity.endswith("_energy_j") and quantity != "idle_energy_j")
    try:
        if near is not None:
            used = np.array([t.status in ("fitted", "at_bound") for t in near.terms])
            start = Start(*(np.array([number.value for number in numbers]) for numbers in (near.voltage_parameters, near.wires)))
            found, left_out = estimate(replace(samples, terms=samples.terms * used), law, reference, near=start), np.full(len(samples.value), np.nan)
        elif errors:
            found, left_out = estimate_with_errors(samples, law, reference, select=choosing)
        else:
            found, left_out = estimate(samples, law, reference, select=choosing), np.full(len(samples.value), np.nan)
    except ModelError as error:
        raise ModelError(f"{what}: {error}") from None
    return as_law(found, samples, left_out, names, quantity)


def as_law(found: Estimate, samples: Samples, left_out: np.ndarray, names: tuple[str, ...], quantity: str) -> FittedLaw:
    """The estimate as it stands in the model file."""
    unit = UNITS.get(quantity, "J")

    def number(name: str, formula: str, value: float, unit: str, error: float, status: Status) -> Number:
        return Number(name=name, formula=formula, value=float(value), unit=unit, standard_error=float(error) if np.isfinite(error) else None, status=status)

    vdd_v, (gates, wires) = samples.corners.vdd_v, split_wires(names)

    def coefficients(names: tuple[str, ...], values: np.ndarray, errors: np.ndarray, statuses: tuple[Status, ...]) -> tuple[Number, ...]:
        columns = zip(names, values, errors, statuses, strict=True)
        return tuple(number(name, TERMS[name].formula, value, unit, error, status) for name, value, error, status in columns)

    return FittedLaw(
        quantity=quantity, unit=unit, terms=coefficients(gates, found.coefficients, found.coefficient_errors, found.coefficient_status),
        wires=coefficients(wires, found.wires, found.wire_errors, found.wire_status),
        voltage_law=found.law.name,
        voltage_parameters=tuple(
            number(p.name, found.law.formula, value, p.unit, error, status)
            for p, value, error, status in zip(found.law.parameters, found.corner_values, found.corner_errors, found.corner_status, strict=True)
        ),
        reference_vdd_v=float(found.reference.vdd_v), voltage_range_v=(float(vdd_v.min()), float(vdd_v.max())), condition=found.condition,
        residual_log_sd=found.residual_log_sd, log_sd=found.log_sd, left_out=ErrorSummary.of(left_out, samples.variant), rows=len(samples.value),
        variants=len(np.unique(samples.variant)),
    )  # fmt: skip
