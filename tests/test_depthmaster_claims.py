"""The claims of DepthMaster: scenes, alignment, arms, effects, what needs no network, and some rehearsals."""

import dataclasses
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minirestore import checkpoints, claims, config, metrics, photos, recipes, scenes
from minirestore.claims import shared
from minirestore.claims.depthmaster import common, exact
from minirestore.claims.verdicts import effects
from minirestore.papers import depthmaster as paper
from minirestore.papers.depthmaster import costs
from minirestore.recipes.data import DEFAULT_FAMILIES
from minirestore.training import TrainingConfig

CLAIMS = claims.load_claims()
OURS = [id for id in CLAIMS if id.startswith("depth.")]
TRAINED = [id for id in OURS if CLAIMS[id].trained]
TESTED = [id for id in OURS if not CLAIMS[id].not_testable]
EXACT = [id for id in TESTED if not CLAIMS[id].trained]
CONTROLS = ("1b", "2b", "2c", "4b", "5b", "6b", "7b", "8b", "14b", "17b", "18b", "18c")
needs_weights = pytest.mark.skipif(
    not all(checkpoints.is_present(name) for name in ("prior", "features")), reason="the prior is not trained yet"
)


def claim_of(id):
    return CLAIMS[f"depth.{id}"]


def rows(table):
    """Ledger rows from ``{(seed, arm, image): {metric: value}}``."""
    return [{"seed": seed, "arm": arm, "image": image, **values} for (seed, arm, image), values in table.items()]


def job_of(id, arm, folder, seed=0, rehearsal=False, **settings):
    claim = claim_of(id)
    protocol = claim.rehearsal_protocol() if rehearsal else claim.protocol
    protocol = dataclasses.replace(protocol, settings={**protocol.settings, **settings})
    return claims.Job(claim, arm, seed, protocol, folder / "id" / "hash" / "arm")


class Fake:
    """Predicts a picture's brightness plus noise of its generator; an autoencoder that keeps everything, times a half.

    It remembers the options that it was asked with.
    """

    def __init__(self, noise=0.0, space="sqrt_disparity", gain=1.0):
        self.noise, self.gain, self.asked = noise, gain, []
        self.config = SimpleNamespace(space=space, quantiles=(0.02, 0.98))
        self.autoencoder = SimpleNamespace(encode=lambda x: x / 2, decode=lambda z: 2 * z)

    def predict(self, image, generator=None, **options):
        self.asked.append(options)
        found = self.gain * image.mean(1, keepdim=True)
        if not self.noise:
            return found
        return found + self.noise * torch.randn(found.shape, generator=generator)


@pytest.fixture
def models(monkeypatch, tmp_path):
    """Fakes in the place of trained networks, by arm; what was trained is remembered as (arm, seed)."""
    found = SimpleNamespace(model=Fake(), trained=[])

    def trained(job, arm):
        found.trained.append((arm, job.seed))
        return tmp_path / f"{arm} {job.seed}"

    monkeypatch.setattr(common, "trained", trained)
    monkeypatch.setattr(common, "load", lambda method, checkpoint, device: found.model)
    common._measured.cache_clear()
    yield found
    common._measured.cache_clear()


@pytest.fixture
def digests(monkeypatch):
    """The digests of shipped checkpoints, whether they are there or not; change them at will."""
    known = {"prior": "a", "features": "b", "depthmaster": "c", "depthmaster_stage1": "d"}
    monkeypatch.setattr(checkpoints, "read_card", lambda name: {"sha256": known[str(name)]})
    return known


# ---------------------------------------------------------------- what is there


def test_all_claims_are_there():
    assert {"depth.P1", *(f"depth.C{i}" for i in (*range(1, 21), *CONTROLS))} == set(OURS)
    assert {id for id in OURS if CLAIMS[id].not_testable} == {"depth.C11", "depth.C20"}
    wanted = {f"depth.C{i}" for i in ("1", "1b", "3", "5", "5b", "6", "7", "7b", "19")}
    assert set(EXACT) == wanted and len(TRAINED) == len(OURS) - len(wanted) - 2
    assert {CLAIMS[id].tier for id in TESTED} == {"cpu", "gpu"} and claim_of("C15").tier == "gpu"


def test_everything_trained_has_three_seeds_and_is_of_use():
    assert {CLAIMS[id].protocol.seeds for id in TRAINED} == {(0, 1, 2)}
    named, starts = set(), set()
    for id in TRAINED:
        protocol = CLAIMS[id].protocol
        named |= networks_of(id)
        starts |= {arm["start"] for arm in protocol.settings["arms"].values() if "start" in arm}
    assert named == set(common.ARMS) and starts == {"plain"}


def test_the_missing_controls_are_arms():
    for id, arm in {"C4": "plain, longer", "C8": "random teacher", "C17": "latents again", "C18": "spatial",
                    "C16": "pixels at once", "C18c": "Fourier, released", "C2": "ten steps, 2023"}.items():  # fmt: skip
        assert arm in claim_of(id).protocol.arms


def test_what_is_ours_has_no_effect_of_the_paper():
    for id in TESTED:
        if "(ours)" in CLAIMS[id].where:
            assert CLAIMS[id].paper_value is None
            assert any(word in CLAIMS[id].paper_effect for word in ("not compared", "not shown"))


@pytest.mark.parametrize(
    "same",
    [("C1", "C1b"), ("C2", "C2b"), ("C4", "C4b"), ("C8", "C8b", "C9", "C10"), ("C13", "C16", "C17", "C17b"),
     ("C14", "C14b"), ("C18", "C18b", "C18c")],
)  # fmt: skip
def test_claims_on_the_same_numbers_have_the_same_protocol(same):
    assert len({claim_of(id).protocol.hash for id in same}) == 1


