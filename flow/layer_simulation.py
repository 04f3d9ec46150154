"""A layer with a tiling of the caller's on emitted RTL, at any clocks and with any DRAM part: every output compared, events counted."""

import importlib
from pathlib import Path

from flow.cache import DEFAULT_CACHE, run_step, step
from flow.simulation import HW, emit_rtl
from hw.config import AcceleratorConfig
from hw.dram_part import DramPart
from hw.layers import LayerShape
from hw.sim.network import random_workload, run_workload
from hw.sim.run import build
from hw.tiling import Tiling
from hw.tools import BUILD_DIR

TIMEOUT_CYCLES = 500_000_000
"""Of whole layers; give a smaller one to windows of them."""
_SIMULATION = tuple(importlib.import_module(f"hw.sim.{name}") for name in ("network", "run"))


@step(version=1, tools=("verilator",), modules=(*HW, *_SIMULATION))
def _simulate(
    folder: Path, *, rtl: tuple[Path, ...], config: AcceleratorConfig, shape: LayerShape, batch: int, fold: bool, tiling: tuple[int, ...],
    core_period_ps: int, mem_period_ps: int, dram: DramPart, timeout_cycles: int,
) -> dict[str, int]:  # fmt: skip
    workload = random_workload(config, [shape], batch=batch, tilings={shape.name: Tiling(*tiling)}, fold_first=fold)
    # The simulator with tracing is the one that characterization builds for the same design.
    simulator = build(verilog=rtl, axi_data_bits=config.memory.axi_data_bits, trace=True, out_dir=BUILD_DIR / "sim")
    result = run_workload(
        simulator, workload, where=f"design {config.name}, {shape.name}", core_period_ps=core_period_ps, mem_period_ps=mem_period_ps, memory=dram,
        timeout_cycles=timeout_cycles,
    )  # fmt: skip
    return dict(result.events)


def simulate_layer(
    config: AcceleratorConfig, shape: LayerShape, *, batch: int, fold: bool, tiling: Tiling, core_period_ps: int, mem_period_ps: int, dram: DramPart,
    timeout_cycles: int = TIMEOUT_CYCLES, cache: Path = DEFAULT_CACHE,
) -> dict[str, int]:  # fmt: skip
    """The events (`hw.registers.EVENTS`) of the layer over a batch, with typical data from a fixed seed; from the cache if it ran before.

    `fold` allows the input to be expanded by the host, as that of a network's first layer may be. Raises `ToolError` if an output
    differs from the golden model, or the machine reports an error or hangs.
    """
    rtl = emit_rtl(config, cache=cache)
    return run_step(
        _simulate, cache=cache, rtl=(rtl.modules, rtl.memories), config=config, shape=shape, batch=batch, fold=fold, tiling=tuple(map(int, tiling)),
        core_period_ps=core_period_ps, mem_period_ps=mem_period_ps, dram=dram, timeout_cycles=timeout_cycles,
    )  # fmt: skip
