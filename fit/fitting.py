"""The whole fit: tables in, model file out."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from fit.cycle_fit import fit_cycles
from fit.estimation import WHOLE, compare_delay_laws, fit_blocks, select
from fit.model import FittedModel, LawComparison, Source, write_model
from fit.validation import leave_designs_out, validate_held_out
from flow.table import CORNER_COLUMNS, CYCLE_COLUMNS, Provenance, read_table
from hw.errors import ConfigError


def fit(
    *, corners_csv: Path, cycles_csv: Path | None, out: Path, process: str | None = None, temperature_c: float | None = None,
    back_bias_v: float | None = None, layout: str | None = None, held_out: Sequence[str] = (), in_turn: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> FittedModel:  # fmt: skip
    """Fit the tables, validate, write the model to `out` and return it.

    The designs `held_out` take no part in any fit and validate it; with `in_turn` every other whole design is left out once, too.
    The tables may hold one technology, process, temperature, back bias and layout, or the ones to use are named. Without
    `cycles_csv` the model has no cycles. Raises `ConfigError` for a table that cannot be used and `ModelError` for a fit that fails.
    """
    corners, corners_from = read_table(Path(corners_csv), CORNER_COLUMNS)
    rows, condition = select(corners, process=process, temperature_c=temperature_c, back_bias_v=back_bias_v, layout=layout)
    unknown = set(held_out) - set(rows["design"])
    if unknown:
        raise ConfigError(f"held-out designs must be in the table, not {min(unknown)!r} ({corners_csv}); measure it or hold out others")
    cycles, cycles_from = read_table(Path(cycles_csv), CYCLE_COLUMNS) if cycles_csv is not None else (None, None)

    seen = rows[~rows["design"].isin(held_out)]
    model = fit_corners(seen, condition, progress=progress)
    cycle_model, errors = (None, ()) if cycles is None else fit_cycles(cycles, held_out=held_out, progress=progress)
    progress("validation")
    errors += validate_held_out(rows, held_out, model)
    if in_turn:
        errors += leave_designs_out(seen, lambda train: fit_corners(train, condition, delay_law=model.delay_law))
    sources = [_source(corners_csv, corners, corners_from)]
    if cycles is not None:
        sources.append(_source(cycles_csv, cycles, cycles_from))
    model = model.model_copy(update={"validation": errors, "cycles": cycle_model, "sources": tuple(sources)})
    write_model(model, Path(out))
    return model


def fit_corners(rows: pd.DataFrame, condition, *, delay_law: LawComparison | None = None, progress: Callable[[str], None] = lambda _: None) -> FittedModel:
    """A model of the blocks in `rows` (of one condition, see `fit.estimation.select`), without cycles, validation and sources.

    The reference voltage is the highest measured. The delay law is chosen by the errors at voltages left out unless it is given.
    """
    blocks = rows[rows["block"] != WHOLE]
    reference_vdd_v = float(blocks["vdd_v"].max())
    if delay_law is None:
        progress("delay laws")
        delay_law = compare_delay_laws(blocks, reference_vdd_v, condition.temperature_c)
    fitted = fit_blocks(blocks, delay_law.chosen, reference_vdd_v, condition.temperature_c, progress=progress)
    return FittedModel(
        technology=rows["technology"].iloc[0], process=condition.process, temperature_c=condition.temperature_c, back_bias_v=condition.back_bias_v,
        layout=condition.layout, reference_vdd_v=reference_vdd_v, voltage_range_v=_range(blocks["vdd_v"]), sram_voltage_range_v=_range(blocks["sram_vdd_v"]),
        blocks=fitted, delay_law=delay_law, cycles=None, validation=(), sources=(),
        provisional=tuple(name for name, block in fitted.items() if block.provisional),
    )  # fmt: skip


def _range(values: pd.Series) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _source(path: Path, frame: pd.DataFrame, origin: Provenance) -> Source:
    return Source(path=Path(path).name, sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(), rows=len(frame), **asdict(origin))
