"""Random legal designs and layers for the verification campaign.

Everything follows from numbers: design `i`, and case `j` on it, are the same on every machine, in every order. A parameter takes its
least and its greatest value as often as all those between them together. The bins of functional coverage are named here too,
beside the ranges that they divide.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.layers import LayerShape
from hw.settings import parse
from hw.sim.network import Workload, random_workload

MAX_STEPS = 6_000
"""Reduction steps of one case at most, so that none takes long to simulate; the same for its program and all its memory:"""
MAX_MULTIPLIERS = 64
"""Of a design drawn freely; those below that have one size at its limit may have more."""
MAX_PROGRAM_BYTES, MAX_MEMORY_BYTES = 12_000, 64_000
_Setting = TypeVar("_Setting", int, str)
_ATTEMPTS = 200

LIMITS: tuple[dict, ...] = (
    {"rows": 16, "cols": 2, "lanes": 2, "activation_bits": 8, "weight_bits": 8}, {"rows": 1, "cols": 64, "lanes": 2},
    {"rows": 1, "cols": 2, "lanes": 64}, {"rows": 1, "cols": 2, "lanes": 2, "acc_depth": 64}, {"rows": 2, "cols": 2, "lanes": 2, "acc_depth": 1},
    {"rows": 1, "cols": 4, "lanes": 4, "acc_bits": 16, "activation_bits": 4, "weight_bits": 4},
    {"rows": 1, "cols": 2, "lanes": 4, "acc_bits": 48, "activation_bits": 16, "weight_bits": 16},
    {"rows": 1, "cols": 16, "lanes": 16, "post_lanes": 16, "activation_bits": 4, "weight_bits": 4},
    {"rows": 2, "cols": 2, "lanes": 4, "axi_data_bits": 256, "max_burst_beats": 256}, {"rows": 2, "cols": 2, "lanes": 4, "max_burst_beats": 1},
    {"rows": 2, "cols": 4, "lanes": 2, "kind": "flipflop"}, {"rows": 1, "cols": 2, "lanes": 8, "depthwise_taps": 8, "multiplier_stages": 3},
)  # fmt: skip
"""The first designs: each holds one or more parameters at a limit, the others are drawn. Of 16 rows the operands have the same bits too, without
which a design multiplies no activations with each other."""


def _between(rng: random.Random, low: int, high: int) -> int:
    """An end of the range half of the time, else anything in it."""
    draw = rng.random()
    return low if draw < 0.25 else high if draw < 0.5 else rng.randint(low, high)


def configuration(index: int) -> AcceleratorConfig:
    """Design number `index`."""
    rng = random.Random(f"design {index}")
    fixed = LIMITS[index] if index < len(LIMITS) else {}
    for _ in range(_ATTEMPTS):
        try:
            return _configuration(rng, f"drawn_{index}", fixed)
        except ConfigError:
            continue
    raise AssertionError(f"no legal design {index}")


def _configuration(rng: random.Random, name: str, fixed: dict) -> AcceleratorConfig:
    def one_of(key: str, *values: _Setting) -> _Setting:
        value = rng.choice(values)  # drawn even where it is fixed
        return fixed.get(key, value)

    rows, cols, lanes = one_of("rows", 1, 2, 2, 3, 5), one_of("cols", 2, 2, 4, 8), one_of("lanes", 2, 4, 4, 8)
    if rows * cols * lanes > MAX_MULTIPLIERS and not fixed:
        raise ConfigError("too large")
    activation_bits, weight_bits = one_of("activation_bits", 4, 8, 8, 16), one_of("weight_bits", 4, 8, 8, 16)
    post_lanes = min(one_of("post_lanes", 1, 1, 2, 4), cols, lanes)

    def bank(bits: int) -> int:
        return max(64, rng.choice((32, 64, 128, 512)) * lanes * bits // 8)

    array = {
        "rows": rows, "cols": cols, "lanes": lanes, "post_lanes": post_lanes, "acc_depth": one_of("acc_depth", 1, 2, 4, 8, 16),
        "acc_bits": one_of("acc_bits", 24, 32, 32, 48), "multiplier_stages": one_of("multiplier_stages", 0, 1, 2, 3),
        "depthwise_taps": one_of("depthwise_taps", *({0} | {taps for taps in (2, 3, 8) if taps <= min(lanes, 8)})),
    }  # fmt: skip
    buffers = {
        "activation_bank_bytes": bank(activation_bits), "weight_bank_bytes": bank(weight_bits), "output_bank_bytes": bank(activation_bits),
        "parameter_words": rng.choice((32, 64, 256)) * post_lanes, "kind": one_of("kind", "sram", "sram", "sram", "flipflop"),
    }  # fmt: skip
    if buffers["kind"] == "flipflop":
        buffers |= {f"{kind}_bank_bytes": max(64, 32 * lanes * bits // 8) for kind, bits in
                    (("activation", activation_bits), ("weight", weight_bits), ("output", activation_bits))}  # fmt: skip
    memory = {
        "axi_data_bits": one_of("axi_data_bits", 32, 64, 128, 256), "max_burst_beats": one_of("max_burst_beats", 1, 4, 16, 64, 256),
        "read_fifo_beats": one_of("read_fifo_beats", 8, 8, 16, 64),
    }  # fmt: skip
    precision = {"activation_bits": activation_bits, "weight_bits": weight_bits}
    plain = {"version": 1, "name": name, "array": array, "precision": precision, "buffers": buffers, "memory": memory}
    return parse(AcceleratorConfig, plain, name)


# --- layers -----------------------------------------------------------------------------------


def _window(rng: random.Random, most_kernel: int = 5) -> dict:
    """Sizes of an image, a kernel and its stride; refused later if the kernel does not fit into the padded image."""
    kernel_h, kernel_w = _between(rng, 1, most_kernel), _between(rng, 1, most_kernel)
    return {
        "in_h": _between(rng, 1, 12), "in_w": _between(rng, 1, 12), "kernel_h": kernel_h, "kernel_w": kernel_w,
        "stride_h": _between(rng, 1, 3), "stride_w": _between(rng, 1, 3), "pad_top": _between(rng, 0, 3), "pad_bottom": _between(rng, 0, 3),
        "pad_left": _between(rng, 0, 3), "pad_right": _between(rng, 0, 3),
    }  # fmt: skip


def _convolution(rng: random.Random) -> dict:
    groups = rng.choice((1, 1, 1, 2, 3, 8))
    return {
        "kind": "conv", "groups": groups, "in_channels": groups * _between(rng, 1, max(2, 40 // groups)), "relu": rng.random() < 0.5,
        "out_channels": groups * _between(rng, 1, max(2, 60 // groups)), "dilation": rng.choice((1, 1, 2, 3)), **_window(rng),
    }  # fmt: skip


def _depthwise(rng: random.Random) -> dict:
    channels = _between(rng, 2, 40)
    multiplier = rng.choice((1, 1, 1, 2))
    return {
        "kind": "conv", "groups": channels, "in_channels": channels, "out_channels": multiplier * channels, "relu": rng.random() < 0.5,
        "dilation": rng.choice((1, 1, 2)), **_window(rng),
    }  # fmt: skip


def _pointwise(rng: random.Random) -> dict:
    sizes = {"in_h": _between(rng, 1, 12), "in_w": _between(rng, 1, 12), "stride_h": rng.choice((1, 1, 2)), "stride_w": rng.choice((1, 1, 2))}
    return {"kind": "conv", "in_channels": _between(rng, 1, 80), "out_channels": _between(rng, 1, 60), "relu": rng.random() < 0.5, **sizes}


def _fully_connected(rng: random.Random) -> dict:
    vectors = rng.choice((1, 1, _between(rng, 2, 12)))
    return {"kind": "fc", "in_channels": _between(rng, 1, 200), "out_channels": _between(rng, 1, 60), "in_h": vectors, "relu": rng.random() < 0.5}


def _max_pool(rng: random.Random) -> dict:
    window = _window(rng)
    for side, kernel in (("top", "h"), ("bottom", "h"), ("left", "w"), ("right", "w")):  # every window has a pixel of the image in it
        window[f"pad_{side}"] = min(window[f"pad_{side}"], window[f"kernel_{kernel}"] - 1)
    return {"kind": "max_pool", "in_channels": _between(rng, 1, 40), "relu": rng.random() < 0.5, **window}


def _average_pool(rng: random.Random) -> dict:
    return {"kind": "average_pool", "in_channels": _between(rng, 1, 40), "relu": rng.random() < 0.5, "dilation": rng.choice((1, 1, 2, 3)), **_window(rng)}


def _add(rng: random.Random) -> dict:
    sizes = {"in_h": _between(rng, 1, 12), "in_w": _between(rng, 1, 12)}
    return {"kind": "add", "in_channels": _between(rng, 1, 40), "relu": rng.random() < 0.5, **sizes}


def _matmul(rng: random.Random) -> dict:
    heads = rng.choice((1, 2, 3))
    sizes = {"in_channels": heads * _between(rng, 1, 40), "out_channels": heads * _between(rng, 1, 24), "in_h": _between(rng, 1, 12)}
    return {"kind": "matmul", "groups": heads, "relu": rng.random() < 0.5, **sizes}


def _transpose(rng: random.Random) -> dict:
    heads = rng.choice((1, 2, 3))
    return {"kind": "transpose", "groups": heads, "in_channels": heads * _between(rng, 1, 24), "in_h": _between(rng, 1, 12)}


OPERATORS: dict[str, Callable[[random.Random], dict]] = {
    "convolution": _convolution, "depthwise": _depthwise, "pointwise": _pointwise, "fully connected": _fully_connected, "max pool": _max_pool,
    "average pool": _average_pool, "add": _add, "matmul": _matmul, "transpose": _transpose,
}  # fmt: skip
"""How the sizes of one layer of each operator are drawn."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One or more layers with their data, compiled for a design."""

    index: int
    operator: str
    shapes: tuple[LayerShape, ...]
    batch: int
    kind: str
    zero_points: tuple[int, int]
    seed: int
    refused: int
    """Draws that were not legal for the design before this one."""

    def workload(self, config: AcceleratorConfig, base_address: int) -> Workload:
        """Raises `ConfigError` if the design cannot run the layers."""
        return random_workload(
            config, list(self.shapes), batch=self.batch, kind=self.kind, zero_points=self.zero_points, seed=self.seed, base_address=base_address
        )  # fmt: skip


