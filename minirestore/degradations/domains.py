"""Blur domains for out-of-domain experiments: train on one model of blur, test on another of equal severity.

Severity is the RMS radius of the blur in pixels (`kernels.rms_radius`), so that "unseen" is not just "stronger".
The domains are those of the structure-guidance experiments: linear motion to train on; random walks, walks in linear
light with more noise, defocus, rotation and longer motion to test on.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minirestore.degradations import kernels
from minirestore.degradations._common import Randomness, Step, check_range, per_image_generators, uniform
from minirestore.degradations.light import apply_blur
from minirestore.degradations.noise import add_gaussian
from minirestore.degradations.operators import Blur, MotionBlur, SpatiallyVaryingBlur
from minirestore.images import check_images

PIXEL_SPREAD = 1 / 6  # variance that drawing a line on the pixel grid adds, averaged over directions
BLUR_KINDS = ("linear", "walk", "disk", "rotation")


@dataclass(frozen=True)
class BlurDomain:
    """One model of blur.

    Attributes:
        kind: "linear", "walk", "disk" or "rotation".
        radius: range of the RMS radius in pixels (low > 0.7072).
        noise: standard deviation of the noise added after the blur, in 8-bit units.
        linear_light: blur the light and not the sRGB values.
    """

    kind: str = "linear"
    radius: tuple[float, float] = (1.7, 4.0)
    noise: float = 2.55
    linear_light: bool = False

    def __post_init__(self) -> None:
        if self.kind not in BLUR_KINDS:
            raise ValueError(f"kind: expected one of {', '.join(BLUR_KINDS)}, got {self.kind!r}")
        check_range("radius", self.radius, 0.75)
        check_range("noise", (0, self.noise), 0)


BLUR_DOMAINS = {
    "linear": BlurDomain("linear"),
    "walk": BlurDomain("walk"),
    "walk_linear_light": BlurDomain("walk", noise=5.1, linear_light=True),
    "disk": BlurDomain("disk"),
    "rotation": BlurDomain("rotation"),
    "long": BlurDomain("linear", radius=(3.4, 8.0)),
}


def random_blur(
    x: Tensor, generator: Randomness, config: BlurDomain = BLUR_DOMAINS["linear"], *, return_record: bool = False
) -> Tensor | tuple[Tensor, list[list[Step]]]:
    """Blur ``(B, C, H, W)`` images in [0, 1] with random parameters of one domain and add its noise.

    Args:
        x: clean images.
        generator: torch.Generator or integer seed; every image has its own parameters.
        config: an entry of `BLUR_DOMAINS` or your own `BlurDomain`.
        return_record: also return the list of steps of every image.
    """
    check_images(x, "x")
    outputs, records = [], []
    for image, g in zip(x.split(1), per_image_generators(generator, len(x)), strict=True):
        record: list[Step] = []
        blur = _draw_blur(tuple(image.shape[-2:]), g, config, record)
        blurred = apply_blur(blur, image, config.linear_light)
        outputs.append(add_gaussian(blurred, config.noise, g).clamp(0, 1))
        record.append(Step("gaussian_noise", {"sigma": config.noise, "grey": False}))
        records.append(record)
    return (torch.cat(outputs), records) if return_record else torch.cat(outputs)


def _draw_blur(
    size: tuple[int, int], generator: torch.Generator, config: BlurDomain, record: list[Step]
) -> Blur | SpatiallyVaryingBlur:
    """The blur operator of one image, with the RMS radius drawn from the domain's range."""
    radius = uniform(generator, *config.radius)
    numbers: dict = {"kind": config.kind, "radius": radius, "linear_light": config.linear_light}
    if config.kind == "linear":
        length, angle = math.sqrt(12 * (radius**2 - PIXEL_SPREAD)), uniform(generator, 0, math.pi)
        numbers |= {"length": length, "angle": angle}
        blur = MotionBlur(length, angle)
    elif config.kind == "walk":
        blur = Blur(kernels.walk_motion_kernel(radius, generator))
    elif config.kind == "disk":
        numbers |= {"disk_radius": math.sqrt(2) * radius}
        blur = Blur(kernels.disk_kernel(math.sqrt(2) * radius))
    else:
        H, W = size
        row, column = uniform(generator, 0, H - 1), uniform(generator, 0, W - 1)
        angle = math.sqrt(12) * radius / _rms_distance(H, W, row, column)
        numbers |= {"angle": angle, "row": row, "column": column}
        blur = SpatiallyVaryingBlur.rotation(size, angle, (row, column))
    record.append(Step("blur", numbers))
    return blur


def _rms_distance(H: int, W: int, row: float, column: float) -> float:
    """RMS distance d of the pixels of an image from a point; arcs of angle a about it have RMS a d / sqrt(12)."""
    variance = (H**2 + W**2 - 2) / 12
    return math.sqrt(variance + (row - (H - 1) / 2) ** 2 + (column - (W - 1) / 2) ** 2)
