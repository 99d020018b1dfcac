"""sg.A1 to sg.A6: does guidance help where the blur is new, and which part of it?"""

from collections.abc import Mapping, Sequence
from typing import Any

from minirestore.claims.definitions import Job, Measured, Protocol, Row, claim
from minirestore.claims.shared import (
    CROPS,
    TEXTURED,
    conditions_of,
    crop_names,
    gain_of,
    load,
    mean_of,
    restore,
    seeds_of,
    trained_file,
)
from minirestore.claims.structure_guidance.common import PAPER, pair

SHIFTS = ("walk", "walk_gamma", "disk", "rotation")
SEVERITIES = ("x1.00", "x1.25", "x1.50", "x2.00")  # of the training domain's radius
TRAINING = {"profile": "reduced", "steps": 12_000, "warm_start": 2000, "ramp": 2000}

# What differs from the guided model; "steps" of the guided ones are preceded by the warm start of H.
ARMS: dict[str, dict[str, Any]] = {
    "guided": {},
    "unguided": {"guided": False},
    "wide": {"guided": False, "widths": [34, 44, 50]},  # as many parameters as guided
    "unguided, longer": {"guided": False, "extra": True},  # as many steps as guided, its warm start included
    "no regression": {"regression_weight": 0.0, "warm_start": 0, "ramp": 0},
    "k=1": {"scales": [1], "guidance_widths": [24]},
    "k=2": {"scales": [2], "guidance_widths": [24]},
    "k=3": {"scales": [3], "guidance_widths": [24]},
    "rgb": {"guidance_input": "rgb"},
    "zeroed": {"use": "zeroed"},  # the guided model, h_k = 0 at test
    "shuffled": {"use": "shuffled"},  # the guided model, h_k of another photograph at test
    "regressor": {"objective": "regression"},
    "narrow": {"guided": False, "widths": [16, 20, 24]},
    "medium": {"guided": False, "widths": [24, 30, 36]},
    "image": {"guided": False, "target": "image", "residual_scale": 1.0},
    "refine": {"guided": False, "target": "refine", "predictor_widths": [32, 40, 48]},
}


def trained_protocol(arms: Sequence[str], conditions: Sequence[str], seeds: int) -> Protocol:
    """The protocol of a claim whose arms are trained: single samples and one-step estimates of blurred crops."""
    return Protocol(
        data=("train: scenes.dead_leaves, blur linear", CROPS, "blur by condition; shifts matched in input PSNR"),
        images=crop_names(*conditions),
        arms=tuple(arms),
        seeds=tuple(range(seeds)),
        metrics=("psnr", "haarpsi", "psnr one step"),
        settings={**TRAINING, "sampler": {"steps": 30, "beta_end": 0.5}, "arms": {arm: ARMS[arm] for arm in arms}},
    )


def rehearsal(*images: str) -> dict[str, Any]:
    """A miniature of a trained claim: networks of the quick profile, a few steps, the named images."""
    quick = {"profile": "quick", "steps": 2, "warm_start": 1, "ramp": 1}
    return {"seeds": (0, 1), "images": images, "settings": {**quick, "sampler": {"steps": 2, "beta_end": 0.99}}}


def training_settings(protocol: Protocol, arm: str, seed: int) -> dict[str, Any]:
    """Settings of `recipes.train` for one arm: equally many steps of the diffusion loss in all of them."""
    s = protocol.settings
    options = dict(s["arms"][arm])
    options.pop("use", None)
    longer = options.pop("extra", False)
    guided = options.get("guided", True) and options.get("objective") != "regression"
    warm_start = options.pop("warm_start", s["warm_start"]) if guided else 0
    extra = s["warm_start"] if longer else warm_start
    options |= {"ramp": options.pop("ramp", s["ramp"]), "warm_start": warm_start} if guided else {}
    return {**options, "steps": s["steps"] + extra, "seed": seed}


def trained_model(job: Job):
    """The model of the job's arm and seed, trained now unless it is there; `OutOfTime` when the time box ends first."""
    return load(PAPER, str(trained_file(job, PAPER, training_settings(job.protocol, job.arm, job.seed))), job.device)


def measure_trained(job: Job, images: Sequence[str]) -> Measured:
    """PSNR and HaarPSI of one sample, and PSNR of the one-step estimate, for every named crop and condition."""
    from minirestore import metrics

    model = trained_model(job)
    use = job.protocol.settings["arms"][job.arm].get("use")
    found = {}
    for name in images:
        x, y = pair(name, job.seed)
        options: dict[str, Any] = {"guidance": 0.0} if use == "zeroed" else {}
        if use == "shuffled":
            options["structure"] = pair(other_photograph(name), job.seed)[1]
        sample = restore(model, y, name, job.seed, **job.protocol.settings["sampler"], **options)
        mean = restore(model, y, name, job.seed, steps=1, **options)
        found[name] = {
            "psnr": metrics.psnr(sample, x).item(),
            "haarpsi": metrics.haarpsi(sample, x).item(),
            "psnr one step": metrics.psnr(mean, x).item(),
        }
    return found


def other_photograph(name: str) -> str:
    """A crop of the next photograph, under the same condition."""
    photo, _, condition = name.split("/")
    photos = list(TEXTURED)
    following = photos[(photos.index(photo) + 1) % len(photos)]
    return f"{following}/{TEXTURED[following][0]}/{condition}"


