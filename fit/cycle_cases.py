"""Random (design, layer, tiling, clock ratio, DRAM) cases, and what each takes on the RTL: rows of `cycles.csv`.

Half of the layers are windows of real ones, the other half have sizes drawn at random; every operator comes as often as any other. Half of
the tilings are the compiler's choice, the others any legal one. Cases follow from a seed, so that a longer run begins with the shorter one's.
"""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from flow.cache import DEFAULT_CACHE
from flow.layer_simulation import simulate_layer
from flow.table import cycle_row
from hw.config import AcceleratorConfig
from hw.dram_part import load_dram_part
from hw.errors import ConfigError
from hw.layers import NETWORKS, LayerShape, load_network
from hw.lowering import folds, lower
from hw.settings import Settings, parse
from hw.tiling import Tiling, architecture, measure
from hw.tiling_choice import choose_tiling, enumerate_tilings
from hw.verify.cases import OPERATORS

LEAST_CYCLES, MOST_CYCLES = 300, 25_000
"""Array steps and beats of a case: enough that it is not all start and end, few enough that it simulates in seconds."""
CORE_PERIOD_PS, MEM_PERIODS_PS = (600, 8000), (1250, 1250, 2500)
DRAWN = "drawn"
"""Name of a layer whose sizes were drawn."""
DRAM_PARTS = ("lpddr3_1600_x32", "lpddr3_1600_x32", "lpddr2_800_x16", "lpddr4_3200_x16")
_IMAGE = {"in_h": 56, "in_w": 56}
_UNLISTED: tuple[dict, ...] = (
    {"kind": "max_pool", "in_channels": 64, "in_h": 112, "in_w": 112, "kernel_h": 3, "kernel_w": 3, "stride_h": 2, "stride_w": 2, "pad_top": 1,
     "pad_bottom": 1, "pad_left": 1, "pad_right": 1},
    {"kind": "max_pool", "in_channels": 64, "kernel_h": 2, "kernel_w": 2, "stride_h": 2, "stride_w": 2, **_IMAGE},
    {"kind": "average_pool", "in_channels": 512, "in_h": 7, "in_w": 7, "kernel_h": 7, "kernel_w": 7},
    {"kind": "average_pool", "in_channels": 96, "kernel_h": 3, "kernel_w": 3, "stride_h": 2, "stride_w": 2, **_IMAGE},
    {"kind": "add", "in_channels": 64, **_IMAGE}, {"kind": "add", "in_channels": 512, "in_h": 7, "in_w": 7},
    {"kind": "transpose", "groups": 2, "in_channels": 128, "in_h": 128}, {"kind": "transpose", "groups": 1, "in_channels": 64, "in_h": 197},
)  # fmt: skip
"""Layers that networks have and the tables of `hw/networks` leave out."""


TIMEOUT_CYCLES = 2_000_000


class CycleCase(Settings):
    """One layer on one design with a tiling, a pair of clock periods and a DRAM."""

    shape: LayerShape
    batch: int
    fold: bool
    tiling: tuple[int, int, int, int, int]
    """Fields of `hw.tiling.Tiling`."""
    core_period_ps: int
    mem_period_ps: int
    dram: str


def operator_of(shape: LayerShape) -> str:
    """The name in `hw.verify.cases.OPERATORS` of what the layer computes."""
    if shape.kind == "conv":
        if shape.groups == shape.in_channels > 1:
            return "depthwise"
        return "pointwise" if shape.kernel_h == shape.kernel_w == shape.groups == 1 else "convolution"
    return {"fc": "fully connected"}.get(shape.kind, shape.kind.replace("_", " "))


