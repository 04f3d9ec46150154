"""The designs of the full calibration plan, drawn once: `python -m flow.sampling > flow/plans/full.yaml`.

Blocks are measured inside the smallest designs that contain them, where their activity is that of a real machine. A Sobol
sequence over the parameters of the blocks spreads these designs; the first ones stand at the extremes. Designs of 16 to 1,024
multipliers validate that blocks compose into whole machines.
"""

import math

from scipy.stats import qmc

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.settings import parse

SEED = 28
BLOCK_DESIGNS = 26
_AXES = {
    "lanes": (2, 4, 8, 16, 32), "cols": (2, 2, 4, 8, 16), "rows": (1, 1, 2, 4), "acc_depth": (1, 4, 8, 16, 32, 64), "acc_bits": (24, 32, 40),
    "multiplier_stages": (0, 1, 2, 3), "post_lanes": (1, 2, 4, 8), "activation_bits": (4, 8, 8, 16), "weight_bits": (4, 8, 8, 16),
    "axi_data_bits": (32, 64, 128, 256), "read_fifo_beats": (16, 32, 64), "parameter_words": (128, 256, 512, 1024),
    "activation_words": (512, 1024, 2048), "weight_words": (512, 1024, 2048), "output_words": (128, 256, 512),
}  # fmt: skip
_EXTREMES = (
    {"lanes": 2, "cols": 2, "rows": 1, "acc_depth": 1, "multiplier_stages": 0, "activation_bits": 4, "weight_bits": 4, "acc_bits": 16},
    {"lanes": 32, "cols": 2, "rows": 1, "acc_depth": 4, "multiplier_stages": 3, "activation_bits": 8, "weight_bits": 8, "acc_bits": 32},
    {"lanes": 2, "cols": 32, "rows": 1, "acc_depth": 8, "multiplier_stages": 1, "activation_bits": 8, "weight_bits": 8, "acc_bits": 32},
    {"lanes": 2, "cols": 2, "rows": 16, "acc_depth": 4, "multiplier_stages": 1, "activation_bits": 8, "weight_bits": 8, "acc_bits": 32},
    {"lanes": 8, "cols": 2, "rows": 1, "acc_depth": 64, "multiplier_stages": 1, "activation_bits": 8, "weight_bits": 8, "acc_bits": 32},
    {"lanes": 8, "cols": 2, "rows": 1, "acc_depth": 8, "multiplier_stages": 0, "activation_bits": 16, "weight_bits": 16, "acc_bits": 48},
)
_WHOLE = (
    (2, 2, 4), (1, 4, 4), (2, 4, 4), (4, 4, 4), (2, 4, 8), (1, 8, 8), (4, 4, 8), (2, 8, 8), (8, 4, 8), (2, 8, 16), (4, 16, 4), (8, 8, 8), (4, 8, 16),
    (8, 16, 4), (8, 8, 16), (4, 16, 16), (16, 8, 8),
)  # fmt: skip
"""Rows, columns and lanes of the whole designs."""
HELD_OUT = ("small", "medium", "large", "w03", "w09", "w13", "w16")

_HEAD = """\
# The full calibration set: designs b.. spread the parameters of every block, designs w.. of 16 to 1,024 multipliers validate the
# composition. Drawn by a Sobol sequence: python -m flow.sampling > flow/plans/full.yaml
version: 1
name: full
designs:
"""
_TAIL = """\
activity:
  - {network: alexnet, layer: conv3, rows: 1, blocks: 2}                        # compute-bound
  - {network: alexnet, layer: conv1, rows: 1, blocks: 1}                        # few channels, wide kernel
  - {network: alexnet, layer: fc7, blocks: 2}                                   # fully connected: memory-bound
  - {network: alexnet, layer: fc8, blocks: 2, batch: 8}                         # fully connected, a batch that reuses weights
  - {network: alexnet, layer: fc7, blocks: 2, mem_period_ps: 5000}              # stalled by a slow memory side
  - {network: alexnet, layer: conv2, rows: 2, blocks: 1}                        # grouped
activity_cycles: 1500
instances: 4
layouts: [placed]
runs:
  - {window: {network: alexnet, layer: conv3, rows: 1, blocks: 2}, core_period_ps: 2000}
  - {window: {network: alexnet, layer: conv2, rows: 2, blocks: 1}, core_period_ps: 1000}
  - {window: {network: alexnet, layer: conv1, rows: 1, blocks: 1}, core_period_ps: 1500}
  - {window: {network: alexnet, layer: fc7, blocks: 4}, core_period_ps: 1000}
  - {window: {network: alexnet, layer: fc8, blocks: 2, batch: 8}, core_period_ps: 4000}
  - {window: {network: alexnet, layer: fc7, blocks: 2}, core_period_ps: 600, mem_period_ps: 2500}
"""


