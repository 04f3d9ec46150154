"""Cell behaviour from Liberty expressions, and mapped netlists: structure, refusals, clock networks."""

import json
from pathlib import Path

import gate_library
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.liberty import read_library
from flow.logic import cell_logic, evaluate
from flow.netlist import CONST0, CONST1, build_netlist, clock_network, read_netlist
from hw.errors import ToolError

PDK = Path(__file__).resolve().parents[2].parent / "shared" / "pdk"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return read_library(gate_library.write_liberty(tmp_path_factory.mktemp("library") / "gates.lib"))


def module(ports: dict, cells: dict, names: dict | None = None) -> dict:
    """Yosys JSON of a module: ports {name: (direction, bits)}, cells {name: (type, {pin: bit})}."""
    bits = {b for _, port in ports.values() for b in port} | {b for _, pins in cells.values() for b in pins.values()}
    return {
        "ports": {name: {"direction": d, "bits": b} for name, (d, b) in ports.items()},
        "cells": {
            name: {"type": kind, "connections": {p: b if isinstance(b, list) else [b] for p, b in pins.items()}} for name, (kind, pins) in cells.items()
        },
        "netnames": names or {f"n{b}": {"hide_name": 0, "bits": [b]} for b in bits if isinstance(b, int)},
    }


# --- expressions --------------------------------------------------------------------------------

# A random expression as (Liberty text, Python text), written with each of Liberty's notations.
LEAVES = st.sampled_from([("A", "A"), ("B", "B"), ("C1", "C1"), ("0", "0"), ("1", "1")])
BINARY = {"and": ((" & ", " * ", " "), "&"), "or": ((" | ", " + ", "+"), "|"), "xor": ((" ^ ", "^"), "^")}


@st.composite
def expressions(draw, depth=4):
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(LEAVES)
    kind = draw(st.sampled_from(["not", "postfix", "and", "or", "xor"]))
    left = draw(expressions(depth - 1))
    if kind == "not":
        return f"!({left[0]})", f"(1-({left[1]}))"
    if kind == "postfix":
        return f"({left[0]})'", f"(1-({left[1]}))"
    right = draw(expressions(depth - 1))
    notations, operator = BINARY[kind]
    return f"({left[0]}){draw(st.sampled_from(notations))}({right[0]})", f"(({left[1]}){operator}({right[1]}))"


@settings(derandomize=True, max_examples=200, deadline=None)
@given(expressions())
def test_expressions_mean_what_python_says(expression):
    liberty, python = expression
    index = np.arange(8)
    variables = {"A": index & 1, "B": index >> 1 & 1, "C1": index >> 2}
    ours = np.broadcast_to(evaluate(liberty, variables, "test"), 8)
    expected = [eval(python, {}, {k: int(v[i]) for k, v in variables.items()}) for i in range(8)]
    assert ours.astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("text", "same"),
    [("A | B & C1", "A | (B & C1)"), ("A & B ^ C1", "A & (B ^ C1)"), ("!A ^ B", "(!A) ^ B"), ("A B' + C1", "(A & (!B)) | C1"), ("A''", "A")],
)
def test_operators_bind_as_liberty_states(text, same):
    index = np.arange(8)
    variables = {"A": index & 1, "B": index >> 1 & 1, "C1": index >> 2}
    assert np.array_equal(evaluate(text, variables, "test"), evaluate(same, variables, "test"))


@pytest.mark.parametrize("text", ["A &", "(A", "A)", "", "A @ B", "A & Z", "& A"])
def test_broken_expressions_are_refused(text):
    with pytest.raises(ToolError, match="Boolean expression must"):
        evaluate(text, {"A": np.array([False, True]), "B": np.array([False, True])}, "cell X")


# --- cells --------------------------------------------------------------------------------------


def test_full_adder_adds(library):
    logic = cell_logic(library.cells["FA"])
    for s in range(8):
        total = bin(s).count("1")
        assert (logic.outputs_table[logic.outputs.index("CO"), s], logic.outputs_table[logic.outputs.index("S"), s]) == (total >> 1, total & 1)


def test_flop_with_inverted_data_stores_the_inverse(library):
    logic = cell_logic(library.cells["DFFQN"])
    d = logic.inputs.index("D")
    assert logic.kind == "flop" and [logic.inputs[i] for i in logic.clock_inputs] == ["CK"]
    for s in range(logic.states):
        assert logic.next_table[s] == 1 - (s >> d & 1)
        assert logic.outputs_table[0, s] == s >> len(logic.inputs)
    assert not logic.depends.any()


