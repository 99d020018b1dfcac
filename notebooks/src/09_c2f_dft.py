# %% [markdown]
# # 09 C2F-DFT: the diffusion transformer, coarse and fine
#
# **You will be able to**
# - explain how a transformer can attend to a whole photograph at a cost that grows only with its number of pixels;
# - build the network of *Learning A Coarse-to-Fine Diffusion Transformer for Image Restoration* (C2F-DFT): a time
#   embedding without parameters, attention between channels, the block, the U;
# - train it twice, first on the noise of single steps and then through its own four-step sampler;
# - read a sampler as Euler's method, and say which of its calls an error hurts most, on paper and in fact;
# - find a term of a loss that does nothing, and tell where the paper and its released code disagree.
#
# **You need** only a CPU: about 40 seconds for all cells, about two hours for you. Notebook 05 (noise levels, DDIM) and
# 01 (PSNR, SSIM) come before. The profile `reduced` trains three networks from scratch: minutes on a GPU, about three
# hours on one CPU core.

# %% tags=["parameters"]
profile = "quick"
seed = 0
steps = 80
fine_steps = 20
draws = 1000

# %% tags=["setup"]
import copy
import inspect
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from minirestore import checkpoints, degradations, diffusion, images, metrics, photos, plots, recipes, scenes
from minirestore.exercises import check
from minirestore.papers import c2f_dft as paper
from minirestore.plots import show, show_cost, show_table
from minirestore.resources import training_needs
from minirestore.training import last_weights
from minirestore.widgets import explore

RECIPE = recipes.METHODS["c2f_dft"]
SHIPPED = {"coarse": "c2f_dft_coarse", "fine": "c2f_dft", "denoise": "c2f_dft_denoise"}
NODES = paper.visited_times(4)

# %% [markdown]
# ## The idea as a picture
#
# A conditional diffusion model sees the degraded photograph $y$ beside its noisy sample and says what the noise is
# (notebook 05). Few calls make it fast, and then every error of the noise counts. The paper's answer is to train
# twice. **Coarse**: predict the noise at random times, as every diffusion model does. **Fine**: run the whole sampler,
# all four calls of it, compare the *image* that comes out with the clean one, and send the gradient back through all
# four.
#
# The cell below loads three trained networks: coarse and fine for rain, and one for noise, which we need for its
# layers. At profile `reduced` it trains them instead. The figure is one rainy crop,
# and what each of the four calls believes the clean picture to be.

# %%
quick, scratch = profile == "quick", tempfile.TemporaryDirectory()
root = Path(scratch.name if quick else f"../runs/09-{profile}-{steps}-{fine_steps}-{seed}")
stages = {"coarse": ("derain", "coarse"), "fine": ("derain", "fine"), "denoise": ("denoise", "fine")}


def trained(task, stage):
    """Folder and result of a training by the recipe, run now unless it is there; fine starts from coarse."""
    folder, options = root / f"{task}-{stage}", {"task": task, "stage": stage, "seed": seed}
    start = trained(task, "coarse")[0] / f"{RECIPE.name}.safetensors" if stage == "fine" else None
    options["steps"] = steps if stage == "coarse" else fine_steps
    device = "cpu" if quick else "auto"
    return folder, recipes.train(RECIPE.name, profile, options, run_dir=folder, device=device, start=start)[1]


models, cards = {}, {}
for name, kind in stages.items():
    path = SHIPPED[name] if quick else trained(*kind)[0] / f"{RECIPE.name}.safetensors"
    models[name], cards[name] = recipes.load_method(RECIPE.name, path, "cpu"), checkpoints.read_card(path)
    print(f"{name:<8} {cards[name]['parameters']:>10,} parameters, last stage {cards[name]['steps']:,} steps")
schedule = paper.make_schedule(models["fine"].config)


# %%
def calls_of(model, y, number=0):
    """What a model's four calls see (x_t) and believe (predicted clean image), in [0, 1]."""
    seen = []
    keep = lambda call, x_t, x0: seen.append((images.to_unit_range(x_t), images.to_unit_range(x0)))  # noqa: E731
    model.restore(y, diffusion.BatchGenerator(seed, number), callback=keep)
    return zip(*seen, strict=True)


textured = dict(zip(photos.EVALUATION, (2, 0, 0, 2, 1, 0), strict=True))  # one crop of each photograph
clean = torch.cat([photos.crops(name)[i : i + 1] for name, i in textured.items()])
rainy = degradations.rain(clean, 90 + seed)
x, y = (z[5:, :, :96, 32:] for z in (clean, rainy))
_, coarse = calls_of(models["coarse"], y)
_, fine = calls_of(models["fine"], y)
rows = [[y, *coarse, x], [y, *fine, x]]
figure = plots.image_grid(rows, ["rainy", *(f"t = {t}" for t in NODES), "clean"], ["coarse", "fine"], width=4.8)
text = "; ".join(f"{n} {', '.join(f'{metrics.psnr(z, x).item():.4g}' for z in c)}" for n, c in
                 {"coarse": coarse, "fine": fine}.items())  # fmt: skip
show(figure, alt=f"Predicted clean image after each call; PSNR in dB, input {metrics.psnr(y, x).item():.4g}: {text}")

# %% [markdown]
# The last of the four predictions is the result. Look at the first: at $t = 999$ the sample is pure noise, and only $y$
# tells of the picture. The fine network's first belief is worse than the coarse one's, although it ends better. Nobody
# asked it to be a picture.
#
# ## Theory
#
# Images live in [-1, 1]. With the linear schedule of $T = 1000$ betas from $10^{-4}$ to .02 (notebook 05),
#
# $$x_t = \sqrt{\bar\alpha_t}\,x + \sqrt{1 - \bar\alpha_t}\;\varepsilon,\qquad
# L_\text{coarse} = E\,\big\|\,\mathrm{DFT}(y, x_t, t) - \varepsilon\,\big\|_1 .$$
#
# The network DFT ("diffusion transformer") sees six channels, $y$ and $x_t$, and returns three. The sampler is DDIM
# with $\eta = 0$ at the times $t_1 > t_2 > \dots > t_S$:
#
# $$\hat x_0 = \frac{x_t - \sqrt{1 - \bar\alpha_t}\,\hat\varepsilon}{\sqrt{\bar\alpha_t}},\qquad
# x_{t'} = \sqrt{\bar\alpha_{t'}}\,\hat x_0 + \sqrt{1 - \bar\alpha_{t'}}\;\hat\varepsilon .$$
#
# It begins with $x_T \sim \mathcal N(0, I)$, draws nothing afterwards, and ends at $\bar\alpha = 1$, where
# $x_{t'} = \hat x_0$. Call that image $\hat x$. The fine stage starts from the coarse weights and minimises
#
# $$L_\text{fine} = \lambda\,(1 - \mathrm{SSIM}(\hat x, x)) + (1 - \lambda)\,\|\hat x - x\|_1,\qquad \lambda = .84 .$$
#
# Every operation of the sampler is differentiable, so the gradient of $L_\text{fine}$ reaches the weights through all
# $S = 4$ calls.
#
# The package follows this order: `transformer.py`, `sampler.py`, `losses.py`, `stages.py` in
# `minirestore/papers/c2f_dft/`. The released code carries no licence: none of it is here, and the package was checked
# against its outputs. Where code and paper differ, both are options, and the section *Paper against code* lists them.
#
# ## Build it: time without parameters
#
# Notebook 05 told its network the noise level through a small learned network. Here nothing is learned: sines and
# cosines of $t$ at frequencies from 1 down to $10^{-4}$, then SiLU ($u$ times its own sigmoid), which flattens the
# negative half. The result $T$ has one number per channel and is the same at all pixels. Every level of the network
# computes it anew, for its own number of channels.

