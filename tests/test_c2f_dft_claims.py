"""The claims of C2F-DFT: budgets, effects, and a rehearsal of every claim."""

import dataclasses

import numpy as np
import pytest
import torch

from minirestore import claims, diffusion, metrics, recipes
from minirestore.claims import c2f_dft as ours
from minirestore.claims import shared
from minirestore.claims.verdicts import effects
from minirestore.papers.c2f_dft import C2FDFT, C2FDFTConfig, make_schedule

CLAIMS = claims.load_claims()
OURS = [id for id in CLAIMS if id.startswith("c2f.")]


def rows(values, metric="psnr"):
    """Ledger rows from ``{(seed, arm, image): value}``."""
    return [{"seed": seed, "arm": arm, "image": image, metric: value} for (seed, arm, image), value in values.items()]


def job_of(id, arm, tmp_path, seed=0):
    return claims.Job(CLAIMS[id], arm, seed, CLAIMS[id].rehearsal_protocol(), tmp_path / "id" / "hash" / "arm")


class Fake(torch.nn.Module):
    """A network whose restoration is a function of its input; it remembers what it was asked."""

    def __init__(self, answer=lambda y: y):
        super().__init__()
        self.config, self.weight = C2FDFTConfig(), torch.nn.Parameter(torch.zeros(1))
        self.answer, self.asked = answer, []

    def restore(self, y, generator, **options):
        self.asked.append((generator.initial_seed(), options))
        return self.answer(y)


def test_all_claims_are_there():
    assert {*(f"c2f.C{i}" for i in range(1, 12)), "c2f.C4b"} == set(OURS)
    assert CLAIMS["c2f.C1"].headline and len(CLAIMS["c2f.C1"].protocol.seeds) == 5
    assert set(CLAIMS["c2f.C10"].protocol.arms) < set(CLAIMS["c2f.C1"].protocol.arms) == set(ours.CONTROLS)


@pytest.mark.parametrize("arm", ours.ARMS)
def test_all_arms_have_one_budget_of_network_evaluations(arm):
    stages = ours.training_stages(ours.BUDGET, arm, 3)
    evaluations = sum(run["steps"] * (4 if run["stage"] == "fine" else 1) for run in stages)
    first_alone = arm == "coarse" or arm.startswith("T in ")
    assert evaluations == (2000 if first_alone else 2000 + 4 * 400)
    assert {run["seed"] for run in stages} == {3}


COMMON = {"crop": 32, "images": 400, "seed": 2}


@pytest.mark.parametrize(
    ("arm", "stages"),
    [
        ("coarse", [{"stage": "coarse", "steps": 2000}]),
        ("coarse, as long", [{"stage": "coarse", "steps": 3600}]),
        ("fine", [{"stage": "coarse", "steps": 2000}, {"stage": "fine", "steps": 400}]),
        ("L1", [{"stage": "coarse", "steps": 2000}, {"stage": "fine", "ssim": "none", "steps": 400}]),
        ("released loss", [{"stage": "coarse", "steps": 2000},
                           {"stage": "fine", "ssim": "ms_ssim", "ssim_range": 255.0, "steps": 400}]),
        ("unrolled from scratch", [{"stage": "fine", "learning_rate": 1e-3, "steps": 900}]),
        ("regression", [{"stage": "regression", "steps": 3600}]),
        ("T in both", [{"stage": "coarse", "steps": 2000}]),
        ("T in none", [{"stage": "coarse", "time_in": "none", "steps": 2000}]),
    ],
)  # fmt: skip
def test_what_an_arm_trains(arm, stages):
    assert ours.training_stages(ours.BUDGET, arm, 2) == [{**COMMON, **stage} for stage in stages]


