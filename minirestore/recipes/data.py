"""Where training batches come from: pools of images, degradations, and pairs on disk."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import datasets, degradations, diffusion
from minirestore.config import progress_bar
from minirestore.degradations import LOW_RESOLUTION_FACTOR as FACTOR
from minirestore.scenes.layouts import FAMILIES
from minirestore.scenes.pool import AUGMENTATIONS, CropPool
from minirestore.training import MakeBatch

NOISE_SIGMA = 25.0
MIXUP_BETA = 1.2
VIVID = 3.0
DEFAULT_FAMILIES = FAMILIES[:6]  # all but ``workshop``: the prior and the feature encoder have learned from these
FARTHEST = 80.0  # metres: depth of a scene from here on is not valid, as in Virtual KITTI
PREPARED_AT_ONCE = 8
RENDERED_AT_ONCE = 64
LARGEST_CHANGE = 0.6  # of the logarithm of the size of a scene that joins another
PREPARATION = 4_000_000  # added to the seed of the data, lest a training's own noise be met again
LARGEST_ON_DEVICE = 8 * 2**30  # bytes; a larger pool of photographs stays in the CPU's memory


@dataclass(frozen=True)
class DataConfig:
    """Where training crops come from.

    Attributes:
        source: ``dead_leaves``; ``scenes`` (ray-cast, with class labels); ``mixed`` (half dead leaves, half scenes,
            with the number of their kind) or ``mixed_depth`` (the scenes' depth maps as well, in grey); ``rgbd`` (whole
            scenes with their depth in metres); or ``folder:NAME``, ``pairs:NAME`` or ``depth:NAME`` of `datasets`;
            pairs are not degraded further, and depth brings its own sizes.
        images, image_size: number and side of the pool's images.
        families: of the scenes of ``rgbd``, equally many of each; none named stands for
            `DEFAULT_FAMILIES`, which all other sources draw from.
        depth_of_field: range of the largest blur of each dead-leaves image, in pixels (see ``scenes.dead_leaves``).
        crop: side of a training crop.
        sigma: standard deviation of the added noise, in units of 1/255; 0 adds none.
        blur: name of a domain of ``degradations.BLUR_DOMAINS``, which brings its own noise (then sigma must be 0).
        rain: name of a domain of ``degradations.RAIN_DOMAINS``, before any noise.
        pipeline: name of a recipe of ``degradations.PIPELINES``, which brings all degradation (then sigma must be 0).
        low_resolution: name of a domain of ``degradations.LOW_RESOLUTION_DOMAINS``, for super-resolution: every image
            of the pool is degraded once, and ``degraded`` has a quarter of the sides. Then sigma must be 0.
        augment: ``eightfold``, ``flip`` or ``none``, see ``scenes.CropPool.sample``.
        recolour: share of the crops that get their channels in random order, and chroma (what differs from their mean)
            times a random factor between 1 and `VIVID`; with 1 all hues are frequent, saturated ones, too. For the
            ``mixed`` sources.
        zoom: scenes of ``rgbd`` are enlarged up to so much, around a random place: other fields of view; 1 leaves them.
        jitter: of the pictures of ``rgbd``: a gamma within ``exp(+-jitter)`` for each, and a gain within
            ``exp(+-jitter / 2)`` for each of its channels; 0 leaves them.
        unions: share of the pictures of ``rgbd`` in which two scenes stand together: of every pixel the nearer surface
            is seen, after the second scene has been enlarged by a factor within ``exp(+-0.6)`` (which its picture does
            not show). Light and shadows remain those of either scene.
        prepared: number of crops that are drawn, degraded and put through the method's frozen networks once, before the
            training, which then draws from their results; 0 does all that anew in every step. For methods that have
            ``prepare``.
        mixup: with probability 1/2, blend every pair with another of its batch, with one weight from Beta(1.2, 1.2).
        seed: seed of the pool.
    """

    source: str = "dead_leaves"
    images: int = 800
    image_size: int = 256
    families: tuple[str, ...] = ()
    depth_of_field: tuple[float, float] = (0.0, 3.0)
    crop: int = 48
    sigma: float = NOISE_SIGMA
    blur: str = ""
    rain: str = ""
    pipeline: str = ""
    low_resolution: str = ""
    augment: str = "eightfold"
    recolour: float = 0.0
    zoom: float = 1.0
    jitter: float = 0.0
    unions: float = 0.0
    prepared: int = 0
    mixup: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.prepared < 0:
            raise ValueError(f"prepared: a number of crops must not be negative, got {self.prepared}")
        if self.rain and self.rain not in degradations.RAIN_DOMAINS:
            known = ", ".join(degradations.RAIN_DOMAINS)
            raise ValueError(f"rain: expected a domain among {known}, or nothing, got {self.rain!r}")
        if self.blur and self.blur not in degradations.BLUR_DOMAINS:
            known = ", ".join(degradations.BLUR_DOMAINS)
            raise ValueError(f"blur: expected a domain among {known}, or nothing, got {self.blur!r}")
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment: expected one of {', '.join(AUGMENTATIONS)}, got {self.augment!r}")
        if self.families and (self.source != "rgbd" or not set(self.families) <= set(FAMILIES)):
            raise ValueError(f"families: for the source rgbd, among {', '.join(FAMILIES)}; got {self.families}")
        if self.zoom < 1 or not self.jitter >= 0 or (self.source != "rgbd" and (self.zoom > 1 or self.jitter)):
            raise ValueError(f"zoom >= 1, jitter >= 0, for the source rgbd: got {self.zoom} and {self.jitter}")
        if not 0 <= self.unions <= 1 or (self.unions and self.source != "rgbd"):
            raise ValueError(f"unions: a share in [0, 1], for the source rgbd, got {self.unions}")
        if self.source == "rgbd" and self.crop != self.image_size:
            raise ValueError("crop: rgbd has whole scenes; set it to image_size")
        degraded = (self.sigma, self.blur, self.rain, self.pipeline, self.low_resolution, self.mixup)
        if self.source.startswith(("rgbd", "depth:")) and any(degraded):
            raise ValueError("sigma and all other degradation: pictures with depth stay as they are; set sigma to 0")
        if self.source.startswith(("rgbd", "depth:")) and self.augment == "eightfold":
            raise ValueError("augment: depth knows which way is up; choose flip or none")
        if not 0 <= self.recolour <= 1:
            raise ValueError(f"recolour: a share must lie in [0, 1], got {self.recolour}")
        if self.recolour and not self.source.startswith("mixed"):
            raise ValueError(f"recolour: for the sources mixed and mixed_depth, got {self.source!r}")
        if self.source.startswith("pairs:") and (self.blur or self.rain or self.sigma or self.pipeline):
            raise ValueError(
                "blur, rain, sigma, pipeline: pairs bring their own degradation; leave them empty, sigma 0"
            )
        if self.low_resolution and self.low_resolution not in degradations.LOW_RESOLUTION_DOMAINS:
            known = ", ".join(degradations.LOW_RESOLUTION_DOMAINS)
            raise ValueError(
                f"low_resolution: expected a domain among {known}, or nothing, got {self.low_resolution!r}"
            )
        if self.pipeline and self.pipeline not in degradations.PIPELINES:
            known = ", ".join(degradations.PIPELINES)
            raise ValueError(f"pipeline: expected one of {known}, or nothing, got {self.pipeline!r}")
        if self.pipeline and (self.blur or self.rain or self.sigma or self.low_resolution):
            raise ValueError(
                "blur, rain, sigma, low_resolution: pipeline brings all degradation; leave them empty, sigma 0"
            )
        if self.low_resolution and (self.blur or self.rain or self.sigma or self.mixup):
            raise ValueError(
                "blur, rain, sigma, mixup: low_resolution brings all degradation; leave them empty, sigma 0"
            )
        if self.low_resolution and (self.crop % FACTOR or self.image_size % FACTOR):
            got = f"{self.crop} and {self.image_size}"
            raise ValueError(f"crop, image_size: must be multiples of {FACTOR} for low_resolution, got {got}")
        if self.blur and self.rain:
            raise ValueError(f"blur, rain: one degradation at a time, got {self.blur!r} and {self.rain!r}")
        if self.blur and self.sigma:
            raise ValueError(f"sigma: blur domain {self.blur!r} brings its own noise; set sigma to 0, got {self.sigma}")


def pool_in_words(data: DataConfig) -> str:
    """Source, kind and memory of the pool that `make_data` keeps."""
    if data.source.startswith("depth:"):
        return f"{data.source} ({data.images:,} pictures with depth, read when drawn)"
    channels = {"pairs": 6, "scenes": 4, "rgbd": 8}.get(data.source.partition(":")[0], 3)
    size = data.images * channels * data.image_size**2 / 2**30
    kind = "photographs" if data.source.startswith(datasets.KINDS) else "procedural"
    return f"{data.source} ({data.images:,} {kind}, {data.image_size} px, {size:.3g} GiB in memory)"


def empty_batch(data: DataConfig, count: int, side: int) -> dict[str, Tensor]:
    """The shapes of a batch of `make_data` with crops of ``side``, on the meta device."""
    if data.source.startswith(("rgbd", "depth:")):
        size = (side, side)
        if data.source != "rgbd":
            size = max((datasets.DEPTH_SETS[name].shape for name in datasets.depth_names(data.source)), key=math.prod)
        return {
            "clean": torch.empty(count, 3, *size, device="meta"),
            "depth": torch.empty(count, 1, *size, device="meta"),
            "valid": torch.empty(count, 1, *size, dtype=torch.bool, device="meta"),
        }
    small = side // FACTOR if data.low_resolution else side
    shapes = {"clean": (count, 3, side, side), "degraded": (count, 3, small, small)}
    batch = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if data.source in ("mixed", "mixed_depth"):
        batch["kind"] = torch.empty(count, dtype=torch.long, device="meta")
    return batch


def missing_data(data: DataConfig) -> list[str]:
    """What must be fetched before training with ``data``: one line each, empty if nothing."""
    return datasets.missing(data.source, data.images) if data.source.startswith(datasets.KINDS) else []


def make_data(data: DataConfig, device: str | torch.device = "cpu") -> MakeBatch:
    """A function ``(batch_size, generator) -> batch`` that draws from the pool described by ``data``.

    Raises:
        ValueError: unknown source. FileNotFoundError: a folder of photographs is missing or too small.
    """
    from minirestore import scenes

    if missing := missing_data(data):
        raise FileNotFoundError("data: " + "; ".join(missing))
    if data.source == "scenes":
        return _labelled_scenes(data, device)
    if data.source == "rgbd":
        return _scenes_with_depth(data, device)
    if data.source.startswith("depth:"):
        return _pictures_with_depth(data)
    if data.source in ("mixed", "mixed_depth"):
        return _mixed_kinds(data, device)
    if data.source == "dead_leaves":
        pool = scenes.CropPool.dead_leaves(
            data.images, data.image_size, data.seed, device=device, depth_of_field=data.depth_of_field
        )
    elif data.source.startswith(datasets.KINDS):
        photographs = datasets.centre_crops(data.source, data.images, data.image_size)
        pool = scenes.CropPool(photographs.to("cpu" if photographs.nbytes > LARGEST_ON_DEVICE else device))
    else:
        raise ValueError(
            f"source: expected dead_leaves, scenes, rgbd, folder:NAME, pairs:NAME or depth:NAME, got {data.source!r}"
        )
    if data.low_resolution:
        return _low_resolution_pairs(pool, data)
    blur, rain = degradations.BLUR_DOMAINS.get(data.blur), degradations.RAIN_DOMAINS.get(data.rain)

    def degrade(degraded: Tensor, generator: torch.Generator) -> Tensor:
        if data.pipeline:
            return degradations.degrade(degraded, generator, data.pipeline)
        if blur is not None:
            degraded = degradations.random_blur(degraded, generator, blur)
        if rain is not None:
            degraded = degradations.rain(degraded, generator, rain)
        return degradations.gaussian_noise(degraded, data.sigma, generator) if data.sigma else degraded

    def make_batch(batch_size: int, generator: torch.Generator, crop: int = data.crop) -> dict[str, Tensor]:
        crops = pool.sample(batch_size, crop, generator, data.augment)
        clean = crops[:, :3]
        degraded = crops[:, 3:] if data.source.startswith("pairs:") else degrade(clean, generator)
        return _mixed(clean, degraded, generator) if data.mixup else {"clean": clean, "degraded": degraded}

    return make_batch


def prepared_batches(make_batch: MakeBatch, method: nn.Module, count: int, seed: int) -> MakeBatch:
    """Batches from a store of ``count`` crops that ``make_batch`` drew and ``method.prepare`` worked on, once.

    Frozen networks give the same for the same crop, and often take longer than the step of training. The store is made
    when the first batch is asked for, with noise from ``seed``.

    Raises:
        ValueError: the method has no ``prepare``.
    """
    if not hasattr(method, "prepare"):
        raise ValueError(f"prepared: {type(method).__name__} has nothing to prepare; leave it 0")

    @functools.cache
    def store() -> dict[str, Tensor]:
        parts: list[dict[str, Tensor]] = []
        bar = progress_bar(count, "prepare")
        for start in range(0, count, PREPARED_AT_ONCE):
            generator = diffusion.BatchGenerator(PREPARATION + seed, start)
            batch = make_batch(min(PREPARED_AT_ONCE, count - start), generator)
            device = next(method.parameters()).device
            parts.append(method.prepare({name: x.to(device) for name, x in batch.items()}, generator))
            bar.update(len(next(iter(batch.values()))))
        bar.close()
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def draw(batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(count, (batch_size,), generator=generator)
        return {name: x[rows.to(x.device)] for name, x in store().items()}

    return draw


def _mixed(clean: Tensor, degraded: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Mixup of pairs, applied to every other batch (C2F-DFT, released code): one weight and permutation for both."""
    pair = {"clean": clean, "degraded": degraded}
    if torch.rand((), generator=generator).item() >= 0.5:
        return pair
    seed = int(torch.randint(2**31, (), generator=generator))
    weight = np.random.default_rng(seed).beta(MIXUP_BETA, MIXUP_BETA)
    other = torch.randperm(len(clean), generator=generator).to(clean.device)
    return {name: weight * x + (1 - weight) * x[other] for name, x in pair.items()}


