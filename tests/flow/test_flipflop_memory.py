"""Memories of flip-flops: they do as the generator's memory macro, and their words are found again in a recording."""

import re
import subprocess

import pytest
from small_library import write_technology

from flow.flipflop_memory import FLIPFLOPS, MAX_BITS, memory_verilog, recorded_words, with_memories
from flow.recording import Waveform
from flow.simulation import Rtl
from flow.tech import load_technology
from hw.emit import Block, Memory
from hw.errors import ConfigError
from hw.sram import Sram

BENCH = """module tb; reg clk = 0, re, we, known = 0; reg [ADDRESS:0] ra, wa; reg [BITS:0] d; wire [BITS:0] one, other; integer t, differ = 0, compared = 0;
  macro m(clk, re, ra, one, we, wa, d); flops f(clk, re, ra, other, we, wa, d);
  initial begin
    $dumpfile("window.vcd"); $dumpvars(0, tb);
    for (t = 0; t < 600; t = t + 1) begin
      re = $random; we = t < WORDS || $random; ra = $random % WORDS; wa = t < WORDS ? t : $random % WORDS; d = $random;
      if (t < WORDS || (re && we && ra == wa)) re = 0;  // not before all is written, nor what is being written
      #5 clk = 1; #1 known = known | re; if (known) begin compared = compared + 1; if (one !== other) differ = differ + 1; end #4 clk = 0;
    end
    $display("compared %0d, %0d differ", compared, differ); $finish;
  end endmodule
"""


def run(folder, words: int, bits: int, flops: str) -> tuple[int, int]:
    """Cycles in which the memory macro of the generator and `flops` were compared, and in how many they differ."""
    macro = Sram(words=words, bits=bits)
    text = BENCH.replace("ADDRESS", str((words - 1).bit_length() - 1)).replace("BITS", str(bits - 1)).replace("WORDS", str(words))
    (folder / "all.v").write_text(text + macro.verilog().replace(macro.module_name, "macro") + flops)
    for command in (["iverilog", "-g2012", "-o", "bench", "all.v"], ["vvp", "-n", "bench"]):
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60, text=True)
    return tuple(int(n) for n in re.search(r"compared (\d+), (\d+) differ", done.stdout).groups())


@pytest.mark.parametrize(("words", "bits"), [(32, 5), (2, 16)])
def test_flip_flops_do_as_the_memory_macro(words, bits, tmp_path):
    compared, differ = run(tmp_path, words, bits, memory_verilog("flops", words, bits))
    assert compared > 300 and differ == 0
    wrong = memory_verilog("flops", words, bits).replace("'d1) memory_1 <=", "'d0) memory_1 <=")
    assert run(tmp_path, words, bits, wrong)[1] > 10


RECORDED = """`timescale 1ps/1ps
module unit(input clk, re, we, input [2:0] ra, wa, input [3:0] d, output [3:0] q); sram_1r1w_8x4 bank(clk, re, ra, q, we, wa, d); endmodule
module tb; reg clk = 0, re = 0, we = 1; reg [2:0] ra = 0, wa = 0; reg [3:0] d = 0; wire [3:0] q; integer t;
  unit dut(.clk(clk), .re(re), .we(we), .ra(ra), .wa(wa), .d(d), .q(q));
  initial begin
    for (t = 0; t < 30; t = t + 1) begin #5 wa = t; d = $random; re = t > 20; ra = t + 3; #5 clk = 1; #5 clk = 0; end
    $dumpfile("window.vcd"); $dumpvars(0, tb); for (t = 0; t < 8; t = t + 1) $display("word %b", dut.bank.memory[t]);
    for (t = 0; t < 40; t = t + 1) begin
      // Word 5 is written before it is read, word 6 not read.
      #5 ra = $random; wa = $random; d = $random; we = t < 4; if (we) wa = 5; re = t > 5 && ra != 6; #5 clk = 1; #5 clk = 0; end $finish; end
endmodule
"""


def test_the_words_of_a_recording_are_those_that_it_reads_before_they_are_written(tmp_path):
    (tmp_path / "all.v").write_text(RECORDED + Sram(words=8, bits=4).verilog())
    for command in (["iverilog", "-g2012", "-o", "bench", "all.v"], ["vvp", "-n", "bench"]):
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60, text=True)
    held = re.findall(r"word (\d+)", done.stdout)
    known = [held[word] if word not in (5, 6) else "0000" for word in range(8)]
    assert len(held) == 8 and len(set(held)) > 3 and held[5] != "0000"
    memory = Memory(module="sram_1r1w_8x4", words=8, bits=4, instances=("bank",))
    made = recorded_words(tmp_path / "window.vcd", [memory], cycles=40, cache=tmp_path / "cache")
    before, after = ({name: list(v.tv) for name, v in Waveform(path).below("tb.dut").items()} for path in (tmp_path / "window.vcd", made))
    assert len(before) > 10 and before == {name: changes for name, changes in after.items() if name in before}
    for word in range(8):
        ((time, value),) = after[f"bank.memory_{word}"]
        assert f"{value:04b}" == known[word] and time == before["clk"][0][0]
    assert recorded_words(tmp_path / "window.vcd", [], cycles=40, cache=tmp_path / "cache") == tmp_path / "window.vcd"


def rtl(tmp_path, words: int) -> Rtl:
    (tmp_path / "modules.v").write_text("")
    block = Block(name="post", module="post", parameters={}, instances=("post_0",), clocks={"clk": "core"})
    memory = Memory(module="sram_x", words=words, bits=8, instances=("bank_0", "bank_1"))
    return Rtl(modules=tmp_path / "modules.v", memories=tmp_path / "modules.v", blocks=(block,), macros=(memory,), content_hash="0")


def test_memories_are_blocks_of_flip_flops_where_there_are_no_figures_of_macros(tmp_path):
    technology, given = load_technology(write_technology(tmp_path)), rtl(tmp_path, 32)
    assert technology.sram is None
    made = with_memories(given, technology, cache=tmp_path / "cache")
    assert made.macros == () and made.blocks[0] == given.blocks[0] and made.content_hash == given.content_hash
    assert (made.blocks[1].name, made.blocks[1].instances, made.blocks[1].clocks) == (FLIPFLOPS, ("bank_0", "bank_1"), {"clk": "core"})
    assert made.memories.read_text() == memory_verilog("sram_x", 32, 8)
    assert with_memories(made, technology, cache=tmp_path / "cache") == made
    assert with_memories(given, load_technology("fdsoi28p"), cache=tmp_path / "cache") == given


def test_a_memory_too_large_for_flip_flops_is_refused(tmp_path):
    technology = load_technology(write_technology(tmp_path))
    with pytest.raises(ConfigError, match=r"must name its memory figures \(sram: file.yaml\) for sram_x, not leave them out; .* at most 16384 bits"):
        with_memories(rtl(tmp_path, MAX_BITS // 8 + 1), technology, cache=tmp_path / "cache")
