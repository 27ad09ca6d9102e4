"""The corrector that estimates how bad the damage is, and helps as far as that helps.

corrector  the blend, trained and applied
symptoms   what a window shows: severity, and another class mix
policy     from severity to a blend
"""
