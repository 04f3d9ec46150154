"""Shared blocks: what makes it sound to write a module once for many instances."""

import ast
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

import hw
from hw.pe import Pe
from hw.pe_row import PeRow
from hw.shared import MAX_REGISTER_WORDS, Emission, Shared
from hw.sram import FlipflopBank

pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")

PE = {"lanes": 2, "activation_bits": 4, "weight_bits": 4, "acc_depth": 1, "acc_bits": 16, "multiplier_stages": 1}


class Delay(Shared):
    block = "delay"

    def __init__(self, width: int, depth: int = 0, **parameters):
        self.depth = depth
        super().__init__({"a": In(width), "b": Out(width)}, **parameters)

    def body(self) -> Module:
        m = Module()
        m.d.sync += self.b.eq(self.a)
        if self.depth:
            m.submodules.memory = memory = Memory(shape=4, depth=self.depth, init=[])
            memory.read_port(), memory.write_port()
        return m


@pytest.mark.parametrize("name", PE)
def test_the_module_name_tells_every_parameter(name):
    assert Pe(**PE).module_name == Pe(**PE).module_name
    changed = PE | {name: 2 * PE[name]}
    assert Pe(**changed).module_name != Pe(**PE).module_name
    row = {"cols": 2, "post_lanes": 1}
    assert PeRow(**row, **changed).module_name != PeRow(**row, **PE).module_name


def test_all_instances_are_of_one_module():
    emission = Emission()
    row = PeRow(cols=4, post_lanes=1, **PE)
    text = emission.convert(row, "row")
    assert text.count("module \\") == 1
    assert text.count(f"cell \\{Pe(**PE).module_name} \\pe_") == 4
    assert [block.module_name for block in emission.pending] == [Pe(**PE).module_name]


def test_two_different_blocks_of_one_name_are_refused():
    emission = Emission()
    emission.record(Delay(4, w=4))
    emission.record(Delay(4, w=4))
    with pytest.raises(AssertionError, match="two different blocks are called delay_w4"):
        emission.record(Delay(5, w=4))


def test_a_large_memory_must_be_a_bank():
    Emission().convert(Delay(4, depth=MAX_REGISTER_WORDS), "small")
    Emission().convert(FlipflopBank(words=4 * MAX_REGISTER_WORDS, bits=4), "bank")
    with pytest.raises(AssertionError, match="must be a bank"):
        Emission().convert(Delay(4, depth=MAX_REGISTER_WORDS + 1), "large")


def test_no_block_is_wrapped_in_an_enable_or_reset_inserter():
    """Amaranth ignores both silently on an instance: simulation would work and the Verilog would not."""
    for path in Path(hw.__file__).parent.rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & {"EnableInserter", "ResetInserter"}, path
