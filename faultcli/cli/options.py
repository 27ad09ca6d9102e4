"""The options that several commands share: each is named, explained and grouped once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultcli.cli.config import read_config
from faultcli.cli.console import check_json_target, note
from faultcli.cli.places import READS, WRITES
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from faultcli.faults.memories import Rate

FAULTS = "Faults"
SCALING = "Scaling"
STOPPING = "Trials and gates"
RUNNING = "Running"
WORKLOAD = "Model and data"
OUTPUT = "Output"

Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        help="A file of options, one a line, that are not said here.",
        callback=read_config,
        is_eager=True,
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
    READS,
]
OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Checkpoint: a .safetensors file, a *.safetensors.index.json or a directory with either. "
        "Left out: the embedded demo.",
        show_default=False,
    ),
    READS,
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Checkpoint: a .safetensors file, a *.safetensors.index.json or a directory with either.",
        show_default=False,
    ),
    READS,
]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="A",
        help="Architecture: a NAME (`inspect --archs`), hf, torchvision:NAME, timm:NAME, FILE.pt2 or "
        "package.module:factory.",
        rich_help_panel=WORKLOAD,
        show_default="as the checkpoint says",
    ),
    READS,
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="D",
        help="Data: digits, mnist:DIR, cifar10:DIR, images:DIR, FILE.npz, FILE.safetensors, FILE.txt or "
        "package.module:factory.",
        rich_help_panel=WORKLOAD,
        show_default="digits for the demo",
    ),
    READS,
]
Score = Annotated[
    str | None,
    typer.Option(
        metavar="M:FUNCTION",
        help="package.module:function that judges the model, in place of --data.",
        rich_help_panel=WORKLOAD,
        show_default=False,
    ),
    READS,
]
Answer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Where the logits are in what the model returns: a field, key or position, or package.module:function.",
        rich_help_panel=WORKLOAD,
        show_default="logits, or the first tensor",
    ),
    READS,
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", help="Use the first N inputs only.", rich_help_panel=WORKLOAD, show_default="all inputs"),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Inputs per forward pass.", rich_help_panel=WORKLOAD, show_default="chosen by input size"
    ),
]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda[:i]", help="Where the model runs.", rich_help_panel=WORKLOAD)
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M[,M...]",
        help="Mean per channel that preprocessing subtracts, in units of 0 to 1.",
        rich_help_panel=WORKLOAD,
        show_default="the architecture's",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="S[,S...]",
        help="Standard deviation per channel that preprocessing divides by.",
        rich_help_panel=WORKLOAD,
        show_default="the architecture's",
    ),
]
Target = Annotated[
    str,
    typer.Option(
        metavar="weights|all|any",
        help="Tensors at risk: floating-point of two or more dimensions, all floating-point ones, any.",
        rich_help_panel=FAULTS,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Only tensors that match; repeatable.", rich_help_panel=FAULTS),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="No tensors that match; repeatable.", rich_help_panel=FAULTS),
]
Format = Annotated[
    str,
    typer.Option(
        metavar="F",
        help="Number format the tensors are stored in (`inspect --formats`); native is each tensor's own dtype.",
        rich_help_panel=FAULTS,
    ),
]
Formats = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="F[,F...]",
        help="Number formats of the memory (`inspect --formats`); native: each tensor's own.",
        rich_help_panel=FAULTS,
    ),
]
PROTECT_HELP = "Protections in write order, e.g. scale=max,guard (`inspect --protections`)."
Protect = Annotated[str, typer.Option(metavar="CHAIN", help=PROTECT_HELP, rich_help_panel=FAULTS)]
Protects = Annotated[
    list[str] | None,
    typer.Option(
        "--protect", metavar="CHAIN", help=PROTECT_HELP + " Repeatable.", rich_help_panel=FAULTS, show_default="none"
    ),
]
Recalibrations = Annotated[
    list[str] | None,
    typer.Option(
        "--recalibrate",
        metavar="bn[:N]",
        help="Re-estimate batch-norm statistics on N unlabelled inputs. Repeatable.",
        rich_help_panel=WORKLOAD,
        show_default="none",
    ),
]
Corrector = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Correct the logits with what `train-corrector` wrote.",
        rich_help_panel=WORKLOAD,
        show_default=False,
    ),
    READS,
]
Window = Annotated[
    int,
    typer.Option(metavar="N", help="Unlabelled inputs that the corrector looks at.", rich_help_panel=WORKLOAD),
]
Unlabelled = Annotated[
    str | None,
    typer.Option(
        metavar="D",
        help="Inputs for recalibration and correctors; their labels are not looked at.",
        rich_help_panel=WORKLOAD,
        show_default="the training split of the data",
    ),
    READS,
]
Ber = Annotated[
    str | None,
    typer.Option(
        metavar="P",
        help="Bit-error rate: every stored bit flips with probability P, a number or a memory such as sram:years=5 "
        "(`inspect --memories`). Short for --fault bitflip:P.",
        rich_help_panel=FAULTS,
        show_default=False,
    ),
]
DesignBer = Annotated[
    str | None,
    typer.Option(
        "--ber",
        metavar="P",
        help="Bit-error rate that protections are designed for (scale=auto, posterior); no faults are injected.",
        rich_help_panel=FAULTS,
        show_default=False,
    ),
]
Bers = Annotated[
    str | None,
    typer.Option(
        "--ber",
        metavar="P[,P...]",
        help="Probabilities that a stored bit flips, or memories such as sram:years=5 (`inspect --memories`).",
        rich_help_panel=FAULTS,
        show_default=False,
    ),
]
FAULT_HELP = (
    "Fault law: bitflip:P, flips:K, stuck-at-0:P, burst:P,length=L, zero:P, gaussian:S, measured:FILE "
    "(`inspect --faults`)."
)
Fault = Annotated[
    str | None, typer.Option(metavar="SPEC", help=FAULT_HELP, rich_help_panel=FAULTS, show_default=False), READS
]
Faults = Annotated[
    list[str] | None,
    typer.Option(
        "--fault", metavar="SPEC", help=FAULT_HELP + " Repeatable.", rich_help_panel=FAULTS, show_default=False
    ),
    READS,
]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed gives the same faults.", rich_help_panel=FAULTS)]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[FILE|-]",
        callback=check_json_target,
        help="Write the result as one JSON object; without FILE alone to stdout.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
    WRITES,
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", metavar="", help="No progress and no notes.", rich_help_panel=OUTPUT, show_default=False
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", metavar="", help="Replace an output that exists.", rich_help_panel=OUTPUT, show_default=False
    ),
]


def output(default: str) -> Any:
    """Return the option that says where to write; `default` says where to otherwise."""
    return typer.Option(
        "--output", "-o", metavar="OUT", help="Where to write.", rich_help_panel=OUTPUT, show_default=default
    )


Output = Annotated[Path | None, output("MODEL.faulty.safetensors beside MODEL"), WRITES]


def rates(bers: str | None, *, quiet: bool) -> list[Rate]:
    """Return the bit-error rates that --ber lists, and say where those of a memory come from."""
    from faultcli.faults.memories import split_rates

    return [explained_rate(text, quiet) for text in split_rates(bers)] if bers is not None else []


def explained_rate(text: str, quiet: bool) -> Rate:
    """Return the one rate that --ber names, and say where it comes from if it is a memory's."""
    from faultcli.faults.memories import parse_rate

    rate = parse_rate(text)
    if rate.explanation is not None:
        note(rate.explanation, quiet=quiet)
    return rate


