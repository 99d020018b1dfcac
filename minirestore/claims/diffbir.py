"""The claims of DiffBIR, diffbir.A1 to diffbir.A9, with the controls that the paper lacks.

The paper judges by FID and MANIQA on single trainings; neither can be had offline. Here its claims are put to metrics
with a reference, decided upon beforehand, on a prior that is no Stable Diffusion: what is tested is the mechanism.

Every trained arm begins with the prior's own weights, learns equally long (but for the early ones) from equally many
crops, and differs from the others in the settings of `ARMS` alone. Claims share their trainings. The other claims judge
what is shipped, behind the restoration module that was trained on the degradation at hand.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minirestore.claims.definitions import Job, Measured, Protocol, Row, claim
from minirestore.claims.shared import (
    CROPS,
    clean_crop,
    crop_names,
    crop_seed,
    gain_of,
    load,
    mean_of,
    noise_source,
    seeds_of,
    trained_file,
)

PAPER = "diffbir"
MODULE, SECOND_MODULE = "diffbir_restoration", "diffbir_restoration_second"
FROZEN = ("prior", MODULE, SECOND_MODULE)
ARMS: dict[str, dict[str, Any]] = {
    "cleaned": {},
    "raw": {"cleaned": False},
    "hint": {"condition": "hint"},
    "cleaned, early": {"steps": 200},
    "hint, early": {"condition": "hint", "steps": 200},
    "cleaned, second": {"pipeline": "second_order_small", "restoration": SECOND_MODULE},
    "raw, second": {"pipeline": "second_order_small", "cleaned": False},
}
BUDGET = {"profile": "reduced", "images": 400, "prepared": 800, "batch_size": 8, "steps": 800, "warmup": 50}
SAMPLING = {"sampling_steps": 10, "start": "cleaned", "draws": 2}
NOT_TRAINING = ("profile", "sampling_steps", "start", "draws", "colour_fix", "arms")
REFERENCE = ("psnr", "haarpsi", "high_frequency_error", "high_frequency_energy_ratio", "spectrum_distance")
TO_MODULE = ("to_module", "colour_to_module", "low_to_module")
METRICS = (*REFERENCE, *TO_MODULE, "artefacts")
ARTEFACT = 0.1  # how much further from the truth than the degraded pixel was


def domains():
    """Degradations by name: first order at three severities, and the second order that training did not have."""
    from minirestore import degradations

    first = degradations.FIRST_ORDER_SMALL
    ranges = {
        "mild": ((0.1, 1.0), (1.0, 1.5), (0.0, 5.0), (80, 100)),
        "severe": ((2.0, 4.0), (3.0, 5.0), (10.0, 25.0), (30, 50)),
    }
    made = {
        name: dataclasses.replace(
            first, blur=dataclasses.replace(first.blur, sigma=sigma), downsample=r, noise=noise, quality=quality
        )
        for name, (sigma, r, noise, quality) in ranges.items()
    }
    return {**made, "first": first, "second": degradations.SECOND_ORDER_SMALL}


SEVERITIES = ("mild", "first", "severe")


def protocol(arms: Sequence[str], *conditions: str, **settings: Any) -> Protocol:
    """The protocol of a claim whose arms are trained, and measured under these degradations."""
    data = ("train: scenes.dead_leaves, first_order_small", CROPS, *(f"degraded: {name}" for name in conditions))
    settings = {**BUDGET, **SAMPLING, "colour_fix": "", **settings, "arms": {arm: ARMS[arm] for arm in arms}}
    return Protocol(data, crop_names(*conditions), tuple(arms), (0, 1, 2), METRICS, settings)


def few(*conditions: str) -> dict[str, Any]:
    """A rehearsal: two crops, two steps of training."""
    settings = {"images": 4, "prepared": 4, "batch_size": 1, "steps": 2, "warmup": 1, "sampling_steps": 2, "draws": 1}
    return {"seeds": (0, 1), "images": crop_names(*conditions, rehearsal=True), "settings": settings}


# ---------------------------------------------------------------- data, networks, quality


@functools.lru_cache(maxsize=256)
def pair(name: str, seed: int):
    """Clean crop and its degraded version, (1, 3, 128, 128) each, of ``photograph/number/degradation``."""
    from minirestore import degradations

    x, config = clean_crop(name), domains()[name.split("/")[2]]
    order = degradations.first_order if isinstance(config, degradations.FirstOrder) else degradations.second_order
    return x, order(x, crop_seed(name, seed), config)


def module_for(name: str) -> str:
    """The restoration module that was trained on the degradation of an image."""
    return SECOND_MODULE if name.split("/")[2] == "second" else MODULE


@functools.lru_cache(maxsize=256)
def module_result(name: str, seed: int, device: str):
    """I_reg of an image, by `module_for` it."""
    return load(MODULE, module_for(name), device).restore(pair(name, seed)[1].to(device)).cpu()


def training_settings(settings: Mapping[str, Any], arm: str, seed: int) -> dict[str, Any]:
    """The settings of `recipes.train` for an arm."""
    shared = {name: value for name, value in settings.items() if name not in NOT_TRAINING}
    changes = dict(settings["arms"][arm])
    changes["steps"] = min(shared["steps"], changes.get("steps", shared["steps"]))
    return {**shared, **changes, "warmup": min(shared["warmup"], changes["steps"] - 1), "seed": seed}


def network(job: Job):
    """The model of the job's arm and seed, trained now unless it is there."""
    settings = training_settings(job.protocol.settings, job.arm, job.seed)
    return load(PAPER, str(trained_file(job, PAPER, settings, frozen=FROZEN)), job.device)


