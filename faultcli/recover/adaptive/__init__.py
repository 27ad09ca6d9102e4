"""The corrector that estimates how bad the damage is, and helps as far as that helps.

corrector  the blend, trained and applied
policy     from severity to a blend
trust      which windows are refused
"""
