"""`maximum` on the datapath: the largest of single activations times one, against plain loops, also where COMPUTEs go on with one another."""

import random

import pytest
from block_bench import instruction, simulate
from compute_reference import Reference
from datapath_bench import Bench, design
from test_datapath import random_compute, random_configuration

from hw.isa import Opcode

DESIGNS = {
    "plain": design(),
    "no register, one accumulator": design(multiplier_stages=0, acc_depth=1, rows=1),
    "16 bits, three registers": design(bits=(16, 16), acc_bits=48, multiplier_stages=3, cols=4),
    "4 bits, narrower than a word": design(bits=(4, 4), cols=2, lanes=8, multiplier_stages=2),
    "keeps words": design(lanes=4, depthwise_taps=3),
}


def choose_channels(config, reference: Reference) -> None:
    """Weights 1 at the lane of one's own channel, 0 elsewhere (the same in every word, so whatever the base)."""
    for col, bank in enumerate(reference.weights):
        for word in bank:
            word[:] = [int(lane == col % config.array.lanes) for lane in range(config.array.lanes)]


@pytest.mark.parametrize("name", DESIGNS)
def test_the_largest_activation_is_kept(name):
    config, draw = DESIGNS[name], random.Random(name)
    bench, reference = Bench(config), Reference(config, draw)
    choose_channels(config, reference)
    program = []
    for i in range(6):
        settings = random_configuration(draw, config) | {"taps": draw.randint(0, 1), "maximum": i != 3}  # sums in between
        reference.configure(**settings)
        program.append(instruction(Opcode.CONFIGURE, **settings))
        for compute in random_compute(draw, config) + random_compute(draw, config):
            reference.compute(**compute)
            program.append(instruction(Opcode.COMPUTE, **compute))

    async def main(ctx):
        await bench.fill(ctx, reference)
        await bench.run(ctx, program)
        await bench.compare(ctx, reference)

    simulate(bench.dut, main, bench.watch)


@pytest.mark.parametrize("values", [[-128, -128, -128], [-128, -127, 127], [127, 126, 127], [-1, 0, 1], [1, 0, -1], [0, -1, 0]])
@pytest.mark.parametrize("stages", range(4))
def test_extremes(values, stages):
    """Three words in a row, exact scale: the outputs are the words' largest lanes."""
    config = design(rows=1, multiplier_stages=stages)
    bench, reference = Bench(config), Reference(config, random.Random(0))
    choose_channels(config, reference)
    reference.parameters[:] = [(0, 1, 0)] * len(reference.parameters)
    reference.activations[0][:3] = [[value, -value - 1] for value in values]
    configure = instruction(Opcode.CONFIGURE, kernel_h=1, kernel_w=3, act_s_stride=1, clip_low=-128, clip_high=127, maximum=1)
    compute = instruction(Opcode.COMPUTE, tile_h=1, tile_w=1, c_groups=1, passes=1, row_mask=1, emit=1)

    async def main(ctx):
        await bench.fill(ctx, reference)
        await bench.run(ctx, [configure, compute])
        reference.outputs[0] = {(0, 0): max(values), (0, 1): max(-value - 1 for value in values)}
        await bench.compare(ctx, reference)

    simulate(bench.dut, main, bench.watch)
