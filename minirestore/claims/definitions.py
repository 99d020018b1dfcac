"""What a claim is: its protocol, the function that measures it, and the dictionary of all of them."""

import dataclasses
import difflib
import hashlib
import importlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Modules of this package, or folders, that hold each paper's claims
PAPERS = ("structure_guidance", "c2f_dft", "hf_error_map", "diffbir", "depthmaster")
TIERS = ("cpu", "gpu", "full")
DIRECTIONS = ("higher", "lower")
FEWEST_SEEDS, HEADLINE_SEEDS = 3, 5
LARGEST_CSV = 60_000  # bytes of one claim's results
KEY_COLUMNS = ("seed", "arm", "image")

Row = Mapping[str, Any]  # one line of the ledger: seed (int), arm, image (str), and a float per metric
Measured = Mapping[str, Mapping[str, float]]  # image name -> metric id -> value


class OutOfTime(RuntimeError):
    """Raised by a claim's function when the time box cut its training short; the next run goes on with it."""


@dataclass(frozen=True)
class Protocol:
    """Everything that decides what a claim's numbers are; its hash covers exactly these fields.

    Attributes:
        data: ids of the data, such as ``"photos.evaluation_crops(128)"`` or ``"blur linear"``.
        images: names of what is measured; the part before the first ``/`` is the photograph, the cluster of intervals.
        arms: what is compared; the effect is by default the first minus the second.
        seeds: training seeds where something is trained, else sampling seeds.
        metrics: ids of the metrics, the value columns of the ledger.
        settings: steps, samples, network options and the like; plain JSON values, frozen (lists become tuples).

    Raises:
        ValueError: a field is empty or holds something twice. TypeError: an element has the wrong type.
    """

    data: tuple[str, ...]
    images: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("data", "images", "arms", "seeds", "metrics"):
            object.__setattr__(self, name, _elements(name, getattr(self, name), int if name == "seeds" else str))
        if clash := set(self.metrics) & set(KEY_COLUMNS):
            raise ValueError(f"metrics: {', '.join(sorted(clash))} is a key column of the ledger; use another name")
        object.__setattr__(self, "settings", _freeze("settings", self.settings))

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return json.loads(_canonical({f.name: getattr(self, f.name) for f in dataclasses.fields(self)}))

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the sha256 of the fields as canonical JSON."""
        return hashlib.sha256(_canonical(self.as_dict()).encode()).hexdigest()[:12]

    @property
    def photographs(self) -> tuple[str, ...]:
        """The clusters of the images, in order."""
        return tuple(dict.fromkeys(photograph(image) for image in self.images))

    @property
    def cells(self) -> set[tuple[int, str, str]]:
        """The grid: every (seed, arm, image)."""
        return {(seed, arm, image) for seed in self.seeds for arm in self.arms for image in self.images}


def photograph(image: str) -> str:
    """The photograph that a measured image belongs to: ``"coffee/2"`` -> ``"coffee"``."""
    return image.split("/")[0]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=dict)


def _elements(name: str, values: Sequence, kind: type) -> tuple:
    if isinstance(values, str) or any(type(value) is not kind for value in values):
        raise TypeError(f"{name}: expected a sequence of {kind.__name__}, got {values!r}")
    if not values or len(set(values)) < len(values) or any(str(value) != str(value).strip() for value in values):
        raise ValueError(f"{name}: expected at least one element, each once and without outer blanks, got {values!r}")
    return tuple(values)


def _freeze(name: str, value: Any) -> Any:
    """A read-only copy of plain JSON values."""
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{name}: expected texts as names, got {strange[0]!r}")
        return MappingProxyType({key: _freeze(f"{name}.{key}", entry) for key, entry in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_freeze(f"{name}[{i}]", entry) for i, entry in enumerate(value))
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    raise TypeError(f"{name}: expected plain JSON values (finite numbers, texts, lists), got {value!r}")


@dataclass(frozen=True)
class Job:
    """One (arm, seed) of a claim, and what its function may use.

    Attributes:
        protocol: the claim's, or the rehearsal's at profile ``quick``; read settings from here.
        run_dir: folder for the resumable state of this arm's and seed's training, ``RUNS/ID/HASH/JOB``.
        device: ``cpu`` or ``cuda:N``.
        deadline: `time.monotonic` at which the time box ends; None without one.
    """

    claim: "Claim"
    arm: str
    seed: int
    protocol: Protocol
    run_dir: Path
    device: str = "cpu"
    deadline: float | None = None

    @property
    def shared_dir(self) -> Path:
        """Folder for trainings that several claims have in common; each needs a name that says what it is.

        The claim that trains one pays for it: the others' cards count only the time that they took themselves.
        """
        return self.run_dir.parents[2] / "shared"

    def minutes_left(self) -> float | None:
        """Minutes to the end of the time box, not below 0; None without one. Fits `training.fit`'s ``minutes``."""
        return None if self.deadline is None else max(0.0, (self.deadline - time.monotonic()) / 60)


