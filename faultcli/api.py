"""The front door: what a program calls, in words that the command line uses. Everything behind it may move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack

from torch import Tensor, nn

from faultcli.activations.faulty import damaged
from faultcli.activations.guard import Guarded, guards_of_texts
from faultcli.campaign.curves import CurveResult
from faultcli.campaign.executors import executor_of
from faultcli.campaign.gates import Gate, parse_gate
from faultcli.campaign.looks import check_looks
from faultcli.campaign.plan import Plan, cross, default_trials
from faultcli.campaign.records import CampaignResult
from faultcli.campaign.result import result_of
from faultcli.campaign.runner import Listener
from faultcli.campaign.runner import run_campaign as run_plan
from faultcli.campaign.safety import SafetyRates
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject, open_checkpoint
from faultcli.campaign.training import TrainingPlan, training_inputs
from faultcli.campaign.training import train_corrector as train_on
from faultcli.checkpoint import Checkpoint
from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap
from faultcli.faults.selection import Selecting, Selection
from faultcli.files import atomic_output, check_output
from faultcli.hardened.read import stored_as
from faultcli.injection import Draw, Injection
from faultcli.injection import inject as inject_faults
from faultcli.injection import replay as replay_faults
from faultcli.memory import Hit
from faultcli.protect.plan_file import Protect, read_chain
from faultcli.quantised import FileAtRisk, memory_of
from faultcli.recover.applied import DEFAULT_WINDOW, Correct
from faultcli.recover.batchnorm import parse_recalibration
from faultcli.recover.edmn import EdmnOptions
from faultcli.recover.file import save_corrector
from faultcli.recover.training.experiment import TrainedCorrector
from faultcli.report.arms import arm_rows
from faultcli.report.formats import render, report_format, where_format
from faultcli.report.html import campaign_fragment
from faultcli.report.trials import trial_rows
from faultcli.report.where_report import WhereReport


class Result(CampaignResult):
    """What a campaign found: `arms`, `original`, `verdict` ("pass", "fail", "inconclusive"; None without gates)."""

    @classmethod
    def around(cls, found: CampaignResult) -> Self:
        """Return a result with what a notebook needs."""
        return cls(**{field.name: getattr(found, field.name) for field in fields(found)})

    def to_frame(self, rows: str = "arms") -> Any:
        """Return a pandas DataFrame with a row per arm, or per trial (`rows="trials"`); needs pandas.

        Columns are the fields of the JSON document; what is undefined is missing.
        """
        import pandas as pd

        return pd.DataFrame(list(trial_rows(self)) if rows == "trials" else arm_rows(self))

    def _repr_html_(self) -> str:
        return campaign_fragment(self)


class Conducting(Guarded, total=False):
    """How a campaign is conducted, beyond what is asked of it, and how outputs of layers are guarded (`Guarded`).

    `seed`: of the faults. `until_ci`: stop when the headline mean is known to ± this. `confidence`: of intervals, and
    that no verdict is wrong. `bounds`: what scores lie between, by name, e.g. `{"mAP": (0, 1)}`; None as a name: all
    others. `inputs_per_trial`: how many inputs a trial runs, drawn anew for each; or "auto". `recalibrate`: as
    `--recalibrate`, e.g. `["none", "bn"]`. `corrector`: a corrector's file. `window`: how many unlabelled inputs it
    looks at. `labelled`: how many it gets with labels. `unlabelled`: where these come from, a name or a data set.
    `workers`: processes; they import the program, so a script needs `if __name__ == "__main__":`. `budget_seconds`:
    no trial starts later. `listener`: called with every trial and its arm so far. `command`: what reports say to run.
    """

    seed: int
    until_ci: float | None
    confidence: float
    bounds: Mapping[str | None, tuple[float, float]]
    inputs_per_trial: int | Literal["auto"] | None
    recalibrate: Sequence[str]
    corrector: str | Path | None
    window: int
    labelled: int | None
    unlabelled: Any
    workers: int
    budget_seconds: float | None
    listener: Listener
    command: str


def run_campaign(
    subject: Subject,
    faults: str | FaultLaw | Sequence[str | FaultLaw],
    *,
    formats: Sequence[str] = ("native",),
    protect: Sequence[Protect] = ("none",),
    trials: int | None = None,
    gates: Mapping[str, float] | Sequence[str] | None = None,
    store: str | Path | None = None,
    **how: Unpack[Conducting],
) -> Result:
    """Inject many fault maps and measure what they do to the model's answers.

    Every format under every fault law behind every chain of protections is an arm; all arms meet the same faults.

        subject = faultcli.Subject.open("model.safetensors", data="digits")
        result = faultcli.run_campaign(subject, ["bitflip:1e-4"], formats=["fp16", "q2.5"], trials=30)

    Args:
        subject: what is put to the test; afterwards in the same state, bit for bit.
        faults: laws, as `--fault` takes them.
        formats: number formats of the memory.
        protect: chains of protections, as `--protect` takes them, and what a plan's file says (a mapping), one an arm.
        trials: fault maps per arm, at the most; None: 30; 300 of part of the inputs; 1000 where gates or `until_ci`
            say when there are enough.
        gates: thresholds by the gates' names, e.g. `{"max-drop": 0.01}`, or demands, e.g. `["mAP>=0.4"]`.
        store: a file that keeps every trial; the same call continues from there.
        how: see `Conducting`.

    Raises:
        FaultcliError: a name, a number or a combination makes no sense, or the model fails; says what to do.
    """
    confidence, until_ci, bounds = how.get("confidence", 0.95), how.get("until_ci"), how.get("bounds", {})
    laws, file = _laws(faults), how.get("corrector")
    window, labelled = how.get("window", DEFAULT_WINDOW), how.get("labelled")
    correct = Correct.asked(None if file is None else Path(file), window, labelled)
    memories = stored_as(subject.hardened, formats, [read_chain(one) for one in protect])
    arms = cross(
        memories[0],
        laws,
        memories[1],
        [parse_recalibration(text) for text in how.get("recalibrate", ())],
        [None] if correct is None else [None, correct],
        guards_of_texts(how.get("guard_activations", ()), how.get("guard_bounds")),
    )
    if trials is None:
        part = how.get("inputs_per_trial") is not None
        trials = default_trials(laws, sequential=bool(gates) or until_ci is not None, subsets=part)
    chosen = subject.selection
    plan = Plan(
        arms,
        trials,
        how.get("seed", 0),
        chosen.target,
        tuple(chosen.include),
        tuple(chosen.exclude),
        _gates(gates or {}, bounds),
        until_ci,
        confidence,
        bounds=tuple((name, low, high) for name, (low, high) in bounds.items()),
        inputs_per_trial=how.get("inputs_per_trial"),
    )
    if any(arm.looks for arm in arms):
        check_looks(subject, arms, "recalibrate=", "corrector=")
        subject = subject if subject.unlabelled is not None else subject.looking_at(how.get("unlabelled"))
    kept_in = None if store is None else Path(store)
    with closing(Store.open(kept_in)) as kept, executor_of(how.get("workers", 1)) as executor:
        found = run_plan(
            plan,
            subject,
            executor=executor,
            store=kept,
            budget_seconds=how.get("budget_seconds"),
            provenance=subject.provenance(how.get("command", "faultcli.run_campaign")),
            on_record=how.get("listener", lambda found, watch: None),
        )
    return Result.around(found)


def _gates(
    gates: Mapping[str, float] | Sequence[str], bounds: Mapping[str | None, tuple[float, float]]
) -> tuple[Gate, ...]:
    if isinstance(gates, Mapping):
        return tuple(Gate(name, threshold) for name, threshold in gates.items())
    return tuple(parse_gate(text, bounds) for text in gates)


def read_result(store: str | Path) -> Result:
    """Return what a store holds, without running anything.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    with closing(Store.read(Path(store))) as kept:
        return Result.around(result_of(kept))


