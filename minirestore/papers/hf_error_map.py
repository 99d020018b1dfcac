"""Multi-scale high-frequency error maps (Seo and Lee): a loss that shows a super-resolver where it lost detail.

The paper, two pages on top of SinSR and without code, says this much. The restored image and the clean one are brought
to several sizes. At each, a wavelet transform of both is compared in the high-frequency bands only, which gives an
error map. The map multiplies both images, and LPIPS compares the two products. Equation 1 sums over the scales:

    L_total = sum_i W_i L_LPIPS(S_i),    S = (1, .5, .25, .125),    W = (.4, .3, .2, .1).

All else is our reading. Numbers in brackets are those of the decisions below; what is an option of `HFErrorMapConfig`
has its name, the rest is fixed here:

- the map: `wavelet` [1], extended symmetrically at the border; `levels` per scale [2]; both images are resized [3] by
  `resize` [4], each time from the full size [5]; colours by `colour` [6]; bands compared by `difference` [7] and put
  together by `merge` [8], without the approximation band [9]; every pixel takes the coefficient over it [10], for Haar
  that of its own block of 2 x 2; `normalisation` and `floor` give the range [11]; `detach` stops gradients [12];
- the products: taken in `domain` [13], with or without the images themselves by `mode` and `gain` [14], and compared
  by `backbone` [15];
- the sum: the restored image is clipped to [-1, 1] first [19]; `weights` [21]; scales shorter than `min_side` are
  dropped and the others get their weight in proportion [22]; every image has its own largest error [23]; images are
  taken to be aligned [24].

`HFErrorMap` trains SinSR's student with it: `objective` and `hf_weight` say what else there is to the total loss [16];
the restored image is the student's, from a random x_T [17], decoded with gradients, straight through the codebook if
it is used [18]; training starts from a student (or the teacher) that is there already [20]; restoring is SinSR's [25].

Read literally, equation 1 is blind to whatever leaves the detail bands alone: an image of the wrong brightness has an
empty map and no loss. It needs another loss beside it, or ``mode="one_plus"``.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minirestore import features, images, metrics, wavelets
from minirestore.degradations.operators import interpolate
from minirestore.papers.resshift import ResShift, ResShiftConfig

RESIZES = ("bicubic", "bilinear", "area")
COLOURS = ("mean", "luma", "channels")
DIFFERENCES = ("absolute", "squared", "charbonnier")
MERGES = ("mean", "max", "sum", "half_diagonal", "root_sum_squares")
NORMALISATIONS = ("max", "mean", "none")
DOMAINS = ("model", "unit")
MODES = ("literal", "one_plus", "none")
OBJECTIVES = ("add", "replace_gt", "only")
BACKBONES = ("vgg", "squeeze", "alex", "course")
HALF_DIAGONAL = (0.4, 0.4, 0.2)  # weights of cH, cV, cD
CHARBONNIER = 1e-3

Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class HFErrorMapConfig:
    """Every choice that the paper leaves open and that may change the result; the defaults are our reading.

    Attributes:
        scales: S, sizes relative to the full one, each in (0, 1]; sides are rounded down.
        weights: W, one a scale, not negative.
        wavelet: any name that PyWavelets has an orthogonal or biorthogonal filter for.
        levels: wavelet levels at each scale, their maps averaged. One image with several levels, in place of an image
            pyramid, is ``scales=(1.0,), weights=(1.0,), levels=4``; coarse coefficients are the larger ones.
        resize: ``bicubic`` or ``bilinear``, both antialiased, or ``area``.
        colour: the map is the ``mean`` over the three channels; or that of the ``luma`` alone; or each of the
            ``channels`` has its own (and the three share one largest error).
        difference: ``absolute``, ``squared``, or ``charbonnier``, sqrt(d^2 + c^2) - c with c = 1e-3.
        merge: of the three bands: their ``mean``, ``max`` or ``sum``; their mean with ``half_diagonal`` weight;
            ``root_sum_squares``.
        normalisation: the map is divided by the ``max`` or by the ``mean`` of each image, or by nothing (``none``).
        floor: divisor at least, in units of the merged difference of images in [-1, 1]. Without it the rounding errors
            of two equal images would be stretched to a full map.
        detach: no gradient passes through the map. If it may, the loss falls also by changing the map.
        domain: images are multiplied in ``model`` units, [-1, 1], where they fade to grey; or in ``unit``s, [0, 1],
            where they fade to black.
        mode: images are multiplied by the map E (``literal``), by 1 + gain * E (``one_plus``), or by 1 (``none``: plain
            multi-scale LPIPS, the control that the paper lacks).
        gain: lambda in 1 + lambda E.
        backbone: network of LPIPS, ``vgg``, ``squeeze`` or ``alex``, or the ``course`` feature distance; the argument
            of `perceptual_distance`.
        min_side: the shorter side of the smallest image that is compared, in pixels. Counts for at least what the
            backbone accepts: 16 for vgg, 24 for squeeze, 32 for alex, 2 for the course feature distance.
    """

    scales: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    weights: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)
    wavelet: str = "haar"
    levels: int = 1
    resize: str = "bicubic"
    colour: str = "mean"
    difference: str = "absolute"
    merge: str = "mean"
    normalisation: str = "max"
    floor: float = 1e-3
    detach: bool = True
    domain: str = "model"
    mode: str = "literal"
    gain: float = 1.0
    backbone: str = "vgg"
    min_side: int = 16

    def __post_init__(self):
        choices = {"resize": RESIZES, "colour": COLOURS, "difference": DIFFERENCES, "merge": MERGES, "mode": MODES,
                   "normalisation": NORMALISATIONS, "domain": DOMAINS, "backbone": BACKBONES}  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        wavelets.filter_bank(self.wavelet)
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales: expected numbers in (0, 1], got {self.scales}")
        if len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales: each may occur once, got {self.scales}; add up their weights instead")
        if len(self.weights) != len(self.scales):
            raise ValueError(f"weights: expected one a scale ({len(self.scales)}), got {len(self.weights)}")
        if not all(0 <= weight < math.inf for weight in self.weights) or not sum(self.weights):
            raise ValueError(f"weights: must be finite and not negative, one of them positive, got {self.weights}")
        if self.levels < 1 or self.min_side < 2:
            raise ValueError(f"levels must be at least 1 and min_side 2, got {self.levels} and {self.min_side}")
        if not 0 < self.floor < math.inf:
            raise ValueError(f"floor: must be positive and finite, got {self.floor}")
        if not 0 <= self.gain < math.inf:
            raise ValueError(f"gain: must be finite and not negative, got {self.gain}")

    @property
    def smallest_side(self) -> int:
        """The larger of `min_side` and what the backbone accepts, in pixels."""
        return max(self.min_side, metrics.METRICS[f"lpips-{self.backbone}"].minimum_side if self.uses_lpips else 2)

    @property
    def uses_lpips(self) -> bool:
        """Whether the backbone is one of LPIPS."""
        return self.backbone != "course"

    def scales_for(self, H: int, W: int) -> dict[float, float]:
        """The scales whose images are large enough, and their weights: ``{scale: weight}``.

        The weights add up to the sum of all `weights`.

        Raises:
            ValueError: no scale is left, or none with a weight.
        """
        pairs = zip(self.scales, self.weights, strict=True)
        kept = {scale: weight for scale, weight in pairs if min(scaled_size(H, W, scale)) >= self.smallest_side}
        if not sum(kept.values()):
            raise ValueError(
                f"restored: none of the scales {self.scales} with a weight has sides of at least {self.smallest_side} "
                f"pixels at {H} x {W}; use larger images, or a smaller min_side where the backbone permits"
            )
        total = sum(self.weights) / sum(kept.values())
        return {scale: weight * total for scale, weight in kept.items()}


@dataclass(frozen=True)
class ErrorMapSteps:
    """What every step of one scale makes, in this order; K is 1, or 3 with ``colour="channels"``.

    Attributes:
        restored, clean: (B, 3, h, w) resized, in [-1, 1] but for overshoot.
        restored_details, clean_details: (cH, cV, cD) of each level, finest first, each (B, C, h', w'); C is 1 with
            ``colour="luma"``, else 3.
        differences: (B, K, h', w') of each level, bands and colours merged.
        error: (B, K, h, w), their mean at the size of the image.
        map: (B, K, h, w), E: the error normalised; not negative.
        factor: (B, K, h, w), what both images are multiplied by.
        restored_product, clean_product: (B, 3, h, w), what the perceptual distance compares, where [0, 1] is the range
            of images.
    """

    restored: Tensor
    clean: Tensor
    restored_details: tuple[wavelets.Details, ...]
    clean_details: tuple[wavelets.Details, ...]
    differences: tuple[Tensor, ...]
    error: Tensor
    map: Tensor
    factor: Tensor
    restored_product: Tensor
    clean_product: Tensor


def scaled_size(H: int, W: int, scale: float) -> tuple[int, int]:
    """Sides of an image of H x W pixels at a scale, rounded down, at least 1."""
    return tuple(max(1, math.floor(side * scale + 1e-6)) for side in (H, W))


def error_map_steps(
    restored: Tensor, clean: Tensor, config: HFErrorMapConfig | None = None, scale: float = 1.0
) -> ErrorMapSteps:
    """All steps from two images to the two that are compared, at one scale; in float32, under autocast, too.

    Args:
        restored: ``(B, 3, H, W)``, clipped to [-1, 1] first.
        clean: ``(B, 3, H, W)`` in [-1, 1]; never gets a gradient.
        scale: in (0, 1].

    Raises:
        TypeError, ValueError: not such images, shapes that differ, NaN or infinity; more levels than the image has.
    """
    _check_pair(restored, clean)
    if not 0 < scale <= 1:
        raise ValueError(f"scale: must lie in (0, 1], got {scale}")
    with images.without_autocast(restored):
        return _steps(restored.float().clamp(-1, 1), clean.detach().float(), config or HFErrorMapConfig(), scale)


def error_map(restored: Tensor, clean: Tensor, config: HFErrorMapConfig | None = None) -> Tensor:
    """E of two images as they are, at scale 1: ``(B, 1, H, W)`` float32, or ``(B, 3, H, W)`` with colour ``channels``.

    With normalisation ``max`` in [0, 1]: 1 where an image's error is largest, unless that is below the floor. The same
    in all modes. Arguments and errors: `error_map_steps`.
    """
    return error_map_steps(restored, clean, config).map


def hf_error_map_loss(
    restored: Tensor, clean: Tensor, config: HFErrorMapConfig, perceptual: Perceptual
) -> dict[str, Tensor]:
    """Equation 1: the weighted sum over the scales of the distances between the products; in float32.

    Args:
        restored, clean: as in `error_map_steps`.
        perceptual: ``(restored_product, clean_product) -> (B,)``, differentiable, for images whose range is [0, 1] and
            which may leave it: one of `perceptual_distance`. With the mean absolute difference in its place the map
            becomes a plain weight: |E a - E b| = E |a - b|.

    Returns:
        Scalars: ``loss``, and for each scale that is left (`HFErrorMapConfig.scales_for`), here 0.5, without gradients
        ``distance_0.5``, ``error_0.5`` (mean of the error before it is normalised), ``map_mean_0.5``, ``map_max_0.5``.

    Raises:
        TypeError, ValueError: as `error_map_steps`; no scale left; distances of another shape.
    """
    _check_pair(restored, clean)
    B, _, H, W = restored.shape
    total, parts = 0.0, {}
    with images.without_autocast(restored):
        restored, clean = restored.float().clamp(-1, 1), clean.detach().float()
        for scale, weight in config.scales_for(H, W).items():
            steps = _steps(restored, clean, config, scale)
            distances = perceptual(steps.restored_product, steps.clean_product)
            if distances.shape != (B,):
                got = tuple(distances.shape)
                raise ValueError(f"perceptual: expected one distance an image, shape ({B},), got shape {got}")
            distance = distances.mean()
            total = total + weight * distance
            parts |= {
                f"distance_{scale:g}": distance.detach(),
                f"error_{scale:g}": steps.error.detach().mean(),
                f"map_mean_{scale:g}": steps.map.detach().mean(),
                f"map_max_{scale:g}": steps.map.detach().amax((1, 2, 3)).mean(),
            }
    return {"loss": total, **parts}


def perceptual_distance(backbone: str = "vgg") -> tuple[Perceptual, str]:
    """The distance to compare images with, and the name to report it under.

    LPIPS if the backbone's trained weights are on disk; without them, and for ``course``, the distance of the course's
    own encoder. Both are differentiable, follow the device of the images, and take images whose range is [0, 1]
    without clipping what leaves it. Numbers of one do not compare with those of the other.

    Returns:
        ``(restored, clean) -> (B,)``, and ``"LPIPS (VGG)"`` or ``"course feature distance"``; where the weights on disk
        are not the published ones, the id of `metrics.lpips_id`.

    Raises:
        ValueError: unknown backbone.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone: expected one of {', '.join(BACKBONES)}, got {backbone!r}")
    if backbone != "course" and metrics.lpips_available(backbone):
        found = metrics.lpips_id(backbone)
        published = {"vgg": "LPIPS (VGG)", "squeeze": "LPIPS (SqueezeNet)", "alex": "LPIPS (AlexNet)"}[backbone]
        return functools.partial(metrics.lpips_loss, net=backbone), published if found == f"lpips-{backbone}" else found
    return _course_distance, "course feature distance"


