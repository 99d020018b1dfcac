"""Images at the boundary of the package: layout, range, padding, tiling.

Every public function takes and gives float tensors ``(B, C, H, W)``, RGB or grey, in ``[0, 1]``. Inside a
diffusion model images live in ``[-1, 1]``; the step between the two, the padding to the size a network needs
and the cutting into tiles happen here and nowhere else.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

RANGE_TOLERANCE = 1e-3
LUMA_BT601 = (0.299, 0.587, 0.114)


def check_layout(x: Tensor, name: str = "x", *, channels: Sequence[int] | None = None, minimum_side: int = 1) -> Tensor:
    """Return ``x`` if it is a non-empty float tensor ``(B, C, H, W)``; values are not read, so this compiles.

    Args:
        x: the tensor.
        name: the argument's name, for the message.
        channels: allowed channel counts, None for any.
        minimum_side: smallest H and W.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: wrong layout, channel count, empty batch, or a side that is too short.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor (B, C, H, W), got {type(x).__name__}; use images.from_numpy")
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {x.dtype}; divide 8-bit values by 255")
    shape = tuple(x.shape)
    if x.ndim != 4:
        raise ValueError(f"{name}: expected 4 dimensions (B, C, H, W), got shape {shape}; add a batch axis: x[None]")
    if x.shape[0] == 0:
        raise ValueError(f"{name}: the batch is empty (shape {shape}); pass at least one image")
    if x.shape[1] == 0 or (channels is not None and x.shape[1] not in channels):
        allowed = "at least 1 channel" if channels is None else f"{' or '.join(map(str, channels))} channels"
        looks_hwc = channels is not None and x.shape[3] in channels
        hint = "; it looks like (B, H, W, C): use x.permute(0, 3, 1, 2)" if looks_hwc else ""
        raise ValueError(f"{name}: expected {allowed}, got shape {shape}{hint}")
    if min(x.shape[2:]) < minimum_side:
        raise ValueError(f"{name}: both sides must be at least {minimum_side} pixels, got shape {shape}")
    return x


def check_images(
    x: Tensor, name: str = "image", *, channels: Sequence[int] = (1, 3), unit_range: bool = True
) -> Tensor:
    """Return ``x`` if it is a batch of images, else raise one error that says what to do.

    Args:
        x: float tensor ``(B, C, H, W)`` with B >= 1, C in ``channels``, H and W >= 2, finite. On the meta device, where
            tensors have no values, only the layout is checked.
        name: the argument's name, for the message.
        channels: allowed channel counts.
        unit_range: also require values in [0, 1] (tolerance 1e-3).

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: wrong layout, channel count, empty batch, 1-pixel side, NaN/infinity or range.
    """
    check_layout(x, name, channels=channels, minimum_side=2)
    if x.is_meta:
        return x
    if not torch.isfinite(x).all():
        raise ValueError(f"{name}: contains NaN or infinite values; clean the input first")
    if unit_range:
        low, high = x.amin().item(), x.amax().item()
        if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
            hint = "divide by 255" if high > 2 else "convert with (x + 1) / 2 or clamp"
            raise ValueError(f"{name}: values must lie in [0, 1], got [{low:.4g}, {high:.4g}]; {hint}")
    return x


def check_same_shape(a: Tensor, b: Tensor, names: tuple[str, str]) -> None:
    """Raise ValueError unless ``a`` and ``b`` have the same shape; shapes are never broadcast."""
    if a.shape != b.shape:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"{names[0]} and {names[1]} must have the same shape, got {shapes}")


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which float32 stays float32 on the device of ``x``; for losses that small numbers decide."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)  # meta has no autocast


def to_model_range(x: Tensor) -> Tensor:
    """Map images from [0, 1] to the [-1, 1] used inside diffusion models."""
    return x * 2 - 1


def to_unit_range(x: Tensor) -> Tensor:
    """Map images from [-1, 1] back to [0, 1], clipping what lies outside."""
    return ((x + 1) / 2).clamp(0, 1)


def luma(x: Tensor) -> Tensor:
    """BT.601 luma ``(B, 3, H, W) -> (B, 1, H, W)`` in the range of the input; grey images pass through."""
    if x.shape[1] == 1:
        return x
    weights = torch.tensor(LUMA_BT601, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def from_numpy(array: np.ndarray) -> Tensor:
    """Turn one ``(H, W)`` or ``(H, W, C)`` array into a ``(1, C, H, W)`` float32 tensor in [0, 1].

    Unsigned integers are scaled by their full range (255, 65535); floats are taken as they are and checked.
    """
    array = np.asarray(array)
    if array.ndim not in (2, 3):
        raise ValueError(f"array: expected (H, W) or (H, W, C), got shape {array.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.float32)
    elif np.issubdtype(array.dtype, np.unsignedinteger):
        array = array.astype(np.float64) / np.iinfo(array.dtype).max
    elif not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"array: expected unsigned integers or floats, got {array.dtype}")
    if array.ndim == 2:
        array = array[..., None]
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))[None]
    return check_images(tensor, "array")


