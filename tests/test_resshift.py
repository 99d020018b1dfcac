"""ResShift and SinSR, their parts: schedule, samplers, the Swin U-Net, and released names and weights."""

import json
import math
from pathlib import Path

import by_rule
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from minirestore import diffusion
from minirestore.networks import count_parameters
from minirestore.papers import resshift as paper
from minirestore.papers.resshift import ShiftConfig, SwinUNetConfig, config, schedule
from minirestore.prior import AUTOENCODERS, Autoencoder, AutoencoderConfig

GOLDEN = Path(__file__).parent / "golden" / "resshift"
SHAPES = json.loads((GOLDEN / "released_shapes.json").read_text())
CONFIGS = {
    "T15": {},
    "T15_p1": {"p": 1.0},
    "T15_p2": {"p": 2.0},
    "T15_k1": {"kappa": 1.0},
    "T15_resp5": {},
    "T4j": {"T": 4, "min_noise_level": 0.2},
    "T4_mn.04": {"T": 4},
}
TINY = {"width": 32, "multipliers": (1, 2), "blocks": (1, 1), "latent_size": 16, "attention_sizes": (16, 8),
        "swin_width": 32, "head_channels": 16, "window": 4, "mlp_ratio": 2.0}  # fmt: skip
GOLDEN_AUTOENCODER = AutoencoderConfig("vq", (32, 64, 64), channels=3, groups=32, attention=True, codes=64)
SCHEDULE = paper.make_schedule(ShiftConfig())


def load(file):
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / f"{file}.npz").items()}


TABLES, VALUES, BY_RULE = load("schedules"), load("diffusion"), load("by_rule")
X0, Y, NOISE, X_T = (VALUES[name] for name in ("x0", "y", "noise", "xt"))
WHEN = (0, 1, 7, 14)


def close(found, right, rtol=1e-5, atol=1e-6):
    torch.testing.assert_close(found, right, rtol=rtol, atol=atol)


def toy(weights):
    """The network of the golden values: sees the scaled sample, the low-quality image and the time."""

    def predict(x, t):
        return torch.tanh(0.6 * x + F.conv2d(VALUES["lq"], weights, padding=1) + 0.1 * t.sin()[:, None, None, None])

    return predict


def upsample(x):
    return F.interpolate(x, scale_factor=4, mode="bicubic")


STUDENT, TEACHER = toy(VALUES["stub/w"]), toy(VALUES["teacher/w"])
ENCODE, DECODE = (lambda x: F.avg_pool2d(x, 4)), upsample
CONDITION = ENCODE(upsample(VALUES["lq"]))  # y of the samplers
START = SCHEDULE.prior_sample(CONDITION, NOISE)
LAST, FIRST = torch.full((2,), 14.0), torch.zeros(2)


def per_image(error):
    return error.square().mean(dim=(1, 2, 3))


# ---------------------------------------------------------------- schedule


