"""Floorplans: legal, as good as the best of all slicing floorplans, pulls like a circuit of resistors by hand, wires shorter than by chance."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest

from flow.floorplan import anneal, attraction, plan_boxes

PIN = 1.0


def circuit(cells, nets, boxes):
    """What `attraction` reads of a netlist: `cells` and `boxes` give the nets at the pins of each."""
    owners = [(c, net) for c, found in enumerate(cells) for net in found]
    ports = {f"{name}/{k}": SimpleNamespace(nets=np.array([net])) for name, found in boxes.items() for k, net in enumerate(found)}
    return SimpleNamespace(
        cells=len(cells), nets=nets, pin_cell=np.array([c for c, _ in owners], dtype=int), pin_net=np.array([n for _, n in owners], dtype=int), ports=ports,
        black_boxes=dict.fromkeys(boxes, "box"),
    )  # fmt: skip


def plans(parts):
    """Width, height of every slicing plan of the sizes `parts`, in any order."""
    if len(parts) == 1:
        yield parts[0]
        return
    for cut in range(1, len(parts)):
        for w, h in plans(parts[:cut]):
            for x, y in plans(parts[cut:]):
                yield w + x, max(h, y)
                yield max(w, x), h + y


def overlap(at, size):
    low, high = np.maximum(at[:, None], at[None]), np.minimum((at + size)[:, None], (at + size)[None])
    return np.triu(np.clip(high - low, 0, None).prod(axis=2), 1).max()


def test_boxes_without_wires_are_packed_as_well_as_any_slicing_plan_does():
    rng = np.random.default_rng(3)
    for _ in range(3):
        size = rng.uniform(1, 5, (4, 2))
        at = anneal(size, np.zeros((4, 4)))
        width, height = (at + size).max(axis=0)
        best = min(w * h + 0.5 * max(w, h) ** 2 for order in permutations(size.tolist()) for w, h in plans([tuple(s) for s in order]))
        assert width * height + 0.5 * max(width, height) ** 2 == pytest.approx(best, rel=1e-9)
        assert overlap(at, size) < 1e-9 and (at >= 0).all()


def test_pull_is_the_conductance_between_boxes():
    """a - net - cell - net - b: four pins in series. b and c share a net: two pins. Net 4 is ignored."""
    netlist = circuit(cells=[(0, 1)], nets=5, boxes={"a": [0, 4], "b": [1, 2], "c": [2, 4]})
    ignored = np.array([False, False, False, False, True])
    expected = np.array([[0, PIN / 4, 0], [PIN / 4, 0, PIN / 2], [0, PIN / 2, 0]])
    np.testing.assert_allclose(attraction(netlist, ["a", "b", "c"], ignored), expected, atol=1e-6)


def test_a_net_of_three_pulls_as_a_star():
    netlist = circuit(cells=[], nets=1, boxes={"a": [0], "b": [0], "c": [0]})
    np.testing.assert_allclose(attraction(netlist, ["a", "b", "c"], np.array([False])), (1 - np.eye(3)) / 3, atol=1e-6)


def test_wires_are_shorter_than_by_chance():
    """Sixteen equal boxes wired in a ring whose order has nothing to do with their numbers."""
    ring = np.random.default_rng(1).permutation(16)
    pull = np.zeros((16, 16))
    pull[ring, np.roll(ring, 1)] = pull[np.roll(ring, 1), ring] = 1.0
    at = anneal(np.ones((16, 2)), pull)

    def length(at):
        return (pull * np.abs(at[:, None] - at[None]).sum(axis=2)).sum() / 2

    chance = [length(np.random.default_rng(k).permutation(at)) for k in range(200)]
    assert length(at) <= 1.2 * 16 < min(chance)
    assert overlap(at, np.ones((16, 2))) < 1e-9


def test_boxes_stand_on_rows_with_room_for_the_cells():
    sizes = {"a": (30.0, 20.3), "b": (12.5, 8.0), "c": (12.5, 9.0), "d": (3.0, 3.0)}
    netlist = circuit(cells=[], nets=2, boxes={"a": [0], "b": [0, 1], "c": [1], "d": [1]})
    plan = plan_boxes(netlist, sizes, cells_um2=300.0, row_um=1.2, ignored=np.zeros(2, dtype=bool))
    at, size = np.array([plan.boxes[name] for name in sizes]), np.array(list(sizes.values()))
    np.testing.assert_allclose(at[:, 1] / 1.2, np.round(at[:, 1] / 1.2), atol=1e-9)
    assert overlap(at, size) < 1e-9 and (at >= 0).all() and ((at + size).max(axis=0) <= [plan.width_um, plan.height_um]).all()
    assert plan.width_um * plan.height_um - size.prod(axis=1).sum() >= 300.0
    again = plan_boxes(netlist, sizes, cells_um2=300.0, row_um=1.2, ignored=np.zeros(2, dtype=bool))
    assert again == plan


def test_a_module_without_boxes_is_nearly_square():
    plan = plan_boxes(circuit(cells=[], nets=2, boxes={}), {}, cells_um2=1000.0, row_um=1.2, ignored=np.zeros(2, dtype=bool))
    assert plan.boxes == {} and plan.width_um * plan.height_um == pytest.approx(1000.0, rel=0.05)
    assert 0.8 < plan.width_um / plan.height_um < 1.25
