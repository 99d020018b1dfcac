"""The claims of the error map: arms that differ in what they say, effects, the printed cells, and every rehearsal."""

import dataclasses

import numpy as np
import pytest
import torch

from minirestore import checkpoints, claims, metrics, recipes
from minirestore.claims import hf_error_map as ours
from minirestore.claims import shared
from minirestore.claims.verdicts import effects

CLAIMS = claims.load_claims()
OURS = [id for id in CLAIMS if id.startswith("hf.")]
TRAINED = [id for id in OURS if CLAIMS[id].trained]
NAME = "coffee/2/bicubic"
needs_weights = pytest.mark.skipif(
    not all(checkpoints.is_present(name) for id in TRAINED for name in CLAIMS[id].checkpoints),
    reason="the student and the map are not trained yet",
)


def rows(table):
    """Ledger rows from ``{(seed, arm, image): {metric: value}}``."""
    return [{"seed": seed, "arm": arm, "image": image, **values} for (seed, arm, image), values in table.items()]


def job_of(id, arm, tmp_path, seed=0, rehearsal=True):
    protocol = CLAIMS[id].rehearsal_protocol() if rehearsal else CLAIMS[id].protocol
    return claims.Job(CLAIMS[id], arm, seed, protocol, tmp_path / "id" / "hash" / "arm")


