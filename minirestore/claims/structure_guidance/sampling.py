"""sg.A9 to sg.A11: how the shipped guided model trades realism for fidelity, and what its samples know."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from minirestore.claims.definitions import Job, Measured, Protocol, Row, claim
from minirestore.claims.shared import CROPS, crop_names, load, restore, seeds_of
from minirestore.claims.structure_guidance.common import PAPER, pair

AVERAGED = (1, 2, 4, 8, 16)
RADII = ("r1.5", "r2.0", "r2.5", "r3.0", "r3.5", "r4.0")  # RMS radius in pixels
SAMPLERS = {
    "T=10, mean of 8": {"steps": 10, "beta_end": 0.5, "samples": 8},
    "T=500": {"steps": 500, "beta_end": 0.02, "samples": 1},
    "T=100": {"steps": 100, "beta_end": 0.1, "samples": 1},
    "T=30": {"steps": 30, "beta_end": 0.5, "samples": 1},
    "T=10": {"steps": 10, "beta_end": 0.5, "samples": 1},
    "one step": {"steps": 1, "beta_end": 0.5, "samples": 1},
}


@claim(
    id="sg.A9",
    paper=PAPER,
    where="figure 5, Table 3 (Ours against Ours-SA)",
    statement="Averaging samples of few steps is closer to the truth than one sample of many steps.",
    paper_effect="PSNR 28.81 -> 29.98 (+1.17 dB), average of four sets",
    paper_value=1.17,
    protocol=Protocol(
        data=(CROPS, "blur linear"),
        images=crop_names("linear"),
        arms=tuple(SAMPLERS),
        seeds=(0, 1, 2),
        metrics=("psnr", "haarpsi", "high_frequency_energy_ratio", "high_frequency_error"),
        settings={"samplers": SAMPLERS},
    ),
    rehearsal={"seeds": (0,), "images": ("astronaut/2/linear", "coffee/2/linear"), "arms": ("T=10, mean of 8", "T=500"),
               "samplers": {"T=10, mean of 8": {"steps": 2, "beta_end": 0.99, "samples": 2},
                            "T=500": {"steps": 4, "beta_end": 0.9, "samples": 1}}},
    primary="psnr",
    contrast="T = 10, mean of 8 samples - T = 500, one sample",
    unit="dB",
    smallest=0.3,
    checkpoints=(PAPER,),
    shipped_arms=tuple(SAMPLERS),
)  # fmt: skip
def perception_distortion(job: Job, images: Sequence[str]) -> Measured:
    """Fidelity and detail of the shipped guided model under one sampler."""
    from minirestore import metrics

    model, found = load(PAPER, PAPER, job.device), {}
    for name in images:
        x, y = pair(name, job.seed)
        restored = restore(model, y, name, job.seed, **job.protocol.settings["samplers"][job.arm])
        found[name] = {m: metrics.METRICS[m].function(restored, x).item() for m in job.protocol.metrics}
    return found


def fit_quality(rows: Sequence[Row]) -> Mapping[str, float]:
    """R^2 of MSE(n) = bias^2 + variance / n over the numbers of samples, per crop (errors averaged over seeds)."""
    found = {}
    for image in dict.fromkeys(row["image"] for row in rows):
        counts = sorted({int(row["arm"].removeprefix("n=")) for row in rows})
        errors = [np.mean([r["mse"] for r in rows if r["image"] == image and r["arm"] == f"n={n}"]) for n in counts]
        found[image] = float(np.corrcoef(1 / np.array(counts), errors)[0, 1] ** 2)
    return found


@functools.lru_cache(maxsize=40)
def _samples(name: str, seed: int, count: int, steps: int, beta_end: float, device: str):
    """Clean crop and ``count`` samples of the shipped model (count, 3, 128, 128)."""
    import torch

    x, y = pair(name, seed)
    model = load(PAPER, PAPER, device)
    many = [restore(model, y, name, seed + 100 * (i + 1), steps=steps, beta_end=beta_end) for i in range(count)]
    return x, torch.cat(many)


@claim(
    id="sg.A10",
    paper=PAPER,
    where="sample averaging, Ours-SA",
    statement="Averaging n samples approaches the mean: the error falls as bias^2 + variance / n.",
    paper_effect="averaging raises PSNR and saturates",
    protocol=Protocol(
        data=(CROPS, "blur linear"),
        images=crop_names("linear"),
        arms=tuple(f"n={n}" for n in AVERAGED),
        seeds=(0, 1, 2),
        metrics=("mse", "psnr"),
        settings={"samples": 16, "sampler": {"steps": 10, "beta_end": 0.5}},
    ),
    rehearsal={"seeds": (0,), "images": ("astronaut/2/linear", "coffee/2/linear"), "arms": ("n=1", "n=2", "n=4"),
               "samples": 4, "sampler": {"steps": 2, "beta_end": 0.99}},
    primary="mse",
    contrast="R^2 of the fit",
    unit="R^2",
    null=0.95,
    smallest=0.95,
    checkpoints=(PAPER,),
    shipped_arms=tuple(f"n={n}" for n in AVERAGED),
    effect=fit_quality,
)  # fmt: skip
def averaging(job: Job, images: Sequence[str]) -> Measured:
    """Mean squared error of means of n samples, averaged over the disjoint groups of n among all samples."""
    s, n = job.protocol.settings, int(job.arm.removeprefix("n="))
    found = {}
    for name in images:
        x, samples = _samples(name, job.seed, s["samples"], device=job.device, **s["sampler"])
        groups = samples.double().reshape(-1, n, *samples.shape[1:]).mean(1)
        mse = (groups - x).square().mean().item()
        found[name] = {"mse": mse, "psnr": -10 * float(np.log10(mse))}
    return found


def diversity_correlation(rows: Sequence[Row]) -> Mapping[str, float]:
    """Spearman correlation of the samples' deviation with the radius of the blur, per crop, mean over seeds."""
    from scipy.stats import spearmanr

    found: dict[str, float] = {}
    for crop in dict.fromkeys(row["image"] for row in rows):
        correlations = []
        for s in seeds_of(rows):
            by_radius = sorted((r["arm"], r["sd"]) for r in rows if r["seed"] == s and r["image"] == crop)
            correlations.append(spearmanr(range(len(by_radius)), [sd for _, sd in by_radius])[0])
        found[crop] = float(np.mean(correlations))
    return found


