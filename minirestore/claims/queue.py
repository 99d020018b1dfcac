"""The queue: every (arm, seed) of a claim once, kept as soon as it is finished, into the ledger when all are."""

import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirestore.claims import ledger as ledgers
from minirestore.claims.definitions import Claim, Job, Measured, OutOfTime, Protocol, Row, claims_of, find_claim
from minirestore.config import check_profile

RUNS = Path("runs/claims")
Log = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """How far a claim is: ``jobs_done`` of ``jobs``, and the rows measured so far (of the rehearsal, at ``quick``)."""

    id: str
    finished: bool
    jobs_done: int
    jobs: int
    rows: tuple[Row, ...]


def run_claim(
    id: str,
    profile: str = "reduced",
    minutes: float | None = None,
    device: str = "auto",
    ledger: str | Path | None = None,
    *,
    runs: str | Path = RUNS,
    log: Log = print,
) -> Run:
    """Measure a claim, job by job, and write its results to the ledger when the grid is complete.

    Finished jobs are kept in ``runs/claims/ID``, so the same call goes on after a time box, an error or a kill.

    Args:
        id: such as ``sg.A7``.
        profile: ``quick`` measures the rehearsal, a miniature that exercises the code and is never kept; ``reduced``
            the protocol; ``full`` the protocol of a claim of tier full, which needs paper scale.
        minutes: start no job, and stop training, after so much time.
        device: ``auto``, ``cpu``, ``cuda``.
        ledger: folder for the results; by default the shipped ledger.
        log: gets a line per finished job.

    Raises:
        ValueError: unknown claim or profile, a claim that cannot be tested here or not at this profile, or a
            measurement that is not complete and finite.
    """
    claim = find_claim(id)
    check_runnable(claim, profile)
    _check_minutes(minutes)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    device = _device_name(device)
    if claim.tier != "cpu" and profile != "quick" and device == "cpu":
        log(_gpu_hint(claim, ledger))
    if profile == "quick":
        with tempfile.TemporaryDirectory() as folder:
            run = _Queue(claim, claim.rehearsal_protocol(), Path(folder), device, deadline, log).run()
        log(f"{id}: rehearsal of {run.jobs_done} of {run.jobs} jobs; nothing was written to the ledger")
        return run
    if current := _current_rows(claim, ledger):
        jobs = len(claim.protocol.arms) * len(claim.protocol.seeds)
        log(f"{id}: the results are up to date; to measure them yourself, name a folder for them (--ledger FOLDER)")
        return Run(id, True, jobs, jobs, current)
    queue = _Queue(claim, claim.protocol, Path(runs), device, deadline, log)
    run = queue.run()
    if run.finished:
        path = ledgers.write_results(claim, run.rows, **queue.cost(), ledger=ledger)
        log(f"{id}: finished, {path}")
        return Run(id, True, run.jobs_done, run.jobs, ledgers.read_results(id, ledger).rows)
    log(f"{id}: stopped after {run.jobs_done} of {run.jobs} jobs; give the same command to go on")
    return run


def run_claims(
    ids: Sequence[str],
    paper: str | None = None,
    *,
    profile: str = "reduced",
    minutes: float | None = None,
    log: Log = print,
    **options: Any,
) -> list[Run]:
    """`run_claim` for each of ``ids``, or without ids for all claims of ``paper`` that can be measured at ``profile``.

    All are checked before the first starts; ``minutes`` is for all together, and what is left over is not started.
    A claim that fails does not keep the others from being measured.

    Raises:
        ValueError: as `run_claim`; no such paper. RuntimeError: at the end, if some of several claims failed.
    """
    _check_minutes(minutes)
    claims = [find_claim(id) for id in dict.fromkeys(ids)] or claims_of(paper)
    chosen = []
    for claim in claims:
        try:
            check_runnable(claim, profile)
            chosen.append(claim)
        except ValueError as error:
            if ids:
                raise
            log(f"{claim.id}: left out ({error})")
    _device_name(options.get("device", "auto"))  # an absent one fails once, and not for every claim
    started, runs, failed = time.monotonic(), [], []
    for claim in chosen:
        left = None if minutes is None else max(0.0, minutes - (time.monotonic() - started) / 60)
        try:
            runs.append(run_claim(claim.id, profile, left, log=log, **options))
        except (ValueError, ArithmeticError, OSError, RuntimeError) as error:  # a loss that is not finite, memory, disk
            if len(chosen) == 1:
                raise
            log(f"{claim.id}: failed ({error})")
            failed.append(claim.id)
    if failed:
        raise RuntimeError(f"claims: {', '.join(failed)} failed, as said above; the others are kept")
    return runs


