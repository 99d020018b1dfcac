"""Degradations: parity with the released implementation, exact adjoints, ranges, records and edge cases."""

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirestore import degradations as D
from minirestore import metrics, photos
from minirestore.degradations import domains, pipelines
from minirestore.degradations.compression import CHROMINANCE_TABLE, LUMINANCE_TABLE
from minirestore.degradations.operators import RESIZE_MODES

PI = math.pi


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(Path(__file__).parent / "golden" / "diffbir" / "degradation.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


# ----------------------------------------------------------------------------------------------- kernels

KERNELS = {
    "gauss/iso_k21_s1.3": lambda: D.gaussian_kernel(21, 1.3),
    "gauss/iso_k41_s0.1": lambda: D.gaussian_kernel(41, 0.1),
    "gauss/aniso_k21": lambda: D.gaussian_kernel(21, 2.5, 0.8, 0.6),
    "gauss/aniso_k41": lambda: D.gaussian_kernel(41, 11.0, 2.0, -2.1),
    "sinc/c1.0472_k7_pad0": lambda: D.sinc_kernel(7, PI / 3),
    "sinc/c0.6283_k13_pad0": lambda: D.sinc_kernel(13, PI / 5),
    "sinc/c2.2000_k21_pad0": lambda: D.sinc_kernel(21, 2.2),
    "sinc/c1.0472_k9_pad21": lambda: D.pad_kernel(D.sinc_kernel(9, PI / 3), 21),
    "sinc/c3.1416_k21_pad0": lambda: D.sinc_kernel(21, PI),
}
for beta in (0.5, 1.7, 4.0):
    for family, function in (("gengauss", D.generalized_gaussian_kernel), ("plateau", D.plateau_kernel)):
        KERNELS[f"{family}/iso_k15_s2_b{beta}"] = lambda f=function, b=beta: f(15, b, 2.0)
        KERNELS[f"{family}/aniso_k15_sx2.5_sy1_t0.9_b{beta}"] = lambda f=function, b=beta: f(15, b, 2.5, 1.0, 0.9)


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_equals_the_released_implementation(golden, name):
    assert largest_difference(KERNELS[name](), golden[f"kernel/{name}"]) < 1e-12


def test_every_golden_kernel_is_compared(golden):
    assert {key.removeprefix("kernel/") for key in golden if key.startswith("kernel/")} == set(KERNELS)


@pytest.mark.parametrize(
    "kernel",
    [
        D.gaussian_kernel(9, torch.tensor([0.5, 3.0])),
        D.linear_motion_kernel(torch.tensor([1.0, 8.3, 15.0]), torch.tensor([0.0, 0.7, 2.0])),
        D.disk_kernel(torch.tensor([0.0, 2.5])),
        D.walk_motion_kernel(3.0, 0),
    ],
    ids=["gaussian", "linear", "disk", "walk"],
)
def test_kernels_are_non_negative_normalised_and_centred(kernel):
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    axis = torch.arange(kernel.shape[-1], dtype=torch.float64) - kernel.shape[-1] // 2
    assert kernel.min() >= 0
    assert kernel.dtype == torch.float64
    torch.testing.assert_close(kernel.sum((-2, -1)), torch.ones(len(kernel), dtype=torch.float64))
    assert float((kernel.sum(-2) @ axis).abs().max()) < 0.02
    assert float((kernel.sum(-1) @ axis).abs().max()) < 0.02


def test_batched_parameters_give_one_kernel_each():
    sigma, theta = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 0.3, 1.2])
    batch = D.gaussian_kernel(21, sigma, 1.5, theta)
    for kernel, s, t in zip(batch, sigma, theta, strict=True):
        torch.testing.assert_close(kernel, D.gaussian_kernel(21, float(s), 1.5, float(t)))


def test_linear_motion_covers_whole_pixels():
    torch.testing.assert_close(D.linear_motion_kernel(5.0)[3], torch.tensor([0, 1, 1, 1, 1, 1, 0]).double() / 5)
    torch.testing.assert_close(D.linear_motion_kernel(5.0, PI / 2), D.linear_motion_kernel(5.0).T)
    downwards = D.linear_motion_kernel(9.0, PI / 4)
    assert downwards[2, 2] > 0.05
    assert downwards[2, -3] < 1e-9


@pytest.mark.parametrize("radius", [2.0, 4.0])
def test_blur_models_of_equal_severity_have_equal_rms_radius(radius):
    line = D.linear_motion_kernel(math.sqrt(12 * radius**2 - 2), 0.4)
    disk = D.disk_kernel(math.sqrt(2) * radius)
    walks = torch.stack([D.rms_radius(D.walk_motion_kernel(radius, seed)) for seed in range(5)])
    for measured in (D.rms_radius(line), D.rms_radius(disk), *walks):
        assert float(measured) == pytest.approx(radius, rel=0.04)


def test_walks_differ_by_seed_and_repeat_by_seed():
    assert torch.equal(D.walk_motion_kernel(3.0, 5, size=31), D.walk_motion_kernel(3.0, 5, size=31))
    assert not torch.equal(D.walk_motion_kernel(3.0, 5, size=31), D.walk_motion_kernel(3.0, 6, size=31))


def test_sinc_passes_below_its_cutoff_and_stops_above():
    response = torch.fft.fft2(D.sinc_kernel(101, PI / 3)).abs()
    assert abs(float(response[0, 10]) - 1) < 0.06  # 10/101 cycles = 0.2 pi
    assert float(response[0, 30]) < 0.06  # 0.6 pi


# ----------------------------------------------------------------------------------------------- operators

KERNEL_PAIR = torch.stack([D.pad_kernel(D.walk_motion_kernel(2.0, seed, size=15), 15) for seed in (0, 1)])
OPERATORS = {
    "blur": (D.Blur(KERNEL_PAIR), (13, 18), (13, 18)),
    "blur wider than the image": (D.Blur(KERNEL_PAIR), (2, 5), (2, 5)),
    "motion": (D.MotionBlur(torch.tensor([5.0, 9.0]), torch.tensor([0.3, 2.0])), (13, 18), (13, 18)),
    "rotation": (D.SpatiallyVaryingBlur.rotation((13, 18), 0.3, (2.0, 15.0)), (13, 18), (13, 18)),
    "downsample": (D.Downsample((13, 18), 4, KERNEL_PAIR), (13, 18), (4, 5)),
}
for mode in RESIZE_MODES:
    OPERATORS[f"resize {mode} down"] = (D.Resize((13, 18), (5, 7), mode), (13, 18), (5, 7))
    OPERATORS[f"resize {mode} up"] = (D.Resize((5, 7), (13, 18), mode), (5, 7), (13, 18))
