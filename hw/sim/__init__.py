"""Simulation of the emitted Verilog: Verilator, a native DRAM behind an AXI4 memory, and the driver that runs programs on it."""
