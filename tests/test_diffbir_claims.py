"""The claims of DiffBIR: arms, degradations and effects, what is measured of an image, and every claim's rehearsal."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch

from minirestore import checkpoints, claims, degradations, diffusion, features, metrics, recipes, scenes
from minirestore.claims import diffbir as ours
from minirestore.claims import shared
from minirestore.claims.verdicts import effects
from minirestore.papers.diffbir import DiffBIR

CLAIMS = claims.load_claims()
OURS = [id for id in CLAIMS if id.startswith("diffbir.")]
TRAINED = [id for id in OURS if CLAIMS[id].trained]
NAME = "coffee/2/second"
needs_weights = pytest.mark.skipif(
    not all(checkpoints.is_present(name) for id in OURS for name in CLAIMS[id].checkpoints),
    reason="the control, its modules or the prior are not trained yet",
)


def rows(table):
    """Ledger rows from ``{(seed, arm, image): {metric: value}}``."""
    return [{"seed": seed, "arm": arm, "image": image, **values} for (seed, arm, image), values in table.items()]


def job_of(id, arm, tmp_path, seed=0, rehearsal=False, **settings):
    protocol = CLAIMS[id].rehearsal_protocol() if rehearsal else CLAIMS[id].protocol
    protocol = dataclasses.replace(protocol, settings={**protocol.settings, **settings})
    return claims.Job(CLAIMS[id], arm, seed, protocol, tmp_path / "id" / "hash" / "arm")


class Fake:
    """A restorer that scales and adds noise of its generator; it remembers what it was asked."""

    def __init__(self, scale=1.0, noise=0.0):
        self.scale, self.noise, self.given, self.seeds, self.asked = scale, noise, [], [], []

    def restore(self, y, generator=None, **options):
        self.given.append(y)
        self.asked.append(options)
        self.seeds.append(None if generator is None else generator.initial_seed())
        z = self.scale * y
        return z if generator is None else (z + self.noise * torch.randn(y.shape, generator=generator)).clamp(0, 1)


@pytest.fixture
def models(monkeypatch):
    """Fakes in the place of the shipped networks, by the name of the checkpoint."""
    found = {ours.PAPER: Fake(0.95, 0.1), ours.MODULE: Fake(0.9), ours.SECOND_MODULE: Fake(0.8)}

    def load(method, checkpoint, device):
        assert (method, device) == (ours.PAPER if checkpoint == ours.PAPER else ours.MODULE, "cpu")
        return found[checkpoint]

    monkeypatch.setattr(ours, "load", load)
    ours.module_result.cache_clear()
    yield found
    ours.module_result.cache_clear()


@pytest.fixture
def digests(monkeypatch):
    """The digests of shipped checkpoints, whether they are there or not; change them at will."""
    known = {"prior": "a", "diffbir_restoration": "b", "diffbir_restoration_second": "c", "diffbir": "d"}
    monkeypatch.setattr(checkpoints, "read_card", lambda name: {"sha256": known[str(name)]})
    return known


# ---------------------------------------------------------------- what is there


def test_all_claims_are_there():
    with_more = {f"diffbir.A{i}" for i in ("1b", "2b", "4b", "4c", "6b", "7b", "9b")}
    assert {f"diffbir.A{i}" for i in range(1, 10)} | with_more == set(OURS)
    assert {f"diffbir.A{i}" for i in ("1", "1b", "4", "4b", "4c", "8")} == set(TRAINED)
    assert all(CLAIMS[id].tier == "cpu" and CLAIMS[id].paper == "diffbir" for id in OURS)


def test_every_claim_and_every_training_has_three_seeds():
    assert {CLAIMS[id].protocol.seeds for id in OURS} == {(0, 1, 2)}
    trained = {arm for id in TRAINED for arm in CLAIMS[id].protocol.arms}
    assert trained == set(ours.ARMS)


def test_another_metric_is_said_to_be_one():
    for id in ("A1", "A2", "A3"):
        assert "another metric" in CLAIMS[f"diffbir.{id}"].where
    for id in OURS:
        assert CLAIMS[id].paper_value is None
        assert CLAIMS[id].paper_effect != "not measured" or "(ours)" in CLAIMS[id].where


def test_two_claims_on_the_same_numbers_have_the_same_protocol():
    for one, other in (("A1", "A1b"), ("A2", "A2b"), ("A6", "A6b"), ("A7", "A7b")):
        assert CLAIMS[f"diffbir.{one}"].protocol == CLAIMS[f"diffbir.{other}"].protocol


# ---------------------------------------------------------------- degradations


def test_a_degraded_crop_is_a_function_of_its_name_and_the_seed():
    for domain, config in ours.domains().items():
        name = f"coffee/2/{domain}"
        x, y = ours.pair(name, 1)
        assert x.shape == y.shape == (1, 3, 128, 128)
        assert torch.equal(x, shared.clean_crop("coffee/2")) and not torch.equal(x, y)
        ours.pair.cache_clear()
        assert torch.equal(y, ours.pair(name, 1)[1])
        assert not torch.equal(y, ours.pair(name, 2)[1])
        order = degradations.second_order if domain == "second" else degradations.first_order
        assert torch.equal(y, order(x, shared.crop_seed(name, 1), config))


def test_the_second_order_is_the_one_of_the_second_module():
    assert ours.domains()["second"] is degradations.SECOND_ORDER_SMALL
    assert {name: ours.module_for(f"coffee/2/{name}") for name in ours.domains()} == {
        "mild": "diffbir_restoration",
        "first": "diffbir_restoration",
        "severe": "diffbir_restoration",
        "second": "diffbir_restoration_second",
    }


@needs_weights
def test_a_module_was_trained_on_what_it_is_asked_to_clean():
    for name in ("first", "second"):
        data = checkpoints.read_card(ours.module_for(f"coffee/2/{name}"))["data"]
        assert degradations.PIPELINES[data["pipeline"]] is ours.domains()[name]


def test_severities_differ_from_the_training_in_four_ranges():
    def fields(config):
        return {**dataclasses.asdict(config), "blur": None, "sigma": config.blur.sigma}

    made = ours.domains()
    assert made["first"] is degradations.FIRST_ORDER_SMALL
    right = fields(made["first"])
    for name in ("mild", "severe"):
        found = fields(made[name])
        assert {key for key in right if found[key] != right[key]} == {"sigma", "downsample", "noise", "quality"}
        assert dataclasses.replace(made[name].blur, sigma=made["first"].blur.sigma) == made["first"].blur


def test_the_severities_are_ever_harder():
    def psnr(severity, seed):
        names = [f"{photo}/{numbers[0]}/{severity}" for photo, numbers in shared.TEXTURED.items()]
        return np.mean([metrics.psnr(*reversed(ours.pair(name, seed))).item() for name in names])

    assert ours.SEVERITIES == ("mild", "first", "severe")
    for seed in (0, 1, 2):
        mild, first, severe = (psnr(severity, seed) for severity in ours.SEVERITIES)
        assert mild > first + 1 > severe + 2


def test_what_a_claim_is_measured_on():
    conditions = {"A1": set(ours.SEVERITIES), "A4": {"first"}, "A4b": {"first"}, "A4c": {"first"},
                  "A7": set(ours.SEVERITIES), "A8": {"first", "second"}}  # fmt: skip
    for id, wanted in {**{id: {"second"} for id in ("A2", "A5", "A6", "A9", "A9b")}, **conditions}.items():
        claim = CLAIMS[f"diffbir.{id}"]
        crops = {f"{photo}/{i}" for photo, numbers in shared.TEXTURED.items() for i in numbers}
        assert set(claim.protocol.images) == {f"{crop}/{condition}" for crop in crops for condition in wanted}
        named = {text.removeprefix("degraded: ") for text in claim.protocol.data if text.startswith("degraded: ")}
        assert named == wanted


# ---------------------------------------------------------------- trained arms


def planned(arm, **settings):
    """What an arm is trained with: its network's, its data's and its run's options by name, and its seed."""
    settings = {**ours.protocol(tuple(ours.ARMS)).settings, **settings}
    recipe = recipes.find_recipe(ours.PAPER, recipes.MODELS)
    parts = recipes.plan(recipe, settings["profile"], ours.training_settings(settings, arm, 2))
    return {(i, key): value for i, part in enumerate(parts) for key, value in dataclasses.asdict(part).items()}