def test_every_stage_starts_from_the_one_before(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(ours, "trained_file", lambda job, method, run, start: calls.append((run["stage"], start)) or
                        tmp_path / run["stage"])  # fmt: skip
    monkeypatch.setattr(ours, "load", lambda method, checkpoint, device: checkpoint)
    assert ours.network(job_of("c2f.C1", "fine", tmp_path), "fine") == str(tmp_path / "fine")
    assert calls == [("coarse", None), ("fine", tmp_path / "coarse")]


def test_a_setting_that_nothing_reads_is_refused():
    with pytest.raises(ValueError, match="nothing here reads rains"):
        ours.protocol(("fine", "coarse"), ("psnr",), rains=("light",))


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


def test_the_shift_is_measured_in_both_rains():
    assert {name.split("/")[2] for name in CLAIMS["c2f.C11"].protocol.images} == {"light", "heavy"}
    (x, light), (same, heavy) = (ours.pair(f"coffee/2/{rain}", 1) for rain in ("light", "heavy"))
    assert torch.equal(x, same) and (heavy - x).abs().mean() > 2 * (light - x).abs().mean()


def test_the_cycle_keeps_the_pixels_of_a_step():
    for run in ours.training_stages(ours.BUDGET, "cycle", 0):
        pixels = {side**2 * count for side, count in zip(run["patches"], run["patch_batches"], strict=True)}
        assert pixels == {16 * 32**2}


def test_networks_of_a_seed_share_their_coarse_stage(tmp_path):
    job = job_of("c2f.C1", "fine", tmp_path, 1)
    folders = {
        arm: shared.training_folder(job, ours.PAPER, ours.training_stages(job.protocol.settings, arm, 1)[0])
        for arm in ("coarse", "fine", "released loss", "L1", "unrolled from scratch", "regression")
    }
    assert len({folders[arm] for arm in ("coarse", "fine", "released loss", "L1")}) == 1
    assert len(set(folders.values())) == 3
    fine = ours.training_stages(job.protocol.settings, "fine", 1)[1]
    starts = {shared.training_folder(job, ours.PAPER, fine, tmp_path / name / "x.safetensors") for name in ("a", "b")}
    assert len(starts | {shared.training_folder(job, ours.PAPER, fine)}) == 3


def test_a_new_option_at_its_default_keeps_the_names_of_trainings(tmp_path, monkeypatch):
    job, settings = job_of("c2f.C1", "coarse", tmp_path), ours.training_stages(ours.BUDGET, "coarse", 1)[0]
    before = shared.training_folder(job, ours.PAPER, settings)

    @dataclasses.dataclass(frozen=True)
    class WithMore(recipes.DataConfig):
        more: int = 3

    planned = recipes.plan
    grown = {}

    def plan(*arguments):
        network, data, run = planned(*arguments)
        return network, WithMore(**dataclasses.asdict(data), **grown), run

    monkeypatch.setattr(recipes, "plan", plan)
    assert shared.training_folder(job, ours.PAPER, settings) == before
    grown["more"] = 4
    assert shared.training_folder(job, ours.PAPER, settings) != before


# ---------------------------------------------------------------- effects


def test_the_best_rival_counts():
    values = {
        (0, arm, image): v for arm, v in {"4 calls": 3.0, "2 calls": 1.0, "10 calls": 2.5}.items() for image in "ab"
    }
    assert ours.best_rival(rows(values), "psnr", "4 calls") == {0: 0.5}


def test_the_oracle_is_compared_with_the_same_network():
    values = {
        (2, "coarse", "a/0/light"): 20.0,
        (2, "coarse, oracle", "a/0/light"): 26.0,
        (2, "fine", "a/0/light"): 25.0,
    }
    assert ours.oracle_gain(rows(values)) == {2: 6.0}


def test_the_smaller_rise_of_the_two_early_errors_counts():
    errors = {"coarse": {"eps 999": 0.05, "eps 666": 0.10}, "fine": {"eps 999": 0.15, "eps 666": 0.13}}
    table = [{"seed": 1, "arm": arm, "image": "a/0/light", **values} for arm, values in errors.items()]
    assert ours.early_error(table) == {1: pytest.approx(0.03)}


def test_both_halves_are_compared_with_the_better_one():
    errors = {"T in both": 0.10, "T in attention": 0.13, "T in feed_forward": 0.12, "T in none": 0.2}
    values = {(0, arm, "a/0/light"): v for arm, v in errors.items()}
    assert ours.both_halves(rows(values, "eps")) == {0: pytest.approx(0.02)}


def test_the_worst_size_counts():
    values = {
        (0, size, "a/0/light"): v
        for size, v in {"64": 30.0, "96": 30.5, "125": 29.8, "128": 31.0, "tiles": 10.0}.items()
    }
    assert ours.smallest_gain(rows(values))["a/0/light"] == pytest.approx(-0.2)


def test_the_gap_is_taken_between_rains():
    levels = {
        ("fine", "light"): 25.0,
        ("regression", "light"): 27.0,
        ("fine", "heavy"): 20.0,
        ("regression", "heavy"): 20.5,
    }
    values = {(0, arm, f"a/0/{rain}"): v for (arm, rain), v in levels.items()}
    assert ours.gap_under_shift(rows(values)) == {0: 1.5}


def test_the_spread_is_that_of_the_samples():
    samples = [torch.full((1, 3, 4, 4), v) for v in (0.2, 0.4)]
    assert ours.spread(samples) == pytest.approx(255 * np.std([0.2, 0.4], ddof=1), rel=1e-5)


# ---------------------------------------------------------------- measuring


class AlmostRight(torch.nn.Module):
    """The true noise of a known clean image, but for one per cent at the first call."""

    def __init__(self, clean):
        super().__init__()
        self.config = C2FDFTConfig()
        self.clean, self.schedule = 2 * clean - 1, make_schedule(self.config)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.first = None

    def forward(self, y, x_t, t):
        eps = diffusion.eps_from_x0(x_t, self.clean, self.schedule[t.long()])
        if t[0] == ours.NODES[0]:
            self.first = eps  # from here on the noise it answers with, so that its error is never mended
            return 0.99 * eps
        return eps if self.first is None else self.first


def test_the_oracle_answers_the_first_call_alone(tmp_path, monkeypatch):
    found = {}
    for arm in ("coarse", "coarse, oracle"):
        model = AlmostRight(ours.pair("coffee/2/light", 0)[0])
        monkeypatch.setattr(ours, "network", lambda job, arm, model=model: model)
        found[arm] = ours.noise_estimates(job_of("c2f.C4", arm, tmp_path), ["coffee/2/light"])["coffee/2/light"]
    assert found["coarse"]["psnr"] < 15 < 60 < found["coarse, oracle"]["psnr"]
    assert found["coarse"]["eps 999"] == pytest.approx(0.01 * (2 / np.pi) ** 0.5, rel=0.02)


def tiny_method(seed=0):
    torch.manual_seed(seed)
    return C2FDFT(C2FDFTConfig(dim=8, blocks=(1,) * 4, heads=(1, 1, 2, 2), output_scale=0.01)).eval()


def test_without_the_oracle_the_sample_is_the_restored_one(tmp_path, monkeypatch):
    model = tiny_method()
    monkeypatch.setattr(ours, "network", lambda job, arm: model)
    found = ours.noise_estimates(job_of("c2f.C4", "coarse", tmp_path), ["coffee/2/light"])["coffee/2/light"]
    assert found["psnr"] == pytest.approx(ours.fidelity(model, "coffee/2/light", 0)["psnr"], abs=1e-4)


@pytest.mark.parametrize(("id", "arm", "times"), [("c2f.C4", "coarse", ours.NODES), ("c2f.C5", "T in both", None)])
def test_the_errors_are_those_of_the_noise_at_these_times(id, arm, times, tmp_path, monkeypatch):
    asked, schedule = [], make_schedule(C2FDFTConfig())
    x, name = 2 * ours.pair("coffee/2/light", 0)[0] - 1, "coffee/2/light"

    class Off(Fake):  # the true noise plus t / 1e4
        def forward(self, y, x_t, t):
            asked.append(int(t[0]))
            return diffusion.eps_from_x0(x_t, x, schedule[t.long()]) + t[0] / 1e4

    model = Off()
    monkeypatch.setattr(ours, "network", lambda job, arm: model)
    found = CLAIMS[id].measure(job_of(id, arm, tmp_path), [name])[name]
    if times:
        assert [found[f"eps {t}"] for t in times] == pytest.approx([t / 1e4 for t in times], abs=2e-5)
    else:
        assert asked == [62, 187, 312, 437, 562, 687, 812, 937]
        assert found["eps"] == pytest.approx(np.mean(asked) / 1e4, abs=2e-5)


def test_calls_and_draws_reach_the_network(tmp_path, monkeypatch):
    model = Fake()
    monkeypatch.setattr(ours, "network", lambda job, arm: model)
    CLAIMS["c2f.C2"].measure(job_of("c2f.C2", "25 calls", tmp_path), ["coffee/2/light"])
    CLAIMS["c2f.C8"].measure(job_of("c2f.C8", "coarse, as long, 50 calls", tmp_path), ["coffee/2/light"])
    assert [options for _, options in model.asked] == [{"steps": 25}, {"steps": 50}]
    model.asked.clear()
    found = CLAIMS["c2f.C1"].measure(job_of("c2f.C1", "fine", tmp_path), ["coffee/2/light"])["coffee/2/light"]
    assert len({seed for seed, _ in model.asked}) == len(model.asked) == 2  # the rehearsal has two draws
    assert found["spread"] == 0
    x, y = ours.pair("coffee/2/light", 0)
    assert found["psnr"] == pytest.approx(metrics.psnr(y, x).item(), abs=1e-4)


def test_networks_of_number_of_calls_arms(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ours, "network", lambda job, arm: asked.append(arm) or Fake())
    for id, arm in (("c2f.C2", "2 calls"), ("c2f.C3", "4 calls"), ("c2f.C8", "coarse, as long, 25 calls"),
                    ("c2f.C8", "fine, 4 calls"), ("c2f.C4", "fine, oracle"), ("c2f.C11", "regression")):  # fmt: skip
        if id != "c2f.C4":
            CLAIMS[id].measure(job_of(id, arm, tmp_path), ["coffee/2/light"])
    assert asked == ["coarse", "fine", "coarse, as long", "fine", "regression"]


@pytest.mark.parametrize("arm", ours.SIZES)
def test_every_size_measures_the_same_pixels(arm, tmp_path, monkeypatch):
    model = Fake(lambda y: y.clamp(0.1, 0.9))
    monkeypatch.setattr(ours, "load", lambda *a: model)
    job = claims.Job(CLAIMS["c2f.C9"], arm, 1, CLAIMS["c2f.C9"].protocol, tmp_path)
    found = ours.any_size(job, ["coffee/2/light"])["coffee/2/light"]["psnr"]
    x, y = (z[..., 40:88, 40:88] for z in ours.pair("coffee/2/light", 1))
    assert found == pytest.approx(metrics.psnr(y.clamp(0.1, 0.9), x).item(), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("id", [id for id in OURS if not CLAIMS[id].checkpoints])
def test_every_claim_can_be_rehearsed(id, tmp_path):
    lines = []
    run = claims.run_claim(id, "quick", device="cpu", ledger=tmp_path, log=lines.append)
    assert run.finished
    assert len(run.rows) == len(CLAIMS[id].rehearsal_protocol().cells)
    assert "nothing was written" in lines[-1]
