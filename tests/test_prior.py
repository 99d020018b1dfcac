"""The latent prior: autoencoders, noise predictor, guidance, and folders in the layout of Stable Diffusion."""

import dataclasses
import itertools
import json

import pytest
import torch

from minirestore import checkpoints, diffusion, metrics, photos, recipes, resources, scenes
from minirestore.prior import (
    Autoencoder,
    AutoencoderConfig,
    LatentPrior,
    LatentPriorConfig,
    load_autoencoder,
    load_prior,
)
from minirestore.prior.autoencoder import CODE_BATCHES

WIDTHS = (8, 8, 16)


def autoencoder(**settings):
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(widths=WIDTHS, **settings)).eval()


def prior(**settings):
    torch.manual_seed(1)
    config = LatentPriorConfig(widths=WIDTHS, head_channels=8, context_width=8, **settings)
    return LatentPrior(config, autoencoder()).eval()


def photographs(count=2, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


# ---------------------------------------------------------------- the autoencoder


def test_a_continuous_autoencoder_may_get_a_codebook():
    torch.manual_seed(1)
    model, x = autoencoder(layers=2, attention=True), 2 * photographs() - 1
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.deviation.fill_(0.7)
    other = model.with_codebook(64)
    assert (other.quantises, other.network.config.num_vq_embeddings) == (True, 64)
    torch.testing.assert_close(other.encode(x), model.encode(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.decode(model.encode(x), quantise=False), model.decode(model.encode(x)))
    assert other.with_codebook(8) is other


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_latents_are_four_times_smaller_and_scaled_by_the_deviation(kind):
    model, x = autoencoder(kind=kind), 2 * photographs() - 1
    raw = model.network.encode(x)
    raw = raw.latents if kind == "vq" else raw.latent_dist.mean
    model.deviation.fill_(2.5)
    z = model.encode(x)
    assert z.shape == (2, 4, 8, 8) and model.factor == 4 and model.channels == 4
    torch.testing.assert_close(z, raw / 2.5)
    torch.testing.assert_close(model.decode(z), model.network.decode(raw).sample)


def test_a_draw_from_the_posterior_has_its_mean_and_deviation():
    model, x = autoencoder(), 2 * photographs(1) - 1
    with torch.no_grad():
        posterior = model.network.encode(x).latent_dist
        draws = torch.stack([model.encode(x, diffusion.BatchGenerator(0, i)) for i in range(400)])
    error = (draws.mean(0) - posterior.mean) / (posterior.std / 20)
    assert error.abs().max() < 5 and 0.85 < error.std() < 1.15
    assert (draws.std(0) / posterior.std - 1).abs().mean() < 0.05


def test_gradients_pass_straight_through_the_codebook():
    model = autoencoder(kind="vq")
    z = model.encode(2 * photographs(1) - 1).detach().requires_grad_()
    nearest = model.network.quantize(z * model.deviation)[0].detach() / model.deviation
    (through,) = torch.autograd.grad(model.decode(z).square().sum(), z)
    at = nearest.clone().requires_grad_()
    (there,) = torch.autograd.grad(model.decode(at, quantise=False).square().sum(), at)
    torch.testing.assert_close(through, there, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.decode(z), model.decode(z, quantise=False))


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_losses_are_the_squared_error_and_the_regulariser(kind):
    settings = {"kl_weight": 0.3, "commitment": 0.3, "chroma_weight": 0.0, "codebook_start": 0}
    model, data = autoencoder(kind=kind, **settings), {"clean": photographs()}
    model.deviation.fill_(2.0)
    x = 2 * data["clean"] - 1
    losses = model.training_losses(data, diffusion.BatchGenerator(3, 1), CODE_BATCHES)
    if kind == "kl":
        posterior = model.network.encode(x).latent_dist
        noise = diffusion.randn(posterior.mean.shape, diffusion.BatchGenerator(3, 1))
        output = model.network.decode(posterior.mean + posterior.std * noise).sample
        regulariser = posterior.kl().mean() / posterior.mean[0].numel()
    else:
        decoded = model.network(x)
        output, regulariser = decoded.sample, decoded.commit_loss.mean() / 4
    squared = (output - x).square().mean()
    torch.testing.assert_close(losses["squared_error"], squared)
    torch.testing.assert_close(losses["loss"], squared + 0.3 * regulariser)


def test_the_deviation_of_the_latents_is_measured_while_training():
    model, data = autoencoder(), {"clean": photographs(8)}
    with torch.no_grad():
        measured = model.network.encode(2 * data["clean"] - 1).latent_dist.mean.std().item()
    for step in range(3):
        model.training_losses(data, diffusion.BatchGenerator(0, step), step)
    assert model.deviation.item() == pytest.approx(measured, rel=1e-5)
    assert model.encode(2 * data["clean"] - 1).std().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (13, 22)])
