"""From rows to a verdict: effect, intervals, p-value, and Holm's correction over a paper's claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minirestore import statistics
from minirestore.claims.definitions import Claim, Row, photograph
from minirestore.statistics import Interval

SUPPORTED, CONTRADICTED, NOT_RESOLVED = "supported", "contradicted", "not resolved"
ALPHA = 0.05
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Assessment:
    """What a claim's rows say. Effect and intervals are raw: in the claim's unit, with the sign of its contrast.

    Attributes:
        effect, low, high: estimate and 95 % interval; with two intervals the wider hull of both.
        intervals: t over the seeds where something is trained; exact binomial over what is counted; else bootstrap
            over photographs and t over their means.
        n_seeds, n_units: number of seeds, and of the independent units: seeds, photographs, or what is counted.
        p: two-sided t test of the units, or exact binomial test, against ``null``, or ``smallest`` if contradicted.
        verdict: ``supported``, ``contradicted`` or ``not resolved``.
    """

    effect: float
    low: float
    high: float
    intervals: tuple[Interval, ...]
    n_seeds: int
    n_units: int
    p: float
    verdict: str


def paired_differences(claim: Claim, rows: Sequence[Row]) -> dict[Any, float]:
    """``arms[0] - arms[1]`` of the primary metric: per seed its mean over images if trained, else per image over seeds.

    Raises:
        ValueError: an image of one arm and seed has no partner in the other arm.
    """
    first, second = claim.protocol.arms[:2]
    cells = {(row["seed"], row["image"], row["arm"]): row[claim.primary] for row in rows}
    differences: dict[Any, list[float]] = {}
    for seed, image in dict.fromkeys((seed, image) for seed, image, arm in cells if arm in (first, second)):
        pair = [cells.get((seed, image, arm)) for arm in (first, second)]
        if None in pair:
            raise ValueError(f"{claim.id}: rows: seed {seed}, {image} lacks one of {first} and {second}")
        differences.setdefault(seed if claim.trained else image, []).append(pair[0] - pair[1])
    return {key: float(np.mean(values)) for key, values in differences.items()}


def effects(claim: Claim, rows: Sequence[Row]) -> dict[Any, float]:
    """The raw effect per seed (trained) or per image, by the claim's own function or `paired_differences`.

    Raises:
        ValueError: the claim's function left out a seed or a photograph, or invented one.
    """
    values = dict((claim.effect or (lambda rows: paired_differences(claim, rows)))(rows))
    found = set(values) if claim.trained else {photograph(key) for key in values}
    wanted = {row["seed"] if claim.trained else photograph(row["image"]) for row in rows}
    if found != wanted:
        unit = "seeds" if claim.trained else "photographs"
        raise ValueError(f"{claim.id}: effect: expected the {unit} {_listed(wanted)}, got {_listed(found)}")
    return values


def _listed(keys: set) -> str:
    return ", ".join(str(key) for key in sorted(keys)) or "none"


def assess(claim: Claim, rows: Sequence[Row]) -> Assessment:
    """The verdict on ``claim`` by ``rows``.

    Oriented so that the paper's side is up: *supported* if the whole interval lies above ``null`` and the estimate
    reaches ``smallest``; *contradicted* if the whole interval lies below ``smallest``; else *not resolved*.

    Args:
        rows: one per seed, arm and image, as in `Results.rows`: seed, arm, image and a value per metric.

    Raises:
        ValueError: as `effects`; fewer than two units; a value that is not finite, or neither 0 nor 1 if counted.
    """
    oriented = {key: claim.sign * value for key, value in effects(claim, rows).items()}
    values = list(oriented.values())
    if claim.trained:
        units, intervals = values, (statistics.t_interval(values),)
    elif claim.counted:
        units, intervals = values, (statistics.binomial_interval(values),)
    else:
        clusters = [photograph(key) for key in oriented]
        intervals = statistics.clustered_intervals(values, clusters, BOOTSTRAP_SEED)
        units = [_mean_of(name, values, clusters) for name in dict.fromkeys(clusters)]
    estimate, low, high = intervals[0].mean, min(i.low for i in intervals), max(i.high for i in intervals)
    verdict = decide(estimate, low, high, claim.null, claim.smallest)
    against = claim.smallest if verdict == CONTRADICTED else claim.null
    raw = [_raw(claim.sign, interval) for interval in (Interval(estimate, low, high, len(units)), *intervals)]
    return Assessment(
        effect=raw[0].mean,
        low=raw[0].low,
        high=raw[0].high,
        intervals=tuple(raw[1:]),
        n_seeds=len({row["seed"] for row in rows}),
        n_units=len(units),
        p=statistics.binomial_p(units, against) if claim.counted else statistics.paired_t(np.subtract(units, against)),
        verdict=verdict,
    )


def decide(estimate: float, low: float, high: float, null: float, smallest: float) -> str:
    """The verdict on an oriented estimate and its interval; an end that touches a threshold does not pass it."""
    if low > null and estimate >= smallest:
        return SUPPORTED
    return CONTRADICTED if high < smallest else NOT_RESOLVED


def _mean_of(name: str, values: Sequence[float], clusters: Sequence[str]) -> float:
    return float(np.mean([value for value, cluster in zip(values, clusters, strict=True) if cluster == name]))


def _raw(sign: int, interval: Interval) -> Interval:
    """An oriented interval in the units and with the sign of the contrast."""
    low, high = sorted((sign * interval.low, sign * interval.high))
    return Interval(sign * interval.mean, low, high, interval.n, interval.level)


def holm_column(tested: Mapping[str, tuple[float, str]]) -> dict[str, str]:
    """Whether each verdict of a paper survives Holm's correction at 5 %: ``yes``, ``no``, or ``-`` if not resolved.

    Args:
        tested: (p-value, verdict) of all of the paper's claims that have results, the unresolved ones too.
    """
    if not tested:
        return {}
    adjusted = statistics.holm([p for p, _ in tested.values()])
    return {
        id: "-" if verdict == NOT_RESOLVED else ("yes" if p <= ALPHA else "no")
        for (id, (_, verdict)), p in zip(tested.items(), adjusted, strict=True)
    }
