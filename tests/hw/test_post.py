"""Requantization, bit by bit against exact integers, at the limits of every field."""

import random

import pytest
from block_bench import simulate
from compute_reference import requantize

from hw.post import LATENCY, PARAMETER_BITS, Post


def cases(draw: random.Random, acc_bits: int, zero_point: int, low: int, high: int):
    """(sum, bias, multiplier, shift), with the expected output: extremes, exact ties, values near the limits of clipping, random ones."""
    most, bias_most = (1 << acc_bits - 1) - 1, 2**31 - 1
    for total in (most, -most - 1, 0, -1, 1):
        for bias in (bias_most, -bias_most - 1, 0):
            for multiplier in (0, 1, 2**15, 2**16 - 1):
                for shift in (0, 1, 15, 16, 31, 47, 48, 63):
                    yield total, bias, multiplier, shift
    for _ in range(600):
        shift = draw.randrange(1, 24)
        wanted = draw.randint(low - zero_point - 3, high - zero_point + 3)
        tie = 1 << shift - 1
        product = (wanted << shift) + draw.choice([0, 1, -1, tie, tie - 1, tie + 1, tie + (1 << draw.randrange(shift))])
        multiplier = draw.choice([1, 1 << draw.randrange(16)])
        if product % multiplier == 0 and abs(product // multiplier) <= most - 100:
            bias = draw.randint(-100, 100)
            yield product // multiplier - bias, bias, multiplier, shift
    # A tie, and each single bit below it, which alone decides that an even quotient is rounded up.
    for shift in range(1, min(acc_bits, 40) - 4):
        for lost in (0, *(1 << bit for bit in range(shift - 1))):
            yield (2 << shift) + (1 << shift - 1) + lost, 0, 1, shift
    for _ in range(600):
        size = draw.randrange(1, acc_bits)
        yield draw.randrange(-(1 << size - 1), 1 << size - 1), draw.randint(-(2**20), 2**20), draw.randrange(2**16), draw.randrange(64)


@pytest.mark.parametrize(("bits", "acc_bits", "post_lanes", "word_lanes"), [(8, 32, 1, 4), (8, 32, 2, 2), (4, 16, 1, 2), (16, 48, 4, 8), (4, 48, 2, 8)])
def test_outputs_are_exact_and_packed_in_order(bits, acc_bits, post_lanes, word_lanes):
    draw = random.Random(f"{bits} {acc_bits} {post_lanes}")
    half = 1 << bits - 1
    settings = [(0, -half, half - 1), (half - 1, -half, half - 1), (-half, -half, half - 1), (half // 2, half // 2, half - 1), (-1, -2, 1)]
    for zero_point, low, high in settings[: None if post_lanes == 1 else 3]:
        todo = list(cases(draw, acc_bits, zero_point, low, high))
        todo = todo[: len(todo) // word_lanes * word_lanes]
        expected = [requantize(*case, zero_point, low, high) & (1 << bits) - 1 for case in todo]
        words = [expected[i : i + word_lanes] for i in range(0, len(expected), word_lanes)]
        dut = Post(post_lanes=post_lanes, word_lanes=word_lanes, activation_bits=bits, acc_bits=acc_bits)
        found, latencies, starts = [], [], []

        async def main(ctx, dut=dut, todo=todo, found=found, setting=(zero_point, low, high), latencies=latencies, starts=starts, words=words):
            for port, value in zip((dut.zero_point, dut.clip_low, dut.clip_high), setting, strict=True):
                ctx.set(port, value)
            sums, cycle, next_case = 0, 0, 0
            while len(found) < len(words):
                go = next_case < len(todo) and draw.random() < 0.8
                ctx.set(dut.sums, sums)
                sums = draw.randrange(1 << len(dut.sums))  # whatever, unless `start` says otherwise
                ctx.set(dut.start, go)
                ctx.set(dut.param_data, draw.randrange(1 << len(dut.param_data)))
                if go:
                    group, params = todo[next_case : next_case + post_lanes], 0
                    sums = sum((case[0] & (1 << acc_bits) - 1) << i * acc_bits for i, case in enumerate(group))
                    for i, (_total, bias, multiplier, shift) in enumerate(group):
                        params |= (bias & 2**32 - 1 | multiplier << 32 | shift << 48) << i * PARAMETER_BITS
                    ctx.set(dut.param_data, params)
                    next_case += post_lanes
                    if next_case % word_lanes == 0:
                        starts.append(cycle)
                if ctx.get(dut.word_valid):
                    word = ctx.get(dut.word)
                    found.append([word >> i * bits & (1 << bits) - 1 for i in range(word_lanes)])
                    latencies.append(cycle)
                await ctx.tick()
                cycle += 1

        simulate(dut, main)
        assert found == words
        assert [end - start for start, end in zip(starts, latencies, strict=True)] == [LATENCY] * len(words)
