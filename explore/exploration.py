"""The whole exploration: design space and model in, points, Pareto fronts, DVFS sweeps and layers out."""

import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from explore import frames
from explore.chunks import Case, Job, evaluate_all, select
from explore.dvfs import at_edge, compare_sweeps
from explore.pareto import front, hypervolume
from explore.points import LAYER_COLUMNS, POINT_COLUMNS, POINTS_VERSION, SWEEP_COLUMNS
from explore.space import DesignSpace, load_space
from fit.model import read_model
from flow.cache import file_hash
from flow.characterize import source_commit
from hw.errors import ConfigError
from hw.layers import load_network

OUT = Path("build/explore")
DRAM = "lpddr3_1600_x32"
SWEPT = 5
"""Architectures of the highest effectiveness whose sweeps are written, for each case."""
FILES = ("points.parquet", "pareto.csv", "dvfs.csv", "layers.csv", "run.json")


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """What was found: the folder with `FILES`, the Pareto points of all cases, and `run.json` as plain values."""

    folder: Path
    pareto: pd.DataFrame
    run: dict


def default_cases() -> tuple[Case, ...]:
    """AlexNet's convolutions and the whole of AlexNet, batch 1 and 16."""
    whole = load_network("alexnet")
    convolutions = whole.select([layer.name for layer in whole.layers if layer.kind == "conv"], "alexnet_conv")
    return tuple(Case(network=network, whole=whole, batch=batch) for network in (convolutions, whole) for batch in (1, 16))


