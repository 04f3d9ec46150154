"""Finding and running external tools: time limits, failures that can be repeated, metrics."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flow import tools
from flow.doctor import examine_tools
from flow.tools import find_tool, install_verilator_wrapper, parse_metrics, run_tool, tool_version
from hw.errors import ToolError


def run_python(text: str, folder: Path, **options):
    return run_tool([sys.executable, "-c", text], cwd=folder, step="try", **{"timeout_s": 120, **options})


def test_a_run_returns_both_output_streams(tmp_path):
    run = run_python("import sys; print('out', flush=True); print('err', file=sys.stderr)", tmp_path)
    assert run.output == "out\nerr\n" == (tmp_path / "try.log").read_text()
    assert 0 < run.seconds < 20


def test_a_failed_run_gives_its_last_lines_and_a_script_that_repeats_it(tmp_path):
    text = "import os; print('\\n'.join(f'line {i}' for i in range(40))); print(os.environ['MARK'], open('input').read()); raise SystemExit(7)"
    (tmp_path / "input").write_text("it's there")
    with pytest.raises(ToolError) as caught:
        run_python(text, tmp_path, environment={"MARK": "a b'c"})
    message = str(caught.value)
    assert "must exit with 0, not 7" in message and "line 39 | a b'c it's there" in message
    assert "line 20" not in message and "\n" not in message
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    repeat = subprocess.run([moved / "try.run.sh"], check=False, capture_output=True, text=True, cwd="/")
    assert repeat.returncode == 7 and repeat.stdout.endswith("line 39\na b'c it's there\n")


def test_a_hanging_run_is_killed_with_all_it_started(tmp_path):
    child = "import os, time; open('child', 'w').write(str(os.getpid())); time.sleep(60)"
    text = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); print('waiting', flush=True); time.sleep(60)"
    begin = time.monotonic()
    with pytest.raises(ToolError, match=r"must finish within 1\.5 s.*last lines: waiting"):
        run_python(text, tmp_path, timeout_s=1.5)
    assert time.monotonic() - begin < 30
    child_pid = int((tmp_path / "child").read_text())
    for _ in range(50):
        if not _is_alive(child_pid):
            break
        time.sleep(0.1)
    assert not _is_alive(child_pid)
    assert (tmp_path / "try.run.sh").exists()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_error_line_is_a_failure_though_the_exit_code_is_zero(tmp_path):
    script = tmp_path / "script.tcl"
    script.write_text("read_liberty absent.lib\n")
    arguments = [find_tool("sta"), "-no_init", "-no_splash", "-exit", "script.tcl"]
    run_tool(arguments, cwd=tmp_path, timeout_s=120, step="sta")
    with pytest.raises(ToolError, match=r"sta must report no error, not '.*Error: .*absent\.lib"):
        run_tool(arguments, cwd=tmp_path, timeout_s=120, step="sta", error_patterns=[r"\bError:"])


def test_a_death_by_signal_and_a_missing_program_are_reported(tmp_path):
    with pytest.raises(ToolError, match="must exit normally, not by SIGSEGV"):
        run_python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", tmp_path)
    with pytest.raises(ToolError, match="absent must be a program that can be started, not No such file"):
        run_tool([tmp_path / "absent"], cwd=tmp_path, timeout_s=1, step="try")


def test_metrics_are_read_by_name():
    metrics = parse_metrics("hello\nMETRIC slack 1.5e-9 s\nMETRIC cells 12 1\n", ["cells"], step="sta")
    assert (metrics["slack"].value, metrics["slack"].unit) == (1.5e-9, "s")
    assert (metrics["cells"].value, metrics["cells"].unit) == (12, "1")


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("METRIC cells 12 1\n", "metrics slack must be printed, not missing; last lines: METRIC cells 12 1"),
        ("METRIC slack inf s\n", "metric slack must be a finite number, not 'inf'"),
        ("METRIC slack none s\n", "metric slack must be a finite number, not 'none'"),
        ("METRIC slack 1\n", "a metric must be `METRIC name value unit`, not 'METRIC slack 1'"),
        ("METRIC slack 1 s\nMETRIC slack 2 s\n", "metric slack must be printed once, not twice"),
    ],
)
def test_a_missing_or_broken_metric_is_an_error(output, problem):
    with pytest.raises(ToolError) as caught:
        parse_metrics(output, ["slack"], step="sta")
    assert str(caught.value) == f"sta: {problem}"


def test_the_doctor_names_every_tool_and_flags_a_missing_one(monkeypatch):
    rows = {row.name: row for row in examine_tools()}
    assert list(rows) == list(tools.TOOLS)
    for name in ("sta", "verilator", "yosys"):
        assert not rows[name].missing and rows[name].path.exists() and rows[name].version[0].isdigit()
    tool_version.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    rows = {row.name: row for row in examine_tools()}
    tool_version.cache_clear()
    assert rows["sta"].missing and rows["sta"].path is None and rows["sta"].install == "apt-get install opensta"
    assert not rows["yosys"].missing


def test_a_missing_tool_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolError, match=r"ngspice \(needed for .*\) must be installed, not missing; install it with `apt-get install ngspice`"):
        find_tool("ngspice")
    with pytest.raises(ToolError, match="tool must be one of sta, .*, not 'emacs'"):
        find_tool("emacs")


def test_a_tool_that_does_not_say_its_version_is_an_error(tmp_path, monkeypatch):
    fake = tmp_path / "sta"
    fake.write_text("#!/bin/sh\necho hello\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    tool_version.cache_clear()
    with pytest.raises(ToolError, match="must print its version, not 'hello'"):
        tool_version("sta")
    tool_version.cache_clear()


def test_the_verilator_wrapper_lints_and_is_laid_out_once(tmp_path):
    home = install_verilator_wrapper()
    made = (home.parent / "version").stat().st_mtime_ns
    assert install_verilator_wrapper() == home and (home.parent / "version").stat().st_mtime_ns == made
    assert find_tool("verilator") == home / "verilator"
    (tmp_path / "top.v").write_text("module top(input wire [7:0] a, output wire [7:0] y); assign y = ~a; endmodule\n")
    assert "VERILATOR_ROOT" not in os.environ
    run_tool([find_tool("verilator"), "--cc", "top.v"], cwd=tmp_path, timeout_s=240, step="verilator")
    assert (tmp_path / "obj_dir" / "Vtop.h").exists()
    (tmp_path / "top.v").write_text("module top(input wire a); assign y = ~a; endmodul\n")
    with pytest.raises(ToolError, match="verilator must exit with 0"):
        run_tool([find_tool("verilator"), "--cc", "top.v"], cwd=tmp_path, timeout_s=240, step="verilator")