@functools.lru_cache(maxsize=4)
def _encoder(device: torch.device) -> features.FeatureEncoder:
    return features.load_encoder().to(device)


def _course_distance(restored: Tensor, clean: Tensor) -> Tensor:
    return features.perceptual_distance(_encoder(restored.device), restored, clean, check_values=False)


def _check_pair(restored: Tensor, clean: Tensor) -> None:
    """Refuse what `error_map_steps` cannot take; on the meta device there are no values to look at."""
    for name, x in (("restored", restored), ("clean", clean)):
        images.check_layout(x, name, channels=(3,), minimum_side=2)
        if not x.is_meta and not x.isfinite().all():
            raise ValueError(f"{name}: contains NaN or infinite values; clean the input first")
    images.check_same_shape(restored, clean, ("restored", "clean"))
    if not clean.is_meta and (largest := clean.abs().amax().item()) > 1 + images.RANGE_TOLERANCE:
        raise ValueError(f"clean: values must lie in [-1, 1], got magnitudes up to {largest:.4g}; pass model units")


def _steps(restored: Tensor, clean: Tensor, config: HFErrorMapConfig, scale: float) -> ErrorMapSteps:
    restored, clean = (_resize(x, scale, config.resize) for x in (restored, clean))
    source = restored.detach() if config.detach else restored
    pair = (images.luma(source), images.luma(clean)) if config.colour == "luma" else (source, clean)
    details = [tuple(wavelets.wavedec2(x, config.wavelet, config.levels, "symmetric", odd="pad")[:0:-1]) for x in pair]
    differences = tuple(_compare(a, b, config) for a, b in zip(*details, strict=True))
    error = _to_image_size(differences, tuple(restored.shape[-2:]), config.wavelet)
    E = _normalise(error, config)
    factor = {"literal": E, "one_plus": 1 + config.gain * E, "none": torch.ones_like(E)}[config.mode]
    if config.domain == "model":
        products = [(factor * x + 1) / 2 for x in (restored, clean)]  # to [0, 1], without clipping overshoot
    else:
        products = [factor * ((x + 1) / 2) for x in (restored, clean)]
    return ErrorMapSteps(restored, clean, *details, differences, error, E, factor, *products)