def test_each_claim_has_its_own_contrast_on_its_numbers():
    told = {(CLAIMS[id].protocol.hash, CLAIMS[id].primary, CLAIMS[id].contrast) for id in TESTED}
    assert len(told) == len(TESTED)


# ---------------------------------------------------------------- scenes


def test_scenes_of_the_test_are_not_those_of_the_trainings():
    recipe = recipes.find_recipe(common.PAPER, recipes.MODELS)
    settings, _ = common.training_settings(claim_of("C17").protocol.settings, "plain", 2)
    data, run = recipes.plan(recipe, "reduced", settings)[1:]
    assert (data.source, data.seed, run.seed) == ("rgbd", 0, 2)
    assert data.families == common.SEEN and data.seed != common.FIRST_SEED
    assert sorted((*common.SEEN, *common.UNSEEN)) == sorted(DEFAULT_FAMILIES) and len(common.UNSEEN) == 2
    for name in ("prior", "features", "autoencoder"):
        assert recipes.plan(recipes.find_recipe(name, recipes.MODELS), "reduced")[1].seed == 0


def test_a_trained_claim_is_measured_on_four_groups_of_every_family():
    wanted = {f"{family}/{i}" for family in DEFAULT_FAMILIES for i in range(4)}
    assert all(set(CLAIMS[id].protocol.images) == wanted for id in TRAINED if id != "depth.P1")


def test_groups_are_disjoint_scenes_of_the_seed():
    drawn = [common.scenes_of(f"boxes/{i}", side=16)[0] for i in range(2)]
    right = scenes.render_scenes(2 * common.GROUP, 16, common.FIRST_SEED, family="boxes")
    assert torch.equal(torch.cat(drawn), right["image"])
    assert torch.equal(common.scenes_of("boxes/1", count=1, side=16)[0], right["image"][1:2])


def test_a_scene_has_a_name_and_is_a_cluster():
    names = exact.scene_names("street", "room", count=3)
    assert names == ("street 0/0", "street 1/0", "street 2/0", "room 0/0", "room 1/0", "room 2/0")
    for id in EXACT:
        images = CLAIMS[id].protocol.images
        assert len(CLAIMS[id].protocol.photographs) == len(images)
        assert CLAIMS[id].clusters == ("sizes" if images == exact.SIZES else "scenes")
    image, depth, valid = exact.scene("street 3/0")
    right = scenes.render_scenes(1, 128, common.FIRST_SEED, family="street", start=3)
    assert torch.equal(image, right["image"]) and torch.equal(depth, right["depth"])
    assert image.shape == (1, 3, 128, 128) and depth.shape == valid.shape == (1, 1, 128, 128)


def test_what_families_a_claim_of_targets_looks_at():
    def families(id):
        return {image.split()[0] for image in claim_of(id).protocol.images}

    assert {id: families(id) for id in ("C5", "C5b", "C6", "C7", "C7b")} == {
        "C5": {"street"}, "C5b": {"room"}, "C6": {"street", "room"}, "C7": {"street"}, "C7b": {"room"},
    }  # fmt: skip
    assert families("C1") == set(DEFAULT_FAMILIES)


def test_twins_share_their_geometry_and_nothing_that_is_painted():
    for family in ("street", "text"):
        (image, depth, valid), (other, *same) = (common.scenes_of(f"{family}/1", m, side=32) for m in (0, 1))
        assert torch.equal(depth, same[0]) and torch.equal(valid, same[1])
        assert ((image - other).abs() > 0.02).float().mean() > 0.5


def test_nothing_from_80_metres_on_is_valid():
    _, depth, valid = common.scenes_of("street/0", side=32)
    drawn = scenes.render_scenes(4, 32, common.FIRST_SEED, family="street")
    assert not valid[depth >= 80].any() and valid[(depth < 80) & drawn["valid"]].all()
    assert not valid[~drawn["valid"]].any() and (~drawn["valid"]).any(), "a street has a sky"
    assert (drawn["valid"] & (depth >= 80)).any(), "and something behind"


# ---------------------------------------------------------------- alignment


def landscape(seed=0, count=2, side=12):
    """Depth from 2 to 30 m with a hole, in which there is a distance that no valid pixel has."""
    generator = torch.Generator().manual_seed(seed)
    depth = 2 + 28 * torch.rand(count, 1, side, side, generator=generator)
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[..., 2:5, 3:6] = False
    depth[~valid] = 300.0
    return depth, valid


@pytest.mark.parametrize("space", exact.SPACES)
def test_alignment_finds_scale_and_shift_in_its_own_space(space):
    depth, valid = landscape()
    relative = 0.3 * paper.to_space(depth, space) + 0.05
    found = common.aligned(relative, depth, valid, space)
    assert (found - depth)[valid].abs().max() < 1e-3
    others = [common.aligned(relative, depth, valid, other) for other in exact.SPACES if other != space]
    assert all((other - depth)[valid].abs().mean() > 0.1 for other in others)


@pytest.mark.parametrize("space", exact.SPACES)
def test_nothing_is_nearer_or_further_than_what_is_true(space):
    depth, valid = landscape(side=64)
    wild = paper.to_space(depth, space)
    for i, (row, column) in enumerate(((9, 9), (3, 4))):  # the second one is not valid
        wild[..., row, column], wild[..., row, column + 1] = wild.max() * 2 + i, -wild.max() * 2 - i
    found = common.aligned(wild, depth, valid, space)
    low, high = depth[valid].min().item(), depth[valid].max().item()
    assert found.min().item() == pytest.approx(low) and found.max().item() == pytest.approx(high) and high < 31


