"""The work of the map of all layers of ResNet-20 by bits, every stratum to ± 2 points; `python -m benchmarks where` has
three layers of it, as this takes a while.

    python -m benchmarks.whole_map [--inputs 10]
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.bench_where import DATA, INPUTS, map_row
from faultcli.workload.process import prepare


def main() -> int:
    parser = argparse.ArgumentParser(description="The work of the map of all layers by bits of ResNet-20.")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="images, at least 1")
    asked = parser.parse_args()
    if not 1 <= asked.inputs <= 1000:
        parser.error(f"--inputs {asked.inputs}: there are 1000 images")
    if not DATA.exists():
        parser.error(f"{DATA}: is not here; FAULTCLI_DATA names the folder that holds cifar10")
    prepare(1)
    row = map_row(inputs=asked.inputs)
    print(f"{row.what}: {row.measured:.3f} {row.unit} (goal ≤ {row.goal:g}) {row.detail}")
    return 0 if row.met else 1


if __name__ == "__main__":
    sys.exit(main())
