"""Rain: a layer of soft bright streaks, falling in one direction."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minirestore.degradations._common import Randomness, Step, check_range, per_image_generators, uniform
from minirestore.images import check_images

STREAKS_AT_ONCE = 2048  # bounds the memory of large images


@dataclass(frozen=True)
class Rain:
    """What rain looks like; lengths in pixels, angles in radians from the vertical, positive leaning right.

    Attributes:
        streaks: how many streaks an area of 32 x 32 pixels holds.
        angle: range of the direction all streaks of one image share.
        length, width, brightness: ranges for every streak: length, Gaussian width, and light added at its centre.
        screen: blend as 1 - (1 - x)(1 - rain), which never saturates, instead of x + rain clipped.
        veil: haze that pulls the whole image this far towards white before the streaks, in [0, 1].
    """

    streaks: float = 14
    angle: tuple[float, float] = (-0.35, 0.35)
    length: tuple[float, float] = (6, 16)
    width: tuple[float, float] = (0.5, 1.1)
    brightness: tuple[float, float] = (0.25, 0.6)
    screen: bool = False
    veil: float = 0.0

    def __post_init__(self) -> None:
        check_range("angle", self.angle, -math.pi)
        check_range("length", self.length, 0)
        check_range("width", self.width, 0.1)
        check_range("brightness", self.brightness, 0)
        if self.streaks < 0 or not 0 <= self.veil <= 1:
            raise ValueError(f"streaks must be >= 0 and veil in [0, 1], got {self.streaks} and {self.veil}")


RAIN_LIGHT = Rain()
RAIN_HEAVY = Rain(streaks=25, angle=(0.35, 0.9), length=(12, 24), screen=True, veil=0.1)
RAIN_DOMAINS = {"light": RAIN_LIGHT, "heavy": RAIN_HEAVY}


def rain(
    x: Tensor, generator: Randomness, config: Rain = RAIN_LIGHT, *, return_record: bool = False
) -> Tensor | tuple[Tensor, list[list[Step]]]:
    """Let it rain on ``(B, C, H, W)`` images in [0, 1]; every image has its own direction and streaks.

    `RAIN_LIGHT` and `RAIN_HEAVY` differ in density, direction, length and blending: train on one, test on the other.

    Returns:
        The rainy images, clipped to [0, 1]; with ``return_record`` also a list of steps for every image.
    """
    check_images(x, "x")
    rainy, records = [], []
    for image, g in zip(x.split(1), per_image_generators(generator, len(x)), strict=True):
        H, W = image.shape[-2:]
        angle = uniform(g, *config.angle)
        count = round(config.streaks * H * W / 32**2)
        layer = _streak_layer(H, W, angle, count, g, config).to(image)
        hazy = image + config.veil * (1 - image)
        rainy.append(1 - (1 - hazy) * (1 - layer) if config.screen else hazy + layer)
        records.append([Step("rain", {"angle": angle, "streaks": count, "screen": config.screen, "veil": config.veil})])
    output = torch.cat(rainy).clamp(0, 1)
    return (output, records) if return_record else output


def _streak_layer(H: int, W: int, angle: float, count: int, generator: torch.Generator, config: Rain) -> Tensor:
    """Brightness of the rain ``(H, W)`` on the generator's device: the brightest streak wins at every pixel."""
    device = generator.device
    reach = math.ceil(config.length[1] / 2 + 3 * config.width[1]) + 1
    offsets = torch.arange(-reach, reach + 1, device=device)
    ranges = ((0, H), (0, W), config.length, config.width, config.brightness)
    canvas = torch.zeros(H * W, device=device)
    for draws in torch.rand(5, count, 1, 1, generator=generator, device=device).split(STREAKS_AT_ONCE, dim=1):
        row, column, length, width, brightness = (
            low + (high - low) * u for u, (low, high) in zip(draws, ranges, strict=True)
        )
        i = row.floor().long() + offsets[:, None]  # (streaks, 2 reach + 1, 1): the window around every streak
        j = column.floor().long() + offsets[None, :]  # (streaks, 1, 2 reach + 1)
        down, right = i - row, j - column
        along = (math.cos(angle) * down + math.sin(angle) * right).abs()
        across = math.cos(angle) * right - math.sin(angle) * down
        distance = across**2 + (along - length / 2).clamp(min=0) ** 2
        light = brightness * torch.exp(-distance / (2 * width**2))
        light = torch.where((i >= 0) & (i < H) & (j >= 0) & (j < W), light, 0)
        pixels = (i.clamp(0, H - 1) * W + j.clamp(0, W - 1)).flatten()
        canvas = canvas.scatter_reduce(0, pixels, light.flatten(), "amax")
    return canvas.view(H, W)