@pytest.mark.parametrize("arm", ours.ARMS)
def test_an_arm_differs_from_the_cleaned_one_in_what_it_names(arm):
    wanted = {
        "cleaned": {},
        "raw": {"cleaned": False},
        "hint": {"condition": "hint"},
        "cleaned, early": {"steps": 200},
        "hint, early": {"condition": "hint", "steps": 200},
        "cleaned, second": {"pipeline": "second_order_small", "restoration": "diffbir_restoration_second"},
        "raw, second": {"pipeline": "second_order_small", "cleaned": False},
    }
    one, other = planned(arm), planned("cleaned")
    assert {key: value for (_, key), value in one.items() if value != other[_, key]} == ours.ARMS[arm] == wanted[arm]


def test_the_cleaned_arm_is_the_papers_in_a_small_budget():
    network, data, run = recipes.plan(
        recipes.find_recipe(ours.PAPER, recipes.MODELS),
        "reduced",
        ours.training_settings(CLAIMS["diffbir.A1"].protocol.settings, "cleaned", 3),
    )
    assert (network.condition, network.cleaned, network.prior) == ("latent", True, "prior")
    assert (network.restoration, network.minimum_side) == ("diffbir_restoration", 128)
    assert (data.pipeline, data.images, data.prepared, data.crop) == ("first_order_small", 400, 800, 128)
    assert (run.steps, run.batch_size, run.warmup, run.seed) == (800, 8, 50, 3)


