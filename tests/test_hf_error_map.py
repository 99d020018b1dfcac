"""The high-frequency error map loss: golden values, what it must and must not see, its options, its distances."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minirestore import features, images, metrics
from minirestore.metrics import perceptual
from minirestore.papers import hf_error_map as paper
from minirestore.papers.hf_error_map import HFErrorMapConfig, error_map, error_map_steps, hf_error_map_loss

GOLDEN = {
    name: torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parent / "golden" / "hf_error_map" / "hf_error_map_default.npz").items()
}
SCALES = (1.0, 0.5, 0.25, 0.125)
COURSE = {"backbone": "course", "min_side": 2}
SINGLE = {"scales": (1.0,), "weights": (1.0,), **COURSE}


def pair(count=2, H=32, W=32, seed=0):
    """A random image in [-1, 1] and a noisy copy, different in every image of the batch."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(count, 3, H, W, generator=generator) * 1.6 - 0.8
    strength = torch.linspace(0.02, 0.2, count).view(-1, 1, 1, 1)
    return (clean + strength * torch.randn(clean.shape, generator=generator)).clamp(-1, 1), clean


def l1(a, b):
    return (a - b).abs().mean((1, 2, 3))


def close(found, right, atol=1e-5):
    torch.testing.assert_close(found, right, rtol=0, atol=atol)


# ---------------------------------------------------------------- parity


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
def test_resized_images_and_their_bands_are_the_golden_ones(scale, wavelet):
    steps = error_map_steps(GOLDEN["sr"], GOLDEN["hr"], HFErrorMapConfig(wavelet=wavelet), scale)
    close(steps.restored, GOLDEN[f"{scale:g}/sr"])
    close(steps.clean, GOLDEN[f"{scale:g}/hr"])
    for name, details in (("sr", steps.restored_details), ("hr", steps.clean_details)):
        assert len(details) == 1
        for band, found in zip(("cH", "cV", "cD"), details[0], strict=True):
            close(found[0], GOLDEN[f"{scale:g}/{wavelet}/{name}_{band}"])


@pytest.mark.parametrize("scale", SCALES)
def test_the_map_is_the_golden_one(scale):
    steps = error_map_steps(GOLDEN["sr"], GOLDEN["hr"], scale=scale)
    close(steps.differences[0][0, 0], GOLDEN[f"{scale:g}/E_half"])
    close(steps.error[0, 0], GOLDEN[f"{scale:g}/E_up_nearest"])
    close(steps.map[0, 0], GOLDEN[f"{scale:g}/E_max"])
    if scale == 1:
        assert torch.equal(error_map(GOLDEN["sr"], GOLDEN["hr"]), steps.map)


def test_products_and_the_sum_follow_equation_1():
    sr, hr = GOLDEN["sr"], GOLDEN["hr"]
    losses = hf_error_map_loss(sr, hr, HFErrorMapConfig(**COURSE), l1)
    total = 0.0
    for scale, weight in zip(SCALES, (0.4, 0.3, 0.2, 0.1), strict=True):
        E, a, b = (GOLDEN[f"{scale:g}/{name}"] for name in ("E_max", "sr", "hr"))
        distance = ((E * a + 1) / 2 - (E * b + 1) / 2).abs().mean()
        close(losses[f"distance_{scale:g}"], distance)
        close(losses[f"error_{scale:g}"], GOLDEN[f"{scale:g}/E_up_nearest"].mean())
        close(losses[f"map_mean_{scale:g}"], E.mean())
        close(losses[f"map_max_{scale:g}"], E.max())
        total += weight * distance
    close(losses["loss"], total)
    assert all(value.shape == () for value in losses.values()) and len(losses) == 1 + 4 * 4


