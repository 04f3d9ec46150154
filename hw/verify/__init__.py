"""Verification of whole designs: clock domain crossings, formal proofs, and the campaign of random designs and layers."""
