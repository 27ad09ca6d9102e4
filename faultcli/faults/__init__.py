"""Faults: what a law is (law), which there are (laws), exact draws (sampling, drawing), what was drawn (maps), where
(selection)."""
