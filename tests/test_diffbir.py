"""DiffBIR, its parts: restoration module, control, guidance, sampler, colour fix; parity with the released code."""

import itertools
import json
import math
from pathlib import Path

import by_rule
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minirestore import diffusion, released
from minirestore.networks import count_parameters
from minirestore.papers import diffbir as paper
from minirestore.papers.diffbir import Guidance, RestorationConfig, guidance, method
from minirestore.prior import Autoencoder, AutoencoderConfig, LatentPrior, LatentPriorConfig

GOLDEN = Path(__file__).parent / "golden" / "diffbir"
SHAPES = json.loads((GOLDEN / "released_shapes.json").read_text())
TINY = RestorationConfig(width=24, depths=(2, 2), heads=2, window=4)


def load(file):
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / f"{file}.npz").items()}


SWINIR, CONTROL, SAMPLER = load("swinir"), load("lacontrolnet"), load("sampler_guidance")


def close(found, right, rtol=0.0, atol=2e-5):
    torch.testing.assert_close(found, right, rtol=rtol, atol=atol)


# ---------------------------------------------------------------- restoration module


@pytest.fixture
def swinir():
    """The network with the rule's weights."""
    network = paper.SwinIR(TINY).eval()
    by_rule.fill(network, SHAPES["restoration"], paper.restoration_from_released_name)
    return network


def test_the_restoration_module_is_the_released_one(swinir):
    x_a = by_rule.inputs("swinir.x_a", (2, 3, 128, 128), "unit")
    x_b = by_rule.inputs("swinir.x_b", (1, 3, 64, 96), "unit")
    with torch.no_grad():
        close(swinir(x_a)[..., ::3, ::3], SWINIR["y_a@s3"])
        close(swinir(x_b), SWINIR["y_b"])
        shallow = swinir.stem(F.pixel_unshuffle(x_b - swinir.mean, 8))
        close(swinir.deep_features(shallow), SWINIR["feat_b"], atol=5e-5)


def test_its_gradients_are_the_released_ones(swinir):
    x, target = (by_rule.inputs(f"swinir.{name}_b", (1, 3, 64, 96), "unit") for name in ("x", "target"))
    loss = (swinir(x) - target).square().sum()
    close(loss.detach(), SWINIR["loss_sum_b"], rtol=1e-5)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in swinir.named_parameters()}
    checked = 0
    for key, right in SWINIR.items():
        part, _, name = key.removeprefix("grad_b/").partition("/")
        if key.startswith("grad_b/"):
            found = gradients[paper.restoration_from_released_name(name)]
            found = found.norm() if part == "gradnorm" else found
            close(found, right, atol=1e-3 * right.abs().max().item())
            checked += 1
    assert checked == 7


def test_parameters_of_the_published_module():
    with torch.device("meta"):
        network = paper.SwinIR()
    parts = {name: count_parameters(module) for name, module in network.named_children()}
    assert count_parameters(network) == 15_792_587
    assert parts["stem"] == 311_220 and count_parameters(network.groups[0]) == 1_866_960
    assert count_parameters(network.groups[0].layers[0]) == 262_530
    assert count_parameters(paper.SwinIR(TINY)) == 240_427


def test_every_released_name_of_the_module_has_its_place():
    names = [name for name in SHAPES["restoration"] if name.rpartition(".")[2] not in released.WINDOW_BUFFERS]
    ours = {paper.restoration_from_released_name(name) for name in names}
    assert ours == set(paper.SwinIR(TINY).state_dict()) and len(ours) == len(names)
    with pytest.raises(ValueError, match="name: 'conv_lost.weight' is no parameter of the released network"):
        paper.restoration_from_released_name("conv_lost.weight")