def test_what_is_compared_are_the_metrics_means():
    depth, valid = landscape(count=3)
    found = common.compare(1.2 * depth, depth, valid)
    each = {"abs_rel": metrics.abs_rel, "delta1": metrics.delta1, "boundary_f1": metrics.boundary_f1}
    assert found == {name: pytest.approx(f(1.2 * depth, depth, valid).mean().item()) for name, f in each.items()}
    assert found["abs_rel"] == pytest.approx(0.2) and set(found) == set(common.METRICS) - {"texture_spread"}


# ---------------------------------------------------------------- what is measured of a trained arm


def test_a_group_is_measured_as_written_out(models, tmp_path):
    groups = ["boxes/0", "street/0"]
    found = common.measure_trained(job_of("C17", "pixels", tmp_path, 2), groups)
    assert models.trained == [("pixels", 2)] and set(found) == set(groups)
    for group in groups:
        (image, depth, valid), (twin, *_) = (common.scenes_of(group, m) for m in (0, 1))
        metres = [common.aligned(x.mean(1, keepdim=True), depth, valid, "sqrt_disparity") for x in (image, twin)]
        spread = ((metres[0] - metres[1]).abs()[valid] / depth[valid]).mean().item()
        right = {**common.compare(metres[0], depth, valid), "texture_spread": spread}
        assert found[group] == pytest.approx(right, rel=1e-6) and spread > 0.01
    alone = common.measure_trained(job_of("C17", "pixels", tmp_path, 2), groups[1:])
    assert alone == {"street/0": found["street/0"]}


def test_a_constant_map_has_no_texture_and_is_no_good(models, tmp_path):
    models.model = Fake(gain=0.0)
    found = common.measure_trained(job_of("C17", "plain", tmp_path), ["boxes/0"])["boxes/0"]
    assert found["texture_spread"] == 0 and found["boundary_f1"] == 0 and found["abs_rel"] > 0.1


def test_the_space_is_that_of_the_model(models, tmp_path):
    image, depth, valid = common.scenes_of("boxes/0")
    for space in exact.SPACES:
        models.model = Fake(space=space)
        common._measured.cache_clear()
        found = common.measure_trained(job_of("C6b", "plain", tmp_path), ["boxes/0"])["boxes/0"]
        right = common.compare(common.aligned(image.mean(1, keepdim=True), depth, valid, space), depth, valid)
        assert {name: found[name] for name in right} == pytest.approx(right, rel=1e-6)


def test_the_seed_counts_where_noise_is_drawn_and_nowhere_else(models):
    def measured(seed, checkpoint="x"):
        return common._measured(checkpoint, (), "boxes/0", seed, "cpu")

    assert measured(0) == measured(1)
    models.model = Fake(noise=0.2)
    common._measured.cache_clear()
    noisy = [measured(seed) for seed in (0, 1)]
    assert noisy[0] != noisy[1]
    common._measured.cache_clear()
    assert [measured(seed) for seed in (0, 1)] == noisy
    models.model = Fake(noise=0.4)
    assert measured(0) == noisy[0] != measured(0, "another")  # what is kept belongs to a checkpoint


@pytest.mark.parametrize(
    ("id", "arm", "network", "options"),
    [
        ("C2", "plain", "plain", {}),
        ("C2", "ten steps", "denoising", {"calls": 10}),
        ("C2b", "one step", "denoising", {"calls": 1}),
        ("C2", "ten steps, 2023", "denoising, 2023", {"calls": 10}),
        ("C2b", "one step, 2023", "denoising, 2023", {"calls": 1}),
        ("C4", "unrolled", "unrolled", {}),
        ("C4b", "called twice", "plain", {"calls": 2}),
        ("C12", "aligned, down1", "aligned, down1", {}),
    ],
)
def test_what_is_asked_of_which_network(id, arm, network, options, models, tmp_path):
    claim_of(id).measure(job_of(id, arm, tmp_path, 1), ["boxes/0"])
    assert models.trained == [(network, 1)] and models.model.asked == [{**options, "longer_side": 0}] * 2
    assert set(options) <= set(inspect.signature(paper.DepthMaster.predict).parameters)


# ---------------------------------------------------------------- trained arms


def planned(arm, seed=2, **settings):
    """What an arm is trained with: its network's, its data's and its run's options by name."""
    settings = {**common.protocol(tuple(common.ARMS)).settings, **settings}
    recipe = recipes.find_recipe(common.PAPER, recipes.MODELS)
    made, start = common.training_settings(settings, arm, seed)
    parts = recipes.plan(recipe, settings["profile"], made)
    return {key: value for part in parts for key, value in dataclasses.asdict(part).items()} | {"start": start}


def apart(one, other):
    one, other = planned(one), planned(other)
    return {key: value for key, value in one.items() if value != other[key]}


PIXELS = {"stage": "second", "batch_size": 4, "steps": 200, "warmup": 20, "learning_rate": 2e-4, "ema_decay": 0.99,
          "start": "plain"}  # fmt: skip
AT_ONCE = {"stage": "second", "batch_size": 4, "steps": 700, "ema_decay": 0.99}


