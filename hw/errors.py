"""The three ways things go wrong, and the exit code each gives on the command line.

A message reads ``<what> must be <rule>, not <value> (<where>); <what to do>``.
The command line prints it as one line, without a traceback.
"""


class VoltfrontError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 1


class ConfigError(VoltfrontError):
    """The user's input is wrong: a YAML file, a command-line value, a network."""

    exit_code = 2


class ToolError(VoltfrontError):
    """An external tool is missing, failed, hung or printed something unusable."""

    exit_code = 3


class ModelError(VoltfrontError):
    """A fit did not converge or sits on a bound, or a prediction would extrapolate."""

    exit_code = 4