# %%
print(inspect.getsource(paper.time_embedding).split('"""')[2])
t = torch.arange(1000.0)
embedded = {C: paper.time_embedding(t, C)[:, :, 0, 0] for C in (16, 128)}  # (1000, C)
figure, axes = plots.subplots(1, 3, width=6, height=2)
parts = []
for axis, (C, T) in zip(axes, embedded.items(), strict=False):
    axis.imshow(T.T, aspect="auto", cmap="viridis", vmin=-0.28, vmax=0.74)
    axis.set(title=f"T, {C} channels", xlabel="time t", ylabel="channel")
    axis.grid(False)
    similar = F.cosine_similarity(T[500:501], T)
    axes[2].plot(t, similar, lw=0.9, label=f"C = {C}")
    parts.append(f"{C} channels {', '.join(f'{similar[s]:.4g}' for s in (501, 510, 600, 999))}")
axes[2].set(title="Similarity to t = 500", xlabel="time t", ylabel="cosine")
axes[2].legend(fontsize=7)
print(f"smallest and largest entry: {embedded[128].min():.4g}, {embedded[128].max():.4g}")
show(figure, alt=f"Cosine of T(500) to T at t = 501, 510, 600, 999: {'; '.join(parts)}")

# %% [markdown]
# Dark is the smallest entry, bright the largest. The upper half are sines, the lower half cosines. The first channels
# of each half turn so fast that they tell neighbours apart; the last hardly move and tell early from late. Read
# together they are a clock with many hands: the similarity to $t = 500$ falls with the distance in time, and more
# smoothly with more hands. A convolution after $T$ can weigh the hands as it likes: that is where learning happens.
#
# ## Build it: attention between channels
#
# **Attention** replaces every item by a weighted mean of all items, with weights that depend on how similar they are.
# If the items are *pixels*, their weights form a matrix of $HW \times HW$. Here the items are the *channels* of a head,
# each a picture with $HW$ pixels: with $Q, K, V$ (queries, keys, values) three learned mixtures of the features, one
# row per channel; the rows are dealt out to $h$ groups, the **heads**, each with a matrix of its own:
#
# $$A = \mathrm{softmax}\big(\tau\, \tilde Q \tilde K^\top\big),\qquad \text{output} = A\,V,\qquad
# \tilde Q_i = Q_i / \|Q_i\|,\quad \tilde K_j = K_j / \|K_j\| .$$
#
# Each entry of $\tilde Q \tilde K^\top$ is a cosine between two pictures. $A$ has $C/h \times C/h$ entries for each of
# $h$ heads, whatever the photograph's size; the softmax runs along a row. $\tau$ is learned, one per head, and starts
# at 1. The paper calls the module DFSA ("diffusion self-attention"); the form is Restormer's.

# %%
print(inspect.getsource(paper.DiffusionSelfAttention.attention))

# %% [markdown]
# ### Exercise 1: one head (code, 10 minutes, medium)
#
# Write `mix_channels(q, k, v, tau)` for one head: `q`, `k`, `v` are `(C, N)`, one row of N pixels per channel, and
# `tau` is a number. Return $A V$, `(C, N)`. `F.normalize(q, dim=...)` divides by the norm.


# %% tags=["solution"]
def mix_channels(q, k, v, tau):
    """Channel attention of one head: softmax of scaled cosines between channels, times the values."""
    ### BEGIN SOLUTION
    cosine = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T  # (C, C)
    return torch.softmax(tau * cosine, dim=1) @ v
    ### END SOLUTION


# %%
check("09.channels", mix_channels)

# %% [markdown]
# The matrices of the trained network on a real photograph, at $t = 333$. A **hook** calls our function before the
# module runs, with the arguments the module is about to get. White is a weight of 0; the darkest entry of each matrix
# is black. The last column of the table is the **effective number** of channels that a row mixes, the exponential of
# its entropy: 1 if one channel has all the weight, the number of columns if all weigh the same.

# %%
@torch.no_grad()
def attention_maps(model, x, y, t):
    """Attention matrices (heads, C/h, C/h) of four blocks, and the heads' learned temperatures."""
    net, found = model.network, {}
    blocks = {"level 1": net.encoder[0][0], "level 2": net.encoder[1][0], "latent": net.latent[0]}
    blocks["level 1, up"] = net.decoder[0][0]
    hooks = [
        block.attention.register_forward_pre_hook(lambda m, call, n=n: found.update({n: m.attention(*call)[0][0]}))
        for n, block in blocks.items()
    ]
    noise = diffusion.randn(x.shape, diffusion.BatchGenerator(seed, 1))
    x_t = diffusion.add_noise(images.to_model_range(x), noise, schedule[t : t + 1])
    model(images.to_model_range(y), x_t, torch.tensor([float(t)]))
    for hook in hooks:
        hook.remove()
    return found, {n: block.attention.temperature.detach().flatten() for n, block in blocks.items()}


maps, temperatures = attention_maps(models["fine"], clean[4:5], rainy[4:5], 333)

# %%
figure, axes = plots.subplots(1, 5, width=7.4, height=1.9)
plots.image_axes(axes[0], rainy[4:5], "rainy photograph\n")
rows = {}
for axis, (name, A) in zip(axes[1:], maps.items(), strict=True):
    axis.imshow(A[0], cmap="gray_r", vmin=0, vmax=A[0].max().item())
    axis.set_title(f"{name}: head 1 of {len(A)}\n{tuple(A[0].shape)}", fontsize=8)
    axis.set(xticks=[], yticks=[])
    entropy = -(A * A.log()).sum(-1)
    tau = temperatures[name]
    rows[name] = [tau.min().item(), tau.max().item(), A.min().item(), A.max().item(), entropy.exp().mean().item()]
text = "; ".join(f"{name} {values[2]:.4g} to {values[3]:.4g}" for name, values in rows.items())
show(figure, alt=f"Attention matrices on a photograph; latent heads: {maps['latent'].shape[0]}; weights {text}")
show_table(["smallest tau", "largest tau", "smallest A", "largest A", "effective"], rows)
print(f"largest deviation of a row's sum from 1: {max((A.sum(-1) - 1).abs().max().item() for A in maps.values()):.1g}")

# %% [markdown]
# Cosines lie in [-1, 1], so no weight of a row can exceed another by more than a factor $e^{2\tau}$. With the $\tau$ of
# the table, attention here is *soft*: a row mixes nearly all of its channels, and $A$ is not far from a plain mean.
# Does it matter at all, then? Swap the matrices in all blocks: take those of another photograph of the batch, or set
# all weights of a row equal. PSNR of the six crops (64 pixels):

# %%
def swapped(model, change):
    """A copy of the model whose blocks use ``change(A)`` in the place of A."""

    def patched(module):
        own = module.attention

        def attention(x, T=None):
            A, v = own(x, T)
            return change(A), v

        return attention

    other = copy.deepcopy(model)
    for module in [m for m in other.modules() if isinstance(m, paper.DiffusionSelfAttention)]:
        module.attention = patched(module)
    return other


small_x, small_y = (z[..., 32:96, 32:96] for z in (clean, rainy))
matrices = {"its own": lambda A: A, "another photograph's": lambda A: A.roll(1, 0)}
matrices["all equal"] = lambda A: torch.full_like(A, 1 / A.shape[-1])
for name, change in matrices.items():
    restored = recipes.restore(swapped(models["fine"], change), small_y, seed=seed)
    print(f"A is {name}: {metrics.psnr(restored, small_x).mean().item():.4g} dB")

