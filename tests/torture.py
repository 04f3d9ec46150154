"""Malformed inputs over all entry points: each must give one line and the exit code of its kind, never a traceback.

python tests/torture.py --count 2500 prints how many inputs of each kind were refused, accepted (a change that leaves a valid file) and failed.
The same seed gives the same inputs.
"""

import argparse
import contextlib
import gzip
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from explore.cli import main
from explore.space import load_space
from explore.timeloop import problem as problem_of
from explore.timeloop import read_problem
from fit.model import read_model
from flow.liberty import read_library
from flow.plan import load_plan
from flow.table import CORNER_COLUMNS, read_table
from flow.tech import load_technology
from hw.config import load_design
from hw.dram_part import load_dram_part
from hw.errors import ConfigError, ModelError, ToolError
from hw.examples.qdq import QdqModel
from hw.layers import load_network
from hw.onnx_import import import_onnx

ROOT = Path(__file__).resolve().parents[1]
PWNED = "pwned"
"""No input may make a file of this name."""
HOSTILE = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, -(10**30), 0.5, float("nan"), float("inf"), 1e308, "", " ", "x", "1", "../../../etc/passwd", "/dev/zero",
    "a\nb", "\x00", "\u202e", "é" * 50, "x" * 5000, "$(touch pwned)", "`touch pwned`", "; touch pwned", "[exec touch pwned]", "${PATH}",
    "%s%n", "{0}", [], [None], {}, {"a": 1}, [[]] * 3,
)  # fmt: skip
TEXTS = (
    b"", b"\n", b"\x00", b"\xff\xfe\x00", b"{", b"[" * 3000, b"a: " * 300, b"%YAML 9.9\n---\n", b"--- 1\n--- 2\n",
    b"!!python/object/apply:os.system ['touch pwned']\n",
    b"!!python/name:os.system\n", b"a: &a [*a]\n", b"&a [*a]\n", b"? [a]\n: 1\n", b"version: 1\nversion: 1\n", b"1: 2\n", b"- 1\n", b"text\n",
    b"\xef\xbb\xbfversion: 1\n",
    b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n"
    b"e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\n"
    b"f: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n", b"9" * 5000 + b"\n", b"2024-99-99\n", b"=\n", b"<<: 1\n", b"\t- x\n", b"a: 0x\n",
    b"a: 1e\n",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A way in: a valid file to start from, and what reads it."""

    name: str
    suffix: str
    valid: bytes
    read: Callable[[Path], object]


def entries(home: Path) -> list[Entry]:
    """All of them; tables and a model that are made here lie in `home`."""
    sys.path[:0] = [str(ROOT / "tests" / "fit"), str(ROOT / "tests" / "explore")]
    from made_up import model
    from synthetic import corners

    from fit.model import write_model
    from flow.table import Provenance, write_table

    made_up = Provenance(commit="0" * 40, command="made up", tools={}, inputs={})
    write_table(corners(count=2, whole=1)[0].head(20), CORNER_COLUMNS, home / "corners.csv", made_up)
    write_model(model(), home / "model.json")
    technology = ROOT / "flow/tech/fdsoi28p"
    network = QdqModel()
    x = network.quantized(network.learned("Conv", network.quantized("x", 0.1), np.ones((4, 2, 3, 3)), np.ones(4), 0.1, pads=[1, 1, 1, 1]), 0.1)
    network.save(home / "network.onnx", (1, 2, 6, 6), network.quantized(network.node("Relu", x), 0.1), (1, 4, 6, 6))
    write_problem(home / "problem.yaml")
    liberty = gzip.decompress((technology / "fdsoi28p_tt_1p00v_25c.lib.gz").read_bytes())

    def table(path: Path) -> object:
        path.with_suffix(".json").write_bytes((home / "corners.json").read_bytes())
        return read_table(path, CORNER_COLUMNS)

    def provenance(path: Path) -> object:
        path.with_suffix(".csv").write_bytes((home / "corners.csv").read_bytes())
        return read_table(path.with_suffix(".csv"), CORNER_COLUMNS)

    yaml_files = (
        ("design", "hw/designs/medium.yaml", load_design), ("network", "hw/networks/alexnet.yaml", load_network), ("plan", "flow/plans/quick.yaml", load_plan),
        ("dram part", "hw/dram_parts/lpddr3_1600_x32.yaml", load_dram_part), ("space", "explore/spaces/default.yaml", load_space),
        ("technology", "flow/tech/fdsoi28p/technology.yaml", load_technology),
    )  # fmt: skip
    return [
        *(Entry(name=name, suffix=".yaml", valid=(ROOT / file).read_bytes(), read=read) for name, file, read in yaml_files),
        Entry(name="ONNX", suffix=".onnx", valid=(home / "network.onnx").read_bytes(), read=import_onnx),
        Entry(name="Timeloop", suffix=".yaml", valid=(home / "problem.yaml").read_bytes(), read=read_problem),
        Entry(name="Liberty", suffix=".lib", valid=liberty[: liberty.index(b"cell (", liberty.index(b"cell (") + 10)] + b"}\n", read=read_library),
        Entry(name="table", suffix=".csv", valid=(home / "corners.csv").read_bytes(), read=table),
        Entry(name="provenance", suffix=".json", valid=(home / "corners.json").read_bytes(), read=provenance),
        Entry(name="model", suffix=".json", valid=(home / "model.json").read_bytes(), read=read_model),
    ]


def write_problem(path: Path) -> None:
    shape = load_network("alexnet").layers[1]
    path.write_text(yaml.safe_dump(problem_of(shape), sort_keys=False))


def _places(value: object, path: tuple = ()) -> Iterator[tuple]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _replaced(value: object, path: tuple, new: object) -> object:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(copy[path[0]], path[1:], new)
    return copy


def mutate(entry: Entry, draw: random.Random) -> bytes:
    """A malformed (mostly) version of the entry's file."""
    text = entry.valid
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice(TEXTS)
    if kind == 1:
        return text[: draw.randrange(len(text))]
    if kind == 2:
        lines = text.split(b"\n")
        at = draw.randrange(len(lines))
        return b"\n".join(lines[:at] + draw.choice(([], [lines[at]] * 2, [draw.choice(TEXTS)])) + lines[at + 1 :])
    if kind == 3:
        changed = bytearray(text)
        for _ in range(draw.randrange(1, 6)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)
    if entry.suffix in (".yaml", ".json"):
        data = yaml.safe_load(text) if entry.suffix == ".yaml" else json.loads(text)
        places = list(_places(data))
        changed = _replaced(data, draw.choice(places), draw.choice(HOSTILE))
        if kind == 7 and isinstance(changed, dict):
            changed = changed | {str(draw.choice(HOSTILE)): draw.choice(HOSTILE)}
        return (json.dumps(changed) if entry.suffix == ".json" else yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)).encode()
    words = text.split(b" " if entry.suffix == ".lib" else b",")
    words[draw.randrange(len(words))] = str(draw.choice(HOSTILE)).encode("utf-8", "replace")
    return (b" " if entry.suffix == ".lib" else b",").join(words)


