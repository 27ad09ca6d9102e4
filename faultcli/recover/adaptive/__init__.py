"""The corrector that estimates how bad the damage is, and helps as far as that helps.

corrector  the blend, trained and applied
policy     from severity to a blend
forecast   the gain to be expected, and its interval
trust      which windows are refused
"""
