"""Results as tables with the columns of `explore.points`."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from explore.chunks import Case, Job
from explore.evaluate import QUANTITIES, clock_hz, evaluate, predict_designs, sram_supplies, total
from explore.on_chip import STATE_NAMES
from explore.points import LAYER_COLUMNS, POINT_COLUMNS, POINTS_VERSION
from explore.space import ARRAY_AXES, AXES, Architectures
from fit.cycles import BOUNDS
from fit.model import NORMAL_90, FittedModel
from hw.tile_plan import Tiling

DRAM_PARTS = ("dram_core_energy_j", "dram_io_energy_j", "dram_phy_energy_j", "dram_background_energy_j", "dram_refresh_energy_j")
ORDERS = ("weights outer", "spatial outer")
"""By `hw.tile_plan.WEIGHTS_OUTER` and `SPATIAL_OUTER`."""
_KEPT = (
    "latency_s", "core_energy_j", "core_leakage_energy_j", "memory_side_energy_j", *DRAM_PARTS, "dram_read_bytes", "dram_write_bytes",
)  # fmt: skip


def sweeps(job: Job, model: FittedModel, number: int, architectures: Architectures) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points of case `number` for architectures x `Job.points` in that order, with the clock at fmax (1 - margin); and for architectures x voltages
    at the clocks of those without bias, with nominal voltage."""
    conditions, voltages = job.conditions(), job.space.vdd_v.count
    vdd_v, bias_v = job.points(model)
    tasks, repeats = job.tasks()
    used = np.flatnonzero(repeats[number])
    designs = predict_designs(model, architectures, vdd_v, conditions, bias_v, job.clocks())
    frequency = clock_hz(designs, conditions)
    arrays = {name: getattr(designs, name) for name in ("area_um2", "fmax_log_sd", "energy_log_sd", "leakage_log_sd")} | {"freq_hz": frequency}
    tables = []
    for nominal in (False, True):
        at = np.full(voltages, voltages - 1) if nominal else np.arange(len(vdd_v))
        chosen = [tasks[i] for i in used]
        found = total(evaluate(model, architectures, chosen, conditions, vdd_v, frequency[:, : len(at)], at, bias_v), range(len(used)), repeats[number, used])
        own = {name: value if value.ndim == 1 else value[:, at] for name, value in arrays.items()} | {"freq_hz": frequency[:, : len(at)]}
        tables.append(points(job, model, job.cases[number], architectures, own, found.values, found.bound, vdd_v[at], bias_v[at]))
    return tables[0], tables[1]


def points(
    job: Job, model: FittedModel, case: Case, architectures: Architectures, arrays: dict[str, NDArray], values: NDArray, bound: NDArray, vdd_v: NDArray,
    bias_v: NDArray,
) -> pd.DataFrame:  # fmt: skip
    """All points of one case: architectures x points in that order, from values [architectures, points, QUANTITIES] and bound, at vdd_v, bias_v [points].

    `arrays` hold fields of `fit.compose.Designs` for the same architectures and points, and freq_hz.
    """
    shape = (len(architectures), len(vdd_v))
    v = {name: values[..., i] for i, name in enumerate(QUANTITIES)}
    sd = {name: arrays[name] for name in ("fmax_log_sd", "energy_log_sd", "leakage_log_sd")}
    dram = sum(v[name] for name in DRAM_PARTS)
    energy = v["core_energy_j"] + v["memory_side_energy_j"] + dram
    operations = case.operations
    latency_sd, energy_sd = _log_sds(model, v, energy, sd)
    efficiency = operations / energy / 1e9
    columns = {
        **{name: axis[:, None] for name, axis in architectures.values.items() if name in AXES}, **{name: v[name] for name in _KEPT},
        "vdd_v": vdd_v, "back_bias_v": bias_v, "sram_vdd_v": sram_supplies(model, job.conditions(), vdd_v), "freq_hz": arrays["freq_hz"], "dram_energy_j": dram,
        "architecture": architectures.names()[:, None], "bound": np.array(BOUNDS, dtype=object)[bound], "area_um2": arrays["area_um2"][:, None],
        "latency_s_lo": v["latency_s"] * np.exp(-NORMAL_90 * latency_sd), "latency_s_hi": v["latency_s"] * np.exp(NORMAL_90 * latency_sd),
        "throughput_ips": case.batch / v["latency_s"], "throughput_gops": operations / v["latency_s"] / 1e9, "efficiency_gops_w": efficiency,
        "efficiency_gops_w_lo": efficiency * np.exp(-NORMAL_90 * energy_sd), "efficiency_gops_w_hi": efficiency * np.exp(NORMAL_90 * energy_sd),
        "core_efficiency_gops_w": operations / v["core_energy_j"] / 1e9, "power_w": energy / v["latency_s"],
    }  # fmt: skip
    same = {
        "points_version": POINTS_VERSION, "network": case.network.name, "batch": case.batch, "precision": architectures.precision,
        "technology": model.technology,
        "dram": dram_name(job), "on_front": "yes",
        "process": model.process, "clock_process": (job.clocks() or model).process, "temperature_c": model.temperature_c, "mem_clk_hz": job.mem_clk_hz,
        "margin": job.margin,
        "provisional": bool(model.provisional),
    }  # fmt: skip
    flat = {name: np.broadcast_to(value, shape).ravel() for name, value in columns.items()}
    return pd.DataFrame(flat | {name: np.full(shape[0] * shape[1], value) for name, value in same.items()})[list(POINT_COLUMNS)]