def compare(z, x, y, i_reg) -> dict[str, float]:
    """`METRICS` of restored crops (draws, 3, H, W), means over the draws.

    ``to_module``, ``colour_to_module`` and ``low_to_module`` compare with the module's result: root mean square, offset
    of the channel means, root mean square of 8 x 8 means. ``artefacts`` is the share of pixels that are further from
    the truth than they were before, by more than `ARTEFACT`.
    """
    from minirestore import metrics

    x, y, i_reg = (image.expand_as(z) for image in (x, y, i_reg))
    values = {id: metrics.METRICS[id].function(z, x) for id in REFERENCE}
    values["to_module"] = (z - i_reg).double().square().mean((1, 2, 3)).sqrt()
    values["colour_to_module"] = metrics.colour_offset(z, i_reg)
    values["low_to_module"] = metrics.low_frequency_rmse(z, i_reg)
    further = (z - x).abs().mean(1) - (y - x).abs().mean(1)
    values["artefacts"] = (further > ARTEFACT).double().mean((1, 2))
    return {id: value.double().mean().item() for id, value in values.items()}


def quality(model, job: Job, name: str, **options: Any) -> dict[str, float]:
    """`compare` the samples of one crop, each from noise of its own."""
    import torch

    settings = job.protocol.settings
    x, y = pair(name, job.seed)
    options = {"steps": settings["sampling_steps"], "start": settings["start"], **options}
    samples = [
        model.restore(y.to(job.device), noise_source(name, job.seed, draw), **options).cpu()
        for draw in range(settings["draws"])
    ]
    return compare(torch.cat(samples), x, y, module_result(name, job.seed, job.device))


def measure_trained(job: Job, images: Sequence[str]) -> Measured:
    """`quality` of a trained arm, behind the module that was trained on the degradation at hand."""
    model, fix = network(job), job.protocol.settings["colour_fix"]
    return {name: quality(model, job, name, restoration=module_for(name), colour_fix=fix) for name in images}


def measure_shipped(job: Job, images: Sequence[str]) -> Measured:
    """`quality` of the shipped control with the options of the arm; the arm ``module`` is the module alone."""
    if job.arm == "module":
        shown = {name: (*pair(name, job.seed), module_result(name, job.seed, job.device)) for name in images}
        return {name: compare(i_reg, x, y, i_reg) for name, (x, y, i_reg) in shown.items()}
    model, options = load(PAPER, PAPER, job.device), dict(job.protocol.settings["arms"][job.arm])
    return {name: quality(model, job, name, restoration=module_for(name), **options) for name in images}