def gain_in_domain(rows: Sequence[Row]) -> Mapping[int, float]:
    """PSNR of guided minus wide under the training blur, per seed."""
    return {s: gain_of(rows, "psnr", s, ("guided", "wide"), "linear") for s in seeds_of(rows)}


def best_single_scale(rows: Sequence[Row]) -> Mapping[int, float]:
    """All scales minus the best single one, per seed."""
    return {
        s: mean_of(rows, "haarpsi", s, "guided") - max(mean_of(rows, "haarpsi", s, f"k={k}") for k in (1, 2, 3))
        for s in seeds_of(rows)
    }


def severity_correlation(rows: Sequence[Row]) -> Mapping[int, float]:
    """Spearman correlation of the gain of guidance with the severity of the blur, per seed."""
    from scipy.stats import spearmanr

    found = {}
    for s in seeds_of(rows):
        severity = sorted(conditions_of(rows))
        gains = [gain_of(rows, "haarpsi", s, ("guided", "wide"), c) for c in severity]
        found[s] = float(spearmanr(range(len(gains)), gains)[0])
    return found


def size_hurts(rows: Sequence[Row]) -> Mapping[int, float]:
    """The smallest network minus the largest on the shifts, per seed: above 0 where size hurts out of the domain."""
    shifted = [row for row in rows if row["image"].split("/")[2] != "linear"]
    return {s: gain_of(shifted, "haarpsi", s, ("narrow", "unguided")) for s in seeds_of(rows)}


def trained_claim(**fields: Any) -> None:
    """Register a claim of this paper whose arms are trained on a GPU and measured by `measure_trained`."""
    claim(paper=PAPER, tier="gpu", trained=True, **fields)(measure_trained)


trained_claim(
    id="sg.A1",
    where="capacity ablation",
    statement="Guidance helps under blur that training never saw.",
    paper_effect="LPIPS .156 -> .128 (-18 %) out of domain (icDPM-L)",
    protocol=trained_protocol(("guided", "wide", "zeroed", "shuffled"), SHIFTS, 5),
    rehearsal=rehearsal("astronaut/2/walk", "coffee/2/walk"),
    primary="haarpsi",
    contrast="guided - wide, mean of the four shifts",
    unit="HaarPSI",
    smallest=0.005,
    headline=True,
)

trained_claim(
    id="sg.A2",
    where="capacity ablation",
    statement="Guidance does not hurt in the training domain.",
    paper_effect="PSNR 32.105 -> 32.220 (+.1 dB) on GoPro (icDPM-L)",
    paper_value=0.115,
    protocol=trained_protocol(("guided", "wide", "unguided, longer", "regressor"), ("linear", "long"), 5),
    rehearsal=rehearsal("astronaut/2/linear", "coffee/2/linear"),
    primary="psnr",
    contrast="guided - wide, training blur",
    unit="dB",
    null=-0.1,
    smallest=-0.1,
    effect=gain_in_domain,
)

trained_claim(
    id="sg.A3",
    where="capacity ablation",
    statement="A larger unguided network is better in the training domain and worse outside it.",
    paper_effect="icDPM-L against icDPM-S: PSNR up in domain, LPIPS worse out of domain",
    protocol=trained_protocol(("narrow", "unguided", "medium"), ("linear", *SHIFTS), 3),
    rehearsal=rehearsal("astronaut/2/linear", "astronaut/2/walk", "coffee/2/walk"),
    primary="haarpsi",
    contrast="narrow - unguided, mean of the four shifts",
    unit="HaarPSI",
    smallest=0.005,
    effect=size_hurts,
)

trained_claim(
    id="sg.A4",
    where="implied by the out-of-domain results",
    statement="The gain of guidance grows with the distance from the training domain.",
    paper_effect="larger gains out of domain than in it",
    protocol=trained_protocol(("guided", "wide"), SEVERITIES, 3),
    rehearsal=rehearsal("astronaut/2/x1.00", "astronaut/2/x2.00"),
    primary="haarpsi",
    contrast="Spearman correlation of the gain (guided - wide) with the severity",
    unit="correlation",
    smallest=0.3,
    effect=severity_correlation,
)

trained_claim(
    id="sg.A5",
    where="ablation of the regression loss",
    statement="Without its regression loss the guidance is worth less.",
    paper_effect="PSNR 31.19 -> 30.56 (-.63 dB) on GoPro",
    paper_value=0.63,
    protocol=trained_protocol(("guided", "no regression", "rgb"), ("linear", "walk_gamma"), 3),
    rehearsal=rehearsal("astronaut/2/linear", "coffee/2/linear"),
    primary="psnr",
    contrast="guided - no regression",
    unit="dB",
    smallest=0.1,
)

trained_claim(
    id="sg.A6",
    where="ablation of the scales",
    statement="Several scales of structure are better than the best single one.",
    paper_effect="LPIPS .141 -> .137 (-3 %) out of domain",
    protocol=trained_protocol(("guided", "k=1", "k=2", "k=3"), SHIFTS, 5),
    rehearsal=rehearsal("astronaut/2/walk", "coffee/2/walk"),
    primary="haarpsi",
    contrast="guided (all scales) - best single scale, mean of the four shifts",
    unit="HaarPSI",
    smallest=0.002,
    effect=best_single_scale,
)