def test_reset_acts_without_a_clock_on_both_outputs(library):
    logic = cell_logic(library.cells["DFFR"])
    reset, stored = logic.inputs.index("RN"), 1 << len(logic.inputs)
    for s in range(logic.states):
        assert logic.settle_table[s] == (1 if s & stored and s >> reset & 1 else 0)
        assert logic.outputs_table[:, s].tolist() == [bool(s & stored), not s & stored]
    assert logic.depends.tolist() == [[name == "RN" for name in logic.inputs]] * 2


def test_clock_gate_is_a_latch_and_an_and(library):
    logic = cell_logic(library.cells["ICG"])
    clock, enable = logic.inputs.index("CK"), logic.inputs.index("E")
    for s in range(8):
        ck, e, m = s >> clock & 1, s >> enable & 1, s >> 2
        assert logic.settle_table[s] == (m if ck else e)
        assert logic.outputs_table[0, s] == (ck & m)


def test_conditions_may_name_inputs_and_outputs(library):
    logic = cell_logic(library.cells["NAND2"])
    assert logic.when("A & !Y").tolist() == [False, False, False, True]
    assert logic.when(None).all()
    with pytest.raises(ToolError, match="must name pins of its cell, not 'Q'"):
        logic.when("A & Q")


@pytest.mark.parametrize("name", ["sky130_fd_sc_hd/sky130_fd_sc_hd__tt_025C_1v80", "asap7sc7p5t_28_rvt/asap7sc7p5t_SEQ_RVT_TT_nldm_220123"])
def test_cells_of_open_libraries_are_understood(name):
    path = PDK / f"{name}.lib.gz"
    if not path.exists():
        pytest.skip(f"open PDK data is absent ({path})")
    logics = [cell_logic(c) for c in read_library(path).cells.values()]
    kinds = {logic.kind for logic in logics}
    assert {"flop", "latch", "clock_gate"} <= kinds
    assert all(len(logic.clock_inputs) == 1 for logic in logics if logic.kind == "flop")


# --- netlists -----------------------------------------------------------------------------------


def test_arrays_describe_the_netlist(library):
    design = module(
        {"a": ("input", [2, 3]), "clk": ("input", [4]), "y": ("output", [6, 2, "1"])},
        {"u1": ("NAND2", {"A": 2, "B": 3, "Y": 5}), "u2": ("DFFR", {"CK": 4, "D": 5, "RN": "1", "Q": 6})},
        {
            "a": {"hide_name": 0, "bits": [2, 3]}, "$x": {"hide_name": 1, "bits": [5]}, "longer": {"hide_name": 0, "bits": [5]},
            "y": {"hide_name": 0, "bits": [6]},
        },  # fmt: skip
    )
    n = build_netlist(design, library, name="top")
    names = [n.net_names[i] for i in n.ports["y"].nets]
    assert names == ["y", "a[0]", "1'b1"] and not n.ports["y"].is_source and n.ports["a"].is_source
    nand, flop = n.cell_names.index("u1"), n.cell_names.index("u2")
    numbers = n.net_index()
    assert n.driver[numbers["longer"]] == nand and n.driver[numbers["y"]] == flop and n.driver[numbers["a[1]"]] == -1
    assert n.driver[numbers["u2/QN"]] == flop  # an unused output has a net of its own
    assert n.driver[CONST0] == n.driver[CONST1] == -1
    readers = {n.cell_names[n.pin_cell[p]] for p in n.reader_pin[n.reader_start[numbers["longer"]] : n.reader_start[numbers["longer"] + 1]]}
    assert readers == {"u2"}


def test_levelized_order_puts_every_driver_first(library):
    cells = {f"u{i}": ("INV", {"A": i + 2, "Y": i + 3}) for i in reversed(range(20))}
    n = build_netlist(module({"a": ("input", [2]), "y": ("output", [22])}, cells), library, name="chain")
    assert [n.cell_names[c] for c in n.order] == [f"u{i}" for i in range(20)]
    assert n.level[n.order].tolist() == list(range(20))


