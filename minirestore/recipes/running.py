"""Building, training, loading and using the models."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minirestore import checkpoints, config, diffusion, images, training
from minirestore.recipes.data import make_data, prepared_batches
from minirestore.recipes.models import MODELS, Recipe, find_recipe, plan
from minirestore.training import FitResult


def build(recipe: Recipe, network: Any, seed: int = 0, device: str | torch.device = "cpu") -> nn.Module:
    """The module with weights initialised from ``seed`` (on ``device="meta"``: without weights)."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return recipe.module(network)


def train(
    name: str,
    profile: str = "reduced",
    settings: Mapping[str, Any] | None = None,
    *,
    run_dir: str | Path,
    device: str = "auto",
    minutes: float | None = None,
    start: str | Path | None = None,
) -> tuple[nn.Module, FitResult]:
    """Train a model by its recipe and write ``NAME.safetensors`` and its card into ``run_dir`` when it is finished.

    A run that ``minutes`` cut short is continued by the next call with the same arguments.

    Args:
        name, profile, settings: see `plan`.
        run_dir: folder of the run. device, minutes: see `training.fit`.
        start: what to start from instead of its own beginning: a checkpoint (a name, a .safetensors file or a sealed
            folder such as ``prior/vae``), which holds averaged weights, or the folder of a finished run, which stands
            for its last, not averaged ones. The moving average starts there, too.

    Raises:
        ValueError, FileNotFoundError: as in `plan`, `training.fit`, `checkpoints.load` and `checkpoints.fill`; also if
            ``start`` is a network with other settings than this one, among those that a training keeps.
    """
    recipe = find_recipe(name, MODELS)
    network, data, run = plan(recipe, profile, settings)
    where = training.resolve_device(device)
    module = build(recipe, network, run.seed).to(memory_format=torch.channels_last)
    origin = {}
    if start is not None:
        kind, tensors, card = _weights_to_start_from(recipe, network, start)
        _check_start(recipe, network, card, start)
        checkpoints.fill(module, module.completed(tensors) if hasattr(module, "completed") else tensors, start)
        origin = {"start": f"{kind}, sha256 {checkpoints.fingerprint(tensors)}"}
    parts = {"network": network, "data": data}
    identity = {f"{part}.{k}": v for part, values in parts.items() for k, v in dataclasses.asdict(values).items()}
    make_batch = make_data(data, where)
    if data.prepared:
        make_batch = prepared_batches(make_batch, module, data.prepared, data.seed)
    result = training.fit(
        module,
        make_batch,
        run,
        run_dir=run_dir,
        identity={"model": name, **identity, **origin},
        device=device,
        minutes=minutes,
    )
    if result.finished and result.is_main_process:
        tail = max(len(result.history["loss"]) // 10, 1)
        card = {
            "method": name,
            "config": dataclasses.asdict(network),
            "data": dataclasses.asdict(data),
            "training": dataclasses.asdict(run),
            "steps": result.steps_done,
            "seed": run.seed,
            **origin,
            "device": describe_device(where),
            "wall_time_s": round(result.wall_time_s),
            "metrics": {
                f"{k} (mean of last tenth)": sum(v[-tail:]) / len(v[-tail:]) for k, v in result.history.items()
            },
        }
        saved = checkpoints.save(str(Path(run_dir) / f"{name}.safetensors"), module, card)
        if hasattr(module, "save_pretrained"):  # in the layout of the library whose networks it holds
            module.save_pretrained(Path(run_dir) / name)
            count = checkpoints.read_card(saved)["parameters"]
            checkpoints.seal(Path(run_dir) / name, {**card, "parameters": count})
    return module, result


def _weights_to_start_from(
    recipe: Recipe, network: Any, start: str | Path
) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """What kind of weights they are, the weights, and their card."""
    if recipe.open_folder and checkpoints.sealed_folder(start):
        return "averaged weights", recipe.open_folder(start, network).state_dict(), checkpoints.read_card(start)
    if Path(start).is_dir():
        tensors = training.last_weights(start)
        return "last weights", tensors, checkpoints.read_card(Path(start) / f"{recipe.name}.safetensors")
    return "averaged weights", *checkpoints.load(start)


def _check_start(recipe: Recipe, network: Any, card: Mapping[str, Any], start: str | Path) -> None:
    """Raise ValueError if ``network`` differs from that of ``start``, by its card, in what a training keeps."""
    known = {f.name for f in dataclasses.fields(recipe.config)}
    if card["method"] != recipe.name and not (recipe.kept and set(recipe.kept) <= set(card["config"])):
        raise ValueError(f"start: {start} holds {card['method']!r}, not {recipe.name!r}; name another one")
    before = config.override(recipe.config, {k: v for k, v in card["config"].items() if k in known})
    for field in recipe.kept:
        if (asked := getattr(network, field)) != (found := getattr(before, field)):
            raise ValueError(f"start: {start} has {field} = {found}, and {asked} is asked for; set {field}={found}")


def describe_device(device: torch.device) -> str:
    """``one CUDA GPU (NAME)`` or ``CPU, N threads``."""
    if device.type == "cuda":
        return f"one CUDA GPU ({torch.cuda.get_device_name(device)})"
    return f"CPU, {torch.get_num_threads()} thread(s)"


def load_method(name: str, checkpoint: str | Path | None = None, device: str = "auto") -> nn.Module:
    """A trained method, built from its card and verified; errors as in `checkpoints.load` and `checkpoints.fill`."""
    recipe = find_recipe(name, MODELS)
    checkpoint = checkpoint or recipe.checkpoint
    tensors, card = checkpoints.load(checkpoint)
    if card["method"] != name:
        raise ValueError(f"checkpoint {checkpoint!s}: holds {card['method']!r}, not {name!r}; name another one")
    module = build(recipe, config.override(recipe.config, card["config"]))
    checkpoints.fill(module, tensors, checkpoint)
    return module.to(training.resolve_device(device), memory_format=torch.channels_last)


def restore(
    method: nn.Module,
    degraded: Tensor,
    *,
    seed: int = 0,
    tile: int | None = None,
    on_tile: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Tensor:
    """Restore images on the device of ``method``, whole or by tiles.

    Args:
        degraded: ``(B, 3, H, W)`` in [0, 1].
        seed: of all randomness.
        tile: side of square tiles in pixels (overlap a quarter, unless the method has tiles of its own, as DiffBIR);
            None takes the whole image at once.
        on_tile: called with (done, total) tiles, or steps of a method that has tiles of its own.
        options: keyword arguments of the method's ``restore``, such as ``steps``.

    Raises:
        ValueError: an option the method does not have (the right ones are listed), or a bad tile size.
    """
    images.check_images(degraded, "degraded", channels=(3,))
    known = _options_of(method.restore, "degraded", "structure", "callback")
    own_tiles = "tile" in known
    if own_tiles and tile is not None:
        options = {**options, "tile": tile}
    options = config.check_values(options, known, what="option")
    if tile is not None and tile < 16:
        raise ValueError(f"tile: must be at least 16 pixels, got {tile}")
    device = next(method.parameters()).device
    generator = diffusion.BatchGenerator(seed, 0)  # not manual_seed(seed): whoever made the noise may have used that

    def run(x: Tensor) -> Tensor:
        return method.restore(x.to(device), generator=generator, **options).cpu()

    if own_tiles:
        if on_tile is not None:
            steps = options.get("steps") or method.config.sampling_steps
            options = {**options, "callback": lambda index, *_: on_tile(index + 1, steps)}
        return run(degraded)
    side = tile or max(degraded.shape[-2:])
    return images.apply_tiled(run, degraded, side, side // 4, scale=method.scale, on_tile=on_tile)


def predict(method: nn.Module, image: Tensor, *, seed: int = 0, **options: Any) -> Tensor:
    """Relative depth of pictures, on the device of ``method``.

    Args:
        image: ``(B, 3, H, W)`` in [0, 1].
        seed: of all randomness. options: keyword arguments of the method's ``predict``, such as ``longer_side``.

    Returns:
        ``(B, 1, H, W)`` in [0, 1]; the method's ``near_is`` says which end is near.

    Raises:
        ValueError: an option the method does not have (the right ones are listed), or one out of range.
    """
    images.check_images(image, "image", channels=(3,))
    options = config.check_values(options, _options_of(method.predict, "image"), what="option")
    device = next(method.parameters()).device
    return method.predict(image.to(device), diffusion.BatchGenerator(seed, 0), **options).cpu()


def _options_of(function: Callable, *others: str) -> dict[str, Any]:
    """The parameters of a method's function with their defaults, but for the generator and these."""
    found = inspect.signature(function).parameters.items()
    return {name: p.default for name, p in found if name not in ("generator", *others)}
