"""Two-dimensional wavelet transforms as torch functions, in PyWavelets' conventions.

One level splits an image into four bands of half the size, ``cA, (cH, cV, cD)``: the approximation (low-pass in both
directions), the horizontal detail (high-pass down the columns, so it answers to horizontal edges), the vertical
detail (high-pass along the rows) and the diagonal one. Filters come from PyWavelets; the transforms are written here,
run on any device and in any float dtype, are differentiable and compile to one graph.

Half-precision input is filtered in float32 and returned in its own dtype. Reconstruction is exact as far as PyWavelets'
tabulated filters are: to rounding for haar, db, coif and bior, to about 1e-10 for the longer sym, and only to 1 % for
dmey, whose filter is a finite cut of an infinite one.

Sources: Mallat, "A theory for multiresolution signal decomposition", 1989; Daubechies, "Ten lectures on wavelets",
1992; Cohen, Daubechies, Feauveau, 1992 (biorthogonal); Chang, Yu, Vetterli, "Adaptive wavelet thresholding for image
denoising and compression", 2000 (BayesShrink).
"""

from collections.abc import Sequence

import pywt
import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore import images

Details = tuple[Tensor, Tensor, Tensor]
MODES = ("periodization", "symmetric")
ODD = ("refuse", "pad")
MAD_TO_SIGMA = 0.6744897501960817  # median of |N(0, 1)|


# --- filters ---------------------------------------------------------------------------------------------------------


# (dec_lo, dec_hi, rec_lo, rec_hi) of every wavelet as Python floats: constants that torch.compile can fold
_TAPS = {name: tuple(tuple(taps) for taps in pywt.Wavelet(name).filter_bank) for name in pywt.wavelist(kind="discrete")}


def _taps(wavelet: str) -> tuple[tuple[float, ...], ...]:
    """The four filters of one wavelet."""
    if not isinstance(wavelet, str):
        raise TypeError(f"wavelet: expected a name such as 'haar' or 'db4', got {type(wavelet).__name__}")
    if wavelet not in _TAPS:
        raise ValueError(
            f"wavelet: {wavelet!r} is not an orthogonal or biorthogonal wavelet; "
            "choose one of pywt.wavelist(kind='discrete'), for example 'haar', 'db4', 'sym8' or 'bior4.4'"
        )
    return _TAPS[wavelet]


