"""From blocks to whole designs: how many of each block a design has, which paths cross between blocks, and what it all adds up to.

Everything takes the design's parameters as arrays of one shape [designs] and voltages [voltages]; results are [designs, voltages].
Blocks of the core domain are at the operating point's supply, memories at theirs, the memory domain, two-clock FIFOs among it, at the
reference voltage. Paths between a FIFO and the core are measured with both at the core's supply and stay so: no gate is slower at a higher one.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fit.blocks import BLOCKS, TERMS, Parameters, measured_name, measured_value, term_values
from fit.laws import Corners
from fit.model import FittedBlock, FittedLaw, FittedModel, Range, beyond, check_range, reference_corner
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
    over all instances of the role. `domain` is whose supply it stands on, `clocks` are those that reach it. `statistics` says likewise what counts
    the terms that apply to a part of the events, or of the cycles, only (`fit.workloads.STATISTICS`).
    """

    block: str
    role: str
    count: NDArray
    parameters: Parameters
    events: dict[str, tuple[str, NDArray]]
    domain: str
    clocks: tuple[str, ...]
    statistics: dict[str, tuple[str, NDArray]]


EVENT_COUNTS = (
    "compute_busy", "accumulator_accesses", "post_outputs", "instructions", "load_items", "read_beats", "weight_beats", "write_beats",
    "activation_reads", "activation_writes", "weight_reads", "weight_writes", "parameter_reads", "parameter_writes", "output_reads", "output_writes",
    "weight_load_items", "useful_multiplications",
)  # fmt: skip
"""Everything whose number in a layer decides its energy."""


