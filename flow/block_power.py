"""Energy and leakage of one module at all corners, from recorded instances: replayed once, evaluated at each corner.

A net is charged where it is driven or enters: a block pays for its own wires and for the pins of its own cells, also those on its
inputs. What lies behind its outputs or the inputs of its black boxes slows its edges down, but is paid for there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flow import netlist as netlist_module
from flow import placement, power, power_tables, profile, recording, replay, replay_kernel, tech
from flow.cache import step
from flow.liberty import Library
from flow.liberty import fo4_s as library_fo4_s
from flow.netlist import CONST1, Netlist, read_netlist
from flow.placement import read_places, wire_lengths_um
from flow.power import PowerModel, sampled_mean
from flow.profile import ActivityProfile, combine
from flow.recording import Event, Waveform, record
from flow.replay import Recording, Replayer
from flow.simulation import TRACE_MARGIN_CYCLES
from flow.tech import CellRoles, WireModel, read_libraries
from hw.errors import ToolError

MIN_PHASE_CYCLES = 16
"""A phase that the sampled instances were in for fewer cycles has no row: too little to say anything."""
NORMAL_90 = 1.645
"""Half-width of a 90 % interval in standard errors."""
OUTPUT_INVERTERS = 4
"""Inverters that a block's outputs are loaded with where the design around it is not known."""

PortLoads = dict[str, tuple[float, ...]]
"""Capacitance in F behind each bit of each input port of a module."""


@dataclass(frozen=True, kw_only=True)
class PhasePower:
    """Energy per cycle of one phase at one corner, a mean over sampled instances with its 90 % sampling interval, J; leakage, W."""

    phase: str
    cycles: int
    internal_j: float
    switching_j: float
    clock_j: float
    lo_j: float
    hi_j: float
    leakage_w: float
    annotated_fraction: float



@dataclass(frozen=True, kw_only=True)
class CornerPower:
    """A module at one corner: its phases, and the longest delay of its clock trees (0 without trees), s."""

    phases: tuple[PhasePower, ...]
    clock_latency_s: float


def net_wire_f(mapped: Netlist, wire: WireModel, places: Path | None) -> np.ndarray:
    """Wire capacitance [nets]: from the placement, or without one from the fan-out (nets without a sink inside as with one).

    A placed pin that nothing is connected to still has a stub of wire.
    """
    if places is not None:
        lengths = wire_lengths_um(mapped, read_places(places, mapped))
        lengths[CONST1 + 1 :] = np.where(lengths[CONST1 + 1 :] > 0, lengths[CONST1 + 1 :], wire.length_base_um)
        return wire.capacitance_per_um_f * lengths
    sinks = np.maximum(np.diff(mapped.reader_start), 1)
    return wire.capacitance_per_um_f * (wire.length_base_um + wire.length_per_fanout_um * sinks)


@step(version=1, modules=(netlist_module, placement, power, tech))
def port_loads(
    folder: Path, *, netlist: Path, places: Path | None, module: str, black_boxes: tuple[str, ...], liberty: tuple[tuple[Path, ...], ...],
    wire: WireModel,
) -> tuple[PortLoads, ...]:  # fmt: skip
    """What a driver of each input port of a module sees, at each corner: pins of its cells and its wire up to them."""
    libraries = [read_libraries(paths) for paths in liberty]
    mapped = read_netlist(netlist, libraries[0], top=module, black_boxes=black_boxes)
    wire_f = net_wire_f(mapped, wire, places)
    found = []
    for library in libraries:
        load_f = wire_f.copy()
        pins = [[library.cells[t.name].pins[p].rise_capacitance_f for p in t.inputs] + [0.0] * len(t.outputs) for t in mapped.types]
        np.add.at(load_f, mapped.pin_net, np.concatenate([np.zeros(0), *(pins[k] for k in mapped.cell_type)]))
        own = {name: port for name, port in mapped.ports.items() if port.is_source and "/" not in name}
        found.append({name: tuple(load_f[port.nets].tolist()) for name, port in own.items()})
    return tuple(found)


def outside_load_f(mapped: Netlist, library: Library, inverter: str, boxes: Mapping[str, PortLoads]) -> np.ndarray:
    """Capacitance [nets] that lies behind outputs of the module (some inverters) and inputs of its black boxes (`boxes` by module)."""
    load_f = np.zeros(mapped.nets)
    pin_f = next(p.capacitance_f for p in library.cells[inverter].pins.values() if p.direction == "input")
    for name, port in mapped.ports.items():
        if port.is_source:
            continue
        instance, _, inside = name.rpartition("/")
        if not instance:
            np.add.at(load_f, port.nets, OUTPUT_INVERTERS * pin_f)
            continue
        behind = boxes[mapped.black_boxes[instance]].get(inside)
        if behind is None or len(behind) != len(port.nets):
            raise ToolError(f"load of {name} must be known for {len(port.nets)} bits, not for {len(behind or ())} (netlist {mapped.name})")
        np.add.at(load_f, port.nets, behind)
    load_f[: CONST1 + 1] = 0.0
    return load_f


