"""sg.A7 and sg.A8: what phi_k removes, and whether H makes the domains more alike."""

import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from minirestore.claims.definitions import Job, Measured, Protocol, Row, claim
from minirestore.claims.shared import CROPS, clean_crop, crop_names, crop_seed, seeds_of, train
from minirestore.claims.structure_guidance.common import PAPER

LEVELS = ("k=0", "k=1", "k=2", "k=3")
KERNELS = ("linear", "walk", "disk")


# ---------------------------------------------------------------- A7: is the guidance more domain-invariant?


def smallest_reduction(rows: Sequence[Row]) -> Mapping[int, float]:
    """By how much H brings the domains together, 1 - output / input, at the scale where it does so least, per seed."""
    found = {}
    for s in seeds_of(rows):
        distance = {(row["arm"], row["image"]): row["mmd"] for row in rows if row["seed"] == s}
        scales = [image for arm, image in distance if arm == "output" and image.startswith("walk_gamma/")]
        found[s] = min(1 - distance["output", image] / distance["input", image] for image in scales)
    return found


@claim(
    id="sg.A7",
    paper=PAPER,
    where="domain distance GoPro to RealBlur-J",
    statement="The guidance network brings the domains closer together than its input is, at every scale.",
    paper_effect="FID 49.684 -> 44.649 (-10 %), KID 4.91 -> 4.70 (-4 %) at 1/8",
    paper_value=0.04,
    protocol=Protocol(
        data=(
            "train: scenes.dead_leaves, blur linear",
            "test: scenes.dead_leaves per seed, linear against each domain, paired",
        ),
        images=tuple(f"{domain}/k={k}" for domain in ("walk_gamma", "walk", "linear") for k in (1, 2, 3)),
        arms=("output", "input"),
        seeds=tuple(range(5)),
        metrics=("mmd", "mse"),
        settings={"profile": "reduced", "steps": 4000, "images": 400, "test_images": 192, "test_size": 128},
    ),
    rehearsal={"seeds": (0, 1), "images": ("walk_gamma/k=1", "walk_gamma/k=2"), "profile": "quick", "steps": 3,
               "settings": {"images": 4, "test_images": 8, "test_size": 64}},
    primary="mmd",
    contrast="1 - kernel distance after H / before, walk_gamma, smallest over the scales",
    unit="relative reduction",
    smallest=0.01,
    trained=True,
    effect=smallest_reduction,
)  # fmt: skip
def guidance_invariance(job: Job, images: Sequence[str]) -> Measured:
    """Kernel distance (KID's kernel, on patches) between domains, and mean squared error to the sharp structure."""
    model = guidance_model(job)
    reference, found = structures(model, "linear", job, draw=1), {}
    for domain in dict.fromkeys(name.split("/")[0] for name in images):
        moved = structures(model, domain, job, draw=2)
        for k, (structure, error) in moved.items():
            if (name := f"{domain}/k={k}") in images:
                found[name] = {"mmd": kernel_distance(reference[k][0], structure), "mse": error}
    return found


def guidance_model(job: Job):
    """The model whose H is trained alone, on the CPU; untrained for the arm ``input``, which does not ask H."""
    from minirestore import recipes

    s = job.protocol.settings
    settings = {"warm_start": s["steps"], "steps": s["steps"], "seed": job.seed, "images": s["images"]}
    if job.arm == "output":
        return train(job, PAPER, settings).cpu()
    recipe = recipes.find_recipe(PAPER)
    return recipes.build(recipe, recipes.plan(recipe, s["profile"], settings)[0])


def structures(model, domain: str, job: Job, draw: int) -> dict:
    """Per k: phi_k(y) or R(H(phi_k(y))) of test images (N, 1, h, w), as the arm says, and its mean squared error.

    The sharp images are the seed's, the same in every domain, so that only blur and noise set the domains apart; two
    values of ``draw`` give two draws of both.
    """
    import torch

    from minirestore import degradations, images

    s = job.protocol.settings
    x = _test_images(s["test_images"], s["test_size"], 10_000 * job.seed)
    y = degradations.random_blur(x, 10 * job.seed + draw, degradations.BLUR_DOMAINS[domain])
    sharp = model.pyramid(images.to_model_range(x))
    with torch.no_grad():
        noise = torch.Generator().manual_seed(10 * job.seed + draw)
        found = model.pyramid(images.to_model_range(y), noise)
        if job.arm == "output":
            found = model.guidance(found)[1]
    return {k: (out, (out - sharp[k]).square().mean().item()) for k, out in found.items()}


@functools.lru_cache(maxsize=2)
def _test_images(count: int, size: int, first: int):
    from minirestore import scenes

    return scenes.dead_leaves(count, size, 77, start=first)