def shipped_claim(arms: Mapping[str, Mapping[str, Any]], condition: str, **fields: Any) -> None:
    """Register a claim on the shipped control, whose arms are options of ``restore``."""
    images = crop_names(condition, rehearsal=True)
    data, settings = (CROPS, f"degraded: {condition}"), {**SAMPLING, "arms": arms}
    claim(
        paper=PAPER,
        protocol=Protocol(data, crop_names(condition), tuple(arms), (0, 1, 2), METRICS, settings),
        rehearsal={"seeds": (0,), "images": images, "sampling_steps": 2, "draws": 1},
        checkpoints=(PAPER, *FROZEN),
        shipped_arms=tuple(arms),
        **fields,
    )(measure_shipped)


def per_crop(rows: Sequence[Row], metric: str) -> dict[str, dict[str, float]]:
    """Means over the seeds: crop -> arm -> value."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(row["image"], {}).setdefault(row["arm"], []).append(row[metric])
    return {crop: {arm: float(np.mean(v)) for arm, v in arms.items()} for crop, arms in found.items()}


# ---------------------------------------------------------------- A1: clean first

AGAINST_RAW = ("cleaned", "raw")


def growing_gain(rows: Sequence[Row]) -> Mapping[int, float]:
    """Per seed: what cleaning gains under severe degradation, less what it gains under mild."""
    return {
        seed: gain_of(rows, "haarpsi", seed, AGAINST_RAW, "severe")
        - gain_of(rows, "haarpsi", seed, AGAINST_RAW, "mild")
        for seed in seeds_of(rows)
    }


def cleaning_claim(**fields: Any) -> None:
    """Register a claim on the control behind the module and without it, at three severities."""
    claim(
        paper=PAPER,
        protocol=protocol(AGAINST_RAW, *SEVERITIES),
        rehearsal=few("mild", "severe"),
        primary="haarpsi",
        unit="HaarPSI",
        smallest=0.01,
        trained=True,
        checkpoints=FROZEN,
        **fields,
    )(measure_trained)


cleaning_claim(
    id="diffbir.A1",
    where="ablation of the restoration module; here another metric, HaarPSI",
    statement="Two stages are better than one: the control does better behind the restoration module.",
    paper_effect="FID 40.78 -> 39.58, 33.22 -> 32.35, 75.98 -> 75.94; MANIQA .582 -> .591, .624 -> .629; one training",
    contrast="HaarPSI, condition cleaned - condition as degraded; three severities",
)

cleaning_claim(
    id="diffbir.A1b",
    where="severity, which the paper does not vary (ours)",
    statement="The worse the degradation, the more the restoration module helps.",
    paper_effect="not measured",
    contrast="gain of HaarPSI by cleaning, severe - mild",
    effect=growing_gain,
)

# ---------------------------------------------------------------- A2, A3: realism against fidelity

PAINTED = {"pipeline": {}, "module": {}}

shipped_claim(
    PAINTED,
    "second",
    id="diffbir.A2",
    where="tables on real photographs; here another metric, the distance of spectra",
    statement="Painting makes the cleaned image more realistic.",
    paper_effect="MANIQA .5640 -> .5906 and .5900 -> .6293 against the best rival; in NIQE 6th of 7 and 2nd",
    primary="spectrum_distance",
    direction="lower",
    contrast="distance of spectra, both stages - the module alone",
    unit="decades",
    smallest=0.05,
)

shipped_claim(
    PAINTED,
    "second",
    id="diffbir.A2b",
    where="the price, for the same pictures (ours)",
    statement="Painting costs fidelity: PSNR falls.",
    paper_effect="not compared with the module alone",
    primary="psnr",
    direction="lower",
    contrast="PSNR, both stages - the module alone",
    unit="dB",
    smallest=0.2,
)

SETS = tuple(f"set {i}/dead leaves/second" for i in range(6))
FRECHET_ARMS = ("pipeline", "module", "input", "clean")


@functools.lru_cache(maxsize=len(SETS))
def leaves(seed: int, count: int):
    """So many dead leaves (count, 3, 128, 128), and as many others; the same for all arms and seeds of a claim."""
    from minirestore import scenes

    return scenes.dead_leaves(2 * count, 128, seed).split(count)


def measure_frechet(job: Job, images: Sequence[str]) -> Measured:
    """Frechet distance of the course's features from a set's restored images to as many other, clean ones."""
    from minirestore import degradations, features, metrics

    settings, encoder, found = job.protocol.settings, features.load_encoder(), {}
    for name in images:
        number = int(name.split("/")[0].split()[-1])
        x, others = leaves(settings["first_seed"] + number, settings["per_set"])
        seed = 1000 * job.seed + number
        z = y = degradations.second_order(x, seed, domains()["second"])
        if job.arm == "clean":
            z = x
        elif job.arm == "module":
            z = load(MODULE, SECOND_MODULE, job.device).restore(y.to(job.device)).cpu()
        elif job.arm == "pipeline":
            z = painted(job, y, seed)
        sets = (features.pooled_features(encoder, part) for part in (z, others))
        found[name] = {"frechet": features.frechet_distance(*sets), "haarpsi": metrics.haarpsi(z, x).mean().item()}
    return found


def painted(job: Job, y, seed: int):
    """Both stages on many images (N, 3, 128, 128), a few at a time."""
    import torch

    from minirestore import diffusion

    model, settings = load(PAPER, PAPER, job.device), job.protocol.settings
    options = {"steps": settings["sampling_steps"], "start": settings["start"], "restoration": SECOND_MODULE}
    parts = [
        model.restore(part.to(job.device), diffusion.BatchGenerator(7_000_000 + seed, i), **options)
        for i, part in enumerate(y.split(16))
    ]
    return torch.cat(parts).cpu()


claim(
    id="diffbir.A3",
    paper=PAPER,
    where="tables on faces; here another metric, the Frechet distance of the course's features on dead leaves",
    statement="As a set, restored images are more like true ones than those of the module alone.",
    paper_effect="FID 20.30 -> 20.02, 43.36 -> 39.58, 37.87 -> 32.35 against the best rival; a third set 3rd",
    protocol=Protocol(
        ("scenes.dead_leaves, 128 px", "degraded: second"),
        SETS,
        FRECHET_ARMS,
        (0, 1, 2),
        ("frechet", "haarpsi"),
        {"sampling_steps": 10, "start": "cleaned", "per_set": 64, "first_seed": 900},
    ),
    rehearsal={"seeds": (0,), "images": SETS[:2], "per_set": 3, "sampling_steps": 2},
    primary="frechet",
    direction="lower",
    contrast="Frechet distance to other clean images, both stages - the module alone",
    unit="course features",
    clusters="sets",
    checkpoints=(PAPER, *FROZEN, "features"),
)(measure_frechet)

# ---------------------------------------------------------------- A4: the colour shift


def hint_claim(arms: Sequence[str], start: str = "noise", **fields: Any) -> None:
    """Register a claim on LAControlNet and the ControlNet that reads pixels, with the colour fix off.

    ``noise`` is where the paper's sampler starts; see `papers.diffbir.DiffBIRConfig` for what this does to colours.
    """
    claim(
        paper=PAPER,
        protocol=protocol(arms, "first", colour_fix="none", start=start),
        rehearsal=few("first"),
        primary="colour_to_module",
        direction="lower",
        unit="of the range of values",
        smallest=0.005,
        trained=True,
        checkpoints=FROZEN,
        **fields,
    )(measure_trained)


def closing_gap(rows: Sequence[Row]) -> Mapping[int, float]:
    """Per seed: how far the ControlNet's colours are off beside LAControlNet's, late less early."""
    metric = "colour_to_module"
    return {
        seed: gain_of(rows, metric, seed, ("hint", "cleaned"))
        - gain_of(rows, metric, seed, ("hint, early", "cleaned, early"))
        for seed in seeds_of(rows)
    }


hint_claim(
    ("cleaned", "hint"),
    id="diffbir.A4",
    where="figure of results with ControlNet; colour fix off",
    statement="LAControlNet keeps the colours that a ControlNet with an encoder of its own shifts.",
    paper_effect="shown on examples",
    contrast="offset of colours from the module's result, LAControlNet - ControlNet with hint encoder",
)

hint_claim(
    ("cleaned", "hint", "cleaned, early", "hint, early"),
    id="diffbir.A4b",
    where="length of the training, which the paper does not vary (ours)",
    statement="The ControlNet's shift of colours is a matter of time: it shrinks as training goes on.",
    paper_effect="not measured",
    contrast="gap between the two offsets, after all steps - after a quarter of them",
    effect=closing_gap,
)

hint_claim(
    ("cleaned", "hint"),
    "cleaned",
    id="diffbir.A4c",
    where="start of the sampler, which paper and released code leave at pure noise (ours)",
    statement="LAControlNet keeps the colours better even where the sampler starts from the cleaned image under noise.",
    paper_effect="not considered",
    contrast="offset of colours from the module's result, LAControlNet - ControlNet with hint encoder",
)

# ---------------------------------------------------------------- A5: the control is needed

PULLS = (0.05, 0.1, 0.2, 0.4)
UNCONTROLLED = {f"prior, rho = {rho:g}": {"strength": (0.0,), "guidance": rho} for rho in PULLS}


def control_over_guidance(rows: Sequence[Row]) -> Mapping[str, float]:
    """Per crop: HaarPSI of the control less that of the prior with the best (in the mean) of the pulls."""
    crops = per_crop(rows, "haarpsi")
    best = max(UNCONTROLLED, key=lambda arm: np.mean([crop.get(arm, -np.inf) for crop in crops.values()]))
    return {name: crop["control"] - crop[best] for name, crop in crops.items()}


shipped_claim(
    {"control": {}, **UNCONTROLLED},
    "second",
    id="diffbir.A5",
    where="figure of results without fine-tuning; here HaarPSI, and guidance as the rival",
    statement="The prior must be trained to follow the image: guidance alone does not do.",
    paper_effect="shown on examples",
    primary="haarpsi",
    contrast="HaarPSI, control without guidance - guidance without control, the best of four pulls",
    unit="HaarPSI",
    smallest=0.01,
    effect=control_over_guidance,
)

# ---------------------------------------------------------------- A6: the dial

DIAL = {f"rho = {rho:g}": {"guidance": rho} for rho in (0.0, 0.02, 0.05, 0.1, 0.2)}


def smallest_fall(metric: str, rows: Sequence[Row]) -> Mapping[str, float]:
    """Per crop: the smallest of the falls of a metric from one stop of the dial to the next."""
    return {
        name: min(crop[before] - crop[after] for before, after in itertools.pairwise(DIAL))
        for name, crop in per_crop(rows, metric).items()
    }


def dial_claim(metric: str, **fields: Any) -> None:
    """Register a claim on a metric that falls at every stop of the dial."""
    shipped_claim(
        DIAL, "second", where="figure of results at several s", paper_effect="shown on examples", primary=metric,
        effect=functools.partial(smallest_fall, metric), **fields,
    )  # fmt: skip


dial_claim(
    "to_module",
    id="diffbir.A6",
    statement="Guidance is a dial: the more of it, the nearer to the cleaned image, without a step back.",
    contrast="fall of the distance from the module's result, the smallest over four turns of the dial",
    unit="RMSE",
)

dial_claim(
    "high_frequency_energy_ratio",
    id="diffbir.A6b",
    statement="What it costs is detail: the more guidance, the less high-frequency energy, without a step back.",
    contrast="fall of the HF energy ratio, the smallest over four turns of the dial",
    unit="HF energy",
)

# ---------------------------------------------------------------- A7: the regression is too smooth


def missing_energy(rows: Sequence[Row]) -> Mapping[str, float]:
    """Per crop of the middle severity: the share of the high-frequency energy that the module's result lacks."""
    crops = per_crop(rows, "high_frequency_energy_ratio")
    return {name: 1 - crop["module"] for name, crop in crops.items() if name.endswith("/first")}


