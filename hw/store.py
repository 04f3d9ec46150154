"""The store engine: runs of words from the output banks to DRAM."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.datapath import address_bits
from hw.decode import INSTRUCTION_BITS, fields
from hw.isa import Opcode
from hw.memory_side import BEAT_ERROR_BITS, run_beats_bits, run_ports
from hw.queue import Queue
from hw.runs import Runs, beat_of_byte, beats_of_run, rounded_up
from hw.shared import Shared, output_register, register

OPEN_INSTRUCTIONS = 4
"""Instructions whose data is on the way and whose answers are not all back."""
OPEN_RUNS = 64
"""Runs without answer at a time."""


class Store(Shared):
    """Executes STORE and SYNC in order. `done` pulses once for each, when all its write responses (and earlier ones) are back.

    Reads one output word a cycle while the beats are taken, without a pause between runs: words narrower than a beat are packed
    into it (`beat_strobe` has a bit a byte), a wider word becomes several beats. A word's beat is offered 2 cycles after its read.
    The next instruction starts while answers are awaited. Back-pressure: `run_ready`, `beat_ready`, `OPEN_RUNS` runs without answer.

    While `stop` is held the run in hand is finished and nothing new is begun; `drained` then says that no answer is to come.
    An address or stride that is no multiple of min(word, beat) raises `misaligned` instead of `done` and writes nothing,
    an error in an answer raises `failed` (`outside` if the run was outside its window); they stay up until reset. `out_read_free` says that
    the banks' read port and its data are not needed in this cycle and the next.
    """

    block = "store"

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        data_bits = config.memory.axi_data_bits
        ports = run_ports(config, "run", Out) | {
            "instr_payload": In(INSTRUCTION_BITS), "instr_valid": In(1), "instr_ready": Out(1), "done": Out(1),
            "stop": In(1), "drained": Out(1), "misaligned": Out(1), "failed": Out(1), "outside": Out(1), "busy": Out(1),
            "out_read_free": Out(1), "out_read_en": Out(1), "out_read_bank": Out(4), "out_read_addr": Out(address_bits(config.output_words)),
            "out_read_data": In(config.activation_word_bits),
            "beat_data": Out(data_bits), "beat_strobe": Out(data_bits // 8), "beat_valid": Out(1), "beat_ready": In(1),
            "answer_error": In(BEAT_ERROR_BITS), "answer_valid": In(1), "answer_ready": Out(1),
        }  # fmt: skip
        super().__init__(ports, r=config.array.rows, w=config.activation_word_bits, n=config.output_words, b=run_beats_bits(config), d=data_bits)

    def body(self) -> Module:
        m = Module()
        advance, bank_read = self._read_words(m)
        self._pack(m, advance, bank_read)
        return m

    def _read_words(self, m: Module) -> tuple[Signal, tuple[Value, Value, Value, Value]]:
        """Walk over the runs: announce each, and read its words. Returns the enable of the next stage and what it needs to know of a word."""
        config = self.config
        word_bytes = config.output_word_bytes
        fresh = fields(self.instr_payload, Opcode.STORE)
        held_word = register(INSTRUCTION_BITS, "held")
        held = fields(held_word, Opcode.STORE)
        active, misaligned = Signal(), Signal()
        unit = min(word_bytes, config.axi_bytes) - 1
        skewed = (fresh.opcode == Opcode.STORE) & (((fresh.dram_address | fresh.stride1_bytes | fresh.stride2_bytes) & unit) != 0)

        # Answers: an instruction is complete when as many runs have been answered as had been announced by its end.
        count_bits = (2 * OPEN_RUNS - 1).bit_length()
        announced, answered = Signal(count_bits), Signal(count_bits)
        m.submodules.ends = ends = Queue(width=count_bits, depth=OPEN_INSTRUCTIONS)
        reached = ((answered - ends.r_data)[:count_bits] < OPEN_RUNS) & ends.r_valid
        m.d.comb += [ends.clear.eq(0), ends.r_ready.eq(reached), self.answer_ready.eq(1)]
        m.d.sync += self.done.eq(reached)
        with m.If(self.answer_valid):
            m.d.sync += answered.eq(answered + 1)
            with m.If(self.answer_error[0]):
                m.d.sync += [self.failed.eq(1), self.outside.eq(self.outside | self.answer_error[1])]

        runs = Runs(m, "run", count1=held.count1, count2=held.count2, walks=[
            ("byte", held.dram_address, held.stride1_bytes, held.stride2_bytes),
            ("word", held.output_address[: len(self.out_read_addr)], held.bank_stride1, held.bank_stride2),
        ])  # fmt: skip
        begun, first = Signal(), Signal()
        run_bytes = register(run_beats_bits(config) + (config.axi_bytes - 1).bit_length(), "run_bytes")
        address, words_left = register(len(self.out_read_addr), "word_address"), register(16, "words_left")
        byte = runs.current["byte"]
        run_address, run_beats = output_register(m, self.run_address), output_register(m, self.run_beats)
        run_free = (~self.run_valid | self.run_ready) & ((announced - answered)[:count_bits] != OPEN_RUNS - 1)
        advance = Signal()
        reading = Signal()
        m.d.comb += reading.eq(active & begun & advance & (~first | (run_free & ~self.stop)))
        last_word = words_left == 1
        finished = reading & last_word & runs.last

        ending = Signal()
        m.d.comb += [self.instr_ready.eq(~active & ~ending & ~misaligned & ends.w_ready & ~self.stop), ends.w_data.eq(announced)]
        accepted = self.instr_valid & self.instr_ready
        with m.If(accepted):
            m.d.sync += [held_word.eq(self.instr_payload), active.eq((fresh.opcode == Opcode.STORE) & ~skewed), misaligned.eq(skewed), begun.eq(0)]
        # The end is queued one cycle after the last word was read: by then its run has been counted as announced.
        m.d.comb += ends.w_valid.eq((accepted & (fresh.opcode == Opcode.SYNC)) | ending)
        m.d.sync += ending.eq(finished)
        with m.If(finished):
            m.d.sync += active.eq(0)
        with m.If(self.stop & first):
            m.d.sync += active.eq(0)
        with m.If(misaligned & (answered == announced) & ~ends.r_valid & ~self.done):
            m.d.sync += self.misaligned.eq(1)

        with m.If(self.run_ready):
            m.d.sync += self.run_valid.eq(0)
        with m.If(active & ~begun):
            m.d.sync += [
                *runs.start(), address.eq(held.output_address), words_left.eq(held.run_words), begun.eq(1), first.eq(1),
                run_bytes.eq(rounded_up(config, held.run_words << (word_bytes.bit_length() - 1))),
            ]  # fmt: skip
        with m.If(reading):
            with m.If(first):
                m.d.sync += [
                    run_address.eq(beat_of_byte(config, byte)),
                    run_beats.eq(beats_of_run(config, byte, run_bytes)),
                    self.run_valid.eq(1),
                    announced.eq(announced + 1),
                ]
            m.d.sync += [address.eq(address + 1), words_left.eq(words_left - 1), first.eq(0)]
            with m.If(last_word):
                m.d.sync += [*runs.advance(), address.eq(runs.upcoming["word"]), words_left.eq(held.run_words), first.eq(1)]

        m.d.comb += [
            self.out_read_en.eq(reading),
            self.out_read_free.eq(advance & ~reading),
            self.out_read_bank.eq(held.bank),
            self.out_read_addr.eq(address),
            self.busy.eq(active | ending | ends.r_valid),
            self.drained.eq((~active | first) & (announced == answered) & ~self.run_valid & ~self.beat_valid),
        ]
        return advance, (reading, first, last_word, byte)

    def _pack(self, m: Module, advance: Signal, bank_read: tuple[Value, Value, Value, Value]) -> None:
        """Put words into beats. `advance` says that a word may be read now: the one before leaves the bank's read register."""
        reading, first, last_word, byte = bank_read
        word_bytes, beat_bytes = self.config.output_word_bytes, self.config.axi_bytes
        beat_data = output_register(m, self.beat_data)
        beat_free = ~self.beat_valid | self.beat_ready
        word_valid, word_last = Signal(), Signal()
        with m.If(advance):
            m.d.sync += word_valid.eq(reading)
        with m.If(reading):
            m.d.sync += word_last.eq(last_word)
        with m.If(self.beat_ready):
            m.d.sync += self.beat_valid.eq(0)

        if word_bytes >= beat_bytes:
            parts = word_bytes // beat_bytes
            part = Signal(range(parts))
            last_part = part == parts - 1
            m.d.comb += [advance.eq(~word_valid | (beat_free & last_part)), self.beat_strobe.eq(~0)]
            with m.If(word_valid & beat_free):
                m.d.sync += [
                    beat_data.eq(self.out_read_data.word_select(part, 8 * beat_bytes)),
                    self.beat_valid.eq(1),
                    part.eq(Mux(last_part, 0, part + 1)),
                ]
            return

        # The beat register collects words; it is free for a word unless a complete beat in it is not being taken.
        slots = beat_bytes // word_bytes
        slot = Signal(range(slots))
        fresh_beat = Signal(init=1)
        next_slot = Signal(range(slots))
        with m.If(reading):
            start = byte[word_bytes.bit_length() - 1 : beat_bytes.bit_length() - 1]
            m.d.comb += next_slot.eq(Mux(first, start, slot + 1))
            m.d.sync += slot.eq(next_slot)
        complete = word_last | (slot == slots - 1)
        m.d.comb += advance.eq(~word_valid | beat_free)
        with m.If(word_valid & beat_free):
            m.d.sync += [
                beat_data.word_select(slot, 8 * word_bytes).eq(self.out_read_data),
                self.beat_strobe.eq(Mux(fresh_beat, 0, self.beat_strobe) | (((1 << word_bytes) - 1) << (slot << (word_bytes.bit_length() - 1)))),
                self.beat_valid.eq(complete),
                fresh_beat.eq(complete),
            ]