@claim(
    id="sg.A11",
    paper=PAPER,
    where="DvSR",
    statement="Samples differ more the stronger the blur.",
    paper_effect="shown by pictures (DvSR)",
    protocol=Protocol(
        data=(CROPS, "blur linear of one direction and growing RMS radius"),
        images=crop_names(),
        arms=RADII,
        seeds=(0, 1, 2),
        metrics=("sd", "psnr"),
        settings={"samples": 6, "sampler": {"steps": 10, "beta_end": 0.5}},
    ),
    rehearsal={"seeds": (0,), "images": ("astronaut/2", "coffee/2"), "arms": ("r1.5", "r4.0"), "samples": 2,
               "sampler": {"steps": 2, "beta_end": 0.99}},
    primary="sd",
    contrast="Spearman correlation of deviation and radius",
    unit="correlation",
    smallest=0.5,
    checkpoints=(PAPER,),
    shipped_arms=RADII,
    effect=diversity_correlation,
)  # fmt: skip
def diversity(job: Job, images: Sequence[str]) -> Measured:
    """Root mean square of the samples' deviation, x 255, and PSNR of the blurred crop."""
    from minirestore import metrics

    s, found = job.protocol.settings, {}
    for name in images:
        blurred = f"{name}/{job.arm}"
        x, samples = _samples(blurred, job.seed, s["samples"], device=job.device, **s["sampler"])
        sd = samples.double().var(0).mean().sqrt().item()
        found[name] = {"sd": 255 * sd, "psnr": metrics.psnr(pair(blurred, job.seed)[1], x).item()}
    return found