@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2", "sym4"])
@pytest.mark.parametrize("H", [16, 17])
def test_every_pixel_takes_the_coefficient_centred_nearest(wavelet, H):
    restored, clean = pair(1, H, 21)
    steps = error_map_steps(restored, clean, HFErrorMapConfig(wavelet=wavelet))
    d, taps = steps.differences[0], {"haar": 2, "db2": 4, "bior2.2": 6, "sym4": 8}[wavelet]
    centres = [2 * torch.arange(n) + 1 - (taps - 1) / 2 for n in d.shape[-2:]]
    rows, columns = (
        [int((c - p).abs().argmin()) for p in range(n)] for c, n in zip(centres, clean.shape[-2:], strict=True)
    )
    assert torch.equal(steps.error, d[..., rows, :][..., columns])
    if wavelet == "haar":
        assert torch.equal(steps.error, F.interpolate(d, scale_factor=2)[..., :H, :21])


def test_several_levels_are_averaged_at_the_size_of_the_image():
    import pywt

    restored, clean = pair(1, 16, 16)
    steps = error_map_steps(restored, clean, HFErrorMapConfig(levels=3))
    assert [tuple(d.shape) for d in steps.differences] == [(1, 1, 8, 8), (1, 1, 4, 4), (1, 1, 2, 2)]
    bands = [pywt.wavedec2(x[0].numpy(), "haar", "symmetric", 3)[:0:-1] for x in (restored, clean)]
    expected = []
    for level, (a, b) in enumerate(zip(*bands, strict=True), 1):
        d = np.mean([np.abs(p - q).mean(0) for p, q in zip(a, b, strict=True)], axis=0)
        expected.append(np.kron(d, np.ones((2**level, 2**level))))
    close(steps.error[0, 0].double(), torch.from_numpy(np.mean(expected, axis=0)))


# ---------------------------------------------------------------- what it sees


@pytest.mark.parametrize("mode", paper.MODES)
def test_equal_images_have_an_empty_map_and_no_loss(mode):
    _, clean = pair(2, 64, 64)
    losses = hf_error_map_loss(clean, clean, HFErrorMapConfig(mode=mode), paper.perceptual_distance("course")[0])
    assert losses["loss"] == 0 and losses["map_max_1"] == 0
    assert torch.equal(error_map(clean, clean), torch.zeros(2, 1, 64, 64))


def test_a_wrong_brightness_is_invisible_to_equation_1_alone():
    _, clean = pair(2, 64, 64)
    clean = 0.5 * clean
    distance, found = paper.perceptual_distance("course")[0], {}
    for mode in paper.MODES:
        restored = (clean + 0.25).requires_grad_()
        losses = hf_error_map_loss(restored, clean, HFErrorMapConfig(mode=mode), distance)
        losses["loss"].backward()
        found[mode] = losses["loss"].item(), restored.grad.abs().max().item()
    for i in (0, 1):
        assert found["literal"][i] < 1e-4 * found["none"][i]
        assert found["one_plus"][i] == pytest.approx(found["none"][i], rel=1e-2)
    assert found["none"][0] > 1e-2


def test_the_map_is_large_where_detail_is_wrong():
    _, clean = pair(1, 32, 32)
    restored = clean.clone()
    restored[..., 8:12, 20:24] = 0
    steps = error_map_steps(restored, clean)
    assert steps.map[..., 8:12, 20:24].min() > 0.05 and steps.map.max() == 1
    steps.map[..., 8:12, 20:24] = 0
    assert steps.map.max() == 0


def test_the_floor_keeps_rounding_errors_small():
    _, clean = pair(1)
    restored = clean + 1e-7 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert 0 < error_map(restored, clean).max() < 1e-3
    assert error_map(restored, clean, HFErrorMapConfig(floor=1e-12)).max() == 1
    assert error_map(restored, clean, HFErrorMapConfig(normalisation="mean")).max() < 1e-3


