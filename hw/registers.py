"""The register map of the AXI4-Lite port: 32-bit registers at byte addresses, and the event counters."""

from enum import IntEnum

MAP_VERSION = 2
IDENTIFICATION = 0x564F4C54
"""Reads as "VOLT"."""


class Register(IntEnum):
    """Byte addresses."""

    ID = 0x000
    VERSION = 0x004
    CONTROL = 0x008
    STATUS = 0x00C
    PROGRAM_ADDRESS_LOW = 0x010
    PROGRAM_ADDRESS_HIGH = 0x014
    PROGRAM_BYTES = 0x018
    ERROR_ADDRESS = 0x01C
    # Configuration read-back, in the order of CONFIGURATION.
    CONFIGURATION = 0x020
    # Windows: the first and the last byte that the accelerator may read, and that it may write; multiples of 32 bytes. To be written while idle.
    READ_WINDOW_FIRST_LOW = 0x080
    READ_WINDOW_FIRST_HIGH = 0x084
    READ_WINDOW_LAST_LOW = 0x088
    READ_WINDOW_LAST_HIGH = 0x08C
    WRITE_WINDOW_FIRST_LOW = 0x090
    WRITE_WINDOW_FIRST_HIGH = 0x094
    WRITE_WINDOW_LAST_LOW = 0x098
    WRITE_WINDOW_LAST_HIGH = 0x09C
    # Event counters: 64 bits each, low word first, in the order of EVENTS.
    EVENTS = 0x100


class Control(IntEnum):
    """Bits of CONTROL; written, they read as 0."""

    START = 0
    SOFT_RESET = 1
    CLEAR_INTERRUPT = 2


class Status(IntEnum):
    """Bits of STATUS; the cause of an error is in bits 15:8."""

    BUSY = 0
    DONE = 1
    ERROR = 2
    INTERRUPT = 3


class Cause(IntEnum):
    """Why the machine stopped with an error."""

    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    PROGRAM_OVERRUN = 2
    READ_RESPONSE = 3
    WRITE_RESPONSE = 4
    MISALIGNED = 5
    READ_OUTSIDE = 6
    WRITE_OUTSIDE = 7
    DEADLOCK = 8


CONFIGURATION = (
    "rows", "cols", "lanes", "acc_depth", "acc_bits", "multiplier_stages", "post_lanes", "activation_bits",
    "weight_bits", "activation_words", "weight_words", "output_words", "parameter_words", "axi_data_bits",
    "depthwise_taps",
)  # fmt: skip
"""Read-only words from CONFIGURATION on, four bytes each."""

EVENTS: dict[str, str] = {
    "core_cycles": "core cycles from start to end of the program",
    "compute_busy": "cycles in which the compute engine issues a reduction step, or reads a word of one (taps)",
    "stall_load": "cycles in which the compute engine waits for a token of the load engine",
    "stall_store": "cycles in which the compute engine waits for a token of the store engine",
    "stall_drain": "cycles in which the compute engine waits for an accumulator bank to drain",
    "stall_program": "cycles in which the compute engine has no instruction",
    "load_busy": "cycles in which the load engine executes LOAD, FILL or COPY",
    "store_busy": "cycles in which the store engine executes STORE",
    "multiplier_uses": "multiplications: lanes x cols x working rows a dot product",
    "weight_reads": "words read from weight banks",
    "weight_writes": "words written to weight banks",
    "activation_reads": "words read from activation banks",
    "activation_writes": "words written to activation banks",
    "accumulator_accesses": "accumulator updates: cols x working rows a dot product",
    "post_outputs": "outputs requantized",
    "parameter_reads": "words read from parameter banks",
    "output_writes": "words written to output banks",
    "output_reads": "words read from output banks",
    "dram_read_bytes": "bytes of AXI read beats received, program included",
    "dram_write_bytes": "bytes of AXI write beats sent",
    "instructions": "instructions executed",
}
"""Event counters in register order. `core_cycles` = `compute_busy` + the four stalls + cycles of set-up and draining."""


def event_address(name: str) -> int:
    """Byte address of the low word of an event counter."""
    return Register.EVENTS + 8 * list(EVENTS).index(name)