@pytest.mark.parametrize("clamp", config.CLAMPS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_table_is_the_released_one(name, clamp):
    found = paper.make_schedule(ShiftConfig(clamp=clamp, **CONFIGS[name]))
    if name == "T15_resp5":
        found = found.respaced(5, "released")
    right = {key.split("/")[2]: value for key, value in TABLES.items() if key.startswith(f"{clamp}/{name}/")}
    ours = {
        "sqrt_etas": found.sqrt_eta,
        "etas": found.eta,
        "etas_prev": found.eta_previous,
        "alpha": found.alpha,
        "posterior_variance": found.posterior_variance,
        "posterior_mean_coef1": found.posterior_x_t,
        "posterior_mean_coef2": found.posterior_x0,
        "weight_loss_mse": found.vlb_weight,
        "timestep_map": found.times,
    }
    assert ours.keys() == right.keys()
    for key, value in ours.items():
        close(value, right[key], rtol=1e-12, atol=1e-12)


def test_the_clamps_differ_only_where_the_first_step_is_large():
    starts = {
        (clamp, kappa, m): ShiftConfig(clamp=clamp, kappa=kappa, min_noise_level=m).sqrt_eta_start
        for clamp in config.CLAMPS
        for kappa, m in ((2.0, 0.04), (2.0, 0.2), (1.0, 0.04), (0.5, 0.03))
    }
    assert list(starts.values()) == [0.02, 0.1, 0.04, 0.03, 0.02, math.sqrt(0.001), math.sqrt(0.001), 0.03]


def test_the_published_digits():
    digits = [0.02, 0.11717, 0.1763, 0.23363, 0.29157, 0.35101, 0.41236, 0.47586, 0.54167, 0.60991, 0.68066, 0.75399,
              0.82995, 0.90861, 0.99]  # fmt: skip
    close(SCHEDULE.sqrt_eta, torch.tensor(digits, dtype=torch.float64), rtol=0, atol=1e-5)
    assert SCHEDULE.eta[-1].item() == pytest.approx(0.9801) and len(SCHEDULE) == 15


@pytest.mark.parametrize(
    ("steps", "spacing", "visited"),
    [
        (5, "released", [0, 3, 6, 9, 12]),
        (4, "released", [0, 3, 7, 11]),
        (1, "released", [0]),
        (5, "trailing", [2, 5, 8, 11, 14]),
        (1, "trailing", [14]),
        (3, "linspace", [0, 7, 14]),
    ],
)
def test_which_steps_a_shorter_chain_visits(steps, spacing, visited):
    assert paper.visited_steps(15, steps, spacing) == visited
    shorter = SCHEDULE.respaced(steps, spacing)
    assert shorter.times.tolist() == visited
    assert torch.equal(shorter.eta, SCHEDULE.eta[visited])
    assert torch.equal(shorter.eta_previous, torch.cat([torch.zeros(1), shorter.eta[:-1]]))


@pytest.mark.parametrize("spacing", config.SPACINGS)
def test_all_steps_are_the_schedule_itself(spacing):
    whole = SCHEDULE.respaced(15, spacing)
    assert torch.equal(whole.sqrt_eta, SCHEDULE.sqrt_eta) and whole.times.tolist() == list(range(15))
    for steps in (0, 16):
        with pytest.raises(ValueError, match="steps: must lie in 1..15"):
            SCHEDULE.respaced(steps, spacing)
    with pytest.raises(ValueError, match="spacing: expected one of trailing, linspace, released, got 'leading'"):
        paper.visited_steps(15, 5, "leading")


def test_the_sampler_takes_its_steps_from_the_configuration_or_the_caller():
    choices = ShiftConfig(sampling_steps=5, spacing="released")
    assert paper.sampling_schedule(choices).times.tolist() == [0, 3, 6, 9, 12]
    assert paper.sampling_schedule(choices, 3, "trailing").times.tolist() == [4, 9, 14]
    assert paper.sampling_schedule(ShiftConfig()).times.tolist() == list(range(15))
    with pytest.raises(ValueError, match="steps: must lie in 1..15, got -1"):
        paper.sampling_schedule(choices, -1)


# ---------------------------------------------------------------- ResShift


@pytest.mark.parametrize("t", WHEN)
def test_forward_process_posterior_and_conversions_are_the_released_ones(t):
    s, v = SCHEDULE, VALUES
    mean, variance = s.marginal(X0, Y, t)
    close(mean, v[f"q_mv/{t}/mean"])
    close(variance.flatten()[0], v[f"q_mv/{t}/variance"])
    close(s.q_sample(X0, Y, t, NOISE), v[f"q_sample/{t}"])
    mean, variance = s.posterior(X0, X_T, t)
    close(mean, v[f"post/{t}/mean"])
    close(variance.flatten()[0], v[f"post/{t}/variance"])
    close(s.scale_input(X_T, t), v[f"scale_input/{t}"])
    pixel = paper.make_schedule(ShiftConfig(input_scale="pixel"))
    close(pixel.scale_input(X_T, t), v[f"scale_input_pixel/{t}"])
    close(s.x0_from_eps(X_T, NOISE, Y, t), v[f"x0_from_eps/{t}"])
    close(s.x0_from_eps(X_T, NOISE, Y, t, scaled=True), v[f"x0_from_epsscale/{t}"])
    close(s.eps_from_x0(X_T, X0, Y, t), v[f"eps_from_x0/{t}"])


def test_the_prior_is_the_released_one_and_its_mean_is_y():
    close(SCHEDULE.prior_sample(Y, NOISE), VALUES["prior_sample"])
    assert torch.equal(SCHEDULE.prior_sample(Y, torch.zeros_like(Y)), Y)
    close((SCHEDULE.prior_sample(Y, torch.ones_like(Y)) - Y).mean().item(), 1.98)


def test_every_image_of_a_batch_has_its_own_time():
    t, s = torch.tensor([14, 3]), SCHEDULE
    for found in (
        lambda t, i: s.q_sample(X0[i], Y[i], t, NOISE[i]),
        lambda t, i: s.posterior_sample(X0[i], X_T[i], t, NOISE[i]),
        lambda t, i: s.scale_input(X_T[i], t),
        lambda t, i: s.deterministic_step(X0[i], X_T[i], Y[i], t),
        lambda t, i: s.x0_from_eps(X_T[i], NOISE[i], Y[i], t),
    ):
        whole = found(t, slice(None))
        close(whole, torch.cat([found(14, slice(0, 1)), found(3, slice(1, 2))]), rtol=0, atol=0)


@pytest.mark.parametrize("t", [-1, 15, 1.0, torch.tensor([0, 15]), torch.tensor([0, 1, 2]), torch.tensor([0.5, 1])])
def test_indices_that_do_not_exist_are_refused(t):
    with pytest.raises(ValueError, match=r"t: expected one index in 0..14, or 2 of them, one per image"):
        SCHEDULE.q_sample(X0, Y, t, NOISE)


def test_a_step_of_training_is_the_released_one():
    t, x0 = VALUES["train/t"], ENCODE(VALUES["gt"])
    x_t = SCHEDULE.q_sample(x0, CONDITION, t, NOISE)
    predicted = STUDENT(SCHEDULE.scale_input(x_t, t), SCHEDULE.times[t])
    close(x_t, VALUES["train/z_t"])
    close(predicted, VALUES["train/pred"])
    close(per_image(predicted - x0), VALUES["train/mse"])


@pytest.mark.parametrize("t", [14, 3, 0])
def test_a_step_of_the_sampler_is_the_released_one(t):
    predicted = STUDENT(SCHEDULE.scale_input(X_T, t), torch.full((2,), float(t)))
    close(predicted, VALUES[f"p_sample/{t}/pred_xstart"])
    found = SCHEDULE.posterior_sample(predicted, X_T, t, VALUES[f"p_sample/{t}/noise"])
    close(found, VALUES[f"p_sample/{t}/sample"])
    if t == 0:
        assert torch.equal(found, predicted)


@pytest.mark.parametrize(
    ("name", "key", "choices", "steps"),
    [
        ("T15", "out", {}, 15),
        ("resp5", "out", {}, 5),
        ("T4j", "out_journal", {"T": 4, "min_noise_level": 0.2}, 4),
        ("T4j", "out_v2", {"T": 4, "min_noise_level": 0.2, "clamp": "v2"}, 4),
    ],
)
def test_the_sampler_is_the_released_one(monkeypatch, name, key, choices, steps):
    s, noises = paper.make_schedule(ShiftConfig(**choices)).respaced(steps, "released"), VALUES[f"loop/{name}/noises"]
    drawn, seen = iter(noises), []
    monkeypatch.setattr(schedule.diffusion, "randn", lambda *arguments: next(drawn))
    sample = paper.stochastic_chain(
        s, STUDENT, s.prior_sample(CONDITION, NOISE), callback=lambda t, x, x0: seen.append((t, x0))
    )
    close(DECODE(sample), VALUES[f"loop/{name}/{key}"], rtol=0, atol=1e-5)
    assert [t for t, _ in seen] == list(range(steps))[::-1]
    assert torch.equal(seen[-1][1], sample)
    assert len(list(drawn)) == 1  # the released code draws one for index 0 and does not use it


def test_the_same_seed_gives_the_same_sample():
    samples = [
        paper.stochastic_chain(SCHEDULE, STUDENT, START, diffusion.BatchGenerator(seed, 0)) for seed in (1, 1, 2)
    ]
    assert torch.equal(*samples[:2]) and not torch.equal(*samples[1:])


@pytest.mark.parametrize("spacing", config.SPACINGS)
def test_the_network_is_told_the_times_of_its_training(spacing):
    told = []

    def predict(x, t):
        told.append(t.tolist())
        return x

    paper.deterministic_chain(SCHEDULE.respaced(4, spacing), predict, CONDITION, START)
    assert told == [[float(t)] * 2 for t in paper.visited_steps(15, 4, spacing)[::-1]]


FLOATS = st.floats(-3, 3)
CHOICES = st.builds(
    ShiftConfig,
    T=st.integers(2, 30),
    kappa=st.floats(0.25, 4),
    p=st.floats(0.2, 3),
    min_noise_level=st.floats(0.01, 0.2),
    sqrt_eta_end=st.floats(0.9, 0.999),
    clamp=st.sampled_from(config.CLAMPS),
)


def images(*values):
    """One-pixel images, float64."""
    return [torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in values]


@settings(deadline=None, max_examples=40)
@given(CHOICES, FLOATS, FLOATS, FLOATS, st.data())
def test_the_posterior_is_bayes_rule(choices, x0, x_t, y, data):
    """q(x_{t-1} | x_t, x_0, y) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): a product of two Gaussians.

    The first has mean x_{t-1} + alpha_t (y - x_0) and variance kappa^2 alpha_t.
    """
    s = paper.make_schedule(choices)
    t = data.draw(st.integers(1, len(s) - 1))
    x0, x_t, y = images(x0, x_t, y)
    prior_mean, prior_variance = s.marginal(x0, y, t - 1)
    alpha = s.alpha[t]
    precision = 1 / prior_variance + 1 / (choices.kappa**2 * alpha)
    mean = (prior_mean / prior_variance + (x_t - alpha * (y - x0)) / (choices.kappa**2 * alpha)) / precision
    found, variance = s.posterior(x0, x_t, t)
    close(variance, 1 / precision, rtol=1e-9, atol=0)
    close(found, mean, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=40)
@given(CHOICES, FLOATS, FLOATS, st.data())
def test_steps_keep_the_marginals(choices, x0, y, data):
    """Drawing x_t, then x_{t-1} from the posterior, is drawing x_{t-1}; SinSR's step does it without new noise."""
    s = paper.make_schedule(choices)
    t = data.draw(st.integers(1, len(s) - 1))
    x0, y = images(x0, y)
    mean, variance = s.marginal(x0, y, t)
    right_mean, right_variance = s.marginal(x0, y, t - 1)
    found, added = s.posterior(x0, mean, t)
    close(found, right_mean, rtol=1e-9, atol=1e-9)
    close(s.posterior_x_t[t] ** 2 * variance + added, right_variance, rtol=1e-9, atol=0)
    close(s.deterministic_step(x0, mean, y, t), right_mean, rtol=1e-9, atol=1e-9)
    close(s.step_x_t[t] ** 2 * variance, right_variance, rtol=1e-9, atol=0)


@settings(deadline=None, max_examples=40)
@given(CHOICES, FLOATS, FLOATS, FLOATS, st.data())
def test_predictions_of_noise_and_residual_convert_back(choices, x0, y, eps, data):
    s = paper.make_schedule(choices)
    t = data.draw(st.integers(0, len(s) - 1))
    x0, y, eps = images(x0, y, eps)
    x_t = s.q_sample(x0, y, t, eps)
    close(s.x0_from_eps(x_t, eps, y, t), x0, rtol=1e-8, atol=1e-8)
    scaled = choices.kappa * s.sqrt_eta[t] * eps
    close(s.x0_from_eps(x_t, scaled, y, t, scaled=True), x0, rtol=1e-8, atol=1e-8)
    close(s.eps_from_x0(x_t, x0, y, t), eps, rtol=1e-8, atol=1e-8)
    close(s.x0_from_residual(y - x0, y), x0, rtol=1e-9, atol=1e-9)


def test_the_input_has_unit_variance_at_every_step():
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(1, 1, 300, 300, generator=generator) for _ in range(2))
    for t in range(15):  # y near x_0, as a good upsampling is
        assert SCHEDULE.scale_input(SCHEDULE.q_sample(x0, x0, t, noise), t).std().item() == pytest.approx(1, abs=0.01)


