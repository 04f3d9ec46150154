"""Points of a Pareto front, checked: their RTL simulated and characterized, beside what the model said of them.

Cycles: each layer of the network runs on the RTL with the point's tiling, clocks and DRAM, whole where that takes few enough cycles, else a
part of it made of whole tiles. Frequency, energy, leakage and area: the design goes through the same flow as those of the calibration set,
at the technology's corners of the point's process, temperature and back bias (its voltage sweep) and at the point's own. What is finished is
kept (shards, cached simulations), so that a killed run goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from explore.evaluate import coefficients
from explore.front_points import PlannedLayer, Point
from fit.cycles import DramTimes, dram_times, layer_cycles
from fit.estimation import CORNER, select
from fit.model import NORMAL_90, Comparison, ErrorSummary, FittedModel, read_model
from fit.validation import compare, design_errors
from flow.cache import DEFAULT_CACHE
from flow.characterize import kept_shard, table_corners
from flow.layer_simulation import simulate_layer
from flow.plan import Plan
from flow.shards import SUFFIX, Shard, read_shard, shard_inputs, stale_inputs
from flow.simulation import emit_rtl
from flow.table import CORNER_COLUMNS
from flow.tech import Technology
from hw.config import AcceleratorConfig
from hw.dram_part import DramPart, load_dram_part
from hw.errors import ConfigError, ToolError
from hw.layers import LayerShape
from hw.lowering import folds, lower
from hw.tile_plan import ceil_div
from hw.tiling import PROBLEMS, Tiling, architecture, measure

SPLIT = "front"
"""What `fit.model.Comparison.split` says of these points."""
HELD_OUT = "held-out designs"


# --- cycles -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The part of a layer that is simulated: a layer of its own over `batch` images, with its tiling and the core cycles predicted for it."""

    shape: LayerShape
    batch: int
    tiling: Tiling
    whole: bool
    cycles: float


@dataclass(frozen=True, kw_only=True)
class CheckedLayer:
    """A layer's sample and its core cycles on the RTL, beside what the exploration predicted of the whole layer."""

    layer: PlannedLayer
    sample: Sample
    measured_cycles: int

    @property
    def network_cycles(self) -> float:
        """Core cycles of the whole layer, estimated: those predicted, corrected by the ratio found on the sample."""
        return self.layer.cycles * self.measured_cycles / self.sample.cycles


def predict_layer(
    model: FittedModel, config: AcceleratorConfig, shape: LayerShape, batch: int, fold: bool, tiling: Tiling, dram: DramPart, core_period_ps: float,
    mem_period_ps: float,
) -> float:  # fmt: skip
    """Core cycles of a layer by the model; `ConfigError` for a tiling that does not fit."""
    a = architecture(config)
    lowered = lower(config, shape, batch=batch, fold=fold and folds(shape, config.array.lanes)).numbers
    traffic = measure(a, lowered, tiling)
    if traffic.problem:
        raise ConfigError(f"tiling must be legal, not {tuple(tiling)}, too large for {PROBLEMS[traffic.problem]} ({config.name}, {shape.name}); explore again")
    times = DramTimes(*(float(time) for time in dram_times(dram, a, lowered, tiling, traffic)))
    return layer_cycles(a, lowered, tiling, traffic, times, core_period_ps * 1e-12, mem_period_ps * 1e-12, coefficients(model)).total


def parts(config: AcceleratorConfig, layer: PlannedLayer, batch: int) -> Iterator[tuple[LayerShape, int]]:
    """The layer over the batch, and ever smaller parts of it, with their images: half the images (vectors that share their weights stay together),
    then half the bands of output rows or half the output channels, whichever are more tiles; always whole tiles, from the first on."""
    shape, tiling = layer.shape, layer.tiling
    band = config.array.rows * tiling.tile_h
    images, bands, tiles = batch, ceil_div(shape.out_h, band), ceil_div(shape.out_channels, tiling.tile_k)
    yield shape, images
    while bands > 1 or tiles > 1 or (images > 1 and not shape.vectors):
        if images > 1 and not shape.vectors:
            images = ceil_div(images, 2)
        elif bands >= tiles:
            bands = ceil_div(bands, 2)
        else:
            tiles = ceil_div(tiles, 2)
        yield shape.window(out_rows=bands * band, out_channels=tiles * tiling.tile_k), images


