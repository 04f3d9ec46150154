"""Prints docs/mapping.md's table of utilizations: useful operations by what the array could do in the steps of each operator's mapping.

Usage: python benchmarks/mapping.py [DESIGN ...]
An operation is a MAC; for pooling a value of the window, for add a value of an operand, for transpose none.
"""

import sys

from hw.config import load_design
from hw.layers import LayerShape, load_network
from hw.lowering import folds, lower
from hw.tiling import architecture, measure
from hw.tiling_choice import choose_tiling

PADDED = {"kernel_h": 3, "kernel_w": 3, "pad_top": 1, "pad_bottom": 1, "pad_left": 1, "pad_right": 1}
SHAPES = {
    "convolution 11x11 stride 4, 3 to 96 channels (AlexNet conv1)": load_network("alexnet").layers[0],
    "convolution 3x3, 64 to 64, 56x56": {"kind": "conv", "in_channels": 64, "out_channels": 64, "in_h": 56, "in_w": 56, **PADDED},
    "convolution 1x1, 96 to 24, 56x56": {"kind": "conv", "in_channels": 96, "out_channels": 24, "in_h": 56, "in_w": 56},
    "depthwise 3x3, 96, 56x56": {"kind": "conv", "in_channels": 96, "out_channels": 96, "groups": 96, "in_h": 56, "in_w": 56, **PADDED},
    "depthwise 3x3 stride 2, 96, 112x112": {"kind": "conv", "in_channels": 96, "out_channels": 96, "groups": 96, "in_h": 112, "in_w": 112, "stride_h": 2,
                                            "stride_w": 2, **PADDED},
    "max pooling 3x3 stride 2, 64, 112x112": {"kind": "max_pool", "in_channels": 64, "in_h": 112, "in_w": 112, "stride_h": 2, "stride_w": 2, **PADDED},
    "global average pooling, 512, 7x7": {"kind": "average_pool", "in_channels": 512, "in_h": 7, "in_w": 7, "kernel_h": 7, "kernel_w": 7},
    "add, 64, 56x56": {"kind": "add", "in_channels": 64, "in_h": 56, "in_w": 56},
    "fully connected, 768 to 768, 128 vectors": {"kind": "fc", "in_channels": 768, "out_channels": 768, "in_h": 128},
    "matmul, 12 heads, 128 x 64 x 128": {"kind": "matmul", "in_channels": 768, "out_channels": 1536, "in_h": 128, "groups": 12},
    "transpose, 12 heads, 128 x 64": {"kind": "transpose", "in_channels": 768, "in_h": 128, "groups": 12},
}  # fmt: skip


def operations(s: LayerShape) -> int:
    """Useful ones of a layer, see above."""
    each = {"max_pool": s.kernel_h * s.kernel_w, "average_pool": s.kernel_h * s.kernel_w, "add": 2}.get(s.kind, 0)
    return s.macs + each * s.output_activations


def main(designs: list[str]) -> None:
    print("| operator | " + " | ".join(designs) + " |\n| --- |" + " ---: |" * len(designs))
    for name, sizes in SHAPES.items():
        shape = sizes if isinstance(sizes, LayerShape) else LayerShape(name="x", **sizes)
        cells = []
        for design in designs:
            config = load_design(design)
            lowering = lower(config, shape, fold=name.startswith("convolution 11x11") and folds(shape, config.array.lanes))
            t = choose_tiling(config, lowering)
            steps = measure(architecture(config), lowering.numbers, t).pixel_steps
            cells.append(f"{operations(shape) / (steps * config.multipliers):.1%}" if shape.kind != "transpose" else f"{steps} cycles")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:] or ["medium", "large", "quad64", "quad256", "quad1024", "narrow1024", "single256"])
