"""Full-reference image metrics: fidelity, structure, perceptual similarity and high-frequency content.

Every metric takes a prediction and a target, float ``(B, C, H, W)`` in [0, 1] of one shape, and gives one number per
image: a float64 tensor ``(B,)`` on the CPU. Nothing is broadcast, averaged over the batch or computed in half
precision. Colour images are compared in RGB unless a docstring says otherwise; for the Y-channel numbers that many
super-resolution papers print, pass ``images.luma`` of both.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore import fourier, images, wavelets

SSIM_WINDOW = 11
MS_SSIM_SIDE = 176
HAARPSI_SIDE = 16
HAARPSI_SCALES = 3
HAARPSI_C = 30.0
HAARPSI_ALPHA = 4.2
GMSD_SIDE = 6
GMSD_T = 170 / 255**2
SPECTRUM_FROM = 0.125  # cycles/pixel, a quarter of the Nyquist frequency
SPECTRUM_FLOOR = 1e-12  # a millionth of the power that rounding to 8 bit adds
LOW_FREQUENCY_CELL = 8
# Chroma rows of the RGB to YIQ matrix; its first row is images.LUMA_BT601.
YIQ_CHROMA = ((0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def full_precision(metric: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run ``metric(prediction, target, ...)`` without gradients and outside autocast, whatever the caller set."""

    @functools.wraps(metric)
    def run(prediction: Tensor, target: Tensor, *args, **kwargs):
        device = prediction.device.type if isinstance(prediction, Tensor) else "cpu"
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return metric(prediction, target, *args, **kwargs)

    return run


