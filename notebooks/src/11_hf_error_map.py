# %% [markdown]
# # 11 ResShift, SinSR and the high-frequency error map
#
# **You will be able to**
# - start a diffusion from the low-quality image instead of from noise, forwards and backwards (ResShift);
# - distil a chain of calls into one (SinSR), and name what each of its three losses asks for;
# - build a loss that shows a network where its fine detail is wrong: pyramid, wavelets, map, product, distance
#   (*Diffusion SR with Multi-Scale High Frequency Error Maps*);
# - say which errors such a loss cannot see, and why no gradient may pass through the map;
# - judge two dozen readings of a two-page paper by what they change.
#
# **You need** only a CPU: about a minute for all cells, about two hours for you. Notebooks 03 (wavelets), 05
# (diffusion) and 04 (degradations) come before. The profile `reduced` trains three networks: minutes on a GPU.

# %% tags=["parameters"]
profile = "quick"
seed = 0
teacher_steps = 20
student_steps = 6
map_steps = 6
pixel_steps = 20

# %% tags=["setup"]
import copy
import inspect
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from minirestore import checkpoints, degradations, diffusion, features, images, metrics, photos, plots, recipes
from minirestore.exercises import check
from minirestore.papers import hf_error_map as paper
from minirestore.papers import resshift
from minirestore.plots import show, show_cost, show_table
from minirestore.statistics import clustered_intervals, significant, verdict
from minirestore.wavelets import dwt2
from minirestore.widgets import explore
from minirestore.windows import window_mask

METHOD = {"teacher": "resshift", "student": "resshift", "map": "hf_error_map"}
SHIPPED = {"teacher": "resshift", "student": "resshift_student", "map": "hf_error_map"}
override = recipes.config.override

# %% [markdown]
# ## The idea as a picture
#
# **The task** is super-resolution. A photograph of 128 pixels was shrunk by 4, and we want it back. (The papers train
# for more: blur, noise and JPEG of random strengths, the second-order pipeline of notebook 04. A network that learns on
# one CPU core has enough to do with the shrinking alone; claims B2 and B3 of notebook 12 ask what happens to it on
# such pictures.) The **baseline** is bicubic interpolation, which invents nothing.
#
# Three networks, each made from the one before. The **teacher** (ResShift) is a diffusion model with few steps. The
# **student** (SinSR) has learned to do all of them in one call. The **map** network is the student, trained on with one
# more loss, the high-frequency error map: it shows where fine detail is wrong. All work on the latents of the same
# autoencoder, four times smaller than the picture (notebook 06). It has a codebook, and published models decode through
# theirs; ours is so small that rounding to it costs more than the whole chain gains (`quantise`, last table), so we do
# not.
#
# The next cell loads the trained networks; at profile `reduced` it trains them instead. Then all three restore the
# 24 evaluation crops, four of each photograph.

# %%
quick, scratch = profile == "quick", tempfile.TemporaryDirectory()
root = Path(scratch.name if quick else f"../runs/11-{profile}-{teacher_steps}-{student_steps}-{map_steps}-{seed}")
steps_of = {"teacher": teacher_steps, "student": student_steps, "map": map_steps}


def trained(name, start=None, folder="", **options):
    """Checkpoint and result of a training by the recipe, run now unless it is there."""
    options, where = {"seed": seed, "steps": steps_of[name], **options}, root / (folder or name)
    result = recipes.train(METHOD[name], profile, options, run_dir=where, start=start,
                           device="cpu" if quick else "auto")[1]  # fmt: skip
    return where / f"{METHOD[name]}.safetensors", result


paths, fits = dict(SHIPPED), {}
if not quick:
    paths["teacher"], fits["teacher"] = trained("teacher", stage="teacher")
    for name, start, stage in (("student", "teacher", {"stage": "student"}), ("map", "student", {})):
        paths[name], fits[name] = trained(name, paths[start], teacher=str(paths["teacher"]), **stage)
models = {name: recipes.load_method(METHOD[name], path, "cpu") for name, path in paths.items()}
cards = {name: checkpoints.read_card(path) for name, path in paths.items()}
for name, card in cards.items():
    print(f"{name:<8} {card['parameters']:>9,} parameters, last stage {card['steps']:,} steps")


# %%
def bicubic(lq):
    """The baseline: bicubic interpolation, not antialiased."""
    return F.interpolate(lq, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)


def middle(z):
    """The middle half of a picture, for figures."""
    n = z.shape[-1] // 4
    return z[..., n : 3 * n, n : 3 * n]


clean, photo = photos.evaluation_crops(128)
lq = degradations.low_resolution(clean, 110 + seed, "bicubic")
restored = {"bicubic": bicubic(lq)} | {name: recipes.restore(model, lq, seed=seed) for name, model in models.items()}
chosen = [2, 20]  # a crop of the astronaut, and one of the commander
psnr = {name: metrics.psnr(z, clean) for name, z in restored.items()}
rows = [[middle(z[i : i + 1]) for z in (*restored.values(), clean)] for i in chosen]
figure = plots.image_grid(rows, [*restored, "clean"], width=3.9)
text = ", ".join(f"{name} {', '.join(f'{v:.4g}' for v in values[chosen])}" for name, values in psnr.items())
show(figure, alt=f"Two crops enlarged by 4; PSNR in dB: {text}")

# %% [markdown]
# These are small networks trained for an hour or less, on pictures of random discs; do not expect the figures of the
# papers. The section *Does it help here?* puts numbers on all of them. First we build them.
#
# ## Residual shifting
#
# An ordinary diffusion ends in pure noise and forgets the picture (notebook 05). But in restoration we *have* a
# picture, the low-quality one, $y$. ResShift moves the clean $x_0$ to $y$, a fraction $\eta_t$ of the residual
# $y - x_0$ after step $t$, and adds noise that grows with it:
#
# $$q(x_t \mid x_0, y) = \mathcal N\big(x_0 + \eta_t\,(y - x_0),\; \kappa^2 \eta_t\, I\big),\qquad
# 0 = \eta_0 < \eta_1 < \dots < \eta_T \approx 1 .$$
#
# At the end lies $y$ with noise, and from there the sampler starts. A short way needs few steps: 15, or 4. All this
# happens in latents; $y$ is the encoded bicubic picture.
#
# **Schedule.** The square roots grow geometrically, with a warped clock:
# $\sqrt{\eta_t} = \sqrt{\eta_1}\,\big(\sqrt{\eta_T}/\sqrt{\eta_1}\big)^{((t-1)/(T-1))^p}$, with
# $\sqrt{\eta_1} = \min(m/\kappa, m)$, so that the first step adds noise of deviation $m$. Two generations of the
# released code differ in one clamp: `v2` (SinSR, and ResShift's first version) takes at most
# $\sqrt{.001}$ for it, `journal` (the present code) does not.

# %%
print(inspect.getsource(resshift.make_schedule).split('"""')[2])
settings = {"T = 15, both": {}, "T = 4, journal": {"T": 4, "min_noise_level": 0.2}}
settings["T = 4, v2"] = settings["T = 4, journal"] | {"clamp": "v2"}
tables = {name: resshift.make_schedule(resshift.ShiftConfig(**values)) for name, values in settings.items()}
same = resshift.make_schedule(resshift.ShiftConfig(clamp="v2")).eta.equal(tables["T = 15, both"].eta)
print(f"the clamps agree for T = 15: {same}")
for name, table in tables.items():
    print(f"{name:<15} sqrt(eta): {' '.join(f'{v:.4g}' for v in table.sqrt_eta.tolist())}")