@pytest.mark.parametrize(
    ("steps", "arm", "trained", "warmup"),
    [(800, "hint, early", 200, 50), (100, "hint, early", 100, 50), (40, "cleaned, early", 40, 39), (2, "raw", 2, 1)],
)
def test_early_arms_and_the_warmup_fit_into_a_shorter_training(steps, arm, trained, warmup):
    found = planned(arm, steps=steps)
    assert (found[2, "steps"], found[2, "warmup"]) == (trained, warmup)


def trained_with(monkeypatch, tmp_path):
    """Folder of the training that ``network`` asks for, by claim, arm and seed; nothing is trained or loaded."""
    asked = []

    def trained_file(job, *arguments, **options):
        asked.append(shared.training_folder(job, *arguments, **options))
        return asked[-1] / "x.safetensors"

    monkeypatch.setattr(ours, "trained_file", trained_file)
    monkeypatch.setattr(ours, "load", lambda method, checkpoint, device: (method, checkpoint, device))

    def folder(id, arm, seed=0, **options):
        job = job_of(id, arm, tmp_path, seed, **options)
        assert ours.network(job) == ("diffbir", str(asked[-1] / "x.safetensors"), "cpu")
        return asked[-1]

    return folder


def test_claims_share_their_trainings(tmp_path, digests, monkeypatch):
    folder, found = trained_with(monkeypatch, tmp_path), {}
    for id in TRAINED:
        for arm in CLAIMS[id].protocol.arms:
            for seed in CLAIMS[id].protocol.seeds:
                found.setdefault((arm, seed), set()).add(folder(id, arm, seed))
    assert all(len(folders) == 1 for folders in found.values())
    seeds = len(CLAIMS["diffbir.A1"].protocol.seeds)
    assert len(found) == len(set.union(*found.values())) == 2 * seeds + 5 * 3
    assert {arm for arm, _ in found} == set(ours.ARMS)


@pytest.mark.parametrize("changed", ["prior", "diffbir_restoration", "diffbir_restoration_second"])
def test_trainings_on_other_frozen_networks_are_others(changed, tmp_path, digests, monkeypatch):
    folder = trained_with(monkeypatch, tmp_path)
    before = folder("diffbir.A1", "raw", 1)
    assert folder("diffbir.A8", "raw", 1) == before
    digests["diffbir"] = "new"  # the shipped control is no part of a trained one
    assert folder("diffbir.A1", "raw", 1) == before
    digests[changed] = "new"
    assert folder("diffbir.A1", "raw", 1) != before


def test_a_rehearsal_trains_apart_from_the_measurement(tmp_path, digests, monkeypatch):
    folder = trained_with(monkeypatch, tmp_path)
    assert folder("diffbir.A1", "raw", 1) != folder("diffbir.A1", "raw", 1, rehearsal=True)


def test_what_is_done_at_the_test_does_not_name_a_training(tmp_path, digests, monkeypatch):
    folder = trained_with(monkeypatch, tmp_path)
    before = folder("diffbir.A4", "hint", 1)
    for setting in ({"sampling_steps": 3}, {"draws": 5}, {"start": "cleaned"}, {"colour_fix": "adain"}):
        assert folder("diffbir.A4", "hint", 1, **setting) == before
    assert folder("diffbir.A4", "hint", 1, images=401) != before


