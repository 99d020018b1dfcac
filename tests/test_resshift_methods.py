"""ResShift, SinSR and SinSR with the error map as methods: losses, restoring, frozen parts, training by recipe."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from minirestore import checkpoints, degradations, diffusion, metrics, photos, recipes
from minirestore.papers import hf_error_map, resshift
from minirestore.papers.hf_error_map import HFErrorMap, HFErrorMapMethodConfig
from minirestore.papers.resshift import ResShift, ResShiftConfig
from minirestore.prior import Autoencoder, AutoencoderConfig

SMALL = {"T": 4, "min_noise_level": 0.2, "width": 32, "multipliers": (1, 2), "blocks": (1, 1), "latent_size": 16,
         "attention_sizes": (16, 8), "swin_width": 32, "head_channels": 16, "window": 4, "mlp_ratio": 2.0}  # fmt: skip


def autoencoder():
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(kind="vq", widths=(8, 8, 16), channels=3)).eval()
    model.deviation.fill_(0.5)
    return model


def awake(network):
    """Residual blocks start with a zero convolution; here they do something."""
    torch.manual_seed(3)
    for p in network.parameters():
        if not p.any():
            p.data.normal_(std=0.05)
    return network


def teacher(**settings):
    torch.manual_seed(1)
    model = ResShift(ResShiftConfig(**{**SMALL, **settings}), autoencoder()).eval()
    awake(model.network)
    return model


def student(kind=ResShift, config=ResShiftConfig, **settings):
    torch.manual_seed(2)
    model = kind(config(**SMALL, **{"stage": "student", **settings}), autoencoder(), teacher().network).eval()
    awake(model.network)
    return model


def mapped(**settings):
    return student(HFErrorMap, HFErrorMapMethodConfig, backbone="course", **settings)


def batch(count=2, side=64):
    generator = torch.Generator().manual_seed(5)
    clean = torch.rand(count, 3, side // 8, side // 8, generator=generator)
    clean = F.interpolate(clean, scale_factor=8, mode="bilinear")
    return {"clean": clean, "degraded": F.avg_pool2d(clean, 4)}


def latents(model, data):
    lq = 2 * data["degraded"] - 1
    large = F.interpolate(lq, scale_factor=4, mode="bicubic")
    return model.autoencoder.encode(2 * data["clean"] - 1), model.autoencoder.encode(large), lq


# ---------------------------------------------------------------- losses


def test_the_teachers_loss_is_the_squared_error_of_x0_at_a_random_step():
    model, data = teacher(), batch()
    x0, y, lq = latents(model, data)
    schedule, source = resshift.make_schedule(model.config), diffusion.BatchGenerator(7, 1)
    noise = diffusion.randn(x0.shape, source)
    t = (diffusion.rand((2,), source) * 4).long()
    x_t = schedule.q_sample(x0, y, t, noise)
    right = (model.network(schedule.scale_input(x_t, t), t.float(), lq) - x0).square().mean()
    found = model.training_losses(data, diffusion.BatchGenerator(7, 1), 0)["loss"]
    torch.testing.assert_close(found, right)
    found.backward()
    assert all(p.grad is None for p in model.autoencoder.parameters())
    assert all(p.grad is not None for p in model.network.parameters())


def test_a_network_may_predict_the_residual():
    model, data = teacher(prediction="residual"), batch()
    x0, y, lq = latents(model, data)
    schedule, source = resshift.make_schedule(model.config), diffusion.BatchGenerator(7, 1)
    noise = diffusion.randn(x0.shape, source)
    t = diffusion.random_times(2, 4, source)
    x_t = schedule.q_sample(x0, y, t, noise)
    output = model.network(schedule.scale_input(x_t, t), t.float(), lq)
    found = model.training_losses(data, diffusion.BatchGenerator(7, 1), 0)["loss"]
    torch.testing.assert_close(found, (output - (y - x0)).square().mean())
    for parameter in model.network.output.parameters():
        torch.nn.init.zeros_(parameter)
    enlarged = model.autoencoder.decode(y)  # no residual: the enlarged image itself
    found = model.restore(data["degraded"], diffusion.BatchGenerator(3, 0), deterministic=True)
    torch.testing.assert_close(found, ((enlarged + 1) / 2).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_the_codebook_may_be_left_out():
    rounded, plain = teacher(), teacher(quantise=False)
    z = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rounded.decode(z), rounded.autoencoder.decode(z))
    torch.testing.assert_close(plain.decode(z), plain.autoencoder.decode(z, quantise=False))
    assert not torch.allclose(rounded.decode(z), plain.decode(z))
    lq = batch()["degraded"]
    a, b = (model.restore(lq, diffusion.BatchGenerator(3, 0)) for model in (rounded, plain))
    assert (a - b).abs().max() > 1e-3


def test_every_step_is_trained():
    model = teacher()
    seen = []
    model.predict = lambda lq, y: lambda x, times: seen.extend(times.tolist()) or x
    for step in range(20):
        model.training_losses(batch(4, 32), diffusion.BatchGenerator(0, step), step)
    assert set(seen) == {0, 1, 2, 3}


def test_the_students_losses_are_those_of_sinsr():
    model, data = student(inverse_weight=0.5, gt_weight=2.0), batch()
    x0, y, lq = latents(model, data)
    schedule = resshift.make_schedule(model.config)
    x_T = schedule.prior_sample(y, diffusion.randn(y.shape, diffusion.BatchGenerator(7, 1)))
    x = x_T
    for t in (3, 2, 1, 0):  # the teacher's deterministic chain, written out
        hat = model.teacher(schedule.scale_input(x, t), torch.full((2,), float(t)), lq)
        x = schedule.deterministic_step(hat, x, y, t)

    def f(z, time):
        return model.network(schedule.scale_input(z, 3), torch.full((2,), float(time)), lq)

    distill = (f(x_T, 3) - x).square().mean()
    inverse = (f(x, 0) - x_T).square().mean()
    behind = f(x0, 0).detach()
    gt = (f(behind, 3) - x0).square().mean()
    found = model.training_losses(data, diffusion.BatchGenerator(7, 1), 0)
    for name, value in {"distill": distill, "inverse": inverse, "gt": gt}.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(found["loss"], distill + 0.5 * inverse + 2 * gt)
    grads = torch.autograd.grad(found["loss"], list(model.network.parameters()))
    right = torch.autograd.grad(distill + 0.5 * inverse + 2 * gt, list(model.network.parameters()))
    for a, b in zip(grads, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    bare = student(inverse_weight=0.0, gt_weight=0.0).training_losses(data, diffusion.BatchGenerator(7, 1), 0)
    assert set(bare) == {"loss", "distill"}


def test_a_student_that_is_its_one_step_teacher_has_nothing_to_learn():
    model = student(inverse_weight=0.0, gt_weight=0.0)
    one_step = ResShiftConfig(**{**SMALL, "T": 2, "stage": "student"})
    model.config = dataclasses.replace(one_step, inverse_weight=0.0, gt_weight=0.0)
    answer = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model.predict = lambda lq, y, network=None: lambda x, times: answer
    assert model.training_losses(batch(), diffusion.BatchGenerator(0, 0), 0)["distill"] == 0


def test_the_map_is_added_to_the_three_losses():
    model, data = mapped(hf_weight=0.7), batch()
    plain, restored = model.student_losses(data, diffusion.BatchGenerator(7, 1))
    image = model.autoencoder.decode(restored)
    parts = hf_error_map.hf_error_map_loss(image, 2 * data["clean"] - 1, model.config, model.perceptual)
    found = model.training_losses(data, diffusion.BatchGenerator(7, 1), 0)
    torch.testing.assert_close(found["hf"], parts["loss"])
    torch.testing.assert_close(found["loss"], plain["loss"] + 0.7 * parts["loss"])
    for name in ("distance_1", "map_mean_0.5"):
        torch.testing.assert_close(found[name], parts[name])
    replaced = mapped(hf_weight=0.7, objective="replace_gt").training_losses(data, diffusion.BatchGenerator(7, 1), 0)
    torch.testing.assert_close(replaced["loss"], plain["distill"] + plain["inverse"] + 0.7 * parts["loss"])
    only = mapped(hf_weight=0.7, objective="only").training_losses(data, diffusion.BatchGenerator(7, 1), 0)
    torch.testing.assert_close(only["loss"], 0.7 * parts["loss"])
    off = mapped(hf_weight=0.0).training_losses(data, diffusion.BatchGenerator(7, 1), 0)
    assert set(off) == {"loss", "distill", "inverse", "gt"}
    torch.testing.assert_close(off["loss"], plain["loss"])


def test_the_map_trains_the_network_through_the_codebook():
    model = mapped(objective="only")
    loss = model.training_losses(batch(), diffusion.BatchGenerator(7, 1), 0)["loss"]
    loss.backward()
    assert sum(p.grad.abs().sum() for p in model.network.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in (*model.autoencoder.parameters(), *model.teacher.parameters()))


# ---------------------------------------------------------------- restoring


def test_the_teacher_draws_from_the_posterior_or_goes_the_deterministic_way():
    model, lq = teacher(), batch()["degraded"]
    _, y, scaled = latents(model, batch())
    schedule = resshift.make_schedule(model.config)
    for deterministic in (False, True):
        source = diffusion.BatchGenerator(3, 0)
        x_T = schedule.prior_sample(y, diffusion.randn(y.shape, source))
        if deterministic:
            z = resshift.deterministic_chain(schedule, model.predict(scaled, y), y, x_T)
        else:
            z = resshift.stochastic_chain(schedule, model.predict(scaled, y), x_T, source)
        with torch.no_grad():
            right = ((model.autoencoder.decode(z) + 1) / 2).clamp(0, 1)
        found = model.restore(lq, diffusion.BatchGenerator(3, 0), deterministic=deterministic)
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_the_student_makes_one_call_from_the_last_step():
    model, lq, seen = student(), batch()["degraded"], []
    own = model.predict
    model.predict = lambda lq, y: lambda x, times: seen.append(times.tolist()) or own(lq, y)(x, times)
    _, y, scaled = latents(model, batch())
    schedule = resshift.make_schedule(model.config)
    x_T = schedule.prior_sample(y, diffusion.randn(y.shape, diffusion.BatchGenerator(3, 0)))
    with torch.no_grad():
        z = model.network(schedule.scale_input(x_T, 3), torch.tensor([3.0, 3.0]), scaled)
        right = ((model.autoencoder.decode(z) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(model.restore(lq, diffusion.BatchGenerator(3, 0)), right, rtol=1e-4, atol=1e-4)
    assert seen == [[3.0, 3.0]]


@pytest.mark.parametrize("size", [(5, 9), (16, 24), (13, 30)])
@pytest.mark.parametrize("make", [teacher, student, mapped])
def test_any_size_is_restored_four_times_as_large(make, size):
    lq = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    out = make().restore(lq, diffusion.BatchGenerator(0, 0))
    assert out.shape == (1, 3, 4 * size[0], 4 * size[1]) and out.min() >= 0 and out.max() <= 1
    assert make().scale == 4


def test_fewer_steps_and_wrong_ones():
    model, lq, seen = teacher(), batch(1, 32)["degraded"], []
    model.restore(lq, steps=2, callback=lambda t, x, x0: seen.append(t))
    assert seen == [1, 0]
    with pytest.raises(ValueError, match="steps: must lie in"):
        model.restore(lq, steps=5)
    with pytest.raises(ValueError, match="spacing: expected one of"):
        model.restore(lq, spacing="leading")


# ---------------------------------------------------------------- configuration and training


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (ResShiftConfig, {"stage": "third"}, "stage: expected one of teacher, student"),
        (ResShiftConfig, {"scale": 0}, "scale: must be at least 1"),
        (ResShiftConfig, {"gt_weight": -1.0}, "not negative"),
        (ResShiftConfig, {"T": 1}, "T: must be at least 2"),
        (ResShiftConfig, {"width": 33}, "width: must be a multiple of 32"),
        (HFErrorMapMethodConfig, {"stage": "teacher"}, "the map trains the student"),
        (HFErrorMapMethodConfig, {"objective": "sum"}, "objective: expected one of add, replace_gt, only"),
        (HFErrorMapMethodConfig, {"hf_weight": -1.0}, "hf_weight: must not be negative"),
        (HFErrorMapMethodConfig, {"merge": "median"}, "merge: expected one of"),
    ],
)
def test_wrong_settings_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The whole family, each with what it needs: autoencoder, teacher, student, student with the map."""
    folder = tmp_path_factory.mktemp("family")
    tiny = {"images": 12, "image_size": 64, "crop": 64, "batch_size": 2, "steps": 2, "warmup": 1}
    recipes.train("vq", "quick", {**tiny, "widths": (8, 8, 16), "crop": 32}, run_dir=folder / "vq", device="cpu")
    shared = {**tiny, "autoencoder": str(folder / "vq" / "vq"), "window": 4}
    options = {"device": "cpu"}
    recipes.train("resshift", "quick", shared, run_dir=folder / "teacher", **options)
    first = folder / "teacher" / "resshift.safetensors"
    shared = {**shared, "teacher": str(first)}
    recipes.train(
        "resshift", "quick", {**shared, "stage": "student"}, run_dir=folder / "student", start=first, **options
    )
    start = folder / "student" / "resshift.safetensors"
    recipes.train("hf_error_map", "quick", {**shared, "steps": 1}, run_dir=folder / "map", start=start, **options)
    return folder, shared


