"""Linear degradations ``y = A x`` with their exact adjoints ``A*``: ``<A x, y> = <x, A* y>``.

Operators map ``(B, C, H, W)`` to ``(B, C, h, w)`` for any channel count and range, keep dtype and device, and are
differentiable. The border is mirrored without repeating the edge pixel, for as far as the kernel reaches.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore import images
from minirestore.degradations.kernels import Number, linear_motion_kernel

RESIZE_MODES = ("area", "bilinear", "bicubic", "nearest")
Size = tuple[int, int]


def _check_batch(x: Tensor, size: Size | None, name: str) -> None:
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"{name}: expected a float tensor (B, C, H, W), got {x.dtype} {tuple(x.shape)}")
    if size is not None and tuple(x.shape[-2:]) != tuple(size):
        raise ValueError(f"{name}: this operator was built for {tuple(size)} pixels, got {tuple(x.shape[-2:])}")


class Blur:
    """Filtering with one kernel ``(k, k)`` or one per image ``(B, k, k)``, side odd, same size out.

    The kernel is applied as a correlation, like the released code and most image libraries; for the convolution of
    the Fourier theorem flip it (all kernels here but random walks are symmetric under that flip).
    """

    def __init__(self, kernel: Tensor):
        if kernel.ndim not in (2, 3) or kernel.shape[-1] != kernel.shape[-2] or kernel.shape[-1] % 2 == 0:
            raise ValueError(f"kernel: expected (k, k) or (B, k, k) with k odd, got shape {tuple(kernel.shape)}")
        if not bool(torch.isfinite(kernel).all()):
            raise ValueError("kernel: contains NaN or infinite values")
        self.kernel = kernel if kernel.ndim == 3 else kernel[None]

    def _weight(self, x: Tensor) -> Tensor:
        B, C = x.shape[:2]
        if self.kernel.shape[0] not in (1, B):
            raise ValueError(f"x: this operator holds {self.kernel.shape[0]} kernels, got a batch of {B} images")
        return self.kernel.to(x).expand(B, -1, -1).repeat_interleave(C, 0)[:, None]  # (B C, 1, k, k)

    def _border(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Source row and column of every pixel of the mirrored, larger image."""
        reach = self.kernel.shape[-1] // 2
        return tuple(images.reflect_indices(side, reach, reach).to(x.device) for side in x.shape[-2:])

    def __call__(self, x: Tensor) -> Tensor:
        _check_batch(x, None, "x")
        B, C, H, W = x.shape
        rows, columns = self._border(x)
        padded = x[..., rows, :][..., columns].reshape(1, B * C, len(rows), len(columns))
        return F.conv2d(padded, self._weight(x), groups=B * C).reshape(B, C, H, W)

    def adjoint(self, y: Tensor) -> Tensor:
        """Spread every pixel with the kernel, then fold the mirrored border back onto its sources."""
        _check_batch(y, None, "y")
        B, C, H, W = y.shape
        rows, columns = self._border(y)
        spread = F.conv_transpose2d(y.reshape(1, B * C, H, W), self._weight(y), groups=B * C)
        spread = spread.reshape(B, C, len(rows), len(columns))
        folded = spread.new_zeros(B, C, H, len(columns)).index_add(2, rows, spread)
        return folded.new_zeros(B, C, H, W).index_add(3, columns, folded)


class MotionBlur(Blur):
    """Straight motion over ``length`` pixels (1: no blur) in direction ``angle`` (radians, x towards y); see Blur."""

    def __init__(self, length: Number, angle: Number = 0.0):
        super().__init__(linear_motion_kernel(length, angle))


class Resize:
    """Resampling from ``size`` to ``new_size``: one matrix for the rows, one for the columns.

    Attributes:
        rows: ``(h, H)``; columns: ``(w, W)``, float64. ``y = rows x columns^T``, the adjoint has both transposed.
    """

    def __init__(self, size: Size, new_size: Size, mode: str = "bicubic", *, antialias: bool = False):
        self.size, self.new_size = tuple(size), tuple(new_size)
        self.rows, self.columns = (
            self._matrix(old, new, mode, antialias) for old, new in zip(self.size, self.new_size, strict=True)
        )

    @staticmethod
    def _matrix(old: int, new: int, mode: str, antialias: bool) -> Tensor:
        """Column j is what the resampling makes of the j-th unit vector."""
        units = torch.eye(old, dtype=torch.float64)[None, None]  # one unit vector a row
        return interpolate(units, size=(old, new), mode=mode, antialias=antialias)[0, 0].T.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        _check_batch(x, self.size, "x")
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        """``rows^T y columns``: from ``new_size`` back to ``size``."""
        _check_batch(y, self.new_size, "y")
        return self.rows.to(y).T @ y @ self.columns.to(y)