def test_a_ring_through_a_flop_is_no_loop_but_one_through_its_reset_is(library):
    ports = {"clk": ("input", [2]), "y": ("output", [4])}
    build_netlist(module(ports, {"ff": ("DFF", {"CK": 2, "D": 3, "Q": 4}), "inv": ("INV", {"A": 4, "Y": 3})}), library, name="divider")
    with pytest.raises(ToolError, match=r"combinational logic must have no loop, not (ff -> inv -> ff|inv -> ff -> inv) \(netlist ring\)"):
        build_netlist(module(ports, {"ff": ("DFFR", {"CK": 2, "D": "1", "RN": 3, "Q": 4}), "inv": ("INV", {"A": 4, "Y": 3})}), library, name="ring")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"u1": ("INV", {"A": 2, "Y": 3}), "u2": ("INV", {"A": 2, "Y": 3})}, r"each net must have one driver, not several: n3 \(netlist bad\)"),
        ({"u1": ("INV", {"A": 2, "Y": 2})}, "each net must have one driver, not several: n2"),
        ({"u1": ("INV", {"A": 9, "Y": 3})}, "each net must have a driver, not none: n9"),
        ({"u1": ("INV", {"A": "x", "Y": 3})}, "u1/A must be driven, not 'x'"),
        ({"u1": ("NAND2", {"A": 2, "Y": 3})}, "u1/B must be driven, not 'nothing'"),
        ({"u1": ("$_AND_", {"A": 2, "B": 2, "Y": 3})}, r"cell types must be in library gates or stated black boxes, not \$_AND_"),
    ],
)
def test_wrong_nets_are_refused_by_name(library, cells, message):
    with pytest.raises(ToolError, match=message):
        build_netlist(module({"a": ("input", [2]), "y": ("output", [3])}, cells), library, name="bad")


def test_black_boxes_drive_and_load_like_ports(library):
    design = module({"a": ("input", [2]), "y": ("output", [6])}, {"u1": ("NAND2", {"A": 4, "B": 5, "Y": 6})})
    design["cells"]["ram"] = {
        "type": "sram", "connections": {"addr": [2, "0"], "data": [4, 5]}, "port_directions": {"addr": "input", "data": "output"},
    }  # fmt: skip
    with pytest.raises(ToolError, match="not sram"):
        build_netlist(design, library, name="top")
    n = build_netlist(design, library, name="top", black_boxes=["sram"])
    assert n.black_boxes == {"ram": "sram"} and n.cells == 1
    assert n.ports["ram/data"].is_source and not n.ports["ram/addr"].is_source
    assert n.ports["ram/addr"].nets.tolist() == [n.ports["a"].nets[0], CONST0]


def test_files_that_are_no_netlist_are_refused(library, tmp_path):
    path = tmp_path / "n.json"
    for text in ("{", "[]", '{"modules": {}}', json.dumps({"modules": {"a": {}, "b": {}}})):
        path.write_text(text)
        with pytest.raises(ToolError, match="netlist must be Yosys JSON with module"):
            read_netlist(path, library)
    with pytest.raises(ToolError, match="netlist must be Yosys JSON"):
        read_netlist(tmp_path / "absent.json", library)


def test_clock_network_stops_at_flops_and_names_flops_without_clock(library):
    cells = {
        "buf": ("BUF", {"A": 2, "Y": 10}), "gate": ("ICG", {"CK": 10, "E": 3, "GCK": 11}), "f1": ("DFF", {"CK": 11, "D": 4, "Q": 12}),
        "f2": ("DFF", {"CK": 10, "D": 12, "Q": 13}), "mix": ("AND2", {"A": 2, "B": 13, "Y": 14}),
    }  # fmt: skip
    design = module({"clk": ("input", [2]), "en": ("input", [3]), "d": ("input", [4]), "y": ("output", [14])}, cells)
    n = build_netlist(design, library, name="top")
    network = clock_network(n, ["clk"])
    # The AND gate follows the clock, but its output clocks nothing.
    assert {n.cell_names[c] for c in network.cells} == {"buf", "gate", "mix"}
    assert {n.net_names[i] for i in np.flatnonzero(network.nets)} == {"n2", "n10", "n11"}
    with pytest.raises(ToolError, match="every flop must be clocked from en, not f[12] from elsewhere"):
        clock_network(n, ["en"])
    with pytest.raises(ToolError, match="clock must be one of the input ports"):
        clock_network(n, ["y"])