# ---------------------------------------------------------------- SinSR


@pytest.mark.parametrize("t", WHEN)
def test_the_deterministic_step_and_its_inverse_are_the_released_ones(t):
    coefficients = torch.stack([SCHEDULE.step_x0[t], SCHEDULE.step_x_t[t], SCHEDULE.step_y[t]])
    close(coefficients, VALUES[f"ddim/{t}/kmj"], rtol=0, atol=1e-6)  # stored from float32
    x0 = STUDENT(SCHEDULE.scale_input(X_T, t), torch.full((2,), float(t)))
    close(x0, VALUES[f"ddim/{t}/x0"])
    close(SCHEDULE.deterministic_step(x0, X_T, Y, t), VALUES[f"ddim/{t}/sample"])
    if t:
        close(SCHEDULE.deterministic_inverse(x0, X_T, Y, t), VALUES[f"ddim_inv/{t}"])


def test_the_deterministic_sampler_and_one_step_are_the_released_ones():
    sample = paper.deterministic_chain(SCHEDULE, TEACHER, CONDITION, START)
    close(sample, VALUES["ddim_loop/latent"])
    close(DECODE(sample), VALUES["ddim_loop/out"])
    one = paper.deterministic_chain(SCHEDULE.respaced(1), STUDENT, CONDITION, START)
    close(DECODE(one), VALUES["one_step/out"])


