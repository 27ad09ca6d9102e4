"""Compiles C for tests: with the system's compiler, or the one that the package ziglang brings."""

import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import faultcli.hardened.device

SOURCES = Path(faultcli.hardened.device.__file__).parent
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off", "-O1", "-g"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@cache
def compiler() -> tuple[str, ...] | None:
    """The command that compiles C; None where there is none."""
    if shutil.which("cc"):
        return ("cc",)
    return zig()


@cache
def zig() -> tuple[str, ...] | None:
    return (sys.executable, "-m", "ziglang", "cc") if importlib.util.find_spec("ziglang") else None


def compile_c(target: Path, *arguments: str | Path) -> None:
    command = compiler()
    assert command is not None
    done = subprocess.run(
        [*command, *map(str, arguments), "-o", str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@cache
def sanitized(folder: Path) -> bool:
    """Whether programs with sanitizers link and run here."""
    source, target = folder / "probe.c", folder / "probe"
    source.write_text("int main(void) { return 0; }\n")
    command = compiler()
    assert command is not None
    made = subprocess.run([*command, *SANITIZERS, str(source), "-o", str(target)], capture_output=True, check=False)
    return made.returncode == 0 and subprocess.run([target], capture_output=True, check=False).returncode == 0


def constants() -> dict[str, int]:
    """The header's enumerations."""
    text = (SOURCES / "faultcli_reader.h").read_text()
    return {name: int(value) for name, value in re.findall(r"\b(FAULTCLI_\w+) = (\d+)", text)}


def struct_fields() -> list[tuple[str, str]]:
    """Types and names of the fields of `faultcli_tensor`, as the header has them."""
    text = (SOURCES / "faultcli_reader.h").read_text()
    body = text.split("typedef struct faultcli_tensor {")[1].split("} faultcli_tensor;")[0]
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    fields = [declaration.strip().rpartition(" ") for declaration in body.split(";") if declaration.strip()]
    return [(kind + "*" * name.count("*"), name.lstrip("*")) for kind, _, name in fields]
