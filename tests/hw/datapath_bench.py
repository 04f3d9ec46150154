"""Driving a datapath: small configurations, filling and reading its banks through its ports, counting events and cycles."""

from collections import Counter

from compute_reference import Reference

from hw.config import AcceleratorConfig
from hw.datapath import Datapath, event_bits, weight_write_words


def design(*, bits=(8, 8), kind="sram", axi=64, **array) -> AcceleratorConfig:
    """A small accelerator: banks of 64 activation, 128 weight and 64 output words."""
    array = {"rows": 2, "cols": 2, "lanes": 2, "acc_depth": 4} | array
    lanes, (activation_bits, weight_bits) = array["lanes"], bits
    size = {
        "activation_bank_bytes": max(64, 64 * lanes * activation_bits // 8), "weight_bank_bytes": max(64, 128 * lanes * weight_bits // 8),
        "output_bank_bytes": max(64, 64 * lanes * activation_bits // 8), "parameter_words": 64 * array.get("post_lanes", 1), "kind": kind,
    }  # fmt: skip
    precision = {"activation_bits": activation_bits, "weight_bits": weight_bits}
    return AcceleratorConfig.model_validate(
        {"version": 1, "name": "block", "array": array, "precision": precision, "buffers": size, "memory": {"axi_data_bits": axi}}
    )


class Bench:
    """Drives a datapath in Amaranth's simulator."""

    def __init__(self, config: AcceleratorConfig):
        self.config, self.dut = config, Datapath(config)
        self.cycle, self.accepted, self.done, self.events = 0, [], [], Counter()

    async def watch(self, ctx):
        """Count cycles, events and completions."""
        dut, names = self.dut, list(event_bits(self.config))
        while True:
            sampled = await ctx.tick().sample(dut.done, dut.instr_valid & dut.instr_ready, *(getattr(dut, f"ev_{name}") for name in names))
            done, accepted, *events = sampled[2:]
            self.events.update({name: count for name, count in zip(names, events, strict=True) if count})
            if done:
                self.done.append(self.cycle)
            if accepted:
                self.accepted.append(self.cycle)
            self.cycle += 1

    async def fill(self, ctx, reference: Reference) -> None:
        """Write all banks through the ports that the load engine uses."""
        config, dut, array = self.config, self.dut, self.config.array

        def pack(word: list[int], bits: int) -> int:
            return sum((lane & (1 << bits) - 1) << i * bits for i, lane in enumerate(word))

        async def strobe(**values) -> None:
            for name, value in values.items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            for name in ("act_write_a", "act_write_b", "weight_write", "param_write"):
                ctx.set(getattr(dut, name), 0)

        # Two rows at a time with the data of one, through both ports; then every row by itself over it.
        for row in range(array.rows):
            for address, word in enumerate(reference.activations[row]):
                data = pack(word, config.precision.activation_bits)
                if row % 2:
                    await strobe(act_write_b=1 << row, act_write_addr_b=address, act_write_addr_a=0, act_write_data=data)
                else:
                    following = 1 << row + 1 if row + 1 < array.rows else 0
                    await strobe(act_write_a=1 << row, act_write_addr_a=address, act_write_b=following, act_write_addr_b=address, act_write_data=data)
        width, at_once = config.weight_word_bits, weight_write_words(config)
        for first in range(0, array.cols, at_once):
            for address in range(config.weight_words):
                words = [pack(reference.weights[col][address], config.precision.weight_bits) for col in range(first, first + at_once)]
                data = sum(word << i * width for i, word in enumerate(words))
                await strobe(weight_write=((1 << at_once) - 1) << first, weight_write_addr=address, weight_write_data=data)
        for channel, (bias, multiplier, shift) in enumerate(reference.parameters):
            data = (bias & 2**32 - 1) | multiplier << 32 | shift << 48 | 0x3FF << 54
            await strobe(param_write=1 << channel % array.post_lanes, param_write_addr=channel // array.post_lanes, param_write_data=data)

    async def run(self, ctx, program: list[int]) -> None:
        """Offer the instructions without a pause and wait until all are done."""
        goal = len(self.done) + len(program)
        for one in program:
            ctx.set(self.dut.instr_payload, one)
            ctx.set(self.dut.instr_valid, 1)
            while not (await ctx.tick().sample(self.dut.instr_ready))[-1]:
                assert self.cycle < 200_000, "time-out"
            ctx.set(self.dut.instr_valid, 0)
        while len(self.done) < goal:
            await ctx.tick()
            assert self.cycle < 200_000, "time-out"
        assert ctx.get(self.dut.idle)

    async def compare(self, ctx, reference: Reference, only_written: bool = False) -> None:
        """Read all output words; those never written must still be as they were, unless `only_written`."""
        config, dut, bits = self.config, self.dut, self.config.precision.activation_bits
        for row in range(config.array.rows):
            for address in range(config.output_words):
                ctx.set(dut.out_read_en, 1)
                ctx.set(dut.out_read_bank, row)
                ctx.set(dut.out_read_addr, address)
                await ctx.tick()
                ctx.set(dut.out_read_en, 0)
                ctx.set(dut.out_read_bank, 15)  # must not matter
                found = ctx.get(dut.out_read_data)
                for lane in range(config.array.lanes):
                    expected = reference.outputs[row].get((address, lane), None if only_written else 0)
                    if expected is not None:
                        assert found >> lane * bits & (1 << bits) - 1 == expected & (1 << bits) - 1, f"row {row}, word {address}, lane {lane}"
