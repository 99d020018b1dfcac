"""Image metrics against independent references (closed forms, scipy, piq), the METRICS table and `evaluate`."""

import math

import numpy as np
import piq
import pytest
import torch
from scipy import ndimage

from minirestore import metrics
from minirestore.metrics import METRICS, evaluate

IMAGE_METRICS = [name for name, entry in METRICS.items() if entry.needs == "images"]


def pair(height=64, width=48, channels=3, batch=2, noise=0.1, seed=0):
    """A smooth random image and a noisy copy, float64 in [0, 1]."""
    rng = np.random.default_rng(seed)
    target = ndimage.gaussian_filter(rng.random((batch, channels, height, width)), (0, 0, 1.5, 1.5))
    target = (target - target.min()) / (target.max() - target.min())
    prediction = (target + noise * rng.standard_normal(target.shape)).clip(0, 1)
    return torch.from_numpy(prediction), torch.from_numpy(target)


def pair_for(name, **kwargs):
    """A small pair that the metric accepts."""
    side = max(METRICS[name].minimum_side, 32)
    return pair(side, side, **kwargs)


def reference_ssim(x, y):
    """SSIM map and contrast-structure map of one channel, from Wang et al. 2004 with scipy and a mirrored border."""

    def local_mean(z):
        return ndimage.gaussian_filter(z, 1.5, mode="mirror", truncate=5 / 1.5)

    mx, my = local_mean(x), local_mean(y)
    vx, vy, cxy = local_mean(x * x) - mx**2, local_mean(y * y) - my**2, local_mean(x * y) - mx * my
    contrast = (2 * cxy + 9e-4) / (vx + vy + 9e-4)
    return (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4) * contrast, contrast


def reference_ms_ssim(x, y):
    """MS-SSIM of one grey image; contrast is averaged where the window does not meet the border."""
    product = 1.0
    for scale, beta in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        full, contrast = reference_ssim(x, y)
        product *= max(full.mean() if scale == 4 else contrast[5:-5, 5:-5].mean(), 0) ** beta
        x, y = (z[: len(z) // 2 * 2, : z.shape[1] // 2 * 2] for z in (x, y))
        x, y = ((z[::2, ::2] + z[1::2, ::2] + z[::2, 1::2] + z[1::2, 1::2]) / 4 for z in (x, y))
    return product


def test_psnr_of_a_constant_error():
    target = torch.full((2, 3, 8, 8), 0.5)
    prediction = target + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(metrics.psnr(prediction, target), torch.tensor([20.0, 40.0]).double(), atol=1e-4, rtol=0)
    assert metrics.psnr(target, target).tolist() == [math.inf, math.inf]


def test_ssim_equals_the_formula_and_averages_channels():
    prediction, target = pair()
    expected = [
        np.mean([reference_ssim(*c)[0] for c in zip(*image, strict=False)])
        for image in zip(prediction.numpy(), target.numpy(), strict=False)
    ]
    np.testing.assert_allclose(metrics.ssim(prediction, target), expected, rtol=0, atol=3e-6)  # float32


def test_ms_ssim_equals_the_formula():
    prediction, target = pair(190, 177, channels=1)
    expected = [reference_ms_ssim(p[0], t[0]) for p, t in zip(prediction.numpy(), target.numpy(), strict=False)]
    np.testing.assert_allclose(metrics.ms_ssim(prediction, target), expected, rtol=0, atol=3e-6)  # float32


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subsample", [True, False])
@pytest.mark.parametrize("size", [(64, 48), (16, 16), (17, 31), (33, 16)])
def test_haarpsi_equals_piq(channels, subsample, size):
    prediction, target = pair(*size, channels)
    expected = piq.haarpsi(prediction, target, reduction="none", subsample=subsample)
    measured = metrics.haarpsi(prediction, target, subsample=subsample)
    torch.testing.assert_close(measured, expected, atol=1e-11, rtol=0)


def test_haarpsi_of_black_images_is_one():
    black = torch.zeros(1, 3, 32, 32)
    assert metrics.haarpsi(black, black).item() == 1.0  # piq gives infinity


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 48), (6, 6), (17, 31), (9, 16)])
def test_gmsd_equals_piq(channels, size):
    prediction, target = pair(*size, channels)
    expected = piq.gmsd(prediction, target, reduction="none")
    torch.testing.assert_close(metrics.gmsd(prediction, target), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "name",
    ["ssim", "ms_ssim", "haarpsi", "gmsd", "psnr", "high_frequency_error", "spectrum_distance", "low_frequency_rmse"],
)
def test_more_noise_is_worse(name):
    scores = [METRICS[name].function(*pair_for(name, noise=noise, batch=1)) for noise in (0.02, 0.05, 0.15)]
    sign = 1 if METRICS[name].higher_is_better else -1
    assert (sign * torch.stack(scores).diff(dim=0) < 0).all()


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_identical_images_reach_the_best_value(name):
    target = pair_for(name)[1]
    zero = {"gmsd", "high_frequency_error", "spectrum_distance", "low_frequency_rmse", "colour_offset"}
    best = math.inf if name == "psnr" else 0.0 if name in zero else 1.0
    torch.testing.assert_close(METRICS[name].function(target, target), torch.full((2,), best, dtype=torch.float64))


