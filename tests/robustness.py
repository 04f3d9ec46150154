"""What happens when things go wrong, on the real commands: kills, a full disk, a read-only folder, hanging tools, two runs at once, old and hostile files.

python tests/robustness.py            all scenarios but the two that take long
python tests/robustness.py kill-characterize kill-run --kills 50     these two
Results are kept in build/robustness.json, each with its command, date and commit; docs/robustness.md is written from them (`make robustness`).
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "explore")]
PAGE, KEPT = ROOT / "docs" / "robustness.md", Path("build/robustness.json")
EXPLORED = tuple(f"build/explore/{name}" for name in ("points.parquet", "architectures.parquet", "pareto.csv", "dvfs.csv", "layers.csv"))
SPACE = """version: 1
name: few
rows: [1, 2, 3, 4]
cols: [8]
lanes: [8, 16]
acc_depth: [16]
multiplier_stages: [1, 2]
post_lanes: [2]
activation_bank_bytes: [16384]
weight_bank_bytes: [16384]
output_bank_bytes: [2048]
axi_data_bits: [64]
vdd_v: {low: 0.5, high: 1.0, count: 4}
"""
PLAN = """version: 1
name: least
designs:
  - {version: 1, name: least, array: {rows: 1, cols: 2, lanes: 2, acc_depth: 1, post_lanes: 1}, buffers: {activation_bank_bytes: 8192, weight_bank_bytes: 8192, output_bank_bytes: 512, parameter_words: 64}, memory: {axi_data_bits: 32}}
