"""Buffer trees for nets with many sinks, on a mapped module as Yosys JSON.

ABC buffers the nets of the logic it maps. It does not see nets that go from a flop or a port straight
to flops and black boxes, such as the data input of a register file.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from math import ceil

from flow.liberty import Library


def clock_nets(module: dict, library: Library, clocks: Collection[str]) -> set[int]:
    """The nets of a JSON module that carry a clock: the ports named in `clocks` and whatever a clock pin of a cell reads."""
    nets = {bit for port in clocks for bit in module["ports"][port]["bits"]}
    for cell in module["cells"].values():
        known = library.cells.get(cell["type"])
        for pin, bits in cell["connections"].items():
            if known is not None and pin in known.pins and (known.pins[pin].is_clock or known.pins[pin].clock_gate_role == "clock"):
                nets.update(bits)
    return nets


def net_sinks(module: dict, library: Library, clocks: Collection[str]) -> dict[int, list[tuple[str, str, int]]]:
    """The sinks `(cell, pin, bit)` of each net that is neither a clock nor constant; ports of the module have an empty cell name."""
    ignored = clock_nets(module, library, clocks)
    for cell in module["cells"].values():
        known = library.cells.get(cell["type"])
        if known is not None and all(pin.direction != "input" for pin in known.pins.values()):
            ignored.update(bit for bits in cell["connections"].values() for bit in bits)
    sinks: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for name, cell in module["cells"].items():
        known = library.cells.get(cell["type"])
        for pin, bits in cell["connections"].items():
            if (known.pins[pin].direction if known is not None else cell["port_directions"][pin]) == "input":
                for position, bit in enumerate(bits):
                    sinks[bit].append((name, pin, position))
    for name, port in module["ports"].items():
        if port["direction"] == "output":
            for position, bit in enumerate(port["bits"]):
                sinks[bit].append(("", name, position))
    return {bit: found for bit, found in sinks.items() if isinstance(bit, int) and bit not in ignored}


def buffer_large_nets(
    module: dict, library: Library, *, buffer: tuple[str, str, str], max_fanout: int, clocks: Collection[str],
    box_fanout: Mapping[str, Mapping[str, int]] | None = None,
) -> int:  # fmt: skip
    """Give every net at most `max_fanout` sinks by trees of `buffer` (cell, input, output), in place; returns how many were added.

    An input of a black box counts for the number of sinks that `box_fanout` gives for its module and port, at least one. A single sink
    that counts for more than `max_fanout` gets a buffer of its own. Outputs of the module stay on the net itself. Clocks are left to a
    clock tree.
    """
    cell, input_pin, output_pin = buffer
    added = 0
    bits = [bit for entry in module["netnames"].values() for bit in entry["bits"] if isinstance(bit, int)]
    next_bit = max(bits, default=1) + 1

    def weight(sink: tuple[str, str, int]) -> int:
        inside = (box_fanout or {}).get(module["cells"][sink[0]]["type"], {})
        return max(1, inside.get(sink[1], 1))

    for net, sinks in sorted(net_sinks(module, library, clocks).items()):
        movable = sorted(sink for sink in sinks if sink[0])
        room = max(1, max_fanout - (len(sinks) - len(movable)))
        while len(movable) > 1 and sum(map(weight, movable)) > room:
            # Equal groups; one more level when the buffers themselves are too many.
            groups = _groups(movable, weight, max_fanout)
            movable = []
            for group in groups:
                name = f"fanout_buffer_{added}"
                module["cells"][name] = {
                    "hide_name": 0,
                    "type": cell,
                    "parameters": {},
                    "attributes": {},
                    "connections": {input_pin: [net], output_pin: [next_bit]},
                }
                for sink, pin, position in group:
                    module["cells"][sink]["connections"][pin][position] = next_bit
                module["netnames"][f"fanout_{added}"] = {"hide_name": 0, "bits": [next_bit], "attributes": {}}
                movable.append((name, input_pin, 0))
                added, next_bit = added + 1, next_bit + 1
            if len(groups) == 1:
                break
    return added


def _groups(sinks: list[tuple[str, str, int]], weight: Callable[[tuple[str, str, int]], int], max_fanout: int) -> list[list[tuple[str, str, int]]]:
    """`sinks` in order, in groups of about equal weight of at most `max_fanout` each, as far as single sinks allow."""
    total = sum(map(weight, sinks))
    wanted = ceil(total / ceil(total / max_fanout))
    groups: list[list[tuple[str, str, int]]] = [[]]
    held = 0
    for sink in sinks:
        if groups[-1] and held + weight(sink) > wanted:
            groups.append([])
            held = 0
        groups[-1].append(sink)
        held += weight(sink)
    return groups
