"""The claims of C2F-DFT, c2f.C1 to c2f.C11, with the controls that the paper lacks.

Everything is trained on dead leaves under light rain and measured on photographs. Arms of a seed have the same budget,
counted in network evaluations of a batch: the fine stage makes four a step, others one. The exceptions are networks
that stop after the method's own coarse stage.
"""

import functools
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
    restore,
    seeds_of,
    trained_file,
)

PAPER = "c2f_dft"
TRAINED_ON = "train: scenes.dead_leaves, rain light"
NODES = (999, 666, 333, 0)
CYCLE = {"patches": (16, 32, 64), "patch_batches": (64, 16, 4)}  # 16384 pixels a step, as 16 crops of 32
# what is trained, in the order of its stages; steps are of the protocol's settings
ARMS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "coarse": ({"stage": "coarse"},),
    "coarse, as long": ({"stage": "coarse"},),
    "fine": ({"stage": "coarse"}, {"stage": "fine"}),
    "released loss": ({"stage": "coarse"}, {"stage": "fine", "ssim": "ms_ssim", "ssim_range": 255.0}),
    "L1": ({"stage": "coarse"}, {"stage": "fine", "ssim": "none"}),
    "unrolled from scratch": ({"stage": "fine", "learning_rate": 1e-3},),
    "regression": ({"stage": "regression"},),
    "T in both": ({"stage": "coarse"},),
    "T in attention": ({"stage": "coarse", "time_in": "attention"},),
    "T in feed_forward": ({"stage": "coarse", "time_in": "feed_forward"},),
    "T in none": ({"stage": "coarse", "time_in": "none"},),
    "cycle": ({"stage": "coarse", **CYCLE}, {"stage": "fine", **CYCLE}),
}
BUDGET = {"profile": "reduced", "crop": 32, "images": 400, "coarse_steps": 2000, "fine_steps": 400}
FEW = {"seeds": (0, 1), "images": ("astronaut/2/light", "coffee/2/light"), "profile": "quick", "crop": 32,
       "settings": {"images": 4, "coarse_steps": 4, "fine_steps": 2}}  # fmt: skip


def few(*images: str, **changes: Any) -> dict[str, Any]:
    """A rehearsal: two crops, a few steps of training."""
    return {**FEW, "images": images or FEW["images"], **changes}


def protocol(arms: Sequence[str], metrics: Sequence[str], seeds: int = 3, rain=("light",), **settings) -> Protocol:
    """The protocol of a claim whose networks are trained; measured in the domains ``rain``."""
    if unknown := set(settings) - {*BUDGET, "draws", "network"}:
        raise ValueError(f"settings: nothing here reads {', '.join(sorted(unknown))}")
    images, settings = crop_names(*rain), {**BUDGET, **settings}
    return Protocol((TRAINED_ON, CROPS), images, tuple(arms), tuple(range(seeds)), tuple(metrics), settings)


# ---------------------------------------------------------------- data and networks


@functools.lru_cache(maxsize=128)
def pair(name: str, seed: int):
    """Clean and rainy crop, each (1, 3, 128, 128), of ``photograph/number/domain``."""
    from minirestore import degradations

    x = clean_crop(name)
    return x, degradations.rain(x, crop_seed(name, seed), degradations.RAIN_DOMAINS[name.split("/")[2]])


