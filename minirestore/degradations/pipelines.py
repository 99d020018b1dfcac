"""Random degradation pipelines: first order (CodeFormer style) and second order (Real-ESRGAN style).

Both are the recipes of DiffBIR version 1 with the numbers of its released code. Every image of a batch gets its own
generator and parameters, and its result does not depend on the rest of the batch. ``return_record=True`` also
returns, for every image, the list of `Step` it went through.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minirestore.degradations import kernels
from minirestore.degradations._common import (
    Randomness,
    Step,
    as_generator,
    chance,
    check_probabilities,
    check_range,
    choose,
    per_image_generators,
    uniform,
)
from minirestore.degradations.compression import diff_jpeg, jpeg
from minirestore.degradations.noise import add_gaussian, add_poisson
from minirestore.degradations.operators import Blur, interpolate
from minirestore.images import check_images

KERNEL_KINDS = (
    "isotropic",
    "anisotropic",
    "generalized_isotropic",
    "generalized_anisotropic",
    "plateau_isotropic",
    "plateau_anisotropic",
)
ODD_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)
Range = tuple[float, float]
Result = Tensor | tuple[Tensor, list[list[Step]]]


@dataclass(frozen=True)
class KernelMixture:
    """Which blur kernels to draw: first sinc or not, then one of `KERNEL_KINDS`, then its parameters.

    Attributes:
        sizes: odd sides, drawn uniformly.
        probabilities: of the six kinds, in the order of `KERNEL_KINDS`.
        sigma: range of both standard deviations in pixels; rotation is U[-pi, pi].
        beta_generalized, beta_plateau: shape exponents: U[low, 1] or U[1, high] with equal chances.
        sinc_probability: of a sinc low-pass instead, cut-off U[pi/3, pi] below side 13, else U[pi/5, pi].
    """

    sizes: tuple[int, ...] = ODD_SIZES
    probabilities: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sigma: Range = (0.2, 3.0)
    beta_generalized: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    sinc_probability: float = 0.1

    def __post_init__(self) -> None:
        if not self.sizes or any(size < 1 or size % 2 == 0 for size in self.sizes):
            raise ValueError(f"sizes: expected odd sides, got {self.sizes}")
        if len(self.probabilities) != len(KERNEL_KINDS):
            raise ValueError(f"probabilities: expected {len(KERNEL_KINDS)} numbers, one for each of {KERNEL_KINDS}")
        check_probabilities("probabilities", self.probabilities)
        check_probabilities("sinc_probability", (self.sinc_probability, 1 - self.sinc_probability))
        check_range("sigma", self.sigma, 0.01)
        check_range("beta_generalized", self.beta_generalized, 0.01)
        check_range("beta_plateau", self.beta_plateau, 0.01)


@dataclass(frozen=True)
class FirstOrder:
    """Blur, shrink, Gaussian noise, JPEG, enlarge again (CodeFormer style; DiffBIR's recipe for training).

    Attributes:
        blur: kernels.
        downsample: factor r; the small image has ``int(H // r)`` by ``int(W // r)`` pixels. Below 1 it is larger.
        noise: standard deviation of colour noise in 8-bit units.
        quality: JPEG quality, rounded down.
        resize_mode: both ways, without antialiasing; ``any`` draws area, bilinear or bicubic for each, as in DiffBIR's
            paper.
        poisson_probability: of Poisson noise instead of the Gaussian (in DiffBIR's paper, not in its code).
        poisson: range of its scale.
        real_jpeg: Pillow's encoder as in the released code, or `diff_jpeg` (no trip to the CPU).
    """

    blur: KernelMixture = KernelMixture(
        sizes=(41,), probabilities=(0.5, 0.5, 0, 0, 0, 0), sigma=(0.1, 12.0), sinc_probability=0.0
    )
    downsample: Range = (1.0, 12.0)
    noise: Range = (0.0, 15.0)
    quality: Range = (30, 100)
    resize_mode: str = "bilinear"
    poisson_probability: float = 0.0
    poisson: Range = (0.05, 3.0)
    real_jpeg: bool = True

    def __post_init__(self) -> None:
        check_probabilities("poisson_probability", (self.poisson_probability, 1 - self.poisson_probability))
        check_range("poisson", self.poisson, 0)
        check_range("downsample", self.downsample, 0.05)
        check_range("noise", self.noise, 0)
        check_range("quality", self.quality, 1)


@dataclass(frozen=True)
class Stage:
    """One pass of blur, resize and noise of the second-order pipeline.

    Attributes:
        blur, blur_probability: kernels and how often they are used.
        resize_probabilities: of enlarging, shrinking and keeping the size.
        enlarge, shrink: scale ranges; the resize mode is one of area, bilinear, bicubic.
        gaussian_probability: of Gaussian noise; Poisson noise otherwise.
        gaussian, poisson: ranges of sigma (8-bit units) and of the Poisson scale.
        grey_probability: of noise that is the same in all channels.
        quality: JPEG quality.
    """

    blur: KernelMixture
    blur_probability: float
    resize_probabilities: tuple[float, float, float]
    enlarge: Range
    shrink: Range
    gaussian: Range
    poisson: Range
    gaussian_probability: float = 0.5
    grey_probability: float = 0.4
    quality: Range = (30, 95)

    def __post_init__(self) -> None:
        check_probabilities("resize_probabilities", self.resize_probabilities)
        for name in ("blur_probability", "gaussian_probability", "grey_probability"):
            check_probabilities(name, (getattr(self, name), 1 - getattr(self, name)))
        for name, minimum in (("enlarge", 1), ("shrink", 0.01), ("gaussian", 0), ("poisson", 0), ("quality", 1)):
            check_range(name, getattr(self, name), minimum)


@dataclass(frozen=True)
class SecondOrder:
    """Two stages, then a final sinc filter and JPEG in random order (Real-ESRGAN style).

    Attributes:
        first, second: the stages; the second resizes relative to 1/``scale`` of the original size.
        second_probability: of having the second stage at all (ResShift: 0.5).
        scale: the degraded image is 1/``scale`` of the original before it is enlarged again.
        sinc_probability, sinc_sizes: the final low-pass with cut-off U[pi/3, pi].
        resize_back: enlarge (bicubic) to the original size; False returns the small image, as super-resolution needs.
        real_jpeg: Pillow's encoder instead of `diff_jpeg`; the released code uses the latter.
    """

    first: Stage = Stage(KernelMixture(), 1.0, (0.2, 0.7, 0.1), (1.0, 1.5), (0.15, 1.0), (1.0, 30.0), (0.05, 3.0))
    second: Stage = Stage(
        KernelMixture(sigma=(0.2, 1.5)), 0.8, (0.3, 0.4, 0.3), (1.0, 1.2), (0.3, 1.0), (1.0, 25.0), (0.05, 2.5)
    )
    second_probability: float = 1.0
    scale: int = 4
    sinc_probability: float = 0.8
    sinc_sizes: tuple[int, ...] = ODD_SIZES
    resize_back: bool = True
    real_jpeg: bool = False

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale: must be at least 1, got {self.scale}")
        for name in ("second_probability", "sinc_probability"):
            check_probabilities(name, (getattr(self, name), 1 - getattr(self, name)))


FIRST_ORDER_GENERAL = FirstOrder()
FIRST_ORDER_FACE = FirstOrder(
    blur=KernelMixture((41,), (0.5, 0.5, 0, 0, 0, 0), sigma=(0.1, 10.0), sinc_probability=0.0),
    downsample=(0.8, 8.0),
    noise=(0.0, 20.0),
    quality=(60, 100),
)
FIRST_ORDER_SMALL = FirstOrder(
    blur=KernelMixture((21,), (0.5, 0.5, 0, 0, 0, 0), sigma=(0.1, 3.0), sinc_probability=0.0),
    downsample=(1.0, 4.0),
    real_jpeg=False,
)
"""The general recipe scaled to images of 64 to 128 pixels."""

FIRST_ORDER_PAPER_SMALL = replace(FIRST_ORDER_SMALL, resize_mode="any", poisson_probability=0.5)
"""The same with the noise and the ways of resizing that DiffBIR's paper lists, and its code leaves out."""

SECOND_ORDER_GENERAL = SecondOrder()
SECOND_ORDER_RESSHIFT = SecondOrder(
    second=replace(SecondOrder.second, blur=KernelMixture((7, 9, 11, 13, 15), sigma=(0.2, 1.5))),
    second_probability=0.5,
    resize_back=False,
)
SECOND_ORDER_SMALL = SecondOrder(
    first=replace(SecondOrder.first, blur=KernelMixture((3, 5, 7, 9, 11), sigma=(0.2, 1.5)), shrink=(0.3, 1.0)),
    second=replace(SecondOrder.second, blur=KernelMixture((3, 5, 7, 9, 11), sigma=(0.2, 0.75)), shrink=(0.5, 1.0)),
    scale=2,
    sinc_sizes=(3, 5, 7, 9, 11),
)
"""The general recipe with lengths halved, for images of 64 to 128 pixels."""

SECOND_ORDER_LIGHT = SecondOrder(
    first=replace(
        SecondOrder.first,
        blur=KernelMixture((3, 5, 7, 9, 11), sigma=(0.2, 1.5)),
        shrink=(0.5, 1.0),
        gaussian=(1.0, 10.0),
        poisson=(0.05, 1.0),
        quality=(60, 95),
    ),
    second=replace(
        SecondOrder.second,
        blur=KernelMixture((3, 5, 7), sigma=(0.2, 0.8)),
        shrink=(0.6, 1.0),
        gaussian=(1.0, 5.0),
        poisson=(0.05, 0.5),
        quality=(60, 95),
    ),
    second_probability=0.5,
    sinc_sizes=(3, 5, 7, 9, 11),
    resize_back=False,
)
"""ResShift's recipe with shorter kernels, less noise and better JPEG, for images of 64 to 160 pixels."""

PIPELINES = {
    "first_order": FIRST_ORDER_GENERAL,
    "first_order_face": FIRST_ORDER_FACE,
    "first_order_small": FIRST_ORDER_SMALL,
    "first_order_paper_small": FIRST_ORDER_PAPER_SMALL,
    "second_order": SECOND_ORDER_GENERAL,
    "second_order_small": SECOND_ORDER_SMALL,
}
"""Recipes for images of the same size, see `degrade`."""

LOW_RESOLUTION_FACTOR = 4
"""Pixels of an image per pixel of its low-resolution version, in each direction."""

LOW_RESOLUTION_DOMAINS = {"bicubic": None, "light": SECOND_ORDER_LIGHT, "resshift": SECOND_ORDER_RESSHIFT}
"""Recipes for images of a quarter of the sides, to be enlarged again, see `low_resolution`."""


def first_order(
    x: Tensor, generator: Randomness, config: FirstOrder = FIRST_ORDER_GENERAL, *, return_record: bool = False
) -> Result:
    """Degrade ``(B, C, H, W)`` images in [0, 1]: blur, shrink, noise, JPEG, enlarge to the original size.

    Args:
        x: clean images; both sides of the shrunk image are kept at 2 pixels or more.
        generator: torch.Generator or integer seed.
        config: `FIRST_ORDER_GENERAL`, `FIRST_ORDER_FACE`, `FIRST_ORDER_SMALL` or your own `FirstOrder`.
        return_record: also return the list of steps of every image.
    """
    return _degrade_each(_first_order_image, x, generator, config, return_record)


def second_order(
    x: Tensor, generator: Randomness, config: SecondOrder = SECOND_ORDER_GENERAL, *, return_record: bool = False
) -> Result:
    """Degrade ``(B, C, H, W)`` images in [0, 1] by two rounds of blur, resize, noise and JPEG and a final sinc filter.

    The released code draws the resize scales, the resize modes and the kind of noise once per batch; here every
    image has its own.

    Args:
        x: clean images.
        generator: torch.Generator or integer seed.
        config: `SECOND_ORDER_GENERAL`, `SECOND_ORDER_RESSHIFT`, `SECOND_ORDER_SMALL` or your own `SecondOrder`.
        return_record: also return the list of steps of every image.

    Returns:
        Images of the same size, or 1/``scale`` of it without ``resize_back``, rounded to multiples of 1/255.
    """
    return _degrade_each(_second_order_image, x, generator, config, return_record)


def degrade(x: Tensor, generator: Randomness, pipeline: str) -> Tensor:
    """Images (B, C, H, W) in [0, 1] after `first_order` or `second_order`, as a configuration of `PIPELINES` says.

    Raises:
        ValueError: unknown pipeline.
    """
    if pipeline not in PIPELINES:
        raise ValueError(f"pipeline: expected one of {', '.join(PIPELINES)}, got {pipeline!r}")
    config = PIPELINES[pipeline]
    order = first_order if isinstance(config, FirstOrder) else second_order
    return order(x, generator, config)


def low_resolution(x: Tensor, generator: Randomness, domain: str) -> Tensor:
    """Images (B, C, H, W) in [0, 1] at a quarter of the sides, degraded as a domain of `LOW_RESOLUTION_DOMAINS` says.

    ``bicubic`` reduces them bicubically, antialiased, and does nothing else; the others are configurations of
    `second_order`. Multiples of 1/255.

    Raises:
        ValueError: unknown domain.
    """
    if domain not in LOW_RESOLUTION_DOMAINS:
        raise ValueError(f"domain: expected one of {', '.join(LOW_RESOLUTION_DOMAINS)}, got {domain!r}")
    if config := LOW_RESOLUTION_DOMAINS[domain]:
        return second_order(x, generator, config)
    check_images(x, "x")
    small = interpolate(x, size=tuple(side // LOW_RESOLUTION_FACTOR for side in x.shape[-2:]), antialias=True)
    return (small.clamp(0, 1) * 255).round() / 255


def _degrade_each(
    degrade: Callable[..., Tensor], x: Tensor, randomness: Randomness, config: Any, return_record: bool
) -> Result:
    """Run ``degrade(image, generator, config, record)`` on one image after the other."""
    check_images(x, "x")
    outputs, records = [], []
    for image, generator in zip(x.split(1), per_image_generators(randomness, len(x)), strict=True):
        record: list[Step] = []
        outputs.append(degrade(image, generator, config, record).clamp(0, 1))
        records.append(record)
    return (torch.cat(outputs), records) if return_record else torch.cat(outputs)


def _first_order_image(x: Tensor, generator: torch.Generator, config: FirstOrder, record: list[Step]) -> Tensor:
    H, W = x.shape[-2:]
    y = Blur(random_kernel(generator, config.blur, record))(x)
    r = uniform(generator, *config.downsample)
    y = _resize(y, record, _resize_mode(generator, config.resize_mode), size=(int(H // r), int(W // r)))
    # a choice without alternative draws no number, so that images of seeds stay what they were
    gaussian = not config.poisson_probability or not chance(generator, config.poisson_probability)
    y = _add_noise(y, generator, gaussian, uniform(generator, *(config.noise if gaussian else config.poisson)), record)
    y = _compress(y, generator, config.quality, config.real_jpeg, record)
    return _resize(y, record, _resize_mode(generator, config.resize_mode), size=(H, W))


def _second_order_image(x: Tensor, generator: torch.Generator, config: SecondOrder, record: list[Step]) -> Tensor:
    H, W = x.shape[-2:]
    y = _blur(x, generator, config.first, record)
    y = _resize(y, record, _resize_mode(generator), scale=_resize_scale(generator, config.first))
    y = _noise(y, generator, config.first, record)
    y = _compress(y, generator, config.first.quality, config.real_jpeg, record)
    if chance(generator, config.second_probability):
        y = _blur(y, generator, config.second, record)
        scale = _resize_scale(generator, config.second)
        size = (int(H / config.scale * scale), int(W / config.scale * scale))
        y = _resize(y, record, _resize_mode(generator), size=size)
        y = _noise(y, generator, config.second, record)
    small = (H // config.scale, W // config.scale)
    if chance(generator, 0.5):
        y = _resize_and_sinc(y, generator, config, small, record)
        y = _compress(y, generator, config.second.quality, config.real_jpeg, record)
    else:
        y = _compress(y, generator, config.second.quality, config.real_jpeg, record)
        y = _resize_and_sinc(y, generator, config, small, record)
    if config.resize_back:
        y = _resize(y, record, "bicubic", size=(H, W))
    return (y.clamp(0, 1) * 255).round() / 255


def random_kernel(generator: Randomness, config: KernelMixture, record: list[Step] | None = None) -> Tensor:
    """Draw one kernel ``(k, k)`` of the mixture; the numbers drawn are appended to ``record`` as a `Step`."""
    generator = as_generator(generator)
    size = choose(generator, config.sizes)
    if chance(generator, config.sinc_probability):
        return _random_sinc(generator, size, math.pi / 3 if size < 13 else math.pi / 5, record)
    kind = choose(generator, KERNEL_KINDS, config.probabilities)
    shape = [uniform(generator, *config.sigma)]  # sigma_x, or sigma_x, sigma_y, theta
    if kind.endswith("anisotropic"):
        shape += [uniform(generator, *config.sigma), uniform(generator, -math.pi, math.pi)]
    numbers: dict[str, Any] = {"kind": kind, "size": size}
    if kind.startswith("generalized"):
        numbers["beta"] = _random_beta(generator, config.beta_generalized)
        kernel = kernels.generalized_gaussian_kernel(size, numbers["beta"], *shape)
    elif kind.startswith("plateau"):
        numbers["beta"] = _random_beta(generator, config.beta_plateau)
        kernel = kernels.plateau_kernel(size, numbers["beta"], *shape)
    else:
        kernel = kernels.gaussian_kernel(size, *shape)
    if record is not None:
        record.append(Step("blur", numbers | dict(zip(("sigma_x", "sigma_y", "theta"), shape, strict=False))))
    return kernel


def _random_beta(generator: torch.Generator, limits: Range) -> float:
    """U[low, 1] or U[1, high] with equal chances."""
    return uniform(generator, limits[0], 1) if chance(generator, 0.5) else uniform(generator, 1, limits[1])


def _random_sinc(generator: torch.Generator, size: int, lowest: float, record: list[Step] | None) -> Tensor:
    cutoff = uniform(generator, lowest, math.pi)
    if record is not None:
        record.append(Step("blur", {"kind": "sinc", "size": size, "cutoff": cutoff}))
    return kernels.sinc_kernel(size, cutoff)


def _blur(x: Tensor, generator: torch.Generator, stage: Stage, record: list[Step]) -> Tensor:
    if not chance(generator, stage.blur_probability):
        return x
    return Blur(random_kernel(generator, stage.blur, record))(x)


def _resize_scale(generator: torch.Generator, stage: Stage) -> float:
    limits = choose(generator, (stage.enlarge, stage.shrink, (1.0, 1.0)), stage.resize_probabilities)
    return uniform(generator, *limits)


def _resize_mode(generator: torch.Generator, mode: str = "any") -> str:
    return choose(generator, ("area", "bilinear", "bicubic")) if mode == "any" else mode


def _resize(
    x: Tensor, record: list[Step], mode: str, *, size: tuple[int, int] | None = None, scale: float | None = None
) -> Tensor:
    """Resample without antialiasing, keeping at least 2 pixels a side, and note the new size."""
    H, W = x.shape[-2:]
    new = size if size is not None else (int(H * scale), int(W * scale))
    if min(new) < 2:
        size, scale = (max(2, new[0]), max(2, new[1])), None
    y = interpolate(x, size=size, scale=scale, mode=mode)
    record.append(Step("resize", {"size": tuple(y.shape[-2:]), "mode": mode}))
    return y


def _noise(x: Tensor, generator: torch.Generator, stage: Stage, record: list[Step]) -> Tensor:
    gaussian = chance(generator, stage.gaussian_probability)
    strength = uniform(generator, *(stage.gaussian if gaussian else stage.poisson))
    grey = chance(generator, stage.grey_probability)
    return _add_noise(x, generator, gaussian, strength, record, grey)


def _add_noise(
    x: Tensor, generator: torch.Generator, gaussian: bool, strength: float, record: list[Step], grey: bool = False
) -> Tensor:
    """Gaussian noise of sigma ``strength``, or Poisson noise of that scale; in [0, 1]."""
    name, number, add = (
        ("gaussian_noise", "sigma", add_gaussian) if gaussian else ("poisson_noise", "scale", add_poisson)
    )
    record.append(Step(name, {number: strength, "grey": grey}))
    return add(x, strength, generator, grey).clamp(0, 1)


def _compress(x: Tensor, generator: torch.Generator, limits: Range, real: bool, record: list[Step]) -> Tensor:
    quality = int(uniform(generator, *limits)) if real else uniform(generator, *limits)
    record.append(Step("jpeg", {"quality": quality, "real": real}))
    return (jpeg if real else diff_jpeg)(x.clamp(0, 1), quality)


def _resize_and_sinc(
    x: Tensor, generator: torch.Generator, config: SecondOrder, size: tuple[int, int], record: list[Step]
) -> Tensor:
    """Bring the image to its final small size, then low-pass it so that edges ring and overshoot."""
    y = _resize(x, record, _resize_mode(generator), size=size)
    if not chance(generator, config.sinc_probability):
        return y
    return Blur(_random_sinc(generator, choose(generator, config.sinc_sizes), math.pi / 3, record))(y)
