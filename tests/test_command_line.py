"""The command line: bad input gets one line and an exit code, and leaves nothing half-written behind."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = (ROOT / "hw/designs/small.yaml").read_text()


def voltfront(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run the command line as a user does, in a folder of its own."""
    command = [sys.executable, "-c", "from explore.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


def check_refused(run: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """One line on standard error with all `words`, the exit code, no traceback."""
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    assert run.returncode == code, run.stderr
    assert len(lines) == 1 and lines[0].startswith("voltfront: "), run.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("rows: 2", "rows: 0"), ("array.rows", "greater than or equal to 1", "0")),
        (("rows: 2", "rwos: 2"), ("array.rwos", "known key")),
        (("cols: 2", "cols: 3"), ("power of two", "cols")),
        (("cols: 2", "cols: two"), ("array.cols", "integer", "'two'")),
        (("activation_bank_bytes: 8192", "activation_bank_bytes: 9000"), ("activation_bank_bytes", "9000")),
        (("version: 1", "version: 9"), ("version", "9")),
        (("array:", "array: ["), ("valid YAML", "line")),
        (("version: 1", "version: " + "9" * 5000), ("valid YAML", "digits")),
        (("rows: 2", "rows: " + "x" * 5000), ("array.rows", "5002 characters")),
    ],
)
def test_a_wrong_design_is_refused_by_key_and_rule(tmp_path, change, words):
    (tmp_path / "my.yaml").write_text(SMALL.replace(*change))
    run = voltfront("rtl", "--design", "my.yaml", "--out", "out", cwd=tmp_path)
    check_refused(run, 2, "my.yaml", *words)
    assert not (tmp_path / "out").exists()


def test_names_that_do_not_exist_list_those_that_do(tmp_path):
    check_refused(voltfront("rtl", "--design", "tiny", cwd=tmp_path), 2, "small", "medium", "large")
    check_refused(voltfront("simulate", "--network", "lenet", cwd=tmp_path), 2, "alexnet")
    check_refused(voltfront("characterize", "--technology", "n7", cwd=tmp_path), 2, "fdsoi28p")
    check_refused(voltfront("characterize", "--plan", "everything", cwd=tmp_path), 2, "quick")
    check_refused(voltfront("frobnicate", cwd=tmp_path), 2, "characterize")


def test_a_network_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "net.yaml").write_text("just text")
    check_refused(voltfront("simulate", "--network", "net.yaml", cwd=tmp_path), 2, "net.yaml", "mapping")
    alexnet = (ROOT / "hw/networks/alexnet.yaml").read_text()
    (tmp_path / "net.yaml").write_text(alexnet.replace("out_channels: 96", "out_channels: 64"))
    check_refused(voltfront("simulate", "--network", "net.yaml", cwd=tmp_path), 2, "net.yaml", "724406816")


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    check_refused(voltfront("rtl", "--out", "file/rtl", cwd=tmp_path), 2, "file/rtl")


def test_a_missing_tool_is_named_with_its_remedy(tmp_path):
    run = voltfront("doctor", cwd=tmp_path, PATH=str(tmp_path))
    assert run.returncode == 3
    assert "missing: apt-get install opensta" in run.stdout and run.stderr.count("\n") == 1


def test_a_truncated_liberty_file_is_refused_by_name(tmp_path):
    home = ROOT / "flow/tech/fdsoi28p"
    for path in home.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / "fdsoi28p_tt_1p00v_25c.lib.gz"
    text = gzip.decompress(broken.read_bytes())
    broken.write_bytes(gzip.compress(text[: len(text) // 2]))
    script = (
        "from flow.tech import load_technology, read_corner\n"
        "from explore import cli\n"
        "technology = load_technology('technology.yaml')\n"
        "cli.cli.callback = lambda: read_corner(technology, technology.nominal_corner())\n"
        "cli.cli.invoke_without_command = True\n"
        "cli.main(['doctor'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    check_refused(run, 2, "fdsoi28p_tt_1p00v_25c.lib.gz")
    assert not list((tmp_path / "build/cache").rglob("value.json"))


def test_a_table_that_is_absent_says_how_to_make_it(tmp_path):
    check_refused(voltfront("fit", cwd=tmp_path), 2, "corners.csv", "voltfront characterize")
