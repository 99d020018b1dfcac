"""The structure-guided icDPM: sizes, structure phi_k, guidance network, losses. Sampling has a file of its own."""

import dataclasses
import itertools
import math
import re

import pytest
import torch
from torch import nn

from minirestore import diffusion, images
from minirestore.diffusion import BatchGenerator
from minirestore.networks import ResBlock, count_parameters
from minirestore.papers.structure_guidance import (
    GuidanceNet,
    GuidedResBlock,
    ICDPMUNet,
    StructureGuidance,
    StructureGuidanceConfig,
    StructurePyramid,
)
from minirestore.papers.structure_guidance.config import CHOICES

TINY = {"widths": (8, 12, 16), "blocks": 1, "mid_blocks": 1, "embedding_width": 8, "scales": (1, 2),
        "guidance_blocks": 1, "warm_start": 0, "ramp": 0, "sampling_steps": 5, "sampling_beta_end": 0.9}  # fmt: skip


def fill(module, std=0.1, seed=0):
    """Give all weights, zero-initialised ones included, random values, so that everything depends on everything."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return module


def tiny(**changes):
    return fill(StructureGuidance(StructureGuidanceConfig(**{**TINY, **changes})))


def fresh(seed=0, **changes):
    torch.manual_seed(seed)
    return StructureGuidance(StructureGuidanceConfig(**{**TINY, **changes}))


def make_batch(count=2, side=16, seed=0):
    """Smooth random pictures and the same, smoother."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=generator)
    clean = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    degraded = nn.functional.avg_pool2d(clean, 5, 1, 2, count_include_pad=False)
    return {"clean": clean, "degraded": degraded}


def losses_of(model, step=0, seed=0, batch=None):
    return model.training_losses(batch or make_batch(), BatchGenerator(seed, 0), step)


def touched(module):
    """Names of the parameters that have a gradient other than zero."""
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


# ---------------------------------------------------------------- sizes


def conv(cin, cout, kernel=3):
    return kernel**2 * cin * cout + cout


def block(cin, cout, E):
    """Section 15 of the specification: one residual block without normalisation."""
    return conv(cin, cout) + conv(cout, cout) + (E * cout + cout if E else 0) + (cin != cout) * conv(cin, cout, 1)


def unet(b, in_channels, E, plain=False):
    """Widths (b, 2b, 3b, 4b), 3 blocks per level, 4 on the way up, 2 in the middle; without the embedding's MLP."""
    widths = [b, 2 * b, 3 * b, 4 * b]
    level = {c: (E * c + c if E else 0) for c in widths}
    down = {c: conv(c, c) if plain else 3 * conv(c, c) + conv(c, c, 1) + level[c] for c in widths}
    up = {c: conv(c, c) if plain else 2 * conv(c, c) + conv(c, c, 1) + level[c] for c in widths}
    total = conv(in_channels, b, 3 if plain else 1) + conv(b, 3) + 2 * block(4 * b, 4 * b, E)
    total += block(b, b, E) + sum(block(low, high, E) for low, high in itertools.pairwise(widths))
    total += sum(2 * block(c, c, E) for c in widths) + sum(down[c] for c in widths[:3]) + sum(up[c] for c in widths[1:])
    # what each decoder block finds on the stack: three blocks of its level, then the layer that came before them
    for c, first, below in ((4 * b, 4 * b, 3 * b), (3 * b, 4 * b, 2 * b), (2 * b, 3 * b, b), (b, 2 * b, b)):
        total += block(first + c, c, E) + 2 * block(c + c, c, E) + block(c + below, c, E)
    return total


def count(**settings):
    with torch.device("meta"):
        return count_parameters(StructureGuidance(StructureGuidanceConfig(**settings)))


@pytest.mark.parametrize(("b", "published"), [(32, 6_800_515), (64, 27_177_219)])
def test_the_unguided_network_has_the_published_size(b, published):
    mlp = b * 4 * b + 4 * b + 4 * b * b + b
    assert count(guided=False, widths=(b, 2 * b, 3 * b, 4 * b)) == published == unet(b, 6, b) + mlp


