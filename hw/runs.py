"""What LOAD and STORE share: the walk over the runs of a transfer, and how many beats a run touches."""

from amaranth.hdl import Module, Mux, Signal, Value

from hw.config import AcceleratorConfig
from hw.shared import register


class Runs:
    """Registers that walk over `count2` repetitions of `count1` runs, following any number of addresses along.

    `walks` gives each address as (name, first, stride1, stride2); its register is as wide as `first` and wraps. `start` begins,
    `advance` goes to the next run (both are to be used as `m.d.<domain> += ...`); `last` says that the current run is the last.
    The counts and strides must stay still in between. `current[name]` is the start of the current run, `upcoming[name]` of the next.
    """

    def __init__(self, m: Module, name: str, *, count1: Value, count2: Value, walks: list[tuple[str, Value, Value, Value]]):
        self._count1, self._count2, self._walks = count1, count2, walks
        # The counters carry along whether this is their last value, so that no comparison stands before the address adders.
        self._left1, self._left2 = register(len(count1), f"{name}_left1"), register(len(count2), f"{name}_left2")
        self._wrap, self._last2 = register(1, f"{name}_wrap"), register(1, f"{name}_last2")
        self._outer = {key: register(len(first), f"{name}_{key}_outer") for key, first, _, _ in walks}
        self.current = {key: register(len(first), f"{name}_{key}") for key, first, _, _ in walks}
        self.upcoming = {key: Signal(len(first), name=f"{name}_{key}_next") for key, first, _, _ in walks}
        self.last = Signal(name=f"{name}_last")
        m.d.comb += self.last.eq(self._wrap & self._last2)
        for key, _, stride1, stride2 in walks:
            m.d.comb += self.upcoming[key].eq(Mux(self._wrap, self._outer[key], self.current[key]) + Mux(self._wrap, stride2, stride1))

    def start(self) -> list:
        """To the first run."""
        counts = [self._left1.eq(self._count1), self._left2.eq(self._count2), self._wrap.eq(self._count1 == 1), self._last2.eq(self._count2 == 1)]
        return counts + [target[key].eq(first) for key, first, _, _ in self._walks for target in (self._outer, self.current)]

    def advance(self) -> list:
        """To the next run."""
        counts = [
            self._left1.eq(Mux(self._wrap, self._count1, self._left1 - 1)),
            self._wrap.eq(Mux(self._wrap, self._count1 == 1, self._left1 == 2)),
            self._left2.eq(self._left2 - self._wrap),
            self._last2.eq(Mux(self._wrap, self._left2 == 2, self._last2)),
        ]
        outers = [self._outer[key].eq(Mux(self._wrap, self.upcoming[key], self._outer[key])) for key, *_ in self._walks]
        return counts + outers + [self.current[key].eq(self.upcoming[key]) for key, *_ in self._walks]


def rounded_up(config: AcceleratorConfig, run_bytes: Value) -> Value:
    """`run_bytes` and a beat less one byte: what `beats_of_run` needs of a run's length."""
    return run_bytes + (config.axi_bytes - 1)


def beats_of_run(config: AcceleratorConfig, first_byte: Value, rounded_bytes: Value) -> Value:
    """Beats that the bytes from address `first_byte` on lie in; `rounded_bytes` is their number `rounded_up`."""
    return (first_byte[: _beat_shift(config)] + rounded_bytes) >> _beat_shift(config)


def beat_of_byte(config: AcceleratorConfig, byte: Value) -> Value:
    """The beat in which the byte at an address lies."""
    return byte[_beat_shift(config) :]


def _beat_shift(config: AcceleratorConfig) -> int:
    return (config.axi_bytes - 1).bit_length()