def test_a_released_checkpoint_opens(swinir, tmp_path):
    ours = swinir.state_dict()
    weights = {
        name: torch.zeros(shape)
        if name.rpartition(".")[2] in released.WINDOW_BUFFERS
        else ours[paper.restoration_from_released_name(name)]
        for name, shape in SHAPES["restoration"].items()
    }
    torch.save({"state_dict": weights}, tmp_path / "general.ckpt")
    module = paper.load_official_restoration(tmp_path / "general.ckpt", TINY)
    x = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([x, x[..., :-1, :].flip(2)], 2)[..., :64, :]
    padded = torch.cat([padded, padded[..., :-1].flip(3)], 3)[..., :64]
    right = swinir(padded)[..., :40, :50].clamp(0, 1)
    close(module.restore(x), right.detach(), atol=1e-6)  # padded by mirror images, cut to size
    with pytest.raises(FileNotFoundError, match=r"general\.pt not found"):
        paper.load_official_restoration(tmp_path / "general.pt")
    with pytest.raises(ValueError, match="does not fit this module"):
        paper.load_official_restoration(tmp_path / "general.ckpt")


def test_a_residual_module_begins_as_the_identity():
    module = paper.RestorationModule(
        RestorationConfig(unshuffle=2, width=8, depths=(2,), heads=2, window=4, residual=True)
    )
    x = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module.restore(x), x)
    batch = {"clean": x[:1, :, :16, :16] * 0.5, "degraded": x[:1, :, :16, :16]}
    loss = module.training_losses(batch, diffusion.BatchGenerator(0, 0), 0)["loss"]
    close(loss.detach(), (0.5 * batch["degraded"]).square().mean(), atol=1e-7)


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    layer = paper.SwinTransformerLayer(RestorationConfig(width=8, heads=2, window=4), 0, 0.5)
    x = torch.ones(4000, 1, 1, 8)
    dropped = layer._drop(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0} and torch.equal(
        dropped.amin((1, 2, 3)), dropped.amax((1, 2, 3))
    )
    assert abs(dropped.mean().item() - 1) < 0.1
    assert layer.eval()._drop(x) is x
    drops = [
        layer.drop_path for group in paper.SwinIR(RestorationConfig(depths=(2, 3))).groups for layer in group.layers
    ]
    close(torch.tensor(drops), torch.linspace(0, 0.1, 5), atol=1e-7)


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="x: H and W must be multiples of 32, got 32x48"):
        paper.SwinIR(TINY)(torch.zeros(1, 3, 32, 48))


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"unshuffle": 6}, "unshuffle: expected a power of 2"), ({"width": 50}, "width: expected a multiple of 6 heads"),
     ({"depths": ()}, "depths: expected"), ({"window": 1}, "window >= 2"), ({"drop_path": 1.0}, "drop_path: a share")],
)  # fmt: skip
def test_impossible_modules_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        RestorationConfig(**setting)


# ---------------------------------------------------------------- control


