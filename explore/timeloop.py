"""Layers as Timeloop problems and back, and a calibrated design as Timeloop architecture with Accelergy's tables (formats of version 0.4).

Timeloop has no padding: a problem's input is the padded image. P and R run along a row (width), Q and S down the image (height).
Energies are in pJ, areas in um2, as these tools have them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from explore.components import CalibratedDesign
from hw.errors import ConfigError
from hw.layers import LayerShape, Network
from hw.settings import read_yaml

_PJ = 1e12
_DIMENSIONS = ("C", "M", "R", "S", "N", "P", "Q", "G")
_COEFFICIENTS = ("Wstride", "Hstride", "Wdilation", "Hdilation")
_SHAPE = {
    "name": "CNN_layer", "dimensions": list(_DIMENSIONS), "coefficients": [{"name": name, "default": 1} for name in _COEFFICIENTS],
    "data_spaces": [
        {"name": "Weights", "projection": [[["G"]], [["C"]], [["M"]], [["R"]], [["S"]]]},
        {"name": "Inputs", "projection": [[["N"]], [["G"]], [["C"]], [["R", "Wdilation"], ["P", "Wstride"]], [["S", "Hdilation"], ["Q", "Hstride"]]]},
        {"name": "Outputs", "projection": [[["N"]], [["G"]], [["M"]], [["Q"]], [["P"]]], "read_write": True},
    ],
}  # fmt: skip


def problem(shape: LayerShape) -> dict:
    """A convolution or fully connected layer of one image."""
    if shape.kind not in ("conv", "fc"):
        raise ConfigError(f"layers must be convolutions or fully connected for Timeloop, not {shape.kind} ({shape.name}); leave it out with --layers")
    instance = {
        "C": shape.in_channels // shape.groups, "M": shape.out_channels // shape.groups, "R": shape.kernel_w, "S": shape.kernel_h, "N": 1, "P": shape.out_w,
        "Q": shape.out_h, "G": shape.groups, "Wstride": shape.stride_w, "Hstride": shape.stride_h, "Wdilation": shape.dilation, "Hdilation": shape.dilation,
    }  # fmt: skip
    return {"problem": {"version": "0.4", "shape": _SHAPE, "instance": instance}}


def read_problem(path: Path) -> LayerShape:
    """The layer of a Timeloop problem file (of this or the older form), named like the file, with the padding inside its input.

    Raises `ConfigError` for other dimensions than those of a convolution, a batch (N) or unequal dilations, which a layer here does not have.
    """
    data = read_yaml(path)
    found = data.get("problem") if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(f"content must have a problem, not lack it ({path}); give a Timeloop problem file")
    instance = found.get("instance", found)  # the oldest form has the sizes beside the shape
    if not isinstance(instance, dict):
        raise ConfigError(f"problem.instance must be a mapping of dimensions to sizes, not {type(instance).__name__} ({path})")
    sizes = {name: value for name, value in instance.items() if name not in ("shape", "version", "densities")}
    for name, value in sizes.items():
        if name not in (*_DIMENSIONS, *_COEFFICIENTS):
            known = ", ".join((*_DIMENSIONS, *_COEFFICIENTS))
            raise ConfigError(f"dimensions must be some of {known}, not {str(name)[:80]!r} ({path}); write it as a convolution")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
            raise ConfigError(f"{name} must be a whole number from 1 to 1000000, not {str(value)[:80]!r} ({path}); correct it")
    s = dict.fromkeys((*_DIMENSIONS, *_COEFFICIENTS), 1) | sizes
    if s["N"] != 1:
        raise ConfigError(f"N must be 1, not {s['N']} ({path}); give the batch to `voltfront explore` instead")
    if s["Wdilation"] != s["Hdilation"] and s["R"] > 1 and s["S"] > 1:
        raise ConfigError(f"Wdilation and Hdilation must be equal, not {s['Wdilation']} and {s['Hdilation']} ({path})")
    dilation = s["Wdilation"] if s["R"] > 1 else s["Hdilation"]
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in path.stem)[:80]
    channels = {"in_channels": s["C"] * s["G"], "out_channels": s["M"] * s["G"]}
    if all(s[k] == 1 for k in "RSPQG"):
        return LayerShape(name=name, kind="fc", **channels)
    return LayerShape(
        name=name, kind="conv", **channels, groups=s["G"], kernel_h=s["S"], kernel_w=s["R"], stride_h=s["Hstride"], stride_w=s["Wstride"], dilation=dilation,
        in_h=(s["Q"] - 1) * s["Hstride"] + dilation * (s["S"] - 1) + 1, in_w=(s["P"] - 1) * s["Wstride"] + dilation * (s["R"] - 1) + 1,
    )  # fmt: skip


def read_network(paths: list[Path], name: str) -> Network:
    """A network of Timeloop problem files, in their order."""
    layers = [read_problem(path) for path in paths]
    where = f"Timeloop problem files {', '.join(path.name for path in paths)}"
    if len({layer.name for layer in layers}) < len(layers):
        raise ConfigError(f"problem files must have different names, not {', '.join(layer.name for layer in layers)}; rename some")
    return Network(version=1, name=name, source=where, layers=layers)


_MEMORIES = ("weight", "activation", "output")


def architecture(design: CalibratedDesign) -> dict:
    """Timeloop's architecture: DRAM, a bank for each operand, the PEs' registers and the multipliers. Names are those of the tables below."""
    config, part = design.config, design.part
    a = config.array
    banks = {
        "weight": (a.cols, config.weight_words, config.weight_word_bits), "activation": (a.rows, config.activation_words, config.activation_word_bits),
        "output": (a.rows, config.output_words, config.activation_word_bits),
    }  # fmt: skip

    def bank(name: str) -> dict:
        instances, words, bits = banks[name]
        word_bits = config.precision.weight_bits if name == "weight" else config.precision.activation_bits
        attributes = {"depth": words, "width": bits, "word-bits": word_bits, "block-size": a.lanes, "technology": design.point["technology"]}
        return {"name": f"{name}_bank[0..{instances - 1}]", "class": "SRAM", "attributes": attributes}

    accumulator = {"depth": a.acc_depth, "width": a.acc_bits, "word-bits": a.acc_bits, "block-size": 1, "meshX": a.cols}
    multiplier = {"datawidth": config.precision.activation_bits, "meshX": a.cols * a.lanes}
    pe = {
        "name": f"PE[0..{a.rows * a.cols - 1}]",
        "local": [
            {"name": "accumulator", "class": "regfile", "attributes": accumulator},
            {"name": f"multiplier[0..{a.lanes - 1}]", "class": "intmac", "attributes": multiplier},
        ],
    }
    bits = part.geometry.data_bits
    line = {"name": "DRAM", "class": "DRAM", "attributes": {"type": part.name, "width": bits, "word-bits": 8, "block-size": bits // 8}}
    cycle = {"global_cycle_seconds": 1 / design.point["freq_hz"], "technology": design.point["technology"]}
    chip = {"name": "chip", "local": [bank(name) for name in _MEMORIES], "subtree": [pe]}
    return {"architecture": {"version": "0.4", "subtree": [{"name": "system", "attributes": cycle, "local": [line], "subtree": [chip]}]}}


def energy_table(design: CalibratedDesign) -> dict:
    """Accelergy's energy reference table: every component of the design with its actions, its idle cycle and a second's leakage."""
    tables = []
    for component in design.components.itertuples():
        actions = [{"name": row.action, "arguments": {}, "energy": row.energy_per_action_j * _PJ} for row in _actions(design, component.component)]
        if component.component != "dram":
            actions += [
                {"name": "idle", "arguments": {}, "energy": component.idle_energy_per_cycle_j * _PJ},
                {"name": "leak_second", "arguments": {}, "energy": component.leakage_w * _PJ},
            ]
        tables.append({"name": _name(component), "actions": actions})
    return {"ERT": {"version": "0.4", "tables": tables}}


def area_table(design: CalibratedDesign) -> dict:
    """Accelergy's area reference table, one instance each."""
    rows = [component for component in design.components.itertuples() if component.component != "dram"]
    return {"ART": {"version": "0.4", "tables": [{"name": _name(component), "area": component.area_um2} for component in rows]}}


def _actions(design: CalibratedDesign, component: str) -> Iterable[Any]:
    return design.actions[design.actions["component"] == component].itertuples()


def _name(component: Any) -> str:
    if component.component == "dram":
        return "system.DRAM"
    return f"system.chip.{component.component}[0..{component.instances - 1}]"
