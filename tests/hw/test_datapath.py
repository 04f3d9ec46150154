"""The datapath against plain loops over the same banks: outputs bit by bit, and every event counter."""

import random

import pytest
from amaranth.hdl import ResetInserter, Signal
from block_bench import instruction, simulate
from compute_reference import Reference
from datapath_bench import Bench, design

from hw.config import AcceleratorConfig
from hw.isa import Opcode

DESIGNS = {
    "plain": design(),
    "registers 0": design(multiplier_stages=0, rows=1, acc_depth=1),
    "registers 2, wider than a word": design(multiplier_stages=2, cols=8, lanes=2, post_lanes=2, rows=1),
    "registers 3, 4 bits": design(multiplier_stages=3, bits=(4, 4), cols=4, lanes=4, post_lanes=4, rows=1),
    "narrower than a word": design(cols=2, lanes=8, rows=3, acc_depth=8),
    "narrower, two post lanes": design(cols=2, lanes=4, post_lanes=2, rows=2, acc_depth=2, multiplier_stages=3),
    "16 bits": design(bits=(16, 16), acc_bits=48, acc_depth=2, multiplier_stages=3, axi=32),
    "16 by 4 bits, sums wrap": design(bits=(16, 4), acc_bits=20, acc_depth=2, multiplier_stages=2),
    "4 by 16 bits, flip-flops": design(bits=(4, 16), kind="flipflop", rows=1, cols=4, acc_depth=1, post_lanes=2),
    "sixteen rows": design(rows=16, acc_depth=1, multiplier_stages=0),
    "keeps words": design(lanes=4, depthwise_taps=3),
    "keeps as many words as lanes": design(cols=4, lanes=2, depthwise_taps=2, multiplier_stages=0, acc_depth=8),
    "keeps eight words, narrower than a word": design(cols=2, lanes=8, depthwise_taps=8, rows=1, acc_depth=8, multiplier_stages=3, bits=(4, 8)),
    "keeps five words, one accumulator": design(cols=4, lanes=8, depthwise_taps=5, acc_depth=1, multiplier_stages=2, post_lanes=2, bits=(16, 16), acc_bits=48),
}


CASES = [(name, config.array.depthwise_taps) for name, config in DESIGNS.items()] + [
    ("keeps eight words, narrower than a word", 3), ("keeps five words, one accumulator", 2), ("keeps five words, one accumulator", 4)
]  # fmt: skip


def leave_lanes_beyond(taps: int, reference: Reference) -> None:
    """Where a dot product takes several words, the lanes that are left over must have weight 0."""
    for bank in reference.weights if taps else ():
        for word in bank:
            word[taps:] = [0] * len(word[taps:])


def random_configuration(draw: random.Random, config: AcceleratorConfig, taps: int = 0) -> dict[str, int]:
    half = 1 << config.precision.activation_bits - 1
    low, high = sorted((draw.choice([-half, draw.randrange(-half, half)]), draw.choice([half - 1, draw.randrange(-half, half)])))
    strides = {f"act_{name}_stride": draw.choice([0, 1, draw.randrange(64), draw.randrange(2**14)]) for name in "xyrsc"}
    kernel = {"kernel_h": draw.randint(1, 3), "kernel_w": draw.randint(1, 3), "taps": draw.randint(0, 1)}
    if draw.random() < 0.7 and taps:
        kernel["taps"] = taps
    if kernel["taps"] > 1 and draw.random() < 0.7:  # pixels that share words
        strides["act_x_stride"] = draw.choice([1, 2, 3, 4]) * strides["act_s_stride"] % 2**14
    kernel["maximum"] = 0
    return kernel | strides | {"output_group_stride": draw.randrange(64), "zero_point": draw.randrange(-half, half), "clip_low": low, "clip_high": high}


def random_compute(draw: random.Random, config: AcceleratorConfig) -> list[dict[str, int]]:
    """One COMPUTE, or a chain that accumulates."""
    array = config.array
    tile = {"tile_h": draw.randint(1, 3), "tile_w": draw.choice([1, 2, 3, 5])}
    passes, chain = draw.randint(1, 3), draw.choice([1, 1, 2, 3])
    if chain > 1:
        passes, tile = 1, {"tile_h": 1, "tile_w": draw.randint(1, array.acc_depth)}
    common = tile | {"passes": passes, "row_mask": draw.choice([2**array.rows - 1, draw.randrange(1, 2**array.rows)])}
    common |= {"parameter_base": draw.randrange(0, config.buffers.parameter_words, array.post_lanes), "output_base": draw.randrange(64)}
    common["channel_offset"] = draw.randrange(0, array.lanes, array.cols) if array.cols < array.lanes else 0
    links = []
    for i in range(chain):
        bases = {"act_base": draw.randrange(64), "weight_base": draw.randrange(128)}
        links.append(common | bases | {"c_groups": draw.randint(1, 3), "accumulate": i > 0, "emit": i == chain - 1})
    return links


def random_program(draw: random.Random, config: AcceleratorConfig, reference: Reference, taps: int = 0) -> list[int]:
    """Instructions, executed on `reference` as they are drawn."""
    program = []
    for _ in range(4):
        settings = random_configuration(draw, config, taps)
        reference.configure(**settings)
        program.append(instruction(Opcode.CONFIGURE, **settings))
        for _ in range(4):
            for compute in random_compute(draw, config):
                reference.compute(**compute)
                program.append(instruction(Opcode.COMPUTE, **compute))
        program.append(instruction(Opcode.SYNC, engine=1))
    return program


@pytest.mark.parametrize(("name", "taps"), CASES)
def test_outputs_and_events_are_those_of_plain_loops(name, taps):
    config, draw = DESIGNS[name], random.Random(name)
    bench, reference = Bench(config), Reference(config, draw)
    leave_lanes_beyond(taps, reference)
    program = random_program(draw, config, reference, taps)

    async def main(ctx):
        await bench.fill(ctx, reference)
        bench.events.clear()
        await bench.run(ctx, program)
        bench.events.pop("stall_drain", None)
        assert bench.events == reference.events
        await bench.compare(ctx, reference)
        assert bench.events["output_reads"] == config.array.rows * config.output_words

    simulate(bench.dut, main, bench.watch)


@pytest.mark.parametrize("moment", [1, 7, 20, 33, 61])
def test_a_reset_in_mid_work_leaves_no_trace(moment):
    config, draw = design(multiplier_stages=2, lanes=4), random.Random(moment)
    bench, reference = Bench(config), Reference(config, draw)
    settings = random_configuration(draw, config)
    unfinished = [instruction(Opcode.CONFIGURE, **settings)]
    unfinished += [instruction(Opcode.COMPUTE, **compute) for compute in random_compute(draw, config) + random_compute(draw, config)]
    program = random_program(draw, config, reference)
    reset = Signal()

    async def main(ctx):
        await bench.fill(ctx, reference)
        for one in unfinished:
            ctx.set(bench.dut.instr_payload, one)
            ctx.set(bench.dut.instr_valid, 1)
            await ctx.tick().repeat(moment)
        ctx.set(bench.dut.instr_valid, 0)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        bench.done.clear()
        await bench.run(ctx, program)
        assert len(bench.done) == len(program)
        await bench.compare(ctx, reference, only_written=True)

    simulate(ResetInserter(reset)(bench.dut), main, bench.watch)
