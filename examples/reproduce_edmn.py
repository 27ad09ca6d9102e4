"""EDMN and the correctors of this package over several networks, development and held out, as Markdown on stdout.

    python examples/reproduce_edmn.py DATA [NETWORK...] [--kept DIR] [--results DIR] [--quick]

It needs the whole repository: all is in benchmarks/reproduce_edmn.py, also what DATA holds and what is kept where.
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    runpy.run_module("benchmarks.reproduce_edmn", run_name="__main__", alter_sys=True)
