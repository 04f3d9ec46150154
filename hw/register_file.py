"""The registers of `hw.registers` in the core domain, and the event counters."""

import zlib

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.memory_side import ACCESS_BITS, ADDRESS_BITS, ANSWER_BITS, LITE_ADDRESS_BITS
from hw.registers import CONFIGURATION, EVENTS, IDENTIFICATION, MAP_VERSION, Control, Register, Status
from hw.shared import Shared, output_register, register


def configuration_words(config: AcceleratorConfig) -> list[int]:
    """What the registers from CONFIGURATION on read as."""
    sources = (config.array, config.precision, config.buffers, config.memory, config)
    return [next(getattr(source, name) for source in sources if hasattr(source, name)) for name in CONFIGURATION]


CLOCKS_BITS = 47
"""A counter runs over after 2^47 clocks at the earliest (39 hours at 1 GHz); the bits that this leaves out read as 0."""


class RegisterFile(Shared):
    """Answers one register access at a time, 2 cycles after it came; an address outside the map, or a write to a read-only register, with an error.

    `access` and `answer` as in `hw.memory_side.AxiLite`. START and SOFT_RESET become pulses. `ev_<event>` is added to its counter in every
    cycle (visible 3 cycles later); START clears all counters. `interrupt` is set when a program ends or fails, and cleared by
    CLEAR_INTERRUPT, START and SOFT_RESET.
    """

    block = "registers"

    def __init__(self, config: AcceleratorConfig, event_bits: dict[str, int]):
        self.config, self.event_bits = config, event_bits
        ports = {
            "access": In(ACCESS_BITS), "access_valid": In(1), "access_ready": Out(1),
            "answer": Out(ANSWER_BITS), "answer_valid": Out(1), "answer_ready": In(1),
            "start": Out(1), "soft_reset": Out(1), "program_address": Out(ADDRESS_BITS), "program_bytes": Out(32), "interrupt": Out(1),
            "busy": In(1), "finished": In(1), "failed": In(1), "cause": In(8), "error_address": In(32),
        }  # fmt: skip
        contents = zlib.crc32(repr((configuration_words(config), sorted(event_bits.items()))).encode())
        super().__init__(ports | {f"ev_{name}": In(event_bits[name]) for name in EVENTS}, contents=contents)

    def body(self) -> Module:
        m = Module()
        fresh = Signal(init=1)
        """High in the first cycle after reset: what must not be read undefined is cleared by it, as the counters are by START."""
        m.d.sync += fresh.eq(0)
        counters = self._counters(m, clear=fresh | self.start)
        done, error, cause = Signal(), Signal(), register(8, "error_cause")
        program_address, program_bytes = output_register(m, self.program_address), output_register(m, self.program_bytes)

        write, address, data, strobe = Signal(), Signal(LITE_ADDRESS_BITS), Signal(32), Signal(4)
        accept = self.access_valid & self.access_ready
        m.d.comb += [Cat(write, address, data, strobe).eq(self.access), self.access_ready.eq(~self.answer_valid | self.answer_ready)]

        status = Signal(32)
        m.d.comb += [
            status[Status.BUSY].eq(self.busy | self.finished | self.failed),
            status[Status.DONE].eq(done),
            status[Status.ERROR].eq(error),
            status[Status.INTERRUPT].eq(self.interrupt),
            status[8:16].eq(Mux(error, cause, 0)),
        ]
        readable: dict[int, Value] = {
            Register.ID: C(IDENTIFICATION, 32),
            Register.VERSION: C(MAP_VERSION, 32),
            Register.CONTROL: C(0, 32),
            Register.STATUS: status,
            Register.PROGRAM_ADDRESS_LOW: program_address[:32],
            Register.PROGRAM_ADDRESS_HIGH: program_address[32:],
            Register.PROGRAM_BYTES: program_bytes,
            Register.ERROR_ADDRESS: Mux(error, self.error_address, 0),
        }
        readable |= {Register.CONFIGURATION + 4 * i: C(word, 32) for i, word in enumerate(configuration_words(self.config))}
        readable |= {Register.EVENTS + 4 * i: half for i, half in enumerate(counters)}

        value, known = Signal(32), Signal()
        with m.Switch(address):
            for byte_address, register_value in readable.items():
                with m.Case(int(byte_address)):
                    m.d.comb += [value.eq(register_value), known.eq(1)]

        writable = {
            Register.PROGRAM_ADDRESS_LOW: program_address[:32],
            Register.PROGRAM_ADDRESS_HIGH: program_address[32:],
            Register.PROGRAM_BYTES: program_bytes,
        }
        commands = Signal(len(Control))
        write_known = Signal()
        with m.Switch(address):
            with m.Case(int(Register.CONTROL)):
                m.d.comb += [write_known.eq(1), commands.eq(Mux(accept & write & strobe[0], data, 0))]
            for byte_address, target in writable.items():
                with m.Case(int(byte_address)):
                    m.d.comb += write_known.eq(1)
                    for byte in range((len(target) + 7) // 8):
                        with m.If(accept & write & strobe[byte]):
                            m.d.sync += target[8 * byte : 8 * byte + 8].eq(data[8 * byte : 8 * byte + 8])

        with m.If(fresh):
            m.d.sync += [program_address.eq(0), program_bytes.eq(0)]

        answer = output_register(m, self.answer)
        with m.If(self.answer_ready):
            m.d.sync += self.answer_valid.eq(0)
        with m.If(accept):
            m.d.sync += [answer.eq(Cat(Mux(write, 0, value), Mux(write, ~write_known, ~known))), self.answer_valid.eq(1)]

        begin = commands[Control.START] & ~self.busy & ~commands[Control.SOFT_RESET]
        m.d.sync += [self.start.eq(begin), self.soft_reset.eq(commands[Control.SOFT_RESET])]
        with m.If(self.finished | self.failed):
            m.d.sync += [done.eq(self.finished), error.eq(self.failed), cause.eq(self.cause), self.interrupt.eq(1)]
        with m.If(commands[Control.CLEAR_INTERRUPT]):
            m.d.sync += self.interrupt.eq(0)
        with m.If(self.start | self.soft_reset):
            m.d.sync += [done.eq(0), error.eq(0), self.interrupt.eq(0)]
        return m

    def _counters(self, m: Module, *, clear: Value) -> list[Signal]:
        """The halves of the event counters, low first: a register for the increment, then the low half, then its carry into the high half."""
        halves = []
        for name, bits in self.event_bits_in_order():
            increment, low = register(bits, f"{name}_increment"), register(32, f"{name}_low")
            high = register(min(32, CLOCKS_BITS + bits - 32), f"{name}_high")
            any_increment, carry = Signal(name=f"{name}_any"), Signal(name=f"{name}_carry")
            event = getattr(self, f"ev_{name}")
            total = low + increment
            m.d.sync += [any_increment.eq(event.any()), carry.eq(any_increment & total[32])]
            with m.If(event.any()):
                m.d.sync += increment.eq(event)
            with m.If(clear):
                m.d.sync += [low.eq(0), high.eq(0)]
            with m.Else():
                with m.If(any_increment):
                    m.d.sync += low.eq(total)
                with m.If(carry):
                    m.d.sync += high.eq(high + 1)
            halves += [low, high]
        return halves

    def event_bits_in_order(self) -> list[tuple[str, int]]:
        """(event, bits of its increment) in register order."""
        return [(name, self.event_bits[name]) for name in EVENTS]
