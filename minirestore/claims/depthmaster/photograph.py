"""What carries over to a photograph: depth.P1, one real picture with measured depth."""

from collections.abc import Sequence

from minirestore.claims.definitions import Job, Measured, claim
from minirestore.claims.depthmaster.common import PAPER, aligned, blind, compare, few, protocol, trained
from minirestore.claims.shared import load

BOUNDS = ("gradient", "plane", "autoencoder")
COMPUTED = ("shipped", *BOUNDS)
PHOTOGRAPH, SIDE = "motorcycle", 160


def through_the_autoencoder(autoencoder, target):
    """What is left of a map in [-1, 1] that is reduced as a picture is, encoded and decoded, and enlarged again."""
    import torch.nn.functional as F

    from minirestore.images import apply_padded
    from minirestore.papers.depthmaster import reconstruct_depth

    size = target.shape[-2:]
    small = F.interpolate(target, [n * SIDE // max(size) for n in size], mode="bilinear", antialias=True)
    kept = apply_padded(lambda x: reconstruct_depth(autoencoder, x), small, autoencoder.factor)
    return F.interpolate(kept, size, mode="bilinear", antialias=True)


def measure_photograph(job: Job, images: Sequence[str]) -> Measured:
    """The photograph's map by an arm that was trained, by the shipped model, or by one of `BOUNDS`."""
    from minirestore import photos
    from minirestore.papers.depthmaster import depth_target

    pair = photos.middlebury_motorcycle()
    depth, valid = pair["depth"], pair["valid"]
    model = load(PAPER, PAPER if job.arm in COMPUTED else str(trained(job, job.arm)), job.device)
    if job.arm == "autoencoder":
        target = depth_target(depth, valid, model.config.space, model.config.quantiles)
        relative = through_the_autoencoder(model.autoencoder, target.to(job.device)).cpu()
    elif job.arm in BOUNDS:
        relative = blind(depth)[job.arm]
    else:
        relative = model.predict(pair["image"].to(job.device), longer_side=SIDE).cpu()
    return dict.fromkeys(images, compare(aligned(relative, depth, valid, model.config.space), depth, valid))


claim(
    id="depth.P1",
    paper=PAPER,
    where="scenes against a photograph (ours)",
    statement="Varied in field of view, colour and company, scenes teach more about a photograph.",
    paper_effect="not compared; the paper's prior has seen photographs",
    protocol=protocol(
        ("varied", "plain", *COMPUTED),
        computed=COMPUTED,
        test=f"photos.middlebury_motorcycle(), its longer side {SIDE}",
        images=(PHOTOGRAPH,),
        metrics=("abs_rel", "delta1", "boundary_f1"),
    ),
    rehearsal=few(images=(PHOTOGRAPH,)),
    trained=True,
    checkpoints=("prior", "features", PAPER),
    shipped_arms=COMPUTED,
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, scenes varied - as they are",
    unit="AbsRel",
    smallest=0.005,
)(measure_photograph)