def further_loss(rows: Sequence[Row]) -> Mapping[str, float]:
    """Per crop: how much lower the energy ratio of the module's result is under severe degradation than under mild."""
    crops = per_crop(rows, "high_frequency_energy_ratio")
    stems = dict.fromkeys(name.rpartition("/")[0] for name in crops)
    return {stem: crops[f"{stem}/mild"]["module"] - crops[f"{stem}/severe"]["module"] for stem in stems}


def smooth_claim(**fields: Any) -> None:
    """Register a claim on the module alone, at three severities."""
    claim(
        paper=PAPER,
        protocol=Protocol(
            (CROPS, *(f"degraded: {name}" for name in SEVERITIES)),
            crop_names(*SEVERITIES),
            ("module",),
            (0, 1, 2),
            METRICS,
        ),
        rehearsal={"seeds": (0,), "images": crop_names(*SEVERITIES, rehearsal=True)},
        primary="high_frequency_energy_ratio",
        unit="of the HF energy",
        checkpoints=(MODULE,),
        shipped_arms=("module",),
        **fields,
    )(measure_shipped)


smooth_claim(
    id="diffbir.A7",
    where="figure of the restoration module's results",
    statement="Trained on the squared error, the restoration module is too smooth.",
    paper_effect="shown on examples",
    contrast="share of the HF energy that the module's result lacks; degraded as in training",
    smallest=0.1,
    effect=missing_energy,
)

