"""Images to latents and back: `Autoencoder`, continuous or with a codebook."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import checkpoints, diffusion, images
from minirestore.prior.folders import find_folder, open_network, read_json, write_network

KINDS = ("kl", "vq")
MOMENTUM = 0.01  # of the running deviation of the latents
CODE_BATCHES = 32  # that the codes begin from


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
        write_network(self.network, Path(folder))


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


def load_autoencoder(where: str | Path) -> Autoencoder:
    """An autoencoder from a folder in diffusers' layout, evaluating; without weights on the meta device.

    Args:
        where: name of a shipped one, such as ``prior/vae`` or ``vq``, or a folder. On the meta device a name of
            `AUTOENCODERS` needs no folder.

    Raises:
        FileNotFoundError: no such folder. ValueError: a sealed folder is damaged, or holds another model.
    """
    import diffusers

    if where in AUTOENCODERS and torch.get_default_device().type == "meta":
        return Autoencoder(AUTOENCODERS[where]).eval()
    folder = find_folder(where)
    checkpoints.check_seal(folder)
    known = {"AutoencoderKL": "kl", "VQModel": "vq"}
    name = read_json(folder / "config.json").get("_class_name")
    if name not in known:
        raise ValueError(f"{where}: expected {' or '.join(known)}, found {name}")
    config = AutoencoderConfig(kind=known[name])
    return Autoencoder(config, open_network(getattr(diffusers, name), folder)).eval()