def beside(path: Path, what: str) -> Path:
    """Return the default output: `model.faulty.safetensors` beside `model.safetensors`, `dir.faulty` beside `dir`."""
    path = path if path.name not in ("", "..") else path.resolve()
    stem = path.name.removesuffix(".index.json").removesuffix(".safetensors")
    return path.with_name(f"{stem}.{what}{'.safetensors' if path.suffix == '.safetensors' else ''}")


def bounds_of(texts: list[str] | None) -> dict[str | None, tuple[float, float]]:
    """Read what scores lie between: `LOW:HIGH` for all, or `NAME=LOW:HIGH`, by name; None as a name: all others."""
    found: dict[str | None, tuple[float, float]] = {}
    for text in texts or []:
        name, equals, ends = text.rpartition("=")
        try:
            low, high = map(float, ends.split(":"))
        except ValueError:
            low = high = math.nan
        if not -math.inf < low < high < math.inf:
            raise UsageError(f"--bounds {text}: is no range", "try: --bounds 0:1, or --bounds mAP=0:1")
        found[name if equals else None] = low, high
    return found


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Read a comma-separated list of numbers."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        problem = f"{option} {text}: is not a number, or a list of numbers with commas"
        raise UsageError(problem, f"{option} 0.5, or one number per channel") from None
