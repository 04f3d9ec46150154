"""The whole exploration: design space and model in, Pareto fronts, DVFS sweeps, layers and every architecture's DVFS effectiveness out."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from explore import frames
from explore.chains import ALEXNET_CONV, find_network
from explore.chunks import FRONT, REFUSALS, Case, Constraints, Job, back_biases, check, evaluate_all, merge_fronts, read_block
from explore.dvfs import at_edge, compare_sweeps
from explore.pareto import hypervolume
from explore.points import LAYER_COLUMNS, POINT_COLUMNS, POINTS_VERSION, SWEEP_COLUMNS
from explore.space import AXES, DesignSpace, load_space
from fit.model import FittedModel, read_model
from flow.cache import file_hash
from flow.characterize import source_commit
from flow.files import write_text_whole, write_whole
from hw.dram import DramPolicy
from hw.errors import ConfigError, ModelError

OUT = Path("build/explore")
DEFAULT_NETWORKS = (ALEXNET_CONV, "alexnet")
DRAM = "lpddr3_1600_x32"
SWEPT = 5
"""Architectures of the highest effectiveness whose sweeps are written, for each case."""
NEAREST = 512
"""Architectures nearest to a front, outside it, whose intervals are worked out."""
FILES = ("points.parquet", "architectures.parquet", "pareto.csv", "dvfs.csv", "layers.csv", "run.json")


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """What was found: the folder with `FILES`, the Pareto points of all cases, and `run.json` as plain values."""

    folder: Path
    pareto: pd.DataFrame
    run: dict


def default_cases() -> tuple[Case, ...]:
    """AlexNet's convolutions and the whole of AlexNet, batch 1 and 16."""
    return cases_of(DEFAULT_NETWORKS, (1, 16))


def cases_of(networks: Sequence[str], batches: Sequence[int], *, on_chip: bool = False) -> tuple[Case, ...]:
    """Networks, by name or path, each at each batch size; with `on_chip`, activations stay on chip between layers where that is better."""
    loaded = [find_network(name, on_chip=on_chip) for name in networks]
    if not loaded or not batches or min(batches) < 1:
        raise ConfigError("networks and batches must be given, each batch at least 1, and are not; give for example --network alexnet --batch 1,16")
    return tuple(Case(network=one.network, whole=one.whole, batch=batch, links=one.links) for one in loaded for batch in batches)