class Fake(torch.nn.Module):
    """A super-resolver that repeats pixels and adds noise of its generator; it remembers whose."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.weight, self.noise, self.asked = torch.nn.Parameter(torch.zeros(1)), noise, []

    def restore(self, y, generator):
        self.asked.append(generator)
        large = y.repeat_interleave(4, 2).repeat_interleave(4, 3)
        drawn = torch.Generator().manual_seed(len(self.asked))
        return (large + self.noise * torch.randn(large.shape, generator=drawn)).clamp(0, 1)


@pytest.fixture
def digests(monkeypatch):
    """The digests of shipped checkpoints, whether they are there or not; change them at will."""
    known = {"resshift_student": "a", "resshift": "b", "vq": "c"}
    monkeypatch.setattr(checkpoints, "read_card", lambda name: {"sha256": known[str(name)]})
    return known


def test_all_claims_are_there():
    assert {*(f"hf.B{i}" for i in range(1, 9)), "hf.B4b"} == set(OURS)
    assert {"hf.B1", "hf.B2", "hf.B3", "hf.B6", "hf.B7", "hf.B8"} == set(TRAINED)
    assert all(CLAIMS[id].tier == "cpu" and len(CLAIMS[id].protocol.seeds) == 3 for id in TRAINED)


def test_the_missing_controls_are_arms():
    assert {"map", "no map", "one plus", "base"} == set(CLAIMS["hf.B8"].protocol.arms)
    assert {"map", "one scale", "reversed"} == set(CLAIMS["hf.B7"].protocol.arms)
    for id in ("hf.B1", "hf.B2", "hf.B3", "hf.B6"):
        assert CLAIMS[id].protocol.arms == ("map", "base", "student and map", "student")
        assert CLAIMS[id].shipped_arms == ("student and map", "student")


def test_another_metric_is_said_to_be_one():
    for id in ("hf.B1", "hf.B2", "hf.B3", "hf.B5"):
        assert "another metric" in CLAIMS[id].where and CLAIMS[id].paper_value is None


# ---------------------------------------------------------------- data


def test_the_low_resolution_version_is_a_quarter_as_large_and_repeats():
    for domain in ours.DOMAINS:
        name = f"coffee/2/{domain}"
        x, y = ours.pair(name, 1)
        assert (x.shape, y.shape) == ((1, 3, 128, 128), (1, 3, 32, 32))
        assert torch.equal(x, shared.clean_crop("coffee/2"))
        ours.pair.cache_clear()
        assert torch.equal(y, ours.pair(name, 1)[1])
        assert torch.equal(y, ours.pair(name, 2)[1]) == (domain == "bicubic")
        assert (255 * y - (255 * y).round()).abs().max() < 1e-4


def test_the_domains_are_ever_harder():
    def psnr(domain):
        found = []
        for photo, numbers in shared.TEXTURED.items():
            for seed in (0, 1):
                x, y = ours.pair(f"{photo}/{numbers[0]}/{domain}", seed)
                found.append(metrics.psnr(torch.nn.functional.interpolate(y, scale_factor=4), x).item())
        return np.mean(found)

    assert psnr("bicubic") > psnr("light") + 0.3 > psnr("resshift") + 0.6


# ---------------------------------------------------------------- arms


@pytest.mark.parametrize("arm", ours.ARMS)
def test_an_arm_differs_from_the_map_in_what_it_names(arm):
    recipe = recipes.find_recipe(ours.PAPER, recipes.MODELS)
    settings = ours.protocol(tuple(ours.ARMS)).settings

    def planned(name):
        parts = recipes.plan(recipe, settings["profile"], ours.training_settings(settings, name, 2))
        return {(i, key): value for i, part in enumerate(parts) for key, value in dataclasses.asdict(part).items()}

    one, other = planned(arm), planned("map")
    assert {key: value for (_, key), value in one.items() if value != other[_, key]} == ours.ARMS[arm]


def test_the_map_is_the_reading_of_the_paper():
    network, data, run = recipes.plan(
        recipes.find_recipe(ours.PAPER, recipes.MODELS),
        "reduced",
        ours.training_settings(CLAIMS["hf.B8"].protocol.settings, "map", 1),
    )
    assert (network.scales, network.weights) == ((1.0, 0.5, 0.25, 0.125), (0.4, 0.3, 0.2, 0.1))
    assert (network.mode, network.objective, network.hf_weight, network.stage) == ("literal", "add", 1.0, "student")
    assert len(network.scales_for(data.crop, data.crop)) == 4  # at 128 pixels none is dropped
    assert (run.seed, run.steps, run.batch_size) == (1, 200, 4)
    assert (data.images, data.crop, data.low_resolution, data.seed) == (400, 128, "bicubic", 0)


def test_claims_share_their_trainings(tmp_path, digests):
    folders = {}
    for id in TRAINED:
        for arm in set(CLAIMS[id].protocol.arms) & set(ours.ARMS):
            for seed in CLAIMS[id].protocol.seeds:
                job = job_of(id, arm, tmp_path, seed, rehearsal=False)
                settings = ours.training_settings(job.protocol.settings, arm, seed)
                folder = shared.training_folder(job, ours.PAPER, settings, ours.START, ours.FROZEN)
                folders.setdefault((arm, seed), set()).add(folder)
    assert all(len(found) == 1 for found in folders.values())
    assert len(folders) == len(set.union(*folders.values())) == 18


@pytest.mark.parametrize("changed", ["resshift_student", "resshift", "vq"])
def test_trainings_on_other_shipped_weights_are_others(changed, tmp_path, digests):
    job = job_of("hf.B8", "map", tmp_path)
    settings = ours.training_settings(job.protocol.settings, "map", 0)

    def folder():
        return shared.training_folder(job, ours.PAPER, settings, ours.START, ours.FROZEN)

    before = folder()
    assert before == folder() != shared.training_folder(job, ours.PAPER, settings)
    digests[changed] = "new"
    assert folder() != before


def test_an_arm_is_trained_from_the_student_or_shipped(tmp_path, monkeypatch):
    trained, loaded = [], []
    monkeypatch.setattr(ours, "trained_file", lambda job, *arguments: trained.append(arguments) or tmp_path / "x")
    monkeypatch.setattr(ours, "load", lambda *arguments: loaded.append(arguments))
    for arm in ("reversed", "student", "student and map", "teacher"):
        id = "hf.B7" if arm == "reversed" else "hf.B5" if arm == "teacher" else "hf.B1"
        ours.network(job_of(id, arm, tmp_path, 1, rehearsal=False))
    settings = {"images": 400, "batch_size": 4, "steps": 200, "warmup": 20, "weights": (0.1, 0.2, 0.3, 0.4), "seed": 1}
    assert trained == [("hf_error_map", settings, "resshift_student", ("resshift", "vq"))]
    assert loaded == [
        ("hf_error_map", str(tmp_path / "x"), "cpu"),
        ("resshift", "resshift_student", "cpu"),
        ("hf_error_map", "hf_error_map", "cpu"),
        ("resshift", "resshift", "cpu"),
    ]


# ---------------------------------------------------------------- effects


@pytest.mark.parametrize("id", OURS)
def test_every_effect_is_finite_on_a_whole_grid(id):
    claim = CLAIMS[id]
    generator = np.random.default_rng(0)
    grid = [
        {"seed": seed, "arm": arm, "image": image, **{m: generator.normal() for m in claim.protocol.metrics}}
        for seed, arm, image in sorted(claim.protocol.cells)
    ]
    found = effects(claim, grid)
    assert found and np.isfinite(list(found.values())).all()
    assert set(found) == set(claim.protocol.seeds) or not claim.trained


@pytest.mark.parametrize("id", ["hf.B1", "hf.B2", "hf.B3", "hf.B7", "hf.B8"])
def test_less_error_with_the_map_is_the_papers_side(id):
    claim = CLAIMS[id]

    def said(error):
        grid = rows({
            (s, arm, image): {"high_frequency_error": 0.8 + 0.001 * s + (error if arm == "map" else 0.0)}
            for s, arm, image in claim.protocol.cells
        })  # fmt: skip
        return claims.assess(claim, grid)

    assert said(-0.05).effect == pytest.approx(-0.05)
    assert [said(error).verdict for error in (-0.05, -0.005, 0.05)] == ["supported", *["contradicted"] * 2]


def test_the_smaller_step_of_the_order_counts():
    errors = {"teacher": 0.9, "student": 0.7, "student and map": 0.65}
    table = {
        (s, arm, f"{photo}/0/bicubic"): {"high_frequency_error": v + 0.01 * s + shift}
        for s in (0, 1) for arm, v in errors.items() for photo, shift in (("a", 0.0), ("b", 0.1))
    }  # fmt: skip
    assert ours.weaker_step(rows(table)) == pytest.approx({"a/0/bicubic": 0.05, "b/0/bicubic": 0.05})
    worse = {key: {"high_frequency_error": 0.95 if key[1] == "student" else 0.9} for key in table}
    assert ours.weaker_step(rows(worse)) == pytest.approx({"a/0/bicubic": -0.05, "b/0/bicubic": -0.05})


@pytest.mark.parametrize(
    ("ratio", "error", "effect"),
    [
        (0.8, 0.80, 0.02),  # nearer, no error more: the tolerance is what is left
        (0.9, 0.78, 0.04),  # nearer, and less error
        (0.61, 0.70, 0.01),  # hardly nearer
        (0.8, 0.85, -0.03),  # nearer by wrong detail
        (1.5, 0.70, -0.10),  # too sharp
    ],
)
def test_sharper_counts_only_where_it_is_right(ratio, error, effect):
    values = {"base": (0.6, 0.80), "map": (ratio, error), "student": (9.0, 9.0)}
    names = ("high_frequency_energy_ratio", "high_frequency_error")
    table = {
        (1, arm, image): dict(zip(names, pair, strict=True)) for arm, pair in values.items() for image in ("a/0", "b/0")
    }
    assert ours.sharper_and_right(rows(table)) == {1: pytest.approx(effect)}


def test_too_sharp_and_too_smooth_do_not_cancel():
    ratios = {"base": (0.8, 0.8), "map": (0.5, 1.5)}
    table = {
        (0, arm, image): {"high_frequency_energy_ratio": r, "high_frequency_error": 0.5}
        for arm, pair in ratios.items() for image, r in zip(("a/0", "b/0"), pair, strict=True)
    }  # fmt: skip
    assert ours.sharper_and_right(rows(table)) == {0: pytest.approx(0.2 - 0.5)}


# ---------------------------------------------------------------- the six cells


def printed(id, tmp_path):
    run = claims.run_claim(id, device="cpu", ledger=tmp_path / "ledger", runs=tmp_path / "runs", log=lambda line: None)
    assert run.finished
    return run.rows


def test_five_of_six_cells_are_no_more_than_chance_gives(tmp_path):
    table = printed("hf.B4", tmp_path)
    found = claims.assess(CLAIMS["hf.B4"], table)
    worse = [cell for cell, value in ours.better(table).items() if not value]
    assert worse == ["RealSR/MUSIQ"]
    assert found.effect == pytest.approx(5 / 6) and found.effect == CLAIMS["hf.B4"].paper_value
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)  # none or one of six against, both sides
    assert (found.low, found.high) == pytest.approx((0.3588, 0.9958), abs=1e-4)
    assert (found.n_units, found.verdict) == (6, "not resolved")
    lines = "\n".join(claims.report.report_lines(claims.status_rows("hf_error_map", tmp_path / "ledger")))
    assert "6 cells" in lines and "exact binomial over cells" in lines


def test_half_of_the_cells_are_within_the_noise_of_a_second_run(tmp_path):
    table = printed("hf.B4b", tmp_path)
    noise = ours.rerun_noise(table)
    assert noise == pytest.approx({"CLIPIQA": 0.72046 - 0.715, "MUSIQ": 53.518 - 53.357}, abs=1e-6)
    above = {cell for cell, value in ours.beyond_noise(table).items() if value}
    assert above == {"ImageNet-Test/CLIPIQA", "ImageNet-Test/MUSIQ", "RealSet65/MUSIQ"}
    found = claims.assess(CLAIMS["hf.B4b"], table)
    assert (found.effect, found.p, found.verdict) == (0.5, pytest.approx(1), "not resolved")


def test_a_cell_must_exceed_the_noise_on_both_runs():
    def cell(map, first, second):
        table = {(0, arm, "x/M"): {"score": v} for arm, v in zip(ours.PRINTED_ARMS, (map, first, second), strict=True)}
        return ours.beyond_noise(rows(table))["x/M"]

    assert [cell(1.0, 0.5, 0.6), cell(1.0, 0.5, 0.95), cell(1.0, 0.95, 0.5), cell(1.0, 1.5, 1.6)] == [1, 0, 0, 0]


# ---------------------------------------------------------------- measuring


def test_the_quality_is_that_of_the_samples(tmp_path, monkeypatch):
    model = Fake()
    monkeypatch.setattr(ours, "network", lambda job: model)
    job = job_of("hf.B8", "map", tmp_path, rehearsal=False)
    found = CLAIMS["hf.B8"].measure(job, [NAME])[NAME]
    assert set(found) == set(ours.METRICS)
    x, y = ours.pair(NAME, 0)
    sample = model.restore(y, None)
    for id in ours.QUALITY:
        assert found[id] == pytest.approx(metrics.METRICS[id].function(sample, x).item(), rel=1e-6), id
    assert found["spread"] == 0
    noises = [generator.initial_seed() for generator in model.asked[:-1]]
    assert len(noises) == 4 and all(type(generator) is type(model.asked[0]) for generator in model.asked[:-1])


def test_the_spread_is_that_between_draws(tmp_path):
    model = Fake(noise=0.2)
    found = ours.quality(model, NAME, 0, 3)
    model.asked.clear()
    x, y = ours.pair(NAME, 0)
    errors = [metrics.high_frequency_error(model.restore(y, None), x).item() for _ in range(3)]
    assert found["high_frequency_error"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert found["spread"] == pytest.approx(np.std(errors, ddof=1), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("id", [pytest.param(id, marks=needs_weights if CLAIMS[id].checkpoints else ()) for id in OURS])
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
    """Two steps of training are enough to tell all arms apart, and the same arm repeats."""
    found = {}
    for arm in ours.ARMS:
        job = job_of("hf.B8" if arm in CLAIMS["hf.B8"].protocol.arms else "hf.B7", arm, tmp_path)
        found[arm] = ours.network(job).network.state_dict()["output.weight"].clone()
    assert len({value.sum().item() for value in found.values()}) == len(ours.ARMS)