def _log_sds(model: FittedModel, v: dict[str, NDArray], energy: NDArray, sd: dict[str, NDArray]) -> tuple[NDArray, NDArray]:
    """Standard deviations of the logarithms of latency and energy [architectures, points].

    Errors of the laws are independent of one another, but the same for all layers. The chip's dynamic energy varies with its
    law, leakage and the DRAM's static energy with the time they last, leakage with its law too.
    """
    assert model.cycles is not None, "evaluate refuses a model without cycles"
    latency = np.hypot(model.cycles.log_sd, sd["fmax_log_sd"])
    leakage = v["core_leakage_energy_j"] + v["memory_leakage_energy_j"]
    dynamic = v["core_energy_j"] + v["memory_side_energy_j"] - leakage
    lasting = leakage + v["dram_static_energy_j"]
    return latency, np.sqrt((dynamic * sd["energy_log_sd"]) ** 2 + (leakage * sd["leakage_log_sd"]) ** 2 + (lasting * latency) ** 2) / energy


def dram_name(job: Job) -> str:
    """What the column `dram` says."""
    return "none" if job.free_memory else job.dram + (f" x{job.channels}" if job.channels > 1 else "")


def layers(job: Job, model: FittedModel, number: int, choices: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """The layers of case `number` at chosen points: by name of the choice, (architecture's place in the space, index into `Job.points`)."""
    conditions, case = job.conditions(), job.cases[number]
    vdd_v, bias_v = job.points(model)
    tasks, repeats = job.tasks()
    indices = np.flatnonzero(repeats[number])
    frames = []
    for choice, (place, point) in choices.items():
        one = job.space.at(np.array([place]))
        frequency = clock_hz(predict_designs(model, one, vdd_v[[point]], conditions, bias_v[[point]], job.clocks()), conditions)
        results = evaluate(model, one, [tasks[i] for i in indices], conditions, vdd_v, frequency, np.array([point]), bias_v)
        v = {name: results.values[0, :, 0, i] for i, name in enumerate(QUANTITIES)}
        macs = np.array([tasks[i].shape.macs * tasks[i].batch for i in indices])
        multipliers = np.prod([one.values[name][0] for name in ARRAY_AXES])
        tilings = results.tilings[0, :, 0]
        frames.append(
            pd.DataFrame(
                {
                    **{name: v[name] for name in _KEPT}, **dict(zip(Tiling._fields, tilings.T, strict=True)),
                    "order": np.array(ORDERS, dtype=object)[tilings[:, 0]], "network": case.network.name, "batch": case.batch, "dram": dram_name(job),
                    "choice": choice, "architecture": one.names()[0], "vdd_v": vdd_v[point], "back_bias_v": bias_v[point],
                    "freq_hz": frequency[0, 0], "macs": macs,
                    "layer": [tasks[i].shape.name for i in indices], "repeats": repeats[number, indices], "core_cycles": v["core_cycles"],
                    "utilization": macs / (multipliers * v["core_cycles"]),
                    "dram_energy_j": sum(v[name] for name in DRAM_PARTS), "bound": np.array(BOUNDS, dtype=object)[results.bound[0, :, 0]],
                    "on_chip": np.array(STATE_NAMES, dtype=object)[results.state[0, :, 0]],
                }
            )[list(LAYER_COLUMNS)]
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)