def as_float64(x: Tensor) -> Tensor:
    """``x`` in double precision, on the CPU where its device has none (Apple's MPS)."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def check_pair(prediction: Tensor, target: Tensor, metric: str, minimum_side: int = 2) -> tuple[Tensor, Tensor]:
    """Check two batches of images against each other and return them in float64.

    Raises:
        TypeError, ValueError: from ``images.check_images`` for either; shapes or devices that differ; a side shorter
            than ``minimum_side``.
    """
    images.check_images(prediction, "prediction")
    images.check_images(target, "target")
    images.check_same_shape(prediction, target, ("prediction", "target"))
    if prediction.device != target.device:
        raise ValueError(
            f"prediction is on {prediction.device} and target on {target.device}; move one with .to(device)"
        )
    H, W = target.shape[-2:]
    if min(H, W) < minimum_side:
        raise ValueError(f"{metric}: needs sides of at least {minimum_side} pixels, got {H} x {W}; use larger images")
    return as_float64(prediction), as_float64(target)


@full_precision
def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, ``10 log10(1 / MSE)``, over all channels of each image; higher is better.

    Identical images give infinity. Clip a prediction to [0, 1] first, as one would to save it.

    Returns:
        ``(B,)`` float64, computed by torchmetrics.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    prediction, target = check_pair(prediction, target, "psnr")
    return peak_signal_noise_ratio(prediction, target, data_range=1.0, reduction="none", dim=(1, 2, 3)).cpu()


@full_precision
def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity, at most 1; higher is better.

    ``(2 mu_x mu_y + c1) (2 s_xy + c2) / ((mu_x^2 + mu_y^2 + c1) (s_x^2 + s_y^2 + c2))`` with local moments under an
    11 x 11 Gaussian (sigma 1.5), ``c1 = .01^2``, ``c2 = .03^2``, averaged over pixels (mirrored at the border) and
    channels. Source: Wang et al. 2004, computed by torchmetrics in float32 (PyTorch's float64 convolution is an
    order of magnitude slower), exact to a few 1e-6.

    Returns:
        ``(B,)`` float64. Sides below 11 px raise ValueError.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    pair = [image.float() for image in check_pair(prediction, target, "ssim", SSIM_WINDOW)]
    return structural_similarity_index_measure(*pair, data_range=1.0, reduction="none").cpu().double()


@full_precision
def ms_ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Multi-scale structural similarity in [0, 1]; higher is better.

    The product over five dyadic scales of the contrast-structure term to the power ``beta_j``, and of the whole SSIM
    at the coarsest, ``beta = (.0448, .2856, .3001, .2363, .1333)``; negative terms count as 0. Source: Wang,
    Simoncelli and Bovik 2003, computed by torchmetrics in float32.

    Returns:
        ``(B,)`` float64. Sides below 176 px (11 at the coarsest scale) raise ValueError.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    pair = [image.float() for image in check_pair(prediction, target, "ms_ssim", MS_SSIM_SIDE)]
    return multiscale_structural_similarity_index_measure(*pair, data_range=1.0, reduction="none").cpu().double()


def _similarity(a: Tensor, b: Tensor, constant: float) -> Tensor:
    """``(2 a b + c) / (a^2 + b^2 + c)``: 1 where equal, towards 0 where one is much larger."""
    return (2 * a * b + constant) / (a**2 + b**2 + constant)


def _halve(x: Tensor) -> Tensor:
    """2 x 2 box average with stride 2; an odd side gets one row or column of zeros first."""
    H, W = x.shape[-2:]
    return F.avg_pool2d(F.pad(x, (0, W % 2, 0, H % 2)), 2)


def _haar_details(x: Tensor, scale: int) -> Tensor:
    """Undecimated Haar detail magnitudes ``(B, 1, H, W) -> (B, 2, H, W)``: across rows, across columns.

    The scale-j filters have length ``2^j``: low pass = j-fold Kronecker product of ``dec_lo``, high pass = ``dec_hi``
    stretched over the low pass of the scale below. Zeros lie outside the image.
    """
    dec_lo, dec_hi = wavelets.filter_bank("haar", x.dtype, x.device)[:2]
    finer = functools.reduce(torch.kron, [dec_lo] * (scale - 1), torch.ones_like(dec_lo[:1]))
    low, high = torch.kron(dec_lo, finer), torch.kron(dec_hi, finer)
    before, after = len(low) // 2 - 1, len(low) // 2
    x = F.pad(x, (before, after, before, after))
    bands = [
        F.conv2d(F.conv2d(x, rows.view(1, 1, -1, 1)), columns.view(1, 1, 1, -1))
        for rows, columns in ((high, low), (low, high))
    ]
    return torch.cat(bands, 1).abs()


def _chroma(x: Tensor) -> Tensor:
    """I and Q of the YIQ colour space: ``(B, 3, H, W) -> (B, 2, H, W)``."""
    return torch.einsum("kc,bchw->bkhw", torch.tensor(YIQ_CHROMA, dtype=x.dtype, device=x.device), x)


@full_precision
def haarpsi(prediction: Tensor, target: Tensor, *, subsample: bool = True) -> Tensor:
    """Haar wavelet perceptual similarity index in (0, 1]; higher is better. Needs no trained weights.

    Luma is compared where either image has coarse detail: with undecimated Haar magnitudes ``g_j`` (scales 1 to 3,
    two orientations), ``S = (2 g g' + C) / (g^2 + g'^2 + C)`` is averaged over scales 1 and 2, weighted by the larger
    ``g_3``; colour images add the similarity of I and Q, weighted by the mean of both orientations:
    ``HaarPSI = l^-1(sum w l(S) / sum w)^2``, ``l`` the logistic function of slope 4.2, ``C = 30`` on the 0-255 scale.
    Source: Reisenhofer et al. 2018, equations 1-13. A pair of black images, where all weights vanish, scores 1.

    Args:
        prediction, target: ``(B, 1 or 3, H, W)`` in [0, 1].
        subsample: halve both first, for the usual viewing distance (as published).

    Returns:
        ``(B,)`` float64. Sides below 16 px raise ValueError.
    """
    prediction, target = check_pair(prediction, target, "haarpsi", HAARPSI_SIDE)
    pair = []
    for x in (prediction * 255, target * 255):
        x = torch.cat([images.luma(x), _chroma(x)], 1) if x.shape[1] == 3 else x  # (B, 3, H, W): Y, I, Q
        pair.append(_halve(x) if subsample else x)
    details = [[_haar_details(x[:, :1], scale) for scale in range(1, HAARPSI_SCALES + 1)] for x in pair]
    weight = torch.maximum(details[0][2], details[1][2])  # (B, 2, H, W)
    similarity = sum(_similarity(details[0][j], details[1][j], HAARPSI_C) for j in (0, 1)) / 2
    if prediction.shape[1] == 3:
        iq = [F.avg_pool2d(F.pad(x[:, 1:], (0, 1, 0, 1)), 2, stride=1).abs() for x in pair]
        similarity = torch.cat([similarity, _similarity(*iq, HAARPSI_C).mean(1, keepdim=True)], 1)  # (B, 3, H, W)
        weight = torch.cat([weight, weight.mean(1, keepdim=True)], 1)
    total = weight.sum((1, 2, 3))
    mean = ((similarity * HAARPSI_ALPHA).sigmoid() * weight).sum((1, 2, 3)) / total
    return torch.where(total > 0, (mean.logit() / HAARPSI_ALPHA) ** 2, torch.ones_like(total)).cpu()


@full_precision
def gmsd(prediction: Tensor, target: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation: 0 for identical images; lower is better.

    The standard deviation over pixels of ``(2 g g' + T) / (g^2 + g'^2 + T)``, ``g`` the Prewitt gradient magnitude of
    the halved luma and ``T = 170 / 255^2``. Source: Xue et al. 2014, equations 1-6. It measures how *unevenly* an
    image is degraded: damage spread equally over all pixels scores well.

    Returns:
        ``(B,)`` float64. Sides below 6 px raise ValueError.
    """
    prediction, target = check_pair(prediction, target, "gmsd", GMSD_SIDE)
    across = prediction.new_tensor([-1, 0, 1]).repeat(3, 1) / 3  # (3, 3)
    kernels = torch.stack([across, across.T])[:, None]  # (2, 1, 3, 3)
    magnitude = [
        F.conv2d(_halve(images.luma(x)), kernels, padding=1).square().sum(1).sqrt() for x in (prediction, target)
    ]
    return _similarity(*magnitude, GMSD_T).std((1, 2), correction=0).cpu()