def event_counts(
    parameters: Parameters, traffic: Traffic, useful_multiplications: ArrayLike | None = None, copied_words: int | NDArray = 0
) -> dict[str, NDArray]:
    """`EVENT_COUNTS` of a layer, from its traffic (`hw.tiling.measure`), arrays that broadcast with the parameters'.

    The names of `hw.registers.EVENTS` where a counter counts the same; the others are cycles in which the load engine writes, and beats.
    `useful_multiplications` are those of the layer itself (`hw.layers.LayerShape.macs` x batch); without them all lanes and columns count
    as full, which states the most that the layer can cost. `copied_words` stay on chip for the next layer: COPYs read them from the output banks,
    and the load engine writes them.
    """
    t, axi_bytes = traffic, np.asarray(parameters["axi_data_bits"]) / 8
    weight_word_bytes = np.asarray(parameters["lanes"]) * parameters["weight_bits"] / 8
    side_by_side = np.maximum(1, np.minimum(axi_bytes // weight_word_bytes, parameters["cols"]))
    weight_load_items = t.weight_load_words / side_by_side
    return {
        "compute_busy": t.pixel_steps, "accumulator_accesses": t.accumulator_accesses, "post_outputs": t.post_outputs, "instructions": t.instructions,
        "load_items": t.activation_load_words + t.fill_words + weight_load_items + t.parameter_load_words + copied_words,
        "weight_load_items": weight_load_items,
        "read_beats": (t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes + t.program_read_bytes) / axi_bytes,
        "weight_beats": t.weight_read_bytes / axi_bytes, "write_beats": t.output_write_bytes / axi_bytes,
        "activation_reads": t.activation_reads, "activation_writes": t.activation_writes, "weight_reads": t.weight_reads,
        "weight_writes": t.weight_load_words, "parameter_reads": t.parameter_reads, "parameter_writes": t.parameter_load_words,
        "output_reads": t.output_store_words + copied_words, "output_writes": t.output_writes,
        "useful_multiplications": t.multiplier_uses if useful_multiplications is None else np.asarray(useful_multiplications),
    }  # fmt: skip


def uses(p: Parameters) -> Iterator[Use]:
    """Every role of every block in designs with parameters `p`, as `hw.top`, `hw.datapath` and `hw.sequencer` instantiate them."""
    one = np.ones(np.shape(p["rows"]))

    def spread(found: Mapping[str, tuple[str, float | NDArray]]) -> dict[str, tuple[str, NDArray]]:
        return {name: (counter, divisor * one) for name, (counter, divisor) in found.items()}

    def use(
        block: str, count: float | NDArray, events: Mapping[str, tuple[str, float | NDArray]], role: str | None = None,
        statistics: Mapping[str, tuple[str, float | NDArray]] | None = None, domain: str | None = None, **parameters: float | NDArray,
    ) -> Use:  # fmt: skip
        own = {name: value * one for name, value in parameters.items()}
        domain = domain or BLOCKS[block].domain
        clocks = ("core", "memory") if block == "two_clock_fifo" else (domain,)
        return Use(
            block=block, role=role or block, count=count * one, parameters={**p, **own}, events=spread(events), domain=domain, clocks=clocks,
            statistics=spread(statistics or {}),
        )  # fmt: skip

    pe_statistics = {"useful": ("useful_multiplications", p["lanes"]), "weight_changes": ("weight_reads", 1 / p["rows"])}
    row_statistics = {"weight_changes": ("weight_reads", p["cols"] / p["rows"])}
    yield use("pe", p["rows"] * p["cols"], {"step": ("accumulator_accesses", 1)}, statistics=pe_statistics)
    yield use("pe_row", p["rows"], {"step": ("accumulator_accesses", p["cols"])}, statistics=row_statistics)
    yield use("post", p["rows"], {"output": ("post_outputs", p["post_lanes"])})
    yield use("compute", 1, {"step": ("compute_busy", 1)})
    yield use("load", 1, {"word": ("load_items", 1)})
    yield use("store", 1, {"word": ("write_beats", 1)})
    yield use("sequencer", 1, {"instruction": ("instructions", 1)})
    yield use("registers", 1, {})
    yield use("synchronizer", 1, {}, "op_ack_synchronizer")
    yield use("synchronizer", 1, {}, "irq_synchronizer", domain="memory")
    yield use(
        GLUE, 1, {},
        statistics={
            "steps": ("compute_busy", 1), "weight_takes": ("weight_reads", p["cols"]), "loads": ("load_items", 1), "weight_loads": ("weight_load_items", 1),
        },
    )  # fmt: skip
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
        ("buffer", 1, _program_words(p), 8 * INSTRUCTION_BYTES, ("instructions", 1), ("instructions", 1)),
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
        statistics = {"weight_beats": ("weight_beats", _EDGES_A_WORD)} if role == "read_beats" else {}
        yield use("two_clock_fifo", 1, events, role, statistics, words=words, bits=bits)


def with_sides(found: Iterable[Use], area_um2: Callable[[Use], NDArray]) -> tuple[Use, ...]:
    """The uses, what lies between the blocks (`GLUE`) with the `SIDES`; `area_um2` gives the area of one instance [designs] of the others."""
    found = tuple(found)
    areas_um2 = [(use, use.count * area_um2(use)) for use in found if use.block != GLUE]
    rows = next(use.count for use in found if use.block == "pe_row")
    sides = {
        "side_um": np.sqrt(sum(area for _, area in areas_um2)),
        "row_side_um": np.sqrt(sum(area for use, area in areas_um2 if use.block in ("pe", "pe_row")) / rows),
    }
    return tuple(replace(use, parameters={**use.parameters, **sides}) if use.block == GLUE else use for use in found)


def modelled_uses(model: FittedModel, p: Parameters) -> tuple[Use, ...]:
    """`uses` with the sides that the model's areas make. Tables without rows of the logic between the blocks leave it out of whole designs, too."""
    reference = reference_corner(model)
    corner = Corners(*(np.atleast_1d(axis) for axis in reference))
    found = [use for use in uses(p) if use.block != GLUE or GLUE in model.blocks]
    return with_sides(found, lambda use: _evaluate(model, use, "area_um2", corner, None).reference)


GLUE = "glue"
_EDGES_A_WORD = 1 / 2
"""A word in a two-clock FIFO makes two cycles active: the one that writes it and the one that reads it."""
_RUN_WORDS = 0xFFFF
"""Most words of a run (the instruction's field has 16 bits)."""


def _program_words(p: Parameters) -> NDArray:
    """Words of the program buffer (see `hw.sequencer.program_window`)."""
    different, which = np.unique(p["rows"], return_inverse=True)
    return np.array([float(program_window(int(rows))) for rows in different])[which].reshape(np.shape(p["rows"]))


def _longest_word_bytes(p: Parameters) -> NDArray:
    """Bytes that one word of a run stands for at most (see `hw.memory_side.run_beats_bits`)."""
    return np.maximum(np.maximum(p["lanes"] * p["activation_bits"], p["cols"] * p["lanes"] * p["weight_bits"]) / 8, PARAMETER_BYTES)


def _bit_length(x: NDArray) -> NDArray:
    return np.floor(np.log2(x)) + 1


@dataclass(frozen=True, kw_only=True)
class Designs:
    """What designs can do at each operating point: arrays [designs, voltages], or [designs] where the voltage does not matter.

    Dynamic energy of a run = core clock cycles x (`core_cycle_j` + `crossing_cycle_j`) + memory clock cycles x `memory_cycle_j` +
    sum over `event_counts` of count x (`core_event_j` + `memory_event_j`). The crossings' FIFOs are clocked by both and stand on the memory side's
    supply: `crossing_cycle_j` is what the core's clock costs there.
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

    A path takes the delays of its `parts` [paths, most parts], laws of `delays` or -1 for none: its logic, its wires, a memory's access time.
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
    skew: Terms
    """What the clock's skew adds to the longest path of the core."""
    paths: tuple[str, ...]
    parts: NDArray
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
    model: FittedModel, parameters: Parameters, vdd_v: ArrayLike, *, sram_vdd_v: ArrayLike | None = None, temperature_c: ArrayLike | None = None,
    back_bias_v: ArrayLike | None = None, extrapolate: bool = False,
) -> DesignLaws:  # fmt: skip
    """`DesignLaws` of designs at supplies; arguments and errors as of `predict`."""
    p = _arrays(parameters)
    vdd = np.atleast_1d(np.asarray(vdd_v, dtype=float))
    sram_vdd = np.maximum(vdd, model.sram_voltage_range_v[0]) if sram_vdd_v is None else np.broadcast_to(np.asarray(sram_vdd_v, dtype=float), vdd.shape)
    warmth = np.broadcast_to(np.asarray(model.temperature_c if temperature_c is None else temperature_c, dtype=float), vdd.shape)
    bias = np.broadcast_to(np.asarray(model.back_bias_v if back_bias_v is None else back_bias_v, dtype=float), vdd.shape)
    supplies = {
        "vdd_v": (vdd, model.voltage_range_v, "V"), "sram_vdd_v": (sram_vdd, model.sram_voltage_range_v, "V"),
        "temperature_c": (warmth, model.temperature_range_c, "C"), "back_bias_v": (bias, model.back_bias_range_v, "V"),
    }  # fmt: skip
    roles = {use.role: use for use in modelled_uses(model, p)}
    if GLUE in roles:
        p = dict(roles[GLUE].parameters)
    if not extrapolate:
        for name, (values, valid, unit) in supplies.items():
            check_range(values, valid, name, unit)
        for values, valid, what in _measured(model, roles.values()):
            check_range(values, valid, what)
    corners = {"vdd_v": Corners(vdd, warmth, bias), "sram_vdd_v": Corners(sram_vdd, warmth, bias)}
    nominal = Corners(np.full(len(vdd), model.reference_vdd_v), warmth, np.full(len(vdd), model.back_bias_v))

    def law(use: Use, quantity: str, names: Container[str] | None = None) -> _Value:
        block = _block(model, use.block)
        return _evaluate(model, use, quantity, nominal if use.domain == "memory" else corners[block.supply], names)

    sums: dict[tuple, list[_Value]] = {}

    def add(key: tuple, value: _Value, times: NDArray) -> None:
        sums.setdefault(key, []).append(replace(value, reference=value.reference * times))

    for use in roles.values():
        side, parts = use.domain, terms_by_statistic(model.blocks[use.block], "idle_energy_j")
        idle = law(use, "idle_energy_j", parts[""])
        for clock in use.clocks:
            add(("cycle", side, clock), idle, use.count)
        add(("leakage", side), law(use, "leakage_w"), use.count)
        add(("area", side), law(use, "area_um2"), use.count)
        for statistic, (counter_of, divisor_of) in use.statistics.items():
            if statistic in parts:
                add(("event", side, counter_of), law(use, "idle_energy_j", parts[statistic]), 1 / divisor_of)
        busiest = law(use, "idle_energy_j")
        for event, (counter, divisor) in use.events.items():
            quantity = f"{event}_energy_j"
            busiest = law(use, quantity)
            partial = terms_by_statistic(model.blocks[use.block], quantity)
            for statistic, (counter_of, divisor_of) in {"": (counter, divisor), **use.statistics}.items():
                if statistic in partial:
                    add(("event", side, counter_of), law(use, quantity, partial[statistic]), 1 / divisor_of)
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

    delays, paths, path_parts = _paths(model, "core", p, roles, law, corners["vdd_v"])
    memory_delays, _, memory_parts = _paths(model, "memory", p, roles, law, nominal)
    memory_laws = np.concatenate([memory_delays.reference * memory_delays.factor[:, 0], np.zeros((len(p["rows"]), 1))], axis=1)
    skew = Terms(reference=np.zeros((len(p["rows"]), 0)), factor=np.zeros((0, len(vdd))), log_sd=np.zeros(0))
    if model.skew is not None:
        own = _path_value(model, model.skew, p, corners["vdd_v"])
        skew = Terms(reference=own.reference[:, None], factor=own.factor[None, :], log_sd=np.array([own.log_sd]))
    events = {side: {key[2]: terms(*key) for key in sums if key[:2] == ("event", side)} for side in ("core", "memory")}
    return DesignLaws(
        core_cycle_j=terms("cycle", "core", "core"), core_event_j=events["core"], core_leakage_w=terms("leakage", "core"),
        crossing_cycle_j=terms("cycle", "memory", "core", voltages=1), memory_cycle_j=terms("cycle", "memory", "memory", voltages=1),
        memory_event_j={name: replace(t, factor=t.factor[:, :1]) for name, t in events["memory"].items()},
        memory_leakage_w=terms("leakage", "memory", voltages=1), core_area_um2=terms("area", "core", voltages=1),
        memory_area_um2=terms("area", "memory", voltages=1), busiest_cycle_j=terms("busiest"), delays=delays, skew=skew, paths=paths, parts=path_parts,
        memory_period_s=memory_laws[:, memory_parts].sum(axis=2).max(axis=1),
        outside_supply=np.any([beyond(values, valid) for values, valid, _ in supplies.values()], axis=0),
    )  # fmt: skip


def predict(
    model: FittedModel, parameters: Parameters, vdd_v: ArrayLike, *, sram_vdd_v: ArrayLike | None = None, temperature_c: ArrayLike | None = None,
    back_bias_v: ArrayLike | None = None, extrapolate: bool = False,
) -> Designs:  # fmt: skip
    """`Designs` for parameter arrays [designs] (see `design_parameters`) at supplies [voltages].

    `sram_vdd_v` [voltages] is the supply of the memories, by default that of the logic but at least the lowest measured. Temperature
    and back bias, each one or [voltages], are the model's reference unless given. Raises `ModelError` for a parameter or corner
    outside the fitted range, unless `extrapolate`, and then `extrapolated` marks where.
    """
    laws = design_laws(
        model, parameters, vdd_v, sram_vdd_v=sram_vdd_v, temperature_c=temperature_c, back_bias_v=back_bias_v, extrapolate=extrapolate
    )  # fmt: skip
    shape = laws.core_cycle_j.grid.shape
    longest, longest_sd, limit = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=int)
    for number, parts in enumerate(laws.parts):
        own = parts[parts >= 0]
        path = Terms(reference=laws.delays.reference[:, own], factor=laws.delays.factor[own], log_sd=laws.delays.log_sd[own])
        delay = path.grid
        longer = delay > longest
        longest[longer], longest_sd[longer], limit[longer] = delay[longer], path.sd[longer], number
    period = longest + laws.skew.grid
    period_sd = np.hypot(longest_sd, laws.skew.sd) / period
    core_area, memory_area = laws.core_area_um2, laws.memory_area_um2
    inside = within_range(model, _arrays(parameters))

    def interval(quantity: str, analytic: NDArray) -> NDArray:
        """The standard deviation found with whole designs, inside the fitted range or beyond it, else that of the single laws."""
        known = model.intervals.get(quantity)
        if known is None:
            return analytic
        own = np.where(inside, known.log_sd, known.outside_log_sd)
        return np.broadcast_to(own[:, None] if analytic.ndim == 2 else own, analytic.shape)

    area, leakage_w = (core_area.grid + memory_area.grid)[:, 0], laws.core_leakage_w.grid + laws.memory_leakage_w.grid
    return Designs(
        fmax_hz=1 / period, limit=limit, paths=laws.paths, memory_fmax_hz=1 / laws.memory_period_s,
        core_cycle_j=laws.core_cycle_j.grid, core_event_j={name: t.grid for name, t in laws.core_event_j.items()}, core_leakage_w=laws.core_leakage_w.grid,
        crossing_cycle_j=laws.crossing_cycle_j.grid[:, 0], memory_cycle_j=laws.memory_cycle_j.grid[:, 0],
        memory_event_j={name: t.grid[:, 0] for name, t in laws.memory_event_j.items()}, memory_leakage_w=laws.memory_leakage_w.grid[:, 0],
        area_um2=area, core_area_um2=core_area.grid[:, 0], fmax_log_sd=interval("fmax", period_sd),
        energy_log_sd=interval("energy", laws.busiest_cycle_j.sd / laws.busiest_cycle_j.grid),
        leakage_log_sd=interval("leakage", np.hypot(laws.core_leakage_w.sd, laws.memory_leakage_w.sd) / leakage_w),
        area_log_sd=interval("area", np.hypot(core_area.sd, memory_area.sd)[:, 0] / area),
        extrapolated=~inside[:, None] | laws.outside_supply[None, :], provisional=model.provisional,
    )  # fmt: skip


