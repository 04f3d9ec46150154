"""An independent reference for the cycle model: emitted instructions, one by one, through three engines with tokens.

Plain Python over the instruction stream (what RTL does too), with made-up latencies. The load engine has two instructions in hand, the store
engine four; the program costs nothing to fetch. Nothing of `fit` or of the tiling formulas is used.
"""

from collections import defaultdict, deque
from dataclasses import dataclass

from hw.isa import Engine, Opcode, Target, decode

ENGINES = {
    Opcode.LOAD: Engine.LOAD, Opcode.FILL: Engine.LOAD, Opcode.CONFIGURE: Engine.COMPUTE, Opcode.COMPUTE: Engine.COMPUTE, Opcode.STORE: Engine.STORE,
}  # fmt: skip


IN_HAND = {Engine.LOAD: 2, Engine.STORE: 4}


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The made-up machine, core cycles unless said otherwise."""

    start: float = 80.0
    step: float = 3.0
    tail: float = 9.0
    instruction: float = 2.0
    load_latency: float = 55.0
    store_latency: float = 60.0
    memory_ratio: float = 1.0
    """Core cycles in a memory cycle."""


def core_cycles(program, truth: Truth) -> float:
    """Core cycles of a compiled program, END included."""
    config = program.config
    cols, beat = config.array.cols, config.axi_bytes
    stream = [decode(bytes(program.image[i : i + 32])) for i in _instruction_offsets(program)]
    tokens: dict[tuple[Engine, Engine], deque] = defaultdict(deque)
    free = dict.fromkeys(Engine, truth.start)
    data_end = {Engine.LOAD: 0.0, Engine.STORE: 0.0}
    in_hand = {Engine.LOAD: deque([0.0] * IN_HAND[Engine.LOAD]), Engine.STORE: deque([0.0] * IN_HAND[Engine.STORE])}  # when each is done
    done_last, geometry = truth.start, {}
    for opcode, f in stream:
        if opcode == Opcode.END:
            break
        engine = ENGINES[opcode]
        begin = free[engine]
        for source in Engine:
            if f[f"wait_{source.name.lower()}"]:
                begin = max(begin, tokens[source, engine].popleft())
        if opcode == Opcode.CONFIGURE:
            geometry, done = f, begin + 2
            free[engine] = done
        elif opcode == Opcode.COMPUTE:
            pixels = f["tile_h"] * f["tile_w"]
            steps = geometry["kernel_h"] * geometry["kernel_w"] * f["c_groups"]
            drain = cols / config.array.post_lanes if f["emit"] else 0
            issue_end = begin + f["passes"] * pixels * max(steps, drain) + truth.step
            free[engine] = issue_end
            done = issue_end + truth.tail + min(pixels, config.array.acc_depth) * drain
        else:
            begin = max(begin, in_hand[engine].popleft())
            runs = f["count1"] * f["count2"]
            word = config.output_word_bytes if opcode == Opcode.STORE else _item_bytes(config, f["target"])
            items = f["run_words"] * runs
            if opcode != Opcode.STORE and f["target"] == Target.WEIGHT:
                items *= cols // _side_by_side(config)
            bank = items * max(1.0, word / beat)
            axi = 0.0 if opcode == Opcode.FILL else _beats(f, items // runs * word, beat) * truth.memory_ratio
            latency = 0.0 if opcode == Opcode.FILL else truth.load_latency if engine == Engine.LOAD else truth.store_latency
            if engine == Engine.LOAD:  # requests go ahead of the data
                arrive = max(begin + latency, data_end[engine])
                done = data_end[engine] = arrive + max(bank, axi) + truth.instruction
                free[engine] = begin + runs
            else:  # the answer comes later, the next instruction does not wait for it
                data_end[engine] = max(begin, data_end[engine]) + max(bank, axi) + truth.instruction
                free[engine] = data_end[engine]
                done = data_end[engine] + latency
            in_hand[engine].append(done)
        for to in Engine:
            if f[f"signal_{to.name.lower()}"]:
                tokens[engine, to].append(done)
        done_last = max(done_last, done)
    return done_last


def _instruction_offsets(program):
    first = program.program_address - program.base_address
    return range(first, first + program.program_bytes, 32)


def _beats(f, run_bytes, beat):
    """Beats of all runs of an instruction, whole beats from where each begins."""
    starts = [f["dram_address"] + i * f["stride2_bytes"] + j * f["stride1_bytes"] for i in range(f["count2"]) for j in range(f["count1"])]
    return sum((start + run_bytes - 1) // beat - start // beat + 1 for start in starts)


def _side_by_side(config):
    return max(1, min(config.axi_bytes // config.weight_word_bytes, config.array.cols))


def _item_bytes(config, target):
    sizes = {Target.ACTIVATION: config.activation_word_bytes, Target.WEIGHT: _side_by_side(config) * config.weight_word_bytes, Target.PARAMETER: 8}
    return sizes[Target(target)]
