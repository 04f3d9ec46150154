"""A part of `make torture`, and that it can fail."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
import torture  # noqa: E402


def test_malformed_inputs_get_one_line(tmp_path):
    found, failures = torture.torture(150, 11, tmp_path)
    assert not failures, failures
    names = {name for name, _ in found}
    assert {"design", "network", "technology", "ONNX", "Timeloop", "Liberty", "table", "model", "command line"} <= names
    assert sum(number for (_, outcome), number in found.items() if outcome == "refused") > 75


def test_a_reader_that_breaks_is_found():
    outcomes = [torture.problem(lambda error=error: (_ for _ in ()).throw(error))[0] for error in (KeyError("x"), ValueError("x"), RecursionError())]
    assert outcomes == ["failed"] * 3
    assert torture.command_problem(["rtl", "--design", "no/none.yaml"])[0] == "refused"