# %% [markdown]
# With 15 steps $m/\kappa = .02$ is below the clamp, and nobody notices. With four it is .1, the tables differ, and a
# network of one code base is fed the wrong noise by the other, without an error message. (Our own four steps keep
# $m = .04$.)
#
# Try the two numbers that shape the way. $\kappa$: how much noise comes with the shift. $p$: is the shift early
# ($p < 1$), geometric ($p = 1$) or late. Above, the curve, with a mark wherever $x_t$ is shown below: the first three
# channels of the latent as colours, for a crop of `china`. Which settings leave $y$ recognisable at the end?

# %%
tuning = torch.cat([photos.load(n)[..., 149:277, i : i + 128] for n in ("china", "flower") for i in (192, 320)])
tuning_lq = degradations.low_resolution(tuning, 120 + seed, "bicubic")
teacher = models["teacher"]
shift, T = resshift.make_schedule(teacher.config), teacher.config.T
with torch.no_grad():
    z0, zy = teacher.autoencoder.encode(images.to_model_range(tuning)), teacher.upscaled(2 * tuning_lq - 1)
noise = diffusion.randn(z0.shape, diffusion.BatchGenerator(seed, 1))


def draw(figure, kappa, p):
    """Shift and noise by step for 15 steps, and four samples of the way."""
    table = resshift.make_schedule(resshift.ShiftConfig(kappa=kappa, p=p))
    axes, at = figure.subplot_mosaic("aaaa;bcde", height_ratios=(1.4, 1)), (0, 4, 9, 14)
    axes["a"].plot(range(1, 16), table.eta, label="eta")
    axes["a"].plot(range(1, 16), kappa * table.sqrt_eta, "--", label="noise sd")
    axes["a"].plot([t + 1 for t in at], table.eta[list(at)], "ko", ms=3)
    axes["a"].set(ylim=(0, 4.1), xlabel="step t")
    axes["a"].legend(fontsize=7)
    for key, t in zip("bcde", at, strict=True):
        plots.image_axes(axes[key], table.q_sample(z0, zy, t, noise)[0, :3], low=-2.5, high=2.5)
    return f"eta at steps 1, 5, 10, 15: {', '.join(f'{table.eta[t]:.4g}' for t in at)}"


states = [{"kappa": kappa, "p": p} for kappa, p in ((0.5, 0.3), (2.0, 0.3), (2.0, 2.0))]
explore(draw, size=(2.5, 2.3), states=states, kappa=(0.5, 1.0, 2.0, 4.0), p=(0.2, 0.3, 0.5, 1.0, 2.0))

# %% [markdown]
# The published $\kappa = 2$ buries $y$: latents have unit deviation, so at the end the noise is twice as large as the
# picture. That leaves the network free to invent detail, and it still knows $y$: the low-quality image enters beside
# $x_t$ at every call.
#
# The way of *our* teacher, with the noise it was trained on. First row, $x_t$ in latents; second row, the same decoded.