@settings(deadline=None, max_examples=40)
@given(CHOICES)
def test_the_coefficients_of_the_step_sum_to_one(choices):
    s = paper.make_schedule(choices)
    close(s.step_x0 + s.step_x_t + s.step_y, torch.ones_like(s.eta), rtol=0, atol=1e-12)
    assert [s.step_x0[0], s.step_x_t[0], s.step_y[0]] == [1, 0, 0]
    assert (s.step_y[1:] < 0).all() and (s.step_x_t[1:] > 0).all() and s.posterior_variance[0] == 0


@settings(deadline=None, max_examples=40)
@given(CHOICES, FLOATS, FLOATS, FLOATS, st.data())
def test_the_inverse_undoes_the_step(choices, x0, x_t, y, data):
    s = paper.make_schedule(choices)
    t = data.draw(st.integers(1, len(s) - 1))
    x0, x_t, y = images(x0, x_t, y)
    close(s.deterministic_inverse(x0, s.deterministic_step(x0, x_t, y, t), y, t), x_t, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", [0, torch.tensor([3, 0])])
def test_the_last_step_has_no_inverse(t):
    with pytest.raises(ValueError, match="the step of index 0 keeps nothing of x_t"):
        SCHEDULE.deterministic_inverse(X0, X_T, Y, t)


def test_the_losses_of_distillation_are_the_released_ones():
    """Five calls of the student at the last step's input scale; time 0 asks for x_T, the last time for x_0."""
    weights = VALUES["stub/w"].clone().requires_grad_()
    student, x0 = toy(weights), ENCODE(VALUES["gt"])

    def call(x, time):
        return student(SCHEDULE.scale_input(x, 14), time)

    with torch.no_grad():
        target = paper.deterministic_chain(SCHEDULE, TEACHER, CONDITION, START)
        inverted = call(x0, FIRST)
    predicted, from_gt = call(START, LAST), call(inverted, LAST)
    inverse = per_image(call(target, FIRST) - START)
    in_latents = {"mse": per_image(predicted - target), "mse_xT": inverse, "mse_gt": per_image(from_gt - x0)}
    in_images = {
        "mse": per_image(DECODE(predicted) - DECODE(target)),
        "mse_xT": inverse,
        "mse_gt_rgb": per_image(DECODE(from_gt) - VALUES["gt"]),
    }
    for name, terms in (
        ("full", in_latents),
        ("xT", {key: in_latents[key] for key in ("mse", "mse_xT")}),
        ("distill_only", {"mse": in_latents["mse"]}),
        ("img", in_images),
    ):
        for key, value in terms.items():
            close(value, VALUES[f"distill/{name}/{key}"])
        loss = sum(terms.values())
        close(loss, VALUES[f"distill/{name}/loss"])
        gradient = torch.autograd.grad(loss.mean(), weights, retain_graph=True)[0]
        close(gradient, VALUES[f"distill/{name}/grad_w"], rtol=1e-4, atol=1e-6)


def test_the_deterministic_sampler_is_differentiable():
    y = CONDITION.clone().requires_grad_()
    paper.deterministic_chain(SCHEDULE, TEACHER, y, SCHEDULE.prior_sample(y, NOISE)).sum().backward()
    assert y.grad.isfinite().all() and y.grad.abs().min() > 0


# ---------------------------------------------------------------- the Swin U-Net


def tiny(**choices):
    """The tiny network with the rule's weights."""
    net = paper.SwinUNet(SwinUNetConfig(**TINY, **choices))
    by_rule.fill(net, SHAPES["unet"], paper.from_released_name)
    return net


def inputs(number=""):
    shape = (2, 3, 16, 16) if number == "" else (1, 3, 16, 24)
    x, lq = by_rule.inputs(f"swinunet.x{number}", shape), by_rule.inputs(f"swinunet.lq{number}", shape, "pm1")
    return x, torch.tensor([14, 3])[: len(x)], lq


def test_the_network_is_the_released_one():
    net = tiny(legacy_mask=True)
    out = net(*inputs())
    close(out, BY_RULE["unet/out"], rtol=0, atol=2e-5)
    with torch.no_grad():
        close(net(*inputs("2")), BY_RULE["unet/out2"], rtol=0, atol=2e-5)
    loss = out.square().mean()
    close(loss, BY_RULE["unet/grad/loss"], rtol=1e-5, atol=0)
    loss.backward()
    gradients, checked = {name: parameter.grad for name, parameter in net.named_parameters()}, 0
    for key, right in BY_RULE.items():
        kind, _, name = key.removeprefix("unet/grad/").partition("/")
        if kind in ("grad", "gradnorm"):
            found = gradients[paper.from_released_name(name)]
            found = found.norm() if kind == "gradnorm" else found
            assert (found - right).abs().max() <= 1e-3 * right.abs().max(), key
            checked += 1
    assert checked == 6


def test_the_two_masks_give_different_networks():
    with torch.no_grad():
        difference = (tiny()(*inputs()) - BY_RULE["unet/out"]).abs().max().item()
    assert difference == pytest.approx(0.90, abs=0.01)


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        net = paper.SwinUNet()
        assert count_parameters(net) == 118_593_583
        assert count_parameters(paper.SwinUNet(SwinUNetConfig(**TINY))) == 793_175
        assert count_parameters(Autoencoder(AUTOENCODERS["resshift/vq-f4"])) == 55_322_782
    assert net.multiple == 64


@pytest.mark.parametrize(
    ("choices", "millions"),
    [
        ({"multipliers": (1, 2, 2), "blocks": (2, 2, 2), "swin_width": 64}, 7.13),
        ({"multipliers": (1, 2, 2, 4), "blocks": (2, 2, 2, 2), "swin_width": 96}, 19.1),
    ],
)
def test_parameter_counts_of_the_reduced_candidates(choices, millions):
    sizes = (64, 32, 16, 8)[: len(choices["blocks"])]
    with torch.device("meta"):
        net = paper.SwinUNet(SwinUNetConfig(width=64, mlp_ratio=2.0, attention_sizes=sizes, **choices))
    assert count_parameters(net) / 1e6 == pytest.approx(millions, rel=0.005)


def test_every_released_name_is_ours_with_the_same_shape():
    released = {name: shape for name, shape in SHAPES["unet"].items()
                if not name.endswith(("attn_mask", "relative_position_index"))}  # fmt: skip
    with torch.device("meta"):
        ours = {name: list(value.shape) for name, value in paper.SwinUNet(SwinUNetConfig(**TINY)).state_dict().items()}
    assert len(SHAPES["unet"]) == 269
    assert {paper.from_released_name(name): shape for name, shape in released.items()} == ours


def test_where_swin_layers_are_and_which_windows_are_shifted():
    with torch.device("meta"):
        net = paper.SwinUNet()
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, paper.SwinLayer)}
    shifts = {name.removesuffix(".swin"): [block.attention.shift for block in layer.blocks]
              for name, layer in layers.items()}  # fmt: skip
    moved, still = [0, 4], [0, 0]  # windows of 8 in maps of 64, 32 and 16, and in a map of 8
    assert shifts == {
        **{f"encoder.{i}": moved for i in (1, 4, 7)},
        "encoder.10": still,
        "middle.1": still,
        "decoder.0": still,
        **{f"decoder.{i}": moved for i in (3, 6, 9)},
    }
    assert {layer.window for layer in layers.values()} == {8}
    assert {layer.blocks[0].attention.heads for layer in layers.values()} == {6}


