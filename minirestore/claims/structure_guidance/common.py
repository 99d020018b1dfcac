"""Crops, blurs and models that the claims share."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minirestore.claims.definitions import Job, OutOfTime, Row

PAPER = "structure_guidance"
# The two crops of each photograph with the most gradient energy; of the rocket one, since its next is so smooth that
# the noise of walk_gamma alone takes it below the PSNR that its linear blur leaves.
TEXTURED = {"astronaut": (2, 3), "chelsea": (0, 2), "coffee": (2, 3), "rocket": (2,), "motorcycle": (1, 2),
            "grace_hopper": (2, 3)}  # fmt: skip
CROPS = "photos.crops(128), the two most textured of each evaluation photograph"


def crop_names(*conditions: str) -> tuple[str, ...]:
    """``photograph/crop``, or ``photograph/crop/condition`` for every condition."""
    crops = [f"{photo}/{i}" for photo, numbers in TEXTURED.items() for i in numbers]
    return tuple(f"{crop}/{condition}" for crop in crops for condition in conditions) if conditions else tuple(crops)


@functools.lru_cache(maxsize=64)
def clean_crop(name: str):
    """The crop ``photograph/number[/...]`` as (1, 3, 128, 128)."""
    from minirestore import photos

    photo, number = name.split("/")[:2]
    return photos.crops(photo)[int(number) : int(number) + 1]


def blur_seed(name: str, seed: int) -> int:
    """Seed of the blur of a crop: the same for every condition, another for every crop and seed."""
    photo, number = name.split("/")[:2]
    return 1000 * seed + 10 * list(TEXTURED).index(photo) + int(number)


@functools.lru_cache(maxsize=512)
def pair(name: str, seed: int):
    """Clean and blurred crop, each (1, 3, 128, 128), of ``photograph/number/condition``.

    The condition is ``linear`` or ``long``; a shift, which leaves the crop the PSNR of its linear version; a factor
    on the severity such as ``x1.50``; or an RMS radius such as ``r2.5``.
    """
    from minirestore import degradations, metrics

    condition, x, s = name.split("/")[2], clean_crop(name), blur_seed(name, seed)
    linear = degradations.BLUR_DOMAINS["linear"]
    if condition[1:].replace(".", "").isdigit():
        value = float(condition[1:])
        radius = (value, value) if condition[0] == "r" else tuple(value * r for r in linear.radius)
        return x, degradations.random_blur(x, s, dataclasses.replace(linear, radius=radius))
    if condition in ("linear", "long"):
        return x, degradations.random_blur(x, s, degradations.BLUR_DOMAINS[condition])
    target = metrics.psnr(degradations.random_blur(x, s, linear), x).item()
    return x, degradations.matched_blur(x, s, degradations.BLUR_DOMAINS[condition], target)


def training_folder(job: Job, settings: Mapping[str, Any]) -> Path:
    """Where the training with these settings of `recipes.train` lies, named after all that decides its result.

    A training by another protocol, or by a recipe that has changed since, gets another folder and is left alone.
    """
    from minirestore import recipes

    parts = recipes.plan(recipes.find_recipe(PAPER), job.protocol.settings["profile"], settings)
    identity = json.dumps([dataclasses.asdict(part) for part in parts], sort_keys=True)
    return job.shared_dir / f"model-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def train(job: Job, settings: Mapping[str, Any]):
    """The module trained with these settings of `recipes.train`; `OutOfTime` when the time box ends first."""
    from minirestore import recipes

    options = {"run_dir": training_folder(job, settings), "device": job.device, "minutes": job.minutes_left()}
    module, result = recipes.train(PAPER, job.protocol.settings["profile"], settings, **options)
    if not result.finished:
        raise OutOfTime(f"{job.arm}, seed {job.seed}: {result.steps_done} of {settings['steps']} steps")
    return module


@functools.lru_cache(maxsize=2)
def load(checkpoint: str, device: str):
    """A model from the name of a shipped checkpoint or the path of a trained one."""
    from minirestore import recipes

    return recipes.load_method(PAPER, Path(checkpoint) if checkpoint.endswith(".safetensors") else checkpoint, device)


def restore(model, y, name: str, seed: int, **options):
    """One restored crop on the CPU; its noise depends on crop and seed alone."""
    from minirestore import diffusion

    generator = diffusion.BatchGenerator(7_000_000 + blur_seed(name, seed), 0)
    device = next(model.parameters()).device
    if options.get("structure") is not None:
        options["structure"] = options["structure"].to(device)
    return model.restore(y.to(device), generator=generator, **options).cpu()


def mean_of(rows: Iterable[Row], metric: str, seed: int, arm: str, condition: str = "") -> float:
    """Mean of a metric over the images of one seed and arm, of all conditions or of the one named."""
    values = [
        row[metric]
        for row in rows
        if row["seed"] == seed and row["arm"] == arm and (not condition or row["image"].split("/")[2] == condition)
    ]
    return float(np.mean(values))


def gain_of(rows: Iterable[Row], metric: str, seed: int, arms: tuple[str, str], condition: str = "") -> float:
    """`mean_of` the first arm minus that of the second."""
    first, second = (mean_of(rows, metric, seed, arm, condition) for arm in arms)
    return first - second


def seeds_of(rows: Iterable[Row]) -> list[int]:
    return sorted({row["seed"] for row in rows})


def conditions_of(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["image"].split("/")[2] for row in rows))
