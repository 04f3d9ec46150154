"""Emission: one module for many instances, the same text every time, clean for Verilator and Yosys, and a description that is true."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from block_bench import variant

from hw.config import DESIGNS, load_design
from hw.emit import emit, emit_block
from hw.errors import ConfigError, ToolError
from hw.isa import FIELDS, Opcode, encode
from hw.pe import Pe
from hw.pe_row import PeRow
from hw.post import Post
from hw.registers import EVENTS, Register, event_address
from hw.shared import Shared
from hw.tools import run_tool, tool_environment


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return emit(load_design("small"), tmp_path_factory.mktemp("small"))


def modules(text: str) -> list[str]:
    return re.findall(r"^module (\S+?)\(", text, re.MULTILINE)


def yosys(folder, *commands: str) -> str:
    (folder / "check.ys").write_text("\n".join(commands) + "\n")
    run = "import sys; from pyosys import libyosys; libyosys.run_pass('script ' + sys.argv[1], libyosys.Design())"
    return run_tool([sys.executable, "-I", "-c", run, "check.ys"], cwd=folder, timeout_s=300)


def test_modules_do_not_multiply_with_processing_elements(small, tmp_path):
    larger = emit(variant("small", array={"rows": 4, "cols": 8}), tmp_path)
    assert len(modules(larger.verilog[0].read_text())) == len(modules(small.verilog[0].read_text()))
    for bundle, rows, cols in ((small, 2, 2), (larger, 4, 8)):
        (pe,) = bundle.block("pe")
        assert set(pe.instances) == {f"datapath.pe_row_{row}.pe_{col}" for row in range(rows) for col in range(cols)}
        assert pe.clocks == {"clk": "core"}


def test_blocks_and_memories_are_those_of_the_design(small):
    config, text = small.config, small.verilog[0].read_text()
    assert {"pe", "pe_row", "post", "compute", "load", "store", "sequencer", "registers", "memory_read", "memory_write", "axi_lite"} <= {
        block.name for block in small.blocks
    }
    assert all(block.module in modules(text) for block in small.blocks)
    assert "module \\" not in text, "names that need an escape"
    assert all(set(block.clocks.values()) <= {"core", "mem", "core+mem"} for block in small.blocks)
    assert {tuple(sorted(block.clocks.items())) for block in small.block("two_clock_fifo")} == {
        (("read_clk", "mem"), ("write_clk", "core")), (("read_clk", "core"), ("write_clk", "mem")),
    }  # fmt: skip
    (memory,) = (memory for memory in small.memories if "datapath.activation_bank_1" in memory.instances)
    assert (memory.words, memory.bits) == (config.activation_words, config.activation_word_bits)
    assert modules(small.verilog[1].read_text()) == sorted(small.black_boxes)
    assert not set(small.black_boxes) & set(modules(text))


def test_emission_is_the_same_in_every_process(small, tmp_path):
    program = "import sys; from pathlib import Path; from hw.config import load_design; from hw.emit import emit; "
    program += "print(emit(load_design('small'), Path(sys.argv[1])).content_hash)"
    for seed in ("1", "2"):
        run = subprocess.run([sys.executable, "-c", program, str(tmp_path / seed)], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == small.content_hash
        assert (tmp_path / seed / "interface.json").read_text() == small.interface.read_text()


def lint(bundle, folder) -> str:
    """What Verilator says of a design with all warnings on, but for those that the emitted text itself switches off."""
    arguments = ["verilator", "--lint-only", "-Wall", "--top-module", bundle.top, *bundle.verilog]
    return run_tool(arguments, cwd=folder, timeout_s=600, environment=tool_environment())


@pytest.mark.parametrize("design", sorted(path.stem for path in DESIGNS.glob("*.yaml")))
def test_every_design_is_clean(design, tmp_path):
    assert "%Warning" not in lint(emit(load_design(design), tmp_path), tmp_path)


def test_a_warning_is_noticed(small, tmp_path):
    """A latch in the first module, which has a port core_rst."""
    latch = "\n  reg held; always @* if (core_rst) held = 1'b1;\nendmodule"
    (tmp_path / "broken.v").write_text(small.verilog[0].read_text().replace("\nendmodule", latch, 1))
    with pytest.raises(ToolError, match="LATCH"):
        lint(replace(small, verilog=(tmp_path / "broken.v", small.verilog[1])), tmp_path)


def test_verilator_and_yosys_accept_it_without_a_warning(small, tmp_path):
    assert "%Warning" not in lint(small, tmp_path)
    read = [f"read_verilog -sv {small.verilog[0]}", f"read_verilog -lib {small.verilog[1]}", f"hierarchy -check -top {small.top}", "proc"]
    assert "Warning" not in yosys(tmp_path, *read, "check -assert")


def test_nothing_relies_on_an_initial_value(small):
    text = small.verilog[0].read_text()
    assert "initial" not in text and not re.search(r"^\s*reg\b[^;]*=", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("block", "control_bits"),
    [
        (Pe(lanes=4, activation_bits=8, weight_bits=8, acc_depth=4, acc_bits=32, multiplier_stages=3), 0),
        (PeRow(cols=2, lanes=8, activation_bits=8, weight_bits=8, acc_depth=2, acc_bits=32, multiplier_stages=1, post_lanes=1), 40),
        (Post(post_lanes=2, word_lanes=4, activation_bits=8, acc_bits=32), 16),
    ],
    ids=lambda value: getattr(value, "block", None),
)
def test_registers_of_the_datapath_have_enables_that_can_gate_their_clock(block: Shared, control_bits: int, tmp_path):
    """And no reset, which could dominate the enable; all but `control_bits`, which pass on from cycle to cycle what is to be done."""
    bundle = emit_block(block, tmp_path)
    yosys(tmp_path, f"read_verilog -sv {bundle.verilog[0]}", "proc", "flatten", "opt", "write_json cells.json")
    cells = json.loads((tmp_path / "cells.json").read_text())["modules"][bundle.top]["cells"].values()
    bits = {}
    for cell in cells:
        if "dff" in cell["type"]:
            bits[cell["type"]] = bits.get(cell["type"], 0) + int(cell["parameters"]["WIDTH"], 2)
    assert bits.pop("$dffe") > 300
    assert sum(bits.values()) <= control_bits, f"registers without an enable, or with a reset: {bits}"


def test_a_block_by_itself_holds_all_below_it(tmp_path):
    row = PeRow(cols=2, lanes=2, activation_bits=4, weight_bits=4, acc_depth=1, acc_bits=16, multiplier_stages=0, post_lanes=1)
    bundle = emit_block(row, tmp_path)
    (pe,) = bundle.blocks
    assert (pe.name, pe.instances, pe.clocks) == ("pe", ("pe_0", "pe_1"), {"clk": "sync"})
    assert sorted(modules(bundle.verilog[0].read_text())) == sorted([row.module_name, pe.module])
    assert bundle.memories == () and bundle.interface is None and bundle.verilog[0].name == f"{row.module_name}.v"


def test_the_interface_describes_the_ports_instructions_and_registers(small):
    interface = json.loads(small.interface.read_text())
    header = re.search(rf"^module {small.top}\(.*?endmodule", small.verilog[0].read_text(), re.MULTILINE | re.DOTALL)[0]
    found = {}
    for direction, high, name in re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", header, re.MULTILINE):
        found[name] = (direction, int(high or 0) + 1)
    assert {port["name"]: (port["direction"], port["bits"]) for port in interface["ports"]} == found
    clocks = {port["name"]: port["clock"] for port in interface["ports"]}
    assert (clocks["m_axi_araddr"], clocks["irq"], clocks["op_req_valid"], clocks["core_rst"]) == ("mem_clk", "mem_clk", "core_clk", "core_clk")

    for opcode in Opcode:
        word = int.from_bytes(encode(opcode, **{field.name: 1 for field in FIELDS[opcode][1:]}), "little")
        layout = interface["instructions"][opcode.name]
        values = {field["name"]: word >> field["low_bit"] & (1 << field["bits"]) - 1 for field in layout["fields"]}
        assert values == {field.name: 1 for field in FIELDS[opcode][1:]} | {"opcode": layout["opcode"]}
    assert interface["registers"]["STATUS"] == Register.STATUS
    assert {name: event["address"] for name, event in interface["events"].items()} == {name: event_address(name) for name in EVENTS}


def test_an_unwritable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output folder must be writable"):
        emit_block(Pe(lanes=2, activation_bits=4, weight_bits=4, acc_depth=1, acc_bits=16, multiplier_stages=0), tmp_path / "file" / "rtl")


def test_the_largest_array_is_emitted_within_a_minute(tmp_path):
    """Time in use of this and the Yosys process, not elapsed time: other tests may run meanwhile."""
    import resource

    def used() -> float:
        return sum(r.ru_utime + r.ru_stime for r in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

    sizes = {"activation_bank_bytes": 65536, "weight_bank_bytes": 65536, "output_bank_bytes": 16384, "parameter_words": 1024}
    before = used()
    bundle = emit(variant(array={"rows": 16, "cols": 64, "lanes": 64, "acc_depth": 16, "post_lanes": 4}, buffers=sizes), tmp_path)
    assert used() - before < 60
    assert len(bundle.block("pe")[0].instances) == 1024 and len(modules(bundle.verilog[0].read_text())) < 40