@pytest.mark.parametrize(("b", "expected"), [(32, 6_463_747), (64, 25_829_891)])
def test_the_plain_variant_has_the_specified_size(b, expected):
    widths = (b, 2 * b, 3 * b, 4 * b)
    options = {"stem_kernel": 3, "resample": "plain", "noise_level": "sqrt_alpha_bar", "embedding_width": 4 * b}
    mlp = 2 * 4 * b + 4 * b * 4 * b + 4 * b
    assert count(guided=False, widths=widths, **options) == expected == unet(b, 6, 4 * b, plain=True) + mlp


def test_the_regressor_is_the_predictor_of_dvsr_and_both_together_its_refiner():
    assert count(objective="regression", widths=(64, 128, 192, 256)) == 26_757_059 == unet(64, 3, None)
    assert count(guided=False, target="refine") == 33_557_574 == 6_800_515 + 26_757_059


@pytest.mark.parametrize(("b", "total"), [(32, 9_035_494), (64, 36_101_574)])
def test_guidance_adds_three_branches_and_the_projections_of_the_encoder(b, total):
    widths = (b, 2 * b, 3 * b, 4 * b)
    branches = sum(conv(1, g) + 4 * (18 * g**2 + 2 * g) + conv(g, 1) for g in widths[1:])
    projections = sum(3 * g * g for g in widths[1:])
    assert count(widths=widths) == total == count(guided=False, widths=widths) + branches + projections


def test_widening_any_part_changes_the_count():
    base = count()
    for change in ({"widths": (40, 64, 96, 128)}, {"guidance_widths": (64, 96, 160)}, {"embedding_width": 64}):
        assert count(**change) > base
    assert count(guidance_blocks=5) - base == sum(18 * g**2 + 2 * g for g in (64, 96, 128))
    assert base - count(inject="first") == sum(2 * g * g for g in (64, 96, 128))
    assert count(guidance_widths=(64, 64, 64), share_branches=True) < count(guidance_widths=(64, 64, 64))


# ---------------------------------------------------------------- phi_k


def pyramid(**settings):
    return StructurePyramid(StructureGuidanceConfig(**settings))


def test_structure_has_one_channel_at_halves_quarters_and_eighths():
    y = torch.rand(2, 3, 32, 48)
    assert {k: p.shape for k, p in pyramid()(y).items()} == {k: (2, 1, 32 >> k, 48 >> k) for k in (1, 2, 3)}
    colours = pyramid(guidance_input="rgb")
    assert {k: p.shape for k, p in colours(y).items()} == {k: (2, 3 * 4**k, 32 >> k, 48 >> k) for k in (1, 2, 3)}
    assert [colours.channels(k) for k in (1, 2)] == [12, 48]
    assert list(pyramid(scales=(2,))(y)) == [2]


@pytest.mark.parametrize("downsample", CHOICES["downsample"])
@pytest.mark.parametrize(
    ("weights", "expected"),
    [("bt601", (0.299, 0.587, 0.114)), ("bt709", (0.2126, 0.7152, 0.0722)), ("mean", (1 / 3, 1 / 3, 1 / 3))],
)
def test_a_constant_image_becomes_its_constant_grey(downsample, weights, expected):
    colour = torch.tensor([0.8, -0.3, 0.1], dtype=torch.float64)
    grey = (colour * torch.tensor(expected, dtype=torch.float64)).sum()
    phi = pyramid(downsample=downsample, luma_weights=weights)
    for p in phi(colour.view(1, 3, 1, 1).expand(1, 3, 32, 32)).values():
        assert torch.allclose(p, grey.expand(p.shape), atol=1e-6)


def test_grey_is_that_of_the_package():
    y = torch.rand(1, 3, 8, 8)
    assert torch.equal(pyramid().reduce(y, 0), images.luma(y))


