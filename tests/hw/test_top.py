"""The whole machine in Amaranth's simulator: its ports, its clock crossings, and that it survives errors and resets at any moment."""

import random

import numpy as np
import pytest
from amaranth.lib.wiring import Out
from block_bench import simulate, until, variant

from hw.compiler import compile_layer
from hw.emit import emit
from hw.golden import activations, random_layer, run_layer
from hw.isa import INSTRUCTION_BYTES
from hw.layers import LayerShape
from hw.registers import Cause, Control, Register, Status, event_address
from hw.top import Accelerator
from hw.top import ports as top_ports

# The smallest machine: what is tested here does not depend on size.
CONFIG = variant("small", array={"cols": 2, "lanes": 2, "acc_depth": 2}, buffers={"activation_bank_bytes": 256, "weight_bank_bytes": 128,
                 "output_bank_bytes": 128, "parameter_words": 32}, memory={"read_fifo_beats": 8, "max_burst_beats": 4})  # fmt: skip
SHAPE = LayerShape(name="layer", kind="conv", in_channels=4, out_channels=4, in_h=4, in_w=4, kernel_h=2, kernel_w=2, relu=True)


def test_ports_are_those_that_a_system_connects_to():
    ports = {name: (member.shape, member.flow == Out) for name, member in top_ports(CONFIG).items()}
    axi = {"id": 4, "addr": 40, "len": 8, "size": 3, "burst": 2, "data": 32, "strb": 4, "resp": 2, "last": 1, "valid": 1, "ready": 1}
    expected = dict.fromkeys(("core_clk", "core_rst", "mem_clk", "mem_rst", "op_ack"), (1, False))
    expected |= {"irq": (1, True), "op_req_valid": (1, True), "op_req_index": (8, True)}
    for channel, names, master in (("ar", "id addr len size burst", 1), ("r", "id data resp last", 0), ("aw", "id addr len size burst", 1),
                                   ("w", "data strb last", 1), ("b", "id resp", 0)):  # fmt: skip
        expected |= {f"m_axi_{channel}{name}": (axi[name], bool(master)) for name in [*names.split(), "valid"]}
        expected[f"m_axi_{channel}ready"] = (1, not master)
    for channel, names, master in (("aw", "addr", 0), ("w", "data strb", 0), ("b", "resp", 1), ("ar", "addr", 0), ("r", "data resp", 1)):
        expected |= {f"s_axi_{channel}{name}": (12 if name == "addr" else axi[name], bool(master)) for name in [*names.split(), "valid"]}
        expected[f"s_axi_{channel}ready"] = (1, not master)
    assert ports == expected


def test_nothing_but_fifos_and_synchronizers_crosses_between_the_clocks(tmp_path):
    """Every block has one clock, FIFOs excepted; the top itself has no register; what enters a block comes from its own clock."""
    bundle = emit(CONFIG, tmp_path)
    crossing = {block.name for block in bundle.blocks if len(set(block.clocks.values())) > 1}
    assert crossing == {"two_clock_fifo"}
    top = bundle.verilog[0].read_text().split("module accelerator(")[1].split("endmodule")[0]
    assert "always" not in top and " reg " not in top