def kernel_distance(a, b) -> float:
    """Squared maximum mean discrepancy of paired 8 x 8 patches, kernel (x.y / d + 1)^3 (Binkowski et al. 2018).

    The U-statistic for equally many samples (Gretton et al. 2012): 0 on average for sets of one distribution, as often
    negative as positive. Pairs that share their content take its scatter out.

    Args:
        a, b: (N, 1, h, w), h, w >= 8, image i of both with the same content. Patches are given zero mean and unit
            variance with the statistics of ``a``; at most 1500 of them are used.
    """
    import torch
    import torch.nn.functional as F

    patches = [F.unfold(x.double(), 8, stride=8).transpose(1, 2).reshape(-1, 64) for x in (a, b)]
    index = torch.linspace(0, len(patches[0]) - 1, min(len(patches[0]), 1500)).long()
    centre, scale = patches[0].mean(), patches[0].std()
    p, q = ((patch[index] - centre) / scale for patch in patches)
    total = (p @ p.T / 64 + 1) ** 3 + (q @ q.T / 64 + 1) ** 3 - (p @ q.T / 64 + 1) ** 3 - (q @ p.T / 64 + 1) ** 3
    return float((total.sum() - total.diagonal().sum()) / (len(p) * (len(p) - 1)))


# ---------------------------------------------------------------- A8: what phi_k removes


def smallest_step(rows: Sequence[Row]) -> Mapping[str, float]:
    """By how many dB each halving brings blurred and sharp structure closer, the smallest step, per crop; no gamma."""
    found: dict[str, float] = {}
    for image in dict.fromkeys(row["image"] for row in rows):
        crop, domain = image.rsplit("/", 1)
        if domain == "walk_gamma":
            continue
        by_arm = {a: np.mean([r["psnr"] for r in rows if r["image"] == image and r["arm"] == a]) for a in LEVELS}
        step = min(by_arm[high] - by_arm[low] for low, high in itertools.pairwise(LEVELS))
        found[crop] = min(found.get(crop, np.inf), float(step))
    return found


@claim(
    id="sg.A8",
    paper=PAPER,
    where="figure 3",
    statement="Every halving of the grey image removes traces of the blur.",
    paper_effect="shown by pictures",
    protocol=Protocol(
        data=(CROPS, "blur linear, walk, disk, walk_gamma, as drawn", "classifier: scenes.dead_leaves"),
        images=crop_names(*KERNELS, "walk_gamma"),
        arms=LEVELS,
        seeds=(0, 1, 2),
        metrics=("psnr", "recognised"),
        settings={"classifier_images": 150},
    ),
    rehearsal={"seeds": (0,), "images": ("astronaut/2/walk", "coffee/2/walk"), "classifier_images": 4},
    primary="psnr",
    contrast="PSNR(phi_k(y), phi_k(x)), smallest gain of a halving, kernels only",
    unit="dB",
    smallest=1.0,
    effect=smallest_step,
)
def structure_similarity(job: Job, images: Sequence[str]) -> Measured:
    """PSNR between blurred and sharp structure (without noise), and whether a classifier tells which kernel it was.

    ``recognised`` is 1 where it names the right kernel of three, from the spectrum of phi_k(y); 1/3 is chance. Gamma
    is no kernel: its crops are given 1 where the classifier says walk.
    """
    from minirestore import degradations

    k = int(job.arm.removeprefix("k="))
    classifier = _kernel_classifier(k, job.protocol.settings["classifier_images"])
    found = {}
    for name in images:
        x, domain = clean_crop(name), name.split("/")[2]
        y = degradations.random_blur(x, crop_seed(name, job.seed), degradations.BLUR_DOMAINS[domain])
        a, b = _reduced(x, k), _reduced(y, k)
        guess = classifier.predict(spectral_features(b))[0]
        found[name] = {
            "psnr": -10 * float(((a - b) / 2).square().mean().log10()),
            "recognised": float(guess == domain.removesuffix("_gamma")),
        }
    return found


def _reduced(x, k: int):
    """phi_k of images (B, 3, H, W) in [0, 1], without noise."""
    from minirestore.images import to_model_range
    from minirestore.papers.structure_guidance import StructureGuidanceConfig, StructurePyramid

    return StructurePyramid(StructureGuidanceConfig()).reduce(to_model_range(x), k)


def spectral_features(p) -> np.ndarray:
    """Mean log power in 4 rings x 4 directions of the spectrum, relative to their mean: (B, 1, n, n) -> (B, 16)."""
    import torch

    n = p.shape[-1]
    window = torch.hann_window(n, periodic=False)
    power = torch.fft.fft2((p - p.mean((2, 3), keepdim=True)) * window[:, None] * window).abs().square().log1p()[:, 0]
    f = torch.fft.fftfreq(n)
    radius = (f[:, None].square() + f.square()).sqrt()
    direction = torch.atan2(f[:, None].expand(n, n), f.expand(n, n)) % torch.pi
    ring, sector = (radius * 8).long(), (direction / torch.pi * 4).long().clamp(max=3)
    cells = [power[:, (ring == i) & (sector == j)].mean(1) for i in range(4) for j in range(4)]
    features = torch.stack(cells, dim=1)
    return (features - features.mean(1, keepdim=True)).numpy()


@functools.lru_cache(maxsize=4)
def _kernel_classifier(k: int, count: int):
    """Logistic regression that names the kernel of blurred dead leaves from the spectrum of phi_k(y)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from minirestore import degradations

    x = _test_images(count, 128, 5000)
    blurred = {name: degradations.random_blur(x, 41, degradations.BLUR_DOMAINS[name]) for name in KERNELS}
    features = np.concatenate([spectral_features(_reduced(y, k)) for y in blurred.values()])
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(features, np.repeat(KERNELS, count))