# ---------------------------------------------------------------- effects


@pytest.mark.parametrize("id", OURS)
def test_every_effect_is_finite_on_a_whole_grid(id):
    claim = CLAIMS[id]
    for protocol in (claim.protocol, claim.rehearsal_protocol()):
        generator = np.random.default_rng(0)
        grid = [
            {"seed": seed, "arm": arm, "image": image, **{m: generator.normal() for m in protocol.metrics}}
            for seed, arm, image in sorted(protocol.cells)
        ]
        found = effects(claim, grid)
        assert found and np.isfinite(list(found.values())).all()
        assert set(found) == set(protocol.seeds) or not claim.trained


DIAL = ("rho = 0", "rho = 0.02", "rho = 0.05", "rho = 0.1", "rho = 0.2")
# per claim: by how many sizes a cell is shifted; a size on the paper's side; the effect that it makes
SIDES = {
    "A1": (lambda arm, image: arm == "cleaned", 0.03, 0.03),
    "A1b": (lambda arm, image: arm == "cleaned" and image.endswith("/severe"), 0.03, 0.03),
    "A2": (lambda arm, image: arm == "pipeline", -0.1, -0.1),
    "A2b": (lambda arm, image: arm == "pipeline", -0.5, -0.5),
    "A3": (lambda arm, image: arm == "pipeline", -0.1, -0.1),
    "A4": (lambda arm, image: arm == "cleaned", -0.02, -0.02),
    "A4b": (lambda arm, image: arm == "hint, early", 0.02, -0.02),
    "A4c": (lambda arm, image: arm == "cleaned", -0.02, -0.02),
    "A5": (lambda arm, image: arm == "control", 0.03, 0.03),
    "A6": (lambda arm, image: DIAL.index(arm), -0.05, 0.05),
    "A6b": (lambda arm, image: DIAL.index(arm), -0.05, 0.05),
    "A7": (lambda arm, image: image.endswith("/first"), -0.3, 0.3),
    "A7b": (lambda arm, image: image.endswith("/severe"), -0.2, 0.2),
    "A8": (lambda arm, image: arm == "raw" and image.endswith("/second"), -0.05, 0.05),
    "A9": (lambda arm, image: arm == "50 steps", 0.03, 0.03),
    "A9b": (lambda arm, image: arm == "50 steps", -0.1, -0.1),
}


def test_every_claim_has_its_side():
    assert [f"diffbir.{id}" for id in SIDES] == OURS


@pytest.mark.parametrize("id", SIDES)
def test_the_papers_side_is_supported_and_the_other_contradicted(id):
    claim, (shifted, size, effect) = CLAIMS[f"diffbir.{id}"], SIDES[id]

    def said(size):
        generator = np.random.default_rng(0)
        return claims.assess(claim, rows({
            (s, arm, image): {claim.primary: 1 + size * shifted(arm, image) + generator.normal(scale=2e-4)}
            for s, arm, image in sorted(claim.protocol.cells)
        }))  # fmt: skip

    assert said(size).effect == pytest.approx(effect, abs=1e-3)
    assert [said(s).verdict for s in (size, -size)] == ["supported", "contradicted"]
    if claim.smallest:  # right, but too little to be of interest
        assert said(size * claim.smallest / abs(effect) / 2).verdict == "contradicted"


def test_a_growing_gain_is_that_of_severe_over_mild_damage():
    gains = {"mild": 0.01, "first": 0.5, "severe": 0.04}
    table = {
        (s, arm, f"{crop}/{severity}"): {"haarpsi": level + (gain * (1 + s) if arm == "cleaned" else 0.0)}
        for s in (0, 1) for arm in ("cleaned", "raw") for severity, gain in gains.items()
        for crop, level in (("a/0", 0.3), ("b/1", 0.6))
    }  # fmt: skip
    assert ours.growing_gain(rows(table)) == pytest.approx({0: 0.03, 1: 0.06})


def test_a_closing_gap_is_the_late_one_less_the_early_one():
    offsets = {"cleaned": 0.02, "hint": 0.05, "cleaned, early": 0.03, "hint, early": 0.10}
    table = {
        (s, arm, f"{crop}/first"): {"colour_to_module": value * (1 + s) + shift}
        for s in (0, 1) for arm, value in offsets.items() for crop, shift in (("a/0", 0.0), ("b/1", 0.2))
    }  # fmt: skip
    assert ours.closing_gap(rows(table)) == pytest.approx({0: 0.03 - 0.07, 1: 2 * (0.03 - 0.07)})


