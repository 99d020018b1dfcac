"""Fourier: Parseval, orthonormality, power and slope, partition of unity, deconvolution, phase, display."""

import itertools
import math

import numpy as np
import pytest
import torch

from minirestore import degradations, fourier, images, metrics, photos

SIZES = [(8, 8), (7, 10), (9, 5), (1, 6), (1, 1), (2, 3)]


def random_image(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def power_law_image(size, slope, seed=0):
    """Noise whose power is exactly ``ring ** slope`` on every ring that the spectrum averages over."""
    X = torch.fft.fft2(random_image(2, 1, *size, seed=seed))
    ring = (fourier.radial_frequency(*size) * max(size) + 0.5).floor()
    amplitude = ring.clamp(min=1) ** (slope / 2) * (ring > 0)
    return torch.fft.ifft2(X / X.abs() * amplitude, norm="ortho").real


# --- transform -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_fft_is_orthonormal_and_inverts(size):
    x = random_image(2, 3, *size)
    X = fourier.fft2(x)
    assert np.abs(X.numpy() - np.fft.fft2(x.numpy(), norm="ortho")).max() <= 1e-12
    assert X.abs().square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-13)
    assert (fourier.ifft2(X) - x).abs().max() <= 1e-13
    assert torch.allclose(X[..., 0, 0].real, x.mean((-2, -1)) * math.sqrt(size[0] * size[1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_transformed_in_float32(dtype):
    x = random_image(1, 1, 8, 8, dtype=dtype)
    assert torch.equal(fourier.fft2(x), fourier.fft2(x.float()))
    assert fourier.band_filter(x, 0.0, 0.25).dtype == dtype
    assert fourier.log_spectrum(x).isfinite().all()


def test_inverse_refuses_spectra_of_complex_images():
    X = fourier.fft2(random_image(1, 1, 8, 8))
    X[..., 2, 3] += 1
    with pytest.raises(ValueError, match="real image"):
        fourier.ifft2(X)
    with pytest.raises(TypeError, match="complex"):
        fourier.ifft2(X.real)


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (np.zeros((1, 1, 4, 4)), TypeError),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int64), TypeError),
        (torch.zeros(4, 4), ValueError),
        (torch.zeros(0, 1, 4, 4), ValueError),
        (torch.zeros(1, 1, 0, 4), ValueError),
    ],
)
@pytest.mark.parametrize("function", [fourier.fft2, fourier.band_filter, fourier.radial_power_spectrum])
def test_bad_input(function, x, error):
    with pytest.raises(error, match=r"^x: "):
        function(x)


# --- frequencies and power -------------------------------------------------------------------------------------------


def test_radial_frequency():
    f = fourier.radial_frequency(4, 6)
    assert f[0, 0] == 0
    assert f[2, 0] == 0.5
    assert f[0, 3] == 0.5
    assert f.max().item() == pytest.approx(math.sqrt(0.5))
    assert torch.equal(f, f.roll((-1, -1), (0, 1)).flip(0, 1))  # even: f(-u, -v) = f(u, v)