def _check_minutes(minutes: float | None) -> None:
    if minutes is not None and not minutes >= 0:
        raise ValueError(f"minutes: expected a number from 0, got {minutes}")


def check_runnable(claim: Claim, profile: str) -> None:
    """Raise ValueError when ``claim`` cannot be measured at ``profile``; the message says why and what can."""
    check_profile(profile)
    if claim.not_testable:
        raise ValueError(f"{claim.id}: not testable here: {claim.not_testable}")
    if profile == "full" and claim.tier != "full":
        raise ValueError(f"profile: {claim.id} has no protocol at paper scale (its tier is {claim.tier}); use reduced")
    if profile == "reduced" and claim.tier == "full":
        raise ValueError(f"profile: {claim.id} is measured at paper scale only; use full (or quick, its rehearsal)")


def _device_name(device: str) -> str:
    from minirestore.training import resolve_device

    return str(resolve_device(device))


def _device_in_words(device: str) -> str:
    import torch

    from minirestore.recipes import describe_device

    return describe_device(torch.device(device))


def _gpu_hint(claim: Claim, ledger: str | Path | None) -> str:
    """What to expect of a claim that is made for a GPU on a CPU."""
    jobs = len(claim.protocol.arms) * len(claim.protocol.seeds)
    try:
        card = ledgers.read_results(claim.id, ledger).card
        took = f"{card['wall_time_s'] / 60:.3g} minutes on {card['device']}"
    except (FileNotFoundError, ValueError):
        took = "a GPU in mind"
    return (
        f"{claim.id}: {jobs} jobs, made with {took}; a CPU takes many times longer. "
        "Finished jobs are kept; each line below estimates the time left, and --minutes limits it"
    )


def _current_rows(claim: Claim, ledger: str | Path | None) -> tuple[Row, ...]:
    """The rows of the ledger if they are whole and not stale; else none."""
    try:
        results = ledgers.read_results(claim.id, ledger)
    except (FileNotFoundError, ValueError):
        return ()
    return () if ledgers.stale_reason(claim, results.card) else results.rows