@step(version=2, modules=(netlist_module, placement, power, power_tables, profile, recording, replay, replay_kernel, tech))
def block_power(
    folder: Path,
    *,
    netlist: Path,
    places: Path | None,
    module: str,
    boxes: dict[str, tuple[PortLoads, ...]],
    clocks: tuple[str, ...],
    when: Event,
    trace: Path,
    scopes: tuple[str, ...],
    population: int,
    cycles: int,
    liberty: tuple[tuple[Path, ...], ...],
    cells: CellRoles,
    wire: WireModel,
) -> tuple[CornerPower, ...]:
    """For each corner (an entry of `liberty`) the power of each phase of `module`, from the traced instances at `scopes`.

    `boxes` gives the loads behind the inputs of each black box, at each corner. `places` are those of `netlist`, which has then clock trees.
    """
    libraries = [read_libraries(paths) for paths in liberty]
    mapped = read_netlist(netlist, libraries[0], top=module, black_boxes=boxes)
    waveform = Waveform(trace)
    replayer = Replayer(mapped, clocks=clocks)
    # Clocks that go on to black boxes are not sampled: what they are just before an edge says nothing.
    ports = {name: len(port.nets) for name, port in mapped.ports.items() if port.is_source or not replayer.network.nets[port.nets].any()}
    ports = {name: width for name, width in ports.items() if name not in clocks}
    profiles: list[dict[str, ActivityProfile]] = []
    for scope in scopes:
        recorded = record(waveform, scope=f"tb.dut.{scope}".rstrip("."), clocks=clocks, ports=ports, event=when, cycles=cycles)
        profiles.append(replayer.replay(_settled(recorded), warm_up_cycles=TRACE_MARGIN_CYCLES))

    wire_f = net_wire_f(mapped, wire, places)
    results = []
    for number, library in enumerate(libraries):
        fo4_s = library_fo4_s(library, cells.inverter)
        outside_f = outside_load_f(mapped, library, cells.inverter, {kind: loads[number] for kind, loads in boxes.items()})
        model = PowerModel(
            mapped, library, clocks=clocks, input_slew_s=fo4_s, clock_slew_s=fo4_s, output_load_f=0.0, wire_cap_f=wire_f, outside_load_f=outside_f,
            clock_tree=places is None,
        )  # fmt: skip
        phases = tuple(_phase_power(model, phase, profiles, population) for phase in _phases(profiles))
        results.append(CornerPower(phases=phases, clock_latency_s=0.0 if places is None else model.clock_latency_s()))
    return tuple(results)


def _settled(recorded: Recording) -> Recording:
    """Phases without the first cycles, in which registers settle, and only those long enough to count."""
    after = np.arange(recorded.cycles) >= TRACE_MARGIN_CYCLES
    phases = {name: mask & after for name, mask in recorded.phases.items() if (mask & after).sum() >= MIN_PHASE_CYCLES}
    if not phases:
        raise ToolError(f"recording must hold a phase of at least {MIN_PHASE_CYCLES} cycles, not none ({recorded.name}); record a longer window")
    return Recording(
        name=recorded.name, cycles=recorded.cycles, values=recorded.values, phases=phases, registers=recorded.registers, rises=recorded.rises
    )


def _phases(profiles: Sequence[Mapping[str, ActivityProfile]]) -> list[str]:
    """Phases that every sampled instance was in, in a fixed order."""
    return [phase for phase in ("active", "idle") if all(phase in instance for instance in profiles)]


def _phase_power(model: PowerModel, phase: str, profiles: Sequence[Mapping[str, ActivityProfile]], population: int) -> PhasePower:
    results = [model.evaluate(instance[phase]) for instance in profiles]
    energies = [result.energy_per_cycle_j for result in results]
    mean, error = sampled_mean(energies, population=population) if len(energies) > 1 or population == 1 else (energies[0], math.nan)
    whole = model.evaluate(combine([instance[phase] for instance in profiles]))
    scale = mean / whole.energy_per_cycle_j if whole.energy_per_cycle_j else 1.0
    return PhasePower(
        phase=phase,
        cycles=whole.cycles,
        internal_j=scale * whole.internal_per_cycle_j,
        switching_j=scale * whole.switching_per_cycle_j,
        clock_j=scale * whole.clock_per_cycle_j,
        lo_j=max(0.0, mean - NORMAL_90 * error),
        hi_j=mean + NORMAL_90 * error,
        leakage_w=float(np.mean([result.leakage_w for result in results])),
        annotated_fraction=min(result.annotated_fraction for result in results),
    )


