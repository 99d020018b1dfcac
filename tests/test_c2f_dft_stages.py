"""The stages of C2F-DFT: schedule, sampler and losses against the released code, memory, options, restoring."""

import dataclasses
import json
from pathlib import Path

import by_rule
import numpy as np
import pytest
import torch
from test_c2f_dft import BY_RULE, network

from minirestore import diffusion, recipes, training
from minirestore.papers import c2f_dft as paper
from minirestore.papers.c2f_dft import C2FDFT, C2FDFTConfig

GOLDEN = Path(__file__).parent / "golden" / "c2f_dft"
SMALL = {"dim": 8, "blocks": (1, 1, 1, 1), "heads": (1, 1, 2, 2), "output_scale": 0.01}
NODES = [999, 666, 333, 0]
ALPHA_BAR = paper.make_schedule(C2FDFTConfig())


def golden(file):
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / f"{file}.npz").items()}


def table(file):
    return json.loads((GOLDEN / f"{file}.json").read_text())


def method(**settings):
    torch.manual_seed(0)
    return C2FDFT(C2FDFTConfig(**{**SMALL, **settings}))


def batch(count=2, size=16):
    generator = torch.Generator().manual_seed(3)
    return {name: torch.rand(count, 3, size, size, generator=generator) for name in ("clean", "degraded")}


def toy_noise(y, x_t, t):
    """The closed-form predictor of the golden values: Gaussian images of variance .01 around y."""
    a = ALPHA_BAR[t.long()].to(x_t).reshape(-1, 1, 1, 1)
    x0 = y + a.sqrt() * 0.01 / (a * 0.01 + 1 - a) * (x_t - a.sqrt() * y)
    return (x_t - a.sqrt() * x0) / (1 - a).sqrt()


# ---------------------------------------------------------------- parity


def test_the_schedule_is_the_released_one():
    values = golden("schedule")
    torch.testing.assert_close(ALPHA_BAR, values["alphas_cumprod_f64"], rtol=1e-6, atol=0)  # betas were float32 there
    torch.testing.assert_close(ALPHA_BAR.float(), values["alphas_cumprod_f32"], rtol=1e-5, atol=0)


def test_released_settings_visit_the_released_times():
    for setting, right in table("sampling_steps_table").items():
        times = paper.visited_times(int(setting), "released")
        assert len(times) == right["n_steps"] and times[0] == right["first"]
        assert right["seq"] is None or times == right["seq"][::-1]


