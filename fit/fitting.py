"""The whole fit: tables in, model file out."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from fit.blocks import PATH_PARAMETERS
from fit.cycle_fit import fit_cycles
from fit.estimation import (
    WHOLE,
    compare_delay_laws,
    fit_blocks,
    fit_paths,
    fit_skew,
    grouped,
    measured_range,
    measured_ranges,
    path_samples,
    skew_samples,
    slowness,
)
from fit.model import Comparison, CycleModel, FittedModel, Source, write_model
from fit.tables import Tables
from fit.validation import compare, designs_in_turn, fitted_errors, held_out_errors, intervals
from flow.table import CORNER_COLUMNS, CYCLE_COLUMNS, Provenance, read_table
from hw.errors import ConfigError


def fit(
    *, corners_csv: Path, paths_csv: Path, cycles_csv: Sequence[Path] = (), fresh_cycles_csv: Path | None = None, out: Path, process: str | None = None,
    layout: str | None = None, held_out: Sequence[str] = (), in_turn: bool = True, progress: Callable[[str], None] = lambda _: None,
) -> FittedModel:  # fmt: skip
    """Fit the tables of one process, validate, write the model to `out` and return it.

    The designs `held_out` take no part in any fit and validate it; with `in_turn` every other whole design is left out once, too, which
    sets the width of the intervals. The tables may hold one technology and layout, or the one to use is named; of several processes the
    typical one is fitted unless named. Without `cycles_csv` the model has no cycles; `fresh_cycles_csv` are cases that only validate them.
    Raises `ConfigError` for a table that cannot be used and `ModelError` for a fit that fails.
    """
    tables = Tables.read(corners_csv, paths_csv, process=process, layout=layout)
    unknown = set(held_out) - set(tables.corners["design"])
    if unknown:
        raise ConfigError(f"held-out designs must be in the table, not {min(unknown)!r} ({corners_csv}); measure it or hold out others")
    cycles = {Path(path): read_table(Path(path), CYCLE_COLUMNS) for path in cycles_csv}
    fresh = read_table(fresh_cycles_csv, CYCLE_COLUMNS)[0] if fresh_cycles_csv is not None else None

    model = fit_corners(tables.without(held_out), progress=progress)
    cycle_model: CycleModel | None = None
    comparisons: tuple[Comparison, ...] = ()
    if cycles:
        rows = pd.concat([rows for rows, _ in cycles.values()], ignore_index=True)
        cycle_model, comparisons = fit_cycles(rows, held_out=held_out, fresh=fresh, progress=progress)
    model = _validated(model, tables, held_out, in_turn, progress)
    sources = [_source(corners_csv, tables.corners, tables.corners_from), _source(paths_csv, tables.paths, tables.paths_from)]
    sources += [_source(path, rows, origin) for path, (rows, origin) in cycles.items()]
    model = model.model_copy(update={"validation": comparisons + model.validation, "cycles": cycle_model, "sources": tuple(sources)})
    write_model(model, Path(out))
    return model


def fit_beside(
    model: FittedModel, *, corners_csv: Path, paths_csv: Path, out: Path, held_out: Sequence[str] = (), in_turn: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[FittedModel, ...]:  # fmt: skip
    """A model of each further process in the tables, written to `beside(out, process)`; arguments as of `fit`, `model` as returned by it.

    Each has the laws and terms of `model`, with numbers fitted on its own rows: a process has often too few corners to choose
    them, and the same architecture can be compared between processes. Parameters of temperature and bias that its corners cannot determine are those of
    `model`, and its range in both is that of the rows of both. Cycles do not depend on the process.
    """
    found = []
    for process in sorted(set(read_table(Path(corners_csv), CORNER_COLUMNS)[0]["process"]) - {model.process}):
        progress(f"process {process}")
        tables = Tables.read(corners_csv, paths_csv, process=process, layout=model.layout)
        other = fit_corners(tables.without(held_out), near=model)
        shared = {name: _hull(getattr(model, name), getattr(other, name)) for name in ("temperature_range_c", "back_bias_range_v")}
        other = _validated(other.model_copy(update=shared), tables, held_out, in_turn, progress)
        sources = (_source(corners_csv, tables.corners, tables.corners_from), _source(paths_csv, tables.paths, tables.paths_from))
        other = other.model_copy(update={"cycles": model.cycles, "sources": sources})
        write_model(other, beside(out, process))
        found.append(other)
    return tuple(found)


def beside(out: Path, process: str) -> Path:
    """Where the model of a further process is: `fdsoi28p_ss.json` beside `fdsoi28p.json`."""
    return Path(out).with_stem(f"{Path(out).stem}_{process}")


def _validated(model: FittedModel, tables: Tables, held_out: Sequence[str], in_turn: bool, progress: Callable[[str], None]) -> FittedModel:
    """The model with its intervals and its errors on designs left out."""
    comparisons: tuple[Comparison, ...] = ()
    if in_turn:
        progress("designs left out in turn")
        seen = tables.without(held_out)
        errors = designs_in_turn(seen, model)
        model = model.model_copy(update={"intervals": intervals(fitted_errors(seen, model), errors)})
        comparisons += compare(errors, "designs in turn", model)
    progress("validation")
    comparisons += compare(held_out_errors(tables, held_out, model), "held-out designs", model)
    return model.model_copy(update={"validation": comparisons})


def fit_corners(tables: Tables, *, near: FittedModel | None = None, progress: Callable[[str], None] = lambda _: None) -> FittedModel:
    """A model of the blocks and paths of `tables`, without cycles, intervals, validation and sources.

    Coefficients refer to the highest supply measured. The delay law is chosen by the errors at voltages left out. With `near`, a
    model of more of the same tables, its choice of the delay law and of terms is kept and no standard errors are estimated.
    """
    blocks, reference = tables.corners[tables.corners["block"] != WHOLE], tables.condition.reference
    known: dict[str, Any] = {} if near is None else {"errors": False, "near": near.blocks}
    fitted = fit_blocks(blocks, MEMORY_LAW, reference, progress=progress, **known)
    progress("paths")
    slowest = grouped(tables.paths)
    samples = path_samples(slowest, fitted, reference)
    delay_law = near.delay_law if near else compare_delay_laws(samples, slowness(slowest), reference)
    known = {} if near is None else {"errors": False, "near": near.paths}
    paths = fit_paths(slowest, samples, delay_law.chosen, reference, **known)
    known = {} if near is None else {"errors": False, "near": near.skew}
    skew = fit_skew(skew_samples(tables.corners, tables.paths), delay_law.chosen, reference, **known)
    path_laws = [*(path.law for path in paths.values()), *([skew] if skew else [])]
    return FittedModel(
        technology=blocks["technology"].iloc[0], process=tables.condition.process, temperature_c=float(reference.temperature_c),
        back_bias_v=float(reference.back_bias_v), temperature_range_c=measured_range(blocks["temperature_c"]),
        back_bias_range_v=measured_range(blocks["back_bias_v"]),
        layout=tables.condition.layout, reference_vdd_v=float(reference.vdd_v),
        voltage_range_v=measured_range(blocks["vdd_v"]), sram_voltage_range_v=measured_range(blocks["sram_vdd_v"]), blocks=fitted, paths=paths, skew=skew,
        path_ranges=measured_ranges(tables.paths, PATH_PARAMETERS, path_laws), intervals={},
        delay_law=delay_law, cycles=None, validation=(), sources=(),
        provisional=tuple(name for name, block in fitted.items() if block.provisional),
    )  # fmt: skip


MEMORY_LAW = "saturated_ekv"
"""Corner law of the memories' delays; that of the logic is chosen."""


def _hull(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return min(a[0], b[0]), max(a[1], b[1])


def _source(path: Path, frame: pd.DataFrame, origin: Provenance) -> Source:
    return Source(path=Path(path).name, sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(), rows=len(frame), **asdict(origin))
