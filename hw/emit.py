"""Emission: an accelerator, or one block, as Verilog, with a machine-readable description of its interface.

Every module is written once, however many instances there are. The text depends on the configuration only. Registers have no initial
values: what needs one has a reset.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from amaranth.lib.wiring import Component, In, Signature

from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.isa import FIELDS, FORMAT_VERSION, INSTRUCTION_BYTES
from hw.registers import CONFIGURATION, EVENTS, MAP_VERSION, Register, event_address
from hw.shared import Emission, Shared, clock_ports
from hw.sram import Sram
from hw.tools import run_tool

INTERFACE_VERSION = 1
TOP = "accelerator"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A shared module in an emitted design. `instances` are paths below the top, e.g. `datapath.pe_row_0.pe_1`; `clocks` gives for each of its
    clock ports the domain: `core` or `mem`, or `core+mem` if that differs between instances; that of the block where the top is one."""

    name: str
    module: str
    parameters: dict[str, int]
    instances: tuple[str, ...]
    clocks: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A memory macro in an emitted design: a black box of `words` x `bits` with one read and one write port."""

    module: str
    words: int
    bits: int
    instances: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RtlBundle:
    """What emission wrote. `verilog` is (modules, behavioural memories); read the second one with `-lib` to get black boxes.
    `constraints` are (SDC, UPF).

    `interface` and `config` are None, `constraints` empty, for a block by itself. `content_hash` names the text of all Verilog.
    """

    config: AcceleratorConfig | None
    top: str
    verilog: tuple[Path, Path]
    blocks: tuple[Block, ...]
    memories: tuple[Memory, ...]
    interface: Path | None
    content_hash: str
    constraints: tuple[Path, ...] = ()

    @property
    def black_boxes(self) -> tuple[str, ...]:
        """Names of the modules that are memory macros."""
        return tuple(memory.module for memory in self.memories)

    def block(self, name: str) -> tuple[Block, ...]:
        """All modules of one block, e.g. every `two_clock_fifo`; empty if the design has none."""
        return tuple(block for block in self.blocks if block.name == name)


def emit(config: AcceleratorConfig, out_dir: Path) -> RtlBundle:
    """Write `accelerator.v`, `memories.v`, `interface.json` and the constraints `accelerator.sdc` and `accelerator.upf` of `config` to `out_dir`.

    Raises `ConfigError` if the folder cannot be written and `ToolError` if Yosys fails; then nothing is left behind.
    """
    from hw.constraints import sdc, upf
    from hw.top import Accelerator

    top = Accelerator(config)
    files, bundle = _convert(top, TOP)
    interface = _interface(config, top.signature, bundle)
    files["interface.json"] = json.dumps(interface, indent=1) + "\n"
    fifos = [instance for block in bundle.blocks if block.name == "two_clock_fifo" for instance in block.instances]
    files |= {f"{TOP}.sdc": sdc(interface["ports"]), f"{TOP}.upf": upf(interface["ports"], fifos, TOP)}
    return _write(files, bundle, Path(out_dir), config)


def emit_block(block: Shared, out_dir: Path) -> RtlBundle:
    """Write `<module>.v`, with all modules below it, and `<module>_memories.v` to `out_dir`. Raises what `emit` raises."""
    files, bundle = _convert(block, block.module_name)
    return _write(files, bundle, Path(out_dir), None)


@dataclass(kw_only=True)
class _Converted:
    top: str
    blocks: list[Block] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)


def _convert(component: Component, top: str) -> tuple[dict[str, str], _Converted]:
    """The Verilog files by name, and what is in them."""
    emission = Emission()
    texts = [emission.convert(component, top)]
    while emission.pending:
        block = emission.pending.pop(0)
        if not block.black_box:
            texts.append(emission.convert(block, block.module_name))
    verilog, netlist = _verilog("\n".join(text.replace("attribute \\top 1\n", "") for text in texts), top)
    blocks, memories = emission.blocks, [block for block in emission.blocks.values() if isinstance(block, Sram) and block.black_box]

    instances: dict[str, list[str]] = {}
    clocks: dict[str, dict[str, set[str]]] = {}
    for path, module, domains in _instances(netlist, top, component, blocks):
        instances.setdefault(module, []).append(path)
        for port, domain in domains.items():
            clocks.setdefault(module, {}).setdefault(port, set()).add(domain)
    converted = _Converted(top=top)
    for name in sorted(instances):
        found = tuple(sorted(instances[name]))
        block = blocks[name]
        if block.black_box:
            converted.memories.append(Memory(module=name, words=block.words, bits=block.bits, instances=found))
        else:
            domains = {port: "+".join(sorted(names)) for port, names in clocks.get(name, {}).items()}
            converted.blocks.append(Block(name=block.block, module=name, parameters=block.parameters, instances=found, clocks=domains))
    memory_file = "memories.v" if top == TOP else f"{top}_memories.v"
    behavioural = "\n".join(block.verilog() for block in sorted(memories, key=lambda block: block.module_name))
    return {f"{top}.v": _HEADER + verilog, memory_file: _HEADER + behavioural}, converted


_HEADER = """\
// Generated by voltfront from a configuration; change that, not this.
// Values are as wide as the expressions that make them, and constants as narrow as they can be:
// verilator lint_off WIDTHEXPAND
// verilator lint_off WIDTHTRUNC
// verilator lint_off UNUSEDSIGNAL
// verilator lint_off CASEOVERLAP
// verilator lint_off DECLFILENAME
"""

_RUN = "import sys; from pyosys import libyosys; libyosys.run_pass('script ' + sys.argv[1], libyosys.Design())"


def _verilog(rtlil: str, top: str) -> tuple[str, dict]:
    """Verilog, and Yosys' description of the modules, of the RTLIL of all modules."""
    # Parts of a block that are modules of their own get names that need no escape: `compute.drain` becomes `compute_drain`.
    rtlil = re.sub(r"^( *(?:module|cell) \\)(\S+)", lambda match: match[1] + match[2].replace(".", "_"), rtlil, flags=re.MULTILINE)
    script = [
        "read_rtlil modules.il", "proc -norom", "setattr -unset init w:*", "delete t:$meminit t:$meminit_v2", "memory_collect", "opt_clean",
        "attrmap -modattr -remove generator", "attrmap -remove full_case", "write_json modules.json", "write_verilog modules.v",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        (at / "modules.il").write_text(rtlil, encoding="utf-8")
        (at / "emit.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
        run_tool([sys.executable, "-I", "-c", _RUN, "emit.ys"], cwd=at, timeout_s=600.0)
        return (at / "modules.v").read_text(encoding="utf-8"), json.loads((at / "modules.json").read_text(encoding="utf-8"))["modules"]


def _instances(netlist: dict, top: str, component: Component, blocks: dict[str, Shared]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(path below the top, module, domain of each clock port) of every instance of a shared block."""

    def clock_names(module: str) -> list[str]:
        return [port for port, _domain, is_reset in clock_ports(blocks[module]) if not is_reset]

    def below(module: str, path: str, domains: dict[int, str]) -> Iterator[tuple[str, str, dict[str, str]]]:
        for name, cell in netlist[module]["cells"].items():
            kind = cell["type"]
            if kind not in netlist and kind not in blocks:
                continue
            inside = f"{path}{name}"
            if kind in blocks:
                yield inside, kind, {port: domains[cell["connections"][port][0]] for port in clock_names(kind) if port in cell["connections"]}
            if kind in netlist:
                ports = {port: bits["bits"] for port, bits in netlist[kind]["ports"].items()}
                inner = {ports[port][0]: domains[bits[0]] for port, bits in cell["connections"].items() if len(bits) == 1 and bits[0] in domains}
                yield from below(kind, f"{inside}.", inner)

    clocks = {port: domain for port, domain, is_reset in clock_ports(component) if not is_reset} or {"core_clk": "core", "mem_clk": "mem"}
    yield from below(top, "", {netlist[top]["ports"][port]["bits"][0]: domain for port, domain in clocks.items()})


def _interface(config: AcceleratorConfig, signature: Signature, converted: _Converted) -> dict:
    """What software and integration must know, as plain values."""
    ports = [
        {"name": name, "direction": "input" if member.flow == In else "output", "bits": member.shape, "clock": _port_clock(name)}
        for name, member in signature.members.items()
    ]
    instructions = {}
    for opcode, fields in FIELDS.items():
        low, layout = 0, []
        for one in fields:
            layout.append({"name": one.name, "low_bit": low, "bits": one.bits, "signed": one.signed, "meaning": one.meaning})
            low += one.bits
        instructions[opcode.name] = {"opcode": int(opcode), "fields": layout}
    registers = {register.name: int(register) for register in Register}
    return {
        "version": INTERFACE_VERSION,
        "design": config.model_dump(mode="json"),
        "top": converted.top,
        "ports": ports,
        "instruction_bytes": INSTRUCTION_BYTES,
        "instruction_format_version": FORMAT_VERSION,
        "instructions": instructions,
        "register_map_version": MAP_VERSION,
        "registers": registers,
        "configuration_registers": {name: Register.CONFIGURATION + 4 * i for i, name in enumerate(CONFIGURATION)},
        "events": {name: {"address": event_address(name), "meaning": meaning} for name, meaning in EVENTS.items()},
        "blocks": [{"name": b.name, "module": b.module, "instances": len(b.instances), "clocks": b.clocks} for b in converted.blocks],
        "memories": [{"module": b.module, "words": b.words, "bits": b.bits, "instances": len(b.instances)} for b in converted.memories],
    }


def _port_clock(name: str) -> str | None:
    """The clock that a port belongs to; None for clocks themselves and for what may come from any."""
    if name in ("core_clk", "mem_clk", "op_ack"):
        return None
    return "core_clk" if name.startswith(("core_", "op_")) else "mem_clk"


def _write(files: dict[str, str], converted: _Converted, out_dir: Path, config: AcceleratorConfig | None) -> RtlBundle:
    """Put `files` into `out_dir`, each complete or not at all."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir, prefix="unfinished-") as temporary:
            for name, text in files.items():
                (Path(temporary) / name).write_text(text, encoding="utf-8")
            for name in files:
                os.replace(Path(temporary) / name, out_dir / name)
    except OSError as error:
        raise ConfigError(f"output folder must be writable, not {out_dir} ({error.strerror}); give another one") from None
    modules, memories = (out_dir / name for name in files if name.endswith(".v"))
    digest = hashlib.sha256("\0".join(text for name, text in files.items() if name.endswith(".v")).encode()).hexdigest()
    return RtlBundle(
        config=config, top=converted.top, verilog=(modules, memories), blocks=tuple(converted.blocks), memories=tuple(converted.memories),
        interface=out_dir / "interface.json" if config else None, content_hash=digest,
        constraints=(out_dir / f"{TOP}.sdc", out_dir / f"{TOP}.upf") if config else (),
    )  # fmt: skip