def test_images_of_any_size_are_reconstructed(size):
    model = autoencoder()
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    out = model.reconstruct(x)
    assert out.shape == x.shape and out.min() >= 0 and out.max() <= 1
    if size == (32, 32):
        torch.testing.assert_close(out, ((model.decode(model.encode(2 * x - 1)) + 1) / 2).clamp(0, 1))


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="sides must be multiples of 4, got 30 x 32"):
        autoencoder().encode(torch.zeros(1, 3, 30, 32))


# ---------------------------------------------------------------- the noise predictor


def test_the_loss_is_the_error_of_the_noise():
    model, data = prior(empty_share=0.0), {"clean": photographs(4), "kind": torch.tensor([1, 2, 1, 2])}
    found = model.training_losses(data, diffusion.BatchGenerator(5, 1), 0)["loss"]
    source = diffusion.BatchGenerator(5, 1)
    z = model.encode(2 * data["clean"] - 1, source)
    noise = diffusion.randn(z.shape, source)
    t = (diffusion.rand((4,), source) * 1000).long()
    z_t = diffusion.add_noise(z, noise, model.alpha_bar[t])
    out = model.network(z_t, t, encoder_hidden_states=model.context[data["kind"]]).sample
    torch.testing.assert_close(found, (out - noise).square().mean())
    found.backward()
    assert all(p.grad is None for p in model.autoencoder.parameters())
    assert all(p.grad is not None for p in model.network.parameters())
    assert model.context.grad[1:].abs().sum() > 0 and model.context.grad[0].abs().sum() == 0


def test_kinds_are_withheld_from_their_share_of_the_images(monkeypatch):
    model, seen = prior(empty_share=0.25), []
    own = model.contexts
    monkeypatch.setattr(model, "contexts", lambda kinds, count=1: seen.append(kinds) or own(kinds, count))
    data = {"clean": photographs(1).expand(400, -1, -1, -1), "kind": torch.full((400,), 2)}
    monkeypatch.setattr(model, "encode", lambda x, generator: torch.zeros(len(x), 4, 8, 8))
    with torch.no_grad():
        model.training_losses(data, diffusion.BatchGenerator(0, 0), 0)
    assert set(seen[0].tolist()) == {0, 2}
    assert 70 <= (seen[0] == 0).sum() <= 130  # 100 +- 3.5 standard deviations


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_both_predictions_mean_the_same_noise(kind):
    z0, noise = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    t, model = torch.tensor([100, 900]), prior(prediction=kind)
    level = model.alpha_bar[t]
    answer = noise if kind == "epsilon" else diffusion.velocity(z0, noise, level)
    model.forward = lambda *_: answer
    torch.testing.assert_close(model.eps(diffusion.add_noise(z0, noise, level), t), noise, atol=1e-5, rtol=1e-5)