def test_the_family_trains_by_recipe_and_loads(trained):
    folder, _ = trained
    lq = batch(1)["degraded"]
    for name, run in (("resshift", "teacher"), ("resshift", "student"), ("hf_error_map", "map")):
        path = folder / run / f"{name}.safetensors"
        tensors, card = checkpoints.load(path)
        assert all(key.startswith("network.") for key in tensors), run
        assert card["data"]["low_resolution"] == "bicubic"
        model = recipes.load_method(name, path, "cpu")
        assert recipes.restore(model, lq, seed=1).shape == (1, 3, 64, 64)
    assert {"hf (mean of last tenth)", "distill (mean of last tenth)"} <= set(card["metrics"])


@pytest.mark.parametrize("name", ["resshift", "resshift_student", "hf_error_map"])
def test_the_shipped_models_are_nearer_to_the_photographs_than_bicubic(name):
    x = torch.cat([photos.crops(photograph)[::2] for photograph in photos.EVALUATION])
    lq = degradations.low_resolution(x, 0, "bicubic")
    model = recipes.load_method("hf_error_map" if name == "hf_error_map" else "resshift", name, "cpu")
    bicubic = F.interpolate(lq, scale_factor=4, mode="bicubic").clamp(0, 1)
    found, baseline = (metrics.haarpsi(y, x).mean() for y in (recipes.restore(model, lq, seed=0), bicubic))
    assert found > baseline + 0.003


