"""Photograph crops, trainings, and sums over rows that the claims of several papers share."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minirestore.claims.definitions import Job, OutOfTime, Row

# The two crops of each photograph with the most gradient energy; of the rocket one, since its next is so smooth that
# the noise of walk_gamma alone takes it below the PSNR that its linear blur leaves.
TEXTURED = {"astronaut": (2, 3), "chelsea": (0, 2), "coffee": (2, 3), "rocket": (2,), "motorcycle": (1, 2),
            "grace_hopper": (2, 3)}  # fmt: skip
REHEARSED = ("astronaut/2", "coffee/2")  # crops of the rehearsals
CROPS = "photos.crops(128), the two most textured of each evaluation photograph"


def crop_names(*conditions: str, rehearsal: bool = False) -> tuple[str, ...]:
    """``photograph/crop``, or ``photograph/crop/condition`` for every condition; of all crops or of `REHEARSED`."""
    crops = REHEARSED if rehearsal else [f"{photo}/{i}" for photo, numbers in TEXTURED.items() for i in numbers]
    return tuple(f"{crop}/{condition}" for crop in crops for condition in conditions) if conditions else tuple(crops)


@functools.lru_cache(maxsize=64)
def clean_crop(name: str):
    """The crop ``photograph/number[/...]`` as (1, 3, 128, 128)."""
    from minirestore import photos

    photo, number = name.split("/")[:2]
    return photos.crops(photo)[int(number) : int(number) + 1]


def crop_seed(name: str, seed: int) -> int:
    """Seed of the degradation of a crop: the same for every condition, another for every crop and seed."""
    photo, number = name.split("/")[:2]
    return 1000 * seed + 10 * list(TEXTURED).index(photo) + int(number)


def training_folder(
    job: Job, method: str, settings: Mapping[str, Any], start: Path | str | None = None, frozen: Sequence[str] = ()
) -> Path:
    """Where the training with these arguments of `recipes.train` lies, named after all that decides its result.

    A training by another protocol, or by a recipe that has changed since, gets another folder and is left alone. An
    option that did not exist at the time changes nothing as long as it has its default.

    Args:
        start: checkpoint of another training, or the name of a shipped one.
        frozen: names of shipped checkpoints that the network contains; if one is replaced, the folder is another.
    """
    from minirestore import checkpoints, recipes

    parts = recipes.plan(recipes.find_recipe(method, recipes.MODELS), job.protocol.settings["profile"], settings)
    identity: list[Any] = [_beside_defaults(part) for part in parts]
    if isinstance(start, Path):
        identity.append(start.parent.name)
    if shipped := [*([start] if isinstance(start, str) else []), *frozen]:
        identity.append({name: checkpoints.read_card(name)["sha256"] for name in shipped})
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return job.shared_dir / f"model-{digest[:12]}"


def _beside_defaults(part: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, by name."""
    values = dataclasses.asdict(part)
    return {f.name: values[f.name] for f in dataclasses.fields(part) if getattr(part, f.name) != f.default}


def train(
    job: Job, method: str, settings: Mapping[str, Any], start: Path | str | None = None, frozen: Sequence[str] = ()
):
    """The module trained with these arguments of `training_folder`; `OutOfTime` when the time box ends first."""
    from minirestore import recipes

    options = {"device": job.device, "minutes": job.minutes_left(), "start": start}
    folder = training_folder(job, method, settings, start, frozen)
    module, result = recipes.train(method, job.protocol.settings["profile"], settings, run_dir=folder, **options)
    if not result.finished:
        raise OutOfTime(f"{job.arm}, seed {job.seed}: {result.steps_done} of {settings['steps']} steps")
    return module


def trained_file(
    job: Job, method: str, settings: Mapping[str, Any], start: Path | str | None = None, frozen: Sequence[str] = ()
) -> Path:
    """The checkpoint of this training, made now unless it is there; `OutOfTime` when the time box ends first."""
    file = training_folder(job, method, settings, start, frozen) / f"{method}.safetensors"
    if not file.with_suffix(".json").is_file():  # the card is written last
        train(job, method, settings, start, frozen)
    return file


@functools.lru_cache(maxsize=2)
def load(method: str, checkpoint: str, device: str):
    """A model from the name of a shipped checkpoint or the path of a trained one."""
    from minirestore import recipes

    return recipes.load_method(method, Path(checkpoint) if checkpoint.endswith(".safetensors") else checkpoint, device)


def noise_source(name: str, seed: int, draw: int = 0):
    """The generator of a crop's noise, a function of crop, seed and draw alone."""
    from minirestore import diffusion

    return diffusion.BatchGenerator(7_000_000 + crop_seed(name, seed), draw)


def restore(model, y, name: str, seed: int, draw: int = 0, **options):
    """One restored crop on the CPU, with the noise of `noise_source`."""
    device = next(model.parameters()).device
    if options.get("structure") is not None:
        options["structure"] = options["structure"].to(device)
    return model.restore(y.to(device), generator=noise_source(name, seed, draw), **options).cpu()


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