def test_guidance_extrapolates_from_the_empty_prompt():
    model = prior()
    z, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([300, 300])
    with torch.no_grad():
        kind, empty = (model.eps(z, t, model.contexts(k, 2)) for k in (1, 0))
        assert (kind - empty).abs().max() > 1e-4
        for w in (0.0, 1.0, 3.0):
            found = model.guided_eps(z, t, model.contexts(1, 2), w)
            torch.testing.assert_close(found, empty + w * (kind - empty), rtol=1e-4, atol=1e-5)


def test_sampling_is_ddim_at_trailing_times():
    model, seen = prior(), []
    own = model.eps
    model.eps = lambda z, t, context: seen.append(int(t[0])) or own(z, t, context)
    z = model.sample((1, 4, 8, 8), diffusion.BatchGenerator(0, 0), steps=4, kind=1)
    assert seen == [999, 749, 499, 249] and z.shape == (1, 4, 8, 8) and z.isfinite().all()
    assert torch.equal(z, model.sample((1, 4, 8, 8), diffusion.BatchGenerator(0, 0), steps=4, kind=1))


def test_the_middle_of_128_pixels_is_eight_by_eight():
    network = recipes.plan(recipes.MODELS["prior"], "reduced")[0]
    model = LatentPrior(network, Autoencoder(recipes.plan(recipes.MODELS["autoencoder"], "reduced")[0]))
    shapes = []
    model.network.mid_block.register_forward_hook(lambda m, inputs, out: shapes.append(tuple(out.shape)))
    with torch.no_grad():
        model(model.encode(torch.zeros(1, 3, 128, 128)), torch.zeros(1))
    assert shapes[0][2:] == (8, 8) and model.multiple == 16
    assert sum(p.numel() for p in model.parameters()) <= 2_500_000


def test_at_full_size_it_is_stable_diffusion():
    network = recipes.plan(recipes.MODELS["prior"], "full")[0]
    parts = resources.parameters_per_part(recipes.build(recipes.MODELS["prior"], network, device="meta"))
    assert parts == {"autoencoder": 83_653_863, "network": 865_910_724}  # 2.1, as released


# ---------------------------------------------------------------- on disk


def test_ours_is_written_and_opened_in_the_layout_of_stable_diffusion(tmp_path):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    model = prior(prediction="v_prediction")
    model.autoencoder.deviation.fill_(3.0)
    model.save_pretrained(tmp_path / "prior")
    checkpoints.seal(tmp_path / "prior", {"steps": 3})
    opened = load_prior(tmp_path / "prior")
    half = {k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    for key, value in opened.state_dict().items():
        torch.testing.assert_close(value, half[key], rtol=1e-6, atol=0)
    assert opened.scheduler["prediction_type"] == "v_prediction" and not opened.training
    assert opened.config.classes == 2 and opened.autoencoder.deviation.item() == pytest.approx(3, rel=1e-6)
    # diffusers itself opens both networks, with the measured factor
    vae = AutoencoderKL.from_pretrained(tmp_path / "prior", subfolder="vae")
    assert vae.config.scaling_factor == pytest.approx(1 / 3)
    UNet2DConditionModel.from_pretrained(tmp_path / "prior", subfolder="unet")
    assert load_autoencoder(tmp_path / "prior" / "vae").factor == 4
    weights = tmp_path / "prior" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="unet/diffusion_pytorch_model.safetensors is missing, new or damaged"):
        load_prior(tmp_path / "prior")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """A folder as Stable Diffusion 2.1 comes: four levels, text encoder and tokenizer, no context file."""
    transformers = pytest.importorskip("transformers")
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    folder = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16), layers_per_block=2, norm_num_groups=4, scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")  # fmt: skip
    UNet2DConditionModel(
        sample_size=96, block_out_channels=(8, 16, 16, 16), cross_attention_dim=12, attention_head_dim=[1, 2, 4, 4],
        norm_num_groups=4, use_linear_projection=True,
    ).save_pretrained(folder / "unet")  # fmt: skip
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    text = transformers.CLIPTextConfig(vocab_size=4, hidden_size=12, intermediate_size=16, num_hidden_layers=2,
                                       num_attention_heads=2, max_position_embeddings=7, bos_token_id=1,
                                       eos_token_id=2, pad_token_id=0)  # fmt: skip
    transformers.CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    vocabulary = {"!": 0, "<|startoftext|>": 1, "<|endoftext|>": 2, "a</w>": 3}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": 7, "pad_token": "!", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}  # fmt: skip
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_folder_of_stable_diffusion_opens_alike(miniature):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    opened = load_prior(miniature)
    assert opened.multiple == 64 and opened.autoencoder.factor == 8
    assert opened.context.shape == (1, 7, 12) and opened.config.classes == 0
    x = 2 * photographs(1, 64) - 1
    vae = AutoencoderKL.from_pretrained(miniature, subfolder="vae")
    torch.testing.assert_close(opened.encode(x), 0.18215 * vae.encode(x).latent_dist.mean)
    tokens = torch.tensor([[1, 2, 0, 0, 0, 0, 0]])  # start, end, padding
    text = CLIPTextModel.from_pretrained(miniature / "text_encoder")(tokens)[0]
    torch.testing.assert_close(opened.context.data, text)
    z, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    unet = UNet2DConditionModel.from_pretrained(miniature, subfolder="unet")
    v = unet(z, t, encoder_hidden_states=text).sample
    torch.testing.assert_close(opened(z, t), v)
    level = opened.alpha_bar[500]
    torch.testing.assert_close(opened.eps(z, t), level.sqrt().float() * v + (1 - level).sqrt().float() * z)
    loss = opened.training_losses({"clean": photographs(1, 64)}, diffusion.BatchGenerator(0, 0), 0)["loss"]
    assert loss.isfinite()


