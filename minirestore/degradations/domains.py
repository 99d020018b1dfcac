"""Blur domains for out-of-domain experiments: train on one model of blur, test on another of equal severity.

Severity is the RMS radius of the blur in pixels (`kernels.rms_radius`), so that "unseen" is not just "stronger":
`random_blur` draws it from one range for every domain. Equal radii still cost unequal decibels (a walk costs more than
a line), so `matched_blur` chooses the radius that gives every image a stated PSNR instead.

The domains are those of the structure-guidance experiments (https://arxiv.org/abs/2212.01789): linear motion to train
on, and six shifts to test on, which `evaluation_shifts` forms.

| shift | what differs from the training domain | severity |
|---|---|---|
| walk | the path: random walks of the camera | PSNR of the linear version, image by image |
| walk_gamma | walks that blur linear light (through the sRGB curve), and twice the noise | the same |
| disk | the shape: defocus | the same |
| rotation | varies over the image: camera roll | the same |
| content | the pictures: linear blur of text scenes instead of photographs | the same, each with its partner |
| long | nothing but the severity, so there is nothing to match | twice the radius |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minirestore.degradations import kernels
from minirestore.degradations._common import (
    PerImage,
    Randomness,
    Step,
    check_range,
    per_image,
    per_image_generators,
    uniform,
)
from minirestore.degradations.light import apply_blur
from minirestore.degradations.noise import add_gaussian
from minirestore.degradations.operators import Blur, MotionBlur, SpatiallyVaryingBlur
from minirestore.images import check_images, check_same_shape

PIXEL_SPREAD = 1 / 6  # variance that drawing a line on the pixel grid adds, averaged over directions
BLUR_KINDS = ("linear", "walk", "disk", "rotation")
SHIFTS = ("walk", "walk_gamma", "disk", "rotation", "long", "content")
MATCHED_RADII = (0.75, 1.5, 3.0, 6.0, 12.0, 24.0)  # pixels: the octaves in which matched_blur looks for a radius
PSNR_TOLERANCE = 0.02  # dB
MATCHING_STEPS = 60


@dataclass(frozen=True)
class BlurDomain:
    """One model of blur.

    Attributes:
        kind: "linear", "walk", "disk" or "rotation".
        radius: range of the RMS radius in pixels (low >= 0.75).
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
    "walk_gamma": BlurDomain("walk", noise=5.1, linear_light=True),
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
    generators = per_image_generators(generator, len(x))
    results = [_degrade(image, g, config) for image, g in zip(x.split(1), generators, strict=True)]
    outputs, records = zip(*results, strict=True)
    return (torch.cat(outputs), list(records)) if return_record else torch.cat(outputs)


def matched_blur(
    x: Tensor, generator: Randomness, domain: BlurDomain, target_psnr: PerImage, *, return_record: bool = False
) -> Tensor | tuple[Tensor, list[list[Step]]]:
    """Blur ``(B, C, H, W)`` images in [0, 1] as `random_blur` does, each just so much that it has the stated PSNR.

    Angle, walk, centre and noise of image i are those that ``random_blur(x, seed, domain)`` draws for the same seed;
    only the RMS radius is chosen, within 0.75 to 24 pixels. Image i does not depend on the rest of the batch. Domains
    that differ in nothing but their ``radius`` ("linear" and "long") therefore give the same pictures.

    Args:
        x: clean images.
        generator: torch.Generator or integer seed.
        domain: an entry of `BLUR_DOMAINS` or your own `BlurDomain`, whose ``radius`` is not used.
        target_psnr: PSNR in dB of the degraded image, its noise and clipping included; one number or one per image,
            met to 0.02 dB.
        return_record: also return the list of steps of every image, with the radius found.

    Raises:
        OutOfReachError: (a ValueError) no radius gives an image its target; names the image and its range. Noise alone
            bounds it from above (40 dB for the domains' 2.55, 34 dB for walk_gamma's 5.1), smoothness from below.
    """
    check_images(x, "x")
    precise = torch.empty(len(x), dtype=torch.float64)  # decibels keep their digits whatever the dtype of x
    targets = per_image(target_psnr, precise, "target_psnr", minimum=0).flatten().tolist()
    tasks = zip(x.split(1), per_image_generators(generator, len(x)), targets, strict=True)
    results = [_degrade_to(image, g, domain, target, i) for i, (image, g, target) in enumerate(tasks)]
    outputs, records = zip(*results, strict=True)
    return (torch.cat(outputs), list(records)) if return_record else torch.cat(outputs)


