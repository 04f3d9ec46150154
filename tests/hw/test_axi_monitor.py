"""The AXI monitor of every simulation: silent on legal traffic, and it names each breach of the protocol."""

import pytest

from hw.sim.run import SOURCES
from hw.tools import find_verilator, run_tool, tool_environment

BREACHES = {
    "valid in reset": "VALID must be low during reset",
    **{f"{channel} falls": f"{channel}VALID fell before the transfer was accepted" for channel in ("AR", "AW", "W", "R", "B")},
    **{f"{channel} changes": f"{channel} payload changed while it waited" for channel in ("AR", "AW", "R", "B")},
    "W data changes": "W payload changed while it waited",
    "WSTRB changes": "W payload changed while it waited",
    "WRAP": "read burst at 0xff4 of 12 bytes must be INCR, not burst type 2",
    "narrow beats": "write burst at 0xff8 of 8 bytes must have full-width beats, not size 1",
    "not aligned": "must start at a multiple of 4",
    "read crosses 4 KB": "read burst at 0xff8 of 12 bytes crosses a 4 KB boundary",
    "write crosses 4 KB": "write burst at 0xffc of 8 bytes crosses a 4 KB boundary",
    "no request": "read data with id 2 must answer a request, and none is open",
    "one beat too many": "read data with id 1 must answer a request, and none is open",
    "RLAST early": "RLAST must come with a burst's last beat, of which 2 are due",
    "RLAST missing": "RLAST must come with a burst's last beat, of which 1 are due",
    "response before the address": "write response with id 3 must follow a complete write",
    "response before the data": "write response with id 3 must follow a complete write",
    "other id": "write response with id 2 must follow a complete write",
    "two responses": "write response with id 3 must follow a complete write",
    "WLAST early": "WLAST must come with beat 4, not with beat 2",
    "WLAST missing": "WLAST must come with beat 2, and did not",
    "EXOKAY for a read": "RRESP must not be EXOKAY",
    "EXOKAY for a write": "BRESP must not be EXOKAY",
}


@pytest.fixture(scope="module")
def bus(tmp_path_factory):
    """A function of a breach that gives what the monitor printed."""
    folder = tmp_path_factory.mktemp("bus")
    (folder / "print.cpp").write_text('#include <cstdio>\nextern "C" void axi_violation(const char* text) { std::printf("violation %s\\n", text); }\n')
    sources = [SOURCES.parents[1] / "tests" / "hw" / "broken_bus.sv", SOURCES / "axi_monitor.sv", folder / "print.cpp"]
    flags = ["--binary", "--timing", "-O0", "--Wno-fatal", "-CFLAGS", "-std=c++20", "--top-module", "broken_bus", "--Mdir", folder / "objects"]
    run_tool([find_verilator(), *flags, *sources, "-MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include"], cwd=folder, timeout_s=600, environment=tool_environment())
    return lambda breach: run_tool([folder / "objects" / "Vbroken_bus", f"+breach={breach}"], cwd=folder, timeout_s=60)


def test_legal_traffic_is_no_violation(bus):
    """Refused offers, beats of one id between those of another, data before its address, bursts that end at 4 KB."""
    assert "violation" not in bus("none")


@pytest.mark.parametrize("breach", BREACHES)
def test_each_breach_is_named(bus, breach):
    first = next(line for line in bus(breach).splitlines() if line.startswith("violation"))
    assert first.startswith("violation BUS: ") and BREACHES[breach] in first
