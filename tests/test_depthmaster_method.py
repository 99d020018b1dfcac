"""DepthMaster, the method: schedule, latents, rivals, teachers, both stages, prediction, data and costs."""

import copy
import itertools
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import by_rule
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from minirestore import checkpoints, datasets, diffusion, recipes, scenes
from minirestore.features import load_encoder
from minirestore.networks import count_parameters
from minirestore.papers import depthmaster as paper
from minirestore.papers.depthmaster import DepthMasterConfig, costs, denoising, losses, method, targets, teachers
from minirestore.prior import PRIORS, Autoencoder, AutoencoderConfig, LatentPrior, LatentPriorConfig
from minirestore.recipes import DataConfig
from minirestore.recipes import data as recipes_data
from minirestore.training import TrainingConfig, last_weights

GOLDEN = Path(__file__).parent / "golden" / "depthmaster"
SD2 = (1000, 0.00085, 0.012)


def load(file):
    return {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / f"{file}.npz").items()}


RATES, SCHEDULE, VAE = (load(file) for file in ("lr_schedule", "marigold_schedule", "depthmaster_vae"))


def close(found, right, rtol=0.0, atol=1e-5):
    torch.testing.assert_close(found, right, rtol=rtol, atol=atol)


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def photograph(H=64, W=64, count=1, seed=0):
    """Smooth random pictures in [0, 1]."""
    coarse = torch.rand(count, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (H, W), mode="bilinear", align_corners=True)


def batch(count=2, side=64, seed=0):
    """Pictures with depth from 1 to 20 m and a hole of 9 x 14 pixels, across the borders of latents."""
    generator = torch.Generator().manual_seed(100 + seed)
    coarse = 1 + 19 * torch.rand(count, 1, 4, 5, generator=generator)
    depth = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)
    valid = torch.ones(count, 1, side, side, dtype=torch.bool)
    valid[..., 9:18, 21:35] = False
    return {"clean": photograph(side, side, count, seed), "depth": depth, "valid": valid}


class Teacher(nn.Module):
    """A frozen stand-in: a convolution of 16 x 16 pixels."""

    def __init__(self, width=12):
        super().__init__()
        self.width = width
        self.patches = nn.Conv2d(3, width, 16, stride=16)
        self.requires_grad_(False)

    def forward(self, image):
        return self.patches(image)


def small_prior(tokens=1):
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(widths=(8, 8, 8)))
    config = LatentPriorConfig(widths=(8, 16, 24), attention=(2,), head_channels=8, context_width=8, classes=0)
    context = 0.1 * torch.randn(1, tokens, 8)
    return LatentPrior(config, autoencoder, context=context).eval()


def small_method(prior=None, **settings):
    """A method of random weights, the same for the same settings."""
    prior = small_prior() if prior is None else prior
    torch.manual_seed(1)
    config = DepthMasterConfig(**{"longer_side": 0, **settings})
    return paper.DepthMaster(config, prior, Teacher() if config.aligns else None).eval()


def latents(made, image):
    return made.autoencoder.encode(2 * image - 1).detach()


def seeded(seed=3):
    return diffusion.BatchGenerator(seed, 0)


# ---------------------------------------------------------------- the schedule of the learning rate

PEAK = 3e-5
PUBLISHED_RATES = {"learning_rate": PEAK, "final_learning_rate": PEAK / 100, "decay": "exponential", "warmup": 100,
                   "decay_until": 25_000}  # fmt: skip


def test_the_learning_rate_is_the_released_one():
    run = TrainingConfig(steps=20_000, **PUBLISHED_RATES)
    found = torch.tensor([run.learning_rate_at(step) for step in RATES["iters"].tolist()], dtype=torch.float64)
    close(found / PEAK, RATES["alpha"], rtol=1e-10, atol=0.0)
    assert found[0] == 0 and RATES["iters"][-1] >= 25_000


def test_the_recipe_at_full_scale_has_the_released_rates():
    for stage, peak, steps in (("first", 3e-5, 20_000), ("second", 3e-6, 10_000)):
        run = recipes.plan(recipes.METHODS["depthmaster"], "full", {"stage": stage})[2]
        assert (run.steps, run.batch_size, run.learning_rate) == (steps, 32, peak)
        found = [run.learning_rate_at(step) / peak for step in RATES["iters"].tolist()]
        assert found == pytest.approx(RATES["alpha"].tolist(), rel=1e-10)


def test_an_exponential_ends_with_the_run_unless_told_otherwise():
    run = TrainingConfig(steps=300, warmup=100, learning_rate=1.0, final_learning_rate=0.01, decay="exponential")
    assert [run.learning_rate_at(step) for step in (0, 50, 100, 200, 300, 400)] == pytest.approx(
        [0, 0.5, 1, 0.1, 0.01, 0.01]
    )
    other = TrainingConfig(**{**run.__dict__, "hold": 100})
    assert [other.learning_rate_at(step) for step in (150, 200, 250)] == pytest.approx([1, 1, 0.1])


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"final_learning_rate": 0.0}, "an exponential needs a final rate above 0"),
     ({"decay_until": -1}, "decay_until, final_learning_rate"),
     ({"final_learning_rate": 1.0}, "expected 0 <= final <= peak"),
     ({"decay": "linear"}, "decay: expected one of cosine, constant, exponential")],
)  # fmt: skip
def test_impossible_rates_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**{**PUBLISHED_RATES, **setting})


# ---------------------------------------------------------------- depth as latents


@pytest.fixture(scope="module")
def released_autoencoder():
    """The golden autoencoder in diffusers' class, with the rule's weights."""
    from diffusers import AutoencoderKL

    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    network.load_state_dict({k: by_rule.weight(k, tuple(v.shape)) for k, v in network.state_dict().items()})
    assert count_parameters(network) == 67_231
    return Autoencoder(network=network).eval().requires_grad_(False)


def test_depth_to_latents_and_back_is_the_released_way(released_autoencoder):
    depth = by_rule.inputs("dm.vae_x", (1, 1, 48, 64), "pm1")
    close(paper.encode_depth(released_autoencoder, depth), VAE["latent"], atol=2e-5)
    close(paper.decode_depth(released_autoencoder, VAE["latent"]), VAE["rec"], atol=2e-5)


def test_a_decoded_map_is_the_mean_of_the_channels_and_a_reconstructed_one_clipped(released_autoencoder):
    depth = by_rule.inputs("dm.vae_x", (1, 1, 48, 64), "pm1")
    z = 3 * paper.encode_depth(released_autoencoder, depth)
    decoded = paper.decode_depth(released_autoencoder, z)
    close(decoded, released_autoencoder.decode(z).mean(1, keepdim=True))
    assert decoded.abs().max() > 1, "not clipped"
    loud = copy.deepcopy(released_autoencoder)
    loud.network.decoder.conv_out.bias.data += 0.8
    raw = paper.decode_depth(loud, paper.encode_depth(loud, depth))
    assert raw.max() > 1
    assert torch.equal(paper.reconstruct_depth(loud, depth), raw.clamp(-1, 1))


# ---------------------------------------------------------------- the rival: denoising


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_leading_and_trailing_timesteps_are_the_released_ones(steps):
    for spacing in denoising.SPACINGS:
        if f"t_{spacing}_{steps}" in SCHEDULE:
            scheduler = paper.ddim_scheduler(*SD2, spacing)
            scheduler.set_timesteps(steps)
            assert scheduler.timesteps.tolist() == SCHEDULE[f"t_{spacing}_{steps}"].tolist()


def test_a_single_leading_step_asks_about_timestep_1():
    found = {}
    for spacing, steps in itertools.product(denoising.SPACINGS, (1, 4)):
        scheduler = paper.ddim_scheduler(*SD2, spacing)
        scheduler.set_timesteps(steps)
        found[spacing, steps] = scheduler.timesteps.tolist()
    assert found == {("leading", 1): [1], ("leading", 4): [751, 501, 251, 1],
                     ("trailing", 1): [999], ("trailing", 4): [999, 749, 499, 249]}  # fmt: skip


