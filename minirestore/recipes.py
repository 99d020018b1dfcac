"""What "train method M at profile P" means: data, degradation, network and steps, in one place.

`METHODS` names everything that restores an image or predicts depth; `MODELS` adds the helpers that are trained too.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minirestore import checkpoints, config, datasets, degradations, diffusion, images, resources, training
from minirestore.denoiser import Denoiser, DenoiserConfig
from minirestore.features import FeatureEncoder, FeatureEncoderConfig
from minirestore.papers.c2f_dft import C2FDFT, C2FDFTConfig, DFTConfig
from minirestore.papers.hf_error_map import HFErrorMap, HFErrorMapMethodConfig
from minirestore.papers.resshift import ResShift, ResShiftConfig, SwinUNetConfig
from minirestore.papers.structure_guidance import StructureGuidance, StructureGuidanceConfig
from minirestore.prior import AUTOENCODERS, Autoencoder, LatentPrior, LatentPriorConfig
from minirestore.scenes.pool import AUGMENTATIONS, CropPool
from minirestore.training import FitResult, MakeBatch, TrainingConfig

NOISE_SIGMA = 25.0
MIXUP_BETA = 1.2
SHRINK = 4  # pixels of an image per pixel of its low-resolution version, in each direction
LARGEST_ON_DEVICE = 8 * 2**30  # bytes; a larger pool of photographs stays in the CPU's memory


@dataclass(frozen=True)
class DataConfig:
    """Where training crops come from.

    Attributes:
        source: ``dead_leaves``; ``scenes`` (ray-cast, with class labels); ``mixed`` (half dead leaves, half scenes,
            with the number of their kind) or ``mixed_depth`` (the scenes' depth maps as well, in grey); or
            ``folder:NAME`` or ``pairs:NAME`` of `datasets`; pairs are not degraded further.
        images, image_size: number and side of the pool's images.
        depth_of_field: range of the largest blur of each dead-leaves image, in pixels (see ``scenes.dead_leaves``).
        crop: side of a training crop.
        sigma: standard deviation of the added noise, in units of 1/255; 0 adds none.
        blur: name of a domain of ``degradations.BLUR_DOMAINS``, which brings its own noise (then sigma must be 0).
        rain: name of a domain of ``degradations.RAIN_DOMAINS``, before any noise.
        low_resolution: name of a domain of ``degradations.LOW_RESOLUTION_DOMAINS``, for super-resolution: every image
            of the pool is degraded once, and ``degraded`` has a quarter of the sides. Then sigma must be 0.
        augment: ``eightfold`` or ``flip``, see ``scenes.CropPool.sample``.
        mixup: with probability 1/2, blend every pair with another of its batch, with one weight from Beta(1.2, 1.2).
        seed: seed of the pool.
    """

    source: str = "dead_leaves"
    images: int = 800
    image_size: int = 256
    depth_of_field: tuple[float, float] = (0.0, 3.0)
    crop: int = 48
    sigma: float = NOISE_SIGMA
    blur: str = ""
    rain: str = ""
    low_resolution: str = ""
    augment: str = "eightfold"
    mixup: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.rain and self.rain not in degradations.RAIN_DOMAINS:
            known = ", ".join(degradations.RAIN_DOMAINS)
            raise ValueError(f"rain: expected a domain among {known}, or nothing, got {self.rain!r}")
        if self.blur and self.blur not in degradations.BLUR_DOMAINS:
            known = ", ".join(degradations.BLUR_DOMAINS)
            raise ValueError(f"blur: expected a domain among {known}, or nothing, got {self.blur!r}")
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment: expected one of {', '.join(AUGMENTATIONS)}, got {self.augment!r}")
        if self.source.startswith("pairs:") and (self.blur or self.rain or self.sigma):
            raise ValueError("blur, rain, sigma: pairs bring their own degradation; leave them empty and sigma 0")
        if self.low_resolution and self.low_resolution not in degradations.LOW_RESOLUTION_DOMAINS:
            known = ", ".join(degradations.LOW_RESOLUTION_DOMAINS)
            raise ValueError(
                f"low_resolution: expected a domain among {known}, or nothing, got {self.low_resolution!r}"
            )
        if self.low_resolution and (self.blur or self.rain or self.sigma or self.mixup):
            raise ValueError(
                "blur, rain, sigma, mixup: low_resolution brings all degradation; leave them empty, sigma 0"
            )
        if self.low_resolution and (self.crop % SHRINK or self.image_size % SHRINK):
            got = f"{self.crop} and {self.image_size}"
            raise ValueError(f"crop, image_size: must be multiples of {SHRINK} for low_resolution, got {got}")
        if self.blur and self.rain:
            raise ValueError(f"blur, rain: one degradation at a time, got {self.blur!r} and {self.rain!r}")
        if self.blur and self.sigma:
            raise ValueError(f"sigma: blur domain {self.blur!r} brings its own noise; set sigma to 0, got {self.sigma}")


@dataclass(frozen=True)
class Recipe:
    """How one model is built and trained.

    Attributes:
        name, task: task is denoise, deblur, derain, sr, restore, depth or features.
        scale: output pixels per input pixel.
        notebooks: numbers of the notebooks that train it.
        module, config: the class and its default configuration.
        profiles: per profile, what differs from the default configuration, the data, and the training run.
        trainings: settings of each training that its notebooks do at the larger profiles.
        kept: settings of the network that a training shares with the one it starts from.
        implied: settings that come along with others: where all of the first dictionary hold, those that the second
            has for the profile. Later entries count more, and what is asked for by name most.
        checkpoints: names of the shipped checkpoints, the default first.
    """

    name: str
    task: str
    scale: int
    notebooks: tuple[str, ...]
    module: Callable[[Any], nn.Module]
    config: Any
    profiles: Mapping[str, tuple[Mapping[str, Any], DataConfig, TrainingConfig]]
    checkpoints: tuple[str, ...]
    trainings: tuple[Mapping[str, Any], ...] = ({},)
    kept: tuple[str, ...] = ()
    implied: tuple[tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]], ...] = ()

    @property
    def checkpoint(self) -> str:
        """Name of the checkpoint that is loaded by default."""
        return self.checkpoints[0]


_FULL_DENOISER = {"widths": (128, 256, 384), "blocks": 3, "embedding_width": 512}
DENOISER = Recipe(
    name="denoiser",
    task="denoise",
    scale=1,
    notebooks=("05",),
    checkpoints=("denoiser", "denoiser_regressor"),
    trainings=({}, {"objective": "regression"}),
    module=Denoiser,
    config=DenoiserConfig(),
    profiles={
        "quick": (
            {"widths": (16, 32), "blocks": 1, "embedding_width": 32},
            DataConfig(images=24, image_size=128, crop=32),
            TrainingConfig(steps=200, batch_size=8, learning_rate=2e-3, warmup=20, ema_decay=0.99),
        ),
        "reduced": (
            {},
            DataConfig(images=1200),
            TrainingConfig(steps=10_000, batch_size=16, learning_rate=2e-3, precision="bf16"),
        ),
        "full": (
            _FULL_DENOISER,
            DataConfig(source="folder:DIV2K_train_HR", images=800, image_size=1024, crop=128),
            TrainingConfig(
                steps=400_000, batch_size=64, learning_rate=2e-4, warmup=2000, ema_decay=0.9999, precision="bf16"
            ),
        ),
    },
)

FEATURES = Recipe(
    name="features",
    task="features",
    scale=1,
    notebooks=(),
    checkpoints=("features",),
    module=FeatureEncoder,
    config=FeatureEncoderConfig(),
    profiles={
        "quick": (
            {"widths": (8, 16, 16, 16)},
            DataConfig(source="scenes", images=16, image_size=64, crop=48, sigma=0.0),
            TrainingConfig(steps=100, batch_size=8, warmup=10),
        ),
        "reduced": (
            {},
            DataConfig(source="scenes", images=900, image_size=128, crop=96, sigma=0.0),
            TrainingConfig(steps=4000, batch_size=16, learning_rate=2e-3, precision="bf16"),
        ),
        "full": (
            {"widths": (64, 128, 256, 512)},
            DataConfig(source="scenes", images=20_000, image_size=256, crop=224, sigma=0.0),
            TrainingConfig(steps=100_000, batch_size=64, precision="bf16"),
        ),
    },
)

# A stem that halves the resolution, so that its levels are the three scales of the guidance; the residual x - y, made
# unit size, is easier than the paper's target in minutes of training.
_REDUCED_STRUCTURE = {
    "widths": (32, 40, 48), "blocks": 1, "mid_blocks": 1, "unshuffle": 2, "stem_kernel": 3, "resample": "plain",
    "embedding_width": 64, "target": "residual", "residual_scale": 6.0, "prediction": "v", "loss": "l2",
    "guidance_widths": (24, 24, 24), "guidance_blocks": 2, "guidance_noise": 0.02, "warm_start": 2000, "ramp": 2000,
    "sampling_steps": 10, "sampling_beta_end": 0.5,
}  # fmt: skip
STRUCTURE_GUIDANCE = Recipe(
    name="structure_guidance",
    task="deblur",
    scale=1,
    notebooks=("07", "08"),
    checkpoints=("structure_guidance", "structure_guidance_unguided", "structure_guidance_regressor"),
    trainings=({}, {"guided": False}, {"objective": "regression"}),
    module=StructureGuidance,
    config=StructureGuidanceConfig(),
    profiles={
        "quick": (
            {**_REDUCED_STRUCTURE, "widths": (16, 24, 24), "warm_start": 50, "ramp": 50},
            DataConfig(images=24, image_size=128, crop=48, sigma=0.0, blur="linear"),
            TrainingConfig(steps=200, batch_size=8, learning_rate=2e-3, warmup=20, ema_decay=0.99),
        ),
        "reduced": (
            _REDUCED_STRUCTURE,
            DataConfig(images=1200, crop=64, sigma=0.0, blur="linear"),
            TrainingConfig(steps=14_000, batch_size=16, learning_rate=2e-3, precision="bf16"),
        ),
        "full": (
            {},
            DataConfig("pairs:GoPro/train", images=2103, image_size=720, crop=128, sigma=0.0),
            TrainingConfig(
                steps=1_000_000, batch_size=256, learning_rate=1e-4, warmup=20_000, betas=(0.5, 0.999),
                weight_decay=0.0, ema_decay=0.9999, precision="bf16", decay="constant",
            ),
        ),
    },
)  # fmt: skip

# Published training by task and stage (released configurations; two GPUs, so twice the batch per GPU). The fine stage
# has a quarter of the coarse one's pixels per step, for its four network calls.
_PUBLISHED_COARSE = {
    "steps": 270_000,
    "learning_rate": 3e-4,
    "final_learning_rate": 1e-5,
    "hold": 50_000,
    "patch_steps": 10_000,
    "patches": (64, 128, 256),
    "patch_batches": (192, 48, 12),
    "patch_cycles": 9,
    "crop": 256,
    "image_size": 512,
}
_PUBLISHED_FINE = {
    **_PUBLISHED_COARSE,
    "steps": 90_000,
    "learning_rate": 4e-5,
    "final_learning_rate": 1e-6,
    "hold": 10_000,
    "patch_steps": 5000,
    "patch_batches": (48, 12, 2),
    "patch_cycles": 6,
}
_TINY = {"dim": 16, "blocks": (1, 1, 1, 1), "output_scale": 0.01, "checkpointing": False}
_SECONDS = TrainingConfig(steps=200, batch_size=8, learning_rate=1e-3, warmup=20, ema_decay=0.99)
C2F_DFT = Recipe(
    name="c2f_dft",
    task="derain",
    scale=1,
    notebooks=("09", "10"),
    checkpoints=("c2f_dft", "c2f_dft_coarse", "c2f_dft_denoise", "c2f_dft_deblur"),
    trainings=tuple({"task": t, "stage": s} for t in ("derain", "denoise", "deblur") for s in ("coarse", "fine")),
    kept=tuple(f.name for f in dataclasses.fields(DFTConfig)),
    module=C2FDFT,
    config=C2FDFTConfig(),
    profiles={
        "quick": (_TINY, DataConfig(images=24, image_size=128, crop=32, sigma=0.0, rain="light"), _SECONDS),
        "reduced": (
            _TINY,
            DataConfig(images=1200, crop=48, sigma=0.0, rain="light"),
            TrainingConfig(steps=8000, batch_size=16, learning_rate=1e-3, weight_decay=1e-4),
        ),
        "full": (
            {},
            DataConfig("pairs:Rain13K/train", images=13_711, sigma=0.0, augment="flip"),
            TrainingConfig(
                warmup=0, betas=(0.9, 0.999), weight_decay=1e-4, gradient_clip=0.0, ema_decay=0.999, ema_warmup=False,
            ),
        ),
    },
    implied=(
        ({}, {"full": _PUBLISHED_COARSE}),  # the regression control has the coarse stage's training
        ({"stage": "fine"}, {"quick": {"steps": 60, "learning_rate": 5e-4}, "full": _PUBLISHED_FINE,
                             "reduced": {"steps": 2400, "learning_rate": 5e-4}}),
        ({"task": "derain"}, {"full": {"patches": (32, 64, 128), "patch_batches": (720, 192, 48), "crop": 128,
                                       "image_size": 256}}),
        ({"task": "derain", "stage": "fine"}, {"full": {"patch_batches": (192, 48, 12), "learning_rate": 1e-5,
                                                        "final_learning_rate": 1e-7}}),
        ({"task": "denoise"}, {"quick": {"norm": "bias_free", "rain": "", "sigma": NOISE_SIGMA},
                               "reduced": {"norm": "bias_free", "rain": "", "sigma": NOISE_SIGMA},
                               "full": {"norm": "bias_free", "source": "pairs:SIDD/train", "images": 30_608,
                                        "mixup": True}}),
        ({"task": "deblur"}, {"quick": {"rain": "", "blur": "linear"}, "reduced": {"rain": "", "blur": "linear"},
                              "full": {"source": "pairs:GoPro/train", "images": 2103, "image_size": 720,
                                       "mixup": True, "steps": 330_000}}),
        ({"task": "deblur", "stage": "fine"}, {"full": {"steps": 30_000, "patch_cycles": 2}}),
    ),
)  # fmt: skip

_SECONDS_OF_LATENTS = TrainingConfig(steps=60, batch_size=4, learning_rate=2e-3, warmup=10, ema_decay=0.99)
AUTOENCODER = Recipe(
    name="autoencoder",
    task="compress",
    scale=1,
    notebooks=("06",),
    checkpoints=("prior/vae",),
    module=Autoencoder,
    config=AUTOENCODERS["prior/vae"],
    profiles={
        "quick": ({"widths": (8, 16, 16)}, DataConfig("mixed_depth", 12, 64, crop=32, sigma=0.0), _SECONDS_OF_LATENTS),
        "reduced": (
            {},
            DataConfig("mixed_depth", images=1600, image_size=160, crop=64, sigma=0.0),
            TrainingConfig(steps=14_000, batch_size=16, learning_rate=2e-3, weight_decay=0.0),
        ),
        "full": (
            dataclasses.asdict(AUTOENCODERS["stable-diffusion/vae"]),
            DataConfig("folder:DIV2K_train_HR", images=800, image_size=1024, crop=256, sigma=0.0),
            TrainingConfig(steps=300_000, batch_size=32, learning_rate=1e-4, weight_decay=0.0, precision="bf16"),
        ),
    },
)
# the codebook of ResShift and SinSR; at full size their published autoencoder
VQ = dataclasses.replace(
    AUTOENCODER,
    name="vq",
    notebooks=("06", "11"),
    checkpoints=("vq",),
    config=AUTOENCODERS["vq"],
    profiles={
        **AUTOENCODER.profiles,
        "reduced": ({}, *AUTOENCODER.profiles["reduced"][1:]),
        "full": (
            dataclasses.asdict(AUTOENCODERS["resshift/vq-f4"]),
            *AUTOENCODER.profiles["full"][1:],
        ),
    },
)
PRIOR = Recipe(
    name="prior",
    task="generate",
    scale=1,
    notebooks=("06",),
    checkpoints=("prior",),
    module=LatentPrior,
    config=LatentPriorConfig(),
    profiles={
        "quick": ({"widths": (16, 16, 16)}, DataConfig("mixed", 12, 64, crop=64, sigma=0.0), _SECONDS_OF_LATENTS),
        "reduced": (
            {},
            DataConfig("mixed", images=1600, image_size=160, crop=128, sigma=0.0),
            TrainingConfig(steps=10_000, batch_size=16, learning_rate=1e-3, weight_decay=0.0, precision="bf16"),
        ),
        "full": (
            {
                "autoencoder": "stable-diffusion/vae",
                "widths": (320, 640, 1280, 1280),
                "layers": 2,
                "groups": 32,
                "heads": 20,
                "context_width": 1024,
            },
            DataConfig("folder:DIV2K_train_HR", images=800, image_size=1024, crop=512, sigma=0.0),
            TrainingConfig(steps=500_000, batch_size=64, learning_rate=1e-4, precision="bf16", ema_decay=0.9999),
        ),
    },
)

# Four steps of the journal version's schedule, on latents of 32 x 32
_REDUCED_SHIFT = {
    "T": 4, "min_noise_level": 0.2, "width": 32, "multipliers": (1, 2), "blocks": (1, 1), "latent_size": 32,
    "attention_sizes": (32, 16), "swin_width": 32, "head_channels": 16, "mlp_ratio": 2.0,
}  # fmt: skip
_LOW_RESOLUTION = DataConfig(images=1200, image_size=160, crop=128, sigma=0.0, low_resolution="light")
_PUBLISHED_SHIFT = TrainingConfig(
    steps=300_000, batch_size=64, learning_rate=5e-5, warmup=5000, betas=(0.9, 0.999), weight_decay=0.0,
    gradient_clip=0.0, ema_decay=0.999, ema_warmup=False, precision="bf16", decay="constant",
)  # fmt: skip
_PUBLISHED_LOW_RESOLUTION = DataConfig(
    "folder:ImageNet/train", images=50_000, image_size=288, crop=256, sigma=0.0, low_resolution="resshift"
)
RESSHIFT = Recipe(
    name="resshift",
    task="sr",
    scale=4,
    notebooks=("11", "12"),
    checkpoints=("resshift", "resshift_student"),
    trainings=({"stage": "teacher"}, {"stage": "student"}),
    module=ResShift,
    config=ResShiftConfig(),
    profiles={
        "quick": (
            {**_REDUCED_SHIFT, "latent_size": 16, "attention_sizes": (16, 8)},
            DataConfig(images=12, image_size=64, crop=64, sigma=0.0, low_resolution="light"),
            TrainingConfig(steps=60, batch_size=4, learning_rate=1e-3, warmup=10, ema_decay=0.99),
        ),
        "reduced": (
            _REDUCED_SHIFT,
            _LOW_RESOLUTION,
            TrainingConfig(steps=8000, batch_size=8, learning_rate=1e-3, weight_decay=0.0),
        ),
        "full": ({"autoencoder": "resshift/vq-f4"}, _PUBLISHED_LOW_RESOLUTION, _PUBLISHED_SHIFT),
    },
    kept=tuple(f.name for f in dataclasses.fields(SwinUNetConfig)),
    implied=(
        ({"stage": "student"}, {"reduced": {"steps": 2000, "learning_rate": 3e-4, "ema_decay": 0.99},
                                "full": {"steps": 30_000}}),
    ),
)  # fmt: skip
HF_ERROR_MAP = dataclasses.replace(
    RESSHIFT,
    name="hf_error_map",
    checkpoints=("hf_error_map",),
    trainings=({},),
    module=HFErrorMap,
    config=HFErrorMapMethodConfig(),
    profiles={
        profile: ({**network, **({} if profile == "full" else {"backbone": "course"})}, *rest)
        for profile, (network, *rest) in RESSHIFT.profiles.items()
    },
)

METHODS: dict[str, Recipe] = {"denoiser": DENOISER, "structure_guidance": STRUCTURE_GUIDANCE, "c2f_dft": C2F_DFT}
MODELS: dict[str, Recipe] = {
    **METHODS,
    "features": FEATURES,
    "autoencoder": AUTOENCODER,
    "vq": VQ,
    "prior": PRIOR,
    "resshift": RESSHIFT,
    "hf_error_map": HF_ERROR_MAP,
}


def find_recipe(name: str, among: Mapping[str, Recipe] | None = None) -> Recipe:
    """The recipe of a method; ValueError with the list of names otherwise."""
    among = METHODS if among is None else among
    if name not in among:
        raise ValueError(f"method: unknown name {name!r}; known: {', '.join(among)}")
    return among[name]


def plan(
    recipe: Recipe, profile: str, settings: Mapping[str, Any] | None = None
) -> tuple[Any, DataConfig, TrainingConfig]:
    """Network, data and training configuration of a profile, with ``settings`` applied to whichever has the name.

    ``seed`` is the training seed.

    Raises:
        ValueError: an unknown name (the right ones are listed) or an impossible value; ``batch_size`` where the plan
            has patches, whose own batch sizes would be used in its place.
    """
    changes, data, run = recipe.profiles[config.check_profile(profile)]
    parts = [dataclasses.replace(recipe.config, **changes), run, data]
    known = {f.name: i for i, part in reversed(list(enumerate(parts))) for f in dataclasses.fields(part)}
    chosen: list[dict[str, Any]] = [{}, {}, {}]
    asked, implied = settings or {}, {}
    for conditions, per_profile in recipe.implied:
        if all(asked.get(name, getattr(recipe.config, name)) == value for name, value in conditions.items()):
            implied.update(per_profile.get(profile, {}))
    for name, value in {**implied, **asked}.items():
        if name not in known:
            raise ValueError(f"unknown setting {name!r} for {recipe.name}; known: {', '.join(sorted(known))}")
        chosen[known[name]][name] = value
    network, run, data = (config.override(part, new) for part, new in zip(parts, chosen, strict=True))
    if "batch_size" in asked and run.patches:
        raise ValueError(f"batch_size: each size of crop has its own here; set patch_batches, now {run.patch_batches}")
    return network, data, run


def dry_run(notebook: str, values: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What the training of a notebook's methods needs: lines to print, and what is missing on this machine.

    Args:
        notebook: its number, such as ``05``.
        values: the notebook's parameters; ``profile`` chooses the plan, and those that name a setting of it apply. A
            parameter ``STAGE_steps`` holds for the trainings of that stage.
    """
    lines, missing = [], []
    for recipe in (r for r in METHODS.values() if notebook in r.notebooks):
        quick, lacking = values["profile"] == "quick", []
        chosen = recipe.trainings[:1] if quick else recipe.trainings
        for (needs, data, run), names in _trainings(recipe, values, chosen).items():
            crops = ", ".join(f"{n} crops of {side or data.crop} px" for side, n in run.batches)
            absent = missing_data(data)
            lacking += [item for item in absent if item not in lacking]
            lines += [
                f"{' and '.join(names)} at profile {values['profile']}",
                f"training    {len(names)} x {run.steps:,} steps of {crops}{' in turn' if run.patches else ''}",
                *needs.lines(len(names) * run.steps),
                f"data        {_pool_in_words(data)}: {'missing' if absent else 'present'}",
            ]
        if quick:  # trained for seconds to show the loop; the results come from what is shipped
            absent = [c for c in recipe.checkpoints if not checkpoints.checkpoint_path(c).is_file()]
            lines += [f"weights     {c}: {'missing' if c in absent else 'present'}" for c in recipe.checkpoints]
            lacking += [f"checkpoint {c}; train it with minirestore train, or set MINIRESTORE_DATA" for c in absent]
        else:
            lines.append("weights     none needed, trained from scratch")
        missing += lacking
    if values["profile"] == "full" and not torch.cuda.is_available():
        missing.append("a CUDA GPU (PyTorch sees none)")
    return lines, missing


def _trainings(
    recipe: Recipe, values: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]
) -> dict[tuple[resources.TrainingNeeds, DataConfig, TrainingConfig], list[str]]:
    """Needs, data and training of each of the chosen trainings, with the names of those that have them in common."""
    found: dict[tuple[resources.TrainingNeeds, DataConfig, TrainingConfig], list[str]] = {}
    known = {f.name for part in plan(recipe, values["profile"]) for f in dataclasses.fields(part)}
    for settings in chosen:
        asked = {k: v for k, v in values.items() if k in known} | settings
        if (steps := values.get(f"{settings.get('stage')}_steps")) is not None:
            asked["steps"] = steps
        network, data, run = plan(recipe, values["profile"], asked)
        name = " ".join([recipe.name, *(f"{k}={v}" for k, v in settings.items())])
        found.setdefault((_needs(recipe, network, data, run), data, run), []).append(name)
    return found