def explore_all(
    *, model_path: Path, space: DesignSpace | str = "default", out: Path = OUT, cases: tuple[Case, ...] | None = None, dram: str = DRAM,
    channels: int = 1, policy: DramPolicy | None = None, free_memory: bool = False, mem_clk_hz: float = 800e6, margin: float = 0.1,
    objective: str = "latency", constraints: Constraints | None = None, with_area: bool = False, sram_vdd_v: float | None = None, single_rail: bool = False,
    clock_model_path: Path | None = None, workers: int | None = None, scheduler: str | None = None, command: str = "",
) -> Exploration:  # fmt: skip
    """Explore and write `FILES` into `out`, each whole; every case (a network at a batch size) is a result of its own.

    The memories have a rail of their own, at `sram_vdd_v` or the least they work at, above which they are at the core's supply; with `single_rail`
    they have none, and of the space's voltages those at which they work are taken. With the model of a slow process at `clock_model_path` the clocks
    are those at which even its chips work, while energy, leakage and area are those of the model at `model_path`.

    Raises `ConfigError` for bad input or constraints that leave no candidate and `ModelError` for a space or a clock that the fitted model does not cover.
    """
    space, model_path, out = space if isinstance(space, DesignSpace) else load_space(space), Path(model_path), Path(out)
    model = read_model(model_path)
    if single_rail:
        if sram_vdd_v is not None:
            raise ConfigError(f"rails must be one, or two with sram_vdd_v, not both (sram_vdd_v {sram_vdd_v:g} V); leave one of the options out")
        space = space.model_copy(update={"vdd_v": space.vdd_v.at_least(model.sram_voltage_range_v[0])})
    job = Job(
        model=model_path, space=space, cases=cases or default_cases(), dram=dram, channels=channels, policy=policy or DramPolicy(), free_memory=free_memory,
        mem_clk_hz=float(mem_clk_hz), margin=float(margin), objective=objective, constraints=constraints or Constraints(), with_area=with_area,
        sram_vdd_v=None if sram_vdd_v is None else float(sram_vdd_v), clock_model=clock_model_path and Path(clock_model_path),
    )  # fmt: skip
    check(job, model)
    paths = evaluate_all(job, out / "chunks", workers=workers, scheduler=scheduler)
    blocks = _Blocks(job, paths)
    fronts, places, at = merge_fronts(job, [read_block(path, FRONT) for path in paths])
    volumes = [hypervolume(points[:, 0], points[:, 1]) for points in fronts]

    pareto, ties, sweeps, layers, summaries = [], [], [], [], []
    for number, case in enumerate(job.cases):
        best = points_at(job, model, number, places[number], at[number])
        pareto.append(best)
        ties.append(_ties(job, model, number, blocks, fronts[number], best))
        effectiveness = blocks.effectiveness(number, volumes[number])
        swept = np.argsort(-effectiveness, kind="stable")[: min(SWEPT, np.isfinite(effectiveness).sum())]
        sweeps.append(_sweeps(job, model, number, blocks.index[swept], volumes[number]))
        chosen = fronts[number][:, 0] * fronts[number][:, 1]
        picks = {"balanced": chosen.argmax(), "fastest": len(chosen) - 1, "most efficient": fronts[number][:, 1].argmax()}
        picks |= {f"front {place}": i for place, i in enumerate(range(len(chosen)), 1) if i not in picks.values()}
        layers.append(frames.layers(job, model, number, {name: (int(places[number][i]), int(at[number][i])) for name, i in picks.items()}))
        summaries.append(blocks.summary(number, case, model, volumes[number], effectiveness, len(best), len(ties[-1])))
    run = _record(job, model, blocks, summaries, command) | {"rails": {"single": single_rail, "sram_vdd_v": sram_vdd_v}}
    found = pd.concat(pareto, ignore_index=True)
    tables = {"pareto": (found, POINT_COLUMNS), "dvfs": (pd.concat(sweeps), SWEEP_COLUMNS | POINT_COLUMNS), "layers": (pd.concat(layers), LAYER_COLUMNS)}
    points = pd.concat([*pareto, *ties], ignore_index=True)
    write_whole(out / "points.parquet", lambda path: points[list(POINT_COLUMNS)].to_parquet(path, compression="zstd", index=False))
    write_whole(out / "architectures.parquet", lambda path: blocks.write(path, volumes))
    for name, (table, columns) in tables.items():
        text = table[list(columns)].to_csv(index=False, lineterminator="\n")
        write_text_whole(out / f"{name}.csv", text)
    write_text_whole(out / "run.json", json.dumps(run, indent=1) + "\n")
    return Exploration(folder=out, pareto=found, run=run)