OPTIONS = {
    "rtl": ("--design",),
    "simulate": ("--design", "--network", "--layers", "--rows", "--blocks", "--batch", "--core-hz", "--memory", "--stalls", "--seed"),
    "characterize": ("--plan", "--technology", "--workers"), "cells": ("--technology", "--workers"),
    "fit": ("--technology", "--corners", "--cycles", "--plan", "--process", "--layout", "--temperature-c"),
    "explore": ("--model", "--space", "--mem-clk-hz", "--margin", "--objective", "--technology"), "report": ("--model", "--explore", "--technology"),
    "run": ("--plan", "--technology", "--space"), "design": ("--explore", "--network", "--batch", "--choice"), "tables": ("--plan", "--technology", "--shards"),
    "export": ("--design", "--network", "--dram", "--model", "--margin"), "schedule": ("--design", "--network", "--batch", "--model"),
}  # fmt: skip


def command(draw: random.Random) -> list[str]:
    """A command line with an option that names nothing: every value is refused before any work starts."""
    if draw.random() < 0.1:
        return [str(draw.choice(HOSTILE)) + "?"]
    name = draw.choice([*OPTIONS])
    if draw.random() < 0.2:
        return [name, draw.choice(("--frobnicate", "--out", "-x", "surplus", "--json=1", "--workers=-3", "--workers=x"))]
    text = draw.choice([str(value) for value in HOSTILE if isinstance(value, str | float)]) + draw.choice(("", ".yaml", "/none.yaml"))
    return [name, draw.choice(OPTIONS[name]), "no" + text.replace("\x00", "0")]