class Downsample:
    """The classical super-resolution model: blur with a kernel, then keep every ``factor``-th pixel from the first."""

    def __init__(self, size: Size, factor: int, kernel: Tensor):
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"factor: expected an integer of at least 1, got {factor}")
        self.size, self.factor, self.blur = tuple(size), factor, Blur(kernel)
        self.new_size = tuple(-(-side // factor) for side in self.size)

    def __call__(self, x: Tensor) -> Tensor:
        _check_batch(x, self.size, "x")
        return self.blur(x)[..., :: self.factor, :: self.factor]

    def adjoint(self, y: Tensor) -> Tensor:
        """Put zeros between the pixels, then apply the adjoint of the blur."""
        _check_batch(y, self.new_size, "y")
        spaced = y.new_zeros(*y.shape[:2], *self.size)
        spaced[..., :: self.factor, :: self.factor] = y
        return self.blur.adjoint(spaced)


class SpatiallyVaryingBlur:
    """Average of ``n`` bilinear warps: output pixel (i, j) sees the image at ``n`` positions of its own.

    Args:
        rows, columns: ``(n, H, W)`` positions in pixels (mirrored at the border) that output pixels are read from.
    """

    def __init__(self, rows: Tensor, columns: Tensor):
        if rows.ndim != 3 or rows.shape != columns.shape:
            raise ValueError(
                f"rows, columns: expected two (n, H, W) tensors, got {tuple(rows.shape)} and {tuple(columns.shape)}"
            )
        self.rows, self.columns = rows.to(torch.float64), columns.to(torch.float64)
        self.size = tuple(rows.shape[-2:])

    @classmethod
    def rotation(cls, size: Size, angle: float, centre: tuple[float, float] | None = None) -> "SpatiallyVaryingBlur":
        """Camera roll by ``angle`` radians about ``centre`` (row, column; default the middle) during the exposure.

        The path of every pixel is sampled at steps of at most one pixel.
        """
        H, W = size
        centre_row, centre_column = centre if centre is not None else ((H - 1) / 2, (W - 1) / 2)
        i = torch.arange(H, dtype=torch.float64)[:, None] - centre_row  # (H, 1)
        j = torch.arange(W, dtype=torch.float64)[None, :] - centre_column  # (1, W)
        longest = abs(angle) * float((i**2 + j**2).max().sqrt())
        turns = angle * (torch.linspace(-0.5, 0.5, math.ceil(longest) + 1) if longest > 0 else torch.zeros(1))
        cos, sin = (f(turns.to(torch.float64))[:, None, None] for f in (torch.cos, torch.sin))
        return cls(centre_row + sin * j + cos * i, centre_column + cos * j - sin * i)

    def _corners(self, n: int, x: Tensor):
        """The four neighbours of the n-th position of every pixel: flat source index and bilinear weight ``(H W,)``."""
        H, W = self.size
        row, column = self.rows[n].to(x.device), self.columns[n].to(x.device)
        for down in (0, 1):
            for right in (0, 1):
                i, j = row.floor() + down, column.floor() + right
                weight = (1 - (row - i).abs()) * (1 - (column - j).abs())
                source = _mirror(i.long(), H) * W + _mirror(j.long(), W)
                yield source.flatten(), weight.flatten().to(x.dtype) / len(self.rows)

    def __call__(self, x: Tensor) -> Tensor:
        _check_batch(x, self.size, "x")
        flat, total = x.flatten(2), torch.zeros_like(x).flatten(2)  # (B, C, H W)
        for n in range(len(self.rows)):
            for source, weight in self._corners(n, x):
                total = total + flat[..., source] * weight
        return total.view_as(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Give every pixel's value back to the positions it was read from."""
        _check_batch(y, self.size, "y")
        flat, total = y.flatten(2), torch.zeros_like(y).flatten(2)
        for n in range(len(self.rows)):
            for source, weight in self._corners(n, y):
                total = total.index_add(2, source, flat * weight)
        return total.view_as(y)


def _mirror(index: Tensor, size: int) -> Tensor:
    """Mirror any integer positions into [0, size), edge not repeated: ``images.reflect_indices`` for a free index."""
    table = images.reflect_indices(size, 0, max(size - 2, 0)).to(index.device)  # one period of the mirror
    return table[index % len(table)]


def interpolate(
    x: Tensor,
    *,
    size: Size | None = None,
    scale: float | None = None,
    mode: str = "bicubic",
    antialias: bool = False,
) -> Tensor:
    """Resample without clipping, by ``size`` (h, w) or by ``scale``; see `resize`."""
    if mode not in RESIZE_MODES:
        raise ValueError(f"mode: expected one of {', '.join(RESIZE_MODES)}, got {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"antialias: available for bilinear and bicubic, got mode={mode!r}")
    if (size is None) == (scale is None):
        raise ValueError(f"size, scale: give exactly one of them, got size={size}, scale={scale}")
    if (min(size) if scale is None else min(x.shape[-2:]) * scale) < 1:
        raise ValueError(f"size, scale: the result would have no pixels (size={size}, scale={scale})")
    return F.interpolate(x, size=size, scale_factor=scale, mode=mode, antialias=antialias)


def resize(
    x: Tensor,
    size: Size | None = None,
    *,
    scale: float | None = None,
    mode: str = "bicubic",
    antialias: bool = False,
) -> Tensor:
    """Resize images to ``size`` (h, w) or by ``scale`` (sides rounded down), clipped to [0, 1].

    Args:
        x: ``(B, C, H, W)`` in [0, 1].
        size, scale: exactly one of them.
        mode: "area", "bilinear", "bicubic" or "nearest"; pixel centres are aligned as half-integers.
        antialias: widen the bilinear or bicubic filter when shrinking. The released degradations leave it off, so
            that shrinking aliases; switch it on for a clean reference.
    """
    images.check_images(x, "x")
    return interpolate(x, size=size, scale=scale, mode=mode, antialias=antialias).clamp(0, 1)