OPERATORS["resize antialias"] = (D.Resize((13, 18), (5, 7), "bicubic", antialias=True), (13, 18), (5, 7))


def inner(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum())


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_is_exact(name):
    operator, size, new_size = OPERATORS[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 3, *new_size, generator=generator, dtype=torch.float64)
    forward, backward = operator(x), operator.adjoint(y)
    assert forward.shape == y.shape
    assert backward.shape == x.shape
    assert abs(inner(forward, y) - inner(x, backward)) < 1e-11 * float(forward.norm() * y.norm())
    # Not vacuous: both sides are far from zero, and the map itself is no adjoint of another one.
    assert float(forward.norm()) > 0.05 * float(x.norm())
    assert float(backward.norm()) > 0.05 * float(y.norm())
    wrong = operator.adjoint(y.flip(-1))
    assert abs(inner(forward, y) - inner(x, wrong)) > 1e-3 * float(forward.norm() * y.norm())


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_equals_the_vector_jacobian_product(name):
    operator, size, new_size = OPERATORS[name]
    y = torch.randn(2, 1, *new_size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    _, pullback = torch.func.vjp(operator, torch.zeros(2, 1, *size, dtype=torch.float64))
    torch.testing.assert_close(operator.adjoint(y), pullback(y)[0])


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_linear_and_keep_flat_images_flat(name):
    operator, size, _ = OPERATORS[name]
    a, b = random_images(2, 2, 3, *size).double()
    torch.testing.assert_close(operator(2 * a - 3 * b), 2 * operator(a) - 3 * operator(b))
    flat = operator(torch.full((2, 3, *size), 0.37, dtype=torch.float64))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.37))


def test_blur_equals_the_released_filter(golden):
    blurred = D.Blur(golden["kernel/gauss/aniso_k41"])(golden["image"][:1])
    assert largest_difference(blurred, golden["filter/aniso_k41"]) < 2e-6


def test_blur_uses_each_images_own_kernel():
    x = random_images(2, 3, 20, 20)
    both = D.Blur(KERNEL_PAIR)(x)
    for i in (0, 1):
        torch.testing.assert_close(both[i : i + 1], D.Blur(KERNEL_PAIR[i])(x[i : i + 1]))


@pytest.mark.parametrize("mode", [*RESIZE_MODES, "bilinear antialias", "bicubic antialias"])
def test_resize_operator_equals_the_function(mode):
    x = random_images(2, 3, 13, 18).double()
    mode, antialias = mode.split()[0], "antialias" in mode
    operator = D.Resize((13, 18), (7, 31), mode, antialias=antialias)
    torch.testing.assert_close(operator(x).clamp(0, 1), D.resize(x, (7, 31), mode=mode, antialias=antialias))


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [0.43, 1.37])
def test_resize_by_scale_equals_the_released_implementation(golden, mode, scale):
    resized = D.resize(golden["image"], scale=scale, mode=mode)[..., :16, :16]
    assert largest_difference(resized, golden[f"resize/{mode}_{scale}"].clamp(0, 1)) < 2e-6


def test_antialias_removes_a_checkerboard_that_plain_resizing_aliases():
    rows = torch.arange(64)
    stripes = ((rows[:, None] + rows[None]) % 2).float()[None, None]
    clean = D.resize(stripes, scale=0.3, antialias=True)
    aliased = D.resize(stripes, scale=0.3)
    assert float(clean.std()) < 0.05 < 0.2 < float(aliased.std())


def test_rotation_is_sharp_at_its_centre_and_leaves_rings_alone():
    size, centre = (41, 41), (20.0, 20.0)
    i, j = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    operator = D.SpatiallyVaryingBlur.rotation(size, 0.5, centre)
    rings = (0.5 + 0.5 * torch.cos(0.4 * (i**2 + j**2).sqrt()))[None, None]
    spokes = (0.5 + 0.5 * torch.cos(8 * torch.atan2(i, j)))[None, None]
    inside = (i**2 + j**2) < 18**2
    assert float((operator(rings) - rings)[0, 0][inside].abs().max()) < 0.03
    assert float((operator(spokes) - spokes)[0, 0][inside].abs().max()) > 0.3
    assert float((operator(spokes) - spokes)[0, 0, 20, 20].abs()) < 1e-6
    torch.testing.assert_close(D.SpatiallyVaryingBlur.rotation(size, 0.0)(spokes), spokes)


def test_rotation_turns_by_the_given_angle():
    point = torch.zeros(1, 1, 41, 41)
    point[0, 0, 20, 35] = 1
    i, j = (D.SpatiallyVaryingBlur.rotation((41, 41), 0.6)(point)[0, 0] > 0.005).nonzero().T - 20
    angles = torch.atan2(i.float(), j.float())
    assert float(angles.max()) == pytest.approx(0.3, abs=0.07)
    assert float(angles.min()) == pytest.approx(-0.3, abs=0.07)


# ----------------------------------------------------------------------------------------------- light and blurs


