"""Images in the frequency domain: spectra, band filters, Wiener deconvolution, amplitude and phase.

Everywhere: frequencies are in cycles per pixel, so 0.5 is the Nyquist frequency of an axis and ``sqrt(0.5) = 0.707``
the corner of the spectrum; the FFT is orthonormal, so energy in the image equals energy in the spectrum (Parseval);
``X[..., 0, 0]`` is the mean times ``sqrt(H W)``. Tensors are ``(B, C, H, W)`` with any channel count, any range and any
side, odd ones included; half-precision input is transformed in float32.

Sources: Oppenheim and Lim, "The importance of phase in signals", 1981 (amplitude and phase); Field, "Relations between
the statistics of natural images and the response properties of cortical cells", 1987 (power falls as ``1 / f^2``);
Wiener, "Extrapolation, interpolation, and smoothing of stationary time series", 1949.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minirestore import images

REAL_TOLERANCE = 1e-3
KERNEL_TOLERANCE = 1e-3


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def fft2(x: Tensor) -> Tensor:
    """Orthonormal 2-D DFT: real ``(B, C, H, W)`` -> complex ``(B, C, H, W)``, zero frequency at ``[..., 0, 0]``."""
    return torch.fft.fft2(_at_least_float32(images.check_layout(x)), norm="ortho")


def ifft2(X: Tensor) -> Tensor:
    """Inverse of :func:`fft2`: the real image ``(B, C, H, W)`` of a Hermitian-symmetric spectrum.

    Raises:
        TypeError: the spectrum is not complex.
        ValueError: it is not the spectrum of a real image (``X[-u, -v] != conj(X[u, v])``), so that taking the real
            part would silently change it.
    """
    if not isinstance(X, Tensor) or not X.is_complex():
        raise TypeError(f"X: expected a complex tensor from fft2, got {getattr(X, 'dtype', type(X).__name__)}")
    x = torch.fft.ifft2(X, norm="ortho")
    if x.imag.abs().amax() > REAL_TOLERANCE * x.abs().amax():
        raise ValueError("X: not the spectrum of a real image; a filter must treat (u, v) and (-u, -v) alike")
    return x.real


# --- frequencies -----------------------------------------------------------------------------------------------------


def radial_frequency(H: int, W: int, device: torch.device | str = "cpu") -> Tensor:
    """Distance from zero frequency ``sqrt(u^2 + v^2)`` of every DFT coefficient: ``(H, W)`` float64, in [0, 0.707]."""
    u = torch.fft.fftfreq(H, dtype=torch.float64, device=device)
    v = torch.fft.fftfreq(W, dtype=torch.float64, device=device)
    return torch.hypot(u[:, None], v[None, :])


def spectrum_extent(H: int, W: int) -> tuple[float, float, float, float]:
    """``extent`` for ``imshow`` of a centred spectrum: (left, right, bottom, top) in cycles/pixel, zero in a pixel."""
    left, top = (-(side // 2 + 0.5) / side for side in (W, H))
    return left, left + 1, top + 1, top


# --- power -----------------------------------------------------------------------------------------------------------


def _hann_window(H: int, W: int, like: Tensor) -> Tensor:
    """Separable Hann window ``(H, W)`` with mean square 1, so that windowing keeps the level of a spectrum."""
    centres = [(torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side for side in (H, W)]
    rows, columns = ((math.pi * centre).sin().square() for centre in centres)
    window = rows[:, None] * columns[None, :]
    return window / window.square().mean().sqrt()


def radial_power_spectrum(x: Tensor, *, corners: bool = False, window: bool = False) -> tuple[Tensor, Tensor]:
    """Power ``|X|^2`` of each image, averaged over channels and over rings of equal frequency.

    Ring k holds the coefficients whose radial frequency is nearest to ``k / N``, ``N = max(H, W)``, for
    ``k = 1 .. N // 2``: up to 0.5 cycles/pixel. The zero frequency belongs to no ring.

    Args:
        x: ``(B, C, H, W)``, sides of at least 2.
        corners: also return the rings between 0.5 and 0.707 cycles/pixel, which exist only along diagonals; then
            rings and zero frequency hold all the energy.
        window: subtract the mean and multiply by a Hann window of mean square 1 first, so that the jump between
            opposite borders does not leak into all frequencies as a cross.

    Returns:
        frequencies ``(n,)`` in cycles/pixel, and mean power ``(B, n)``; both float64. White noise of standard
        deviation s has power ``s^2`` at every frequency.
    """
    images.check_layout(x, minimum_side=2)
    B, _, H, W = x.shape
    if window:
        x = _at_least_float32(x)
        x = (x - x.mean((-2, -1), keepdim=True)) * _hann_window(H, W, x)
    X = fft2(x)
    power = (X.real.double().square() + X.imag.double().square()).mean(1).flatten(1)  # (B, H*W)
    ring = (radial_frequency(H, W, x.device) * max(H, W) + 0.5).long().flatten()  # (H*W,), halves go up
    rings = int(ring.max()) + 1
    total = power.new_zeros(B, rings).index_add(1, ring, power)
    count = torch.bincount(ring, minlength=rings)
    keep = slice(1, rings if corners else max(H, W) // 2 + 1)
    frequencies = torch.arange(rings, dtype=torch.float64, device=x.device) / max(H, W)
    return frequencies[keep], total[:, keep] / count[keep]


def spectral_slope(x: Tensor, low: float = 0.0, high: float = 0.5, *, window: bool = True) -> Tensor:
    """Exponent a of ``power = b f^a`` for each image: about -2 for photographs, 0 for white noise.

    The straight line through log power against log frequency, fitted by least squares with weights 1 / f, so that
    every octave counts alike.

    Args:
        x: ``(B, C, H, W)``.
        low, high: frequencies to fit, in cycles/pixel; at least three rings must lie in between.
        window: see :func:`radial_power_spectrum`.

    Returns:
        ``(B,)`` float64.

    Raises:
        ValueError: too few rings, or an image without any power in one of them (a flat image).
    """
    frequencies, power = radial_power_spectrum(x, window=window)
    used = (frequencies >= low) & (frequencies <= high)
    if used.sum() < 3:
        raise ValueError(
            f"low, high: only {int(used.sum())} rings lie in [{low:.4g}, {high:.4g}] cycles/pixel of an image of "
            f"{x.shape[-2]} x {x.shape[-1]}, a slope needs 3; widen the range or take a larger image"
        )
    power = power[:, used]
    rounding = 10 * torch.finfo(_at_least_float32(x).dtype).eps
    if (power.amin(1) <= rounding**2 * x.double().square().mean((1, 2, 3))).any():
        raise ValueError("x: an image has no power at some frequency (is it flat?), so its slope is undefined")
    weight = 1 / frequencies[used]
    weight = weight / weight.sum()
    log_f, log_p = frequencies[used].log(), power.log()
    log_f, log_p = log_f - (weight * log_f).sum(), log_p - (weight * log_p).sum(1, keepdim=True)
    return (weight * log_f * log_p).sum(1) / (weight * log_f.square()).sum()


# --- band filters ----------------------------------------------------------------------------------------------------


def _low_pass_response(f: Tensor, cutoff: float, softness: float) -> Tensor:
    """1 below the cutoff, 0 from it on; with ``softness`` > 0 a half cosine of that width, centred on the cutoff."""
    if cutoff == 0 or math.isinf(cutoff):
        return torch.full_like(f, float(cutoff > 0))
    if softness == 0:
        return (f < cutoff).to(f.dtype)
    ramp = ((f - cutoff) / softness + 0.5).clamp(0, 1)
    return (1 + torch.cos(math.pi * ramp)) / 2


def band_response(
    H: int, W: int, low: float, high: float, softness: float = 0.0, device: torch.device | str = "cpu"
) -> Tensor:
    """Frequency response ``(H, W)`` in [0, 1] of the radial band ``low <= f < high`` (cycles/pixel), float64.

    Adjacent bands with one softness add up to one: the response is the difference of two low-pass responses.

    Args:
        H, W: sides of the image.
        low, high: ``0 <= low < high``. ``low = 0`` includes the mean; ``high = math.inf`` everything up to the corners
            (0.707), whereas ``high = 0.5`` leaves the Nyquist frequency and the corners out.
        softness: width in cycles/pixel of the half-cosine flank at either edge; 0 cuts hard (and rings).
    """
    if not 0 <= low < high:
        raise ValueError(f"low, high: must satisfy 0 <= low < high (cycles/pixel), got low={low}, high={high}")
    if not 0 <= softness < math.inf:
        raise ValueError(f"softness: must be >= 0 and finite (cycles/pixel), got {softness}")
    f = radial_frequency(H, W, device)
    return _low_pass_response(f, high, softness) - _low_pass_response(f, low, softness)


def band_filter(x: Tensor, low: float = 0.0, high: float = math.inf, softness: float = 0.0) -> Tensor:
    """Keep the frequencies from ``low`` to ``high`` of ``(B, C, H, W)``; see :func:`band_response`.

    Borders are periodic. With hard edges this is an orthogonal projection: filtering twice changes nothing.
    """
    images.check_layout(x)
    H, W = x.shape[-2:]
    X = torch.fft.rfft2(_at_least_float32(x), norm="ortho")  # (B, C, H, W // 2 + 1)
    response = band_response(H, W, low, high, softness, x.device)[:, : W // 2 + 1]
    return torch.fft.irfft2(X * response.to(X.real.dtype), s=(H, W), norm="ortho").to(x.dtype)


def split_bands(x: Tensor, edges: Sequence[float], softness: float = 0.0) -> list[Tensor]:
    """Split ``(B, C, H, W)`` at increasing frequencies into ``len(edges) + 1`` bands, low to high, that add up to x."""
    limits = [0.0, *edges, math.inf]
    return [band_filter(x, low, high, softness) for low, high in itertools.pairwise(limits)]


# --- deconvolution ---------------------------------------------------------------------------------------------------


def _check_kernel(kernel: Tensor, B: int) -> Tensor:
    """The kernels as ``(1 or B, k, k)`` float64; TypeError or ValueError unless they are blurs for B images."""
    if not isinstance(kernel, Tensor) or not kernel.is_floating_point():
        got = getattr(kernel, "dtype", type(kernel).__name__)
        raise TypeError(f"kernel: expected a floating-point tensor (k, k) or (B, k, k), got {got}")
    shape = tuple(kernel.shape)
    if kernel.ndim not in (2, 3) or shape[-1] != shape[-2] or shape[-1] % 2 == 0:
        raise ValueError(f"kernel: expected (k, k) or (B, k, k) with k odd, got shape {shape}")
    if kernel.ndim == 3 and shape[0] not in (1, B):
        raise ValueError(f"kernel: expected one kernel or one per image ({B}), got {shape[0]}")
    kernel = kernel.reshape(-1, *shape[-2:]).double()
    total = kernel.sum((-2, -1))
    if not bool(((total - 1).abs() < KERNEL_TOLERANCE).all()):  # NaN and infinity land here, too
        raise ValueError(f"kernel: must be finite and sum to 1, got sums {total.tolist()}; divide by kernel.sum()")
    return kernel


def _correlation_response(kernel: Tensor, H: int, W: int) -> Tensor:
    """Response ``(B, H, W // 2 + 1)`` of correlation with kernels ``(B, k, k)`` on a periodic image of any size."""
    B, k, _ = kernel.shape
    offsets = torch.arange(k, device=kernel.device) - k // 2
    wrapped = kernel.new_zeros(B, H, k).index_add(1, offsets % H, kernel)
    wrapped = kernel.new_zeros(B, H, W).index_add(2, offsets % W, wrapped)
    return torch.fft.rfft2(wrapped).conj()


def wiener(y: Tensor, kernel: Tensor, tau: float, *, clip: bool = True) -> Tensor:
    """Deconvolve blurred images: ``conj(K) / (|K|^2 + tau f^2)`` times the spectrum, f in cycles/pixel.

    Wiener's linear estimate of least squared error, for a noise-to-signal ratio of ``tau f^2``: white noise, and images
    whose power falls as ``1 / f^2`` (Field 1987). ``tau`` grows with the variance of the noise. Frequency zero is left
    alone, so flat images stay as they are.

    The image is mirrored to twice its size, without repeating the edge. That undoes ``degradations.Blur`` up to the
    border if the kernel is symmetric about both axes; other kernels (walks, oblique lines) leave errors near it.

    Args:
        y: ``(B, C, H, W)`` in [0, 1].
        kernel: ``(k, k)``, or one per image ``(B, k, k)``; k odd, sum 1, of any size. Applied as a correlation, like
            ``degradations.Blur``.
        tau: positive; the smaller, the sharper and the noisier. Choose it on other images than those reported on.
        clip: clip to [0, 1] (default); False keeps the linear estimate, which overshoots at edges.

    Returns:
        ``(B, C, H, W)`` in the dtype of ``y``.

    Raises:
        TypeError, ValueError: from ``images.check_images``; a kernel of another shape or sum; ``tau`` out of range.
    """
    B, _, H, W = images.check_images(y, "y").shape
    kernel = _check_kernel(kernel, B)
    if not 0 < tau < math.inf:
        raise ValueError(f"tau: must be positive and finite, got {tau}")
    rows, columns = (images.reflect_indices(side, 0, side - 2).to(y.device) for side in (H, W))
    mirrored = _at_least_float32(y)[..., rows, :][..., columns]  # (B, C, 2 H - 2, 2 W - 2), periodic
    size = tuple(mirrored.shape[-2:])
    K = _correlation_response(kernel.to(y.device), *size)
    f = radial_frequency(*size, y.device)[:, : size[1] // 2 + 1]
    response = K.conj() / (K.abs().square() + tau * f.square())  # (1 or B, 2 H - 2, W)
    Y = torch.fft.rfft2(mirrored)
    x = torch.fft.irfft2(Y * response[:, None].to(Y.dtype), s=size)[..., :H, :W]
    return (x.clamp(0, 1) if clip else x).to(y.dtype)


# --- amplitude and phase ---------------------------------------------------------------------------------------------


def amplitude_phase(x: Tensor) -> tuple[Tensor, Tensor]:
    """``|X|`` and ``arg X`` in [-pi, pi] of the orthonormal spectrum: two real ``(B, C, H, W)``."""
    X = fft2(x)
    return X.abs(), X.angle()


def from_amplitude_phase(amplitude: Tensor, phase: Tensor) -> Tensor:
    """Real image ``(B, C, H, W)`` with this amplitude (even in frequency) and phase (odd); else ValueError."""
    images.check_same_shape(amplitude, phase, ("amplitude", "phase"))
    return ifft2(torch.polar(amplitude, phase))


def swap_amplitude_phase(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Exchange the spectra's amplitudes: (amplitude of a with phase of b, amplitude of b with phase of a).

    Both are real and look like the image that gave the *phase*. With noise for ``b``, the first result keeps the power
    spectrum of ``a`` and nothing else. Values may leave [0, 1].
    """
    images.check_same_shape(a, b, ("a", "b"))
    (amplitude_a, phase_a), (amplitude_b, phase_b) = amplitude_phase(a), amplitude_phase(b)
    return from_amplitude_phase(amplitude_a, phase_b), from_amplitude_phase(amplitude_b, phase_a)


# --- looking ---------------------------------------------------------------------------------------------------------


def log_spectrum(x: Tensor, decades: float = 5.0) -> Tensor:
    """Amplitude spectrum for display: logarithmic, zero frequency in the centre ``[H // 2, W // 2]``, in [0, 1].

    1 is the largest amplitude of each image, 0 an amplitude ``10 ** decades`` times smaller (or less). Axes:
    :func:`spectrum_extent`.

    Returns:
        ``(B, C, H, W)``, one spectrum for every channel; pass ``images.luma(x)`` for a single one.
    """
    if not decades > 0:
        raise ValueError(f"decades: must be positive, got {decades}")
    amplitude = torch.fft.fftshift(fft2(x).abs(), dim=(-2, -1))
    largest = amplitude.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(amplitude.dtype).tiny)
    return (1 + (amplitude / largest).log10() / decades).clamp(0, 1)
