"""Recordings: values are those just before the rising edge, phases follow the block's event."""

import numpy as np
import pytest

from flow.recording import Waveform, record
from hw.errors import ToolError

VCD = """$timescale 1ps $end
$scope module tb $end
$scope module dut $end
$var wire 1 ! clk $end
$var wire 1 " valid $end
$var wire 4 # data [3:0] $end
$scope module inner $end
$var wire 1 % held $end
$upscope $end
$upscope $end
$upscope $end
$enddefinitions $end
#0
0!
0"
b0101 #
1%
#10
1!
1"
b0011 #
#20
0!
#30
1!
0"
0%
#40
0!
#50
1!
b1111 #
#60
0!
"""


@pytest.fixture
def waveform(tmp_path):
    (tmp_path / "w.vcd").write_text(VCD)
    return Waveform(tmp_path / "w.vcd")


def test_values_are_those_before_each_edge(waveform):
    recorded = record(waveform, scope="tb.dut", clocks=("clk",), ports={"valid": 1, "data": 4, "inner/held": 1}, event=(("valid",),), cycles=3)
    # Edges at 10, 30, 50; by hand from the file above.
    np.testing.assert_array_equal(recorded.values["valid"], [[0], [1], [0]])
    np.testing.assert_array_equal(recorded.values["data"], [[1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(recorded.values["inner/held"], [[1], [1], [0]])
    np.testing.assert_array_equal(recorded.phases["active"], [False, True, False])
    np.testing.assert_array_equal(recorded.phases["idle"], [True, False, True])
    assert recorded.registers["data[2]"] == 1 and recorded.registers["inner.held"] == 1 and recorded.registers["data[1]"] == 0
    assert recorded.rises.all()


def test_what_is_missing_is_named(waveform, tmp_path):
    ask = {"scope": "tb.dut", "clocks": ("clk",), "ports": {"valid": 1}, "event": (), "cycles": 3}
    with pytest.raises(ToolError, match="4 cycles, not 3"):
        record(waveform, **{**ask, "cycles": 4})
    with pytest.raises(ToolError, match="absent"):
        record(waveform, **{**ask, "ports": {"absent": 1}})
    with pytest.raises(ToolError, match="tb.other"):
        record(waveform, **{**ask, "scope": "tb.other"})
    (tmp_path / "broken.vcd").write_text("not a waveform")
    with pytest.raises(ToolError, match="broken.vcd"):
        Waveform(tmp_path / "broken.vcd").below("tb")
