"""Side-by-side measurements, as ratios within one run. `make bench` runs them all; they are no tests."""
