"""One case of the cycle campaign on the RTL, cached. In a module of its own, so that how cases are drawn does not matter to what was simulated."""

import importlib
from pathlib import Path

from flow.cache import DEFAULT_CACHE, run_step, step
from flow.simulation import HW, emit_rtl
from hw.config import AcceleratorConfig
from hw.dram import load_dram_part
from hw.layers import LayerShape
from hw.settings import Settings
from hw.sim.network import random_workload, run_workload
from hw.sim.run import build
from hw.tiling import Tiling
from hw.tools import BUILD_DIR


class CycleCase(Settings):
    """One layer on one design with a tiling, a pair of clock periods and a DRAM."""

    shape: LayerShape
    batch: int
    fold: bool
    tiling: tuple[int, int, int, int, int]
    """Fields of `hw.tiling.Tiling`."""
    core_period_ps: int
    mem_period_ps: int
    dram: str


@step(version=1, tools=("verilator",), modules=(*HW, importlib.import_module("hw.sim.network"), importlib.import_module("hw.sim.run")))
def _simulate(folder: Path, *, rtl: tuple[Path, ...], config: AcceleratorConfig, case: CycleCase) -> dict[str, int]:
    workload = random_workload(config, [case.shape], batch=case.batch, tilings={case.shape.name: Tiling(*case.tiling)})
    result = run_workload(
        build(verilog=rtl, axi_data_bits=config.memory.axi_data_bits, trace=True, out_dir=BUILD_DIR / "sim"), workload,
        where=f"design {config.name}, {case.shape.name}", core_period_ps=case.core_period_ps, mem_period_ps=case.mem_period_ps,
        timeout_cycles=2_000_000, memory=load_dram_part(case.dram),
    )  # fmt: skip
    return dict(result.events)


def simulated_events(config: AcceleratorConfig, case: CycleCase, *, cache: Path = DEFAULT_CACHE) -> dict[str, int]:
    """The event counters (`hw.registers.EVENTS`) of a case, every output bit checked; from the cache if it was simulated before."""
    rtl = emit_rtl(config, cache=cache)
    return run_step(_simulate, cache=cache, rtl=(rtl.modules, rtl.memories), config=config, case=case)
