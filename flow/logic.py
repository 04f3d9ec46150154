"""What a library cell computes: truth tables made from Liberty's Boolean expressions.

A cell with `n` inputs is described by tables over its local state. Bit `i` of the index is the value
of input `i`; a cell that stores a bit has that bit as the highest one of the index.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flow.liberty import Cell, Sequential
from hw.errors import ToolError

MAX_INPUTS = 10
_TOKEN = re.compile(r"\s*(?:([A-Za-z_][\w\[\].]*)|([01])(?![\w])|([!'^*&+|()]))")


def evaluate(expression: str, values: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """The Boolean array that a Liberty `expression` yields for arrays (or scalars) of its variables.

    Operators, strongest first: `!a` and `a'`; `a ^ b`; `a & b`, `a * b` and `a b`; `a | b` and `a + b`.
    Raises `ToolError` naming `where` for an unknown name or a malformed expression.
    """
    tokens: list[str] = []
    position = 0
    text = expression.strip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ToolError(f"Boolean expression must use names, 0, 1 and !'^*&+|(), not {text[position:]!r} ({where})")
        tokens.append(found[1] or found[2] or found[3])
        position = found.end()

    def peek() -> str:
        return tokens[0] if tokens else ""

    def fail() -> ToolError:
        return ToolError(f"Boolean expression must be complete and well formed, not {expression!r} ({where})")

    def atom() -> np.ndarray:
        token = tokens.pop(0) if tokens else ""
        if token == "!":
            return ~atom()
        if token == "(":
            value = either()
            if not tokens or tokens.pop(0) != ")":
                raise fail()
        elif token in ("0", "1"):
            value = np.asarray(token == "1")
        elif token in values:
            value = np.asarray(values[token], dtype=bool)
        elif re.match(r"[A-Za-z_]", token):
            raise ToolError(f"Boolean expression must name pins of its cell, not {token!r} in {expression!r} ({where})")
        else:
            raise fail()
        while peek() == "'":
            tokens.pop(0)
            value = ~value
        return value

    def different() -> np.ndarray:
        value = atom()
        while peek() == "^":
            tokens.pop(0)
            value = value ^ atom()
        return value

    def both() -> np.ndarray:
        value = different()
        while peek() and peek() not in (")", "|", "+"):
            if peek() in ("&", "*"):
                tokens.pop(0)
            value = value & different()
        return value

    def either() -> np.ndarray:
        value = both()
        while peek() in ("|", "+"):
            tokens.pop(0)
            value = value | both()
        return value

    result = either()
    if tokens:
        raise fail()
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class CellLogic:
    """The behaviour of one cell type, as tables of shape [2**(inputs + has_state)] over the local state.

    `kind` is combinational, flop, latch or clock_gate. `outputs_table` [outputs, states] holds the output
    values. `settle_table` is the stored bit once the present inputs have acted on it (asynchronous set and
    reset, a transparent latch). `next_table` is the bit stored at the rising edge of `clock_table`.
    `depends` [outputs, inputs] tells which inputs an output follows without a clock edge.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    has_state: bool
    outputs_table: np.ndarray
    settle_table: np.ndarray
    next_table: np.ndarray
    clock_table: np.ndarray
    depends: np.ndarray
    clock_inputs: tuple[int, ...]
    variables: Mapping[str, np.ndarray]

    @property
    def states(self) -> int:
        """Number of local states, the length of every table."""
        return self.settle_table.shape[0]

    def when(self, condition: str | None) -> np.ndarray:
        """Boolean [states]: where `condition` (over inputs, outputs and stored bit) holds; None holds everywhere."""
        if condition is None or not condition.strip():
            return np.ones(self.states, dtype=bool)
        return np.broadcast_to(evaluate(condition, self.variables, f"when of cell {self.name}"), self.states)


def _clock_gate(cell: Cell, where: str) -> tuple[Sequential, dict[str, str]]:
    """The latch and the output functions of an integrated clock gate, from its kind and the roles of its pins."""
    roles: dict[str, list[str]] = {}
    for pin in cell.pins.values():
        if pin.clock_gate_role:
            roles.setdefault(pin.clock_gate_role, []).append(pin.name)
    clocks, enables, outs = roles.get("clock", []), roles.get("enable", []) + roles.get("test", []), roles.get("out", [])
    if len(clocks) != 1 or len(outs) != 1 or not enables:
        raise ToolError(f"clock gate must name one clock, one output and an enable pin, not {roles} ({where})")
    clock, data = clocks[0], " | ".join(enables)
    kind = cell.clock_gate or ""
    if kind.startswith("latch_posedge"):
        latch = Sequential(kind="latch", state="_gate", inverse_state="_gate_n", enable=f"!{clock}", data_in=data)
        return latch, {outs[0]: f"{clock} & _gate"}
    if kind.startswith("latch_negedge"):
        latch = Sequential(kind="latch", state="_gate", inverse_state="_gate_n", enable=clock, data_in=data)
        return latch, {outs[0]: f"{clock} | _gate_n"}
    raise ToolError(f"clock gate must be latch_posedge or latch_negedge, not {kind!r} ({where})")