def _needs(recipe: Recipe, network: Any, data: DataConfig, run: TrainingConfig) -> resources.TrainingNeeds:
    """Needs of the largest batch; where the forward pass is repeated call by call, one call's tensors are added."""
    side, count = max(((s or data.crop, n) for s, n in run.batches), key=lambda batch: batch[0] ** 2 * batch[1])
    with torch.device("meta"):
        batch = {k: torch.empty(count, 3, side, side) for k in ("clean", "degraded")}

    def measure(config: Any) -> resources.TrainingNeeds:
        return resources.training_needs(build(recipe, config, device="meta"), batch, run.ema_decay > 0, run.steps)

    needs = measure(network)
    if not getattr(network, "checkpointing", False):
        return needs
    plain = measure(dataclasses.replace(network, checkpointing=False))
    if plain.activation_bytes == needs.activation_bytes:
        return needs
    kept = needs.activation_bytes + plain.activation_bytes // network.sampling_steps
    return dataclasses.replace(needs, activation_bytes=kept, flops_per_step=plain.flops_per_step * 4 // 3)


# ---------------------------------------------------------------- data


def _pool_in_words(data: DataConfig) -> str:
    """Source, kind and memory of the pool that `make_data` keeps."""
    channels = {"pairs": 6, "scenes": 4}.get(data.source.partition(":")[0], 3)
    size = data.images * channels * data.image_size**2 / 2**30
    kind = "photographs" if data.source.startswith(datasets.KINDS) else "procedural"
    return f"{data.source} ({data.images:,} {kind}, {data.image_size} px, {size:.3g} GiB in memory)"


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
        raise ValueError(f"source: expected dead_leaves, scenes, folder:NAME or pairs:NAME, got {data.source!r}")
    if data.low_resolution:
        return _low_resolution_pairs(pool, data)
    blur, rain = degradations.BLUR_DOMAINS.get(data.blur), degradations.RAIN_DOMAINS.get(data.rain)

    def degrade(degraded: Tensor, generator: torch.Generator) -> Tensor:
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


def _mixed(clean: Tensor, degraded: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Mixup of pairs, applied to every other batch (C2F-DFT, released code): one weight and permutation for both."""
    pair = {"clean": clean, "degraded": degraded}
    if torch.rand((), generator=generator).item() >= 0.5:
        return pair
    seed = int(torch.randint(2**31, (), generator=generator))
    weight = np.random.default_rng(seed).beta(MIXUP_BETA, MIXUP_BETA)
    other = torch.randperm(len(clean), generator=generator).to(clean.device)
    return {name: weight * x + (1 - weight) * x[other] for name, x in pair.items()}


def _labelled_scenes(data: DataConfig, device: str | torch.device) -> MakeBatch:
    """Random crops of ray-cast scenes with their pixel classes."""
    from minirestore import scenes

    per_family = -(-data.images // len(scenes.FAMILIES))
    parts = [scenes.render_scenes(per_family, data.image_size, data.seed, family=family) for family in scenes.FAMILIES]
    clean = torch.cat([(part["image"] * 255).round().to(torch.uint8) for part in parts]).to(device)
    labels = torch.cat([part["labels"].to(torch.uint8) for part in parts]).to(device)
    both = scenes.CropPool(torch.cat([clean, labels], dim=1))

    def make_batch(batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        crops = both.sample(batch_size, data.crop, generator, data.augment)
        return {"clean": crops[:, :3], "labels": (crops[:, 3:] * 255).round().long()}

    return make_batch


def _low_resolution_pairs(pool: CropPool, data: DataConfig) -> MakeBatch:
    """Random crops of a pool beside their part of its images' low-resolution versions, degraded once."""
    domain, small = degradations.LOW_RESOLUTION_DOMAINS[data.low_resolution], []
    for i, image in enumerate(pool.images.split(1)):
        low = degradations.second_order(image.float() / 255, diffusion.BatchGenerator(data.seed, i), domain)
        small.append((low * 255).round().to(torch.uint8))
    low = torch.cat(small).repeat_interleave(SHRINK, 2).repeat_interleave(SHRINK, 3)  # one pixel, one block
    both = CropPool(torch.cat([pool.images, low], dim=1))

    def make_batch(batch_size: int, generator: torch.Generator, crop: int = data.crop) -> dict[str, Tensor]:
        crops = both.sample(batch_size, crop, generator, data.augment, grid=SHRINK)
        return {"clean": crops[:, :3], "degraded": crops[:, 3:, ::SHRINK, ::SHRINK].contiguous()}

    return make_batch


def _mixed_kinds(data: DataConfig, device: str | torch.device) -> MakeBatch:
    """Random crops of dead leaves (kind 1), ray-cast scenes (2) and, if asked for, their depth maps (3)."""
    from minirestore import scenes

    number = -(-data.images // (2 * len(scenes.FAMILIES)))
    rendered = [scenes.render_scenes(number, data.image_size, data.seed, family=family) for family in scenes.FAMILIES]
    count = number * len(scenes.FAMILIES)
    leaves = scenes.CropPool.dead_leaves(count, data.image_size, data.seed, depth_of_field=data.depth_of_field)
    parts = [leaves.images, torch.cat([(part["image"] * 255).round().to(torch.uint8) for part in rendered])]
    if data.source == "mixed_depth":
        grey = torch.cat([depth_as_grey(part["depth"], part["valid"]) for part in rendered])
        parts.append((grey * 255).round().to(torch.uint8).expand(-1, 3, -1, -1))
    kinds = [torch.full_like(part[:, :1], kind) for kind, part in enumerate(parts, 1)]
    pool = scenes.CropPool(torch.cat([torch.cat(parts), torch.cat(kinds)], dim=1).to(device))

    def make_batch(batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
        crops = pool.sample(batch_size, data.crop, generator, data.augment)
        return {"clean": crops[:, :3], "kind": (crops[:, 3, 0, 0] * 255).round().long()}

    return make_batch


def depth_as_grey(depth: Tensor, valid: Tensor) -> Tensor:
    """Depth maps ``(B, 1, H, W)`` in metres as grey images in [0, 1]: near is black, the sky (not valid) white.

    The 2nd and the 98th percentile of a map's valid pixels are the ends.
    """
    maps = []
    for metres, known in zip(depth, valid, strict=True):
        low, high = torch.quantile(metres[known], torch.tensor([0.02, 0.98], device=depth.device))
        maps.append(torch.where(known, ((metres - low) / (high - low).clamp(min=1e-6)).clamp(0, 1), 1.0))
    return torch.stack(maps)


# ---------------------------------------------------------------- building, training, loading


def build(recipe: Recipe, network: Any, seed: int = 0, device: str | torch.device = "cpu") -> nn.Module:
    """The module with weights initialised from ``seed`` (on ``device="meta"``: without weights)."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return recipe.module(network)


def train(
    name: str,
    profile: str = "reduced",
    settings: Mapping[str, Any] | None = None,
    *,
    run_dir: str | Path,
    device: str = "auto",
    minutes: float | None = None,
    start: str | Path | None = None,
) -> tuple[nn.Module, FitResult]:
    """Train a model by its recipe and write ``NAME.safetensors`` and its card into ``run_dir`` when it is finished.

    A run that ``minutes`` cut short is continued by the next call with the same arguments.

    Args:
        name, profile, settings: see `plan`.
        run_dir: folder of the run. device, minutes: see `training.fit`.
        start: what to start from instead of random weights: a checkpoint (a name or a .safetensors file), which holds
            averaged weights, or the folder of a finished run, which stands for its last, not averaged ones. The moving
            average starts there, too.

    Raises:
        ValueError, FileNotFoundError: as in `plan`, `training.fit`, `checkpoints.load` and `checkpoints.fill`; also if
            ``start`` is a network with other settings than this one, among those that a training keeps.
    """
    recipe = find_recipe(name, MODELS)
    network, data, run = plan(recipe, profile, settings)
    where = training.resolve_device(device)
    module = build(recipe, network, run.seed).to(memory_format=torch.channels_last)
    origin = {}
    if start is not None:
        raw = Path(start).is_dir()
        if raw:
            tensors, card = training.last_weights(start), checkpoints.read_card(Path(start) / f"{name}.safetensors")
        else:
            tensors, card = checkpoints.load(start)
        _check_start(recipe, network, card, start)
        checkpoints.fill(module, tensors, start)
        kind = "last weights" if raw else "averaged weights"
        origin = {"start": f"{kind}, sha256 {checkpoints.fingerprint(tensors)}"}
    parts = {"network": network, "data": data}
    identity = {f"{part}.{k}": v for part, values in parts.items() for k, v in dataclasses.asdict(values).items()}
    result = training.fit(
        module,
        make_data(data, where),
        run,
        run_dir=run_dir,
        identity={"model": name, **identity, **origin},
        device=device,
        minutes=minutes,
    )
    if result.finished and result.is_main_process:
        tail = max(len(result.history["loss"]) // 10, 1)
        card = {
            "method": name,
            "config": dataclasses.asdict(network),
            "data": dataclasses.asdict(data),
            "training": dataclasses.asdict(run),
            "steps": result.steps_done,
            "seed": run.seed,
            **origin,
            "device": describe_device(where),
            "wall_time_s": round(result.wall_time_s),
            "metrics": {
                f"{k} (mean of last tenth)": sum(v[-tail:]) / len(v[-tail:]) for k, v in result.history.items()
            },
        }
        checkpoints.save(str(Path(run_dir) / f"{name}.safetensors"), module, card)
        if hasattr(module, "save_pretrained"):  # in the layout of the library whose networks it holds
            module.save_pretrained(Path(run_dir) / name)
            checkpoints.seal(Path(run_dir) / name, card)
    return module, result


def _check_start(recipe: Recipe, network: Any, card: Mapping[str, Any], start: str | Path) -> None:
    """Raise ValueError if ``network`` differs from that of ``start``, by its card, in what a training keeps."""
    known = {f.name for f in dataclasses.fields(recipe.config)}
    if card["method"] != recipe.name and not (recipe.kept and set(recipe.kept) <= set(card["config"])):
        raise ValueError(f"start: {start} holds {card['method']!r}, not {recipe.name!r}; name another one")
    before = config.override(recipe.config, {k: v for k, v in card["config"].items() if k in known})
    for field in recipe.kept:
        if (asked := getattr(network, field)) != (found := getattr(before, field)):
            raise ValueError(f"start: {start} has {field} = {found}, and {asked} is asked for; set {field}={found}")


def describe_device(device: torch.device) -> str:
    """``one CUDA GPU (NAME)`` or ``CPU, N threads``."""
    if device.type == "cuda":
        return f"one CUDA GPU ({torch.cuda.get_device_name(device)})"
    return f"CPU, {torch.get_num_threads()} thread(s)"


def load_method(name: str, checkpoint: str | Path | None = None, device: str = "auto") -> nn.Module:
    """A trained method, built from its card and verified; errors as in `checkpoints.load` and `checkpoints.fill`."""
    recipe = find_recipe(name, MODELS)
    checkpoint = checkpoint or recipe.checkpoint
    tensors, card = checkpoints.load(checkpoint)
    if card["method"] != name:
        raise ValueError(f"checkpoint {checkpoint!s}: holds {card['method']!r}, not {name!r}; name another one")
    module = build(recipe, config.override(recipe.config, card["config"]))
    checkpoints.fill(module, tensors, checkpoint)
    return module.to(training.resolve_device(device), memory_format=torch.channels_last)


def restore(
    method: nn.Module,
    degraded: Tensor,
    *,
    seed: int = 0,
    tile: int | None = None,
    on_tile: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Tensor:
    """Restore images on the device of ``method``, whole or by tiles.

    Args:
        degraded: ``(B, 3, H, W)`` in [0, 1].
        seed: of all randomness.
        tile: side of square tiles in pixels (overlap a quarter); None takes the whole image at once.
        on_tile: called with (done, total) tiles.
        options: keyword arguments of the method's ``restore``, such as ``steps``.

    Raises:
        ValueError: an option the method does not have (the right ones are listed), or a bad tile size.
    """
    images.check_images(degraded, "degraded", channels=(3,))
    known = {
        k: p.default
        for k, p in inspect.signature(method.restore).parameters.items()
        if k not in ("degraded", "generator", "structure", "callback")
    }
    options = config.check_values(options, known, what="option")
    if tile is not None and tile < 16:
        raise ValueError(f"tile: must be at least 16 pixels, got {tile}")
    device = next(method.parameters()).device
    generator = diffusion.BatchGenerator(seed, 0)  # not manual_seed(seed): whoever made the noise may have used that

    def run(x: Tensor) -> Tensor:
        return method.restore(x.to(device), generator=generator, **options).cpu()

    side = tile or max(degraded.shape[-2:])
    return images.apply_tiled(run, degraded, side, side // 4, scale=method.scale, on_tile=on_tile)
