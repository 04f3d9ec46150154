"""The cocotb side of a simulation: start each program, wait for its end, read the registers.

Runs inside the simulator. What to do comes as JSON from the file named by REQUEST_VARIABLE, what
was read goes to the file named in it. No Python runs while the program does.
"""

import json
import os
from pathlib import Path
from typing import Protocol

import cocotb
from cocotb.handle import LogicArrayObject, LogicObject
from cocotb.triggers import FallingEdge, First, RisingEdge, Timer

from hw.registers import CONFIGURATION, EVENTS, Control, Register, event_address

REQUEST_VARIABLE = "VOLTFRONT_SIMULATION"


class Testbench(Protocol):
    """The signals of `tb.sv` that are used here."""

    reg_address: LogicArrayObject
    reg_write: LogicObject
    reg_wdata: LogicArrayObject
    reg_request: LogicObject
    reg_done: LogicObject
    reg_response: LogicArrayObject
    reg_rdata: LogicArrayObject
    ready: LogicObject
    started: LogicObject
    interrupt: LogicObject
    run_cycles: LogicArrayObject
    op_requests: LogicArrayObject


async def access(tb: Testbench, address: int, value: int | None = None) -> int:
    """Write `value` to a register, or read it if there is none; returns what was read."""
    tb.reg_address.value = address
    tb.reg_write.value = value is not None
    tb.reg_wdata.value = value or 0
    tb.reg_request.value = 1
    await RisingEdge(tb.reg_done)
    response = int(tb.reg_response.value)
    assert response == 0, f"register {address:#05x} answered with response {response}"
    read = int(tb.reg_rdata.value)
    tb.reg_request.value = 0
    await FallingEdge(tb.reg_done)
    return read


async def access64(tb: Testbench, address: int) -> int:
    return await access(tb, address) | await access(tb, address + 4) << 32


@cocotb.test()
async def run_programs(tb: Testbench) -> None:
    request = json.loads(Path(os.environ[REQUEST_VARIABLE]).read_text())
    if not tb.ready.value:
        await RisingEdge(tb.ready)
    answers = []
    for program in request["programs"]:
        answers.append(await run_one(tb, request, program))
        if answers[-1]["timed_out"]:
            break
    Path(request["answer"]).write_text(json.dumps(answers))


async def run_one(tb: Testbench, request: dict, program: dict) -> dict:
    """Start a program, wait for the interrupt, read what the registers say of it, take the interrupt back."""
    answer: dict[str, int | dict[str, int]] = {"identification": await access(tb, Register.ID), "version": await access(tb, Register.VERSION)}
    cycles, op_requests = int(tb.run_cycles.value), int(tb.op_requests.value)
    await access(tb, Register.PROGRAM_ADDRESS_LOW, program["address"] & 0xFFFFFFFF)
    await access(tb, Register.PROGRAM_ADDRESS_HIGH, program["address"] >> 32)
    await access(tb, Register.PROGRAM_BYTES, program["bytes"])
    for window, ends in program["windows"].items():
        for end, address in zip(("FIRST", "LAST"), ends, strict=True):
            await access(tb, Register[f"{window}_{end}_LOW"], address & 0xFFFFFFFF)
            await access(tb, Register[f"{window}_{end}_HIGH"], address >> 32)
    tb.started.value = 1
    await access(tb, Register.CONTROL, 1 << Control.START)

    if not tb.interrupt.value:
        await First(RisingEdge(tb.interrupt), Timer(request["timeout_ps"], "ps"))
    answer["timed_out"] = not tb.interrupt.value
    answer["run_cycles"] = int(tb.run_cycles.value) - cycles
    answer["op_requests"] = int(tb.op_requests.value) - op_requests
    tb.started.value = 0
    answer["status"] = await access(tb, Register.STATUS)
    answer["error_address"] = await access(tb, Register.ERROR_ADDRESS)
    answer["configuration"] = {name: await access(tb, Register.CONFIGURATION + 4 * i) for i, name in enumerate(CONFIGURATION)}
    answer["events"] = {name: await access64(tb, event_address(name)) for name in EVENTS}
    await access(tb, Register.CONTROL, 1 << Control.CLEAR_INTERRUPT)
    await Timer(20 * (request["core_period_ps"] + request["mem_period_ps"]), "ps")
    answer["interrupt_cleared"] = not tb.interrupt.value
    return answer