@functools.lru_cache(maxsize=1)
def _rendered(families: tuple[str, ...], count: int, size: int, seed: int) -> dict[str, Tensor]:
    """Ray-cast scenes, ``count`` of each family: ``image`` and ``labels`` uint8, ``depth`` in metres, ``valid``.

    The last ones are kept, as several trainings may share them.
    """
    from minirestore import scenes

    parts, bar = [], progress_bar(count * len(families), "scenes")
    for family in families:
        for start in range(0, count, RENDERED_AT_ONCE):
            part = scenes.render_scenes(min(RENDERED_AT_ONCE, count - start), size, seed, family=family, start=start)
            image, labels = (part["image"] * 255).round().to(torch.uint8), part["labels"].to(torch.uint8)
            parts.append({"image": image, "labels": labels, "depth": part["depth"], "valid": part["valid"]})
            bar.update(len(image))
    bar.close()
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _labelled_scenes(data: DataConfig, device: str | torch.device) -> MakeBatch:
    """Random crops of ray-cast scenes with their pixel classes."""
    drawn = _rendered(DEFAULT_FAMILIES, -(-data.images // len(DEFAULT_FAMILIES)), data.image_size, data.seed)
    both = CropPool(torch.cat([drawn["image"], drawn["labels"]], dim=1).to(device))

    def make_batch(batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        crops = both.sample(batch_size, data.crop, generator, data.augment)
        return {"clean": crops[:, :3], "labels": (crops[:, 3:] * 255).round().long()}

    return make_batch


def _scenes_with_depth(data: DataConfig, device: str | torch.device) -> MakeBatch:
    """Whole ray-cast scenes with depth in metres, valid up to `FARTHEST`."""
    families = data.families or DEFAULT_FAMILIES
    drawn = _rendered(families, -(-data.images // len(families)), data.image_size, data.seed)
    image, depth = drawn["image"].to(device), drawn["depth"].to(device)
    valid = drawn["valid"].to(device) & (depth < FARTHEST)

    def draw(batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        which = torch.randint(len(image), (batch_size,), generator=generator).to(image.device)
        batch = {"clean": image[which].float() / 255, "depth": depth[which], "valid": valid[which]}
        if data.zoom > 1:
            batch = _zoomed(batch, data.zoom, generator)
        if data.jitter:
            batch["clean"] = _jittered(batch["clean"], data.jitter, generator)
        return _flipped(batch, generator) if data.augment == "flip" else batch

    def make_batch(batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = draw(batch_size, generator)
        return _united(batch, draw(batch_size, generator), data.unions, generator) if data.unions else batch

    return make_batch


def _united(
    batch: dict[str, Tensor], other: dict[str, Tensor], share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Pictures joined, with probability ``share`` each, by one of ``other`` in another size: the nearer is seen."""
    scale = torch.exp(LARGEST_CHANGE * (2 * torch.rand(len(batch["clean"]), 1, 1, 1, generator=generator) - 1))
    chosen = torch.rand(len(scale), 1, 1, 1, generator=generator) < share
    depth = other["depth"] * scale.to(other["depth"].device)
    nearer = other["valid"] & (depth < FARTHEST) & (~batch["valid"] | (depth < batch["depth"]))
    nearer &= chosen.to(nearer.device)
    parts = {"clean": other["clean"], "depth": depth, "valid": other["valid"]}
    return {key: torch.where(nearer, part, batch[key]) for key, part in parts.items()}


def _zoomed(batch: dict[str, Tensor], zoom: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Each picture with its maps enlarged by a factor of its own from [1, zoom], pictures bilinearly, maps not mixed.

    Cutting a window out moves the principal point and lengthens the focal length; planar depth stays what it is.
    """
    size = batch["clean"].shape[-1]
    sides = (size / (1 + (zoom - 1) * torch.rand(len(batch["clean"]), generator=generator))).int().tolist()
    places = torch.rand(len(sides), 2, generator=generator).tolist()
    parts: dict[str, list[Tensor]] = {key: [] for key in batch}
    for i, (side, place) in enumerate(zip(sides, places, strict=True)):
        top, left = (int(x * (size - side + 1)) for x in place)
        for key, x in batch.items():
            window = x[i : i + 1, :, top : top + side, left : left + side].float()
            mode = {"mode": "bilinear", "align_corners": False} if key == "clean" else {"mode": "nearest-exact"}
            parts[key].append(F.interpolate(window, (size, size), **mode).to(x.dtype))
    return {key: torch.cat(part) for key, part in parts.items()}


def _jittered(x: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Pictures with a gamma each, and a gain for each channel."""
    gamma, gain = (
        torch.exp(spread * (2 * torch.rand(len(x), channels, 1, 1, generator=generator) - 1)).to(x.device)
        for spread, channels in ((jitter, 1), (jitter / 2, 3))
    )
    return (x**gamma * gain).clamp(0, 1)


def _pictures_with_depth(data: DataConfig) -> MakeBatch:
    """Pictures with depth from disk; each batch comes from one data set, drawn by its share."""
    names = datasets.depth_names(data.source)
    files = [datasets.files(f"depth:{name}") for name in names]
    shares = torch.tensor([datasets.DEPTH_SETS[name].share for name in names])

    def make_batch(batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = int(torch.multinomial(shares, 1, generator=generator))
        which = torch.randint(len(files[chosen]), (batch_size,), generator=generator)
        pairs = [datasets.depth_pair(files[chosen][i], names[chosen]) for i in which.tolist()]
        batch = {key: torch.cat([pair[key] for pair in pairs]) for key in pairs[0]}
        return _flipped(batch, generator) if data.augment == "flip" else batch

    return make_batch


def _flipped(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Every other picture with left and right exchanged, all its maps together."""
    chosen = torch.rand(len(batch["clean"]), 1, 1, 1, generator=generator) < 0.5
    return {key: torch.where(chosen.to(x.device), x.flip(-1), x) for key, x in batch.items()}


def _low_resolution_pairs(pool: CropPool, data: DataConfig) -> MakeBatch:
    """Random crops of a pool beside their part of its images' low-resolution versions, degraded once."""
    small = []
    for i, image in enumerate(pool.images.split(1)):
        low = degradations.low_resolution(
            image.float() / 255, diffusion.BatchGenerator(data.seed, i), data.low_resolution
        )
        small.append((low * 255).round().to(torch.uint8))
    low = torch.cat(small).repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)  # one pixel, one block
    both = CropPool(torch.cat([pool.images, low], dim=1))

    def make_batch(batch_size: int, generator: torch.Generator, crop: int = data.crop) -> dict[str, Tensor]:
        crops = both.sample(batch_size, crop, generator, data.augment, grid=FACTOR)
        return {"clean": crops[:, :3], "degraded": crops[:, 3:, ::FACTOR, ::FACTOR].contiguous()}

    return make_batch


def _mixed_kinds(data: DataConfig, device: str | torch.device) -> MakeBatch:
    """Random crops of dead leaves (kind 1), ray-cast scenes (2) and, if asked for, their depth maps (3)."""
    drawn = _rendered(DEFAULT_FAMILIES, -(-data.images // (2 * len(DEFAULT_FAMILIES))), data.image_size, data.seed)
    count = len(drawn["image"])
    leaves = CropPool.dead_leaves(count, data.image_size, data.seed, depth_of_field=data.depth_of_field)
    parts = [leaves.images, drawn["image"]]
    if data.source == "mixed_depth":
        grey = depth_as_grey(drawn["depth"], drawn["valid"])
        parts.append((grey * 255).round().to(torch.uint8).expand(-1, 3, -1, -1))
    kinds = [torch.full_like(part[:, :1], kind) for kind, part in enumerate(parts, 1)]
    pool = CropPool(torch.cat([torch.cat(parts), torch.cat(kinds)], dim=1).to(device))

    def make_batch(batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        crops = pool.sample(batch_size, data.crop, generator, data.augment)
        clean = crops[:, :3]
        if data.recolour:
            chosen = torch.rand(batch_size, 1, 1, 1, generator=generator) < data.recolour
            clean = torch.where(chosen.to(clean.device), _recoloured(clean, generator), clean)
        return {"clean": clean, "kind": (crops[:, 3, 0, 0] * 255).round().long()}

    return make_batch


def _recoloured(x: Tensor, generator: torch.Generator) -> Tensor:
    """Channels in random order, chroma times a random factor; grey stays grey."""
    order = torch.rand(len(x), 3, generator=generator).argsort(1).to(x.device)
    factor = 1 + (VIVID - 1) * torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device)
    x = x.gather(1, order[:, :, None, None].expand_as(x))
    return x.mean(1, keepdim=True).lerp(x, factor).clamp(0, 1)


def depth_as_grey(depth: Tensor, valid: Tensor) -> Tensor:
    """Depth maps ``(B, 1, H, W)`` in metres as grey images in [0, 1]: near is black, the sky (not valid) white.

    The 2nd and the 98th percentile of a map's valid pixels are the ends.
    """
    maps = []
    for metres, known in zip(depth, valid, strict=True):
        low, high = torch.quantile(metres[known], torch.tensor([0.02, 0.98], device=depth.device))
        maps.append(torch.where(known, ((metres - low) / (high - low).clamp(min=1e-6)).clamp(0, 1), 1.0))
    return torch.stack(maps)