def test_every_image_has_its_own_map_whatever_its_batch():
    restored, clean = pair(3)
    whole = error_map_steps(restored, clean)
    assert whole.map.amax((1, 2, 3)).tolist() == [1, 1, 1]
    assert whole.error.amax((1, 2, 3)).diff().min() > 0.01  # though their errors differ
    config, singles = HFErrorMapConfig(**COURSE), []
    for i in range(3):
        one = slice(i, i + 1)
        assert torch.equal(error_map(restored[one], clean[one]), whole.map[one])
        singles.append(hf_error_map_loss(restored[one], clean[one], config, l1)["loss"])
    close(hf_error_map_loss(restored, clean, config, l1)["loss"], torch.stack(singles).mean(), atol=1e-6)
    order = [2, 0, 1]
    assert torch.equal(error_map(restored[order], clean[order]), whole.map[order])


def test_without_a_map_it_is_plain_multi_scale_distance():
    restored, clean = pair(2, 64, 64)
    distance = paper.perceptual_distance("course")[0]
    found = hf_error_map_loss(restored, clean, HFErrorMapConfig(mode="none", **COURSE), distance)["loss"]
    expected = 0.0
    for scale, weight in zip(SCALES, (0.4, 0.3, 0.2, 0.1), strict=True):
        a, b = (
            F.interpolate((x + 1) / 2, scale_factor=scale, mode="bicubic", antialias=True) for x in (restored, clean)
        )
        expected += weight * distance(a, b).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_with_mean_absolute_difference_the_map_is_a_plain_weight():
    restored, clean = pair(1)
    E = error_map(restored, clean)
    found = hf_error_map_loss(restored, clean, HFErrorMapConfig(**SINGLE), l1)["loss"]
    close(found, (E * (restored - clean).abs()).mean() / 2, atol=1e-7)


# ---------------------------------------------------------------- gradients


def test_no_gradient_passes_through_the_map_unless_asked_for():
    restored, clean = pair(1)
    a, b, found = restored.clone().requires_grad_(), clean.clone().requires_grad_(), {}
    for detach in (True, False):
        config = HFErrorMapConfig(detach=detach, **SINGLE)
        assert error_map(a, b, config).requires_grad is not detach
        (found[detach],) = torch.autograd.grad(hf_error_map_loss(a, b, config, l1)["loss"], a)
    E = error_map(restored, clean)
    close(found[True], E * (restored - clean).sign() / 2 / restored.numel(), atol=1e-9)
    assert (found[False] - found[True]).abs().max() > 0.1 * found[True].abs().max()
    loss = hf_error_map_loss(a, b, HFErrorMapConfig(detach=False, **SINGLE), l1)["loss"]
    assert torch.autograd.grad(loss, b, allow_unused=True) == (None,)


def test_the_gradient_through_the_map_is_the_numerical_one():
    restored, clean = pair(1, 8, 8)
    config = HFErrorMapConfig(detach=False, merge="root_sum_squares", difference="charbonnier", **SINGLE)

    def loss(x):
        return hf_error_map_loss(x, clean, config, lambda a, b: (a - b).square().mean((1, 2, 3)))["loss"]

    a = restored.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(a), a)
    for index in ((0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 3, 1)):
        step = torch.zeros_like(restored)
        step[index] = 1e-3
        numerical = (loss(restored + step) - loss(restored - step)).item() / 2e-3
        assert found[index].item() == pytest.approx(numerical, rel=0.02)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("merge", paper.MERGES)
def test_gradients_of_equal_images_are_finite(merge, detach):
    _, clean = pair(1, 16, 16)
    a = clean.clone().requires_grad_()
    config = HFErrorMapConfig(merge=merge, detach=detach, mode="one_plus", **COURSE)
    hf_error_map_loss(a, clean, config, paper.perceptual_distance("course")[0])["loss"].backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("mode", paper.MODES)
def test_following_the_gradient_lowers_the_loss(mode):
    restored, clean = pair(2)
    config, distance = HFErrorMapConfig(mode=mode, **COURSE), paper.perceptual_distance("course")[0]
    values = []
    for _ in range(6):
        restored = restored.detach().requires_grad_()
        loss = hf_error_map_loss(restored, clean, config, distance)["loss"]
        (gradient,) = torch.autograd.grad(loss, restored)
        values.append(loss.item())
        restored = restored - 0.01 * gradient / gradient.abs().mean()
    assert values[-1] < 0.9 * values[0]