def case(config: AcceleratorConfig, index: int) -> Case:
    """Case `index` on a design: operators take turns, those that the design cannot run are passed over, the rest is drawn until it is legal."""
    rng = random.Random(f"{config.name} case {index}")
    operators = list(OPERATORS)
    for turn in range(len(operators)):
        operator = operators[(index + turn) % len(operators)]
        for attempt in range(_ATTEMPTS):
            try:
                drawn = _case(rng, config, operator, index, attempt)
                program = drawn.workload(config, 0).program
                if program.program_bytes > MAX_PROGRAM_BYTES or program.image.size > MAX_MEMORY_BYTES:
                    raise ConfigError("too long")
                return drawn
            except ConfigError as error:
                if "weight_bits" in str(error) and operator in ("matmul", "transpose", "add"):
                    break  # no other size of it is legal either
    raise AssertionError(f"no legal case {index} for {config.name}")


def _case(rng: random.Random, config: AcceleratorConfig, operator: str, index: int, attempt: int) -> Case:
    sizes = OPERATORS[operator](rng)
    shapes = [parse(LayerShape, {"name": "first"} | sizes, operator)]
    low, high = -(1 << config.precision.activation_bits - 1), (1 << config.precision.activation_bits - 1) - 1
    zero_points = (rng.choice((low, 0, high, rng.randint(low, high))), rng.choice((low, 0, high, rng.randint(low, high))))
    if operator == "transpose":
        zero_points = (0, 0)
    elif operator == "matmul":
        operands = {"input_zero_point": zero_points[0], "second_zero_point": rng.choice((low, 0, high, rng.randint(low, high)))}
        shapes = [shapes[0].model_copy(update=operands)]
    elif not shapes[0].vectors and rng.random() < 0.25:  # a layer that reads the output of the first
        channels = _between(rng, 1, 24)
        following = {"name": "second", "kind": "conv", "in_channels": shapes[0].out_channels, "out_channels": channels}
        shapes.append(parse(LayerShape, following | {"in_h": shapes[0].out_h, "in_w": shapes[0].out_w}, operator))
        zero_points = (zero_points[0], zero_points[0])
    batch = rng.choice((1, 1, 2, 3))
    if batch * sum(steps(config, shape) for shape in shapes) > MAX_STEPS * (1 if attempt < _ATTEMPTS // 2 else 4):
        raise ConfigError("too long")
    return Case(
        index=index, operator=operator, shapes=tuple(shapes), batch=batch, zero_points=zero_points, seed=rng.getrandbits(31), refused=attempt,
        kind=rng.choice(("typical", "typical", "uniform", "ramp", "low", "high", "zero")),
    )  # fmt: skip


def steps(config: AcceleratorConfig, shape: LayerShape) -> int:
    """About how many core cycles a layer takes: reduction steps times pixels, however the compiler orders them."""
    array = config.array
    per_group = -(-shape.in_channels // shape.groups // array.lanes) * -(-shape.out_channels // shape.groups // array.cols)
    return shape.groups * per_group * shape.kernel_h * shape.kernel_w * shape.out_w * -(-shape.out_h // array.rows)


# --- functional coverage ----------------------------------------------------------------------


def _ends(value: int, low: int, high: int) -> str:
    return "least" if value == low else "greatest" if value == high else "between"


def _compare(value: int, unit: int) -> str:
    return "1" if value == 1 else "below" if value < unit else "multiple" if value % unit == 0 else "above"


_SIZE_BINS, _END_BINS = ("1", "below", "multiple", "above"), ("least", "between", "greatest")

BINS: dict[str, tuple[tuple[str, ...], Callable[[AcceleratorConfig, Case, LayerShape], str]]] = {
    "kernel height": (("1", "2 to 4", "5"), lambda g, c, s: "1" if s.kernel_h == 1 else "5" if s.kernel_h == 5 else "2 to 4"),
    "kernel width": (("1", "2 to 4", "5"), lambda g, c, s: "1" if s.kernel_w == 1 else "5" if s.kernel_w == 5 else "2 to 4"),
    "stride": (("1", "2", "3", "unequal"), lambda g, c, s: str(s.stride_h) if s.stride_h == s.stride_w else "unequal"),
    "padding": (("none", "symmetric", "asymmetric"), lambda g, c, s: _padding(s)),
    "dilation": (("1", "2", "3"), lambda g, c, s: str(s.dilation)),
    "image height": (("1", "2 to 11", "12"), lambda g, c, s: "1" if s.in_h == 1 else "2 to 11" if s.in_h < 12 else "12"),
    "image width": (("1", "2 to 11", "12"), lambda g, c, s: "1" if s.in_w == 1 else "2 to 11" if s.in_w < 12 else "12"),
    "groups": (("1", "some", "all"), lambda g, c, s: "1" if s.groups == 1 else "all" if s.groups == s.in_channels else "some"),
    "input channels to lanes": (_SIZE_BINS, lambda g, c, s: _compare(s.in_channels // s.groups, g.array.lanes)),
    "output channels to block": (_SIZE_BINS, lambda g, c, s: _compare(s.out_channels // s.groups, g.channel_block)),
    "output rows to array rows": (_SIZE_BINS, lambda g, c, s: _compare(s.out_h, g.array.rows)),
    "relu": (("no", "yes"), lambda g, c, s: "yes" if s.relu else "no"),
    "batch": (("1", "2", "3"), lambda g, c, s: str(c.batch)),
    "data": (("typical", "uniform", "ramp", "low", "high", "zero"), lambda g, c, s: c.kind),
    "input zero point": (_END_BINS, lambda g, c, s: _ends(c.zero_points[0], *_range(g))),
    "second operand's zero point": (_END_BINS, lambda g, c, s: _ends(s.second_zero_point, *_range(g))),
    "output zero point": (_END_BINS, lambda g, c, s: _ends(c.zero_points[1], *_range(g))),
    "activation x weight bits": (
        tuple(f"{a}x{w}" for a in (4, 8, 16) for w in (4, 8, 16)), lambda g, c, s: f"{g.precision.activation_bits}x{g.precision.weight_bits}"),
    "rows": (("1", "2 to 15", "16"), lambda g, c, s: "1" if g.array.rows == 1 else "16" if g.array.rows == 16 else "2 to 15"),
    "columns to lanes": (("fewer", "as many", "more"), lambda g, c, s: _order(g.array.cols, g.array.lanes)),
    "requantizers a row": (("1", "2 to 8", "16"), lambda g, c, s: "1" if g.array.post_lanes == 1 else "16" if g.array.post_lanes == 16 else "2 to 8"),
    "accumulators a bank": (("1", "2 to 32", "64"), lambda g, c, s: "1" if g.array.acc_depth == 1 else "64" if g.array.acc_depth == 64 else "2 to 32"),
    "multiplier stages": (("0", "1", "2", "3"), lambda g, c, s: str(g.array.multiplier_stages)),
    "AXI width": (("32", "64", "128", "256"), lambda g, c, s: str(g.memory.axi_data_bits)),
    "beats of a burst": (("1", "4 to 64", "256"), lambda g, c, s: {1: "1", 256: "256"}.get(g.memory.max_burst_beats, "4 to 64")),
    "banks": (("sram", "flipflop"), lambda g, c, s: g.buffers.kind),
    "depthwise taps": (("none", "some", "8"), lambda g, c, s: {0: "none", 8: "8"}.get(g.array.depthwise_taps, "some")),
}  # fmt: skip
"""Parameter: its bins, and the bin of a layer (design, case, shape)."""


def _padding(s: LayerShape) -> str:
    if not (s.pad_top or s.pad_bottom or s.pad_left or s.pad_right):
        return "none"
    return "symmetric" if s.pad_top == s.pad_bottom and s.pad_left == s.pad_right else "asymmetric"


def _range(config: AcceleratorConfig) -> tuple[int, int]:
    return -(1 << config.precision.activation_bits - 1), (1 << config.precision.activation_bits - 1) - 1


def _order(a: int, b: int) -> str:
    return "fewer" if a < b else "more" if a > b else "as many"


def impossible(operator: str) -> set[tuple[str, str]]:
    """Bins (parameter, bin) that an operator cannot have, by what it is."""
    image: dict[str, str | tuple[str, ...]] = {"kernel height": "1", "kernel width": "1", "padding": "none", "dilation": "1", "stride": "1"}
    known: dict[str, dict[str, str | tuple[str, ...]]] = {
        "pointwise": image | {"groups": "1", "stride": ("1", "2", "unequal")},
        "fully connected": image | {"groups": "1", "image width": "1"},
        "depthwise": {"groups": "all", "input channels to lanes": "1"},
        "max pool": {"dilation": "1", "input channels to lanes": "1", "output channels to block": "1"},
        "average pool": {"input channels to lanes": "1", "output channels to block": "1"},
        "add": image | {"input channels to lanes": "1", "output channels to block": "1"},
        "matmul": image | {"image width": "1"},
        "transpose": image | {"image width": "1", "input zero point": "between", "output zero point": "between", "relu": "no"},
    }  # fmt: skip
    if operator != "matmul":  # the second operand of an add has the zero point of the data
        known.setdefault(operator, {})["second operand's zero point"] = "between"
    allowed = {parameter: only if isinstance(only, tuple) else (only,) for parameter, only in known.get(operator, {}).items()}
    found = {(parameter, name) for parameter, names in allowed.items() for name in BINS[parameter][0] if name not in names}
    if operator == "depthwise":
        found |= {("dilation", "3"), ("output channels to block", "above")}
    if operator in ("max pool", "average pool", "add"):
        found.add(("groups", "some"))
    if operator in ("matmul", "transpose"):
        found |= {("activation x weight bits", name) for name in BINS["activation x weight bits"][0] if len(set(name.split("x"))) > 1}
    return found