def test_levels_of_sampler_and_training_are_the_released_ones():
    for spacing, name in (("leading", "sd2"), ("trailing", "zsnr")):
        right = SCHEDULE[f"alphas_cumprod_{name}"]
        close(paper.ddim_scheduler(*SD2, spacing).alphas_cumprod, right, atol=1e-6)
        close(paper.marigold_levels(*SD2, spacing).float(), right, atol=1e-6)
    assert paper.marigold_levels(*SD2, "trailing")[-1] == 0 < paper.marigold_levels(*SD2, "leading")[-1]
    with pytest.raises(ValueError, match="spacing: expected one of leading, trailing, got 'linspace'"):
        paper.ddim_scheduler(*SD2, "linspace")


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("spacing", denoising.SPACINGS)
def test_with_a_perfect_predictor_the_sampler_finds_the_latents(spacing, steps):
    """What remains is the noise of the first level, where the released sampler ends."""
    scheduler = paper.ddim_scheduler(*SD2, spacing)
    scheduler.set_timesteps(steps)
    levels, times = paper.marigold_levels(*SD2, spacing), []
    z, noise = numbers(2, 4, 6, 7, seed=1, dtype=torch.float64), numbers(2, 4, 6, 7, seed=2, dtype=torch.float64)

    def velocity(z_t, t):
        times.append(t.item())
        level = levels[t]
        return diffusion.velocity(z, (z_t - level.sqrt() * z) / (1 - level).sqrt(), level)

    found = paper.denoise(velocity, diffusion.add_noise(z, noise, levels[scheduler.timesteps[0]]), scheduler, steps)
    assert times == scheduler.timesteps.tolist() and len(times) == steps
    close(found, diffusion.add_noise(z, noise, levels[0]), atol=5e-4)  # the scheduler's levels are float32
    close(found, z, atol=4 * (1 - levels[0].item()) ** 0.5)


def test_a_doubled_input_returns_for_equal_halves_what_it_returned_before():
    unet, z, context = small_prior().network, numbers(2, 4, 16, 16), numbers(2, 1, 8, seed=1)
    before = unet(z, 1, encoder_hidden_states=context).sample
    count = count_parameters(unet)
    paper.double_input(unet)
    close(unet(torch.cat([z, z], 1), 1, encoder_hidden_states=context).sample, before)
    assert unet.config.in_channels == 8 == unet.conv_in.in_channels
    assert count_parameters(unet) - count == 4 * 8 * 9
    other = numbers(2, 4, 16, 16, seed=2)
    first, second = (unet(torch.cat(pair, 1), 1, encoder_hidden_states=context).sample
                     for pair in ((z, other), (other, z)))  # fmt: skip
    close(first, second)


def test_the_published_rival_has_its_parameters():
    with torch.device("meta"):
        unet = LatentPrior(PRIORS[paper.PUBLISHED["prior"]]).network
        assert count_parameters(unet) == 865_910_724
        paper.double_input(unet)
    assert count_parameters(unet) == 865_922_244 and all(p.is_meta for p in unet.parameters())


# ---------------------------------------------------------------- taps


def test_taps_return_what_their_blocks_return():
    unet, z, context = small_prior().network, numbers(2, 4, 16, 16), numbers(2, 1, 8, seed=1)
    seen = {}
    for name, block in (("middle", unet.mid_block), ("down1", unet.down_blocks[0]), ("down2", unet.down_blocks[1])):
        block.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    for tap, width, side in (("middle", 24, 4), ("down1", 8, 8), ("down2", 16, 4)):
        made = paper.SingleStepNetwork(unet, tap=tap)
        _, features = made(z, context)
        right = seen[tap] if tap == "middle" else seen[tap][0]
        assert torch.equal(features, right) and features.shape == (2, width, side, side)
        assert (made.tapped_width, made.middle_width) == (width, 24)
    with pytest.raises(ValueError, match="tap: expected one of middle, down1, down2, got 'up1'"):
        paper.SingleStepNetwork(unet, tap="up1")


def test_a_tap_neither_changes_nor_sees_the_enhancement():
    unet, z, context = small_prior().network, numbers(2, 4, 16, 16), numbers(2, 1, 8, seed=1)
    torch.manual_seed(0)
    block = paper.FourierEnhancement(24, residual=False)
    plain, before = paper.SingleStepNetwork(unet)(z, context)
    results = [paper.SingleStepNetwork(unet, block, tap)(z, context) for tap in ("middle", "down1", "down2")]
    assert all(torch.equal(found, results[0][0]) for found, _ in results)
    assert not torch.allclose(results[0][0], plain, atol=1e-4)
    assert torch.equal(results[0][1], before)


def test_the_timestep_is_1_unless_another_one_is_given():
    made, z, context = paper.SingleStepNetwork(small_prior().network), numbers(2, 4, 16, 16), numbers(2, 1, 8, seed=1)
    right = made.unet(z, torch.tensor([1, 1]), encoder_hidden_states=context).sample
    assert torch.equal(made(z, context)[0], right)
    t = torch.tensor([1, 900])
    found = made(z, context, t)[0]
    close(found[:1], right[:1], atol=1e-6)
    assert not torch.allclose(found[1], right[1], atol=1e-4)