def check_measured(measured: Measured, images: Sequence[str], metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """What a claim's function returned, as plain floats.

    Raises:
        ValueError: not exactly these images and metrics, or a value that is not finite.
    """
    if set(measured) != set(images):
        wrong = sorted(set(images) ^ set(measured))
        raise ValueError(f"measured {len(measured)} images, expected {len(images)}; they differ in {wrong[0]!r}")
    for image, values in measured.items():
        if set(values) != set(metrics):
            raise ValueError(f"image {image}: got the metrics {', '.join(values)}; expected {', '.join(metrics)}")
        if strange := [metric for metric in metrics if not math.isfinite(values[metric])]:
            raise ValueError(f"image {image}: {strange[0]} is {values[strange[0]]}; expected a finite number")
    return {image: {metric: float(measured[image][metric]) for metric in metrics} for image in images}


class _Queue:
    """The jobs of one protocol, their finished parts in ``runs/ID/HASH``, and what they cost."""

    def __init__(
        self, claim: Claim, protocol: Protocol, runs: Path, device: str, deadline: float | None, log: Log
    ) -> None:
        self.claim, self.protocol, self.folder = claim, protocol, runs / claim.id / protocol.hash
        self.device, self.deadline, self.log = device, deadline, log
        self.digests = ledgers.checkpoint_digests(claim)

    def run(self) -> Run:
        """Do the jobs that are not yet done, until the time is up; pairs of arms of a seed come together."""
        jobs = [self._job(arm, seed) for seed in self.protocol.seeds for arm in self.protocol.arms]
        done = sum(self._finished(job) is not None for job in jobs)
        durations: list[float] = []
        for job in jobs:
            if self._finished(job) is not None:
                continue
            try:
                durations.append(self._measure(job))
            except OutOfTime:
                break
            done += 1
            left = (len(jobs) - done) * sum(durations) / len(durations)
            estimate = f"; about {max(left / 60, 0.1):.1f} minutes left" if done < len(jobs) else ""
            where = f"{job.arm} seed {job.seed}"
            self.log(f"{self.claim.id}: {done} of {len(jobs)}, {where}, {durations[-1]:.1f} s{estimate}")
        rows = [row for job in jobs for row in self._rows(job)]
        return Run(self.claim.id, done == len(jobs), done, len(jobs), tuple(rows))

    def cost(self) -> dict[str, Any]:
        """Devices in words and total wall time of all parts, as `write_results` takes them."""
        parts = [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]
        devices = "; ".join(dict.fromkeys(part["device"] for part in parts))
        return {"device": devices, "wall_time_s": sum(part["seconds"] for part in parts)}

    def _job(self, arm: str, seed: int) -> Job:
        number = self.protocol.arms.index(arm)
        name = f"{number:02d}-{re.sub(r'[^A-Za-z0-9]+', '_', arm)}-seed{seed}"
        return Job(self.claim, arm, seed, self.protocol, self.folder / name, self.device, self.deadline)

    def _part(self, job: Job) -> dict[str, Any] | None:
        """The saved part of a job, finished or not; None if there is none or a checkpoint has changed since."""
        path = job.run_dir.with_name(f"{job.run_dir.name}.json")
        if not path.is_file():
            return None
        try:
            part = json.loads(path.read_text())
        except ValueError:
            raise ValueError(f"{self.claim.id}: {path} is damaged; delete it to measure this job again") from None
        return part if part["checkpoints"] == self.digests else None

    def _finished(self, job: Job) -> Mapping[str, Mapping[str, float]] | None:
        part = self._part(job)
        return part["measured"] if part else None

    def _rows(self, job: Job) -> list[Row]:
        measured = self._finished(job) or {}
        return [{"seed": job.seed, "arm": job.arm, "image": image, **values} for image, values in measured.items()]

    def _measure(self, job: Job) -> float:
        """Measure one job and save its part; returns its seconds, those of earlier calls included.

        Raises:
            OutOfTime: the time was up, before or during the job; the seconds spent so far are saved.
        """
        if job.minutes_left() == 0:
            raise OutOfTime
        part = self._part(job)
        spent, started = part["seconds"] if part else 0.0, time.monotonic()
        job.run_dir.mkdir(parents=True, exist_ok=True)
        try:
            measured = self.claim.measure(job, self.protocol.images)
        except OutOfTime:
            self._save(job, None, spent + time.monotonic() - started)
            raise
        seconds = spent + time.monotonic() - started
        try:
            measured = check_measured(measured, self.protocol.images, self.protocol.metrics)
        except ValueError as error:
            raise ValueError(f"{self.claim.id}: arm {job.arm}, seed {job.seed}: {error}") from None
        self._save(job, measured, seconds)
        return seconds

    def _save(self, job: Job, measured: Measured | None, seconds: float) -> None:
        from minirestore.checkpoints import write_atomically

        part = {
            "checkpoints": self.digests,
            "device": _device_in_words(job.device),
            "seconds": seconds,
            "measured": measured,
        }
        write_atomically(job.run_dir.with_name(f"{job.run_dir.name}.json"), json.dumps(part).encode())