# %%
where = sorted({0, T // 3, (2 * T) // 3, T - 1})
ways = [z0, *(shift.q_sample(z0, zy, t, noise) for t in where), zy]
with torch.no_grad():
    rows = [[middle((z[:1, :3] / 5 + 0.5).clamp(0, 1)) for z in ways]]
    rows += [[middle(images.to_unit_range(teacher.decode(z[:1]))) for z in ways]]
titles = ["x_0", *(f"t = {t + 1}" for t in where), "y"]
figure = plots.image_grid(rows, titles, ["latent", "decoded"], width=4.3)
text = ", ".join(f"{(z[:1] - z0[:1]).std():.4g}" for z in ways[1:])
show(figure, alt=f"From x_0 to y; deviation of each latent from x_0 (unit: that of latents): {text}")

# %% [markdown]
# **Back again.** Where from? $x_T = y + \kappa\sqrt{\eta_T}\,\varepsilon$, as if $\eta_T$ were 1. Then step by step: if
# $x_0$ were known, the distribution of $x_{t-1}$ would follow from Bayes' rule, since both factors are normal:
#
# $$q(x_{t-1} \mid x_t, x_0) = \mathcal N\Big(\tfrac{\eta_{t-1}}{\eta_t}\,x_t + \tfrac{\alpha_t}{\eta_t}\,x_0,\;
# \kappa^2\,\tfrac{\eta_{t-1}}{\eta_t}\,\alpha_t\, I\Big),\qquad \alpha_t = \eta_t - \eta_{t-1} .$$
#
# $y$ has dropped out of the mean. Check it without algebra: multiply the two normal densities on a grid of numbers,
# $q(x_t \mid x_{t-1}) = \mathcal N(x_{t-1} + \alpha_t (y - x_0), \kappa^2\alpha_t)$ and $q(x_{t-1} \mid x_0)$, and take
# mean and variance of the product. Do it twice, with two different $y$.

# %%
x0, x_t = torch.tensor([[0.3], [1.1]], dtype=torch.float64).view(2, 1, 1, 1, 1)
grid = torch.linspace(-15, 15, 60_001, dtype=torch.float64)


def by_bayes(t, y):
    """Mean and variance of x_{t-1}, from the product of prior and likelihood on a grid."""
    mean, variance = shift.marginal(x0, torch.full_like(x0, y), t - 1)
    ahead = grid + shift.alpha[t] * (y - x0.item())
    log = -((grid - mean.item()) ** 2) / (2 * variance.item())
    log = log - (x_t.item() - ahead) ** 2 / (2 * shift.kappa**2 * shift.alpha[t])
    weight = torch.softmax(log, 0)
    centre = (weight * grid).sum()
    return centre.item(), (weight * (grid - centre) ** 2).sum().item()


rows = {}
for t in range(1, T):
    formula = [value.item() for value in shift.posterior(x0, x_t, t)]
    rows[f"t = {t + 1}"] = [formula[0], *(by_bayes(t, y)[0] for y in (-0.5, 2.0)), formula[1], by_bayes(t, -0.5)[1]]
show_table(["mean", "y = -.5", "y = 2", "variance", "by Bayes"], rows)

# %% [markdown]
# The network predicts $x_0$, with the plain squared error in latents as its loss. Its first prediction is rough; each
# step moves a little towards it and asks again. At the last step the variance is 0, and the prediction is the result.
# Its output may be $x_0$ itself, as in the published models, or the residual $y - x_0$ (`prediction`). For the loss
# that is the same, for a small network it is not: with the residual it starts at $y$; for $x_0$ it has to learn first
# what $y$ contains, which it sees buried in noise. Ours predicts the residual; section *Train it small* compares them.
#
# **Input scaling.** $x_t$ is several times larger at the end than at the beginning. Before the network sees it, it is
# divided by $\sqrt{\kappa^2\eta_t + 1}$, which takes $x_0$ to have unit variance. (The option `pixel` is for pixels in
# [-1, 1] and divides by $3\kappa\sqrt{\eta_t} + 1$.) The paper's main text does not mention it. Deviations over four
# crops:

# %%
pixel = resshift.make_schedule(override(teacher.config, {"input_scale": "pixel"}))
rows = {}
for t in where:
    moved = shift.q_sample(z0, zy, t, noise)
    rows[f"t = {t + 1}"] = [z.std().item() for z in (moved, shift.scale_input(moved, t), pixel.scale_input(moved, t))]
show_table(["x_t", "latent", "pixel"], rows)

# %% [markdown]
# **The chain.** What the teacher believes the clean picture to be, call by call. *Stochastic* draws from the posterior
# (ResShift; first row). *Deterministic* is SinSR's way, which we build below: it keeps the noise it has. Both start
# from one $x_T$.


# %%
def beliefs(model, lq, **options):
    """Predicted clean image after every call, decoded and cut to size."""
    seen, side = [], 4 * lq.shape[-1]

    def keep(t, x_t, x0):
        seen.append(images.to_unit_range(model.decode(x0))[..., :side, :side])

    model.restore(lq, diffusion.BatchGenerator(seed, 2), callback=keep, **options)
    return seen[:: -(-len(seen) // 4)] if len(seen) > 4 else seen


one, one_lq = clean[chosen[1] :][:1], lq[chosen[1] :][:1]
rows, text = [], []
for name, deterministic in {"stochastic": False, "deterministic": True}.items():
    walk = beliefs(teacher, one_lq, deterministic=deterministic)
    rows.append([middle(z) for z in (bicubic(one_lq), *walk, one)])
    text.append(f"{name} {', '.join(f'{metrics.psnr(z, one).item():.4g}' for z in walk)}")
titles = ["bicubic", *(f"belief {i + 1}" for i in range(len(walk))), "clean"]
figure = plots.image_grid(rows, titles, ["random", "fixed"], width=4.3)
text = "; ".join(text)
show(figure, alt=f"Predictions of the teacher; PSNR in dB, bicubic {psnr['bicubic'][chosen[1]]:.4g}: {text}")

# %% [markdown]
# **Fewer calls.** A chain may skip steps. Which ones should it visit? The released code counts upwards from the first,
# $\lfloor T/n \cdot k\rfloor$, and thus never starts at the last. The sample then starts as $y$ with the noise of an
# earlier step, where training had mixed in some of $x_0$. `trailing`, our default, always starts at the end. Four crops
# of `china` and `flower`; indices count from 0. The right columns are a pair to be read together: the **energy** of the
# finest wavelet details over that of the clean crop (1 is right, less is smooth, more is invented), and the **error**
# of these details, relative to the same energy (0 is right; leaving them all out scores 1).


# %%
def scores(z, target):
    """PSNR in dB, HaarPSI, energy ratio and error of the fine detail, means over the images."""
    ids = ("psnr", "haarpsi", "high_frequency_energy_ratio", "high_frequency_error")
    return [value.mean().item() for value in metrics.evaluate(z, target, ids).values()]


SCORES = ["PSNR (dB)", "HaarPSI", "HF energy", "HF error"]
rows = {"bicubic": scores(bicubic(tuning_lq), tuning)}
for calls in sorted({1, 2, T - 1}):
    for spacing in ("trailing", "released"):
        visited = " ".join(map(str, resshift.visited_steps(T, calls, spacing)[::-1]))
        z = recipes.restore(teacher, tuning_lq, seed=seed, steps=calls, spacing=spacing)
        rows[f"{spacing}, {calls}: {visited}"] = scores(z, tuning)
for name, deterministic in {"stochastic": False, "deterministic": True}.items():
    z = recipes.restore(teacher, tuning_lq, seed=seed, deterministic=deterministic)
    rows[f"all {T}, {name}"] = scores(z, tuning)
show_table(SCORES, rows)

# %% [markdown]
# Look at the single call first. At index 0 the network was trained on pictures that are *almost clean*, with next to no
# noise; it is given $y$ instead and has no reason to repair it. At the last index it was trained on just what it gets.
# How much the spacing matters for two or three calls, the table says: the later the first index, the less.
#
# ## The network: windows, shifts, and a mask
#
# A U-Net of convolutions (notebook 05) with **Swin layers** in it. Attention between all pixels of a feature map costs
# the square of their number. Within **windows** of 8 x 8 pixels it costs the same for each pixel at any size. But then
# neighbours across a window's edge never meet. So every second block **shifts** the windows by half: the map is rolled
# by 4 pixels up and left, cut into windows, and rolled back. Rolling wraps the map around, and the first rows end up
# beside the last ones. A **mask** must keep such strangers apart.
#
# Below: the windows of a map of 16 x 16, plain and shifted (one colour for each). Right of them, for each shifted
# window, which of its 64 pixels (rows) may not attend to which (columns); black is forbidden. The first row is the
# correct mask, the second the released one.


# %%
def coloured(shift, side=16, window=8):
    """The number of each pixel's window, on the map as it lies."""
    cells = torch.arange(side).roll(-shift).reshape(-1, window)
    place = torch.zeros(side, dtype=torch.long)
    for number, cell in enumerate(cells):
        place[cell] = number
    return (place[:, None] * len(cells) + place[None, :]).float()


masks = {n: window_mask(16, 16, 8, 4, legacy=n == "released") for n in ("correct", "released")}
figure, axes = plots.subplots(2, 5, width=6, height=2.7)
for row, (label, offset, (name, mask)) in enumerate(zip(("plain", "shifted"), (0, 4), masks.items(), strict=True)):
    axes[row, 0].imshow(coloured(offset), cmap="viridis")
    axes[row, 0].set_title(f"windows, {label}", fontsize=8)
    for number, axis in enumerate(axes[row, 1:]):
        axis.imshow(mask[number], cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(f"{name} {number + 1}: {mask[number].float().mean():.2g}", fontsize=8)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
text = "; ".join(f"{n} {', '.join(f'{v:.4g}' for v in m.float().mean((1, 2)))}" for n, m in masks.items())
show(figure, alt=f"Share of forbidden pairs in the four shifted windows: {text}")

# %% [markdown]
# The released code writes its row stripes into the wrong axis. The seam between left and right counts nowhere, and the
# windows at the bottom separate *columns* where they should separate rows. Every image has such windows at its border.
# The released weights were trained with it, so whoever uses them needs it (`legacy_mask=True`); ours is correct. What
# does the wrong mask change, in a network trained with the right one? One call of the teacher at its last step, and the
# difference of its predictions, in latents:


# %%
def with_network(model, **options):
    """A copy of a model whose network has other options and the same weights."""
    other = copy.deepcopy(model)
    other.network = resshift.SwinUNet(override(model.config, options))
    other.network.load_state_dict(model.network.state_dict())
    return other


wide = images.pad_to_multiple(tuning_lq, teacher.multiple)
with torch.no_grad():
    enlarged = teacher.upscaled(2 * wide - 1)
    end = shift.prior_sample(enlarged, noise[..., :1, :1].expand_as(enlarged))
    call = (shift.scale_input(end, T - 1), torch.full((4,), float(T - 1)))
    both = teacher, with_network(teacher, legacy_mask=True)
    guess, other = (m.predict(2 * wide - 1, enlarged)(*call) for m in both)

# %%
change = (guess - other).square().mean((0, 1)).sqrt()
edge = torch.zeros_like(change, dtype=torch.bool)
edge[:4], edge[-4:], edge[:, :4], edge[:, -4:] = True, True, True, True
figure, axes = plots.subplots(width=2.8, height=2.2)
picture = axes.imshow(change / guess.std(), cmap="magma")
axes.set(title="Effect of the wrong mask", xticks=[], yticks=[])
figure.colorbar(picture, label="change / deviation")
parts = ", ".join(f"{(change[part] / guess.std()).square().mean().sqrt():.4g}" for part in (edge, ~edge))
show(figure, alt=f"Change of the predicted latents over their deviation, within 4 of the border and inside: {parts}")
for name, m in {"correct": teacher, "released": with_network(teacher, legacy_mask=True)}.items():
    print(f"{name:<9} PSNR of the chain {metrics.psnr(recipes.restore(m, tuning_lq), tuning).mean():.4g} dB")

# %% [markdown]
# The whole network, small and published. Every bar is a stage: its height is the side of the feature map, the number
# its channels. Orange stages hold a Swin layer, two blocks, plain and shifted; where the map is no larger than a window
# there is one window and nothing to shift. Blocks start as the identity (their second convolution is zero), the time
# enters as a scale and a shift of the features, and every encoder stage is kept for the decoder.


# %%
def stages_of(config):
    """Side, channels and Swin layer of every stage, found on the meta device."""
    with torch.device("meta"):
        network, found = resshift.SwinUNet(config), []
        for stage in [*network.encoder, *network.middle, *network.decoder]:
            last = list(stage.values())[-1]
            keep = lambda m, i, out, s=stage: found.append((out.shape[-1], out.shape[1], "swin" in s))  # noqa: E731
            last.register_forward_hook(keep)
        x, lq = (torch.empty(1, n, *(config.latent_size,) * 2) for n in (config.channels, config.lq_channels))
        network(x, torch.empty(1), lq)
    return found, sum(p.numel() for p in network.parameters())


figure, axes = plots.subplots(2, 1, width=6.5, height=3.2)
text = []
configs = {"ours": teacher.config, "published": resshift.ResShiftConfig()}
for axis, (name, config) in zip(axes, configs.items(), strict=True):
    found, count = stages_of(config)
    sides, widths, swin = zip(*found, strict=True)
    axis.bar(range(len(sides)), sides, color=[plots.COLOURS[s] for s in swin])
    for i, (side, width) in enumerate(zip(sides, widths, strict=True)):
        axis.text(i, side, width, ha="center", va="bottom", fontsize=6)
    axis.set(title=f"{name}: {count:,} parameters", ylabel="side", xticks=[], ylim=(0, 1.2 * max(sides)))
    text.append(f"{name} {len(sides)} stages, {sum(swin)} with Swin layers, {count} parameters")
show(figure, alt="; ".join(text))

# %% [markdown]
# ## SinSR: the chain in one call
#
# ResShift's sampler draws noise at each step, so that one $x_T$ leads to many pictures. To distil it, its way must
# depend on nothing but $x_T$. SinSR's step reads off the noise that $x_t$ must contain if $\hat x_0$ is right, and puts
# *the same noise* back, at the level of step $t-1$.
#
# ### Exercise 1: a step without dice (code, 8 minutes, medium)
#
# Write `quiet_step(x0, x_t, y, eta, eta_before)`, where `eta` is $\eta_t$ and `eta_before` is $\eta_{t-1}$, both
# numbers. Find the noise $\kappa\sqrt{\eta_t}\,\varepsilon$ in $x_t$, and return the $x_{t-1}$ with the same
# $\varepsilon$. You will not need $\kappa$.


# %% tags=["solution"]
def quiet_step(x0, x_t, y, eta, eta_before):
    """SinSR's deterministic step: the noise of x_t, at the level before."""
    ### BEGIN SOLUTION
    noise = x_t - x0 - eta * (y - x0)
    return x0 + eta_before * (y - x0) + (eta_before / eta) ** 0.5 * noise
    ### END SOLUTION


# %%
check("11.step", quiet_step)

# %% [markdown]
# Sorted by what they multiply, the terms are the paper's $x_{t-1} = k\,\hat x_0 + m\,x_t + j\,y$ with
#
# $$m = \sqrt{\eta_{t-1}/\eta_t},\qquad j = \eta_{t-1} - \sqrt{\eta_{t-1}\,\eta_t},\qquad k = 1 - m - j .$$
#
# They sum to 1. $j$ is negative: the step moves a little *away* from $y$. Solved for $x_t$, the same line is the
# **inverse step**, from a cleaner sample to a noisier one. At the first index everything is $\hat x_0$, and there is no
# way back.

# %%
rows, back = {}, []
for t in range(T):
    k, m, j = (table[t].item() for table in (shift.step_x0, shift.step_x_t, shift.step_y))
    rows[f"t = {t + 1}"] = [k, m, j, k + m + j]
    if t:
        x_t = shift.q_sample(z0, zy, t, noise)
        there = shift.deterministic_step(0.9 * z0, x_t, zy, t)
        back.append((shift.deterministic_inverse(0.9 * z0, there, zy, t) - x_t).abs().max().item())
show_table(["k", "m", "j", "sum"], rows)
print(f"step and inverse step return x_t up to rounding: {max(back) < 1e-4}")
print(f"smallest j of the 15-step schedule: {tables['T = 15, both'].step_y.min():.4g}")

# %% [markdown]
# **Three losses**, one network $f$, a copy of the teacher $F$ at the start. It is told one of two times: the last, $T$,
# for the way from noise to picture, and 0 for the way back, from picture to noise.
#
# - distillation: $\|f(x_T, y, T) - F\text{'s chain from } x_T\|^2$, one call does what the chain does;
# - inverse: $\|f(\hat x_0, y, 0) - x_T\|^2$, from the chain's result $\hat x_0$ find the noise that it came from;
# - ground truth: $\|f(\mathrm{sg}[f(x_0, y, 0)], y, T) - x_0\|^2$: find the noise that *would* lead to the true $x_0$,
#   and from there get $x_0$ back. Here the student can become better than its teacher.
#
# sg stops the gradient. The losses of three networks on the same four crops and noise, in latents (1 is the variance of
# a latent):

# %%
batch = {"clean": images.pad_to_multiple(tuning, 4 * teacher.multiple), "degraded": wide}
untrained = copy.deepcopy(models["student"])
untrained.network.load_state_dict(teacher.network.state_dict())
rows = {}
with torch.no_grad():
    for name, model in {"teacher's weights": untrained, "student": models["student"], "map": models["map"]}.items():
        losses, _ = model.student_losses(batch, diffusion.BatchGenerator(seed, 3))
        rows[name] = [losses[key].item() for key in ("distill", "inverse", "gt")]
show_table(["distill", "inverse", "gt"], rows)

# %% [markdown]
# The first row is the start of the distillation. The teacher has never heard of the way back: time 0 means "almost
# clean" to it, so it returns a picture where noise is asked for. The inverse loss stays the largest of the three also
# after training. $x_T$ is mostly noise, and how much of it can be found again depends on how much of it the picture
# still shows.
#
# One call against the chain, on the same crops. Time is on the cost card at the end; here the quality.

# %%
rows = {"bicubic": scores(bicubic(tuning_lq), tuning)}
for name, (model, options) in {
    f"teacher, {T} calls": (teacher, {}),
    f"teacher, {T} calls, deterministic": (teacher, {"deterministic": True}),
    "teacher, 1 call": (teacher, {"steps": 1}),
    "student, 1 call": (models["student"], {}),
}.items():
    rows[name] = scores(recipes.restore(model, tuning_lq, seed=seed, **options), tuning)
show_table(SCORES, rows)

# %% [markdown]
# Compare the last two rows: same number of calls, same architecture. One call of the *teacher* from the last step
# is the mean of all that it thinks possible, and a mean is smooth. The student's call aims at one result of the chain
# (and at the truth). What the distillation gained or lost is the difference of these rows, and on four crops it says
# little; below are 24 with intervals.
#
# ## The error map
#
# So much for the baseline. The paper itself has two pages, one equation and no code. Bring the restored image and the
# clean one to several sizes; compare their wavelet details at each size; multiply *both* images by the map of the
# differences; and compare the products with LPIPS, a distance between network features:
#
# $$L = \sum_i W_i\, \mathrm{LPIPS}\big(E_i \cdot \mathrm{SR}_i,\; E_i \cdot \mathrm{HR}_i\big),\qquad
# S = (1, \tfrac12, \tfrac14, \tfrac18),\quad W = (.4, .3, .2, .1).$$
#
# LPIPS needs trained weights that do not come with this course. If they are not on disk, the distance is that of the
# course's own encoder, which was trained to label pixels of procedural scenes. Whatever is computed is printed under
# its name:

# %%
print(inspect.getsource(paper.hf_error_map_loss).split('"""')[2])
perceptual, distance_name = paper.perceptual_distance(models["map"].config.backbone)
print(f"distance: {distance_name}")
ours = override(paper.HFErrorMapConfig(), {"backbone": models["map"].config.backbone})
print(f"our reading: {ours}")

# %% [markdown]
# ### Step by step
#
# A real pair: what the student made of a crop (SR), and the clean crop (HR). The details are Haar's (notebook 03): of a
# block of pixels $a, b$ above $c, d$, cH $= (a + b - c - d)/2$ compares rows, cV $= (a - b + c - d)/2$ columns and
# cD $= (a - b - c + d)/2$ diagonals. They are shown as magnitudes, mean over colours, white at .5. Then: absolute
# differences, mean over bands and colours (the *error*), divided by its largest entry, each coefficient spread over its
# own 2 x 2 pixels (the map $E$), times both images in [-1, 1], where 0 is grey. Pictures show the middle half.

# %%
pair = [images.to_model_range(z[chosen[0] :][:1]) for z in (restored["student"], clean)]
steps = paper.error_map_steps(*pair, ours)
grey = lambda z: z.abs().mean(1, keepdim=True)  # noqa: E731
figure, axes = plots.subplots(2, 5, width=4.4, height=2.1)
halves = {"SR": (steps.restored, steps.restored_details, steps.restored_product),
          "HR": (steps.clean, steps.clean_details, steps.clean_product)}  # fmt: skip
for row, (name, (picture, details, product)) in zip(axes, halves.items(), strict=True):
    plots.image_axes(row[0], middle(picture), name, low=-1)
    for axis, band, label in zip(row[1:4], details[0], ("cH", "cV", "cD"), strict=True):
        plots.image_axes(axis, middle(grey(band)), f"|{label}|", high=0.5)
    plots.image_axes(row[4], middle(product), f"E x {name}")
bands = [(a - b).abs().mean().item() for a, b in zip(steps.restored_details[0], steps.clean_details[0], strict=True)]
text = f"mean difference of cH, cV, cD {', '.join(f'{v:.4g}' for v in bands)}; error up to {steps.error.max():.4g}"
show(figure, alt=f"Bands and products at scale 1: {text}, mean of the map {steps.map.mean():.4g}")

# %% [markdown]
# ### Exercise 2: the map (code, 10 minutes, medium)
#
# Write `own_map(restored, clean, floor)` for images (B, 3, H, W) in [-1, 1] with even sides: Haar details
# (`dwt2(x)` gives `cA, (cH, cV, cD)`), absolute differences, mean over bands and channels, every image divided
# by its own largest entry but at least by `floor`, and each entry over its own 2 x 2 pixels. Return (B, 1, H, W).


# %% tags=["solution"]
def own_map(restored, clean, floor):
    """E of two batches at scale 1, with Haar."""
    ### BEGIN SOLUTION
    details = [torch.cat(dwt2(x)[1], dim=1) for x in (restored, clean)]  # (B, 9, H/2, W/2)
    error = (details[0] - details[1]).abs().mean(1, keepdim=True)
    error = error / error.amax((1, 2, 3), keepdim=True).clamp(min=floor)
    return error.repeat_interleave(2, 2).repeat_interleave(2, 3)
    ### END SOLUTION


# %%
check("11.map", own_map)

# %% [markdown]
# The map at all four scales, every one over its own largest error (white is 1), and the terms of the sum.

# %%
weights = ours.scales_for(*pair[0].shape[-2:])
maps = {scale: paper.error_map_steps(*pair, ours, scale) for scale in weights}
figure, axes = plots.subplots(1, len(maps) + 1, width=5.2, height=1.25)
plots.image_axes(axes[0], middle(pair[0]), "SR", low=-1)
rows = {}
for axis, (scale, found) in zip(axes[1:], maps.items(), strict=True):
    plots.image_axes(axis, middle(found.map), f"E at {scale:g}")
    distance = perceptual(found.restored_product, found.clean_product).item()
    numbers = [found.error.mean().item(), found.error.max().item(), found.map.mean().item(), distance]
    rows[f"scale {scale:g}"] = [weights[scale], *numbers, weights[scale] * distance]
text = ", ".join(f"{row[3]:.4g}" for row in rows.values())
show(figure, alt=f"Maps of {len(maps)} scales, mean of E: {text}")
show_table(["W", "mean error", "largest", "mean E", "distance", "W x dist."], rows)
whole = paper.hf_error_map_loss(*pair, ours, perceptual)["loss"].item()
print(f"sum of the last column {sum(row[-1] for row in rows.values()):.4g}, the package's loss {whole:.4g}")

# %% [markdown]
# The largest error of each scale sets the measure for it: a single bad spot makes the rest of the map dark. Now turn
# the knobs: another wavelet, one band alone, another scale, another normalisation, another mode. Left the map (or the
# difference of the one band), right of it SR and HR as the distance sees them. When do the products look like
# pictures, and when like nothing at all?

# %%
BANDS = {"all": slice(0, 3), "cH": slice(0, 1), "cV": slice(1, 2), "cD": slice(2, 3)}


def view(figure, wavelet, band, scale, normalisation, mode):
    """Map and product of the pair above."""
    config = override(ours, {"wavelet": wavelet, "normalisation": normalisation, "mode": mode})
    found = paper.error_map_steps(*pair, config, scale)
    shown = found.map
    if band != "all":
        two = [torch.stack(d[0])[BANDS[band]] for d in (found.restored_details, found.clean_details)]
        shown = (two[0] - two[1]).abs().mean((0, 2))[:, None]
    distance = perceptual(found.restored_product, found.clean_product).item()
    panels = {"map" if band == "all" else f"difference of {band}": shown}
    panels |= {"SR product": found.restored_product, "HR product": found.clean_product}
    for axis, (title, panel) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        plots.image_axes(axis, middle(panel), title)
    return f"largest {shown.max():.4g}, mean {shown.mean():.4g}, {distance_name} {distance:.4g}"


base = {"wavelet": "haar", "band": "all", "scale": 1.0, "normalisation": "max", "mode": "literal"}
states = [base, base | {"wavelet": "db2", "scale": 0.5, "mode": "one_plus"}, base | {"normalisation": "none"}]
explore(view, size=(6.1, 0.95), states=states, wavelet=("haar", "db2", "bior2.2", "sym4"), band=list(BANDS),
        scale=(1.0, 0.5, 0.25, 0.125), normalisation=paper.NORMALISATIONS, mode=paper.MODES)  # fmt: skip

# %% [markdown]
# ### What the map cannot see
#
# $E$ knows details only. Give an image the wrong brightness, the same everywhere: all differences of neighbours are
# right, the map is empty, both products are grey, and the loss is 0. Below, the loss of this error, of a slow gradient
# from darker to brighter, and of a blur, by mode: `literal` (equation 1), `one_plus` (both images times $1 + E$) and
# `none` (no map: plain multi-scale distance, a control that the paper lacks). The last column takes the floor away
# from `literal`; the floor is the least that an error is divided by.

# %%
x = 0.6 * images.to_model_range(tuning[:2])  # room for a shift without clipping
ramp = torch.linspace(-0.25, 0.25, 128).expand(2, 3, 128, 128)
wrong = {"equal": x, "brighter by .25": x + 0.25, "slow gradient": x + ramp, "blurred": F.avg_pool2d(x, 3, 1, 1)}
modes = {mode: {"mode": mode} for mode in ("literal", "one_plus", "none")} | {"no floor": {"floor": 1e-12}}
rows = {}
for name, z in wrong.items():
    found = [paper.hf_error_map_loss(z, x, override(ours, o), perceptual)["loss"].item() for o in modes.values()]
    rows[name] = [value if value > 1e-7 else 0.0 for value in found]
print(distance_name)
show_table(list(modes), rows)

# %% [markdown]
# (Numbers below $10^{-7}$ are printed as 0.) Equation 1 alone cannot repair a wrong brightness; hence it is *added* to
# SinSR's losses, our reading of "not only the pixel error". Without a floor, an image whose details are right up to
# rounding gets its rounding errors stretched to a full map, and a loss for nothing. The gradient shows the same
# stretching *above* the floor: its details are wrong by four thousandths, the same everywhere, so the largest error is
# everywhere, $E$ is 1 nearly everywhere, and the loss is about that without a map. The map says where an image is worst
# compared with itself, not how bad that is.
#
# ### Exercise 3: the floor (predict, 5 minutes, medium)
#
# SR equals HR but for **one pixel**, whose red value is wrong by **.003** (in [-1, 1]). The floor is .001,
# normalisation `max`. What is $E$ at the pixel *diagonally* opposite in the same 2 x 2 block? Answer with a number.

# %% tags=["solution"]
### BEGIN SOLUTION
floor_answer = 0.5
### END SOLUTION

# %%
check("11.floor", floor_answer)

# %% [markdown]
# ### Why no gradient through the map
#
# $E$ depends on SR. If the gradient may pass through it, there are two ways to lower the loss: make SR right, or make
# $E$ smaller where the products differ. The second needs no right detail. Test it without any network to train: take
# blurred, discoloured crops and let Adam change their *pixels* so as to lower the loss, for a few steps, under several
# readings. This is no proof about training, but it is quick, and it isolates the loss.


# %%
def polish(options, steps, rate=0.02):
    """Blurred and discoloured crops after some steps of Adam on their pixels; in [0, 1]."""
    config = override(ours, options)
    z = begin.clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        paper.hf_error_map_loss(z, goal, config, perceptual)["loss"].backward()
        adam.step()
    return images.to_unit_range(z.detach())


goal = images.to_model_range(torch.cat([tuning[0:1, :, 32:96, 32:96], tuning[3:4, :, 32:96, 32:96]]))
small = F.interpolate(goal, scale_factor=0.25, mode="bicubic", antialias=True)
begin = (F.interpolate(small, scale_factor=4, mode="bicubic") + torch.tensor([0.2, -0.1, -0.2]).view(1, 3, 1, 1)).clamp(
    -1, 1
)
readings = {"no map (control)": {"mode": "none"}, "E, detached (default)": {}, "1 + E": {"mode": "one_plus"}}
readings |= {"E not normalised": {"normalisation": "none"}, "E in [0, 1]": {"domain": "unit"}}
readings |= {"gradient through E": {"detach": False}}
polished = {"start": images.to_unit_range(begin)} | {n: polish(o, pixel_steps) for n, o in readings.items()}

# %%
target = images.to_unit_range(goal)
rows = {name: [s for i, s in enumerate(scores(z, target)) if i != 1] for name, z in polished.items()}
print(f"{pixel_steps} steps on the {distance_name}, means of two crops")
show_table(["PSNR (dB)", "HF energy", "HF error"], rows)
panels = {"start": "start", "no map": "no map (control)", "detached": "E, detached (default)"}
panels["through E"] = "gradient through E"
pictures = [*(polished[name][1:] for name in panels.values()), target[1:]]
figure = plots.image_row(pictures, [*panels, "clean"], width=3.8)
text = ", ".join(f"{title} {rows[name][1]:.4g}" for title, name in panels.items())
show(figure, alt=f"Pixels after {pixel_steps} steps; HF energy ratio, mean of both crops: {text}")
for a, b in (("gradient through E", "E, detached (default)"), ("E, detached (default)", "no map (control)")):
    print(f"{a} minus {b}: " + ", ".join(f"{x - y:.4g}" for x, y in zip(rows[a], rows[b], strict=True)))

# %% [markdown]
# Compare the last row of the table with the default, in all three columns: the two differ in nothing but the gradient.
# Through $E$ the pixels go astray; whether they end too smooth or too rough depends on the distance, but the error of
# their detail stays high. Then compare the default with the control: that is what the *map* is worth here, in a
# distance that pulls towards the clean image anyway. Two crops are an anecdote; notebook 12 asks the question with
# trained networks and seeds.
#
# ### Why not LPIPS with random weights
#
# The `lpips` package runs without the trained trunk, if one asks for random weights, and prints nothing suspicious. Its
# numbers look like distances. The same can be done to our encoder: same construction, same layers, never trained. How
# far are four damaged versions of the same crops from the original?


# %%
def random_encoder(number):
    """The course's encoder as it was before its training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        return features.FeatureEncoder(features.load_encoder().config).requires_grad_(False)


encoders = {"trained": features.load_encoder()} | {f"random {i}": random_encoder(i) for i in range(3)}
grain = 0.025 * diffusion.randn(tuning.shape, diffusion.BatchGenerator(seed, 4))
damaged = {"bicubic": bicubic(tuning_lq), "noise, sd .025": tuning + grain}
damaged |= {"brighter by .1": tuning + 0.1, "one pixel to the right": tuning.roll(1, 3)}
rows = {}
for name, z in damaged.items():
    pictures = z.clamp(0, 1), tuning
    rows[name] = [features.perceptual_distance(e, *pictures).mean().item() for e in encoders.values()]
show_table(list(encoders), rows)
order = {column: sorted(rows, key=lambda name, i=i: rows[name][i]) for i, column in enumerate(encoders)}
print("nearest to farthest: " + "; ".join(f"{n}: {', '.join(r.split(',')[0] for r in o)}" for n, o in order.items()))

# %% [markdown]
# The trained encoder and the random ones disagree about what is near and what is far, and the random ones do so among
# themselves. The columns do not share a scale either, so no number of one may stand beside a number of another, or
# beside a published LPIPS. Random features can still be *useful* to compare with (they see edges and textures after
# all), but they were never asked what people find similar. Hence the rule of this course: no LPIPS without its weights,
# and every distance under its own name.
#
# ## Train it small
#
# Training with the map is SinSR's training with a fourth loss. The student's prediction is decoded with gradients,
# straight through the codebook where one is used; then come the four scales.

# %%
print(inspect.getsource(paper.HFErrorMap.training_losses).split('"""')[2])
if quick:  # teachers from scratch, and the map from the shipped student; seconds each
    fits["teacher"] = trained("teacher", stage="teacher")[1]
    fits["teacher, output x_0"] = trained("teacher", folder="x0", stage="teacher", prediction="x0")[1]
    like = {name: getattr(models["student"].config, name) for name in ("latent_size", "attention_sizes")}
    fits["map"] = trained("map", SHIPPED["student"], batch_size=2, learning_rate=2e-4, **like)[1]

# %%
figure, axes = plots.subplots(1, len(fits), width=7, height=2.3)
text = []
for axis, (name, fit) in zip(axes, fits.items(), strict=True):
    window = max(fit.steps_done // 20, 1)
    for key in [key for key in ("loss", "distill", "inverse", "gt", "hf") if key in fit.history]:
        curve = torch.tensor(fit.history[key])
        smooth = curve[: len(curve) // window * window].reshape(-1, window).mean(1)
        axis.plot(torch.arange(len(smooth)) * window + window / 2, smooth, label=key)
        text.append(f"{name} {key} {smooth[0]:.4g} to {smooth[-1]:.4g}")
    axis.set(title=f"{name}: {fit.steps_done} steps", xlabel="training step", yscale="log")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
show(figure, alt="; ".join(text))

# %% [markdown]
# At `quick` the left curves are teachers from random weights, with the residual and with $x_0$ as output: compare where
# they begin. The right one is so few steps that nothing but the noise of the batches moves. Note the sizes:
# `inverse` is the largest part of the sum, `hf` is of another kind than the others (a distance of features, not a squared latent), and its weight, 1, is a choice that nothing in the paper fixes.
#
# ## Does it help here?
#
# The 24 crops from the beginning, in five measures. The last is the course's feature distance, which the map network
# was trained on if LPIPS was not there: to be good in it is no news. Means over crops.

# %%
ids = ("psnr", "haarpsi", "high_frequency_energy_ratio", "high_frequency_error")
values = {name: metrics.evaluate(z, clean, ids) for name, z in restored.items()}
encoder = features.load_encoder()
for name, z in restored.items():
    values[name]["course feature distance"] = features.perceptual_distance(encoder, z, clean).double()
COLUMNS = [*SCORES, "course feat."]
show_table(COLUMNS, {name: [v.mean().item() for v in found.values()] for name, found in values.items()})
for a, b in (("teacher", "bicubic"), ("student", "teacher"), ("map", "student"), ("map", "bicubic")):
    print(f"{a} minus {b}:")
    for label, key in zip(COLUMNS, values[a], strict=True):
        found = clustered_intervals(values[a][key] - values[b][key], photo, seed)
        ends = f"t [{significant(found[1].low)}, {significant(found[1].high)}]"
        print(f"  {label:<12} {found[0]}, {ends}: {verdict(*found)}")

# %% [markdown]
# "Above" and "below" are said only if both intervals, bootstrap and t over the six photographs, agree (notebook 01).
# They cover other photographs, **not other trainings**: there is one network of each kind here. Whether the *map* made
# the difference between the last two networks, or merely the additional steps, or the seed, cannot be seen in this
# table. Notebook 12 trains the controls.
#
# Photograph by photograph, HaarPSI against bicubic, the baseline that costs nothing:

# %%
gain = {}
for name in models:
    difference = values[name]["haarpsi"] - values["bicubic"]["haarpsi"]
    gain[name] = {n: difference[[m == n for m in photo]].mean().item() for n in photos.EVALUATION}
figure, axis = plots.subplots(width=6.2, height=2.4)
for i, (name, found) in enumerate(gain.items()):
    axis.bar([j + 0.27 * (i - 1) for j in range(len(found))], found.values(), width=0.25, label=name)
axis.axhline(0, color="k", lw=0.8)
axis.set_xticks(range(len(photos.EVALUATION)), photos.EVALUATION, fontsize=7)
axis.set(title="HaarPSI minus that of bicubic, means of four crops", ylabel="difference")
axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
text = "; ".join(f"{name} {', '.join(f'{v:.4g}' for v in found.values())}" for name, found in gain.items())
show(figure, alt=f"HaarPSI over bicubic for {', '.join(photos.EVALUATION)}: {text}")
print("crops on which it is better than bicubic, of 24: " + ", ".join(
    f"{n} {int((values[n]['haarpsi'] > values['bicubic']['haarpsi']).sum())}" for n in models))  # fmt: skip

# %%
shown = [9, 17]  # coffee and motorcycle
grid = [[middle(z[i : i + 1]) for z in (*restored.values(), clean)] for i in shown]
figure = plots.image_grid(grid, [*restored, "clean"], [photo[i] for i in shown], width=4)
pairs = {n: [values[n][key][shown].mean().item() for key in ids[2:]] for n in restored}
text = "; ".join(f"{n} {a:.4g} and {b:.4g}" for n, (a, b) in pairs.items())
show(figure, alt=f"Two more crops; HF energy ratio and HF error, means of both: {text}")

# %% [markdown]
# ### Exercise 4: criticise (5 minutes, medium)
#
# A report says: "With the error map the high-frequency energy of our results rises from .7 of the clean images' to 1.0,
# and no-reference scores, which like sharp pictures, rise as well. Hence the map restores detail." Nothing else is
# reported. What is the strongest objection?
#
# - **a** PSNR should have been reported, because it is the sharpest measure
# - **b** energy says how much detail there is, not whether it is the right one; the error of the detail may have risen
#   as well
# - **c** a pixel experiment would have been enough
# - **d** five seeds are missing

# %% tags=["solution"]
### BEGIN SOLUTION
detail_answer = "b"
### END SOLUTION

# %%
check("11.detail", detail_answer)

# %% [markdown]
# White noise of the right strength has an energy ratio of 1, too, and an error of 2. Read the two columns of the table
# above as a pair, for every row.
#
# ## What the paper leaves open
#
# Every choice is an option of `HFErrorMapConfig`. What does each change, on one fixed pair of batches (the student's
# results on `china` and `flower`)? "change of E": mean absolute difference from the default map at scale 1, relative to
# its mean. "cosine": between the gradients of the loss with respect to the restored pixels, and the default's.

# %%
choices = {
    "default": {}, "wavelet db2": {"wavelet": "db2"}, "wavelet bior2.2": {"wavelet": "bior2.2"},
    "wavelet sym4": {"wavelet": "sym4"}, "levels 2": {"levels": 2}, "resize bilinear": {"resize": "bilinear"},
    "resize area": {"resize": "area"}, "colour luma": {"colour": "luma"}, "colour channels": {"colour": "channels"},
    "difference squared": {"difference": "squared"}, "difference charbonnier": {"difference": "charbonnier"},
    "merge max": {"merge": "max"}, "merge half_diagonal": {"merge": "half_diagonal"},
    "merge root_sum_squares": {"merge": "root_sum_squares"}, "normalisation mean": {"normalisation": "mean"},
    "normalisation none": {"normalisation": "none"}, "detach False": {"detach": False},
    "domain unit": {"domain": "unit"}, "mode one_plus": {"mode": "one_plus"}, "mode none": {"mode": "none"},
    "scale 1 only": {"scales": (1.0,), "weights": (1.0,)}, "weights equal": {"weights": (0.25,) * 4},
    "weights reversed": {"weights": (0.1, 0.2, 0.3, 0.4)},
    "one image, 4 levels": {"scales": (1.0,), "weights": (1.0,), "levels": 4},
}  # fmt: skip
student = models["student"]
rough = images.to_model_range(recipes.restore(student, tuning_lq[::2], seed=seed))
fine = images.to_model_range(tuning[::2])


def reading(options):
    """Loss, map at scale 1, and gradient with respect to the restored pixels."""
    config, z = override(ours, options), rough.clone().requires_grad_()
    loss = paper.hf_error_map_loss(z, fine, config, perceptual)["loss"]
    return loss.item(), paper.error_map(rough, fine, config), torch.autograd.grad(loss, z)[0].flatten()


# %%
found = {name: reading(options) for name, options in choices.items()}
loss0, map0, slope0 = found["default"]
rows = {}
for name, (loss, E, slope) in found.items():
    change = ((E - map0).abs().mean() / map0.mean()).item()
    rows[name] = [loss, E.mean().item(), change, (slope.norm() / slope0.norm()).item(),
                  F.cosine_similarity(slope, slope0, dim=0).item()]  # fmt: skip
print(f"distance: {distance_name}")
show_table(["loss", "mean E", "change of E", "gradient", "cosine"], rows)
nearest = sorted((n for n in rows if n != "default"), key=lambda n: rows[n][-1])
print(f"farthest in direction: {', '.join(nearest[:4])}; nearest: {', '.join(nearest[-4:])}")

# %% [markdown]
# Merging by `sum` is three times the mean, and the same after normalising by the largest entry; `max` and `mean` differ
# in how dark the map is. Read the last column: a cosine near 1 means that the reading would train alike, whatever its
# loss is called. A loss of another size only asks for another weight. Those at the end of the list are other methods.
#
# Options of the networks below the map, on two of these crops. Nothing is trained again: each row changes one setting
# of a trained network when it *restores*. "moves" is the root mean square change of the result, of 255.


# %%
def changed(model, **options):
    """A copy of a model with other settings and the same weights."""
    other = with_network(model, **options)
    other.config = override(model.config, options)
    return other


# %%
variants = {
    "eta_T .999 for .9801": (changed(teacher, sqrt_eta_end=0.999**0.5), {}),
    "m .2 for .04": (changed(teacher, min_noise_level=0.2), {}),
    "m .2, clamp v2": (changed(teacher, min_noise_level=0.2, clamp="v2"), {}),
    "input_scale pixel": (changed(teacher, input_scale="pixel"), {}),
    "kappa 1 for 2": (changed(teacher, kappa=1.0), {}),
    f"{T - 1} calls, released": (teacher, {"steps": T - 1, "spacing": "released"}),
    f"{T - 1} calls, trailing": (teacher, {"steps": T - 1}), "legacy_mask": (changed(teacher, legacy_mask=True), {}),
    "quantise": (changed(teacher, quantise=True), {}), "deterministic": (teacher, {"deterministic": True}),
    "student: legacy_mask": (changed(student, legacy_mask=True), {}),
    "student: quantise": (changed(student, quantise=True), {}),
}  # fmt: skip

# %%
two_lq, two = tuning_lq[::2], tuning[::2]
plain = {name: recipes.restore(models[name], two_lq, seed=seed) for name in ("teacher", "student")}
rows = {name: [0.0, *scores(z, two)] for name, z in plain.items()}
for name, (model, options) in variants.items():
    z = recipes.restore(model, two_lq, seed=seed, **options)
    moved = 255 * (z - plain["student" if name.startswith("student") else "teacher"]).square().mean().sqrt()
    rows[name] = [moved.item(), *scores(z, two)]
show_table(["moves", *SCORES], rows)
print("released settings:", ", ".join(f"{name} = {value}" for name, value in resshift.OFFICIAL.items()))

# %% [markdown]
# The first rows give a network another schedule than its own, as when two code bases are mixed. None says so: the
# result is another one, and whether it is better or worse here says nothing about a network that is trained that way.
# Rounding to the codebook loses more than the chain gains over bicubic; hence `quantise` is off in ours.
#
# | | papers | released codes | option, our default | where measured |
# |---|---|---|---|---|
# | $\eta_T$ | .999 | $\sqrt{\eta_T} = .99$, so .9801 | `sqrt_eta_end`: .99 | last table |
# | first step | $\min((m/\kappa)^2, .001)$ | now: no clamp; SinSR and v2: clamp | `clamp`: `journal` | *Schedule*, last table |
# | which steps of fewer | | from 0 upwards | `spacing`: `trailing` | *Fewer calls*, last table |
# | scaling of the input | not in the main text | yes | `input_scale`: `latent` | *Input scaling*, last table |
# | mask of shifted windows | Swin's | rows into the wrong axis | `legacy_mask`: off | *The network*, last table |
# | scaling in SinSR's two roles | | always that of the last step | as released | not measured |
# | codebook in decoding | yes | yes, gradient straight through | `quantise`: on at full size, off in ours | last table |
# | wavelet, levels, resize, colours, difference, merge, range | nothing said | none | see its config | table before |
# | gradient through the map | nothing said | none | `detach`: on | *Why no gradient* |
# | product | "multiplied" | none | `mode`: `literal`, `domain`: `model` | *What the map cannot see*, table before |
# | total loss | "not only the pixel error" | none | `objective`: `add`; `hf_weight`: 1 | notebook 12 |
# | LPIPS | backbone not named | VGG in ResShift's and SinSR's trainers | `backbone`: `vgg`, else the course's | |
# | what is restored at test time | SinSR | | as SinSR: the map costs nothing then | cost card |
#
# ## What it costs


# %%
def counted(model):
    """Multiply-adds of restoring one crop of 32 to 128 pixels."""
    with FlopCounterMode(display=False) as counter:
        recipes.restore(model, lq[:1])
    return counter.get_total_flops() // 2


measured = {}
for name, model in models.items():
    began = time.perf_counter()
    recipes.restore(model, lq[:1])
    measured[f"seconds for one crop, {name}"] = time.perf_counter() - began
    measured[f"training, {name} (s)"] = cards[name]["wall_time_s"]
measured["trained on"] = cards["map"]["device"]
fixed = {f"parameters, {name}": card["parameters"] for name, card in cards.items()}
fixed |= {f"MACs, {name}": counted(model) for name, model in models.items()}
fixed["calls of the teacher"] = T
show_cost("Enlarging one crop to 128 x 128", fixed, measured)

# %% [markdown]
# The student's saving is less than the number of calls: encoder and decoder are paid once by both.
#
# ## You can now
# - write a diffusion whose end is the low-quality image, and check its posterior with a grid and no algebra;
# - spot a schedule, a spacing or a mask that does not belong to the weights at hand;
# - distil a deterministic chain into one call, and read its three losses;
# - build the error map, say what it is blind to, and why it must be detached;
# - ask of any "sharper" result: how much detail, and how much of it is right?
#
# **Try next**: `minirestore restore --method hf_error_map` with a small photograph of your own; `minirestore train
# hf_error_map --set mode=one_plus --start resshift_student`, or `--set detach=false`. **Next**: 12 trains the controls
# that the paper lacks (no map, one scale, literal equation 1) with seeds, and judges its claims.
#
# **References**: Z. Yue, J. Wang and C. C. Loy, *ResShift: efficient diffusion model for image super-resolution by
# residual shifting*, NeurIPS 2023 (arXiv 2307.12348); journal version arXiv 2403.07319. Y. Wang et al., *SinSR:
# diffusion-based image super-resolution in a single step*, CVPR 2024. Seo and Lee, *Diffusion SR with multi-scale high
# frequency error maps*. Z. Liu et al., *Swin transformer*, ICCV 2021. R. Zhang et al., *The unreasonable effectiveness
# of deep features as a perceptual metric*, CVPR 2018. P. Esser, R. Rombach and B. Ommer, *Taming transformers for
# high-resolution image synthesis*, CVPR 2021.