# %% [markdown]
# With equal weights most of the restoration is gone: the small deviations from a plain mean carry it. The number in the
# middle says how much of them belongs to *this* photograph; the rest is learned and the same for all.
#
# ### What it costs
#
# $\tilde Q \tilde K^\top$ and $A V$ take $C^2/h$ multiplications per pixel each: linear in the number of pixels. With
# pixels as items, both products take $C$ multiplications for each *pair* of pixels: quadratic. The lines are these
# formulas for the finest level of the published network, the points are counted while torch computes (on the *meta*
# device, which knows shapes and no numbers).

# %%
def counted(function, *shapes):
    """Multiply-adds that torch counts, without computing anything."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        function(*(torch.empty(shape) for shape in shapes))
    return counter.get_total_flops() // 2


C, sides = 48, (16, 32, 64, 128, 256, 512)
cost = {"between channels": [], "between pixels": []}
for side in sides:
    q = (C, side**2)
    cost["between channels"].append(counted(lambda q, k, v: (q @ k.T) @ v, q, q, q))
    cost["between pixels"].append(counted(lambda q, k, v: v @ (q.T @ k).T, q, q, q))
formula = {"between channels": [2 * C**2 * s**2 for s in sides], "between pixels": [2 * C * s**4 for s in sides]}
figure, axis = plots.subplots(width=4.6, height=2.4)
for name, marker in zip(cost, "os", strict=True):
    axis.loglog(sides, formula[name], lw=1)
    axis.plot(sides, cost[name], marker, color=axis.lines[-1].get_color(), label=name)
axis.set(title="Attention at the finest level, one head", xlabel="side of the image (px)", ylabel="multiply-adds")
axis.set_xticks(sides, sides)
axis.minorticks_off()
axis.legend()
agree = cost == formula
text = ", ".join(f"{b / a:.4g} at {s}" for s, a, b in zip(sides, *cost.values(), strict=True))
show(figure, alt=f"Pixels over channels: {text}; counts equal the formulas: {agree}")

# %% [markdown]
# Where $HW = C$ the two would cost the same; a photograph has hundreds or thousands of times more pixels than channels.
# That is why this network restores photographs whole. The price: nothing in $A$ says *where*. A weight between two
# channels holds for all pixels at once.
#
# ### Who looks at the neighbours?
#
# So what mixes neighbouring pixels? Only the **depth-wise convolution** on the way to $Q$, $K$, $V$: 3 x 3, each
# channel on its own. Test it on the first block of the trained network, which also holds two pointwise layers (DFN, the
# "diffusion feed-forward network"). First, shuffle all pixels of the features: a block that ignores places must return
# its old output, shuffled. Second, turn the sign of one pixel's features and watch who notices.
# Both with the block as it is, and with its depth-wise kernels cut down to their centre.

# %%
print(inspect.getsource(paper.DiffusionTransformerBlock.forward))
block = models["fine"].network.encoder[0][0]
pointwise = copy.deepcopy(block)
pointwise.attention.depthwise.weight.data *= F.pad(torch.ones(1, 1), (1, 1, 1, 1))
noise = diffusion.randn(y.shape, diffusion.BatchGenerator(seed, 2))
T = paper.time_embedding(torch.tensor([333.0]), models["fine"].config.dim)
with torch.no_grad():
    x_t = diffusion.add_noise(images.to_model_range(x), noise, schedule[333:334])
    features = models["fine"].network.embed(torch.cat([images.to_model_range(y), x_t], 1))[..., :48, :48]
    order = torch.randperm(48**2, generator=torch.Generator().manual_seed(seed))
    shuffle = lambda z: z.flatten(2)[..., order].unflatten(2, (48, 48))  # noqa: E731
    touched = features.clone()
    touched[..., 24, 24] *= -1
    change, moved = {}, {}
    for name, part in {"block": block, "centre only": pointwise}.items():
        out = part(features, T)
        moved[name] = ((part(shuffle(features), T) - shuffle(out)).norm() / (out - features).norm()).item()
        change[name] = (part(touched, T) - out).abs().mean(1, keepdim=True)

# %%
figure, axes = plots.subplots(1, 2, width=4.6, height=2.2)
text = []
for axis, (name, seen) in zip(axes, change.items(), strict=True):
    picture = axis.imshow(seen[0, 0, 12:37, 12:37].clamp(min=1e-7).log10(), vmin=-6, vmax=0, cmap="magma")
    axis.set_title(name, fontsize=9)
    axis.set_axis_off()
    window = torch.zeros_like(seen, dtype=torch.bool)
    window[..., 23:26, 23:26] = True
    ring = window.clone()
    ring[..., 24, 24] = False
    numbers = seen[..., 24, 24].item(), seen[ring].mean().item(), seen[~window].mean().item()
    text.append(f"{name} {', '.join(f'{value:.4g}' for value in numbers)}")
figure.colorbar(picture, ax=axes, label="log10 of the change")
show(figure, alt=f"Change of the output at the touched pixel, its 8 neighbours, all others (means): {'; '.join(text)}")
print("after a shuffle of the pixels, what the block adds differs by", {n: f"{v:.4g}" for n, v in moved.items()})

# %% [markdown]
# Without its side taps the block treats a photograph as a bag of pixels. With them it sees one pixel further; the
# levels of the U and its 3 x 3 convolutions do the rest. Everyone *else* notices the change a little as well, through
# $A$: that is the global part.
#
# ## Build it: normalisation, scale, time: the block's options
#
# **Normalisation.** Before each half of the block, every pixel is normalised over its channels. `with_bias` subtracts
# the mean, divides by the standard deviation, then multiplies by $w$ and adds $b$. `bias_free` (the released setting
# for denoising) subtracts nothing and adds nothing. What does each do if we scale the features by a factor, or add the
# same number to all channels? The table holds relative changes of the output. (Torch's $\epsilon = 10^{-5}$ is under
# the root.)

# %%
with torch.no_grad():
    trained_norms = {"with_bias": block.norm1, "bias_free": models["denoise"].network.encoder[0][0].norm1}
    changed = {f"times {a:g}": features * a for a in (2, 0.1, 0.001)} | {"plus 1": features + 1}
    rows = {}
    for name, z in changed.items():
        rows[name] = [((n(z) - n(features)).norm() / n(features).norm()).item() for n in trained_norms.values()]
show_table(list(trained_norms), rows)


@torch.no_grad()
def inhomogeneity(model, factor):
    """|f(a y, a x_t) - a f(y, x_t)| at t = 333, relative to what the network adds to a x_t."""
    pair, t = (images.to_model_range(y), x_t), torch.tensor([333.0])
    out, scaled = model(*pair, t), model(*(factor * z for z in pair), t)
    return ((scaled - factor * out).norm() / (factor * (out - x_t)).norm()).item()


for name in ("fine", "denoise"):
    kind = models[name].config.norm
    print(f"{name} ({kind}), input halved: output off half the old output by {inhomogeneity(models[name], 0.5):.4g}")

# %% [markdown]
# Both forget the *scale* of the features, as long as it is well above $\sqrt{\epsilon}$; only `with_bias` forgets their
# *mean*, too. Networks without any additive constant are popular for denoising: built of convolutions and ReLUs, they
# are **homogeneous**, $f(a x) = a f(x)$, and that helps with noise levels never trained on. The last two lines test
# whether this network inherits the property. It does not: normalised branches return the same for $F$ and $aF$, and $T$
# is an additive constant by itself. So "bias-free" here is a name of a layer, not a property of the network.
#
# **Scale of attention.** The paper's formula divides the similarities by a learned number; the released code
# multiplies. **Place of $T$.** The paper's figure and the code add $T$ before the projections to $Q$, $K$, $V$; one
# reading of the formula adds it after. Both are options; below, the same weights in both.

# %%
def outputs(model, **options):
    """The network's prediction with other options and the same weights."""
    other = recipes.build(RECIPE, recipes.config.override(model.config, options))
    other.load_state_dict(model.state_dict())
    for block in (m for m in other.modules() if isinstance(m, paper.DiffusionSelfAttention)):
        if options.get("attention_scale") == "divide":
            block.temperature.data.reciprocal_()
    with torch.no_grad():
        return other(images.to_model_range(y), x_t, torch.tensor([333.0]))


