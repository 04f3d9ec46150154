"""The design space in chunks of architectures, over processes, each chunk's results kept so that a killed run goes on."""

import hashlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from explore import evaluate as evaluation
from explore import tilings
from explore.evaluate import Conditions, Task, clock_hz, coefficients, predict_designs, prepare, total
from explore.space import DesignSpace
from fit.compose import within_range
from fit.model import FittedModel, check_range, read_model
from flow.cache import file_hash
from hw.dram import load_dram_part
from hw.errors import ConfigError, ModelError
from hw.layers import Network

CHUNK = 384
"""Architectures a chunk."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network at a batch size: one separate result. Its layers are those of `whole` that it holds."""

    network: Network
    whole: Network
    batch: int


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

    def conditions(self) -> Conditions:
        return Conditions(dram=load_dram_part(self.dram), mem_clk_hz=self.mem_clk_hz, margin=self.margin, objective=self.objective)

    def key(self) -> str:
        """Content hash of everything that decides the results: inputs, and the source of hw, fit and explore."""
        content = {
            "model": file_hash(self.model), "space": self.space.model_dump(mode="json"), "dram": load_dram_part(self.dram).model_dump(mode="json"),
            "cases": [[case.network.model_dump(mode="json"), case.whole.model_dump(mode="json"), case.batch] for case in self.cases],
            "settings": [self.mem_clk_hz, self.margin, self.objective, CHUNK],
            "sources": [hashlib.sha256(path.read_bytes()).hexdigest() for path in _sources()],
        }  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]

    def tasks(self) -> tuple[list[Task], list[list[int]]]:
        """Different layers over different batches, and which of them each case runs. A network's part shares the layers of the whole."""
        tasks: dict[tuple, int] = {}
        unique, of_case = [], []
        for case in self.cases:
            names, indices = {layer.name for layer in case.network.layers}, []
            for i, layer in enumerate(case.whole.layers):
                key = (layer, case.batch, i == 0)
                if layer.name in names:
                    if key not in tasks:
                        tasks[key] = len(unique)
                        unique.append(Task(shape=layer, batch=case.batch, first=i == 0))
                    indices.append(tasks[key])
            of_case.append(indices)
        return unique, of_case


def _sources() -> list[Path]:
    """The modules that decide numbers, in a fixed order."""
    here = Path(__file__).parent
    own = [Path(module.__file__) for module in (evaluation, tilings)] + [here / "space.py", Path(__file__)]
    other = [here.parent / room / f"{name}.py" for room, names in _OTHERS.items() for name in names]
    return own + other


