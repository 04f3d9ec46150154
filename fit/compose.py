"""From blocks to whole designs: how many of each block a design has, which paths cross between blocks, and what it all adds up to.

Everything takes the design's parameters as arrays of one shape [designs] and voltages [voltages]; results are [designs, voltages].
Blocks of the core domain are at the operating point's supply, memories at theirs, the memory domain at the reference voltage.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fit.blocks import BLOCKS, Parameters, term_values
from fit.model import FittedBlock, FittedModel, beyond, check_range
from flow.table import PARAMETERS, parameters_of
from hw.config import PARAMETER_BYTES, AcceleratorConfig
from hw.errors import ModelError
from hw.isa import INSTRUCTION_BYTES
from hw.memory_side import ACCESS_BITS, ADDRESS_BITS, ANSWER_BITS
from hw.post import PARAMETER_BITS
from hw.sequencer import WINDOW
from hw.tiling import Traffic
from hw.top import BEAT_FIFO, REGISTER_FIFO, RUN_FIFO


def design_parameters(*configs: AcceleratorConfig) -> dict[str, NDArray]:
    """Parameter arrays [designs] of configurations, with the names of `flow.table.PARAMETERS`."""

    rows = [parameters_of(config) for config in configs]
    return {name: np.array([row[name] for row in rows], dtype=float) for name in PARAMETERS}


@dataclass(frozen=True, kw_only=True)
class Use:
    """One role of a block in a design: how many instances [designs], their parameters, and how often each event happens.

    `events` maps the block's event to the count that counts it (see `event_counts`) and by how much that must be divided [designs],
    over all instances of the role. `clocks` are those that reach it.
    """

    block: str
    role: str
    count: NDArray
    parameters: Parameters
    events: dict[str, tuple[str, NDArray]]
    clocks: tuple[str, ...]


def event_counts(parameters: Parameters, traffic: Traffic) -> dict[str, NDArray]:
    """How often everything that costs energy happens in a layer, from its traffic (`hw.tiling.measure`), arrays that broadcast with the parameters'.

    The names of `hw.registers.EVENTS` where a counter counts the same; the others are cycles in which the load engine writes, and beats.
    """
    t, axi_bytes = traffic, np.asarray(parameters["axi_data_bits"]) / 8
    weight_word_bytes = np.asarray(parameters["lanes"]) * parameters["weight_bits"] / 8
    side_by_side = np.maximum(1, np.minimum(axi_bytes // weight_word_bytes, parameters["cols"]))
    return {
        "compute_busy": t.pixel_steps, "accumulator_accesses": t.accumulator_accesses, "post_outputs": t.post_outputs, "instructions": t.instructions,
        "load_items": t.activation_load_words + t.fill_words + t.weight_load_words / side_by_side + t.parameter_load_words,
        "read_beats": (t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes + t.program_read_bytes) / axi_bytes,
        "write_beats": t.output_write_bytes / axi_bytes,
        "activation_reads": t.activation_reads, "activation_writes": t.activation_writes, "weight_reads": t.weight_reads,
        "weight_writes": t.weight_load_words, "parameter_reads": t.parameter_reads, "parameter_writes": t.parameter_load_words,
        "output_reads": t.output_store_words, "output_writes": t.output_writes,
    }  # fmt: skip


def uses(p: Parameters) -> Iterator[Use]:
    """Every role of every block in designs with parameters `p`, as `hw.top`, `hw.datapath` and `hw.sequencer` instantiate them."""
    one = np.ones(np.shape(p["rows"]))

    def use(block, count, events, role=None, **parameters):
        parameters = {name: value * one for name, value in parameters.items()}
        events = {event: (counter, divisor * one) for event, (counter, divisor) in events.items()}
        clocks = ("core", "memory") if block == "two_clock_fifo" else (BLOCKS[block].domain,)
        return Use(block=block, role=role or block, count=count * one, parameters={**p, **parameters}, events=events, clocks=clocks)

    yield use("pe", p["rows"] * p["cols"], {"step": ("accumulator_accesses", 1)})
    yield use("pe_row", p["rows"], {"step": ("accumulator_accesses", p["cols"])})
    yield use("post", p["rows"], {"output": ("post_outputs", p["post_lanes"])})
    yield use("compute", 1, {"step": ("compute_busy", 1)})
    yield use("load", 1, {"word": ("load_items", 1)})
    yield use("store", 1, {"word": ("write_beats", 1)})
    yield use("sequencer", 1, {"instruction": ("instructions", 1)})
    yield use("registers", 1, {})
    yield use("synchronizer", 2, {})
    yield use("memory_read", 1, {"beat": ("read_beats", 1)})
    yield use("memory_write", 1, {"beat": ("write_beats", 1)})
    yield use("axi_lite", 1, {})

    activation_bits, weight_bits = p["lanes"] * p["activation_bits"], p["lanes"] * p["weight_bits"]
    sections = np.maximum(1, p["lanes"] / p["cols"])
    for role, count, words, bits, reads, writes in (
        ("activation", p["rows"], p["activation_words"], activation_bits, ("activation_reads", 1), ("activation_writes", 1)),
        ("weight", p["cols"], p["weight_words"], weight_bits, ("weight_reads", 1), ("weight_writes", 1)),
        ("output", p["rows"] * sections, p["output_words"], activation_bits / sections, ("output_reads", 1 / sections), ("output_writes", 1)),
        ("parameter", p["post_lanes"], p["parameter_words"] / p["post_lanes"], PARAMETER_BITS, ("parameter_reads", 1), ("parameter_writes", 1)),
        ("program", 1, WINDOW, 8 * INSTRUCTION_BYTES, ("instructions", 1), ("instructions", 1)),
    ):
        yield use("sram", count, {"read": reads, "write": writes}, f"sram_{role}", words=words, bits=bits)

    axi_bytes = p["axi_data_bits"] / 8
    run_bits = ADDRESS_BITS - np.log2(axi_bytes) + _bit_length(np.floor(_RUN_WORDS * _longest_word_bytes(p) / axi_bytes) + 2)
    for role, words, bits, events in (
        ("program_runs", RUN_FIFO, run_bits, {}),
        ("load_runs", RUN_FIFO, run_bits, {}),
        ("store_runs", RUN_FIFO, run_bits, {}),
        ("store_beats", BEAT_FIFO, p["axi_data_bits"] + axi_bytes, {"word": ("write_beats", _EDGES_A_WORD)}),
        ("store_answers", RUN_FIFO, 1, {}),
        ("register_accesses", REGISTER_FIFO, ACCESS_BITS, {}),
        ("register_answers", REGISTER_FIFO, ANSWER_BITS, {}),
        ("read_beats", p["read_fifo_beats"], p["axi_data_bits"] + 2, {"word": ("read_beats", _EDGES_A_WORD)}),
    ):
        yield use("two_clock_fifo", 1, events, role, words=words, bits=bits)


_EDGES_A_WORD = 1 / 2
"""A word in a two-clock FIFO makes two cycles active: the one that writes it and the one that reads it."""
_RUN_WORDS = 0xFFFF
"""Most words of a run (the instruction's field has 16 bits)."""


def _longest_word_bytes(p: Parameters) -> NDArray:
    """Bytes that one word of a run stands for at most (see `hw.memory_side.run_beats_bits`)."""
    return np.maximum(np.maximum(p["lanes"] * p["activation_bits"], p["cols"] * p["lanes"] * p["weight_bits"]) / 8, PARAMETER_BYTES)


def _bit_length(x: NDArray) -> NDArray:
    return np.floor(np.log2(x)) + 1


CONNECTIONS = (
    ("program_runs", "sequencer"), ("sequencer", "program_runs"), ("read_beats", "sequencer"), ("sequencer", "read_beats"),
    ("sequencer", "load"), ("sequencer", "compute"), ("sequencer", "store"), ("sequencer", "registers"),
    ("load", "sequencer"), ("compute", "sequencer"), ("store", "sequencer"), ("registers", "sequencer"),
    ("load", "registers"), ("compute", "registers"), ("store", "registers"),
    ("register_accesses", "registers"), ("registers", "register_accesses"), ("register_answers", "registers"), ("registers", "register_answers"),
    ("read_beats", "load"), ("load", "read_beats"), ("load_runs", "load"), ("load", "load_runs"),
    ("store_runs", "store"), ("store", "store_runs"), ("store_beats", "store"), ("store", "store_beats"),
    ("store_answers", "store"), ("store", "store_answers"),
    ("load", "sram_activation"), ("load", "sram_weight"), ("load", "sram_parameter"),
    ("compute", "sram_activation"), ("compute", "sram_weight"), ("compute", "sram_parameter"),
    ("compute", "pe_row"), ("compute", "post"), ("compute", "sram_output"),
    ("sram_activation", "pe_row"), ("sram_weight", "pe_row"), ("pe_row", "post"), ("sram_parameter", "post"),
    ("post", "sram_output"), ("store", "sram_output"), ("sram_output", "store"),
)  # fmt: skip
"""Producer and consumer, by role, of every path that crosses between blocks of the core domain (`hw.top`, `hw.datapath`).

Rows are timed with their elements inside, the sequencer with its program buffer."""


@dataclass(frozen=True, kw_only=True)
class Designs:
    """What designs can do at each operating point: arrays [designs, voltages], or [designs] where the voltage does not matter.

    Dynamic energy of a run = core clock cycles x `core_cycle_j` + memory clock cycles x (`crossing_cycle_j` + `memory_cycle_j`) +
    sum over `event_counts` of count x (`core_event_j` + `memory_event_j`). The crossings' FIFOs are supplied with the core and clocked by both.
    `limit` is an index into `paths`: which path sets the frequency. A 90 % interval is value x exp(+-1.645 log_sd).
    """

    fmax_hz: NDArray
    limit: NDArray
    paths: tuple[str, ...]
    memory_fmax_hz: NDArray
    core_cycle_j: NDArray
    core_event_j: dict[str, NDArray]
    core_leakage_w: NDArray
    crossing_cycle_j: NDArray
    memory_cycle_j: NDArray
    memory_event_j: dict[str, NDArray]
    memory_leakage_w: NDArray
    area_um2: NDArray
    core_area_um2: NDArray
    fmax_log_sd: NDArray
    energy_log_sd: NDArray
    leakage_log_sd: NDArray
    area_log_sd: NDArray
    extrapolated: NDArray
    """[designs, voltages] whether the supply or any block is outside its fitted range."""
    provisional: tuple[str, ...]
    """Blocks whose figures rest on provisional constants."""


@dataclass(frozen=True, kw_only=True)
class _Value:
    """A law for one use: at the reference voltage [designs], factor [voltages], log_sd."""

    reference: NDArray
    factor: NDArray
    log_sd: float

    @property
    def grid(self) -> NDArray:
        """[designs, voltages]"""
        return self.reference[:, None] * self.factor


def predict(model: FittedModel, parameters: Parameters, vdd_v: ArrayLike, *, sram_vdd_v: ArrayLike | None = None, extrapolate: bool = False) -> Designs:
    """`Designs` for parameter arrays [designs] (see `design_parameters`) at supplies [voltages].

    `sram_vdd_v` [voltages] is the supply of the memories, by default that of the logic but at least the lowest measured. Raises `ModelError` for a parameter or
    voltage outside the fitted range, unless `extrapolate`, and then `extrapolated` marks where.
    """
    p = _arrays(parameters)
    vdd = np.atleast_1d(np.asarray(vdd_v, dtype=float))
    sram_vdd = np.maximum(vdd, model.sram_voltage_range_v[0]) if sram_vdd_v is None else np.broadcast_to(np.asarray(sram_vdd_v, dtype=float), vdd.shape)
    supplies = {"vdd_v": (vdd, model.voltage_range_v), "sram_vdd_v": (sram_vdd, model.sram_voltage_range_v)}
    roles = {use.role: use for use in uses(p)}
    if not extrapolate:
        for name, (values, valid) in supplies.items():
            check_range(values, valid, name, "V")
        for use in roles.values():
            for name, valid in _block(model, use.block).ranges.items():
                check_range(use.parameters[name], valid, f"{name} of {use.role}")
    outside_supply = np.any([beyond(values, valid) for values, valid in supplies.values()], axis=0)

    def law(use: Use, quantity: str) -> _Value:
        block = _block(model, use.block)
        supply = np.full(len(vdd), model.reference_vdd_v) if block.domain == "memory" else supplies[block.supply][0]
        return _evaluate(model, use, quantity, supply)

    shape = (len(p["rows"]), len(vdd))
    leakage_w = {side: np.zeros(shape) for side in ("core", "memory")}
    cycle_j = {(side, clock): np.zeros(shape) for side in ("core", "memory") for clock in ("core", "memory")}
    event_j: dict[str, dict[str, NDArray]] = {"core": {}, "memory": {}}
    area = {side: np.zeros(shape[0]) for side in ("core", "memory")}
    busy_j = np.zeros(shape)
    energy_variance, leakage_variance, area_variance = np.zeros(shape), np.zeros(shape), np.zeros(shape[0])
    for use in roles.values():
        side, count = model.blocks[use.block].domain, use.count[:, None]
        idle, leakage, size = law(use, "idle_energy_j"), law(use, "leakage_w"), law(use, "area_um2")
        for clock in use.clocks:
            cycle_j[side, clock] += count * idle.grid
        leakage_w[side] += count * leakage.grid
        leakage_variance += (count * leakage.grid * leakage.log_sd) ** 2
        area[side] += use.count * size.reference
        area_variance += (use.count * size.reference * size.log_sd) ** 2
        busiest = idle
        for event, (counter, divisor) in use.events.items():
            busiest = law(use, f"{event}_energy_j")
            event_j[side][counter] = event_j[side].get(counter, 0.0) + (busiest.grid - idle.grid) / divisor[:, None]
        busy_j += count * busiest.grid
        energy_variance += (count * busiest.grid * busiest.log_sd) ** 2

    period, period_sd, limit, paths = _longest_path({role: use for role, use in roles.items() if model.blocks[use.block].domain == "core"}, law, shape)
    memory_period, *_ = _longest_path({role: use for role, use in roles.items() if model.blocks[use.block].domain == "memory"}, law, shape)
    return Designs(
        fmax_hz=1 / period, limit=limit, paths=paths, memory_fmax_hz=1 / memory_period[:, 0],
        core_cycle_j=cycle_j["core", "core"], core_event_j=event_j["core"], core_leakage_w=leakage_w["core"],
        crossing_cycle_j=cycle_j["core", "memory"], memory_cycle_j=cycle_j["memory", "memory"][:, 0],
        memory_event_j={k: v[:, 0] for k, v in event_j["memory"].items()}, memory_leakage_w=leakage_w["memory"][:, 0],
        area_um2=area["core"] + area["memory"], core_area_um2=area["core"], fmax_log_sd=period_sd, energy_log_sd=np.sqrt(energy_variance) / busy_j,
        leakage_log_sd=np.sqrt(leakage_variance) / (leakage_w["core"] + leakage_w["memory"]),
        area_log_sd=np.sqrt(area_variance) / (area["core"] + area["memory"]),
        extrapolated=~within_range(model, p)[:, None] | outside_supply[None, :], provisional=model.provisional,
    )  # fmt: skip


def within_range(model: FittedModel, parameters: Parameters) -> NDArray:
    """[designs] whether every block of each design lies inside the range over which it was measured."""
    p = _arrays(parameters)
    inside = np.ones(len(p["rows"]), dtype=bool)
    for use in uses(p):
        for name, valid in _block(model, use.block).ranges.items():
            inside &= ~beyond(use.parameters[name], valid)
    return inside


def _arrays(parameters: Parameters) -> dict[str, NDArray]:
    missing = set(PARAMETERS) - set(parameters)
    if missing:
        raise ModelError(f"parameters must include {min(missing)}, not only {', '.join(sorted(parameters))}")
    return dict(zip(PARAMETERS, np.broadcast_arrays(*(np.atleast_1d(np.asarray(parameters[name], dtype=float)) for name in PARAMETERS)), strict=True))


def _block(model: FittedModel, name: str) -> FittedBlock:
    if name not in model.blocks:
        raise ModelError(f"model must know the block {name}, not only {', '.join(model.blocks)}; measure it and fit again")
    return model.blocks[name]


def _evaluate(model: FittedModel, use: Use, quantity: str, supply: NDArray) -> _Value:
    """A law for one use; zero where the block has no such path or energy."""
    block = model.blocks[use.block]
    if quantity in block.absent:
        return _Value(reference=np.zeros(len(use.count)), factor=np.ones(len(supply)), log_sd=0.0)
    if quantity not in block.laws:
        raise ModelError(f"{quantity} of {use.block} must be in the model, not only {', '.join(block.laws)}; measure it and fit again")
    law = block.laws[quantity]
    terms = term_values(tuple(term.name for term in law.terms), use.parameters)
    return _Value(reference=law.structure(terms), factor=law.voltage_factor(supply, model.temperature_c), log_sd=law.log_sd)


def _longest_path(roles: dict[str, Use], law: Callable[[Use, str], _Value], shape: tuple[int, int]) -> tuple[NDArray, NDArray, NDArray, tuple[str, ...]]:
    """Period, its log_sd and index of the path that sets it [designs, voltages], and the names of the paths: within blocks, then across connections."""
    period, log_sd, limit, names = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=int), []

    def consider(name: str, delay: NDArray, sd: NDArray | float) -> None:
        longer = delay > period
        period[longer] = delay[longer]
        log_sd[longer] = np.broadcast_to(sd, shape)[longer]
        limit[longer] = len(names)
        names.append(name)

    for role, use in roles.items():
        inside = law(use, "min_period_s")
        consider(role, inside.grid, inside.log_sd)
    for producer, consumer in CONNECTIONS:
        if producer in roles and consumer in roles:
            start, end = law(roles[producer], "register_to_output_s"), law(roles[consumer], "input_to_register_s")
            if start.reference.any() and end.reference.any():
                delay = start.grid + end.grid
                consider(f"{producer} to {consumer}", delay, np.hypot(start.grid * start.log_sd, end.grid * end.log_sd) / delay)
    return period, log_sd, limit, tuple(names)
