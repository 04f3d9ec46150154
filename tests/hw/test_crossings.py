"""Clock domain crossings: those of real designs are all listed, and each kind of illegal one is found."""

import json
import re
from dataclasses import replace

import pytest
from block_bench import variant

from hw.config import load_design
from hw.emit import emit
from hw.errors import ModelError
from hw.verify.crossings import check_crossings, crossings


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return emit(load_design("small"), tmp_path_factory.mktemp("small"))


def mutated(bundle, tmp_path, module: str, pattern: str, replacement: str):
    """The design with the first match of `pattern` in a module replaced."""
    text = bundle.verilog[0].read_text()
    found = re.search(rf"^module {module}\(.*?^endmodule", text, re.MULTILINE | re.DOTALL)
    body, count = re.subn(pattern, replacement, found[0], count=1)
    assert count == 1
    path = tmp_path / "mutated.v"
    path.write_text(text[: found.start()] + body + text[found.end() :])
    return replace(bundle, verilog=(path, bundle.verilog[1]))


@pytest.mark.parametrize("changes", [{}, {"array": {"rows": 3, "cols": 4}, "memory": {"axi_data_bits": 128}}], ids=["small", "wider"])
def test_every_crossing_is_in_a_fifo_or_a_synchronizer(changes, tmp_path):
    bundle = emit(variant("small", **changes), tmp_path)
    found = check_crossings(bundle)
    fifos = {name for block in bundle.block("two_clock_fifo") for name in block.instances}
    assert {crossing.through for crossing in found} == fifos | {"irq_synchronizer", "op_ack_synchronizer"}
    # Per FIFO: two pointers, and each word to the output register.
    for block in bundle.block("two_clock_fifo"):
        for name in block.instances:
            assert sum(crossing.through == name for crossing in found) == 2 + block.parameters["d"]
    assert {(c.source_domain, c.target_domain) for c in found} == {("core", "mem"), ("mem", "core"), ("outside", "core")}


FIFO, TOP = "two_clock_fifo_w2_d4", "accelerator"
MUTANTS = {  # name: module, what to replace by what, and the crossing that this makes
    "pointer past its first stage": (
        FIFO, r"(= write_rst \? 3'h0 : )read_gray_sync_0;", r"\1read_gray;",
        "store_answers.read_gray (core) to store_answers.read_gray_sync_1 (mem)",
    ),
    "first stage used": (
        FIFO, "!= written_gray_sync_1", "!= written_gray_sync_0",
        "store_answers.written_gray (mem) to store_answers.written_gray_sync_0",
    ),
    "pointer not in a register": (
        FIFO, r"(= write_rst \? 3'h0 : )read_gray;", r"\1(read_gray ^ {2'b0, read_rst});",
        "store_answers.read_gray_sync_0 (mem)",
    ),
    "logic before a synchronizer": ("synchronizer", r"(rst \? 1'h0 : )level", r"\1(level & ~synchronized)", "to irq_synchronizer.first (mem)"),
    "synchronizer of the wrong clock": (
        TOP, r"(synchronizer irq_synchronizer \(\s*\.clk\()mem_clk", r"\1core_clk",
        "irq_synchronizer.synchronized (core) to irq (mem)",
    ),
    "block of the wrong clock": (TOP, r"(?s)(axi_lite axi_lite \(.*?\.clk\()mem_clk", r"\1core_clk", "axi_lite"),
    "pins of two clocks": (TOP, r"(\.level\()op_ack\)", r"\1m_axi_rvalid & op_ack)", "m_axi_rvalid (mem) to op_ack_synchronizer.first (core)"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_an_illegal_crossing_is_found(name, small, tmp_path):
    module, pattern, replacement, message = MUTANTS[name]
    with pytest.raises(ModelError, match="a crossing must be a two-clock FIFO or a synchronizer, not .*" + re.escape(message)):
        check_crossings(mutated(small, tmp_path, module, pattern, replacement))


def test_a_gated_clock_is_refused(small, tmp_path):
    design = mutated(small, tmp_path, "accelerator", r"(synchronizer irq_synchronizer \(\s*\.clk\()mem_clk", r"\1mem_clk & op_ack")
    with pytest.raises(ModelError, match="a register's clock must be core_clk or mem_clk itself"):
        crossings(design)


def test_ports_have_the_clock_that_the_interface_says(small, tmp_path):
    """If the description calls `irq` a signal of the core, its register in the memory domain is a crossing."""
    interface = json.loads(small.interface.read_text())
    next(port for port in interface["ports"] if port["name"] == "irq")["clock"] = "core_clk"
    (tmp_path / "interface.json").write_text(json.dumps(interface))
    with pytest.raises(ModelError, match=re.escape("not irq_synchronizer.synchronized (mem) to irq (core)")):
        check_crossings(replace(small, interface=tmp_path / "interface.json"))
