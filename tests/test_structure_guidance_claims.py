"""The claims of structure guidance: data, arms and effects; every claim's rehearsal runs."""

import dataclasses

import numpy as np
import pytest
import torch

from minirestore import claims, metrics, photos, scenes
from minirestore.claims import shared
from minirestore.claims.structure_guidance import common, generalisation, sampling, structure
from minirestore.metrics.image import _gradient_energy

CLAIMS = claims.load_claims()
OURS = [id for id in CLAIMS if id.startswith("sg.")]


def rows(values, metric):
    """Ledger rows from ``{(seed, arm, image): value}``."""
    return [{"seed": seed, "arm": arm, "image": image, metric: value} for (seed, arm, image), value in values.items()]


def test_all_thirteen_claims_are_there_in_order():
    assert [f"sg.A{i}" for i in range(1, 14)] == OURS
    assert CLAIMS["sg.A1"].headline
    assert len(CLAIMS["sg.A1"].protocol.seeds) == len(CLAIMS["sg.A6"].protocol.seeds) == 5
    assert all(CLAIMS[f"sg.A{i}"].tier == "cpu" for i in range(7, 12))
    assert CLAIMS["sg.A13"].not_testable


def test_all_listed_controls_are_arms():
    arms = {arm for id in OURS if CLAIMS[id].protocol for arm in CLAIMS[id].protocol.arms}
    wanted = {"wide", "no regression", "k=1", "k=3", "rgb", "shuffled", "zeroed", "regressor", "unguided, longer"}
    assert wanted <= arms


# ---------------------------------------------------------------- data


def test_the_crops_are_the_most_textured_ones():
    for photo, numbers in shared.TEXTURED.items():
        energy = [float(_gradient_energy(crop[None].double()).sum()) for crop in photos.crops(photo)]
        assert set(numbers) == set(np.argsort(energy)[-len(numbers) :].tolist()), photo
    assert set(shared.TEXTURED) == set(photos.EVALUATION)


def test_shifts_leave_the_psnr_of_the_linear_version():
    for name in ("coffee/2", "rocket/2"):
        linear = metrics.psnr(*reversed(common.pair(f"{name}/linear", 3))).item()
        for shift in ("walk", "walk_gamma", "disk"):
            x, y = common.pair(f"{name}/{shift}", 3)
            assert metrics.psnr(y, x).item() == pytest.approx(linear, abs=0.021)
            assert not torch.equal(y, common.pair(f"{name}/linear", 3)[1])


def test_severities_and_radii_grow_the_blur_and_keep_everything_else():
    psnr = [metrics.psnr(*reversed(common.pair(f"coffee/2/{c}", 0))).item() for c in generalisation.SEVERITIES]
    assert psnr == sorted(psnr, reverse=True)
    assert torch.equal(common.pair("coffee/2/x1.00", 0)[1], common.pair("coffee/2/linear", 0)[1])
    psnr = [metrics.psnr(*reversed(common.pair(f"coffee/2/{r}", 0))).item() for r in sampling.RADII]
    assert psnr == sorted(psnr, reverse=True)


def test_another_photograph_is_another_one_under_the_same_blur_kind():
    for name in shared.crop_names("walk"):
        other = generalisation.other_photograph(name)
        assert other.split("/")[0] != name.split("/")[0]
        assert other in shared.crop_names("walk")


# ---------------------------------------------------------------- arms


def test_every_arm_gets_equally_many_steps_of_the_diffusion_loss():
    protocol = generalisation.trained_protocol(tuple(generalisation.ARMS), ("linear",), 3)
    for arm in protocol.arms:
        settings = generalisation.training_settings(protocol, arm, 1)
        steps = settings["steps"] - settings.get("warm_start", 0)
        assert steps == (14_000 if arm == "unguided, longer" else 12_000), arm
        assert settings["seed"] == 1
    assert generalisation.training_settings(protocol, "zeroed", 0) == generalisation.training_settings(
        protocol, "guided", 0
    )


def test_the_wide_arm_has_the_parameters_of_the_guided_one():
    from minirestore import recipes
    from minirestore.networks import count_parameters

    recipe = recipes.METHODS["structure_guidance"]
    protocol = generalisation.trained_protocol(("guided", "wide"), ("linear",), 3)
    counts = []
    for arm in protocol.arms:
        settings = generalisation.training_settings(protocol, arm, 0)
        counts.append(count_parameters(recipes.build(recipe, recipes.plan(recipe, "reduced", settings)[0])))
    assert counts[1] == pytest.approx(counts[0], rel=0.002)