class Machine:
    """The accelerator, an AXI4 memory with random stalls, and a host at the AXI4-Lite port."""

    def __init__(self, *, core_period: float = 1.0, mem_period: float = 1.3, seed: int = 0):
        self.top = Accelerator(CONFIG)
        self.clocks = {"core": core_period * 1e-6, "mem": mem_period * 1e-6}
        self.draw = random.Random(seed)
        self.memory = bytearray(1 << 16)
        self.fault: int | None = None
        """Bursts that hold this byte fail."""
        self.open_reads: list[tuple[int, int, int]] = []
        self.reads_open = self.writes_open = 0

    def _fails(self, address: int, beats: int) -> bool:
        return self.fault is not None and address <= self.fault < address + 4 * beats

    async def _read_channel(self, ctx):
        top, bursts, on_channel = self.top, [], None
        while True:
            ctx.set(top.m_axi_arready, int(self.draw.random() < 0.7))
            if on_channel is None and bursts and self.draw.random() < 0.8:
                identifier, address, left, bad = bursts[0]
                ctx.set(top.m_axi_rid, identifier)
                ctx.set(top.m_axi_rdata, int.from_bytes(self.memory[address : address + 4], "little"))
                ctx.set(top.m_axi_rresp, 2 * bad)
                ctx.set(top.m_axi_rlast, int(left == 1))
                ctx.set(top.m_axi_rvalid, 1)
                on_channel = bursts[0]
            asked, granted, taken, *burst = (await ctx.tick("mem").sample(
                top.m_axi_arvalid, top.m_axi_arready, top.m_axi_rready, top.m_axi_arid, top.m_axi_araddr, top.m_axi_arlen))[-6:]  # fmt: skip
            if asked and granted:
                identifier, address, length = burst
                bursts.append((identifier, address, length + 1, self._fails(address, length + 1)))
            if on_channel is not None and taken:
                ctx.set(top.m_axi_rvalid, 0)
                on_channel = None
                identifier, address, left, bad = bursts.pop(0)
                if left > 1:
                    bursts.insert(0, (identifier, address + 4, left - 1, bad))
            self.reads_open = len(bursts)

    async def _write_channel(self, ctx):
        top, bursts, beats, responses, answering = self.top, [], [], [], False
        while True:
            ctx.set(top.m_axi_awready, int(self.draw.random() < 0.7))
            ctx.set(top.m_axi_wready, int(self.draw.random() < 0.7))
            if not answering and responses and self.draw.random() < 0.5:
                ctx.set(top.m_axi_bresp, responses[0])
                ctx.set(top.m_axi_bvalid, 1)
                answering = True
            aw, aw_ready, w, w_ready, taken, *payload = (await ctx.tick("mem").sample(
                top.m_axi_awvalid, top.m_axi_awready, top.m_axi_wvalid, top.m_axi_wready, top.m_axi_bready,
                top.m_axi_awaddr, top.m_axi_awlen, top.m_axi_wdata, top.m_axi_wstrb, top.m_axi_wlast))[-10:]  # fmt: skip
            if aw and aw_ready:
                bursts.append((payload[0], payload[1] + 1))
            if w and w_ready:
                beats.append(payload[2:])
            if answering and taken:
                ctx.set(top.m_axi_bvalid, 0)
                answering = False
                responses.pop(0)
            while bursts and len(beats) >= bursts[0][1]:
                address, count = bursts.pop(0)
                bad = self._fails(address, count)
                for i in range(count):
                    data, strobe, last = beats.pop(0)
                    assert last == (i == count - 1)
                    for byte in range(4):
                        if strobe >> byte & 1 and not bad:
                            self.memory[address + 4 * i + byte] = data >> 8 * byte & 0xFF
                responses.append(2 * bad)
            self.writes_open = len(bursts) + len(responses)

    async def write(self, ctx, address: int, value: int) -> None:
        top = self.top
        for port, bits in ((top.s_axi_awaddr, address), (top.s_axi_wdata, value), (top.s_axi_wstrb, 0xF), (top.s_axi_awvalid, 1), (top.s_axi_wvalid, 1)):
            ctx.set(port, bits)
        ctx.set(top.s_axi_bready, 1)
        while not (await ctx.tick("mem").sample(top.s_axi_awready))[-1]:
            pass
        ctx.set(top.s_axi_awvalid, 0)
        ctx.set(top.s_axi_wvalid, 0)
        while not (response := (await ctx.tick("mem").sample(top.s_axi_bvalid, top.s_axi_bresp))[-2:])[0]:
            pass
        assert response[1] == 0

    async def read(self, ctx, address: int) -> int:
        top = self.top
        ctx.set(top.s_axi_araddr, address)
        ctx.set(top.s_axi_arvalid, 1)
        ctx.set(top.s_axi_rready, 1)
        while not (await ctx.tick("mem").sample(top.s_axi_arready))[-1]:
            pass
        ctx.set(top.s_axi_arvalid, 0)
        while not (answer := (await ctx.tick("mem").sample(top.s_axi_rvalid, top.s_axi_rdata, top.s_axi_rresp))[-3:])[0]:
            pass
        assert answer[2] == 0
        return answer[1]

    async def reset(self, ctx) -> None:
        for port in (self.top.core_rst, self.top.mem_rst):
            ctx.set(port, 1)
        for domain in ("core", "mem"):
            for _ in range(3):
                await ctx.tick(domain)
        for port in (self.top.core_rst, self.top.mem_rst):
            ctx.set(port, 0)

    async def start(self, ctx, address: int, size: int) -> None:
        await self.write(ctx, Register.PROGRAM_ADDRESS_LOW, address)
        await self.write(ctx, Register.PROGRAM_ADDRESS_HIGH, 0)
        await self.write(ctx, Register.PROGRAM_BYTES, size)
        await self.write(ctx, Register.CONTROL, 1 << Control.START)

    async def to_end(self, ctx) -> tuple[bool, Cause, int]:
        """Wait for the interrupt: (done, cause, error address). Then nothing may be open at the memory."""
        await until(ctx, lambda: ctx.get(self.top.irq), limit=20_000, domain="mem")
        status = await self.read(ctx, Register.STATUS)
        assert not status >> Status.BUSY & 1
        assert self.reads_open == self.writes_open == 0
        await self.write(ctx, Register.CONTROL, 1 << Control.CLEAR_INTERRUPT)
        return bool(status >> Status.DONE & 1), Cause(status >> 8 & 0xFF), await self.read(ctx, Register.ERROR_ADDRESS)

    def run(self, main) -> None:
        async def after_reset(ctx):
            await self.reset(ctx)
            await main(ctx)

        simulate(self.top, after_reset, self._read_channel, self._write_channel, clocks=self.clocks)