# ---------------------------------------------------------------- teachers


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    """A DINOv2 of random weights as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56,
                                       patch_size=14)  # fmt: skip
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def watched(dino_folder):
    """A function that loads the teacher and records what its model is fed and returns."""

    def open_teacher(scaling="unit"):
        teacher, seen = paper.load_teacher(str(dino_folder), scaling), {}
        teacher.model.register_forward_pre_hook(lambda _, x: seen.update(fed=x[0]))
        teacher.model.register_forward_hook(lambda *call: seen.update(tokens=call[2].last_hidden_state))
        return teacher, seen

    return open_teacher


def test_a_patch_of_dino_covers_16_pixels_and_the_class_token_is_left_out(watched):
    teacher, seen = watched()
    found = teacher(photograph(64, 96, 2))
    assert found.shape == (2, 16, 4, 6) and teacher.width == 16
    assert seen["fed"].shape == (2, 3, 56, 84) and seen["tokens"].shape == (2, 25, 16)
    for i, j in itertools.product(range(4), range(6)):
        assert torch.equal(found[:, :, i, j], seen["tokens"][:, 1 + 6 * i + j])


def test_dino_sees_pictures_as_it_expects_or_as_released(watched):
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (teachers.MEAN, teachers.DEVIATION))
    x, fed = photograph(64, 96, 2), {}
    for scaling in teachers.INPUTS:
        teacher, seen = watched(scaling)
        for name, picture in (("picture", x), ("black", 0 * x), ("white", 0 * x + 1)):
            teacher(picture)
            fed[scaling, name] = seen["fed"]
    resized = F.interpolate(x, (56, 84), mode="bicubic", align_corners=False)
    close(fed["unit", "picture"], (resized - mean) / deviation)
    close(fed["signed", "picture"], (2 * resized - 1 - mean) / deviation, atol=2e-5)
    for name in ("picture", "black", "white"):
        close(fed["signed", name], 2 * fed["unit", name] + (mean - 1) / deviation, atol=2e-5)
    assert fed["signed", "black"].min().item() == pytest.approx(-6.5, abs=1e-3)
    assert fed["unit", "black"].min().item() == pytest.approx(-2.118, abs=1e-3)
    close(fed["signed", "white"], fed["unit", "white"], atol=2e-5)
    with pytest.raises(ValueError, match="scaling: expected one of unit, signed, got 'pm1'"):
        watched("pm1")


def test_a_teacher_is_frozen_and_evaluates(dino_folder):
    for name in ("features", "random", str(dino_folder)):
        teacher = paper.load_teacher(name)
        assert not any(p.requires_grad for p in teacher.parameters())
        assert not any(module.training for module in teacher.modules())


def test_a_teacher_that_is_not_here_is_not_fetched(monkeypatch):
    transformers = pytest.importorskip("transformers")
    asked, own = [], transformers.Dinov2Model.from_pretrained

    def spy(*names, **options):
        asked.append(options["local_files_only"])
        return own(*names, **options)

    monkeypatch.setattr(transformers.Dinov2Model, "from_pretrained", spy)
    for name in ("facebook/dinov2-giant-of-nobody", "no/such/folder"):
        with pytest.raises(FileNotFoundError, match=f"teacher {name}: not on this machine; save it .* features or ran"):
            paper.load_teacher(name)
    assert asked == [True, True]


def test_without_transformers_the_other_teachers_remain(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="dinov2-small needs transformers; install minirestore\\[full\\]"):
        paper.load_teacher("facebook/dinov2-small")
    assert paper.load_teacher("random").width == 96


def test_the_courses_own_features_teach():
    x = photograph(64, 96)
    teacher = paper.load_teacher("features")
    found = teacher(x)
    assert found.shape == (1, teacher.width, 8, 12) and teacher.width == 96
    expected = load_encoder()(x)[-1]
    expected = (expected - expected.mean(1, keepdim=True)) / expected.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["features", "random"])
def test_a_teacher_with_random_weights_pulls_as_much_as_a_trained_one(name):
    tokens = paper.load_teacher(name)(photograph(64, 96)).flatten(2)
    torch.testing.assert_close(tokens.mean(1), torch.zeros(1, 96), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(1, correction=0), torch.ones(1, 96))


def test_the_random_teacher_is_always_the_same_and_draws_nothing():
    x = photograph(64, 96)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = paper.load_teacher("random")(x)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    assert torch.equal(paper.load_teacher("random")(x), first)
    assert first.shape == (1, 96, 8, 12) and not torch.allclose(first, paper.load_teacher("features")(x), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "count"), [("small", 22_056_576), ("base", 86_580_480), ("large", 304_368_640)]
)  # fmt: skip
def test_published_teachers_need_no_files_to_be_counted(name, count):
    pytest.importorskip("transformers")
    with torch.device("meta"):
        teacher = paper.load_teacher(f"facebook/dinov2-{name}")
        assert paper.load_teacher("features").width == 96
    assert count_parameters(teacher) == count and all(p.is_meta for p in teacher.parameters())


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"stage": "third"}, "stage: expected one of first, second"),
     ({"paradigm": "iterative"}, "paradigm: expected one of single_step, denoising, unrolled, concatenated"),
     ({"spacing": "linspace"}, "spacing: expected"), ({"space": "log"}, "space: expected"),
     ({"teacher_scaling": "pm1"}, "teacher_scaling: expected"), ({"tap": "up"}, "tap: expected"),
     ({"alignment_reduction": "sum"}, "alignment_reduction: expected"),
     ({"enhancement": "fourier"}, "enhancement: expected one of residual, released, spatial, none"),
     ({"gradient_kind": "l2"}, "gradient_kind: expected"), ({"calls": 0}, "calls >= 1"),
     ({"longer_side": -1}, "longer_side >= 0"), ({"alignment_weight": -1.0}, "must not be negative"),
     ({"gradient_weight": math.nan}, "must not be negative"),
     ({"paradigm": "denoising", "stage": "second"}, "stage: denoising has no second one")],
)  # fmt: skip
def test_impossible_methods_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DepthMasterConfig(**settings)


@pytest.mark.parametrize("settings", [{}, {"teacher": "none"}, {"alignment_weight": 0.0}, {"stage": "second"}])
def test_a_teacher_is_there_when_it_is_looked_at(settings):
    made = small_method(**settings)
    assert made.config.aligns == (not settings) == hasattr(made, "teacher") == hasattr(made, "head")


def test_two_tokens_stand_for_the_empty_prompt():
    prior = small_prior(tokens=5)
    context = prior.context.detach().clone()
    made = small_method(prior)
    assert torch.equal(made.context, context[:, :2])
    assert not any(name.startswith("context") for name in made.state_dict())


def test_a_control_begins_with_random_weights():
    prior = small_prior()
    before = copy.deepcopy(prior.network.state_dict())
    fresh, warm = small_method(copy.deepcopy(prior), pretrained=False), small_method(prior)
    assert all(torch.equal(value, before[name]) for name, value in warm.network.unet.state_dict().items())
    assert not torch.equal(fresh.network.unet.conv_in.weight, before["conv_in.weight"])
    assert count_parameters(fresh.network) == count_parameters(warm.network)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("settings", "names"),
    [({}, {"z_image", "z_depth", "valid", "external"}), ({"teacher": "none"}, {"z_image", "z_depth", "valid"}),
     ({"stage": "second"}, {"z_image", "target", "valid"}),
     ({"paradigm": "denoising"}, {"z_image", "z_depth", "valid", "external"})],
)  # fmt: skip
def test_a_prepared_batch_trains_as_the_pictures_do(settings, names):
    made, x = small_method(**settings), batch()
    prepared = made.prepare(x, seeded())
    shapes = {"z_image": (2, 4, 16, 16), "z_depth": (2, 4, 16, 16), "external": (2, 12, 4, 4),
              "target": (2, 1, 64, 64), "valid": (2, 1, *((64, 64) if "target" in names else (16, 16)))}  # fmt: skip
    assert {name: tuple(value.shape) for name, value in prepared.items()} == {name: shapes[name] for name in names}
    assert not any(value.requires_grad for value in prepared.values())
    own, again = made.training_losses(x, seeded(), 0), made.training_losses(prepared, seeded(), 0)
    assert own.keys() == again.keys() and all(torch.equal(own[name], again[name]) for name in own)


@pytest.mark.parametrize("weight", [1.0, 7.0])
@pytest.mark.parametrize(("tap", "reduction"), [("middle", "mean"), ("down1", "token"), ("down2", "mean")])
def test_the_loss_of_stage_1_is_written_out(tap, reduction, weight):
    made, x = small_method(tap=tap, alignment_reduction=reduction, alignment_weight=weight), batch()
    found = made.training_losses(x, seeded(), 0)
    target = paper.depth_target(x["depth"], x["valid"])
    z, z_depth = latents(made, x["clean"]), made.autoencoder.encode(target.repeat(1, 3, 1, 1)).detach()
    seen = F.avg_pool2d(x["valid"].float(), 4) == 1  # all 16 pixels of a latent
    predicted, features = made.network(z, made.context.expand(2, -1, -1))
    chosen = seen.expand(-1, 4, -1, -1)
    assert 0 < chosen.sum() < chosen.numel()
    latent = (predicted - z_depth)[chosen].pow(2).mean()
    external = F.interpolate(made.teacher(x["clean"]), features.shape[-2:], mode="bicubic", align_corners=False)
    p = external.flatten(2).mT.softmax(-1)
    q = made.head(features.flatten(2).mT).softmax(-1)
    divergence = (p * (p.log() - q.log())).sum(-1).mean() / (12 if reduction == "mean" else 1)
    close(found["latent"], latent)
    close(found["alignment"], divergence, atol=1e-7, rtol=1e-4)
    close(found["loss"], latent + weight * divergence)
    assert found.keys() == {"loss", "latent", "alignment"} and divergence > 0


def test_without_a_teacher_the_loss_is_that_of_the_latents():
    with_teacher, without = (small_method(teacher=name).training_losses(batch(), seeded(), 0)
                             for name in ("features", "none"))  # fmt: skip
    assert without.keys() == {"loss", "latent"} and torch.equal(without["loss"], without["latent"])
    assert torch.equal(without["latent"], with_teacher["latent"])


@pytest.mark.parametrize("kind", losses.HUBERS)
def test_the_loss_of_stage_2_is_written_out(kind):
    made, x = small_method(stage="second", gradient_kind=kind, gradient_weight=0.5), batch()
    found = made.training_losses(x, seeded(), 0)
    target = paper.depth_target(x["depth"], x["valid"])
    predicted = made.network(latents(made, x["clean"]), made.context.expand(2, -1, -1))[0]
    depth = made.autoencoder.decode(predicted).mean(1, keepdim=True)
    pixel = (depth - target)[x["valid"]].pow(2).mean()
    error = paper.directional_gradients(target * x["valid"]) - paper.directional_gradients(depth * x["valid"])
    gradient = paper.weighted_difference(error, kind).mean()
    close(found["pixel"], pixel)
    close(found["gradient"], gradient, atol=1e-6)
    close(found["loss"], pixel + 0.5 * gradient)


@pytest.mark.parametrize("space", targets.SPACES)
def test_pixels_that_are_not_valid_have_no_influence_on_stage_2(space):
    made, x = small_method(stage="second", space=space), batch()
    other = {**x, "depth": torch.where(x["valid"], x["depth"], 1000.0)}
    holes = {**x, "depth": torch.where(x["valid"], x["depth"], 0.0)}
    first, *rest = (made.training_losses(y, seeded(), 0) for y in (x, other, holes))
    for found in rest:
        assert all(torch.equal(found[name], first[name]) for name in first)


def test_the_space_decides_what_is_learned():
    targets_of = [small_method(stage="second", space=space).prepare(batch(), seeded())["target"]
                  for space in targets.SPACES]  # fmt: skip
    for space, found in zip(targets.SPACES, targets_of, strict=True):
        assert torch.equal(found, paper.depth_target(batch()["depth"], batch()["valid"], space))
    narrow = small_method(stage="second", quantiles=(0.2, 0.8)).prepare(batch(), seeded())["target"]
    assert torch.equal(narrow, paper.depth_target(batch()["depth"], batch()["valid"], quantiles=(0.2, 0.8)))


@pytest.mark.parametrize(
    "settings", [{}, {"stage": "second"}, {"stage": "second", "enhancement": "released"}, {"paradigm": "denoising"},
                 {"paradigm": "unrolled", "calls": 2}, {"paradigm": "concatenated", "calls": 2}]
)  # fmt: skip
def test_only_the_network_and_the_head_learn(settings):
    made = small_method(**settings).train()
    made.training_losses(batch(), seeded(), 0)["loss"].backward()
    frozen = [made.autoencoder, *([made.teacher] if made.config.aligns else [])]
    for part in frozen:
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
        assert not any(module.training for module in part.modules())
    learning = [made.network, *([made.head] if made.config.aligns else [])]
    for part in learning:
        assert all(p.grad is not None for p in part.parameters()) and all(m.training for m in part.modules())
        assert any(p.grad.abs().max() > 0 for p in part.parameters())
    blocks = [p for name, p in made.network.named_parameters() if name.startswith("enhancement")]
    assert bool(blocks) == (made.config.stage == "second")
    assert sum(map(count_parameters, [*frozen, *learning])) == count_parameters(made)


@pytest.mark.parametrize("name", ["residual", "released", "spatial", "none"])
def test_the_block_of_stage_2_is_the_one_asked_for(name):
    made = small_method(stage="second", enhancement=name)
    block = made.network.enhancement
    assert (0 if block is None else count_parameters(block)) == (0 if name == "none" else 48 * 24**2 + 9 * 24)
    if block is not None:
        assert (block.residual, block.spectral) == (name != "released", name != "spatial")
        assert block.smallest == (0 if name == "released" else 1e-4)
    assert small_method(enhancement=name).network.enhancement is None


# ---------------------------------------------------------------- paradigms


def test_one_unrolled_call_is_a_single_step():
    single, unrolled = small_method(), small_method(paradigm="unrolled")
    first, second = (made.training_losses(batch(), seeded(), 0) for made in (single, unrolled))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(single.predict(photograph()), unrolled.predict(photograph()))


def test_a_second_call_is_made_on_the_result_of_the_first():
    made, z = small_method(), numbers(2, 4, 16, 16)
    once = made.predict_latents(z)
    assert torch.equal(once, made.predict_latents(z, calls=1))
    assert torch.equal(made.predict_latents(z, calls=2), made.predict_latents(once))
    assert torch.equal(small_method(calls=2).predict_latents(z), made.predict_latents(once))
    assert not torch.allclose(made.predict_latents(once), once, atol=1e-3)


@pytest.mark.parametrize("paradigm", ["unrolled", "concatenated"])
def test_every_call_counts_in_training(paradigm):
    made = small_method(paradigm=paradigm, calls=3, teacher="none")
    prepared = made.prepare(batch(), seeded())
    results = [made.predict_latents(prepared["z_image"], calls=calls) for calls in (1, 2, 3)]
    right = sum(paper.masked_mse(z, prepared["z_depth"], prepared["valid"]) for z in results) / 3
    close(made.training_losses(prepared, seeded(), 0)["loss"].detach(), right)
    second = small_method(paradigm=paradigm, calls=3, stage="second")
    prepared = second.prepare(batch(), seeded())
    last = paper.decode_depth(second.autoencoder, second.predict_latents(prepared["z_image"]))
    right = paper.masked_mse(last, prepared["target"], prepared["valid"])
    close(second.training_losses(prepared, seeded(), 0)["pixel"].detach(), right.detach())


def test_concatenated_calls_see_the_picture_every_time():
    made, z, seen = small_method(paradigm="concatenated"), numbers(2, 4, 16, 16), []
    made.network.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    results = [made.predict_latents(z, calls=calls) for calls in (1, 2, 3)]
    for x in seen:
        assert x.shape == (2, 8, 16, 16) and torch.equal(x[:, :4], z)
    assert torch.equal(seen[0][:, 4:], z)
    assert torch.equal(seen[4][:, 4:], results[0]) and torch.equal(seen[5][:, 4:], results[1])
    close(results[0], small_method().predict_latents(z), atol=1e-5)


def test_the_rival_learns_velocities_of_noisy_depth():
    made, x, seen = small_method(paradigm="denoising", teacher="none"), batch(), []
    made.network.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    loss = made.training_losses(x, seeded(), 0)["loss"]
    prepared, generator = made.prepare(x, seeded()), seeded()
    t = diffusion.random_times(2, 1000, generator)
    noise = paper.multi_resolution_noise((2, 4, 16, 16), t, 1000, generator)
    level = paper.marigold_levels(*SD2, "trailing")[t].float().view(2, 1, 1, 1)
    z_t = level.sqrt() * prepared["z_depth"] + (1 - level).sqrt() * noise
    ((network_input, times),) = seen
    close(network_input, torch.cat([prepared["z_image"], z_t], 1))
    assert torch.equal(times, t) and t[0] != t[1]
    velocity = level.sqrt() * noise - (1 - level).sqrt() * prepared["z_depth"]
    predicted = made.network(network_input, made.context.expand(2, -1, -1), t)[0]
    close(loss, paper.masked_mse(predicted, velocity, prepared["valid"]))


def test_noise_comes_from_the_generator_and_from_nowhere_else():
    made, x = small_method(paradigm="denoising", calls=2), photograph()
    first, again, other = (made.predict(x, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(0)
    default = made.predict(x)
    torch.manual_seed(1)
    assert torch.equal(made.predict(x), default)
    assert torch.equal(default, made.predict(x, diffusion.BatchGenerator(0, 0)))
    single = small_method()
    assert torch.equal(single.predict(x, seeded(3)), single.predict(x, seeded(4)))


def test_samples_are_averaged_as_maps():
    made, x = small_method(paradigm="denoising", calls=2), photograph()
    generator, z = seeded(), latents(made, x)
    drawn = [paper.decode_depth(made.autoencoder, made.predict_latents(z, generator)) for _ in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    right = ((sum(drawn) / 3).clamp(-1, 1) + 1) / 2
    close(made.predict(x, seeded(), samples=3), right.detach(), atol=1e-6)


def test_samples_differ_without_a_generator_too():
    made, x = small_method(paradigm="denoising"), photograph()
    assert not torch.equal(made.predict(x, samples=2), made.predict(x))
    assert torch.equal(made.predict(x, samples=2), made.predict(x, diffusion.BatchGenerator(0, 0), samples=2))


@pytest.mark.parametrize("spacing", denoising.SPACINGS)
def test_calls_and_spacing_of_the_rival_may_be_chosen(spacing):
    made, x, seen = small_method(paradigm="denoising", spacing="leading"), photograph(), []
    made.network.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].item()))
    made.predict(x, seeded(), calls=4, spacing=spacing)
    assert seen == SCHEDULE[f"t_{spacing}_4"].tolist()
    seen.clear()
    made.predict(x, seeded())
    assert seen == [1]
    with pytest.raises(ValueError, match="spacing: expected"):
        made.predict(x, spacing="linspace")


# ---------------------------------------------------------------- from stage to stage

TINY = {"images": 2, "image_size": 64, "crop": 64, "prepared": 2, "batch_size": 2, "steps": 2, "warmup": 1}
# a run whose only step has the rate 0
STILL = {**TINY, "steps": 1, "decay": "exponential", "final_learning_rate": 1e-6}


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """The folder of a stage 1 of two steps, and the method as its training left it."""
    folder = tmp_path_factory.mktemp("first")
    made, result = recipes.train("depthmaster", "quick", TINY, run_dir=folder, device="cpu")
    assert result.finished and result.history.keys() == {"loss", "latent", "alignment"}
    return folder, made


@pytest.fixture
def weights(first_stage):
    return first_stage[0] / "depthmaster.safetensors"


def test_a_checkpoint_holds_the_network_alone(first_stage, weights):
    tensors, card = checkpoints.load(weights)
    _, made = first_stage
    assert {name.split(".")[0] for name in made.state_dict()} == {"autoencoder", "network", "teacher", "head"}
    assert set(tensors) == {name for name in made.state_dict() if name.startswith("network.unet.")}
    assert card["parameters"] == count_parameters(made.network)


def test_a_loaded_method_predicts_what_the_trained_one_does(first_stage, weights):
    made = copy.deepcopy(first_stage[1])
    for parameter in made.network.parameters():
        parameter.data = parameter.data.half().float()  # the checkpoint's precision
    loaded, x = recipes.load_method("depthmaster", weights, "cpu"), photograph(50, 70)
    assert torch.equal(loaded.predict(x), made.predict(x))
    assert loaded.config == made.config and not loaded.training
    fresh = recipes.build(recipes.METHODS["depthmaster"], made.config)
    assert not torch.equal(fresh.predict(x), made.predict(x)), "two steps change something"


@pytest.mark.parametrize("enhancement", ["residual", "none"])
def test_stage_2_begins_where_stage_1_ended(weights, tmp_path, enhancement):
    settings = {**STILL, "stage": "second", "enhancement": enhancement}
    second, _ = recipes.train("depthmaster", "quick", settings, run_dir=tmp_path, device="cpu", start=weights)
    first, x = recipes.load_method("depthmaster", weights, "cpu"), photograph(50, 70)
    assert torch.equal(second.predict(x), first.predict(x))
    card = checkpoints.read_card(tmp_path / "depthmaster.safetensors")
    assert card["start"].startswith("averaged weights, sha256 ") and card["config"]["stage"] == "second"
    assert torch.equal(recipes.load_method("depthmaster", tmp_path / "depthmaster.safetensors", "cpu").predict(x),
                       second.predict(x))  # fmt: skip


def test_the_released_block_begins_elsewhere_and_its_weights_are_finite(weights, tmp_path):
    settings = {**STILL, "stage": "second", "enhancement": "released"}
    second, _ = recipes.train("depthmaster", "quick", settings, run_dir=tmp_path, device="cpu", start=weights)
    first, x = recipes.load_method("depthmaster", weights, "cpu"), photograph(50, 70)
    assert not torch.equal(second.predict(x), first.predict(x))
    tensors, _ = checkpoints.load(tmp_path / "depthmaster.safetensors")
    assert all(torch.isfinite(value).all() for value in tensors.values())
    assert sum(name.startswith("network.enhancement.") for name in tensors) == 16


def test_stage_2_may_begin_with_the_last_weights_of_a_run(first_stage, tmp_path):
    settings = {**STILL, "stage": "second"}
    second, _ = recipes.train("depthmaster", "quick", settings, run_dir=tmp_path, device="cpu", start=first_stage[0])
    last, found = last_weights(first_stage[0]), second.state_dict()
    assert all(torch.equal(found[name], last[name]) for name in last if name.startswith("network."))
    card = checkpoints.read_card(tmp_path / "depthmaster.safetensors")
    assert card["start"].startswith("last weights, sha256 ")
    averaged = first_stage[1].state_dict()
    assert not torch.equal(averaged["network.unet.conv_in.weight"], last["network.unet.conv_in.weight"])
    assert not any(name.startswith(("head", "teacher")) for name in found)


def test_only_the_block_may_be_missing(weights):
    second = small_method(stage="second")
    tensors = checkpoints.own_tensors(small_method(), small_method().state_dict())
    whole = second.completed(tensors)
    assert whole.keys() == checkpoints.own_tensors(second, second.state_dict()).keys()
    assert all(torch.equal(whole[name], tensors[name]) for name in tensors)
    checkpoints.fill(second, whole, "stage 1")
    part = {name: value for name, value in tensors.items() if name != "network.unet.conv_in.bias"}
    with pytest.raises(ValueError, match="does not fit this module: network.unet.conv_in.bias"):
        checkpoints.fill(second, second.completed(part), "stage 1")


def test_a_file_that_lacks_something_else_starts_nothing(weights, tmp_path):
    tensors, card = checkpoints.load(weights)
    part = SimpleNamespace(state_dict=lambda: {k: v for k, v in tensors.items() if "mid_block" not in k})
    checkpoints.save(str(tmp_path / "part.safetensors"), part, card)
    settings = {**STILL, "stage": "second"}
    with pytest.raises(ValueError, match="does not fit this module: network.unet.mid_block"):
        recipes.train("depthmaster", "quick", settings, run_dir=tmp_path / "run", device="cpu",
                      start=tmp_path / "part.safetensors")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_weights_of_a_second_stage_pass_unchanged():
    second = small_method(stage="second")
    second.network.enhancement.fuse.bias.data += 1
    tensors = checkpoints.own_tensors(second, second.state_dict())
    other = small_method(stage="second")
    assert other.completed(tensors) is tensors
    checkpoints.fill(other, other.completed(tensors), "stage 2")
    assert torch.equal(other.predict(photograph()), second.predict(photograph()))
    part = {name: value for name, value in tensors.items() if not name.endswith("fuse.bias")}
    with pytest.raises(ValueError, match="does not fit this module: network.enhancement.fuse.bias"):
        checkpoints.fill(other, other.completed(part), "stage 2")


def test_a_start_in_another_space_or_paradigm_is_refused(weights, tmp_path):
    for setting, message in (({"space": "depth"}, "has space = sqrt_disparity, and depth is asked for"),
                             ({"paradigm": "concatenated"}, "has paradigm = single_step"),
                             ({"quantiles": (0.0, 1.0)}, "has quantiles = ")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            recipes.train("depthmaster", "quick", {**STILL, **setting}, run_dir=tmp_path, device="cpu", start=weights)


# ---------------------------------------------------------------- prediction


@pytest.mark.parametrize("size", [(64, 64), (33, 71), (20, 17), (2, 90), (500, 741)])
def test_any_picture_goes_through(size):
    made, seen = small_method(), []
    own = made.autoencoder.encode
    made.autoencoder.encode = lambda x: seen.append(x) or own(x)
    x = photograph(*size)
    y = made.predict(x)
    assert y.shape == (1, 1, *size) and 0 <= y.min() < y.max() <= 1
    sides = [max(64, -(-side // 16) * 16) for side in size]
    assert made.multiple == 16 and list(seen[0].shape[-2:]) == sides
    assert torch.equal(seen[0][..., : size[0], : size[1]], 2 * x - 1)


def test_prediction_is_written_out():
    made, x = small_method(), photograph(64, 80, 2)
    predicted = made.network(latents(made, x), made.context.expand(2, -1, -1))[0]
    depth = made.autoencoder.decode(predicted).mean(1, keepdim=True)
    close(made.predict(x), ((depth + 1) / 2).clamp(0, 1).detach(), atol=1e-6)
    made.autoencoder.network.decoder.conv_out.bias.data += 5
    assert (made.predict(x) == 1).all()


def test_the_type_of_the_picture_is_kept():
    made, x = small_method(), photograph(40, 50)
    found = made.predict(x.double())
    assert found.dtype == torch.float64 and torch.equal(found, made.predict(x).double())


@pytest.mark.parametrize(("size", "side", "small"), [((500, 741), 96, (64, 96)), ((741, 500), 96, (96, 64)),
                                                     ((40, 50), 100, (80, 100)), ((3, 900), 128, (2, 128)),
                                                     ((50, 70), 70, (50, 70))])  # fmt: skip
def test_the_longer_side_is_resized_and_the_other_rounded_down(size, side, small, monkeypatch):
    made, x, seen = small_method(), photograph(*size), []
    own = method._resize
    monkeypatch.setattr(method, "_resize", lambda x, size: seen.append(tuple(size)) or own(x, size))
    y = made.predict(x, longer_side=side)
    assert seen == [small, size] and y.shape[-2:] == size
    by_config = small_method(longer_side=side).predict(x)
    assert torch.equal(by_config, y)
    reduced = F.interpolate(x, small, mode="bilinear", align_corners=False, antialias=True)
    if small != size:
        enlarged = F.interpolate(2 * made.predict(reduced) - 1, size, mode="bilinear", align_corners=False,
                                 antialias=True)  # fmt: skip
        close(y, ((enlarged + 1) / 2).clamp(0, 1), atol=1e-5)


def test_without_a_longer_side_the_size_is_kept():
    made, x = small_method(longer_side=32), photograph(40, 50)
    kept = made.predict(x, longer_side=0)
    assert torch.equal(kept, small_method().predict(x))
    assert torch.equal(kept, made.predict(x, longer_side=50)) and not torch.equal(kept, made.predict(x))


@pytest.mark.parametrize("space", targets.SPACES)
def test_near_is_where_the_target_puts_it(space):
    depth = torch.linspace(1, 9, 64).expand(1, 1, 64, 64)
    target = (paper.depth_target(depth, depth > 0, space) + 1) / 2
    made = small_method(space=space)
    assert target[0, 0, 0, 0] == made.near_is and target[0, 0, 0, -1] == 1 - made.near_is


@pytest.mark.parametrize(("options", "message"), [({"calls": -1}, "calls >= 0 and samples >= 1"),
                                                  ({"samples": 0}, "calls >= 0 and samples >= 1")])  # fmt: skip
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_method().predict(photograph(), **options)


def test_what_is_no_picture_is_refused():
    made = small_method()
    for x, message in ((photograph()[:, :1], "expected 3 channels"), (2 * photograph() + 1, "values must lie in"),
                       (photograph()[0], "4 dimensions")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            made.predict(x)


def test_the_package_predicts_as_the_method_does():
    made, x = small_method(paradigm="denoising"), photograph()
    found = recipes.predict(made, x, seed=3, calls="2", samples=2)
    assert torch.equal(found, made.predict(x, seeded(3), calls=2, samples=2))
    with pytest.raises(ValueError, match="unknown option 'steps'.*known: calls, samples, spacing, longer_side"):
        recipes.predict(made, x, steps=2)
    with pytest.raises(ValueError, match="expected 3 channels"):
        recipes.predict(made, x[:, :1])


# ---------------------------------------------------------------- metres


def metric(space):
    """Depth from 1 to 12 m, and a map in [0, 1] that is affine in its function in the space."""
    depth = 1 + 11 * torch.rand(1, 1, 9, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = depth ** {"depth": 1.0, "disparity": -1.0, "sqrt_disparity": -0.5}[space]
    return depth, (values - values.min()) / (values.max() - values.min())


def points_of(depth, *places):
    return [(column, row, depth[0, 0, row, column].item()) for column, row in places]


@pytest.mark.parametrize("places", [((0, 0), (12, 3)), ((4, 8), (0, 1), (11, 5), (6, 6))])
@pytest.mark.parametrize("space", targets.SPACES)
def test_known_distances_give_all_others(space, places):
    depth, relative = metric(space)
    close(paper.to_metres(relative, points_of(depth, *places), space), depth, rtol=1e-9, atol=0.0)
    if space == "sqrt_disparity":
        close(paper.to_metres(relative, points_of(depth, *places)), depth, rtol=1e-9, atol=0.0)
    found = paper.to_metres(relative.float(), points_of(depth, *places), space)
    assert found.dtype == torch.float32
    close(found, depth.float(), rtol=1e-5)


def test_more_points_than_two_are_fitted_by_least_squares():
    depth, relative = metric("disparity")
    points = [(c, r, 1.1 * d) for c, r, d in points_of(depth, (0, 0))] + points_of(depth, (12, 3), (5, 5), (3, 7))
    x = np.array([relative[0, 0, r, c].item() for c, r, _ in points])
    scale, shift = np.polyfit(x, 1 / np.array([d for _, _, d in points]), 1)
    close(paper.to_metres(relative, points, "disparity"), 1 / (scale * relative + shift), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("space", ["disparity", "sqrt_disparity"])
def test_what_lies_beyond_a_kilometre_stays_there(space):
    relative = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).expand(1, 1, 2, 3)
    found = paper.to_metres(relative, [(1, 0, 900.0), (2, 0, 1.0)], space)
    assert found[0, 0, 0, 0].item() == pytest.approx(1000) and found.min() > 0
    assert found[0, 0, 1, 1:].tolist() == pytest.approx([900, 1])


@pytest.mark.parametrize(
    ("points", "message"),
    [([], "two known distances are needed for scale and shift, got 0"), ([(1, 1, 2.0)], "two known .* got 1"),
     ([(1, 1, 2.0), (13, 0, 3.0)], r"expected a pixel of the 13 x 9 map .* got \(13, 0, 3.0\)"),
     ([(1, 1, 2.0), (0, 9, 3.0)], r"got \(0, 9, 3.0\)"), ([(-1, 1, 2.0), (0, 0, 3.0)], r"got \(-1, 1, 2.0\)"),
     ([(0, -1, 2.0), (0, 0, 3.0)], r"got \(0, -1, 2.0\)"), ([(1, 1, 0.0), (0, 0, 3.0)], "a distance above 0"),
     ([(1, 1, -2.0), (0, 0, 3.0)], "a distance above 0"), ([(1, 1, math.nan), (0, 0, 3.0)], "a distance above 0"),
     ([(1, 1, math.inf), (0, 0, 3.0)], "finite"), ([(1, 1, 2.0), (1, 1, 3.0)], "a pixel is named twice")],
)  # fmt: skip
def test_distances_that_settle_nothing_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        paper.to_metres(metric("depth")[1], points, "depth")


def test_a_batch_or_a_flat_map_has_no_metres():
    with pytest.raises(ValueError, match=r"relative: expected \(1, 1, H, W\), got \(2, 1, 9, 13\)"):
        paper.to_metres(metric("depth")[1].repeat(2, 1, 1, 1), [(0, 0, 1.0), (1, 1, 2.0)])
    with pytest.raises(ValueError, match="the relative depth is the same at all of them"):
        paper.to_metres(torch.full((1, 1, 4, 4), 0.5), [(0, 0, 1.0), (1, 1, 2.0)])


# ---------------------------------------------------------------- data: rendered scenes

RGBD = {"source": "rgbd", "images": 4, "image_size": 32, "crop": 32, "sigma": 0.0, "augment": "none", "seed": 0}


def test_scenes_come_whole_with_their_depth_up_to_80_metres():
    make = recipes.make_data(DataConfig(**RGBD, families=("street",)))
    found = make(16, seeded())
    right = scenes.render_scenes(4, 32, 0, family="street")
    assert (right["valid"] & (right["depth"] >= 80)).any() and not right["valid"].all()
    assert {k: (tuple(v.shape), v.dtype) for k, v in found.items()} == {
        "clean": ((16, 3, 32, 32), torch.float32), "depth": ((16, 1, 32, 32), torch.float32),
        "valid": ((16, 1, 32, 32), torch.bool)}  # fmt: skip
    which = [int((right["depth"] == depth).flatten(1).all(1).nonzero()) for depth in found["depth"]]
    assert set(which) == {0, 1, 2, 3}
    close(found["clean"], right["image"][which], atol=0.5 / 255 + 1e-6)
    assert torch.equal(found["valid"], right["valid"][which] & (right["depth"][which] < 80))


def test_families_share_the_scenes():
    make = recipes.make_data(DataConfig(**RGBD, families=("room", "boxes")))
    rendered = torch.cat([scenes.render_scenes(2, 32, 0, family=name)["depth"] for name in ("room", "boxes")])
    found = make(40, seeded())["depth"]
    which = {int((rendered == depth).flatten(1).all(1).nonzero()) for depth in found}
    assert which == {0, 1, 2, 3}


def test_no_family_named_stands_for_those_of_the_other_sources(monkeypatch):
    asked = []
    own = recipes_data._rendered
    monkeypatch.setattr(recipes_data, "_rendered", lambda *rest: asked.append(rest) or own(("boxes",), 1, 32, 0))
    recipes.make_data(DataConfig(**RGBD))
    assert asked == [(recipes.data.DEFAULT_FAMILIES, 1, 32, 0)]


def test_flips_move_picture_depth_and_validity_together():
    plain, flip = (recipes.make_data(DataConfig(**{**RGBD, "augment": augment}, families=("street",)))
                   for augment in ("none", "flip"))  # fmt: skip
    straight, found = plain(24, seeded()), flip(24, seeded())
    states = [not torch.equal(found["depth"][i], straight["depth"][i]) for i in range(24)]
    for i, turned in enumerate(states):
        assert all(torch.equal(x[i], straight[k][i].flip(-1) if turned else straight[k][i]) for k, x in found.items())
    assert 6 < sum(states) < 18
    again = flip(24, seeded())
    assert all(torch.equal(found[k], again[k]) for k in found)
    assert not torch.equal(found["depth"], flip(24, seeded(4))["depth"])


def test_zoom_enlarges_windows_and_keeps_depth_with_its_picture(monkeypatch):
    grid = torch.arange(32 * 32).view(1, 1, 32, 32)
    image, metres = (grid // 32 * 8).to(torch.uint8).expand(1, 3, -1, -1), (1.0 + grid) / 16
    monkeypatch.setattr(
        recipes_data, "_rendered", lambda *rest: {"image": image, "depth": metres, "valid": grid % 2 == 0}
    )
    plain, zoomed = (recipes.make_data(DataConfig(**{**RGBD, "zoom": zoom, "augment": "none"}))(40, seeded())
                     for zoom in (1.0, 2.0))  # fmt: skip
    assert (plain["depth"] == metres).all()
    depth = (16 * zoomed["depth"]).long() - 1
    assert torch.equal(zoomed["valid"], depth % 2 == 0)  # nothing is mixed
    rows, columns = depth // 32, depth % 32
    heights = rows.amax((1, 2, 3)) - rows.amin((1, 2, 3)) + 1
    assert torch.equal(heights, columns.amax((1, 2, 3)) - columns.amin((1, 2, 3)) + 1)
    assert heights.min() >= 16 and heights.max() <= 32 and len(heights.unique()) > 6
    assert (zoomed["clean"] * 255 / 8 - rows).abs().max() < 1  # the picture shows the same window
    assert len(rows.amin((1, 2, 3)).unique()) > 4 and len(columns.amin((1, 2, 3)).unique()) > 4


def test_jitter_changes_pictures_and_nothing_else():
    plain, found = (recipes.make_data(DataConfig(**{**RGBD, "jitter": jitter, "augment": "none"}))(6, seeded())
                    for jitter in (0.0, 0.4))  # fmt: skip
    assert torch.equal(plain["depth"], found["depth"]) and torch.equal(plain["valid"], found["valid"])
    inside = (plain["clean"] > 0.05) & (found["clean"] < 1)
    x, y = plain["clean"], found["clean"]
    for i in range(6):
        slopes = []
        for channel in range(3):
            chosen = inside[i, channel]
            a, b = x[i, channel][chosen].double().log(), y[i, channel][chosen].double().log()
            slope, shift = np.polyfit(a, b, 1)
            assert np.abs(slope * a.numpy() + shift - b.numpy()).max() < 1e-4 and abs(shift) <= 0.2 + 1e-4
            slopes.append(slope)
        assert max(slopes) - min(slopes) < 1e-3 and abs(np.log(slopes[0])) <= 0.4 + 1e-3
    assert (x != y).flatten(1).any(1).all()


def test_of_two_scenes_together_the_nearer_surface_is_seen():
    generator = seeded()

    def noise():
        return torch.rand(200, 1, 8, 8, generator=generator)

    one, two = ({"clean": torch.full((200, 3, 8, 8), grey), "depth": 1 + 80 * noise(), "valid": noise() < 0.8}
                for grey in (0.2, 0.7))  # fmt: skip
    found = recipes_data._united(one, two, 1.0, seeded(1))
    second = found["clean"][:, :1] == 0.7
    factor = torch.stack(
        [(d / e)[chosen].median() for d, e, chosen in zip(found["depth"], two["depth"], second, strict=True)]
    )
    assert factor.log().abs().max() <= 0.6 and 0.25 < factor.log().std() < 0.45  # uniform: 0.35
    enlarged = two["depth"] * factor.view(-1, 1, 1, 1)
    wanted = two["valid"] & (enlarged < 80) & (~one["valid"] | (enlarged < one["depth"]))
    assert torch.equal(second, wanted)
    close(found["depth"], torch.where(second, enlarged, one["depth"]), rtol=1e-5)
    assert torch.equal(found["valid"], second | one["valid"])
    some = recipes_data._united(one, two, 0.3, seeded(1))["clean"].flatten(1).amax(1) == 0.7
    assert 40 < some.sum() < 80


def test_a_share_of_the_scenes_is_joined_by_others():
    none, all_ = (recipes.make_data(DataConfig(**RGBD, families=("boxes",), unions=share))(16, seeded())
                  for share in (0.0, 1.0))  # fmt: skip
    assert (all_["depth"] <= none["depth"]).all() and (all_["depth"] < none["depth"]).flatten(1).any(1).sum() > 10
    assert not torch.equal(all_["clean"], none["clean"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({**RGBD, "families": ("street", "forest")}, "families: for the source rgbd, among room"),
     ({"families": ("room",)}, "families: for the source rgbd"),
     ({**RGBD, "sigma": 25.0}, "pictures with depth stay as they are; set sigma to 0"),
     ({**RGBD, "blur": "linear"}, "pictures with depth stay as they are"),
     ({**RGBD, "crop": 16}, "crop: rgbd has whole scenes"),
     ({**RGBD, "zoom": 0.5}, "zoom >= 1, jitter >= 0"), ({**RGBD, "jitter": -0.1}, "zoom >= 1, jitter >= 0"),
     ({**RGBD, "unions": 1.5}, "unions: a share in"), ({"unions": 0.5}, "unions: a share in"),
     ({"zoom": 1.5}, "for the source rgbd"), ({"jitter": 0.2}, "for the source rgbd"),
     ({"source": "depth:Hypersim", "augment": "flip"}, "pictures with depth stay as they are"),
     ({**RGBD, "augment": "eightfold"}, "augment: depth knows which way is up; choose flip or none"),
     ({"source": "depth:Hypersim", "sigma": 0.0}, "augment: depth knows which way is up; choose flip or none")],
)  # fmt: skip
def test_impossible_sources_of_depth_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


# ---------------------------------------------------------------- data: pictures with depth on disk


def write_pair(folder, name, depth):
    """A 16-bit depth map, and a picture whose red and green are its two bytes."""
    depth = np.asarray(depth, dtype=np.uint16)
    for part in ("rgb", "depth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(depth).save(folder / "depth" / f"{name}.png")
    picture = np.stack([depth >> 8, depth & 255, np.zeros_like(depth)], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(folder / "rgb" / f"{name}.png")


def stored(clean):
    """The 16-bit numbers that a picture of `write_pair` shows."""
    high, low = (255 * clean[:, :2]).round().long().unbind(1)
    return (256 * high + low)[:, None]


@pytest.fixture
def disk(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIRESTORE_DATASETS", str(tmp_path))
    return tmp_path


def depth_data(name, images, **settings):
    return DataConfig(f"depth:{name}", images=images, sigma=0.0, **{"augment": "none", **settings})


def test_hypersim_is_in_millimetres_and_resized_by_the_nearest_pixel(disk):
    H, W = 100, 130
    depth = 1000 + np.arange(H * W).reshape(H, W)
    write_pair(disk / "Hypersim" / "ai_001_001" / "cam_00", "0000", depth)
    found = recipes.make_data(depth_data("Hypersim", 1))(1, seeded())
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        "clean": (1, 3, 480, 640), "depth": (1, 1, 480, 640), "valid": (1, 1, 480, 640)}  # fmt: skip
    rows, columns = (torch.tensor([int((i + 0.5) * n / m) for i in range(m)]) for n, m in ((H, 480), (W, 640)))
    right = torch.from_numpy(depth)[rows][:, columns]
    assert torch.equal(stored(found["clean"])[0, 0], right)
    close(found["depth"][0, 0], right / 1000, atol=1e-6)
    assert found["valid"].dtype == torch.bool and found["valid"].all()


def test_vkitti_is_in_centimetres_and_cropped_at_the_bottom_in_the_middle(disk):
    depth = np.arange(375 * 1242).reshape(375, 1242) % 7000 + 1
    write_pair(disk / "VKITTI" / "Scene01", "00001", depth)
    found = recipes.make_data(depth_data("VKITTI", 1))(1, seeded())
    right = torch.from_numpy(depth)[23:, 13:1229]
    assert right.shape == (352, 1216) and torch.equal(stored(found["clean"])[0, 0], right)
    close(found["depth"][0, 0], right / 100, atol=1e-5)
    assert found["valid"].all()


@pytest.mark.parametrize(("name", "size", "farthest"), [("Hypersim", (48, 64), 65_000), ("VKITTI", (352, 1216), 8000)])
def test_depth_is_valid_between_zero_and_the_farthest(disk, name, size, farthest):
    numbers_there = [0, 1, farthest - 1, farthest, 65_535]
    depth = np.resize(numbers_there, (size[1], size[0])).T
    write_pair(disk / name, "0", depth)
    found = recipes.make_data(depth_data(name, 1))(1, seeded())
    there = stored(found["clean"])
    assert set(there.unique().tolist()) == set(numbers_there)
    assert torch.equal(found["valid"], (there > 0) & (there < farthest))


def test_every_batch_comes_from_one_data_set_by_its_share(disk, monkeypatch):
    small = {
        "Hypersim": datasets.DepthSet(1000, 65, 0.9, size=(8, 8)),
        "VKITTI": datasets.DepthSet(100, 80, 0.1, crop=(4, 12)),
    }
    assert {name: (rules.share, rules.shape) for name, rules in datasets.DEPTH_SETS.items()} == {
        "Hypersim": (0.9, (480, 640)), "VKITTI": (0.1, (352, 1216))}  # fmt: skip
    monkeypatch.setattr(datasets, "DEPTH_SETS", small)
    for name, count in (("Hypersim", 2), ("VKITTI", 3)):
        for i in range(count):
            write_pair(disk / name, str(i), np.full((8, 12), 100 + i))
    make = recipes.make_data(depth_data("Hypersim+VKITTI", 5))
    drawn = [make(2, diffusion.BatchGenerator(0, step)) for step in range(400)]
    large = [found for found in drawn if found["depth"].shape == (2, 1, 8, 8)]
    assert all(found["depth"].shape == (2, 1, 4, 12) for found in drawn if found["depth"].shape[-1] != 8)
    assert 0.85 < len(large) / 400 < 0.95
    wide = [found for found in drawn if found["depth"].shape[-1] == 12]
    assert {x for found in wide for x in stored(found["clean"]).unique().tolist()} == {100, 101, 102}
    again = make(2, diffusion.BatchGenerator(0, 7))
    assert all(torch.equal(again[k], drawn[7][k]) for k in again)


def test_flips_of_pictures_from_disk_move_everything(disk, monkeypatch):
    monkeypatch.setattr(datasets, "DEPTH_SETS", {"Hypersim": datasets.DepthSet(1000, 65, 1.0, size=(8, 8))})
    ramp = np.arange(64).reshape(8, 8) * 100
    write_pair(disk / "Hypersim", "0", ramp)
    found = recipes.make_data(depth_data("Hypersim", 1, augment="flip"))(20, seeded())
    ramp = torch.from_numpy(ramp)
    turned = [bool(torch.equal(x[0], ramp.flip(-1))) for x in stored(found["clean"])]
    assert 4 < sum(turned) < 16
    for i, was in enumerate(turned):
        right = ramp.flip(-1) if was else ramp
        assert torch.equal(stored(found["clean"])[i, 0], right)
        close(found["depth"][i, 0], right / 1000, atol=1e-6)
        assert torch.equal(found["valid"][i, 0], right > 0)


def test_what_is_missing_is_named(disk):
    data = depth_data("Hypersim+VKITTI", 3)
    write_pair(disk / "Hypersim", "0", np.full((8, 8), 5))
    (line,) = recipes.missing_data(data)
    assert line == ("3 pairs rgb/NAME, depth/NAME (16 bit) in Hypersim/ and VKITTI/ of the datasets directory "
                    "(found 1); set MINIRESTORE_DATASETS")  # fmt: skip
    with pytest.raises(FileNotFoundError, match="3 pairs rgb/NAME"):
        recipes.make_data(data)


def test_a_data_set_without_pictures_is_missing_however_many_another_has(disk):
    for i in range(3):
        write_pair(disk / "Hypersim", str(i), np.full((8, 8), 5))
    with pytest.raises(FileNotFoundError, match="VKITTI"):
        recipes.make_data(depth_data("Hypersim+VKITTI", 3))


def test_pictures_that_cannot_be_used_are_refused(disk):
    with pytest.raises(ValueError, match="expected depth:NAME with Hypersim, VKITTI, got 'KITTI'"):
        recipes.make_data(depth_data("KITTI", 1))
    write_pair(disk / "VKITTI", "small", np.ones((300, 1242)))
    with pytest.raises(ValueError, match="expected at least 1216 x 352 pixels, got 1242 x 300"):
        recipes.make_data(depth_data("VKITTI", 1))(1, seeded())
    write_pair(disk / "Hypersim", "0", np.ones((30, 40)))
    Image.fromarray(np.ones((31, 40), dtype=np.uint16)).save(disk / "Hypersim" / "depth" / "0.png")
    with pytest.raises(ValueError, match=r"expected the size of its picture, \(30, 40\), got \(31, 40\)"):
        recipes.make_data(depth_data("Hypersim", 1))(1, seeded())


def test_a_picture_without_depth_is_left_out(disk):
    for name in "ab":
        write_pair(disk / "Hypersim", name, np.ones((30, 40)))
    (disk / "Hypersim" / "depth" / "b.png").unlink()
    ((picture, depth),) = datasets.files("depth:Hypersim")
    assert (picture.parent.name, depth.parent.name, picture.name) == ("rgb", "depth", "a.png")


# ---------------------------------------------------------------- what it takes


@pytest.fixture(scope="module")
def macs():
    return {attention: costs.published_macs(512, 512, attention) for attention in (False, True)}


def test_multiply_adds_are_the_published_ones(macs):
    found = macs[False]
    assert {name: round(found[name], 2) for name in ("encoder", "decoder", "unet")} == {
        "encoder": 541.15, "decoder": 1240.08, "unet": 339.10}  # fmt: skip
    assert found["block"] == pytest.approx(4.325, abs=5e-4)
    assert found["doubled"] - found["unet"] == pytest.approx(4 * 320 * 9 * 64**2 / 1e9)
    with_text = {name: costs.total(found, calls) + costs.TEXT_MACS for name, calls in costs.PREDICTIONS.items()}
    assert [round(with_text[name], 1) for name in ("single step", "stage 2", "10 steps")] == [2142.6, 2146.9, 5195.0]


def test_attention_adds_what_it_multiplies(macs):
    found = macs[True]
    assert {name: round(found[name], 1) for name in ("encoder", "decoder", "unet")} == {
        "encoder": 558.3, "decoder": 1257.3, "unet": 402.1}  # fmt: skip
    assert found["block"] == macs[False]["block"]


def test_the_rivals_calls_are_counted():
    ones = dict.fromkeys(("encoder", "decoder", "unet", "block", "doubled"), 1.0)
    found = {name: costs.total(ones, calls) for name, calls in costs.PREDICTIONS.items()}
    assert found == {"single step": 3, "stage 2": 4, "10 steps": 12, "50 steps": 52, "10 samples of 50 steps": 511}


def test_a_multiply_add_is_two_operations():
    with torch.device("meta"):
        assert costs.count_macs(nn.Conv2d(3, 5, 3, padding=1), torch.empty(1, 3, 100, 100)) == 5 * 27 * 1e4 / 1e9


def test_a_dry_run_counts_both_stages(disk):
    lines, missing = recipes.dry_run("15", {"profile": "full"})
    words = [tuple(line.split()) for line in lines]
    for part, count in (("network", "865,910,724"), ("network", "944,565,444"), ("head", "6,689,280"),
                        ("teacher", "1,136,480,768"), ("autoencoder", "83,653,863")):  # fmt: skip
        assert ("parameters", part, count) in words
    assert any("1 x 20,000 steps" in line for line in lines) and any("1 x 10,000 steps" in line for line in lines)
    assert any(
        item.startswith("74033 pairs rgb/NAME, depth/NAME (16 bit) in Hypersim/ and VKITTI/") for item in missing
    )