Measure = Callable[[Job, Sequence[str]], Measured]
Effect = Callable[[Sequence[Row]], Mapping[Any, float]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper, and how it is put to the test.

    Attributes:
        id, paper, where: such as ``sg.A7``, ``structure_guidance``, ``Table 3``.
        statement: what the paper says, in one sentence.
        paper_effect: the paper's effect as printed there.
        paper_value: the same in ``unit`` and with the sign of ``contrast``; None if it has no counterpart.
        protocol: see `Protocol`; None only for a claim that is not testable here.
        rehearsal: fields of the protocol, or single settings by name, that make a miniature of seconds.
        primary: the metric that decides. contrast: what the effect is, such as ``guided - wide``. unit: of the effect.
        direction: ``higher`` or ``lower``, the direction of the contrast in which the paper's side lies.
        null: where the paper's side begins. smallest: the smallest effect of interest. Both on the oriented scale, on
            which the paper's side is up: the effect times -1 where ``direction`` is ``lower``.
        tier: ``cpu`` (minutes on a laptop), ``gpu`` (one GPU) or ``full`` (paper scale).
        trained: something is trained per seed, so that the seed is the independent unit; else it is the photograph.
        clusters: what the photographs are called where they are something else, such as sets of images.
        counted: the effect of an image says yes (1) or no (0), and the image, such as a cell of a paper's table, is the
            independent unit: exact binomial interval and test of the share of yes.
        headline: a claim the paper stands on; it needs five seeds where something is trained, the others three.
        checkpoints: shipped checkpoints that the function uses.
        shipped_arms: arms computed from them alone, for any seed; a test measures one of their cells again.
        not_testable: why the claim cannot be tested here; empty if it can.
        measure: ``(job, images) -> {image: {metric: value}}`` for one arm and seed; the values of an image must not
            depend on which others are asked for. Raises `OutOfTime` when its training was cut short.
        effect: ``rows -> {key: effect}`` in raw units, the key being the seed if trained, else an image or photograph;
            None for the mean paired difference ``arms[0] - arms[1]`` of the primary metric.

    Raises:
        ValueError: the fields contradict each other; the message says what is right.
    """

    id: str
    paper: str
    where: str
    statement: str
    paper_effect: str
    paper_value: float | None = None
    protocol: Protocol | None = None
    rehearsal: Mapping[str, Any] = field(default_factory=dict)
    primary: str = ""
    contrast: str = ""
    unit: str = ""
    direction: str = "higher"
    null: float = 0.0
    smallest: float = 0.0
    tier: str = "cpu"
    trained: bool = False
    clusters: str = "photographs"
    counted: bool = False
    headline: bool = False
    checkpoints: tuple[str, ...] = ()
    shipped_arms: tuple[str, ...] = ()
    not_testable: str = ""
    measure: Measure | None = None
    effect: Effect | None = None

    def __post_init__(self):
        _check_claim(self)

    @property
    def sign(self) -> int:
        """Raw effect times this is the oriented effect: up is the paper's side."""
        return 1 if self.direction == "higher" else -1

    @property
    def command(self) -> str:
        """The command that measures the claim; empty if it is not testable."""
        profile = " --profile full" if self.tier == "full" else ""
        return "" if self.not_testable else f"minirestore claims run {self.id}{profile}"

    def rehearsal_protocol(self) -> Protocol:
        """The protocol with the rehearsal's changes.

        Raises:
            ValueError: the rehearsal names something that is neither a field nor a setting.
        """
        fields = {f.name for f in dataclasses.fields(Protocol)} - {"settings"}
        changed = {name: value for name, value in self.rehearsal.items() if name in fields}
        single = {k: v for k, v in self.rehearsal.items() if k not in fields and k != "settings"}
        settings = {**self.rehearsal.get("settings", {}), **single}
        if unknown := sorted(set(settings) - set(self.protocol.settings)):
            known = ", ".join([*sorted(fields), *self.protocol.settings])
            raise ValueError(f"{self.id}: rehearsal: unknown {', '.join(unknown)}; known: {known}")
        return dataclasses.replace(self.protocol, **changed, settings={**self.protocol.settings, **settings})


def _check_claim(claim: Claim) -> None:
    """Raise ValueError when a claim's fields are wrong or contradict each other."""
    if not re.fullmatch(r"[a-z][a-z0-9]*\.[A-Z]?[0-9]+[a-z]?", claim.id):
        raise ValueError(f"id: expected paper.number such as sg.A7, got {claim.id!r}")
    for name, value, allowed in (("tier", claim.tier, TIERS), ("direction", claim.direction, DIRECTIONS)):
        if value not in allowed:
            raise ValueError(f"{claim.id}: {name}: got {value!r}; choose one of {', '.join(allowed)}")
    if claim.not_testable:
        return
    if claim.protocol is None or claim.measure is None:
        raise ValueError(f"{claim.id}: needs a protocol and a function that measures it, or the reason in not_testable")
    protocol, seeds = claim.protocol, len(claim.protocol.seeds)
    if claim.primary not in protocol.metrics:
        raise ValueError(f"{claim.id}: primary: {claim.primary!r} is not among {', '.join(protocol.metrics)}")
    needed = HEADLINE_SEEDS if claim.headline else FEWEST_SEEDS
    if claim.trained and seeds < needed:
        kind = "headline" if claim.headline else "trained"
        raise ValueError(f"{claim.id}: seeds: a {kind} claim needs at least {needed} training seeds, got {seeds}")
    if not claim.trained and len(protocol.photographs) < 2:
        raise ValueError(f"{claim.id}: images: needs at least two photographs, got {', '.join(protocol.photographs)}")
    if claim.counted and (claim.trained or claim.sign < 0 or not 0 < claim.null < 1 or claim.effect is None):
        raise ValueError(f"{claim.id}: counted: needs an effect, nothing trained, direction higher, and null in (0, 1)")
    if claim.effect is None and len(protocol.arms) < 2:
        raise ValueError(f"{claim.id}: arms: the effect is the first minus the second, got only {protocol.arms[0]}")
    if not claim.smallest >= claim.null:
        raise ValueError(f"{claim.id}: smallest: expected at least null = {claim.null:g}, got {claim.smallest:g}")
    if unknown := [arm for arm in claim.shipped_arms if arm not in protocol.arms]:
        raise ValueError(f"{claim.id}: shipped_arms: {unknown[0]} is not among {', '.join(protocol.arms)}")
    if claim.shipped_arms and not claim.checkpoints:
        raise ValueError(f"{claim.id}: shipped_arms: name the checkpoints they use in checkpoints")
    typical = sum(len(arm) + len(image) + 6 + 9 * len(protocol.metrics) for _, arm, image in protocol.cells)
    if typical > LARGEST_CSV:
        raise ValueError(
            f"{claim.id}: protocol: its results would take about {typical:,} bytes, more than {LARGEST_CSV:,}; "
            "measure fewer images, or report a mean over several as one"
        )
    claim.rehearsal_protocol()


CLAIMS: dict[str, Claim] = {}


def register(claim: Claim) -> Claim:
    """Add ``claim`` to `CLAIMS`; ValueError if its id is taken."""
    if claim.id in CLAIMS:
        raise ValueError(f"id: {claim.id} is taken; taken ids: {', '.join(CLAIMS)}")
    CLAIMS[claim.id] = claim
    return claim


def claim(**fields: Any) -> Callable[[Measure], Measure]:
    """Decorator that registers a function as the measurement of the claim with these `Claim` fields.

    A claim that is not testable here has no function: ``register(Claim(..., not_testable="why"))``.
    """

    def decorate(measure: Measure) -> Measure:
        register(Claim(measure=measure, **fields))
        return measure

    return decorate


def load_claims() -> dict[str, Claim]:
    """All claims by id, in the order of the papers; the modules that hold them are imported now."""
    for paper in PAPERS:
        importlib.import_module(f"minirestore.claims.{paper}")
    return CLAIMS


def find_claim(id: str) -> Claim:
    """The claim with this id; ValueError with the list of ids otherwise."""
    known = load_claims()
    if id not in known:
        close = difflib.get_close_matches(id, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"id: unknown claim {id!r}{hint} (known: {', '.join(known) or 'none'})")
    return known[id]


def claims_of(paper: str | None = None) -> list[Claim]:
    """The claims of ``paper``, or of all papers; ValueError with the list of papers if there is no such one."""
    known = load_claims()
    papers = dict.fromkeys(claim.paper for claim in known.values())
    if paper is not None and paper not in papers:
        raise ValueError(f"paper: got {paper!r}; choose one of {', '.join(papers) or 'none'}")
    return [claim for claim in known.values() if paper in (None, claim.paper)]
