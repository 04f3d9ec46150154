"""Power intent as a Tcl interpreter reads it: the two domains hold the whole design, and every signal between them has its level shifter.

(The timing constraints are read by OpenSTA with a synthesized netlist, in the tests of the flow.)
"""

import json
import re
from fnmatch import fnmatchcase

import pytest

from hw.config import load_design
from hw.constraints import sdc
from hw.emit import emit
from hw.errors import ToolError
from hw.tools import run_tool
from hw.verify.crossings import crossings

NUMBERS = {"core_vdd_min_v": 0.5, "core_vdd_max_v": 1.0, "mem_vdd_v": 1.0}
UPF_COMMANDS = (
    "upf_version", "set_design_top", "create_supply_port", "create_supply_net", "connect_supply_net", "create_supply_set", "create_power_domain",
    "set_port_attributes", "set_level_shifter", "add_power_state",
)  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return emit(load_design("small"), tmp_path_factory.mktemp("small"))


def commands(bundle, folder, numbers=NUMBERS) -> list[list[str]]:
    """Every UPF command with its arguments, as OpenSTA's Tcl interpreter calls them."""
    script = [f"set {name} {value}" for name, value in numbers.items()]
    script += [f'proc {name} args {{puts "<{name}|[join $args |]>"}}' for name in UPF_COMMANDS]
    script += [f"source {bundle.constraints[1]}", "exit"]
    (folder / "read.tcl").write_text("\n".join(script) + "\n")
    output = run_tool(["sta", "-no_splash", "-exit", "read.tcl"], cwd=folder, timeout_s=60)
    if "Error" in output:
        raise ToolError(output.strip())
    return [line[1:-1].split("|") for line in output.splitlines() if line.startswith("<")]


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_power_intent(small, tmp_path):
    read = commands(small, tmp_path)
    domains = {command[1]: command for command in read if command[0] == "create_power_domain"}
    assert "-include_scope" in domains["pd_core"] and set(domains) == {"pd_core", "pd_mem"}
    inside = option(domains["pd_mem"], "-elements").split()

    # Every instance of the top, and which clocks it has: those of the memory clock, and no others, are in its domain.
    text = small.verilog[0].read_text()
    top = re.search(r"^module accelerator\(.*?^endmodule", text, re.MULTILINE | re.DOTALL)[0]
    instances = dict(re.findall(r"^  \w+ (\w+) \((.*?)\);", top, re.MULTILINE | re.DOTALL))
    clocked = {name for name, connections in instances.items() if "(mem_clk)" in connections}
    assert set(inside) == clocked and len(inside) == len(set(inside))

    # Every crossing between the clocks passes the domain's boundary on exactly one side, or stays within it.
    for crossing in crossings(small):
        assert crossing.through in inside or crossing.through == "op_ack_synchronizer"

    shifters = [command for command in read if command[0] == "set_level_shifter"]
    directions = {(option(c, "-applies_to"), c[c.index("-source" if "-source" in c else "-sink") + 1]): "-no_shift" not in c for c in shifters}
    assert directions == {("inputs", "ss_core"): True, ("outputs", "ss_core"): True, ("inputs", "ss_mem"): False, ("outputs", "ss_mem"): False}
    assert all(option(c, "-domain") == "pd_mem" for c in shifters)
    states = {command[1]: command[-1] for command in read if command[0] == "add_power_state"}
    assert states["ss_core"] == "on -supply_expr {power == {FULL_ON 0.5 1.0} && ground == {FULL_ON 0}}"
    assert {"ss_core", "ss_mem"} == set(states) == {command[1] for command in read if command[0] == "create_supply_set"}


def test_each_pin_has_the_supply_of_its_clock(small, tmp_path):
    found = {}
    for command in commands(small, tmp_path):
        if command[0] == "set_port_attributes":
            for name in option(command, "-ports").split():
                assert name not in found
                found[name.removesuffix("[*]")] = (command[-2], command[-1])
    ports = json.loads(small.interface.read_text())["ports"]
    assert set(found) == {port["name"] for port in ports}
    for port in ports:
        attribute, supply = found[port["name"]]
        assert attribute == ("-driver_supply" if port["direction"] == "input" else "-receiver_supply")
        expected = {"core_clk": "ss_core", "mem_clk": "ss_mem", None: "ss_mem" if port["name"] == "mem_clk" else "ss_core"}
        assert supply == expected[port["clock"]]


@pytest.mark.parametrize("missing", NUMBERS)
def test_a_number_that_is_not_set_is_an_error(small, tmp_path, missing):
    with pytest.raises(ToolError, match=f"{missing} must be set"):
        commands(small, tmp_path, {name: value for name, value in NUMBERS.items() if name != missing})


def test_every_pin_is_timed_or_named_as_untimed(small):
    ports = json.loads(small.interface.read_text())["ports"]
    text = sdc(ports)
    assert text == small.constraints[0].read_text()
    covered = re.findall(r"\[get_ports \{?([^}]*?)\}?\]$", text, re.MULTILINE)
    names = [name for group in covered for name in group.split()]
    for port in ports:
        assert sum(fnmatchcase(port["name"], name.removesuffix("[*]")) for name in names) == 1
