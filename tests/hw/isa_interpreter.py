"""What a program means, written from docs/accelerator.md and the field tables: the judge of the compiler where there is no RTL.

Engines run their own instructions in order; which engine goes next is random among those whose tokens are there. Every access to
a bank or to DRAM is checked against the order that the tokens guarantee (vector clocks), so that a missing token is found
whatever the order happened to be. Left-over tokens, lock-ups, full token queues, misaligned or foreign DRAM addresses are errors.
"""

import random
from collections import Counter, deque

import numpy as np

from hw.isa import TOKEN_LIMIT, Opcode, Target, decode

LOAD, COMPUTE, STORE = range(3)
NAMES = ("load", "compute", "store")
LEGAL_TOKENS = {(LOAD, COMPUTE), (COMPUTE, LOAD), (COMPUTE, STORE), (STORE, COMPUTE), (STORE, LOAD)}


class Fault(AssertionError):
    """The program broke a rule of the machine."""


def need(condition, message):
    if not condition:
        raise Fault(message)


class Guarded:
    """A memory with one writing and one reading engine: remembers for each cell the last instruction of each that touched it."""

    def __init__(self, shape, writer, reader):
        self.writer, self.reader = writer, reader
        self.written, self.read = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)

    def on_read(self, where, clock):
        need(self.written[where].max(initial=0) <= clock[self.writer], f"{NAMES[self.reader]} reads what {NAMES[self.writer]} may not have written yet")
        self.read[where] = clock[self.reader]

    def on_write(self, where, clock):
        need(self.read[where].max(initial=0) <= clock[self.reader], f"{NAMES[self.writer]} overwrites what {NAMES[self.reader]} may still read")
        self.written[where] = clock[self.writer]