def _high_frequency_energy(x: Tensor) -> Tensor:
    """Sum of squares of the three finest orthonormal Haar detail bands of each image: ``(B, C, H, W) -> (B,)``."""
    details = wavelets.dwt2(x, "haar", odd="pad")[1]
    return sum(band.square().sum((1, 2, 3)) for band in details)


def _gradient_energy(x: Tensor) -> Tensor:
    """Sum of squared forward differences along rows and columns of each image: ``(B, C, H, W) -> (B,)``."""
    return x.diff(dim=2).square().sum((1, 2, 3)) + x.diff(dim=3).square().sum((1, 2, 3))


def _relative(energy: Tensor, reference: Tensor, metric: str) -> Tensor:
    """``energy / reference``, refused where the target has nothing to compare with."""
    flat = (reference <= 1e-20).nonzero().flatten().tolist()
    if flat:
        raise ValueError(f"{metric}: target image(s) {flat} are flat: the ratio is undefined; drop them")
    return (energy / reference).cpu()


@full_precision
def high_frequency_energy_ratio(prediction: Tensor, target: Tensor) -> Tensor:
    """Energy of the finest wavelet details of the prediction over that of the target: 1 is right.

    ``R = sum(cH^2 + cV^2 + cD^2)(prediction) / sum(cH^2 + cV^2 + cD^2)(target)``, one level of the orthonormal Haar
    transform (odd sides repeat their last sample), all channels. Below 1 is over-smooth; above 1 is noise or invented
    detail. It sees how much detail there is, not whether it is the right one: read it beside `high_frequency_error`.

    Returns:
        ``(B,)`` float64. Flat targets raise ValueError.
    """
    prediction, target = check_pair(prediction, target, "high_frequency_energy_ratio")
    energies = _high_frequency_energy(prediction), _high_frequency_energy(target)
    return _relative(*energies, "high_frequency_energy_ratio")


@full_precision
def high_frequency_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Energy of the finest wavelet details of the *difference*, over that of the target: 0 is right; lower is better.

    1 is as bad as having no fine detail at all; above 1 the detail is there but wrong. Same transform as
    `high_frequency_energy_ratio`.

    Returns:
        ``(B,)`` float64. Flat targets raise ValueError.
    """
    prediction, target = check_pair(prediction, target, "high_frequency_error")
    energies = _high_frequency_energy(prediction - target), _high_frequency_energy(target)
    return _relative(*energies, "high_frequency_error")


@full_precision
def gradient_energy_ratio(prediction: Tensor, target: Tensor) -> Tensor:
    """Gradient energy of the prediction over that of the target: 1 is right, below 1 over-smooth.

    ``sum |grad prediction|^2 / sum |grad target|^2`` with forward differences inside the image, all channels. Against
    `high_frequency_energy_ratio` it also counts detail at middle frequencies: by Parseval a frequency f weighs
    ``4 sin^2(pi f)`` along each axis.

    Returns:
        ``(B,)`` float64. Flat targets raise ValueError.
    """
    prediction, target = check_pair(prediction, target, "gradient_energy_ratio")
    return _relative(_gradient_energy(prediction), _gradient_energy(target), "gradient_energy_ratio")


@full_precision
def spectrum_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """How far apart two power spectra are at high frequencies, in decades: 0 is right; lower is better.

    The mean of ``|log10 P(prediction) - log10 P(target)|`` over the rings of `fourier.radial_power_spectrum` from 0.125
    to 0.5 cycles/pixel (a quarter of the Nyquist frequency up to it), luma, Hann window. Powers below 1e-12 count as
    1e-12. Like `high_frequency_energy_ratio` it sees how much detail there is, not whether it is the right one.

    Returns:
        ``(B,)`` float64.
    """
    logs = []
    for x in check_pair(prediction, target, "spectrum_distance"):
        frequencies, power = fourier.radial_power_spectrum(images.luma(x), window=True)
        logs.append(power[:, frequencies >= SPECTRUM_FROM].clamp(min=SPECTRUM_FLOOR).log10())
    return (logs[0] - logs[1]).abs().mean(1).cpu()


@full_precision
def low_frequency_rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Root mean squared error of the means of 8 x 8 cells, over all channels: 0 is right; lower is better.

    What remains of an error when detail is averaged away: shading and colour. Cells that the right or lower border cuts
    are averaged over the pixels they have.

    Returns:
        ``(B,)`` float64, in [0, 1]. Sides below 8 px raise ValueError.
    """
    prediction, target = check_pair(prediction, target, "low_frequency_rmse", LOW_FREQUENCY_CELL)
    cells = F.avg_pool2d(prediction - target, LOW_FREQUENCY_CELL, ceil_mode=True)
    return cells.square().mean((1, 2, 3)).sqrt().cpu()


@full_precision
def colour_offset(prediction: Tensor, target: Tensor) -> Tensor:
    """Largest difference, among the channels, of an image's mean from that of the target: 0 is right; lower is better.

    Returns:
        ``(B,)`` float64, in [0, 1].
    """
    prediction, target = check_pair(prediction, target, "colour_offset")
    return (prediction - target).mean((2, 3)).abs().amax(1).cpu()