def test_nothing_is_downloaded_unless_asked(tmp_path):
    with pytest.raises(FileNotFoundError, match="not in the local cache of the hub; allow it with download=True"):
        load_prior("nobody/no-such-model")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_prior("no_such_prior")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="expected a folder in the layout of Stable Diffusion"):
        load_autoencoder(tmp_path / "empty")


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    small = {"images": 12, "image_size": 32, "batch_size": 4, "steps": 4, "warmup": 1, "widths": WIDTHS}
    recipes.train("autoencoder", "quick", {**small, "crop": 16}, run_dir=folder / "kl", device="cpu")
    recipes.train("vq", "quick", {**small, "crop": 16}, run_dir=folder / "vq", device="cpu")
    settings = {**small, "autoencoder": str(folder / "kl" / "autoencoder"), "crop": 32, "head_channels": 8}
    module, _ = recipes.train("prior", "quick", settings, run_dir=folder / "prior", device="cpu")
    return folder, module


def test_recipes_train_all_three_into_folders_that_open(trained):
    folder, _ = trained
    assert load_autoencoder(folder / "vq" / "vq").quantises
    opened, own = load_prior(folder / "prior" / "prior"), load_autoencoder(folder / "kl" / "autoencoder")
    assert torch.equal(opened.autoencoder.network.encoder.conv_in.weight, own.network.encoder.conv_in.weight)
    card = checkpoints.check_seal(folder / "prior" / "prior")
    assert card["steps"] == 4 and card["data"]["source"] == "mixed"


