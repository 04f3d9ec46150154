"""A calibrated design and layers in the form that ZigZag (KU Leuven, PyPI `zigzag-dse`, format of version 3.9) reads. Energies in pJ, sizes in bits.

Its hardware has three array dimensions: D1 = cols (output channels), D2 = lanes (input channels), D3 = rows (output rows).

| memory | operand | served by one instance | cost of an access |
| --- | --- | --- | --- |
| `accumulator` | O | the lanes of a PE | none: it is in the energy of a PE's step |
| `weight_register` | W | one multiplier | none, as above |
| `weight_bank` | W | all lanes of a column, all rows | read and write of a word |
| `activation_bank` | I | all columns and lanes of a row | read and write of a word |
| `output_bank` | O | all columns and lanes of a row | read and write of a word |
| `dram` | all | everything | bytes on the lines, an activation a page; no standby power |

A multiplication costs a PE step over its lanes and its share of the row's step. What ZigZag has no place for is not in these files:
idle clock cycles, leakage, engines, FIFOs, requantization and the DRAM's standby, refresh and PHY (`components.csv` has them).
"""

from collections.abc import Sequence
from typing import Any

from explore.components import CalibratedDesign
from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.layers import LayerShape
from hw.lowering import lower
from hw.tile_plan import SPATIAL_OUTER, Tiling
from hw.tiling import architecture, measure
from hw.tiling_choice import enumerate_tilings, preference

_PJ = 1e12


