"""The command line: the only code that prints or exits. One thin file per subcommand.

inject           a corrupted checkpoint
diff             what differs between a checkpoint and a memory dump
scale            a scaled checkpoint, and back
harden           the memory image as a file, and back
repair           a damaged hardened file made whole
seal             checksums and parity of a checkpoint, beside it
verify           a checkpoint against its seal, or looked over without one
train_corrector  a corrector of logits
convert          a checkpoint of another kind as safetensors
evaluate         accuracy without faults
campaign         many trials, one table
curve            every bit-error rate from one set of trials
where            which layers and bits carry the risk; the few flips that hurt most
plan             the cheapest protection by tensor that meets a target
merge            one store of several
report           what a store holds
inspect          what a checkpoint holds; what is built in
demo             the embedded demo as files
options          the options that several commands share, in groups
worst            what where does with --worst
campaign_options  options of campaign and curve on trials, gates and who runs them
grouping         from a function with groups to a command with options; --help-all
places           which files a command reads and writes, checked for all commands
config           options from a TOML file
session          what commands that run a model have in common: what is opened, what trials are run with
progress         what is shown while trials run
exit_codes       with which code a command ends
results          what a campaign prints
console          where commands print
streams          standard streams that are closed or full
"""

from __future__ import annotations

import errno
import math
import os
import re
import signal
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Annotated, Any

import typer

from faultcli import __version__
from faultcli.cli import (
    campaign,
    convert,
    curve,
    demo,
    diff,
    evaluate,
    harden,
    inject,
    inspect,
    merge,
    plan,
    repair,
    report,
    scale,
    seal,
    streams,
    train_corrector,
    verify,
    where,
)
from faultcli.cli.exit_codes import BROKEN_PIPE, INTERNAL_ERROR, INTERRUPTED
from faultcli.cli.grouping import BriefHelp
from faultcli.cli.places import guarded
from faultcli.errors import FaultcliError, OutputError, UsageError
from faultcli.report.text import printable

_ENDING = signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)
_LIMITS = {
    errno.ENOMEM: ("memory ran out", "pass a smaller --batch-size or --limit, or allow more (ulimit -v)"),
    errno.ENAMETOOLONG: ("the name of a file is longer than the system allows", "a shorter name"),
    errno.EMFILE: ("too many files are open for the limit of this shell", "allow more: ulimit -n 1024"),
    errno.ENFILE: ("too many files are open on this machine", "close some, or try again later"),
}
_NEAR = re.compile(r" \(Possible options: (.*)\)")  # as typer says what a misspelled option may be
_MOVED = {  # options that were those of `campaign`
    "--curve": "faultcli curve LOW:HIGH",
    "--find-max-ber": "faultcli curve --find-max-ber --min-accuracy A",
}
_NUMBER = re.compile(r"Invalid value for '(?:-\w' / ')?(--[\w-]+)': .*valid (integer|number)")  # as typer says it
_LACKING = re.compile(r"Option '(--[\w-]+)' requires an argument")
_EXTRA = re.compile(r"unexpected extra arguments?(?:\(s\))? \((.*)\)")
_EXAMPLE = re.compile(r"Example: (faultcli .*?)(?: Example: |$)")
_NO_MEMORY = ("allocate memory", "bad_alloc", "failed to map segment", "can't start new thread", "out of memory")

