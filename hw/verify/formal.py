"""Formal proofs: a block and what must always hold, as a circuit with `Assert` and `Assume`, proven by Yosys' SAT solver and temporal induction.

A harness sees registers inside the block through `inside`: signal name to the name below the harness, e.g. `dut.written`. Proofs start from the
state that reset leaves. With two clocks every edge of either may come at any time, in any order, together or not.
"""

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Signal

from hw.errors import ModelError, ToolError
from hw.tools import run_tool

_RUN = "import sys; from pyosys import libyosys; libyosys.run_pass('script ' + sys.argv[1], libyosys.Design())"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Steps of the induction that succeeded."""

    steps: int


def prove(
    harness: Elaboratable,
    *,
    ports: Sequence[Signal],
    inside: Mapping[str, str] | None = None,
    free_memories: bool = False,
    two_clocks: bool = False,
    resets: Sequence[str] = ("rst",),
    steps: int = 8,
    only_refute: bool = False,
    timeout_s: float = 300.0,
) -> Proof:
    """Prove every assertion of `harness` for all time.

    ports: the harness's inputs, which may do anything that it does not assume away, and the signals named in `inside`.
    free_memories: what is read from memories may be anything, which proves more than is needed, but sooner.
    steps: the longest induction that is tried; with `only_refute` nothing is proven, but states up to so many steps after reset are searched.
    Raises `ModelError` with a counterexample's length if an assertion fails in a state that can be
    reached, `ToolError` if the induction does not succeed within `steps`.
    """
    inside = dict(inside or {})
    text = rtlil.convert(harness, name="top", ports=list(ports), emit_src=False)
    script = ["read_rtlil top.il", "hierarchy -top top", "proc", "flatten", "select -module top"]
    for name, target in inside.items():
        script += [f"delete -input w:{name}", f"connect -set {name} {target}"]
    script.append("select -clear")
    if free_memories:
        script += ["cutpoint t:$memrd_v2", "delete t:$memwr_v2 t:$meminit_v2"]
    script += ["memory_map", "clk2fflogic" if two_clocks else "async2sync"]
    script += ["chformal -lower", "opt"]
    quiet = " ".join(f"-set {reset} 0" for reset in resets)
    script.append(f"sat -verify -prove-asserts -set-assumes -set-init-zero {quiet} -seq 1 -tempinduct{'-baseonly' * only_refute} -maxsteps {steps} top")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "top.il").write_text(text, encoding="utf-8")
        (Path(folder) / "prove.ys").write_text("\n".join(f"tee -a log.txt {line}" for line in script) + "\n", encoding="utf-8")
        failed = None
        try:
            run_tool([sys.executable, "-I", "-c", _RUN, "prove.ys"], cwd=Path(folder), timeout_s=timeout_s)
        except ToolError as error:
            failed = error
        log = (Path(folder) / "log.txt").read_text(encoding="utf-8")
    found = re.findall(r"\[(base case|induction step) (\d+)\]", log)
    if not found:
        raise failed or ToolError("Yosys must try a proof, and did not")
    kind, step = found[-1]
    if only_refute and "model found for base case" not in log:
        raise ToolError(f"a state that breaks an assertion must be reached within {steps} steps, and is not")
    if failed is None:
        if not re.search(r"Induction step proven: SUCCESS!", log):
            raise ToolError(f"Yosys must say that the proof succeeded, and did not: {log[-400:]}")
        return Proof(steps=int(step))
    if "SAT temporal induction proof finished - model found for base case: FAIL!" in log:
        raise ModelError(f"assertions must hold always, and one fails in a state {step} steps after reset")
    raise ToolError(f"the proof must succeed within {steps} steps of induction, and did not: {failed}")