def test_high_frequency_ratios_have_the_closed_forms():
    ramp = torch.arange(32.0).div(64).expand(1, 1, 32, 32)  # differences of 1/64 along the columns only
    checker = (torch.arange(32)[:, None] + torch.arange(32)) % 2 - 0.5
    fine = 0.1 * checker.expand(1, 1, 32, 32)
    target, prediction = ramp + 0.25, ramp + 0.25 + fine
    # Each 2 x 2 block: the ramp gives cV = 1/64, the checkerboard cD = 2 * .05.
    assert metrics.high_frequency_energy_ratio(prediction, target).item() == pytest.approx(1 + 0.1**2 * 64**2)
    assert metrics.high_frequency_error(prediction, target).item() == pytest.approx(0.1**2 * 64**2, rel=1e-5)
    across = sum((1 / 64 + sign * 0.1) ** 2 for sign in (1, -1)) / 2  # mean squared column difference, nearly
    exact = prediction[0, 0].diff(dim=1).square().sum() + 32 * 31 * 0.1**2
    assert metrics.gradient_energy_ratio(prediction, target).item() == pytest.approx(
        (exact / (32 * 31 / 64**2)).item(), rel=1e-5
    )
    assert exact.item() == pytest.approx(32 * 31 * (across + 0.1**2), rel=0.02)


def test_scaling_the_contrast_squares_the_energy_ratios():
    target = pair(33, 47)[1]
    for name in ("high_frequency_energy_ratio", "gradient_energy_ratio"):
        torch.testing.assert_close(METRICS[name].function(target / 2, target), torch.full((2,), 0.25).double())
    torch.testing.assert_close(metrics.high_frequency_error(target / 2, target), torch.full((2,), 0.25).double())


def test_spectrum_distance_is_the_change_of_log_power():
    target = pair(48, 40, noise=0)[1]
    # Half the contrast is a quarter of the power at every frequency.
    found = metrics.spectrum_distance(target / 2 + 0.25, target)
    torch.testing.assert_close(found, torch.full((2,), math.log10(4)).double())
    size = torch.arange(64)
    wave = torch.cos(2 * math.pi * 4 / 64 * size).expand(1, 3, 64, 64) / 8  # 1/16 cycles/pixel, below the range
    fine = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 4 + 0.3
    assert metrics.spectrum_distance(fine + wave, fine) < 0.02
    assert metrics.spectrum_distance(fine + wave.roll(1, -1) * torch.cos(math.pi * size), fine) > 0.1
    flat = torch.full((1, 3, 64, 64), 0.5)
    assert metrics.spectrum_distance(flat, flat) == 0 and math.isfinite(metrics.spectrum_distance(flat, fine))


def test_spectrum_distance_is_of_luma_under_a_window():
    from minirestore import images

    prediction, target = pair(32, 32)
    logs = []
    for x in (images.luma(prediction), images.luma(target)):
        window = np.sin(np.pi * (np.arange(32) + 0.5) / 32) ** 2
        x = x[:, 0].numpy()
        power = np.abs(np.fft.fft2((x - x.mean((1, 2), keepdims=True)) * np.outer(window, window))) ** 2
        u = np.fft.fftfreq(32) * 32
        ring = np.floor(np.hypot(u[:, None], u[None]) + 0.5)
        logs.append(np.log10([power[:, ring == k].mean(1) for k in range(4, 17)]))
    np.testing.assert_allclose(metrics.spectrum_distance(prediction, target), np.abs(logs[0] - logs[1]).mean(0))


def test_low_frequency_rmse_averages_cells_of_8_pixels():
    prediction, target = pair(20, 16)
    cells = [
        (prediction - target)[..., top : top + 8, left : left + 8].mean((2, 3)) for top in (0, 8, 16) for left in (0, 8)
    ]
    expected = torch.stack(cells).square().mean((0, 2)).sqrt()
    torch.testing.assert_close(metrics.low_frequency_rmse(prediction, target), expected)
    checker = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 0.2 - 0.1
    grey = torch.full((1, 3, 32, 32), 0.5)
    assert metrics.low_frequency_rmse(grey + checker, grey).item() == pytest.approx(0, abs=1e-7)
    assert metrics.low_frequency_rmse(grey + 0.1, grey).item() == pytest.approx(0.1)


