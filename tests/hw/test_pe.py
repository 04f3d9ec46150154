"""A row of processing elements, and one by itself: sums against plain loops, and nothing moving that is not enabled."""

import random

import pytest
from block_bench import simulate
from compute_reference import signed

from hw.pe import Pe
from hw.pe_row import PeRow, drain_latency


def pack(values: list[int], bits: int) -> int:
    return sum((value & (1 << bits) - 1) << i * bits for i, value in enumerate(values))


def operand(draw: random.Random, bits: int) -> int:
    return draw.choice([-(1 << bits - 1), (1 << bits - 1) - 1, 0, draw.randrange(-(1 << bits - 1), 1 << bits - 1)])


@pytest.mark.parametrize("stages", range(4))
@pytest.mark.parametrize(("lanes", "a_bits", "w_bits", "acc_bits"), [(2, 4, 16, 24), (4, 8, 8, 32), (8, 16, 4, 20), (16, 16, 16, 48)])
def test_products_of_extremes_are_summed_and_wrap(stages, lanes, a_bits, w_bits, acc_bits):
    draw = random.Random(f"{stages} {lanes}")
    dut = Pe(lanes=lanes, activation_bits=a_bits, weight_bits=w_bits, acc_depth=1, acc_bits=acc_bits, multiplier_stages=stages)

    async def main(ctx):
        ctx.set(dut.select_0, 1)
        expected = 0
        for i in range(30):
            if i % 5 == 0:
                weights = [operand(draw, w_bits) if i else -(1 << w_bits - 1) for _ in range(lanes)]
                ctx.set(dut.weight, pack(weights, w_bits))
                ctx.set(dut.weight_en, 1)
                await ctx.tick()
                ctx.set(dut.weight_en, 0)
                ctx.set(dut.weight, draw.randrange(1 << len(dut.weight)))
            activations = [operand(draw, a_bits) if i else -(1 << a_bits - 1) for _ in range(lanes)]
            ctx.set(dut.activation, pack(activations, a_bits))
            for stage in range(stages):
                ctx.set(dut.stage_en, 1 << stage)
                await ctx.tick()
                ctx.set(dut.activation, draw.randrange(1 << len(dut.activation)))  # held by the first stage
            if stages:
                ctx.set(dut.stage_en, 0)
            first = i % 7 == 0
            ctx.set(dut.first, first)
            ctx.set(dut.write_0, 1)
            await ctx.tick()
            ctx.set(dut.write_0, 0)
            expected = signed((0 if first else expected) + sum(a * w for a, w in zip(activations, weights, strict=True)), acc_bits)
            assert signed(ctx.get(dut.sum), acc_bits) == expected

    simulate(dut, main)


@pytest.mark.parametrize(("cols", "acc_depth", "stages", "post_lanes"), [(2, 1, 0, 2), (4, 4, 1, 1), (2, 2, 3, 1), (4, 8, 2, 2)])
def test_a_row_accumulates_one_bank_while_the_other_drains(cols, acc_depth, stages, post_lanes):
    """Random steps and drains in every cycle, on different banks in any one cycle, against sums kept in a dictionary."""
    draw = random.Random(cols * 10 + stages)
    lanes, bits, acc_bits = 2, 4, 16
    dut = PeRow(
        cols=cols, lanes=lanes, activation_bits=bits, weight_bits=bits, acc_depth=acc_depth, acc_bits=acc_bits,
        multiplier_stages=stages, post_lanes=post_lanes,
    )  # fmt: skip
    sums, asked, answers = {}, [], 0

    async def main(ctx):
        nonlocal answers
        activation, weights, held, latency = [0] * lanes, [], [], drain_latency(stages, 0)
        for cycle in range(600 + latency + 1):
            # The words of the step announced in the cycle before (random if there was none).
            ctx.set(dut.activation, pack(activation, bits))
            ctx.set(dut.weights, pack([w for column in weights for w in column], bits))
            activation = [operand(draw, bits) for _ in range(lanes)]
            weights = [[operand(draw, bits) for _ in range(lanes)] for _ in range(cols)]

            running, bank = cycle < 600, draw.randrange(2)
            step, loads, index = running and (cycle == 0 or draw.random() < 0.7), cycle == 0 or draw.random() < 0.4, draw.randrange(acc_depth)
            first = (bank, index, 0) not in sums or draw.random() < 0.2
            drains, drain_index, group = running and draw.random() < 0.5, draw.randrange(acc_depth), draw.randrange(cols // post_lanes)
            announced = {
                "mac_en": step, "weight_en": loads, "first": first, "mac_bank": bank, "mac_index": index,
                "drain_en": drains, "drain_bank": 1 - bank, "drain_index": drain_index, "drain_group": group,
            }  # fmt: skip
            for name, value in announced.items():
                ctx.set(getattr(dut, name), value)
            if step:
                held = weights if loads else held
                for col in range(cols):
                    before = 0 if first else sums[bank, index, col]
                    sums[bank, index, col] = signed(before + sum(a * w for a, w in zip(activation, held[col], strict=True)), acc_bits)
            if drains and (1 - bank, drain_index, 0) in sums:
                asked.append((cycle, [sums[1 - bank, drain_index, group * post_lanes + lane] for lane in range(post_lanes)]))
            arrives = asked and asked[0][0] + latency == cycle
            assert ctx.get(dut.sums_en) or not arrives
            await ctx.tick()
            if arrives:
                assert [signed(ctx.get(dut.sums) >> i * acc_bits, acc_bits) for i in range(post_lanes)] == asked.pop(0)[1]
                answers += 1

    simulate(dut, main)
    assert not asked and answers > 200


def test_nothing_moves_while_no_step_is_announced():
    """Operands on the shared wires change in every cycle; without `mac_en` neither sums nor operand registers follow."""
    draw = random.Random(0)
    dut = PeRow(cols=2, lanes=2, activation_bits=8, weight_bits=8, acc_depth=2, acc_bits=32, multiplier_stages=1, post_lanes=2)

    async def main(ctx):
        async def cycle(**values):
            for name, value in values.items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()

        await cycle(mac_en=1, weight_en=1, first=1)
        await cycle(mac_en=0, activation=pack([3, -4], 8), weights=pack([5, 6, -7, 8], 8))
        for _ in range(20):
            noise = {name: draw.randrange(1 << len(getattr(dut, name))) for name in ("activation", "weights", "weight_en", "first", "mac_bank", "mac_index")}
            await cycle(**noise)
        await cycle(drain_en=1)
        await cycle(drain_en=0)
        for _ in range(drain_latency(1, 0)):
            await ctx.tick()
        assert [signed(ctx.get(dut.sums) >> i * 32, 32) for i in range(2)] == [3 * 5 - 4 * 6, 3 * -7 - 4 * 8]

    simulate(dut, main)