app = typer.Typer(name="faultcli", rich_markup_mode="rich", context_settings={"help_option_names": ["--help", "-h"]})
for command in (
    campaign.campaign,
    convert.convert,
    curve.curve,
    demo.demo,
    evaluate.evaluate,
    harden.harden,
    inject.inject,
    diff.diff,
    inspect.inspect,
    merge.merge,
    plan.plan,
    repair.repair,
    report.report,
    scale.scale,
    seal.seal,
    train_corrector.train_corrector,
    verify.verify,
    where.where,
):
    app.command(cls=BriefHelp)(guarded(command))


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"faultcli {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _faultcli(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What happens to a neural network when its stored bits flip, and what to do about it without new hardware.

    Exit codes: 0 done, and every gate held; 1 a gate failed; 2 usage or bad input; 3 internal error;
    4 inconclusive; 130 interrupted; 143 terminated.
    """
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit(2)


def main() -> None:
    """Run the command line of this process and exit with its code."""
    streams.prepare()
    if not sys.stdout.isatty():
        os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"  # typer writes colours into pipes under GITHUB_ACTIONS
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, _terminate)
    try:
        code = run(sys.argv[1:])
    except MemoryError:  # not even enough to say so; an exception that got out would end with 1, as a failed gate
        code = OutputError.exit_code
    for number in _ENDING:  # done: a signal that comes while the interpreter takes itself down changes nothing any more
        if signal.getsignal(number) is _terminate:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _terminate(number: int, frame: object) -> None:
    """End as on Ctrl-C, so that nothing is left half done; only the exit code differs."""
    _asked_to_end.append(number)
    raise KeyboardInterrupt


_asked_to_end: list[int] = []


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. A mistake of the user is explained in two lines, no traceback."""
    try:
        _check_words(arguments)
        _note_repeated(arguments)
        arguments = _with_plan(arguments)
        code = app(args=_with_json_default(arguments), prog_name="faultcli", standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
        return int(code or 0)
    except FaultcliError as error:
        _complain(error.message, error.remedy or _example_of(arguments))
        return error.exit_code
    except typer.TyperException as error:
        _complain(*_explained(error.format_message().rstrip("."), arguments))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write(f"faultcli: {'terminated' if _asked_to_end else 'interrupted'}\n")
        return 128 + _asked_to_end[0] if _asked_to_end else INTERRUPTED
    except BrokenPipeError:
        return _leave_broken_pipe()
    except OSError as error:  # outputs report their own; what is left is standard output
        if error.errno in _LIMITS:
            _complain(*_LIMITS[error.errno])
            return OutputError.exit_code
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF):
            return _internal_error()
        _leave_broken_pipe()
        _complain(f"standard output: cannot be written: {error.strerror}", "free some space, or write elsewhere")
        return OutputError.exit_code
    except MemoryError:
        _complain(*_LIMITS[errno.ENOMEM])
        return OutputError.exit_code
    except SystemExit as stop:  # rich ends the process with 1, our code for a failed gate, when its pipe is closed
        return _leave_broken_pipe() if stop.code == 1 else int(stop.code or 0)
    except Exception as error:
        if isinstance(error, ImportError | RuntimeError) and any(text in str(error) for text in _NO_MEMORY):
            _complain(*_LIMITS[errno.ENOMEM])
            return OutputError.exit_code
        return _internal_error()


