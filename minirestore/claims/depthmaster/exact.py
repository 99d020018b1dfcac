"""Claims that need no training, depth.C1, C5 to C7 (targets), C3 and C19 (arithmetic); and those left out."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minirestore.claims.definitions import Claim, Job, Measured, Protocol, Row, claim, register
from minirestore.claims.depthmaster.common import FIRST_SEED, PAPER, SEEN, UNSEEN, aligned, compare, scenes_of
from minirestore.claims.shared import load

SPACES = ("sqrt_disparity", "disparity", "depth")
EACH = 64  # scenes of a family
BINS = 32


def scene_names(*families: str, count: int = EACH) -> tuple[str, ...]:
    """``family number/0``: each scene is a cluster of its own."""
    return tuple(f"{family} {i}/0" for family in families for i in range(count))


def scene(name: str):
    """Picture (1, 3, 128, 128), metres and validity (1, 1, 128, 128) of such a name."""
    family, number = name.split("/")[0].split()
    return scenes_of(f"{family}/{number}", count=1)


TEST = f"scenes of 128 px from seed {FIRST_SEED}"


def scenes_claim(measure, families: Sequence[str], arms: Sequence[str], metrics: Sequence[str], **fields: Any) -> None:
    """Register a claim about single scenes of these families."""
    settings = fields.pop("settings", {})
    seeds, count = fields.pop("seeds", (0,)), fields.pop("count", EACH)
    rehearsal = scene_names(*families, count=2)
    claim(
        paper=PAPER,
        protocol=Protocol((TEST,), scene_names(*families, count=count), tuple(arms), seeds, tuple(metrics), settings),
        rehearsal={"images": rehearsal, "seeds": seeds[:1]},
        clusters="scenes",
        **fields,
    )(measure)


# ---------------------------------------------------------------- C1: the bound


def measure_bound(job: Job, images: Sequence[str]) -> Measured:
    """A scene's depth through the autoencoder, or as the shipped model predicts it; both aligned in the same space."""
    from minirestore.papers.depthmaster import depth_target, reconstruct_depth

    model, found = load(PAPER, PAPER, job.device), {}
    for name in images:
        image, depth, valid = scene(name)
        if job.arm == "reconstruction":
            target = depth_target(depth, valid, model.config.space, model.config.quantiles)
            relative = reconstruct_depth(model.autoencoder, target.to(job.device)).cpu()
        else:
            relative = model.predict(image.to(job.device), longer_side=0).cpu()
        found[name] = compare(aligned(relative, depth, valid, model.config.space), depth, valid)
    return found


def bound_claim(**fields: Any) -> None:
    scenes_claim(
        measure_bound,
        (*SEEN, *UNSEEN),
        ("reconstruction", "model"),
        ("abs_rel", "delta1", "boundary_f1"),
        checkpoints=("prior", PAPER),
        shipped_arms=("reconstruction", "model"),
        count=32,
        **fields,
    )


bound_claim(
    id="depth.C1",
    where="table II, I2L",
    statement="Encoding and decoding costs far less accuracy than predicting: the autoencoder is not the bottleneck.",
    paper_effect="AbsRel 1.1 % against 5.0 % (NYU), 0.9 % against 5.5 % (ScanNet)",
    paper_value=-0.039,
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, reconstruction - shipped model",
    unit="AbsRel",
    smallest=0.01,
)
bound_claim(
    id="depth.C1b",
    where="table II, I2L, F1",
    statement="The bound in boundary F1 is far above what is predicted, too.",
    paper_effect="F1 0.615 against 0.337 (Hypersim)",
    paper_value=0.278,
    primary="boundary_f1",
    contrast="boundary F1, reconstruction - shipped model",
    unit="F1",
    smallest=0.05,
)

# ---------------------------------------------------------------- C5 to C7: targets, by the noise oracle


