"""Data sets of photographs from a folder: single photographs (DIV2K) or pairs of a sharp and a blurred one (GoPro).

A source is ``folder:NAME``, the files of a folder, or ``pairs:NAME``, every ``blur/FILE`` at any depth of it that has a
``sharp/FILE`` beside. The folder lies in the datasets directory. Nothing is downloaded.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from minirestore import config, images, photos

KINDS = ("folder:", "pairs:")
ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}


def directory() -> Path:
    """Folder that holds data sets: the environment variable ``MINIRESTORE_DATASETS``, else ``datasets`` in the data."""
    return Path(os.environ.get("MINIRESTORE_DATASETS") or config.data_root() / "datasets")


def files(source: str) -> list[tuple[Path, ...]]:
    """The files of every image, sorted: ``(photograph,)``, or ``(sharp, blurred)`` for pairs.

    Raises:
        ValueError: ``source`` is neither ``folder:NAME`` nor ``pairs:NAME``.
    """
    kind, _, name = source.partition(":")
    if f"{kind}:" not in KINDS or not name:
        raise ValueError(f"source: expected folder:NAME or pairs:NAME, got {source!r}")
    folder = directory() / name
    if kind == "folder":
        return [(path,) for path in _photographs(folder)]
    blurred = [path for found in sorted(folder.rglob("blur")) for path in _photographs(found)]
    pairs = [(path.parent.parent / "sharp" / path.name, path) for path in blurred]
    return [pair for pair in pairs if pair[0].is_file()]


def _photographs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS)


def missing(source: str, count: int) -> list[str]:
    """What must be fetched so that ``count`` images are there: one line, or none if nothing is missing."""
    found = len(files(source))
    if found >= count:
        return []
    kind, _, name = source.partition(":")
    what = "photographs" if kind == "folder" else "pairs blur/NAME (degraded), sharp/NAME (clean)"
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