base = outputs(models["fine"])
for options in ({"attention_scale": "divide"}, {"time_position": "after"}, {"time_in": "none"}):
    change = (outputs(models["fine"], **options) - base).norm() / (base - x_t).norm()
    name, value = next(iter(options.items()))
    size = "less than 1e-5" if change < 1e-5 else f"{change:.4g}"
    print(f"{name} = {value:<7} changes what the network adds to x_t by {size} (relative)")

# %% [markdown]
# Dividing by $1/\tau$ is multiplying by $\tau$: the same functions, up to rounding. Only training differs, because the
# gradient and the weight decay act on the reciprocal: decay pulls a multiplier towards 0, all weights equal, and a
# divisor towards sharper attention. Where $T$ is added is another matter. It changes the function, not only its
# parameters: a trained network cannot be moved from one reading to the other. The last line takes $T$ away altogether.
#
# ## Build it: the whole network
#
# Three levels down, a latent level, three levels up, with skips by concatenation; a level down has half the side and
# twice the channels. Size from a formula: a block of $C$ channels and $h$ heads has $12 C^2 + 31 C + h$ parameters
# ($3C^2$ for $Q, K, V$, $27C$ depth-wise, $C^2$ after attention, $8 C^2$ in the DFN, $4C$ in the norms, $h$
# temperatures), or $12 C^2 + 29 C + h$ without biases.

# %%
full = recipes.plan(RECIPE, "full")[0]
levels = [(full.dim * 2**i, full.heads[i]) for i in range(4)] + [(2 * full.dim, full.heads[0])]
for kind, linear in (("bias_free", 29), ("with_bias", 31)):
    config = recipes.config.override(full, {"norm": kind})
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in paper.DiffusionTransformerBlock(C, h, config).parameters()) for C, h in levels]
    whole = sum(p.numel() for p in recipes.build(RECIPE, config, device="meta").parameters())
    print(f"{kind}: formula holds for all widths {sizes == [12 * C**2 + linear * C + h for C, h in levels]}, "
          f"whole network {whole:,}")  # fmt: skip
for (C, h), count, blocks, level in zip(levels, sizes, (*full.blocks, full.blocks[0]), (1, 2, 3, 4, 1), strict=True):
    print(f"level {level}: {C:>3} channels, {h} heads, {blocks} blocks of {count:>9,} parameters")

# %% [markdown]
# Level 4 is the latent one. Levels 2 and 3 come once more on the way up, as wide as before; level 1 keeps both halves
# of its concatenation there, 96 channels in one head. The output convolution returns a *correction of $x_t$*: at large
# $t$ the sample is nearly the noise itself, and the network need only add what little is missing.
#
# What changed from Restormer, the regression network with the same trunk:
#
# | | Restormer | DFT |
# |---|---|---|
# | input, output | degraded image; clean image, as a correction of the degraded one | $y$ and $x_t$; noise, as a correction of $x_t$ |
# | time | none | $T$ after each normalisation |
# | feed-forward part | gated, with depth-wise convolution, factor 2.66 | plain, pointwise, factor 4 |
# | refinement blocks at the end | 4 | none |
# | patches in training | growing, once | a cycle of sizes, again and again |
# | average of the weights (EMA) | no | decay .999 |
# | gradient clipping | at .01 | none |
#
# ## Coarse training
#
# The error of the predicted noise by time, and the error of the clean image that it implies,
# $\sqrt{(1 - \bar\alpha)/\bar\alpha}$ times as large. The dashed rival predicts nothing: it takes the rainy photograph
# for the clean one. The photographs, here and wherever we compare without showing any, are `china` and `flower`.

# %%
squares = torch.cat([photos.load(name)[..., 149:277, 256:384] for name in ("china", "flower")])  # from their middle
tuning = squares.unfold(2, 64, 64).unfold(3, 64, 64).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (8, 3, 64, 64)
y8, x8 = images.to_model_range(degradations.rain(tuning, 61 + seed)), images.to_model_range(tuning)
noise8 = diffusion.randn(x8.shape, diffusion.BatchGenerator(seed, 3))
y4, x4, noise4 = y8[::2], x8[::2], noise8[::2]
grid, errors = torch.arange(0, 1000, 37), {"noise": [], "image": []}
for t in grid:
    level = schedule[t].expand(4)
    x_t4 = diffusion.add_noise(x4, noise4, level)
    with torch.no_grad():
        eps = models["coarse"](y4, x_t4, t.expand(4).float())
    errors["noise"].append((eps - noise4).abs().mean().item())
    errors["image"].append((diffusion.x0_from_eps(x_t4, eps, level) - x4).abs().mean().item())
rain_error = (y4 - x4).abs().mean().item()

# %%
figure, axes = plots.subplots(1, 2, width=7, height=2.5)
axes[0].semilogy(grid, errors["noise"], "o-", ms=3, label="coarse")
axes[0].semilogy(grid, rain_error * (schedule[grid] / (1 - schedule[grid])).sqrt(), "--", label="y for x")
axes[1].semilogy(grid, errors["image"], "o-", ms=3)
axes[1].axhline(rain_error, ls="--", color=plots.COLOURS[1])
axes[0].set(title="Mean error of the noise", xlabel="time t", ylim=(5e-4, 2), ylabel="L1")
axes[1].set(title="of the clean image it implies", xlabel="time t")
axes[0].legend()
text = [f"{errors['noise'][i]:.4g} and {errors['image'][i]:.4g} at {int(grid[i])}" for i in (0, 3, 9, 18, 24, 27)]
show(figure, alt=f"L1 error of noise and of clean image: {', '.join(text)}; rainy photograph {rain_error:.4g}")

# %% [markdown]
# The two panels rank the times in nearly opposite order. The loss sees the left one: most of it comes from small $t$,
# where the noise is hidden in a nearly clean picture. The sampler starts where the right one is largest. Where the
# curve lies above the dashed line, the network's guess is a worse picture than the rainy photograph it was given, and
# the coarse loss hardly notices.
#
# A loss that depends so much on $t$ is a lottery of the batch's times. **Antithetic** times calm it: one image of a
# pair gets $t$, its partner $T - 1 - t$. Each time is still uniform, yet every batch holds early and late times in
# equal shares. The spread of batches of eight: their mean time, and the part of their loss that the times decide, read
# off the curve above.