def test_a_training_starts_from_a_sealed_folder(trained, tmp_path):
    folder, module = trained
    small = {"images": 12, "image_size": 32, "batch_size": 4, "steps": 1, "learning_rate": 1e-9, "widths": WIDTHS}
    start = folder / "kl" / "autoencoder"
    found, _ = recipes.train("autoencoder", "quick", small, run_dir=tmp_path / "kl", device="cpu", start=start)
    before = load_autoencoder(start).network.state_dict()
    for key, value in found.network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)
    card = checkpoints.read_card(tmp_path / "kl" / "autoencoder")
    assert card["start"].startswith("averaged weights, sha256 ")

    settings = {**small, "autoencoder": str(start), "crop": 32, "head_channels": 8}
    start = folder / "prior" / "prior"
    found, _ = recipes.train("prior", "quick", settings, run_dir=tmp_path / "prior", device="cpu", start=start)
    for key, value in found.network.state_dict().items():
        torch.testing.assert_close(value, module.network.state_dict()[key], rtol=1e-3, atol=1e-4)  # kept as float16
    wider, start = {**small, "widths": (8, 16, 16)}, folder / "kl" / "autoencoder"
    with pytest.raises(ValueError, match="has widths = .*, and .* is asked for"):
        recipes.train("autoencoder", "quick", wider, run_dir=tmp_path / "no", start=start)


def test_a_codebook_is_trained_behind_the_encoder_of_a_continuous_autoencoder(trained, tmp_path):
    start = trained[0] / "kl" / "autoencoder"
    settings = {"images": 12, "image_size": 32, "crop": 16, "batch_size": 4, "steps": 8, "widths": WIDTHS}
    settings |= {"codebook_start": 0, "codes": 32, "warmup": 0}
    recipes.train("vq", "quick", settings, run_dir=tmp_path, device="cpu", start=start)
    before, after = load_autoencoder(start).with_codebook(32).network, load_autoencoder(tmp_path / "vq").network
    for a, b in zip(after.encoder.parameters(), before.encoder.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)  # kept as float16
    assert (after.decoder.conv_in.weight - before.decoder.conv_in.weight).abs().max() > 1e-3


def test_a_checkpoint_leaves_the_frozen_autoencoder_out(trained):
    folder, module = trained
    tensors, card = checkpoints.load(folder / "prior" / "prior.safetensors")
    assert not any(key.startswith("autoencoder.") for key in tensors)
    assert card["parameters"] == sum(p.numel() for p in module.network.parameters()) + module.context.numel()
    loaded = recipes.load_method("prior", folder / "prior" / "prior.safetensors", "cpu")
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, module.state_dict()[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "least", "retina"), [("prior/vae", 29.5, 40.0), ("vq", 27.5, 33.0)])
def test_the_shipped_autoencoders_keep_photographs_and_their_colours(name, least, retina):
    model, means, offsets = load_autoencoder(name), {}, {}
    for photograph in (*photos.EVALUATION, "retina"):
        x = photos.crops(photograph, 256)
        with torch.no_grad():
            kept = model.reconstruct(x)
        means[photograph] = metrics.psnr(kept, x).mean().item()
        offsets[photograph] = metrics.METRICS["colour_offset"].function(kept, x).max().item()
    assert means.pop("retina") >= retina
    assert sum(means.values()) / 6 >= least
    assert max(offsets.values()) < 0.02
    card = checkpoints.read_card(name)
    assert card["parameters"] < 800_000 and card["wall_time_s"] > 0