def measure_oracle(job: Job, images: Sequence[str]) -> Measured:
    """A prediction that is the target itself plus white noise, aligned in its own space: what a target alone does."""
    from minirestore import diffusion
    from minirestore.papers.depthmaster import depth_target

    found = {}
    for name in images:
        _, depth, valid = scene(name)
        target = depth_target(depth, valid, job.arm)
        generator = diffusion.BatchGenerator(FIRST_SEED + job.seed, int(name.split("/")[0].split()[1]))
        noise = diffusion.randn(target.shape, generator)
        relative = (target + job.protocol.settings["sigma"] * noise).clamp(-1, 1)
        found[name] = compare(aligned(relative, depth, valid, job.arm), depth, valid)
    return found


def oracle_claim(families: Sequence[str], arms: Sequence[str], **fields: Any) -> None:
    scenes_claim(
        measure_oracle,
        families,
        arms,
        ("abs_rel", "delta1", "boundary_f1"),
        settings={"sigma": 0.05},
        seeds=(0, 1, 2),
        primary="abs_rel",
        unit="AbsRel",
        **{"direction": "lower", **fields},
    )


oracle_claim(
    ("street",),
    ("disparity", "depth"),
    id="depth.C5",
    where="table III; here a noise oracle, no network",
    statement="Outdoors, regressing 1/D is better than regressing D.",
    paper_effect="AbsRel 10.3 -> 8.9 % (KITTI), 29.9 -> 22.4 % (DIODE)",
    paper_value=-0.014,
    contrast="AbsRel, target 1/D - target D, streets",
    smallest=0.005,
)
oracle_claim(
    ("room",),
    ("disparity", "depth"),
    id="depth.C5b",
    where="table III, indoors; here a noise oracle",
    statement="Indoors 1/D gains nothing over D: equal, or worse.",
    paper_effect="AbsRel 5.3 -> 5.3 % (NYU), 6.5 -> 6.7 % (ETH3D)",
    paper_value=0.001,
    direction="higher",
    contrast="AbsRel, target 1/D - target D, rooms; up to .002 better counts as equal",
    null=-0.002,
    smallest=-0.002,
)


oracle_claim(
    ("room", "street"),
    ("sqrt_disparity", "disparity"),
    id="depth.C6",
    where="table III; here a noise oracle, no network",
    statement="1/sqrt(D) is the best target over all, indoors and outdoors.",
    paper_effect="AbsRel against 1/D: 8.9 -> 8.7 (KITTI), 5.3 -> 5.1, 6.7 -> 5.5, 22.4 -> 21.8; ScanNet 5.7 -> 5.8 %",
    paper_value=-0.002,
    contrast="AbsRel, target 1/sqrt(D) - target 1/D, rooms and streets",
    smallest=0.001,
)


def measure_entropy(job: Job, images: Sequence[str]) -> Measured:
    """Entropy of the histogram of a scene's target over its valid pixels, in units of that of the even one."""
    from minirestore.papers.depthmaster import depth_target

    found = {}
    for name in images:
        _, depth, valid = scene(name)
        counts = np.histogram(depth_target(depth, valid, job.arm)[valid].numpy(), BINS, (-1, 1))[0]
        share = counts[counts > 0] / counts.sum()
        found[name] = {"entropy": float(-(share * np.log(share)).sum() / np.log(BINS))}
    return found


def entropy_claim(families: Sequence[str], **fields: Any) -> None:
    scenes_claim(
        measure_entropy,
        families,
        ("sqrt_disparity", "disparity", "depth"),
        ("entropy",),
        primary="entropy",
        unit="of log 32",
        smallest=0.005,
        **fields,
    )


entropy_claim(
    ("street",),
    id="depth.C7",
    where="figure 5 (VKITTI)",
    statement="Outdoors, 1/sqrt(D) fills its range most evenly.",
    paper_effect="histograms, no number",
    contrast="entropy of the histogram, 1/sqrt(D) - 1/D, streets",
)
entropy_claim(
    ("room",),
    id="depth.C7b",
    where="figure 5, indoors, which it does not show (ours)",
    statement="Indoors, too, 1/sqrt(D) fills its range more evenly than 1/D.",
    paper_effect="not shown",
    contrast="entropy of the histogram, 1/sqrt(D) - 1/D, rooms",
)