@pytest.mark.parametrize(
    ("arm", "other", "wanted"),
    [
        ("plain, longer", "plain", {"steps": 1000}),
        ("varied", "plain", {"zoom": 2.0, "jitter": 0.4, "unions": 0.5}),
        ("random weights", "plain", {"pretrained": False}),
        ("denoising", "plain", {"paradigm": "denoising"}),
        ("denoising, 2023", "denoising", {"spacing": "leading"}),
        ("unrolled", "plain", {"paradigm": "unrolled", "calls": 2}),
        ("aligned", "plain", {"teacher": "features"}),
        ("aligned per token", "aligned", {"alignment_reduction": "token"}),
        ("random teacher", "aligned", {"teacher": "random"}),
        ("aligned, down1", "aligned", {"tap": "down1"}),
        ("depth", "plain", {"space": "depth"}),
        ("disparity", "plain", {"space": "disparity"}),
        ("pixels", "plain", {**PIXELS, "enhancement": "none", "gradient_weight": 0.0}),
        ("pixels + L_h", "pixels", {"gradient_weight": 1e-3}),
        ("pixels + Huber", "pixels + L_h", {"gradient_kind": "huber"}),
        ("Fourier", "pixels + L_h", {"enhancement": "residual"}),
        ("Fourier, released", "Fourier", {"enhancement": "released"}),
        ("spatial", "Fourier", {"enhancement": "spatial"}),
        ("latents again", "plain", {k: v for k, v in PIXELS.items() if k not in ("stage", "ema_decay")}),
        ("pixels at once", "plain", {**AT_ONCE, "enhancement": "none", "gradient_weight": 0.0}),
        ("pixels + L_h at once", "pixels at once", {"gradient_weight": 1e-3}),
        ("Fourier at once", "pixels + L_h at once", {"enhancement": "residual"}),
    ],
)
def test_two_arms_differ_in_what_they_name(arm, other, wanted):
    assert apart(arm, other) == wanted


def test_the_plain_arm_is_a_single_step_without_a_teacher_in_a_small_budget():
    found = planned("plain", seed=3)
    assert (found["stage"], found["paradigm"], found["teacher"], found["start"]) == ("first", "single_step", "none", "")
    assert (found["space"], found["tap"], found["pretrained"], found["prior"]) == (
        "sqrt_disparity", "middle", True, "prior",
    )  # fmt: skip
    assert (found["steps"], found["batch_size"], found["warmup"], found["seed"]) == (500, 8, 50, 3)
    assert (found["images"], found["prepared"], found["image_size"], found["crop"]) == (800, 800, 128, 128)


def test_arithmetic_and_lengths_that_claims_call_equal_are():
    """Two calls of every step cost as much as twice the steps; two stages have the steps of the one."""
    unrolled, longer, plain = (planned(arm) for arm in ("unrolled", "plain, longer", "plain"))
    assert unrolled["calls"] * unrolled["steps"] == longer["steps"] == 2 * plain["steps"]
    pixels, again, once = (planned(arm) for arm in ("pixels", "latents again", "pixels at once"))
    for name in ("steps", "batch_size", "learning_rate", "warmup", "start"):
        assert pixels[name] == again[name]
    assert plain["steps"] + pixels["steps"] == once["steps"]


def test_the_average_of_the_weights_is_the_same_where_its_decay_differs():
    """Short runs begin with a smaller decay, (1 + n) / (10 + n), which stays below both."""
    longest = max(arm["steps"] for name, arm in common.ARMS.items() if arm.get("stage") == "second")
    assert TrainingConfig.ema_warmup and (1 + longest) / (10 + longest) < 0.99 < TrainingConfig.ema_decay


def test_blocks_of_the_control_have_equally_many_parameters():
    with torch.device("meta"):
        block, control = (paper.FourierEnhancement(64, **options) for options in ({}, {"spectral": False}))
    counts = [sum(p.numel() for p in x.parameters()) for x in (block, control)]
    assert counts[0] == counts[1] > 48 * 64**2


@pytest.mark.parametrize("arm", common.ARMS)
def test_a_rehearsal_bounds_the_length_of_every_arm(arm):
    found = planned(arm, **common.few()["settings"])
    assert (found["steps"], found["batch_size"], found["warmup"]) == (2, 1, 1)
    assert (found["images"], found["prepared"]) == (4, 4)
    kept = {k: v for k, v in common.ARMS[arm].items() if k not in ("steps", "batch_size", "warmup")}
    assert {k: found[k] for k in kept} == kept


def trained_with(monkeypatch):
    """A function that says in which folder an arm's training lies, after which others; nothing is trained."""

    def trained_file(job, *arguments):
        return shared.training_folder(job, *arguments) / "x.safetensors"

    monkeypatch.setattr(common, "trained_file", trained_file)
    return lambda job, arm: common.trained(job, arm).parent


def networks_of(id):
    protocol = CLAIMS[id].protocol
    arms = (arm for arm in protocol.arms if arm not in CLAIMS[id].shipped_arms)
    return {protocol.settings["sampling"].get(arm, {"arm": arm})["arm"] for arm in arms}


def test_claims_share_their_trainings(tmp_path, digests, monkeypatch):
    folder, found = trained_with(monkeypatch), {}
    for id in TRAINED:
        for arm in networks_of(id):
            for seed in (0, 1, 2):
                job = job_of(id.removeprefix("depth."), CLAIMS[id].protocol.arms[0], tmp_path, seed)
                found.setdefault((arm, seed), set()).add(folder(job, arm))
    assert all(len(folders) == 1 for folders in found.values())
    assert len(found) == len(set.union(*found.values())) == 3 * len(common.ARMS)


def test_a_second_stage_begins_with_the_first_of_its_seed(tmp_path, digests, monkeypatch):
    started = {}

    def trained_file(job, method, settings, start, frozen):
        file = shared.training_folder(job, method, settings, start, frozen) / "x.safetensors"
        started[file] = start
        assert frozen == ("prior", "features") and settings["seed"] == job.seed and "start" not in settings
        return file

    monkeypatch.setattr(common, "trained_file", trained_file)
    for arm, changes in common.ARMS.items():
        job = job_of("C17", "pixels", tmp_path, 1, arms=dict(common.ARMS))
        wanted = common.trained(job, "plain") if changes.get("start") else None
        assert started[common.trained(job, arm)] == wanted
    firsts = {common.trained(job_of("C17", "pixels", tmp_path, seed), "plain") for seed in (0, 1)}
    seconds = {common.trained(job_of("C17", "pixels", tmp_path, seed), "pixels") for seed in (0, 1)}
    assert len(firsts) == len(seconds) == 2 and {started[file] for file in seconds} == firsts


