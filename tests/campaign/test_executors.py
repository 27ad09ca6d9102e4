"""Serial, processes, Ray, shards: the same records, bit for bit; workers that die or hang are survived."""

from __future__ import annotations

import ipaddress
import multiprocessing
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_campaign import PLAN, demo_workload, run_demo
from test_kills import descendants
from torch import nn

from faultcli.campaign.bench import Bench, Trial, fault_free
from faultcli.campaign.executors.base import Serial
from faultcli.campaign.executors.parcel import load_mapped, pack, unpack
from faultcli.campaign.executors.pool import ATTEMPTS, Answer, Crew, Pool
from faultcli.campaign.executors.processes import Processes, _work
from faultcli.campaign.merge import merge
from faultcli.campaign.records import Failure, Record
from faultcli.campaign.result import result_of
from faultcli.campaign.shard import Shard, parse_shard
from faultcli.campaign.store import Store
from faultcli.errors import UsageError, WorkloadError
from faultcli.faults.laws import parse_law
from faultcli.memory import MemoryImage
from faultcli.report.trials import trials_csv, trials_jsonl, trials_parquet


def make_bench(limit: int = 10) -> Bench:
    workload = demo_workload(limit)
    image = MemoryImage({name: t.clone() for name, t in workload.parameters.items()})
    return Bench(workload, image, fault_free(workload), 0, {}, {})


PART = replace(PLAN, arms=PLAN.arms[:2], trials=4, inputs_per_trial=7)


def test_processes_give_the_same_exports(undisturbed: bytes) -> None:
    with closing(Pool(Processes(2))) as executor:
        assert trials_jsonl(run_demo(executor=executor)) == undisturbed
        assert trials_jsonl(run_demo(executor=executor, plan=PART)) == trials_jsonl(run_demo(plan=PART))


def test_three_shards_merged_are_the_whole(tmp_path: Path, undisturbed: bytes) -> None:
    serial = run_demo()
    parts = [tmp_path / f"{index}.sqlite" for index in range(3)]
    for index, part in enumerate(parts):
        with closing(Store.open(part)) as store:
            found = run_demo(store, shard=Shard(index, 3))
        assert [record.trial for record in found.arms[0].records] == list(range(index, PLAN.trials, 3))
    done = merge([parts[1], parts[0], parts[2]], tmp_path / "all.sqlite")
    assert (done.arms, done.trials, done.repeats) == (4, 4 * PLAN.trials, 0)
    with closing(Store.read(tmp_path / "all.sqlite")) as store:
        merged = result_of(store)
    assert trials_jsonl(merged) == undisturbed
    assert trials_csv(merged) == trials_csv(serial)
    assert trials_parquet(merged) == trials_parquet(serial)
    assert merged.plan_hash == serial.plan_hash


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/2", "a/b"])
def test_shards_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match=rf"--shard {text}"):
        parse_shard(text)


def test_a_bench_in_a_file_runs_the_same_trials_on_shared_pages(tmp_path: Path) -> None:
    bench = make_bench()
    trials = [Trial(0, number, parse_law("bitflip:1e-3")) for number in range(3)]
    expected = [bench.run(trial).outcome for trial in trials]
    with (tmp_path / "bench").open("wb") as file:
        pack(bench).save(file)
    before = (tmp_path / "bench").read_bytes()
    first, second = load_mapped(tmp_path / "bench"), load_mapped(tmp_path / "bench")
    assert [second.run(trial).outcome for trial in trials] == expected
    with torch.no_grad():
        for tensor in first.workload.parameters.values():
            tensor.fill_(torch.nan)  # the model's own page, nobody else's
    assert first.workload.outcome().due == 10
    assert [second.run(trial).outcome for trial in trials] == expected
    assert (tmp_path / "bench").read_bytes() == before


def test_tensors_that_share_memory_still_do() -> None:
    whole = torch.arange(12.0)
    parcel = pack(
        {"whole": whole, "part": whole[3:9].view(2, 3).t(), "parameter": nn.Parameter(whole), "none": whole[:0]}
    )
    assert len(parcel.head) < 2000
    copies = [bytearray(buffer) for buffer in parcel.buffers]
    found = unpack(parcel.head, copies)
    found["whole"][4] = -1
    assert found["part"].tolist() == [[3, 6], [-1, 7], [5, 8]]
    assert isinstance(found["parameter"], nn.Parameter)
    assert found["parameter"][4] == -1
    assert parcel.places([whole[1:2]]) == {0}
    assert whole[4] == 4


def test_what_cannot_be_sent_is_said() -> None:
    class Local(nn.Module):
        pass

    with pytest.raises(UsageError, match="cannot be sent to worker processes"):
        pack(Local())