def write_report(
    result: CampaignResult | CurveResult | WhereReport,
    *paths: str | Path,
    force: bool = True,
    safety: SafetyRates | None = None,
) -> None:
    """Write reports; the ending of a name says what kind: `.html`, `.md`, `.xml` (JUnit), `.json`, `.csv`, ...

    Args:
        result: of a campaign, of curves, or of `where`, whose kinds are `.html`, `.svg`, `.csv` and `.json`.
        paths: one file per report; all are rendered before the first is written.
        force: replace existing files.
        safety: write figures of functional safety, `.html`, `.csv` (arms) or `.faults.csv`, of single flips.

    Raises:
        UsageError: no kind of report has this ending, or no figures of safety follow from the trials.
        OutputError: a file cannot be written.
    """
    files = [Path(path) for path in paths]
    for path in files:
        (where_format if isinstance(result, WhereReport) else report_format)(path.name)
        check_output(path, force=force)
    contents = {path: render(path.name, result, safety) for path in files}
    for path, content in contents.items():
        with atomic_output(path, force=force) as partial:
            partial.write_bytes(content)


@contextmanager
def faulty(
    model: nn.Module | Mapping[str, Tensor],
    fault: str | FaultLaw,
    *,
    format: str = "native",
    protect: Protect = "none",
    seed: int = 0,
    trial: int = 0,
    inputs: Any = None,
    **selecting: Unpack[Selecting],
) -> Iterator[Hit]:
    """Damage a model in memory for the length of a `with` block; afterwards every bit is as before.

        with faultcli.faulty(model, "bitflip:1e-4", format="q2.5", trial=3) as hit:
            print(hit.flips, hit.values_changed, evaluate(model))

    Args:
        model: a module on any device, or its live tensors by name.
        fault: a law, as `--fault` takes it.
        format: number format of the memory.
        protect: protections, as `--protect` takes them, or what a plan's file says.
        seed, trial: fix the faults: those of the same trial of a campaign. For many, `MemoryImage.of` encodes once.
        inputs: a batch as the model takes it (a tuple or a mapping: its arguments), which is run once without faults;
            needed for `target="activations[:GLOB]"`, whose flips come as the model runs in the block.
        selecting: `target`, `include`, `exclude`: which tensors are at risk; floating-point tensors of two or more
            dimensions if nothing is said.

    Raises:
        FaultcliError: a name, a number or a combination makes no sense, or a value cannot be stored.
    """
    chain, selection = read_chain(protect), Selection.of(selecting)
    with damaged(model, _law(fault), selection, format, chain, inputs, seed=seed, trial=trial) as hit:
        yield hit


