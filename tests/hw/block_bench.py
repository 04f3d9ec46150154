"""What the tests of single blocks share: configurations, random instructions, streams with random stalls in Amaranth's simulator."""

import random

from amaranth.sim import Simulator

from hw.config import AcceleratorConfig, load_design
from hw.isa import Opcode, encode


def variant(base: str = "medium", **changes: dict) -> AcceleratorConfig:
    """A named design with some keys of its sections changed, e.g. `memory={"axi_data_bits": 32}`."""
    plain = load_design(base).model_dump()
    for section, values in changes.items():
        plain[section] |= values
    return AcceleratorConfig.model_validate(plain)


def simulate(block, main, *background, clocks: dict[str, float] | None = None) -> None:
    """Run `block` with the benches (async functions of the context) until `main` returns."""
    simulator = Simulator(block)
    for domain, period in (clocks or {"sync": 1e-6}).items():
        simulator.add_clock(period, domain=domain)
    for bench in background:
        simulator.add_testbench(bench, background=True)
    simulator.add_testbench(main)
    simulator.run()


async def until(ctx, condition, *, limit: int = 50_000, domain: str = "sync") -> int:
    """Let clocks pass until `condition()` holds; returns how many. More than `limit` is a failure."""
    for clocks in range(limit):
        if condition():
            return clocks
        await ctx.tick(domain)
    raise AssertionError("time-out")


def source(ports: list, valid, ready, items: list, *, domain: str = "sync", stall: float = 0.0, seed: int = 0):
    """A bench that offers `items` (tuples of values for `ports`) in order; `items` may grow while it runs."""
    draw = random.Random(seed)

    async def bench(ctx):
        while True:
            while not items or draw.random() < stall:
                await ctx.tick(domain)
            for port, value in zip(ports, items[0], strict=True):
                ctx.set(port, value)
            ctx.set(valid, 1)
            while not (await ctx.tick(domain).sample(ready))[-1]:
                pass
            ctx.set(valid, 0)
            items.pop(0)

    return bench


def sink(ports: list, valid, ready, taken: list, *, domain: str = "sync", stall: float = 0.0, seed: int = 0):
    """A bench that takes items and appends them to `taken` as tuples. Checks that an item offered stays until it is taken."""
    draw = random.Random(seed)

    async def bench(ctx):
        waiting = None
        while True:
            ctx.set(ready, int(draw.random() >= stall))
            *values, is_valid, is_ready = (await ctx.tick(domain).sample(*ports, valid, ready))[-len(ports) - 2 :]
            if waiting is not None:
                assert is_valid and tuple(values) == waiting, "an item on offer changed before it was taken"
            waiting = None
            if is_valid and is_ready:
                taken.append(tuple(values))
            elif is_valid:
                waiting = tuple(values)

    return bench


def instruction(opcode: Opcode, **values: int) -> int:
    """One instruction as the number on `instr_payload`."""
    return int.from_bytes(encode(opcode, **values), "little")
