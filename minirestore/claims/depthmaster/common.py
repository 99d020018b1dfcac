"""Scenes, trainings and measurements that the claims of DepthMaster share."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from minirestore.claims.definitions import Job, Measured, Protocol, Row, claim
from minirestore.claims.shared import gain_of, load, seeds_of, trained_file

PAPER = "depthmaster"
SIDE = 128
SEEN, UNSEEN = ("room", "street", "boxes", "text"), ("spheres", "poles")
FIRST_SEED = 500  # of the scenes of evaluation; training has seed 0
GROUP = 4  # scenes behind one row of a trained claim
TRAINING = {
    "profile": "reduced",
    "longer_side": SIDE,
    "families": SEEN,
    "zoom": 1.0,
    "jitter": 0.0,
    "unions": 0.0,
    "images": 800,
    "prepared": 800,
    "batch_size": 8,
    "steps": 500,
    "warmup": 50,
}
SECOND = {"stage": "second", "batch_size": 4, "steps": 200, "warmup": 20, "learning_rate": 2e-4}
AT_ONCE = {**SECOND, "steps": 700, "warmup": 50, "learning_rate": 1e-3}
# How the arms differ from a single step without alignment. ``start`` names the arm that a second stage goes on from.
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, longer": {"steps": 1000},
    "varied": {"zoom": 2.0, "jitter": 0.4, "unions": 0.5},
    "random weights": {"pretrained": False},
    "denoising": {"paradigm": "denoising"},
    "denoising, 2023": {"paradigm": "denoising", "spacing": "leading"},
    "unrolled": {"paradigm": "unrolled", "calls": 2},
    "aligned": {"teacher": "features"},
    "aligned per token": {"teacher": "features", "alignment_reduction": "token"},
    "random teacher": {"teacher": "random"},
    "aligned, down1": {"teacher": "features", "tap": "down1"},
    "depth": {"space": "depth"},
    "disparity": {"space": "disparity"},
    "pixels": {**SECOND, "enhancement": "none", "gradient_weight": 0.0, "start": "plain"},
    "pixels + L_h": {**SECOND, "enhancement": "none", "start": "plain"},
    "pixels + Huber": {**SECOND, "enhancement": "none", "gradient_kind": "huber", "start": "plain"},
    "Fourier": {**SECOND, "start": "plain"},
    "Fourier, released": {**SECOND, "enhancement": "released", "start": "plain"},
    "spatial": {**SECOND, "enhancement": "spatial", "start": "plain"},
    "latents again": {"steps": 200, "warmup": 20, "batch_size": 4, "learning_rate": 2e-4, "start": "plain"},
    "pixels at once": {**AT_ONCE, "enhancement": "none", "gradient_weight": 0.0},
    "pixels + L_h at once": {**AT_ONCE, "enhancement": "none"},
    "Fourier at once": AT_ONCE,
}
GROUPS = tuple(f"{family}/{i}" for family in (*SEEN, *UNSEEN) for i in range(4))
METRICS = ("abs_rel", "delta1", "boundary_f1", "texture_spread")
NOT_TRAINING = ("profile", "arms", "sampling")


def protocol(
    arms: Sequence[str],
    sampling: Mapping[str, Mapping[str, Any]] | None = None,
    computed: Sequence[str] = (),
    test: str = f"scenes of all families from seed {FIRST_SEED}",
    images: Sequence[str] = GROUPS,
    metrics: Sequence[str] = METRICS,
) -> Protocol:
    """The protocol of a claim whose arms are trained.

    Args:
        arms: of `ARMS`, of ``sampling``, or ``computed``.
        sampling: more arms: which trained ``arm`` they are, and options of its prediction.
        computed: arms for which nothing is trained.
        test, images, metrics: what is measured on what.
    """
    sampling = dict(sampling or {})
    trained = dict.fromkeys(sampling.get(arm, {"arm": arm})["arm"] for arm in arms if arm not in computed)
    wanted = {**{ARMS[arm].get("start"): None for arm in trained}, **trained}
    settings = {**TRAINING, "arms": {arm: ARMS[arm] for arm in wanted if arm}, "sampling": sampling}
    data = (f"train: rgbd of {', '.join(SEEN)}, seed 0", f"test: {test}")
    return Protocol(data, images, arms, (0, 1, 2), metrics, settings)


def few(images: Sequence[str] = ("room/0", "poles/0"), **more: Any) -> dict[str, Any]:
    """A rehearsal: two groups of scenes, two steps of training."""
    settings = {"images": 4, "prepared": 4, "batch_size": 1, "steps": 2, "warmup": 1}
    return {"seeds": (0, 1), "images": images, "settings": {**settings, **more}}


def trained_claim(
    arms: Sequence[str], *, sampling: Mapping[str, Mapping[str, Any]] | None = None, **fields: Any
) -> None:
    """Register a claim whose arms are trained, `few` of which make its rehearsal."""
    made = protocol(arms, sampling)
    claim(
        paper=PAPER,
        protocol=made,
        rehearsal=few(**({"sampling": {k: {**v, "calls": 1} for k, v in sampling.items()}} if sampling else {})),
        trained=True,
        checkpoints=("prior", "features"),
        **fields,
    )(measure_trained)


def training_settings(settings: Mapping[str, Any], arm: str, seed: int) -> tuple[dict[str, Any], str]:
    """The settings of `recipes.train` for an arm, and the arm that it starts from or nothing.

    A rehearsal's numbers of steps and crops bound those of the arm.
    """
    shared = {name: value for name, value in settings.items() if name not in NOT_TRAINING}
    changes = dict(settings["arms"][arm])
    start = changes.pop("start", "")
    if shared["steps"] < TRAINING["steps"]:
        changes = {k: v for k, v in changes.items() if k not in ("steps", "warmup", "batch_size")}
    return {"teacher": "none", **shared, **changes, "seed": seed}, start


def trained(job: Job, arm: str):
    """Checkpoint of an arm with the job's seed, trained now unless it is there, after the one that it starts from."""
    settings, start = training_settings(job.protocol.settings, arm, job.seed)
    return trained_file(job, PAPER, settings, trained(job, start) if start else None, ("prior", "features"))


