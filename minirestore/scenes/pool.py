"""A pool of images held in memory, from which training crops are cut."""

import torch
from torch import Tensor

from minirestore.config import progress_bar
from minirestore.scenes.dead_leaves import dead_leaves

AUGMENTATIONS = ("eightfold", "flip", "none")


class CropPool:
    """Images kept as 8-bit integers, and random crops of them.

    A batch is a function of the images and of the generator's state, on every device.

    Args:
        images: ``(N, C, H, W)`` uint8, N >= 1. Any number of channels: label maps may ride along with the colours.

    Raises:
        TypeError: not a uint8 tensor. ValueError: not four dimensions, or empty.
    """

    def __init__(self, images: Tensor) -> None:
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            got = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images: expected a uint8 tensor, got {got}; round images in [0, 1] times 255")
        if images.ndim != 4 or images.numel() == 0:
            raise ValueError(f"images: expected (N, C, H, W) with N >= 1, got shape {tuple(images.shape)}")
        self.images = images

    @classmethod
    def dead_leaves(
        cls, count: int, size: int, seed: int, *, device: str | torch.device = "cpu", **options
    ) -> "CropPool":
        """A pool of ``count`` dead-leaves images of ``size`` pixels; image i is image i of ``seed``.

        800 images of 256 pixels take about 20 seconds on one core and 157 MB. ``options`` are those of
        ``scenes.dead_leaves``; the images are drawn and kept on ``device``.
        """
        if count < 1:
            raise ValueError(f"count: expected at least 1 image, got {count}")
        images = torch.empty(count, 3, size, size, dtype=torch.uint8, device=device)
        chunk = 1 if images.device.type == "cpu" else 16
        with progress_bar(count, "dead leaves") as progress:
            for start in range(0, count, chunk):
                number = min(chunk, count - start)
                drawn = dead_leaves(number, size, seed, start=start, device=device, **options)
                images[start : start + number] = (drawn * 255).round().to(torch.uint8)
                progress.update(number)
        return cls(images)

    def sample(
        self, batch: int, crop: int, generator: torch.Generator, augment: str = "eightfold", grid: int = 1
    ) -> Tensor:
        """Cut ``batch`` random crops, each mirrored and turned at random.

        Args:
            batch, crop: number and side of the crops, ``1 <= crop <= min(H, W)``.
            generator: a CPU generator, so that the same crops come on every device.
            augment: ``eightfold``, mirrored or not and turned by a multiple of 90 degrees, ``flip``, left and right
                exchanged or not, or ``none``. The crops' places are the same for all.
            grid: crops start at multiples of so many pixels.

        Returns:
            ``(batch, C, crop, crop)`` float32 in [0, 1] on the pool's device.
        """
        N, _, H, W = self.images.shape
        if augment not in AUGMENTATIONS:
            raise ValueError(f"augment: expected one of {', '.join(AUGMENTATIONS)}, got {augment!r}")
        if batch < 1 or not 1 <= crop <= min(H, W):
            raise ValueError(f"batch, crop: expected batch >= 1 and 1 <= crop <= {min(H, W)}, got {batch} and {crop}")
        bounds = (N, (H - crop) // grid + 1, (W - crop) // grid + 1, 2, 2, 2)
        drawn = torch.stack([torch.randint(bound, (batch, 1, 1), generator=generator) for bound in bounds])
        which, top, left, mirror_rows, mirror_columns, transpose = drawn.to(self.images.device)
        top, left = grid * top, grid * left
        if augment != "eightfold":
            mirror_rows, transpose = torch.zeros_like(mirror_rows), torch.zeros_like(transpose)
        if augment == "none":
            mirror_columns = torch.zeros_like(mirror_columns)
        position = torch.arange(crop, device=self.images.device)
        i, j = position[None, :, None], position[None, None, :]
        i, j = torch.where(transpose > 0, j, i), torch.where(transpose > 0, i, j)  # (batch, crop, crop)
        rows = top + torch.where(mirror_rows > 0, crop - 1 - i, i)
        columns = left + torch.where(mirror_columns > 0, crop - 1 - j, j)
        crops = self.images[which, :, rows, columns]  # (batch, crop, crop, C)
        return crops.permute(0, 3, 1, 2).float().div_(255)  # (batch, C, crop, crop)