_OTHERS = {
    "fit": ("blocks", "compose", "cycles", "laws", "model"),
    "hw": ("config", "dram", "dram_part", "layers", "lowering", "tensors", "tile_plan", "tiling", "tiling_choice"),
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Indices of the architectures that are evaluated, and how many are not, by reason."""

    chosen: NDArray
    refused: dict[str, int]


def select(job: Job, model: FittedModel) -> Selection:
    """Architectures whose every block lies in the fitted range and whose memory side reaches its clock; `ModelError` if there are none."""
    coefficients(model)
    nominal = model.reference_vdd_v
    if abs(job.space.vdd_v.high - nominal) > 1e-9:
        given = job.space.vdd_v.high
        raise ConfigError(f"vdd_v.high must be the nominal {nominal:g} V, with which frequency-only sweeps compare, not {given:g} ({job.space.name})")
    check_range(job.space.vdd_v.values(), model.voltage_range_v, "vdd_v", "V")
    architectures = job.space.architectures()
    inside = within_range(model, architectures.parameters())
    refused = {"not legal (hw.config)": architectures.combinations - len(architectures), "outside the fitted range of a block": int((~inside).sum())}
    chosen = np.flatnonzero(inside)
    if not chosen.size:
        raise ModelError(f"design space {job.space.name} must overlap the fitted range of every block, not lie outside; change it or fit on other designs")
    fastest = predict_designs(model, architectures[chosen], job.space.vdd_v.values()[-1:]).memory_fmax_hz
    enough = fastest >= job.mem_clk_hz
    refused["memory side slower than mem_clk_hz"] = int((~enough).sum())
    if not enough.any():
        raise ModelError(f"mem_clk_hz must be at most {fastest.max():.4g}, the memory side's fmax, not {job.mem_clk_hz:.4g}; give a lower one (--mem-clk-hz)")
    return Selection(chosen=chosen[enough], refused=refused)


SWEEPS = ("dvfs", "frequency")
ARRAYS = (
    "values", "bound", "frequency_values", "frequency_bound", "freq_hz", "area_um2", "fmax_log_sd", "energy_log_sd", "leakage_log_sd", "misfits", "limited",
)  # fmt: skip


def evaluate_chunk(job: Job, chosen: NDArray, path: Path) -> Path:
    """Evaluate architectures `chosen` (indices) in all cases, both sweeps; write the arrays to `path`, whole.

    values, frequency_values: [cases, architectures, voltages, QUANTITIES]; bound likewise without the last; freq_hz, *_log_sd
    [architectures, voltages]; area_um2 [architectures]; misfits [tasks]: architectures on which a layer fits no tiling.
    """
    model, conditions = read_model(job.model), job.conditions()
    architectures, vdd_v = job.space.architectures()[chosen], job.space.vdd_v.values()
    tasks, of_case = job.tasks()
    prepared, designs = prepare(model, architectures, tasks, conditions), predict_designs(model, architectures, vdd_v)
    frequency = clock_hz(designs, conditions)
    found = {"freq_hz": frequency, "misfits": (prepared.tilings.count[prepared.group] == 0).sum(axis=0), "limited": 0, "area_um2": designs.area_um2}
    found |= {name: getattr(designs, name) for name in ("fmax_log_sd", "energy_log_sd", "leakage_log_sd")}
    for sweep in SWEEPS:
        voltage = np.arange(len(vdd_v)) if sweep == "dvfs" else np.full(len(vdd_v), len(vdd_v) - 1)
        results = evaluation.evaluate(model, prepared, designs, conditions, frequency, voltage)
        totals = [total(results, indices) for indices in of_case]
        prefix = "" if sweep == "dvfs" else "frequency_"
        found[f"{prefix}values"], found[f"{prefix}bound"] = np.stack([t.values for t in totals]), np.stack([t.bound for t in totals])
        found["limited"] += results.limited
    _write(path, found)
    return path


def _write(path: Path, arrays: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def evaluate_all(job: Job, selection: Selection, folder: Path, *, workers: int | None = None) -> dict[str, NDArray]:
    """The arrays of all chunks one after the other (see `evaluate_chunk`); chunks that `folder` holds already are not computed again.

    The result does not depend on `workers` (default: one a processor; 1 computes in this process).
    """
    folder = folder / job.key()
    parts = [selection.chosen[i : i + CHUNK] for i in range(0, len(selection.chosen), CHUNK)]
    paths = [folder / f"{i:05}.npz" for i in range(len(parts))]
    missing = [(part, path) for part, path in zip(parts, paths, strict=True) if not _whole(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output folder must be writable, not {folder} ({error.strerror}); choose another") from None
    workers = min(workers or os.cpu_count() or 1, max(1, len(missing)))
    with tqdm(total=len(paths), initial=len(paths) - len(missing), desc="explore", unit="chunk", file=sys.stderr, disable=None, mininterval=2) as bar:
        for done, _ in enumerate(_computed(job, missing, workers), len(paths) - len(missing) + 1):
            bar.update()
            if bar.disable:
                print(f"explore: {done} of {len(paths)} chunks of {CHUNK} architectures", file=sys.stderr, flush=True)
    chunks = [_read(path) for path in paths]
    axis = {"values": 1, "bound": 1, "frequency_values": 1, "frequency_bound": 1}
    joined = {name: np.concatenate([c[name] for c in chunks], axis=axis.get(name, 0)) for name in ARRAYS if name not in ("misfits", "limited")}
    return joined | {name: np.sum([c[name] for c in chunks], axis=0) for name in ("misfits", "limited")}


def _computed(job: Job, missing: list[tuple[NDArray, Path]], workers: int) -> Iterator[Path]:
    if workers == 1:
        for part, path in missing:
            yield evaluate_chunk(job, part, path)
        return
    with ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(evaluate_chunk, job, part, path) for part, path in missing}
        try:
            while pending:
                done, pending = wait(pending, timeout=5, return_when=FIRST_EXCEPTION)
                for future in done:
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _whole(path: Path) -> bool:
    try:
        _read(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
    return True


def _read(path: Path) -> dict[str, NDArray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in ARRAYS}