def test_what_leaves_the_range_is_clipped_and_gets_no_gradient():
    restored, clean = pair(1)
    wild = restored.clone()
    wild[..., :4, :4] += 3
    wild.requires_grad_()
    config = HFErrorMapConfig(**SINGLE)
    loss = hf_error_map_loss(wild, clean, config, l1)["loss"]
    assert torch.equal(loss, hf_error_map_loss(wild.detach().clamp(-1, 1), clean, config, l1)["loss"])
    (gradient,) = torch.autograd.grad(loss, wild)
    assert gradient[..., :4, :4].abs().max() == 0 and gradient[..., 5:, 5:].abs().max() > 0


# ---------------------------------------------------------------- scales


def test_small_scales_are_dropped_and_their_weight_goes_to_the_others():
    found = HFErrorMapConfig().scales_for(64, 96)
    assert found == pytest.approx({1.0: 0.4 / 0.9, 0.5: 0.3 / 0.9, 0.25: 0.2 / 0.9})
    assert HFErrorMapConfig().scales_for(128, 128) == pytest.approx(
        dict(zip(SCALES, (0.4, 0.3, 0.2, 0.1), strict=True))
    )
    assert list(HFErrorMapConfig().scales_for(96, 63)) == [1.0, 0.5]
    heavy = HFErrorMapConfig(weights=(4, 3, 2, 1))
    assert sum(heavy.scales_for(64, 64).values()) == pytest.approx(10)
    restored, clean = pair(1, 64, 64)
    losses = hf_error_map_loss(restored, clean, HFErrorMapConfig(), l1)
    distances = torch.stack([losses[f"distance_{s}"] for s in ("1", "0.5", "0.25")])
    assert "distance_0.125" not in losses
    close(losses["loss"], (distances * torch.tensor([4, 3, 2]) / 9).sum(), atol=1e-7)


@pytest.mark.parametrize(("backbone", "side"), [("vgg", 16), ("squeeze", 24), ("alex", 32), ("course", 2)])
def test_a_scale_is_at_least_what_its_backbone_accepts(backbone, side):
    config = HFErrorMapConfig(backbone=backbone, min_side=2)
    assert config.smallest_side == side
    assert list(config.scales_for(2 * side, 2 * side))[:2] == [1.0, 0.5]
    if side > 2:
        assert list(config.scales_for(2 * side - 1, 2 * side)) == [1.0]
    assert HFErrorMapConfig(backbone=backbone, min_side=40).smallest_side == 40


def test_with_no_scale_left_it_says_so():
    restored, clean = pair(1, 15, 40)
    with pytest.raises(ValueError, match="restored: none of the scales .* at least 16 pixels at 15 x 40; use larger"):
        hf_error_map_loss(restored, clean, HFErrorMapConfig(), l1)
    with pytest.raises(ValueError, match="none of the scales"):
        HFErrorMapConfig(scales=(1.0, 0.25), weights=(0.0, 1.0)).scales_for(32, 32)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
