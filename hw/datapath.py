"""The datapath: the compute engine, the rows of processing elements with their requantizers, and all banks. Wiring only."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.decode import INSTRUCTION_BITS


def address_bits(words: int) -> int:
    """Bits of the address of one of `words` words."""
    return (words - 1).bit_length()


def weight_write_words(config: AcceleratorConfig) -> int:
    """Weight words written in one cycle at most: as many as a beat of the AXI port holds, up to one a column."""
    return max(1, min(config.axi_bytes // config.weight_word_bytes, config.array.cols))


def event_bits(config: AcceleratorConfig) -> dict[str, int]:
    """Width of the increment of each event (see `hw.registers.EVENTS`) that the datapath counts."""
    rows, cols, lanes, post_lanes = config.array.rows, config.array.cols, config.array.lanes, config.array.post_lanes
    most = {
        "compute_busy": 1, "stall_drain": 1, "multiplier_uses": rows * cols * lanes, "weight_reads": cols, "weight_writes": cols,
        "activation_reads": rows, "activation_writes": rows, "accumulator_accesses": rows * cols, "post_outputs": rows * post_lanes,
        "parameter_reads": post_lanes, "output_writes": rows, "output_reads": 1,
    }  # fmt: skip
    return {name: value.bit_length() for name, value in most.items()}


class Datapath(wiring.Component):
    """Everything between the bank write ports and the output banks' read port.

    * Instructions (CONFIGURE, COMPUTE, or SYNC for this engine) are taken in order where `instr_valid` and `instr_ready`; `done` pulses once
      for each, in order, when it is complete: its reads are over and its outputs can be read. At most `MAX_IN_FLIGHT` are in flight.
    * Activation banks: bit r of `act_write_a` writes `act_write_data` to row r's bank at `act_write_addr_a`, bit r of `act_write_b` at
      `act_write_addr_b`; a row must not be in both.
    * Weight banks: bit c of `weight_write` writes column c's bank; it takes word c mod `weight_write_words` of `weight_write_data`.
    * Parameter banks: bit j of `param_write` writes the bank of post lane j; `param_write_addr` is in bank words (channel / post_lanes).
    * Output banks: `out_read_data` is the word of bank `out_read_bank` from the cycle after `out_read_en` until the cycle after the next.
    * `ev_<event>`: how much each event's counter is to be increased in this cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        array = config.array
        param_word = address_bits(config.parameter_bank_words)
        ports = {
            "instr_payload": In(INSTRUCTION_BITS), "instr_valid": In(1), "instr_ready": Out(1), "done": Out(1), "idle": Out(1),
            "act_write_a": In(array.rows), "act_write_addr_a": In(address_bits(config.activation_words)),
            "act_write_b": In(array.rows), "act_write_addr_b": In(address_bits(config.activation_words)),
            "act_write_data": In(config.activation_word_bits),
            "weight_write": In(array.cols), "weight_write_addr": In(address_bits(config.weight_words)),
            "weight_write_data": In(weight_write_words(config) * config.weight_word_bits),
            "param_write": In(array.post_lanes), "param_write_addr": In(param_word), "param_write_data": In(64),
            "out_read_en": In(1), "out_read_bank": In(4), "out_read_addr": In(address_bits(config.output_words)),
            "out_read_data": Out(config.activation_word_bits),
        }  # fmt: skip
        super().__init__(ports | {f"ev_{name}": Out(bits) for name, bits in event_bits(config).items()})

    def elaborate(self, platform) -> Module:
        raise NotImplementedError
