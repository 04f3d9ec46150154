"""Memories of flip-flops, for technologies without figures of memory macros: the same module in Verilog, synthesized like any other block.

A word is a register with its own write enable, hence behind a clock gate, and a read goes through a tree of multiplexers. What a
memory holds when a recording begins must be known to replay it, so memories have at most as many words as the simulator records.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flow.cache import DEFAULT_CACHE, run_step, step
from flow.simulation import Rtl
from flow.tech import Technology
from hw.emit import Block, Memory
from hw.errors import ConfigError

FLIPFLOPS = "flipflop_1r1w"
"""Kind of block of a memory made of flip-flops."""
MAX_WORDS = 32
"""Verilator records the contents of arrays of at most as many words (its --trace-max-array)."""


def with_memories(rtl: Rtl, technology: Technology, *, cache: Path = DEFAULT_CACHE) -> Rtl:
    """`rtl` itself where the technology has figures of memory macros; else with its memories as blocks of flip-flops instead.

    Raises `ConfigError` for a memory of more than `MAX_WORDS` words.
    """
    if technology.sram is not None or not rtl.macros:
        return rtl
    for memory in rtl.macros:
        if memory.words > MAX_WORDS:
            raise ConfigError(
                f"technology {technology.name} must name its memory figures (sram: file.yaml) for {memory.module}, not leave them out; add them, or"
                f" choose buffers of at most {MAX_WORDS} words, which are made of flip-flops then"
            )
    blocks = tuple(
        Block(name=FLIPFLOPS, module=m.module, parameters={"words": m.words, "bits": m.bits}, instances=m.instances, clocks={"clk": "core"}) for m in rtl.macros
    )
    return replace(rtl, memories=run_step(_memories, cache=cache, memories=tuple((m.module, m.words, m.bits) for m in rtl.macros)), blocks=rtl.blocks + blocks, macros=())


@step(version=1)
def _memories(folder: Path, *, memories: tuple[tuple[str, int, int], ...]) -> Path:
    path = folder / "memories.v"
    path.write_text("\n".join(memory_verilog(module, words, bits) for module, words, bits in memories), encoding="utf-8")
    return path


def memory_verilog(module: str, words: int, bits: int) -> str:
    """`hw.sram.Sram` of registers `memory_0`, `memory_1`, ... A read of the word that is being written, which is not allowed, gives the old one."""
    address = (words - 1).bit_length()
    names = [f"memory_{word}" for word in range(words)]
    reads = "\n".join(f"      {address}'d{word}: word = {name};" for word, name in enumerate(names))
    writes = "\n".join(f"    if (write_en && write_addr == {address}'d{word}) {name} <= write_data;" for word, name in enumerate(names))
    return f"""\
module {module}(clk, read_en, read_addr, read_data, write_en, write_addr, write_data);
  input clk, read_en, write_en;
  input [{address - 1}:0] read_addr, write_addr;
  input [{bits - 1}:0] write_data;
  output reg [{bits - 1}:0] read_data;
  reg [{bits - 1}:0] {", ".join(names)};
  reg [{bits - 1}:0] word;
  always @* begin
    case (read_addr)
{reads}
      default: word = {bits}'bx;
    endcase
  end
  always @(posedge clk) begin
    if (read_en) read_data <= word;
{writes}
  end
endmodule
"""


def recorded_words(trace: Path, memories: Sequence[Memory], *, cache: Path = DEFAULT_CACHE) -> Path:
    """A recording of a design with memory macros, in which their words are called as in `memory_verilog`; as it is if there are none."""
    return run_step(_recorded_words, cache=cache, trace=trace) if memories else trace


_WORD = re.compile(rb"^(\s*\$var \w+ \d+ \S+ memory)\[(\d+)\](?= )")


@step(version=1)
def _recorded_words(folder: Path, *, trace: Path) -> Path:
    path = folder / trace.name
    with trace.open("rb") as source, path.open("wb") as target:
        for line in source:
            target.write(_WORD.sub(rb"\1_\2", line))
            if line.startswith(b"$enddefinitions"):
                break
        target.writelines(source)
    return path