@pytest.mark.parametrize("size", [(33, 47), (35, 32)])
def test_odd_sizes(size, wavelet):
    restored, clean = pair(2, *size)
    config = HFErrorMapConfig(wavelet=wavelet, levels=2, min_side=4, backbone="course")
    losses = hf_error_map_loss(restored, clean, config, paper.perceptual_distance("course")[0])
    assert losses["loss"].isfinite() and losses["loss"] > 0 and "distance_0.125" in losses
    steps = error_map_steps(restored, clean, config, 0.5)
    half = tuple(side // 2 for side in size)
    assert steps.map.shape == (2, 1, *half) and steps.restored_product.shape == (2, 3, *half)
    assert paper.scaled_size(100, 7, 0.29) == (29, 2)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("scales", (1.0, 0.5, 0.25, 0.2)),
        ("weights", (0.1, 0.2, 0.3, 0.4)),
        ("wavelet", "db2"),
        ("wavelet", "sym4"),
        ("levels", 2),
        ("resize", "area"),
        ("resize", "bilinear"),
        ("colour", "luma"),
        ("colour", "channels"),
        ("difference", "squared"),
        ("difference", "charbonnier"),
        ("merge", "max"),
        ("merge", "half_diagonal"),
        ("merge", "root_sum_squares"),
        ("normalisation", "none"),
        ("normalisation", "mean"),
        ("floor", 10.0),
        ("domain", "unit"),
        ("mode", "one_plus"),
        ("mode", "none"),
        ("min_side", 8),
    ],
)
def test_every_option_changes_the_loss(option, value):
    restored, clean = pair(2)

    def loss(config):
        return hf_error_map_loss(restored, clean, config, lambda a, b: l1(a.square(), b.square()))

    start = HFErrorMapConfig(**COURSE)
    changed = dataclasses.replace(start, **{option: value})
    assert loss(changed)["loss"].item() != pytest.approx(loss(start)["loss"].item(), rel=1e-4)


@pytest.mark.parametrize("difference", paper.DIFFERENCES)
@pytest.mark.parametrize("merge", paper.MERGES)
def test_differences_and_merges_are_what_they_are_called(difference, merge):
    restored, clean = pair(2, 16, 16)
    steps = error_map_steps(restored, clean, HFErrorMapConfig(difference=difference, merge=merge, colour="channels"))
    d = [(a - b).double() for a, b in zip(steps.restored_details[0], steps.clean_details[0], strict=True)]
    h, v, x = (
        {"absolute": z.abs(), "squared": z * z, "charbonnier": (z * z + 1e-6) ** 0.5 - 1e-3}[difference] for z in d
    )
    expected = {
        "mean": (h + v + x) / 3,
        "max": torch.maximum(torch.maximum(h, v), x),
        "sum": h + v + x,
        "half_diagonal": (h + v + x / 2) / 2.5,
        "root_sum_squares": (h * h + v * v + x * x) ** 0.5,
    }[merge]
    close(steps.differences[0].double(), expected, atol=1e-6)


def test_colours_are_merged_as_asked():
    restored, clean = pair(2, 16, 16)
    by_channel, mean, luma = (
        error_map_steps(restored, clean, HFErrorMapConfig(colour=c)) for c in ("channels", "mean", "luma")
    )
    assert by_channel.map.shape == (2, 3, 16, 16) and mean.map.shape == luma.map.shape == (2, 1, 16, 16)
    close(by_channel.error.mean(1, keepdim=True), mean.error, atol=1e-6)
    assert by_channel.map.amax((1, 2, 3)).tolist() == [1, 1] and (by_channel.map.amax((2, 3)) < 1).any()
    weighted = [(z * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, True) for z in (restored, clean)]
    grey = [z.expand(-1, 3, -1, -1) for z in weighted]
    close(luma.error, error_map_steps(*grey).error, atol=1e-6)


def test_normalisations_divide_by_what_they_are_called():
    restored, clean = pair(2)
    none, mean, largest = (
        error_map_steps(restored, clean, HFErrorMapConfig(normalisation=n)) for n in ("none", "mean", "max")
    )
    assert torch.equal(none.map, none.error) and torch.equal(none.error, largest.error)
    close(mean.map.mean((1, 2, 3)), torch.ones(2))
    close(mean.map * none.map.mean((1, 2, 3), keepdim=True), none.map)
    close(largest.map * none.map.amax((1, 2, 3), keepdim=True), none.map)


def test_modes_and_domains_multiply_as_they_say():
    restored, clean = pair(1)
    for mode, gain in (("literal", 1.0), ("one_plus", 1.0), ("one_plus", 3.0), ("none", 1.0)):
        for domain in paper.DOMAINS:
            steps = error_map_steps(restored, clean, HFErrorMapConfig(mode=mode, gain=gain, domain=domain))
            factor = {"literal": steps.map, "one_plus": 1 + gain * steps.map, "none": torch.ones_like(steps.map)}[mode]
            assert torch.equal(steps.factor, factor) and steps.map.max() == 1
            for x, found in ((restored, steps.restored_product), (clean, steps.clean_product)):
                right = (factor * x + 1) / 2 if domain == "model" else factor * (x + 1) / 2
                close(found, right, atol=1e-6)