@pytest.mark.parametrize("size", [(32, 32), (31, 20), (2, 2), (9, 64)])
def test_rings_and_zero_frequency_hold_all_the_energy(size):
    x = random_image(3, 2, *size)
    frequencies, power = fourier.radial_power_spectrum(x, corners=True)
    f = fourier.radial_frequency(*size) * max(size)
    count = torch.tensor([((f >= k - 0.5) & (f < k + 0.5)).sum() for k in range(1, len(frequencies) + 1)])
    assert count.min() > 0
    energy = (power * count).sum(1) * 2 + fourier.fft2(x)[..., 0, 0].abs().square().sum(1)
    assert torch.allclose(energy, x.square().sum((1, 2, 3)), rtol=1e-12)
    shown, inside = fourier.radial_power_spectrum(x)
    assert shown.tolist() == [k / max(size) for k in range(1, max(size) // 2 + 1)]
    assert shown[-1] <= 0.5
    assert torch.equal(inside, power[:, : len(shown)])


def test_a_wave_appears_at_its_frequency_and_only_in_its_image():
    column = torch.arange(64, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * 8 / 64 * column).expand(1, 1, 64, 64)
    frequencies, power = fourier.radial_power_spectrum(torch.cat([wave, 0 * wave]))
    assert frequencies[power[0].argmax()] == 8 / 64
    assert power[0].sum() - power[0].max() <= 1e-20
    assert not power[1].any()


@pytest.mark.parametrize("window", [False, True])
def test_white_noise_is_flat_at_its_variance(window):
    power = fourier.radial_power_spectrum(0.3 * random_image(16, 3, 64, 64), window=window)[1]
    assert power[:, 2:].mean().item() == pytest.approx(0.09, rel=0.03)


@pytest.mark.parametrize("slope", [-3.0, -2.0, 0.0, 1.5])
@pytest.mark.parametrize("size", [(64, 64), (45, 70)])
def test_slope_of_an_exact_power_law(slope, size):
    x = power_law_image(size, slope)
    assert fourier.spectral_slope(x, window=False).tolist() == pytest.approx([slope] * 2, abs=1e-6)
    assert fourier.spectral_slope(3 * x, 0.1, 0.4, window=False).tolist() == pytest.approx([slope] * 2, abs=1e-6)


def test_window_removes_the_cross_of_the_borders():
    """A ramp has no fine detail, only a jump between opposite borders, whose power falls as 1 / f^2."""
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(1, 1, 64, 64)
    plain, windowed = (fourier.radial_power_spectrum(ramp, window=window)[1][0, 15:] for window in (False, True))
    assert (windowed < 1e-3 * plain).all()
    assert fourier.radial_power_spectrum(0 * ramp + 5, window=True)[1].max() <= 1e-20  # the mean does not leak


def test_slope_refuses_flat_and_tiny_images():
    for flat in (torch.full((1, 1, 32, 32), 0.7), torch.zeros(1, 1, 32, 32)):
        for window in (False, True):
            with pytest.raises(ValueError, match="flat"):
                fourier.spectral_slope(flat, window=window)
    with pytest.raises(ValueError, match="needs 3"):
        fourier.spectral_slope(random_image(1, 1, 4, 4))
    with pytest.raises(ValueError, match="at least 2 pixels"):
        fourier.radial_power_spectrum(random_image(1, 1, 1, 4))


# --- bands -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("softness", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("size", [*SIZES, (33, 40)])
def test_bands_are_a_partition_of_unity(size, softness):
    x = random_image(2, 3, *size)
    bands = fourier.split_bands(x, (0.1, 0.25, 0.5), softness)
    assert len(bands) == 4
    assert all(band.shape == x.shape for band in bands)
    assert (sum(bands) - x).abs().max() <= 1e-13
    limits = (0.0, 0.1, 0.25, 0.5, math.inf)
    responses = [fourier.band_response(*size, a, b, softness) for a, b in itertools.pairwise(limits)]
    assert all(response.min() >= 0 and response.max() <= 1 for response in responses)


@pytest.mark.parametrize("size", [(16, 16), (15, 22)])
def test_hard_band_is_an_orthogonal_projection_onto_its_frequencies(size):
    x, y = random_image(1, 1, *size), random_image(1, 1, *size, seed=1)
    once = fourier.band_filter(x, 0.1, 0.3)
    assert (fourier.band_filter(once, 0.1, 0.3) - once).abs().max() <= 1e-14
    assert (once * y).sum().item() == pytest.approx((x * fourier.band_filter(y, 0.1, 0.3)).sum().item(), abs=1e-12)
    f = fourier.radial_frequency(*size)
    inside = (f >= 0.1) & (f < 0.3)
    X, kept = fourier.fft2(x)[0, 0], fourier.fft2(once)[0, 0]
    assert (kept[inside] - X[inside]).abs().max() <= 1e-13
    assert kept[~inside].abs().max() <= 1e-13


def test_soft_edge_is_a_half_cosine_of_the_given_width():
    response = fourier.band_response(1, 200, 0.0, 0.25, softness=0.1)[0, :101]  # steps of 0.005
    assert (response[:41] == 1).all()
    assert response[60:].abs().max() <= 1e-15
    assert response[50].item() == pytest.approx(0.5)
    assert response[45].item() == pytest.approx(0.5 + math.sqrt(0.5) / 2)
    assert (response.diff() <= 0).all()


def test_mean_belongs_to_the_lowest_band_only():
    x = torch.full((1, 1, 8, 8), 0.4, dtype=torch.float64)
    assert torch.allclose(fourier.band_filter(x, 0.0, 0.1, 0.5), x * fourier.band_response(8, 8, 0, 0.1, 0.5)[0, 0])
    assert fourier.band_filter(x, 0.1).abs().max() <= 1e-15


def test_a_frequency_on_an_edge_belongs_to_the_upper_band():
    assert fourier.band_response(1, 8, 0.0, 0.25)[0, :5].tolist() == [1, 1, 0, 0, 0]
    assert fourier.band_response(1, 8, 0.25, 0.5)[0, :5].tolist() == [0, 0, 1, 1, 0]


def test_band_refuses():
    x = torch.zeros(1, 1, 8, 8)
    for low, high in ((0.3, 0.2), (-0.1, 0.2), (0.2, 0.2), (0.0, math.nan)):
        with pytest.raises(ValueError, match="low, high"):
            fourier.band_filter(x, low, high)
    for softness in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="softness"):
            fourier.band_filter(x, 0.1, 0.2, softness)


def test_gradients():
    x = random_image(1, 2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fourier.band_filter(x, 0.1, 0.3, 0.1), x)
    assert torch.autograd.gradcheck(lambda x: fourier.radial_power_spectrum(x, window=True)[1], x)
    assert torch.autograd.gradcheck(lambda x: fourier.ifft2(fourier.fft2(x)), x)


# --- deconvolution ---------------------------------------------------------------------------------------------------


def unit_image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [(16, 16), (7, 12), (13, 9), (2, 2), (2, 5), (3, 40)])
def test_wiener_inverts_the_blur_of_a_symmetric_kernel_up_to_the_border(size):
    x = unit_image(2, 3, *size)
    kernel = degradations.gaussian_kernel(9, torch.tensor([0.45, 0.6]), torch.tensor([0.6, 0.4]))
    y = degradations.Blur(kernel)(x)
    assert (y - x).abs().max() > 0.05
    restored = fourier.wiener(y, kernel, 1e-12, clip=False)
    assert restored.shape == x.shape
    assert (restored - x).abs().max() < 1e-6
    # each image has its own kernel, and one kernel serves all images
    assert (fourier.wiener(y, kernel.flip(0), 1e-12, clip=False) - x).abs().max() > 0.05
    once = fourier.wiener(degradations.Blur(kernel[0])(x), kernel[0], 1e-12, clip=False)
    assert (once - x).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(5, 6), (4, 3)])
