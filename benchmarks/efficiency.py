"""How efficient the designs are, by their own event counters on the RTL: python -m benchmarks.efficiency (writes docs/efficiency.md)

Each design's figures are kept under build/efficiency, so that the page can be made piece by piece (`--designs`); `--fresh` measures anew.
"""

import argparse
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from hw.config import AcceleratorConfig, load_design
from hw.dram import dram_transfer
from hw.dram_part import load_dram_part
from hw.emit import emit
from hw.layers import LayerShape, load_network
from hw.lowering import LoweredLayer
from hw.sim.network import random_workload, run_workload
from hw.sim.run import IdealMemory, TraceRequest, build
from hw.tile_plan import ceil_div
from hw.tools import BUILD_DIR

DESIGNS = ("single64", "quad64", "single256", "quad256", "single1024", "quad1024", "narrow1024")
LAYERS = {
    "resnet18": ("layer1.0.conv1", "layer2.0.conv1", "layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2", "layer4.0.conv1", "layer4.0.conv2"),
    "alexnet": ("conv1",),
}
"""ResNet-18's 3 x 3 layers (each shape once) and a first layer."""
MOST_CYCLES = 500_000
"""Layers of more cycles are cut to fewer output channels."""
PERIOD_PS = 1000
PAGE = Path(__file__).parent.parent / "docs" / "efficiency.md"
RESULTS = BUILD_DIR / "efficiency"
MEMORY_BOUND = LayerShape(name="fc", kind="fc", in_channels=2048, out_channels=256)
DEPTHWISE = LayerShape(
    name="depthwise", kind="conv", in_channels=256, out_channels=256, groups=256, in_h=28, in_w=28, kernel_h=3, kernel_w=3, pad_top=1, pad_bottom=1, pad_left=1,
    pad_right=1,
)  # fmt: skip