@pytest.mark.parametrize("resize", paper.RESIZES)
def test_images_are_resized_from_the_full_size_without_aliasing(resize):
    stripes = torch.arange(64) % 2 * 1.8 - 0.9
    x = stripes.expand(1, 3, 64, 64)
    steps = error_map_steps(x, x, HFErrorMapConfig(resize=resize), 0.25)
    assert steps.clean.shape == (1, 3, 16, 16)
    assert steps.clean[..., 2:-2].abs().max() < 0.05  # stripes of one pixel average out
    aliased = F.interpolate(x, scale_factor=0.25, mode="nearest")
    assert aliased.abs().min() > 0.8


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": (0.5, 0.5)}, r"weights: expected one a scale \(4\), got 2"),
        ({"scales": (1.0,)}, r"weights: expected one a scale \(1\), got 4"),
        ({"scales": (), "weights": ()}, "scales: expected numbers in"),
        ({"scales": (2.0, 0.5, 0.25, 0.125)}, r"scales: expected numbers in \(0, 1\]"),
        ({"scales": (1.0, 0.5, 0.5, 0.125)}, "scales: each may occur once"),
        ({"weights": (0.4, 0.3, 0.2, -0.1)}, "weights: must be finite and not negative"),
        ({"weights": (0.0, 0.0, 0.0, 0.0)}, "weights: .*one of them positive"),
        ({"weights": (0.4, 0.3, 0.2, float("nan"))}, "weights: must be finite"),
        ({"wavelet": "morl"}, "wavelet: 'morl' is not an orthogonal or biorthogonal"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"min_side": 1}, "min_side 2, got 1 and 1"),
        ({"floor": 0.0}, "floor: must be positive and finite"),
        ({"gain": -1.0}, "gain: must be finite and not negative"),
        *(
            ({name: "other"}, f"{name}: expected one of .*, got 'other'")
            for name in ("resize", "colour", "difference", "merge", "normalisation", "domain", "mode", "backbone")
        ),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HFErrorMapConfig(**options)


@pytest.mark.parametrize("function", [error_map, lambda a, b: hf_error_map_loss(a, b, HFErrorMapConfig(), l1)])
def test_bad_images_are_refused_by_name(function):
    restored, clean = pair(2)
    for value in (float("nan"), float("inf")):
        broken = clean.clone()
        broken[1, 2, 3, 4] = value
        with pytest.raises(ValueError, match="restored: contains NaN or infinite"):
            function(broken, clean)
        with pytest.raises(ValueError, match="clean: contains NaN or infinite"):
            function(restored, broken)
    with pytest.raises(ValueError, match="restored and clean must have the same shape"):
        function(restored[:1], clean)
    with pytest.raises(ValueError, match="restored: expected 3 channels"):
        function(restored[:, :1], clean[:, :1])
    with pytest.raises(ValueError, match=r"clean: values must lie in \[-1, 1\], got magnitudes up to"):
        function(restored, clean * 100)
    with pytest.raises(TypeError, match="clean: expected a floating-point tensor"):
        function(restored, clean.to(torch.uint8))


def test_other_mistakes_are_refused():
    restored, clean = pair(2)
    with pytest.raises(ValueError, match=r"perceptual: expected one distance an image, shape \(2,\), got shape \(\)"):
        hf_error_map_loss(restored, clean, HFErrorMapConfig(), lambda a, b: (a - b).abs().mean())
    with pytest.raises(ValueError, match=r"scale: must lie in \(0, 1\], got 2"):
        error_map_steps(restored, clean, scale=2)
    with pytest.raises(ValueError, match="levels: 6 levels need sides of at least 64 pixels"):
        error_map(restored, clean, HFErrorMapConfig(levels=6))


