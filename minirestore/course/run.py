"""Run one notebook by papermill, at any profile, within a time limit."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from minirestore.course.build import failure, kernel_environment, relative, write
from minirestore.course.sources import Lesson, parameter_defaults, parameters, read_configuration, read_source

ATTEMPTS = 2
GRACE_SECONDS = 10


@dataclass(frozen=True)
class Outcome:
    """How one run ended: ``status`` is ``ok``, ``failed`` (a cell raised), ``timeout`` or ``died`` (the kernel)."""

    name: str
    status: str
    seconds: float
    output: Path
    message: str = ""


def dry_run(lesson: Lesson, values: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What a run needs: lines to print, and the list of what is missing on this machine.

    Notebooks without networks need nothing. For the others ``recipes.dry_run(number, values)`` counts parameters per
    part on the meta device, training memory, data and weights, and estimates the time.
    """
    if not read_configuration(lesson).networks:
        return [f"{lesson.name}: no networks, no data, no weights; nothing is needed"], []
    from minirestore import recipes

    return recipes.dry_run(lesson.number, dict(values))


def run(
    lesson: Lesson,
    folder: Path,
    *,
    profile: str = "quick",
    settings: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    progress: bool = False,
    log: Callable[[str], None] = print,
) -> Outcome:
    """Run a lesson from its source and write the executed notebook into ``folder``.

    Args:
        lesson: the notebook.
        folder: where ``NN_name.ipynb`` (profile quick) or ``NN_name-PROFILE.ipynb`` goes; created when missing.
        profile: ``quick``, ``reduced`` or ``full``.
        settings: parameters to change, checked against the notebook's parameters cell.
        timeout: seconds for one attempt; by default that of the lesson's configuration.
        progress: draw papermill's progress bar on stderr.
        log: called with a line when an attempt is repeated.

    Raises:
        ValueError, TypeError: unknown profile or parameter, or a value of the wrong type.
        FileNotFoundError: the profile needs data or weights that are not here; the message lists them.
    """
    values = parameters(lesson, profile, settings)
    limit = timeout if timeout is not None else _timeout(lesson, profile)
    if limit <= 0:
        raise ValueError(f"timeout: expected a positive number of seconds, got {limit}")
    if missing := dry_run(lesson, values)[1]:
        raise FileNotFoundError(f"{lesson.name} at profile {profile} is missing: {'; '.join(missing)}")
    suffix = "" if profile == "quick" else f"-{profile}"
    output = folder / f"{lesson.name}{suffix}.ipynb"
    changed = {name: value for name, value in values.items() if value != parameter_defaults(lesson)[name]}
    for attempt in range(1, ATTEMPTS + 1):
        outcome = _attempt(lesson, changed, output, limit, progress)
        if outcome.status in ("ok", "failed"):
            return outcome
        if attempt < ATTEMPTS:
            log(f"{lesson.name}: {outcome.message}; trying once more")
    return outcome


def _timeout(lesson: Lesson, profile: str) -> int:
    found = read_configuration(lesson)
    return {"quick": found.timeout, "reduced": found.timeout_reduced, "full": found.timeout_full}[profile]


def _attempt(lesson: Lesson, changed: Mapping[str, Any], output: Path, limit: float, progress: bool) -> Outcome:
    """One papermill process; it is asked to stop after ``limit`` seconds and killed when it does not."""
    import yaml

    source = output.with_name(f".{output.stem}.source.ipynb")
    write(read_source(lesson), source)
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "papermill", str(source.resolve()), str(output.resolve()), "--kernel", "python3"]
    command += ["--cwd", str(lesson.root), "--progress-bar" if progress else "--no-progress-bar"]
    command += ["--parameters_yaml", yaml.safe_dump(dict(changed))] if changed else []
    start = time.perf_counter()
    errors_to = None if progress else subprocess.PIPE
    process = subprocess.Popen(
        command, env=kernel_environment(), stdout=subprocess.DEVNULL, stderr=errors_to, text=True
    )
    timed_out = False
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        timed_out, errors = True, _stop(process)
    except BaseException:
        _stop(process)
        raise
    finally:
        source.unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    status, message = _verdict(process.returncode, timed_out, limit, output, errors)
    return Outcome(lesson.name, status, seconds, output, message)


def _stop(process: subprocess.Popen) -> str | None:
    """Ask papermill to shut its kernel down; kill it if it does not within ten seconds."""
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=GRACE_SECONDS)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1]


def _verdict(code: int, timed_out: bool, limit: float, output: Path, errors: str | None) -> tuple[str, str]:
    if timed_out:
        return "timeout", f"stopped after {limit:g} s"
    if code == 0:
        return "ok", relative(output)
    failed = failure(nbformat.read(output, as_version=4)) if output.is_file() else None
    if failed:
        return "failed", failed
    return "died", ((errors or "").strip().splitlines() or ["papermill ended without a message"])[-1]
