"""The memories: banks with one read and one write port, both clocked.

A bank is a memory macro (a black box in synthesis, with figures of its own) or, for small buffers, flip-flops. Either way: `read_data`
holds the word of `read_addr` from the cycle after `read_en` until the cycle after the next `read_en`. Reading the word that is being
written in the same cycle is not allowed; simulation then returns the inverse of the old word, so that a design that relies on it fails.
Contents are undefined until written.
"""

from typing import Literal

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.shared import Shared


class Sram(Shared):
    """A memory macro of `words` x `bits`."""

    block = "sram_1r1w"
    has_reset = False
    black_box = True
    is_bank = True

    def __init__(self, *, words: int, bits: int):
        self.words, self.bits = words, bits
        address = (words - 1).bit_length()
        ports = {
            "read_en": In(1), "read_addr": In(address), "read_data": Out(bits),
            "write_en": In(1), "write_addr": In(address), "write_data": In(bits),
        }  # fmt: skip
        super().__init__(ports, words=words, bits=bits)

    @property
    def module_name(self) -> str:
        return f"{self.block}_{self.words}x{self.bits}"

    def body(self) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.bits, depth=self.words, init=[])
        read, write = memory.read_port(), memory.write_port()
        collision = Signal(reset_less=True)
        with m.If(self.read_en):
            m.d.sync += collision.eq(self.write_en & (self.write_addr == self.read_addr))
        m.d.comb += [
            read.en.eq(self.read_en), read.addr.eq(self.read_addr), self.read_data.eq(Mux(collision, ~read.data, read.data)),
            write.en.eq(self.write_en), write.addr.eq(self.write_addr), write.data.eq(self.write_data),
        ]  # fmt: skip
        return m

    def verilog(self) -> str:
        """The behavioural module for simulation, and (read with `-lib`) the black box for synthesis."""
        high = (self.words - 1).bit_length() - 1
        return f"""\
module {self.module_name}(clk, read_en, read_addr, read_data, write_en, write_addr, write_data);
  input clk;
  input read_en;
  input [{high}:0] read_addr;
  output reg [{self.bits - 1}:0] read_data;
  input write_en;
  input [{high}:0] write_addr;
  input [{self.bits - 1}:0] write_data;
  reg [{self.bits - 1}:0] memory [0:{self.words - 1}];
  always @(posedge clk) begin
    if (read_en) read_data <= (write_en && write_addr == read_addr) ? ~memory[read_addr] : memory[read_addr];
    if (write_en) memory[write_addr] <= write_data;
  end
endmodule
"""


class FlipflopBank(Sram):
    """The same bank made of flip-flops: synthesized like any other block."""

    block = "flipflop_1r1w"
    black_box = False

    def body(self) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.bits, depth=self.words, init=[])
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [
            read.en.eq(self.read_en), read.addr.eq(self.read_addr), self.read_data.eq(read.data),
            write.en.eq(self.write_en), write.addr.eq(self.write_addr), write.data.eq(self.write_data),
        ]  # fmt: skip
        return m


def bank(kind: Literal["sram", "flipflop"], *, words: int, bits: int) -> Sram:
    """A bank of the given kind; `words` is at least 2."""
    return (Sram if kind == "sram" else FlipflopBank)(words=words, bits=bits)