def cell_logic(cell: Cell) -> CellLogic:
    """The tables of a library cell; raises `ToolError` for a cell whose behaviour the library does not state fully."""
    where = f"cell {cell.name}"
    inputs = tuple(p.name for p in cell.pins.values() if p.direction == "input")
    outputs = tuple(p.name for p in cell.pins.values() if p.direction == "output")
    if any(p.direction == "inout" for p in cell.pins.values()):
        raise ToolError(f"pins must be inputs or outputs, not inout ({where}); mark the cell as one not to use")
    if len(inputs) > MAX_INPUTS:
        raise ToolError(f"a cell must have at most {MAX_INPUTS} inputs, not {len(inputs)} ({where}); mark the cell as one not to use")
    stated = {name: cell.pins[name].function for name in outputs}
    kind = "combinational"
    storage = cell.sequential[0] if cell.sequential else None
    if len(cell.sequential) > 1:
        raise ToolError(f"a cell must store one bit, not {len(cell.sequential)} ({where}); mark the cell as one not to use")
    if cell.clock_gate:
        kind = "clock_gate"
        storage, gated = _clock_gate(cell, where)
        stated = {name: gated.get(name) for name in outputs}
    elif storage is not None:
        kind = "flop" if storage.kind == "ff" else "latch"
    functions: list[str] = []
    for name, function in stated.items():
        if function is None:
            raise ToolError(f"output {name} must have a function in the library, not none ({where}); mark the cell as one not to use")
        functions.append(function)

    has_state = storage is not None
    index = np.arange(2 ** (len(inputs) + has_state))
    variables: dict[str, np.ndarray] = {name: (index >> i & 1).astype(bool) for i, name in enumerate(inputs)}
    no, state = np.zeros(len(index), dtype=bool), np.zeros(len(index), dtype=bool)
    clock = following = settled = no
    if storage is not None:
        state = (index >> len(inputs) & 1).astype(bool)
        variables |= {storage.state: state, storage.inverse_state: ~state}

        def table(expression: str | None, absent: np.ndarray) -> np.ndarray:
            return absent if expression is None else np.broadcast_to(evaluate(expression, variables, where), len(index))

        if storage.kind == "ff":
            if storage.clocked_on is None or storage.next_state is None:
                raise ToolError(f"a flop must state clocked_on and next_state ({where}); mark the cell as one not to use")
            clock, following, settled = table(storage.clocked_on, no), table(storage.next_state, no), state
        elif storage.enable is not None and storage.data_in is not None:
            settled = np.where(table(storage.enable, no), table(storage.data_in, no), state)
        else:
            raise ToolError(f"a latch must state enable and data_in ({where}); mark the cell as one not to use")
        # Where clear and preset act together the cleared value is taken.
        settled = np.where(table(storage.clear, no), False, np.where(table(storage.preset, no), True, settled))

    out = np.array([np.broadcast_to(evaluate(function, variables, where), len(index)) for function in functions], dtype=bool)
    out = out.reshape(len(outputs), len(index))
    variables |= dict(zip(outputs, out, strict=True))
    followed = out[:, (index & 2 ** len(inputs) - 1) | (settled.astype(int) << len(inputs))] if has_state else out
    depends = np.array([[np.any(followed[o] != followed[o][index ^ 1 << i]) for i in range(len(inputs))] for o in range(len(outputs))], dtype=bool)
    clocks = tuple(i for i in range(len(inputs)) if np.any(clock != clock[index ^ 1 << i]))
    return CellLogic(
        name=cell.name, kind=kind, inputs=inputs, outputs=outputs, has_state=has_state,
        outputs_table=out.astype(np.uint8), settle_table=settled.astype(np.uint8), next_table=following.astype(np.uint8),
        clock_table=clock.astype(np.uint8), depends=depends.reshape(len(outputs), len(inputs)), clock_inputs=clocks, variables=variables,
    )