def prior_of(unet, context):
    autoencoder = Autoencoder(AutoencoderConfig(widths=(8, 8, 8)))
    config = LatentPriorConfig(context_width=context.shape[-1], classes=0)
    return LatentPrior(config, autoencoder, unet, context).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def released_prior():
    """The golden U-Net in diffusers' classes with the golden context; and the weights by released name."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    weights = {name: by_rule.weight(name, tuple(s)) for part in ("unet", "control") for name, s in SHAPES[part].items()}
    unet = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=24, attention_head_dim=(2, 4),
        use_linear_projection=True,
    )  # fmt: skip
    unet.load_state_dict(convert_ldm_unet_checkpoint(dict(weights), unet.config))
    prior = prior_of(unet, by_rule.inputs("lacn.context", (2, 7, 24))[:1])
    prior.contexts = lambda kinds, count: by_rule.inputs("lacn.context", (2, 7, 24))
    return prior, weights


@pytest.fixture
def inputs():
    z_t, c = (by_rule.inputs(f"lacn.{name}", (2, 4, 16, 16)) for name in ("z_t", "c_latent"))
    return z_t, torch.tensor([999, 37]), c


def test_at_first_the_prior_is_as_it_was(released_prior, inputs):
    prior, _ = released_prior
    z_t, t, c = inputs
    with torch.no_grad():
        alone = prior.eps(z_t, t, prior.contexts(0, 2))
        close(alone, CONTROL["eps_nocontrol"])
        control = paper.new_control(prior)
        assert all(h.abs().max() == 0 for h in paper.controls(control, z_t, t, c, prior.contexts(0, 2)))
        assert torch.equal(paper.controlled_eps(prior, control, z_t, t, c), alone)
        image = torch.rand(2, 3, 64, 64)
        assert torch.equal(paper.controlled_eps(prior, paper.new_control(prior, "hint"), z_t, t, image), alone)
        fine = paper.controlled_eps(prior, paper.new_control(prior, "finetune"), z_t, t, c)
        close(fine, alone, atol=1e-6)


def test_the_control_is_the_released_one(released_prior, inputs, tmp_path):
    prior, weights = released_prior
    z_t, t, c = inputs
    torch.save({"state_dict": weights}, tmp_path / "full.ckpt")
    control = paper.load_official_control(tmp_path / "full.ckpt", prior)
    with torch.no_grad():
        added = paper.controls(control, z_t, t, c, prior.contexts(0, 2))
        assert [list(h.shape) for h in added] == CONTROL["control/shape"].tolist()
        close(torch.stack([h.norm() for h in added]), CONTROL["control/l2"], rtol=1e-5)
        close(added[-1], CONTROL["control/mid"], atol=5e-5)
        close(added[0][:1, :8], CONTROL["control/first"], atol=5e-5)
        only_middle = (0.0,) * 6 + (1.0,)
        for strength, name in (((1.0,), "eps"), ((0.5,), "eps_scale0.5"), (only_middle, "eps_only_mid")):
            close(paper.controlled_eps(prior, control, z_t, t, c, strength), CONTROL[name])
    loss = paper.controlled_eps(prior, control, z_t, t, c).square().mean()
    loss.backward()
    close(loss.detach(), CONTROL["grad/loss"], rtol=1e-5)
    named = dict(control.named_parameters())
    for theirs, ours in (("input_blocks.0.0", "conv_in"), ("zero_convs.0.0", "controlnet_down_blocks.0"),
                         ("middle_block_out.0", "controlnet_mid_block")):  # fmt: skip
        close(named[f"{ours}.weight"].grad.norm(), CONTROL[f"grad/gradnorm/{theirs}.weight"], rtol=1e-3)
    with pytest.raises(ValueError, match="strength: expected one number or 7, got 2"):
        paper.controlled_eps(prior, control, z_t, t, c, (1.0, 1.0))
    with pytest.raises(ValueError, match="strength: a fine-tuned prior has no controls"):
        paper.controlled_eps(prior, paper.new_control(prior, "finetune"), z_t, t, c, (0.5,))


def test_a_checkpoint_without_a_control_is_refused(released_prior, tmp_path):
    prior, weights = released_prior
    torch.save({name: value for name, value in weights.items() if "control" not in name}, tmp_path / "unet.ckpt")
    with pytest.raises(ValueError, match="holds no control_model"):
        paper.load_official_control(tmp_path / "unet.ckpt", prior)
    part = {name: value for name, value in weights.items() if "middle_block_out" not in name}
    torch.save(part, tmp_path / "part.ckpt")
    with pytest.raises(ValueError, match="does not fit this module"):
        paper.load_official_control(tmp_path / "part.ckpt", prior)


def test_what_the_copy_has_it_has_from_the_prior(released_prior):
    prior, _ = released_prior
    own = prior.network.state_dict()
    for condition in method.CONDITIONS:
        state = paper.new_control(prior, condition).state_dict()
        shared = [name for name in state if name in own and name != "conv_in.weight"]
        assert len(shared) > 50 and all(torch.equal(state[name], own[name]) for name in shared)
        first = state["conv_in.weight"]
        assert torch.equal(first[:, :4], own["conv_in.weight"])
        assert first.shape[1] == (4 if condition == "hint" else 8) and first[:, 4:].abs().sum() == 0
    with pytest.raises(ValueError, match="condition: expected one of latent, hint, finetune, got 'text'"):
        paper.new_control(prior, "text")


# ---------------------------------------------------------------- guidance, sampler, colour

A, W = SAMPLER["stub/A"].float(), SAMPLER["stub/w"].float()
ALPHA_BAR = diffusion.make_alpha_bar(diffusion.make_betas("scaled_linear", 1000, 0.00085, 0.012))


def encode(x):
    """The toy autoencoder of the golden values; x in [-1, 1]."""
    return 0.18215 * torch.einsum("ck,bkhw->bchw", A, F.avg_pool2d(x, 8))


def decode(z):
    return F.interpolate(torch.einsum("ck,bchw->bkhw", A, z / 0.18215), scale_factor=8, mode="nearest")


def toy_eps(z, t, c):
    wave = torch.cos(math.pi * t.float() / 1000).view(-1, 1, 1, 1)
    return 0.7 * z + 0.2 * torch.tanh(F.conv2d(z, W, padding=1)) + 0.15 * c * wave


@pytest.mark.parametrize("steps", [50, 10, 4])
def test_the_spaced_schedule_is_the_released_one(steps):
    times = diffusion.timesteps(1000, steps, "linspace")
    assert times[::-1] == SAMPLER[f"sched{steps}/timesteps"].tolist()
    levels = diffusion.sampling_levels(ALPHA_BAR, steps, "linspace")
    close(levels[:-1].flip(0), SAMPLER[f"sched{steps}/alphas_cumprod"], atol=1e-12)
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    variances = [diffusion.posterior(nothing, nothing, *pair)[1] for pair in itertools.pairwise(levels)]
    close(torch.stack(variances).flatten().flip(0), SAMPLER[f"sched{steps}/posterior_variance"], atol=1e-12)


@pytest.mark.parametrize("index", [49, 20, 3, 0])
@pytest.mark.parametrize("space", ["latent", "rgb"])
@pytest.mark.parametrize(("s", "repeats"), [(10, 1), (10, 5), (40, 5)])
def test_one_guided_step_is_the_released_one(index, space, s, repeats, monkeypatch):
    monkeypatch.setattr(guidance, "REPEATS", repeats)
    values = {name: SAMPLER[f"g/{index}/{name}"].float() for name in ("x0", "mean")}
    image = 2 * SAMPLER["g/cond_img"].float() - 1
    target, numbers = (encode(image), 4 * 8 * 8) if space == "latent" else (image, 3 * 64 * 64)
    dial = Guidance(paper.rho_of(s, numbers), space="latent" if space == "latent" else "image")
    move = dial.move(values["x0"], target, decode)
    for name, gain in (("x0", 1.0), ("mean", dial.gain)):
        right = SAMPLER[f"g/{index}/{space}_s{s}_r{repeats}/{name}"].float()
        close(values[name] + gain * move, right, atol=3e-6 * right.abs().max().item())


@pytest.mark.parametrize("name", ["plain10", "plain10_wavelet", "plain10_adain", "guided10", "guided10_t200"])
def test_the_loop_is_the_released_one(name, monkeypatch):
    values = {key: SAMPLER[f"loop/{name}/{key}"].float() for key in ("cond_img", "x_T", "noises", "out")}
    noises = iter(values["noises"])
    monkeypatch.setattr(diffusion, "randn", lambda *_: next(noises))
    c = encode(2 * values["cond_img"] - 1)
    dial = Guidance(paper.rho_of(20, 256), start=200 if name.endswith("t200") else 1001) if "guided" in name else None
    z = paper.spaced_ddpm(lambda z, t: toy_eps(z, t, c), values["x_T"], ALPHA_BAR, 10, dial, c)
    fix = name.partition("_")[2] if "plain10_" in name else "none"
    close(paper.fix_colour((decode(z) + 1) / 2, values["cond_img"], fix), values["out"], atol=1e-4)
    assert len(list(noises)) == 1  # the last step adds none


def test_the_delta_of_a_strong_scale():
    move = (1 - paper.rho_of(400, 256)) - 1
    close(move * (SAMPLER["grad/pred"] - SAMPLER["grad/target"]).float(), SAMPLER["grad/delta_s400"].float())


@given(rho=st.floats(0, 1.99), mode=st.sampled_from(guidance.MODES))
def test_guidance_is_its_closed_form(rho, mode):
    """Steps of the gradient one by one; in the image space of an autoencoder that is the identity they are the same."""
    x, target = torch.tensor([[[[1.0, -0.5]]]]), torch.tensor([[[[0.25, 0.5]]]])
    dial = Guidance(rho, mode)
    slow = x
    for _ in range(dial.repeats):
        slow = slow - rho * (slow - target)
    close(x + dial.move(x, target), slow, atol=1e-5)
    close(Guidance(rho, mode, "image").move(x, target, lambda z: z), dial.move(x, target), atol=1e-5)
    close(dial.gain * dial.move(x, target), dial.pull * (target - x), atol=1e-5)


def test_the_scale_depends_on_the_size_and_rho_does_not():
    assert paper.rho_of(400, 4 * 64 * 64) == paper.rho_of(25, 4 * 16 * 16) == paper.rho_of(6.25, 4 * 8 * 8)
    assert Guidance(paper.rho_of(400, 16384)).pull == pytest.approx(0.111, abs=5e-4)
    for rho, error in ((-0.1, True), (2.0, True), (float("nan"), True), (1.9, False)):
        if error:
            with pytest.raises(ValueError, match="guidance: rho"):
                Guidance(rho)
        else:
            assert abs(1 - Guidance(rho).rho) < 1  # every step comes nearer


def test_guidance_has_a_window():
    dial = Guidance(0.1, start=200, stop=20)
    assert [t for t in (0, 19, 20, 100, 198, 199, 999) if dial.active(t)] == [20, 100, 198]
    assert not Guidance().active(100) and all(Guidance(0.1).active(t) for t in (0, 999))


def test_the_colour_fixes_are_the_released_ones():
    content, style = SAMPLER["color/content"], SAMPLER["color/style"]
    for name in ("wavelet", "adain"):
        close(paper.fix_colour(content, style, name), SAMPLER[f"color/{name}"], atol=1e-6)
    for found, name in zip(paper.split_frequencies(content), ("high", "low"), strict=True):
        close(found, SAMPLER[f"color/{name}"], atol=1e-6)
    close(paper.low_pass(content, 4), SAMPLER["color/blur_r4"], atol=1e-6)
    assert paper.fix_colour(content, style, "none") is content
    close(paper.fix_colour(content, content + 0.1), content + 0.1, atol=1e-6)  # an offset is taken over
    with pytest.raises(ValueError, match="colour_fix: expected one of wavelet, adain, none, got 'hue'"):
        paper.fix_colour(content, style, "hue")


# ---------------------------------------------------------------- the method


def small_method(**settings):
    """A method of random weights; its control as if trained, on a prior of 16 pixels per side of the coarsest map."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(widths=(8, 8, 8)))
    prior = LatentPrior(LatentPriorConfig(widths=(8, 8), attention=(1,), head_channels=8, context_width=8), autoencoder)
    module = paper.RestorationModule(
        RestorationConfig(unshuffle=2, width=8, depths=(2,), heads=2, window=4, features=8)
    )
    config = paper.DiffBIRConfig(**{"minimum_side": 32, "sampling_steps": 3, **settings})
    made = paper.DiffBIR(config, prior.eval(), module.eval()).eval()
    for parameter in made.control.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return made