class _Blocks:
    """What all blocks yield together, without the points. Raises an error that says why if no candidate is left in a case."""

    _SUMS = ("refused", "fitting", "kept", "misfits", "min_energy", "core_min_energy", "stops", "layer_evaluations")

    def __init__(self, job: Job, paths: list[Path]):
        self.job, self.paths = job, paths
        self.sums: dict[str, np.ndarray] = {name: np.zeros((), dtype=np.int64) for name in self._SUMS}
        index, gains, near, fastest = [], [], [], 0.0
        names = ("near_case", "near_index", "near_point", "near_log")
        for path in paths:
            block = read_block(path, (*self._SUMS, "index", "gains", "memory_fmax_hz", *names))
            self.sums = {name: self.sums[name] + block[name] for name in self._SUMS}
            index.append(block["index"])
            gains.append(block["gains"])
            near.append([block[name] for name in names])
            fastest = max(fastest, float(block["memory_fmax_hz"]))
        self.index, self.gains = np.concatenate(index), np.concatenate(gains, axis=1)
        self.near = dict(zip(names, (np.concatenate(parts) for parts in zip(*near, strict=True)), strict=True))
        self._check(fastest)

    def _check(self, memory_fmax_hz: float) -> None:
        space, limits = self.job.space, asdict(self.job.constraints)
        illegal, outside, slow = self.sums["refused"]
        if illegal == space.combinations:
            raise ConfigError(f"design space {space.name} must have at least one legal architecture, not none of {illegal} combinations; see hw/config.py")
        if not len(self.index) and not slow:
            raise ModelError(f"design space {space.name} must overlap the fitted range of every block, not lie outside; change it or fit on other designs")
        if not len(self.index):
            raise ModelError(
                f"mem_clk_hz must be at most {memory_fmax_hz:.4g}, the memory side's fmax, not {self.job.mem_clk_hz:.4g}; give a lower one (--mem-clk-hz)"
            )
        for number, case in enumerate(self.job.cases):
            if not self.sums["fitting"][number]:
                tasks, repeats = self.job.tasks()
                worst = max(np.flatnonzero(repeats[number]), key=lambda task: self.sums["misfits"][task])
                what = f"buffers must let every layer of {case.network.name} fit, which none of {space.name} do"
                raise ConfigError(f"{what} (layer {tasks[worst].shape.name} on the fewest); make them larger")
            for (name, limit), left in zip(limits.items(), self.sums["kept"][number], strict=True):
                if not left:
                    option = "--" + name.replace("_", "-")
                    raise ConfigError(f"{name} must leave a candidate for {case.network.name}, batch {case.batch}, which {limit:g} does not; raise {option}")

    def effectiveness(self, number: int, front_hypervolume: float) -> np.ndarray:
        """[architectures] of one case; minus infinity where a layer fits no tiling."""
        return np.where(np.isnan(self.gains[number]), -np.inf, self.gains[number].astype(float) / front_hypervolume)

    def summary(self, number: int, case: Case, model: FittedModel, volume: float, effectiveness: np.ndarray, pareto_points: int, ties: int) -> dict:
        """An entry of `results` in run.json."""
        vdd_v, tasks, biases = self.job.space.vdd_v.values(), self.job.tasks(), back_biases(self.job, model)
        own, fitting = effectiveness[np.isfinite(effectiveness)], int(self.sums["fitting"][number])

        def share(counts: np.ndarray, values: Sequence[float] | np.ndarray) -> dict[str, float]:
            """Of the architectures, by voltage or bias."""
            return {(f"{values[i]:g}" if i < len(values) else "never"): round(float(n / counts.sum()), 6) for i, n in enumerate(counts) if n}

        least, core_least = (self.sums[name][number].reshape(len(biases), -1) for name in ("min_energy", "core_min_energy"))

        return {
            "network": case.network.name, "batch": case.batch, "macs": case.network.macs * case.batch, "architectures": fitting,
            "points": fitting * len(vdd_v) * len(biases), "points_allowed": int(self.sums["kept"][number][-1]),
            "architectures_a_layer_does_not_fit": int(len(self.index) - fitting),
            "misfits_by_layer": {tasks[0][i].shape.name: int(self.sums["misfits"][i]) for i in np.flatnonzero(tasks[1][number])},
            "pareto_points": pareto_points, "ties": ties, "ties_looked_at": min(NEAREST, int((self.near["near_case"] == number).sum())),
            "front_hypervolume": volume, "highest_effectiveness": float(own.max()), "median_effectiveness": float(np.median(own)),
            "least_energy_at_v": share(least.sum(axis=0), vdd_v), "least_core_energy_at_v": share(core_least.sum(axis=0), vdd_v),
            "least_energy_at_back_bias_v": share(least.sum(axis=1), biases), "least_core_energy_at_back_bias_v": share(core_least.sum(axis=1), biases),
            "raising_stops_paying_above_v": share(self.sums["stops"][number], vdd_v),
        }  # fmt: skip

    def across(self, volumes: list[float]) -> list[dict]:
        """The architectures whose least effectiveness over all cases is highest."""
        every = np.stack([self.effectiveness(number, volume) for number, volume in enumerate(volumes)])
        order = np.argsort(-every.min(axis=0), kind="stable")[:SWEPT]
        names = self.job.space.at(self.index[order]).names()
        return [
            {"architecture": str(name), "least": float(every[:, i].min()), "mean": float(every[:, i].mean())}
            for name, i in zip(names, order, strict=True) if np.isfinite(every[:, i]).all()
        ]  # fmt: skip

    def write(self, path: Path, volumes: list[float]) -> None:
        """`architectures.parquet`, block by block."""
        writer = None
        for block_path in self.paths:
            block = read_block(block_path, ("index", "area_um2", "gains"))
            if not len(block["index"]) and not (writer is None and block_path == self.paths[-1]):
                continue
            values = self.job.space.at(block["index"]).values
            columns = {"place": block["index"]} | {name: values[name].astype(np.int32) for name in AXES} | {"area_um2": block["area_um2"].astype(np.float32)}
            for number, case in enumerate(self.job.cases):
                columns[f"effectiveness_{case.network.name}_b{case.batch}"] = (block["gains"][number] / volumes[number]).astype(np.float32)
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
        assert writer is not None  # the last block is written in any case
        writer.close()


