"""Simulation of a window of a layer on emitted RTL: every output bit checked, events counted, block boundaries recorded."""

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hw
from flow.cache import DEFAULT_CACHE, run_step, step
from flow.plan import Run
from hw.compiler import compile_layer
from hw.config import AcceleratorConfig
from hw.dram_part import load_dram_part
from hw.emit import Block, Memory, RtlBundle, emit
from hw.errors import ToolError
from hw.golden import activations, random_layer, run_layer
from hw.sim.run import MemoryRegion, TraceRequest, build, simulate
from hw.tools import BUILD_DIR

HW = tuple(
    importlib.import_module(f"hw.{path.stem}")
    for path in sorted(Path(hw.__file__).parent.glob("*.py"))
    if path.stem not in ("__init__", "cli")
)
"""All of `hw`: what is emitted, compiled or simulated may depend on any of it."""

DRAM_PART = "lpddr3_1600_x32"
SEED = 1
TRACE_MARGIN_CYCLES = 64
"""Core cycles recorded before the window of interest, in which registers settle in a replay."""


@dataclass(frozen=True, kw_only=True)
class Rtl:
    """Emitted Verilog and what is in it; see `hw.emit.RtlBundle`."""

    modules: Path
    memories: Path
    blocks: tuple[Block, ...]
    macros: tuple[Memory, ...]
    content_hash: str


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one simulation counted. `tiling` are the fields of `hw.tiling.Tiling`, `fold` whether the layer was patch-expanded."""

    events: dict[str, int]
    tiling: dict[str, int]
    fold: bool
    trace: Path | None = None
    """VCD of the traced window, if one was asked for."""


@step(version=1, tools=("yosys",), modules=HW)
def _emit(folder: Path, *, config: AcceleratorConfig) -> Rtl:
    bundle: RtlBundle = emit(config, folder)
    modules, memories = bundle.verilog
    return Rtl(modules=modules, memories=memories, blocks=bundle.blocks, macros=bundle.memories, content_hash=bundle.content_hash)


def emit_rtl(config: AcceleratorConfig, *, cache: Path = DEFAULT_CACHE) -> Rtl:
    """The RTL of a design, from the cache if it was emitted before."""
    return run_step(_emit, cache=cache, config=config)


@step(version=1, tools=("verilator",), modules=HW)
def _simulate(
    folder: Path, *, rtl: tuple[Path, ...], config: AcceleratorConfig, run: Run, window: tuple[int, int] | None, scopes: tuple[tuple[str, int], ...]
) -> RunResult:
    shape, batch = run.window.shape(config), run.window.batch
    rng = np.random.default_rng(SEED)
    bits = config.precision.activation_bits
    layer = random_layer(shape, rng, bits, config.precision.weight_bits)
    x = activations((batch, shape.in_channels, shape.in_h, shape.in_w), bits, rng, zero_point=layer.input_zero_point)
    program = compile_layer(config, layer, batch=batch)
    output = program.layers[-1].output
    assert output is not None
    regions = [MemoryRegion(address=r.address, size_bytes=r.size_bytes, write=r.write) for r in program.regions.values()]
    below = {f"dut.{scope}".rstrip("."): levels for scope, levels in scopes}
    trace = TraceRequest(path=folder / "window.vcd", windows=[window], scopes=below) if window else None
    result = simulate(
        simulator=build(verilog=rtl, axi_data_bits=config.memory.axi_data_bits, trace=True, out_dir=BUILD_DIR / "sim"),
        image=program.memory({shape.name: x}),
        regions=regions,
        program_address=program.program_address,
        program_bytes=program.program_bytes,
        output_address=output.address,
        output_bytes=output.size_bytes,
        core_period_ps=run.core_period_ps,
        mem_period_ps=run.mem_period_ps,
        timeout_cycles=5_000_000,
        memory=load_dram_part(DRAM_PART),
        trace=trace,
    )
    where = f"design {config.name}, {run.window.name}"
    if result.cause:
        raise ToolError(f"simulated program must end without error, not with {result.cause.name} at {result.error_address:#x} ({where})")
    memory = np.zeros(program.image.size, dtype=np.uint8)
    memory[output.address - program.base_address :][: output.size_bytes] = result.output
    got, expected = program.output(memory), run_layer(layer, x)
    if not np.array_equal(got, expected.reshape(got.shape)):
        wrong = int(np.sum(got != expected.reshape(got.shape)))
        raise ToolError(f"simulated outputs must equal the golden model's, not differ in {wrong} of {got.size} values ({where})")
    compiled = program.layers[-1]
    return RunResult(events=dict(result.events), tiling=compiled.tiling._asdict(), fold=compiled.lowering.fold, trace=None if trace is None else trace.path)


def simulate_window(
    config: AcceleratorConfig,
    run: Run,
    *,
    trace_window: tuple[int, int] | None = None,
    scopes: tuple[tuple[str, int], ...] = (),
    cache: Path = DEFAULT_CACHE,
) -> RunResult:
    """Run a window of a layer on the RTL of `config`, with typical data from a fixed seed and the LPDDR3 part.

    `trace_window` (first, last core cycle) records `scopes`: (path below the top, levels) pairs. Raises `ToolError` if
    a single output differs from the golden model, or the machine reports an error or hangs.
    """
    rtl = emit_rtl(config, cache=cache)
    return run_step(_simulate, cache=cache, rtl=(rtl.modules, rtl.memories), config=config, run=run, window=trace_window, scopes=scopes)