@functools.lru_cache(maxsize=256)
def scenes_of(group: str, materials: int = 0, count: int = GROUP, side: int = SIDE):
    """Scenes of ``family/number``: pictures (count, 3, S, S), metres and validity (count, 1, S, S)."""
    from minirestore import scenes
    from minirestore.recipes.data import FARTHEST

    family, number = group.split("/")
    first = count * int(number)
    drawn = scenes.render_scenes(count, side, FIRST_SEED, family=family, start=first, materials=materials)
    return drawn["image"], drawn["depth"], drawn["valid"] & (drawn["depth"] < FARTHEST)


def aligned(relative, depth, valid, space: str):
    """The prediction in metres, by least squares in its own space; not nearer or further than anything true."""
    from minirestore import metrics

    low, high = depth[valid].min().item(), depth[valid].max().item()
    return metrics.align_depth(relative, depth, valid, space, minimum=low, maximum=high).depth


def blind(depth) -> dict[str, Any]:
    """Relative maps (B, 1, H, W) that do not look at the picture: ``gradient`` (near below) and ``plane``."""
    import torch

    rows = torch.linspace(0, 1, depth.shape[-2], dtype=depth.dtype).view(1, 1, -1, 1)
    return {"gradient": rows.expand_as(depth).contiguous(), "plane": torch.zeros_like(depth)}


def compare(metres, depth, valid) -> dict[str, float]:
    """AbsRel, delta1 and boundary F1, means over the scenes."""
    from minirestore import metrics

    return {
        "abs_rel": metrics.abs_rel(metres, depth, valid).mean().item(),
        "delta1": metrics.delta1(metres, depth, valid).mean().item(),
        "boundary_f1": metrics.boundary_f1(metres, depth, valid).mean().item(),
    }


def measure_trained(job: Job, images: Sequence[str]) -> Measured:
    """`METRICS` of an arm on groups of scenes."""
    options = dict(job.protocol.settings["sampling"].get(job.arm, {"arm": job.arm}))
    checkpoint, options = str(trained(job, options.pop("arm"))), tuple(options.items())
    return {group: dict(_measured(checkpoint, options, group, job.seed, job.device)) for group in images}


@functools.lru_cache(maxsize=4096)
def _measured(checkpoint: str, options: tuple[tuple[str, Any], ...], group: str, seed: int, device: str):
    """`METRICS` of one group; kept, since several claims look at the same arm.

    ``texture_spread`` is the mean difference, relative to the depth, between the predictions for a scene and for its
    twin, which has the same geometry and light and other materials: 0 is right, and what is constant has it, too.
    """
    from minirestore import diffusion

    model, metres = load(PAPER, checkpoint, device), []
    for materials in (0, 1):
        image, depth, valid = scenes_of(group, materials)
        generator = diffusion.BatchGenerator(FIRST_SEED + seed, materials)
        relative = model.predict(image.to(device), generator, longer_side=0, **dict(options)).cpu()
        metres.append(aligned(relative, depth, valid, model.config.space))
    spread = ((metres[0] - metres[1]).abs() / depth.clamp(min=1e-6))[valid]
    return {**compare(metres[0], depth, valid), "texture_spread": spread.mean().item()}


def difference(metric: str, first: str, second: str):
    """An effect: per seed, the mean of the metric over all scenes, of the first arm less that of the second."""

    def effect(rows: Sequence[Row]) -> Mapping[int, float]:
        return {seed: gain_of(rows, metric, seed, (first, second)) for seed in seeds_of(rows)}

    return effect
