"""What keeping activations on chip changes, as Markdown: python benchmarks/on_chip.py [DESIGN MODEL.onnx]

Without arguments: networks of `hw/networks` on a few architectures, by the fitted model. With them: a quantized ONNX model compiled and run on the design's
RTL, what is counted beside what the exploration's models say of the same program, with and without activations on chip.
"""

import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

from explore.chains import find_network
from explore.chunks import tasks_of
from explore.evaluate import QUANTITIES, Conditions, clock_hz, coefficients, evaluate, predict_designs, total
from explore.frames import DRAM_PARTS
from explore.on_chip import FOUND
from explore.programs import predict_program
from explore.space import DesignSpace, Voltages
from fit.model import read_model
from hw.config import load_design
from hw.dram_part import load_dram_part
from hw.emit import emit
from hw.network_compiler import compile_graph
from hw.onnx_import import import_onnx
from hw.sim.network import run_network
from hw.sim.run import build

MODEL = Path("build/models/fdsoi28p.json")
PART = "lpddr3_1600_x32"
NETWORKS = ("alexnet", "resnet18", "mobilenet_v1", "mobilenet_v2")
ARRAYS = ((2, 4, 8, 16384), (4, 4, 8, 32768), (4, 8, 8, 32768))
"""Rows, columns, lanes, bytes of an activation bank."""
CORE_PS, MEMORY_PS = 2000, 1250


def networks() -> None:
    model, vdd_v = read_model(MODEL), np.array([1.0])
    print("| architecture | network | objective | DRAM bytes | time | energy of the system | layers with their input on chip |\n" + "| --- " * 7 + "|")
    for rows, cols, lanes, bank in ARRAYS:
        one = DesignSpace(
            version=1, name="one", rows=[rows], cols=[cols], lanes=[lanes], acc_depth=[16], multiplier_stages=[1], post_lanes=[2],
            activation_bank_bytes=[bank], weight_bank_bytes=[16384], output_bank_bytes=[4096], axi_data_bits=[64], vdd_v=Voltages(low=0.5, high=1.0, count=2),
        ).architectures()  # fmt: skip
        for name, objective in product(NETWORKS, ("latency", "energy")):
            conditions = Conditions(dram=load_dram_part(PART), objective=objective)
            frequency = clock_hz(predict_designs(model, one, vdd_v, conditions), conditions)
            found = find_network(name, on_chip=True)
            sums, kept = [], 0
            for links in ((), found.links):
                tasks = tasks_of(found.network.layers, 1, links)
                results = evaluate(model, one, tasks, conditions, vdd_v, frequency, np.array([0]))
                q = dict(zip(QUANTITIES, total(results, range(len(tasks))).values[0].T, strict=True))
                energy = q["core_energy_j"] + q["memory_side_energy_j"] + sum(q[part] for part in DRAM_PARTS)
                sums.append((float(q["dram_read_bytes"][0] + q["dram_write_bytes"][0]), float(q["latency_s"][0]), float(energy[0])))
                kept = int((results.state[0, :, 0] & FOUND).sum())
            cells = " | ".join(f"{y / x - 1:+.1%}" for x, y in zip(*sums, strict=True))
            print(f"| {one.names()[0]} | {name} | {objective} | {cells} | {kept} of {len(found.network.layers)} |", flush=True)


def on_rtl(design: str, path: Path) -> None:
    config, graph, part, k = load_design(design), import_onnx(path), load_dram_part(PART), coefficients(read_model(MODEL))
    with tempfile.TemporaryDirectory() as folder:
        simulator = build(verilog=emit(config, Path(folder)).verilog, axi_data_bits=config.memory.axi_data_bits)
    rng = np.random.default_rng(1)
    inputs = {name: rng.integers(-128, 128, (graph.batch, *graph.tensors[name].shape)) for name in graph.inputs}
    print("| | core cycles | predicted | DRAM read | predicted | DRAM written | predicted |\n" + "| --- " * 7 + "|")
    for on_chip in (False, True):
        program = compile_graph(config, graph, on_chip=on_chip)
        run = run_network(simulator, program, inputs, core_period_ps=CORE_PS, mem_period_ps=MEMORY_PS, timeout_cycles=50_000_000, memory=part)
        events = [result.events for result in run.segments if result is not None]
        cycles, read, written = (sum(one[name] for one in events) for name in ("core_cycles", "dram_read_bytes", "dram_write_bytes"))
        said = predict_program(program, part, CORE_PS * 1e-12, MEMORY_PS * 1e-12, k)
        ours, ours_read = sum(one.cycles for one in said), sum(one.read_bytes for one in said)
        ours_written = sum(one.traffic.output_write_bytes for one in said)
        print(f"| {'on chip' if on_chip else 'through DRAM'} | {cycles:,} | {ours:,.0f} ({ours / cycles - 1:+.1%}) | {read:,} | {ours_read:,} + END | "
              f"{written:,} | {ours_written:,} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        on_rtl(sys.argv[1], Path(sys.argv[2]))
    else:
        networks()