@pytest.mark.parametrize("changed", ["prior", "features"])
def test_trainings_on_other_frozen_networks_are_others(changed, tmp_path, digests, monkeypatch):
    folder, job = trained_with(monkeypatch), job_of("C17", "pixels", tmp_path)
    before = [folder(job, arm) for arm in ("plain", "pixels")]
    digests["depthmaster"] = "new"  # the shipped model is no part of a trained one
    assert [folder(job, arm) for arm in ("plain", "pixels")] == before
    digests[changed] = "new"
    assert not set(before) & {folder(job, arm) for arm in ("plain", "pixels")}


def test_what_is_done_at_the_test_does_not_name_a_training(tmp_path, digests, monkeypatch):
    folder = trained_with(monkeypatch)
    before = folder(job_of("C2", "ten steps", tmp_path), "denoising")
    other = {"sampling": {"ten steps": {"arm": "denoising", "calls": 7}}}
    assert folder(job_of("C2", "ten steps", tmp_path, **other), "denoising") == before
    assert folder(job_of("C2", "ten steps", tmp_path, rehearsal=True), "denoising") != before
    assert folder(job_of("C2", "ten steps", tmp_path, images=801), "denoising") != before


def test_a_protocol_names_the_settings_of_the_start_too():
    settings = claim_of("C14").protocol.settings
    assert set(settings["arms"]) == {"plain", "pixels", "pixels + L_h", "pixels + Huber"}
    assert set(claim_of("C2").protocol.settings["arms"]) == {"plain", "denoising", "denoising, 2023"}


# ---------------------------------------------------------------- effects


@pytest.mark.parametrize("id", TESTED)
def test_every_effect_is_finite_on_a_whole_grid(id):
    claim = CLAIMS[id]
    for protocol in (claim.protocol, claim.rehearsal_protocol()):
        generator = np.random.default_rng(0)
        grid = [
            {"seed": seed, "arm": arm, "image": image, **{m: 1 + generator.random() for m in protocol.metrics}}
            for seed, arm, image in sorted(protocol.cells)
        ]
        found = effects(claim, grid)
        assert found and np.isfinite(list(found.values())).all()
        assert set(found) == set(protocol.seeds if claim.trained else protocol.images)


# per claim: the arm that is shifted, a shift on the paper's side, the arm that it is compared with
SIDES = {
    "C1": ("reconstruction", -0.05, "model"),
    "C1b": ("reconstruction", 0.1, "model"),
    "C2": ("plain", -0.02, "ten steps"),
    "C2b": ("one step, 2023", 0.1, "one step"),
    "C2c": ("plain", -0.02, "random weights"),
    "C4": ("unrolled", -0.01, "plain"),
    "C4b": ("unrolled", -0.01, "plain, longer"),
    "C5": ("disparity", -0.02, "depth"),
    "C6": ("sqrt_disparity", -0.004, "disparity"),
    "C6b": ("plain", -0.01, "disparity"),
    "C7": ("sqrt_disparity", 0.02, "disparity"),
    "C7b": ("sqrt_disparity", 0.02, "disparity"),
    "C8": ("aligned", -0.01, "plain"),
    "C8b": ("aligned per token", -0.01, "aligned"),
    "C9": ("aligned per token", -0.02, "plain"),
    "C10": ("aligned", -0.01, "random teacher"),
    "C12": ("aligned", -0.01, "aligned, down1"),
    "C14": ("pixels + L_h", 0.01, "pixels"),
    "C14b": ("pixels + L_h", 0.01, "pixels + Huber"),
    "C15": ("Fourier at once", 0.01, "pixels + L_h at once"),
    "C16": ("pixels", 0.02, "pixels at once"),
    "C17": ("pixels", 0.02, "plain"),
    "C17b": ("pixels", 0.02, "latents again"),
    "C18": ("Fourier", 0.01, "pixels + L_h"),
    "C18b": ("Fourier", 0.01, "spatial"),
    "C18c": ("Fourier", 0.01, "Fourier, released"),
    "P1": ("varied", -0.02, "plain"),
}
ELSEWHERE = {"C3", "C5b", "C13", "C19"}  # where the paper's side does not begin at no effect
METRIC = {"C9": "texture_spread", "C7": "entropy", "C7b": "entropy"}
IN_F1 = ("C1b", "C13", "C14", "C14b", "C15", "C16", "C17", "C17b", "C18", "C18b", "C18c")


def said(id, shifts, scale=2e-4):
    """The assessment of rows with noise and these shifts, by arm; a single image has no others to average over."""
    claim, generator = claim_of(id), np.random.default_rng(0)
    scale /= 10 if len(claim.protocol.images) == 1 else 1
    return claims.assess(claim, rows({
        cell: {m: 1 + (m == claim.primary) * shifts.get(cell[1], 0.0) + generator.normal(scale=scale)
               for m in claim.protocol.metrics}
        for cell in sorted(claim.protocol.cells)
    }))  # fmt: skip


def test_every_claim_has_its_side():
    assert {f"depth.{id}" for id in (*SIDES, *ELSEWHERE)} == set(TESTED)
    for id in (id.removeprefix("depth.") for id in TESTED):
        usual = "macs" if id in ("C3", "C19") else "abs_rel"
        assert claim_of(id).primary == METRIC.get(id, "boundary_f1" if id in IN_F1 else usual)