def sample_of(model: FittedModel, point: Point, layer: PlannedLayer, dram: DramPart, most_cycles: float) -> Sample:
    """The largest of `parts` that takes at most so many cycles by the model, or the smallest of all."""
    config, periods = point.config, clock_periods_ps(point)
    for shape, images in parts(config, layer, point.batch):
        numbers = lower(config, shape, batch=images, fold=layer.first and folds(shape, config.array.lanes)).numbers
        t, block = layer.tiling, config.channel_block
        tiling = t._replace(
            tile_h=min(t.tile_h, numbers.out_h), tile_w=min(t.tile_w, numbers.out_w), tile_c=min(t.tile_c, numbers.c_groups),
            tile_k=min(t.tile_k, ceil_div(numbers.k_per_group, block) * block),
        )  # fmt: skip
        cycles = predict_layer(model, config, shape, images, layer.first, tiling, dram, *periods)
        sample = Sample(shape=shape, batch=images, tiling=tiling, whole=shape == layer.shape and images == point.batch, cycles=cycles)
        if cycles <= most_cycles:
            break
    return sample


def clock_periods_ps(point: Point) -> tuple[int, int]:
    """Core and memory-side clock periods, whole picoseconds."""
    return round(1e12 / point.freq_hz), round(1e12 / point.mem_clk_hz)


def check_cycles(model: FittedModel, point: Point, most_cycles: float, cache: Path = DEFAULT_CACHE) -> tuple[CheckedLayer, ...]:
    """Every layer's sample on the RTL. Raises `ToolError` if an output differs from the golden model."""
    dram, (core_ps, mem_ps) = load_dram_part(point.dram), clock_periods_ps(point)
    found = []
    for layer in point.layers:
        sample = sample_of(model, point, layer, dram, most_cycles)
        events = simulate_layer(
            point.config, sample.shape, batch=sample.batch, fold=layer.first, tiling=sample.tiling, core_period_ps=core_ps, mem_period_ps=mem_ps,
            dram=dram, cache=cache,
        )  # fmt: skip
        found.append(CheckedLayer(layer=layer, sample=sample, measured_cycles=events["core_cycles"]))
    return tuple(found)


# --- frequency, energy, leakage, area -----------------------------------------------------------


def characterized(
    point: Point, plan: Plan, technology: Technology, shards: Path, *, measured: bool = True, cache: Path = DEFAULT_CACHE, command: str = ""
) -> Shard | None:  # fmt: skip
    """The point's design over its voltage sweep (the technology's corners of its process, temperature and back bias) and at its own corner, measured
    on the windows of `plan`; kept in a folder of `shards` named after the point's corner. Unless `measured`, None if it is not there or stale."""
    folder, own = shards / technology.name / str(point.corner), point.corner
    corners = tuple(
        corner for corner in table_corners(technology)
        if (corner.process, corner.temperature_c, corner.back_bias_v) == (own.process, own.temperature_c, own.back_bias_v)
    )  # fmt: skip
    if measured:
        corners += (own,) * (own not in corners)
        return kept_shard(point.config, plan, technology, corners, folder, cache=cache, command=command)
    try:
        kept = read_shard(folder / f"{point.config.name}{SUFFIX}")
    except ConfigError:
        return None
    inputs = shard_inputs(point.config, plan, technology, emit_rtl(point.config, cache=cache).content_hash)
    return None if stale_inputs(kept, inputs) else kept


def shard_errors(model: FittedModel, shard: Shard) -> pd.DataFrame:
    """`fit.validation.design_errors` of a design that took no part in any fit."""
    rows, _ = select(pd.DataFrame(shard.corners)[list(CORNER_COLUMNS)], process=model.process, layout=model.layout)
    return design_errors(rows, shard.design, model, [shard.design])


# --- all of it ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A point and what was found: its layers, and `fit.validation.design_errors` of its design (None: not characterized)."""

    point: Point
    layers: tuple[CheckedLayer, ...]
    errors: pd.DataFrame | None
    commit: str

    @property
    def network_cycles(self) -> float:
        """Core cycles of the network, estimated from those of the samples."""
        return sum(c.layer.repeats * c.network_cycles for c in self.layers)

    @property
    def simulated(self) -> float:
        """Part of the network's predicted cycles that belongs to layers simulated whole."""
        return sum(c.layer.repeats * c.layer.cycles for c in self.layers if c.sample.whole) / self.point.cycles

    def own_errors(self) -> pd.DataFrame | None:
        """The errors at the point's own corner, by quantity (area at whichever corner)."""
        if self.errors is None:
            return None
        here = self.errors[(self.errors[CORNER] == [getattr(self.point.corner, name) for name in CORNER]).all(axis=1)]
        area = self.errors[self.errors["quantity"] == "area"].head(1)
        return pd.concat([here[here["quantity"] != "area"], area]).set_index("quantity")