def test_the_rival_of_the_control_is_the_pull_that_is_best_in_the_mean():
    arms = CLAIMS["diffbir.A5"].protocol.arms
    assert arms == ("control", *(f"prior, rho = {rho}" for rho in (0.05, 0.1, 0.2, 0.4)))
    crops = {"a/0/second": (0.70, 0.50, 0.60, 0.55, 0.10), "b/1/second": (0.65, 0.30, 0.40, 0.60, 0.62)}
    table = {
        (s, arm, crop): {"haarpsi": value + 0.01 * s}
        for s in (0, 1) for crop, values in crops.items() for arm, value in zip(arms, values, strict=True)
    }  # fmt: skip
    found = ours.control_over_guidance(rows(table))  # 0.2: 0.575 in the mean, though neither crop's best
    assert found == pytest.approx({"a/0/second": 0.15, "b/1/second": 0.05})


@pytest.mark.parametrize("id", ["diffbir.A6", "diffbir.A6b"])
def test_the_smallest_turn_of_the_dial_counts(id):
    claim = CLAIMS[id]
    falls = {"a/0/second": (0.50, 0.40, 0.35, 0.32, 0.31), "b/1/second": (0.50, 0.40, 0.45, 0.30, 0.20)}
    table = {
        (s, arm, crop): {claim.primary: value + (0.1 if (s, arm) == (0, "rho = 0") else 0.0)}
        for s in (0, 1) for crop, values in falls.items() for arm, value in zip(DIAL, values, strict=True)
    }  # fmt: skip
    assert claim.protocol.arms == DIAL
    assert claim.effect(rows(table)) == pytest.approx({"a/0/second": 0.01, "b/1/second": -0.05})


def test_a_step_back_in_one_seed_alone_is_noise():
    stops = {0: (0.5, 0.3, 0.4, 0.2, 0.1), 1: (0.5, 0.5, 0.2, 0.1, 0.0)}
    table = {
        (s, arm, "a/0/second"): {"to_module": value}
        for s, values in stops.items() for arm, value in zip(DIAL, values, strict=True)
    }  # fmt: skip
    assert ours.smallest_fall("to_module", rows(table)) == pytest.approx({"a/0/second": 0.1})


RATIOS = {"mild": 0.9, "first": 0.6, "severe": 0.2}


def ratios():
    return rows({
        (s, "module", f"{crop}/{severity}"): {"high_frequency_energy_ratio": level * value + 0.02 * s}
        for s in (0, 1) for severity, value in RATIOS.items() for crop, level in (("a/0", 1.0), ("b/1", 0.5))
    })  # fmt: skip


def test_the_missing_energy_is_that_of_the_middle_severity():
    assert ours.missing_energy(ratios()) == pytest.approx({"a/0/first": 1 - 0.61, "b/1/first": 1 - 0.31})


def test_the_further_loss_is_from_mild_to_severe():
    assert ours.further_loss(ratios()) == pytest.approx({"a/0": 0.7, "b/1": 0.35})


def test_robustness_is_the_loss_that_the_module_spares():
    values = {
        ("cleaned", "first"): 0.6, ("cleaned", "second"): 0.5, ("raw", "first"): 0.7, ("raw", "second"): 0.4,
        **{(f"{arm}, second", condition): 9.0 for arm in ("cleaned", "raw") for condition in ("first", "second")},
    }  # fmt: skip
    table = {
        (s, arm, f"{crop}/{condition}"): {"haarpsi": value * (1 + s) + shift}
        for s in (0, 1) for (arm, condition), value in values.items() for crop, shift in (("a/0", 0.0), ("b/1", 0.1))
    }  # fmt: skip
    assert ours.robustness(rows(table)) == pytest.approx({0: 0.3 - 0.1, 1: 0.6 - 0.2})


def test_steps_are_compared_with_the_papers_fifty():
    assert CLAIMS["diffbir.A9"].protocol.arms[:2] == ("50 steps", "10 steps")
    assert CLAIMS["diffbir.A9b"].protocol.arms[:2] == ("50 steps", "4 steps")
    for id in ("diffbir.A9", "diffbir.A9b"):
        assert set(CLAIMS[id].protocol.arms) == {f"{n} steps" for n in (50, 25, 10, 4)}


