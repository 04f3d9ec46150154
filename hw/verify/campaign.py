"""The verification campaign: random designs x random layers on the RTL, every output bit compared with the golden model.

A design is emitted and built once. Its cases run in simulations of a few programs each, which share clocks, memory and stalls; in some
of them one more program ends with an error that is provoked, and the programs after it must be as right as ever. What a design's
cases gave is kept in one file, so that a campaign goes on where it was interrupted; it does not depend on who ran which design.

    python -m hw.verify.campaign --designs 40 --cases 26 --workers 2
"""

import json
import random
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

import hw
from hw.config import AcceleratorConfig
from hw.dram_part import load_dram_part
from hw.emit import emit
from hw.errors import ToolError
from hw.isa import INSTRUCTION_BYTES, Engine, Opcode, Target, encode
from hw.layers import LayerShape
from hw.program import Program
from hw.registers import Cause
from hw.sim.network import Workload, check_outputs
from hw.sim.run import IdealMemory, MemoryRegion, ProgramStart, build, simulate_programs
from hw.tensors import Region
from hw.tools import BUILD_DIR, content_key
from hw.verify.cases import BINS, Case, case, configuration

RESULTS = BUILD_DIR / "verify"
PROGRAMS = 6
"""Cases of one simulation."""
COVERED_DESIGNS = (3, 4, 8, 9, 11, 13)
"""Designs that also count executed lines; such builds take three times as long."""
TIMEOUT_CYCLES = 400_000


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How a program is made to fail: its memory is changed, or a region answers with an error."""

    name: str
    cause: Cause


FAULTS = (
    Fault(name="unknown opcode", cause=Cause.ILLEGAL_INSTRUCTION), Fault(name="no END", cause=Cause.PROGRAM_OVERRUN),
    Fault(name="program unreadable", cause=Cause.READ_RESPONSE), Fault(name="data unreadable", cause=Cause.READ_RESPONSE),
    Fault(name="output unwritable", cause=Cause.WRITE_RESPONSE), Fault(name="program misaligned", cause=Cause.MISALIGNED),
    Fault(name="transfer misaligned", cause=Cause.MISALIGNED), Fault(name="data outside the window", cause=Cause.READ_OUTSIDE),
    Fault(name="output outside the window", cause=Cause.WRITE_OUTSIDE), Fault(name="token never given", cause=Cause.DEADLOCK),
)  # fmt: skip


def run_design(index: int, cases: int, folder: Path, covered: bool) -> dict:
    """Build design `index` and run its cases; returns, and keeps in `folder`, what was covered. Raises `ToolError` at the first difference."""
    config = configuration(index)
    with tempfile.TemporaryDirectory() as temporary:
        bundle = emit(config, Path(temporary))
        kept = folder / f"design_{index:03d}_{content_key([bundle.content_hash, str(cases), str(covered)], _sources())}.json"
        if kept.exists():
            return json.loads(kept.read_text(encoding="utf-8"))
        drawn = [case(config, number) for number in range(cases)]
        simulator = build(verilog=bundle.verilog, axi_data_bits=config.memory.axi_data_bits, quick=True, coverage=covered)
        lines: Counter[tuple[str, int, str]] = Counter()
        result: dict = {"design": config.model_dump(mode="json"), "cases": [_describe(config, one) for one in drawn], "faults": [], "core_cycles": 0}
        result["commit"] = _commit()
        for first in range(0, cases, PROGRAMS):
            counted = Path(temporary) / "coverage.dat" if covered else None
            faults, cycles = _simulate(config, simulator, drawn[first : first + PROGRAMS], f"{config.name} {first}", counted)
            result["faults"] += faults
            result["core_cycles"] += cycles
            if counted:
                lines.update(read_lines(counted))
        if covered:
            source = bundle.verilog[0].read_text(encoding="utf-8").splitlines()
            result["lines"] = [[module, source[line - 1].strip(), what, count] for (module, line, what), count in sorted(lines.items())]
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result), encoding="utf-8")
    unfinished.rename(kept)
    return result


def _sources() -> list[Path]:
    """All that decides what a campaign runs: generator, compiler, golden model, bench. It draws its own designs and layers and reads no ONNX."""
    found = (path for pattern in ("*.py", "*.cpp", "*.h", "*.sv", "*.yaml") for path in Path(hw.__file__).parent.rglob(pattern))
    return sorted(path for path in found if not path.name.startswith("onnx_") and path.parent.name not in ("designs", "networks"))


def _commit() -> str:
    """The commit of these sources, `-dirty` if they were changed since; "unknown" outside a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(hw.__file__).parent, check=False).stdout.strip()
    return found or "unknown"