class Scripted(Crew):
    """Workers that answer, die or hang as a script says, trial by trial; and the latest trial first."""

    size = 3

    def __init__(self, script: dict[int, list[str]]) -> None:
        self.script = script
        self.given: dict[int, Trial] = {}
        self.restarts = 0

    def share(self, bench: Bench) -> None:
        pass

    def send(self, worker: int, trial: Trial) -> None:
        assert worker not in self.given
        self.given[worker] = trial

    def receive(self, seconds: float) -> list[Answer]:
        for worker, trial in sorted(self.given.items(), key=lambda item: -item[1].number):
            todo = self.script.get(trial.number) or ["answer"]
            if todo[0] == "hang":
                continue
            del self.given[worker]
            what = todo.pop(0)
            if what == "die":
                return [Answer(worker, None, "it died")]
            outcome = FREE.outcome
            return [
                Answer(worker, Record(0, trial.number, 0, 0, outcome, 0.0) if what == "answer" else ValueError(what))
            ]
        time.sleep(seconds)
        return []

    def restart(self, worker: int) -> None:
        lost = self.given.pop(worker, None)
        if lost is not None:
            self.script[lost.number].pop(0)  # it hung
        self.restarts += 1

    def close(self) -> None:
        pass


FREE = fault_free(demo_workload(2))


def scripted(script: dict[int, list[str]], trials: int = 12) -> tuple[list[Record | Failure], Scripted]:
    crew = Scripted(script)
    bench = make_bench(2)
    asked = (Trial(0, number, parse_law("flips:1")) for number in range(trials))
    return list(Pool(crew, patience=0.4).run(bench, asked)), crew


def test_answers_come_in_order_whatever_happens() -> None:
    found, crew = scripted(
        {0: ["die", "answer"], 3: ["hang", "answer"], 7: ["die", "hang", "answer"], 11: ["die"] * ATTEMPTS}
    )
    assert [result.trial for result in found] == list(range(12))
    assert [type(result) for result in found] == [Record] * 11 + [Failure]
    assert found[-1] == Failure(0, 11, "it died")
    assert crew.restarts == 4 + ATTEMPTS


def test_a_worker_that_is_lost_while_it_is_idle_is_replaced() -> None:
    class Fragile(Scripted):
        def receive(self, seconds: float) -> list[Answer]:
            if len(self.given) == 1 and not self.restarts:  # the last trial runs, and the others wait
                return [Answer(worker, None, "it died") for worker in range(self.size) if worker not in self.given]
            return super().receive(seconds)

    crew = Fragile({})
    asked = (Trial(0, number, parse_law("flips:1")) for number in range(5))
    assert [found.trial for found in Pool(crew, patience=0.4).run(make_bench(2), asked)] == list(range(5))
    assert crew.restarts == 2


def test_a_trial_that_hangs_for_good_fails_with_its_cause() -> None:
    found, _ = scripted({2: ["hang"] * ATTEMPTS}, trials=4)
    assert found[2] == Failure(0, 2, "no answer within 0 s")


def test_an_error_of_a_trial_is_the_campaigns() -> None:
    with pytest.raises(ValueError, match="the model is broken"):
        scripted({2: ["the model is broken"]})


def test_workers_that_all_die_end_the_campaign() -> None:
    with pytest.raises(WorkloadError, match="workers in a row were lost before they answered: it died"):
        scripted({number: ["die"] * ATTEMPTS for number in range(12)})


def test_an_iterator_that_is_cut_short_leaves_the_pool_usable() -> None:
    pool, bench = Pool(Scripted({})), make_bench(2)
    law = parse_law("flips:1")
    first = pool.run(bench, (Trial(0, number, law) for number in range(100)))
    assert next(first).trial == 0
    first.close()  # type: ignore[attr-defined]
    assert [found.trial for found in pool.run(bench, (Trial(0, n, law) for n in range(40, 50)))] == list(range(40, 50))