def macs(shape: LayerShape) -> int:
    """Useful multiplications of a layer."""
    return shape.out_channels * shape.out_h * shape.out_w * (shape.in_channels // shape.groups) * shape.kernel_h * shape.kernel_w


def ceiling(config: AcceleratorConfig, layer: LoweredLayer) -> int:
    """Cycles of the mapping where nothing is lost but what does not divide: (passes) x ceil(OH / rows) x OW x (words of channels) x R x S."""
    passes = ceil_div(layer.k_per_group, config.channel_block) * config.channel_block // config.array.cols
    pixels = ceil_div(layer.out_h, config.array.rows) * layer.out_w
    return layer.images * layer.groups * passes * pixels * layer.c_groups * layer.kernel_h * layer.kernel_w


def cut(config: AcceleratorConfig, shape: LayerShape) -> LayerShape:
    """The layer with so many output channels that it takes at most MOST_CYCLES."""
    block, limit = config.channel_block, shape.out_channels * MOST_CYCLES * config.multipliers / macs(shape)
    return shape if limit >= shape.out_channels else shape.model_copy(update={"out_channels": max(block, int(limit) // block * block)})


def simulator(config: AcceleratorConfig, trace: bool = False) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        return build(verilog=emit(config, Path(folder)).verilog, axi_data_bits=config.memory.axi_data_bits, trace=trace)


def run(config: AcceleratorConfig, program: Path, shape: LayerShape, **more) -> dict:
    """Counters of a layer, whose outputs are checked, and the processor time of its simulation, s."""
    workload = random_workload(config, [shape])
    options = {"core_period_ps": PERIOD_PS, "mem_period_ps": PERIOD_PS, "timeout_cycles": 10_000_000, "memory": IdealMemory()}
    before_s = children_s()
    result = run_workload(program, workload, **options | more)
    return {"events": dict(result.events), "processor_s": children_s() - before_s, "numbers": workload.program.layers[0].lowering.numbers}


def children_s() -> float:
    """Processor time of all simulations so far, s: unlike the clock's it does not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commit() -> str:
    """The commit of these sources, `-dirty` if they were changed since."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()


def measure(name: str) -> dict:
    """All figures of a design."""
    config = load_design(name)
    program = simulator(config)
    figures: dict = {"measured": f"commit {commit()}, {time.strftime('%Y-%m-%d')}", "layers": {}}
    for network, names in LAYERS.items():
        shapes = {layer.name: layer for layer in load_network(network).layers}
        for layer in names:
            shape = cut(config, shapes[layer])
            found = run(config, program, shape)
            cycles = found["events"]["core_cycles"]
            figures["layers"][f"{network} {layer}"] = {
                "channels": shape.out_channels, "of_channels": shapes[layer].out_channels, "cycles": cycles, "ceiling": int(ceiling(config, found["numbers"])),
                "utilization": macs(shape) / cycles / config.multipliers, "stall_load": found["events"]["stall_load"],
                "cycles_a_second": cycles / found["processor_s"],
            }  # fmt: skip
            print(name, layer, figures["layers"][f"{network} {layer}"], flush=True)
    figures["memory_bound"] = memory_bound(config, program)
    figures["depthwise"] = depthwise_figures(config, program)
    print(name, figures["memory_bound"], figures["depthwise"], flush=True)
    return figures


def memory_bound(config: AcceleratorConfig, program: Path) -> float:
    """Share of the bandwidth attainable at the DRAM that a fully connected layer reaches, a fast core and a fast bus provided."""
    part = load_dram_part("lpddr3_1600_x32")
    events = run(config, program, MEMORY_BOUND, memory=part)["events"]
    size = events["dram_read_bytes"]
    attainable = dram_transfer(part, read_bytes=size, write_bytes=0, read_run_bytes=size, write_run_bytes=32).time_s
    return float(attainable / (events["core_cycles"] * PERIOD_PS * 1e-12))


def depthwise_figures(config: AcceleratorConfig, program: Path) -> dict:
    """Utilization of a depthwise layer: with one lane of each element, and where the design keeps words, with a lane for each kernel column."""
    plain = config.model_copy(update={"array": config.array.model_copy(update={"depthwise_taps": 0})})
    compilers = {"one_lane": plain} | ({"kept_words": config} if config.array.depthwise_taps else {})
    useful = macs(DEPTHWISE) / config.multipliers
    return {"channels": DEPTHWISE.out_channels} | {how: useful / run(known, program, DEPTHWISE)["events"]["core_cycles"] for how, known in compilers.items()}


def trace_speed(name: str) -> float:
    """Core cycles simulated a second of processor time while every signal is recorded."""
    config = load_design(name)
    shape = LayerShape(name="conv", kind="conv", in_channels=64, out_channels=64, in_h=8, in_w=8, kernel_h=3, kernel_w=3)
    with tempfile.TemporaryDirectory() as folder:
        request = TraceRequest(path=Path(folder) / "trace.vcd", windows=[(1, 10_000_000)])
        found = run(config, simulator(config, trace=True), shape, trace=request)
    return found["events"]["core_cycles"] / found["processor_s"]


def page(results: dict[str, dict], traced: dict[str, float]) -> str:
    """docs/efficiency.md."""
    lines = [
        "# Efficiency", "",
        "Measured on the RTL with its event counters by `python -m benchmarks.efficiency`; outputs are compared bit by bit in every run.",
        "Core and memory clock 1 GHz, ideal memory of 100 ns latency unless said otherwise, so that every layer is compute-bound.", "",
        "Cycles are those of the whole program: fetching it, the first loads, the last store. *Ceiling* is the mapping's own: passes x ceil(OH / rows)",
        "x OW x words of channels x R x S. *Utilization* is absolute: useful multiplications a multiplier and cycle. A layer of more than",
        f"{MOST_CYCLES:,} cycles is cut to the output channels stated.", "",
    ]  # fmt: skip
    for name, figures in results.items():
        config = load_design(name)
        array = config.array
        lines += [
            f"## {name}: {config.multipliers:,} multipliers", "",
            f"{array.rows} rows x {array.cols} columns x {array.lanes} lanes, {config.memory.axi_data_bits}-bit port, "
            f"depthwise_taps {array.depthwise_taps} ({figures['measured']}).", "",
            "| layer | output channels | cycles | ceiling | above ceiling | utilization | cycles waiting for loads |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        for layer, f in figures["layers"].items():
            channels = f"{f['channels']} of {f['of_channels']}" if f["channels"] != f["of_channels"] else f["channels"]
            above = f"{f['cycles'] / f['ceiling'] - 1:.1%}"
            lines.append(f"| {layer} | {channels} | {f['cycles']:,} | {f['ceiling']:,} | {above} | {f['utilization']:.1%} | {f['stall_load']:,} |")
        d = figures["depthwise"]
        kept = f", {d['kept_words']:.1%} with kept words ({d['kept_words'] / d['one_lane']:.1f} times)" if "kept_words" in d else ""
        lines += [
            "", f"Depthwise 3 x 3, {d['channels']} channels of 28 x 28: {d['one_lane']:.1%} with one lane of each element{kept}.",
            f"Fully connected 2,048 to 256 from LPDDR3-1600 x32: {figures['memory_bound']:.1%} of the bandwidth that the DRAM model can give.", "",
        ]  # fmt: skip
    lines += ["## Simulation speed", "", "Core cycles a second of processor time on the machine of the run, the Python around the simulator included.", "",
              "| design | multipliers | without trace | recording every signal |", "| --- | --- | --- | --- |"]  # fmt: skip
    for name, figures in results.items():
        speed = max(f["cycles_a_second"] for f in figures["layers"].values())
        recording = f"{traced[name]:,.0f}" if name in traced else ""
        lines.append(f"| {name} | {load_design(name).multipliers:,} | {speed:,.0f} | {recording} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--designs", nargs="*", default=list(DESIGNS))
    parser.add_argument("--trace", nargs="*", default=["quad64", "quad256", "quad1024"], help="designs whose simulation is timed with a trace as well")
    parser.add_argument("--fresh", action="store_true", help="measure again what has been measured")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for names, suffix, function in ((arguments.designs, "", measure), (arguments.trace, "-trace", trace_speed)):
        for name in names:
            kept = RESULTS / f"{name}{suffix}.json"
            if arguments.fresh or not kept.exists():
                kept.write_text(json.dumps(function(name)))
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in DESIGNS if (RESULTS / f"{name}.json").exists()}
    traced = {name: json.loads((RESULTS / f"{name}-trace.json").read_text()) for name in DESIGNS if (RESULTS / f"{name}-trace.json").exists()}
    PAGE.write_text(page(results, traced))


if __name__ == "__main__":
    main()