# ---------------------------------------------------------------- effects


def test_effects_of_trained_claims():
    values = {}
    for seed in (0, 1):
        for arm, level in {"guided": 5.0, "wide": 4.0 + seed, "k=1": 3.0, "k=2": 4.5, "k=3": 1.0}.items():
            values[seed, arm, "coffee/2/linear"] = level
            values[seed, arm, "coffee/2/walk"] = level + 10
    table = rows(values, "haarpsi")
    assert generalisation.best_single_scale(table) == {0: 0.5, 1: 0.5}
    assert generalisation.gain_in_domain([{**r, "psnr": r["haarpsi"]} for r in table]) == {0: 1.0, 1: 0.0}
    sizes = {(0, "narrow", "a/0/walk"): 3.0, (0, "unguided", "a/0/walk"): 2.0, (0, "narrow", "a/0/linear"): 0.0,
             (0, "unguided", "a/0/linear"): 9.0}  # fmt: skip
    assert generalisation.size_hurts(rows(sizes, "haarpsi")) == {0: 1.0}


def test_severity_correlation_has_the_sign_of_the_trend():
    for sign in (1, -1):
        values = {}
        for i, severity in enumerate(generalisation.SEVERITIES):
            values[0, "guided", f"a/0/{severity}"] = 1.0 + sign * i * i
            values[0, "wide", f"a/0/{severity}"] = 1.0
        assert generalisation.severity_correlation(rows(values, "haarpsi"))[0] == pytest.approx(sign)


def test_the_reduction_of_the_distance_is_the_worst_over_the_scales():
    values = {}
    for k, after in ((1, 0.5), (2, 0.9), (3, 0.7)):
        values[0, "input", f"walk_gamma/k={k}"], values[0, "output", f"walk_gamma/k={k}"] = 1.0, after
        values[0, "input", f"walk/k={k}"], values[0, "output", f"walk/k={k}"] = 1.0, 3.0
    assert structure.smallest_reduction(rows(values, "mmd"))[0] == pytest.approx(0.1)


def test_the_smallest_step_leaves_gamma_out():
    values = {}
    for domain, levels in {
        "linear": (20, 25, 29, 40),
        "walk": (20, 24, 30, 40),
        "walk_gamma": (20, 19, 18, 17),
    }.items():
        for k, level in enumerate(levels):
            values[0, f"k={k}", f"coffee/2/{domain}"] = level
    assert structure.smallest_step(rows(values, "psnr")) == {"coffee/2": 4.0}


def test_the_fit_is_perfect_for_bias_and_variance_and_poor_for_noise():
    values = {(0, f"n={n}", "a/0/linear"): 2.0 + 3.0 / n for n in sampling.AVERAGED}
    assert sampling.fit_quality(rows(values, "mse"))["a/0/linear"] == pytest.approx(1)
    values = {key: value + 4 * (-1) ** i for i, (key, value) in enumerate(values.items())}
    assert sampling.fit_quality(rows(values, "mse"))["a/0/linear"] < 0.9


def test_diversity_is_ordered_by_radius_and_not_by_name():
    values = {(0, arm, "a/0"): float(i) for i, arm in enumerate(sampling.RADII)}
    assert sampling.diversity_correlation(rows(values, "sd")) == {"a/0": pytest.approx(1)}
    values = {(0, arm, "a/0"): float(-i) for i, arm in enumerate(reversed(sampling.RADII))}
    assert sampling.diversity_correlation(rows(values, "sd")) == {"a/0": pytest.approx(1)}


# ---------------------------------------------------------------- measures