@pytest.mark.parametrize("setting", [3, 4])
def test_the_sampler_is_the_released_one(setting):
    values, states = golden(f"sampler_toy_s{setting}"), []
    times = paper.visited_times(setting, "released")
    assert times == values["timesteps"].tolist()
    last = paper.implicit_chain(
        toy_noise, values["cond"], values["x_T"], ALPHA_BAR, times, callback=lambda i, x, x0: states.append((x, x0))
    )
    torch.testing.assert_close(torch.stack([*(x for x, _ in states), last]), values["xs"], rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.stack([x0 for _, x0 in states]), values["x0s"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("value_range", [255, 2, 1])
def test_ms_ssim_and_its_gradient_are_the_released_ones(value_range):
    values = golden("msssim_S64_noise0.1")
    a = values["pred"].clone().requires_grad_()
    found = paper.ms_ssim(a, values["target"], float(value_range))
    (0.84 * (1 - found)).backward()
    assert found.item() == pytest.approx(values[f"ms_ssim_maxval{value_range}"].item(), abs=1e-6)
    right = values[f"grad_norm_ssimterm_maxval{value_range}"].item()
    assert a.grad.norm().item() == pytest.approx(right, rel=1e-4)
    if value_range > 1:
        single = values[f"single_scale_ssim_level0_maxval{value_range}"].item()
        assert paper.ssim(a, values["target"], float(value_range)).item() == pytest.approx(single, abs=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("value_range", [255, 2])
def test_the_fine_stage_is_the_released_one(value_range, checkpointing):
    dft = network(scales={"output.weight": 0.01})
    x_T, n1, n2 = (by_rule.inputs(f"c2f.fine_{name}", (2, 3, 32, 32)) for name in ("xT", "gt", "lq"))
    clean = (0.5 + 0.15 * x_T + 0.05 * n1).clamp(0, 1)
    degraded = (clean + 0.1 * n2).clamp(0, 1)
    restored = paper.implicit_chain(dft, 2 * degraded - 1, x_T, ALPHA_BAR, NODES, checkpointing=checkpointing)
    losses = paper.fine_loss(restored, 2 * clean - 1, "ms_ssim", float(value_range), 0.84)
    losses["loss"].backward()
    torch.testing.assert_close(restored, BY_RULE["fine/x_final"], rtol=0, atol=5e-5)
    for name, key in (("l1", "l1"), ("ssim", f"ms_ssim_{value_range}"), ("loss", f"total_{value_range}")):
        torch.testing.assert_close(losses[name].double(), BY_RULE[f"fine/{key}"].double(), rtol=1e-5, atol=0)
    gradients, checked = {name: p.grad for name, p in dft.named_parameters()}, 0
    for key, right in BY_RULE.items():
        group, _, rest = key.partition("/")
        kind, _, name = rest.partition("/")
        if group == f"fine_{value_range}" and kind in ("grad", "gradnorm"):
            found = gradients[paper.from_released_name(name)]
            found = found.norm() if kind == "gradnorm" else found
            assert (found - right).abs().max() <= 1e-3 * right.abs().max(), key
            checked += 1
    assert checked == 7


@pytest.mark.parametrize("name", list(table("schedules")))
def test_the_full_profile_follows_the_released_schedules(name):
    task, stage = name.split("_")
    _, data, run = recipes.plan(recipes.METHODS["c2f_dft"], "full", {"task": task, "stage": stage})
    right = table("schedules")[name]
    assert run.steps == right["total_iter"]
    assert data.crop == max(run.patches) and not run.gradient_clip and not run.ema_warmup
    assert data.mixup == (task != "derain")
    for iteration, probe in right["probes"].items():
        crop, size = run.patch_at(int(iteration) - 1)
        assert (crop, size) == (probe["patch"], 2 * probe["batch_per_gpu"]), iteration
        # the released schedule steps after the iteration, on a period that starts one late
        assert run.learning_rate_at(int(iteration) - 1) == pytest.approx(probe["lr"], rel=1e-3), iteration


# ---------------------------------------------------------------- sampler


def test_every_call_is_a_step_of_euler_with_the_published_weights():
    weights = paper.euler_weights(ALPHA_BAR, NODES)
    torch.testing.assert_close(weights, torch.tensor([-147.92, -8.027, -1.4524, -0.0100]).double(), rtol=1e-3, atol=0)
    generator, noises = torch.Generator().manual_seed(5), []
    y, x_T = (torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))

    def predict(y, x_t, t):
        noises.append(torch.tanh(0.3 * y + 0.5 * x_t) + t.view(-1, 1, 1, 1) / 1000)
        return noises[-1]

    sample = paper.implicit_chain(predict, y, x_T, ALPHA_BAR, NODES)
    euler = x_T / ALPHA_BAR[999].sqrt() + sum(w * eps for w, eps in zip(weights, noises, strict=True))
    torch.testing.assert_close(sample, euler, rtol=1e-9, atol=1e-9)


def test_an_error_of_the_first_noise_is_amplified_by_its_weight():
    """All later noise fixed, an error delta at t = 999 moves the sample by 148 delta."""
    zero, results = torch.zeros(1, 3, 4, 4, dtype=torch.float64), []
    for error in (0.0, 0.01):
        noises = iter([error, 0.0, 0.0, 0.0])
        results.append(paper.implicit_chain(lambda y, x, t, n=noises: x * 0 + next(n), zero, zero, ALPHA_BAR, NODES))
    torch.testing.assert_close(results[1] - results[0], zero - 147.92 * 0.01, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("steps", "rule", "times"),
    [
        (4, "endpoints", [999, 666, 333, 0]),
        (1, "endpoints", [999]),
        (2, "endpoints", [999, 0]),
        (4, "released", [750, 500, 250, 0]),
        (4, "paper", [999, 667, 333, 0]),
        (1, "paper", [999]),
    ],
)
def test_which_times_the_rules_visit(steps, rule, times):
    assert paper.visited_times(steps, rule) == times


def test_the_papers_rule_visits_no_time_twice():
    times = paper.visited_times(667, "paper")
    assert len(set(times)) == 667 and times[0] == 999 and times[-1] == 0
    for steps in (668, 1000):
        with pytest.raises(ValueError, match="rule paper visits t = 999 twice"):
            paper.visited_times(steps, "paper")


@pytest.mark.parametrize("rule", paper.config.STEP_RULES)
def test_impossible_numbers_of_steps_are_refused(rule):
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="steps: must lie in"):
            paper.visited_times(steps, rule)
    with pytest.raises(ValueError, match="rule: expected one of"):
        paper.visited_times(4, "leading")


def test_clipping_bounds_every_prediction_and_keeps_the_noise_consistent():
    seen = []
    y = torch.zeros(1, 3, 8, 8)
    x_T = 3 * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    paper.implicit_chain(lambda y, x, t: 0.5 * x, y, x_T, ALPHA_BAR, NODES, clip=True,
                         callback=lambda i, x, x0: seen.append((x, x0)))  # fmt: skip
    assert all(x0.abs().max() <= 1 for _, x0 in seen)
    (x, x0), (following, _) = seen[:2]
    eps = diffusion.eps_from_x0(x, x0, ALPHA_BAR[999])
    torch.testing.assert_close(following, diffusion.add_noise(x0, eps, ALPHA_BAR[666]))


# ---------------------------------------------------------------- losses


def test_the_released_similarity_is_inert_and_the_corrected_one_is_not():
    """Gradient of .84 (1 - MS-SSIM) against that of .16 L1, on the released code's [-1, 1] tensors."""
    for name, right in table("msssim_table").items():
        l1 = right["grad_norm_l1term"]
        if int(name.removeprefix("S").split("_")[0]) > 64:
            continue
        assert right["grad_norm_ssimterm_maxval255"] < 0.02 * l1, name
    values, norms = golden("msssim_S64_noise0.1"), {}
    for kind, value_range, weight in (
        ("ms_ssim", 255.0, 1.0),
        ("ms_ssim", 2.0, 1.0),
        ("ssim", 2.0, 1.0),
        ("l1", 2.0, 0.0),
    ):
        a = values["pred"].clone().requires_grad_()
        loss = paper.fine_loss(a, values["target"], "ssim" if kind == "l1" else kind, value_range, weight)["loss"]
        norms[kind, value_range] = torch.autograd.grad(loss, a)[0].norm().item()
    released, corrected, single, l1 = norms.values()
    assert 0.84 * released < 0.005 * 0.16 * l1
    assert 0.84 * corrected > 0.16 * l1 and 0.84 * single > 0.16 * l1


def test_similarity_agrees_with_torchmetrics_away_from_the_border():
    """Our window reaches zeros beyond the border; theirs stays inside. Equal images around a small difference agree."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    generator = torch.Generator().manual_seed(1)
    a = torch.rand(1, 3, 48, 48, generator=generator)
    b = a.clone()
    b[..., 16:32, 16:32] = torch.rand(1, 3, 16, 16, generator=generator)
    theirs = structural_similarity_index_measure(b, a, data_range=1.0, gaussian_kernel=True, sigma=1.5)
    torch.testing.assert_close(paper.ssim(a, b, 1.0), theirs, rtol=2e-2, atol=0)
    assert paper.ssim(a, a).item() == pytest.approx(1)
    assert paper.ms_ssim(a, a).item() == pytest.approx(1)


def test_a_negative_contrast_gives_a_finite_gradient():
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(1, 3, 32, 32, generator=generator).requires_grad_()
    value = paper.ms_ssim(a, -a.detach())
    assert paper.ssim_terms(a, -a.detach(), 2.0)[1] < 0
    value.backward()
    assert 0 < value < 1e-3 and a.grad.isfinite().all()


def test_five_scales_need_sixteen_pixels():
    with pytest.raises(ValueError, match="sides of at least 16 pixels, got 8x32; use ssim"):
        paper.ms_ssim(torch.zeros(1, 3, 8, 32), torch.zeros(1, 3, 8, 32))


def test_wrong_images_and_kinds_are_refused():
    a = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"a: expected \(B, C, H, W\), got shape \(16, 16\)"):
        paper.ssim(a[0, 0], a[0, 0])
    with pytest.raises(ValueError, match="kind: expected one of ssim, ms_ssim, none, got 'l2'"):
        paper.fine_loss(a, a, "l2", 2.0, 0.84)


def test_weights_of_the_parts():
    a, b = batch()["clean"], batch()["degraded"]
    parts = paper.fine_loss(a, b, "ssim", 2.0, 0.84)
    torch.testing.assert_close(parts["loss"], 0.84 * (1 - paper.ssim(a, b, 2.0)) + 0.16 * (a - b).abs().mean())
    alone = paper.fine_loss(a, b, "none", 2.0, 0.84)
    assert alone["loss"] == alone["l1"] and "ssim" not in alone


# ---------------------------------------------------------------- stages


def test_times_come_in_pairs_of_mirror_images():
    times = paper.antithetic_times(4001, 1000, torch.Generator().manual_seed(0))
    assert torch.equal(times[0:4000:2] + times[1::2], torch.full((2000,), 999))
    assert times.min() == 0 and times.max() == 999
    assert abs(times[::2].float().mean() - 499.5) < 20  # 3 standard errors are 19


@pytest.mark.parametrize(("rows", "shards"), [(4, 2), (1, 6), (3, 3)])
def test_shards_have_the_times_of_the_whole_batch(rows, shards):
    generators = [diffusion.BatchGenerator(1, 0, rank=rank, world_size=shards) for rank in range(shards)]
    parts = [paper.antithetic_times(rows, 1000, generator) for generator in generators]
    assert torch.equal(torch.cat(parts), paper.antithetic_times(rows * shards, 1000, diffusion.BatchGenerator(1, 0)))


@pytest.mark.parametrize("stage", paper.config.STAGES)
def test_every_stage_trains_every_parameter(stage):
    model = method(stage=stage)
    losses = model.training_losses(batch(), diffusion.BatchGenerator(0, 1), 0)
    losses["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_the_coarse_loss_is_the_error_of_the_noise():
    model, data = method(), batch()
    generator = diffusion.BatchGenerator(0, 1)
    noise = diffusion.randn((2, 3, 16, 16), diffusion.BatchGenerator(0, 1))
    model.forward = lambda y, x_t, t: (
        (x_t - ALPHA_BAR[t.long()].sqrt().view(-1, 1, 1, 1) * (2 * data["clean"] - 1))
        / (1 - ALPHA_BAR[t.long()]).sqrt().view(-1, 1, 1, 1)
    )
    assert model.training_losses(data, generator, 0)["loss"] < 1e-5  # an oracle of the noise has no loss
    model.forward = lambda y, x_t, t: torch.zeros_like(x_t)
    found = model.training_losses(data, diffusion.BatchGenerator(0, 1), 0)["loss"]
    torch.testing.assert_close(found, noise.abs().mean())


def test_the_fine_loss_is_that_of_the_sample():
    model, data = method(stage="fine"), batch()
    x_T = diffusion.randn((2, 3, 16, 16), diffusion.BatchGenerator(0, 1))
    sample = paper.implicit_chain(model, 2 * data["degraded"] - 1, x_T, ALPHA_BAR, NODES)
    right = paper.fine_loss(sample, 2 * data["clean"] - 1, "ssim", 2.0, 0.84)
    found = model.training_losses(data, diffusion.BatchGenerator(0, 1), 0)
    for name, value in right.items():
        torch.testing.assert_close(found[name], value)


def test_the_regression_loss_is_the_error_of_one_call():
    model, data = method(stage="regression"), batch()
    x, y = (2 * data[name] - 1 for name in ("clean", "degraded"))
    right = (y + model.network(y, torch.zeros_like(y), torch.zeros(2)) - x).abs().mean()
    torch.testing.assert_close(model.training_losses(data, diffusion.BatchGenerator(0, 1), 0)["loss"], right)


def test_the_fine_loss_follows_every_setting():
    settings = {"stage": "fine", "step_rule": "released", "sampling_steps": 5, "ssim": "ms_ssim", "ssim_range": 7.0,
                "ssim_weight": 0.3, "T": 500, "beta_start": 1e-3, "beta_end": 0.03}  # fmt: skip
    model, data = method(**settings), batch()
    schedule = torch.cumprod(1 - torch.linspace(1e-3, 0.03, 500, dtype=torch.float64), 0)
    torch.testing.assert_close(paper.make_schedule(model.config), schedule)
    x_T = diffusion.randn((2, 3, 16, 16), diffusion.BatchGenerator(0, 1))
    sample = paper.implicit_chain(model, 2 * data["degraded"] - 1, x_T, schedule, [400, 300, 200, 100, 0])
    x = 2 * data["clean"] - 1
    right = 0.3 * (1 - paper.ms_ssim(sample, x, 7.0)) + 0.7 * (sample - x).abs().mean()
    torch.testing.assert_close(model.training_losses(data, diffusion.BatchGenerator(0, 1), 0)["loss"], right)


def test_the_fine_loss_is_computed_in_float32_under_autocast():
    a, b = batch()["clean"], batch()["degraded"]
    right = paper.fine_loss(a.bfloat16().float(), b, "ssim", 2.0, 0.84)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = paper.fine_loss(a.bfloat16(), b, "ssim", 2.0, 0.84)
    for name, value in right.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=0)


def test_sampling_without_gradients_computes_nothing_twice(monkeypatch):
    monkeypatch.setattr(paper.sampler, "checkpoint", lambda *a, **k: pytest.fail("checkpointed"))
    zero = torch.zeros(1, 3, 4, 4)
    with torch.no_grad():
        paper.implicit_chain(lambda y, x, t: x, zero, zero, ALPHA_BAR, NODES, checkpointing=True)


def test_the_released_settings_are_these_and_make_the_published_calls():
    assert paper.OFFICIAL == {"step_rule": "released", "sampling_steps": 3, "ssim": "ms_ssim", "ssim_range": 255.0}
    assert paper.visited_times(paper.OFFICIAL["sampling_steps"], paper.OFFICIAL["step_rule"]) == NODES


def saved_bytes(model, data):
    """Bytes that autograd keeps between forward and backward pass, parameters aside; and the gradients."""
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        if (storage := tensor.untyped_storage()).data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.training_losses(data, diffusion.BatchGenerator(0, 1), 0)["loss"]
    total = sum(kept.values())
    loss.backward()
    return total, [p.grad.clone() for p in model.parameters()]


def test_checkpointing_halves_the_memory_and_keeps_the_gradients():
    data = batch(1, 128)
    plain, gradients = saved_bytes(method(stage="fine", checkpointing=False), data)
    one_call, _ = saved_bytes(method(stage="coarse"), data)
    frugal, same = saved_bytes(method(stage="fine", checkpointing=True), data)
    assert frugal <= plain / 2
    assert frugal + one_call <= plain / 2  # while the backward pass holds one call again
    for a, b in zip(gradients, same, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_output_scale_multiplies_the_first_weights():
    torch.testing.assert_close(
        method(output_scale=0.5).network.output.weight, method(output_scale=1.0).network.output.weight / 2
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage": "middle"}, "stage: expected one of coarse, fine, regression"),
        ({"task": "dehaze"}, "task: expected one of"),
        ({"step_rule": "leading"}, "step_rule: expected one of"),
        ({"ssim": "l2"}, "ssim: expected one of"),
        ({"sampling_steps": 0}, "sampling_steps: must lie in 1..T = 1000, got 0"),
        ({"ssim_weight": 1.5}, "ssim_weight: must lie in"),
        ({"ssim_range": 0.0}, "ssim_range: must be positive"),
        ({"output_scale": float("inf")}, "output_scale: must be positive and finite"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "beta_start, beta_end"),
        ({"norm": "batch"}, "norm: expected one of"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        C2FDFTConfig(**settings)


# ---------------------------------------------------------------- restoring


@pytest.mark.parametrize("size", [(2, 3), (13, 21), (16, 24)])
def test_any_size_is_restored_whole(size):
    y = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    out = method().eval().restore(y, diffusion.BatchGenerator(0, 0))
    assert out.shape == y.shape and out.min() >= 0 and out.max() <= 1


def test_restoring_is_the_sampler_on_the_chosen_times():
    model, y, seen = method().eval(), batch()["degraded"], []
    found = model.restore(y, diffusion.BatchGenerator(4, 0), steps=3, callback=lambda i, x, x0: seen.append(i))
    x_T = diffusion.randn(y.shape, diffusion.BatchGenerator(4, 0))
    right = paper.implicit_chain(model, 2 * y - 1, x_T, ALPHA_BAR, [999, 500, 0])
    torch.testing.assert_close(found, ((right + 1) / 2).clamp(0, 1))
    assert seen == [0, 1, 2]
    four = model.restore(y, diffusion.BatchGenerator(4, 0), steps=3, step_rule="released")
    torch.testing.assert_close(four, model.restore(y, diffusion.BatchGenerator(4, 0)))
    assert (four - found).abs().max() > 1e-6


def test_samples_are_averaged_and_the_default_seed_is_fixed():
    model, y = method().eval(), batch()["degraded"]
    generator = diffusion.BatchGenerator(1, 0)
    x_Ts = [diffusion.randn(y.shape, generator) for _ in range(2)]
    outs = [paper.implicit_chain(model, 2 * y - 1, x, ALPHA_BAR, NODES) for x in x_Ts]
    right = ((sum(outs) / 2 + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(model.restore(y, diffusion.BatchGenerator(1, 0), samples=2), right)
    assert torch.equal(model.restore(y), model.restore(y))


def test_the_regression_control_is_deterministic_and_adds_to_the_input():
    model, y = method(stage="regression").eval(), batch()["degraded"]
    out = model.restore(y, diffusion.BatchGenerator(1, 0), steps=7)
    assert torch.equal(out, model.restore(y, diffusion.BatchGenerator(2, 0)))
    scaled = 2 * y - 1
    zero = torch.zeros_like(scaled)
    right = scaled + model.network(scaled, zero, torch.zeros(2))
    torch.testing.assert_close(out, ((right + 1) / 2).clamp(0, 1))


def test_restoring_can_clip_every_prediction():
    model, y = method(output_scale=1.0).eval(), batch()["degraded"]
    x_T = diffusion.randn(y.shape, diffusion.BatchGenerator(4, 0))
    found, plain = (model.restore(y, diffusion.BatchGenerator(4, 0), clip=clip) for clip in (True, False))
    right = paper.implicit_chain(model, 2 * y - 1, x_T, ALPHA_BAR, NODES, clip=True)
    torch.testing.assert_close(found, (right + 1) / 2)
    assert not torch.equal(found, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_the_images_is_kept(dtype):
    y = batch()["degraded"]
    out = method().eval().restore(y.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), method().eval().restore(y.to(dtype).float()), rtol=1e-2, atol=1e-2)
    wide = method().double().eval()
    assert wide.restore(y).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps: must lie in"),
        ({"steps": 1001}, "steps: must lie in"),
        ({"step_rule": "other"}, "rule: expected one of"),
        ({"samples": 0}, "samples: must be an integer and at least 1"),
        ({"samples": 1.5}, "samples: must be an integer and at least 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        method().restore(torch.zeros(1, 3, 8, 8), **options)


def test_the_time_can_be_added_after_the_projections():
    before, after = (
        paper.DFT(paper.DFTConfig(dim=8, blocks=(1,) * 4, heads=(1, 1, 2, 2), time_position=p))
        for p in ("before", "after")
    )
    after.load_state_dict(before.state_dict())
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    outputs = [net(x, x, torch.tensor([500.0])) for net in (before, after)]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-5
    block = paper.DiffusionTransformerBlock(8, 2, paper.DFTConfig(time_position="after", time_in="attention"))
    h, T = (
        torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1)),
        paper.time_embedding(torch.tensor([9.0]), 8),
    )
    a = block.attention
    q, k, v = (part + T for part in a.depthwise(a.qkv(block.norm1(h))).chunk(3, dim=1))
    heads = [part.reshape(1, 2, 4, 16) for part in (q, k, v)]
    cosine = torch.nn.functional.normalize(heads[0], dim=-1) @ torch.nn.functional.normalize(heads[1], dim=-1).mT
    h1 = h + a.project((cosine.softmax(-1) @ heads[2]).reshape(1, 8, 4, 4))
    torch.testing.assert_close(block(h, T), h1 + block.feed_forward(block.norm2(h1)), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- training


def test_the_recipe_trains_each_task_and_stage():
    recipe = recipes.METHODS["c2f_dft"]
    for task, fields in {"derain": {"rain": "light", "sigma": 0.0}, "deblur": {"blur": "linear", "sigma": 0.0},
                         "denoise": {"rain": "", "sigma": 25.0}}.items():  # fmt: skip
        net, data, run = recipes.plan(recipe, "reduced", {"task": task, "stage": "fine"})
        assert all(getattr(data, name) == value for name, value in fields.items())
        assert net.norm == ("bias_free" if task == "denoise" else "with_bias")
        assert recipes.plan(recipe, "reduced", {"task": task})[2].learning_rate > run.learning_rate
    assert recipes.plan(recipe, "reduced", {"stage": "fine", "steps": 7})[2].steps == 7  # what is asked for counts most
    assert recipes.plan(recipe, "reduced", {"task": "derain", "stage": "coarse"}) == recipes.plan(recipe, "reduced")


@pytest.mark.parametrize(
    ("task", "source", "images", "side", "norm", "steps"),
    [
        ("derain", "pairs:Rain13K/train", 13_711, 256, "with_bias", (270_000, 90_000)),
        ("deblur", "pairs:GoPro/train", 2103, 720, "with_bias", (330_000, 30_000)),
        ("denoise", "pairs:SIDD/train", 30_608, 512, "bias_free", (270_000, 90_000)),
    ],
)
def test_the_full_profile_of_each_task(task, source, images, side, norm, steps):
    recipe = recipes.METHODS["c2f_dft"]
    for stage, count in zip(("coarse", "fine"), steps, strict=True):
        net, data, run = recipes.plan(recipe, "full", {"task": task, "stage": stage})
        assert (data.source, data.images, data.image_size, data.augment) == (source, images, side, "flip")
        assert (net.norm, net.dim, run.steps, run.ema_decay, run.betas) == (norm, 48, count, 0.999, (0.9, 0.999))
        assert (run.weight_decay, run.warmup, run.precision) == (1e-4, 0, "no")
    coarse, control = (recipes.plan(recipe, "full", {"task": task, "stage": s}) for s in ("coarse", "regression"))
    assert coarse[1:] == control[1:]
    with pytest.raises(ValueError, match="batch_size: each size of crop has its own here; set patch_batches"):
        recipes.plan(recipe, "full", {"task": task, "batch_size": 8})
    smaller = recipes.plan(recipe, "full", {"task": task, "patch_batches": (8, 4, 2)})[2]
    assert [count for _, count in smaller.batches] == [8, 4, 2]


def test_a_dry_run_lists_all_trainings_with_their_own_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIRESTORE_DATASETS", str(tmp_path))
    lines, missing = recipes.dry_run("09", {"profile": "reduced", "steps": 50, "fine_steps": 7})
    trainings = [line for line in lines if line.startswith("training")]
    assert trainings == [f"training    1 x {n} steps of 16 crops of 48 px" for n in (50, 7) * 3]
    assert [line for line in lines if "at profile" in line] == [
        f"c2f_dft task={task} stage={stage} at profile reduced" for task in ("derain", "denoise", "deblur") for stage in
        ("coarse", "fine")
    ]  # fmt: skip
    assert not missing
    full, _ = recipes.dry_run("10", {"profile": "full", "steps": 50, "fine_steps": 7})
    assert "training    1 x 50 steps of 720 crops of 32 px, 192 crops of 64 px, 48 crops of 128 px in turn" in full
    kept = [float(line.split()[1]) for line in full if "activations" in line]
    assert 0.2 < kept[1] / kept[0] < 0.3  # a quarter of the pixels; the unrolled calls are repeated one by one


def test_a_repeated_forward_pass_counts_as_one_call_and_a_third_more_time(monkeypatch):
    recipe = recipes.METHODS["c2f_dft"]
    found = {}
    for checkpointing in (False, True):
        plan = recipes.plan(recipe, "reduced", {"stage": "fine", "checkpointing": checkpointing})
        found[checkpointing] = recipes.needs._needs(recipe, *plan)
    assert found[True].activation_bytes < 0.3 * found[False].activation_bytes
    assert found[True].flops_per_step == pytest.approx(4 / 3 * found[False].flops_per_step)


def test_the_fine_stage_starts_from_averaged_or_last_weights(tmp_path):
    settings = {"images": 4, "steps": 12, "batch_size": 2, "warmup": 1, "dim": 8, "heads": (1, 1, 2, 2)}
    coarse, _ = recipes.train("c2f_dft", "quick", settings, run_dir=tmp_path / "coarse", device="cpu")
    averaged = {k: v.half().float() for k, v in coarse.state_dict().items()}
    raw = training.last_weights(tmp_path / "coarse")
    assert any((raw[k] - v).abs().max() > 1e-4 for k, v in averaged.items())
    tiny = {**settings, "stage": "fine", "steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "ema_decay": 0.0}
    starts = {"ema": (tmp_path / "coarse" / "c2f_dft.safetensors", averaged), "raw": (tmp_path / "coarse", raw)}
    for name, (start, right) in starts.items():
        model, _ = recipes.train("c2f_dft", "quick", tiny, run_dir=tmp_path / name, device="cpu", start=start)
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, right[key], rtol=0, atol=1e-6)
        card = json.loads((tmp_path / name / "c2f_dft.json").read_text())
        assert card["start"].startswith("averaged weights" if name == "ema" else "last weights")
    with pytest.raises(ValueError, match="holds another run: start"):
        recipes.train("c2f_dft", "quick", tiny, run_dir=tmp_path / "raw", device="cpu", start=starts["ema"][0])
    for wrong, error, message in (
        ({"start": tmp_path}, FileNotFoundError, "name the folder of a training run"),
        ({"time_in": "none"}, ValueError, "has time_in = both, and none is asked for"),
        ({"heads": (1, 1, 1, 1)}, ValueError, "heads"),
        ({"start": "denoiser"}, ValueError, "holds 'denoiser', not 'c2f_dft'"),
    ):
        where = {"run_dir": tmp_path / "x", "device": "cpu", "start": wrong.get("start", starts["ema"][0])}
        with pytest.raises(error, match=message):
            recipes.train("c2f_dft", "quick", {**tiny, **{k: v for k, v in wrong.items() if k != "start"}}, **where)
    recipes.train("c2f_dft", "quick", settings, run_dir=tmp_path / "half", device="cpu", minutes=0)
    with pytest.raises(ValueError, match="holds 0 of 12 steps; finish that training first"):
        recipes.train("c2f_dft", "quick", tiny, run_dir=tmp_path / "y", device="cpu", start=tmp_path / "half")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_one_training_step_of_the_published_network(stage):
    net, _, run = recipes.plan(recipes.METHODS["c2f_dft"], "full", {"stage": stage})
    model = recipes.build(recipes.METHODS["c2f_dft"], net)
    assert sum(p.numel() for p in model.parameters()) == 25_363_344
    before = model.network.embed.weight.detach().clone()
    one = dataclasses.replace(run, steps=1, hold=0, patches=(), patch_batches=(), batch_size=1)
    result = training.fit(model, lambda count, generator: batch(count, 32), one, device="cpu")
    assert result.finished and np.isfinite(result.history["loss"]).all()
    assert (model.network.embed.weight - before).abs().max() > 0