def waves(frequency_y, frequency_x, side=64):
    """Waves of all four quarter phases, cycles per pixel."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    turns = frequency_y * row + frequency_x * column
    phases = torch.arange(4)[:, None, None] / 4
    return torch.cos(2 * math.pi * (turns + phases)).double()[:, None].expand(4, 3, side, side)


@pytest.mark.parametrize("downsample", CHOICES["downsample"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_checkerboard_vanishes(downsample, k):
    board = waves(0.5, 0.5)[:1]
    assert board.abs().min() == pytest.approx(1)
    assert pyramid(downsample=downsample).reduce(board, k).square().mean() < 0.01


@pytest.mark.parametrize("downsample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("frequency", [0.25, 0.3, 0.375, 0.45])
def test_waves_beyond_twice_the_new_limit_do_not_alias(downsample, frequency):
    """Without antialiasing, reduction to a quarter turns 0.25 cycles per pixel into a constant of full strength."""
    for wave in (waves(frequency, 0), waves(0, frequency), waves(frequency, frequency)):
        reduced = pyramid(downsample=downsample).reduce(wave, 2)[..., 3:-3, 3:-3]  # away from the border
        assert reduced.square().mean((1, 2, 3)).max() < 0.01 * 0.5


@pytest.mark.parametrize("downsample", CHOICES["downsample"])
def test_slow_waves_survive(downsample):
    slow = waves(1 / 64, 0)
    reduced = pyramid(downsample=downsample).reduce(slow, 2)
    assert reduced.square().mean().item() == pytest.approx(slow.square().mean().item(), rel=0.05)


def test_area_is_the_mean_of_blocks():
    y = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    blocks = images.luma(y).view(1, 1, 4, 4, 4, 4).mean((3, 5))
    assert torch.allclose(pyramid(downsample="area").reduce(y, 2), blocks, atol=1e-6)


def test_bilinear_is_a_triangle_and_bicubic_has_negative_lobes():
    line = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    line[..., 4] = 1  # output pixels lie at 0.5, 2.5, 4.5, ... of the input
    triangle, cubic = (pyramid(downsample=kind).reduce(line, 1)[0, 0, 4] for kind in ("bilinear", "bicubic"))
    assert torch.allclose(triangle, torch.tensor([0, 0.125, 0.375, 0, 0, 0, 0, 0], dtype=torch.float64), atol=1e-6)
    assert cubic.min() < -0.01 and cubic.sum().item() == pytest.approx(0.5, abs=0.02)


def test_noise_comes_only_from_a_generator_and_has_the_stated_size():
    phi, y = pyramid(guidance_noise=0.07), torch.rand(4, 3, 128, 128)
    still = phi(y)
    noise = {k: p - still[k] for k, p in phi(y, BatchGenerator(0, 0)).items()}
    assert torch.equal(phi(y)[1], still[1])
    for n in noise.values():
        assert n.std().item() == pytest.approx(0.07, rel=0.1)
        assert n.mean().item() == pytest.approx(0, abs=0.01)
    assert torch.corrcoef(torch.stack([noise[1][:, :, ::2, ::2].flatten(), noise[2].flatten()]))[0, 1].abs() < 0.1
    again, other = phi(y, BatchGenerator(0, 0)), phi(y, BatchGenerator(1, 0))
    assert torch.equal(again[3] - still[3], noise[3]) and not torch.equal(other[3], again[3])


def test_without_noise_the_generator_is_left_alone():
    phi, generator = pyramid(guidance_noise=0.0), BatchGenerator(0, 0)
    before = generator.get_state()
    assert torch.equal(phi(torch.ones(1, 3, 8, 8), generator)[1], phi(torch.ones(1, 3, 8, 8))[1])
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_colour_control_removes_nothing(k):
    y = torch.rand(2, 3, 16, 24)
    assert torch.equal(nn.functional.pixel_shuffle(pyramid(guidance_input="rgb").reduce(y, k), 2**k), y)


# ---------------------------------------------------------------- H, guided blocks, U-Net


def test_shared_branches_are_one_network_and_separate_ones_are_not():
    y = torch.rand(1, 1, 8, 8)
    for share in (True, False):
        settings = {**TINY, "guidance_widths": (6, 6), "share_branches": share}
        net = fill(GuidanceNet(StructureGuidanceConfig(**settings)))
        features, predictions = net({1: y, 2: y})
        assert features[1].shape == (1, 6, 8, 8) and predictions[1].shape == (1, 1, 8, 8)
        assert torch.equal(features[1], features[2]) == share
        assert len(net.branches) == (1 if share else 2)


def test_the_feature_is_the_last_block_and_the_prediction_one_convolution_of_it():
    net = fill(GuidanceNet(StructureGuidanceConfig(**{**TINY, "guidance_blocks": 2})))
    p = torch.rand(1, 1, 8, 8)
    branch = net.branches["2"]
    h = branch.blocks[1](branch.blocks[0](branch.stem(p)))
    features, predictions = net({2: p})
    assert torch.equal(features[2], h) and torch.equal(predictions[2], branch.head(h))
    assert h.shape[1] == 16, "as wide as the level of the U-Net"


def test_a_residual_head_predicts_what_to_add_to_the_structure():
    p = torch.rand(1, 1, 8, 8)
    direct, residual = (fill(GuidanceNet(StructureGuidanceConfig(**{**TINY, "head": h}))) for h in CHOICES["head"])
    assert torch.equal(direct({1: p})[0][1], residual({1: p})[0][1]), "the features are the same"
    assert torch.allclose(residual({1: p})[1][1], p + direct({1: p})[1][1])


@pytest.mark.parametrize("place", CHOICES["inject_at"])
def test_guidance_is_added_inside_the_block_or_to_its_input(place):
    guided = fill(GuidedResBlock(6, 10, 4, 0.0, 5, inject_at=place))
    x, e, h = torch.randn(2, 6, 8, 8), torch.randn(2, 4), torch.randn(2, 5, 8, 8)
    added = torch.einsum("oi,bihw->bohw", guided.projection.weight[:, :, 0, 0], h)
    assert torch.allclose(guided.project(h), added, atol=1e-6)
    silu = nn.functional.silu
    x_in = x + added if place == "input" else x
    inside = guided.conv1(silu(x_in)) + guided.level(e)[:, :, None, None] + (added if place == "inside" else 0)
    expected = guided.skip(x_in) + guided.conv2(silu(inside))
    assert torch.allclose(guided(x, e, guided.project(h)), expected, atol=1e-6)
    assert torch.equal(guided(x, e), ResBlock.forward(guided, x, e))
    assert not torch.allclose(guided(x, e), expected, atol=1e-3)


def test_guidance_enters_the_encoder_at_its_own_resolution():
    config = StructureGuidanceConfig(**{**TINY, "blocks": 2, "widths": (8, 12, 16, 20), "scales": (2, 1)})
    net = ICDPMUNet(config)
    assert net.scale_of_block == [[None, None], [1, 1], [2, 2], [None, None]]
    first = ICDPMUNet(dataclasses.replace(config, inject="first"))
    assert first.scale_of_block == [[None, None], [1, None], [2, None], [None, None]]
    shifted = ICDPMUNet(dataclasses.replace(config, unshuffle=2))
    assert shifted.scale_of_block == [[1, 1], [2, 2], [None, None], [None, None]]
    for part in (net.middle, net.decoder, net.down, net.up):
        assert not any(isinstance(m, GuidedResBlock) for m in part.modules())


def test_guidance_is_projected_linearly_in_its_scale():
    model = tiny()
    features, _ = model.guidance(model.pyramid(torch.rand(1, 3, 16, 16)))
    half, one = model.unet.project(features, 0.5), model.unet.project(features)
    assert half[0] == one[0] == [None]
    for level in (1, 2):
        assert torch.allclose(half[level][0], 0.5 * one[level][0], atol=1e-6)
        assert one[level][0].abs().sum() > 0


def test_what_a_pixel_becomes_depends_on_its_neighbourhood_alone():
    model = tiny()
    y, z = torch.rand(2, 1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    level = torch.full((1,), 0.5)

    def run(y, z):
        with torch.no_grad():
            added = model.unet.project(model.guidance(model.pyramid(y))[0])
            return model.unet(torch.cat([y, z], dim=1), level, added)

    whole = run(y, z)[..., 64:192, 64:192]
    crop = run(y[..., 64:192, 64:192], z[..., 64:192, 64:192])
    difference = (whole - crop).abs()
    assert difference[..., 48:80, 48:80].max() < 1e-5
    assert difference[..., :2, :2].max() > 1e-3, "at the border the crop has not seen what lies beyond"
    assert whole[..., 48:80, 48:80].std() > 1e-2


@pytest.mark.parametrize("noise_level", CHOICES["noise_level"])
def test_the_network_knows_the_noise_level_of_every_image(noise_level):
    model = tiny(noise_level=noise_level, guided=False)
    x = torch.rand(1, 6, 8, 8).expand(2, 6, 8, 8)
    a, b = model.unet(x, torch.tensor([0.3, 0.6]))
    assert not torch.allclose(a, b, atol=1e-4)
    assert torch.allclose(model.unet(x[:1], torch.tensor([0.6]))[0], b, atol=1e-6)


def test_the_plain_numbers_are_the_level_and_its_root():
    for name, value in (("alpha_bar", 0.49), ("sqrt_alpha_bar", 0.7)):
        embedding = tiny(noise_level=name, guided=False).unet.embedding
        assert torch.allclose(embedding(torch.tensor([0.49])), embedding.mlp(torch.tensor([[value]])), atol=1e-6)


def test_a_size_the_network_cannot_take_is_refused():
    with pytest.raises(ValueError, match="H and W must be multiples of 4, got 6x8"):
        tiny(guided=False).unet(torch.zeros(1, 6, 6, 8), torch.rand(1))


# ---------------------------------------------------------------- losses


def test_a_guided_network_starts_as_the_unguided_one():
    guided, unguided = fresh(guidance_noise=0.0), fresh(guidance_noise=0.0, guided=False)
    fill(unguided)
    missing = guided.load_state_dict(unguided.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("guidance.") or key.endswith("projection.weight") for key in missing.missing_keys)
    a, b = losses_of(guided), losses_of(unguided)
    assert torch.equal(a["diffusion"], b["diffusion"])
    assert torch.equal(b["loss"], b["diffusion"])
    y = make_batch()["degraded"]
    assert torch.equal(guided.restore(y, BatchGenerator(1, 0)), unguided.restore(y, BatchGenerator(1, 0)))
    for module in guided.unet.modules():
        if isinstance(module, GuidedResBlock):
            nn.init.normal_(module.projection.weight, std=0.1)
    assert not torch.equal(losses_of(guided)["diffusion"], b["diffusion"])
    assert not torch.equal(guided.restore(y, BatchGenerator(1, 0)), unguided.restore(y, BatchGenerator(1, 0)))


def test_projections_may_start_at_random():
    projections = [m.projection.weight for m in fresh(zero_projection=False).modules() if isinstance(m, GuidedResBlock)]
    assert len(projections) == 2 and all(weight.abs().sum() > 0 for weight in projections)


def test_the_diffusion_loss_waits_then_grows_to_full_weight():
    linear = fresh(warm_start=100, ramp=50)
    weights = [linear.diffusion_weight(step) for step in (0, 99, 100, 124, 149, 150, 10**6)]
    assert weights == pytest.approx([0, 0, 0.02, 0.5, 1, 1, 1])
    cosine = fresh(warm_start=100, ramp=50, ramp_shape="cosine")
    assert [cosine.diffusion_weight(step) for step in (99, 124, 149, 500)] == pytest.approx([0, 0.5, 1, 1])
    assert cosine.diffusion_weight(110) < linear.diffusion_weight(110)
    assert fresh(warm_start=0, ramp=0).diffusion_weight(0) == 1
    assert fresh(warm_start=3, ramp=0).diffusion_weight(2) == 0
    assert fresh(warm_start=3, ramp=0).diffusion_weight(3) == 1
    assert fresh(warm_start=100, guided=False).diffusion_weight(0) == 1, "nothing to warm up"


def test_paper_scale_warms_up_for_60k_steps():
    published = StructureGuidanceConfig()
    assert (published.warm_start, published.ramp, published.regression_weight) == (60_000, 60_000, 1)


def test_warm_start_trains_the_guidance_alone():
    model = tiny(warm_start=5)
    losses = losses_of(model, step=4)
    assert set(losses) == {"loss", "guidance"}
    losses["loss"].backward()
    assert all(parameter.grad is None for parameter in model.unet.parameters())
    assert touched(model.guidance) == {name for name, _ in model.guidance.named_parameters()}
    assert set(losses_of(model, step=5)) == {"loss", "guidance", "diffusion"}


def test_the_loss_is_the_weighted_sum():
    losses = losses_of(tiny(warm_start=2, ramp=4, regression_weight=3.0), step=3)
    assert losses["loss"].item() == pytest.approx(3 * losses["guidance"].item() + 0.5 * losses["diffusion"].item())


def test_the_diffusion_loss_trains_the_guidance_network_too():
    model = tiny(regression_weight=0.0)
    losses_of(model)["loss"].backward()
    reached = touched(model.guidance)
    assert reached == {name for name, _ in model.guidance.named_parameters() if ".head." not in name}
    zero = fresh(regression_weight=0.0)  # zero projections hide H at the first step, but learn themselves
    fill(zero.unet.head)
    losses_of(zero)["loss"].backward()
    assert touched(zero.guidance) == set()


def test_the_guidance_loss_does_not_touch_the_unet():
    model = tiny()
    losses = losses_of(model)
    of_unet = torch.autograd.grad(
        losses["guidance"], list(model.unet.parameters()), allow_unused=True, retain_graph=True
    )
    assert all(gradient is None for gradient in of_unet)
    of_guidance = torch.autograd.grad(losses["guidance"], list(model.guidance.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in of_guidance)


@pytest.mark.parametrize("kind", CHOICES["guidance_loss"])
def test_guidance_loss_against_the_formula(kind):
    model = tiny(guidance_loss=kind)
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    predictions = {k: torch.randn(3, 1, 16 >> k, 16 >> k) for k in (1, 2)}
    expected = 0.0
    for k, prediction in predictions.items():
        error = prediction - model.pyramid.reduce(x, k)
        norms = [image.square().sum().sqrt() for image in error]
        expected += error.square().mean() if kind == "mse" else sum(norms) / 3
    assert model.guidance_loss(predictions, x).item() == pytest.approx(expected.item(), rel=1e-5)


def test_targets_are_free_of_noise_unless_asked():
    x = torch.rand(2, 3, 16, 16)
    predictions = {k: torch.zeros(2, 1, 16 >> k, 16 >> k) for k in (1, 2)}
    clean, noisy = tiny(), tiny(noisy_target=True)
    values = [clean.guidance_loss(predictions, x, g) for g in (BatchGenerator(0, 0), BatchGenerator(1, 0), None)]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])
    a, b, c = (noisy.guidance_loss(predictions, x, BatchGenerator(s, 0)) for s in (0, 1, 0))
    assert not torch.equal(a, b) and torch.equal(a, c) and not torch.equal(a, values[0])


@pytest.mark.parametrize("target", CHOICES["target"])
@pytest.mark.parametrize("prediction", CHOICES["prediction"])
@pytest.mark.parametrize("loss", CHOICES["loss"])
def test_diffusion_loss_against_the_formula(target, prediction, loss):
    model = tiny(guided=False, target=target, prediction=prediction, loss=loss, residual_scale=3.0)
    batch, seen = make_batch(), []
    model.unet.register_forward_hook(lambda _, inputs, out: seen.append((*inputs, out)))
    value = losses_of(model, batch=batch, seed=4)["diffusion"]
    (network_input, alpha_bar, _, out), y = seen[0], 2 * batch["degraded"] - 1
    generator = BatchGenerator(4, 0)
    level = model.draw_levels(2, generator).view(2, 1, 1, 1)
    eps = diffusion.randn(y.shape, generator)
    base = {"image": 0, "residual": y}.get(target)
    if base is None:
        base = y + model.predictor(y)
    z = 3 * (2 * batch["clean"] - 1 - base)
    assert torch.equal(alpha_bar, level.flatten())
    z_t = level.sqrt() * z + (1 - level).sqrt() * eps
    assert torch.allclose(network_input, torch.cat([y, z_t], dim=1), atol=1e-5)
    wanted = {"eps": eps, "x0": z, "v": level.sqrt() * eps - (1 - level).sqrt() * z}[prediction]
    expected = (out - wanted).abs().mean() if loss == "l1" else (out - wanted).square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    value.backward()
    if target == "refine":
        assert touched(model.predictor) == {name for name, _ in model.predictor.named_parameters()}


def test_the_regression_loss_is_the_squared_error_of_what_restore_returns():
    model, batch = tiny(objective="regression", residual_scale=2.0), make_batch()
    losses = losses_of(model, batch=batch)
    assert set(losses) == {"loss"}
    y = 2 * batch["degraded"] - 1
    restored = y + model.unet(y) / 2
    error = restored - (2 * batch["clean"] - 1)
    assert losses["loss"].item() == pytest.approx(4 * error.square().mean().item(), rel=1e-4)
    assert torch.allclose(model.restore(batch["degraded"]), images.to_unit_range(restored), atol=1e-6)


def test_the_guidance_network_learns():
    model, batch = fresh(seed=1, warm_start=100, guidance_noise=0.02), make_batch(4, 32)
    optimiser = torch.optim.Adam(model.guidance.parameters(), 5e-3)
    values = []
    for step in range(40):
        loss = losses_of(model, step=step, seed=step, batch=batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert sum(values[-5:]) < 0.2 * sum(values[:5])


def test_guidance_dropout_hides_whole_images():
    model = tiny(guidance_dropout=0.3)
    features = {k: torch.ones(4000, 1, 1, 1) for k in (1, 2)}
    kept = model._drop_guidance(features, BatchGenerator(0, 0))
    assert torch.equal(kept[1], kept[2])
    assert set(kept[1].unique().tolist()) == {0.0, 1.0}
    assert kept[1].mean().item() == pytest.approx(0.7, abs=0.03)
    never = tiny(guidance_dropout=0.0)
    assert never._drop_guidance(features, BatchGenerator(0, 0)) is features


def test_guidance_dropout_acts_on_the_unet_and_not_on_the_guidance_loss(monkeypatch):
    model, batch, seen = tiny(guidance_dropout=0.5), make_batch(12), []
    project = model.unet.project
    monkeypatch.setattr(model.unet, "project", lambda features: seen.append(features) or project(features))
    dropped = losses_of(model, batch=batch)
    hidden = [(h.flatten(1).abs().sum(1) == 0).tolist() for h in seen[0].values()]
    assert hidden[0] == hidden[1] and 0 < sum(hidden[0]) < 12
    assert torch.equal(dropped["guidance"], losses_of(tiny(), batch=batch)["guidance"])


def test_dropout_follows_the_generator_and_leaves_the_global_state_alone():
    model = tiny(dropout=0.5).train()
    zeros = []
    for module in model.unet.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _, inputs, out: zeros.append((out == 0).float().mean().item()))
    values = []
    for seed, global_seed in ((0, 1), (0, 2), (3, 1)):
        torch.manual_seed(global_seed)
        before = torch.random.get_rng_state()
        values.append(losses_of(model, seed=seed)["loss"])
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert sum(zeros) / len(zeros) == pytest.approx(0.5, abs=0.05)
    zeros.clear()
    model.eval()
    losses_of(model)
    assert max(zeros) == 0


def test_two_processes_draw_the_noise_of_one():
    model, batch = tiny(), make_batch(4)
    whole = losses_of(model, batch=batch)["loss"].item()
    parts = []
    for rank in range(2):
        part = {name: value[2 * rank : 2 * rank + 2] for name, value in batch.items()}
        parts.append(model.training_losses(part, BatchGenerator(0, 0, rank=rank, world_size=2), 0)["loss"].item())
    assert sum(parts) / 2 == pytest.approx(whole, rel=1e-5)


# ---------------------------------------------------------------- every option


OPTIONS = [(name, value) for name, values in CHOICES.items() for value in values]
OTHERS = [
    ("unshuffle", 2), ("dropout", 0.1), ("residual_scale", 4.0), ("share_branches", True), ("noisy_target", True),
    ("scales", (2,)), ("guidance_widths", (5, 7)), ("guided", False), ("clip", False), ("mid_blocks", 2),
    ("predictor_widths", (4, 8, 8)), ("guidance_dropout", 0.1), ("zero_projection", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), OPTIONS + OTHERS)
def test_every_option_trains_all_parameters_and_restores(name, value):
    extra = {"share_branches": {"guidance_widths": (6, 6)}, "predictor_widths": {"target": "refine"}}
    model = tiny(**{"blocks": 2, **extra.get(name, {}), name: value})
    losses = losses_of(model)
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert touched(model) == {name for name, _ in model.named_parameters()}
    y = torch.rand(1, 3, 9, 10)
    out = model.eval().restore(y)
    assert out.shape == y.shape and torch.isfinite(out).all() and out.std() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *((({name: "other"}), f"{name}: expected one of .*, got 'other'") for name in CHOICES),
        *(({name: 0}, f"{name}: must be at least 1, got 0") for name in
          ("blocks", "mid_blocks", "unshuffle", "train_levels", "guidance_blocks", "sampling_steps")),
        *(({name: (8, 0)}, rf"{name}: expected 1 channel or more per level, got \(8, 0\)") for name in
          ("widths", "predictor_widths", "guidance_widths")),
        *(({name: value}, f"{name}: must not be negative, got {value}") for name, value in
          (("warm_start", -1), ("ramp", -1), ("guidance_noise", -0.1), ("regression_weight", -1.0),
           ("embedding_width", -8), ("guidance_noise", math.nan), ("regression_weight", math.nan))),
        *(({name: value}, rf"{name}: must lie in \[0, 1\), got {value}") for name in ("dropout", "guidance_dropout")
          for value in (1.0, -0.1, math.nan)),
        *(({"residual_scale": value}, f"residual_scale: must be positive and finite, got {value}") for value in
          (0.0, -1.0, math.nan, math.inf)),
        ({"widths": ()}, r"widths: expected at least one level, got \(\)"),
        ({"predictor_widths": (8, 8)}, r"predictor_widths: expected as many as widths \(4\), or none, got \(8, 8\)"),
        ({"scales": ()}, r"scales: expected distinct k among \[1, 2, 3\], the U-Net's levels, got \(\)"),
        ({"scales": (1, 1)}, r"scales: expected distinct k among \[1, 2, 3\].*got \(1, 1\)"),
        ({"scales": (0,)}, r"scales: expected distinct k among \[1, 2, 3\].*got \(0,\)"),
        ({"scales": (1, 4)}, r"scales: expected distinct k among \[1, 2, 3\].*got \(1, 4\)"),
        ({"widths": (8, 8), "scales": (1, 2)}, r"scales: expected distinct k among \[1\]"),
        ({"guidance_widths": (8, 8)}, r"guidance_widths: expected one per scale \(1, 2, 3\), got \(8, 8\)"),
        ({"share_branches": True}, "share_branches: needs equal guidance_widths"),
        ({"share_branches": True, "guidance_widths": (8, 8, 8), "guidance_input": "rgb"}, "guidance_input='luma'"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        StructureGuidanceConfig(**settings)
    assert "\n" not in str(error.value)


def test_an_unguided_network_does_not_care_about_guidance_settings():
    for part in ({"guided": False}, {"objective": "regression"}):
        assert not StructureGuidanceConfig(scales=(9,), **part).uses_guidance


def test_the_documented_options_are_those_that_exist():
    documented = re.findall(r"^ {8}([a-z_0-9, ]+):", StructureGuidanceConfig.__doc__, re.MULTILINE)
    named = {name for line in documented for name in line.split(", ")}
    missing = {field.name for field in dataclasses.fields(StructureGuidanceConfig)} - named
    assert missing == {"embedding_width"}, "explained with noise_level"


@pytest.mark.slow
def test_the_published_network_takes_a_training_step():
    """icDPM-S with guidance at its real size; its zero-initialised layers are filled so that nothing stays hidden."""
    torch.manual_seed(0)
    model = StructureGuidance(StructureGuidanceConfig(warm_start=0, ramp=0))
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.01)
    losses = losses_of(model, batch=make_batch(1, 64))
    losses["loss"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert touched(model) == {name for name, _ in model.named_parameters()}
