"""Depth metrics and the scale-and-shift alignment that comes before them.

Depth is float ``(B, 1, H, W)`` in metres, planar z, with an optional boolean mask ``valid`` of the same shape: True
where target *and* prediction may be used (``target_valid & prediction_valid`` when both have holes). Values under False
are never read. Under True a target must be positive and a prediction finite, else the metric raises: a hole that
nobody masked is an error, not a number. Each metric gives a float64 tensor ``(B,)`` on the CPU.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minirestore import images
from minirestore.metrics.image import as_float64, full_precision

MINIMUM_DEPTH = 1e-6
MINIMUM_DISPARITY = 1e-3
DELTA1_RATIO = 1.25
BOUNDARY_THRESHOLDS = (1.05, 1.25, 10)  # first, last, count


def _check_depth(x: Tensor, name: str) -> Tensor:
    """Check layout and type of one depth batch; values are checked where the mask is known."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: expected a floating-point tensor (B, 1, H, W) of depths in metres, got {got}")
    return images.check_images(x.nan_to_num(0, 0, 0), name, channels=(1,), unit_range=False)


def _check_valid(valid: Tensor | None, target: Tensor) -> Tensor:
    """The mask, all True if None, with at least one pixel in every image."""
    if valid is None:
        return torch.ones_like(target, dtype=torch.bool)
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        got = valid.dtype if isinstance(valid, Tensor) else type(valid).__name__
        raise TypeError(f"valid: expected a boolean tensor, got {got}; use for example depth > 0")
    images.check_same_shape(valid, target, ("valid", "target"))
    if valid.device != target.device:
        raise ValueError(f"valid is on {valid.device} and target on {target.device}; move one with .to(device)")
    empty = (~valid.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"valid: image(s) {empty} of the batch have no valid pixel; drop them before measuring")
    return valid