class Machine:
    """The accelerator `config` in front of `memory` (uint8, the addresses from `base` on). `writable`: list of (first, end) addresses."""

    def __init__(self, config, memory, base, writable, seed=0):
        self.config, self.memory, self.base, self.writable = config, memory, base, writable
        array, self.random = config.array, random.Random(seed)
        noise = np.random.default_rng(seed)
        self.lanes, self.rows, self.cols = array.lanes, array.rows, array.cols
        self.act = noise.integers(-8, 8, (self.rows, config.activation_words, self.lanes))
        self.weight = noise.integers(-8, 8, (self.cols, config.weight_words, self.lanes))
        self.out = noise.integers(-8, 8, (self.rows, config.output_words, self.lanes))
        self.parameter = noise.integers(0, 2**31, (config.parameter_bank_words, array.post_lanes))
        self.guard_act, self.guard_weight = Guarded(self.act.shape[:2], LOAD, COMPUTE), Guarded(config.weight_words, LOAD, COMPUTE)
        self.guard_parameter = Guarded(self.parameter.shape, LOAD, COMPUTE)
        self.guard_out, self.guard_dram = Guarded(self.out.shape[:2], COMPUTE, STORE), Guarded(memory.size, STORE, LOAD)
        self.guard_copied = Guarded(self.out.shape[:2], COMPUTE, LOAD)
        self.accumulators = None
        self.settings = None
        self.events = Counter()

    # Running

    def run(self, program, shuffle=True):
        """Execute the instructions (bytes) up to END. Without `shuffle`, strictly one after the other in the program's order."""
        queues, order = ([], [], []), []
        for at in range(0, len(program), 32):
            opcode, fields = decode(program[at : at + 32])
            self.events["instructions"] += 1
            if opcode is Opcode.END:
                need(at + 32 == len(program), "END must be the last instruction")
                break
            engine = {Opcode.CONFIGURE: COMPUTE, Opcode.COMPUTE: COMPUTE, Opcode.STORE: STORE}.get(opcode, LOAD)
            engine = fields["engine"] if opcode is Opcode.SYNC else engine
            queues[engine].append((opcode, fields))
            order.append(engine)
        else:
            raise Fault("a program ends with END")
        tokens = {pair: deque() for pair in LEGAL_TOKENS}
        clocks = [[0, 0, 0] for _ in NAMES]
        position = [0, 0, 0]

        def sources(engine):
            fields = queues[engine][position[engine]][1]
            return [(source, engine) for source, name in enumerate(NAMES) if fields[f"wait_{name}"]]

        for turn in range(len(order)):
            ready = [e for e in range(3) if position[e] < len(queues[e]) and all(tokens.get(pair) for pair in sources(e))]
            engine = self.random.choice(ready or [None]) if shuffle else order[turn]
            need(engine in ready, f"locked up after {turn} instructions at {position}")
            opcode, fields = queues[engine][position[engine]]
            clock = clocks[engine]
            for pair in sources(engine):
                clock[:] = map(max, clock, tokens[pair].popleft())
            position[engine] += 1
            clock[engine] = position[engine]
            getattr(self, f"do_{opcode.name.lower()}")(fields, clock)
            for target, name in enumerate(NAMES):
                if fields[f"signal_{name}"]:
                    need((engine, target) in LEGAL_TOKENS, f"{NAMES[engine]} may not signal {name}")
                    tokens[engine, target].append(list(clock))
                    need(len(tokens[engine, target]) <= TOKEN_LIMIT, "a token queue overflows")
        need(not any(tokens.values()), "tokens are left over")
        return self.events

    # Memory

    def runs(self, f, word_bytes, bank_key):
        """(DRAM address, bank address, words) of every run."""
        unit = min(word_bytes, self.config.axi_bytes) or 1
        need(f["dram_address"] % unit == 0, "a DRAM address is misaligned")
        for j in range(f["count2"]):
            for i in range(f["count1"]):
                dram = f["dram_address"] + i * f["stride1_bytes"] + j * f["stride2_bytes"]
                yield dram, f[bank_key] + i * f["bank_stride1"] + j * f["bank_stride2"], f["run_words"]

    def beats(self, address, size):
        width = self.config.axi_bytes
        return (-(-(address + size) // width) - address // width) * width

    def fetch(self, address, size, clock):
        first = address - self.base
        need(0 <= first and first + size <= self.memory.size, "a read outside of the memory")
        self.guard_dram.on_read(slice(first, first + size), clock)
        self.events["dram_read_bytes"] += self.beats(address, size)
        self.events["runs"] += 1
        return self.memory[first : first + size]

    @staticmethod
    def integers(data, bits):
        """Signed integers from bytes, least significant bits first."""
        digits = np.unpackbits(data, bitorder="little").reshape(-1, bits).astype(np.int64)
        weights = 2 ** np.arange(bits)
        weights[-1] *= -1
        return digits @ weights

    # Instructions

    def do_sync(self, f, clock):
        self.events["syncs"] += 1

    def do_load(self, f, clock):
        config = self.config
        if f["target"] == Target.ACTIVATION:
            bits, size = config.precision.activation_bits, config.activation_word_bytes
            for dram, bank, words in self.runs(f, size, "address_a"):
                data = self.integers(self.fetch(dram, words * size, clock), bits).reshape(words, self.lanes)
                self.write_activations(f, bank - f["address_a"], data, clock)
                self.events["activation_words"] += words
                self.events["activation_bytes"] += self.beats(dram, words * size)
                self.events["activation_runs"] += 1
        elif f["target"] == Target.WEIGHT:
            size = self.cols * self.lanes * config.precision.weight_bits // 8
            for dram, bank, words in self.runs(f, max(1, self.lanes * config.precision.weight_bits // 8), "address_a"):
                data = self.integers(self.fetch(dram, words * size, clock), config.precision.weight_bits)
                where = np.arange(bank, bank + words) % config.weight_words
                self.guard_weight.on_write(where, clock)
                self.weight[:, where] = data.reshape(words, self.cols, self.lanes).transpose(1, 0, 2)
                self.events["weight_words"] += words * self.cols
                self.events["weight_bytes"] += self.beats(dram, words * size)
                self.events["weight_runs"] += 1
        else:
            post_lanes = config.array.post_lanes
            for dram, bank, words in self.runs(f, 8, "address_a"):
                need(words % post_lanes == 0, "parameters must come in whole words of all banks")
                where = np.arange(bank, bank + words // post_lanes) % config.parameter_bank_words
                self.guard_parameter.on_write(where, clock)
                self.parameter[where] = self.fetch(dram, words * 8, clock).view("<i8").reshape(-1, post_lanes)
                self.events["parameter_words"] += words
                self.events["parameter_bytes"] += self.beats(dram, words * 8)

    def do_fill(self, f, clock):
        need(f["target"] == Target.ACTIVATION, "only activations are filled")
        for _, bank, words in self.runs({**f, "dram_address": 0}, 1, "address_a"):
            self.write_activations(f, bank - f["address_a"], np.full((words, self.lanes), f["fill_value"]), clock)
            self.events["fill_words"] += words

    def do_copy(self, f, clock):
        need(f["target"] == Target.ACTIVATION and f["source_bank"] < self.rows, "activations are copied from an output bank that is there")
        for j in range(f["count2"]):
            for i in range(f["count1"]):
                source = f["source_address"] + i * f["source_stride1"] + j * f["source_stride2"]
                where = (f["source_bank"], (source + np.arange(f["run_words"])) % self.config.output_words)
                self.guard_copied.on_read(where, clock)
                self.write_activations(f, i * f["bank_stride1"] + j * f["bank_stride2"], self.out[where], clock)
                self.events["copied_words"] += f["run_words"]

    def write_activations(self, f, offset, data, clock):
        for banks, address in ((f["banks_a"], f["address_a"]), (f["banks_b"], f["address_b"])):
            for bank in range(16):
                if banks >> bank & 1:
                    need(bank < self.rows, "a bank that is not there")
                    where = (bank, (address + offset + np.arange(len(data))) % self.config.activation_words)
                    self.guard_act.on_write(where, clock)
                    self.act[where] = data
                    self.events["activation_writes"] += len(data)

    def do_configure(self, f, clock):
        self.settings = f

    def do_compute(self, f, clock):
        config, s, cols, lanes = self.config, self.settings, self.cols, self.lanes
        depth, pixels = config.array.acc_depth, f["tile_h"] * f["tile_w"]
        y, x = np.divmod(np.arange(pixels), f["tile_w"])
        r, q, c = (i.ravel() for i in np.meshgrid(*(np.arange(n) for n in (s["kernel_h"], s["kernel_w"], f["c_groups"])), indexing="ij"))
        taps = max(1, s["taps"])
        need(taps <= max(1, config.array.depthwise_taps), "more taps than the design keeps")
        tap = r * s["act_r_stride"] + taps * q * s["act_s_stride"] + c * s["act_c_stride"]
        where = (f["act_base"] + (y * s["act_y_stride"] + x * s["act_x_stride"])[:, None] + tap[None, :]) % config.activation_words
        rows = [row for row in range(self.rows) if f["row_mask"] >> row & 1]
        steps = len(tap)
        if f["accumulate"]:
            need(f["passes"] == 1 and pixels <= depth, "accumulation needs one pass and one block")
        side = (where[:, :, None] + np.arange(taps) * s["act_s_stride"]) % config.activation_words  # [pixel][step][tap]
        for row in rows:
            self.guard_act.on_read((row, side), clock)
        fresh = next((n for n in (1, 2, 4) if n < taps and s["act_x_stride"] == n * s["act_s_stride"]), taps)
        reads = sum(taps if p % f["tile_w"] == 0 or p % depth == 0 else fresh for p in range(pixels))
        blocks = -(-pixels // depth)
        self.events.update(
            computes=1,
            pixel_steps=f["passes"] * reads * steps,
            multiplier_uses=f["passes"] * pixels * steps * cols * lanes * len(rows),
            activation_reads=f["passes"] * reads * steps * len(rows),
            weight_reads=f["passes"] * blocks * steps * cols,
            accumulator_accesses=f["passes"] * pixels * steps * cols * len(rows),
            blocks=f["passes"] * blocks,
        )
        for p in range(f["passes"]):
            words = (f["weight_base"] + p * steps + np.arange(steps)) % config.weight_words
            self.guard_weight.on_read(words, clock)
            weights = self.weight[:, words]  # [col][step][lane]
            if taps > 1:
                need(not weights[:, :, taps:].any(), "lanes beyond the taps need weight 0")
                lane = (f["channel_offset"] + p * cols + np.arange(cols)) % lanes
                sums = np.stack([np.einsum("pstc,cst->pc", self.act[row][side][..., lane], weights[:, :, :taps]) for row in rows])
            elif s["maximum"]:
                need(not f["accumulate"] and (np.abs(weights).sum(axis=2) <= 1).all() and weights.min() >= 0, "a maximum needs single weights of 1")
                sums = np.stack([np.einsum("psl,csl->cps", self.act[row][where], weights).max(axis=2).T for row in rows])
            else:
                flat = weights.reshape(cols, steps * lanes)
                sums = np.stack([self.act[row][where].reshape(pixels, steps * lanes) @ flat.T for row in rows])
            if f["accumulate"]:
                need(self.accumulators is not None and self.accumulators.shape == sums.shape, "nothing to accumulate to")
                sums = sums + self.accumulators
            need(np.abs(sums).max() < 1 << config.array.acc_bits - 1, "an accumulator overflows")
            self.accumulators = sums
            if f["emit"]:
                self.emit(f, p, rows, sums, pixels, clock)

    def emit(self, f, p, rows, sums, pixels, clock):
        config, s, cols, lanes, post_lanes = self.config, self.settings, self.cols, self.lanes, self.config.array.post_lanes
        need(f["parameter_base"] % post_lanes == 0, "parameters must start in the first bank")
        channels = f["parameter_base"] + p * cols + np.arange(cols)
        words = (channels // post_lanes % config.parameter_bank_words, channels % post_lanes)
        self.guard_parameter.on_read(words, clock)
        parameters = self.parameter[words]
        bias, multiplier, shift = parameters << 32 >> 32, parameters >> 32 & 0xFFFF, parameters >> 48 & 0x3F
        need(shift.max() < 62, "this interpreter rounds in 64 bits")
        value = (sums + bias) * multiplier
        quotient = value >> shift
        twice = 2 * (value - (quotient << shift))
        one = np.int64(1) << shift
        quotient += (twice > one) | ((twice == one) & (quotient % 2 == 1))
        result = np.clip(quotient + s["zero_point"], s["clip_low"], s["clip_high"])
        first = f["channel_offset"] + p * cols
        for column in range(cols):
            word, lane = divmod(first + column, lanes)
            where = (f["output_base"] + word * s["output_group_stride"] + np.arange(pixels)) % config.output_words
            for i, row in enumerate(rows):
                self.guard_out.on_write((row, where), clock)
                self.guard_copied.on_write((row, where), clock)
                self.out[row, where, lane] = result[i, :, column]
        self.events.update(
            post_outputs=len(rows) * pixels * cols, parameter_reads=pixels * cols, output_writes=len(rows) * pixels * -(-cols // lanes),
            pixel_drains=pixels * (cols // post_lanes),
        )  # fmt: skip

    def do_store(self, f, clock):
        config = self.config
        bits, size = config.precision.activation_bits, config.activation_word_bytes
        for dram, bank, words in self.runs(f, size, "output_address"):
            first, end = dram - self.base, dram - self.base + words * size
            need(any(low <= dram and dram + words * size <= high for low, high in self.writable), "a write outside of the windows")
            where = (bank + np.arange(words)) % config.output_words
            self.guard_out.on_read((f["bank"], where), clock)
            self.guard_dram.on_write(slice(first, end), clock)
            digits = (self.out[f["bank"], where].reshape(-1, 1) >> np.arange(bits) & 1).astype(np.uint8)
            self.memory[first:end] = np.packbits(digits.ravel(), bitorder="little")
            self.events["output_words"] += words
            self.events["output_bytes"] += self.beats(dram, words * size)
            self.events["output_runs"] += 1


def run_program(program, inputs, seed=0, shuffle=True):
    """Run a compiled program on `inputs` (layer name to array): (memory afterwards, events)."""
    memory = program.memory(inputs)
    writable = [(r.address, r.address + r.size_bytes) for r in program.regions.values() if r.write]
    machine = Machine(program.config, memory, program.base_address, writable, seed)
    first = program.program_address - program.base_address
    events = machine.run(memory[first : first + program.program_bytes].tobytes(), shuffle)
    return memory, events
