"""The only paths between the two clock domains: two-clock FIFOs for data, synchronizers for levels."""

from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib.wiring import In, Out

from hw.shared import Shared, output_register, register

SYNCHRONIZER_STAGES = 2


def gray(value: Value) -> Value:
    """Gray code of an unsigned value."""
    return value ^ (value >> 1)


class TwoClockFifo(Shared):
    """A FIFO written in domain `write` and read in domain `read`. Both domains are reset together before use.

    Pointers cross as Gray codes through two flip-flops, storage is `depth` words of registers (a power of two, at least 4).
    `w_ready` and `r_valid` do not depend on the other side's inputs of the same cycle; `r_data` is a register.
    A word written is offered to the reader 3 to 4 read clocks later; room freed is seen 2 to 3 write clocks later.
    One word a cycle on each side as long as neither full nor empty.
    """

    block = "two_clock_fifo"
    domains = ("write", "read")

    def __init__(self, *, width: int, depth: int):
        if depth < 4 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two and at least 4, not {depth}")
        self.width, self.depth = width, depth
        ports = {
            "w_data": In(width), "w_valid": In(1), "w_ready": Out(1),
            "r_data": Out(width), "r_valid": Out(1), "r_ready": In(1),
        }  # fmt: skip
        super().__init__(ports, w=width, d=depth)

    def body(self) -> Module:
        m = Module()
        bits = self.depth.bit_length()  # one more than an index, to tell full from empty
        words = Array([register(self.width, f"word_{i}") for i in range(self.depth)])

        written, written_gray = Signal(bits), Signal(bits)
        read, read_gray = Signal(bits), Signal(bits)

        def synchronized(domain: str, source: Value, name: str) -> Signal:
            stages = [Signal(bits, name=f"{name}_{i}") for i in range(SYNCHRONIZER_STAGES)]
            m.d[domain] += Cat(stages).eq(Cat(source, stages[:-1]))
            return stages[-1]

        read_seen = synchronized("write", read_gray, "read_gray_sync")
        written_seen = synchronized("read", written_gray, "written_gray_sync")

        # Full: the writer is `depth` ahead, which in Gray code differs in exactly the two top bits.
        m.d.comb += self.w_ready.eq(written_gray != (read_seen ^ (0b11 << bits - 2)))
        with m.If(self.w_valid & self.w_ready):
            next_written = (written + 1)[:bits]
            m.d.write += [written.eq(next_written), written_gray.eq(gray(next_written)), words[written[:-1]].eq(self.w_data)]

        r_data = output_register(m, self.r_data)
        with m.If(~self.r_valid | self.r_ready):
            m.d.read += self.r_valid.eq(0)
            with m.If(read_gray != written_seen):
                next_read = (read + 1)[:bits]
                m.d.read += [read.eq(next_read), read_gray.eq(gray(next_read)), r_data.eq(words[read[:-1]]), self.r_valid.eq(1)]
        return m


class Synchronizer(Shared):
    """A level from another clock domain (or from outside), two flip-flops later. The level must last longer than one clock."""

    block = "synchronizer"

    def __init__(self) -> None:
        super().__init__({"level": In(1), "synchronized": Out(1)})

    def body(self) -> Module:
        m = Module()
        first = Signal()
        m.d.sync += [first.eq(self.level), self.synchronized.eq(first)]
        return m