def check_depth_pair(prediction: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Check a pair of depth batches and return prediction, target (float64, 1.0 where invalid) and the mask.

    Raises:
        TypeError: not floating point, or a mask that is not boolean.
        ValueError: shapes or devices that differ; no valid pixel in an image; a target that is not positive and finite,
            or a prediction that is not finite, at a valid pixel.
    """
    _check_depth(prediction, "prediction")
    _check_depth(target, "target")
    images.check_same_shape(prediction, target, ("prediction", "target"))
    if prediction.device != target.device:
        raise ValueError(
            f"prediction is on {prediction.device} and target on {target.device}; move one with .to(device)"
        )
    valid = _check_valid(valid, target)
    if not torch.isfinite(prediction[valid]).all():
        raise ValueError("prediction: contains NaN or infinite values at valid pixels; clean it or mask them out")
    measured = target[valid]
    if not (torch.isfinite(measured) & (measured > 0)).all():
        raise ValueError("target: depth must be positive and finite at valid pixels; pass valid=(target > 0) for holes")
    prediction, target = as_float64(prediction), as_float64(target)
    valid = valid.to(target.device)
    one = torch.ones((), dtype=torch.float64, device=target.device)
    return torch.where(valid, prediction, one), torch.where(valid, target, one), valid


def _masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid pixels of each image: ``(B, 1, H, W) -> (B,)``."""
    return torch.where(valid, values, 0).sum((1, 2, 3)) / valid.sum((1, 2, 3))


@full_precision
def abs_rel(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Absolute relative error, ``mean |d - D| / D`` over valid pixels (.1 = 10 %); lower is better.

    Source: Eigen et al. 2014; DepthMaster tables print it in per cent.

    Returns:
        ``(B,)`` float64.
    """
    d, D, valid = check_depth_pair(prediction, target, valid)
    return _masked_mean((d - D).abs() / D, valid).cpu()


@full_precision
def delta1(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of valid pixels with ``max(d / D, D / d) < 1.25``, in [0, 1]; higher is better.

    A prediction that is not positive counts as a miss. Source: Eigen et al. 2014.

    Returns:
        ``(B,)`` float64.
    """
    d, D, valid = check_depth_pair(prediction, target, valid)
    d = d.clamp(min=MINIMUM_DEPTH)
    return _masked_mean((torch.maximum(d / D, D / d) < DELTA1_RATIO).double(), valid).cpu()


@full_precision
def rmse(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Root mean square error in metres, ``sqrt(mean (d - D)^2)`` over valid pixels; lower is better.

    Returns:
        ``(B,)`` float64.
    """
    d, D, valid = check_depth_pair(prediction, target, valid)
    return _masked_mean((d - D) ** 2, valid).sqrt().cpu()


def _neighbours(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The four directions as pairs (occluder, occluded neighbour): of left, right, top and bottom neighbours."""
    columns = x[..., :, 1:], x[..., :, :-1]
    rows = x[..., 1:, :], x[..., :-1, :]
    return [columns, columns[::-1], rows, rows[::-1]]


@full_precision
def boundary_f1(prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, official: bool = False) -> Tensor:
    """F1 of occlusion boundaries, in [0, 1]; higher is better. Invariant to scale, not to shift: align first.

    A pair of neighbours is an edge at threshold t if ``D_far / D_near > t``. For ten t from 1.05 to 1.25, recall and
    precision are ``TP / max(count, 1)`` averaged over the four directions, ``F1 = 2 R P / (R + P)`` (0 if both are 0),
    and the result is the mean of F1 weighted by t. Pixels must match exactly. Source: Depth Pro (Bochkovskii et al.
    2024), section 3.2 and released code. A direction without any edge adds 0 to the mean, so only an image with
    edges facing all four ways can reach 1, and one without edges scores 0.

    Args:
        prediction, target, valid: see the module's text.
        official: mask as DepthMaster's released code does: only the far pixel of a pair has to be valid and holes have
            depth 0, so that every rim of a hole becomes an edge. By default both pixels must be valid.

    Returns:
        ``(B,)`` float64.
    """
    d, D, valid = check_depth_pair(prediction, target, valid)
    usable = [near & far for near, far in _neighbours(valid)]
    if official:
        d = as_float64(prediction).nan_to_num(0, 0, 0)
        D = torch.where(valid, D, 0)
        usable = [far for _, far in _neighbours(valid)]
    ratios = [  # disparity of the near pixel over that of the far one, per direction
        [near / far for near, far in _neighbours(1 / depth.clamp(min=MINIMUM_DEPTH))] for depth in (d, D)
    ]
    first, last, count = BOUNDARY_THRESHOLDS
    thresholds = torch.linspace(first, last, count, dtype=torch.float64).tolist()
    scores = []
    for t in thresholds:
        recall = precision = 0.0
        for predicted, true, mask in zip(*ratios, usable, strict=True):
            predicted, true = (predicted > t) & mask, (true > t) & mask
            hits = (predicted & true).sum((1, 2, 3)).double()
            recall = recall + hits / true.sum((1, 2, 3)).clamp(min=1) / 4
            precision = precision + hits / predicted.sum((1, 2, 3)).clamp(min=1) / 4
        scores.append(t * 2 * recall * precision / (recall + precision).clamp(min=1e-12))
    return (torch.stack(scores).sum(0) / sum(thresholds)).cpu()


@dataclass(frozen=True)
class Alignment:
    """A prediction brought to metres: ``depth (B, 1, H, W)``, and the fitted ``scale`` and ``shift (B,)``.

    A negative scale says that near and far are the other way round in the prediction; a scale of 0 that it is constant.
    """

    depth: Tensor
    scale: Tensor
    shift: Tensor


def _least_squares(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Per-image ``(s, t)`` that minimise ``sum weight (s x + t - y)^2``; s = 0 for an x that does not vary."""
    count = weight.sum((1, 2, 3), keepdim=True)
    mean_x = (weight * x).sum((1, 2, 3), keepdim=True) / count
    mean_y = (weight * y).sum((1, 2, 3), keepdim=True) / count
    variance = (weight * (x - mean_x) ** 2).sum((1, 2, 3), keepdim=True)
    covariance = (weight * (x - mean_x) * (y - mean_y)).sum((1, 2, 3), keepdim=True)
    varies = variance > count * (mean_x**2 * 1e-24 + 1e-60)
    scale = torch.where(varies, covariance / torch.where(varies, variance, 1), 0)
    return scale, mean_y - scale * mean_x


@full_precision
def align_depth(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    space: Literal["depth", "disparity", "sqrt_disparity"] = "depth",
    *,
    minimum: float = MINIMUM_DEPTH,
    maximum: float = float("inf"),
    official: bool = False,
) -> Alignment:
    """Fit scale and shift per image by least squares over valid pixels, and return the prediction as metric depth.

    ``min_{s,t} sum (s p + t - g(D))^2`` with ``g(D) = D``, ``1 / D`` or ``1 / sqrt(D)``, then the inverse of g with the
    disparity kept above 1e-3 per metre (1 km), then clipping to ``[minimum, maximum]``. The space must be the one the
    network predicts in; comparing methods aligned in different spaces is not a fair comparison.
    Source: DepthMaster's evaluation, released code.

    Args:
        prediction: ``(B, 1, H, W)``, any affine-invariant range.
        target: ``(B, 1, H, W)`` metres. valid: see the module's text.
        space: where the fit takes place.
        minimum, maximum: range of the depth returned, metres.
        official: as released: pixels predicted exactly 0 or below are left out of a fit in (sqrt-)disparity, and a
            negative square-root disparity is squared into a positive one instead of counting as far.

    Raises:
        ValueError: unknown space, bad range, or an image with fewer than two pixels to fit on.
    """
    if space not in ("depth", "disparity", "sqrt_disparity"):
        raise ValueError(f"space: expected 'depth', 'disparity' or 'sqrt_disparity', got {space!r}")
    if not 0 < minimum < maximum:
        raise ValueError(f"minimum, maximum: need 0 < minimum < maximum, got {minimum} and {maximum}")
    x, D, valid = check_depth_pair(prediction, target, valid)
    fitted = valid & (x > 0) if official and space != "depth" else valid
    few = (fitted.sum((1, 2, 3)) < 2).nonzero().flatten().tolist()
    if few:
        raise ValueError(f"valid: image(s) {few} of the batch have fewer than 2 pixels to fit a scale and a shift on")
    g = D ** {"depth": 1, "disparity": -1, "sqrt_disparity": -0.5}[space]
    scale, shift = _least_squares(x, g, fitted.double())
    depth = scale * as_float64(prediction) + shift
    if space == "sqrt_disparity":
        depth = (depth if official else depth.clamp(min=0)) ** 2
    if space != "depth":
        depth = 1 / depth.clamp(min=MINIMUM_DISPARITY)
    return Alignment(depth.clamp(minimum, maximum), scale.flatten(), shift.flatten())