def test_a_map_smaller_than_the_window_is_one_window():
    net = paper.SwinUNet(SwinUNetConfig(**{**TINY, "window": 16}))
    layers = [layer for layer in net.modules() if isinstance(layer, paper.SwinLayer)]
    assert sorted(layer.window for layer in layers) == [8, 8, 8, 16, 16]
    assert not any(block.attention.shift for layer in layers for block in layer.blocks)
    assert net.multiple == 16
    x = torch.zeros(1, 3, 32, 16)
    assert net(x, torch.zeros(1), x).shape == x.shape


def test_the_time_embedding_is_that_of_diffusers():
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0.0, 3.0, 14.0])
    right = get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0)
    close(paper.time_embedding(t, 32), right)


def test_a_new_residual_block_is_its_skip():
    block = paper.TimeResBlock(32, 32, 16)
    x = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(block(x, torch.ones(1, 16)), x)


def test_sizes_and_conditions_that_do_not_fit_are_refused():
    net = tiny()
    x, t, lq = inputs()
    with pytest.raises(ValueError, match="x_t: H and W must be multiples of 8, got 12x16"):
        net(x[..., :12, :], t, lq[..., :12, :])
    with pytest.raises(ValueError, match=r"lq: expected \(2, 3, 16, 16\) beside this x_t, got \(2, 3, 8, 8\)"):
        net(x, t, lq[..., :8, :8])
    with pytest.raises(ValueError, match="lq: expected .* got None"):
        net(x, t)
    alone = paper.SwinUNet(SwinUNetConfig(**TINY, lq_channels=0))
    assert alone(x, t).shape == x.shape
    with pytest.raises(ValueError, match="lq: expected None"):
        alone(x, t, lq)