# ---------------------------------------------------------------- precision and devices


def test_it_stays_in_float32_under_autocast_and_for_half_images():
    restored, clean = pair(2)
    config, distance = HFErrorMapConfig(**COURSE), paper.perceptual_distance("course")[0]
    expected = hf_error_map_loss(restored, clean, config, distance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = hf_error_map_loss(restored, clean, config, distance)
        E = error_map(restored.requires_grad_(), clean)
    assert E.dtype == torch.float32 and not E.requires_grad
    for name, value in expected.items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], value), name
    half = error_map(restored.bfloat16(), clean.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, error_map(restored.bfloat16().float(), clean.bfloat16().float()))


def test_its_cost_can_be_measured_without_values():
    restored, clean = (x.to("meta").requires_grad_() for x in pair(2))
    distance = paper.perceptual_distance("course")[0]
    loss = hf_error_map_loss(restored, clean, HFErrorMapConfig(), distance)["loss"]
    assert loss.is_meta and loss.requires_grad
    assert all(p.is_meta for p in paper._encoder(torch.device("meta")).parameters())
    assert distance(*pair(1)).isfinite().all()  # the encoder on the CPU keeps its weights


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu():
    restored, clean = pair(2)
    config, distance = HFErrorMapConfig(**COURSE), paper.perceptual_distance("course")[0]
    expected = hf_error_map_loss(restored, clean, config, distance)
    found = hf_error_map_loss(restored.cuda(), clean.cuda(), config, distance)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=5e-3, abs=1e-6), name  # convolutions in TF32


# ---------------------------------------------------------------- distances


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty TORCH_HOME."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("backbone", paper.BACKBONES)
def test_without_weights_it_is_the_courses_distance_and_says_so(torch_home, backbone):
    distance, label = paper.perceptual_distance(backbone)
    assert label == "course feature distance"
    a, b = (images.to_unit_range(x) for x in pair(2))
    close(distance(a, b), features.perceptual_distance(features.load_encoder(), a, b), atol=1e-7)
    a = (3 * a - 1).requires_grad_()  # images that leave [0, 1] are neither refused nor clipped
    distance(a, b).sum().backward()
    assert (a.grad[(a < 0) | (a > 1)] != 0).float().mean() > 0.9
    with pytest.raises(ValueError, match="prediction: values must lie in"):
        features.perceptual_distance(features.load_encoder(), a, b)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="backbone: expected one of vgg, squeeze, alex, course, got 'resnet'"):
        paper.perceptual_distance("resnet")


def test_with_weights_on_disk_it_is_lpips_under_the_name_they_earn(torch_home, monkeypatch):
    pytest.importorskip("lpips")
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        shapes = torchvision.models.squeezenet1_1().features.state_dict()
    generator = torch.Generator().manual_seed(0)
    path = torch_home / perceptual.TRUNKS["squeeze"][0]
    torch.save({f"features.{k}": 0.1 * torch.randn(v.shape, generator=generator) for k, v in shapes.items()}, path)
    distance, label = paper.perceptual_distance("squeeze")
    assert label == metrics.lpips_id("squeeze") != "lpips-squeeze"
    restored, clean = pair(2)
    restored.requires_grad_()
    config = HFErrorMapConfig(**{**SINGLE, "backbone": "squeeze"})
    loss = hf_error_map_loss(restored, clean, config, distance)["loss"]
    steps = error_map_steps(restored, clean, config)
    expected = metrics.lpips(steps.restored_product.detach(), steps.clean_product, net="squeeze").mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert restored.grad.isfinite().all() and restored.grad.abs().max() > 0
    assert paper.perceptual_distance("course")[1] == "course feature distance"
    published = path.with_name(f"squeezenet1_1-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    path.rename(published)
    monkeypatch.setitem(perceptual.TRUNKS, "squeeze", (published.name, "squeezenet1_1", 24))
    assert paper.perceptual_distance("squeeze")[1] == "LPIPS (SqueezeNet)"
