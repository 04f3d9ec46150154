"""Performance figures, one `METRIC name value unit` a line: python benchmarks/bench.py. Machines differ: compare ratios within one run."""

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


if __name__ == "__main__":
    main()