def to_numpy(x: Tensor) -> np.ndarray:
    """Turn a single image ``(1, C, H, W)`` or ``(C, H, W)`` into ``(H, W, 3)`` or ``(H, W)`` float32 for plotting."""
    if x.ndim == 4:
        if x.shape[0] != 1:
            raise ValueError(f"x: expected one image, got a batch of {x.shape[0]}; index it first")
        x = x[0]
    if x.ndim != 3:
        raise ValueError(f"x: expected one image (1, C, H, W) or (C, H, W), got shape {tuple(x.shape)}")
    array = x.detach().float().cpu().numpy()
    return array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)


def to_uint8(x: Tensor) -> np.ndarray:
    """Round a single image in [0, 1] to 8 bit: ``(H, W, 3)`` or ``(H, W)`` uint8."""
    return (to_numpy(x).clip(0, 1) * 255).round().astype(np.uint8)


def reflect_indices(size: int, before: int, after: int) -> Tensor:
    """Indices that extend an axis of ``size`` samples by mirror reflection without repeating the edge.

    Unlike ``F.pad(mode="reflect")`` the extension may be longer than the axis: the mirror goes on for ever.
    """
    if size == 1:
        return torch.zeros(before + 1 + after, dtype=torch.long)
    period = 2 * (size - 1)
    position = torch.arange(-before, size + after) % period
    return torch.where(position < size, position, period - position)


def pad_to_multiple(x: Tensor, multiple: int, minimum: int = 0) -> Tensor:
    """Reflect-pad right and bottom so that H and W are multiples of ``multiple`` and at least ``minimum``."""
    if multiple < 1:
        raise ValueError(f"multiple: must be at least 1, got {multiple}")
    H, W = x.shape[-2:]
    target = [max(-(-side // multiple) * multiple, -(-minimum // multiple) * multiple) for side in (H, W)]
    if target == [H, W]:
        return x
    rows = reflect_indices(H, 0, target[0] - H).to(x.device)
    columns = reflect_indices(W, 0, target[1] - W).to(x.device)
    return x[..., rows, :][..., columns]


def apply_padded(
    fn: Callable[[Tensor], Tensor], x: Tensor, multiple: int, *, minimum: int = 0, scale: int = 1
) -> Tensor:
    """Call ``fn`` on ``x`` padded to ``multiple`` and crop its output back to ``scale`` times the input size."""
    H, W = x.shape[-2:]
    return fn(pad_to_multiple(x, multiple, minimum))[..., : H * scale, : W * scale]


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """First pixels of windows of length ``tile`` that cover ``size``; the last one is flush with the border."""
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap: must satisfy 0 <= overlap < tile, got overlap={overlap}, tile={tile}")
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def _tile_window(height: int, width: int, overlap: int, like: Tensor) -> Tensor:
    """Trapezoid weights ``(height, width)``: 1 inside, falling linearly (never to 0) over ``overlap`` pixels."""

    def ramp(length: int) -> Tensor:
        position = torch.arange(length, dtype=like.dtype, device=like.device)
        edge = torch.minimum(position, length - 1 - position) + 1
        return (edge / (overlap + 1)).clamp(max=1)

    return ramp(height)[:, None] * ramp(width)[None, :]


def apply_tiled(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    tile: int,
    overlap: int,
    *,
    scale: int = 1,
    on_tile: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run ``fn`` on overlapping tiles and blend the results, so that memory is bounded by one tile.

    Args:
        fn: ``(B, C, h, w) -> (B, C', scale h, scale w)``, called on one window at a time.
        x: ``(B, C, H, W)``; sides shorter than ``tile`` are passed whole.
        tile, overlap: window side and overlap in input pixels, ``0 <= overlap < tile``.
        scale: output pixels per input pixel.
        on_tile: called with (done, total) after every tile, for progress bars.

    Returns:
        ``(B, C', scale H, scale W)``. For a pixelwise ``fn`` the result equals ``fn(x)`` to rounding.
    """
    H, W = x.shape[-2:]
    windows = [(top, left) for top in tile_starts(H, tile, overlap) for left in tile_starts(W, tile, overlap)]
    total = weight = None
    for done, (top, left) in enumerate(windows, 1):
        window = x[..., top : top + tile, left : left + tile]
        out = fn(window)
        h, w = window.shape[-2] * scale, window.shape[-1] * scale
        if out.shape[-2:] != (h, w):
            raise ValueError(
                f"fn: gave {tuple(out.shape[-2:])} for a tile of {tuple(window.shape[-2:])}, but scale={scale} asks "
                f"for {(h, w)}; pass the right scale, or a function that keeps sizes"
            )
        if total is None:
            total = out.new_zeros(*out.shape[:-2], H * scale, W * scale)
            weight = out.new_zeros(H * scale, W * scale)
        blend = _tile_window(h, w, overlap * scale, out)
        region = (..., slice(top * scale, top * scale + h), slice(left * scale, left * scale + w))
        total[region] += out * blend
        weight[region] += blend
        if on_tile is not None:
            on_tile(done, len(windows))
    return total / weight