def test_failed_trials_count_nowhere_and_let_no_gate_pass(tmp_path: Path) -> None:
    from dataclasses import replace

    from faultcli.campaign.gates import Gate, Verdict

    class Half(Serial):
        def run(self, bench: Bench, trials: Iterator[Trial]) -> Iterator[Record | Failure]:
            for trial in trials:
                yield Failure(trial.arm, trial.number, "lost") if trial.number == 1 else bench.run(trial)

    plan = replace(PLAN, gates=(Gate("min-accuracy", 0.0),))
    with closing(Store.open(tmp_path / "s")) as store:
        result = run_demo(store, Half(), plan=plan)
        assert [failure.trial for failure in result.arms[0].failures] == [1] or len(result.arms[0].records) == 1
        whole = run_demo(store, Half(), plan=PLAN)
        assert all([record.trial for record in arm.records] == [0, *range(2, 8)] for arm in whole.arms)
        assert all(arm.failures == (Failure(number, 1, "lost"),) for number, arm in enumerate(whole.arms))
        judged = result_of(store, plan, None)
        assert judged.verdict is not Verdict.FAIL
        again = run_demo(store)  # what failed is tried again
        assert all(not arm.failures and len(arm.records) == 8 for arm in again.arms)


def test_threads_and_batch_size_are_part_of_the_plan() -> None:
    """Their results may differ in the last bits; here it is counted how many answers that changes."""
    bench = make_bench(200)
    law = parse_law("bitflip:1e-3")
    golden = bench.workload.logits().argmax(1)
    bench.workload.batch_size = 7
    other = bench.workload.logits().argmax(1)
    changed = int((golden != other).sum())
    print(f"{changed} of 200 fault-free top-1 answers change with batches of 7 instead of 100")
    assert changed <= 2
    assert bench.run(Trial(0, 0, law)).flips > 0


def test_a_worker_ends_in_silence_when_its_supervisor_leaves_an_answer_unread() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    theirs.send("an answer")
    worker = context.Process(target=_work, args=(theirs, 1))
    worker.start()
    theirs.close()
    ours.close()  # with something unread: the other end sees a reset, not an end
    worker.join(timeout=60)
    assert worker.exitcode == 0


def test_a_ray_of_our_own(undisturbed: bytes) -> None:
    """It gives the same exports, listens on loopback only, and leaves signals to those who had them: all in one test,
    as Ray takes long to start."""
    pytest.importorskip("ray", reason="needs the extra faultcli[ray]")
    from faultcli.campaign.executors.actors import RayActors

    def mine(number: int, frame: object) -> None:
        seen.append(number)

    seen: list[int] = []
    handler, places = signal.signal(signal.SIGTERM, mine), set(listening())
    try:
        with closing(Pool(RayActors("local", 2))) as executor:
            assert signal.getsignal(signal.SIGTERM) is mine
            os.kill(os.getpid(), signal.SIGTERM)  # and not Ray's handler in C++, which aborts
            time.sleep(0.1)
            assert seen == [signal.SIGTERM]
            assert trials_jsonl(run_demo(executor=executor)) == undisturbed
            assert trials_jsonl(run_demo(executor=executor, plan=PART)) == trials_jsonl(run_demo(plan=PART))
            found = [place for place in listening() if place not in places]
    finally:
        signal.signal(signal.SIGTERM, handler)
    if Path("/proc/net/tcp").exists():
        assert len(found) >= 5  # the driver, the raylet, the store of the cluster's state, two actors
        assert [place for place in found if not place[1].is_loopback] == []


def listening() -> list[tuple[int, ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Return process, address and port of whatever this process and those that it started listen on, TCP and UDP."""
    sockets = {}
    for table in ("tcp", "tcp6", "udp", "udp6") if Path("/proc/net/tcp").exists() else ():
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" or table.startswith("udp"):  # TCP_LISTEN
                host, port = fields[1].split(":")
                words = [int(host[place : place + 8], 16) for place in range(0, len(host), 8)]
                address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
                mapped = getattr(address, "ipv4_mapped", None)
                sockets[f"socket:[{fields[9]}]"] = mapped or address, int(port, 16)
    found = []
    for pid in [os.getpid(), *descendants(os.getpid())]:
        with suppress(OSError):  # it has ended
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    place = sockets.get(os.readlink(descriptor))
                    if place is not None:
                        found.append((pid, *place))
    return found


@pytest.mark.parametrize("kind", ["command line", "processes", "ray"])
def test_every_process_that_runs_the_model_keeps_freed_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from faultcli.campaign.executors import actors, processes
    from faultcli.cli.session import set_threads
    from faultcli.workload import process as allocator

    kept: list[str] = []
    monkeypatch.setattr(allocator, "_keep_freed", lambda most: kept.append(kind))
    threads = torch.get_num_threads()
    try:
        if kind == "command line":
            assert set_threads(None, several=True) == 1
        elif kind == "ray":
            actors._Actor(1)
        else:
            ours, theirs = multiprocessing.get_context("spawn").Pipe()
            ours.close()
            signals = signal.getsignal(signal.SIGINT)
            processes._work(theirs, 1)
            signal.signal(signal.SIGINT, signals)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert kept == [kind]