held_out: []
activity: [{network: alexnet, layer: conv1, blocks: 1}]
activity_cycles: 300
instances: 2
runs: [{window: {network: alexnet, layer: conv3, blocks: 1}, core_period_ps: 2000}]
"""  # noqa: E501  a plan as it stands in a file
EXPLORE = (
    "explore", "--model", "model.json", "--technology", "synthetic", "--space", "space.yaml", "--network", "mobilenet_v1", "--batch", "1", "--workers", "1",
)  # fmt: skip
CHARACTERIZE = ("characterize", "--plan", "plan.yaml", "--technology", "technology_few.yaml", "--workers", "1")
KILLS_A_RUN = 10
"""So many kills come on the way of one run: few enough that it goes forward, many enough that most of its stages are met."""
TABLES = ("build/tables/fdsoi28p/corners.csv", "build/tables/fdsoi28p/paths.csv", "build/tables/cycles.csv")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was tried, and what came of it."""

    tried: str
    found: str
    ok: bool


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many kills at most, for how many minutes (counted from the first one; a last run then goes on to its end), and where chance starts."""

    kills: int
    minutes: float
    seed: int


def start(arguments: tuple[str, ...], cwd: Path, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "explore.cli", *arguments]
    given = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(command, cwd=cwd, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def voltfront(*arguments: str, cwd: Path, **environment: str) -> tuple[int, str]:
    """(exit code, what stands on standard error) of a command."""
    process = start(arguments, cwd, **environment)
    _, errors = process.communicate(timeout=3600)
    return process.returncode, errors


def refused(tried: str, outcome: tuple[int, str], *codes: int) -> Check:
    """Whether a command ended with one of `codes` and one line (behind lines of progress) without a traceback."""
    code, errors = outcome
    lines = [line for line in errors.splitlines() if line.startswith("voltfront: ")]
    ok = code in (codes or (2, 3)) and len(lines) == 1 and "Traceback" not in errors
    return Check(tried=tried, found=f"exit {code}: {lines[0] if lines else errors[-200:]}", ok=ok)


def prepare(home: Path) -> None:
    """A folder with a model, a space, a plan and a technology of two corners."""
    from few_corners import write_few_corners
    from made_up import model

    from fit.model import write_model

    home.mkdir(parents=True, exist_ok=True)
    write_model(model(), home / "model.json")
    (home / "space.yaml").write_text(SPACE)
    (home / "plan.yaml").write_text(PLAN)
    write_few_corners(home / "technology_few.yaml")


def contents(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def processor_s(process: psutil.Process) -> float:
    """Processor time of a process and of all that it started, s: unlike the clock it does not depend on what else the machine does."""
    spent = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def follow(process: subprocess.Popen, until_s: float) -> tuple[float, str]:
    """Wait until a process ends or has taken `until_s` of processor time, when it is killed with all that it started; (processor time, errors)."""
    said: list[str] = []
    known, spent, reader = psutil.Process(process.pid), 0.0, threading.Thread(target=lambda: said.extend(process.communicate()))
    reader.start()
    while reader.is_alive():
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = max(spent, processor_s(known))
        if spent >= until_s:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        reader.join(0.1)
    return spent, said[1]


def killed(arguments: tuple[str, ...], outputs: tuple[str, ...], home: Path, limits: Limits, finished: str = "", runs: int = 1) -> list[Check]:
    """Kill a command at random moments; started again each time, it must end with the same bytes as one that was let alone.

    `finished` is a pattern of files that must stay as they are once they are there. Moments are those of a Poisson process in processor time, on average
    `KILLS_A_RUN` in that of the last of `runs` runs that are let alone: with two, functions are compiled by then, so that kills meet the work and not
    their compilation. After an end all begins anew.
    """
    import hw  # noqa: F401 - says where compiled functions are kept; all runs share them

    draw = random.Random(limits.seed)
    for _ in range(runs):
        shutil.rmtree(home / "alone", ignore_errors=True)
        prepare(home / "alone")
        process = start(arguments, home / "alone")
        takes_s, errors = follow(process, math.inf)
        expected = contents(home / "alone", outputs)
        if process.returncode or len(expected) < len(outputs):
            return [Check(tried=f"voltfront {' '.join(arguments)}", found=f"exit {process.returncode}: {errors[-300:]}", ok=False)]
    done, ends, kept_files, damaged, again, place = 0, 0, 0, [], [], home / "killed"
    prepare(place)
    began = time.monotonic()
    while True:
        kept = {path: path.stat().st_mtime_ns for path in place.rglob(finished) if not any(part.startswith(".") for part in path.parts)} if finished else {}
        kept_files += len(kept)
        more = done < limits.kills and time.monotonic() - began < 60 * limits.minutes
        process = start(arguments, place)
        spent_s, errors = follow(process, draw.expovariate(KILLS_A_RUN / takes_s) if more else math.inf)
        again += [path.name for path, when in kept.items() if not path.exists() or path.stat().st_mtime_ns != when]
        if process.returncode == -signal.SIGKILL:
            done += 1
            damaged += [f"{name} after kill {done}" for name, data in contents(place, outputs).items() if data != expected[name]]
            print(f"kill {done} after {spent_s:.1f} s", file=sys.stderr, flush=True)
        elif process.returncode == 0:
            ends += 1
            damaged += [name for name in outputs if contents(place, outputs).get(name) != expected[name]]
            if not more:
                break
            shutil.rmtree(place)
            prepare(place)
        else:
            damaged.append(f"exit {process.returncode} after kill {done}: {errors[-300:]}")
            break
    every = f"on average every {takes_s / KILLS_A_RUN:.0f} s of processor time (a run let alone takes {takes_s:.0f} s)"
    found = f"{done} kills, {every}, {ends} ends, each with the bytes of the undisturbed run"
    checks = [Check(tried=f"`voltfront {arguments[0]}` killed (-9) and started again", found=", ".join(damaged) or found, ok=not damaged and done > 0)]
    if finished:
        what = f"{kept_files} files of finished steps were met again, none was made again" if not again else f"made again: {', '.join(again)}"
        checks.append(Check(tried="what was finished before a kill", found=what, ok=not again))
    return checks


def kill_explore(home: Path, limits: Limits) -> list[Check]:
    return killed(EXPLORE, EXPLORED, home, limits, finished="*.npz", runs=2)


def kill_characterize(home: Path, limits: Limits) -> list[Check]:
    """Steps that are finished stay in the cache, whose files are named by their inputs: none may be made again."""
    return killed(CHARACTERIZE, TABLES, home, limits, finished="value.json")


def kill_run(home: Path, limits: Limits) -> list[Check]:
    return killed(("run", "--space", "space.yaml", "--workers", "1"), (*TABLES, *EXPLORED), home, limits, finished="value.json")


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """`folder` as a file system of that size."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def writers() -> tuple[tuple[str, ...], ...]:
    """Commands that write, quick ones of each room."""
    return (
        ("rtl", "--design", "medium", "--out", "out/rtl"), (*EXPLORE, "--out", "out/explore"),
        ("tables", "--tables", "out/tables"), ("import", "model.onnx", "--out", "out/network.yaml"),
        ("compile", "model.onnx", "--out", "out/program"),
    )  # fmt: skip


def full_disk(home: Path, limits: Limits) -> list[Check]:
    import numpy as np

    from hw.examples.qdq import QdqModel

    prepare(home)
    model = QdqModel()
    x = model.quantized(model.learned("Conv", model.quantized("x", 0.1), np.ones((16, 16, 3, 3)), None, 0.1, pads=[1] * 4), 0.1)
    model.save(home / "model.onnx", (1, 16, 32, 32), x, (1, 16, 32, 32))
    checks = []
    for state, kilobytes in (("full", 8), ("read-only", 8)):
        for arguments in writers():
            with small_disk(home / "out", kilobytes):
                if state == "full":
                    with contextlib.suppress(OSError):
                        (home / "out" / "ballast").write_bytes(bytes(kilobytes * 1024))
                else:
                    subprocess.run(["mount", "-o", "remount,ro", home / "out"], check=True)
                check = refused(f"{state} file system: `voltfront {arguments[0]}`", voltfront(*arguments, cwd=home))
                left = [path.name for path in (home / "out").rglob("*") if path.is_file() and path.name != "ballast"]
                checks.append(Check(tried=check.tried, found=check.found + (f"; left: {', '.join(left)}" if left else ""), ok=check.ok and not left))
    return checks