def test_wiener_solves_its_least_squares_problem(size):
    """Dense reference: the x with the least ``|A x - y|^2 + tau |f X|^2`` on the mirrored, periodic image."""
    y, kernel, tau = unit_image(1, 1, *size), unit_image(3, 3, seed=1), 0.3
    kernel = kernel / kernel.sum()
    H, W = (2 * side - 2 for side in size)
    units = torch.eye(H * W, dtype=torch.float64).view(-1, H, W)
    blurred = sum(  # correlation: pixel i gathers from i + offset
        kernel[row, column] * units.roll((1 - row, 1 - column), (1, 2)) for row in range(3) for column in range(3)
    )
    A = blurred.flatten(1).T  # column j is the picture of unit vector j
    F = torch.fft.fft2(units, norm="ortho").flatten(1).T
    penalty = (F.conj().T @ (fourier.radial_frequency(H, W).flatten().square()[:, None] * F)).real
    rows, columns = (images.reflect_indices(side, 0, side - 2) for side in size)
    x = torch.linalg.solve(A.T @ A + tau * penalty, A.T @ y[0, 0][rows][:, columns].flatten()).view(H, W)
    estimate = fourier.wiener(y, kernel, tau, clip=False)[0, 0]
    assert (estimate - x[: size[0], : size[1]]).abs().max() < 1e-12


