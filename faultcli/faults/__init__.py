"""Faults: the laws they follow (laws), exact sparse draws (sampling), what was drawn (maps), where (selection)."""