# ---------------------------------------------------------------- what is measured of an image


def texture(seed=0, low=0.3, high=0.5):
    return low + (high - low) * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_the_reference_metrics_are_those_of_the_library():
    x, z = texture(0), texture(1)
    found = ours.compare(z, x, texture(2), texture(3))
    assert set(found) == set(ours.METRICS) == set(ours.REFERENCE) | set(ours.TO_MODULE) | {"artefacts"}
    for id in ("psnr", "haarpsi", "high_frequency_error", "high_frequency_energy_ratio", "spectrum_distance"):
        assert found[id] == pytest.approx(metrics.METRICS[id].function(z, x).item(), rel=1e-6), id


CHECKERS = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
HALVES = (torch.arange(32) >= 16) * 2.0 - 1


@pytest.mark.parametrize(
    ("difference", "to_module", "colour", "low"),
    [
        (torch.zeros(3, 1, 1), 0.0, 0.0, 0.0),
        (torch.full((3, 1, 1), 0.05), 0.05, 0.05, 0.05),
        (torch.tensor([0.06, 0.0, 0.0]).view(3, 1, 1), 0.06 / 3**0.5, 0.06, 0.06 / 3**0.5),  # a tint
        (0.1 * HALVES, 0.1, 0.0, 0.1),  # shading
        (0.1 * CHECKERS, 0.1, 0.0, 0.0),  # detail
    ],
)
def test_the_distance_from_the_module_by_kind(difference, to_module, colour, low):
    i_reg = texture(1)
    found = ours.compare(i_reg + difference, texture(0), texture(2), i_reg)
    right = {"to_module": to_module, "colour_to_module": colour, "low_to_module": low}
    assert {id: found[id] for id in right} == pytest.approx(right, abs=1e-6)


def quarter(amount, channels=3):
    """Something that is added to a quarter of the pixels, in so many channels."""
    change = torch.zeros(1, 3, 32, 32)
    change[:, :channels, ::2, ::2] = amount
    return change


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        (0.0, quarter(0.2), 0.25),
        (0.0, quarter(-0.2), 0.25),
        (0.0, quarter(0.09), 0.0),  # too little
        (0.0, quarter(0.2, channels=1), 0.0),  # in the mean of the channels, too
        (0.0, quarter(0.4, channels=1), 0.25),
        (0.15, quarter(0.2), 0.0),  # was nearly as wrong before
        (-0.15, quarter(0.2), 0.0),  # as far off on the other side
        (0.15, 0.1 + quarter(0.2), 0.25),  # 0.3 after 0.15
        (0.3, torch.zeros(1, 3, 32, 32), 0.0),  # nearer
    ],
)
def test_artefacts_are_pixels_that_went_away_from_the_truth(before, after, share):
    x = texture()
    assert ours.compare(x + after, x, x + before, x)["artefacts"] == share


def test_draws_are_averaged():
    x, y, i_reg, draws = texture(0), texture(1), texture(2), [texture(seed, 0.1, 0.9) for seed in (3, 4, 5)]
    single = [ours.compare(z, x, y, i_reg) for z in draws]
    together = ours.compare(torch.cat(draws), x, y, i_reg)
    for id in ours.METRICS:
        assert together[id] == pytest.approx(np.mean([values[id] for values in single]), rel=1e-6), id
    assert len({values["artefacts"] for values in single}) == 3


def test_the_quality_is_that_of_draws_with_noise_of_their_own(tmp_path, models):
    claim, model = CLAIMS["diffbir.A2"], models[ours.PAPER]
    job = job_of(claim.id, "pipeline", tmp_path, 1)
    found = claim.measure(job, [NAME, "rocket/2/second"])
    x, y = ours.pair(NAME, 1)
    assert len(set(model.seeds)) == 4 and all(torch.equal(given, y) for given in model.given[:2])
    draws = [(0.95 * y + 0.1 * torch.randn(y.shape, generator=shared.noise_source(NAME, 1, i))) for i in (0, 1)]
    wanted = ours.compare(torch.cat(draws).clamp(0, 1), x, y, 0.8 * y)
    assert found[NAME] == pytest.approx(wanted, rel=1e-6)
    assert claim.measure(job, [NAME]) == {NAME: found[NAME]}