def test_the_shipped_autoencoder_keeps_depth_drawn_in_grey():
    model, found = load_autoencoder("prior/vae"), []
    for family in recipes.data.DEFAULT_FAMILIES:
        part = scenes.render_scenes(4, 160, 500, family=family)
        depth, valid = part["depth"], part["valid"]
        grey = recipes.depth_as_grey(depth, valid)
        with torch.no_grad():
            kept = model.reconstruct(grey.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
        drawn, metres = (metrics.align_depth(z, depth, valid, minimum=0.1).depth for z in (grey, kept))
        found.append(metrics.abs_rel(metres, drawn, valid).mean().item())
    assert sum(found) / len(found) <= 0.012


def test_mixed_batches_know_their_kinds():
    make = recipes.make_data(recipes.DataConfig("mixed_depth", images=12, image_size=32, crop=16, sigma=0.0))
    batch = make(60, torch.Generator().manual_seed(0))
    assert set(batch["kind"].tolist()) == {1, 2, 3}
    colour = batch["clean"].max(1).values - batch["clean"].min(1).values
    assert (colour[batch["kind"] == 3] == 0).all() and (colour[batch["kind"] < 3].amax((1, 2)) > 0).any()
    make = recipes.make_data(recipes.DataConfig("mixed", images=12, image_size=32, crop=16, sigma=0.0))
    assert set(make(60, torch.Generator().manual_seed(0))["kind"].tolist()) == {1, 2}


def test_recoloured_crops_have_all_orders_of_channels_and_more_chroma():
    data = recipes.DataConfig("mixed_depth", images=12, image_size=32, crop=16, sigma=0.0)
    plain = recipes.make_data(data)(200, torch.Generator().manual_seed(0))
    recoloured = recipes.make_data(dataclasses.replace(data, recolour=1.0))
    batch = recoloured(200, torch.Generator().manual_seed(0))
    assert torch.equal(batch["kind"], plain["kind"]) and batch["clean"].min() >= 0 and batch["clean"].max() <= 1
    orders, seen, factors = list(itertools.permutations(range(3))), set(), []
    for before, after, kind in zip(plain["clean"], batch["clean"], plain["kind"], strict=True):
        if kind == 3:
            torch.testing.assert_close(after, before)
            continue
        inside = ((after > 0) & (after < 1)).all(0)  # not clipped
        chroma = {order: (before - before.mean(0))[list(order)][:, inside] for order in orders}
        target = (after - after.mean(0))[:, inside]
        fits = {}
        for order, c in chroma.items():
            if c.square().sum() > 0.1:
                factor = ((c * target).sum() / c.square().sum()).item()
                if (factor * c - target).abs().max() < 1e-5:
                    fits[order] = factor
        if len(fits) == 1:
            seen |= set(fits)
            factors += fits.values()
    assert seen == set(orders) and len(factors) > 60
    assert 1 <= min(factors) < 1.2 and 2.5 < max(factors) <= 3.0001
    some = recipes.make_data(dataclasses.replace(data, recolour=0.25))(200, torch.Generator().manual_seed(0))["clean"]
    coloured = plain["kind"] < 3
    kept = (some == plain["clean"]).flatten(1).all(1)[coloured].float().mean().item()
    assert abs(kept - 0.75) < 4 * (0.75 * 0.25 / coloured.sum().item()) ** 0.5
    with pytest.raises(ValueError, match="recolour: for"):
        recipes.DataConfig("scenes", recolour=1.0)
    with pytest.raises(ValueError, match="recolour: a share"):
        recipes.DataConfig("mixed", recolour=2.0)


def test_the_chroma_of_blocks_counts_apart():
    model = Autoencoder(AutoencoderConfig(widths=(8, 8, 8), kl_weight=0.0, chroma_weight=2.0))
    model.network.decode = lambda z: type("Out", (), {"sample": shifted})()
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    checkers = torch.tensor([1.0, -1.0]).repeat(8) * torch.tensor([1.0, -1.0]).repeat(8)[:, None]

    def losses(change):
        nonlocal shifted
        shifted = 2 * x - 1 + change
        return model.training_losses({"clean": x}, diffusion.BatchGenerator(0, 0), 0)

    shifted = None
    bright = losses(torch.full((2, 3, 16, 16), 0.3))
    assert bright["chroma_error"].item() == pytest.approx(0, abs=1e-10)
    assert bright["loss"].item() == pytest.approx(0.09, rel=1e-4)
    fine = losses(0.3 * checkers * torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1))
    assert fine["chroma_error"].item() == pytest.approx(0, abs=1e-10), "averages out in a block"
    tint = losses(torch.tensor([0.3, -0.3, 0.0]).view(1, 3, 1, 1).expand(2, 3, 16, 16))
    assert tint["chroma_error"].item() == pytest.approx(0.06, rel=1e-4)
    assert tint["loss"].item() == pytest.approx(3 * 0.06, rel=1e-4)


