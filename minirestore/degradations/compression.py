"""JPEG: the real encoder (Pillow), and one in torch that runs on any device and can pass gradients."""

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore import images
from minirestore.degradations._common import PerImage, per_image

# ITU-T T.81, Annex K: rows are vertical, columns horizontal frequencies.
LUMINANCE_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(x: Tensor, quality: PerImage) -> Tensor:
    """Encode and decode with Pillow's JPEG (4:2:0 chroma): the real thing, on the CPU, without gradients.

    Args:
        x: ``(B, C, H, W)`` in [0, 1]; rounded to 8 bit first.
        quality: 1 (worst) to 100, one integer or one per image.
    """
    from PIL import Image

    images.check_images(x, "x")
    decoded = []
    for image, q in zip(x, _check_quality(quality, x).flatten().tolist(), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(images.to_uint8(image)).save(buffer, "JPEG", quality=int(q), subsampling="4:2:0")
        decoded.append(images.from_numpy(np.asarray(Image.open(buffer))))
    return torch.cat(decoded).to(x)


def diff_jpeg(x: Tensor, quality: PerImage, *, differentiable: bool = False, official: bool = False) -> Tensor:
    """JPEG in torch ("DiffJPEG"): YCbCr 4:2:0, 8x8 DCT, Annex K tables, without 8-bit rounding and entropy coding.

    Args:
        x: ``(B, C, H, W)`` in [0, 1]; grey images have no chroma.
        quality: 1 (worst) to 100, one number or one per image, not changed in place.
        differentiable: replace rounding by ``round(v) + (v - round(v))^3``, whose gradient is not zero.
        official: the released code's two departures from the standard: sides are padded with black to a multiple
            of 16 (dark ringing at the right and bottom border) instead of repeating the last pixel, and the
            luminance table is transposed.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    _, C, H, W = images.check_images(x, "x").shape
    q = _check_quality(quality, x)
    factor = torch.where(q < 50, 50 / q, 2 - q / 50)
    padding = (0, -W % 16, 0, -H % 16)
    wide = x.to(torch.promote_types(x.dtype, torch.float32)) * 255
    padded = F.pad(wide, padding) if official else F.pad(wide, padding, mode="replicate")
    table = torch.tensor(LUMINANCE_TABLE).to(wide)
    table = table.T if official else table
    if C == 1:
        coded = _quantise(padded - 128, table, factor, differentiable) + 128
    else:
        y, chroma = torch.einsum("kc,bchw->bkhw", torch.tensor(TO_YCBCR).to(wide), padded).split((1, 2), 1)
        y = _quantise(y - 128, table, factor, differentiable) + 128
        chroma_table = torch.tensor(CHROMINANCE_TABLE).to(wide)
        chroma = _quantise(F.avg_pool2d(chroma, 2), chroma_table, factor, differentiable)  # (B, 2, H/2, W/2)
        chroma = F.interpolate(chroma, scale_factor=2, mode="nearest")
        coded = torch.einsum("ck,bkhw->bchw", torch.tensor(TO_RGB).to(wide), torch.cat((y, chroma), 1))
    return (coded[..., :H, :W] / 255).clamp(0, 1).to(x.dtype)


def _check_quality(quality: PerImage, x: Tensor) -> Tensor:
    q = per_image(quality, x, "quality", minimum=1)
    if bool((q > 100).any()):
        raise ValueError(f"quality: expected 1 (worst) to 100, got {q.flatten().tolist()}")
    return q


def _dct_matrix(like: Tensor) -> Tensor:
    """Orthonormal 8-point DCT-II ``(8, 8)``: row u is the u-th cosine."""
    u, i = torch.arange(8, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
    matrix = 0.5 * torch.cos((2 * i + 1) * u * math.pi / 16)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def _quantise(x: Tensor, table: Tensor, factor: Tensor, differentiable: bool) -> Tensor:
    """Round the 8x8 DCT coefficients of ``(B, C, H, W)`` to multiples of ``table * factor``, at least 1."""
    B, C, H, W = x.shape
    dct = _dct_matrix(x)
    blocks = x.reshape(B, C, H // 8, 8, W // 8, 8).transpose(3, 4)  # (B, C, H/8, W/8, 8, 8)
    step = (factor[..., None, None] * table).clamp(min=1)  # (B, 1, 1, 1, 8, 8)
    levels = dct @ blocks @ dct.T / step
    rounded = levels.round()
    if differentiable:
        rounded = rounded.detach() + (levels - rounded.detach()) ** 3
    blocks = dct.T @ (rounded * step) @ dct
    return blocks.transpose(3, 4).reshape(B, C, H, W)
