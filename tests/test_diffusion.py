"""Schedules and samplers: the oracle, parity with diffusers, Bayes' rule."""

import itertools

import pytest
import torch

from minirestore import diffusion

T = 1000
NAN = float("nan")
ALPHA_BAR = diffusion.make_alpha_bar(diffusion.make_betas())


def make_oracle(x0):
    """An exact noise predictor: it knows the clean image."""

    def denoise(x_t, alpha_bar):
        return x0, diffusion.eps_from_x0(x_t, x0, alpha_bar)

    return denoise


@pytest.mark.parametrize("spacing", diffusion.SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 10, 50, 333, 1000])
@pytest.mark.parametrize("schedule", diffusion.SCHEDULES)
def test_an_exact_predictor_stays_on_the_forward_marginal(spacing, steps, schedule):
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 1, 2, 3, 4, generator=generator, dtype=torch.float64)
    levels = diffusion.sampling_levels(diffusion.make_alpha_bar(diffusion.make_betas(schedule)), steps, spacing)
    visited = []

    def callback(step, x_t, predicted):
        visited.append((x_t - diffusion.add_noise(x0, eps, levels[step])).abs().max().item())

    x_T = diffusion.add_noise(x0, eps, levels[0])
    out = diffusion.ddim(make_oracle(x0), x_T, levels, callback=callback)
    assert len(visited) == steps
    assert max(visited) < 1e-9
    assert (out - x0).abs().max() < 1e-9


@pytest.mark.parametrize("spacing", diffusion.SPACINGS)
def test_ddpm_with_an_exact_predictor_has_the_marginals_moments(spacing):
    x0 = torch.full((20_000, 1, 1, 1), 0.7, dtype=torch.float64)
    levels = diffusion.sampling_levels(ALPHA_BAR, 5, spacing)
    generator = torch.Generator().manual_seed(1)
    seen = {}
    x_T = diffusion.add_noise(x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64), levels[0])
    out = diffusion.ddpm(make_oracle(x0), x_T, levels, generator, lambda step, x, _: seen.__setitem__(step, x))
    for step, x in seen.items():
        level = levels[step].item()
        assert x.mean().item() == pytest.approx(0.7 * level**0.5, abs=0.03)
        assert x.var().item() == pytest.approx(1 - level, abs=0.04)
    assert torch.allclose(out, x0)


@pytest.mark.parametrize("spacing", diffusion.SPACINGS)
def test_the_first_call_is_always_at_the_noisiest_level(spacing):
    for steps in range(1, 60):
        chosen = diffusion.timesteps(T, steps, spacing)
        assert chosen[0] == T - 1
        assert len(chosen) == steps
        assert all(a > b >= 0 for a, b in itertools.pairwise(chosen))


@pytest.mark.parametrize("steps", [1, 4, 10, 50])
def test_trailing_ddim_equals_diffusers(steps):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == diffusion.timesteps(T, steps, "trailing")
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    ours = diffusion.ddim(_toy, x, diffusion.sampling_levels(ALPHA_BAR, steps, "trailing"))
    for t in scheduler.timesteps:
        # diffusers ends at the first training level; ours at a clean image, as set_alpha_to_one does
        x = scheduler.step(_toy(x, ALPHA_BAR[t].expand(2).float())[1], t, x).prev_sample
    assert torch.allclose(ours, x, atol=2e-5)


def _toy(x, alpha_bar):
    eps = 0.9 * x + 0.1 * torch.sin(3 * x)
    return diffusion.x0_from_eps(x, eps, alpha_bar), eps


