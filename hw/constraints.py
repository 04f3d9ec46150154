"""What a chip's builder needs beside the Verilog: timing constraints (SDC) and power intent (UPF, IEEE 1801) of an accelerator.

Both are Tcl and take their numbers from variables that must be set before they are read. The core's supply scales, the memory side's
does not. Two-clock FIFOs belong to the memory side's supply, so that their memory clock never meets a slow core voltage.
"""

from collections.abc import Mapping, Sequence

MEMORY_BLOCKS = ("memory_read", "memory_write", "axi_lite", "irq_synchronizer")
"""Instances of the memory side beside the FIFOs; everything else, the logic between blocks included, is the core."""


def _needs(variables: Mapping[str, str]) -> list[str]:
    """Tcl that refuses to go on without `variables` (name to meaning)."""
    lines = [f"#   {name:<18}{meaning}" for name, meaning in variables.items()]
    check = '    if {![info exists $needed]} {error "$needed must be set before this file is read"}'
    return [*lines, f"foreach needed {{{' '.join(variables)}}} {{", check, "}", ""]


def sdc(ports: Sequence[Mapping]) -> str:
    """Timing constraints for `ports` as in interface.json (name, direction, bits, clock)."""
    lines = ["# Two clocks that know nothing of each other. In the libraries' unit of time, to be set first:"]
    lines += _needs({
        "core_period": "period of core_clk", "mem_period": "period of mem_clk",
        "input_delay": "of every input, after its clock's edge", "output_delay": "of every output, before its clock's edge",
    })  # fmt: skip
    clocks = ("core_clk", "mem_clk")
    lines += [f"create_clock -name {clock} -period ${clock.removesuffix('_clk')}_period [get_ports {clock}]" for clock in clocks]
    lines += [
        "set_clock_groups -asynchronous -group {core_clk} -group {mem_clk}",
        "# The bits of a pointer between the clocks (<fifo>/*_gray to *_gray_sync_0) must arrive within one period of the faster clock of each other:",
        "# check that after routing, as asynchronous groups are not timed.",
    ]
    for port in ports:
        if port["clock"] is None and port["name"] not in clocks:
            lines.append(f"set_false_path -{'from' if port['direction'] == 'input' else 'to'} [get_ports {_pattern(port)}]")
    for clock in clocks:
        for direction in ("input", "output"):
            names = [_pattern(port) for port in ports if (port["clock"], port["direction"]) == (clock, direction)]
            lines.append(f"set_{direction}_delay ${direction}_delay -clock {clock} [get_ports {{{' '.join(names)}}}]")
    return "\n".join(lines) + "\n"


def _pattern(port: Mapping) -> str:
    return port["name"] if port["bits"] == 1 else f"{port['name']}[*]"


def upf(ports: Sequence[Mapping], fifos: Sequence[str], top: str) -> str:
    """Power intent: two domains and the level shifters between them. `fifos` are the instances of two-clock FIFOs."""
    lines = ["# Two supplies: the core's scales with its clock, the memory side's is nominal. In volts, to be set first:"]
    lines += _needs({"core_vdd_min_v": "least core supply", "core_vdd_max_v": "largest core supply", "mem_vdd_v": "supply of the memory side"})
    lines += ["upf_version 2.1", f"set_design_top {top}", ""]
    for supply in ("core", "mem"):
        net = f"vdd_{supply}"
        lines += [f"create_supply_port {net}", f"create_supply_net {net}", f"connect_supply_net {net} -ports {net}"]
    lines += ["create_supply_port vss", "create_supply_net vss", "connect_supply_net vss -ports vss"]
    lines += [f"create_supply_set ss_{supply} -function {{power vdd_{supply}}} -function {{ground vss}}" for supply in ("core", "mem")]
    lines += [
        "", "# Two-clock FIFOs have the nominal supply, so that their memory clock never meets a slow core voltage.",
        "create_power_domain pd_core -include_scope -supply {primary ss_core}",
        f"create_power_domain pd_mem -elements {{{' '.join((*MEMORY_BLOCKS, *sorted(fifos)))}}} -supply {{primary ss_mem}}", "",
    ]  # fmt: skip
    for supply in ("core", "mem"):
        clock = f"{supply}_clk"
        for direction, attribute in (("input", "driver_supply"), ("output", "receiver_supply")):
            # `op_ack` comes from the unit that makes the core's supply and clock.
            mine = [
                _pattern(port) for port in ports
                if port["direction"] == direction and (port["clock"] or (port["name"] if port["name"] == "mem_clk" else "core_clk")) == clock
            ]  # fmt: skip
            lines.append(f"set_port_attributes -ports {{{' '.join(mine)}}} -{attribute} ss_{supply}")
    lines += [
        "",
        "# Every signal between the domains passes one level shifter, at the memory side's boundary, where both supplies are at hand.",
        "set_level_shifter to_mem -domain pd_mem -applies_to inputs -source ss_core -rule both -location self",
        "set_level_shifter from_mem -domain pd_mem -applies_to outputs -sink ss_core -rule both -location self",
        "# Pins of the memory side lie on the top, which is the core's: they keep their own supply on the way.",
        "set_level_shifter pins_in -domain pd_mem -applies_to inputs -source ss_mem -no_shift",
        "set_level_shifter pins_out -domain pd_mem -applies_to outputs -sink ss_mem -no_shift",
        "",
        'add_power_state ss_core -state [list on -supply_expr "power == {FULL_ON $core_vdd_min_v $core_vdd_max_v} && ground == {FULL_ON 0}"]',
        'add_power_state ss_mem -state [list on -supply_expr "power == {FULL_ON $mem_vdd_v} && ground == {FULL_ON 0}"]',
    ]
    return "\n".join(lines) + "\n"