class Damaging(Selecting, total=False):
    """What `inject` takes besides: the selection (`faults.selection.select`), the number format of the memory, `seed`
    and `trial` of the faults, where to save the fault map, and whether an existing output is replaced."""

    format: str
    seed: int
    trial: int
    save_faults: str | Path | None
    force: bool


def inject(model: str | Path, fault: str | FaultLaw, output: str | Path, **damaging: Unpack[Damaging]) -> Injection:
    """Write a corrupted copy of a checkpoint; the input is never changed.

        done = faultcli.inject("model.safetensors", "bitflip:1e-4", "faulty.safetensors", save_faults="map.safetensors")
        print(done.faults.flips, done.values_changed)

    Args:
        model: a file, an index of shards or a directory.
        fault: a law, as `--fault` takes it.
        output: file or directory, like the input.
        damaging: see `Damaging`.

    Raises:
        FaultcliError: the checkpoint is damaged, the law does not fit it, the output cannot be written, ...
    """
    checkpoint, saved = open_checkpoint(model), damaging.get("save_faults")
    file = FileAtRisk.of(checkpoint, Selection.of(damaging), damaging.get("format", "native"))
    return inject_faults(
        checkpoint,
        Draw(
            _law(fault),
            file.names,
            file.format,
            damaging.get("seed", 0),
            damaging.get("trial", 0),
        ),
        Path(output),
        memory=file.memory,
        force=damaging.get("force", False),
        save_faults=None if saved is None else Path(saved),
    )