# %%
print(inspect.getsource(paper.antithetic_times).split('"""')[2])
ways = {"antithetic": paper.antithetic_times, "independent": lambda n, T, g: torch.randint(T, (n,), generator=g)}
rows = {}
for name, draw_times in ways.items():
    t = torch.stack([draw_times(8, 1000, diffusion.BatchGenerator(seed, number)) for number in range(draws)])
    part = t % 37 / 37  # of the way from one point of the curve to the next
    curve = torch.tensor([*errors["noise"], 0.0])
    loss = ((1 - part) * curve[t // 37] + part * curve[t // 37 + 1]).mean(1)
    rows[name] = [t.float().mean().item(), t.float().mean(1).std().item(), loss.mean().item(), loss.std().item()]
show_table(["mean t", "sd of it", "loss", "sd of it"], rows)
print(f"variance of the loss, independent over antithetic: {(rows['independent'][3] / rows['antithetic'][3]) ** 2:.4g}")

# %% [markdown]
# The mean time of a batch no longer varies at all. The loss does, though less: the curve is no straight line, and the
# gains of late times do not make up for the losses of early ones.
#
# ## The sampler is Euler's method
#
# Divide the sampler's step by $\sqrt{\bar\alpha_{t'}}$ and write $u = x_t/\sqrt{\bar\alpha_t}$ and
# $\sigma_t = \sqrt{(1 - \bar\alpha_t)/\bar\alpha_t}$. What remains is
#
# $$u' = u + (\sigma_{t'} - \sigma_t)\,\hat\varepsilon,\qquad\text{hence}\qquad
# \hat x = \frac{x_T}{\sqrt{\bar\alpha_{999}}} + \sum_{i=1}^{S} w_i\,\hat\varepsilon_i,\quad
# w_i = \sigma_{t_{i+1}} - \sigma_{t_i},$$
#
# with $\sigma = 0$ at the end: one step of Euler's method per call. The restored image is the scaled
# first noise plus a weighted sum of the predicted ones.
#
# ### Exercise 2: the weights (code, 8 minutes, medium)
#
# Write `step_weights(alpha_bar, times)`: the schedule is a tensor `(1000,)`, `times` a decreasing list of indices.
# Return the tensor of all $w_i$, one per call.


# %% tags=["solution"]
def step_weights(alpha_bar, times):
    """How much the predicted noise of every call counts in the final image."""
    ### BEGIN SOLUTION
    visited = alpha_bar[times]
    sigma = ((1 - visited) / visited).sqrt()
    return torch.cat([sigma[1:], sigma.new_zeros(1)]) - sigma
    ### END SOLUTION


# %%
check("09.weights", step_weights)

# %%
weights, rows = paper.euler_weights(schedule, NODES), {}
after = [*schedule[NODES[1:]].tolist(), 1.0]
for t, weight, level in zip(NODES, weights.tolist(), after, strict=True):
    sigma = ((1 - schedule[t]) / schedule[t]).sqrt().item()
    rows[f"t = {t}"] = [schedule[t].item(), sigma, weight, abs(weight) * level**0.5]
show_table(["alpha_bar", "sigma", "weight", "moves x'"], rows)

# %% [markdown]
# The last column is how far an error of size 1 moves the *next sample*, $|w|\sqrt{\bar\alpha_{t'}}$.
#
# ### Exercise 3: an error at the start (predict, 4 minutes, easy)
#
# At $t = 999$ the predicted noise is wrong by .01 at some pixel. Suppose that the later three predictions stay what
# they were. By how much (absolute value) is the restored image wrong there, where black is -1 and white is 1?

# %% tags=["solution"]
### BEGIN SOLUTION
first_error_answer = 1.479
### END SOLUTION

# %%
check("09.first_error", first_error_answer)

# %% [markdown]
# Three quarters of the whole range, for an error of one hundredth! This is the paper's diagnosis: inaccurate noise
# estimates spoil a short chain. But the later predictions do *not* stay what they were, since the network sees the
# displaced sample. Measure it: add a small error to one call at a time and see how far the result moves (root mean
# square, [-1, 1]). Three errors of the same size .01: white noise; the same number everywhere (a colour cast); and a
# faint copy of the photograph itself.

# %%
kinds = {"white": diffusion.randn(x4.shape, diffusion.BatchGenerator(seed, 4)), "cast": torch.ones_like(x4)}
kinds["picture"] = (x4 - x4.mean((2, 3), keepdim=True)) / x4.std((1, 2, 3), keepdim=True)


@torch.no_grad()
def perturbed(model, call=None, error=None):
    """Four-call samples of four crops, an error added to one call's noise."""
    hit = None if call is None else NODES[call]
    predict = lambda y, x_t, t: model(y, x_t, t) + (error if t[0] == hit else 0)  # noqa: E731
    return paper.implicit_chain(predict, y4, noise4, schedule, NODES)


moved, psnr, target = {"frozen": (0.01 * weights.abs()).tolist()}, {}, images.to_unit_range(x4)
for name in ("coarse", "fine"):
    still = perturbed(models[name])
    psnr[name] = [metrics.psnr(images.to_unit_range(still), target).mean().item()]
    for kind, error in kinds.items():
        ends = [perturbed(models[name], call, 0.01 * error) for call in range(4)]
        moved[f"{name}, {kind}"] = [(end - still).square().mean().sqrt().item() for end in ends]
        psnr[name].append(metrics.psnr(images.to_unit_range(ends[0]), target).mean().item())

# %%
figure, axis = plots.subplots(width=6.4, height=2.6)
styles = {"frozen": "ks-", "white": "o", "cast": "^", "picture": "D"}
for name, values in moved.items():
    model, _, kind = name.partition(", ")
    look = {"color": plots.COLOURS[model == "fine"], "ls": "-" if model == "coarse" else "--"} if kind else {}
    axis.semilogy(range(4), values, styles[kind or name], ms=4, lw=1, label=name, **look)
axis.set_xticks(range(4), [f"t = {t}" for t in NODES])
axis.set(title="An error of .01 in one call's noise", ylabel="result moves by", xlabel="call")
axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
text = "; ".join(f"{name} {', '.join(f'{value:.4g}' for value in values)}" for name, values in moved.items())
show(figure, alt=f"Displacement of the result by the call that errs: {text}")
print("PSNR (dB) with the error at t = 999:")
show_table(["no error", *kinds], psnr)

# %% [markdown]
# The squares are the frozen sum of Euler. The network's own curves lie far below it at the first two calls: the later
# calls see the displaced sample and pull it back, because $y$ tells them where the picture should be. White noise is
# absorbed best: to the next call it looks like a little more of the noise it has to remove anyway. An error that looks
# like a *picture* or a colour is harder to tell from the truth, and in the coarse network this is what survives. The
# fine network leaves less of those, too: its training saw its own errors, and could learn to repair them. At $t = 333$
# the measured points come near the squares: one call is left, too few to repair much.
#
# So the large first weight is an *open-loop* gain: what an error would do if nobody looked at the result. The chain is
# a closed loop. Quote the weight as the reason for caution, and the measured displacement as the damage.
#
# ### Which times?
#
# Three rules turn a number of steps into times. `endpoints` (ours) spaces them equally from 999 to 0. `released` takes
# multiples of $\lfloor 1000/s \rfloor$: its setting 3 gives *four* calls, as many as the paper's, and its setting 4
# four others, which never visit 999. `paper` is Algorithm 1, $t_j = (j - 1)\,T/(S - 1) + 1$, counted from 1; its
# largest time is $T + 1$, which we lower to $T$. PSNR on 64-pixel crops of the six evaluation photographs:

# %%
settings = {"endpoints, 4": ("endpoints", 4), "released, 3": ("released", 3), "released, 4": ("released", 4)}
settings |= {"paper, 4": ("paper", 4), "endpoints, 3": ("endpoints", 3), "endpoints, 8": ("endpoints", 8)}
by_rule = {}
for label, (rule, count) in settings.items():
    times = paper.visited_times(count, rule)
    for name in ("coarse", "fine"):
        restored = recipes.restore(models[name], small_y, seed=seed, steps=count, step_rule=rule)
        by_rule.setdefault(label, []).append(metrics.psnr(restored, small_x).mean().item())
    print(f"{label:<13} {len(times)} calls at {', '.join(map(str, times))}")
show_table(["coarse (dB)", "fine (dB)"], {"rainy": [metrics.psnr(small_y, small_x).mean().item()] * 2} | by_rule)
change = {n: by_rule["released, 4"][i] - by_rule["endpoints, 4"][i] for i, n in enumerate(("coarse", "fine"))}
print("setting 4 of the released rule against 3:", ", ".join(f"{n} {v:.4g} dB" for n, v in change.items()))

# %% [markdown]
# The coarse network is at home at all times, and may even do a little better when it is spared the hard call at 999.
# The fine network has learned *one* route: step aside by one index (667) and it hardly notices; take another route, and
# it loses more than it had gained, also with *more* calls. This is what "tied to its sampler" means; notebook 10
# measures it with seeds.
#
# ## Fine training: through the sampler
#
# The chain is called with gradients on, and `backward()` does the rest. Two things deserve a look: memory, and the
# loss.
#
# **Memory.** For the backward pass torch keeps what every layer needs, in all four calls. **Checkpointing** keeps only
# the samples between the calls and computes a call again when its turn comes. The bytes that autograd saves for one
# crop of 64 pixels, counted by a hook (published and small network, on the meta device); "backward peak" adds the one
# call that is held while its gradient is computed.

# %%
def kept(profile, **options):
    """MiB that autograd keeps for one 64-pixel crop."""
    config = recipes.plan(RECIPE, profile, options)[0]
    with torch.device("meta"):
        batch = {key: torch.empty(1, 3, 64, 64) for key in ("clean", "degraded")}
    method = recipes.build(RECIPE, config, device="meta")
    return training_needs(method, batch).activation_bytes / 2**20


rows = {}
for name in ("reduced", "full"):
    one, plain = kept(name), kept(name, stage="fine", checkpointing=False)
    frugal = kept(name, stage="fine", checkpointing=True)
    rows[name] = [one, plain, frugal, frugal + one, plain / (frugal + one)]
show_table(["one call", "four calls", "checkpoints", "backward peak", "saved factor"], rows)

# %% [markdown]
# Checkpointing brings the memory of four calls back to little more than that of one, for about a third more arithmetic
# (each call's forward pass twice). It changes no gradient: the package's tests compare them.
#
# **The loss.** SSIM (notebook 01) compares means and variances in small windows, and two constants $C_1 = (.01\,L)^2$,
# $C_2 = (.03\,L)^2$ keep its fractions finite, where $L$ is the length of the value range. Images in [-1, 1] have
# $L=2$. The released code passes 255 to its SSIM (a five-scale MS-SSIM). Watch the constants take over. First its
# value, for a photograph against damaged versions of itself:

# %%
damaged = {"itself": x8, "rain": y8, "darker": x8 - 0.3, "blur": F.avg_pool2d(F.pad(x8, (3,) * 4, "reflect"), 7, 1)}
damaged |= {"grey": torch.zeros_like(x8), "another photograph": x8.flip(0)}
rows = {}
for name, z in damaged.items():
    rows[name] = [paper.ssim(z, x8).item(), *(paper.ms_ssim(z, x8, L).item() for L in (2.0, 255.0))]
show_table(["SSIM, 2", "MS-SSIM, 2", "MS-SSIM, 255"], rows)


def gradient_norm(loss, z):
    """Norm of the gradient of a loss of the restored images."""
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(z), z)[0].norm().item()


terms = {f".84 (1 - MS-SSIM), {L}": lambda z, L=L: 0.84 * (1 - paper.ms_ssim(z, x8, float(L))) for L in (2, 255)}
terms[".84 (1 - SSIM), 2"] = lambda z: 0.84 * (1 - paper.ssim(z, x8))
terms[".16 L1"] = lambda z: 0.16 * (z - x8).abs().mean()
amounts = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
norms = {name: [gradient_norm(term, x8 + amount * noise8) for amount in amounts] for name, term in terms.items()}

# %%
figure, axis = plots.subplots(width=6.4, height=2.6)
for (name, values), style in zip(norms.items(), ("o-", "s-", "^--", "k:"), strict=True):
    axis.loglog(amounts, values, style, ms=4, label=name)
axis.set(title="How hard each term pulls", xlabel="noise in the restored image (sd, [-1, 1])", ylabel="gradient norm")
axis.set_xticks(amounts, amounts)
axis.minorticks_off()
axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
ratio = {L: [a / b for a, b in zip(norms[f".84 (1 - MS-SSIM), {L}"], norms[".16 L1"], strict=True)] for L in (2, 255)}
text = "; ".join(f"range {L} {', '.join(f'{value:.4g}' for value in values)}" for L, values in ratio.items())
show(figure, alt=f"Gradient norms, MS-SSIM term over L1 term at noise {', '.join(map(str, amounts))}: {text}")

# %% [markdown]
# ### Exercise 4: criticise (5 minutes, medium)
#
# A report on the released code says: "The fine loss gives structural similarity the weight .84. Fine networks keep more
# structure than coarse ones. Hence the SSIM term improves structure." What is the strongest objection?
#
# - **a** .84 is arbitrary; other weights should have been tried
# - **b** SSIM is a poor measure of structure
# - **c** the term has next to no gradient as released, so whatever improved structure was something else, such as L1
#   through the sampler
# - **d** PSNR should have been reported as well

# %% tags=["solution"]
### BEGIN SOLUTION
similarity_answer = "c"
### END SOLUTION

# %%
check("09.similarity", similarity_answer)

# %% [markdown]
# At range 255 everything resembles everything, and the gradient of the term is a small fraction of L1's. AdamW divides
# each gradient by its own usual size, so the factor .16 before L1 does not matter either: the released fine stage is an
# L1 fine-tuning. With the right range the term pulls harder than L1 at every noise of the figure. `ssim_range` is an
# option; the default is 2. Whether that *restores* better is claim C7 of notebook 10.

# %% [markdown]
# ## Train it small
#
# Both stages by the recipe of the command line, on dead leaves (notebook 05) in the rain. At `quick` this is a toy: a
# few seconds for each stage. At other profiles the cell shows the curves of the networks used above. First the source
# of both losses.

# %%
print(inspect.getsource(paper.C2FDFT.training_losses).split('"""')[2])
runs = {stage: trained("derain", stage) for stage in ("coarse", "fine")}

# %%
figure, axes = plots.subplots(1, 2, width=7, height=2.3)
text = []
for axis, (stage, (_, fit)) in zip(axes, runs.items(), strict=True):
    window = max(fit.steps_done // 20, 1)
    for name in [n for n in ("loss", "l1", "ssim") if n in fit.history]:
        curve = torch.tensor(fit.history[name])
        smooth = curve[: len(curve) // window * window].reshape(-1, window).mean(1)
        axis.plot(torch.arange(len(smooth)) * window + window / 2, smooth, label=name)
        text.append(f"{stage} {name} {smooth[0]:.4g} to {smooth[-1]:.4g}")
    axis.set(title=f"{stage} stage", xlabel="training step", ylim=(0, None))
    axis.legend(fontsize=7)
count = " and ".join(str(fit.steps_done) for _, fit in runs.values())
show(figure, alt=f"Training of {count} steps: {'; '.join(text)}")

# %% [markdown]
# **Which weights start the fine stage?** At the end of a run there are two sets: the last, *raw* ones, and their
# running mean, the *averaged* ones (EMA), which is what a checkpoint holds. Because of a setting that is never read,
# the released code trains on from the raw coarse weights, and only its running mean starts from the averaged ones. Our
# recipe takes either: a checkpoint file stands for averaged weights, the folder of a run for raw ones. Here is the
# difference, on `china` and `flower`:

# %%
recipes.train(
    RECIPE.name, "quick", {"steps": 30, "decay": "constant", "seed": seed}, run_dir=Path(scratch.name, "constant"),
    device="cpu",
)  # fmt: skip
t, generator = torch.arange(0, 1000, 125.0), diffusion.BatchGenerator(seed, 5)
x_t8, rows = diffusion.add_noise(x8, noise8, schedule[t.long()]), {}
for label, folder in {"by the recipe": runs["coarse"][0], "constant rate": Path(scratch.name, "constant")}.items():
    averaged = recipes.load_method(RECIPE.name, folder / f"{RECIPE.name}.safetensors", "cpu")
    raw = copy.deepcopy(averaged)
    raw.load_state_dict(last_weights(folder))
    flat = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (raw, averaged)]
    with torch.no_grad():
        loss = [(model(y8, x_t8, t) - noise8).abs().mean().item() for model in (raw, averaged)]
    rows[label] = [((flat[0] - flat[1]).norm() / flat[1].norm()).item(), *loss]
show_table(["raw to averaged", "noise L1, raw", "averaged"], rows)

# %%
# what the two stages of the training above are worth on the photographs
before, after = (
    recipes.load_method(RECIPE.name, folder / f"{RECIPE.name}.safetensors", "cpu") for folder, _ in runs.values()
)
step = torch.cat([(b - a).detach().flatten() for a, b in zip(before.parameters(), after.parameters(), strict=True)])
length = torch.cat([p.detach().flatten() for p in before.parameters()]).norm()
print(f"the fine stage moved the weights by {(step.norm() / length).item():.4g} of their norm")
wet, dry = images.to_unit_range(y8), images.to_unit_range(x8)
results = {"rainy": wet}
results |= {n: recipes.restore(m, wet, seed=seed) for n, m in {"coarse": before, "fine": after}.items()}
scores = {n: [metric(z, dry).mean().item() for metric in (metrics.psnr, metrics.ssim)] for n, z in results.items()}
show_table(["PSNR (dB)", "SSIM"], scores)

# %% [markdown]
# First the last lines: at `quick` a coarse network after so few steps makes the picture worse, and the few steps
# through the sampler bring PSNR back; compare SSIM. Now the table (its rows differ in steps, too). Its first column is
# the distance of the two sets of weights, relative to their norm. The recipe's learning rate ends near zero, so the
# weights hardly move at the end, and the mean catches up: then it makes little difference where the fine stage starts.
# With a constant rate the two stay apart. So the slip matters little where the coarse schedule is run to its end, and
# not where a training is stopped early: compare with how far the whole fine stage moved the weights. Our default is the
# averaged set.
#
# **The patch cycle.** At full size the crops change their side again and again, small, medium, large, while the batch
# shrinks so that the number of pixels per step stays about the same: the cost of a step is constant, and the network
# sees both many views and large ones. The fine stage has a quarter of the pixels per step, for its four calls.
# Published settings, from the recipe (batches of both GPUs together):

# %%
plans = {}
for task in paper.config.TASKS:
    for stage in ("coarse", "fine"):
        _, data, run = recipes.plan(RECIPE, "full", {"task": task, "stage": stage})
        plans[task, stage] = run
        pixels = [n * p**2 // 1000 for p, n in zip(run.patches, run.patch_batches, strict=True)]
        cycle = " ".join(f"{p}:{n}" for p, n in zip(run.patches, run.patch_batches, strict=True))
        print(f"{task:<8}{stage:<7} side:batch {cycle:<21} {run.patch_steps:>6,} steps each, {run.steps:>7,} in all; "
              f"kpx/step {', '.join(map(str, pixels)):<13} mixup {'yes' if data.mixup else 'no'}")  # fmt: skip
run = plans["deblur", "coarse"]
figure, axes = plots.subplots(1, 2, width=7, height=2)
at = range(0, run.steps, 500)
axes[0].plot([i / 1000 for i in at], [run.patch_at(i)[0] for i in at], lw=1)
axes[1].plot([i / 1000 for i in at], [run.learning_rate_at(i) for i in at])
axes[0].set(title="Side of the crops (px)", xlabel="step (thousands)", yticks=run.patches)
axes[1].set(title="Learning rate", xlabel="step (thousands)")
changes = sum(run.patch_at(i)[0] != run.patch_at(i - 1)[0] for i in range(1, run.steps))
rates = f"{run.learning_rate_at(0):.4g} to {run.final_learning_rate:.4g}"
show(figure, alt=f"Coarse deblurring: {changes} changes of side; rate {rates}")

# %% [markdown]
# **Mixup.** For deblurring and denoising the released code blends half of the batches, at random, with a shuffled copy,
# $\lambda$ of one pair and $1 - \lambda$ of another, with one $\lambda \sim \mathrm{Beta}(1.2, 1.2)$ per batch. The
# blend of two pairs need not be a pair of the task. Two pictures blurred by different kernels make a mixture that no
# single kernel made. And two independent noises average out, so that the input holds less noise than the task's:

# %%
pairs = [tuning[i : i + 1] for i in (3, 6)]
sigma = recipes.NOISE_SIGMA
noisy = [p + sigma / 255 * diffusion.randn(p.shape, diffusion.BatchGenerator(seed, 6 + i)) for i, p in enumerate(pairs)]
panels, titles, text = [], [], []
for lam in (1.0, 0.75, 0.5):
    blend = [lam * a + (1 - lam) * b for a, b in (pairs, noisy)]
    left = 255 * (blend[1] - blend[0]).std().item()
    panels += blend
    titles += [f"lambda\n{lam}", f"sigma\n{left:.4g}"]
    text.append(f"lambda {lam}: {left:.4g}, formula {sigma * (lam**2 + (1 - lam) ** 2) ** 0.5:.4g}")
figure = plots.image_row([p.clamp(0, 1) for p in panels], titles, width=4.2)
show(figure, alt=f"Mixup of two noisy photographs; noise left, of {sigma:g}: {'; '.join(text)}")

# %% [markdown]
# **Flips.** The released code exchanges left and right of a crop or leaves it; our recipes turn it as well, all eight
# ways, except at `full`. Which is better depends on what a network may know. Photographs have an up and a down, and
# turning erases that. Energy of vertical differences over that of horizontal ones, in crops of `china` and `flower`:

# %%
pool = scenes.CropPool(torch.cat([(photos.load(n)[..., :400, :400] * 255).byte() for n in ("china", "flower")]))
for name in ("eightfold", "flip"):
    crops = pool.sample(draws, 48, diffusion.BatchGenerator(seed, 8), augment=name)
    down, right = (crops.diff(dim=d).square().mean().item() for d in (2, 3))
    print(f"{name:<10} {down / right:.4g}")

# %% [markdown]
# ## Whole photographs of any size
#
# The network wants sides that are multiples of 8. `restore` mirrors the photograph up to them at the right and bottom
# and cuts the result back; three of the released test scripts do not pad and stop at other sizes. Because attention is
# linear in the pixels, the photograph goes through in one piece. The printed line is for comparison: the same by
# overlapping tiles of 128 pixels.

# %%
photo = photos.load("chelsea")[..., :219, 130:331]
wet = degradations.rain(photo, 95 + seed)
whole = recipes.restore(models["fine"], wet, seed=seed)
tiled = recipes.restore(models["fine"], wet, seed=seed, tile=128)
panels = {"rainy": wet, "whole": whole, "tiled": tiled}
titles = [f"{name}\n{metrics.psnr(z, photo).item():.4g} dB" for name, z in panels.items()]
text = ", ".join(title.replace("\n", " ") for title in titles[:2])
before, after = (f"{z.shape[-2]} x {z.shape[-1]}" for z in (photo, images.pad_to_multiple(wet, 8)))
figure = plots.image_row([wet, whole, photo], [*titles[:2], "clean\n"], width=3.3)
show(figure, alt=f"A cat of {before} pixels, padded to {after}: {text}")
print(f"whole minus tiled: {(metrics.psnr(whole, photo) - metrics.psnr(tiled, photo)).item():.4g} dB")

# %% [markdown]
# What changes when the view changes, and what that costs, is claim C9 of notebook 10.
#
# ## Walk through the calls
#
# Choose a photograph and one of the four calls. Left, the sample that the call is given; then what the coarse and the
# fine network believe the clean picture to be after it, with PSNR. When does each network's picture pass the rainy one?
# Where does the coarse network stop gaining, and which photograph is hard for both?

# %%
walks = {}
for i, name in enumerate(photos.EVALUATION):
    wet, dry = (z[i : i + 1, :, 24:104, 24:104] for z in (rainy, clean))
    seen, guesses = calls_of(models["coarse"], wet)
    walks[name] = wet, dry, seen, guesses, list(calls_of(models["fine"], wet))[1]


def draw(figure, call, photograph):
    """Sample before a call, and what both networks believe after it."""
    wet, dry, seen, coarse, fine = walks[photograph]
    dB = [metrics.psnr(z, dry).item() for z in (wet, coarse[call - 1], fine[call - 1])]
    panels = {f"rainy\n{dB[0]:.4g} dB": wet, f"t = {NODES[call - 1]}\n": seen[call - 1]}
    panels |= {f"coarse\n{dB[1]:.4g} dB": coarse[call - 1], f"fine\n{dB[2]:.4g} dB": fine[call - 1], "clean\n": dry}
    for axis, (title, panel) in zip(figure.subplots(1, 5), panels.items(), strict=True):
        plots.image_axes(axis, panel, title)
    return f"rainy {dB[0]:.4g}, coarse {dB[1]:.4g}, fine {dB[2]:.4g} dB"


at = [{"call": call, "photograph": "motorcycle"} for call in (1, 2, 4)]
explore(draw, size=(3.6, 1.02), states=at, call=(1, 2, 3, 4), photograph=list(photos.EVALUATION))

# %% [markdown]
# ## Paper against code
#
# | | paper | released code | option, our default | effect |
# |---|---|---|---|---|
# | similarity in the fine loss | SSIM | MS-SSIM of five scales | `ssim`: SSIM | figure *How hard each term pulls* |
# | its value range, images in [-1, 1] | not given | 255 | `ssim_range`: 2 | the same figure: an inert term |
# | times of the calls | $(j-1)T/(S-1) + 1$, counted from 1 | multiples of $\lfloor T/s \rfloor$ | `step_rule`: `endpoints` | table in *Which times?* |
# | "4 steps" | 4 | setting 3, which makes 4 calls | `sampling_steps`: 4 calls | the same table; a 4 there is another route |
# | where $T$ enters attention | figure: before the projections; formula: can be read as after | before | `time_position`: before | changes the function, see *the block's options* |
# | scale of attention | divides | multiplies | `attention_scale`: multiply | same functions, other training |
# | norms of $Q$ and $K$, SiLU on $T$ | not in the formulas we know | both | always on | not measured here |
# | start of the fine stage | the coarse network | raw weights; averaged ones for the running mean | `--start`: averaged | *Train it small* |
# | coarse or fine | two stages | one at a time, by editing the source | `stage` | |
# | a negative factor in MS-SSIM | | its power is NaN | clamped at $10^{-6}$; sides of 16 pixels or more | |
# | first output weights | | PyTorch's | `output_scale`: .01 in small networks | first samples near $x_T$, not 157 times off |
# | validation while training | | on a picture of the test set (disclosed) | never on evaluation photographs | |
# | mixup | not in what we read | deblurring and denoising | `mixup`: as released at `full` | *Mixup*: less noise than the task's |
# | augmentation | not in what we read | horizontal flips only | `augment`: eightfold; as released at `full` | *Flips*: up and down survive |
# | title and authors | differ between the arXiv and the journal version | | | |
#
# `paper.OFFICIAL` collects the released settings of sampler and loss. What they do to a step of the fine stage:

# %%
print("released settings:", ", ".join(f"{name} = {value}" for name, value in paper.OFFICIAL.items()))
losses, slopes = {}, {}
for name, options in {"ours": {}, "released": paper.OFFICIAL, "L1 alone": {"ssim": "none"}}.items():
    method = recipes.build(RECIPE, recipes.config.override(models["fine"].config, options))
    method.load_state_dict(models["fine"].state_dict())
    batch = {"clean": target, "degraded": images.to_unit_range(y4)}
    losses[name] = method.training_losses(batch, diffusion.BatchGenerator(seed, 9), 0)
    slopes[name] = torch.autograd.grad(losses[name]["loss"], list(method.parameters()))
    slopes[name] = torch.cat([slope.flatten() for slope in slopes[name]])
rows = {}
for name, slope in slopes.items():
    values = [losses[name][key].item() for key in ("loss", "l1")]
    rows[name] = [*values, slope.norm().item(), F.cosine_similarity(slope, slopes["L1 alone"], dim=0).item()]
show_table(["loss", "its L1", "gradient norm", "cosine to L1"], rows)

# %% [markdown]
# The same network, photographs and samples; the gradient is that of all weights, through four calls. The released loss
# points where L1 alone points.
#
# ## What it costs

# %%
method, began = models["fine"], time.perf_counter()
recipes.restore(method, rainy[:1])
measured = {"seconds for one crop of 128 x 128": time.perf_counter() - began, "trained on": cards["fine"]["device"]}
with FlopCounterMode(display=False) as counter:
    recipes.restore(method, rainy[:1])
fixed = {f"parameters, {name}": card["parameters"] for name, card in cards.items()}
fixed |= {"MACs of four calls, 128 x 128": counter.get_total_flops() // 2, "calls": len(NODES)}
published = recipes.build(RECIPE, full, device="meta")
fixed["MACs of the published network"] = len(NODES) * counted(published, *[(1, 3, 128, 128)] * 2, (1,))
training_time = {f"training, {name} stage (s)": cards[name]["wall_time_s"] for name in ("coarse", "fine")}
show_cost("Deraining one crop", fixed, {**measured, **training_time})

# %% [markdown]
# ## You can now
# - build a transformer block whose attention matrix is channels by channels, and say what in it looks at neighbours;
# - write a DDIM chain as a weighted sum of predicted noises, and tell an open-loop gain from what a network does with
#   an error;
# - train through a sampler, with the memory of about one call;
# - check that a term of a loss has a gradient before you praise it.
#
# **Try next**: `minirestore restore --method c2f_dft` with a rainy photograph of your own; train the fine stage with
# the released loss (`minirestore train c2f_dft --set stage=fine --set ssim=ms_ssim --set ssim_range=255 --start ...`);
# or from the raw weights, by naming the folder of the coarse run. **Next**: 10 puts the paper's claims beside controls
# that the paper lacks.
#
# **References**: L. Wang et al., *Learning a coarse-to-fine diffusion transformer for image restoration*, 2023 (arXiv
# 2308.08730); journal version *Coarse-to-fine mechanisms mitigate diffusion limitations on image restoration*, CVIU
# 248, 2024. S. W. Zamir et al., *Restormer*, CVPR 2022. J. Song et al., *Denoising diffusion implicit models*, 2021. Z.
# Wang et al., *Image quality assessment: from error visibility to structural similarity*, 2004; *Multiscale structural
# similarity*, 2003. O. Özdenizci and R. Legenstein, *Restoring vision in adverse weather conditions with patch-based
# denoising diffusion models* (WeatherDiffusion), 2023. S. Mohan et al., *Robust and interpretable blind image denoising
# via bias-free convolutional neural networks*, 2020. H. Zhang et al., *mixup*, 2018.