# ---------------------------------------------------------------- C3, C19: arithmetic

SIZES = ("480x640/Hypersim", "352x1216/VKITTI", "512x512/table I")


@functools.lru_cache(maxsize=8)
def published_macs(height: int, width: int) -> Mapping[str, float]:
    """Multiply-adds in units of 1e9 of the published networks on a picture of this size, none of them allocated."""
    from minirestore.papers.depthmaster.costs import published_macs as count

    return count(height, width)


def measure_macs(job: Job, images: Sequence[str]) -> Measured:
    """Arithmetic of one prediction of an arm: how often each network is called, times its multiply-adds."""
    from minirestore.papers.depthmaster.costs import PREDICTIONS, total

    found = {}
    for name in images:
        height, width = map(int, name.split("/")[0].split("x"))
        found[name] = {"macs": total(published_macs(height, width), PREDICTIONS[job.arm])}
    return found


def ratio_of(first: str, second: str):
    """An effect: per size, the arithmetic of the first arm over that of the second."""

    def effect(rows: Sequence[Row]) -> Mapping[str, float]:
        found: dict[str, dict[str, float]] = {}
        for row in rows:
            found.setdefault(row["image"], {})[row["arm"]] = row["macs"]
        return {name: arms[first] / arms[second] for name, arms in found.items()}

    return effect


def macs_claim(arms: Sequence[str], **fields: Any) -> None:
    claim(
        paper=PAPER,
        protocol=Protocol(("published architecture, counted on the meta device",), SIZES, tuple(arms), (0,), ("macs",)),
        rehearsal={"images": SIZES[:2]},
        clusters="sizes",
        primary="macs",
        **fields,
    )(measure_macs)


macs_claim(
    ("50 steps", "10 samples of 50 steps", "single step"),
    id="depth.C3",
    where="table II, seconds",
    statement="A single step is about 31 times faster than denoising.",
    paper_effect="12.91 s -> 0.42 s; steps and samples of the former are not printed",
    paper_value=31.0,
    contrast="multiply-adds, 50 steps / single step",
    unit="x",
    null=15.0,
    smallest=15.0,
    effect=ratio_of("50 steps", "single step"),
)
macs_claim(
    ("stage 2", "single step"),
    id="depth.C19",
    where="table I and section IV-D",
    statement="The Fourier block is nearly free.",
    paper_effect="2142.8 -> 2147.1 G multiply-adds (+0.2 %), 0.42 s both",
    paper_value=0.2,
    direction="lower",
    contrast="multiply-adds, with the block / without, less 1",
    unit="%",
    null=-1.0,
    smallest=-1.0,
    effect=lambda rows: {k: 100 * (v - 1) for k, v in ratio_of("stage 2", "single step")(rows).items()},
)

# ---------------------------------------------------------------- not testable here

register(
    Claim(
        id="depth.C11",
        paper=PAPER,
        where="table V, REPA-E",
        statement="Training the autoencoder along with the alignment hurts.",
        paper_effect="AbsRel 8.3 -> 10.4 % (KITTI), 5.0 -> 6.6 % (NYU)",
        not_testable="neither text nor code says what trains the autoencoder then, and what keeps its latents in place",
    )
)
register(
    Claim(
        id="depth.C20",
        paper=PAPER,
        where="table I",
        statement="DepthMaster is better than other methods that build on diffusion, on data it has never seen.",
        paper_effect="average rank 1.2 of 6; AbsRel 9.9 -> 8.2 % on KITTI against Marigold",
        not_testable="needs Stable Diffusion, the rivals' weights and KITTI, NYU, ETH3D, ScanNet and DIODE; the table "
        "mixes spaces of alignment and numbers of samples",
    )
)
