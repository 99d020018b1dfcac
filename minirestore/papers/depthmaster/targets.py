"""Section III-B, what the network is asked for: a monotone function of depth, stretched to [-1, 1] by its quantiles.

Far away, depth changes much where the picture changes little. The paper regresses the square root of disparity,
1 / sqrt(D), in which near and far share the range more evenly. There, and in disparity, 1 is near and -1 is far; in
``depth`` it is the other way round.
"""

import torch
from torch import Tensor

from minirestore import images

SPACES = ("depth", "disparity", "sqrt_disparity")
QUANTILES = (0.02, 0.98)
SMALLEST_RANGE = 1e-6


def to_space(depth: Tensor, space: str = "sqrt_disparity") -> Tensor:
    """Depth D in metres as D, 1 / D or 1 / sqrt(D), any shape; 0 where there is no depth (D <= 0), as released.

    Raises:
        ValueError: unknown space.
    """
    if space not in SPACES:
        raise ValueError(f"space: expected one of {', '.join(SPACES)}, got {space!r}")
    known = depth > 0
    if space == "depth":
        return torch.where(known, depth, 0)
    disparity = torch.where(known, 1 / torch.where(known, depth, 1), 0)
    return disparity.sqrt() if space == "sqrt_disparity" else disparity


def normalise(values: Tensor, valid: Tensor, quantiles: tuple[float, float] = QUANTILES) -> Tensor:
    """Each map in [-1, 1]: its quantiles over the valid pixels become -1 and 1, what lies beyond is clipped.

    Pixels that are not valid are stretched along. Where there is no depth they had the value 0, and end at -1: as if
    far in disparity, as if near in depth (released code). A map whose quantiles coincide becomes 0; the released code
    divides by zero there.

    Args:
        values: (B, 1, H, W) from `to_space`.
        valid: (B, 1, H, W) bool; zeros never count.

    Raises:
        ValueError: impossible quantiles, other shapes, or a map without a valid pixel.
    """
    low, high = quantiles
    if not 0 <= low < high <= 1:
        raise ValueError(f"quantiles: expected 0 <= low < high <= 1, got {quantiles}")
    images.check_same_shape(values, valid, ("values", "valid"))
    counted, maps = valid & (values > 0), []
    if not values.is_meta and (empty := (~counted.flatten(1).any(1)).nonzero().flatten().tolist()):
        raise ValueError(f"valid: map {empty[0]} has no valid pixel; leave it out")
    for x, chosen in zip(values, counted, strict=True):
        a, b = torch.nanquantile(torch.where(chosen, x, torch.nan), x.new_tensor(quantiles))
        flat = (b - a) < SMALLEST_RANGE * b
        maps.append(torch.where(flat, 0, 2 * (x - a) / torch.where(flat, 1, b - a) - 1).clamp(-1, 1))
    return torch.stack(maps)


def depth_target(
    depth: Tensor, valid: Tensor, space: str = "sqrt_disparity", quantiles: tuple[float, float] = QUANTILES
) -> Tensor:
    """`normalise` of `to_space`: metres (B, 1, H, W) to [-1, 1]."""
    return normalise(to_space(depth, space), valid, quantiles)
