"""Losses of both stages: masked latents and feature alignment (section III-B), pixels and their gradients (III-D)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import images

DELTA = 0.2
HUBERS = ("paper", "head", "before", "huber", "l1")
REDUCTIONS = ("mean", "token")


def valid_latents(valid: Tensor, factor: int = 8) -> Tensor:
    """Which latents see valid pixels only: (B, 1, H, W) bool -> (B, 1, H / factor, W / factor) bool."""
    return ~F.max_pool2d((~valid).float(), factor).bool()


def masked_mse(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean of the squared error over the valid entries; ``valid`` broadcasts over the channels.

    Raises:
        ValueError: nothing is valid.
    """
    chosen = valid.expand_as(target)
    if not chosen.is_meta and not chosen.any():
        raise ValueError("valid: nothing is valid in this batch; leave such maps out")
    return torch.where(chosen, prediction - target, 0).square().sum() / chosen.sum()


class AlignmentHead(nn.Sequential):
    """h_phi: features (B, N, C) of N positions -> (B, N, D) in the space of the external encoder."""

    def __init__(self, width: int = 1280, hidden: int = 1536, out: int = 1536):
        super().__init__(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                         nn.Linear(hidden, out))  # fmt: skip


def feature_alignment(middle: Tensor, external: Tensor, head: nn.Module, reduction: str = "mean") -> Tensor:
    """KL divergence from the external features to the projected ones, both as distributions over channels.

    Args:
        middle: (B, C, h, w), what the middle block returns.
        external: (B, D, H', W'), features of a frozen encoder; resized to (h, w) bicubically.
        head: (B, N, C) -> (B, N, D).
        reduction: ``mean`` over all entries, channels too (released code): the divergence over D; ``token``: the
            divergence of a position, on average.

    Raises:
        ValueError: unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    external = F.interpolate(external, middle.shape[-2:], mode="bicubic", align_corners=False)
    target = external.flatten(2).transpose(1, 2).log_softmax(-1)
    found = head(middle.flatten(2).transpose(1, 2)).log_softmax(-1)
    per_token = F.kl_div(found, target, reduction="none", log_target=True).sum(-1)
    return per_token.mean() if reduction == "token" else per_token.mean() / found.shape[-1]


def directional_gradients(x: Tensor) -> Tensor:
    """Differences of neighbours of maps (B, 1, H, W) in four directions: (B, 4, H - 1, W - 1).

    Along rows, along columns, and along both diagonals, which are not divided by their length (released code).
    """
    here = x[..., 1:, 1:]
    return torch.cat([here - x[..., 1:, :-1], here - x[..., :-1, 1:], x[..., :-1, 1:] - x[..., 1:, :-1],
                      here - x[..., :-1, :-1]], dim=1)  # fmt: skip


def weighted_difference(error: Tensor, kind: str = "paper", delta: float = DELTA) -> Tensor:
    """What an error costs, elementwise.

    ``paper`` (equation 9) is linear for small errors and quadratic for large ones, the reverse of a Huber loss, which
    the text describes: large steps count more. ``head``, the released code, and ``before``, what stood there until
    April 2026, have the same derivative and other constants: ``head`` jumps down at delta, ``before`` is negative at 0.
    ``huber`` and ``l1`` are controls.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in HUBERS:
        raise ValueError(f"kind: expected one of {', '.join(HUBERS)}, got {kind!r}")
    e = error.abs()
    if kind == "l1":
        return e
    if kind == "huber":
        return torch.where(e <= delta, e.square() / 2, delta * e - delta**2 / 2)
    below, above = {"paper": (0.0, 1.0), "head": (1.0, 0.0), "before": (-1.0, 0.0)}[kind]
    half = delta**2 / 2
    return torch.where(e <= delta, delta * e + below * half, e.square() / 2 + above * half)


def stage2_loss(
    prediction: Tensor, target: Tensor, valid: Tensor, kind: str = "paper", weight: float = 1e-3
) -> dict[str, Tensor]:
    """Pixels and gradients of maps (B, 1, H, W) in [-1, 1]; ``valid`` (B, 1, H, W) bool.

    Both maps are 0 where nothing is known, so that the rim of a hole costs the error of its pixels; the mean of the
    gradients' cost runs over the whole map (released code).

    Returns:
        ``pixel``, ``gradient`` and ``loss``, the first plus ``weight`` times the second.
    """
    images.check_same_shape(prediction, target, ("prediction", "target"))
    pixel = masked_mse(prediction, target, valid)
    found, right = (directional_gradients(torch.where(valid, x, 0)) for x in (prediction, target))
    gradient = weighted_difference(right - found, kind).mean()
    return {"loss": pixel + weight * gradient, "pixel": pixel, "gradient": gradient}
