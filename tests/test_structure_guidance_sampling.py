"""Sampling with the structure-guided icDPM: levels, analytic oracles, guidance computed once, any size, errors."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minirestore import diffusion, images, recipes
from minirestore.diffusion import BatchGenerator
from minirestore.papers.structure_guidance import (
    GuidedResBlock,
    StructureGuidance,
    StructureGuidanceConfig,
)

TINY = {"widths": (8, 12, 16), "blocks": 1, "mid_blocks": 1, "embedding_width": 8, "scales": (1, 2),
        "guidance_blocks": 1, "warm_start": 0, "ramp": 0, "sampling_steps": 5, "sampling_beta_end": 0.9}  # fmt: skip
BETAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
PRINTED = {  # alpha_bar_T of every (T, beta_T) of DvSR's grid
    10: ".95 .90 .78 .60 .34 .044",
    20: ".90 .82 .60 .35 .12 2e-3",
    30: ".86 .74 .47 .21 .040 1e-4",
    50: ".78 .60 .28 .075 5e-3 2e-7",
    100: ".61 .37 .079 6e-3 2e-5 ~0",
    200: ".37 .13 6e-3 3e-5 ~0 ~0",
    300: ".22 .049 5e-4 ~0 ~0 ~0",
    500: ".081 6.5e-3 3e-6 ~0 ~0 ~0",
}


def tiny(seed=0, std=0.1, **changes):
    """A small network with random values also where training starts at zero."""
    model = StructureGuidance(StructureGuidanceConfig(**{**TINY, **changes}))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()


def photo(*shape, seed=0):
    return torch.rand(*(shape or (1, 3, 8, 8)), generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return BatchGenerator(seed, 0)


# ---------------------------------------------------------------- levels


CELLS = [(T, b, p) for T, row in PRINTED.items() for b, p in zip(BETAS, row.split(), strict=True)]


@pytest.mark.parametrize(("T", "beta_end", "printed"), CELLS)
def test_schedules_start_where_the_table_says_and_only_from_noise(monkeypatch, T, beta_end, printed):
    model = tiny()
    levels = model.levels(T, beta_end)
    assert len(levels) == T + 1 and levels[-1] == 1 and (levels.diff() > 0).all()
    assert levels[-2].item() == pytest.approx(1 - 1e-6, abs=1e-12)
    start = levels[0].item()
    if printed == "~0":
        assert start < 5e-7
    else:
        digits = len(printed.split("e")[0].replace(".", "").lstrip("0"))
        assert float(f"{start:.{digits - 1}e}") == pytest.approx(float(printed))
    monkeypatch.setattr(model, "_sample", lambda y, *rest: y)
    options = {"steps": T, "beta_end": beta_end}
    if start <= 0.05:
        model.restore(photo(), **options)
    else:
        message = rf"steps={T}, beta_end={beta_end}: the schedule starts at alpha_bar = {start:.3g}.*at most 0.05"
        with pytest.raises(ValueError, match=message):
            model.restore(photo(), **options)
        model.restore(photo(), **options, inconsistent=True)


def test_a_level_mismatch_washes_the_picture_out(monkeypatch):
    """Pure noise, taken for a picture with much signal left, does not become one."""
    model, clean = tiny(guided=False), photo(1, 3, 64, 64) * 2 - 1
    monkeypatch.setattr(
        model.unet, "forward", lambda x, level, added: (x[:, 3:] - level[0].sqrt() * clean).clamp(-1, 1)
    )
    good = model.restore(photo(1, 3, 64, 64), steps=50, beta_end=0.2)
    bad = model.restore(photo(1, 3, 64, 64), steps=10, beta_end=0.01, inconsistent=True)
    errors = [(2 * out - 1 - clean).square().mean().item() for out in (good, bad)]
    assert errors[1] > 2 * errors[0]


def test_training_levels_are_those_of_sr3():
    schedule = tiny().training_schedule()
    assert len(schedule) == 2001 and schedule[0] == 1
    assert schedule[1].item() == pytest.approx(1 - 1e-6, abs=1e-12)
    assert float(f"{schedule[-1].item():.3e}") == 4.386e-5


def test_one_step_visits_the_noisiest_level_of_training():
    model, seen = tiny(), []
    assert model.levels(1, 0.5).tolist() == [model.training_schedule()[-1].item(), 1.0]
    model.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].item()))
    model.restore(photo(), steps=1)
    assert seen == pytest.approx([4.386e-5], rel=1e-3)


def test_zero_steps_and_beta_take_the_configured_ones():
    model = tiny(sampling_steps=7, sampling_beta_end=0.8)
    assert torch.equal(model.restore(photo(), seeded()), model.restore(photo(), seeded(), steps=7, beta_end=0.8))
    assert not torch.equal(model.restore(photo(), seeded()), model.restore(photo(), seeded(), steps=8, beta_end=0.8))
    assert not torch.equal(model.restore(photo(), seeded()), model.restore(photo(), seeded(), steps=7, beta_end=0.7))
    published = StructureGuidanceConfig()
    assert (published.sampling_steps, published.sampling_beta_end) == (500, 0.02)


@pytest.mark.parametrize("interpolation", ["sqrt_alpha_bar", "alpha_bar"])
def test_training_draws_t_uniformly_and_a_place_between_its_neighbours(interpolation):
    model, T, count = tiny(level_interpolation=interpolation, train_levels=20, beta_end=0.3), 20, 40_000
    drawn = model.draw_levels(count, seeded()).double()
    schedule = model.training_schedule()
    assert drawn.dtype == torch.float64 and drawn.shape == (count,)
    assert drawn.min() >= schedule[-1] - 1e-6 and drawn.max() <= 1
    if interpolation == "sqrt_alpha_bar":
        drawn, schedule = drawn.sqrt(), schedule.sqrt()
    t = T + 1 - torch.searchsorted(schedule.flip(0).contiguous(), drawn.clamp(schedule[-1] + 1e-9, 1 - 1e-9))
    assert (t >= 1).all() and (t <= T).all()
    share = ((drawn - schedule[t]) / (schedule[t - 1] - schedule[t]))[t > 2]  # float32 is too coarse so near to 1
    occupied = torch.bincount(t, minlength=T + 1)[1:].double()
    assert ((occupied - count / T) ** 2 / (count / T)).sum() < 44, "chi-square, 19 degrees of freedom, p = .001"
    ordered = share.sort().values
    distance = (ordered - torch.linspace(0, 1, len(ordered), dtype=torch.float64)).abs().max()
    assert distance < 1.95 / len(ordered) ** 0.5, "Kolmogorov-Smirnov, p = .001"


def test_the_two_interpolations_differ_where_levels_are_coarse():
    a, b = (tiny(level_interpolation=kind, train_levels=1, beta_end=0.9, beta_start=0.9).draw_levels(1000, seeded())
            for kind in ("sqrt_alpha_bar", "alpha_bar"))  # fmt: skip
    assert b.mean().item() == pytest.approx(0.55, abs=0.02), "uniform between 0.1 and 1"
    root = 0.1**0.5
    assert a.mean().item() == pytest.approx((1 + root + 0.1) / 3, abs=0.02), "mean square of uniform between roots"


def test_every_image_has_its_own_level():
    model = tiny()
    drawn = model.draw_levels(64, seeded())
    assert len(drawn.unique()) == 64 and drawn.dtype == torch.float32
    assert torch.equal(drawn, model.draw_levels(64, seeded()))


# ---------------------------------------------------------------- analytic oracles


def answer(kind, z_t, z, level):
    """What an exact network says about the sample z behind z_t."""
    eps = (z_t - level.sqrt() * z) / (1 - level).sqrt()
    return {"eps": eps, "x0": z, "v": level.sqrt() * eps - (1 - level).sqrt() * z}[kind]


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("target", ["image", "residual"])
@pytest.mark.parametrize(("steps", "beta_end"), [(1, 0.5), (10, 0.5), (50, 0.2), (300, 0.05)])
def test_a_network_that_knows_the_truth_restores_it(monkeypatch, target, prediction, eta, steps, beta_end):
    side, scale = 32, 2.0
    model = tiny(guided=False, target=target, prediction=prediction, residual_scale=scale).double()
    clean, y = photo(1, 3, side, side).double(), photo(1, 3, side, side, seed=1).double()
    z = scale * (2 * clean - 1 - (0 if target == "image" else 2 * y - 1))
    seen = []

    def forward(x, alpha_bar, added):
        assert torch.allclose(x[:, :3], 2 * y - 1)
        level = alpha_bar.view(-1, 1, 1, 1)
        noise = answer("eps", x[:, 3:], z, level)
        seen.append((alpha_bar.item(), noise))
        return answer(prediction, x[:, 3:], z, level)

    monkeypatch.setattr(model.unet, "forward", forward)
    out = model.restore(y, seeded(), steps=steps, beta_end=beta_end, eta=eta)
    assert (out - clean).abs().max() < 1e-6
    assert [level for level, _ in seen] == model.levels(steps, beta_end)[:-1].tolist()
    start = seen[0][1]
    for level, noise in seen[1:]:
        if eta == 0 and level < 1 - 1e-5:
            assert (noise - start).abs().max() < 1e-6, "keeps the noise it started from"
        elif eta == 1:
            excess = seen[0][0] * (1 + z.square().mean().item())  # it starts from noise alone, without the signal
            assert noise.square().mean().item() == pytest.approx(1, abs=0.1 + excess)
            assert noise.mean().abs() < 0.1 + excess


SPREAD, NOISE, MEAN = 0.2, 0.3, 0.1  # of the clean pixels, of the blurred around them, all in [-1, 1]
GAIN = SPREAD**2 / (SPREAD**2 + NOISE**2)
VARIANCE = SPREAD**2 * NOISE**2 / (SPREAD**2 + NOISE**2)


def gaussian_oracle(monkeypatch, prediction="eps"):
    """x ~ N(MEAN, SPREAD^2), y = x + N(0, NOISE^2), pixel by pixel: the exact E[x | y, z_t] in place of the network."""
    model = tiny(guided=False, prediction=prediction, clip=False).double()

    def forward(x, alpha_bar, added):
        y, z_t = x.chunk(2, dim=1)
        level = alpha_bar.view(-1, 1, 1, 1)
        precision = 1 / SPREAD**2 + 1 / NOISE**2 + level / (1 - level)
        mean = (MEAN / SPREAD**2 + y / NOISE**2 + level.sqrt() / (1 - level) * z_t) / precision
        return answer(prediction, z_t, mean, level)

    monkeypatch.setattr(model.unet, "forward", forward)
    return model


def flat(values, side=64):
    """One constant picture per value, given in [-1, 1]."""
    return (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, side, side) + 1) / 2


Y = (-0.4, 0.0, 0.1, 0.5)


def moments(model, **options):
    """Means, one per picture, and the common variance of the pixels of restored pictures."""
    out = 2 * model.restore(flat(Y), seeded(1), **options) - 1
    return out.mean((1, 2, 3)), out.var((1, 2, 3)).mean().item()


def recursion(steps, beta_end):
    """Exact mean and variance of the ancestral sampler of the Gaussian oracle, by its textbook update (section 7)."""
    betas = torch.linspace(1e-6, beta_end, steps, dtype=torch.float64)
    bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
    mean, variance = torch.zeros(len(Y), dtype=torch.float64), 1.0
    for t in range(steps, 0, -1):
        beta, now, before = betas[t - 1], bar[t], bar[t - 1]
        precision = 1 / SPREAD**2 + 1 / NOISE**2 + now / (1 - now)
        slope = now.sqrt() / (1 - now) / precision
        constant = (MEAN / SPREAD**2 + torch.tensor(Y, dtype=torch.float64) / NOISE**2) / precision
        of_x0 = beta * before.sqrt() / (1 - now)
        of_z = (1 - before) * (1 - beta).sqrt() / (1 - now)
        mean = of_x0 * (slope * mean + constant) + of_z * mean
        variance = (of_x0 * slope + of_z) ** 2 * variance + beta * (1 - before) / (1 - now)
    return mean, float(variance)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize(("steps", "beta_end"), [(10, 0.5), (30, 0.2), (100, 0.1)])
def test_samples_have_exactly_the_moments_of_the_ancestral_update(monkeypatch, prediction, steps, beta_end):
    mean, variance = moments(gaussian_oracle(monkeypatch, prediction), steps=steps, beta_end=beta_end)
    expected_mean, expected_variance = recursion(steps, beta_end)
    pixels = 3 * 64 * 64
    assert (mean - expected_mean).abs().max() < 4 * (expected_variance / pixels) ** 0.5
    assert variance == pytest.approx(expected_variance, rel=4 * (2 / (len(Y) * pixels)) ** 0.5)


@pytest.mark.parametrize(("steps", "beta_end"), [(30, 0.2), (100, 0.1), (500, 0.02)])
def test_samples_follow_the_posterior(monkeypatch, steps, beta_end):
    """Right in the mean for any schedule that starts from noise, and the less too narrow the smaller the steps."""
    mean, variance = moments(gaussian_oracle(monkeypatch), steps=steps, beta_end=beta_end)
    posterior = MEAN + GAIN * (torch.tensor(Y, dtype=torch.float64) - MEAN)
    assert (mean - posterior).abs().max() < 4 * (VARIANCE / (3 * 64 * 64)) ** 0.5 + 2e-3
    assert 1 - 3 * beta_end - 0.02 < variance / VARIANCE < 1


def test_the_lost_spread_halves_with_the_step():
    """Few steps sample too narrowly: better PSNR, worse perception, as the paper finds."""
    lost = [1 - recursion(steps, 10 / steps)[1] / VARIANCE for steps in (500, 1000, 2000, 4000)]
    assert 0 < lost[-1] < 0.01
    for large, small in itertools.pairwise(lost):
        assert large / small == pytest.approx(2, rel=0.1)


def test_without_added_noise_the_deterministic_sampler_also_follows_the_posterior(monkeypatch):
    mean, variance = moments(gaussian_oracle(monkeypatch), steps=200, beta_end=0.05, eta=0.0)
    posterior = MEAN + GAIN * (torch.tensor(Y, dtype=torch.float64) - MEAN)
    assert (mean - posterior).abs().max() < 0.01
    assert variance == pytest.approx(VARIANCE, rel=0.06)


def test_the_mean_of_n_samples_approaches_the_posterior_mean_as_one_over_n(monkeypatch):
    model = gaussian_oracle(monkeypatch)
    options = {"steps": 10, "beta_end": 0.5}
    _, single = moments(model, **options)
    for n in (2, 4, 16):
        mean, variance = moments(model, **options, samples=n)
        assert variance == pytest.approx(single / n, rel=0.05)
    posterior = MEAN + GAIN * (torch.tensor(Y, dtype=torch.float64) - MEAN)
    assert (mean - posterior).abs().max() < 0.01


def test_one_step_is_the_posterior_mean(monkeypatch):
    mean, variance = moments(gaussian_oracle(monkeypatch, "x0"), steps=1)
    posterior = MEAN + GAIN * (torch.tensor(Y, dtype=torch.float64) - MEAN)
    assert (mean - posterior).abs().max() < 1e-3
    assert variance < 1e-3 * VARIANCE


@pytest.mark.parametrize("target", ["image", "residual"])
def test_predictions_outside_the_range_are_clipped(monkeypatch, target):
    y, seen = photo(1, 3, 16, 16), []
    for clip in (True, False):
        model = tiny(guided=False, target=target, residual_scale=3.0, prediction="x0", clip=clip)
        monkeypatch.setattr(model.unet, "forward", lambda x, level, added: 9 * torch.sin(7 * x[:, 3:]))
        base = model.base(2 * y - 1)
        predicted = []
        model.restore(y, seeded(), callback=lambda step, z_t, z, base=base, p=predicted: p.append(base + z / 3))
        seen.append(torch.stack(predicted).abs().max().item())
    assert seen[0] <= 1 + 1e-5 and seen[1] > 2


# ---------------------------------------------------------------- guidance


def test_without_guidance_a_guided_network_is_an_unguided_one():
    guided, unguided = tiny(), tiny(guided=False)
    unguided.load_state_dict({k: v for k, v in guided.state_dict().items() if k in unguided.state_dict()})
    y = photo(2, 3, 12, 12)
    assert torch.equal(guided.restore(y, seeded(), guidance=0), unguided.restore(y, seeded()))
    assert not torch.equal(guided.restore(y, seeded()), unguided.restore(y, seeded()))
    half, one = (guided.restore(y, seeded(), guidance=g) for g in (0.5, 1.0))
    assert not torch.equal(half, one)
    assert torch.equal(one, guided.restore(y, seeded()))


def test_with_zero_projections_a_guided_network_samples_as_an_unguided_one():
    guided, unguided = tiny(guidance_noise=0.1), tiny(guided=False)
    unguided.load_state_dict({k: v for k, v in guided.state_dict().items() if k in unguided.state_dict()})
    projections = [m.projection.weight for m in guided.modules() if isinstance(m, GuidedResBlock)]
    assert len(projections) == 2
    for weight in projections:
        nn.init.zeros_(weight)
    y = photo(2, 3, 12, 12)
    assert torch.equal(guided.restore(y, seeded(), samples=2), unguided.restore(y, seeded(), samples=2))
    nn.init.normal_(projections[1])
    assert not torch.equal(guided.restore(y, seeded()), unguided.restore(y, seeded()))


def test_guidance_may_be_read_from_another_image():
    model, y = tiny(), photo()
    own = model.restore(y, seeded())
    assert torch.equal(own, model.restore(y, seeded(), structure=y.clone()))
    other = model.restore(y, seeded(), structure=photo(seed=1))
    assert not torch.equal(own, other)
    without = [model.restore(y, seeded(), structure=s, guidance=0) for s in (None, photo(seed=1))]
    assert torch.equal(*without), "the structure enters by the guidance alone"


def test_guidance_is_noisy_at_test_time_and_reproducibly_so():
    seen = []
    for noise, seed in ((0.3, 0), (0.3, 0), (0.3, 1), (0.0, 0)):
        model = tiny(guidance_noise=noise)
        model.guidance.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][1]))
        model.restore(photo(), seeded(seed))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert torch.equal(seen[3], model.pyramid(2 * photo() - 1)[1])


@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (5, 1), (5, 3)])
def test_guidance_is_computed_and_projected_once_for_all_steps_and_samples(steps, samples):
    model = tiny()
    calls, added = {"guidance": 0, "projection": 0, "unet": 0}, []

    def count(name):
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    model.guidance.register_forward_hook(count("guidance"))
    model.unet.register_forward_hook(count("unet"))
    model.unet.register_forward_pre_hook(lambda _, inputs: added.append(inputs[2]))
    blocks = [m for m in model.modules() if isinstance(m, GuidedResBlock)]
    for guided in blocks:
        guided.projection.register_forward_hook(count("projection"))
    model.restore(photo(), steps=steps, samples=samples)
    assert calls == {"guidance": 1, "projection": len(blocks), "unet": steps * samples}
    assert all(one is added[0] for one in added) and added[0] is not None


def test_a_guided_step_costs_no_more_than_an_unguided_one():
    model = tiny()

    def flops(call):
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    y = photo(1, 3, 16, 16)
    x, level = torch.cat([y, y], dim=1), torch.tensor([0.5])
    features, _ = model.guidance(model.pyramid(y))
    added = model.unet.project(features)
    step = flops(lambda: model.unet(x, level))
    assert flops(lambda: model.unet(x, level, added)) == step
    once = flops(lambda: model.unet.project(model.guidance(model.pyramid(y))[0]))
    assert once > 0
    for steps, samples in ((5, 1), (8, 2)):
        assert flops(lambda s=steps, n=samples: model.restore(y, steps=s, samples=n)) == once + steps * samples * step
    assert flops(lambda: model.restore(y, guidance=0)) == 5 * step


# ---------------------------------------------------------------- restore


KINDS = {
    "guided": {},
    "unguided": {"guided": False},
    "residual": {"target": "residual", "residual_scale": 4.0, "prediction": "v"},
    "refine": {"target": "refine", "unshuffle": 2},
    "colours": {"guidance_input": "rgb"},
    "regressor": {"objective": "regression"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(2, 2), (5, 7), (3, 40), (33, 18)])
def test_restore_keeps_any_size_and_range(kind, size):
    out = tiny(**KINDS[kind]).restore(photo(2, 3, *size), steps=5)
    assert out.shape == (2, 3, *size)
    assert torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("kind", ["guided", "refine", "regressor"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_restore_computes_in_the_type_of_the_weights_and_returns_that_of_the_image(kind, dtype):
    model, y = tiny(**KINDS[kind]), photo().to(dtype)
    out = model.restore(y, seeded(), steps=5)
    assert out.dtype == dtype
    assert torch.equal(out, model.restore(y.float(), seeded(), steps=5).to(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(kind):
    model, y = tiny(**KINDS[kind]), photo(1, 3, 9, 10)
    a, b, c = (model.restore(y, torch.Generator().manual_seed(s), samples=2) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert torch.equal(a, c) == (kind == "regressor")
    assert torch.equal(model.restore(y), model.restore(y)), "no generator means seed 0"


def test_eta_decides_whether_noise_is_added_on_the_way():
    model, y = tiny(guidance_noise=0.0), photo()
    a, b, c = (model.restore(y, seeded(), eta=eta) for eta in (0.0, 0.5, 1.0))
    assert not torch.equal(a, b) and not torch.equal(b, c)
    assert torch.equal(c, model.restore(y, seeded())), "ancestral by default, as in the paper"


def test_images_of_a_batch_do_not_see_each_other():
    model, y = tiny(), photo(3, 3, 12, 12)
    before = model.restore(y, seeded())
    y[0] = 1 - y[0]
    after = model.restore(y, seeded())
    assert torch.allclose(before[1:], after[1:], atol=1e-6) and not torch.allclose(before[0], after[0], atol=1e-3)
    same = model.restore(y[1:2].expand(2, -1, -1, -1), seeded())
    assert not torch.allclose(same[0], same[1], atol=1e-3), "but each has noise of its own"


def test_samples_are_averaged():
    model, last, y = tiny(guided=False, target="residual", residual_scale=5.0), [], 0.25 + 0.5 * photo()
    together = model.restore(y, samples=4, callback=lambda step, z_t, z: last.append(z) if step == 4 else None)
    assert len(last) == 4 and not torch.equal(last[0], last[1])
    mean = (2 * y - 1) + torch.stack(last).mean(0) / 5
    assert torch.allclose(together, images.to_unit_range(mean), atol=1e-6)


def test_the_callback_sees_padded_samples_from_the_first_noise_on():
    steps, shapes = [], set()

    def callback(step, z_t, z):
        steps.append(step)
        shapes.update((z_t.shape, z.shape))

    tiny().restore(photo(1, 3, 5, 7), callback=callback)
    assert steps == [0, 1, 2, 3, 4] and shapes == {(1, 3, 8, 8)}


def test_the_network_sees_the_blurred_image_first_and_the_noise_second():
    model, seen, y = tiny(), [], photo()
    model.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.restore(y)
    assert all(torch.allclose(x[:, :3], 2 * y - 1) for x in seen)
    assert seen[0][:, 3:].std().item() == pytest.approx(1, abs=0.2)


def test_tiles_cover_the_image():
    """A regressor has no noise of its own, so tiles can only differ near their borders, where they are blended."""
    y = photo(1, 3, 70, 90)
    regressor = tiny(objective="regression", std=0.05)
    whole = recipes.restore(regressor, y)
    assert (recipes.restore(regressor, y, tile=48) - whole).abs().mean() < 0.02
    assert (whole - y).abs().mean() > 0.02
    seen = []
    out = recipes.restore(tiny(), y, tile=48, seed=3, on_tile=lambda done, total: seen.append((done, total)))
    assert out.shape == y.shape and seen == [(i, 6) for i in range(1, 7)]
    assert torch.equal(out, recipes.restore(tiny(), y, tile=48, seed=3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu_and_repeats_itself():
    model, y = tiny(), photo(2, 3, 17, 24)
    cpu = model.restore(y, seeded())
    model.cuda()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert (model.restore(y.cuda(), seeded()).cpu() - cpu).abs().max() < 2e-3
    first, second = (model.restore(y.cuda(), torch.Generator("cuda").manual_seed(0)) for _ in range(2))
    assert first.is_cuda and torch.allclose(first, second, atol=1e-4)
    batch = {"clean": y.cuda(), "degraded": y.cuda()}
    assert torch.isfinite(model.train().training_losses(batch, seeded(), 0)["loss"])


# ---------------------------------------------------------------- errors


NAN = float("nan")


@pytest.mark.parametrize("kind", ["guided", "regressor"])
@pytest.mark.parametrize(
    ("degraded", "message"),
    [
        (torch.rand(3, 8, 8), "degraded: expected 4 dimensions"),
        (torch.rand(1, 8, 8, 3), "degraded: .*permute"),
        (torch.rand(1, 1, 8, 8), "degraded: expected 3 channels"),
        (torch.rand(0, 3, 8, 8), "degraded: the batch is empty"),
        (torch.rand(1, 3, 1, 8), "degraded: .*at least 2 pixels"),
        (torch.rand(1, 3, 8, 1), "degraded: .*at least 2 pixels"),
        (torch.rand(1, 3, 8, 8) * 255, "degraded: .*divide by 255"),
        (torch.rand(1, 3, 8, 8) * 2 - 1, "degraded: values must lie in"),
        (torch.full((1, 3, 8, 8), NAN), "degraded: contains NaN"),
        (torch.full((1, 3, 8, 8), math.inf), "degraded: contains NaN or infinite"),
    ],
)
def test_bad_input_never_yields_a_picture(kind, degraded, message):
    with pytest.raises(ValueError, match=message):
        tiny(**KINDS[kind]).restore(degraded)


def test_eight_bit_input_is_refused():
    with pytest.raises(TypeError, match="degraded: expected a floating-point tensor"):
        tiny().restore(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps and samples: must be integers and at least 1, got -1 and 1"),
        ({"steps": 2.5}, "steps and samples: must be integers and at least 1, got 2.5 and 1"),
        ({"samples": 0}, "steps and samples: must be integers and at least 1, got 5 and 0"),
        ({"samples": 1.5}, "steps and samples: must be integers and at least 1, got 5 and 1.5"),
        ({"beta_end": 1.0}, "beta_start and beta_end: must lie between 0 and 1"),
        ({"beta_end": -0.5}, "beta_start and beta_end: must lie between 0 and 1"),
        ({"beta_end": NAN}, "beta_start and beta_end: must lie between 0 and 1"),
        ({"eta": 1.5}, r"eta: must lie in \[0, 1\], got 1.5"),
        ({"eta": NAN}, r"eta: must lie in \[0, 1\], got nan"),
        ({"guidance": NAN}, "guidance: must be a finite number, got nan"),
        ({"guidance": math.inf}, "guidance: must be a finite number, got inf"),
        ({"structure": torch.rand(1, 3, 8, 9)}, "degraded and structure must have the same shape"),
        ({"structure": torch.rand(2, 3, 8, 8)}, "degraded and structure must have the same shape"),
        ({"structure": torch.rand(1, 1, 8, 8)}, "structure: expected 3 channels"),
        ({"structure": torch.full((1, 3, 8, 8), NAN)}, "structure: contains NaN"),
        ({"structure": torch.rand(1, 3, 8, 8) * 255}, "structure: .*divide by 255"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny().restore(photo(), **options)


def test_guidance_asked_of_an_unguided_network_is_refused():
    for options in ({"guidance": 0.5}, {"structure": photo()}):
        with pytest.raises(ValueError, match="guidance, structure: this network was trained without guidance"):
            tiny(guided=False).restore(photo(), **options)


def test_a_regressor_ignores_everything_but_the_image():
    model, y = tiny(objective="regression"), photo()
    expected = model.restore(y)
    for options in ({"steps": 10, "beta_end": 0.01}, {"guidance": 0.3, "eta": 0.0}, {"structure": photo(1, 3, 9, 5)}):
        assert torch.equal(model.restore(y, seeded(3), **options), expected)


@pytest.mark.parametrize("option", ["stepz", "structure", "callback"])
def test_options_that_a_reader_cannot_give_are_refused(option):
    with pytest.raises(ValueError, match=f"unknown option '{option}'.*known: steps, beta_end, samples, eta, guidance"):
        recipes.restore(tiny(), photo(), **{option: 1})


def test_the_schedule_of_training_must_be_possible():
    with pytest.raises(ValueError, match="beta_start and beta_end: must lie between 0 and 1, got 1e-06 and 1.5"):
        tiny(beta_end=1.5).training_losses({"clean": photo(), "degraded": photo()}, seeded(), 0)
    assert diffusion.make_betas("linear", 1, 0.5, 0.5).tolist() == [0.5]