@dataclass(frozen=True, kw_only=True)
class Job:
    """How points are checked, as plain values that other processes take."""

    model: Path
    plan: Plan
    technology: Technology
    shards: Path
    most_cycles: float
    measured: bool = True
    cache: Path = DEFAULT_CACHE
    command: str = ""


def check_point(job: Job, point: Point) -> Checked:
    """Simulate and characterize a point; whatever was done before is not done again."""
    model = read_model(job.model)
    if model.layout not in job.plan.layouts:
        raise ConfigError(f"plan {job.plan.name} must measure the model's layout, {model.layout}, not only {', '.join(job.plan.layouts)}; take another plan")
    layers = check_cycles(model, point, job.most_cycles, job.cache)
    shard = characterized(point, job.plan, job.technology, job.shards, measured=job.measured, cache=job.cache, command=job.command)
    return Checked(point=point, layers=layers, errors=shard_errors(model, shard) if shard else None, commit=shard.commit if shard else "")


def comparisons(model: FittedModel, checked: Sequence[Checked]) -> tuple[Comparison, ...]:
    """The errors over all points: cycles of the layers' samples, then the quantities of whole designs."""
    rows = [(c.sample.cycles / c.measured_cycles - 1, point.point.config.name) for point in checked for c in point.layers]
    found: tuple[Comparison, ...] = ()
    if rows:
        assert model.cycles is not None, "points were explored with this model"
        errors, log_sd = np.array([error for error, _ in rows]), model.cycles.log_sd
        summary = ErrorSummary.of(errors, [name for _, name in rows])
        assert summary is not None, "measured cycles are finite"
        found += (
            Comparison(
                quantity="cycles", split=SPLIT, model=summary, ideal=None, rank_correlation=None,
                interval_coverage=float(np.mean(np.abs(np.log1p(errors)) <= NORMAL_90 * log_sd)), half_width=float(np.expm1(NORMAL_90 * log_sd)),
                outside_range=0,
            ),
        )  # fmt: skip
    tables = [point.errors for point in checked if point.errors is not None]
    return found + (compare(pd.concat(tables, ignore_index=True), SPLIT, model) if tables else ())


def beyond_held_out(found: Comparison, held_out: Comparison | None) -> list[str]:
    """Which of mean and worst are larger than on the designs held out of the fit; empty if none, or nothing was held out."""
    if held_out is None:
        return []
    return [name for name in ("mean", "worst") if getattr(found.model, name) > getattr(held_out.model, name)]


def check_all(job: Job, points: Sequence[Point], workers: int, finished: Callable[[list[Checked]], object] = lambda _: None) -> list[Checked]:
    """`check_point` of all points in so many processes; `finished` is told of every one that is done, in their order. A point that fails does
    not hold up the others; then the first one's error is raised."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    from tqdm import tqdm

    done: dict[int, Checked] = {}
    failed: list[tuple[str, ConfigError | ToolError]] = []

    def keep(number: int, work: Callable[[], Checked]) -> None:
        try:
            done[number] = work()
        except (ConfigError, ToolError) as error:
            failed.append((points[number].config.name, error))
        else:
            finished([done[i] for i in sorted(done)])

    with tqdm(total=len(points), desc="verify", unit="point", disable=None, mininterval=5) as bar:
        if workers == 1:
            for number, point in enumerate(points):
                keep(number, partial(check_point, job, point))
                bar.update()
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                futures = {pool.submit(check_point, job, point): number for number, point in enumerate(points)}
                for future in as_completed(futures):
                    keep(futures[future], future.result)
                    bar.update()
    if failed:
        names, first = ", ".join(name for name, _ in failed), failed[0][1]
        raise type(first)(f"{len(failed)} of {len(points)} points must be checked, not fail ({names}); the first one: {first}")
    return [done[i] for i in sorted(done)]
