"""The claims of C2F-DFT: budgets, effects, and a rehearsal of every claim."""

import numpy as np
import pytest
import torch

from minirestore import claims, diffusion
from minirestore.claims import c2f_dft as ours
from minirestore.papers.c2f_dft import C2FDFTConfig, make_schedule

CLAIMS = claims.load_claims()
OURS = [id for id in CLAIMS if id.startswith("c2f.")]


def rows(values, metric="psnr"):
    """Ledger rows from ``{(seed, arm, image): value}``."""
    return [{"seed": seed, "arm": arm, "image": image, metric: value} for (seed, arm, image), value in values.items()]


def test_all_eleven_claims_are_there():
    assert {f"c2f.C{i}" for i in range(1, 12)} == set(OURS)
    assert CLAIMS["c2f.C1"].headline and len(CLAIMS["c2f.C1"].protocol.seeds) == 5
    assert set(ours.CONTROLS) == set(CLAIMS["c2f.C1"].protocol.arms) == set(CLAIMS["c2f.C10"].protocol.arms)


@pytest.mark.parametrize("arm", ours.ARMS)
def test_all_arms_have_one_budget_of_network_evaluations(arm):
    stages = ours.training_stages(ours.BUDGET, arm, 3)
    evaluations = sum(run["steps"] * (4 if run["stage"] == "fine" else 1) for run in stages)
    whole = ours.BUDGET["coarse_steps"] + 4 * ours.BUDGET["fine_steps"]
    assert evaluations == (ours.BUDGET["coarse_steps"] if {run["stage"] for run in stages} == {"coarse"} else whole)
    assert {run["seed"] for run in stages} == {3}


def test_the_cycle_keeps_the_pixels_of_a_step():
    for run in ours.training_stages(ours.BUDGET, "cycle", 0):
        pixels = {side**2 * count for side, count in zip(run["patches"], run["patch_batches"], strict=True)}
        assert pixels == {16 * 32**2}


def test_networks_of_a_seed_share_their_coarse_stage(tmp_path):
    from minirestore.claims import shared

    job = claims.Job(
        CLAIMS["c2f.C1"], "fine", 1, CLAIMS["c2f.C1"].rehearsal_protocol(), tmp_path / "id" / "hash" / "arm"
    )
    folders = {
        arm: shared.training_folder(job, ours.PAPER, ours.training_stages(job.protocol.settings, arm, 1)[0])
        for arm in ("coarse", "fine", "released loss", "L1", "unrolled from scratch", "regression")
    }
    assert len({folders[arm] for arm in ("coarse", "fine", "released loss", "L1")}) == 1
    assert len(set(folders.values())) == 3
    fine = ours.training_stages(job.protocol.settings, "fine", 1)[1]
    starts = {shared.training_folder(job, ours.PAPER, fine, tmp_path / name / "x.safetensors") for name in ("a", "b")}
    assert len(starts | {shared.training_folder(job, ours.PAPER, fine)}) == 3


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
    protocol, found = CLAIMS["c2f.C4"].rehearsal_protocol(), {}
    for arm in ("coarse", "coarse, oracle"):
        model = AlmostRight(ours.pair("coffee/2/light", 0)[0])
        monkeypatch.setattr(ours, "network", lambda job, arm, model=model: model)
        job = claims.Job(CLAIMS["c2f.C4"], arm, 0, protocol, tmp_path / "id" / "hash" / "arm")
        found[arm] = ours.noise_estimates(job, ["coffee/2/light"])["coffee/2/light"]
    assert found["coarse"]["psnr"] < 15 < 60 < found["coarse, oracle"]["psnr"]
    assert found["coarse"]["eps 999"] == pytest.approx(0.01 * (2 / np.pi) ** 0.5, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("id", [id for id in OURS if not CLAIMS[id].checkpoints])
def test_every_claim_can_be_rehearsed(id, tmp_path):
    lines = []
    run = claims.run_claim(id, "quick", device="cpu", ledger=tmp_path, log=lines.append)
    assert run.finished
    assert len(run.rows) == len(CLAIMS[id].rehearsal_protocol().cells)
    assert "nothing was written" in lines[-1]
