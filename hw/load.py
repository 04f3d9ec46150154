"""The load engine: runs of words from DRAM (LOAD), an output bank (COPY) or a constant (FILL) into the activation, weight and parameter banks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from hw.config import PARAMETER_BYTES, AcceleratorConfig
from hw.datapath import address_bits, weight_write_words
from hw.decode import INSTRUCTION_BITS, fields
from hw.isa import Opcode, Target
from hw.memory_side import BEAT_ERROR_BITS, run_beats_bits, run_ports
from hw.queue import Queue
from hw.runs import Runs, beat_of_byte, beats_of_run, rounded_up
from hw.shared import Shared, output_register, register

QUEUED_INSTRUCTIONS = 2
"""Instructions between the request generator and the writer, the one being written included."""


@dataclass(frozen=True, kw_only=True)
class TargetShape:
    """How the words of one target come in beats. An *item* is what one cycle writes: a word, or side by side weight words."""

    item_bytes: int
    items_a_run_word: int
    """Items that one count of `run_words` stands for."""
    items_an_address: int
    """Items written, each into banks of its own, before the bank address goes up."""
    axi_bytes: int

    @property
    def items_a_beat(self) -> int:
        return max(1, self.axi_bytes // self.item_bytes)

    @property
    def beats_an_item(self) -> int:
        return max(1, self.item_bytes // self.axi_bytes)

    @property
    def unit_bytes(self) -> int:
        """DRAM addresses and strides must be multiples of this."""
        return min(self.item_bytes, self.axi_bytes)


def target_shapes(config: AcceleratorConfig) -> dict[Target, TargetShape]:
    """The shape of each target's words."""
    side_by_side = weight_write_words(config)
    groups = config.array.cols // side_by_side
    common = {"axi_bytes": config.axi_bytes}
    return {
        Target.ACTIVATION: TargetShape(item_bytes=config.activation_word_bytes, items_a_run_word=1, items_an_address=1, **common),
        Target.WEIGHT: TargetShape(item_bytes=side_by_side * config.weight_word_bytes, items_a_run_word=groups, items_an_address=groups, **common),
        Target.PARAMETER: TargetShape(item_bytes=PARAMETER_BYTES, items_a_run_word=1, items_an_address=config.array.post_lanes, **common),
    }