@pytest.mark.parametrize(
    ("id", "arm", "name"),
    [("A2", "module", NAME), ("A7", "module", "coffee/2/severe"), ("A7b", "module", "coffee/2/mild")],
)
def test_the_module_alone_needs_no_sampling(id, arm, name, tmp_path, models):
    del models[ours.PAPER]
    (x, y), scale = ours.pair(name, 2), 0.8 if name == NAME else 0.9
    found = CLAIMS[f"diffbir.{id}"].measure(job_of(f"diffbir.{id}", arm, tmp_path, 2), [name])
    assert found == {name: ours.compare(scale * y, x, y, scale * y)}
    assert [found[name][id] for id in ours.TO_MODULE] == [0.0, 0.0, 0.0]


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("id", "arm", "options"),
    [
        ("A2", "pipeline", {}),
        ("A2b", "pipeline", {}),
        ("A5", "control", {}),
        ("A5", "prior, rho = 0.05", {"strength": (0.0,), "guidance": 0.05}),
        ("A5", "prior, rho = 0.4", {"strength": (0.0,), "guidance": 0.4}),
        ("A6", "rho = 0", {"guidance": 0.0}),
        ("A6", "rho = 0.05", {"guidance": 0.05}),
        ("A6b", "rho = 0.2", {"guidance": 0.2}),
        ("A9", "50 steps", {"steps": 50}),
        ("A9b", "4 steps", {"steps": 4}),
    ],
)
def test_what_a_shipped_arm_asks_of_the_control(id, arm, options, tmp_path, models):
    ours.measure_shipped(job_of(f"diffbir.{id}", arm, tmp_path), [NAME])
    usual = {"steps": 10, "start": "cleaned", "restoration": "diffbir_restoration_second"}
    assert models[ours.PAPER].asked == [{**usual, **options}] * 2
    assert set(usual) | set(options) <= set(inspect.signature(DiffBIR.restore).parameters)


@pytest.mark.parametrize("id", ["A5", "A6", "A6b", "A9", "A9b"])
def test_an_arm_is_named_after_its_dial(id):
    for arm, options in CLAIMS[f"diffbir.{id}"].protocol.settings["arms"].items():
        if "rho" in arm:
            assert options["guidance"] == float(arm.rpartition("= ")[2])
            assert ("strength" in options) == arm.startswith("prior")
        elif "steps" in arm:
            assert options == {"steps": int(arm.split()[0])}
        else:
            assert (arm, options) == ("control", {})


@pytest.mark.parametrize(
    ("id", "arm", "name", "options"),
    [
        ("A1", "cleaned", "coffee/2/severe", {"start": "cleaned", "colour_fix": ""}),
        ("A1b", "raw", "coffee/2/mild", {"start": "cleaned", "colour_fix": ""}),
        ("A4", "hint", "coffee/2/first", {"start": "noise", "colour_fix": "none"}),
        ("A4b", "cleaned, early", "coffee/2/first", {"start": "noise", "colour_fix": "none"}),
        ("A4c", "cleaned", "coffee/2/first", {"start": "cleaned", "colour_fix": "none"}),
        ("A8", "cleaned", "coffee/2/first", {"start": "cleaned", "colour_fix": ""}),
        ("A8", "cleaned", "coffee/2/second", {"start": "cleaned", "colour_fix": ""}),
    ],
)
def test_what_a_trained_arm_is_asked(id, arm, name, options, tmp_path, models, monkeypatch):
    model = Fake()
    monkeypatch.setattr(ours, "network", lambda job: model)
    claim = CLAIMS[f"diffbir.{id}"]
    found = claim.measure(job_of(claim.id, arm, tmp_path), [name])
    module = "diffbir_restoration" + ("_second" if name.endswith("second") else "")
    assert model.asked == [{"steps": 10, "restoration": module, **options}] * 2
    assert set(model.asked[0]) <= set(inspect.signature(DiffBIR.restore).parameters)
    x, y = ours.pair(name, 0)
    assert found[name] == pytest.approx(ours.compare(y, x, y, models[module].scale * y), rel=1e-6, abs=1e-9)


def test_the_colours_are_left_alone_where_they_are_judged():
    for id in TRAINED:
        judged = CLAIMS[id].primary == "colour_to_module"
        assert judged == (id in ("diffbir.A4", "diffbir.A4b", "diffbir.A4c"))
        assert CLAIMS[id].protocol.settings["colour_fix"] == ("none" if judged else "")


# ---------------------------------------------------------------- sets of images


