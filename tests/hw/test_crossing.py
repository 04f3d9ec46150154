"""The two-clock FIFO at many clock ratios, against a list."""

import pytest
from amaranth.hdl import DomainRenamer, ResetInserter, Signal
from block_bench import simulate, sink, source, until

from hw.crossing import Synchronizer, TwoClockFifo
from hw.queue import Queue

RATIOS = [(1.0, 8.0), (1.0, 7.877), (1.0, 3.17), (1.0, 1.618), (1.0, 1.013), (1.0, 1.0), (1.414, 1.0), (2.718, 1.0), (7.921, 1.0), (8.0, 1.0)]
"""From 1:8 to 8:1, most of them incommensurate, so that edges meet in every order."""


def run(fifo, *, write_period: float, read_period: float, words: int, write_stall: float, read_stall: float):
    """Everything that comes out of `fifo` when 0, 1, 2, ... go in, and the write clocks that takes."""
    taken, given, clocks = [], [(i % (1 << fifo.width),) for i in range(words)], []
    writer = source([fifo.w_data], fifo.w_valid, fifo.w_ready, given, domain="write", stall=write_stall, seed=1)
    reader = sink([fifo.r_data], fifo.r_valid, fifo.r_ready, taken, domain="read", stall=read_stall, seed=2)

    async def main(ctx):
        clocks.append(await until(ctx, lambda: len(taken) == words, domain="write"))
        for _ in range(20):  # nothing more may come
            await ctx.tick("read")

    simulate(fifo, main, writer, reader, clocks={"write": write_period * 1e-6, "read": read_period * 1e-6})
    return [value for (value,) in taken], clocks[0]


@pytest.mark.parametrize("write_period, read_period", RATIOS)
@pytest.mark.parametrize("depth", [4, 16])
@pytest.mark.parametrize("stalls", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.3)])
def test_everything_comes_out_once_and_in_order(write_period, read_period, depth, stalls):
    fifo = TwoClockFifo(width=9, depth=depth)
    taken, _ = run(fifo, write_period=write_period, read_period=read_period, words=100, write_stall=stalls[0], read_stall=stalls[1])
    assert taken == list(range(100))


@pytest.mark.parametrize("write_period, read_period", [(1.0, 7.877), (1.0, 1.618), (2.718, 1.0), (7.921, 1.0)])
@pytest.mark.parametrize("held", [3, 25])
def test_reset_in_mid_stream_empties_it(write_period, read_period, held):
    """Both domains are reset while words are on their way; only words written afterwards come out, all of them."""
    fifo = TwoClockFifo(width=9, depth=8)
    resets = {domain: Signal(name=f"{domain}_reset") for domain in ("write", "read")}
    taken = []

    async def write(ctx, words):
        """Offer each word until it is taken, for 40 clocks at most."""
        words = list(words)
        for _ in range(40):
            ctx.set(fifo.w_valid, len(words) > 0)
            ctx.set(fifo.w_data, words[0] if words else 0)
            if (await ctx.tick("write").sample(fifo.w_ready))[-1] and words:
                words.pop(0)
        ctx.set(fifo.w_valid, 0)

    async def main(ctx):
        await write(ctx, range(held))
        for level in (1, 0):
            for reset in resets.values():
                ctx.set(reset, level)
            for domain in 4 * ("write", "read"):
                await ctx.tick(domain)
        assert not ctx.get(fifo.r_valid) and ctx.get(fifo.w_ready)
        await write(ctx, range(100, 108))
        while len(taken) < 8:
            ctx.set(fifo.r_ready, 1)
            valid, value = (await ctx.tick("read").sample(fifo.r_valid, fifo.r_data))[-2:]
            taken.extend([value] if valid else [])

    simulate(ResetInserter(resets)(fifo), main, clocks={"write": write_period * 1e-6, "read": read_period * 1e-6})
    assert taken == list(range(100, 108))


@pytest.mark.parametrize("read_period", [0.9, 1.0])
def test_with_eight_words_a_fifo_passes_one_every_clock(read_period):
    taken, clocks = run(TwoClockFifo(width=8, depth=8), write_period=1.0, read_period=read_period, words=200, write_stall=0, read_stall=0)
    assert taken == list(range(200))
    assert clocks <= 200 + 10


def test_a_full_fifo_refuses_and_keeps_what_it_has():
    fifo = TwoClockFifo(width=8, depth=4)
    given = [(i,) for i in range(20)]
    writer = source([fifo.w_data], fifo.w_valid, fifo.w_ready, given, domain="write")

    async def main(ctx):
        for _ in range(40):
            await ctx.tick("write")
        assert len(given) == 20 - 5  # four words and the output register
        assert not ctx.get(fifo.w_ready) and ctx.get(fifo.r_valid) and ctx.get(fifo.r_data) == 0

    simulate(fifo, main, writer, clocks={"write": 1e-6, "read": 1.3e-6})


@pytest.mark.parametrize("depth", [2, 3, 24])
def test_depth_must_be_a_power_of_two(depth):
    with pytest.raises(ValueError, match="depth"):
        TwoClockFifo(width=1, depth=depth)


@pytest.mark.parametrize("stalls", [(0.0, 0.0), (0.6, 0.1), (0.1, 0.6)])
def test_queue(stalls):
    queue = Queue(width=8, depth=4)
    queue_in_two_names = DomainRenamer("both")(queue)
    given, taken = [(i,) for i in range(100)], []

    async def main(ctx):
        await until(ctx, lambda: len(taken) == 100, domain="both")
        assert [value for (value,) in taken] == list(range(100))
        # Clearing empties it.
        given.extend([(1,), (2,)])
        await until(ctx, lambda: not given, domain="both")
        ctx.set(queue.clear, 1)
        await ctx.tick("both")
        ctx.set(queue.clear, 0)
        assert not ctx.get(queue.r_valid)

    writer = source([queue.w_data], queue.w_valid, queue.w_ready, given, domain="both", stall=stalls[0], seed=3)
    reader = sink([queue.r_data], queue.r_valid, queue.r_ready, taken, domain="both", stall=stalls[1], seed=4)
    simulate(queue_in_two_names, main, writer, reader, clocks={"both": 1e-6})


def test_synchronizer_takes_two_clocks():
    synchronizer = Synchronizer()

    async def main(ctx):
        ctx.set(synchronizer.level, 1)
        seen = []
        for _ in range(4):
            await ctx.tick()
            seen.append(ctx.get(synchronizer.synchronized))
        assert seen == [0, 1, 1, 1]

    simulate(synchronizer, main)
