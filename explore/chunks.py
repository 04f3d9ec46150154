"""The design space array by array, over processes; what each block of architectures yields is kept, so that a killed run goes on.

A block keeps little of its points: its Pareto front, the architectures that come nearest to a reference front, and a few numbers of
each architecture. So memory does not grow with the number of points, and the fronts of all blocks hold the front of all points.
"""

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from explore.chains import Link, chains
from explore.curves import LONGEST_S, SHORTEST_S
from explore.evaluate import Conditions, Task, chip_laws, coefficients, laws_at, layer_rows, search_all, sram_supplies, wanted_clocks
from explore.pareto import distances, front, front_with_area, hypervolumes
from explore.space import Architectures, DesignSpace
from explore.sweep import Sweeps, sweep
from fit.compose import DesignLaws, within_range
from fit.model import FittedModel, beyond, check_range, read_model
from flow.cache import file_hash
from flow.files import read_once, write_whole
from hw.dram import DramPolicy, load_dram_part
from hw.errors import ConfigError, ModelError
from hw.layers import LayerShape, Network

NEAREST = 64
"""Architectures near the reference front that a block keeps of each case."""
REFERENCE_EVERY = 16
"""Every how manyth block the reference front is made from."""
STOPS_GAIN = 0.1
"""Raising the voltage has stopped paying where throughput grows by less than this part of what the clock grows by."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network at a batch size: one separate result. Its layers are those of `whole` that it holds. `links` of the layers of `whole` say what may stay
    on chip between them; without, nothing does."""

    network: Network
    whole: Network
    batch: int
    links: tuple[Link, ...] = ()

    @property
    def operations(self) -> int:
        """Useful operations of a batch."""
        return 2 * self.network.macs * self.batch


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What a candidate must keep to; None: no such constraint."""

    max_area_mm2: float | None = None
    max_power_w: float | None = None
    max_latency_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, not {value:g}; give a positive limit or none")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is explored, as plain values that other processes take."""

    model: Path
    space: DesignSpace
    cases: tuple[Case, ...]
    dram: str
    mem_clk_hz: float
    margin: float
    objective: str
    channels: int = 1
    policy: DramPolicy = field(default_factory=DramPolicy)
    free_memory: bool = False
    constraints: Constraints = field(default_factory=Constraints)
    with_area: bool = False
    sram_vdd_v: float | None = None
    clock_model: Path | None = None
    """The model of the slow process, if that sets the clocks; energy and leakage are those of `model`."""

    def points(self, model: FittedModel) -> tuple[NDArray, NDArray]:
        """(vdd_v, back_bias_v) [points]: all voltages at each back bias that the model covers, first at the model's own."""
        vdd_v, biases = self.space.vdd_v.values(), back_biases(self, model)
        return np.tile(vdd_v, len(biases)), np.repeat(biases, len(vdd_v))

    def clocks(self) -> FittedModel | None:
        """The model that sets the clocks, if that is another."""
        return None if self.clock_model is None else read_again(self.clock_model)

    def conditions(self) -> Conditions:
        return Conditions(
            dram=load_dram_part(self.dram), channels=self.channels, policy=self.policy, free_memory=self.free_memory, mem_clk_hz=self.mem_clk_hz,
            margin=self.margin, objective=self.objective, sram_vdd_v=self.sram_vdd_v,
        )  # fmt: skip

    def key(self) -> str:
        """Content hash of everything that decides the results: inputs, and the source of hw, fit and explore."""
        content = {
            "model": file_hash(self.model), "clock_model": self.clock_model and file_hash(self.clock_model),
            "space": self.space.model_dump(mode="json"), "dram": load_dram_part(self.dram).model_dump(mode="json"),
            "cases": [[case.network.model_dump(mode="json"), case.whole.model_dump(mode="json"), case.batch, case.links] for case in self.cases],
            "settings": [self.mem_clk_hz, self.margin, self.objective, self.channels, self.policy.model_dump(), self.free_memory, self.with_area],
            "sram_vdd_v": self.sram_vdd_v,
            "constraints": asdict(self.constraints), "sources": [hashlib.sha256(path.read_bytes()).hexdigest() for path in _sources()],
        }  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]

    def tasks(self) -> tuple[list[Task], NDArray]:
        """Layers of different shape over different batches, and how often each case runs each, [cases, tasks]. Layers of which one may find its input on
        chip, left there by the one before, are chains: the same if all of their layers are."""
        places: dict[tuple, range] = {}
        unique: list[Task] = []
        runs: list[tuple[int, range]] = []
        for number, case in enumerate(self.cases):
            names = {layer.name for layer in case.network.layers}
            every = tasks_of(case.whole.layers, case.batch, case.links)
            for chain in chains([task.found for task in every], [task.shape.name in names for task in every]):
                tasks = every[chain.start : chain.stop]
                tasks = [replace(tasks[0], found=0), *tasks[1:]]
                tasks = [*tasks[:-1], replace(tasks[-1], stored=True)]
                key = tuple(replace(task, shape=task.shape.model_copy(update={"name": "layer", "relu": False})) for task in tasks)
                if key not in places:
                    places[key] = range(len(unique), len(unique) + len(tasks))
                    unique += tasks
                runs.append((number, places[key]))
        repeats = np.zeros((len(self.cases), len(unique)), dtype=np.int64)
        for number, own in runs:
            repeats[number, own.start : own.stop] += 1
        return unique, repeats


