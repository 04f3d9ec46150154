"""From Verilog and a technology to measured tables of timing, power and area per corner."""
