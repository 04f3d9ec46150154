"""Which outputs stay on chip for the next layer, and the tilings that make room for them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hw.config import AcceleratorConfig
from hw.graph import Graph, LayerStep
from hw.lowering import Lowering
from hw.on_chip import Residence, activation_words, on_chip_traffic
from hw.tile_plan import Architecture, Tiling, architecture, plan
from hw.tiling import measure
from hw.tiling_choice import choose_tiling, enumerate_tilings, preference


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """How a layer is compiled: its tiling, what it finds on chip, whether it leaves its output there, and whether it stores it."""

    tiling: Tiling
    residence: Residence | None = None
    kept: bool = False
    stored: bool = True


def operands_from(graph: Graph, producer: LayerStep, consumer: LayerStep, lowerings: Mapping[str, Lowering]) -> frozenset[int]:
    """The operands that the consumer could find on chip, if it comes right behind the producer: none unless it reads its output, whole, as activations."""
    name, kind = producer.output, consumer.layer.shape.kind
    positions = frozenset(i for i, one in enumerate(consumer.inputs) if one == name)
    if kind == "transpose" or (kind == "matmul" and 1 in positions):  # read as weights
        return frozenset()
    if name in graph.parts:
        return frozenset()
    tensor = graph.tensors[name]
    if tensor.height == tensor.width == 1 and (lowerings[producer.name].numbers.product or not lowerings[consumer.name].vectors):
        return frozenset()
    return positions


def needed_in_memory(graph: Graph, producer: LayerStep, consumer: LayerStep) -> bool:
    """Whether anybody but the consumer reads the producer's output."""
    return producer.output in graph.outputs or any(step is not consumer and producer.output in step.inputs for step in graph.steps)


@dataclass(kw_only=True)
class _Candidates:
    """A layer's tilings with what they use of an activation bank and their figures of merit; smaller is better.

    `words[i]`: with the input loaded (i = 0) or on chip (1); `costs[i, o]`: likewise, and with the output not kept (o = 0) or kept (1).
    """

    operands: frozenset[int]
    stored_if_kept: bool
    tilings: list[Tiling]
    words: np.ndarray = field(init=False)
    costs: np.ndarray = field(init=False)

    def rank(self, a: Architecture, lowering: Lowering) -> "_Candidates":
        n = lowering.numbers
        self.words = np.zeros((2, len(self.tilings)), dtype=np.int64)
        self.costs = np.full((2, 2, len(self.tilings)), np.inf)
        for index, t in enumerate(self.tilings):
            m, p = measure(a, n, t), plan(a, n, t)
            for found in range(2 if self.operands else 1):
                self.words[found, index] = activation_words(a, n, p, resident=bool(found))
                for kept in range(2):
                    moved = on_chip_traffic(m, n, p, operands=len(self.operands) if found else 0, stored=not kept or self.stored_if_kept)
                    if kept:  # the load engine copies
                        moved = moved._replace(activation_load_words=moved.activation_load_words + m.output_store_words)
                    self.costs[found, kept, index] = preference(a, n, t, moved)
        return self


def choose_plans(
    config: AcceleratorConfig, graph: Graph, steps: Sequence[LayerStep], lowerings: Mapping[str, Lowering], tilings: Mapping[str, Tiling], *, on_chip: bool
) -> dict[str, LayerPlan]:
    """A plan for each of `steps`, which follow on each other in one program; layers in `tilings` have theirs already.

    With `on_chip`, the plans whose figures of merit (see `hw.tiling_choice.preference`) add up to the least, under the condition that where a layer keeps
    its output its own activations and the next layer's fit into the banks together. Layers that share the banks use their two ends in turn.
    """
    if not on_chip:
        return {step.name: LayerPlan(tiling=tilings.get(step.name) or choose_tiling(config, lowerings[step.name])) for step in steps}
    a, candidates = architecture(config), []
    for index, step in enumerate(steps):
        before, behind = steps[index - 1] if index else None, steps[index + 1] if index + 1 < len(steps) else None
        possible = _Candidates(
            operands=operands_from(graph, before, step, lowerings) if before else frozenset(),
            stored_if_kept=bool(behind and needed_in_memory(graph, step, behind)),
            tilings=[tilings[step.name]] if step.name in tilings else enumerate_tilings(config, lowerings[step.name]),
        )
        candidates.append(possible.rank(a, lowerings[step.name]))
    plans: dict[str, LayerPlan] = {}
    base = 0
    for index, (chosen, found, kept) in enumerate(_least(candidates, a.activation_words)):
        one = candidates[index]
        words = int(one.words[int(found), chosen])
        base = (a.activation_words - words if base == 0 else 0) if found else 0
        plans[steps[index].name] = LayerPlan(
            tiling=one.tilings[chosen], residence=Residence(operands=one.operands, base=base) if found else None, kept=kept,
            stored=not kept or one.stored_if_kept,
        )  # fmt: skip
    return plans


def _least(candidates: Sequence[_Candidates], bank_words: int) -> Iterator[tuple[int, bool, bool]]:
    """(candidate, whether its input is on chip, whether its output stays there) of each layer: dynamic programming over the layers."""
    totals: list[np.ndarray] = []
    origins: list[np.ndarray] = []
    for index, one in enumerate(candidates):
        total = one.costs.copy()
        origin = np.zeros((2, len(one.tilings), 2), dtype=np.int64)  # [input on chip][tiling] -> (input on chip, tiling) of the layer before
        if index == 0:
            total[1] = np.inf
        else:
            before, words = totals[-1], candidates[index - 1].words
            for found in range(2 if one.operands else 1):
                arrivals = before[:, found]  # [its input on chip][its tiling]
                if found:
                    fits = words[:, :, None] + one.words[1] <= bank_words
                    arrivals = np.where(fits, arrivals[:, :, None], np.inf).reshape(-1, len(one.tilings))
                    best = arrivals.argmin(axis=0)
                    least = arrivals[best, np.arange(len(one.tilings))]
                else:
                    best = np.full(len(one.tilings), arrivals.argmin())
                    least = arrivals.min()
                origin[found] = np.stack(np.unravel_index(best, words.shape), axis=1)
                total[found] += least
        totals.append(total)
        origins.append(origin)
    path: list[tuple[int, bool, bool]] = []
    kept = 0
    found, chosen = (int(i) for i in np.unravel_index(totals[-1][:, 0].argmin(), totals[-1][:, 0].shape))
    for index in range(len(candidates) - 1, -1, -1):
        path.append((chosen, bool(found), bool(kept)))
        kept, (found, chosen) = found, origins[index][found, chosen].tolist()
    return reversed(path)