def explore_all(
    *, model_path: Path, space: DesignSpace | str = "default", out: Path = OUT, cases: tuple[Case, ...] | None = None, dram: str = DRAM,
    mem_clk_hz: float = 800e6, margin: float = 0.1, objective: str = "latency", workers: int | None = None, command: str = "",
) -> Exploration:  # fmt: skip
    """Explore and write `FILES` into `out`, each whole; every case (a network at a batch size) is a result of its own.

    Raises `ConfigError` for bad input and `ModelError` for a space or a clock that the fitted model does not cover.
    """
    space, model_path, out = space if isinstance(space, DesignSpace) else load_space(space), Path(model_path), Path(out)
    model = read_model(model_path)
    job = Job(
        model=model_path, space=space, cases=cases or default_cases(), dram=dram, mem_clk_hz=float(mem_clk_hz), margin=float(margin), objective=objective
    )  # fmt: skip
    job.conditions()
    selection = select(job, model)
    arrays = evaluate_all(job, selection, out / "chunks", workers=workers)
    architectures, vdd_v = space.architectures()[selection.chosen], space.vdd_v.values()
    tasks, of_case = job.tasks()

    fronts, sweeps, layers, summaries = [], [], [], []
    with _Parquet(out / "points.parquet") as file:
        for number, case in enumerate(job.cases):
            legal = np.flatnonzero(~np.isnan(arrays["values"][number, :, 0, 0]))
            if not legal.size:
                raise ConfigError(f"buffers must let every layer of {case.network.name} fit, which none of {space.name} do; make them larger")
            values, slowed = arrays["values"][number, legal], arrays["frequency_values"][number, legal]
            ours = {name: arrays[name][legal] for name in ("freq_hz", "area_um2", "fmax_log_sd", "energy_log_sd", "leakage_log_sd")}
            table = frames.points(job, model, case, architectures[legal], ours, values, arrays["bound"][number, legal])
            nominal = frames.points(job, model, case, architectures[legal], ours, slowed, arrays["frequency_bound"][number, legal], nominal=True)
            file.write(table)
            best = front(table["throughput_ips"], table["efficiency_gops_w"])
            chosen = table.iloc[best]
            fronts.append(chosen)
            volume = hypervolume(chosen["throughput_ips"], chosen["efficiency_gops_w"])
            sweep, effectiveness = _sweeps(table, nominal, len(vdd_v), volume)
            sweeps.append(sweep)
            picks = {
                "balanced": best[(chosen["throughput_ips"] * chosen["efficiency_gops_w"]).to_numpy().argmax()], "fastest": best[-1], "most efficient": best[0],
            }  # fmt: skip
            picks = {name: (int(selection.chosen[legal[i // len(vdd_v)]]), int(i % len(vdd_v))) for name, i in picks.items()}
            layers.append(frames.layers(job, model, case, of_case[number], picks))
            summaries.append(
                {
                    "network": case.network.name, "batch": case.batch, "macs": case.network.macs * case.batch, "architectures": int(legal.size),
                    "points": len(table), "architectures_a_layer_does_not_fit": int(len(architectures) - legal.size),
                    "misfits_by_layer": {tasks[i].shape.name: int(arrays["misfits"][i]) for i in of_case[number]}, "pareto_points": len(best),
                    "front_hypervolume": volume, "highest_effectiveness": float(effectiveness.max()), "median_effectiveness": float(np.median(effectiveness)),
                }
            )  # fmt: skip
    run = {
        "points_version": POINTS_VERSION, "command": command, "space": space.model_dump(mode="json"), "dram": dram, "mem_clk_hz": job.mem_clk_hz,
        "margin": job.margin, "objective": objective, "nominal_vdd_v": model.reference_vdd_v, "precision": "a8w8",
        "technology": model.technology, "commit": source_commit(), "key": job.key(), "seeds": {},
        "inputs": {"model": file_hash(model_path)}, "counts": {
            "combinations": architectures.combinations, "evaluated": len(architectures), "not_evaluated": selection.refused, "voltages": len(vdd_v),
            "layer_evaluations_with_dram_time_limited": int(arrays["limited"]),
            "layer_evaluations": int(2 * len(tasks) * len(architectures) * len(vdd_v) - 2 * len(vdd_v) * arrays["misfits"].sum()),
        },
        "results": summaries, "provisional": list(model.provisional), "stored": "points.parquet holds every evaluated point of the DVFS sweeps",
        "interval": "90 %: errors of the laws for cycles, frequency, energy and leakage; none for the DRAM's figures",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("voltfront", "numpy", "numba", "pandas", "pyarrow", "moocore")},
    }  # fmt: skip
    pareto = pd.concat(fronts, ignore_index=True)
    tables = {"pareto": (pareto, POINT_COLUMNS), "dvfs": (pd.concat(sweeps), SWEEP_COLUMNS | POINT_COLUMNS), "layers": (pd.concat(layers), LAYER_COLUMNS)}
    for name, (table, columns) in tables.items():
        text = table[list(columns)].to_csv(index=False, lineterminator="\n")
        write_whole(out / f"{name}.csv", lambda path, text=text: path.write_text(text, encoding="utf-8"))
    write_whole(out / "run.json", lambda path: path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8"))
    return Exploration(folder=out, pareto=pareto, run=run)


def _sweeps(table: pd.DataFrame, nominal: pd.DataFrame, voltages: int, front_hypervolume: float) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of `dvfs.csv` of the `SWEPT` architectures of highest effectiveness, and the effectiveness of all."""

    def grid(frame: pd.DataFrame, column: str) -> np.ndarray:
        return frame[column].to_numpy().reshape(-1, voltages)

    axes = ("throughput_ips", "efficiency_gops_w")
    found = compare_sweeps(*(grid(table, c) for c in (*axes, "core_energy_j")), *(grid(nominal, c) for c in axes), front_hypervolume)
    rows = []
    for rank, i in enumerate(np.argsort(-found.effectiveness, kind="stable")[:SWEPT], 1):
        vdd_v = table["vdd_v"].to_numpy()[:voltages]
        numbers = {
            "rank": rank, "effectiveness": found.effectiveness[i], "throughput_range": found.throughput_range[i], "efficiency_gain": found.efficiency_gain[i],
            "min_energy_vdd_v": vdd_v[found.min_energy[i]], "min_energy_at_edge": bool(at_edge(found.min_energy[i], voltages)),
            "core_min_energy_vdd_v": vdd_v[found.core_min_energy[i]], "core_min_energy_at_edge": bool(at_edge(found.core_min_energy[i], voltages)),
        }  # fmt: skip
        one = slice(i * voltages, (i + 1) * voltages)
        slowed = compare_sweeps(*(grid(nominal.iloc[one], c) for c in (*axes, "core_energy_j")), *(grid(nominal.iloc[one], c) for c in axes), front_hypervolume)
        rows.append(table.iloc[one].assign(sweep="dvfs", slope=found.slope[i], **numbers))
        rows.append(nominal.iloc[one].assign(sweep="frequency", slope=slowed.slope[0], **numbers))
    return pd.concat(rows, ignore_index=True), found.effectiveness


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, and put it in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    os.close(descriptor)
    try:
        write(Path(name))
        Path(name).chmod(0o644)  # a temporary file is its owner's alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class _Parquet:
    """A file of points written case by case, in place only when all are there."""

    def __init__(self, path: Path):
        self._path, self._temporary, self._writer = path, path.with_name(f".{path.name}.part"), None

    def __enter__(self) -> "_Parquet":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
        self._writer.write_table(table)

    def __exit__(self, kind, error, trace) -> None:
        if self._writer is not None:
            self._writer.close()
        if kind is None:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)