class CorrectorTraining(TypedDict, total=False):
    """How a corrector is trained and judged, as the options of `faultcli train-corrector`.

    `seed`: of the faults and the training. `train_data`: labelled inputs, a name or a data set; the training split of
    the subject's data if nothing is said, else half of them. `train_limit`: at most so many. `window`: how many of them
    the device looks at, unlabelled. `maps`, `report_maps`: fault maps per law to train on, and others to judge by.
    `hidden`, `alpha`, `gamma`, `beta`, `temperature`, `clean_share`, `epochs`: of the perceptron (`edmn`).
    `force`: replace an existing output.
    """

    seed: int
    train_data: Any
    train_limit: int
    window: int | None
    maps: int
    report_maps: int
    hidden: Sequence[int]
    alpha: float
    gamma: float
    beta: float
    temperature: float
    clean_share: float
    epochs: int
    force: bool


def train_corrector(
    subject: Subject,
    faults: str | FaultLaw | Sequence[str | FaultLaw] | FaultMap,
    output: str | Path | None = None,
    *,
    method: str = "adaptive",
    format: str = "native",
    protect: Protect = "none",
    **training: Unpack[CorrectorTraining],
) -> TrainedCorrector:
    """Train a corrector of logits, and judge it by fault maps and inputs that it was not trained on.

        trained = faultcli.train_corrector(subject, "gaussian:0.1", "corrector.safetensors")
        for level in trained.levels:
            print(level.fault, level.mean("corrupted"), level.mean("corrected"))
        answer = faultcli.StreamingCorrector(trained.corrector)

    Args:
        subject: a classifier or a language model; afterwards in the same state, bit for bit.
        faults: laws of faults that the device may meet, as `--fault` takes them; or the map of those that it has, which
            the corrector is then trained and judged on.
        output: where to write the corrector, for `load_corrector` and the commands that take one; None: nowhere.
        method: as `--method`.
        format: number format of the memory; that of a fault map is its own.
        protect: protections, as `--protect` takes them, or what a plan's file says.
        training: see `CorrectorTraining`.

    Raises:
        FaultcliError: a name, a number or a combination makes no sense, the data do not suffice, the output exists, ...
    """
    file, force = None if output is None else Path(output), training.get("force", False)
    if file is not None:
        check_output(file, force=force)
    perceptron = {name: value for name, value in training.items() if name in EdmnOptions.__dataclass_fields__}
    if "hidden" in training:
        perceptron["hidden"] = tuple(training["hidden"])
    limit, maps = training.get("train_limit", TrainingPlan.limit), training.get("maps", TrainingPlan.maps)
    report_maps, edmn = training.get("report_maps", TrainingPlan.report_maps), EdmnOptions(**perceptron)  # type: ignore[arg-type]
    data, window = training.get("train_data"), training.get("window")
    plan = TrainingPlan(method, training.get("seed", 0), data, limit, window, maps, report_maps, edmn)
    damage = faults if isinstance(faults, FaultMap) else _laws(faults)
    inputs = training_inputs(subject, plan)
    trained = train_on(subject, damage, plan, inputs, format=format, protect=read_chain(protect))
    if file is not None:
        save_corrector(trained.corrector, file, force=force)
    return trained


def replay(model: str | Path, faults: str | Path, output: str | Path, *, force: bool = False) -> Injection:
    """Apply a saved fault map to a checkpoint; on the corrupted one it gives every byte of the original back.

    Raises:
        FaultcliError: the map belongs to another checkpoint, or the output cannot be written.
    """
    checkpoint, known = Checkpoint.open(model), FaultMap.load(Path(faults))
    return replay_faults(checkpoint, known, Path(output), memory=memory_of(checkpoint, known), force=force)


def _laws(faults: str | FaultLaw | Sequence[str | FaultLaw]) -> list[FaultLaw]:
    return [_law(one) for one in ([faults] if isinstance(faults, str | FaultLaw) else faults)]


def _law(fault: str | FaultLaw) -> FaultLaw:
    if not isinstance(fault, str | FaultLaw):
        raise UsageError(f"fault {fault!r}: is no law", "one for each call, such as bitflip:1e-4")
    return parse_law(fault) if isinstance(fault, str) else fault