@pytest.fixture
def few_images(tmp_path, models):
    """Measure an arm on sets of four images, by the fakes; the module darkens."""

    def measure(arm, *numbers, seed=0):
        job = job_of("diffbir.A3", arm, tmp_path, seed, per_set=4)
        found = CLAIMS["diffbir.A3"].measure(job, [f"set {i}/dead leaves/second" for i in numbers])
        return [values for _, values in sorted(found.items())]

    return measure


@needs_weights
def test_a_set_is_compared_with_images_that_were_never_degraded(few_images, models):
    """Of all arms by hand; clean images are the floor, which is not zero."""
    x, others = scenes.dead_leaves(4, 128, 903), scenes.dead_leaves(4, 128, 903, start=4)
    y = degradations.second_order(x, 2003, degradations.SECOND_ORDER_SMALL)
    noise = torch.randn(y.shape, generator=diffusion.BatchGenerator(7_002_003, 0))
    restored = {"clean": x, "input": y, "module": 0.8 * y, "pipeline": (0.95 * y + 0.1 * noise).clamp(0, 1)}
    assert set(restored) == set(CLAIMS["diffbir.A3"].protocol.arms)
    encoder, found = features.load_encoder(), {}
    for arm, z in restored.items():
        (found[arm],) = few_images(arm, 3, seed=2)
        pooled = (features.pooled_features(encoder, images) for images in (z, others))
        assert found[arm]["frechet"] == pytest.approx(features.frechet_distance(*pooled), rel=1e-3), arm
        assert found[arm]["haarpsi"] == pytest.approx(metrics.haarpsi(z, x).mean().item(), rel=1e-6), arm
    assert not models[ours.MODULE].given and torch.equal(models[ours.SECOND_MODULE].given[0], y)
    floor, *above = (values["frechet"] for values in found.values())
    assert 0 < floor < min(above)


@needs_weights
def test_a_set_has_other_images_than_the_next_and_other_damage_under_another_seed(few_images, monkeypatch):
    monkeypatch.setattr(features, "frechet_distance", lambda a, b: (a.mean(0) - b.mean(0)).norm().item())
    one, two = few_images("clean", 0, 1, seed=0)
    assert one["frechet"] != two["frechet"] and [one] == few_images("clean", 0, seed=1)
    assert few_images("input", 0, seed=0) != few_images("input", 0, seed=1)


def test_many_images_are_painted_a_few_at_a_time(tmp_path, models):
    y = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model, job = models[ours.PAPER], job_of("diffbir.A3", "pipeline", tmp_path)
    painted = ours.painted(job, y, 5)
    assert [len(given) for given in model.given] == [16, 4] and torch.equal(torch.cat(model.given), y)
    assert len(set(model.seeds)) == 2
    assert model.asked == [{"steps": 10, "start": "cleaned", "restoration": "diffbir_restoration_second"}] * 2
    assert torch.equal(painted, ours.painted(job, y, 5)) and not torch.equal(painted, ours.painted(job, y, 6))
    model.noise = 0.0
    assert torch.equal(ours.painted(job, y, 5), 0.95 * y)


# ---------------------------------------------------------------- all of it, in miniature


@needs_weights
@pytest.mark.slow
@pytest.mark.parametrize("id", OURS)
def test_every_claim_can_be_rehearsed(id, tmp_path):
    lines = []
    run = claims.run_claim(id, "quick", device="cpu", ledger=tmp_path, log=lines.append)
    assert run.finished
    assert len(run.rows) == len(CLAIMS[id].rehearsal_protocol().cells)
    assert "nothing was written" in lines[-1]
    assert all(np.isfinite([row[m] for m in CLAIMS[id].protocol.metrics]).all() for row in run.rows)


@needs_weights
@pytest.mark.slow
def test_arms_of_a_seed_are_other_networks(tmp_path):
    """Two steps of training are enough to tell arms apart; the early ones are not shorter than that."""
    found = {}
    for arm in ours.ARMS:
        id = next(id for id in TRAINED if arm in CLAIMS[id].protocol.arms)
        weights = ours.network(job_of(id, arm, tmp_path, rehearsal=True)).control.state_dict()
        found[arm] = sum(value.double().abs().sum().item() for value in weights.values())
    assert len(set(found.values())) == len(ours.ARMS) - 2
    assert (found["cleaned, early"], found["hint, early"]) == (found["cleaned"], found["hint"])