def _describe(config: AcceleratorConfig, one: Case) -> dict:
    bins = [[operator, parameter, name] for operator, shape in _operators(one) for parameter, name in _bins(config, one, shape)]
    return {"operator": one.operator, "layers": len(one.shapes), "refused": one.refused, "bins": bins}


def _operators(one: Case) -> Iterator[tuple[str, LayerShape]]:
    """Each layer with its operator; a layer that follows is a pointwise one."""
    for position, shape in enumerate(one.shapes):
        yield one.operator if position == 0 else "pointwise", shape


def _bins(config: AcceleratorConfig, one: Case, shape: LayerShape) -> Iterator[tuple[str, str]]:
    for parameter, (_names, of) in BINS.items():
        yield parameter, of(config, one, shape)


# --- one simulation ---------------------------------------------------------------------------


def _surroundings(rng: random.Random) -> dict:
    """Clocks, memory and stalls of one simulation."""
    slow, fast = rng.choice(((1, 1), (1, 8), (8, 1), (1, 2.31), (2.917, 1), (1, 1.37), (1.7, 1)))
    surroundings = {
        "core_period_ps": round(1000 * slow), "mem_period_ps": round(1000 * fast), "mem_phase_ps": rng.randrange(1000),
        "stall_probability": rng.choice((0.0, 0.0, 0.1, 0.5)), "seed": rng.getrandbits(31), "max_outstanding": rng.choice((1, 4, 16)),
        "interleave": rng.random() < 0.5, "jitter_s": rng.choice((0.0, 0.0, 2e-7)),
    }  # fmt: skip
    memory = rng.choice(("ideal", "lpddr3_1600_x32"))
    return surroundings | {"memory": IdealMemory() if memory == "ideal" else load_dram_part(memory)}