class Workload:
    """A layer in a machine's memory, and its golden output."""

    def __init__(self, machine: Machine):
        rng = np.random.default_rng(7)
        layer = random_layer(SHAPE, rng, zero_points=(2, -3))
        x = activations((1, SHAPE.in_channels, SHAPE.in_h, SHAPE.in_w), 8, rng, zero_point=2)
        self.machine, self.program = machine, compile_layer(CONFIG, layer)
        self.image, self.golden = self.program.memory({"layer": x}).tobytes(), run_layer(layer, x)
        self.refresh()

    def refresh(self) -> None:
        """The memory as before a run."""
        self.machine.memory[:] = bytes(len(self.machine.memory))
        self.machine.memory[: len(self.image)] = self.image

    async def start(self, ctx) -> None:
        await self.machine.start(ctx, self.program.program_address, self.program.program_bytes)

    def region(self, name: str):
        return self.program.regions[name]

    async def check_run(self, ctx) -> None:
        """A run from the start gives the golden output."""
        self.refresh()
        await self.start(ctx)
        await self.check_end(ctx)

    async def check_end(self, ctx) -> None:
        """A run that has begun does."""
        assert await self.machine.to_end(ctx) == (True, Cause.NONE, 0)
        memory = np.frombuffer(bytes(self.machine.memory[: len(self.image)]), np.uint8)
        assert np.array_equal(self.program.output(memory), self.golden)
        assert await self.machine.read(ctx, event_address("instructions")) == self.program.instructions


def test_a_layer_twice():
    machine = Machine()
    work = Workload(machine)

    async def main(ctx):
        await work.check_run(ctx)
        await work.check_run(ctx)

    machine.run(main)


