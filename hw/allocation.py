"""Where tensors lie in DRAM: those that are not needed at the same time may have the same place."""

from collections.abc import Mapping
from typing import NamedTuple

from hw.graph import Graph
from hw.tensors import REGION_ALIGNMENT_BYTES, align


class Lifetime(NamedTuple):
    """The first and the last step in which a tensor's bytes matter."""

    first: int
    last: int


def lifetimes(graph: Graph) -> dict[str, Lifetime]:
    """Of every tensor that is no part of another: inputs live from the start, outputs to the end."""
    found: dict[str, Lifetime] = {}

    def lives(name: str, step: int) -> None:
        name = graph.whole(name)
        old = found.get(name, Lifetime(step, step))
        found[name] = Lifetime(min(old.first, step), max(old.last, step))

    for name in graph.inputs:
        lives(name, -1)
    for index, step in enumerate(graph.steps):
        for name in (*step.inputs, step.output):
            lives(name, index)
    for name in graph.outputs:
        lives(name, len(graph.steps))
    return found


def allocate(sizes: Mapping[str, int], lives: Mapping[str, Lifetime]) -> tuple[dict[str, int], int]:
    """(offset of each, bytes in all): the largest first, each at the lowest place where it meets nothing that lives at the same time."""
    offsets: dict[str, int] = {}
    for name in sorted(sizes, key=lambda one: (-sizes[one], one)):
        others = sorted(
            (offsets[other], offsets[other] + align(sizes[other], REGION_ALIGNMENT_BYTES))
            for other in offsets
            if lives[other].first <= lives[name].last and lives[name].first <= lives[other].last
        )
        place = 0
        for first, end in others:
            if place + sizes[name] <= first:
                break
            place = max(place, end)
        offsets[name] = place
    return offsets, max((offsets[name] + align(sizes[name], REGION_ALIGNMENT_BYTES) for name in sizes), default=0)