def tasks_of(layers: Sequence[LayerShape], batch: int, links: Sequence[Link] = ()) -> list[Task]:
    """The layers of a network as tasks; with `links`, activations may stay on chip between them."""
    pairs = zip(layers, links or [Link(0, True)] * len(layers), strict=True)
    return [Task(shape=shape, batch=batch, first=i == 0, found=link.found, stored=link.stored) for i, (shape, link) in enumerate(pairs)]


@read_once(4)
def read_again(path: Path) -> FittedModel:
    """`read_model`, once a process for as long as the file stays the same."""
    return read_model(path)


@cache
def _sources() -> tuple[Path, ...]:
    """The modules that decide numbers, in a fixed order."""
    here = Path(__file__).parent
    own = [here / f"{name}.py" for name in ("chains", "chunks", "curves", "evaluate", "on_chip", "pareto", "space", "sweep", "tilings")]
    return tuple(own + [here.parent / room / f"{name}.py" for room, names in _OTHERS.items() for name in names])


_OTHERS = {
    "fit": ("blocks", "compose", "cycles", "laws", "model", "transfers"),
    "hw": ("config", "dram", "dram_part", "layers", "lowering", "on_chip", "on_chip_choice", "tensors", "tile_plan", "tiling", "tiling_choice"),
}


def check(job: Job, model: FittedModel) -> None:
    """Raise `ConfigError` or `ModelError` if the model does not cover the job's supplies and biases."""
    coefficients(model)
    job.conditions()
    clocks = job.clocks()
    nominal = model.reference_vdd_v
    if abs(job.space.vdd_v.high - nominal) > 1e-9:
        given = job.space.vdd_v.high
        raise ConfigError(f"vdd_v.high must be the nominal {nominal:g} V, with which frequency-only sweeps compare, not {given:g} ({job.space.name})")
    for one in (model, clocks) if clocks else (model,):
        check_range(job.space.vdd_v.values(), one.voltage_range_v, "vdd_v", "V")
        check_range(sram_supplies(model, job.conditions(), job.space.vdd_v.values()), one.sram_voltage_range_v, "sram_vdd_v", "V")
    if clocks and (clocks.technology != model.technology or clocks.process == model.process or clocks.temperature_c != model.temperature_c):
        what = f"{clocks.technology}, {clocks.process}, {clocks.temperature_c:g} C"
        raise ConfigError(f"model of the slow corner must be of {model.technology}, {model.temperature_c:g} C and another process, not {what}; fit that")
    if model.back_bias_v not in back_biases(job, model):
        wanted = ", ".join(f"{value:g}" for value in job.space.back_bias_v)
        raise ModelError(f"back_bias_v must include that of the model, {model.back_bias_v:g} V, not only {wanted} ({job.space.name}); add it")


def back_biases(job: Job, model: FittedModel) -> list[float]:
    """The back biases of the space that the model (and the one that sets the clocks) covers: the model's own first, then the others as listed."""
    models = [model] if job.clock_model is None else [model, read_again(job.clock_model)]
    covered = [value for value in job.space.back_bias_v if not any(beyond(value, one.back_bias_range_v) for one in models)]
    return sorted(covered, key=lambda value: value != model.back_bias_v)


REFUSALS = ("not legal (hw.config)", "outside the fitted range of a block", "memory side slower than mem_clk_hz")
BLOCK = (
    "index", "area_um2", "gains", "front_case", "front_index", "front_point", "front_xy", "near_case", "near_index", "near_point", "near_log",
    "refused", "fitting", "kept", "misfits", "min_energy", "core_min_energy", "stops", "layer_evaluations", "memory_fmax_hz",
)  # fmt: skip
"""Arrays that a block yields (see `evaluate_block`)."""
FRONT = ("front_case", "front_index", "front_point", "front_xy")
"""Those of its fronts."""