def within_range(model: FittedModel, parameters: Parameters) -> NDArray:
    """[designs] whether every block of each design, and its paths, lie inside the ranges over which they were measured."""
    p = _arrays(parameters)
    found = modelled_uses(model, p)
    inside = np.ones(len(p["rows"]), dtype=bool)
    for values, valid, _ in _measured(model, found):
        inside &= ~beyond(values, valid)
    return inside


def _measured(model: FittedModel, found: Iterable[Use]) -> Iterator[tuple[NDArray, Range, str]]:
    """Every range of the model that designs with the uses `found` must lie in: their values [designs], the range, what it is about."""
    whole: Parameters = {}
    for use in found:
        for name, valid in _block(model, use.block).ranges.items():
            yield measured_value(name, use.parameters), valid, f"{measured_name(name)} of {use.role}"
        if not whole or use.block == GLUE:  # the logic between the blocks has the sides besides the design's own parameters
            whole = use.parameters
    for name, valid in model.path_ranges.items():
        yield measured_value(name, whole), valid, f"{measured_name(name)} of the design"


def _arrays(parameters: Parameters) -> dict[str, NDArray]:
    missing = set(PARAMETERS) - set(parameters)
    if missing:
        raise ModelError(f"parameters must include {min(missing)}, not only {', '.join(sorted(parameters))}")
    return dict(zip(PARAMETERS, np.broadcast_arrays(*(np.atleast_1d(np.asarray(parameters[name], dtype=float)) for name in PARAMETERS)), strict=True))