def test_srgb_and_linear_light_are_inverse_and_standard():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(D.linear_to_srgb(D.srgb_to_linear(x)), x)
    assert float(D.srgb_to_linear(torch.tensor(0.5))) == pytest.approx(0.21404, abs=1e-5)
    zero = torch.zeros(1, requires_grad=True)
    D.linear_to_srgb(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_linear_light_spreads_highlights_further():
    x = torch.zeros(1, 3, 21, 21)
    x[..., 10, 10] = 1
    plain, light = D.motion_blur(x, 9.0), D.motion_blur(x, 9.0, linear_light=True)
    assert float(plain[0, 0, 10, 8]) == pytest.approx(1 / 9, abs=1e-5)
    assert float(light[0, 0, 10, 8]) == pytest.approx(float(D.linear_to_srgb(torch.tensor(1 / 9))), abs=1e-5)
    edge = torch.tensor([0.2, 0.6]).repeat_interleave(20).expand(1, 3, 20, 40)
    middle = D.srgb_to_linear(torch.tensor([0.2, 0.6])).mul(torch.tensor([5 / 9, 4 / 9])).sum()
    across = D.motion_blur(edge, 9.0, linear_light=True)[0, 0, 10, 19]
    assert float(across) == pytest.approx(float(D.linear_to_srgb(middle)), abs=1e-5)


SIMPLE = {
    "gaussian_blur": lambda x: D.gaussian_blur(x, 2.0, 1.0, 0.3),
    "motion_blur": lambda x: D.motion_blur(x, 9.0, 0.4),
    "motion_blur in light": lambda x: D.motion_blur(x, 9.0, 0.4, linear_light=True),
    "walk_blur": lambda x: D.walk_blur(x, 3.0, 0),
    "defocus_blur": lambda x: D.defocus_blur(x, 3.0),
    "rotation_blur": lambda x: D.rotation_blur(x, 0.2),
    "rain": lambda x: D.rain(x, 0),
    "heavy rain": lambda x: D.rain(x, 0, D.RAIN_HEAVY),
    "gaussian_noise": lambda x: D.gaussian_noise(x, 25, 0),
    "grey noise": lambda x: D.gaussian_noise(x, 25, 0, grey=True),
    "poisson_noise": lambda x: D.poisson_noise(x, 1.0, 0),
    "grey poisson_noise": lambda x: D.poisson_noise(x, 1.0, 0, grey=True),
    "jpeg": lambda x: D.jpeg(x, 20),
    "diff_jpeg": lambda x: D.diff_jpeg(x, 20),
    "first_order": lambda x: D.first_order(x, 0),
    "first_order face": lambda x: D.first_order(x, 0, D.FIRST_ORDER_FACE),
    "first_order small": lambda x: D.first_order(x, 0, D.FIRST_ORDER_SMALL),
    "second_order": lambda x: D.second_order(x, 0),
    "second_order small": lambda x: D.second_order(x, 0, D.SECOND_ORDER_SMALL),
}
for domain, config in D.BLUR_DOMAINS.items():
    SIMPLE[f"random_blur {domain}"] = lambda x, c=config: D.random_blur(x, 0, c)


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("shape", [(2, 3, 33, 26), (1, 1, 17, 20), (1, 3, 2, 2), (1, 3, 2, 9)])
def test_degradations_keep_shape_range_and_bytes(name, shape):
    x = random_images(*shape)
    before = x.clone()
    y = SIMPLE[name](x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert torch.isfinite(y).all()
    assert y.min() >= 0
    assert y.max() <= 1
    assert torch.equal(x, before)
    assert torch.equal(y, SIMPLE[name](x))
    if min(shape[2:]) > 2 and "poisson" not in name:
        assert not torch.equal(y, x)


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_degradations_keep_the_dtype(name, dtype):
    y = SIMPLE[name](random_images(1, 3, 16, 20).to(dtype))
    assert y.dtype == dtype
    assert torch.isfinite(y.float()).all()


BAD_IMAGES = {
    "range": (torch.full((1, 3, 8, 8), 200.0), "255"),
    "channels last": (torch.rand(1, 8, 8, 3), "permute"),
    "two channels": (torch.rand(1, 2, 8, 8), "channels"),
    "NaN": (torch.full((1, 3, 8, 8), math.nan), "NaN"),
    "empty batch": (torch.rand(0, 3, 8, 8), "empty"),
    "one pixel": (torch.rand(1, 3, 1, 8), "2 pixels"),
}


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_bad_images_are_refused(name, bad):
    image, message = BAD_IMAGES[bad]
    with pytest.raises(ValueError, match=message):
        SIMPLE[name](image)


# ----------------------------------------------------------------------------------------------- noise


def test_gaussian_noise_equals_the_released_implementation(golden):
    generator = torch.Generator().manual_seed(0)
    grey = D.gaussian_noise(golden["image"][1:], 20, generator, grey=True)  # the released code draws grey noise first
    colour = D.gaussian_noise(golden["image"], [5, 20], generator)
    assert largest_difference(torch.cat((colour[:1], grey))[..., :16, :16], golden["noise/gaussian"]) < 1e-6


def test_poisson_noise_equals_the_released_implementation(golden):
    generator = torch.Generator().manual_seed(0)
    grey = D.poisson_noise(golden["image"], [1, 2], generator, grey=True)
    colour = D.poisson_noise(golden["image"], [1, 2], generator)
    assert largest_difference(torch.cat((colour[:1], grey[1:]))[..., :16, :16], golden["noise/poisson"]) < 1e-6


def test_gaussian_noise_has_the_stated_standard_deviation():
    x = torch.full((2, 3, 100, 100), 0.5, dtype=torch.float64)
    noise = D.gaussian_noise(x, [5, 25], 0, clip=False) - x
    assert noise.std((1, 2, 3)).tolist() == pytest.approx([5 / 255, 25 / 255], rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=2e-3)
    grey = D.gaussian_noise(x, 25, 0, grey=True) - x
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert not torch.equal(grey[0], grey[1])


def test_poisson_variance_follows_brightness():
    x = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 1, 200, 200)
    noise = D.poisson_noise(x, 1.0, 0, levels=1000, clip=False) - x
    assert noise.var((1, 2, 3)).tolist() == pytest.approx([0.2 / 1000, 0.8 / 1000], rel=0.05)


def test_poisson_noise_on_flat_images():
    black = torch.zeros(2, 3, 8, 8)
    assert torch.equal(D.poisson_noise(black, 3.0, 0), black)
    assert torch.equal(D.poisson_noise(black, 3.0, 0, grey=True), black)
    flat = torch.full((1, 3, 64, 64), 0.4)  # one distinct value: one photon at white, the released rule
    noisy = D.poisson_noise(flat, 1.0, 0)
    assert set(noisy.unique().tolist()) == {0.0, 1.0}
    assert float(noisy.mean()) == pytest.approx(1 - math.exp(-0.4), abs=0.02)


def test_poisson_levels_are_counted_for_each_image():
    steps = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
    two = (steps > 0.5).float()
    five = torch.arange(5).view(1, 1, 1, 5).expand(1, 1, 16, 5) / 5
    eighths = D.poisson_noise(five, 1.0, 0, clip=False) - five + (five * 255).round() / 255
    torch.testing.assert_close((eighths * 8).round(), eighths * 8, atol=1e-5, rtol=0)  # rounded up from five
    assert float(((eighths * 4).round() - eighths * 4).abs().max()) > 0.1
    noisy = D.poisson_noise(torch.cat((steps, two)), 1.0, 0, clip=False)
    assert torch.equal((noisy[1] * 2).round(), noisy[1] * 2)  # two values: two photons at white
    assert not torch.equal((noisy[0] * 2).round(), noisy[0] * 2)


@pytest.mark.parametrize("bad", [-1.0, math.nan, [1.0, 2.0, 3.0]])
def test_bad_noise_strength_is_refused(bad):
    for function, name in ((D.gaussian_noise, "sigma"), (D.poisson_noise, "scale")):
        with pytest.raises(ValueError, match=name):
            function(random_images(2, 3, 8, 8), bad, 0)


# ----------------------------------------------------------------------------------------------- JPEG


@pytest.mark.parametrize(("key", "quality"), [("q30", 30), ("q95", 95), ("q[40,80]", [40, 80])])
def test_diff_jpeg_equals_the_released_implementation(golden, key, quality):
    decoded = D.diff_jpeg(golden["image"], quality, official=True)[..., :32, :32]
    assert largest_difference(decoded, golden[f"jpeg/diffjpeg_{key}"]) < 1e-5


def test_diff_jpeg_soft_rounding_and_black_padding_equal_the_released_implementation(golden):
    soft = D.diff_jpeg(golden["image"], 60, differentiable=True, official=True)[..., :32, :32]
    assert largest_difference(soft, golden["jpeg/diffjpeg_soft_q60"]) < 1e-5
    odd = D.diff_jpeg(golden["image"][..., :61, :77], 50, official=True)[..., -29:, -29:]
    assert largest_difference(odd, golden["jpeg/diffjpeg_q50_crop61x77"]) < 1e-5


def test_jpeg_equals_libjpeg(golden):
    # Decoders may differ by a rounding step between versions of the library.
    assert largest_difference(D.jpeg(golden["image"][:1], 30)[..., :32, :32], golden["jpeg/libjpeg_q30"]) < 2.5 / 255


def test_tables_are_the_encoders_own():
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=50)
    tables = Image.open(buffer).quantization
    assert list(tables[0]) == [value for row in LUMINANCE_TABLE for value in row]
    assert list(tables[1]) == [value for row in CHROMINANCE_TABLE for value in row]


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_diff_jpeg_is_close_to_the_real_encoder_on_grey_images(quality):
    rows = torch.linspace(0, 6, 61)
    x = (0.5 + 0.4 * torch.sin(rows[:, None] * 2) * torch.cos(rows[None, :53] * 3)).view(1, 1, 61, 53)
    real = D.jpeg(x, quality)
    assert float((D.diff_jpeg(x, quality) - real).abs().mean()) < 1.5 / 255
    # the released padding with black rings at the right and bottom border
    border = (..., slice(-5, None), slice(None))
    standard, official = (D.diff_jpeg(x, quality, official=flag) - x for flag in (False, True))
    assert float(standard[border].abs().mean()) < float(official[border].abs().mean())