def evaluate_block(job: Job, number: int, reference: list[NDArray], path: Path | None = None, known: dict | None = None) -> dict[str, NDArray]:
    """All architectures of one array in all cases; written whole to `path` if there is one. `known`: see `explore.evaluate.search_all`.

    index [architectures] their places in the space, area_um2; gains [cases, architectures] HV(DVFS sweep) - HV(frequency-only sweep), NaN where
    a layer fits no tiling. front_*: points of the block's fronts, one after the other: case, place in the space, index into `Job.points`,
    (throughput, efficiency, area). near_*: the architectures that come nearest to `reference` (of each case [points, 2]), each at its best point.
    refused [REFUSALS], and of each case: fitting (architectures), kept [cases, 3] points left by area, and power, and latency; min_energy,
    core_min_energy [cases, points] architectures with their least energy there; stops [cases, voltages + 1] voltage above which, without bias,
    throughput grows by less than `STOPS_GAIN` of the clock (the last: nowhere). misfits [tasks]; memory_fmax_hz: the highest.
    """
    model, conditions, clocks = read_again(job.model), job.conditions(), job.clocks()
    vdd_v, bias_v = job.points(model)
    tasks, repeats = job.tasks()
    architectures = job.space.block(number)
    size, legal = job.space.combinations // job.space.blocks, len(architectures)
    for one in (model, clocks):
        if one is not None and len(architectures):
            architectures = architectures[within_range(one, architectures.parameters())]
    inside = len(architectures)
    fastest = 0.0
    if inside:
        laws, timed = _laws(model, clocks, architectures, conditions, vdd_v, bias_v)
        fastest = 1 / timed.memory_period_s.min()
        enough = 1 / timed.memory_period_s >= job.mem_clk_hz
        if not enough.all():
            architectures = architectures[enough]
    found = _nothing(len(job.cases), len(tasks), len(vdd_v), job.space.vdd_v.count)
    found |= {"refused": np.array([size - legal, legal - inside, inside - len(architectures)]), "memory_fmax_hz": np.array(fastest)}
    if len(architectures):
        if len(architectures) < inside:
            laws, timed = _laws(model, clocks, architectures, conditions, vdd_v, bias_v)
        chip = chip_laws(laws, conditions, timed)
        searched, _ = search_all(model, architectures, tasks, conditions, job.space.vdd_v.values(), wanted=wanted_clocks(chip.period_s), known=known)
        sweeps = sweep(searched, layer_rows(searched.rows, conditions, coefficients(model).dram, tasks), chip, conditions, repeats, job.space.vdd_v.count)
        if sweeps.uncovered:
            raise ModelError(f"core clocks must be {1 / LONGEST_S:g} to {1 / SHORTEST_S:g} Hz, and {sweeps.uncovered} are not; see explore/curves.py")
        area = laws.core_area_um2.grid[:, 0] + laws.memory_area_um2.grid[:, 0]
        found |= _reduce(job, architectures.index, area, sweeps, reference)
        found |= {"misfits": sweeps.misfits, "layer_evaluations": np.array(len(vdd_v) * (len(tasks) * len(architectures) - sweeps.misfits.sum()))}
    if path is not None:
        _write(path, found)
    return found


def _laws(
    model: FittedModel, clocks: FittedModel | None, architectures: Architectures, conditions: Conditions, vdd_v: NDArray, bias_v: NDArray
) -> tuple[DesignLaws, DesignLaws]:  # fmt: skip
    """`laws_at` of the model, and of what sets the clocks."""
    laws = laws_at(model, architectures, conditions, vdd_v, bias_v)
    return laws, laws if clocks is None else laws_at(clocks, architectures, conditions, vdd_v, bias_v)


def _nothing(cases: int, tasks: int, points: int, voltages: int) -> dict[str, NDArray]:
    """What a block without architectures yields."""
    empty, count = np.zeros(0), np.zeros(0, dtype=np.int64)
    return {
        "index": count, "area_um2": empty, "gains": np.zeros((cases, 0), dtype=np.float32), "front_case": count, "front_index": count, "front_point": count,
        "front_xy": np.zeros((0, 3)), "near_case": count, "near_index": count, "near_point": count, "near_log": empty, "fitting": np.zeros(cases, dtype=int),
        "kept": np.zeros((cases, 3), dtype=int), "misfits": np.zeros(tasks, dtype=int), "min_energy": np.zeros((cases, points), dtype=int),
        "core_min_energy": np.zeros((cases, points), dtype=int), "stops": np.zeros((cases, voltages + 1), dtype=int), "layer_evaluations": np.array(0),
    }  # fmt: skip