def test_colour_offset_is_that_of_the_worst_channel():
    target = pair()[1] * 0.2 + 0.4
    offset = torch.tensor([[0.01, -0.2, 0.1], [0.0, 0.05, 0.0]]).view(2, 3, 1, 1)
    detail = torch.arange(48) % 2 * 0.2 - 0.1
    found = metrics.colour_offset(target + offset + detail, target)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.05]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["high_frequency_energy_ratio", "high_frequency_error", "gradient_energy_ratio"])
def test_a_flat_target_is_refused_and_named(name):
    prediction, target = pair()
    target[1] = 0.5
    with pytest.raises(ValueError, match=rf"{name}: .*\[1\].*flat"):
        METRICS[name].function(prediction, target)


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_per_image_float64_detached_and_independent_of_the_batch(name):
    prediction, target = pair_for(name)
    scores = METRICS[name].function(prediction.requires_grad_(), target)
    assert scores.shape == (2,) and scores.dtype == torch.float64 and not scores.requires_grad
    single = METRICS[name].function(prediction[1:2], target[1:2])
    torch.testing.assert_close(scores[1:2], single, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_low_precision_inputs_and_autocast_change_nothing(name):
    prediction, target = (x.float() for x in pair_for(name, batch=1))
    expected = METRICS[name].function(prediction.double(), target.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(METRICS[name].function(prediction, target), expected, rtol=1e-12, atol=0)
    half = prediction.half(), target.half()
    expected = METRICS[name].function(*(x.double() for x in half))
    torch.testing.assert_close(METRICS[name].function(*half), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_shapes_are_never_broadcast_and_ranges_are_checked(name):
    prediction, target = pair_for(name)
    metric = METRICS[name].function
    for wrong in (prediction[:1], prediction[:, :1], prediction[..., :1, :]):
        with pytest.raises(ValueError, match="same shape|at least 2 pixels"):
            metric(wrong, target)
    with pytest.raises(ValueError, match=r"prediction: values must lie in \[0, 1\]"):
        metric(prediction * 2 - 1, target)
    with pytest.raises(ValueError, match=r"target: .*\[0, 1\].*255"):
        metric(prediction, target * 255)
    with pytest.raises(ValueError, match="prediction: contains NaN"):
        metric(torch.where(prediction > 0.5, torch.nan, prediction), target)
    with pytest.raises(ValueError, match="permute"):
        metric(prediction.permute(0, 2, 3, 1), target.permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match="batch is empty"):
        metric(prediction[:0], target[:0])
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        metric(prediction.numpy(), target.numpy())


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_the_smallest_side_works_and_one_less_is_refused(name):
    side = METRICS[name].minimum_side
    assert torch.isfinite(METRICS[name].function(*pair(side, side + 3, batch=1))).all()
    if side > 2:
        with pytest.raises(
            ValueError, match=f"{name}: needs sides of at least {side} pixels, got {side + 3} x {side - 1}"
        ):
            METRICS[name].function(*pair(side + 3, side - 1, batch=1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu():
    prediction, target = pair(192, 192)
    for name in IMAGE_METRICS:
        expected = METRICS[name].function(prediction, target)
        measured = METRICS[name].function(prediction.cuda(), target.cuda())
        torch.testing.assert_close(measured, expected, rtol=1e-9, atol=1e-12)
        with pytest.raises(ValueError, match="move one with"):
            METRICS[name].function(prediction.cuda(), target)


def test_evaluate_files_each_result_under_its_id():
    prediction, target = pair()
    scores = evaluate(prediction, target, ["gmsd", "psnr"])
    assert list(scores) == ["gmsd", "psnr"]
    assert torch.equal(scores["psnr"], metrics.psnr(prediction, target))
    assert list(evaluate(prediction, target, "ssim")) == ["ssim"]
    with pytest.raises(ValueError, match="unknown id.*'pnsr'.*choose from psnr, ssim"):
        evaluate(prediction, target, ["pnsr"])
    with pytest.raises(ValueError, match="psnr is an image metric and takes no mask"):
        evaluate(prediction, target, ["psnr"], valid=torch.ones_like(target, dtype=torch.bool))


def test_evaluate_passes_the_mask_to_depth_metrics():
    target = torch.rand(1, 1, 8, 8) + 1
    prediction, valid = target.clone(), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    prediction[..., 0, 0], valid[..., 0, 0] = 100, False
    assert evaluate(prediction, target, ["abs_rel", "rmse"], valid) == {"abs_rel": 0, "rmse": 0}


def test_the_table_says_how_to_read_every_metric():
    assert {name for name, entry in METRICS.items() if entry.higher_is_better is None} == {
        "high_frequency_energy_ratio",
        "gradient_energy_ratio",
    }
    higher = {name for name, entry in METRICS.items() if entry.higher_is_better}
    assert higher == {"psnr", "ssim", "ms_ssim", "haarpsi", "delta1", "boundary_f1"}
    assert {entry.needs for entry in METRICS.values()} == {"images", "depth", "weights"}
    assert len({entry.label for entry in METRICS.values()}) == len(METRICS)