def test_the_kernel_distance_is_zero_within_a_domain_and_sees_blur():
    leaves = scenes.dead_leaves(24, 64, 5).mean(1, keepdim=True)
    noisy = [leaves + 0.02 * torch.randn(leaves.shape, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(noisy[1], (3, 3, 3, 3), mode="reflect"), 7, 1)
    within = abs(structure.kernel_distance(*noisy))
    assert within < 0.02 * structure.kernel_distance(noisy[0], blurred)
    assert within < 0.02 * structure.kernel_distance(noisy[0], noisy[1] + 0.1)


def test_the_kernel_distance_by_hand():
    """Two pairs of constant patches: the unbiased estimate is a sum of four kernel values per ordered pair."""
    a = torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    b = torch.tensor([4.0, 7.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    values = torch.cat([a[0].flatten(), a[1].flatten()]).double()
    p, q = ([(float(x[i, 0, 0, 0]) - float(values.mean())) / float(values.std()) for i in (0, 1)] for x in (a, b))

    def k(u, v):
        return (u * v + 1) ** 3

    right = k(p[0], p[1]) + k(q[0], q[1]) - k(p[0], q[1]) - k(p[1], q[0])
    assert structure.kernel_distance(a, b) == pytest.approx(right)


def test_spectral_features_tell_directions_and_ignore_brightness():
    x = torch.arange(32.0)
    wave = (0.5 + 0.4 * torch.cos(2 * torch.pi * 6 * x / 32))[None, None, None].expand(1, 1, 32, 32)
    across, along = structure.spectral_features(wave), structure.spectral_features(wave.transpose(2, 3))
    assert across.shape == (1, 16)
    assert np.abs(across - along).max() > 1
    np.testing.assert_allclose(structure.spectral_features(wave + 0.05), across, atol=1e-4)


def test_a_crop_is_measured_alike_whoever_else_is(tmp_path):
    job = claims.Job(CLAIMS["sg.A9"], "T=10", 1, CLAIMS["sg.A9"].protocol, tmp_path)
    alone = sampling.perception_distortion(job, ["coffee/2/linear"])
    both = sampling.perception_distortion(job, ["astronaut/2/linear", "coffee/2/linear"])
    assert alone["coffee/2/linear"] == both["coffee/2/linear"]
    other = claims.Job(CLAIMS["sg.A9"], "T=10", 2, CLAIMS["sg.A9"].protocol, tmp_path)
    assert sampling.perception_distortion(other, ["coffee/2/linear"]) != alone


@pytest.mark.slow
@pytest.mark.parametrize("id", [id for id in OURS if not CLAIMS[id].not_testable])
def test_every_claim_can_be_rehearsed(id, tmp_path):
    lines = []
    run = claims.run_claim(id, "quick", device="cpu", ledger=tmp_path, log=lines.append)
    assert run.finished
    assert len(run.rows) == len(CLAIMS[id].rehearsal_protocol().cells)
    assert "nothing was written" in lines[-1]
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- trainings


def rehearsed(id, arm, folder):
    """The job of an arm's rehearsal with seed 0."""
    return claims.Job(CLAIMS[id], arm, 0, CLAIMS[id].rehearsal_protocol(), folder / id / "hash" / arm)


def test_a_model_without_its_card_is_saved_again(tmp_path):
    job = rehearsed("sg.A2", "wide", tmp_path)
    first = generalisation.trained_model(job).state_dict()
    (card,) = job.shared_dir.glob("*/structure_guidance.json")
    card.unlink()  # killed between the two files
    shared.load.cache_clear()
    again = generalisation.trained_model(job).state_dict()
    assert all(torch.equal(again[key], value) for key, value in first.items())


def test_a_changed_recipe_trains_anew(tmp_path, monkeypatch):
    from minirestore import recipes

    job = rehearsed("sg.A2", "wide", tmp_path)
    settings = generalisation.training_settings(job.protocol, "wide", 0)
    before = shared.training_folder(job, common.PAPER, settings)
    assert before == shared.training_folder(rehearsed("sg.A3", "medium", tmp_path), common.PAPER, settings)
    changes, data, run = recipes.METHODS["structure_guidance"].profiles["quick"]
    profiles = {"quick": (changes, data, dataclasses.replace(run, batch_size=4))}
    changed = dataclasses.replace(recipes.METHODS["structure_guidance"], profiles=profiles)
    monkeypatch.setitem(recipes.MODELS, "structure_guidance", changed)
    assert shared.training_folder(job, common.PAPER, settings) != before


@pytest.mark.slow
def test_guidance_of_another_protocol_is_not_in_the_way(tmp_path):
    for steps in (3, 4):  # the second must not find the first's run in its folder
        job = rehearsed("sg.A7", "output", tmp_path)
        protocol = dataclasses.replace(job.protocol, settings={**job.protocol.settings, "steps": steps})
        measured = structure.guidance_invariance(dataclasses.replace(job, protocol=protocol), ["walk_gamma/k=2"])
        assert set(measured) == {"walk_gamma/k=2"}
    assert len(list(job.shared_dir.iterdir())) == 2