def _block(model: FittedModel, name: str) -> FittedBlock:
    if name not in model.blocks:
        raise ModelError(f"model must know the block {name}, not only {', '.join(model.blocks)}; measure it and fit again")
    return model.blocks[name]


def _evaluate(model: FittedModel, use: Use, quantity: str, corners: Corners, names: Container[str] | None) -> _Value:
    """A law for one use, or of it the terms `names`; zero where the block has no such path or energy."""
    block = model.blocks[use.block]
    if quantity in block.absent:
        return _Value(reference=np.zeros(len(use.count)), factor=np.ones(len(corners.vdd_v)), log_sd=0.0)
    if quantity not in block.laws:
        raise ModelError(f"{quantity} of {use.block} must be in the model, not only {', '.join(block.laws)}; measure it and fit again")
    law = block.laws[quantity]
    terms = term_values(tuple(term.name for term in law.terms), use.parameters)
    return _Value(reference=law.structure(terms, names), factor=law.factor(corners, reference_corner(model)), log_sd=law.log_sd)


def terms_by_statistic(block: FittedBlock, quantity: str) -> dict[str, tuple[str, ...]]:
    """The names of the terms of an energy that apply to all events or cycles (""), and of those that apply to a part of them."""
    found: dict[str, tuple[str, ...]] = {"": ()}
    for term in block.laws[quantity].terms if quantity in block.laws else ():
        statistic = TERMS[term.name].statistic
        if term.value:
            found[statistic] = (*found.get(statistic, ()), term.name)
    return found