def test_wiener_undoes_a_shake_only_the_right_way_round():
    x = photos.crops("hubble", 65)
    kernel = degradations.walk_motion_kernel(2.5, 3)
    y = degradations.gaussian_noise(degradations.Blur(kernel)(x).clamp(0, 1), 1.0, 0)
    restored, turned = (fourier.wiener(y, k, 0.05) for k in (kernel, kernel.flip((0, 1))))
    assert (metrics.psnr(restored, x) > metrics.psnr(y, x) + 2).all()
    assert (metrics.psnr(turned, x) < metrics.psnr(y, x)).all()


@pytest.mark.parametrize("size", [(8, 11), (2, 3)])
@pytest.mark.parametrize("side", [1, 5, 21])  # the last reaches around the whole mirrored image
def test_wiener_keeps_the_mean(size, side):
    kernel = degradations.gaussian_kernel(side, 3.0, 1.0)
    flat = torch.full((1, 1, *size), 0.37, dtype=torch.float64)
    assert (fourier.wiener(flat, kernel, 100.0) - flat).abs().max() < 1e-13
    y = unit_image(1, 3, *size)
    ends = [torch.tensor([1.0, *[2.0] * (n - 2), 1.0], dtype=torch.float64) for n in size]  # the mirror counts twice
    weight = ends[0][:, None] * ends[1][None, :] / (ends[0].sum() * ends[1].sum())
    before, after = ((weight * z).sum((-2, -1)) for z in (y, fourier.wiener(y, kernel, 0.1, clip=False)))
    assert (after - before).abs().max() < 1e-13


def test_wiener_gives_up_more_with_a_larger_tau():
    y = unit_image(1, 1, 32, 32)
    contrast = [
        fourier.wiener(y, degradations.gaussian_kernel(7, 1.0), tau, clip=False).std() for tau in (0.01, 1, 100)
    ]
    assert contrast[0] > 2 * contrast[1] > 4 * contrast[2]


def test_wiener_range_and_precision():
    y, kernel = unit_image(1, 3, 16, 17), degradations.gaussian_kernel(7, 1.0)
    linear = fourier.wiener(y, kernel, 1e-3, clip=False)
    assert linear.min() < 0
    assert linear.max() > 1
    assert torch.equal(fourier.wiener(y, kernel, 1e-3), linear.clamp(0, 1))
    single = fourier.wiener(y.float(), kernel, 1e-3)
    assert single.dtype == torch.float32
    assert (single - linear.clamp(0, 1)).abs().max() < 1e-4
    half = fourier.wiener(y.bfloat16(), kernel, 1e-3)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, fourier.wiener(y.bfloat16().float(), kernel, 1e-3).bfloat16())


def test_wiener_refuses():
    y, kernel = torch.rand(2, 3, 8, 8), torch.full((3, 3), 1 / 9)
    for image, message in ((200 * y, "divide by 255"), (y[0], "4 dimensions"), (y * math.nan, "NaN"), (y[:0], "empty")):
        with pytest.raises(ValueError, match=rf"^y: .*{message}"):
            fourier.wiener(image, kernel, 1.0)
    wrong = {
        "k odd": (torch.full((4, 4), 1 / 16), torch.full((3, 5), 1 / 15), torch.ones(1), kernel[None, None]),
        "one per image": (kernel.expand(3, 3, 3),),
        "sum to 1": (9 * kernel, kernel - 1 / 9, kernel * math.nan, torch.stack([kernel, 2 * kernel])),
    }
    for message, kernels in wrong.items():
        for bad in kernels:
            with pytest.raises(ValueError, match=f"^kernel: .*{message}"):
                fourier.wiener(y, bad, 1.0)
    for bad in (kernel.numpy(), torch.ones(1, 1, dtype=torch.int64)):
        with pytest.raises(TypeError, match="^kernel: "):
            fourier.wiener(y, bad, 1.0)
    for tau in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="^tau: "):
            fourier.wiener(y, kernel, tau)