@pytest.mark.parametrize("id", SIDES)
def test_the_papers_side_is_supported_and_the_other_contradicted(id):
    arm, size, other = SIDES[id]
    found = said(id, {arm: size})
    assert found.effect == pytest.approx(size, abs=2e-4)
    assert said(id, {other: size}).effect == pytest.approx(-size, abs=2e-4)
    assert [found.verdict, said(id, {arm: -size}).verdict] == ["supported", "contradicted"]
    for third in set(claim_of(id).protocol.arms) - {arm, other}:
        assert abs(said(id, {third: size}).effect) < 2e-4
    if claim_of(id).smallest:  # right, but too little to be of interest
        little = np.sign(size) * claim_of(id).smallest / 2
        assert said(id, {arm: little}, scale=2e-5).verdict == "contradicted"
    if claim_of(id).paper_value:
        assert np.sign(claim_of(id).paper_value) == np.sign(size)


@pytest.mark.parametrize(
    ("id", "arm", "verdicts"),
    [
        ("C5b", "disparity", {0.01: "supported", 0.0: "supported", -0.001: "supported", -0.01: "contradicted"}),
        ("C13", "pixels at once", {-0.05: "supported", 0.0: "supported", 0.005: "supported", 0.02: "contradicted"}),
    ],
)
def test_a_little_counts_as_equal_where_the_paper_says_equal(id, arm, verdicts):
    assert {size: said(id, {arm: size}).verdict for size in verdicts} == verdicts
    assert said(id, {arm: 0.005}).effect == pytest.approx(0.005, abs=2e-4)


def test_an_effect_is_the_mean_of_the_scenes_seed_by_seed():
    values = {("a", "x"): 0.5, ("a", "y"): 0.7, ("b", "x"): 0.4, ("b", "y"): 0.2}
    table = {
        (s, arm, f"{image}/0"): {"abs_rel": v + 0.1 * s * (arm == "a"), "delta1": 9.0 * (arm == "b")}
        for s in (0, 2)
        for (arm, image), v in values.items()
    }
    assert common.difference("abs_rel", "a", "b")(rows(table)) == pytest.approx({0: 0.3, 2: 0.5})
    assert common.difference("abs_rel", "b", "a")(rows(table)) == pytest.approx({0: -0.3, 2: -0.5})


# ---------------------------------------------------------------- the bound


def test_the_bound_is_the_targets_way_through_the_autoencoder(tmp_path, monkeypatch):
    model = Fake()
    monkeypatch.setattr(exact, "load", lambda *arguments: model)
    name = "street 2/0"
    image, depth, valid = exact.scene(name)
    found = {arm: exact.measure_bound(job_of("C1", arm, tmp_path), [name])[name] for arm in ("reconstruction", "model")}
    target = paper.depth_target(depth, valid)
    guess = image.mean(1, keepdim=True)
    for arm, relative in (("reconstruction", target), ("model", guess)):
        right = common.compare(common.aligned(relative, depth, valid, "sqrt_disparity"), depth, valid)
        assert found[arm] == pytest.approx(right, rel=1e-6)
    assert found["reconstruction"]["abs_rel"] < 0.1 < found["model"]["abs_rel"]
    model.autoencoder = SimpleNamespace(encode=lambda x: 0 * x, decode=lambda z: z)
    lost = exact.measure_bound(job_of("C1", "reconstruction", tmp_path), [name])[name]
    assert lost["abs_rel"] > 0.2 and lost["boundary_f1"] == 0, "the depth goes through the autoencoder"


def test_the_bound_is_measured_with_the_shipped_model():
    for id in ("C1", "C1b"):
        claim = claim_of(id)
        assert claim.checkpoints == ("prior", "depthmaster") and claim.shipped_arms == claim.protocol.arms
        assert claim.protocol.arms == ("reconstruction", "model") and len(claim.protocol.images) == 6 * 32


# ---------------------------------------------------------------- the noise oracle


def clipped_alone(depth, valid, space):
    """AbsRel of a target whose ends are cut off, by numpy alone."""
    D = depth[valid].double().numpy()
    power = {"depth": 1, "disparity": -1, "sqrt_disparity": -0.5}[space]
    g = D**power
    cut = np.clip(g, *np.quantile(g, (0.02, 0.98)))
    scale, shift = np.linalg.lstsq(np.stack([cut, np.ones_like(cut)], 1), g, rcond=None)[0]
    metres = np.maximum(scale * cut + shift, 1e-3 if power < 0 else -np.inf) ** (1 / power)
    return np.mean(np.abs(np.clip(metres, D.min(), D.max()) - D) / D)


@pytest.mark.parametrize("name", ["street 0/0", "street 1/0", "room 2/0"])
def test_without_noise_the_oracle_is_the_clipping_of_the_target(name, tmp_path):
    for space in exact.SPACES:
        job = job_of("C6", space, tmp_path, sigma=0.0)
        found = exact.measure_oracle(job, [name])[name]
        assert found["abs_rel"] == pytest.approx(clipped_alone(*exact.scene(name)[1:], space), rel=1e-4)
        assert exact.measure_oracle(job_of("C6", space, tmp_path, 1, sigma=0.0), [name])[name] == found
        assert exact.measure_oracle(job_of("C6", space, tmp_path), [name])[name]["abs_rel"] > found["abs_rel"]


