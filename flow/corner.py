"""The conditions at which a circuit is characterized."""

import re
from dataclasses import dataclass

from hw.errors import ConfigError

_TEXT = re.compile(r"(?P<process>[a-z0-9]+)_(?P<vdd>[\d.]+)v_(?P<temperature>-?[\d.]+)c_(?P<bias>[+-][\d.]+)bb_(?P<sram>[\d.]+)vsram")


@dataclass(frozen=True, kw_only=True)
class Corner:
    """Process, supply of the logic, temperature, back bias and supply of the SRAM.

    `process` is tt, ss, ff, ... as the technology names it, in lower case. `back_bias_v` is positive for
    forward bias and applies to both wells: it lowers both thresholds. `str` gives the canonical name,
    which `Corner.parse` reads back.
    """

    process: str
    vdd_v: float
    temperature_c: float
    back_bias_v: float
    sram_vdd_v: float

    def __str__(self) -> str:
        return (
            f"{self.process}_{_digits(self.vdd_v)}v_{_digits(self.temperature_c)}c_"
            f"{'-' if self.back_bias_v < 0 else '+'}{_digits(abs(self.back_bias_v))}bb_{_digits(self.sram_vdd_v)}vsram"
        )

    @property
    def logic_name(self) -> str:
        """The name without the memories' supply, of which the logic knows nothing."""
        return str(self).rsplit("_", 1)[0]

    @staticmethod
    def parse(text: str) -> "Corner":
        """The corner that `str` names `text`; raises `ConfigError` for any other text."""
        found = _TEXT.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            numbers = {name: float(found[name]) for name in ("vdd", "temperature", "bias", "sram")}
        except ValueError:
            raise ConfigError(f"corner must be spelled like tt_0.8v_25c_+0bb_0.8vsram, not {text!r}") from None
        return Corner(
            process=found["process"], vdd_v=numbers["vdd"], temperature_c=numbers["temperature"], back_bias_v=numbers["bias"], sram_vdd_v=numbers["sram"]
        )


def _digits(value: float) -> str:
    """At most six decimals, none that say nothing; never in scientific notation, never a negative zero."""
    return f"{round(value, 6) + 0.0:.6f}".rstrip("0").rstrip(".")