@pytest.mark.parametrize("function", [D.jpeg, D.diff_jpeg])
def test_jpeg_quality_orders_the_error_and_is_not_changed(function):
    x = D.gaussian_blur(random_images(1, 3, 64, 48), 2.0)
    quality = torch.tensor([10.0])
    errors = [float((function(x, q) - x).square().mean()) for q in (quality, 50, 100)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert quality.item() == 10.0
    for wrong in (0, 101, math.nan, [50, 60, 70]):
        with pytest.raises(ValueError, match="quality"):
            function(x, wrong)


def test_diff_jpeg_passes_gradients():
    x = random_images(1, 3, 16, 16).requires_grad_()
    D.diff_jpeg(x, 30, differentiable=True).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert float(x.grad.abs().mean()) > 1e-3


# ----------------------------------------------------------------------------------------------- rain


def test_rain_only_adds_light_and_falls_in_its_direction():
    dark = torch.zeros(1, 3, 96, 96)
    wet, record = D.rain(dark, 3, D.Rain(angle=(0.6, 0.6), length=(14, 14)), return_record=True)
    assert float(wet.min()) == 0
    assert 0.25 < float(wet.max()) <= 0.6
    assert torch.equal(wet[:, 0], wet[:, 1])
    assert record[0][0].parameters["streaks"] == (14 * 9)
    assert record[0][0].parameters["angle"] == 0.6
    layer = wet[0, 0]
    rolled = [torch.roll(layer, (5, sign * round(5 * math.tan(0.6))), (0, 1)) for sign in (1, -1)]
    assert float((layer * rolled[0]).sum()) > 1.5 * float((layer * rolled[1]).sum())


def test_rain_blending_and_veil():
    x = random_images(1, 3, 32, 32)
    assert torch.equal(D.rain(x, 0, D.Rain(streaks=0)), x)
    torch.testing.assert_close(D.rain(x, 0, D.Rain(streaks=0, veil=0.1)), x + 0.1 * (1 - x))
    layer = D.rain(torch.zeros_like(x), 0, D.Rain())
    torch.testing.assert_close(D.rain(x, 0, D.Rain()), (x + layer).clamp(max=1))
    torch.testing.assert_close(D.rain(x, 0, D.Rain(screen=True)), 1 - (1 - x) * (1 - layer))


def test_rain_in_chunks_is_the_same_rain(monkeypatch):
    x = torch.zeros(1, 3, 64, 64)
    whole = D.rain(x, 0)
    monkeypatch.setattr("minirestore.degradations.weather.STREAKS_AT_ONCE", 5)
    assert torch.equal(D.rain(x, 0), whole)


# ----------------------------------------------------------------------------------------------- pipelines

PIPELINES = {
    "first general": (D.first_order, D.FIRST_ORDER_GENERAL),
    "first face": (D.first_order, D.FIRST_ORDER_FACE),
    "second general": (D.second_order, D.SECOND_ORDER_GENERAL),
    "second ResShift": (D.second_order, D.SECOND_ORDER_RESSHIFT),
    "blur": (D.random_blur, D.BLUR_DOMAINS["rotation"]),
    "rain": (D.rain, D.RAIN_LIGHT),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_an_image_does_not_depend_on_its_batch(name):
    pipeline, config = PIPELINES[name]
    x = random_images(1, 3, 24, 24).expand(3, -1, -1, -1)
    y, records = pipeline(x, 7, config, return_record=True)
    assert len(records) == 3
    assert records[0] != records[1] != records[2]
    assert not torch.equal(y[0], y[1])
    assert not torch.equal(y[1], y[2])
    assert torch.equal(pipeline(x[:2], torch.Generator().manual_seed(7), config), y[:2])
    assert not torch.equal(pipeline(x, 8, config), y)
    generator = torch.Generator().manual_seed(7)
    assert not torch.equal(pipeline(x, generator, config), pipeline(x, generator, config))


def test_first_order_chain_equals_the_released_implementation(golden, monkeypatch):
    """Feed the chain the released run's numbers: kernel aniso_k41, r 3.3, its noise, quality 45."""
    numbers = iter([0.0, 1.0, 11.0, 2.0, -2.1, 3.3, 10.0, 45.5])
    draws = {"chance": lambda g, p: False, "choose": lambda g, options, p=None: options[1 if p else 0]}
    monkeypatch.setattr(pipelines, "uniform", lambda g, low, high: next(numbers))
    for name, function in draws.items():
        monkeypatch.setattr(pipelines, name, function)
    monkeypatch.setattr(pipelines, "add_gaussian", lambda y, *_: y + golden["first_order/noise"])
    next(numbers), next(numbers)
    y, ((blur, down, noise, jpeg, up),) = D.first_order(golden["image"][:1], 0, return_record=True)
    assert (blur.parameters["sigma_x"], blur.parameters["sigma_y"], blur.parameters["theta"]) == (11.0, 2.0, -2.1)
    assert down.parameters["size"] == (19, 24)
    assert up.parameters["size"] == (64, 80)
    assert noise.parameters["sigma"] == 10.0
    assert jpeg.parameters == {"quality": 45, "real": True}
    assert largest_difference(y[..., :32, :32], golden["first_order/lq"]) < 2.5 / 255


def drawn(records, step: str, key: str) -> list:
    return [s.parameters[key] for record in records for s in record if s.name == step and key in s.parameters]


def assert_fills(values: list[float], low: float, high: float) -> None:
    """All values inside the range, and close to both of its ends."""
    assert low <= min(values) < low + 0.05 * (high - low), (min(values), low)
    assert high - 0.05 * (high - low) < max(values) <= high, (max(values), high)


@pytest.mark.parametrize(
    ("config", "sigma", "r", "noise", "quality"),
    [
        (D.FIRST_ORDER_GENERAL, (0.1, 12), (1, 12), (0, 15), (30, 99)),
        (D.FIRST_ORDER_FACE, (0.1, 10), (0.8, 8), (0, 20), (60, 99)),
    ],
    ids=["general", "face"],
)
def test_first_order_draws_the_published_ranges(config, sigma, r, noise, quality):
    _, records = D.first_order(torch.full((300, 1, 24, 24), 0.5), 0, config, return_record=True)
    assert all([s.name for s in record] == ["blur", "resize", "gaussian_noise", "jpeg", "resize"] for record in records)
    assert set(drawn(records, "blur", "kind")) == {"isotropic", "anisotropic"}
    assert set(drawn(records, "blur", "size")) == {41}
    assert_fills(drawn(records, "blur", "sigma_x"), *sigma)
    assert_fills(drawn(records, "blur", "sigma_y"), *sigma)
    assert_fills(drawn(records, "blur", "theta"), -PI, PI)
    assert_fills(drawn(records, "gaussian_noise", "sigma"), *noise)
    assert_fills(drawn(records, "jpeg", "quality"), *quality)
    small = [record[1].parameters["size"][0] for record in records]
    assert small == [record[1].parameters["size"][1] for record in records]
    assert min(small) == int(24 // r[1])
    assert max(small) == int(24 // (r[0] + 1e-4))


def test_first_order_as_in_the_paper_draws_poisson_noise_and_every_way_of_resizing():
    x = torch.full((300, 1, 24, 24), 0.5)
    _, records = D.first_order(x, 0, D.FIRST_ORDER_PAPER_SMALL, return_record=True)
    assert_fills(drawn(records, "poisson_noise", "scale"), 0.05, 3)
    assert_fills(drawn(records, "gaussian_noise", "sigma"), 0, 15)
    assert 110 < len(drawn(records, "poisson_noise", "scale")) < 190
    modes = drawn(records, "resize", "mode")
    assert len(modes) == 600
    assert all(150 < modes.count(mode) < 250 for mode in ("area", "bilinear", "bicubic"))


def test_second_order_draws_the_published_ranges():
    config = dataclasses.replace(D.SECOND_ORDER_GENERAL)
    _, records = D.second_order(torch.full((400, 1, 40, 40), 0.5), 0, config, return_record=True)
    assert set(drawn(records, "blur", "size")) == {7, 9, 11, 13, 15, 17, 19, 21}
    first = [record[:4] for record in records]
    assert all([s.name for s in r if "noise" not in s.name] == ["blur", "resize", "jpeg"] for r in first)
    assert_fills(drawn(first, "blur", "sigma_x"), 0.2, 3)
    assert_fills(drawn(first, "gaussian_noise", "sigma"), 1, 30)
    assert_fills(drawn(first, "poisson_noise", "scale"), 0.05, 3)
    assert_fills(drawn(records, "jpeg", "quality"), 30, 95)
    assert_fills([s[0] for s in drawn(first, "resize", "size")], 6, 60)
    second = [record[4:] for record in records]
    assert max(drawn(second, "blur", "sigma_x")) <= 1.5
    assert max(drawn(second, "gaussian_noise", "sigma")) <= 25
    assert max(drawn(second, "poisson_noise", "scale")) <= 2.5
    sizes = {s for r in second for s in (q.parameters["size"][0] for q in r if q.name == "resize")}
    assert min(sizes) == 3
    assert max(sizes - {40}) == 11
    assert 10 in sizes
    jpeg_last = [[s.name for s in record][-2] == "jpeg" for record in records]
    assert 150 < sum(jpeg_last) < 250  # either order with equal chances
    greys = drawn(records, "gaussian_noise", "grey") + drawn(records, "poisson_noise", "grey")
    assert sum(greys) / len(greys) == pytest.approx(0.4, abs=0.06)
    assert len(drawn(records, "gaussian_noise", "sigma")) / 800 == pytest.approx(0.5, abs=0.06)


def test_random_kernels_follow_their_probabilities():
    generator, record, count = torch.Generator().manual_seed(0), [], 3000
    for _ in range(count):
        D.random_kernel(generator, D.KernelMixture(sizes=(7, 13)), record)
    kinds = [step.parameters["kind"] for step in record]
    expected = dict(zip(pipelines.KERNEL_KINDS, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True))
    expected = {kind: 0.9 * p for kind, p in expected.items()} | {"sinc": 0.1}
    for kind, p in expected.items():
        assert kinds.count(kind) / count == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / count))
    betas = {
        name: [s.parameters["beta"] for s in record if s.parameters["kind"].startswith(name)] for name in ("gen", "pla")
    }
    assert_fills(betas["gen"], 0.5, 4)
    assert_fills(betas["pla"], 1, 2)
    assert sum(b <= 1 for b in betas["gen"]) / len(betas["gen"]) == pytest.approx(0.5, abs=0.1)
    for size, low in ((7, PI / 3), (13, PI / 5)):
        cutoffs = [s.parameters["cutoff"] for s in record if "cutoff" in s.parameters and s.parameters["size"] == size]
        assert_fills(cutoffs, low, PI)


def test_pipelines_by_name_keep_the_size():
    x = random_images(2, 3, 40, 36)
    for name, config in D.PIPELINES.items():
        order = D.first_order if isinstance(config, D.FirstOrder) else D.second_order
        assert torch.equal(D.degrade(x, 3, name), order(x, 3, config))
        assert D.degrade(x, 3, name).shape == x.shape
    with pytest.raises(ValueError, match="pipeline: expected one of first_order, .*, got 'third_order'"):
        D.degrade(x, 0, "third_order")


def test_low_resolution_is_a_quarter_as_large_and_in_eight_bit():
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    for domain in D.LOW_RESOLUTION_DOMAINS:
        y = D.low_resolution(x, 3, domain)
        assert y.shape == (2, 3, 8, 12)
        torch.testing.assert_close((255 * y).round() / 255, y)
        assert torch.equal(D.low_resolution(x, 4, domain), y) == (domain == "bicubic")
    right = torch.nn.functional.interpolate(x, (8, 12), mode="bicubic", antialias=True)
    assert (D.low_resolution(x, 3, "bicubic") - right).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(D.low_resolution(x, 3, "light"), D.second_order(x, 3, D.SECOND_ORDER_LIGHT))
    with pytest.raises(ValueError, match="domain: expected one of bicubic, light, resshift, got 'x8'"):
        D.low_resolution(x, 0, "x8")


def test_second_order_rounds_to_eight_bit_and_can_stay_small():
    x = random_images(4, 3, 40, 36)
    y = D.second_order(x, 0)
    torch.testing.assert_close((y * 255).round(), y * 255, atol=1e-4, rtol=0)
    small = D.second_order(x, 0, D.SECOND_ORDER_RESSHIFT)
    assert small.shape == (4, 3, 10, 9)
    many = D.second_order(torch.full((60, 1, 8, 8), 0.5), 0, D.SECOND_ORDER_RESSHIFT, return_record=True)[1]
    stages = [sum("noise" in s.name for s in record) for record in many]
    assert set(stages) == {1, 2}
    assert 15 < stages.count(1) < 45


def test_replaying_a_record_reproduces_the_image():
    x = random_images(1, 3, 40, 40)
    quiet = dataclasses.replace(D.FIRST_ORDER_SMALL, noise=(0.0, 0.0))
    y, (steps,) = D.first_order(x, 5, quiet, return_record=True)
    z = x
    for step in steps:
        p = dict(step.parameters)
        if step.name == "blur":
            z = D.Blur(D.gaussian_kernel(p["size"], p["sigma_x"], p.get("sigma_y"), p.get("theta", 0.0)))(z)
        elif step.name == "resize":
            z = D.resize(z, p["size"], mode=p["mode"])
        elif step.name == "jpeg":
            z = D.diff_jpeg(z.clamp(0, 1), p["quality"])
    torch.testing.assert_close(z, y)


@pytest.mark.parametrize("name", D.BLUR_DOMAINS)
def test_blur_domains_have_the_severity_they_state(name):
    """The RMS radius read off the blurred image of many points equals the one drawn."""
    config = dataclasses.replace(D.BLUR_DOMAINS[name], noise=0.0, linear_light=False)
    spacing, count = (64, 3)
    x = torch.zeros(1, 1, spacing * count, spacing * count)
    x[..., spacing // 2 :: spacing, spacing // 2 :: spacing] = 1
    y, ((blur, _),) = D.random_blur(x.double(), 3, config, return_record=True)
    cells = y[0, 0].reshape(count, spacing, count, spacing).transpose(1, 2).reshape(-1, spacing, spacing)
    inner_radius = D.rms_radius(cells).square().mean().sqrt()
    # the points sample the image coarsely when the blur varies over it
    assert float(inner_radius) == pytest.approx(blur.parameters["radius"], rel=0.25 if name == "rotation" else 0.03)
    assert config.radius[0] <= blur.parameters["radius"] <= config.radius[1]


# Three channels of one pixel, the RMS radius and the last number drawn, as first published: what is trained on these
# pictures cannot be compared with later ones unless they stay.
PUBLISHED = {
    "linear": ([0.373454, 0.526550, 0.425907], 1.924178, 1.014810),
    "walk": ([0.464897, 0.537161, 0.411396], 1.924178, False),
    "walk_gamma": ([0.579717, 0.628731, 0.492581], 1.924178, True),
    "disk": ([0.407245, 0.540745, 0.524402], 1.924178, 2.721198),
    "rotation": ([0.485760, 0.482708, 0.367895], 1.924178, 2.220576),
    "long": ([0.410778, 0.505390, 0.481838], 3.848355, 1.014810),
}


@pytest.mark.parametrize("name", D.BLUR_DOMAINS)
def test_blur_domains_keep_their_pictures(name):
    x = torch.rand(2, 3, 24, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, (_, (blur, noise)) = D.random_blur(x, 3, D.BLUR_DOMAINS[name], return_record=True)
    pixel, radius, last = PUBLISHED[name]
    assert y[1, :, 11, 20].tolist() == pytest.approx(pixel, abs=2e-6)
    assert blur.parameters["radius"] == pytest.approx(radius, abs=1e-6)
    assert list(blur.parameters.values())[-1] == pytest.approx(last, abs=1e-6)
    assert noise.parameters == {"sigma": 5.1 if name == "walk_gamma" else 2.55, "grey": False}


# ----------------------------------------------------------------------------------------------- matched blur

MATCHED = ("linear", "walk", "walk_gamma", "disk", "rotation")


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    return photos.crops("hubble", 64)


@pytest.mark.parametrize("name", MATCHED)
def test_matched_blur_has_the_psnr_asked_for(crops, name):
    domain, targets = D.BLUR_DOMAINS[name], [24.0, 21.0, 27.5, 22.5]
    before = crops.clone()
    y, records = D.matched_blur(crops, 5, domain, targets, return_record=True)
    assert (metrics.psnr(y, crops) - torch.tensor(targets)).abs().max() <= 0.02
    assert torch.equal(crops, before)
    assert all([step.name for step in record] == ["blur", "gaussian_noise"] for record in records)
    assert all(0.75 <= radius <= 24 for radius in drawn(records, "blur", "radius"))
    # the same bytes again, for fewer images, and from a generator
    assert torch.equal(D.matched_blur(crops, torch.Generator().manual_seed(5), domain, torch.tensor(targets)), y)
    assert torch.equal(D.matched_blur(crops[:2], 5, domain, targets[:2]), y[:2])
    assert not torch.equal(D.matched_blur(crops[:1], 6, domain, targets[:1]), y[:1])


@pytest.mark.parametrize("name", [*MATCHED, "long"])
def test_matched_blur_chooses_nothing_but_the_radius(crops, name):
    """Asked for the PSNR that random_blur happened to give, it finds random_blur's picture."""
    domain = D.BLUR_DOMAINS[name]
    blurred, expected = D.random_blur(crops, 9, domain, return_record=True)
    y, found = D.matched_blur(crops, 9, domain, metrics.psnr(blurred, crops), return_record=True)
    assert drawn(found, "blur", "radius") == pytest.approx(drawn(expected, "blur", "radius"), rel=0.02)
    for key in {"rotation": ("row", "column"), "linear": ("angle",)}.get(name, ()):
        assert drawn(found, "blur", key) == drawn(expected, "blur", key)
    assert metrics.psnr(y, blurred).min() > 50  # noise of another seed alone would leave 37 dB


def test_matched_blur_ignores_the_radius_of_its_domain(crops):
    pictures = [D.matched_blur(crops, 2, D.BLUR_DOMAINS[name], 24) for name in ("linear", "long")]
    assert torch.equal(*pictures)


def test_matched_blur_takes_few_attempts(crops, monkeypatch):
    radii, degrade = [], domains._degrade
    monkeypatch.setattr(
        domains, "_degrade", lambda x, g, domain, radius: radii.append(radius) or degrade(x, g, domain, radius)
    )
    for name in MATCHED:
        D.matched_blur(crops, 1, D.BLUR_DOMAINS[name], 23)
    assert len(radii) <= 7 * len(MATCHED) * len(crops)  # bisection takes about nine


@pytest.mark.parametrize(("target", "place"), [(60.0, "above"), (5.0, "below")])
def test_a_psnr_out_of_reach_names_the_image_and_the_range(crops, target, place):
    targets = [24.0, 24.0, target, 24.0]
    with pytest.raises(D.OutOfReachError, match=rf"image 2 cannot have {target:.4g} dB.* 0.75 to 24 pixels") as error:
        D.matched_blur(crops, 1, D.BLUR_DOMAINS["disk"], targets)
    low, high = (float(word) for word in str(error.value).removesuffix(" dB").split(" give ")[1].split(" to "))
    assert high < target if place == "above" else target < low
    for reachable in (low + 0.1, high - 0.1):
        D.matched_blur(crops, 1, D.BLUR_DOMAINS["disk"], [24.0, 24.0, reachable, 24.0])
    with pytest.raises(D.OutOfReachError):
        D.matched_blur(crops, 1, D.BLUR_DOMAINS["disk"], [24.0, 24.0, high + 0.1, 24.0])


def test_a_psnr_between_two_roundings_is_refused():
    x = torch.tensor([[[[0.90, 0.91, 0.90], [0.90, 0.90, 0.91]]]], dtype=torch.bfloat16)
    with pytest.raises(D.OutOfReachError, match="image 0 jumps over 44 dB"):
        D.matched_blur(x, 0, D.BlurDomain("disk", noise=0.0), 44)


@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_matched_blur_refuses_bad_images(bad):
    image, message = BAD_IMAGES[bad]
    with pytest.raises(ValueError, match=message):
        D.matched_blur(image, 0, D.BLUR_DOMAINS["walk"], 25)
    with pytest.raises(ValueError, match=message):
        D.evaluation_shifts(image, 0)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, [20.0, 25.0]])
def test_matched_blur_refuses_bad_targets(crops, bad):
    with pytest.raises(ValueError, match="target_psnr"):
        D.matched_blur(crops, 0, D.BLUR_DOMAINS["walk"], bad)


def test_evaluation_shifts_are_matched_to_the_linear_blur_of_their_image(crops):
    other = crops.flip(-1).roll(1, 0)
    shifts = D.evaluation_shifts(crops, 4, content=other)
    assert list(shifts) == ["linear", *D.SHIFTS]
    assert torch.equal(shifts["linear"].degraded, D.random_blur(crops, 4))
    assert torch.equal(shifts["long"].degraded, D.random_blur(crops, 4, D.BLUR_DOMAINS["long"]))
    targets = metrics.psnr(shifts["linear"].degraded, crops)
    assert targets.max() - targets.min() > 1  # so that a mix-up of images shows
    for name, (clean, degraded, kept, radii) in shifts.items():
        assert kept == [0, 1, 2, 3]
        assert len(radii) == len(kept)
        assert torch.equal(clean, other if name == "content" else crops)
        if name == "long":
            assert (metrics.psnr(degraded, clean) < targets - 0.5).all()
        else:
            assert (metrics.psnr(degraded, clean) - targets).abs().max() <= 0.02
        if name in MATCHED[1:]:
            assert largest_difference(degraded, D.matched_blur(crops, 4, D.BLUR_DOMAINS[name], targets)) < 1e-6
    assert shifts["long"].radii == pytest.approx([2 * radius for radius in shifts["linear"].radii])
    _, records = D.matched_blur(crops, 4, D.BLUR_DOMAINS["disk"], targets, return_record=True)
    found = [step.parameters["radius"] for step, *_ in records]
    assert shifts["disk"].radii == pytest.approx(found, rel=1e-4)
    moved = D.matched_blur(other, 4, D.BLUR_DOMAINS["linear"], targets)
    assert largest_difference(shifts["content"].degraded, moved) < 1e-6


def test_evaluation_shifts_leave_out_what_cannot_be_matched(crops):
    smooth = crops.clone()
    smooth[1] = 0.5
    shifts = D.evaluation_shifts(smooth, 4, ("long", "walk_gamma"))
    assert list(shifts) == ["linear", "long", "walk_gamma"]
    assert shifts["linear"].kept == shifts["long"].kept == [0, 1, 2, 3]
    clean, degraded, kept, radii = shifts["walk_gamma"]
    assert kept == [0, 2, 3]
    assert len(radii) == 3
    assert torch.equal(clean, smooth[kept])
    difference = metrics.psnr(degraded, clean) - metrics.psnr(shifts["linear"].degraded, smooth)[kept]
    assert difference.abs().max() <= 0.02
    with pytest.raises(ValueError, match="no image can have .* in walk_gamma"):
        D.evaluation_shifts(smooth[1:2], 4, ("walk_gamma",))


def test_evaluation_shifts_refuse(crops):
    with pytest.raises(ValueError, match="names: expected some of walk, .* got linear, zoom"):
        D.evaluation_shifts(crops, 0, ("walk", "zoom", "linear"))
    with pytest.raises(ValueError, match="content: .* other pictures"):
        D.evaluation_shifts(crops, 0)
    with pytest.raises(ValueError, match="content and clean must have the same shape"):
        D.evaluation_shifts(crops, 0, content=crops[:3])
    with pytest.raises(ValueError, match="content: values must lie in"):
        D.evaluation_shifts(crops, 0, content=crops * 255)


def test_text_scenes_serve_as_other_content():
    from minirestore import scenes

    text = scenes.render_scenes(2, 64, 0, "text")["image"]
    (linear, content) = D.evaluation_shifts(photos.crops("hubble", 64)[::2], 0, ("content",), content=text).values()
    assert content.kept == [0, 1]
    difference = metrics.psnr(content.degraded, text) - metrics.psnr(linear.degraded, linear.clean)
    assert difference.abs().max() <= 0.02


@settings(max_examples=15, deadline=None)
@given(height=st.integers(2, 23), width=st.integers(2, 23), seed=st.integers(0, 10**6))
def test_pipelines_accept_any_size(height, width, seed):
    x = random_images(1, 3, height, width, seed=seed)
    for pipeline in (D.first_order, D.second_order, D.random_blur, D.rain):
        y = pipeline(x, seed)
        assert y.shape == x.shape
        assert torch.isfinite(y).all()


# ----------------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: D.gaussian_kernel(4, 1.0), "odd"),
        (lambda: D.gaussian_kernel(5, 0.0), "sigma_x"),
        (lambda: D.gaussian_kernel(5, math.nan), "sigma_x"),
        (lambda: D.sinc_kernel(7, 4.0), "cutoff"),
        (lambda: D.linear_motion_kernel(0.5), "length"),
        (lambda: D.disk_kernel(-1.0), "radius"),
        (lambda: D.walk_motion_kernel(0.5, 0), "radius"),
        (lambda: D.pad_kernel(torch.ones(5, 5), 3), "smaller"),
        (lambda: D.Blur(torch.ones(4, 4)), "odd"),
        (lambda: D.Blur(torch.ones(3, 3, 3))(torch.rand(2, 3, 8, 8)), "batch"),
        (lambda: D.Blur(torch.full((3, 3), math.nan)), "NaN"),
        (lambda: D.Blur(torch.ones(3, 3))(torch.rand(8, 8)), "B, C, H, W"),
        (lambda: D.Resize((8, 8), (4, 4))(torch.rand(1, 1, 9, 8)), "built for"),
        (lambda: D.Resize((8, 8), (0, 4)), "no pixels"),
        (lambda: D.Downsample((8, 8), 0, torch.ones(3, 3)), "factor"),
        (lambda: D.SpatiallyVaryingBlur(torch.ones(2, 4, 4), torch.ones(3, 4, 4)), "rows, columns"),
        (lambda: D.resize(torch.rand(1, 3, 8, 8), (4, 4), mode="lanczos"), "mode"),
        (lambda: D.resize(torch.rand(1, 3, 8, 8), (4, 4), mode="area", antialias=True), "antialias"),
        (lambda: D.resize(torch.rand(1, 3, 8, 8)), "exactly one"),
        (lambda: D.resize(torch.rand(1, 3, 8, 8), (4, 4), scale=0.5), "exactly one"),
        (lambda: D.KernelMixture(sizes=(8,)), "sizes"),
        (lambda: D.KernelMixture(probabilities=(1.0,)), "probabilities"),
        (lambda: D.KernelMixture(probabilities=(0.9, 0, 0, 0, 0, 0)), "sum to 1"),
        (lambda: D.FirstOrder(downsample=(4.0, 1.0)), "downsample"),
        (lambda: D.SecondOrder(second_probability=1.5), "second_probability"),
        (lambda: D.Rain(veil=2.0), "veil"),
        (lambda: D.BlurDomain("zoom"), "kind"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("wrong", [None, 1.5, True, np.random.default_rng(0)])
def test_randomness_must_be_a_generator_or_a_seed(wrong):
    with pytest.raises(TypeError, match="generator"):
        D.gaussian_noise(random_images(1, 3, 8, 8), 25, wrong)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        D.FIRST_ORDER_GENERAL.quality = (1, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SIMPLE)
def test_a_cpu_seed_gives_the_same_picture_on_the_gpu(name):
    x = random_images(2, 3, 32, 32)
    difference = (SIMPLE[name](x.cuda()).cpu() - SIMPLE[name](x)).abs()
    # rounding inside JPEG and Poisson counts may flip a few coefficients
    assert float(difference.mean()) < 2e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PIPELINES)
def test_a_cuda_generator_repeats_itself(name):
    pipeline, config = PIPELINES[name]
    x = random_images(2, 3, 32, 32).cuda()
    first, second = (pipeline(x, torch.Generator("cuda").manual_seed(1), config) for _ in range(2))
    assert first.is_cuda
    assert torch.equal(first, second)