def test_errors_are_reported_and_survived():
    """A bad read of program, input and weights, a bad write, an illegal instruction, a cut-off program; after each the layer runs as before."""
    machine = Machine(core_period=1.3, mem_period=1.0, seed=1)
    work = Workload(machine)
    program = work.program.program_address

    async def main(ctx):
        for name, cause in (("layer.input", Cause.READ_RESPONSE), ("layer.weights", Cause.READ_RESPONSE), ("layer.output", Cause.WRITE_RESPONSE)):
            work.refresh()
            machine.fault = work.region(name).address + 4
            await work.start(ctx)
            done, reported, address = await machine.to_end(ctx)
            assert (done, reported) == (False, cause)
            opcode, fields = work.program.instruction((address - program) // INSTRUCTION_BYTES)
            assert opcode.name == ("STORE" if cause == Cause.WRITE_RESPONSE else "LOAD")
            assert fields["dram_address"] <= machine.fault
            assert name == "layer.output" or fields["target"] == (name == "layer.weights")
            machine.fault = None
        machine.fault = program + 2 * INSTRUCTION_BYTES
        await work.start(ctx)
        assert await machine.to_end(ctx) == (False, Cause.READ_RESPONSE, machine.fault)
        machine.fault = None

        last = program + work.program.program_bytes - INSTRUCTION_BYTES
        work.refresh()
        machine.memory[last] = 0
        await work.start(ctx)
        assert await machine.to_end(ctx) == (False, Cause.ILLEGAL_INSTRUCTION, last)
        work.refresh()
        await machine.start(ctx, program, work.program.program_bytes - INSTRUCTION_BYTES)
        assert await machine.to_end(ctx) == (False, Cause.PROGRAM_OVERRUN, last)
        await machine.start(ctx, program + 4, work.program.program_bytes)
        assert await machine.to_end(ctx) == (False, Cause.MISALIGNED, program + 4)
        await work.check_run(ctx)

        # Windows that leave out all but the first bytes of the output or of the weights; then the first instructions of the program.
        for window, region, cause, opcode in (("WRITE", "layer.output", Cause.WRITE_OUTSIDE, "STORE"), ("READ", "layer.weights", Cause.READ_OUTSIDE, "LOAD")):
            first, end = work.region(region).address + 32, work.region(region).address + work.region(region).size_bytes
            await machine.write(ctx, Register[f"{window}_WINDOW_LAST_LOW"], first - 1)
            await machine.write(ctx, Register[f"{window}_WINDOW_LAST_HIGH"], 0)
            work.refresh()
            await work.start(ctx)
            done, reported, address = await machine.to_end(ctx)
            assert (done, reported) == (False, cause)
            assert work.program.instruction((address - program) // INSTRUCTION_BYTES)[0].name == opcode
            assert machine.memory[first:end] == work.image[first:end]
            await machine.write(ctx, Register[f"{window}_WINDOW_LAST_HIGH"], 0xFF)
            await work.check_run(ctx)
        await machine.write(ctx, Register.READ_WINDOW_FIRST_LOW, program + 2 * INSTRUCTION_BYTES)
        await work.start(ctx)
        assert await machine.to_end(ctx) == (False, Cause.READ_OUTSIDE, program)
        await machine.write(ctx, Register.READ_WINDOW_FIRST_LOW, 0)
        await work.check_run(ctx)

        # The first instruction that waits for a token does so for ever.
        work.refresh()
        index = next(i for i in range(work.program.instructions) if work.program.instruction(i)[1].get("wait_load"))
        machine.memory[program + index * INSTRUCTION_BYTES] |= 1 << 6  # wait_store as well
        await work.start(ctx)
        assert await machine.to_end(ctx) == (False, Cause.DEADLOCK, program + index * INSTRUCTION_BYTES)
        await work.check_run(ctx)

    machine.run(main)


def test_what_the_host_writes_during_a_run_changes_nothing():
    """START, another program's address and size: this run goes on, with its counters."""
    machine = Machine(core_period=1.0, mem_period=1.9, seed=3)
    work = Workload(machine)

    async def main(ctx):
        for moment in (0, 60, 230):
            work.refresh()
            await work.start(ctx)
            await ctx.tick("core").repeat(moment + 1)
            await machine.start(ctx, 0x7F00, INSTRUCTION_BYTES)
            await work.check_end(ctx)

    machine.run(main)


@pytest.mark.parametrize("core_period, mem_period", [(1.0, 3.7), (2.9, 1.0)])
def test_soft_reset_at_any_moment(core_period, mem_period):
    """Reads and writes under way are brought to an end, nothing of the old run shows in the next."""
    machine = Machine(core_period=core_period, mem_period=mem_period, seed=2)
    work = Workload(machine)

    async def main(ctx):
        for moment in (0, 7, 60, 90, 150, 230, 330, 500, 700):
            work.refresh()
            await work.start(ctx)
            await ctx.tick("core").repeat(moment + 1)
            await machine.write(ctx, Register.CONTROL, 1 << Control.SOFT_RESET)
            for _ in range(1000):
                status = await machine.read(ctx, Register.STATUS)
                if not status >> Status.BUSY & 1:
                    break
            assert status == 0 and not ctx.get(machine.top.irq)
            assert machine.reads_open == machine.writes_open == 0
        await work.check_run(ctx)

    machine.run(main)
