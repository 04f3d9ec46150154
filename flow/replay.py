"""Replay of a recorded block boundary on its mapped netlist: cycle-accurate, without delays.

RTL simulation records what each port of a block holds just before every rising clock edge. The replay
applies the recorded inputs to the gates, clocks the flops, and demands the recorded outputs: it checks the
netlist against the RTL while it counts what every net and cell does. Each cycle has two halves, the clock
high and low, so clock gates, latches and flops on either edge need no special case. Glitches are not seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flow.netlist import CONST1, Netlist, clock_network
from flow.profile import ActivityProfile
from flow.replay_kernel import HAZARD, Counts, Memory, counts, memory, run, structure
from hw.errors import ToolError

LONGEST_WARM_UP_CYCLES = 64


def to_bits(values: np.ndarray, width: int) -> np.ndarray:
    """Bits [cycles, width], least significant first, of integers [cycles] (negative ones in two's complement)."""
    values = np.asarray(values)
    if width > 64:
        raise ToolError(f"integers must have at most 64 bits to be unpacked, not {width}; pass bits instead")
    return (values.astype(np.int64 if values.dtype.kind == "i" else np.uint64)[:, None] >> np.arange(width).astype(values.dtype) & 1).astype(np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """The boundary of one instance over a window of consecutive cycles.

    `values` maps a port (or `instance/port` of a black box) to bits [cycles, width], least significant first, as
    they are just before the rising edge that ends the cycle. Recorded outputs are compared, recorded inputs applied.
    `phases` maps a name to a mask [cycles]; no cycle is in two phases, and cycles in none are simulated but not counted.
    Without phases the whole window is the phase `all`. `registers` gives the values of nets in the first cycle, as far as
    they are known (names the netlist lacks are passed over). `rises` [cycles, clocks] tells which clocks rise at the end
    of a cycle; all do when absent. A clock that rose falls again half a cycle later.
    """

    name: str
    cycles: int
    values: Mapping[str, np.ndarray]
    phases: Mapping[str, np.ndarray] = field(default_factory=dict)
    registers: Mapping[str, int] = field(default_factory=dict)
    rises: np.ndarray | None = None


class Replayer:
    """A netlist made ready for replays: `Replayer(netlist, clocks=("clk",)).replay(recording)`."""

    def __init__(self, netlist: Netlist, *, clocks: Sequence[str]):
        self.netlist = netlist
        self.network = clock_network(netlist, clocks)
        self.structure = structure(netlist, self.network)
        self.clock_nets = np.array([netlist.ports[name].nets[0] for name in clocks], dtype=np.int32)

    def replay(self, recording: Recording, *, warm_up_cycles: int = LONGEST_WARM_UP_CYCLES) -> dict[str, ActivityProfile]:
        """The activity of each phase of `recording`.

        At least one and at most `warm_up_cycles` first cycles are left out, until registers started from different
        values agree. Nets that still depend on the unknown initial state later are not annotated, and outputs among them
        not compared. Raises `ToolError` when another recorded output differs, a needed input is missing, or a clock moves together with its gating.
        """
        netlist, where = self.netlist, f"replay of {recording.name} on netlist {self.netlist.name}"
        sources = [p for p in netlist.ports.values() if p.is_source and p.name not in self.network.ports]
        checks = [p for p in netlist.ports.values() if not p.is_source and p.name in recording.values]
        unknown = set(recording.values) - set(netlist.ports) | {p.name for p in sources} - set(recording.values)
        if unknown:
            raise ToolError(f"recording must hold every input and only ports of the netlist, not differ in {', '.join(sorted(unknown))} ({where})")
        if not any("/" not in p.name for p in checks):
            raise ToolError(f"recording must hold outputs to compare, not inputs alone ({where})")
        if warm_up_cycles < 1 or recording.cycles < 2:
            raise ToolError(f"window and warm-up must be of at least 2 and 1 cycles, not {recording.cycles} and {warm_up_cycles} ({where})")
        source_nets, values = self._bits(recording, sources, where)
        check_nets, expected = self._bits(recording, checks, where)
        rises = np.ones((recording.cycles, len(self.clock_nets)), dtype=np.uint8) if recording.rises is None else recording.rises.astype(np.uint8)
        if rises.shape != (recording.cycles, len(self.clock_nets)):
            raise ToolError(f"rises must have shape {(recording.cycles, len(self.clock_nets))}, not {rises.shape} ({where})")
        begins = np.concatenate([np.zeros_like(rises[:1]), rises[:-1]])  # what happens in a cycle follows from the edge before it
        names, phases = self._phases(recording, where)

        def simulate(state: Memory, count: Counts, first: int, last: int, labels: np.ndarray, wrong: np.ndarray, strict: bool) -> None:
            status, cycle, cell = run(
                self.structure, state, count, first, last, source_nets, values, self.clock_nets, begins, check_nets, expected, labels, wrong, strict
            )
            if status == HAZARD:
                flop = netlist.cell_names[cell]
                raise ToolError(f"a clock must not move with the data of its cycle, as that of flop {flop} does in cycle {cycle} ({where})")

        quiet, wrong = np.full(recording.cycles, -1, dtype=np.int32), np.zeros((recording.cycles, len(check_nets)), dtype=np.uint8)
        lanes = [self._memory(recording.registers, seed) for seed in range(4)]
        nothing, excluded = counts(self.structure, netlist.nets, 0), 0
        while excluded < min(warm_up_cycles, recording.cycles) and (excluded == 0 or len(_differing(lanes))):
            for lane in lanes:
                simulate(lane, nothing, excluded, excluded + 1, quiet, wrong, False)
            excluded += 1
        unsettled = self._registers(_differing(lanes))
        counted = np.where(np.arange(recording.cycles) >= excluded, phases, -1).astype(np.int32)
        results, differences = [], []
        for lane in lanes if unsettled else lanes[:1]:
            results.append(counts(self.structure, netlist.nets, len(names)))
            differences.append(np.zeros_like(wrong))
            simulate(lane, results[-1], excluded, recording.cycles, counted, differences[-1], True)
        self._compare(np.array(differences), checks, expected, unsettled, where)
        same = np.all([(r.toggles == results[0].toggles) & (r.high == results[0].high) for r in results], axis=0)
        return {name: self._profile(name, i, results[0], same[i], counted, begins, excluded, unsettled, where) for i, name in enumerate(names)}

    def _bits(self, recording: Recording, ports: Sequence, where: str) -> tuple[np.ndarray, np.ndarray]:
        columns = [np.zeros((recording.cycles, 0), dtype=np.uint8)]
        for port in ports:
            bits = np.asarray(recording.values[port.name])
            if bits.shape != (recording.cycles, len(port.nets)) or np.any(bits > 1):
                raise ToolError(f"recorded {port.name} must be bits of shape {(recording.cycles, len(port.nets))}, not {bits.dtype} {bits.shape} ({where})")
            columns.append(bits.astype(np.uint8))
        nets = np.concatenate([np.zeros(0, dtype=np.int32), *(p.nets for p in ports)]).astype(np.int32)
        return nets, np.ascontiguousarray(np.concatenate(columns, axis=1))

    def _phases(self, recording: Recording, where: str) -> tuple[list[str], np.ndarray]:
        masks = dict(recording.phases) or {"all": np.ones(recording.cycles, dtype=bool)}
        labels = np.full(recording.cycles, -1, dtype=np.int32)
        for number, (name, mask) in enumerate(masks.items()):
            mask = np.asarray(mask, dtype=bool)
            if mask.shape != (recording.cycles,) or np.any(labels[mask] >= 0):
                raise ToolError(f"phase {name} must be a mask of {recording.cycles} cycles that no other phase holds ({where})")
            labels[mask] = number
        return list(masks), labels

    def _memory(self, registers: Mapping[str, int], seed: int) -> Memory:
        """An initial state: known registers as given; the others all 0, all 1, or random, by `seed`."""
        netlist, cells = self.netlist, self.netlist.cells
        guess = np.random.default_rng(seed).integers(0, 2, cells) if seed > 1 else np.full(cells, seed)
        for cell, bit in self.known_registers(registers).items():
            guess[cell] = bit
        return memory(self.structure, netlist.nets, CONST1, guess)

    def known_registers(self, registers: Mapping[str, int]) -> dict[int, int]:
        """The stored bit of each flop whose value follows from named nets, also through inverters and buffers behind it."""
        if not registers:
            return {}
        netlist, numbers = self.netlist, self.netlist.net_index()
        # A name that synthesis removed is no loss: a flop left without a value shows up as unsettled.
        known, stored = {numbers[name]: int(value) for name, value in registers.items() if name in numbers}, {}
        for cell in netlist.order[::-1].tolist():
            logic = netlist.types[netlist.cell_type[cell]]
            pins = netlist.pin_net[netlist.pin_start[cell] : netlist.pin_start[cell + 1]]
            shown = [(logic.outputs_table[o], known[net]) for o, net in enumerate(pins[len(logic.inputs) :].tolist()) if net in known]
            if not shown:
                # Where synthesis gave the net another name, the flop is still called after its register.
                register = netlist.cell_names[cell].removesuffix("_reg").replace("\\", "")
                if logic.kind == "flop" and register in registers:
                    stored[cell] = int(registers[register])
                continue
            if logic.kind == "flop":
                half = logic.states // 2
                stored[cell] = int(np.any(shown[0][0][half:] == shown[0][1]))
            elif len(logic.inputs) == 1 and not logic.has_state and shown[0][0][0] != shown[0][0][1]:
                known.setdefault(int(pins[0]), int(shown[0][0][1] == shown[0][1]))
        return stored

    def _registers(self, cells: np.ndarray) -> tuple[str, ...]:
        """The names of stored bits, by the first output of their cell."""
        first = self.netlist.pin_start[cells] + self.structure.inputs[cells]
        return tuple(sorted(self.netlist.net_names[n] for n in self.netlist.pin_net[first]))

    def _compare(self, differences: np.ndarray, checks: Sequence, expected: np.ndarray, unsettled: Sequence[str], where: str) -> None:
        """Raise if a recorded output differs. `differences` [lanes, cycles, checks]; a bit that depends on the lane cannot be checked."""
        hint = f"; {len(unsettled)} registers have no known initial value ({', '.join(unsettled[:4])})" if unsettled else ""
        known = np.all(differences == differences[0], axis=(0, 1))
        if not np.any(known):
            raise ToolError(f"at least one output must be known, not none ({where}){hint}; record these registers or a longer window")
        wrong = differences[0] & known
        if np.any(wrong):
            cycle = int(np.flatnonzero(np.any(wrong, axis=1))[0])
            column = int(np.flatnonzero(wrong[cycle])[0])
            name = [f"{p.name}[{i}]" for p in checks for i in range(len(p.nets))][column]
            raise ToolError(
                f"netlist must do as the RTL: {name} must be {expected[cycle, column]} in cycle {cycle}, not {1 - expected[cycle, column]}; "
                f"{int(np.any(wrong, axis=1).sum())} cycles differ ({where}){hint}"
            )

    def _profile(
        self, name: str, number: int, count: Counts, same: np.ndarray, counted: np.ndarray, begins: np.ndarray, excluded: int, unsettled: tuple[str, ...],
        where: str,
    ) -> ActivityProfile:  # fmt: skip
        inside = counted == number
        cycles = int(begins[inside, 0].sum())
        if not cycles:
            raise ToolError(f"phase {name} must hold a cycle after the first {excluded}, not none ({where}); record a longer window")
        halves = 2.0 * inside.sum()
        return ActivityProfile(
            netlist=self.netlist.name, phase=name, cycles=cycles, toggles_per_cycle=count.toggles[number] / cycles, duty=count.high[number] / halves,
            annotated=same, clock_nets=self.network.nets, state_probability=count.states[number] / halves,
            edges_per_cycle=count.edges[number] / cycles, arcs_per_cycle=count.arcs[number] / cycles, excluded_cycles=excluded, unsettled=unsettled,
        )


def _differing(lanes: Sequence[Memory]) -> np.ndarray:
    """The cells whose stored bit is not the same in all lanes."""
    return np.flatnonzero(np.any([lane.stored != lanes[0].stored for lane in lanes], axis=0))
