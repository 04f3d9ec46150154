"""The datapath against plain loops over the same banks: outputs bit by bit, every event counter, and the cycles it takes."""

import random
from collections import Counter

import pytest
from block_bench import instruction, simulate
from compute_reference import Reference

from hw.config import AcceleratorConfig
from hw.datapath import Datapath, event_bits, weight_write_words
from hw.isa import Opcode


def design(*, bits=(8, 8), kind="sram", axi=64, **array) -> AcceleratorConfig:
    """A small accelerator: banks of 64 activation, 128 weight and 64 output words."""
    array = {"rows": 2, "cols": 2, "lanes": 2, "acc_depth": 4} | array
    lanes, (activation_bits, weight_bits) = array["lanes"], bits
    size = {
        "activation_bank_bytes": max(64, 64 * lanes * activation_bits // 8), "weight_bank_bytes": max(64, 128 * lanes * weight_bits // 8),
        "output_bank_bytes": max(64, 64 * lanes * activation_bits // 8), "parameter_words": 64 * array.get("post_lanes", 1), "kind": kind,
    }  # fmt: skip
    precision = {"activation_bits": activation_bits, "weight_bits": weight_bits}
    return AcceleratorConfig.model_validate(
        {"version": 1, "name": "block", "array": array, "precision": precision, "buffers": size, "memory": {"axi_data_bits": axi}}
    )


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
}


class Bench:
    """Drives a datapath in Amaranth's simulator."""

    def __init__(self, config: AcceleratorConfig):
        self.config, self.dut = config, Datapath(config)
        self.cycle, self.accepted, self.done, self.events = 0, [], [], Counter()

    async def watch(self, ctx):
        """Count cycles, events and completions."""
        dut, names = self.dut, list(event_bits(self.config))
        while True:
            sampled = await ctx.tick().sample(dut.done, dut.instr_valid & dut.instr_ready, *(getattr(dut, f"ev_{name}") for name in names))
            done, accepted, *events = sampled[2:]
            self.events.update({name: count for name, count in zip(names, events, strict=True) if count})
            if done:
                self.done.append(self.cycle)
            if accepted:
                self.accepted.append(self.cycle)
            self.cycle += 1

    async def fill(self, ctx, reference: Reference) -> None:
        """Write all banks through the ports that the load engine uses."""
        config, dut, array = self.config, self.dut, self.config.array

        def pack(word: list[int], bits: int) -> int:
            return sum((lane & (1 << bits) - 1) << i * bits for i, lane in enumerate(word))

        async def strobe(**values) -> None:
            for name, value in values.items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            for name in ("act_write_a", "act_write_b", "weight_write", "param_write"):
                ctx.set(getattr(dut, name), 0)

        # Two rows at a time with the data of one, through both ports; then every row by itself over it.
        for row in range(array.rows):
            for address, word in enumerate(reference.activations[row]):
                data = pack(word, config.precision.activation_bits)
                if row % 2:
                    await strobe(act_write_b=1 << row, act_write_addr_b=address, act_write_addr_a=0, act_write_data=data)
                else:
                    following = 1 << row + 1 if row + 1 < array.rows else 0
                    await strobe(act_write_a=1 << row, act_write_addr_a=address, act_write_b=following, act_write_addr_b=address, act_write_data=data)
        width, at_once = config.weight_word_bits, weight_write_words(config)
        for first in range(0, array.cols, at_once):
            for address in range(config.weight_words):
                words = [pack(reference.weights[col][address], config.precision.weight_bits) for col in range(first, first + at_once)]
                data = sum(word << i * width for i, word in enumerate(words))
                await strobe(weight_write=((1 << at_once) - 1) << first, weight_write_addr=address, weight_write_data=data)
        for channel, (bias, multiplier, shift) in enumerate(reference.parameters):
            data = (bias & 2**32 - 1) | multiplier << 32 | shift << 48 | 0x3FF << 54
            await strobe(param_write=1 << channel % array.post_lanes, param_write_addr=channel // array.post_lanes, param_write_data=data)

    async def run(self, ctx, program: list[int]) -> None:
        """Offer the instructions without a pause and wait until all are done."""
        goal = len(self.done) + len(program)
        for one in program:
            ctx.set(self.dut.instr_payload, one)
            ctx.set(self.dut.instr_valid, 1)
            while not (await ctx.tick().sample(self.dut.instr_ready))[-1]:
                assert self.cycle < 200_000, "time-out"
            ctx.set(self.dut.instr_valid, 0)
        while len(self.done) < goal:
            await ctx.tick()
            assert self.cycle < 200_000, "time-out"
        assert ctx.get(self.dut.idle)

    async def compare(self, ctx, reference: Reference) -> None:
        """Read all output words; those never written must still be as they were."""
        config, dut, bits = self.config, self.dut, self.config.precision.activation_bits
        for row in range(config.array.rows):
            for address in range(config.output_words):
                ctx.set(dut.out_read_en, 1)
                ctx.set(dut.out_read_bank, row)
                ctx.set(dut.out_read_addr, address)
                await ctx.tick()
                ctx.set(dut.out_read_en, 0)
                ctx.set(dut.out_read_bank, 15)  # must not matter
                found = ctx.get(dut.out_read_data)
                expected = [reference.outputs[row].get((address, lane), 0) for lane in range(config.array.lanes)]
                lanes = [found >> i * bits & (1 << bits) - 1 for i in range(config.array.lanes)]
                assert lanes == [value & (1 << bits) - 1 for value in expected], f"row {row}, word {address}"


def random_configuration(draw: random.Random, config: AcceleratorConfig) -> dict[str, int]:
    half = 1 << config.precision.activation_bits - 1
    low, high = sorted((draw.choice([-half, draw.randrange(-half, half)]), draw.choice([half - 1, draw.randrange(-half, half)])))
    strides = {f"act_{name}_stride": draw.choice([0, 1, draw.randrange(64), draw.randrange(2**14)]) for name in "xyrsc"}
    kernel = {"kernel_h": draw.randint(1, 3), "kernel_w": draw.randint(1, 3)}
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


@pytest.mark.parametrize("name", DESIGNS)
def test_outputs_and_events_are_those_of_plain_loops(name):
    config, draw = DESIGNS[name], random.Random(name)
    bench, reference = Bench(config), Reference(config, draw)
    program = []
    for _ in range(4):
        settings = random_configuration(draw, config)
        reference.configure(**settings)
        program.append(instruction(Opcode.CONFIGURE, **settings))
        for _ in range(4):
            for compute in random_compute(draw, config):
                reference.compute(**compute)
                program.append(instruction(Opcode.COMPUTE, **compute))
        program.append(instruction(Opcode.SYNC, engine=1))

    async def main(ctx):
        await bench.fill(ctx, reference)
        bench.events.clear()
        await bench.run(ctx, program)
        bench.events.pop("stall_drain", None)
        assert bench.events == reference.events
        await bench.compare(ctx, reference)
        assert bench.events["output_reads"] == config.array.rows * config.output_words

    simulate(bench.dut, main, bench.watch)


STEP = {"act_base": 0, "weight_base": 0, "parameter_base": 0, "output_base": 0, "accumulate": 0, "emit": 1, "channel_offset": 0, "row_mask": 1}
CONFIGURE = {"kernel_h": 1, "act_x_stride": 1, "clip_low": -8, "clip_high": 7}


def cycles_of(config: AcceleratorConfig, kernel_w: int, computes: list[dict[str, int]]) -> Bench:
    """Run COMPUTEs back to back on empty banks; the first instruction is a CONFIGURE."""
    bench = Bench(config)
    program = [instruction(Opcode.CONFIGURE, **CONFIGURE, kernel_w=kernel_w)]
    program += [instruction(Opcode.COMPUTE, **(STEP | compute)) for compute in computes]

    async def main(ctx):
        await bench.run(ctx, program)

    simulate(bench.dut, main, bench.watch)
    return bench


@pytest.mark.parametrize("stages", range(4))
@pytest.mark.parametrize(("height", "width", "kernel_w", "groups", "passes"), [(1, 1, 1, 1, 1), (1, 1, 5, 2, 3), (2, 3, 2, 2, 2), (3, 4, 4, 1, 1)])
def test_a_compute_takes_its_steps_and_a_constant(stages, height, width, kernel_w, groups, passes):
    config = design(rows=1, multiplier_stages=stages)
    bench = cycles_of(config, kernel_w, [{"tile_h": height, "tile_w": width, "c_groups": groups, "passes": passes}])
    pixels, drain_cycles = height * width, config.array.cols // config.array.post_lanes
    assert kernel_w * groups >= drain_cycles or pixels == 1, "draining must be hidden here"
    steps = passes * pixels * kernel_w * groups
    last_block = (pixels - 1) % config.array.acc_depth + 1
    assert bench.done[-1] - bench.accepted[-1] == steps + last_block * drain_cycles + stages + 12
    assert bench.events["stall_drain"] == 0


def test_issue_does_not_pause_between_computes_nor_while_sums_drain():
    config = design(rows=1, cols=4, acc_depth=4)
    computes = [{"tile_h": 2, "tile_w": 4, "c_groups": 1, "passes": 2}] * 5
    bench = cycles_of(config, 4, computes)  # 4 steps a pixel, and 4 cycles to drain one: exactly hidden
    assert [b - a for a, b in zip(bench.accepted[1:], bench.accepted[2:], strict=False)] == [2 * 8 * 4] * 4
    assert bench.events["compute_busy"] == 5 * 2 * 8 * 4 and bench.events["stall_drain"] == 0


def test_where_draining_takes_longer_it_sets_the_pace():
    config = design(rows=1, cols=8, acc_depth=4)
    bench = cycles_of(config, 2, [{"tile_h": 2, "tile_w": 4, "c_groups": 1, "passes": 2}] * 4)
    blocks, drain_cycles, issue_cycles = 4 * 2 * 2, 4 * 8, 4 * 2
    busy = bench.done[-1] - bench.accepted[1]
    assert busy == issue_cycles + blocks * drain_cycles + config.array.multiplier_stages + 12
    # Issue is over when the last block but two has drained and the last one has issued; it waited for all else.
    assert bench.events["stall_drain"] == (blocks - 2) * drain_cycles - (blocks - 2) * issue_cycles


def test_short_instructions_are_limited_in_flight():
    config = design(rows=1, post_lanes=2)
    bench = cycles_of(config, 1, [{"tile_h": 1, "tile_w": 1, "c_groups": 1, "passes": 1}] * 12)
    assert len(bench.done) == 13
    in_flight = [sum(1 for d in bench.accepted if d <= cycle) - sum(1 for d in bench.done if d <= cycle) for cycle in range(bench.cycle)]
    assert max(in_flight) == 4