class Shift(NamedTuple):
    """Images of one domain: ``clean`` and ``degraded`` ``(n, C, H, W)`` in [0, 1].

    ``kept`` says which of the batch they are, ``radii`` the RMS radius of each one's blur in pixels.
    """

    clean: Tensor
    degraded: Tensor
    kept: list[int]
    radii: list[float]


def evaluation_shifts(
    clean: Tensor, seed: int, names: Sequence[str] = SHIFTS, *, content: Tensor | None = None
) -> dict[str, Shift]:
    """The training domain and the shifts of the table above, paired image by image.

    All domains use the same seed, so that what they share (such as the angles of linear, long and content) is equal.

    Args:
        clean: ``(B, C, H, W)`` in [0, 1].
        seed: integer.
        names: which of `SHIFTS`.
        content: the other pictures, in the shape of ``clean``, needed for "content" only; the experiments take
            ``scenes.render_scenes(B, H, seed, "text")["image"]``. Image i gets the PSNR of its partner ``clean[i]``.

    Returns:
        ``{name: Shift}``: "linear", which is ``random_blur(clean, seed)``, and then ``names``.
        Every degraded image has the PSNR (dB) of its linear version to 0.02 dB, those of "long" excepted. An image
        that cannot have it is left out of that shift: a smooth sky at 37 dB under walk_gamma, whose noise alone leaves
        34. To compare a shift with the training domain, take ``kept`` of the latter's images.

    Raises:
        ValueError: an unknown name, "content" without ``content`` or in another shape, or a shift without any image.
    """
    check_images(clean, "clean")
    unknown = sorted(set(names) - set(SHIFTS))
    if unknown:
        raise ValueError(f"names: expected some of {', '.join(SHIFTS)}, got {', '.join(unknown)}")
    if "content" in names:
        if content is None:
            raise ValueError('content: "content" needs other pictures; pass them, or leave it out of names')
        check_same_shape(check_images(content, "content"), clean, ("content", "clean"))
    everything = list(range(len(clean)))
    linear, records = random_blur(clean, seed, return_record=True)
    targets = [_psnr(*pair) for pair in zip(linear, clean, strict=True)]
    shifts = {"linear": Shift(clean, linear, everything, _radii(records))}
    for name in names:
        if name == "long":
            degraded, records = random_blur(clean, seed, BLUR_DOMAINS[name], return_record=True)
            shifts[name] = Shift(clean, degraded, everything, _radii(records))
        elif name == "content":
            shifts[name] = _match_what_can_be(name, content, seed, BLUR_DOMAINS["linear"], targets)
        else:
            shifts[name] = _match_what_can_be(name, clean, seed, BLUR_DOMAINS[name], targets)
    return shifts


def _match_what_can_be(name: str, x: Tensor, seed: int, domain: BlurDomain, targets: list[float]) -> Shift:
    """`matched_blur` of the images whose target is within reach."""
    degraded, kept, records = [], [], []
    for i, generator in enumerate(per_image_generators(seed, len(x))):
        try:
            image, record = _degrade_to(x[i : i + 1], generator, domain, targets[i], i)
        except OutOfReachError:
            continue
        degraded.append(image)
        kept.append(i)
        records.append(record)
    if not kept:
        raise ValueError(f"clean: no image can have the PSNR of its linear blur in {name}; take more detailed images")
    return Shift(x[kept], torch.cat(degraded), kept, _radii(records))


def _radii(records: list[list[Step]]) -> list[float]:
    """The RMS radius that each image's record states."""
    return [step.parameters["radius"] for record in records for step in record if step.name == "blur"]


class OutOfReachError(ValueError):
    """No radius gives the image the PSNR asked for."""


def _psnr(degraded: Tensor, clean: Tensor) -> float:
    """PSNR in dB of one image in [0, 1], in float64; 200 dB where nothing differs."""
    error = float((degraded.detach().double() - clean.detach().double()).square().mean())
    return -10 * math.log10(max(error, 1e-20))