def training_stages(settings: Mapping[str, Any], arm: str, seed: int) -> list[dict[str, Any]]:
    """The settings of `recipes.train` for every stage of an arm; each stage starts from the one before.

    An arm of one stage has the whole budget, except for ``coarse`` and ``T in ...``.
    """
    stages, spent = ARMS[arm], settings["coarse_steps"] + 4 * settings["fine_steps"]
    steps = {"coarse": settings["coarse_steps"], "fine": settings["fine_steps"]}
    if len(stages) == 1 and arm != "coarse" and not arm.startswith("T in "):
        steps = {"coarse": spent, "fine": spent // 4, "regression": spent}
    shared = {"crop": settings["crop"], "images": settings["images"], "seed": seed}
    found = []
    for stage in stages:
        run = {**shared, **stage, "steps": steps[stage["stage"]]}
        if "patches" in stage:  # every size of crop comes up four times
            run["patch_steps"] = max(run["steps"] // (4 * len(stage["patches"])), 1)
        found.append(run)
    return found


def network(job: Job, arm: str):
    """The network of an arm and the job's seed, trained now unless it is there."""
    start = None
    for run in training_stages(job.protocol.settings, arm, job.seed):
        start = trained_file(job, PAPER, run, start)
    return load(PAPER, str(start), job.device)


def fidelity(model, name: str, seed: int, draws: int = 1, **options) -> dict[str, float]:
    """PSNR and SSIM, each the mean over ``draws`` of the first noise, of one restored crop."""
    from minirestore import metrics

    x, y = pair(name, seed)
    samples = [restore(model, y, name, seed, draw, **options) for draw in range(draws)]
    found = {"psnr": metrics.psnr, "ssim": metrics.ssim}
    values = {id: float(np.mean([metric(s, x).item() for s in samples])) for id, metric in found.items()}
    return {**values, "spread": spread(samples)} if draws > 1 else values


def spread(samples) -> float:
    """Standard deviation between samples of one crop, in units of 1/255, root mean square over pixels."""
    import torch

    return 255 * torch.cat(samples).var(0).mean().sqrt().item()


def restored(job: Job, images: Sequence[str]) -> Measured:
    """Fidelity of an arm's network, over so many draws of the first noise as the protocol's settings say."""
    model, draws = network(job, job.arm), job.protocol.settings.get("draws", 1)
    return {name: fidelity(model, name, job.seed, draws) for name in images}


def noise_errors(model, name: str, seed: int, times: Sequence[int]) -> list[float]:
    """Mean absolute error of the noise that a network predicts at each time, on a crop's true noisy images."""
    import torch

    from minirestore import diffusion
    from minirestore import images as ranges
    from minirestore.papers.c2f_dft import make_schedule

    schedule, device, found = make_schedule(model.config), next(model.parameters()).device, []
    x, y = (ranges.to_model_range(z).to(device) for z in pair(name, seed))
    noise = diffusion.randn(x.shape, noise_source(name, seed), device)
    for t in times:
        x_t = diffusion.add_noise(x, noise, schedule[t])
        with torch.no_grad():
            found.append((model(y, x_t, x.new_full((1,), float(t))) - noise).abs().mean().item())
    return found


# ---------------------------------------------------------------- C1 and C10: the fine stage and its controls


CONTROLS = ("fine", "coarse, as long", "coarse", "unrolled from scratch", "regression")

claim(
    id="c2f.C1",
    paper=PAPER,
    where="ablation of the training stages",
    statement="Fine training through the sampler improves restoration over coarse training, with the same four calls.",
    paper_effect="stated; the table was not at hand",
    protocol=protocol(CONTROLS, ("psnr", "ssim", "spread"), seeds=5, draws=4),
    rehearsal=few(draws=2),
    primary="psnr",
    contrast="coarse, then fine - coarse for as long; four calls, the same first noise",
    unit="dB",
    smallest=0.5,
    trained=True,
    headline=True,
)(restored)

claim(
    id="c2f.C10",
    paper=PAPER,
    where="control that the paper lacks",
    statement="The coarse stage pays: training it first beats unrolled training from scratch on the same budget.",
    paper_effect="not measured",
    protocol=protocol(("fine", "unrolled from scratch", "regression", "coarse"), ("psnr", "ssim", "spread"), draws=4),
    rehearsal=few(draws=2),
    primary="psnr",
    contrast="coarse, then fine - unrolled from scratch",
    unit="dB",
    smallest=0.2,
    trained=True,
)(restored)


# ---------------------------------------------------------------- C2, C3, C8: the number of calls


def calls_of(arm: str) -> int:
    """Network calls of an arm named ``N calls`` or ``network, N calls``."""
    return int(arm.rpartition(", ")[2].removesuffix(" calls"))


def best_rival(rows: Sequence[Row], metric: str, arm: str) -> Mapping[int, float]:
    """Mean of a metric of ``arm`` minus the best mean of the other arms, per seed."""
    others = {row["arm"] for row in rows} - {arm}
    return {
        s: mean_of(rows, metric, s, arm) - max(mean_of(rows, metric, s, other) for other in others)
        for s in seeds_of(rows)
    }


COARSE_CALLS = tuple(f"{n} calls" for n in (4, 2, 5, 8, 10, 25, 50))
FINE_CALLS = tuple(f"{n} calls" for n in (4, 1, 2, 3, 5, 10, 25))


@claim(
    id="c2f.C3",
    paper=PAPER,
    where="what fine training gives up (ours)",
    statement="A fine network is tied to its sampler: it is best at the number of calls it was trained with.",
    paper_effect="not measured",
    protocol=protocol(FINE_CALLS, ("psnr", "ssim"), network="fine"),
    rehearsal=few(arms=("4 calls", "1 calls")),
    primary="psnr",
    contrast="4 calls - the best other number",
    unit="dB",
    smallest=0.5,
    trained=True,
    effect=functools.partial(best_rival, metric="psnr", arm="4 calls"),
)
@claim(
    id="c2f.C2",
    paper=PAPER,
    where="ablation of the number of steps",
    statement="After coarse training four calls restore better than any other number.",
    paper_effect="stated for PSNR and SSIM; no numbers at hand",
    protocol=protocol(COARSE_CALLS, ("psnr", "ssim"), network="coarse"),
    rehearsal=few(arms=("4 calls", "2 calls")),
    primary="psnr",
    contrast="4 calls - the best other number",
    unit="dB",
    smallest=0.1,
    trained=True,
    effect=functools.partial(best_rival, metric="psnr", arm="4 calls"),
)
def number_of_calls(job: Job, images: Sequence[str]) -> Measured:
    """Fidelity of one network under samplers of other lengths."""
    model = network(job, job.protocol.settings["network"])
    return {name: fidelity(model, name, job.seed, steps=calls_of(job.arm)) for name in images}


@claim(
    id="c2f.C8",
    paper=PAPER,
    where="comparison with diffusion baselines",
    statement="Four calls after fine training restore better than many calls of a network trained on noise alone.",
    paper_effect="34.01 against 27.20 dB (IR-SDE, Rain13K, average)",
    paper_value=6.81,
    protocol=protocol(("fine, 4 calls", *(f"coarse, as long, {n} calls" for n in (25, 50))), ("psnr", "ssim")),
    rehearsal=few(arms=("fine, 4 calls", "coarse, as long, 25 calls")),
    primary="psnr",
    contrast="coarse, then fine, 4 calls - coarse for as long, better of 25 and 50 calls",
    unit="dB",
    smallest=0.5,
    trained=True,
    effect=functools.partial(best_rival, metric="psnr", arm="fine, 4 calls"),
)
def few_against_many(job: Job, images: Sequence[str]) -> Measured:
    """Fidelity of an arm named ``network, N calls``."""
    model = network(job, job.arm.rpartition(", ")[0])
    return {name: fidelity(model, name, job.seed, steps=calls_of(job.arm)) for name in images}


# ---------------------------------------------------------------- C4: is the noise estimate the cause?


def oracle_gain(rows: Sequence[Row]) -> Mapping[int, float]:
    return {s: gain_of(rows, "psnr", s, ("coarse, oracle", "coarse")) for s in seeds_of(rows)}


def early_error(rows: Sequence[Row]) -> Mapping[int, float]:
    """Rise of the noise's error from the coarse to the fine network, the smaller of the first two calls', per seed."""
    arms = ("fine", "coarse")
    return {s: min(gain_of(rows, f"eps {t}", s, arms) for t in NODES[:2]) for s in seeds_of(rows)}


EPS = tuple(f"eps {t}" for t in NODES)


@claim(
    id="c2f.C4b",
    paper=PAPER,
    where="motivation, other reading (ours)",
    statement="Fine training does not mend the early noise estimates: it restores better although they get worse.",
    paper_effect="not measured",
    protocol=protocol(("fine", "coarse"), ("psnr", *EPS)),
    rehearsal=few(),
    primary="eps 999",
    contrast="error of the noise, fine - coarse, the smaller rise of t = 999 and 666",
    unit="noise standard deviations",
    smallest=0.002,
    trained=True,
    effect=early_error,
)
@claim(
    id="c2f.C4",
    paper=PAPER,
    where="motivation",
    statement="Inaccurate noise estimates spoil restoration in few steps: the true noise at the first call cures it.",
    paper_effect="stated",
    protocol=protocol(("coarse", "coarse, oracle", "fine", "fine, oracle"), ("psnr", *EPS)),
    rehearsal=few(arms=("coarse", "coarse, oracle")),
    primary="psnr",
    contrast="coarse with the true noise at t = 999 - coarse",
    unit="dB",
    smallest=0.5,
    trained=True,
    effect=oracle_gain,
)
def noise_estimates(job: Job, images: Sequence[str]) -> Measured:
    """PSNR of four calls, the first one answered by an oracle where the arm says so; and errors of the noise.

    ``eps T`` is the mean absolute error of the predicted noise at time T on the true noisy image, whatever the arm's
    sampler: how well the network does what the coarse stage trains.
    """
    import torch

    from minirestore import diffusion, metrics
    from minirestore import images as ranges
    from minirestore.papers.c2f_dft import implicit_chain, make_schedule

    model, found = network(job, job.arm.removesuffix(", oracle")), {}
    schedule, device = make_schedule(model.config), next(model.parameters()).device
    for name in images:
        x, y = (ranges.to_model_range(z).to(device) for z in pair(name, job.seed))

        def predict(y, x_t, t, x=x):
            if job.arm.endswith("oracle") and t[0] == NODES[0]:
                return diffusion.eps_from_x0(x_t, x, schedule[NODES[0]])
            return model(y, x_t, t)

        with torch.no_grad():
            noise = diffusion.randn(x.shape, noise_source(name, job.seed), device)
            sample = ranges.to_unit_range(implicit_chain(predict, y, noise, schedule, NODES)).cpu()
        errors = dict(zip(EPS, noise_errors(model, name, job.seed, NODES), strict=True))
        found[name] = {"psnr": metrics.psnr(sample, pair(name, job.seed)[0]).item(), **errors}
    return found


# ---------------------------------------------------------------- C5 to C7: time, patches, loss


EIGHT_TIMES = tuple(range(62, 1000, 125))


def both_halves(rows: Sequence[Row]) -> Mapping[int, float]:
    """Error of the noise with T in the better single half minus that with T in both, per seed."""
    halves = [arm for arm in ("T in attention", "T in feed_forward") if any(row["arm"] == arm for row in rows)]
    return {
        s: min(mean_of(rows, "eps", s, arm) for arm in halves) - mean_of(rows, "eps", s, "T in both")
        for s in seeds_of(rows)
    }


@claim(
    id="c2f.C5",
    paper=PAPER,
    where="ablation of the time embedding",
    statement="The time embedding helps in both halves of a block.",
    paper_effect="stated; no numbers at hand",
    protocol=protocol(tuple(f"T in {w}" for w in ("both", "attention", "feed_forward", "none")), ("eps", "psnr")),
    rehearsal=few(arms=("T in both", "T in attention")),
    primary="eps",
    contrast="error of the noise, T in the better one of the halves - T in both",
    unit="noise standard deviations",
    smallest=0.002,
    trained=True,
    effect=both_halves,
)
def time_embedding(job: Job, images: Sequence[str]) -> Measured:
    """Mean absolute error of the predicted noise over eight times, and PSNR of four calls."""
    model = network(job, job.arm)
    return {
        name: {
            "eps": float(np.mean(noise_errors(model, name, job.seed, EIGHT_TIMES))),
            "psnr": fidelity(model, name, job.seed)["psnr"],
        }
        for name in images
    }


claim(
    id="c2f.C6",
    paper=PAPER,
    where="patch-cycle learning",
    statement="Training on small and large crops in turn beats one small size at the same number of pixels per step.",
    paper_effect="stated; no numbers at hand",
    protocol=protocol(("cycle", "fine"), ("psnr", "ssim"), coarse_steps=12_000, fine_steps=2400),
    rehearsal=few(),
    primary="psnr",
    contrast="crops of 16, 32, 64 in turn - 32 throughout; tested at 128 pixels",
    unit="dB",
    smallest=0.1,
    tier="gpu",
    trained=True,
)(restored)

claim(
    id="c2f.C7",
    paper=PAPER,
    where="ablation of the fine loss",
    statement="SSIM and L1 together are a better fine loss than L1 alone.",
    paper_effect="stated; no numbers at hand",
    protocol=protocol(("fine", "L1", "released loss"), ("ssim", "psnr")),
    rehearsal=few(),
    primary="ssim",
    contrast="SSIM (range 2) and L1 - L1",
    unit="SSIM",
    smallest=0.005,
    trained=True,
)(restored)


# ---------------------------------------------------------------- C9: any size


SIZES = ("128", "64", "96", "125", "tiles")
CORE = slice(40, 88)  # the 48 pixels that every size sees


def smallest_gain(rows: Sequence[Row]) -> Mapping[str, float]:
    """PSNR of the core in larger views minus that in a view of 64 pixels, the worst of them, per crop."""
    psnr = {(row["arm"], row["image"], row["seed"]): row["psnr"] for row in rows}
    larger = [size for size in ("96", "125", "128") if any(arm == size for arm, _, _ in psnr)]
    found = {}
    for image in dict.fromkeys(row["image"] for row in rows):
        seeds = {seed for _, other, seed in psnr if other == image}
        gains = [np.mean([psnr[size, image, s] - psnr["64", image, s] for s in seeds]) for size in larger]
        found[image] = float(min(gains))
    return found


@claim(
    id="c2f.C9",
    paper=PAPER,
    where="inference on whole images",
    statement="A network trained on small crops restores whole images of any size.",
    paper_effect="used throughout",
    protocol=Protocol(
        (CROPS, "rain light"), crop_names("light"), SIZES, (0, 1, 2), ("psnr",), {"tile": 48, "overlap": 12}
    ),
    rehearsal={"seeds": (0,), "images": ("astronaut/2/light", "coffee/2/light"), "arms": ("128", "64")},
    primary="psnr",
    contrast="the same 48 pixels in a view of 96, 125 or 128 pixels - in one of 64, the worst",
    unit="dB",
    null=-0.5,
    smallest=-0.5,
    checkpoints=(PAPER,),
    shipped_arms=SIZES,
    effect=smallest_gain,
)
def any_size(job: Job, images: Sequence[str]) -> Measured:
    """PSNR of the middle 48 pixels, restored within a view of the named size, or by tiles of the whole crop."""
    from minirestore import images as tools
    from minirestore import metrics

    model, s, found = load(PAPER, PAPER, job.device), job.protocol.settings, {}
    for name in images:
        x, y = pair(name, job.seed)
        if job.arm == "tiles":
            full = tools.apply_tiled(lambda z, n=name: restore(model, z, n, job.seed), y, s["tile"], s["overlap"])
            core = full[..., CORE, CORE]
        else:
            first = (128 - int(job.arm)) // 2
            view = slice(first, first + int(job.arm))
            within = slice(CORE.start - first, CORE.stop - first)
            core = restore(model, y[..., view, view], name, job.seed)[..., within, within]
        found[name] = {"psnr": metrics.psnr(core, x[..., CORE, CORE]).item()}
    return found


# ---------------------------------------------------------------- C11: other rain


def gap_under_shift(rows: Sequence[Row]) -> Mapping[int, float]:
    """How much the fine network gains on the regression control from light to heavy rain, per seed."""
    arms = ("fine", "regression")
    return {
        s: gain_of(rows, "psnr", s, arms, "heavy") - gain_of(rows, "psnr", s, arms, "light") for s in seeds_of(rows)
    }


claim(
    id="c2f.C11",
    paper=PAPER,
    where="RealBlur and DND against GoPro and SIDD",
    statement="Under a shift of the degradation the method loses less than a plain regressor.",
    paper_effect="against Restormer: GoPro -.96 dB, RealBlur-R +.15 dB",
    paper_value=1.11,
    protocol=protocol(("fine", "regression", "unrolled from scratch"), ("psnr", "ssim"), rain=("light", "heavy")),
    rehearsal=few("astronaut/2/light", "coffee/2/light", "astronaut/2/heavy", "coffee/2/heavy",
                  arms=("fine", "regression")),
    primary="psnr",
    contrast="(fine - regression) in heavy rain - (fine - regression) in light rain",
    unit="dB",
    smallest=0.2,
    trained=True,
    effect=gap_under_shift,
)(restored)  # fmt: skip