def test_the_published_models_predict_x0_and_round():
    for name in ("resshift", "hf_error_map"):
        published = recipes.plan(recipes.MODELS[name], "full")[0]
        assert (published.prediction, published.quantise, published.T) == ("x0", True, 15)


def test_a_teacher_of_another_schedule_is_refused(trained):
    _, shared = trained
    config = recipes.plan(recipes.MODELS["resshift"], "quick", {**shared, "stage": "student", "kappa": 1.0})[0]
    with pytest.raises(ValueError, match="differ in kappa, 2.0 and 1.0; use the teacher's"):
        resshift.load_teacher(config)
    with pytest.raises(ValueError, match="holds 'denoiser', not 'resshift'"):
        resshift.load_teacher(dataclasses.replace(config, teacher="denoiser"))


def test_low_resolution_batches_are_the_pools_images_a_quarter_as_large():
    data = recipes.DataConfig(images=3, image_size=64, crop=32, sigma=0.0, low_resolution="light")
    drawn = recipes.make_data(data)(40, torch.Generator().manual_seed(0))
    assert drawn["degraded"].shape == (40, 3, 8, 8)
    shrunk = F.avg_pool2d(drawn["clean"], 4)
    near = (shrunk - drawn["degraded"]).abs().mean((1, 2, 3))
    far = (shrunk - drawn["degraded"].roll(1, 0)).abs().mean((1, 2, 3))
    turned = (shrunk - drawn["degraded"].transpose(2, 3)).abs().mean((1, 2, 3))
    assert near.mean() < 0.5 * far.mean() and near.mean() < 0.7 * turned.mean()
    with pytest.raises(ValueError, match="multiples of 4"):
        recipes.DataConfig(crop=30, sigma=0.0, low_resolution="light")
    with pytest.raises(ValueError, match="low_resolution: expected a domain among bicubic, light, resshift"):
        recipes.DataConfig(sigma=0.0, low_resolution="x8")
    with pytest.raises(ValueError, match="brings all degradation"):
        recipes.DataConfig(low_resolution="light")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resshift", "hf_error_map"])
def test_the_published_network_has_the_published_size(name):
    network = recipes.plan(recipes.MODELS[name], "full")[0]
    with torch.device("meta"):
        vq = Autoencoder(recipes.plan(recipes.MODELS["vq"], "full")[0])
        parts = {"teacher": resshift.SwinUNet(network)} if name == "hf_error_map" else {}
        model = recipes.MODELS[name].module(network, vq, **parts)
    assert sum(p.numel() for p in model.network.parameters()) == 118_593_583
    assert sum(p.numel() for p in model.autoencoder.parameters()) == 55_322_782