def problem(run: Callable[[], object]) -> tuple[str, str]:
    """What became of it: ("refused" or "accepted", message) or ("failed", why)."""
    try:
        run()
    except (ConfigError, ToolError, ModelError) as error:
        message = " ".join(str(error).split())
        if not message or len(message) > 2000:
            return "failed", f"message must be one readable line, not {len(message)} characters: {message[:200]}"
        return "refused", message
    except OSError as error:  # main makes one line of it
        return ("refused", str(error)) if error.filename is not None else ("failed", repr(error))
    except Exception as error:  # noqa: BLE001  whatever it is, a user would see a traceback
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "accepted", ""


def command_problem(arguments: list[str]) -> tuple[str, str]:
    """The same of a whole command line."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
    lines = [line for line in err.getvalue().splitlines() if line.strip()]
    if code == 0:
        return "accepted", ""
    if code not in (2, 3, 4) or len(lines) != 1 or not lines[0].startswith("voltfront: ") or len(lines[0]) > 6000:
        return "failed", f"exit {code}, {len(lines)} lines: {' | '.join(lines)[-300:]}"
    return "refused", lines[0]


def torture(count: int, seed: int, home: Path) -> tuple[Counter, list[str]]:
    """`count` inputs in the folder `home`; returns how many of each (entry, outcome) there were and what failed."""
    draw, ways, found, failures = random.Random(seed), entries(home), Counter(), []
    inputs = home / "inputs"
    inputs.mkdir()
    before = {path.name for path in home.iterdir()}
    with contextlib.chdir(home):
        for number in range(count):
            if number % (len(ways) + 2) >= len(ways):
                arguments = command(draw)
                name, (outcome, why) = "command line", command_problem(arguments)
                shown = " ".join(arguments)[:200]
            else:
                entry = ways[number % (len(ways) + 2)]
                path = inputs / f"input{entry.suffix}"
                path.write_bytes(mutate(entry, draw))
                name, (outcome, why) = entry.name, problem(lambda entry=entry, path=path: entry.read(path))
                shown = f"input {number}"
                if outcome == "failed":
                    (home / "failed").mkdir(exist_ok=True)
                    (home / "failed" / f"{number}{entry.suffix}").write_bytes(path.read_bytes())
            found[name, outcome] += 1
            if outcome == "failed":
                failures.append(f"{name}: {shown}: {why}")
    written = {path.name for path in home.iterdir()} - before - {"failed", "build"}
    if written or any(PWNED in path.name for path in home.rglob("*")):
        failures.append(f"nothing may be written besides the inputs, not {', '.join(sorted(written))}")
    return found, failures


def run(count: int, seed: int, keep: Path | None) -> int:
    """The command: a table, then the failures."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found, failures = torture(count, seed, Path(keep or folder))
    print("| entry point | refused with one line | accepted | failed |\n| --- | --- | --- | --- |")
    for name in dict.fromkeys(name for name, _ in found):
        print(f"| {name} | " + " | ".join(str(found[name, outcome]) for outcome in ("refused", "accepted", "failed")) + " |")
    refused = sum(number for (_, outcome), number in found.items() if outcome == "refused")
    print(f"\n{refused} of {count} inputs refused with one line, {len(failures)} failures, {time.monotonic() - start:.0f} s")
    for line in failures[:60]:
        print(line)
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="Folder for the inputs that failed.")
    options = parser.parse_args()
    sys.exit(run(options.count, options.seed, options.keep))