class Load(Shared):
    """Executes LOAD, FILL, COPY and SYNC in order. `done` pulses once for each, when its words are written.

    Two walks over the runs of an instruction: the generator asks the memory side for one run a cycle and goes on with the next
    instruction as soon as it is through; the writer takes the beats in the order asked for and writes one item a cycle, without
    a pause between runs and with a pause of two cycles between instructions. An item is in its bank two cycles after its beat
    was taken, a copied word three cycles after it was read. Back-pressure: runs wait for `run_ready`; the writer waits for beats, and in COPY
    for `out_read_ready` (a word asked for with `out_read_en` is in `out_read_data` in the next cycle).

    Beats with `beat_program` are someone else's. While `stop` is held nothing new is asked for and beats are dropped; `drained` then says
    that none is to come. An address or stride that is no multiple of the target's unit raises `misaligned` instead of `done`, an error
    response to the instruction being written raises `failed` (and `outside` if its run was outside the window); they stay up until reset.
    """

    block = "load"

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        array = config.array
        ports = run_ports(config, "run", Out) | {
            "instr_payload": In(INSTRUCTION_BITS), "instr_valid": In(1), "instr_ready": Out(1), "done": Out(1),
            "stop": In(1), "drained": Out(1), "misaligned": Out(1), "failed": Out(1), "outside": Out(1), "busy": Out(1),
            "beat_data": In(config.memory.axi_data_bits), "beat_error": In(BEAT_ERROR_BITS), "beat_program": In(1), "beat_valid": In(1), "beat_ready": Out(1),
            "out_read_en": Out(1), "out_read_ready": In(1), "out_read_bank": Out(4), "out_read_addr": Out(address_bits(config.output_words)),
            "out_read_data": In(config.activation_word_bits),
            "act_write_a": Out(array.rows), "act_write_addr_a": Out(address_bits(config.activation_words)),
            "act_write_b": Out(array.rows), "act_write_addr_b": Out(address_bits(config.activation_words)),
            "act_write_data": Out(config.activation_word_bits),
            "weight_write": Out(array.cols), "weight_write_addr": Out(address_bits(config.weight_words)),
            "weight_write_data": Out(weight_write_words(config) * config.weight_word_bits),
            "param_write": Out(array.post_lanes), "param_write_addr": Out(address_bits(config.parameter_bank_words)),
            "param_write_data": Out(8 * PARAMETER_BYTES),
        }  # fmt: skip
        super().__init__(
            ports, r=array.rows, c=array.cols, l=array.lanes, a=config.precision.activation_bits, w=config.precision.weight_bits,
            p=array.post_lanes, ad=config.activation_words, wd=config.weight_words, pd=config.parameter_bank_words, od=config.output_words,
            d=config.memory.axi_data_bits,
        )  # fmt: skip

    def body(self) -> Module:
        m = Module()
        self.shapes = target_shapes(self.config)
        self.bank_bits = max(len(port) for port in (self.act_write_addr_a, self.weight_write_addr, self.param_write_addr))
        m.submodules.queue = queue = Queue(width=self._entry_layout().size, depth=QUEUED_INSTRUCTIONS)
        m.d.comb += [queue.clear.eq(0), self.busy.eq(queue.r_valid & ~data.View(self._entry_layout(), queue.r_data).sync)]
        self._generate(m, queue)
        self._write(m, queue)
        self._count_outstanding(m)
        return m

    def _by_target(self, target: Value, value: Callable[[TargetShape], Value]) -> Value:
        """`value(shape)`, a constant, of the target in hand."""
        values = [value(self.shapes[t]) for t in Target]
        return Array([*values, values[0]])[target]

    def _entry_layout(self) -> data.StructLayout:
        """An instruction as the writer needs it. `source` is the word of the output bank, or (its low bits) the byte within the beat."""
        start = max((self.config.axi_bytes - 1).bit_length(), len(self.out_read_addr))
        rows, bits = self.config.array.rows, self.bank_bits
        return data.StructLayout({
            "sync": 1, "fill": 1, "copy": 1, "source_bank": 4, "misaligned": 1, "target": 2, "run_words": 16, "count1": 12, "count2": 12,
            "source": start, "source_stride1": start, "source_stride2": start,
            "bank_stride1": bits, "bank_stride2": bits, "banks_a": rows, "address_a": bits, "banks_b": rows, "address_b": bits,
            "fill_value": self.config.precision.activation_bits,
        })  # fmt: skip

    def _generate(self, m: Module, queue: Queue) -> None:
        """Accept an instruction, hand it to the writer and ask for its runs."""
        fresh = fields(self.instr_payload, Opcode.LOAD)
        entry = data.View(self._entry_layout(), queue.w_data)
        copied = fields(self.instr_payload, Opcode.COPY)
        is_load, is_copy = fresh.opcode == Opcode.LOAD, fresh.opcode == Opcode.COPY
        unit = self._by_target(fresh.target, lambda shape: C(shape.unit_bytes - 1, 5))
        m.d.comb += [
            entry.sync.eq(fresh.opcode == Opcode.SYNC),
            entry.fill.eq(fresh.opcode == Opcode.FILL),
            entry.copy.eq(is_copy),
            entry.source_bank.eq(copied.source_bank),
            entry.misaligned.eq(is_load & (((fresh.dram_address | fresh.stride1_bytes | fresh.stride2_bytes) & unit) != 0)),
            entry.source.eq(Mux(is_copy, copied.source_address, fresh.dram_address)),
            entry.source_stride1.eq(Mux(is_copy, copied.source_stride1, fresh.stride1_bytes)),
            entry.source_stride2.eq(Mux(is_copy, copied.source_stride2, fresh.stride2_bytes)),
        ]
        for name in ("target", "run_words", "count1", "count2", "bank_stride1", "bank_stride2", "banks_a", "address_a", "banks_b", "address_b", "fill_value"):
            m.d.comb += getattr(entry, name).eq(getattr(fresh, name))

        active, held_word = Signal(), register(INSTRUCTION_BITS, "held")
        held = fields(held_word, Opcode.LOAD)
        runs = Runs(m, "ask", count1=held.count1, count2=held.count2,
                    walks=[("byte", held.dram_address, held.stride1_bytes, held.stride2_bytes)])  # fmt: skip
        begun = Signal()
        run_bytes = register(run_beats_bits(self.config) + (self.config.axi_bytes - 1).bit_length(), "run_bytes")
        run_address, run_beats = output_register(m, self.run_address), output_register(m, self.run_beats)
        free = ~self.run_valid | self.run_ready

        m.d.comb += [self.instr_ready.eq(~active & queue.w_ready & ~self.stop), queue.w_valid.eq(self.instr_valid & self.instr_ready)]
        with m.If(self.instr_valid & self.instr_ready):
            m.d.sync += [held_word.eq(self.instr_payload), active.eq(is_load & ~entry.misaligned), begun.eq(0)]
        with m.If(free):
            m.d.sync += self.run_valid.eq(0)
        with m.If(active):
            with m.If(self.stop):
                m.d.sync += active.eq(0)
            with m.Elif(~begun):
                scale = self._by_target(held.target, lambda shape: C((shape.item_bytes * shape.items_a_run_word).bit_length() - 1, 4))
                m.d.sync += [*runs.start(), run_bytes.eq(rounded_up(self.config, held.run_words << scale)), begun.eq(1)]
            with m.Elif(free):
                byte = runs.current["byte"]
                m.d.sync += [
                    run_address.eq(beat_of_byte(self.config, byte)),
                    run_beats.eq(beats_of_run(self.config, byte, run_bytes)),
                    self.run_valid.eq(1),
                    *runs.advance(),
                    active.eq(~runs.last),
                ]

    def _write(self, m: Module, queue: Queue) -> None:
        """Walk over the queued instructions' runs again, as beats arrive, and write their items."""
        config, entry = self.config, data.View(self._entry_layout(), queue.r_data)
        writing = Signal()
        runs = Runs(m, "write", count1=entry.count1, count2=entry.count2, walks=[
            ("a", entry.address_a, entry.bank_stride1, entry.bank_stride2),
            ("b", entry.address_b, entry.bank_stride1, entry.bank_stride2),
            ("source", entry.source, entry.source_stride1, entry.source_stride2),
        ])  # fmt: skip

        # Position within the run: item of the beat (or beat of the item), and bank of the address.
        most_beats = max(shape.beats_an_item for shape in self.shapes.values())
        most_items = max(shape.items_a_beat for shape in self.shapes.values())
        place_bits = (max(most_items, most_beats) - 1).bit_length()
        bank_count = max(shape.items_an_address for shape in self.shapes.values())
        place, part = register(place_bits, "place"), register((bank_count - 1).bit_length(), "part")
        items_left = register(16 + (config.array.cols - 1).bit_length(), "items_left")
        address_a, address_b = register(self.bank_bits, "address_a"), register(self.bank_bits, "address_b")
        source = register(len(self.out_read_addr), "source")

        last_place = self._by_target(entry.target, lambda shape: C(max(shape.items_a_beat, shape.beats_an_item) - 1, max(1, place_bits)))
        joins = self._by_target(entry.target, lambda shape: C(shape.beats_an_item > 1, 1))
        last_part = self._by_target(entry.target, lambda shape: C(shape.items_an_address - 1, max(1, len(part))))

        mine = self.beat_valid & ~self.beat_program
        no_beat = entry.fill | entry.copy
        step, emit, last_item = Signal(), Signal(), Signal()
        at_last_place, at_last_part = place == last_place, part == last_part
        m.d.comb += [
            step.eq(writing & Mux(entry.copy, self.out_read_ready, entry.fill | mine) & ~self.stop),
            emit.eq(step & (no_beat | ~joins | at_last_place)),
            self.out_read_en.eq(writing & entry.copy & ~self.stop), self.out_read_bank.eq(entry.source_bank), self.out_read_addr.eq(source),
            last_item.eq(emit & (items_left == 1)),
            self.beat_ready.eq(~self.beat_program & (self.stop | (step & ~no_beat & (joins | at_last_place | last_item)))),
        ]

        beat_offset = (config.axi_bytes - 1).bit_length()

        def begin_run(walk: Mapping[str, Value]) -> list:
            shift = self._by_target(entry.target, lambda shape: C(shape.unit_bytes.bit_length() - 1, 3))
            scale = self._by_target(entry.target, lambda shape: C(shape.items_a_run_word.bit_length() - 1, 3))
            return [
                address_a.eq(walk["a"]), address_b.eq(walk["b"]), part.eq(0), place.eq(walk["source"][:beat_offset] >> shift), source.eq(walk["source"]),
                items_left.eq(entry.run_words << scale),
            ]  # fmt: skip

        with m.If(step):
            m.d.sync += place.eq(Mux(at_last_place, 0, place + 1))
        with m.If(emit):
            m.d.sync += [items_left.eq(items_left - 1), part.eq(Mux(at_last_part, 0, part + 1))]
            m.d.sync += [address_a.eq(address_a + at_last_part), address_b.eq(address_b + at_last_part), source.eq(source + 1)]
        with m.If(last_item):
            m.d.sync += [*begin_run(runs.upcoming), *runs.advance()]

        # The last copied word is written one cycle later than others would be; so its instruction ends.
        closing = Signal()
        end = last_item & runs.last
        finish = (end & ~entry.copy) | closing
        m.d.sync += closing.eq(end & entry.copy)
        begin = ~writing & ~closing & queue.r_valid & ~entry.misaligned
        m.d.comb += queue.r_ready.eq(finish | (begin & entry.sync))
        m.d.sync += self.done.eq(queue.r_ready)
        with m.If(end):
            m.d.sync += writing.eq(0)
        with m.Elif(begin & ~entry.sync):
            m.d.sync += [writing.eq(1), *runs.start(), *begin_run({"a": entry.address_a, "b": entry.address_b, "source": entry.source})]
        with m.If(~writing & queue.r_valid & entry.misaligned):
            m.d.sync += self.misaligned.eq(1)
        with m.If(step & ~no_beat & self.beat_error[0]):
            m.d.sync += [self.failed.eq(1), self.outside.eq(self.outside | self.beat_error[1])]

        self._drive_banks(m, entry, emit=emit, collect=step & joins & ~at_last_place, place=place, part=part, address_a=address_a, address_b=address_b)

    def _drive_banks(
        self, m: Module, entry: data.View, *, emit: Value, collect: Value, place: Value, part: Value, address_a: Value, address_b: Value
    ) -> None:  # fmt: skip
        """One register stage in front of the banks' write ports."""
        most_beats = max(shape.beats_an_item for shape in self.shapes.values())
        earlier = Array([register(len(self.beat_data), f"earlier_{i}") for i in range(most_beats - 1)])
        if most_beats > 1:
            with m.If(collect):
                m.d.sync += earlier[place].eq(self.beat_data)

        def item(target: Target) -> Value:
            shape = self.shapes[target]
            if shape.beats_an_item > 1:
                return Cat(*earlier[: shape.beats_an_item - 1], self.beat_data)
            return self.beat_data.word_select(place, 8 * shape.item_bytes) if shape.items_a_beat > 1 else self.beat_data

        act_addr_a, act_addr_b, act_data, weight_addr, weight_data, param_addr, param_data = (
            output_register(m, port)
            for port in (
                self.act_write_addr_a, self.act_write_addr_b, self.act_write_data, self.weight_write_addr, self.weight_write_data,
                self.param_write_addr, self.param_write_data,
            )
        )  # fmt: skip
        # A copied word is in `out_read_data` one cycle after its step: where it goes waits as long.
        copies, copy_a, copy_b = Signal(), register(len(self.act_write_a), "copy_banks_a"), register(len(self.act_write_b), "copy_banks_b")
        copy_addr_a, copy_addr_b = register(len(self.act_write_addr_a), "copy_address_a"), register(len(self.act_write_addr_b), "copy_address_b")
        m.d.sync += copies.eq(emit & entry.copy)
        with m.If(emit & entry.copy):
            m.d.sync += [copy_a.eq(entry.banks_a), copy_b.eq(entry.banks_b), copy_addr_a.eq(address_a), copy_addr_b.eq(address_b)]

        m.d.sync += [self.act_write_a.eq(0), self.act_write_b.eq(0), self.weight_write.eq(0), self.param_write.eq(0)]
        with m.If(copies):
            m.d.sync += [
                self.act_write_a.eq(copy_a), act_addr_a.eq(copy_addr_a), self.act_write_b.eq(copy_b), act_addr_b.eq(copy_addr_b),
                act_data.eq(self.out_read_data),
            ]  # fmt: skip
        with m.If(emit & ~entry.copy):
            with m.Switch(entry.target):
                with m.Case(Target.ACTIVATION):
                    m.d.sync += [
                        self.act_write_a.eq(entry.banks_a), act_addr_a.eq(address_a),
                        self.act_write_b.eq(entry.banks_b), act_addr_b.eq(address_b),
                        act_data.eq(Mux(entry.fill, entry.fill_value.replicate(self.config.array.lanes), item(Target.ACTIVATION))),
                    ]  # fmt: skip
                with m.Case(Target.WEIGHT):
                    side_by_side = weight_write_words(self.config)
                    m.d.sync += [
                        self.weight_write.eq(C((1 << side_by_side) - 1, self.config.array.cols) << part * side_by_side),
                        weight_addr.eq(address_a),
                        weight_data.eq(item(Target.WEIGHT)),
                    ]
                with m.Case(Target.PARAMETER):
                    m.d.sync += [self.param_write.eq(1 << part), param_addr.eq(address_a), param_data.eq(item(Target.PARAMETER))]

    def _count_outstanding(self, m: Module) -> None:
        """Beats asked for and not yet taken."""
        outstanding = Signal(run_beats_bits(self.config) + 4)
        asked = Mux(self.run_valid & self.run_ready, self.run_beats, 0)
        m.d.sync += outstanding.eq(outstanding + asked - (self.beat_valid & self.beat_ready))
        m.d.comb += self.drained.eq((outstanding == 0) & ~self.run_valid)