def unit_energies_pj(design: CalibratedDesign) -> dict[str, float]:
    """Energy of a multiplication, of a word of each bank read and written, and of a DRAM beat (one transfer of the data lines) read and written."""
    config, part, e = design.config, design.part, design.energy_per_action_j
    beat_bytes = part.geometry.data_bits / 8
    page_share = e("dram", "activate") * beat_bytes / part.geometry.page_bytes
    step_j = e("pe", "step") + e("pe_row", "step") / config.array.cols
    banks = {f"{bank}_{action}": e(f"sram_{bank}", action) * _PJ for bank in ("weight", "activation") for action in ("read", "write")}
    sections = max(1, config.array.lanes // config.array.cols)
    return banks | {
        "mac": step_j / config.array.lanes * _PJ,
        "output_read": e("sram_output", "read") * sections * _PJ, "output_write": e("sram_output", "write") * sections * _PJ,
        "dram_read": (e("dram", "read") * beat_bytes + page_share) * _PJ, "dram_write": (e("dram", "write") * beat_bytes + page_share) * _PJ,
    }  # fmt: skip


def hardware(design: CalibratedDesign) -> dict:
    """The accelerator file."""
    config, unit = design.config, unit_energies_pj(design)
    a, activation, weight = config.array, config.activation_word_bits, config.weight_word_bits

    def port(name: str, kind: str, least: int, most: int, allocation: list[str]) -> dict:
        return {"name": name, "type": kind, "bandwidth_min": least, "bandwidth_max": most, "allocation": allocation}

    def memory(size: int, read: float, write: float, operands: list[str], ports: list[dict], served: list[str]) -> dict:
        return {
            "size": size, "r_cost": float(read), "w_cost": float(write), "area": 0.0, "latency": 1, "operands": operands, "ports": ports,
            "served_dimensions": served,
        }  # fmt: skip

    acc, line = a.acc_bits, design.part.geometry.data_bits
    memories = {
        "accumulator": memory(
            a.acc_depth * acc, 0, 0, ["O"],
            [port("r_port_1", "read", acc, acc, ["O, tl"]), port("r_port_2", "read", acc, acc, ["O, th"]),
             port("w_port_1", "write", acc, acc, ["O, fh"]), port("w_port_2", "write", acc, acc, ["O, fl"])],
            ["D2"],
        ),
        "weight_register": memory(
            config.precision.weight_bits, 0, 0, ["I2"],
            [port(f"{k[0]}_port_1", k, config.precision.weight_bits, config.precision.weight_bits, [f"I2, {d}"]) for k, d in (("read", "tl"), ("write", "fh"))],
            [],
        ),
        "weight_bank": memory(
            config.buffers.weight_bank_bytes * 8, unit["weight_read"], unit["weight_write"], ["I2"],
            [port("r_port_1", "read", weight, weight, ["I2, tl"]), port("w_port_1", "write", weight, weight, ["I2, fh"])], ["D2", "D3"],
        ),
        "activation_bank": memory(
            config.buffers.activation_bank_bytes * 8, unit["activation_read"], unit["activation_write"], ["I1"],
            [port("r_port_1", "read", activation, activation, ["I1, tl"]), port("w_port_1", "write", activation, activation, ["I1, fh"])], ["D1", "D2"],
        ),
        "output_bank": memory(
            config.buffers.output_bank_bytes * 8, unit["output_read"], unit["output_write"], ["O"],
            [port("r_port_1", "read", activation, activation, ["O, tl", "O, th"]), port("w_port_1", "write", activation, activation, ["O, fh", "O, fl"])],
            ["D1", "D2"],
        ),
        "dram": memory(
            10**13, unit["dram_read"], unit["dram_write"], ["I1", "I2", "O"],
            [port("rw_port_1", "read_write", line, line, [f"{o}, {d}" for o in ("I1", "I2", "O") for d in ("fh", "tl")] + ["O, fl", "O, th"])],
            ["D1", "D2", "D3"],
        ),
    }  # fmt: skip
    array = {"unit_energy": unit["mac"], "unit_area": 1.0, "dimensions": ["D1", "D2", "D3"], "sizes": [a.cols, a.lanes, a.rows]}
    return {"name": config.name, "memories": memories, "operational_array": array}


def _sizes(shape: LayerShape, config: AcceleratorConfig) -> dict[str, int]:
    """Loop sizes of one group as the accelerator runs them: channels fill whole words and columns, rows fill the array."""

    def whole(value: int, unit: int) -> int:
        return -(-value // unit) * unit

    return {
        "K": whole(shape.out_channels // shape.groups, config.array.cols), "C": whole(shape.in_channels // shape.groups, config.array.lanes),
        "OY": whole(shape.out_h, config.array.rows), "OX": shape.out_w, "FY": shape.kernel_h, "FX": shape.kernel_w,
    }  # fmt: skip


def layer(shape: LayerShape, number: int, config: AcceleratorConfig) -> dict:
    """A convolution or fully connected layer of one image as an entry of the workload file; of a grouped layer one group."""
    if shape.kind not in ("conv", "fc"):
        raise ConfigError(f"layers must be convolutions or fully connected for ZigZag, not {shape.kind} ({shape.name}); leave it out with --layers")
    bits, sizes = config.precision, _sizes(shape, config)
    return {
        "id": number, "name": shape.name, "operator_type": "Conv", "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
        "dimension_relations": [f"ix={shape.stride_w}*ox+{shape.dilation}*fx", f"iy={shape.stride_h}*oy+{shape.dilation}*fy"],
        "loop_dims": ["B", *sizes], "loop_sizes": [1, *sizes.values()],
        "operand_precision": {"W": bits.weight_bits, "I": bits.activation_bits, "O": config.array.acc_bits, "O_final": bits.activation_bits},
        "operand_source": {"I": number, "W": number}, "pr_loop_dims": ["IX", "IY"],
        "padding": [[shape.pad_left, shape.pad_right], [shape.pad_top, shape.pad_bottom]],
    }  # fmt: skip


def expressed_tiling(shape: LayerShape, config: AcceleratorConfig) -> Tiling:
    """The best tiling whose sizes divide the layer's, as ZigZag wants its loops; `ConfigError` if there is none."""
    sizes, lowering = _sizes(shape, config), lower(config, shape)
    numbers, a = lowering.numbers, architecture(config)
    c_groups, stripes, passes = sizes["C"] // config.array.lanes, sizes["OY"] // config.array.rows, sizes["K"] // config.array.cols

    def divides(t: Tiling) -> bool:
        """And its blocks of pixels are parts of rows, which machine and ZigZag then count alike."""
        pixels = t.tile_h * t.tile_w
        whole = not (shape.out_w % t.tile_w or stripes % t.tile_h or passes % (t.tile_k // config.array.cols)) and t.tile_c >= c_groups
        return whole and -(-pixels // config.array.acc_depth) == pixels // _factor(t.tile_w, config.array.acc_depth)

    found = [t for t in enumerate_tilings(config, lowering) if divides(t)]
    if not found:
        raise ConfigError(f"buffers must let a tiling of {shape.name} divide the layer, which none does ({config.name}); make them larger")
    return min(found, key=lambda t: preference(a, numbers, t, measure(a, numbers, t)))


def mapping(shapes: Sequence[LayerShape], config: AcceleratorConfig) -> list[dict]:
    """Each layer's loops as the accelerator runs `expressed_tiling`, the innermost first: pixels that share a weight read (the largest part of a row of
    the tile that divides it and fits the accumulators), the reduction, the rest of the tile's pixels, its passes over the columns, the tiles."""
    a = config.array
    spatial = {"D1": [f"K, {a.cols}"], "D2": [f"C, {a.lanes}"], "D3": [f"OY, {a.rows}"]}
    common = {"spatial_mapping": spatial, "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}
    entries = [{"name": "default"} | common]
    for shape in shapes:
        sizes, tiling = _sizes(shape, config), expressed_tiling(shape, config)
        block, passes = _factor(tiling.tile_w, a.acc_depth), tiling.tile_k // a.cols
        tile: list[list[Any]] = [["OX", block], ["C", sizes["C"] // a.lanes], ["FX", sizes["FX"]], ["FY", sizes["FY"]]]
        tile += [["OX", tiling.tile_w // block], ["OY", tiling.tile_h], ["K", passes]]
        space = [["OX", shape.out_w // tiling.tile_w], ["OY", sizes["OY"] // a.rows // tiling.tile_h]]
        channels = [["K", sizes["K"] // a.cols // passes]]
        loops = tile + (channels + space if tiling.order == SPATIAL_OUTER else space + channels)
        entries.append({"name": shape.name, **common, "temporal_ordering": [loop for loop in loops if loop[1] > 1]})
    return entries


def _factor(size: int, most: int) -> int:
    """The largest divisor of `size` that is at most `most`."""
    return max(n for n in range(1, min(most, size) + 1) if size % n == 0)