def points_at(job: Job, model: FittedModel, number: int, places: np.ndarray, at: np.ndarray) -> pd.DataFrame:
    """Rows of the case's DVFS sweeps at these places in the space and indices into `Job.points`."""
    different, which = np.unique(places, return_inverse=True)
    table, _ = frames.sweeps(job, model, number, job.space.at(different))
    return table.iloc[which * len(job.points(model)[0]) + at].reset_index(drop=True)


def _ties(job: Job, model: FittedModel, number: int, blocks: _Blocks, points: np.ndarray, best: pd.DataFrame) -> pd.DataFrame:
    """Of the `NEAREST` architectures outside the front, those whose optimistic corner lies beyond the pessimistic corners of the front."""
    near = blocks.near
    own = np.flatnonzero(near["near_case"] == number)
    own = own[np.argsort(near["near_log"][own], kind="stable")[:NEAREST]]
    candidates = points_at(job, model, number, near["near_index"][own], near["near_point"][own]) if len(own) else best.iloc[:0]
    candidates = candidates[~candidates["architecture"].isin(best["architecture"])]
    high_x = job.cases[number].batch / candidates["latency_s_lo"].to_numpy()
    low_x, low_y = job.cases[number].batch / best["latency_s_hi"].to_numpy(), best["efficiency_gops_w_lo"].to_numpy()
    beaten = np.array([np.any((low_x >= x) & (low_y >= y)) for x, y in zip(high_x, candidates["efficiency_gops_w_hi"], strict=True)], dtype=bool)
    return candidates[~beaten].assign(on_front="tie")


