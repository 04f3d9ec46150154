"""Memories of flip-flops, for technologies without figures of memory macros: the same module in Verilog, synthesized like any other block.

A word is a register with its own write enable, hence behind a clock gate, and a read goes through a tree of multiplexers. A replay
must know what the words hold when a recording begins. The recorded reads tell; of a word that is not read before it is written, no
output depends on it, and it counts as 0.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flow import recording
from flow.cache import DEFAULT_CACHE, run_step, step
from flow.recording import Waveform, record
from flow.simulation import Rtl
from flow.tech import Technology
from hw.emit import Block, Memory
from hw.errors import ConfigError

FLIPFLOPS = "flipflop_1r1w"
"""Kind of block of a memory made of flip-flops."""
MAX_BITS = 16_384
"""The largest memory that is made of flip-flops; what is larger would be neither sensible hardware nor quick to place."""


def with_memories(rtl: Rtl, technology: Technology, *, cache: Path = DEFAULT_CACHE) -> Rtl:
    """`rtl` itself where the technology has figures of memory macros; else with its memories as blocks of flip-flops instead.

    Raises `ConfigError` for a memory of more than `MAX_BITS`.
    """
    if technology.sram is not None or not rtl.macros:
        return rtl
    for memory in rtl.macros:
        if memory.words * memory.bits > MAX_BITS:
            raise ConfigError(
                f"technology {technology.name} must name its memory figures (sram: file.yaml) for {memory.module}, not leave them out; add them, or"
                f" choose buffers of at most {MAX_BITS} bits, which are made of flip-flops then"
            )
    blocks = tuple(
        Block(name=FLIPFLOPS, module=m.module, parameters={"words": m.words, "bits": m.bits}, instances=m.instances, clocks={"clk": "core"}) for m in rtl.macros
    )
    text = run_step(_memories, cache=cache, memories=tuple((m.module, m.words, m.bits) for m in rtl.macros))
    return replace(rtl, memories=text, blocks=rtl.blocks + blocks, macros=())


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


def recorded_words(trace: Path, memories: Sequence[Memory], *, cycles: int, cache: Path = DEFAULT_CACHE) -> Path:
    """The recording `trace` (VCD, `cycles` core cycles) of a design with the words of `memories` in it as they are at its beginning, called as in
    `memory_verilog`; as it is if there are none."""
    if not memories:
        return trace
    shapes = tuple((path, m.words, m.bits) for m in memories for path in m.instances)
    return run_step(_recorded_words, cache=cache, trace=trace, memories=shapes, cycles=cycles)


_SCOPE = re.compile(rb"\s*\$(scope \w+ (\S+)|upscope) \$end")


@step(version=1, modules=(recording,))
def _recorded_words(folder: Path, *, trace: Path, memories: tuple[tuple[str, int, int], ...], cycles: int) -> Path:
    waveform, variables, values = Waveform(trace), {}, []
    for number, (instance, words, bits) in enumerate(memories):
        scope = f"tb.dut.{instance}"
        held = first_words(waveform, scope, words, bits, cycles)
        names = [f"flops{number}_{word}" for word in range(words)]
        variables[scope] = [f"$var wire {bits} {name} memory_{word} [{bits - 1}:0] $end\n" for word, name in enumerate(names)]
        values += [f"b{''.join(map(str, content[::-1]))} {name}\n" for content, name in zip(held, names, strict=True)]
    path = folder / trace.name
    inside: list[str] = []
    with trace.open("rb") as source, path.open("wb") as target:
        for line in source:
            target.write(line)
            if found := _SCOPE.match(line):
                inside = [*inside, found[2].decode()] if found[2] else inside[:-1]
                if found[2]:
                    target.writelines(text.encode() for text in variables.get(".".join(inside), ()))
            if line.startswith(b"#"):
                break
        target.writelines(text.encode() for text in values)
        target.writelines(source)
    return path


def first_words(waveform: Waveform, scope: str, words: int, bits: int, cycles: int) -> np.ndarray:
    """[words, bits] what the memory at `scope` holds before the first of `cycles` recorded cycles, as far as its ports tell; else 0."""
    address = (words - 1).bit_length()
    ports = {"read_en": 1, "read_addr": address, "read_data": bits, "write_en": 1, "write_addr": address}
    values = record(waveform, scope=scope, clocks=("clk",), ports=ports, event=(), cycles=cycles).values
    weights = 1 << np.arange(address)
    reads, writes = (values[f"{kind}_addr"] @ weights for kind in ("read", "write"))
    held, told = np.zeros((words, bits), dtype=np.uint8), np.zeros(words, dtype=bool)
    for cycle in range(cycles - 1):
        if values["read_en"][cycle, 0] and not told[reads[cycle]]:
            held[reads[cycle]], told[reads[cycle]] = values["read_data"][cycle + 1], True
        if values["write_en"][cycle, 0]:
            told[writes[cycle]] = True
    return held
