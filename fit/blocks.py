"""The kinds of blocks: the structural terms that each one's area, delay, energy and leakage are made of.

A term is a function of the design's parameters (`flow.table.PARAMETERS`, arrays of any one shape, or the parameters of a
memory or FIFO) that follows from how the block is built. The first terms matter most: with few variants the later ones are
left undetermined (see `fit.regression`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hw.errors import ModelError

Domain = Literal["core", "memory"]
Supply = Literal["vdd_v", "sram_vdd_v"]
Parameters = Mapping[str, NDArray]


@dataclass(frozen=True, kw_only=True)
class Term:
    """A structural term: its formula in words of the parameters, and the function."""

    name: str
    formula: str
    function: Callable[[Parameters], NDArray]
    statistic: str = ""
    """What of `fit.workloads.STATISTICS` it is multiplied by: it counts in that part of the events, or of the cycles, only."""
    wire: bool = False
    """Whether a delay with it is that of wires alone, their resistance times their capacitance, which no corner changes."""


def _log2(x: NDArray) -> NDArray:
    return np.log2(np.asarray(x, dtype=float))


def _levels(p: Parameters) -> NDArray:
    """Levels of a processing element's adder tree."""
    return np.ceil(_log2(p["lanes"]))


def _last_levels(p: Parameters) -> NDArray:
    """Levels of the tree that the accumulating stage holds: all without registers or with one (after the products), half with more."""
    stages = np.asarray(p["multiplier_stages"], dtype=float)
    return np.where(stages >= 3, 0.0, np.where(stages == 2, _levels(p) - (_levels(p) + 1) // 2, _levels(p)))


def _unregistered(p: Parameters) -> NDArray:
    return (np.asarray(p["multiplier_stages"]) == 0) * 1.0


TERMS = {
    term.name: term
    for term in (
        Term(name="one", formula="1", function=lambda p: np.ones(np.shape(next(iter(p.values()))))),
        Term(name="multipliers", formula="lanes activation_bits weight_bits", function=lambda p: p["lanes"] * p["activation_bits"] * p["weight_bits"]),
        Term(name="operands", formula="lanes (activation_bits + weight_bits)", function=lambda p: p["lanes"] * (p["activation_bits"] + p["weight_bits"])),
        Term(
            name="pipeline", formula="multiplier_stages lanes (activation_bits + weight_bits)",
            function=lambda p: p["multiplier_stages"] * p["lanes"] * (p["activation_bits"] + p["weight_bits"]),
        ),
        Term(name="accumulators", formula="acc_depth acc_bits", function=lambda p: p["acc_depth"] * p["acc_bits"]),
        Term(name="accumulator_select", formula="log2(2 acc_depth)", function=lambda p: _log2(2 * p["acc_depth"])),
        Term(name="carry", formula="log2(acc_bits)", function=lambda p: _log2(p["acc_bits"])),
        Term(
            name="products", formula="useful x lanes activation_bits weight_bits", statistic="useful",
            function=lambda p: p["lanes"] * p["activation_bits"] * p["weight_bits"],
        ),
        Term(
            name="product_registers", formula="useful x multiplier_stages lanes (activation_bits + weight_bits)", statistic="useful",
            function=lambda p: p["multiplier_stages"] * p["lanes"] * (p["activation_bits"] + p["weight_bits"]),
        ),
        Term(name="unregistered_sum", formula="acc_bits without multiplier stages, else 0", function=lambda p: p["acc_bits"] * _unregistered(p)),
        Term(name="weight_changes", formula="weight_changes x lanes weight_bits", function=lambda p: p["lanes"] * p["weight_bits"], statistic="weight_changes"),
        Term(
            name="row_weights", formula="weight_changes x cols lanes weight_bits", statistic="weight_changes",
            function=lambda p: p["cols"] * p["lanes"] * p["weight_bits"],
        ),
        Term(name="weight_beat", formula="weight_beats x words bits", function=lambda p: p["words"] * p["bits"], statistic="weight_beats"),
        Term(name="last_levels", formula="adder levels of the accumulating stage", function=_last_levels),
        Term(name="first_levels", formula="adder levels before it", function=lambda p: _levels(p) - _last_levels(p)),
        Term(
            name="multiply_unregistered", formula="log2(activation_bits weight_bits) without multiplier stages, else 0",
            function=lambda p: _log2(p["activation_bits"] * p["weight_bits"]) * _unregistered(p),
        ),
        Term(name="multiply", formula="log2(activation_bits weight_bits)", function=lambda p: _log2(p["activation_bits"] * p["weight_bits"])),
        Term(name="wide_word", formula="log2(lanes activation_bits)", function=lambda p: _log2(p["lanes"] * p["activation_bits"])),
        Term(name="array", formula="log2(rows cols)", function=lambda p: _log2(p["rows"] * p["cols"])),
        Term(name="blocks_address", formula="log2(weight_words)", function=lambda p: _log2(p["weight_words"])),
        Term(name="output_address", formula="log2(output_words)", function=lambda p: _log2(p["output_words"])),
        Term(name="post_depth", formula="log2(post_lanes)", function=lambda p: _log2(p["post_lanes"])),
        Term(name="read_depth", formula="log2(read_fifo_beats)", function=lambda p: _log2(p["read_fifo_beats"])),
        Term(name="taps", formula="depthwise_taps", function=lambda p: 1.0 * p["depthwise_taps"]),
        Term(name="trunk", formula="side", function=lambda p: 1.0 * p["side_um"]),
        Term(name="trunk_rc", formula="side^2", function=lambda p: p["side_um"] ** 2, wire=True),
        Term(name="row_span", formula="row_side", function=lambda p: 1.0 * p["row_side_um"]),
        Term(name="row_rc", formula="row_side^2", function=lambda p: p["row_side_um"] ** 2, wire=True),
        Term(name="row_wires", formula="side rows lanes activation_bits", function=lambda p: p["side_um"] * p["rows"] * p["lanes"] * p["activation_bits"]),
        Term(
            name="activation_wires", formula="steps x side rows lanes activation_bits", statistic="steps",
            function=lambda p: p["side_um"] * p["rows"] * p["lanes"] * p["activation_bits"],
        ),
        Term(
            name="element_wires", formula="steps x rows row_side rows cols", statistic="steps",
            function=lambda p: p["rows"] * p["row_side_um"] * p["rows"] * p["cols"],
        ),
        Term(
            name="weight_wires", formula="weight_takes x side cols lanes weight_bits", statistic="weight_takes",
            function=lambda p: p["side_um"] * p["cols"] * p["lanes"] * p["weight_bits"],
        ),
        Term(name="load_wires", formula="loads x side axi_data_bits", statistic="loads", function=lambda p: p["side_um"] * p["axi_data_bits"]),
        Term(
            name="weight_load_wires", formula="weight_loads x side axi_data_bits", statistic="weight_loads",
            function=lambda p: p["side_um"] * p["axi_data_bits"],
        ),
        Term(name="bank_wires", formula="side (rows + cols)", function=lambda p: p["side_um"] * (p["rows"] + p["cols"])),
        Term(name="beat_wires", formula="side axi_data_bits", function=lambda p: p["side_um"] * p["axi_data_bits"]),
        Term(name="bank_rows", formula="min(words, 256)", function=lambda p: np.minimum(p["words"], 256.0)),
        Term(name="activation_word", formula="lanes activation_bits", function=lambda p: p["lanes"] * p["activation_bits"]),
        Term(name="broadcast", formula="cols lanes activation_bits", function=lambda p: p["cols"] * p["lanes"] * p["activation_bits"]),
        Term(name="drain", formula="cols acc_bits", function=lambda p: p["cols"] * p["acc_bits"]),
        Term(name="select_lines", formula="cols acc_depth", function=lambda p: p["cols"] * p["acc_depth"]),
        Term(name="cols_depth", formula="log2(cols)", function=lambda p: _log2(p["cols"])),
        Term(name="requantizers", formula="post_lanes acc_bits", function=lambda p: p["post_lanes"] * p["acc_bits"]),
        Term(name="rows", formula="rows", function=lambda p: 1.0 * p["rows"]),
        Term(name="cols", formula="cols", function=lambda p: 1.0 * p["cols"]),
        Term(name="rows_depth", formula="log2(2 rows)", function=lambda p: _log2(2 * p["rows"])),
        Term(name="acc_depth", formula="acc_depth", function=lambda p: 1.0 * p["acc_depth"]),
        Term(name="row_words", formula="rows lanes activation_bits", function=lambda p: p["rows"] * p["lanes"] * p["activation_bits"]),
        Term(name="beat", formula="axi_data_bits", function=lambda p: 1.0 * p["axi_data_bits"]),
        Term(name="beat_depth", formula="log2(axi_data_bits)", function=lambda p: _log2(p["axi_data_bits"])),
        Term(name="address", formula="log2(activation_words)", function=lambda p: _log2(p["activation_words"])),
        Term(name="storage", formula="words bits", function=lambda p: p["words"] * p["bits"]),
        Term(name="word", formula="bits", function=lambda p: 1.0 * p["bits"]),
        Term(name="words", formula="words", function=lambda p: 1.0 * p["words"]),
        Term(name="words_depth", formula="log2(words)", function=lambda p: _log2(p["words"])),
        Term(name="bitline", formula="sqrt(words bits)", function=lambda p: np.sqrt(p["words"] * p["bits"])),
    )
}  # fmt: skip


SIDES = ("side_um", "row_side_um")
"""The sides of squares as large as all blocks of a design together, and as one of its rows of processing elements."""
DERIVED = ("words", "bits", *SIDES)
"""Parameters of a block that follow from the design's: the size of a memory or FIFO, and the sides."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A kind of block: the parameters it depends on, and the terms of each quantity (area and leakage share theirs).

    `energy` serves every event; the clock of an idle block still costs (`idle`). `delay` serves the three kinds of paths of the block by itself.
    `domain` is whose supply it stands on, as in `hw.constraints.upf`: the core's, which scales, or the memory side's, which does not.
    """

    name: str
    domain: Domain
    parameters: tuple[str, ...]
    area: tuple[str, ...]
    energy: tuple[str, ...]
    idle: tuple[str, ...]
    delay: tuple[str, ...]
    supply: Supply = "vdd_v"

    def terms_of(self, quantity: str) -> tuple[str, ...]:
        """Names of the terms of a quantity such as `area_um2`, `leakage_w`, `min_period_s`, `idle_energy_j`, `step_energy_j`."""
        if quantity in ("area_um2", "leakage_w"):
            return self.area
        if quantity in DELAYS:
            return self.delay
        return self.idle if quantity == "idle_energy_j" else self.energy


DELAYS = ("min_period_s", "input_to_register_s", "register_to_output_s")

BLOCKS = {
    block.name: block
    for block in (
        Block(
            name="pe", domain="core", parameters=("lanes", "activation_bits", "weight_bits", "acc_depth", "acc_bits", "multiplier_stages"),
            area=("multipliers", "accumulators", "pipeline", "operands", "one"),
            energy=("products", "accumulators", "unregistered_sum", "product_registers", "one", "weight_changes", "operands"),
            idle=("operands", "accumulators", "one", "pipeline"), delay=("one",),
        ),
        Block(
            name="pe_row", domain="core", parameters=("cols", "lanes", "activation_bits", "weight_bits", "acc_depth", "acc_bits", "multiplier_stages"),
            area=("drain", "activation_word", "select_lines", "one", "taps"),
            energy=("activation_word", "one", "select_lines", "broadcast", "row_weights", "drain"),
            idle=("one", "drain", "select_lines"), delay=("one",),
        ),
        Block(
            name="post", domain="core", parameters=("post_lanes", "acc_bits", "activation_bits", "lanes"), area=("requantizers", "activation_word", "one"),
            energy=("requantizers", "activation_word", "one"), idle=("one", "requantizers"), delay=("one", "carry"),
        ),
        Block(
            name="compute", domain="core", parameters=("rows", "cols", "acc_depth", "activation_words", "weight_words", "output_words"),
            area=("one", "address", "acc_depth"), energy=("one", "address"), idle=("one", "address"), delay=("one", "address"),
        ),
        Block(
            name="load", domain="core", parameters=("rows", "cols", "lanes", "activation_bits", "weight_bits", "axi_data_bits"),
            area=("one", "beat", "activation_word", "rows"), energy=("one", "beat", "activation_word"), idle=("one", "beat"), delay=("one", "beat_depth"),
        ),
        Block(
            name="store", domain="core", parameters=("rows", "lanes", "activation_bits", "axi_data_bits"), area=("one", "beat", "row_words"),
            energy=("one", "beat", "row_words"), idle=("one", "beat"), delay=("one", "rows_depth"),
        ),
        Block(name="sequencer", domain="core", parameters=(), area=("one",), energy=("one",), idle=("one",), delay=("one",)),
        Block(
            name="registers", domain="core", parameters=("rows", "cols", "lanes"), area=("one", "cols"), energy=("one", "cols"), idle=("one",), delay=("one",),
        ),
        Block(
            name="memory_read", domain="memory", parameters=("axi_data_bits", "max_burst_beats"), area=("one", "beat"), energy=("one", "beat"),
            idle=("one", "beat"), delay=("one", "beat_depth"),
        ),
        Block(
            name="memory_write", domain="memory", parameters=("axi_data_bits", "max_burst_beats"), area=("one", "beat"), energy=("one", "beat"),
            idle=("one", "beat"), delay=("one", "beat_depth"),
        ),
        Block(name="axi_lite", domain="memory", parameters=(), area=("one",), energy=("one",), idle=("one",), delay=("one",)),
        # Multiplexers and the clock trees' trunk between the blocks, and above all wires with their repeaters, which are as long as the
        # design is wide; its paths are those of the whole design.
        Block(
            name="glue", domain="core", parameters=("rows", "cols", "lanes", "activation_bits", "weight_bits", "axi_data_bits", *SIDES),
            area=("trunk", "row_wires", "beat_wires", "bank_wires"), energy=("one",),
            idle=("trunk", "activation_wires", "weight_wires", "load_wires", "weight_load_wires", "bank_wires", "element_wires"), delay=("one",),
        ),
        Block(name="synchronizer", domain="core", parameters=(), area=("one",), energy=("one",), idle=("one",), delay=("one",)),
        Block(
            name="two_clock_fifo", domain="memory", parameters=("words", "bits"), area=("storage", "one", "word"),
            energy=("word", "one", "storage", "weight_beat"),
            idle=("one", "storage", "words"), delay=("one", "words_depth"),
        ),
        # A memory of flip-flops, where a technology has no figures of memory macros.
        Block(
            name="flipflop_1r1w", domain="core", parameters=("words", "bits"), area=("storage", "word", "words", "one"), energy=("storage", "word", "one"),
            idle=("storage", "one"), delay=("words_depth", "one"),
        ),
        Block(
            name="sram", domain="core", parameters=("words", "bits"), supply="sram_vdd_v", area=("storage", "word", "words", "one"),
            energy=("word", "storage", "one", "bitline"), idle=("one", "word"), delay=("words_depth", "bank_rows", "one"),
        ),
    )
}  # fmt: skip


def term_values(names: tuple[str, ...], parameters: Parameters) -> dict[str, NDArray]:
    """The named terms of `parameters`, by name, in the parameters' shape; a statistic that is no parameter counts as 1."""
    try:
        return {name: np.asarray(TERMS[name].function(parameters), dtype=float) * parameters.get(TERMS[name].statistic, 1.0) for name in names}
    except KeyError as missing:
        raise ModelError(f"parameters must include {missing.args[0]}, not only {', '.join(sorted(parameters))}; give it") from None


def measured_value(name: str, parameters: Parameters) -> NDArray:
    """What the range `name` of a model is about: a parameter, or a term that parameters make together, without its statistic."""
    return np.asarray(parameters[name] if name in parameters else TERMS[name].function(parameters), dtype=float)


def measured_name(name: str) -> str:
    """It in words of the parameters."""
    return f"{TERMS[name].formula} ({name})" if name in TERMS and TERMS[name].formula != name else name


PATH_PARAMETERS = (
    "rows", "cols", "lanes", "acc_depth", "acc_bits", "multiplier_stages", "post_lanes", "depthwise_taps", "activation_bits", "weight_bits", "axi_data_bits",
)  # fmt: skip
"""What decides how long the paths of a design are."""

PATH_TERMS = {
    "pe_accumulator": ("carry", "last_levels", "accumulator_select", "multiply_unregistered"),
    "pe": ("multiply", "first_levels", "last_levels", "multiply_unregistered"),
    "pe_row": ("accumulator_select", "cols_depth", "multiply_unregistered", "taps"),
    "post": ("carry", "post_depth"),
    "compute": ("rows_depth", "address", "accumulator_select"),
    "load": ("wide_word", "beat_depth", "rows_depth"),
    "store": ("rows_depth", "beat_depth", "output_address"),
    "sequencer": ("beat_depth",),
    "registers": ("array",),
    "read_beats": ("beat_depth", "read_depth"),
    "store_beats": ("beat_depth",),
    "sram_activation": ("rows_depth", "address"),
    "sram_weight": ("rows_depth", "cols_depth", "blocks_address"),
    "sram_output": ("rows_depth", "output_address"),
    "sram_parameter": ("post_depth",),
}
"""What a path that starts or ends in a group of registers (`start` and `end` in `paths.csv`) gets longer with, besides a constant."""
LOGIC, MEMORIES = "logic", "sram"
"""Where paths start or end that a law does not tell apart."""
_ELEMENTS = ("pe", "pe_row", "pe_accumulator")
_ACROSS_DESIGN, _ACROSS_ROW = ("trunk", "trunk_rc"), ("row_span", "row_rc")
_WIRES: Mapping[str, tuple[str, ...]] = {
    "pe": (), "pe_accumulator": (), "pe_row": _ACROSS_ROW,
    "sram_weight": (*_ACROSS_DESIGN, *_ACROSS_ROW), "sram_activation": (*_ACROSS_DESIGN, *_ACROSS_ROW),
}  # fmt: skip
"""What the wires of a path cross, by where it starts: with repeaters their delay goes with the length, without with its square. Elsewhere the design."""


def path_group(start: str, end: str) -> tuple[str, str]:
    """Start and end of the paths that share a law with the one from a group of registers to another.

    Inside rows of processing elements each pair is a stage of the pipeline. A path from a memory has its access time in it, wherever it
    ends. All else is control that shares its slow parts, and a path goes where synthesis happened to put them: only the slowest of all that arrive at a
    group of registers is much alike from design to design.
    """
    if start in _ELEMENTS and end in _ELEMENTS:
        return start, end
    if start.startswith("sram_"):
        return start, LOGIC
    return LOGIC, MEMORIES if end.startswith("sram_") else end


def path_terms(start: str, end: str) -> tuple[str, ...]:
    """Names of the terms of a `path_group`, the first ones more likely to matter."""
    return tuple(dict.fromkeys(("one", *_WIRES.get(start, _ACROSS_DESIGN), *PATH_TERMS.get(end, ()), *PATH_TERMS.get(start, ()))))


SKEW_TERMS = ("one", "trunk")
"""What the skew of the core's clock grows with: its tree has to reach across the design."""