# --- amplitude and phase ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_split_inverts_and_swap_exchanges_exactly(size):
    a, b = random_image(2, 3, *size), random_image(2, 3, *size, seed=1)
    amplitude, phase = fourier.amplitude_phase(a)
    assert amplitude.min() >= 0
    assert phase.abs().max() <= math.pi
    assert (fourier.from_amplitude_phase(amplitude, phase) - a).abs().max() <= 1e-13
    like_b, like_a = fourier.swap_amplitude_phase(a, b)
    assert like_b.dtype == torch.float64
    assert not like_b.is_complex()
    X, A, B = fourier.fft2(like_b), fourier.fft2(a), fourier.fft2(b)
    assert (X - A.abs() * B / B.abs()).abs().max() <= 1e-12
    assert (fourier.fft2(like_a) - B.abs() * A / A.abs()).abs().max() <= 1e-12
    again = fourier.swap_amplitude_phase(like_b, like_a)
    assert (again[0] - a).abs().max() <= 1e-12
    assert (again[1] - b).abs().max() <= 1e-12


def test_phase_carries_the_image():
    """Oppenheim and Lim: the hybrid correlates with the image that gave the phase."""
    a, b = torch.zeros(2, 1, 1, 32, 32, dtype=torch.float64)
    a[..., 8:20, 5:15], b[..., 18:29, 14:30] = 1, 1
    hybrid = fourier.swap_amplitude_phase(a, b)[0]

    def correlation(x, y):
        return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]

    assert correlation(hybrid, b) > 0.5 > correlation(hybrid, a) + 0.3


def test_amplitude_phase_refuses():
    a = random_image(1, 1, 8, 8)
    with pytest.raises(ValueError, match="same shape"):
        fourier.swap_amplitude_phase(a, a[..., :4])
    amplitude, phase = fourier.amplitude_phase(a)
    with pytest.raises(ValueError, match="real image"):
        fourier.from_amplitude_phase(amplitude, phase + 1)


# --- display ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 1)])
def test_log_spectrum_is_centred_and_calibrated(size):
    H, W = size
    x = torch.zeros(2, 1, H, W, dtype=torch.float64)
    x[0] = 3.0
    x[1, 0, 0, 0] = 1
    view = fourier.log_spectrum(x)
    assert view.shape == x.shape
    assert view[0, 0, H // 2, W // 2] == 1
    assert view[0].sum() == 1
    assert torch.allclose(view[1], torch.ones_like(view[1]))  # an impulse: white, scaled by its own maximum
    assert not fourier.log_spectrum(torch.zeros(1, 1, 4, 4)).any()


def test_log_spectrum_counts_decades():
    column = torch.arange(16, dtype=torch.float64)
    x = (1 + 2 * 1e-2 * torch.cos(2 * math.pi * 3 / 16 * column)).expand(1, 1, 16, 16)
    assert fourier.log_spectrum(x, decades=4)[0, 0, 8, 8 + 3].item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="decades"):
        fourier.log_spectrum(x, 0)


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (8, 5)])
def test_extent_puts_zero_in_the_middle_of_the_centre_pixel(size):
    H, W = size
    left, right, bottom, top = fourier.spectrum_extent(H, W)
    columns = left + (torch.arange(W, dtype=torch.float64) + 0.5) / W * (right - left)
    rows = top + (torch.arange(H, dtype=torch.float64) + 0.5) / H * (bottom - top)
    assert torch.allclose(columns, torch.fft.fftshift(torch.fft.fftfreq(W, dtype=torch.float64)), atol=1e-12)
    assert torch.allclose(rows, torch.fft.fftshift(torch.fft.fftfreq(H, dtype=torch.float64)), atol=1e-12)