def _sweeps(job: Job, model: FittedModel, number: int, places: np.ndarray, front_hypervolume: float) -> pd.DataFrame:
    """Rows of `dvfs.csv` of these architectures, given by falling effectiveness."""
    count, columns = job.space.vdd_v.count, ("throughput_ips", "efficiency_gops_w", "core_energy_j")
    vdd_v, bias_v = job.points(model)
    table, nominal = frames.sweeps(job, model, number, job.space.at(places))

    def grid(frame: pd.DataFrame, column: str) -> np.ndarray:
        return frame[column].to_numpy().reshape(len(places), -1)

    throughput, efficiency, core_energy = (grid(table, column) for column in columns)
    slow_throughput, slow_efficiency, slow_core_energy = (grid(nominal, column) for column in columns)
    found = compare_sweeps(throughput, efficiency, core_energy, slow_throughput, slow_efficiency, front_hypervolume)
    slowed = compare_sweeps(slow_throughput, slow_efficiency, slow_core_energy, slow_throughput, slow_efficiency, front_hypervolume)
    memory_bound = np.isin(grid(table, "bound"), ("dram", "load", "load latency", "store", "store latency"))
    rows = []
    for i in range(len(places)):
        free = np.flatnonzero(~memory_bound[i, :count])
        knee = free[-1] + 1 if len(free) else 0
        numbers = {
            "rank": i + 1, "effectiveness": found.effectiveness[i], "throughput_range": found.throughput_range[i], "efficiency_gain": found.efficiency_gain[i],
            "min_energy_vdd_v": vdd_v[found.min_energy[i]], "min_energy_at_edge": bool(at_edge(found.min_energy[i], count)),
            "min_energy_back_bias_v": bias_v[found.min_energy[i]],
            "core_min_energy_vdd_v": vdd_v[found.core_min_energy[i]], "core_min_energy_at_edge": bool(at_edge(found.core_min_energy[i], count)),
            "core_min_energy_back_bias_v": bias_v[found.core_min_energy[i]],
            "knee_hz": grid(table, "freq_hz")[i, knee] if knee < count else 0.0,
        }  # fmt: skip
        rows.append(table.iloc[i * len(vdd_v) : (i + 1) * len(vdd_v)].assign(sweep="dvfs", slope=found.slope[i], **numbers))
        rows.append(nominal.iloc[i * count : (i + 1) * count].assign(sweep="frequency", slope=slowed.slope[i], **numbers))
    return pd.concat(rows, ignore_index=True)


def _record(job: Job, model: FittedModel, blocks: _Blocks, summaries: list[dict], command: str) -> dict:
    """run.json."""
    covered, volumes = back_biases(job, model), [summary["front_hypervolume"] for summary in summaries]
    return {
        "points_version": POINTS_VERSION, "command": command, "space": job.space.model_dump(mode="json"), "dram": frames.dram_name(job),
        "dram_policy": job.policy.model_dump(), "mem_clk_hz": job.mem_clk_hz, "margin": job.margin, "objective": job.objective,
        "on_chip": any(case.links for case in job.cases),
        "constraints": asdict(job.constraints), "front_axes": ["throughput_ips", "efficiency_gops_w"] + ["area_um2"] * job.with_area,
        "nominal_vdd_v": model.reference_vdd_v, "precision": f"a{job.space.activation_bits}w{job.space.weight_bits}", "technology": model.technology,
        "corner": {"process": model.process, "clock_process": (job.clocks() or model).process, "temperature_c": model.temperature_c},
        "commit": source_commit(), "key": job.key(), "seeds": {},
        "inputs": {"model": file_hash(job.model)} | ({"clock_model": file_hash(job.clock_model)} if job.clock_model else {}), "counts": {
            "combinations": job.space.combinations, "evaluated": len(blocks.index),
            "not_evaluated": {name: int(n) for name, n in zip(REFUSALS, blocks.sums["refused"], strict=True)}, "voltages": job.space.vdd_v.count,
            "back_biases": covered, "back_biases_not_in_the_model": [value for value in job.space.back_bias_v if value not in covered],
            "points": int(len(blocks.index) * job.space.vdd_v.count * len(covered) * len(job.cases)),
            "layer_evaluations": int(blocks.sums["layer_evaluations"]),
        },
        "results": summaries, "most_effective_across_cases": blocks.across(volumes), "provisional": list(model.provisional),
        "stored": "points.parquet holds fronts and ties, architectures.parquet every architecture's DVFS effectiveness",
        "interval": "90 %: errors of the laws for cycles, frequency, energy and leakage; none for the DRAM's figures",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("voltfront", "numpy", "numba", "pandas", "pyarrow", "moocore")},
    }  # fmt: skip