def _resize(x: Tensor, scale: float, mode: str) -> Tensor:
    size = scaled_size(*x.shape[-2:], scale)
    return x if size == x.shape[-2:] else interpolate(x, size=size, mode=mode, antialias=mode != "area")


def _compare(a: wavelets.Details, b: wavelets.Details, config: HFErrorMapConfig) -> Tensor:
    """Three bands (B, C, h, w) of two images -> (B, K, h, w)."""
    d = torch.stack(a, 1) - torch.stack(b, 1)  # (B, 3 bands, C, h, w)
    if config.difference == "absolute":
        d = d.abs()
    elif config.difference == "squared":
        d = d.square()
    else:
        d = (d.square() + CHARBONNIER**2).sqrt() - CHARBONNIER
    if config.merge == "half_diagonal":
        d = (d * d.new_tensor(HALF_DIAGONAL).view(1, 3, 1, 1, 1)).sum(1)
    elif config.merge == "root_sum_squares":
        d = torch.linalg.vector_norm(d, dim=1)
    else:
        d = {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}[config.merge](d, 1)
    return d if config.colour == "channels" else d.mean(1, keepdim=True)


def _to_image_size(differences: tuple[Tensor, ...], size: tuple[int, int], wavelet: str) -> Tensor:
    """The mean over the levels, at the size of the image: every pixel takes the coefficient that is centred nearest.

    With filters of L taps coefficient k is centred on sample 2 k + 1 - (L - 1) / 2 of the next finer level, so sample p
    takes coefficient (p + L / 2 - 1) // 2: for Haar p // 2.
    """
    taps = len(wavelets.filter_bank(wavelet)[0])
    sizes = [size, *(tuple(d.shape[-2:]) for d in differences)]
    maps = []
    for level, d in enumerate(differences):
        for side in reversed(sizes[: level + 1]):
            rows, columns = ((torch.arange(n, device=d.device) + taps // 2 - 1) // 2 for n in side)
            d = d[..., rows, :][..., columns]
        maps.append(d)
    return torch.stack(maps).mean(0)


def _normalise(error: Tensor, config: HFErrorMapConfig) -> Tensor:
    if config.normalisation == "none":
        return error
    over = (1, 2, 3)
    divisor = error.amax(over, keepdim=True) if config.normalisation == "max" else error.mean(over, keepdim=True)
    return error / divisor.clamp(min=config.floor)


# ---------------------------------------------------------------- SinSR, trained with the map


@dataclass(frozen=True)
class HFErrorMapMethodConfig(ResShiftConfig, HFErrorMapConfig):
    """SinSR's student (`ResShiftConfig`) with the map's loss (`HFErrorMapConfig`).

    Attributes:
        objective: the map's loss is ``add``ed to SinSR's three; or takes the place of the third (``replace_gt``); or is
            the ``only`` one, equation 1 to the letter.
        hf_weight: weight of the map's loss; 0 is SinSR itself.
    """

    stage: str = "student"
    objective: str = "add"
    hf_weight: float = 1.0

    def __post_init__(self):
        ResShiftConfig.__post_init__(self)
        HFErrorMapConfig.__post_init__(self)
        if self.stage != "student":
            raise ValueError(f"stage: the map trains the student, got {self.stage!r}; train the teacher as resshift")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if not self.hf_weight >= 0:
            raise ValueError(f"hf_weight: must not be negative, got {self.hf_weight}")


class HFErrorMap(ResShift):
    """SinSR's student, trained with the high-frequency error map; arguments as `ResShift`."""

    def __init__(self, config: HFErrorMapMethodConfig | None = None, *parts, **named):
        super().__init__(config or HFErrorMapMethodConfig(), *parts, **named)
        self.perceptual, self.perceptual_name = perceptual_distance(self.config.backbone)

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """SinSR's losses and, where ``hf_weight`` is not 0, ``hf`` and its parts; ``batch`` as for `ResShift`."""
        c = self.config
        losses, restored = self.student_losses(batch, generator)
        if not c.hf_weight:
            return losses
        parts = hf_error_map_loss(self.decode(restored), images.to_model_range(batch["clean"]), c, self.perceptual)
        hf = parts.pop("loss")
        if c.objective == "only":
            total = 0.0
        elif c.objective == "replace_gt":
            total = losses["loss"] - c.gt_weight * losses.get("gt", 0.0)
        else:
            total = losses["loss"]
        return {**losses, "loss": total + c.hf_weight * hf, "hf": hf, **parts}
