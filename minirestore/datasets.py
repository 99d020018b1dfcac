"""Data sets of photographs from a folder: single ones (DIV2K), pairs of a sharp and a blurred one (GoPro), or pictures
with depth (Hypersim, Virtual KITTI).

A source is ``folder:NAME``, the files of a folder; ``pairs:NAME``, every ``blur/FILE`` at any depth of it that has a
``sharp/FILE`` beside; or ``depth:NAME+NAME``, every ``rgb/FILE`` of these that has a ``depth/FILE`` of the same name
beside, with the ending ``.png``. The folder lies in the datasets directory. Nothing is downloaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minirestore import config, images, photos

KINDS = ("folder:", "pairs:", "depth:")
ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class DepthSet:
    """How a data set stores planar depth, and what the training takes of it (released code of Marigold).

    Attributes:
        per_metre: what a pixel of the 16-bit depth map counts.
        farthest: depths from here on are not valid, metres.
        share: of the batches, each from one data set.
        size: (H, W) that pictures and maps are resized to, each pixel from its nearest; None keeps theirs.
        crop: (H, W) cut from the bottom, in the middle, before; None keeps all.
    """

    per_metre: float
    farthest: float
    share: float
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of what `depth_pair` returns."""
        return self.size or self.crop


DEPTH_SETS = {
    "Hypersim": DepthSet(per_metre=1000, farthest=65, share=0.9, size=(480, 640)),
    "VKITTI": DepthSet(per_metre=100, farthest=80, share=0.1, crop=(352, 1216)),
}


def directory() -> Path:
    """Folder that holds data sets: the environment variable ``MINIRESTORE_DATASETS``, else ``datasets`` in the data."""
    return Path(os.environ.get("MINIRESTORE_DATASETS") or config.data_root() / "datasets")


def files(source: str) -> list[tuple[Path, ...]]:
    """The files of every image, sorted: ``(photograph,)``, ``(sharp, blurred)`` for pairs, ``(picture, depth)``.

    Raises:
        ValueError: ``source`` is none of these, or there is no such set of depth.
    """
    kind, _, name = source.partition(":")
    if f"{kind}:" not in KINDS or not name:
        raise ValueError(f"source: expected folder:NAME, pairs:NAME or depth:NAME, got {source!r}")
    folder = directory() / name
    if kind == "folder":
        return [(path,) for path in _photographs(folder)]
    if kind == "pairs":
        return [(sharp, blurred) for blurred, sharp in _beside(folder, "blur", "sharp")]
    return [pair for each in depth_names(source) for pair in _beside(directory() / each, "rgb", "depth", ".png")]


def _beside(folder: Path, first: str, second: str, ending: str = "") -> list[tuple[Path, Path]]:
    """Every ``first/FILE`` at any depth of the folder with ``second/FILE`` beside it, there perhaps of this ending."""
    found = [path for place in sorted(folder.rglob(first)) for path in _photographs(place)]
    pairs = [(path, path.parent.parent / second / (path.stem + (ending or path.suffix))) for path in found]
    return [pair for pair in pairs if pair[1].is_file()]


def depth_names(source: str) -> list[str]:
    """The data sets of ``depth:NAME+NAME``; ValueError if one is not in `DEPTH_SETS`."""
    names = source.removeprefix("depth:").split("+")
    if unknown := [name for name in names if name not in DEPTH_SETS]:
        raise ValueError(f"source: expected depth:NAME with {', '.join(DEPTH_SETS)}, got {unknown[0]!r}")
    return names


def depth_pair(paths: tuple[Path, Path], name: str) -> dict[str, Tensor]:
    """One picture with its depth, as the training of DepthMaster takes it.

    Args:
        paths: picture and 16-bit depth map. name: of its `DEPTH_SETS`.

    Returns:
        ``clean`` (1, 3, H, W) in [0, 1], ``depth`` (1, 1, H, W) metres, ``valid`` (1, 1, H, W) bool.

    Raises:
        ValueError: sizes differ, or are smaller than the crop. Others as in `photos.read_image`.
    """
    rules = DEPTH_SETS[name]
    clean = photos.read_image(paths[0], max_side=None)
    with Image.open(paths[1]) as image:
        depth = torch.from_numpy(np.asarray(image).astype(np.float32))[None, None] / rules.per_metre
    if depth.shape[-2:] != clean.shape[-2:]:
        raise ValueError(f"{paths[1]}: expected the size of its picture, {tuple(clean.shape[-2:])}, got "
                         f"{tuple(depth.shape[-2:])}")  # fmt: skip
    pair = {"clean": clean, "depth": depth, "valid": (depth > 1e-5) & (depth < rules.farthest)}
    if rules.crop:
        (h, w), (H, W) = rules.crop, depth.shape[-2:]
        if h > H or w > W:
            raise ValueError(f"{paths[0]}: expected at least {w} x {h} pixels, got {W} x {H}")
        pair = {key: x[..., H - h :, (W - w) // 2 : (W - w) // 2 + w] for key, x in pair.items()}
    if rules.size:
        pair = {key: F.interpolate(x.float(), rules.size, mode="nearest-exact").to(x.dtype) for key, x in pair.items()}
    return pair


def _photographs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS)


def missing(source: str, count: int) -> list[str]:
    """What must be fetched so that ``count`` images are there: one line, or none if nothing is missing."""
    sets = [f"depth:{name}" for name in depth_names(source)] if source.startswith("depth:") else [source]
    numbers = [len(files(each)) for each in sets]  # each set of several must be there
    found = sum(numbers)
    if found >= count and all(numbers):
        return []
    kind, _, name = source.partition(":")
    what = {"folder": "photographs", "pairs": "pairs blur/NAME (degraded), sharp/NAME (clean)",
            "depth": "pairs rgb/NAME, depth/NAME (16 bit)"}[kind]  # fmt: skip
    name = name.replace("+", "/ and ")
    return [f"{count} {what} in {name}/ of the datasets directory (found {found}); set MINIRESTORE_DATASETS"]


def centre_crops(source: str, count: int, size: int) -> Tensor:
    """Centre crops ``(count, C, size, size)`` uint8 of the first images; a short side is reflected up to ``size``.

    C is 3, or 6 for pairs: the sharp photograph, then the blurred one.

    Raises:
        ValueError: the photographs of a pair differ in size, so that their crops would not show the same.
        Others as in `photos.read_image`.
    """

    def centre(photo: Tensor) -> Tensor:
        photo = images.pad_to_multiple(photo, 1, minimum=size)
        top, left = ((side - size) // 2 for side in photo.shape[-2:])
        return (photo[0, :, top : top + size, left : left + size] * 255).round().to(torch.uint8)

    def crops(paths: tuple[Path, ...]) -> Tensor:
        read = [photos.read_image(path, max_side=None) for path in paths]
        if len({photo.shape for photo in read}) > 1:
            sizes = " and ".join(f"{path} ({p.shape[-1]} x {p.shape[-2]})" for path, p in zip(paths, read, strict=True))
            raise ValueError(f"{source}: expected a pair of one size, got {sizes}; replace or remove it")
        return torch.cat([centre(photo) for photo in read])

    return torch.stack([crops(paths) for paths in files(source)[:count]])
