"""What the training of a notebook's models takes, found without weights and without training."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minirestore import checkpoints, resources
from minirestore.prior.folders import find_folder
from minirestore.recipes.data import DataConfig, empty_batch, missing_data, pool_in_words
from minirestore.recipes.models import MODELS, Recipe, plan
from minirestore.recipes.running import build
from minirestore.training import TrainingConfig


def dry_run(notebook: str, values: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What the training of a notebook's models needs: lines to print, and what is missing on this machine.

    Args:
        notebook: its number, such as ``05``.
        values: the notebook's parameters; ``profile`` chooses the plan, and those that name a setting of it apply. A
            parameter ``STAGE_steps`` holds for the trainings of that stage.
    """
    lines, missing = [], []
    for recipe in (r for r in MODELS.values() if notebook in r.notebooks):
        quick, lacking = values["profile"] == "quick", []
        chosen = recipe.trainings[:1] if quick else recipe.trainings
        for (needs, data, run), names in _trainings(recipe, values, chosen).items():
            crops = ", ".join(f"{n} crops of {side or data.crop} px" for side, n in run.batches)
            absent = missing_data(data)
            lacking += [item for item in absent if item not in lacking]
            lines += [
                f"{' and '.join(names)} at profile {values['profile']}",
                f"training    {len(names)} x {run.steps:,} steps of {crops}{' in turn' if run.patches else ''}",
                *needs.lines(len(names) * run.steps),
                f"data        {pool_in_words(data)}: {'missing' if absent else 'present'}",
            ]
        if quick:  # trained for seconds to show the loop; the results come from what is shipped
            absent = [c for c in recipe.checkpoints if not checkpoints.is_present(c)]
            lines += [f"weights     {c}: {'missing' if c in absent else 'present'}" for c in recipe.checkpoints]
            lacking += [f"checkpoint {c}; train it with minirestore train, or set MINIRESTORE_DATA" for c in absent]
        else:
            frozen = _frozen(recipe, values)
            absent = [name for name in frozen if not _is_there(name)]
            lines += [
                f"weights     {name}, to build on: {'missing' if name in absent else 'present'}" for name in frozen
            ]
            lines += [] if frozen else ["weights     none needed, trained from scratch"]
            lacking += [f"checkpoint {name}, which {recipe.name} builds on" for name in absent]
        missing += lacking
    if values["profile"] == "full" and not torch.cuda.is_available():
        missing.append("a CUDA GPU (PyTorch sees none)")
    return lines, missing


def _frozen(recipe: Recipe, values: Mapping[str, Any]) -> list[str]:
    """Checkpoints of the parts that the recipe does not train."""
    network = plan(recipe, values["profile"])[0]
    return [values.get(setting, getattr(network, setting)) for setting in recipe.frozen]


def _is_there(name: str) -> bool:
    """Whether a checkpoint, a released file or a folder in the layout of diffusers is on this machine."""
    if checkpoints.is_present(name) or Path(name).is_file():
        return True
    try:
        return find_folder(name).is_dir()
    except FileNotFoundError:
        return False


def _trainings(
    recipe: Recipe, values: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]
) -> dict[tuple[resources.TrainingNeeds, DataConfig, TrainingConfig], list[str]]:
    """Needs, data and training of each of the chosen trainings, with the names of those that have them in common."""
    found: dict[tuple[resources.TrainingNeeds, DataConfig, TrainingConfig], list[str]] = {}
    known = {f.name for part in plan(recipe, values["profile"]) for f in dataclasses.fields(part)}
    for settings in chosen:
        settings = {k: v[values["profile"]] if isinstance(v, Mapping) else v for k, v in settings.items()}
        asked = {k: v for k, v in values.items() if k in known} | settings
        if (steps := values.get(f"{settings.get('stage')}_steps")) is not None:
            asked["steps"] = steps
        network, data, run = plan(recipe, values["profile"], asked)
        name = " ".join([recipe.name, *(f"{k}={v}" for k, v in settings.items())])
        found.setdefault((_needs(recipe, network, data, run), data, run), []).append(name)
    return found


def _needs(recipe: Recipe, network: Any, data: DataConfig, run: TrainingConfig) -> resources.TrainingNeeds:
    """Needs of the largest batch; where the forward pass is repeated call by call, one call's tensors are added."""
    side, count = max(((s or data.crop, n) for s, n in run.batches), key=lambda batch: batch[0] ** 2 * batch[1])
    batch = empty_batch(data, count, side)

    def measure(config: Any) -> resources.TrainingNeeds:
        return resources.training_needs(build(recipe, config, device="meta"), batch, run.ema_decay > 0, run.steps)

    needs = measure(network)
    if not getattr(network, "checkpointing", False):
        return needs
    plain = measure(dataclasses.replace(network, checkpointing=False))
    if plain.activation_bytes == needs.activation_bytes:
        return needs
    kept = needs.activation_bytes + plain.activation_bytes // network.sampling_steps
    return dataclasses.replace(needs, activation_bytes=kept, flops_per_step=plain.flops_per_step * 4 // 3)