def test_the_oracle_is_the_target_with_noise_of_scene_and_seed(tmp_path, monkeypatch):
    seen = {}

    def aligned(relative, depth, valid, space):
        seen[space] = relative - paper.depth_target(depth, valid, space)
        return depth

    monkeypatch.setattr(exact, "aligned", aligned)

    def noise(arm, name, seed):
        exact.measure_oracle(job_of("C6", arm, tmp_path, seed), [name])
        inside = paper.depth_target(*exact.scene(name)[1:], arm).abs() < 0.7  # where nothing is clipped
        return seen[arm], inside

    one, inside = noise("disparity", "room 0/0", 0)
    assert one[inside].std().item() == pytest.approx(0.05, rel=0.05)
    other, also = noise("sqrt_disparity", "room 0/0", 0)
    both = inside & also
    torch.testing.assert_close(one[both], other[both], rtol=0, atol=1e-6)  # all targets get the same noise
    assert not torch.allclose(one[inside], noise("disparity", "room 0/0", 1)[0][inside], atol=0.01)
    assert not torch.allclose(one[both], noise("sqrt_disparity", "room 1/0", 0)[0][both], atol=0.01)
    target = paper.depth_target(*exact.scene("room 0/0")[1:], "disparity")
    assert (target + one).abs().max() <= 1


def test_the_oracle_has_the_order_of_table_3(tmp_path):
    names = exact.scene_names("street", count=3)
    each = {s: exact.measure_oracle(job_of("C6", s, tmp_path), names) for s in exact.SPACES}
    errors = {space: np.mean([values["abs_rel"] for values in found.values()]) for space, found in each.items()}
    assert errors["sqrt_disparity"] < errors["disparity"] < errors["depth"]
    assert claim_of("C6").protocol.settings["sigma"] == claim_of("C5").protocol.settings["sigma"] == 0.05


@pytest.mark.parametrize(("id", "arms"), [("C5", ("disparity", "depth")), ("C6", ("sqrt_disparity", "disparity"))])
def test_an_oracle_claim_is_read_scene_by_scene(id, arms):
    assert claim_of(id).protocol.arms == arms
    assert len(claim_of(id).protocol.images) == (64 if id == "C5" else 128)
    table = {(s, arm, f"street {i}/0"): {"abs_rel": (arm == arms[0]) * (0.1 * i + 0.01 * s)}
             for s in (0, 1) for arm in arms for i in (0, 1)}  # fmt: skip
    assert effects(claim_of(id), rows(table)) == pytest.approx({"street 0/0": 0.005, "street 1/0": 0.105})


# ---------------------------------------------------------------- entropy


@pytest.mark.parametrize(
    ("values", "right"),
    [
        (torch.linspace(-0.999, 0.999, 32 * 32), 1.0),  # even
        (torch.full((1024,), 0.3), 0.0),  # all in one bin
        (torch.tensor([-0.5, 0.5]).repeat(512), np.log(2) / np.log(32)),
        (torch.tensor([-1.0, 1.0]).repeat(512), np.log(2) / np.log(32)),  # the ends count
        (torch.tensor([-0.5, -0.5, 0.1, 0.6]).repeat(256), 1.5 * np.log(2) / np.log(32)),
    ],
)
def test_the_entropy_of_known_histograms(values, right, tmp_path, monkeypatch):
    valid = torch.ones(1, 1, 33, 32, dtype=torch.bool)
    valid[..., 32, :] = False
    target = torch.cat([values, torch.linspace(-1, 1, 32)]).view(1, 1, 33, 32)  # the last row does not count
    monkeypatch.setattr(exact, "scene", lambda name: (None, target, valid))
    monkeypatch.setattr(paper, "depth_target", lambda depth, valid, space: depth if space == "disparity" else 0 * depth)
    found = exact.measure_entropy(job_of("C7", "disparity", tmp_path), ["street 0/0"])
    assert found == {"street 0/0": {"entropy": pytest.approx(right, abs=2e-3)}}
    flat = exact.measure_entropy(job_of("C7", "depth", tmp_path), ["street 0/0"])["street 0/0"]["entropy"]
    assert flat == 0, "the arm is the space"


# ---------------------------------------------------------------- arithmetic

COUNTS = {"encoder": 2.0, "decoder": 5.0, "unet": 3.0, "doubled": 3.5, "block": 0.25}