smooth_claim(
    id="diffbir.A7b",
    where="severity, which the paper does not vary (ours)",
    statement="The less is left of an image, the smoother is what the module makes of it.",
    paper_effect="not measured",
    contrast="HF energy ratio of the module's result, mild - severe degradation",
    smallest=0.05,
    effect=further_loss,
)

# ---------------------------------------------------------------- A8: other degradations


def robustness(rows: Sequence[Row]) -> Mapping[int, float]:
    """Per seed: what HaarPSI loses from first to second order without the module, less what it loses with it."""

    def loss(seed: int, arm: str) -> float:
        return mean_of(rows, "haarpsi", seed, arm, "first") - mean_of(rows, "haarpsi", seed, arm, "second")

    return {seed: loss(seed, "raw") - loss(seed, "cleaned") for seed in seeds_of(rows)}


claim(
    id="diffbir.A8",
    paper=PAPER,
    where="two modules in the released code, one for training and one for use",
    statement="Behind the module, painting survives a degradation that its training did not have.",
    paper_effect="implicit",
    protocol=protocol(("cleaned", "raw", "cleaned, second", "raw, second"), "first", "second"),
    rehearsal=few("first", "second"),
    primary="haarpsi",
    contrast="loss of HaarPSI from first to second order, condition as degraded - cleaned by the module at hand",
    unit="HaarPSI",
    smallest=0.01,
    trained=True,
    checkpoints=FROZEN,
    effect=robustness,
)(measure_trained)

# ---------------------------------------------------------------- A9: fifty steps

STEPS = {f"{n} steps": {"steps": n} for n in (50, 25, 10, 4)}


def steps_claim(metric: str, arms: tuple[str, str], **fields: Any) -> None:
    """Register a claim on a metric after many steps and after few: the first arm minus the second."""
    ordered = dict.fromkeys((*arms, *STEPS))
    shipped_claim({arm: STEPS[arm] for arm in ordered}, "second", primary=metric, **fields)


steps_claim(
    "haarpsi",
    ("50 steps", "10 steps"),
    id="diffbir.A9",
    where="limitations",
    statement="The method needs its fifty steps: with ten it is worse.",
    paper_effect="stated",
    contrast="HaarPSI, 50 steps - 10 steps",
    unit="HaarPSI",
    smallest=0.01,
)

steps_claim(
    "spectrum_distance",
    ("50 steps", "4 steps"),
    id="diffbir.A9b",
    where="realism by steps (ours)",
    statement="Steps buy realism: the spectrum after fifty is nearer to the true one than after four.",
    paper_effect="not measured",
    direction="lower",
    contrast="distance of spectra, 50 steps - 4 steps",
    unit="decades",
    smallest=0.05,
)
