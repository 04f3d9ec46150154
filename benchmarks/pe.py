"""Area and shortest clock period of the processing element and its row, by recipe, pipeline depth and depthwise taps: python -m benchmarks.pe

Prints a Markdown table (docs/accelerator.md quotes it). A row's area is its own, with its elements as black boxes; its period is that of the row with them.
"""

import argparse
import tempfile
from pathlib import Path

from flow.sta import time_design
from flow.synth import RECIPES, synthesize
from flow.tech import load_technology
from hw.emit import emit_block
from hw.pe_row import PeRow

ELEMENT = {"lanes": 8, "activation_bits": 8, "weight_bits": 8, "acc_depth": 16, "acc_bits": 32}
ROW = {"cols": 8, "post_lanes": 2}


def measure(stages: int, taps: int, recipe: str, folder: Path) -> str:
    """One row of the table."""
    technology = load_technology("fdsoi28p")
    corner = technology.nominal_corner()
    row = PeRow(**ELEMENT, **ROW, multiplier_stages=stages, depthwise_taps=taps)
    bundle = emit_block(row, folder)
    element = next(block.module for block in bundle.blocks if block.name == "pe")
    options = {"verilog": [bundle.verilog[0]], "technology": technology, "corner": corner, "recipe": RECIPES[recipe]}
    pe = synthesize(module=element, clocks=["clk"], **options)
    whole = synthesize(module=row.module_name, clocks=["clk"], black_boxes=[element], **options)
    (pe_time,) = time_design(netlists=[pe.netlist], module=element, technology=technology, corners=[corner], clocks=["clk"])
    (row_time,) = time_design(netlists=[pe.netlist, whole.netlist], module=row.module_name, technology=technology, corners=[corner], clocks=["clk"])
    figures = (pe.area_nand2, pe_time["clk"].min_period_s * 1e9, whole.area_nand2, row_time["clk"].min_period_s * 1e9)
    return f"| {recipe} | {stages} | {taps} | {figures[0]:,.0f} | {figures[1]:.3f} | {figures[2]:,.0f} | {figures[3]:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--stages", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--taps", nargs="+", type=int, default=[0, 3])
    arguments = parser.parse_args()
    corner = load_technology("fdsoi28p").nominal_corner()
    print(f"{ELEMENT | ROW}, {corner}\n")
    print("| recipe | stages | taps | PE, NAND2 | PE, ns | row without PEs, NAND2 | row, ns |\n| --- | --- | --- | --- | --- | --- | --- |")
    for recipe in arguments.recipes:
        for stages in arguments.stages:
            for taps in arguments.taps:
                with tempfile.TemporaryDirectory() as folder:
                    print(measure(stages, taps, recipe, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