def _degrade_to(
    x: Tensor, generator: torch.Generator, domain: BlurDomain, target: float, number: int
) -> tuple[Tensor, list[Step]]:
    """`_degrade` one image with the radius that gives it ``target`` dB; ``number`` names it in the error.

    PSNR is a continuous function of the radius, falling almost everywhere. (Rotation samples its path ever more finely,
    which lifts PSNR a little at each step; that leaves no gap.) The range is crossed in octaves up to the first that
    holds the target; within it, regula falsi on the logarithm of the radius, in which PSNR is almost straight.
    """
    start = generator.get_state()

    def attempt(radius: float) -> tuple[float, tuple[Tensor, list[Step]]]:
        generator.set_state(start)  # the same angle, walk, centre and noise for every radius
        degraded, record = _degrade(x, generator, domain, radius)
        return _psnr(degraded, x) - target, (degraded, record)

    excesses: list[float] = []  # dB above the target
    for radius in MATCHED_RADII:
        excess, result = attempt(radius)
        if abs(excess) <= PSNR_TOLERANCE:
            return result
        excesses.append(excess)
        if excess * excesses[0] < 0:
            break
    else:
        raise OutOfReachError(
            f"target_psnr: image {number} cannot have {target:.4g} dB; RMS radii of {MATCHED_RADII[0]:g} to "
            f"{MATCHED_RADII[-1]:g} pixels give {target + min(excesses):.4g} to {target + max(excesses):.4g} dB"
        )
    low, high, at_low, at_high = math.log(radius / 2), math.log(radius), *excesses[-2:]
    for _ in range(MATCHING_STEPS):
        share = min(max(at_low / (at_low - at_high), 0.1), 0.9)  # inside, so that both ends move
        middle = low + share * (high - low)
        excess, result = attempt(math.exp(middle))
        if abs(excess) <= PSNR_TOLERANCE:
            return result
        if excess * at_low > 0:
            low, at_low = middle, excess
        else:
            high, at_high = middle, excess
    raise OutOfReachError(
        f"target_psnr: image {number} jumps over {target:.4g} dB at an RMS radius of {math.exp(middle):.4g} pixels"
    )


def _degrade(
    x: Tensor, generator: torch.Generator, domain: BlurDomain, radius: float | None = None
) -> tuple[Tensor, list[Step]]:
    """Blur one image and add noise; ``radius`` takes the place of the one drawn, all other draws stay the same."""
    drawn = uniform(generator, *domain.radius)
    blur, numbers = _draw_blur(tuple(x.shape[-2:]), generator, domain, drawn if radius is None else radius)
    blurred = apply_blur(blur, x, domain.linear_light)
    noise = Step("gaussian_noise", {"sigma": domain.noise, "grey": False})
    return add_gaussian(blurred, domain.noise, generator).clamp(0, 1), [Step("blur", numbers), noise]


def _draw_blur(
    size: tuple[int, int], generator: torch.Generator, domain: BlurDomain, radius: float
) -> tuple[Blur | SpatiallyVaryingBlur, dict]:
    """The blur operator of one image with the given RMS radius, and its numbers; all else is drawn."""
    numbers: dict = {"kind": domain.kind, "radius": radius, "linear_light": domain.linear_light}
    if domain.kind == "linear":
        length, angle = math.sqrt(12 * (radius**2 - PIXEL_SPREAD)), uniform(generator, 0, math.pi)
        return MotionBlur(length, angle), numbers | {"length": length, "angle": angle}
    if domain.kind == "walk":
        return Blur(kernels.walk_motion_kernel(radius, generator)), numbers
    if domain.kind == "disk":
        disk_radius = math.sqrt(2) * radius
        return Blur(kernels.disk_kernel(disk_radius)), numbers | {"disk_radius": disk_radius}
    H, W = size
    row, column = uniform(generator, 0, H - 1), uniform(generator, 0, W - 1)
    angle = math.sqrt(12) * radius / _rms_distance(H, W, row, column)
    blur = SpatiallyVaryingBlur.rotation(size, angle, (row, column))
    return blur, numbers | {"angle": angle, "row": row, "column": column}


def _rms_distance(H: int, W: int, row: float, column: float) -> float:
    """RMS distance d of the pixels of an image from a point; arcs of angle a about it have RMS a d / sqrt(12)."""
    variance = (H**2 + W**2 - 2) / 12
    return math.sqrt(variance + (row - (H - 1) / 2) ** 2 + (column - (W - 1) / 2) ** 2)