def hanging_tool(home: Path, limits: Limits) -> list[Check]:
    """Tools that never end: `doctor` must say so, and a step must end at its limit with all that the tool started."""
    tools = home / "tools"
    tools.mkdir(parents=True)
    for name in ("sta", "ngspice", "iverilog"):
        (tools / name).write_text("#!/bin/sh\nsleep 4321 &\nsleep 4321\n")
        (tools / name).chmod(0o755)
    began = time.monotonic()
    code, errors = voltfront("doctor", cwd=home, PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
    took = time.monotonic() - began
    left = subprocess.run(["pgrep", "-fc", "^sleep 4321"], capture_output=True, text=True).stdout.strip()
    check = refused(f"`voltfront doctor` with three tools that never end ({took:.0f} s)", (code, errors), 3)
    return [check, Check(tried="processes that hanging tools started", found=f"{left} left", ok=left == "0")]


def two_at_once(home: Path, limits: Limits) -> list[Check]:
    prepare(home)
    code, _ = voltfront(*EXPLORE, "--out", "alone", cwd=home)
    first, second = start((*EXPLORE, "--out", "both"), home), start((*EXPLORE, "--out", "both"), home)
    errors = [process.communicate()[1] for process in (first, second)]
    same = all((home / "alone" / Path(name).name).read_bytes() == (home / "both" / Path(name).name).read_bytes() for name in EXPLORED)
    codes = (code, first.returncode, second.returncode)
    found = f"exits {codes[1]} and {codes[2]}, " + ("the same bytes as one alone" if same else "other bytes") + ("" if not any(codes) else f": {errors}")
    return [Check(tried="two `voltfront explore` at once into the same folder", found=found, ok=same and not any(codes))]


def older_files(home: Path, limits: Limits) -> list[Check]:
    prepare(home)
    model = json.loads((home / "model.json").read_text())
    (home / "old.json").write_text(json.dumps(model | {"version": model["version"] - 1}))
    (home / "old.yaml").write_text((ROOT / "hw/designs/small.yaml").read_text().replace("version: 1", "version: 0"))
    (home / "old_space.yaml").write_text(SPACE.replace("version: 1", "version: 0"))
    (home / "old_plan.yaml").write_text(PLAN.replace("version: 1", "version: 0", 1))
    (home / "build/explore").mkdir(parents=True)
    (home / "build/explore/pareto.csv").write_text("points_version,network\n1,alexnet\n")
    (home / "build/explore/run.json").write_text("{}")
    commands = {
        "model": (*EXPLORE[:2], "old.json", *EXPLORE[3:]), "design": ("rtl", "--design", "old.yaml"), "plan": ("characterize", "--plan", "old_plan.yaml"),
        "space": (*EXPLORE[:6], "old_space.yaml", *EXPLORE[7:]), "exploration, for a design": ("design", "--out", "x.yaml"),
        "exploration, for the report": ("report", "--model", "model.json", "--technology", "synthetic"),
    }  # fmt: skip
    return [refused(f"{name} of an older version", voltfront(*arguments, cwd=home), 2) for name, arguments in commands.items()]


HOSTILE = ("a b", "$(touch pwned)", "`touch pwned`", "; touch pwned;", "[exec touch pwned]", "'\"", "-rf", "%s{0}", "\u202ex", "é" * 20)


def hostile_names(home: Path, limits: Limits) -> list[Check]:
    """Folders and files of hostile names on every way to a shell, to make, to Tcl and to Yosys: refused in one line or done, and never executed."""
    checks = []
    for number, name in enumerate(HOSTILE):
        place = home / str(number) / name
        place.mkdir(parents=True)
        (place / f"{name}.yaml").write_text((ROOT / "hw/designs/small.yaml").read_text())
        (place / "named.yaml").write_text((ROOT / "hw/designs/small.yaml").read_text().replace("name: small", f"name: {json.dumps(name)}"))
        outcomes = {
            "rtl": voltfront("rtl", "--design", f"./{name}.yaml", "--out", f"./{name} out", cwd=place),
            "a design's name": voltfront("rtl", "--design", "named.yaml", cwd=place),
            "technology": voltfront("technology", f"./{name}.yaml", cwd=place),
        }
        if name in ("a b", "[exec touch pwned]"):
            outcomes["simulate"] = voltfront("simulate", "--layers", "conv3", "--blocks", "1", cwd=place)
        for what, (code, errors) in outcomes.items():
            lines = [line for line in errors.splitlines() if line.startswith("voltfront: ")]
            fine = code == 0 or (code in (2, 3) and len(lines) == 1 and "Traceback" not in errors)
            checks.append(Check(tried=f"{what}: {name}", found=f"exit {code}" + (f": {lines[0]}" if lines else ""), ok=fine))
        checks[-1] = checks[-1] if not list(home.rglob("pwned*")) else Check(tried=name, found="executed", ok=False)
    bad = [check for check in checks if not check.ok]
    counts = f"{len(checks)} commands, {sum(check.found == 'exit 0' for check in checks)} done, the others refused in one line; nothing executed"
    return bad or [Check(tried=f"{len(HOSTILE)} hostile names as folder, file, output folder and name of a design", found=counts, ok=True)]


def malformed(home: Path, limits: Limits) -> list[Check]:
    from torture import torture

    home.mkdir()
    found, failures = torture(2000, limits.seed, home)
    checks = []
    for name in dict.fromkeys(name for name, _ in found):
        numbers = {outcome: found[name, outcome] for outcome in ("refused", "accepted", "failed")}
        checks.append(Check(tried=f"malformed {name}", found=", ".join(f"{n} {what}" for what, n in numbers.items()), ok=not numbers["failed"]))
    return checks + [Check(tried="failure", found=line, ok=False) for line in failures[:10]]


SCENARIOS: dict[str, Callable[[Path, Limits], list[Check]]] = {
    "malformed": malformed, "older-files": older_files, "hostile-names": hostile_names, "full-disk": full_disk, "hanging-tool": hanging_tool,
    "two-at-once": two_at_once, "kill-explore": kill_explore, "kill-characterize": kill_characterize, "kill-run": kill_run,
}  # fmt: skip
LONG = ("kill-characterize", "kill-run")
HEAD = """# When things go wrong

Generated by `make robustness`; do not edit. Each part was run by the command and at the commit that stand under its title. Errors are one line and an exit code
([commands](commands.md)); what is finished is written whole or not at all.
Accepted: the change left a valid file. `make torture` runs more malformed inputs; a small part of it is in the tests. Lost workers, hanging steps and
a killed campaign with a quick stand-in for the measurement: `tests/flow/test_campaign.py`, `tests/flow/test_tools.py`.
"""


def page(kept: dict) -> str:
    parts = [HEAD]
    for name, run in kept.items():
        failed = sum(not check["ok"] for check in run["checks"])
        parts.append(f"## {name.replace('-', ' ').capitalize()}\n\n`{run['command']}`, {run['date']}, commit {run['commit']}, {run['seconds']} s"
                     f"{'' if not failed else f'. **{failed} not as they must be**'}\n\n| tried | found | |\n| --- | --- | --- |")  # fmt: skip
        rows = [(c["tried"], c["found"].replace("|", "\\|").replace("<", "&lt;"), "" if c["ok"] else "**wrong**") for c in run["checks"]]
        parts[-1] += "".join("\n| " + " | ".join(row) + " |" for row in rows) + "\n"
    missing = [name for name in SCENARIOS if name not in kept]
    if missing:
        parts.append(f"Not run yet: {', '.join(missing)}.\n")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", help=f"Some of {', '.join(SCENARIOS)}.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=1000.0, help="No kills after so many minutes.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", action="store_true", help="Write docs/robustness.md from all results that are kept.")
    options = parser.parse_args()
    kept, worst = json.loads(KEPT.read_text()) if KEPT.exists() else {}, 0
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    for name in options.scenarios or [name for name in SCENARIOS if name not in LONG]:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            checks = SCENARIOS[name](Path(folder) / "work", Limits(kills=options.kills, minutes=options.minutes, seed=options.seed))
            checks = [Check(tried=c.tried, found=c.found.replace(folder, "..."), ok=c.ok) for c in checks]
        command = f"python tests/robustness.py {name}" + (f" --kills {options.kills} --minutes {options.minutes:g}" if name.startswith("kill") else "")
        kept[name] = {
            "command": command, "date": datetime.date.today().isoformat(), "commit": commit, "seconds": round(time.monotonic() - began),
            "checks": [asdict(check) for check in checks],
        }  # fmt: skip
        for check in checks:
            worst |= not check.ok
            print(f"{name}: {'ok' if check.ok else 'WRONG'}: {check.tried}: {check.found}", flush=True)
        kept = (json.loads(KEPT.read_text()) if KEPT.exists() else {}) | {name: kept[name]}  # another run may have written meanwhile
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps({name: kept[name] for name in SCENARIOS if name in kept}, indent=1))
    if options.page:
        PAGE.write_text(page({name: kept[name] for name in SCENARIOS if name in kept}), encoding="utf-8")
    return worst


if __name__ == "__main__":
    sys.exit(main())