# ---------------------------------------------------------------- released weights


@pytest.mark.parametrize(
    "name",
    [
        "",
        "input_blocks.1.0.in_layers.1.weight",
        "input_blocks.1.in_layers.0.weight",
        "middle_block.3.in_layers.0.weight",
        "input_blocks.1.1.blocks.0.attn.k.weight",
        "input_blocks.1.1.blocks.1.attn_mask",
        "out.1.weight",
        "time_embed.0.running_mean",
    ],
)
def test_names_that_the_released_network_lacks_are_refused(name):
    with pytest.raises(ValueError, match="no parameter of the released U-Net"):
        paper.from_released_name(name)


@pytest.mark.parametrize("name", ["", "encoder.mid.block_3.norm1.weight", "decoder.up.3.block.0.norm1.weight"])
def test_names_that_the_released_autoencoder_lacks_are_refused(name):
    with pytest.raises(ValueError, match="no parameter of the released autoencoder"):
        paper.autoencoder_from_released_name(name)


@pytest.mark.parametrize("layout", ["plain", "state_dict", "params"])
def test_a_released_network_loads_by_its_own_names(tmp_path, layout):
    weights = {f"module.{name}": by_rule.weight(name, tuple(shape)) for name, shape in SHAPES["unet"].items()}
    torch.save(weights if layout == "plain" else {layout: weights}, tmp_path / "net.pth")
    loaded = paper.load_official_unet(tmp_path / "net.pth", SwinUNetConfig(**TINY, legacy_mask=True))
    assert not loaded.training
    for name, value in tiny().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    with pytest.raises(ValueError, match="does not fit this module"):
        paper.load_official_unet(tmp_path / "net.pth", SwinUNetConfig(**{**TINY, "mlp_ratio": 4.0}))
    with pytest.raises(FileNotFoundError, match="download the released checkpoint"):
        paper.load_official_unet(tmp_path / "absent.pth")