def test_the_codebook_begins_as_latents_of_its_first_batches():
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(kind="vq", widths=(8, 8, 8), codes=64, codebook_start=2))
    network, codes = model.network, model.network.quantize.embedding.weight
    before, batch = codes.clone(), {"clean": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
    x = 2 * batch["clean"] - 1
    early = model.training_losses(batch, diffusion.BatchGenerator(0, 1), 1)
    plain = network.decode(network.encode(x).latents, force_not_quantize=True).sample
    torch.testing.assert_close(early["squared_error"], (plain - x).square().mean())
    assert early["regulariser"] == 0 and torch.equal(codes, before)
    for number in range(CODE_BATCHES):
        one = {"clean": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(10 + number))}
        model.training_losses(one, diffusion.BatchGenerator(0, number), 2 + number)
        latents = network.encode(2 * one["clean"] - 1).latents.movedim(1, -1).reshape(-1, 4).detach()
        distances = (codes[number::CODE_BATCHES].detach()[:, None] - latents).norm(dim=2)
        assert distances.min(1).values.max() < 1e-5 and distances.argmin(1).unique().numel() == 2, "two other latents"
    begun = codes.detach().clone()
    late = model.training_losses(batch, diffusion.BatchGenerator(0, 3), 2 + CODE_BATCHES)
    assert torch.equal(codes, begun)
    late["loss"].backward()
    assert all(p.grad is None for p in network.encoder.parameters()), "the encoder is finished"
    assert codes.grad.abs().sum() > 0 and network.decoder.conv_in.weight.grad.abs().sum() > 0
    quantised = network.decode(network.encode(x).latents).sample
    torch.testing.assert_close(late["squared_error"], (quantised - x).square().mean())


@pytest.mark.parametrize("profile", ["quick", "reduced", "full"])
def test_the_encoder_has_time_before_the_codes_and_the_codes_after_it(profile):
    network, _, run = recipes.plan(recipes.MODELS["vq"], profile)
    assert run.steps / 4 < network.codebook_start < run.steps * 3 / 4


@pytest.mark.parametrize("number", ["06", "11", "12"])
@pytest.mark.parametrize("profile", ["reduced", "full"])
def test_a_dry_run_knows_what_batches_the_latent_models_take(number, profile):
    lines, _ = recipes.dry_run(number, {"profile": profile})
    trained = [line.split(" at profile")[0] for line in lines if " at profile " in line]
    expected = {"06": ["autoencoder", "vq", "prior"]}.get(
        number, ["resshift stage=teacher", "resshift stage=student", "hf_error_map"]
    )
    assert trained == expected


def test_depth_in_grey_is_black_where_near_and_white_in_the_sky():
    depth = torch.linspace(1, 11, 101).reshape(1, 1, 1, 101).clone()
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[..., 50] = False
    grey = recipes.depth_as_grey(depth, valid)[0, 0, 0]
    assert grey[:2].tolist() == [0, 0] and grey[-2:].tolist() == [1, 1] and grey[50] == 1
    assert (grey.diff()[3:40] > 0).all()


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (AutoencoderConfig, {"kind": "vae"}, "kind: expected one of kl, vq"),
        (AutoencoderConfig, {"layers": 0}, "layers: must be at least 1"),
        (AutoencoderConfig, {"groups": 5}, "widths: expected positive multiples of 5"),
        (AutoencoderConfig, {"kl_weight": -1.0}, "must not be negative"),
        (LatentPriorConfig, {"prediction": "x0"}, "prediction: expected one of"),
        (LatentPriorConfig, {"widths": (12, 16)}, "multiples of 8 groups"),
        (LatentPriorConfig, {"head_channels": 5}, "head_channels: must divide"),
        (LatentPriorConfig, {"attention": (3,)}, "attention: levels are 0 to 2, got 3"),
        (LatentPriorConfig, {"empty_share": 1.5}, "empty_share"),
    ],
)
def test_wrong_settings_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)
