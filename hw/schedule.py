"""The order of a layer's steps, and what is loaded for each into which part of the banks.

A step is one COMPUTE. Before it runs the loads of its group; the group of step i may overwrite what steps up to i - 2 used,
because it waits for step i - 2. What is needed first in step f may be spread over the groups before f in which its place is free.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import product

from hw.lowering import LoweredLayer
from hw.tile_plan import ALL, SETS, STREAM, WEIGHTS_OUTER, Plan, Tiling

RESIDENT = 1 + max(STREAM, SETS, ALL)
"""A bank that holds all of a layer, every channel group's tiles in places of their own: see `hw.on_chip`."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Which tile a COMPUTE works on; indices count from 0 within the layer."""

    group: int
    k_tile: int
    image: int
    y_tile: int
    x_tile: int
    subtile: int
    c_part: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """A thing to load: needed first in step `step`, in slot `slot` of its banks, in the groups `first_group` to `step`."""

    step: int
    slot: int
    first_group: int


@dataclass(frozen=True, kw_only=True)
class Operand:
    """What one kind of bank goes through: the slot that each step uses, and what is loaded."""

    slots: list[int]
    loads: list[Place]


class _Bank:
    """Follows what lies in the slots of a kind of bank while the steps go by."""

    def __init__(self, hold: int, slots: int, set_size: int, spread: bool):
        self.hold, self.number, self.set_size, self.spread = hold, slots, set_size, spread
        self.contents: dict[int, Hashable] = {}
        self.last_use: dict[int, int] = {}
        self.sets = -1
        self.current_set: tuple[int, int] | None = None
        self.slots: list[int] = []
        self.loads: list[Place] = []

    def use(self, group: int, tile: int, part: int, tiles: int) -> None:
        """The next step uses part `part` (of set_size) of tile `tile` (of `tiles`) of channel group `group`."""
        step, key = len(self.slots), (group, tile, part)
        if (group, tile) != self.current_set:
            self.sets, self.current_set = self.sets + 1, (group, tile)
        if self.hold == RESIDENT:
            slot = (group * tiles + tile) * self.set_size + part
        elif self.hold == STREAM:
            slot = step % 2
        elif self.hold == ALL and tiles * self.set_size > 1:
            slot = tile * self.set_size + part
        else:
            slot = self.sets % self.number if self.hold == ALL else self.sets % 2 * self.set_size + part
        if self.hold == STREAM or self.contents.get(slot) != key:
            first = self.loads[-1].step + 1 if self.loads and self.spread else step
            assert self.last_use.get(slot, -2) + 2 <= first, "the place of a load must be free"
            self.loads.append(Place(step=step, slot=slot, first_group=first))
        self.contents[slot], self.last_use[slot] = key, step
        self.slots.append(slot)

    def operand(self) -> Operand:
        return Operand(slots=self.slots, loads=self.loads)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The steps of a layer in order, and what each kind of bank goes through."""

    steps: list[Step]
    activations: Operand
    weights: Operand
    parameters: Operand
    """Slots of tile_k channels."""


def schedule(layer: LoweredLayer, tiling: Tiling, plan: Plan, *, resident: bool = False) -> Schedule:
    """The loop nest, and the loads it needs. `resident`: every activation tile of the layer has a place of its own."""
    weights_outer, split = tiling.order == WEIGHTS_OUTER, plan.c_parts > 1
    activations = _Bank(RESIDENT if resident else plan.activations_hold, plan.activation_slots, plan.c_parts, not weights_outer and not split)
    weights = _Bank(plan.weights_hold, plan.weight_slots, plan.subtiles * plan.c_parts, weights_outer and not split)
    parameters = _Bank(plan.parameters_hold, 2, 1, False)
    spatial = [(i, y, x) for i in range(layer.images) for y in range(plan.y_tiles) for x in range(plan.x_tiles)]
    spatial_k = [(s, k) for s in range(len(spatial)) for k in range(plan.k_tiles)]
    if weights_outer:
        spatial_k.sort(key=lambda pair: (pair[1], pair[0]))
    steps = []
    for group, (s, k_tile) in product(range(layer.groups), spatial_k):
        for subtile, c_part in product(range(plan.subtiles), range(plan.c_parts)):
            image, y_tile, x_tile = spatial[s]
            steps.append(Step(group=group, k_tile=k_tile, image=image, y_tile=y_tile, x_tile=x_tile, subtile=subtile, c_part=c_part))
            activations.use(group, s, c_part, len(spatial))
            weights.use(0 if layer.shared else group, k_tile, subtile * plan.c_parts + c_part, plan.k_tiles)
            if layer.uniform:
                parameters.use(0, 0, 0, 1)
            elif plan.parameters_hold == ALL:
                parameters.use(0, group * plan.k_tiles + k_tile, 0, layer.groups * plan.k_tiles)
            else:
                parameters.use(group, k_tile, 0, plan.k_tiles)
    return Schedule(steps=steps, activations=activations.operand(), weights=weights.operand(), parameters=parameters.operand())