def test_a_released_network_gets_the_released_mask(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "net.pth")
    monkeypatch.setattr(paper.released.checkpoints, "fill", lambda *arguments: None)
    with torch.device("meta"):
        loaded = paper.load_official_unet(tmp_path / "net.pth")
    assert loaded.config == SwinUNetConfig(legacy_mask=paper.OFFICIAL["legacy_mask"]) and loaded.config.legacy_mask


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    weights = {name: by_rule.weight(name, tuple(shape)) for name, shape in SHAPES["vq"].items()}
    weights["loss.perceptual.weight"] = torch.zeros(1)
    path = tmp_path_factory.mktemp("vq") / "vq.pth"
    torch.save({"state_dict": weights}, path)
    return paper.load_official_autoencoder(path, GOLDEN_AUTOENCODER)


def test_the_autoencoder_is_the_released_one(autoencoder):
    right = {name.removeprefix("vq/"): value for name, value in BY_RULE.items()}
    with torch.no_grad():
        z = autoencoder.encode(by_rule.inputs("vq.x", (1, 3, 64, 64), "pm1"))
        close(z, right["z"], rtol=0, atol=2e-5)
        quantised, _, (_, _, codes) = autoencoder.network.quantize(z)
        assert torch.equal(codes.flatten().int(), right["idx"])
        close(autoencoder.decode(z), right["dec"], rtol=0, atol=2e-5)
        close(autoencoder.decode(z, quantise=False), right["dec_noquant"], rtol=0, atol=2e-5)
    assert not autoencoder.training and count_parameters(autoencoder) == 951_230
    codebook = autoencoder.network.quantize.embedding.weight[right["idx"].long()].T.reshape(1, 3, 16, 16)
    close(quantised, codebook)


