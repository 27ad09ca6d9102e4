"""faultcli: what happens to a neural network when its stored bits flip, and what to do about it."""

__version__ = "0.1.0"
