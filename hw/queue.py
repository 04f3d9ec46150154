"""A small queue within one clock domain."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib.wiring import In, Out

from hw.shared import Shared, register


class Queue(Shared):
    """`depth` words of registers (a power of two), in order. `w_ready` and `r_valid` depend on registers only.

    A word written is offered in the next cycle; one word a cycle on each side. `clear` empties it.
    """

    block = "queue"

    def __init__(self, *, width: int, depth: int):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two and at least 2, not {depth}")
        self.width, self.depth = width, depth
        ports = {
            "clear": In(1), "w_data": In(width), "w_valid": In(1), "w_ready": Out(1),
            "r_data": Out(width), "r_valid": Out(1), "r_ready": In(1),
        }  # fmt: skip
        super().__init__(ports, w=width, d=depth)

    def body(self) -> Module:
        m = Module()
        words = Array([register(self.width, f"word_{i}") for i in range(self.depth)])
        bits = self.depth.bit_length()
        written, read = Signal(bits), Signal(bits)
        m.d.comb += [
            self.w_ready.eq(written != (read ^ self.depth)),
            self.r_valid.eq(written != read),
            self.r_data.eq(words[read[:-1]]),
        ]
        with m.If(self.w_valid & self.w_ready):
            m.d.sync += [words[written[:-1]].eq(self.w_data), written.eq(written + 1)]
        with m.If(self.r_valid & self.r_ready):
            m.d.sync += read.eq(read + 1)
        with m.If(self.clear):
            m.d.sync += [written.eq(0), read.eq(0)]
        return m