def _check_words(arguments: Sequence[str]) -> None:
    """Refuse an argument that is empty, as an unset variable is: as a path it would be the current folder."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option = before if before.startswith("-") else ""
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            named = argument.removesuffix("=") or option or "an argument"
            raise UsageError(f"{named}: is empty", "a variable of your shell may not be set; write its value")
        if "\0" in argument:
            raise UsageError(f"{option or 'an argument'}: holds a character that no file name has", "write it without")
    for at, argument in enumerate(arguments):
        values = [value.strip(",") for value in takewhile(_are_rates, arguments[at + 1 :])]
        if argument == "--ber" and len(values) > 1 and not any(map(os.path.exists, values)):
            problem = f"--ber {' '.join(values)}: only the first belongs to --ber"
            raise UsageError(problem, _spelled(arguments[0], argument, values))


def _note_repeated(arguments: Sequence[str]) -> None:
    """Say where an option that takes several values is there several times: as everywhere in a shell, the last counts,
    but who did not mean to replace a default has lost the others."""
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    for option in sorted({option for option in options if options.count(option) > 1}):
        given = _given(option, arguments)
        if (both := _spelled(arguments[0], option, given)) == f"{option} {','.join(given)}":
            from faultcli.cli.console import note

            quiet = "--quiet" in arguments or "-q" in arguments
            note(f"{option} is there {len(given)} times, and the last counts; for all of them: {both}", quiet=quiet)


def _given(option: str, arguments: Sequence[str]) -> list[str]:
    """Return the values that an option is given, in their order."""
    return [
        after if before == option else before.partition("=")[2]
        for before, after in zip(arguments, [*arguments[1:], ""], strict=True)
        if before == option or before.startswith(f"{option}=")
    ]


def _are_rates(text: str) -> bool:
    """Whether a word is a number, or several with commas."""
    try:
        return [float(part) for part in text.strip(",").split(",")] != []
    except ValueError:
        return False


def _parameters(command: str) -> Sequence[Any]:
    known = getattr(typer.main.get_command(app), "commands", {}).get(command)
    return getattr(known, "params", ())


def _spelled(command: str, option: str, values: Sequence[str]) -> str:
    """Return how an option of a command takes several values."""
    found = next((one for one in _parameters(command) if option in one.opts), None)
    if getattr(found, "multiple", False):
        return " ".join(f"{option} {value}" for value in values)
    if "[," in str(getattr(found, "metavar", "")):
        return f"{option} {','.join(values)}"
    return f"one at a time: {option} {values[0]}"


def _with_plan(arguments: Sequence[str]) -> Sequence[str]:
    """Let `where --plan` be the command `plan`: the same question, and options of its own."""
    if list(arguments[:1]) == ["where"] and "--plan" in arguments:
        return ["plan", *(argument for argument in arguments[1:] if argument != "--plan")]
    return arguments


def _with_json_default(arguments: Sequence[str]) -> list[str]:
    """Let `--json` stand without a value, for stdout: typer has no options whose value may be left out."""
    followers = [*arguments[1:], "--"]
    out: list[str] = []
    for argument, follower in zip(arguments, followers, strict=False):
        out.append(argument)
        if argument == "--json" and follower.startswith("-") and follower != "-":
            out.append("-")
    return out


def _leave_broken_pipe() -> int:
    # Whatever is still buffered has no reader: keep the interpreter from complaining about it on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _internal_error() -> int:
    import traceback

    sys.stderr.writelines(f"{printable(line)}\n" for line in traceback.format_exc().splitlines())
    _complain("this is a bug in faultcli, not in what you asked", "report it with the lines above")
    return INTERNAL_ERROR


def _explained(message: str, arguments: Sequence[str]) -> tuple[str, str]:
    """Return what is wrong with the command line, and what to type instead."""
    if number := _NUMBER.match(message):
        return _no_number(number[1], number[2], arguments)
    if lacks := _LACKING.match(message):
        known = next((one for one in _parameters(arguments[0]) if lacks[1] in one.opts), None)
        return message, f"faultcli {arguments[0]} {lacks[1]} {getattr(known, 'metavar', None) or 'VALUE'}"
    near = _NEAR.search(message)
    plain = _NEAR.sub("", message)
    unknown = plain.removeprefix("No such option: ")
    if unknown in _MOVED:
        return plain, _MOVED[unknown]
    if list(arguments[:1]) == ["curve"] and any(unknown in one.opts for one in _parameters("campaign")):
        return plain, f"leave {unknown} out, or ask `faultcli campaign`, which has it"
    if near:
        options = near[1].split(", ")
        return plain, options[0] if len(options) == 1 else f"one of {', '.join(options)}"
    extra = _EXTRA.search(message)
    words = extra[1].split() if extra else []
    before = arguments.index(words[0]) - 2 if words and words[0] in arguments else 0
    if before > 0 and arguments[before].startswith("--"):
        values = [arguments[before + 1], *words]
        option = arguments[before]
        return f"{option} {' '.join(values)}: only the first belongs to {option}", _spelled(
            arguments[0], option, values
        )
    first = "; `faultcli demo -o DIR` writes a first model" if "argument 'MODEL'" in message else ""
    return message, _example_of(arguments) + first


def _no_number(option: str, kind: str, arguments: Sequence[str]) -> tuple[str, str]:
    """Return what is wrong with the value of an option that takes a number, and one like it that is one."""
    given = _given(option, arguments)
    usual = next((one.default for one in _parameters(arguments[0]) if option in one.opts), None)
    near = (_as_number(given[-1]) if given else None) or usual
    if not given:
        kind = "whole number" if kind == "integer" else "number"
        return f"{option}: its value in --config is no {kind}", f"{option[2:]} = {near or 'N'}"
    value = given[-1]
    if kind == "integer":
        near = round(near) if isinstance(near, float) else near
        return f"{option} {value}: is no whole number", f"{option} {'N' if near is None else near}"
    return f"{option} {value}: is no number", f"{option} {'X' if near is None else f'{near:g}'}"


def _as_number(text: str) -> float | None:
    """Return the number that a text is meant as: `90%`, `1k`; None if it is none."""
    scale = {"%": 0.01, "k": 1e3, "K": 1e3, "M": 1e6}.get(text[-1:], 1.0)
    try:
        value = scale * float(text.rstrip("%kKM"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _example_of(arguments: Sequence[str]) -> str:
    """Return a line that works: the example of the command, or one for each where there is none."""
    examples = {
        info.callback.__name__.replace("_", "-"): match[1]
        for info in app.registered_commands
        if info.callback and (match := _EXAMPLE.search(" ".join((info.callback.__doc__ or "").split())))
    }
    return next((examples[word] for word in arguments[:1] if word in examples), examples["campaign"])


def _complain(message: str, remedy: str) -> None:
    sys.stderr.write(f"faultcli: error: {printable(message)}\n")
    sys.stderr.write(f"try: {printable(remedy.removeprefix('try: '))}\n")