def block_designs() -> list[AcceleratorConfig]:
    """The designs that calibrate: the extremes, then as many of the Sobol sequence as make valid designs of at most 128 multipliers."""
    found: list[AcceleratorConfig] = []
    sequence = qmc.Sobol(d=len(_AXES), seed=SEED)
    points = iter(sequence.random_base2(9))
    extremes = iter(_EXTREMES)
    while len(found) < BLOCK_DESIGNS:
        values = {axis: choices[int(x * len(choices))] for (axis, choices), x in zip(_AXES.items(), next(points), strict=True)}
        stated = next(extremes, {})
        config = _design(f"b{len(found) + 1:02d}", values | stated)
        # Extremes must be valid by themselves; other points may meet a rule of the hardware, or be larger than blocks need.
        if config is not None and (stated or config.array.rows * config.array.cols * config.array.lanes <= 128):
            found.append(config)
        elif stated:
            extremes = iter([stated, *extremes])
    return found


def whole_designs() -> list[AcceleratorConfig]:
    """The designs that validate, of 8-bit operands, the rest of their parameters from another Sobol sequence."""
    found: list[AcceleratorConfig] = []
    points = iter(qmc.Sobol(d=len(_AXES), seed=SEED + 1).random_base2(9))
    while len(found) < len(_WHOLE):
        rows, cols, lanes = _WHOLE[len(found)]
        values = {axis: choices[int(x * len(choices))] for (axis, choices), x in zip(_AXES.items(), next(points), strict=True)}
        fixed = {"rows": rows, "cols": cols, "lanes": lanes, "activation_bits": 8, "weight_bits": 8, "acc_bits": 32}
        config = _design(f"w{len(found) + 1:02d}", values | fixed)
        if config is not None:
            found.append(config)
    return found


def _design(name: str, v: dict[str, int]) -> AcceleratorConfig | None:
    """The design of these values, requantizers as far as the array feeds them; None if the hardware's rules do not allow it."""
    words = {kind: v["lanes"] * v[f"{bits}_bits"] / 8 for kind, bits in (("activation", "activation"), ("weight", "weight"), ("output", "activation"))}
    data = {
        "version": 1, "name": name,
        "array": {key: v[key] for key in ("rows", "cols", "lanes", "acc_depth", "acc_bits", "multiplier_stages")}
        | {"post_lanes": min(v["post_lanes"], v["cols"], v["lanes"])},
        "precision": {"activation_bits": v["activation_bits"], "weight_bits": v["weight_bits"]},
        "buffers": {f"{kind}_bank_bytes": math.ceil(width * v[f"{kind}_words"]) for kind, width in words.items()} | {"parameter_words": v["parameter_words"]},
        "memory": {"axi_data_bits": v["axi_data_bits"], "read_fifo_beats": v["read_fifo_beats"]},
    }  # fmt: skip
    try:
        return parse(AcceleratorConfig, data, f"design {name}")
    except ConfigError:
        return None


def plan_text() -> str:
    """The plan as YAML."""
    lines = []
    for config in (*block_designs(), *whole_designs()):
        data = config.model_dump(mode="json", exclude_defaults=True)
        lines.append(f"  - {_flow(data)}\n")
    return f"{_HEAD}{''.join(lines)}held_out: [{', '.join(HELD_OUT)}]\n{_TAIL}"


def _flow(value: object) -> str:
    """YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return str(value)


if __name__ == "__main__":
    print(plan_text(), end="")
