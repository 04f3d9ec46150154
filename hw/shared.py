"""Shared blocks: one Verilog module however often a block is instantiated.

Amaranth emits one module per instance. A `Shared` component instead becomes, during emission, an `Instance` of a module
whose name is a function of all its parameters, and the emitter converts each such module once. In simulation the body
itself is used. For this to be sound a block's ports are plain signals, its parent bakes no constants into it, and it has
its own enables (Amaranth's `EnableInserter` and `ResetInserter` do nothing to an `Instance`, so they must not be used).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Fragment, Instance, Module, ResetSignal, ShapeLike, Signal
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

MAX_REGISTER_WORDS = 32
"""Queues of up to this many words may be registers; anything larger is a bank (`hw.sram`)."""


def register(shape: ShapeLike, name: str) -> Signal:
    """A register without reset, for datapaths: it must not be read before it is written.

    Yosys can gate the clock of such registers, not of those whose synchronous reset dominates their enable.
    """
    return Signal(shape, name=name, reset_less=True)


def output_register(m: Module, port: Signal) -> Signal:
    """A register without reset that drives `port`."""
    held = register(port.shape(), f"{port.name}_held")
    m.d.comb += port.eq(held)
    return held


def port_values(component: wiring.Component) -> Iterator[tuple[str, wiring.Flow, Signal]]:
    """(flat name, direction seen from inside, signal) of each port."""
    for path, member, value in component.signature.flatten(component):
        yield "__".join(map(str, path)), member.flow, value


def clock_ports(component: wiring.Component) -> Iterator[tuple[str, str, bool]]:
    """(port name, domain, whether it is the reset) of each clock and reset port."""
    for domain in component.domains:
        prefix = "" if domain == "sync" else f"{domain}_"
        yield f"{prefix}clk", domain, False
        if component.has_reset:
            yield f"{prefix}rst", domain, True


class Shared(wiring.Component, ABC):
    """Base of every shared block. A subclass names itself in `block`, passes its ports and parameters, and gives `body`."""

    block: str
    """Name in documents and tables, e.g. `pe`; the module's name is this and the parameters."""
    domains: tuple[str, ...] = ("sync",)
    """Clock domains: `sync` (ports clk, rst; the parent chooses with `DomainRenamer`), or named ones (ports <name>_clk, <name>_rst)."""
    has_reset = True
    """Whether the block has reset ports; False where every register is without reset."""
    black_box = False
    """Whether the emitted netlist has no body for it (memory macros)."""

    def __init__(self, members: dict, **parameters: int):
        self.parameters = parameters
        """Every parameter by its short name, in the order in which they appear in the module's name."""
        super().__init__(members)

    @property
    def module_name(self) -> str:
        """Name of the Verilog module: a function of all parameters."""
        return "_".join([self.block, *(f"{name}{value}" for name, value in self.parameters.items())])

    @abstractmethod
    def body(self) -> Module:
        """The block's logic."""

    def elaborate(self, platform: object) -> Elaboratable:
        if not isinstance(platform, Emission) or platform.converting is self:
            return self.body()
        platform.record(self)
        ports = {f"{'i' if flow == In else 'o'}_{name}": value for name, flow, value in port_values(self)}
        for name, domain, is_reset in clock_ports(self):
            ports[f"i_{name}"] = ResetSignal(domain) if is_reset else ClockSignal(domain)
        return Instance(self.module_name, **ports)


class Emission:
    """The platform of Verilog emission: makes shared blocks instances and remembers which modules that takes."""

    def __init__(self) -> None:
        self.converting: wiring.Component | None = None
        self.pending: list[Shared] = []
        self.blocks: dict[str, Shared] = {}
        """The first instance met of each module, by module name."""

    def record(self, component: Shared) -> None:
        """Note that `component`'s module is needed. Two blocks of one name must have the same ports and parameters."""
        name = component.module_name
        known = self.blocks.setdefault(name, component)
        if known is component:
            self.pending.append(component)
        elif type(known) is not type(component) or known.parameters != component.parameters or known.signature != component.signature:
            raise AssertionError(f"two different blocks are called {name}")

    def get_memory(self, memory: Memory) -> Elaboratable:
        """Memories are banks (`hw.sram`) or short queues; refuse any other."""
        if memory.depth > MAX_REGISTER_WORDS and not getattr(self.converting, "is_bank", False):
            raise AssertionError(f"a memory of {memory.depth} words must be a bank of hw.sram")
        return memory.elaborate(None)

    def convert(self, component: wiring.Component, name: str) -> str:
        """RTLIL of `component` as module `name`, its clocks and resets being ports."""
        self.converting = component
        fragment = Fragment.get(component, self)
        if component.has_reset:
            domains = {d: ClockDomain(d) for d in component.domains}
        else:
            domains = {d: ClockDomain(d, reset_less=True) for d in component.domains}
        fragment.add_domains(*domains.values())
        ports = {port: (domains[d].rst if is_reset else domains[d].clk, PortDirection.Input) for port, d, is_reset in clock_ports(component)}
        for port, flow, value in port_values(component):
            ports[port] = (value, PortDirection.Input if flow == In else PortDirection.Output)
        text, _names = rtlil.convert_fragment(fragment, ports, name, emit_src=False)
        return text