def photograph(H=40, W=52, seed=0):
    return torch.rand(1, 3, H, W, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("condition", method.CONDITIONS)
def test_any_photograph_comes_back_in_its_size(condition):
    made = small_method(condition=condition)
    assert made.multiple == 8
    for size in ((40, 52), (33, 71), (20, 30)):
        x = photograph(*size)
        y = made.restore(x, diffusion.BatchGenerator(3, 0))
        assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
        assert torch.equal(y, made.restore(x, diffusion.BatchGenerator(3, 0)))
        assert not torch.equal(y, made.restore(x, diffusion.BatchGenerator(4, 0)))
    assert made.restore(photograph().double()).dtype == torch.float64


def test_only_the_control_learns_and_only_it_is_kept():
    from minirestore import checkpoints

    made = small_method()
    batch = {"clean": photograph(32, 32), "degraded": photograph(32, 32, 1)}
    made.training_losses(batch, diffusion.BatchGenerator(0, 0), 0)["loss"].backward()
    assert all(parameter.grad is None for part in (made.prior, made.restoration) for parameter in part.parameters())
    assert all(parameter.grad is not None for parameter in made.control.parameters())
    assert {name.partition(".")[0] for name in checkpoints.own_tensors(made, made.state_dict())} == {"control"}


@pytest.mark.parametrize("cleaned", [True, False])
def test_the_control_learns_behind_the_module_or_without_it(cleaned, monkeypatch):
    made, seen = small_method(cleaned=cleaned), []
    own = made.condition
    monkeypatch.setattr(made, "condition", lambda image: seen.append(image) or own(image))
    batch = {"clean": photograph(32, 32), "degraded": photograph(32, 32, 1)}
    made.training_losses(batch, diffusion.BatchGenerator(0, 0), 0)
    (image,) = seen
    assert torch.equal(image, made.restoration.restore(batch["degraded"]) if cleaned else batch["degraded"])


def test_a_prepared_batch_trains_as_the_images_do():
    made = small_method()
    batch = {"clean": photograph(32, 32), "degraded": photograph(32, 32, 1)}
    whole = made.training_losses(batch, diffusion.BatchGenerator(3, 1), 0)["loss"]
    generator = diffusion.BatchGenerator(3, 1)
    prepared = made.prepare(batch, generator)
    assert {name: tuple(x.shape) for name, x in prepared.items()} == dict.fromkeys(("z0", "condition"), (1, 4, 8, 8))
    assert torch.equal(made.training_losses(prepared, generator, 0)["loss"], whole)


def test_frozen_parts_stay_as_they_are_used():
    made = small_method().train()
    assert made.control.training
    assert not any(module.training for part in (made.prior, made.restoration) for module in part.modules())


def test_at_the_first_step_only_the_zero_convolutions_learn():
    made = paper.DiffBIR(small_method().config, small_method().prior, small_method().restoration)
    batch = {"clean": photograph(32, 32), "degraded": photograph(32, 32, 1)}
    made.training_losses(batch, diffusion.BatchGenerator(0, 0), 0)["loss"].backward()
    moved = {name for name, parameter in made.control.named_parameters() if parameter.grad.abs().max() > 0}
    zero = {name for name, _ in made.control.named_parameters() if "controlnet_" in name}
    assert moved == zero and zero


def test_the_first_loss_is_that_of_the_prior():
    made = paper.DiffBIR(small_method().config, small_method().prior, small_method().restoration)
    batch, seed = (
        {"clean": photograph(32, 32), "degraded": photograph(32, 32, 1), "kind": torch.zeros(1).long()},
        (0, 0),
    )
    loss = made.training_losses(batch, diffusion.BatchGenerator(*seed), 0)["loss"]
    generator = diffusion.BatchGenerator(*seed)
    z0 = made.prior.encode(2 * batch["clean"] - 1, generator)
    noise = diffusion.randn(z0.shape, generator)
    t = diffusion.random_times(1, 1000, generator)
    eps = made.prior.eps(diffusion.add_noise(z0, noise, made.prior.alpha_bar[t]), t)
    close(loss.detach(), (eps - noise).square().mean().detach(), atol=1e-6)


def test_without_strength_the_condition_does_not_matter():
    made = small_method(colour_fix="none", start="noise")
    a, b = (made.restore(photograph(seed=seed), strength=(0.0,)) for seed in (0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(*(made.restore(photograph(seed=seed)) for seed in (0, 1)))
    uncleaned = small_method(colour_fix="none", cleaned=False)
    assert not torch.equal(uncleaned.restore(photograph()), made.restore(photograph()))


@pytest.mark.parametrize("space", guidance.SPACES)
def test_guidance_leads_to_the_restoration_module(space):
    made = small_method(colour_fix="none")
    x = photograph(32, 32)
    cleaned = made.restoration.restore(x)
    if space == "latent":
        aim = (made.prior.decode(made.prior.encode(2 * cleaned - 1)) + 1) / 2
        away = [(made.restore(x, guidance=rho, guidance_mode="paper") - aim.clamp(0, 1)).square().mean().item()
                for rho in (0.0, 0.3, 1.0)]  # fmt: skip
        assert away[0] > away[1] > away[2]
        assert away[2] < 1e-8  # the whole way, and the last step adds no noise
    else:
        seen = []

        def record(index, z, estimate):
            seen.append((made.prior.decode(estimate) - (2 * cleaned - 1)).square().sum())

        for rho in (0.0, 0.05):
            made.restore(x, guidance=rho, guidance_space=space, callback=record)
        assert seen[-1] < seen[2]
    by_s = made.restore(x, s=0.3 * 256 / 2)
    close(by_s, made.restore(x, guidance=0.3), atol=1e-6)
    with pytest.raises(ValueError, match="s, guidance: two names of one dial"):
        made.restore(x, s=1.0, guidance=0.1)


def test_the_sampler_starts_from_noise_or_from_the_cleaned_image_under_noise(monkeypatch):
    made, seen = small_method(start="noise"), {}
    own = method.spaced_ddpm

    def spy(predict, z_T, *rest):
        return own(predict, seen.setdefault("z_T", z_T), *rest)

    monkeypatch.setattr(method, "spaced_ddpm", spy)
    starts = {}
    for start in ("", *method.STARTS):
        seen.clear()
        made.restore(photograph(64, 64), start=start)
        starts[start] = seen["z_T"]
    assert torch.equal(starts["noise"], starts[""])  # that of the config
    latents = made.condition(made.restoration.restore(photograph(64, 64)))
    close(starts["cleaned"], diffusion.add_noise(latents, starts["noise"], made.prior.alpha_bar[-1]), atol=1e-6)


def test_a_drawn_target_is_drawn_for_every_repeat():
    x, targets = torch.zeros(1, 1, 1, 1), iter([torch.full((1, 1, 1, 1), v) for v in (1.0, 2.0, 4.0, 8.0, 16.0)])
    found = Guidance(0.5).move(x, lambda: next(targets))
    close(found, torch.full_like(x, 0.5 * (16 + 4 + 1 + 0.25 + 0.0625)), atol=1e-6)
    made, drawn = small_method(colour_fix="none"), small_method(colour_fix="none", guidance_target="sample")
    x = photograph(32, 32)
    seeds = [diffusion.BatchGenerator(0, 0) for _ in range(4)]
    assert torch.equal(made.restore(x, seeds[0]), drawn.restore(x, seeds[1]))  # nothing is drawn without guidance
    assert not torch.equal(made.restore(x, seeds[2], guidance=0.3), drawn.restore(x, seeds[3], guidance=0.3))


def test_the_released_padding_is_black_and_seen():
    x, seen = photograph(20, 40), []
    made = small_method(padding="zero", minimum_side=8)
    own = made.restoration.restore
    made.restoration.restore = lambda y: seen.append(y) or own(y)
    y = made.restore(x)
    assert y.shape == x.shape and seen[0].shape[-2:] == (24, 40)
    assert torch.equal(seen[0][..., :20, :], x) and seen[0][..., 20:, :].abs().max() == 0
    assert not torch.equal(y, small_method(minimum_side=8).restore(x))


def test_tiles_bound_what_any_stage_sees(monkeypatch):
    made = small_method()
    seen = {"module": [], "encode": [], "decode": [], "eps": []}
    real = {
        "module": made.restoration.restore,
        "encode": made.prior.encode,
        "decode": made.prior.decode,
        "eps": made.eps,
    }

    def watched(name, factor):
        def call(x, *arguments):
            seen[name].append(factor * max(x.shape[-2:]))
            return real[name](x, *arguments)

        return call

    monkeypatch.setattr(made.restoration, "restore", watched("module", 1))
    monkeypatch.setattr(made.prior, "encode", watched("encode", 1))
    monkeypatch.setattr(made.prior, "decode", watched("decode", 4))
    monkeypatch.setattr(made, "eps", watched("eps", 4))
    y = made.restore(photograph(80, 100), tile=32, guidance=0.1)
    assert y.shape == (1, 3, 80, 100)
    assert {name: max(sides) for name, sides in seen.items()} == dict.fromkeys(seen, 32)
    for name in seen:
        monkeypatch.setattr(*{"module": (made.restoration, "restore"), "encode": (made.prior, "encode"),
                              "decode": (made.prior, "decode"), "eps": (made, "eps")}[name], real[name])  # fmt: skip
    x = photograph(32, 32)
    close(made.restore(x, tile=32), made.restore(x), atol=1e-5)
    with pytest.raises(ValueError, match="tile: must be a multiple of 16, got 40"):
        made.restore(x, tile=40)


def test_tiles_of_the_command_line_are_the_methods_own():
    from minirestore import recipes

    made, x, seen = small_method(), photograph(80, 100), []
    y = recipes.restore(made, x, seed=3, tile=32, on_tile=lambda *step: seen.append(step), guidance=0.1)
    assert torch.equal(y, made.restore(x, diffusion.BatchGenerator(3, 0), tile=32, guidance=0.1))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_released_tiles_average_where_they_overlap(monkeypatch):
    """The golden loop: windows of 8 latents every 4, their predictions averaged; ours are blended."""
    values = {key: SAMPLER[f"loop/tiled6/{key}"].float() for key in ("cond_img", "x_T", "noises", "out")}
    noises = iter(values["noises"])
    monkeypatch.setattr(diffusion, "randn", lambda *_: next(noises))
    monkeypatch.setattr("minirestore.images._tile_window", lambda h, w, overlap, like: like.new_ones(h, w))
    from minirestore import images

    both = lambda z, t, c: images.apply_tiled(lambda p: toy_eps(p[:, :4], t, p[:, 4:]), torch.cat([z, c], 1), 8, 4)  # noqa: E731
    c = encode(2 * values["cond_img"] - 1)
    z = paper.spaced_ddpm(lambda z, t: both(z, t, c), values["x_T"], ALPHA_BAR, 6)
    close((decode(z) + 1) / 2, values["out"], atol=1e-4)


@pytest.mark.parametrize(
    ("size", "enlarged", "padded"),
    [((80, 100), (512, 640), (512, 640)), ((200, 300), (512, 768), (512, 768)), ((513, 700), (513, 700), (576, 704)),
     ((400, 600), (512, 768), (512, 768))],
)  # fmt: skip
def test_the_table_of_sizes(size, enlarged, padded):
    from minirestore import images

    x = paper.enlarge(torch.full((1, 3, *size), 0.3), 512)
    assert x.shape[-2:] == enlarged and images.pad_to_multiple(x, 64).shape[-2:] == padded
    back = paper.shrink(x, size)
    assert back.shape[-2:] == size
    close(back, torch.full((1, 3, *size), 0.3), atol=1e-5)
    assert paper.shrink(x, enlarged) is x


def test_parameters_of_the_published_method():
    with torch.device("meta"):
        made = paper.DiffBIR(paper.DiffBIRConfig(**paper.PUBLISHED))
    assert count_parameters(made.control) == 363_153_280
    assert count_parameters(made.prior.network) == 865_910_724
    assert count_parameters(made.restoration) == 15_792_587


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"condition": "text"}, "condition: expected"), ({"colour_fix": "hue"}, "colour_fix: expected"),
     ({"padding": "wrap"}, "padding: expected"), ({"guidance_target": "median"}, "guidance_target: expected"),
     ({"start": "middle"}, "start: expected"),
     ({"minimum_side": 0}, "minimum_side, sampling_steps: must be at least 1")],
)  # fmt: skip
def test_impossible_methods_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        paper.DiffBIRConfig(**setting)


def test_impossible_options_are_refused():
    made = small_method()
    refused = {
        "strength: must not be negative": {"strength": (1.0, -1.0)},
        "guidance: rho": {"guidance": 2.0},
        "colour_fix: expected": {"colour_fix": "hue"},
        "guidance_mode: expected": {"guidance_mode": "loud"},
        "start: expected": {"start": "middle"},
    }
    for message, option in refused.items():
        with pytest.raises(ValueError, match=message):
            made.restore(photograph(), **option)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        made.restore(photograph(), restoration="nowhere")