def _path_value(model: FittedModel, law: FittedLaw, p: Parameters, corners: Corners) -> _Value:
    """A delay of whole designs, but for its wires."""
    structure = law.structure(term_values(tuple(term.name for term in law.terms), p))
    return _Value(reference=structure, factor=law.factor(corners, reference_corner(model)), log_sd=law.log_sd)


def _wires(law: FittedLaw, p: Parameters, corners: Corners) -> _Value:
    """What wires add to a delay of whole designs."""
    across = law.across_wires(term_values(tuple(wire.name for wire in law.wires), p))
    return _Value(reference=across, factor=np.ones(len(corners.vdd_v)), log_sd=law.log_sd)


def _paths(
    model: FittedModel, domain: str, p: Parameters, roles: dict[str, Use], law: Callable[[Use, str], _Value], corners: Corners
) -> tuple[Terms, tuple[str, ...], NDArray]:  # fmt: skip
    """Delay laws, names of paths, and the laws that each path adds up, as `DesignLaws` has them."""
    laws: list[_Value] = []
    memories: dict[str, int] = {}
    found: dict[str, tuple[int, int, int]] = {}
    for name, path in model.paths.items():
        if path.domain != domain:
            continue
        laws.append(_path_value(model, path.law, p, corners))
        logic, wires, memory = len(laws) - 1, -1, -1
        if any(wire.value for wire in path.law.wires):
            wires = len(laws)
            laws.append(_wires(path.law, p, corners))
        if path.memory:
            memory = memories.setdefault(path.memory, len(laws))
            if memory == len(laws):
                laws.append(law(roles[path.memory], "register_to_output_s"))
        found[name] = logic, wires, memory
    if not found:
        raise ModelError(f"model must have paths of the {domain} clock, not none; measure paths.csv and fit again")
    delays = Terms(
        reference=np.stack([v.reference for v in laws], axis=1), factor=np.stack([v.factor for v in laws]), log_sd=np.array([v.log_sd for v in laws])
    )  # fmt: skip
    return delays, tuple(found), np.array(list(found.values()))
