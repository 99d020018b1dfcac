"""The fine stage's loss: structural similarity plus L1, as the paper writes it and as the released code computes it.

SSIM compares local means and (co)variances under a Gaussian window. Two constants, C1 = (.01 L)^2 and C2 = (.03 L)^2,
keep it finite, where L is the length of the value range. On images in [-1, 1] L is 2. With L = 255 (released code) they
are 6.5 and 58.5, far above any variance or product of such images: both ratios are nearly 1 for pictures that anyone
would tell apart, and hardly change with them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore import images
from minirestore.papers.c2f_dft.config import SSIM_KINDS

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003
WINDOW, WINDOW_SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
SMALLEST_TERM = 1e-6  # a power of a negative contrast term is NaN


def ssim_terms(a: Tensor, b: Tensor, value_range: float) -> tuple[Tensor, Tensor]:
    """Mean SSIM, and its mean contrast-structure factor, over all pixels of two batches.

    Gaussian window of 11 pixels, sigma 1.5; smaller images get a smaller one of the same shape. Zeros beyond the
    border, as in the released code.

    Args:
        a, b: ``(B, C, H, W)`` each. value_range: L, the length of the range of values.

    Returns:
        Two scalars in about [-1, 1].

    Raises:
        ValueError: shapes differ, or not four dimensions.
    """
    images.check_same_shape(a, b, ("a", "b"))
    if a.ndim != 4:
        raise ValueError(f"a: expected (B, C, H, W), got shape {tuple(a.shape)}")
    size = min(WINDOW, *a.shape[-2:])
    position = torch.arange(size, dtype=a.dtype, device=a.device) - size // 2
    window = torch.exp(-position.square() / (2 * (WINDOW_SIGMA * size / WINDOW) ** 2))
    window = window / window.sum()
    C = a.shape[1]
    down, right = (window.view(shape).expand(C, 1, -1, -1) for shape in ((1, 1, -1, 1), (1, 1, 1, -1)))
    stack = torch.cat([a, b, a * a, b * b, a * b])
    blurred = F.conv2d(stack, down, padding=(size // 2, 0), groups=C)
    mean_a, mean_b, square_a, square_b, product = F.conv2d(blurred, right, padding=(0, size // 2), groups=C).chunk(5)
    C1, C2 = (K1 * value_range) ** 2, (K2 * value_range) ** 2
    covariance, variances = product - mean_a * mean_b, square_a - mean_a.square() + square_b - mean_b.square()
    contrast = (2 * covariance + C2) / (variances + C2)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    return (luminance * contrast).mean(), contrast.mean()


def ssim(a: Tensor, b: Tensor, value_range: float = 2.0) -> Tensor:
    """Mean structural similarity of two batches ``(B, C, H, W)``; 1 for equal images (paper's fine loss)."""
    return ssim_terms(a, b, value_range)[0]


def ms_ssim(a: Tensor, b: Tensor, value_range: float = 2.0) -> Tensor:
    """Mean similarity over five scales, halved by averaging (released code's fine loss).

    The product of the contrast factors of four scales and the whole SSIM of the coarsest, each to its power. A negative
    factor has no such power: it is raised to 1e-6, where its gradient is zero. Sides of at least 16 pixels.

    Raises:
        ValueError: shapes differ, or images too small for five scales.
    """
    scales = len(MS_SSIM_WEIGHTS)
    if min(a.shape[-2:]) < 2 ** (scales - 1):
        size = f"{a.shape[-2]}x{a.shape[-1]}"
        raise ValueError(f"a: {scales} scales need sides of at least {2 ** (scales - 1)} pixels, got {size}; use ssim")
    total = a.new_ones(())
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        whole, contrast = ssim_terms(a, b, value_range)
        total = total * (whole if scale == scales - 1 else contrast).clamp(min=SMALLEST_TERM) ** weight
    return total


def fine_loss(restored: Tensor, clean: Tensor, kind: str, value_range: float, weight: float) -> dict[str, Tensor]:
    """``loss`` = weight * (1 - similarity) + (1 - weight) * L1 of images in [-1, 1], and its parts ``ssim`` and ``l1``.

    ``kind`` is ``ssim``, ``ms_ssim``, or ``none`` (L1 alone, with weight 1). Computed in float32, under autocast, too:
    variances are small differences of squares.

    Raises:
        ValueError: unknown kind; as `ssim_terms` and `ms_ssim`.
    """
    if kind not in SSIM_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(SSIM_KINDS)}, got {kind!r}")
    with images.without_autocast(restored):
        return _fine_loss(restored.float(), clean.float(), kind, value_range, weight)


def _fine_loss(restored: Tensor, clean: Tensor, kind: str, value_range: float, weight: float) -> dict[str, Tensor]:
    l1 = (restored - clean).abs().mean()
    if kind == "none":
        return {"loss": l1, "l1": l1}
    similarity = (ssim if kind == "ssim" else ms_ssim)(restored, clean, value_range)
    return {"loss": weight * (1 - similarity) + (1 - weight) * l1, "ssim": similarity, "l1": l1}