def _reduce(job: Job, index: NDArray, area: NDArray, sweeps: Sweeps, reference: list[NDArray]) -> dict[str, NDArray]:
    """The block's arrays from its sweeps."""
    points, voltages = sweeps.latency_s.shape[2], sweeps.slow_energy_j.shape[2]
    found = _nothing(len(job.cases), 0, points, voltages)
    gains = np.full((len(job.cases), len(index)), np.nan, dtype=np.float32)
    fronts, nears = [], []
    for number, case in enumerate(job.cases):
        fits = np.flatnonzero(~np.isnan(sweeps.latency_s[number, :, 0]))
        found["fitting"][number] = len(fits)
        if not len(fits):
            continue
        latency, energy, slow = (values[number, fits] for values in (sweeps.latency_s, sweeps.energy_j, sweeps.slow_energy_j))
        if not all(np.all(np.isfinite(v)) and np.all(v > 0) for v in (latency, energy, slow)):
            raise ModelError(f"every time and energy of {case.network.name} must be finite and above 0, and the model predicts others; check the fit")
        x, y = case.batch / latency, case.operations / energy / 1e9
        gains[number, fits] = hypervolumes(x, y) - hypervolumes(x[:, :voltages], case.operations / slow / 1e9)
        least, core_least = energy.argmin(axis=1), sweeps.core_energy_j[number, fits].argmin(axis=1)
        found["min_energy"][number], found["core_min_energy"][number] = (np.bincount(i, minlength=points) for i in (least, core_least))
        found["stops"][number] = np.bincount(_stops(x[:, :voltages], sweeps.period_s[fits, :voltages]), minlength=voltages + 1)
        allowed = _allowed(job.constraints, np.broadcast_to(area[fits, None], x.shape), energy / latency, latency)
        found["kept"][number] = [mask.sum() for mask in allowed]
        which = np.flatnonzero(allowed[-1].ravel())
        if not len(which):
            continue
        xs, ys, areas = x.ravel()[which], y.ravel()[which], np.repeat(area[fits], points)[which]
        best = which[front_with_area(xs, ys, areas) if job.with_area else front(xs, ys)]
        own, point = fits[best // points], best % points
        fronts.append((np.full(len(best), number), index[own], point, np.stack([x.ravel()[best], y.ravel()[best], area[own]], axis=1)))
        if len(reference[number]):
            away = np.full(x.size, np.inf)
            away[which] = distances(xs, ys, *(np.ascontiguousarray(axis) for axis in reference[number].T))
            away = away.reshape(x.shape)
            nearest = np.argsort(away.min(axis=1), kind="stable")[:NEAREST]
            nearest = nearest[np.isfinite(away[nearest].min(axis=1))]
            nears.append((np.full(len(nearest), number), index[fits[nearest]], away[nearest].argmin(axis=1), away[nearest].min(axis=1)))
    for kind, parts in (("front", fronts), ("near", nears)):
        names = [name for name in BLOCK if name.startswith(f"{kind}_")]
        if parts:
            found |= {name: np.concatenate(columns) for name, columns in zip(names, zip(*parts, strict=True), strict=True)}
    return {name: value for name, value in found.items() if name not in ("misfits", "layer_evaluations")} | {
        "index": index, "area_um2": area, "gains": gains
    }  # fmt: skip


def _allowed(constraints: Constraints, area_um2: NDArray, power_w: NDArray, latency_s: NDArray) -> list[NDArray]:
    """Masks of the points that keep to the limit on area, to that and the one on power, to all three."""
    masks, mask = [], np.ones(power_w.shape, dtype=bool)
    limits = (constraints.max_area_mm2 and constraints.max_area_mm2 * 1e6, constraints.max_power_w, constraints.max_latency_s)
    for values, limit in zip((area_um2, power_w, latency_s), limits, strict=True):
        mask = mask & (values <= limit) if limit is not None else mask
        masks.append(mask)
    return masks


def _stops(throughput_ips: NDArray, period_s: NDArray) -> NDArray:
    """[architectures] index of the first voltage from which on throughput grows by less than `STOPS_GAIN` of the clock's growth; as many as voltages: none."""
    growth = np.diff(np.log(throughput_ips), axis=1) / -np.diff(np.log(period_s), axis=1)
    pays, voltages = growth >= STOPS_GAIN, throughput_ips.shape[1]
    last = np.where(pays.any(axis=1), voltages - 1 - pays[:, ::-1].argmax(axis=1), 0)  # the voltage that the last step that pays leads to
    return np.where(last == voltages - 1, voltages, last)


def _write(path: Path, arrays: dict) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # by name, numpy would add a suffix
            np.savez(file, **arrays)

    write_whole(path, write)


def evaluate_all(job: Job, folder: Path, *, workers: int | None = None, scheduler: str | None = None) -> list[Path]:
    """The files of all blocks, in order (see `evaluate_block`); those that `folder` holds already are not computed again.

    The results do not depend on `workers` (default: one a processor; 1 computes in this process), nor on a dask `scheduler` at that address.
    """
    folder = folder / job.key()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output folder must be writable, not {folder} ({error.strerror}); choose another") from None
    paths = [folder / f"{i:05}.npz" for i in range(job.space.blocks)]
    sample = range(0, job.space.blocks, REFERENCE_EVERY)
    nothing = [np.zeros((0, 2)) for _ in job.cases]
    first = [folder / f"reference-{i:05}.npz" for i in sample]
    _run(job, [(i, nothing, path) for i, path in zip(sample, first, strict=True)], workers, scheduler, "explore: reference")
    reference = [points[:, :2] for points in merge_fronts(job, [read_block(path, FRONT) for path in first])[0]]
    _run(job, [(i, reference, path) for i, path in enumerate(paths)], workers, scheduler, "explore")
    return paths


def merge_fronts(job: Job, blocks: Sequence[Mapping[str, NDArray]]) -> tuple[list[NDArray], list[NDArray], list[NDArray]]:
    """Of each case the front of all blocks: (throughput, efficiency, area) [points, 3], places in the space and indices into `Job.points`."""
    case, index, point, points = (np.concatenate([block[name] for block in blocks]) for name in FRONT)
    merged = []
    for number in range(len(job.cases)):
        own = np.flatnonzero(case == number)
        if len(own):
            own = own[front_with_area(*points[own].T) if job.with_area else front(*points[own, :2].T)]
        merged.append(own)
    return [points[own] for own in merged], [index[own] for own in merged], [point[own] for own in merged]


def _run(job: Job, wanted: list[tuple[int, list[NDArray], Path]], workers: int | None, scheduler: str | None, what: str) -> None:
    missing = [work for work in wanted if not _whole(work[2])]
    workers = min(workers or os.cpu_count() or 1, max(1, len(missing)))
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), desc=what, unit="block", file=sys.stderr, disable=None, mininterval=2) as bar:
        computed = _distributed(job, missing, scheduler) if scheduler else _computed(job, missing, workers)
        for done, _ in enumerate(computed, len(wanted) - len(missing) + 1):
            bar.update()
            if bar.disable and (done % 25 == 0 or done == len(wanted)):
                print(f"{what}: {done} of {len(wanted)} blocks", file=sys.stderr, flush=True)