def _simulate(config: AcceleratorConfig, simulator: Path, cases: Sequence[Case], name: str, coverage: Path | None) -> tuple[list[str], int]:
    """Run these cases one after the other, and one that fails between them. Returns the faults provoked and the cycles of all."""
    rng = random.Random(f"simulation {name}")
    workloads: list[Workload] = []
    address = 0
    for one in (*cases, cases[0]):  # the last one is the one that fails
        workloads.append(one.workload(config, address))
        address = max(region.address + region.size_bytes for region in workloads[-1].program.regions.values()) + 4095 & ~4095
    control, address = address, address + 4096  # a program of its own for what the compiler does not write
    image = np.zeros(address, dtype=np.uint8)
    for workload in workloads:
        first = workload.program.base_address
        contents = workload.program.memory(workload.inputs)
        image[first : first + contents.size] = contents
    copy = {"run_words": 3, "count1": 2, "count2": 2, "banks_a": 1, "bank_stride1": 5, "source_stride1": 3, "source_stride2": 7}
    code = [
        encode(Opcode.OPERATING_POINT, index=rng.randrange(256)), encode(Opcode.COPY, **copy),
        *(encode(Opcode.SYNC, engine=engine) for engine in Engine), encode(Opcode.END),
    ]  # fmt: skip
    image[control : control + len(code) * INSTRUCTION_BYTES] = np.frombuffer(b"".join(code), dtype=np.uint8)
    fault, start, where, faulty = _provoke(rng, workloads[-1], image)
    runs = [(_own(workload), Cause.NONE) for workload in workloads[:-1]]
    runs.insert(rng.randrange(len(runs) + 1), (ProgramStart(address=control, size_bytes=len(code) * INSTRUCTION_BYTES), Cause.NONE))
    runs.insert(rng.randrange(len(runs) + 1), (start, fault.cause))
    allowed = [region for workload in workloads for region in workload.program.regions.values()]
    regions = [MemoryRegion(address=region.address, size_bytes=region.size_bytes, write=region.write) for region in allowed]
    try:
        results = simulate_programs(
            simulator=simulator, image=image, programs=[run for run, _ in runs], output_address=0, output_bytes=image.size, coverage=coverage,
            regions=[*regions, MemoryRegion(address=control, size_bytes=4096)], timeout_cycles=TIMEOUT_CYCLES,
            fault_regions=faulty, fault_response=rng.choice(("slave", "decode")), **_surroundings(rng),
        )  # fmt: skip
    except ToolError as error:
        raise ToolError(f"{error} ({name}, {fault.name})") from error
    for number, ((run, expected), result) in enumerate(zip(runs, results, strict=True)):
        if result.cause != expected:
            raise ToolError(f"program {number} must end with {expected.name}, not {result.cause.name} at {result.error_address:#x} ({name}, {fault.name})")
        if run is start and where is not None and result.error_address != where & 0xFFFFFFFF:
            raise ToolError(f"ERROR_ADDRESS must be {where:#x}, not {result.error_address:#x} ({name}, {fault.name})")
    for one, workload in zip(cases, workloads, strict=False):
        check_outputs(workload, results[0].output[workload.program.base_address :], f"{name}, case {one.index}, {one.shapes}")
    return [fault.name], sum(result.events["core_cycles"] for result in results)


def _own(workload: Workload) -> ProgramStart:
    """A program with windows around its own regions."""
    regions = workload.program.regions.values()
    ends = [(region.address, region.address + region.size_bytes - 1 | 31) for region in regions]
    written = [(region.address, region.address + region.size_bytes - 1 | 31) for region in regions if region.write]
    return ProgramStart(
        address=workload.program.program_address, size_bytes=workload.program.program_bytes, read_window=(min(ends)[0], max(ends)[1]),
        write_window=(min(written)[0], max(written)[1]),
    )  # fmt: skip