def test_the_quantiser_passes_gradients_straight_through(autoencoder):
    z = BY_RULE["vq/z"].clone().requires_grad_()
    gradient = torch.autograd.grad(autoencoder.decode(z).square().sum(), z)[0]
    code = autoencoder.network.quantize(z)[0].detach().requires_grad_()
    decoded = autoencoder.decode(code, quantise=False)
    close(gradient, torch.autograd.grad(decoded.square().sum(), code)[0], rtol=1e-4, atol=1e-4)


def test_released_files_make_a_method_that_restores(tmp_path, monkeypatch):
    monkeypatch.setitem(AUTOENCODERS, "tiny", GOLDEN_AUTOENCODER)
    buffers = ("attn_mask", "relative_position_index")
    for kind in ("unet", "vq"):
        shapes = {name: shape for name, shape in SHAPES[kind].items() if not name.endswith(buffers)}
        torch.save({name: by_rule.weight(name, tuple(s)) for name, s in shapes.items()}, tmp_path / f"{kind}.pth")
    settings = paper.ResShiftConfig(**TINY, legacy_mask=True, autoencoder="tiny", T=4, min_noise_level=0.2)
    method = paper.load_official(tmp_path / "unet.pth", tmp_path / "vq.pth", settings)
    x, lq = (by_rule.inputs(f"swinunet.{name}", (2, 3, 16, 16), kind) for name, kind in (("x", "z"), ("lq", "pm1")))
    with torch.no_grad():
        close(method.network(x, torch.tensor([14.0, 3.0]), lq), BY_RULE["unet/out"], rtol=0, atol=2e-5)
    out = method.restore(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (1, 3, 64, 64) and not method.training and method.autoencoder.deviation == 1


# ---------------------------------------------------------------- configurations


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"clamp": "v1"}, "clamp: expected one of journal, v2, got 'v1'"),
        ({"input_scale": "none"}, "input_scale: expected one of latent, pixel"),
        ({"spacing": "leading"}, "spacing: expected one of"),
        ({"T": 1}, "T: must be at least 2, got 1"),
        ({"kappa": 0.0}, "kappa: must be positive and finite"),
        ({"p": math.inf}, "p: must be positive and finite"),
        ({"min_noise_level": math.nan}, "min_noise_level: must be positive and finite"),
        ({"sqrt_eta_end": 1.0}, "sqrt_eta_end: expected .* = 0.02 < sqrt_eta_end < 1, got 1.0"),
        ({"min_noise_level": 2.0}, "sqrt_eta_end: expected .* lower min_noise_level"),
        ({"sampling_steps": 16}, "sampling_steps: must lie in 0..T = 15"),
    ],
)
def test_wrong_schedules_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        ShiftConfig(**choices)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"multipliers": ()}, "multipliers: expected a number of at least 1"),
        ({"blocks": (2, 2)}, "blocks: expected 4 numbers"),
        ({"blocks": (2, 2, 2, 0)}, "blocks: expected 4 numbers of at least 1"),
        ({"width": 48}, "width: must be a multiple of 32, got 48"),
        ({"swin_width": 0}, "swin_width: must be a multiple of 32"),
        ({"channels": 0}, "channels: must be at least 1"),
        ({"lq_channels": -1}, "lq_channels: must be at least 0"),
        ({"swin_depth": 0}, "swin_depth: must be at least 1"),
        ({"head_channels": 36}, "head_channels: must divide swin_width = 192"),
        ({"mlp_ratio": 0.0}, "mlp_ratio: must be positive"),
        ({"latent_size": 60}, "latent_size: must be a multiple of 8, got 60"),
        ({"attention_sizes": (64, 24)}, r"attention_sizes: levels have sides \(64, 32, 16, 8\), got \[24\]"),
        ({"window": 7}, "window: must divide the side 64"),
    ],
)
def test_wrong_networks_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        SwinUNetConfig(**choices)


def test_the_released_side_of_every_disagreement_is_an_option():
    fields = {**vars(ShiftConfig()), **vars(SwinUNetConfig())}
    assert all(fields[name] != value for name, value in paper.OFFICIAL.items())