def _block_file(job: Job, number: int, reference: list[NDArray], path: Path) -> Path:
    evaluate_block(job, number, reference, path)
    return path


def _computed(job: Job, missing: list[tuple[int, list[NDArray], Path]], workers: int) -> Iterator[Path]:
    if workers == 1:
        for work in missing:
            yield _block_file(job, *work)
        return
    with ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_block_file, job, *work) for work in missing}
        try:
            while pending:
                done, pending = wait(pending, timeout=5, return_when=FIRST_EXCEPTION)
                for future in done:
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _block_arrays(job: Job, number: int, reference: list[NDArray]) -> dict[str, NDArray]:
    return evaluate_block(job, number, reference)


def _distributed(job: Job, missing: list[tuple[int, list[NDArray], Path]], scheduler: str) -> Iterator[Path]:
    """Over the workers of a dask scheduler, which must see the model's file at the same path; blocks come back as arrays and are written here."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ConfigError("distributed must be installed for a scheduler, and is not; pip install distributed") from None
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise ConfigError(f"scheduler must be the address of a dask scheduler that answers, not {scheduler!r} ({error})") from None
    with client:
        futures = {client.submit(_block_arrays, job, number, reference, key=f"{job.key()}-{path.stem}", retries=3): path for number, reference, path in missing}
        for future, arrays in as_completed(futures, with_results=True):
            _write(futures[future], arrays)
            yield futures[future]
            future.release()


def _whole(path: Path) -> bool:
    try:
        read_block(path, BLOCK)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
    return True


def read_block(path: Path, names: tuple[str, ...]) -> dict[str, NDArray]:
    """Arrays of a block's file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in names}