def test_ancestral_step_equals_diffusers_ddpm():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(variance_type="fixed_small", clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    chosen = diffusion.timesteps(T, 10, "trailing")
    assert scheduler.timesteps.tolist() == chosen
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    eps = torch.sin(x)
    for t, s in itertools.pairwise(chosen):
        x0 = diffusion.x0_from_eps(x, eps, ALPHA_BAR[t])
        mean, variance = diffusion.posterior(x0, x, ALPHA_BAR[t], ALPHA_BAR[s])
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        theirs = scheduler.step(eps, t, x, generator=torch.Generator().manual_seed(9)).prev_sample
        assert torch.allclose(mean + variance.sqrt() * noise, theirs, atol=1e-5)


def test_posterior_is_bayes_rule():
    """Completing the square for q(x_t | x_s) q(x_s | x_0) by brute force on a fine grid."""
    x0, x_t, now, nxt = 0.3, -0.4, torch.tensor(0.35, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    grid = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    alpha = now / nxt
    log_density = -((x_t - alpha.sqrt() * grid) ** 2) / (2 * (1 - alpha)) - (grid - nxt.sqrt() * x0) ** 2 / (
        2 * (1 - nxt)
    )
    weight = torch.softmax(log_density, 0)
    mean = (weight * grid).sum()
    variance = (weight * (grid - mean) ** 2).sum()
    as_image = [torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (x0, x_t)]
    ours_mean, ours_variance = diffusion.posterior(*as_image, now, nxt)
    assert ours_mean.item() == pytest.approx(mean.item(), abs=1e-9)
    assert ours_variance.item() == pytest.approx(variance.item(), abs=1e-9)


def test_ddpm_draws_the_next_sample_from_the_posterior():
    """The sampler writes the step in terms of eps; the posterior of `test_posterior_is_bayes_rule` in terms of x_t."""
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    seen = []
    diffusion.ddpm(_toy, x, levels, torch.Generator().manual_seed(4), lambda _, x_t, x0: seen.append((x_t, x0)))
    noise = torch.Generator().manual_seed(4)
    for (now, nxt), (x_t, x0), (x_next, _) in zip(itertools.pairwise(levels[:3]), seen, seen[1:], strict=False):
        mean, variance = diffusion.posterior(x0, x_t, now, nxt)
        drawn = torch.randn(x.shape, generator=noise, dtype=torch.float64)
        assert torch.allclose(x_next, mean + variance.sqrt() * drawn, atol=1e-12)


def test_ddim_with_eta_one_is_ddpm():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    levels = diffusion.sampling_levels(ALPHA_BAR, 6)
    a = diffusion.ddim(_toy, x, levels, 1.0, torch.Generator().manual_seed(4))
    b = diffusion.ddpm(_toy, x, levels, torch.Generator().manual_seed(4))
    assert torch.equal(a, b)
    assert not torch.allclose(a, diffusion.ddim(_toy, x, levels, 0.0, torch.Generator().manual_seed(4)))


def test_schedules_equal_diffusers():
    from diffusers import DDPMScheduler

    cases = [
        ("linear", {}, "linear", {}),
        (
            "scaled_linear",
            {"beta_start": 0.00085, "beta_end": 0.012},
            "scaled_linear",
            {"beta_start": 0.00085, "beta_end": 0.012},
        ),
        ("cosine", {}, "squaredcos_cap_v2", {}),
    ]
    for ours, ours_options, theirs, theirs_options in cases:
        scheduler = DDPMScheduler(beta_schedule=theirs, **theirs_options)
        alpha_bar = diffusion.make_alpha_bar(diffusion.make_betas(ours, **ours_options))
        assert torch.allclose(alpha_bar.float(), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-7)


def test_zero_terminal_snr_ends_in_pure_noise():
    from diffusers import DDIMScheduler

    alpha_bar = diffusion.make_alpha_bar(diffusion.make_betas("scaled_linear"), zero_terminal_snr=True)
    theirs = DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True).alphas_cumprod
    assert alpha_bar[-1] == 0
    assert torch.allclose(alpha_bar.float(), theirs, atol=1e-5)


def test_conversions_invert_each_other():
    x0, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x_t = diffusion.add_noise(x0, eps, level)
    assert torch.allclose(diffusion.x0_from_eps(x_t, eps, level), x0)
    assert torch.allclose(diffusion.eps_from_x0(x_t, x0, level), eps)
    assert torch.allclose(diffusion.x0_from_velocity(x_t, diffusion.velocity(x0, eps, level), level), x0)


def test_log_snr_levels_are_equally_spaced():
    levels = diffusion.log_snr_levels(5, 0.99, 0.01)
    gaps = torch.logit(levels[:-1]).diff()
    assert torch.allclose(gaps, gaps[0].expand(4))
    assert levels[0] == pytest.approx(0.01) and levels[-2] == pytest.approx(0.99) and levels[-1] == 1


def test_a_single_log_snr_level_is_the_noisiest():
    """The other bound is not visited, so it may be anything."""
    assert diffusion.log_snr_levels(1, 0.2, 0.5).tolist() == pytest.approx([0.5, 1])


def test_shards_draw_the_rows_of_the_whole_batch():
    whole = diffusion.randn((6, 3, 5), diffusion.BatchGenerator(1, 2))
    parts = [diffusion.randn((2, 3, 5), diffusion.BatchGenerator(1, 2, rank=r, world_size=3)) for r in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, diffusion.randn((6, 3, 5), diffusion.BatchGenerator(1, 3)))
    assert not torch.equal(whole, diffusion.randn((6, 3, 5), diffusion.BatchGenerator(2, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diffusion.make_betas("sigmoid"), "schedule: expected one of"),
        (lambda: diffusion.timesteps(T, 5, "log"), "spacing: expected one of"),
        (lambda: diffusion.timesteps(T, 0), r"steps: must lie in 1\.\.1000"),
        (lambda: diffusion.timesteps(T, 1001), r"steps: must lie in 1\.\.1000"),
        (lambda: diffusion.ddim(_toy, torch.zeros(1, 1, 2, 2), torch.tensor([0.5, 1.0]), eta=1.5), "eta: must lie"),
        (lambda: diffusion.ddpm(_toy, torch.zeros(1, 1, 2, 2), torch.tensor([0.5, 0.4, 1.0])), "strictly increasing"),
        (lambda: diffusion.ddpm(_toy, torch.zeros(1, 1, 2, 2), torch.tensor([0.5, 0.9])), "ending in 1"),
        (lambda: diffusion.ddim(_toy, torch.zeros(1, 1, 2, 2), torch.tensor([-0.1, 1.0])), r"levels in \[0, 1\]"),
        (lambda: diffusion.ddim(_toy, torch.zeros(1, 1, 2, 2), torch.tensor([NAN, 0.5, 1.0])), "strictly increasing"),
        (lambda: diffusion.ddim(_toy, torch.zeros(1, 1, 2, 2), torch.tensor([0.1, NAN, 1.0])), "strictly increasing"),
        (lambda: diffusion.make_betas(T=0), "T: must be at least 1, got 0"),
        (lambda: diffusion.make_betas("cosine", T=-1), "T: must be at least 1, got -1"),
        (lambda: diffusion.make_betas(beta_start=0.0), "beta_start and beta_end: must lie between 0 and 1"),
        (lambda: diffusion.make_betas("scaled_linear", beta_start=-0.1), "beta_start and beta_end: must lie"),
        (lambda: diffusion.make_betas(beta_end=1.0), "beta_start and beta_end: must lie between 0 and 1"),
        (lambda: diffusion.make_betas(beta_end=NAN), "beta_start and beta_end: must lie between 0 and 1"),
        (lambda: diffusion.log_snr_levels(0), "steps: must be at least 1, got 0"),
        (lambda: diffusion.log_snr_levels(3, 0.2, 0.5), "expected 0 < min < max < 1"),
        (lambda: diffusion.log_snr_levels(3, 1.0, 0.5), "expected 0 < min < max < 1"),
        (lambda: diffusion.log_snr_levels(3, 0.5, 0.0), "expected 0 < min < max < 1"),
        (lambda: diffusion.log_snr_levels(1, 0.5, 0.0), "expected 0 < min < max < 1"),
        (
            lambda: diffusion.add_noise(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.tensor(0.5)),
            "x0 and eps must have the same shape",
        ),
        (
            lambda: diffusion.add_noise(*torch.zeros(2, 1, 3, 4, 4), torch.tensor([0.1, 0.5])),
            "alpha_bar: expected one level or 1, one per image, got 2",
        ),
        (
            lambda: diffusion.add_noise(*torch.zeros(2, 3, 1, 4, 4), torch.tensor([0.1, 0.5])),
            "alpha_bar: expected one level or 3, one per image, got 2",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