def _provoke(rng: random.Random, workload: Workload, image: np.ndarray) -> tuple[Fault, ProgramStart, int | None, list[MemoryRegion]]:
    """A fault, the program's start, the error's address if it is one instruction's or none if it is any of several, and regions with errors."""
    program, start = workload.program, _own(workload)
    address, count = program.program_address, program.instructions
    fault = rng.choice(FAULTS)

    def instruction(index: int) -> np.ndarray:
        return image[address + INSTRUCTION_BYTES * index :][:INSTRUCTION_BYTES]

    if fault.name == "unknown opcode":
        index = rng.randrange(count)
        instruction(index)[0] = instruction(index)[0] & 0xF0 | rng.choice((0, 12, 15))
        return fault, start, address + INSTRUCTION_BYTES * index, []
    if fault.name == "no END":
        size = start.size_bytes - INSTRUCTION_BYTES * rng.randint(1, min(3, count))
        return fault, replace(start, size_bytes=size), address + size, []
    if fault.name == "program unreadable":
        return fault, start, None, [MemoryRegion(address=address + INSTRUCTION_BYTES * rng.randrange(count), size_bytes=4)]
    if fault.name == "program misaligned":
        return fault, replace(start, address=address + rng.choice((4, 8, 16))), None, []
    if fault.name == "transfer misaligned":
        loads = [(i, fields) for i in range(count) for opcode, fields in [program.instruction(i)] if opcode == Opcode.LOAD]
        index, fields = rng.choice([(i, fields) for i, fields in loads if fields["target"] == Target.PARAMETER])
        bent = {name: value for name, value in fields.items() if name != "opcode"} | {"dram_address": fields["dram_address"] + rng.choice((1, 2))}
        instruction(index)[:] = np.frombuffer(encode(Opcode.LOAD, **bent), dtype=np.uint8)
        return fault, start, address + INSTRUCTION_BYTES * index, []
    if fault.name == "token never given":
        waits = encode(Opcode.SYNC, engine=Engine.COMPUTE, wait_load=1, wait_store=1)
        instruction(max(0, count - 2))[:] = np.frombuffer(waits, dtype=np.uint8)
        return fault, start, None, []
    if fault.name == "data outside the window":
        return fault, replace(start, read_window=(address, address + program.program_bytes - 1 | 31)), None, []
    if fault.name == "output outside the window":
        return fault, replace(start, write_window=(0, 31)), None, []
    wanted = ".output" if fault.name == "output unwritable" else rng.choice((".weights", ".parameters", ".input"))
    regions = {name: region for name, region in program.regions.items() if wanted == ".output" or _is_loaded(program, region)}
    names = [name for name in regions if name.endswith(wanted)] or [name for name in regions if name.endswith((".input", ".parameters"))]
    region = program.regions[names[0]]
    return fault, start, None, [MemoryRegion(address=region.address, size_bytes=region.size_bytes)]


def _is_loaded(program: Program, region: Region) -> bool:
    """Whether a LOAD reads from the region: an input of which all outputs see the padding only is never read."""
    instructions = (program.instruction(i) for i in range(program.instructions))
    return any(opcode == Opcode.LOAD and 0 <= fields["dram_address"] - region.address < region.size_bytes for opcode, fields in instructions)


# --- executed lines ---------------------------------------------------------------------------


def read_lines(path: Path) -> Counter[tuple[str, int, str]]:
    """(module, line, what) to how often it was executed, over all instances, of the emitted design in a file of Verilator's."""
    found: Counter[tuple[str, int, str]] = Counter()
    for text in path.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"C '(.*)' (\d+)", text)
        if not match:
            continue
        fields = dict(part.split("\x02", 1) for part in match[1].split("\x01") if part)
        if fields["f"].endswith("accelerator.v"):
            found[fields["page"].split("/", 1)[1], int(fields["l"]), f"{fields['n']} {fields['o']}"] += int(match[2])
    return found


# --- all of it --------------------------------------------------------------------------------


def run_campaign(designs: int, cases: int, workers: int, folder: Path = RESULTS) -> list[dict]:
    """The results of all designs in their order, with progress on the terminal. Raises what `run_design` raises, naming the design."""
    results: dict[int, dict] = {}
    with ProcessPoolExecutor(workers) as pool:
        run = partial(run_design, cases=cases, folder=folder)
        small_first = sorted(range(designs), key=lambda index: configuration(index).multipliers)
        futures = {pool.submit(run, index, covered=index in COVERED_DESIGNS): index for index in small_first}
        for future in tqdm(as_completed(futures), total=designs, desc="verify", unit="design"):
            results[futures[future]] = future.result()
    return [results[index] for index in range(designs)]


@click.command()
@click.option("--designs", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--cases", type=click.IntRange(min=1), default=26, show_default=True, help="Of each design.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/verification.md"), show_default=True)
def main(designs: int, cases: int, workers: int, out: Path) -> None:
    """Run the campaign and write its page."""
    from hw.verify.page import page

    results = run_campaign(designs, cases, workers)
    text = page(results, f"make verify  (--designs {designs} --cases {cases})")
    out.write_text(text, encoding="utf-8")
    click.echo(f"{sum(len(result['cases']) for result in results)} cases on {len(results)} designs, every output bit equal to the golden model's: {out}")


if __name__ == "__main__":
    main()
