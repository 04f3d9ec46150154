"""From blocks to whole designs: how many of each block a design has, which paths cross between blocks, and what it all adds up to.

Everything takes the design's parameters as arrays of one shape [designs] and voltages [voltages]; results are [designs, voltages].
Blocks of the core domain are at the operating point's supply, memories at theirs, the memory domain at the reference voltage.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fit.blocks import BLOCKS, Parameters, term_values
from fit.model import FittedBlock, FittedModel, beyond, check_range
from flow.table import PARAMETERS, parameters_of
from hw.config import PARAMETER_BYTES, AcceleratorConfig
from hw.errors import ModelError
from hw.isa import INSTRUCTION_BYTES
from hw.memory_side import ACCESS_BITS, ADDRESS_BITS, ANSWER_BITS, BEAT_ERROR_BITS, FETCH_GROUP
from hw.post import PARAMETER_BITS
from hw.sequencer import program_window
from hw.tiling import Traffic
from hw.top import FIFO, STREAM_FIFO


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
    yield use("glue", 1, {})
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
        ("program", 1, _program_words(p), 8 * INSTRUCTION_BYTES, ("instructions", 1), ("instructions", 1)),
    ):
        yield use("sram", count, {"read": reads, "write": writes}, f"sram_{role}", words=words, bits=bits)

    axi_bytes = p["axi_data_bits"] / 8
    address_bits = ADDRESS_BITS - np.log2(axi_bytes)
    run_bits = address_bits + _bit_length(np.floor(_RUN_WORDS * _longest_word_bytes(p) / axi_bytes) + 2)
    program_run_bits = address_bits + _bit_length(np.floor(FETCH_GROUP * INSTRUCTION_BYTES / axi_bytes))
    for role, words, bits, events in (
        ("program_runs", FIFO, program_run_bits, {}),
        ("load_runs", STREAM_FIFO, run_bits, {}),
        ("store_runs", FIFO, run_bits, {}),
        ("store_beats", STREAM_FIFO, p["axi_data_bits"] + axi_bytes, {"word": ("write_beats", _EDGES_A_WORD)}),
        ("store_answers", FIFO, BEAT_ERROR_BITS, {}),
        ("register_accesses", FIFO, ACCESS_BITS, {}),
        ("register_answers", FIFO, ANSWER_BITS, {}),
        ("read_beats", p["read_fifo_beats"], p["axi_data_bits"] + 1 + BEAT_ERROR_BITS, {"word": ("read_beats", _EDGES_A_WORD)}),
    ):
        yield use("two_clock_fifo", 1, events, role, words=words, bits=bits)


_EDGES_A_WORD = 1 / 2
"""A word in a two-clock FIFO makes two cycles active: the one that writes it and the one that reads it."""
_RUN_WORDS = 0xFFFF
"""Most words of a run (the instruction's field has 16 bits)."""


def _program_words(p: Parameters) -> NDArray:
    """Words of the program buffer (see `hw.sequencer.program_window`)."""
    return np.vectorize(lambda rows: float(program_window(int(rows))))(p["rows"])


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
class Terms:
    """A sum of laws whose structure and voltage separate: value [designs, voltages] = reference [designs, laws] @ factor [laws, voltages].

    `log_sd` [laws] are the standard deviations of the logarithms of the single laws.
    """

    reference: NDArray
    factor: NDArray
    log_sd: NDArray

    @property
    def grid(self) -> NDArray:
        """[designs, voltages] the sum, law after law, so that it does not depend on how many designs there are."""
        return _sum(self.reference, self.factor)

    @property
    def sd(self) -> NDArray:
        """[designs, voltages] its standard deviation, the laws' errors being independent."""
        return np.sqrt(_sum((self.reference * self.log_sd) ** 2, self.factor**2))


def _sum(reference: NDArray, factor: NDArray) -> NDArray:
    total = np.zeros((len(reference), factor.shape[1]))
    for column, row in zip(reference.T, factor, strict=True):
        total += column[:, None] * row
    return total


@dataclass(frozen=True, kw_only=True)
class DesignLaws:
    """What `Designs` is made of. The fields of the same name as there hold [designs, voltages]; those of the memory domain one voltage.

    A path takes the delay laws[start] of `delays`, and of laws[end] unless that is -1.
    """

    core_cycle_j: Terms
    core_event_j: dict[str, Terms]
    core_leakage_w: Terms
    crossing_cycle_j: Terms
    memory_cycle_j: Terms
    memory_event_j: dict[str, Terms]
    memory_leakage_w: Terms
    core_area_um2: Terms
    memory_area_um2: Terms
    busiest_cycle_j: Terms
    """Energy of a cycle in which everything works, over both domains."""
    delays: Terms
    paths: tuple[str, ...]
    start: NDArray
    end: NDArray
    memory_period_s: NDArray
    """[designs]"""
    outside_supply: NDArray
    """[voltages]"""


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


def design_laws(
    model: FittedModel, parameters: Parameters, vdd_v: ArrayLike, *, sram_vdd_v: ArrayLike | None = None, extrapolate: bool = False
) -> DesignLaws:  # fmt: skip
    """`DesignLaws` of designs at supplies; arguments and errors as of `predict`."""
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
    supply_of = {name: values for name, (values, _) in supplies.items()}
    nominal = np.full(len(vdd), model.reference_vdd_v)

    def law(use: Use, quantity: str) -> _Value:
        block = _block(model, use.block)
        return _evaluate(model, use, quantity, nominal if block.domain == "memory" else supply_of[block.supply])

    sums: dict[tuple, list[_Value]] = {}

    def add(key: tuple, value: _Value, times: NDArray) -> None:
        sums.setdefault(key, []).append(replace(value, reference=value.reference * times))

    for use in roles.values():
        side, idle = model.blocks[use.block].domain, law(use, "idle_energy_j")
        for clock in use.clocks:
            add(("cycle", side, clock), idle, use.count)
        add(("leakage", side), law(use, "leakage_w"), use.count)
        add(("area", side), law(use, "area_um2"), use.count)
        busiest = idle
        for event, (counter, divisor) in use.events.items():
            busiest = law(use, f"{event}_energy_j")
            add(("event", side, counter), busiest, 1 / divisor)
            add(("event", side, counter), idle, -1 / divisor)
        add(("busiest",), busiest, use.count)

    def terms(*key: str, voltages: int = len(vdd)) -> Terms:
        values = sums.get(key, [])
        empty = np.zeros((len(p["rows"]), 0)), np.zeros((0, voltages)), np.zeros(0)
        if not values:
            return Terms(reference=empty[0], factor=empty[1], log_sd=empty[2])
        return Terms(
            reference=np.stack([v.reference for v in values], axis=1), factor=np.stack([v.factor[:voltages] for v in values]),
            log_sd=np.array([v.log_sd for v in values]),
        )  # fmt: skip

    in_domain = {domain: {role: use for role, use in roles.items() if model.blocks[use.block].domain == domain} for domain in ("core", "memory")}
    delays, paths, start, end = _paths(in_domain["core"], law)
    memory_delays, _, memory_start, memory_end = _paths(in_domain["memory"], law)
    memory_laws = np.concatenate([memory_delays.reference * memory_delays.factor[:, 0], np.zeros((len(p["rows"]), 1))], axis=1)
    events = {side: {key[2]: terms(*key) for key in sums if key[:2] == ("event", side)} for side in ("core", "memory")}
    return DesignLaws(
        core_cycle_j=terms("cycle", "core", "core"), core_event_j=events["core"], core_leakage_w=terms("leakage", "core"),
        crossing_cycle_j=terms("cycle", "core", "memory"), memory_cycle_j=terms("cycle", "memory", "memory", voltages=1),
        memory_event_j={name: replace(t, factor=t.factor[:, :1]) for name, t in events["memory"].items()},
        memory_leakage_w=terms("leakage", "memory", voltages=1), core_area_um2=terms("area", "core", voltages=1),
        memory_area_um2=terms("area", "memory", voltages=1), busiest_cycle_j=terms("busiest"), delays=delays, paths=paths, start=start, end=end,
        memory_period_s=(memory_laws[:, memory_start] + memory_laws[:, memory_end]).max(axis=1),
        outside_supply=np.any([beyond(values, valid) for values, valid in supplies.values()], axis=0),
    )  # fmt: skip


def predict(model: FittedModel, parameters: Parameters, vdd_v: ArrayLike, *, sram_vdd_v: ArrayLike | None = None, extrapolate: bool = False) -> Designs:
    """`Designs` for parameter arrays [designs] (see `design_parameters`) at supplies [voltages].

    `sram_vdd_v` [voltages] is the supply of the memories, by default that of the logic but at least the lowest measured. Raises `ModelError` for a parameter or
    voltage outside the fitted range, unless `extrapolate`, and then `extrapolated` marks where.
    """
    laws = design_laws(model, parameters, vdd_v, sram_vdd_v=sram_vdd_v, extrapolate=extrapolate)
    shape = laws.core_cycle_j.grid.shape
    period, period_sd, limit = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=int)
    for number, (start, end) in enumerate(zip(laws.start, laws.end, strict=True)):
        own = [start] if end < 0 else [start, end]
        path = Terms(reference=laws.delays.reference[:, own], factor=laws.delays.factor[own], log_sd=laws.delays.log_sd[own])
        delay = path.grid
        longer = delay > period
        period[longer], limit[longer] = delay[longer], number
        period_sd[longer] = path.sd[longer] / delay[longer]
    core_area, memory_area = laws.core_area_um2, laws.memory_area_um2
    area, leakage_w = (core_area.grid + memory_area.grid)[:, 0], laws.core_leakage_w.grid + laws.memory_leakage_w.grid
    return Designs(
        fmax_hz=1 / period, limit=limit, paths=laws.paths, memory_fmax_hz=1 / laws.memory_period_s,
        core_cycle_j=laws.core_cycle_j.grid, core_event_j={name: t.grid for name, t in laws.core_event_j.items()}, core_leakage_w=laws.core_leakage_w.grid,
        crossing_cycle_j=laws.crossing_cycle_j.grid, memory_cycle_j=laws.memory_cycle_j.grid[:, 0],
        memory_event_j={name: t.grid[:, 0] for name, t in laws.memory_event_j.items()}, memory_leakage_w=laws.memory_leakage_w.grid[:, 0],
        area_um2=area, core_area_um2=core_area.grid[:, 0], fmax_log_sd=period_sd, energy_log_sd=laws.busiest_cycle_j.sd / laws.busiest_cycle_j.grid,
        leakage_log_sd=np.hypot(laws.core_leakage_w.sd, laws.memory_leakage_w.sd) / leakage_w,
        area_log_sd=np.hypot(core_area.sd, memory_area.sd)[:, 0] / area,
        extrapolated=~within_range(model, _arrays(parameters))[:, None] | laws.outside_supply[None, :], provisional=model.provisional,
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


def _paths(roles: dict[str, Use], law: Callable[[Use, str], _Value]) -> tuple[Terms, tuple[str, ...], NDArray, NDArray]:
    """Delay laws, names of paths, and the laws each path starts and ends with (-1: none): within blocks, then across connections."""
    laws: list[_Value] = []
    numbers: dict[tuple[str, str], int] = {}

    def number(role: str, quantity: str) -> int:
        """Of the delay law; -1 if the block has no such path."""
        if (role, quantity) not in numbers:
            value = law(roles[role], quantity)
            numbers[role, quantity] = len(laws) if value.reference.any() else -1
            laws.extend([value] if value.reference.any() else [])
        return numbers[role, quantity]

    found = [(role, number(role, "min_period_s"), -1) for role in roles]
    for producer, consumer in CONNECTIONS:
        if producer in roles and consumer in roles:
            start, end = number(producer, "register_to_output_s"), number(consumer, "input_to_register_s")
            if start >= 0 and end >= 0:
                found.append((f"{producer} to {consumer}", start, end))
    found = [path for path in found if path[1] >= 0]
    delays = Terms(
        reference=np.stack([v.reference for v in laws], axis=1), factor=np.stack([v.factor for v in laws]), log_sd=np.array([v.log_sd for v in laws])
    )  # fmt: skip
    return delays, tuple(name for name, _, _ in found), np.array([start for _, start, _ in found]), np.array([end for _, _, end in found])