def test_arithmetic_is_calls_times_counts(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(exact, "published_macs", lambda height, width: asked.append((height, width)) or COUNTS)
    found = {arm: exact.measure_macs(job_of("C3", arm, tmp_path), exact.SIZES[:2]) for arm in costs.PREDICTIONS}
    assert asked[:2] == [(480, 640), (352, 1216)]
    right = {"single step": 10, "stage 2": 10.25, "10 steps": 42, "50 steps": 182, "10 samples of 50 steps": 1802}
    for arm, macs in right.items():
        assert found[arm] == {name: {"macs": macs} for name in exact.SIZES[:2]}
    assert set(claim_of("C3").protocol.arms) | set(claim_of("C19").protocol.arms) <= set(right)


def test_published_counts_are_looked_up_once_per_size(monkeypatch):
    asked = []
    monkeypatch.setattr(costs, "published_macs", lambda height, width: asked.append((height, width)) or COUNTS)
    exact.published_macs.cache_clear()
    assert exact.published_macs(64, 128) == exact.published_macs(64, 128) == COUNTS and asked == [(64, 128)]
    exact.published_macs.cache_clear()


def test_a_ratio_is_that_of_the_first_arm_over_the_second():
    table = {(0, arm, name): {"macs": macs * size}
             for arm, macs in (("a", 6.0), ("b", 2.0), ("c", 1.0)) for name, size in (("x", 1), ("y", 5))}  # fmt: skip
    assert exact.ratio_of("a", "b")(rows(table)) == {"x": 3.0, "y": 3.0}
    assert exact.ratio_of("c", "a")(rows(table)) == pytest.approx({"x": 1 / 6, "y": 1 / 6})


def assessed_macs(id, **macs):
    claim, names = claim_of(id), {"one": "single step", "block": "stage 2", "steps": "50 steps"}
    table = {(0, arm, size): {"macs": 7.0} for arm in claim.protocol.arms for size in exact.SIZES}
    for i, size in enumerate(exact.SIZES):
        table |= {(0, names[k], size): {"macs": v * (1 + 1e-4 * i)} for k, v in macs.items()}
        table[0, "single step", size] = {"macs": macs["one"]}
    return claims.assess(claim, rows(table))


def test_faster_by_fifteen_and_free_up_to_a_percent():
    assert assessed_macs("C3", one=2.0, steps=60.0).effect == pytest.approx(30, abs=0.01)
    verdicts = [assessed_macs("C3", one=2.0, steps=steps).verdict for steps in (60.0, 20.0)]
    verdicts += [assessed_macs("C19", one=2.0, block=block).verdict for block in (2.004, 2.04)]
    assert verdicts == ["supported", "contradicted"] * 2
    assert assessed_macs("C19", one=2.0, block=2.004).effect == pytest.approx(0.21, abs=0.01)


# ---------------------------------------------------------------- the ledger, once more

LEDGER = config.data_root() / "ledger"
# the published networks are counted in test_depthmaster_method.py, arms of shipped weights measured in test_claims.py
AGAIN = [id for id in EXACT if CLAIMS[id].primary != "macs" and not CLAIMS[id].shipped_arms]


@pytest.mark.parametrize("id", [id for id in AGAIN if (LEDGER / f"{id}.csv").is_file()])
def test_a_cell_that_needs_no_weights_is_measured_again(id, tmp_path):
    results = claims.read_results(id)
    if claims.stale_reason(CLAIMS[id], results.card):
        pytest.skip(f"{id} is stale")
    for row in (results.rows[0], results.rows[len(results.rows) // 2], results.rows[-1]):
        job = job_of(id.removeprefix("depth."), row["arm"], tmp_path, row["seed"])
        (found,) = CLAIMS[id].measure(job, [row["image"]]).values()
        assert found == pytest.approx({name: row[name] for name in found}, rel=1e-3, abs=1e-4)


# ---------------------------------------------------------------- all of it, in miniature


@pytest.mark.slow
@pytest.mark.parametrize("id", [pytest.param("C15", marks=needs_weights), "C5b", "C7"])
def test_some_claims_are_rehearsed(id, tmp_path):
    """One that is trained, one of the oracle and one of histograms; the others differ from them in their arms."""
    lines, claim = [], claim_of(id)
    run = claims.run_claim(claim.id, "quick", device="cpu", ledger=tmp_path, log=lines.append)
    assert run.finished
    assert len(run.rows) == len(claim.rehearsal_protocol().cells)
    assert "nothing was written" in lines[-1]
    assert all(np.isfinite([row[m] for m in claim.protocol.metrics]).all() for row in run.rows)


@pytest.mark.slow
@pytest.mark.skipif(not checkpoints.is_present("depthmaster"), reason="the shipped model is not trained yet")
def test_the_bound_is_rehearsed(tmp_path):
    run = claims.run_claim("depth.C1", "quick", device="cpu", ledger=tmp_path, log=lambda line: None)
    arms = claim_of("C1").protocol.arms
    bound, model = (np.mean([row["abs_rel"] for row in run.rows if row["arm"] == arm]) for arm in arms)
    assert run.finished and bound < model


def test_guesses_that_do_not_look_know_only_the_row():
    depth = torch.rand(2, 1, 5, 3)
    found = common.blind(depth)
    assert torch.equal(found["gradient"][1, 0, :, 2], torch.linspace(0, 1, 5)) and not found["plane"].any()
    assert all(x.shape == depth.shape and torch.equal(x[0], x[1]) for x in found.values())


@needs_weights
def test_the_photograph_is_measured_as_a_user_would(tmp_path):
    pair = photos.middlebury_motorcycle()
    model = recipes.load_method("depthmaster", device="cpu")
    found = {
        arm: claim_of("P1").measure(job_of("P1", arm, tmp_path), ["motorcycle"])["motorcycle"]
        for arm in claim_of("P1").shipped_arms
    }
    relative = common.blind(pair["depth"]) | {"shipped": recipes.predict(model, pair["image"])}
    for arm, r in relative.items():
        metres = common.aligned(r, pair["depth"], pair["valid"], "sqrt_disparity")
        assert found[arm]["abs_rel"] == pytest.approx(metrics.abs_rel(metres, pair["depth"], pair["valid"]).item())
    assert found["autoencoder"]["abs_rel"] < 0.3 * min(found[arm]["abs_rel"] for arm in relative)


@needs_weights
@pytest.mark.slow
def test_arms_of_a_seed_are_other_networks(tmp_path):
    """Two steps of training are enough to tell all arms apart but those whose length alone differs."""
    found, small = {}, {"image_size": 32, "crop": 32, "arms": dict(common.ARMS)}
    for arm in common.ARMS:
        file = common.trained(job_of("C17", "plain", tmp_path, rehearsal=True, **small), arm)
        tensors = checkpoints.load(file)[0]
        found[arm] = sum(value.double().abs().sum().item() for value in tensors.values())
    assert found["plain, longer"] == found["plain"]
    assert len(set(found.values())) == len(common.ARMS) - 1
    job = job_of("C2", "one step, 2023", tmp_path, rehearsal=True, **small)
    assert np.isfinite(list(common.measure_trained(job, ["boxes/0"])["boxes/0"].values())).all()