def _real_layers() -> dict[str, list[LayerShape]]:
    """Layers of real networks by operator, each named after its network."""
    found: dict[str, list[LayerShape]] = {operator: [] for operator in OPERATORS}
    for path in sorted(NETWORKS.glob("*.yaml")):
        for layer in load_network(path.stem).layers:
            found[operator_of(layer)].append(layer.model_copy(update={"name": f"{path.stem}.{layer.name}"}))
    for sizes in _UNLISTED:
        shape = parse(LayerShape, {"name": f"{sizes['kind']}.{sizes['in_channels']}x{sizes['in_h']}"} | sizes, "fit/cycle_cases.py")
        found[operator_of(shape)].append(shape)
    return found


def cases(designs: list[AcceleratorConfig], seed: int) -> Iterator[tuple[AcceleratorConfig, CycleCase]]:
    """Random cases without end."""
    rng, real = random.Random(seed), _real_layers()
    while True:
        config, operator, drawn = rng.choice(designs), rng.choice(sorted(OPERATORS)), rng.random() < 0.5
        batch, chosen, rank = rng.choice((1, 1, 2, 3)), rng.random() < 0.5, rng.random()
        low, high = CORE_PERIOD_PS
        core, memory, dram = round(low * (high / low) ** rng.random()), rng.choice(MEM_PERIODS_PS), rng.choice(DRAM_PARTS)
        try:
            if drawn:
                shape = parse(LayerShape, {"name": DRAWN} | OPERATORS[operator](rng), operator)
            else:
                whole, rows, blocks = rng.choice(real[operator]), rng.choice((1, 2, 4)), rng.choice((1, 2, 4))
                shape = whole.window(out_rows=rows * config.array.rows, out_channels=blocks * config.channel_block)
            if batch > 1 and shape.in_h == shape.in_w == shape.out_h == shape.out_w == 1 and shape.stride_h * shape.stride_w > 1:
                continue  # such layers were compiled wrongly when the cases that ship were simulated, so that they are not among them
            fold = folds(shape, config.array.lanes)
            lowering = lower(config, shape, batch=batch, fold=fold)
            legal = enumerate_tilings(config, lowering)
            tiling = choose_tiling(config, lowering) if chosen else legal[int(rank * len(legal))] if legal else None
        except ConfigError:
            continue  # the kernel does not fit into the drawn image, or no tiling of this layer into the design's buffers
        if tiling is None:
            continue
        t = measure(architecture(config), lowering.numbers, tiling)
        read = t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes + t.program_read_bytes
        if LEAST_CYCLES <= t.pixel_steps + (read + t.output_write_bytes) // config.axi_bytes <= MOST_CYCLES:
            order, tile_h, tile_w, tile_k, tile_c = (int(x) for x in tiling)
            plain = order, tile_h, tile_w, tile_k, tile_c
            yield config, CycleCase(shape=shape, batch=batch, fold=fold, tiling=plain, core_period_ps=core, mem_period_ps=memory, dram=dram)


def case_row(config: AcceleratorConfig, case: CycleCase, events: Mapping[str, int]) -> dict:
    """A case with the `events` that were counted as a row of `flow.table.CYCLE_COLUMNS`."""
    s = case.shape
    layer = f"{s.kind}.{s.in_channels}x{s.in_h}x{s.in_w}-{s.out_channels}" if s.name == DRAWN else s.name
    return cycle_row(
        config, s, layer=layer, batch=case.batch, fold=case.fold, tiling=Tiling(*case.tiling)._asdict(), core_period_ps=case.core_period_ps,
        mem_period_ps=case.mem_period_ps, dram=case.dram, events=events,
    )  # fmt: skip


def simulated_row(config: AcceleratorConfig, case: CycleCase, *, cache: Path = DEFAULT_CACHE) -> dict:
    """A case on the RTL as a row of `flow.table.CYCLE_COLUMNS`; from the cache if it was simulated before."""
    events = simulate_layer(
        config, case.shape, batch=case.batch, fold=case.fold, tiling=Tiling(*case.tiling), core_period_ps=case.core_period_ps,
        mem_period_ps=case.mem_period_ps, dram=load_dram_part(case.dram), timeout_cycles=TIMEOUT_CYCLES, cache=cache,
    )  # fmt: skip
    return case_row(config, case, events)
