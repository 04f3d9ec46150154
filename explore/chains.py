"""What the layers of a network find of each other's outputs: chains of layers that could keep activations on chip.

Whether a layer may find its input on chip is the compiler's rule (`hw.on_chip_choice`), on a graph. An ONNX model is one. A table of `hw/networks` is
none: `chains.yaml` says which of its layers read what the layer before them writes.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from hw.config import load_design
from hw.errors import ConfigError
from hw.golden import QuantizedLayer
from hw.graph import Graph, HostStep, LayerStep, Tensor
from hw.layers import LayerShape, Network, load_network
from hw.lowering import Lowering, lower
from hw.on_chip_choice import needed_in_memory, operands_from
from hw.settings import Settings, parse, read_yaml

CHAINS = Path(__file__).with_name("chains.yaml")
ALEXNET_CONV = "alexnet_conv"
"""AlexNet's convolutions by themselves."""


class Link(NamedTuple):
    """Of a layer: how many of its operands it could find on chip of the layer before, and whether somebody else needs its own output in memory."""

    found: int
    stored: bool


class TableChains(Settings):
    """Of a table: layers that read just what the layer before them writes, and layers whose output others than the next layer read too."""

    linked: list[str]
    also_read: list[str] = []


class _Chains(Settings):
    version: Literal[1]
    tables: dict[str, TableChains]


class Found(NamedTuple):
    """A network, the one that it is part of, and what the layers of that find on chip; no links if nothing may stay there."""

    network: Network
    whole: Network
    links: tuple[Link, ...]

    @property
    def own_links(self) -> tuple[Link, ...]:
        """Those of the network's own layers, which follow on each other in the whole."""
        names = {layer.name for layer in self.network.layers}
        return tuple(link for layer, link in zip(self.whole.layers, self.links, strict=False) if layer.name in names)


def find_network(name: str, *, on_chip: bool = False) -> Found:
    """The network of that name, or in that file: a table, or an ONNX model. `ConfigError` if with `on_chip` the connections of its layers are not known."""
    if name.endswith(".onnx"):
        from hw.onnx_import import import_onnx  # every process of an exploration imports this module, and few read a model

        graph = import_onnx(Path(name))
        network = graph.network(re.sub(r"^[^a-z]+|[^a-z0-9_]", "_", Path(name).stem.lower()).lstrip("_")[:40] or "model", name)
        return Found(network, network, graph_links(graph) if on_chip else ())
    whole = load_network("alexnet" if name == ALEXNET_CONV else name)
    part = whole.select([layer.name for layer in whole.layers if layer.kind == "conv"], ALEXNET_CONV) if name == ALEXNET_CONV else whole
    return Found(part, whole, table_links(whole) if on_chip else ())


@cache
def table_chains() -> dict[str, TableChains]:
    """By name, the tables whose chains are known."""
    return dict(parse(_Chains, read_yaml(CHAINS), str(CHAINS)).tables)


def table_links(network: Network) -> tuple[Link, ...]:
    """Of every layer of a table; `ConfigError` if its chains are not known."""
    known = table_chains()
    if network.name not in known:
        what = f"network must be one whose layers' connections are known ({', '.join(sorted(known))}, or an ONNX model), not {network.name}"
        raise ConfigError(f"{what}; give the ONNX model, or leave --on-chip out")
    return graph_links(_table_graph(network, known[network.name]))


def graph_links(graph: Graph) -> tuple[Link, ...]:
    """Of every layer of a graph, in its order."""
    links: list[Link] = []
    config = load_design("small")  # whether a layer is a product or takes vectors is the same on all designs
    before: LayerStep | None = None
    lowerings: dict[str, Lowering] = {}
    for step in graph.steps:
        if isinstance(step, HostStep):
            before = None
            continue
        lowerings[step.name] = lower(config, step.layer.shape)
        found = len(operands_from(graph, before, step, lowerings)) if before else 0
        if found and before:
            links[-1] = links[-1]._replace(stored=needed_in_memory(graph, before, step))
        links.append(Link(found, True))
        before = step
    return tuple(links)


def _table_graph(network: Network, chains: TableChains) -> Graph:
    """A table as a graph: layers that are not linked read tensors from outside."""
    names = [layer.name for layer in network.layers]
    if unknown := (set(chains.linked) | set(chains.also_read)) - set(names[1:] + names[:1]):
        raise ConfigError(f"chains must name layers of {network.name}, not {sorted(unknown)[0]} ({CHAINS.name})")
    tensors: dict[str, Tensor] = {}
    steps: list[LayerStep] = []
    inputs: list[str] = []

    def tensor(name: str, channels: int, height: int, width: int, *, outside: bool = False) -> str:
        tensors[name] = Tensor(name=name, channels=channels, height=height, width=width)
        if outside:
            inputs.append(name)
        return name

    for shape in network.layers:
        size = (shape.in_channels, shape.in_h, shape.in_w)
        if shape.name in chains.linked:
            if not steps or tensors[steps[-1].output].shape != size:
                raise ConfigError(f"layer {shape.name} of {network.name} must read what the layer before it writes, not another size ({CHAINS.name})")
            source = steps[-1].output
        else:
            source = tensor(f"{shape.name}.input", *size, outside=True)
        second = tensor(f"{shape.name}.second", *size, outside=True) if shape.kind in ("add", "matmul") else None
        output = tensor(shape.name, shape.out_channels, shape.out_h, shape.out_w)
        steps.append(LayerStep(layer=_without_numbers(shape), input=source, second=second, output=output))
    outputs = [name for name, behind in zip(names, [*names[1:], ""], strict=True) if name in chains.also_read or behind not in chains.linked]
    return Graph(name=network.name, batch=1, tensors=tensors, steps=tuple(steps), inputs=tuple(inputs), outputs=tuple(outputs))


def _without_numbers(shape: LayerShape) -> QuantizedLayer:
    """A layer whose weights are all zero, and take no room."""
    sizes: tuple[int, ...] = (shape.out_channels, shape.in_channels // shape.groups, shape.kernel_h, shape.kernel_w)
    weights = np.broadcast_to(np.int8(0), {"conv": sizes, "fc": sizes, "add": (2, 1)}.get(shape.kind, (0,)))
    zero = np.broadcast_to(np.int64(0), (shape.out_channels,))
    return QuantizedLayer(
        shape=shape, weights=weights, bias=zero, multiplier=zero, shift=zero, input_zero_point=shape.input_zero_point, output_zero_point=0, clip_low=-128,
        clip_high=127, second_zero_point=shape.second_zero_point,
    )  # fmt: skip


def chains(found: Sequence[int], present: Sequence[bool]) -> list[range]:
    """The layers that are `present`, of which each may find so many operands on chip, as chains that follow on each other: ranges of indices."""
    parts: list[range] = []
    for i, operands in enumerate(found):
        if not present[i]:
            continue
        if operands and parts and parts[-1].stop == i:
            parts[-1] = range(parts[-1].start, i + 1)
        else:
            parts.append(range(i, i + 1))
    return parts
