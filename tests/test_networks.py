"""The shared U-Net and the denoiser built on it."""

import re

import pytest
import torch

from minirestore import diffusion, images
from minirestore.denoiser import Denoiser, DenoiserConfig
from minirestore.networks import LevelEmbedding, ResBlock, UNet, count_parameters

SMALL = DenoiserConfig(widths=(8, 16), blocks=1, embedding_width=16)


def random_denoiser(**changes):
    """A denoiser whose zero-initialised layers are filled, so that its output depends on all its inputs."""
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(**{**SMALL.__dict__, **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    net = UNet(4, 3, (8, 16, 24), blocks=2, unshuffle=2, embedding_width=12)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    out = net(torch.randn(2, 4, 16, 24), torch.rand(2))
    assert out.shape == (2, 3, 16, 24)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_fresh_network_returns_zero_and_a_fresh_block_its_input():
    x = torch.randn(1, 8, 8, 8)
    assert torch.equal(ResBlock(8, 8, 4)(x, torch.randn(1, 4)), x)
    assert torch.equal(UNet(8, 3, (8, 16))(x, torch.rand(1)), torch.zeros(1, 3, 8, 8))


def test_features_are_added_between_the_convolutions():
    torch.manual_seed(0)
    block = ResBlock(6, 10, 4)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, e, added = torch.randn(2, 6, 8, 8), torch.randn(2, 4), torch.randn(2, 10, 8, 8)
    silu = torch.nn.functional.silu
    inside = block.conv1(silu(x)) + block.level(e)[:, :, None, None]
    assert torch.allclose(block(x, e, added), block.skip(x) + block.conv2(silu(inside + added)), atol=1e-6)
    assert torch.equal(block(x, e, torch.zeros_like(added)), block(x, e))
    assert not torch.allclose(block(x, e, added), block(x, e), atol=1e-2)


def test_dropout_acts_in_training_before_the_second_convolution():
    torch.manual_seed(0)
    block = ResBlock(6, 6, dropout=0.5)
    torch.nn.init.dirac_(block.conv2.weight)
    x = torch.randn(1, 6, 32, 32)
    dropped = (block.train()(x) - x) == 0
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert ((block.eval()(x) - x) == 0).float().mean() < 0.05
    assert torch.equal(ResBlock(6, 6)(x), ResBlock(6, 6).eval()(x)), "none by default"


def test_the_hidden_width_of_the_level_embedding():
    assert [layer.weight.shape for layer in LevelEmbedding(8, frequencies=5, hidden=20).mlp[::2]] == [(20, 10), (8, 20)]
    assert [layer.weight.shape for layer in LevelEmbedding(8, frequencies=5).mlp[::2]] == [(8, 10), (8, 8)]


def test_parameter_count_follows_the_widths():
    narrow, wide = (count_parameters(UNet(6, 3, (w, 2 * w), 1, 2, None)) for w in (8, 16))

    def per_level(w):
        return 2 * (2 * (9 * w * w + w)) + 2 * (9 * 4 * w * w + 2 * w)  # blocks

    def rest(w):
        return (24 * 9 * w + w) + (4 * 2 * w * w + 2 * w) + (9 * 2 * w * w + w) + (2 * w * w + w) + (9 * w * 12 + 12)

    assert (narrow, wide) == (per_level(8) + rest(8), per_level(16) + rest(16))


def test_crops_and_whole_images_agree_away_from_the_border():
    """No normalisation: the receptive field is all a pixel depends on."""
    model = random_denoiser()
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    level = torch.full((1,), 0.5)
    whole = model(x, x, level)
    crop = model(x[..., 16:80, 16:80], x[..., 16:80, 16:80], level)
    assert torch.allclose(whole[..., 40:56, 40:56], crop[..., 24:40, 24:40], atol=1e-5)


def test_level_embedding_is_finite_at_the_ends_and_distinguishes_levels():
    embedding = LevelEmbedding(8)
    out = embedding(torch.tensor([0.0, 1e-3, 0.5, 0.999, 1.0]))
    assert torch.isfinite(out).all()
    assert torch.cdist(out, out).add(torch.eye(5)).min() > 1e-3


def test_a_size_the_network_cannot_take_is_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        UNet(3, 3, (8, 16))(torch.zeros(1, 3, 6, 8), torch.rand(1))


@pytest.mark.parametrize("alpha_bar", [0.0, 0.1, 0.9, 0.999])
def test_preconditioned_target_inverts_the_prediction(alpha_bar):
    """If F returned exactly the training target, predict_x0 would return the clean image."""
    model = random_denoiser()
    x0, y, eps = torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = torch.full((2,), alpha_bar, dtype=torch.float64)
    x_t = diffusion.add_noise(x0, eps, level)
    skip, keep, out = model.preconditioning(level, y)
    model.forward = lambda *_: (x0 - skip * x_t - keep * y) / out
    assert torch.allclose(model.predict_x0(x_t, y, level), x0, atol=1e-6)


@pytest.mark.parametrize("alpha_bar", [0.0, 0.1, 0.9, 0.999])
def test_the_blend_weighs_sample_and_condition_to_one(alpha_bar):
    """c_skip = s^2 / (s^2 + sigma^2), and a sample that says the same as the condition changes nothing."""
    s = SMALL.residual_scale
    y = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    level = torch.tensor([alpha_bar], dtype=torch.float64)
    skip, keep, out = Denoiser(SMALL).preconditioning(level, y)
    assert torch.allclose(skip * level.sqrt() * y + keep * y, y)
    variance = (1 - alpha_bar) / max(alpha_bar, 1e-12)
    assert keep.item() == pytest.approx(variance / (s**2 + variance))
    assert out.item() == pytest.approx(s * (variance / (s**2 + variance)) ** 0.5)


def test_pure_noise_is_embedded_as_the_noisiest_level_of_training():
    model = Denoiser(SMALL)
    low = torch.sigmoid(torch.tensor([SMALL.log_snr_range[0]]))
    embed = model.network.embedding
    assert torch.allclose(embed(torch.zeros(1)), embed(low), atol=1e-5)
    assert not torch.allclose(embed(torch.zeros(1)), embed(torch.sigmoid(torch.tensor([SMALL.log_snr_range[0] + 1]))))


def test_preconditioned_target_has_unit_scale():
    """The residual has size s, so the target of F has size 1 at every noise level (EDM, section 5)."""
    model = random_denoiser()
    generator = torch.Generator().manual_seed(0)
    residual, eps = torch.randn(2, 4, 3, 64, 64, generator=generator, dtype=torch.float64)
    y = torch.zeros_like(residual)
    x0 = model.config.residual_scale * residual
    for alpha_bar in (0.0, 0.3, 0.9, 0.99, 0.9999):
        level = torch.full((4,), alpha_bar, dtype=torch.float64)
        x_t = diffusion.add_noise(x0, eps, level)
        skip, keep, out = model.preconditioning(level, y)
        assert ((x0 - skip * x_t - keep * y) / out).std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("size", [(2, 2), (5, 7), (33, 18)])
@pytest.mark.parametrize("objective", ["diffusion", "regression"])
def test_restore_keeps_any_size_and_range(size, objective):
    model = random_denoiser(objective=objective)
    out = model.restore(torch.rand(2, 3, *size), steps=2)
    assert out.shape == (2, 3, *size)
    assert out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("objective", ["diffusion", "regression"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_restore_computes_in_the_type_of_the_weights_and_returns_that_of_the_image(dtype, objective):
    model = random_denoiser(objective=objective)
    y = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = model.restore(y, steps=2)
    assert out.dtype == dtype
    assert torch.equal(out, model.restore(y.float(), steps=2).to(dtype))


def test_restore_is_reproducible_and_samples_differ():
    model = random_denoiser()
    y = torch.rand(1, 3, 12, 12)
    a, b, c = (model.restore(y, torch.Generator().manual_seed(s), steps=3) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_mean_of_samples_is_the_mean():
    model = random_denoiser()
    y = torch.full((1, 3, 8, 8), 0.5)
    generator = torch.Generator().manual_seed(0)
    single = [model.restore(y, generator, steps=2) for _ in range(4)]
    together = model.restore(y, torch.Generator().manual_seed(0), steps=2, samples=4)
    assert all(s.min() > 0 and s.max() < 1 for s in single), "clipping would hide a difference"
    assert torch.allclose(torch.stack(single).mean(0), together, atol=1e-6)


def test_levels_start_at_pure_noise_and_end_clean():
    model = Denoiser(SMALL)
    for steps in (1, 2, 6):
        levels = model.levels(steps)
        assert len(levels) == steps + 1 and levels[0] == 0 and levels[-1] == 1
    sigma = ((1 - levels[1:-1]) / levels[1:-1]).sqrt()
    assert sigma[0] == pytest.approx(SMALL.sigma_start) and sigma[-1] == pytest.approx(SMALL.sigma_end)


def test_regressor_ignores_the_generator():
    model = random_denoiser(objective="regression")
    y = torch.rand(1, 3, 8, 8)
    assert torch.equal(
        model.restore(y, torch.Generator().manual_seed(0)), model.restore(y, torch.Generator().manual_seed(1))
    )


def test_regression_loss_is_the_mean_squared_error():
    model = random_denoiser(objective="regression")
    batch = {"clean": torch.rand(2, 3, 8, 8), "degraded": torch.rand(2, 3, 8, 8)}
    loss = model.training_losses(batch, torch.Generator().manual_seed(0), 0)["loss"]
    y = images.to_model_range(batch["degraded"])
    error = model.predict_x0(torch.zeros_like(y), y, torch.zeros(2)) - images.to_model_range(batch["clean"])
    assert loss.item() == pytest.approx(error.square().mean().item() / model.config.residual_scale**2, rel=1e-4)


@pytest.mark.parametrize(
    ("degraded", "options", "message"),
    [
        (torch.rand(3, 8, 8), {}, "expected 4 dimensions"),
        (torch.rand(1, 8, 8, 3), {}, "permute"),
        (torch.rand(1, 1, 8, 8), {}, "expected 3 channels"),
        (torch.rand(0, 3, 8, 8), {}, "batch is empty"),
        (torch.rand(1, 3, 1, 8), {}, "at least 2 pixels"),
        (torch.rand(1, 3, 8, 8) * 255, {}, "divide by 255"),
        (torch.full((1, 3, 8, 8), float("nan")), {}, "NaN"),
        (torch.rand(1, 3, 8, 8), {"steps": 0}, "at least 1"),
        (torch.rand(1, 3, 8, 8), {"steps": 2.5}, "must be integers and at least 1, got steps=2.5, samples=1"),
        (torch.rand(1, 3, 8, 8), {"samples": 1.5}, "must be integers and at least 1, got steps=16, samples=1.5"),
    ],
)
def test_bad_input_never_yields_a_picture(degraded, options, message):
    with pytest.raises(ValueError, match=message):
        random_denoiser().restore(degraded, **options)


def test_unknown_objective():
    with pytest.raises(ValueError, match="objective: expected one of diffusion, regression"):
        DenoiserConfig(objective="gan")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("widths", ()),
        ("widths", (8, 0)),
        ("blocks", 0),
        ("unshuffle", 0),
        ("embedding_width", 0),
        ("residual_scale", 0.0),
        ("residual_scale", float("nan")),
        ("log_snr_range", (8.0, -6.0)),
        ("log_snr_range", (1.0,)),
        ("log_snr_range", (1.0, 2.0, 3.0)),
        ("log_snr_range", (float("nan"), 8.0)),
        ("sigma_end", 0.0),
        ("sigma_end", 2.0),
        ("sigma_start", 0.01),
        ("sigma_start", float("nan")),
    ],
)
def test_impossible_settings_are_refused_with_field_and_value(field, value):
    with pytest.raises(ValueError, match=rf"{field}.*{re.escape(str(value))}") as error:
        DenoiserConfig(**{field: value})
    assert "\n" not in str(error.value)