def filter_bank(
    wavelet: str = "haar", dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decomposition and reconstruction filters ``(dec_lo, dec_hi, rec_lo, rec_hi)`` of a wavelet.

    Args:
        wavelet: any name in ``pywt.wavelist(kind="discrete")``.

    Returns:
        Four 1-D tensors of one (even) length. They are convolution kernels: ``out[k] = sum_j f[j] x[k - j]``.
    """
    dec_lo, dec_hi, rec_lo, rec_hi = (torch.tensor(taps, dtype=dtype, device=device) for taps in _taps(wavelet))
    return dec_lo, dec_hi, rec_lo, rec_hi


# --- one axis --------------------------------------------------------------------------------------------------------


def _extend(x: Tensor, before: int, after: int, mode: str, dim: int) -> Tensor:
    """Lengthen one axis periodically or by half-sample mirror symmetry (edge repeated); any length."""
    period = x.shape[dim]
    while before > 0 or after > 0:
        length, b, a = x.shape[dim], min(before, period), min(after, period)
        if mode == "symmetric":
            left, right = x.narrow(dim, 0, b).flip(dim), x.narrow(dim, length - a, a).flip(dim)
        else:
            left, right = x.narrow(dim, period - b, b), x.narrow(dim, length - period, a)
        x = torch.cat([left, x, right], dim)
        before, after = before - b, after - a
    return x


def _correlate(x: Tensor, taps: Sequence[float], dim: int, step: int = 1) -> Tensor:
    """``out[k] = sum_j taps[j] x[step k + j]`` along one axis, where the window fits.

    A sum of shifted slices: no library convolution, hence no TF32 rounding on a GPU and no autocast.
    """
    windows = (x.shape[dim] - len(taps)) // step + 1
    out = None
    for j, tap in enumerate(taps):
        part = x.narrow(dim, j, step * (windows - 1) + 1)
        part = part[..., ::step] if dim == -1 else part[..., ::step, :]
        out = part * tap if out is None else torch.add(out, part, alpha=tap)
    return out


def _analyse(x: Tensor, lo: Sequence[float], hi: Sequence[float], mode: str, dim: int) -> tuple[Tensor, Tensor]:
    """One level along one axis: n samples -> two bands of ``ceil(n / 2)`` or ``(n + L - 1) // 2`` coefficients."""
    L, n = len(lo), x.shape[dim]
    if mode == "periodization":
        if n % 2:
            x = torch.cat([x, x.narrow(dim, n - 1, 1)], dim)  # pywt repeats the last sample
        x = _extend(x, L // 2 - 1, L // 2 - 1, mode, dim)
    else:
        x = _extend(x, L - 2, L - 1, mode, dim)
    return _correlate(x, lo[::-1], dim, step=2), _correlate(x, hi[::-1], dim, step=2)


def _synthesise(low: Tensor, high: Tensor, lo: Sequence[float], hi: Sequence[float], mode: str, dim: int) -> Tensor:
    """Inverse of :func:`_analyse`: two bands of n -> ``2 n`` (periodization) or ``2 n - L + 2`` samples.

    Even output samples see the even taps, odd ones the odd taps (polyphase form), so nothing is multiplied by the
    zeros of an upsampled signal.
    """
    L, n = len(lo), low.shape[dim]
    start = 0
    if mode == "periodization":
        before = L // 4
        start = 2 * before - L // 2 + 1  # 0 or 1
        after = (2 * n + start + L - 1) // 2 - n - before
        low, high = (_extend(band, before, after, mode, dim) for band in (low, high))
    phases = [_correlate(low, lo[phase::2][::-1], dim) + _correlate(high, hi[phase::2][::-1], dim) for phase in (0, 1)]
    out = torch.stack(phases, dim)  # (B, C, H, n, 2) along rows, (B, C, n, 2, W) along columns
    out = out.flatten(-2) if dim == -1 else out.flatten(-3, -2)
    return out.narrow(dim, start, 2 * n) if mode == "periodization" else out


# --- one level -------------------------------------------------------------------------------------------------------


def _check_input(x: Tensor, mode: str, odd: str) -> None:
    images.check_layout(x, minimum_side=2)
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    if odd not in ODD:
        raise ValueError(f"odd: expected one of {', '.join(ODD)}, got {odd!r}")
    H, W = x.shape[-2:]
    if odd == "refuse" and (H % 2 or W % 2):
        raise ValueError(
            f"x: the sides must be even, got {H} x {W}; pass odd='pad' here and size=({H}, {W}) to the inverse, "
            "or pad with images.pad_to_multiple"
        )


def _haar_forward(x: Tensor) -> tuple[Tensor, Details]:
    """Haar by slicing: sums and differences of the four pixels of each 2 x 2 block. Both modes are the same."""
    H, W = x.shape[-2:]
    if H % 2 or W % 2:
        x = F.pad(x, (0, W % 2, 0, H % 2), mode="replicate")
    x = x * 0.5
    top, bottom = x[..., 0::2, :], x[..., 1::2, :]
    low, high = top + bottom, top - bottom  # (B, C, H/2, W)
    low_even, low_odd, high_even, high_odd = low[..., 0::2], low[..., 1::2], high[..., 0::2], high[..., 1::2]
    return low_even + low_odd, (high_even + high_odd, low_even - low_odd, high_even - high_odd)


def _haar_inverse(cA: Tensor, details: Details) -> Tensor:
    """Each 2 x 2 block from its four coefficients, written straight into place."""
    B, C, h, w = cA.shape
    cH, cV, cD = details
    top_low, top_high, bottom_low, bottom_high = cA + cH, cV + cD, cA - cH, cV - cD
    out = cA.new_empty(B, C, h, 2, w, 2)
    out[..., 0, :, 0] = top_low + top_high
    out[..., 0, :, 1] = top_low - top_high
    out[..., 1, :, 0] = bottom_low + bottom_high
    out[..., 1, :, 1] = bottom_low - bottom_high
    return out.view(B, C, 2 * h, 2 * w) * 0.5


def _working_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def dwt2(
    x: Tensor, wavelet: str = "haar", mode: str = "periodization", *, odd: str = "refuse"
) -> tuple[Tensor, Details]:
    """One level of the 2-D discrete wavelet transform, equal to ``pywt.dwt2``.

    Args:
        x: float tensor ``(B, C, H, W)``, any range.
        wavelet: any orthogonal or biorthogonal PyWavelets name.
        mode: ``"periodization"`` (bands of ``ceil(H / 2) x ceil(W / 2)``; orthogonal wavelets keep the energy) or
            ``"symmetric"`` (half-sample mirror; bands of ``(H + L - 1) // 2`` for filters of length L; no seam).
        odd: ``"refuse"`` odd sides, or ``"pad"`` as pywt does. The bands of an odd side and of the next even side
            have one size, so a padded transform needs ``size=`` in :func:`idwt2` to give the original back.

    Returns:
        ``(cA, (cH, cV, cD))``, each ``(B, C, h, w)``.
    """
    _check_input(x, mode, odd)
    dec_lo, dec_hi, _, _ = _taps(wavelet)
    dtype, x = x.dtype, x.to(_working_dtype(x.dtype))
    if len(dec_lo) == 2:
        cA, details = _haar_forward(x)
    else:
        low, high = _analyse(x, dec_lo, dec_hi, mode, -2)  # (B, C, h, W)
        cA, cV = _analyse(low, dec_lo, dec_hi, mode, -1)  # (B, C, h, w)
        cH, cD = _analyse(high, dec_lo, dec_hi, mode, -1)
        details = (cH, cV, cD)
    return cA.to(dtype), tuple(band.to(dtype) for band in details)


def idwt2(
    coeffs: tuple[Tensor, Details],
    wavelet: str = "haar",
    mode: str = "periodization",
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Inverse of :func:`dwt2`, equal to ``pywt.idwt2``.

    Args:
        coeffs: ``(cA, (cH, cV, cD))``, four tensors of one shape ``(B, C, h, w)``.
        wavelet, mode: as given to :func:`dwt2`.
        size: ``(H, W)`` of the original; needed when a side was odd, each at most one less than the even size.

    Returns:
        ``(B, C, H, W)``.
    """
    cA, details = coeffs
    if len(details) != 3 or any(band.shape != cA.shape for band in details):
        shapes = [tuple(band.shape) for band in (cA, *details)]
        raise ValueError(f"coeffs: expected (cA, (cH, cV, cD)) of one shape, got shapes {shapes}")
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    _, _, rec_lo, rec_hi = _taps(wavelet)
    shortest = len(rec_lo) // 2 if mode == "symmetric" else 1
    if cA.ndim != 4 or min(cA.shape[-2:]) < shortest:
        raise ValueError(
            f"coeffs: {wavelet!r} in mode {mode} has bands (B, C, h, w) of at least {shortest} x {shortest}, "
            f"got shape {tuple(cA.shape)}"
        )
    dtype = cA.dtype
    cA, cH, cV, cD = (band.to(_working_dtype(dtype)) for band in (cA, *details))
    if len(rec_lo) == 2:
        out = _haar_inverse(cA, (cH, cV, cD))
    else:
        low = _synthesise(cA, cV, rec_lo, rec_hi, mode, -1)  # (B, C, h, W)
        high = _synthesise(cH, cD, rec_lo, rec_hi, mode, -1)
        out = _synthesise(low, high, rec_lo, rec_hi, mode, -2)  # (B, C, H, W)
    return _crop(out, size).to(dtype)


def _crop(x: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Crop a reconstruction to the size of the original; only the sample that padding added may go."""
    if size is None:
        return x
    H, W = x.shape[-2:]
    if not (H - 1 <= size[0] <= H and W - 1 <= size[1] <= W):
        raise ValueError(
            f"size: these coefficients come from an image of {H - 1} or {H} x {W - 1} or {W}, got {tuple(size)}"
        )
    return x[..., : size[0], : size[1]]


# --- several levels --------------------------------------------------------------------------------------------------


def wavedec2(
    x: Tensor, wavelet: str = "haar", levels: int = 3, mode: str = "periodization", *, odd: str = "refuse"
) -> list[Tensor | Details]:
    """Multi-level transform, equal to ``pywt.wavedec2``: the approximation is split again and again.

    Args:
        x: float tensor ``(B, C, H, W)`` with sides of at least ``2 ** levels``.
        wavelet, mode: see :func:`dwt2`.
        levels: how often to split, >= 1.
        odd: ``"refuse"`` or ``"pad"`` odd sides of ``x``. Odd sides that arise at deeper levels are always padded,
            and :func:`waverec2` crops them without being told.

    Returns:
        ``[cA_n, (cH_n, cV_n, cD_n), ..., (cH_1, cV_1, cD_1)]``, coarsest first.
    """
    _check_input(x, mode, odd)
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ValueError(f"levels: expected an integer >= 1, got {levels!r}")
    H, W = x.shape[-2:]
    if min(H, W) < 2**levels:
        raise ValueError(f"levels: {levels} levels need sides of at least {2**levels} pixels, got {H} x {W}")
    details = []
    for _ in range(levels):
        x, bands = dwt2(x, wavelet, mode, odd="pad")
        details.append(bands)
    return [x, *reversed(details)]


def waverec2(
    coeffs: Sequence[Tensor | Details],
    wavelet: str = "haar",
    mode: str = "periodization",
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Inverse of :func:`wavedec2`, equal to ``pywt.waverec2``; arguments as for :func:`idwt2`."""
    x, *details = coeffs
    if not details:
        raise ValueError("coeffs: expected [cA, (cH, cV, cD), ...] with at least one level of details")
    for bands in details:
        x = idwt2((_crop(x, tuple(bands[0].shape[-2:])), bands), wavelet, mode)
    return _crop(x, size)


def mosaic(coeffs: Sequence[Tensor | Details], *, display: bool = False) -> Tensor:
    """Lay all bands out in one picture: cA top left, cV to its right, cH below it, cD across; levels nested.

    Args:
        coeffs: from :func:`dwt2` or :func:`wavedec2`.
        display: scale for looking, for coefficients of an image in [0, 1]: cA by its gain of ``2 ** levels``, every
            detail band of every image to ``0.5 + d / (2 max |d|)`` (grey is zero), all in [0, 1]. Otherwise the
            coefficients are left as they are, so the mosaic is ``pywt.coeffs_to_array``.

    Returns:
        ``(B, C, H, W)`` where sides divide by ``2 ** levels`` in mode periodization. Bands that do not tile exactly
        (symmetric mode, odd sides) leave gaps of zeros and a slightly larger picture.
    """
    canvas, *details = coeffs
    if display:
        canvas = (canvas / 2 ** len(details)).clamp(0, 1)
    for bands in details:
        if display:
            peaks = [band.abs().amax((-3, -2, -1), keepdim=True) for band in bands]
            tiny = torch.finfo(canvas.dtype).tiny
            bands = [0.5 + band / (2 * peak.clamp(min=tiny)) for band, peak in zip(bands, peaks, strict=True)]
        cH, cV, cD = bands
        B, C, h, w = cH.shape
        top, left = max(canvas.shape[-2], h), max(canvas.shape[-1], w)
        grown = canvas.new_zeros(B, C, top + h, left + w)
        grown[..., : canvas.shape[-2], : canvas.shape[-1]] = canvas
        grown[..., :h, left:], grown[..., top:, :w], grown[..., top:, left:] = cV, cH, cD
        canvas = grown
    return canvas


# --- shrinkage -------------------------------------------------------------------------------------------------------


def soft_threshold(x: Tensor, threshold: float | Tensor) -> Tensor:
    """``sign(x) max(|x| - t, 0)``: the proximal operator of ``t |x|``, t >= 0 (a number or broadcast against x)."""
    negative = (threshold < 0).any() if isinstance(threshold, Tensor) else threshold < 0
    if negative:
        raise ValueError(f"threshold: must not be negative, got {threshold}")
    return x - x.clamp(-threshold, threshold)


def estimate_sigma(noisy: Tensor) -> Tensor:
    """Standard deviation of white Gaussian noise in each image: ``median |cD_1| / 0.6745`` over all channels.

    The finest diagonal band (db2) of a natural image is mostly noise, and a median ignores the few large edges.
    Source: Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", 1994. Fine texture and clipped
    values bias it. ``(B, C, H, W) -> (B,)`` in the units of the image.
    """
    cD = dwt2(noisy, "db2", "symmetric", odd="pad")[1][2]
    return cD.to(_working_dtype(cD.dtype)).abs().flatten(1).median(1).values / MAD_TO_SIGMA


def bayes_threshold(band: Tensor, sigma: float | Tensor) -> Tensor:
    """BayesShrink threshold of each image and channel of a detail band: ``sigma^2 / sigma_x``.

    ``sigma_x^2 = max(mean(band^2) - sigma^2, 0)`` is the variance of the clean coefficients; where it is zero the
    threshold is the largest magnitude, so nothing passes. Source: Chang, Yu and Vetterli 2000, equations 6, 17, 18.

    Args:
        band: ``(B, C, h, w)``.
        sigma: noise standard deviation in the units of the band: a number, or a tensor broadcast to ``(B, C, 1, 1)``.

    Returns:
        ``(B, C, 1, 1)``.
    """
    variance = sigma**2
    signal = (band.square().mean((-2, -1), keepdim=True) - variance).clamp(min=0).sqrt()
    largest = band.abs().amax((-2, -1), keepdim=True)
    return torch.where(signal > 0, variance / signal.clamp(min=torch.finfo(band.dtype).tiny), largest).minimum(largest)


def bayes_shrink(
    noisy: Tensor, sigma: float | Tensor | None = None, wavelet: str = "sym4", levels: int = 4, mode: str = "symmetric"
) -> Tensor:
    """Denoise by soft-thresholding every detail band with its own BayesShrink threshold.

    Args:
        noisy: ``(B, C, H, W)``, any float range, any size; sides of at least ``2 ** levels``. Channels are
            treated separately. The result is not clipped.
        sigma: standard deviation of the white noise in the units of the image (25 / 255, say), a number or one per
            image ``(B,)``; None estimates it with :func:`estimate_sigma`.
        wavelet: orthogonal, because only then the noise has the same sigma in every band.

    Returns:
        ``(B, C, H, W)``, dtype of ``noisy``. Source: Chang, Yu and Vetterli 2000.
    """
    dec_lo, _, rec_lo, _ = _taps(wavelet)
    if max(abs(a - b) for a, b in zip(dec_lo, reversed(rec_lo), strict=True)) > 1e-6:
        raise ValueError(f"wavelet: {wavelet!r} is not orthogonal, so sigma differs from band to band; use e.g. 'sym4'")
    coeffs = wavedec2(noisy.to(_working_dtype(noisy.dtype)), wavelet, levels, mode, odd="pad")
    sigma = estimate_sigma(noisy) if sigma is None else sigma
    sigma = torch.as_tensor(sigma, dtype=coeffs[0].dtype, device=noisy.device)
    if sigma.shape not in ((), noisy.shape[:1]) or not (sigma >= 0).all():
        raise ValueError(f"sigma: expected a number >= 0 or one per image ({noisy.shape[0]}), got {sigma.tolist()}")
    sigma = sigma.view(-1, 1, 1, 1)
    shrunk = [tuple(soft_threshold(band, bayes_threshold(band, sigma)) for band in bands) for bands in coeffs[1:]]
    return waverec2([coeffs[0], *shrunk], wavelet, mode, tuple(noisy.shape[-2:])).to(noisy.dtype)
