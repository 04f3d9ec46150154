"""Performance figures, one `METRIC name value unit` a line: python benchmarks/bench.py. Machines differ: compare ratios within one run."""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from hw.config import load_design
from hw.emit import emit
from hw.layers import load_network
from hw.lowering import lower
from hw.tiling import Tiling, architecture, measure_arrays
from hw.tiling_choice import enumerate_tilings


def metric(name: str, value: float, unit: str) -> None:
    print(f"METRIC {name} {value:.4g} {unit}", flush=True)


def main() -> None:
    for name in ("small", "medium", "large"):
        config = load_design(name)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            emit(config, Path(folder))
            metric(f"emit_{name}_{config.multipliers}_multipliers", time.perf_counter() - begun, "s")
    config = load_design("medium")
    layer = next(layer for layer in load_network("alexnet").layers if layer.name == "conv3")
    lowering = lower(config, layer)
    tilings = np.array(enumerate_tilings(config, lowering))
    many = np.tile(tilings, (200_000 // len(tilings), 1))
    arguments = architecture(config), lowering.numbers, Tiling(*many.T)
    measure_arrays(*arguments)  # compiles
    begun = time.perf_counter()
    measure_arrays(*arguments)
    metric("tilings_measured", len(many) / (time.perf_counter() - begun), "1/s")
    exploration()


BLOCKS = range(7, 300, 23)
"""Blocks of the default space, of every size."""


def exploration() -> None:
    """AlexNet, batch 1, on arrays of the default space, one process; processor seconds, after compiling."""
    from explore.chunks import Job, evaluate_block
    from explore.evaluate import chip_laws, coefficients, laws_at, layer_rows, search_all, wanted_clocks
    from explore.exploration import DRAM, cases_of
    from explore.space import load_space
    from explore.sweep import sweep
    from fit.compose import within_range
    from fit.model import read_model

    path, space = Path("build/models/fdsoi28p.json"), load_space("default")
    if not path.exists():
        print("exploration: not measured, because build/models/fdsoi28p.json is absent; run `voltfront fit`", flush=True)
        return
    job = Job(model=path, space=space, cases=cases_of(["alexnet"], [1]), dram=DRAM, mem_clk_hz=8e8, margin=0.1, objective="latency")
    model, conditions, (tasks, repeats), voltages = read_model(path), job.conditions(), job.tasks(), space.vdd_v.values()
    vdd_v, bias_v = job.points(model)
    reference = [np.zeros((0, 2))]
    evaluate_block(job, BLOCKS[1], reference)  # compiles
    spent, count = {"search": 0.0, "points": 0.0, "block": 0.0}, 0
    for number, block in enumerate(BLOCKS, 1):
        architectures = space.block(block)
        architectures = architectures[within_range(model, architectures.parameters())] if len(architectures) else architectures
        if not len(architectures):
            continue
        times = [time.process_time()]
        chip = chip_laws(laws_at(model, architectures, conditions, vdd_v, bias_v), conditions)
        times.append(time.process_time())
        searched, _ = search_all(model, architectures, tasks, conditions, voltages, wanted=wanted_clocks(chip.period_s))
        times.append(time.process_time())
        sweep(searched, layer_rows(searched.rows, conditions, coefficients(model).dram), chip, conditions, repeats, len(voltages))
        times.append(time.process_time())
        evaluate_block(job, block, reference)
        laws, search, points, whole = np.diff([*times, time.process_time()])
        spent = {"search": spent["search"] + search, "points": spent["points"] + laws + points, "block": spent["block"] + whole}
        count += len(architectures)
        metric(f"explore_peak_memory_after_{number}_blocks_{count * len(vdd_v)}_points", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MB")
    metric("explore_architectures_searched", count / spent["search"], "1/s and process")
    metric("explore_points_evaluated", count * len(vdd_v) / spent["points"], "1/s and process")
    metric("explore_points_with_search_and_front", count * len(vdd_v) / spent["block"], "1/s and process")


if __name__ == "__main__":
    main()
