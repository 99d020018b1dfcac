# %% [markdown]
# # 10 C2F-DFT: does it hold?
#
# **You will be able to**
# - put a two-stage method beside the controls that spend the same budget without the first stage;
# - say what is left of a diffusion model after it was trained through its own four-step sampler;
# - say what an oracle experiment proves;
# - show by two gradients that a term of a loss does nothing;
# - read all of the paper's claims, with intervals, and say which are open.
#
# **You need** only a CPU: about 40 seconds for all cells, about two hours for you. Notebook 09 builds the method that
# is judged here, 08 explains the ledger and its verdicts, 01 intervals. The profile `reduced` trains the four networks
# again and goes on with the open claims: minutes on a GPU.

# %% tags=["parameters"]
profile = "quick"
seed = 0
steps = 200
fine_steps = 60
samples = 6
minutes = 0.0

# %% tags=["setup"]
import math
import textwrap

import torch
import torch.nn.functional as F

from minirestore import claims, degradations, diffusion, images, metrics, photos, plots, recipes, statistics
from minirestore.checkpoints import read_card
from minirestore.claims import c2f_dft as tested
from minirestore.claims.report import effect_text
from minirestore.claims.shared import crop_names, mean_of, seeds_of
from minirestore.exercises import check
from minirestore.papers import c2f_dft as paper
from minirestore.plots import show, show_cost, show_table
from minirestore.widgets import explore

PAPER = "c2f_dft"

# %% [markdown]
# ## The idea as a picture
#
# The paper trains a diffusion transformer twice: coarse, on the noise of single steps; then fine, on the image that
# four calls of the sampler make together. Four trained networks come with the course: `coarse` and `fine` remove rain,
# the second started from the first; `denoise` and `deblur` went through both stages for their task. Below is what each
# of the four calls believes the clean picture to be. The third row cheats: its first call is answered by an **oracle**
# that knows the clean picture and answers with the noise that would make $x_T$ a noisy version of it. We come back to
# it.

# %%
quick = profile == "quick"
device = "cpu" if quick else "auto"
kinds = {"coarse": ("derain", "coarse", "_coarse"), "fine": ("derain", "fine", "")}
kinds |= {task: (task, "fine", f"_{task}") for task in ("denoise", "deblur")}


def trained(task, stage):
    """Path of a stage's network, trained now unless it is there; the fine stage starts from the coarse one."""
    folder = f"../runs/09-{profile}-{steps}-{fine_steps}-{seed}/{task}-{stage}"
    settings = {"task": task, "stage": stage, "steps": steps if stage == "coarse" else fine_steps, "seed": seed}
    start = trained(task, "coarse") if stage == "fine" else None
    recipes.train(PAPER, profile, settings, run_dir=folder, device=device, start=start)
    return f"{folder}/{PAPER}.safetensors"


models, cards = {}, {}
for name, (task, stage, suffix) in kinds.items():
    path = f"{PAPER}{suffix}" if quick else trained(task, stage)
    models[name], cards[name] = recipes.load_method(PAPER, path, device), read_card(path)
    print(f"{name:<8} {cards[name]['parameters']:>8,} parameters, {cards[name]['steps']} steps of its last stage")

# %%
crops = crop_names("light")  # two crops of each evaluation photograph, of the rocket one
pairs = [tested.pair(name, seed) for name in crops]
clean, rainy = (torch.cat(part) for part in zip(*pairs, strict=True))
photo = [name.split("/")[0] for name in crops]
schedule, times = paper.make_schedule(models["fine"].config), tested.NODES


def beliefs(model, y, x=None):
    """The clean image that every call predicts, in [0, 1]; with ``x`` the first call is answered by the oracle."""
    where = next(model.parameters()).device
    y, x = (z if z is None else images.to_model_range(z).to(where) for z in (y, x))

    def predict(y, x_t, t):
        known = x is not None and t[0] == times[0]
        return diffusion.eps_from_x0(x_t, x, schedule[times[0]]) if known else model(y, x_t, t)

    found, first = [], diffusion.randn(y.shape, diffusion.BatchGenerator(10 + seed, 0), where)
    with torch.no_grad():
        paper.implicit_chain(predict, y, first, schedule, times, callback=lambda call, x_t, x0: found.append(x0.cpu()))
    return [images.to_unit_range(x0) for x0 in found]


# %%
at = crops.index("motorcycle/1/light")
window = (slice(at, at + 1), slice(None), slice(16, 112), slice(16, 112))
x, y = clean[window], rainy[window]
chains = {"coarse": beliefs(models["coarse"], y), "fine": beliefs(models["fine"], y)}
chains["oracle"] = beliefs(models["coarse"], y, x)
rows = [[y, *chain, x] for chain in chains.values()]
figure = plots.image_grid(rows, ["rainy", *(f"t = {t}" for t in times), "clean"], list(chains), width=4.4)
text = "; ".join(f"{n} " + ", ".join(f"{metrics.psnr(z, x).item():.4g}" for z in c) for n, c in chains.items())
before = metrics.psnr(y, x).item()
show(figure, alt=f"Predicted clean image after every call; PSNR in dB, input {before:.4g}: {text}")

# %% [markdown]
# The last column before `clean` is the result. Follow the first row: the first call is asked for the noise in a picture
# that is all noise, and there a small error of the noise is, about 157 times as large, an error of the picture shown
# ($\sigma_{999}$, notebook 09). The fine stage does not ask for noise at all, only for a good last picture. The
# oracle's first picture is the clean one; but of it the sample at $t = 666$ keeps only a tenth, under noise, and the
# second call has to guess again.
#
# ## Reading the paper's numbers
#
# Table images of the released repository give PSNR in dB. First check that the printed averages are those of their
# rows, then look at what changes between a test set like the training data and one that is not. GoPro's blur is made
# from sharp video frames; RealBlur's comes from a shaken camera (-R from raw files, -J from JPEG).

# %%
rain_sets = {"C2F-DFT": [31.38, 31.62, 39.03, 34.03], "Restormer": [32.00, 31.46, 38.99, 34.18]}
printed = {"C2F-DFT": 34.01, "Restormer": 34.15}
for name, values in rain_sets.items():
    print(f"{name:<10} mean of four rain test sets {sum(values) / 4:.5g}, printed {printed[name]}")
blur = {"C2F-DFT": [31.96, 36.34, 28.90], "Restormer": [32.92, 36.19, 28.96], "NAFNet": [33.71, 35.97, 28.31]}
blur["IR-SDE"] = [30.70, 33.96, 24.21]
columns = ["GoPro", "RealBlur-R", "RealBlur-J"]
show_table(columns, blur)
gap = [a - b for a, b in zip(blur["C2F-DFT"], blur["Restormer"], strict=True)]
show_table(columns, {"C2F-DFT - Restormer": gap, "less that on GoPro": [value - gap[0] for value in gap]})

# %% [markdown]
# The averages agree up to rounding. IR-SDE is the diffusion model of the comparison. Against
# it the method is clearly ahead. Against **Restormer**, a regressor of about the same size and build, it is behind
# where training and test data are alike (rain, GoPro) and level or slightly ahead on RealBlur, which neither has seen.
# Restormer is asked once, C2F-DFT four times. Each entry is one trained network: no seeds, no intervals.
#
# So the tables raise two questions that they cannot answer: *what does the diffusion buy*, when a regressor of the same
# build is as good? And is the method really *more robust* (last row)? Both need controls that share everything else.
#
# ## What the main claim needs
#
# "Fine training improves restoration" compares a network with itself after *more training*. These are the arms:
#
# | arm | first | then | calls at test | objection it answers |
# |---|---|---|---|---|
# | coarse | noise prediction | | 4 | |
# | coarse, as long | noise prediction, longer | | 4 | "any longer training would have gained that" |
# | fine | noise prediction | the sampler's result | 4 | |
# | unrolled from scratch | | the sampler's result | 4 | "the coarse stage was wasted" |
# | regression | | the image, asked once: $y + \mathrm{DFT}(y, 0, t{=}0)$ | 1 | "diffusion is not needed" |
#
# The last two and the second are ours; we know of no such comparison in the paper. All but `coarse`, which is where
# `fine` begins, get the **same budget**, counted in network evaluations of a batch: one fine step makes four. Every arm
# has its own schedule from warm-up to zero; learning rates peak at .001, in a fine stage after a coarse one at .0005.
#
# ### Exercise 1: the same budget (code, 8 minutes, easy)
#
# Write `control_steps(stages, calls)`. `stages` lists the stages of the method as pairs (steps, network calls a step);
# return how many steps a control with `calls` calls a step may take on the same number of evaluations (rounded down).


# %% tags=["solution"]
def control_steps(stages, calls):
    """Whole steps of a control that makes as many network evaluations as all the stages together."""
    ### BEGIN SOLUTION
    return sum(count * each for count, each in stages) // calls
    ### END SOLUTION


# %%
check("10.budget", control_steps)

# %%
ledger = claims.load_claims()
headline = ledger["c2f.C1"]
print(f"{headline.id}: {headline.statement} The paper: {headline.paper_effect}")
print(f"contrast   {headline.contrast} ({headline.unit}), smallest effect of interest {headline.smallest:g}")
print(f"data       {', '.join(headline.protocol.data)}; {len(headline.protocol.seeds)} training seeds")
for arm in headline.protocol.arms:
    stages = tested.training_stages(headline.protocol.settings, arm, 0)
    each = [run["steps"] * (4 if run["stage"] == "fine" else 1) for run in stages]
    said = ", then ".join(f"{run['steps']} {run['stage']} steps" for run in stages)
    print(f"{arm:<22} {said}: {sum(each)} evaluations")

# %% [markdown]
# This is a small network on a small budget, smaller than that of the shipped networks. What it shows holds for this
# budget; a longer or larger training may reorder the arms.
#
# ## The main claim with its controls (C1, C10)
#
# Every number below comes from the ledger. A few helpers first: rows of a claim, intervals over training seeds, and a
# sentence that depends on the verdict and nothing else. Where a claim has not been measured, they say how to do so.

# %%
if minutes > 0:  # profiles reduced and full: go on with the claims that have no results
    claims.run_claims([], PAPER, minutes=minutes)

# %%
standing = {row["id"]: row for row in claims.status_rows(PAPER)}


def current(*ids):
    """Rows of the first of the claims that has current results; without any, say how to measure them."""
    for name in ids:
        if standing[name]["effect"] is not None:
            return claims.read_results(name).rows
    print("\n".join(f"{name}: {standing[name]['verdict']}; {standing[name]['command']}" for name in ids))
    return ()


def over_seeds(rows, metric, arm, minus=None, condition=""):
    """t interval over training seeds of an arm's mean, or of the paired difference of two arms."""
    values = [mean_of(rows, metric, s, arm, condition) for s in seeds_of(rows)]
    other = [mean_of(rows, metric, s, minus, condition) if minus else 0.0 for s in seeds_of(rows)]
    return statistics.t_interval([a - b for a, b in zip(values, other, strict=True)])


def say(name, **readings):
    """Print a claim's effect and verdict, and the reading that belongs to this verdict."""
    row = standing[name]
    print(f"{name}: {row['contrast']}: {effect_text(row)}: {row['verdict']}")
    if reading := readings.get(row["verdict"].replace(" ", "_")):
        print(textwrap.fill(reading, 112))


# %%
main = current("c2f.C1")
labels = {"coarse": "coarse", "coarse, as long": "coarse,\nas long", "fine": "coarse,\nthen fine"}
labels |= {"unrolled from scratch": "unrolled\nfrom scratch", "regression": "regression\n(one call)"}
if main:
    figure, axes = plots.subplots(1, 2, width=7.6, height=2.8)
    text = {"psnr": [], "spread": []}
    for i, arm in enumerate(labels):
        for part, metric in zip(axes, text, strict=True):
            found = over_seeds(main, metric, arm)
            seeds = [mean_of(main, metric, s, arm) for s in seeds_of(main)]
            part.plot([i + 0.2] * len(seeds), seeds, ".", color="0.6")
            part.errorbar(i, found.mean, found.high - found.mean, fmt="o", capsize=4, color=plots.COLOURS[i])
            text[metric].append(f"{arm} {found}")
    axes[0].set(title="Five trainings, four of one budget", ylabel="PSNR (dB)")
    axes[1].set(title="How much samples differ", ylabel="sd over first noise (of 255)")
    for part in axes:
        part.set_xticks(range(len(labels)), labels.values(), fontsize=7)
    show(figure, alt=f"PSNR in dB: {'; '.join(text['psnr'])}. Spread over x_T: {'; '.join(text['spread'])}")

# %%
if main:
    mean = {arm: over_seeds(main, "psnr", arm).mean for arm in labels}
    print("from worst to best:", " < ".join(f"{arm} {mean[arm]:.4g}" for arm in sorted(mean, key=mean.get)), "dB")
    for rival in [arm for arm in labels if arm != "fine"]:
        print(f"fine - {rival:<22} {over_seeds(main, 'psnr', 'fine', rival)} dB")
    ratio = over_seeds(main, "spread", "coarse").mean / max(over_seeds(main, "spread", "fine").mean, 1e-9)
    print(f"spread of samples, coarse / fine: {ratio:.4g}")
say(
    "c2f.C1",
    supported="Fine training pays: it beats more of the same coarse training.",
    contradicted="Fine training gains less than the smallest effect over more of the same coarse training.",
    not_resolved="Whether fine training beats more coarse training by an amount that matters is open.",
)
say("c2f.C10", supported="On this budget the coarse stage earns its share: without it the same sampler ends lower.",
    contradicted="The coarse stage gains less than .2 dB, or loses: on this budget, spend it on the second stage.",
    not_resolved="Whether the coarse stage earns its share is open at this budget.")  # fmt: skip

# %% [markdown]
# ### What this means
#
# Points are means, lines 95 % intervals over training seeds, grey dots the seeds (C10 has three of the five). The first
# and the third arm are the paper's claim, the second the objection that fine training is also *more* training; with all
# five, the question changes. How to read either outcome:
#
# | if ... | then |
# |---|---|
# | coarse, as long, comes near fine | the gain was a matter of steps, not of the stage |
# | coarse, as long, stays well below fine | the gain is the stage's, not that of more steps |
# | unrolled from scratch is above fine | the coarse stage's evaluations are better spent on steps through the sampler |
# | it is below fine | coarse pre-training pays here |
# | regression is above both | for fidelity alone, neither noise nor four calls are needed here |
#
# Why may a control win? With $\eta = 0$ the sampler adds no noise after $x_T$, and fine training asks only for
# the last image. What remains is **one deterministic function of $y$ and $x_T$**: four stages with shared weights, told
# their number by $t$, joined by fixed linear steps. That is a recurrent regressor, a cousin of *unrolled optimisation*,
# where the steps of an iterative solver become layers and are trained by their end result. The loss rewards it for
# ignoring $x_T$, since the best answer to a distance is one answer (notebook 05): the right panel shows how far that
# went. A regressor has no $x_T$ to ignore.
#
# What the figure does **not** settle is whether coarse pre-training pays at full size. A coarse stage learns from every
# noise level, and its advantage, if any, should grow with data and size. For that one would need the published network
# on Rain13K; all arms at *several* equal budgets, to see whether their curves cross; five seeds each; a smallest
# effect chosen beforehand; and a measure beside PSNR, or the spread that coarse training has is worth nothing by
# construction.
#
# ### Exercise 2: criticise (5 minutes, medium)
#
# A report says: "Five seeds: coarse-to-fine training gains 2.3 dB over the coarse model, interval [2.1, 2.5], with the
# same four calls. So pre-training by diffusion is a good way to train a restorer." What is the strongest objection?
#
# - **a** five seeds are too few for an interval
# - **b** no arm spends the budget on other than noise prediction first: unrolled training alone might do as well
# - **c** PSNR is blind to realism
# - **d** four calls are too few for a diffusion model

# %% tags=["solution"]
### BEGIN SOLUTION
controls_answer = "b"
### END SOLUTION

# %%
check("10.controls", controls_answer)

# %% [markdown]
# ## The shipped networks, photograph by photograph
#
# Computed now, from the shipped weights: light rain on two textured crops of each evaluation photograph (of the rocket
# one), four calls, the same first noise. Bars fixed before training: fine more than .5 dB above coarse; coarse, and the
# networks of the other tasks, more than .5 dB above their input. As in notebook 08, intervals over photographs cannot
# speak about other training seeds: that is C1's part.

# %%
noisy = degradations.gaussian_noise(clean, recipes.NOISE_SIGMA, 700 + seed)
blurry = degradations.random_blur(clean, 700 + seed, degradations.BLUR_DOMAINS["linear"])
inputs = {"coarse": rainy, "fine": rainy, "denoise": noisy, "deblur": blurry}
restored = {"rainy": rainy, "noisy": noisy, "blurry": blurry}
restored |= {name: recipes.restore(models[name], y, seed=20 + seed) for name, y in inputs.items()}
columns = ("rainy", "coarse", "fine", "noisy", "denoise", "blurry", "deblur")
psnr = {name: metrics.psnr(restored[name], clean) for name in columns}


def per_photograph(values):
    """Mean over the crops of every photograph."""
    return [values[[i for i, n in enumerate(photo) if n == one]].mean().item() for one in photos.EVALUATION]


table = {name: per_photograph(values) for name, values in psnr.items()}
table["fine - coarse"] = per_photograph(psnr["fine"] - psnr["coarse"])
rows = {one: [values[i] for values in table.values()] for i, one in enumerate(photos.EVALUATION)}
show_table(list(table), rows | {"mean": [sum(values) / len(values) for values in table.values()]})

# %%
bar, source = 0.5, {"fine": "coarse", "coarse": "rainy", "denoise": "noisy", "deblur": "blurry"}
for after, start in source.items():
    found = statistics.clustered_intervals(psnr[after] - psnr[start], photo, seed)
    above = sum(b - a > bar for a, b in zip(table[start], table[after], strict=True))
    answer = "on average" if found[0].mean > bar else "no"
    if statistics.verdict(*found, threshold=bar) == "above":
        answer = "clearly"
    t = ", ".join(statistics.significant(end) for end in (found[1].low, found[1].high))
    print(f"{after} more than {bar} dB above {start}: {found[0]} dB, t [{t}]: {answer}; {above} of {len(rows)}")

# %%
shown = [crops.index(f"{name}/light") for name in ("astronaut/2", "motorcycle/1")]
part = (slice(None), slice(None), slice(24, 104), slice(24, 104))
all_images = {"clean": clean, **restored}
grid = [[all_images[name][i : i + 1][part] for name in ("clean", *columns)] for i in shown]
text = ", ".join(f"{name} {psnr[name][shown].mean():.4g}" for name in columns)
figure = plots.image_grid(grid, ["clean", *columns], [photo[i] for i in shown], width=5.6)
show(figure, alt=f"Two crops; mean PSNR in dB: {text}")

# %% [markdown]
# ## What is left of the diversity
#
# Draw $x_T$ several times. A map of the standard deviation, pixel by pixel, says *where* a model is undecided. The
# regressor's map would be black everywhere, for it draws nothing. Grey levels are of 255, on one scale.

# %%
maps, draws = {}, {}
for name in ("coarse", "fine"):
    found = [recipes.restore(models[name], y, seed=200 + samples * seed + k) for k in range(samples)]
    draws[name] = torch.cat(found)
    maps[name] = 255 * draws[name].std(0).mean(0, keepdim=True)[None]
top = max(maps["coarse"].quantile(0.99).item(), 1e-6)
figure, axes = plots.subplots(1, 4, width=5.6, height=1.7)
plots.image_axes(axes[0], x, "clean")
plots.image_axes(axes[1], y, "rainy")
for part, (name, values) in zip(axes[2:], maps.items(), strict=True):
    plots.image_axes(part, values, f"sd, {name}", high=top)
text = ", ".join(f"{name} {values.mean():.4g}" for name, values in maps.items())
show(figure, alt=f"Deviation between {samples} samples, white {top:.4g} of 255; mean over pixels: {text}; regression 0")

# %% [markdown]
# ### Exercise 3: what can averaging still gain? (predict, 5 minutes, medium)
#
# A sample has a PSNR of 25 dB, and the samples of one picture differ by a standard deviation of **2.55** (of 255) in
# every pixel. Averaging removes this variance from the squared error and nothing else. How many dB can the mean of
# infinitely many samples gain over a single one? Answer with a number (two decimals).

# %% tags=["solution"]
### BEGIN SOLUTION
averaging_answer = -10 * math.log10(1 - (2.55 / 255) ** 2 / 10 ** (-25 / 10))
### END SOLUTION

# %%
check("10.averaging", averaging_answer)

# %%
for name, found in draws.items():
    error = (found - x).square().mean().item()
    share = found.var(0).mean().item() / error
    gained = metrics.psnr(found.mean(0, keepdim=True), x).item() + 10 * math.log10(error)
    print(
        f"{name:<6} variance / squared error {share:.4g}; the mean of {samples} gains {gained:.4g} dB over one sample"
    )

# %% [markdown]
# A perfect posterior sampler would have variance = half its squared error, and averaging would gain 3 dB (notebook 05).
# The smaller the share, the less the draws tell about what is possible: do not read such a map as the model's doubt.
#
# ## How many calls? (C2, C3, C8)
#
# "Four steps are best" may be true of a coarse network, whose calls may be as many as one likes. For a fine network it
# it would be no surprise, since it was trained for four. Both on the same axes; lines are intervals over training
# seeds.

# %%
sweeps = {name: current(id) for name, id in {"coarse": "c2f.C2", "fine": "c2f.C3"}.items()}
if any(sweeps.values()):
    figure, axes = plots.subplots(width=6.4, height=2.8)
    text = []
    for name, rows in ((name, rows) for name, rows in sweeps.items() if rows):
        calls = sorted({tested.calls_of(row["arm"]) for row in rows})
        curve = [over_seeds(rows, "psnr", f"{n} calls") for n in calls]
        half = [interval.high - interval.mean for interval in curve]
        axes.errorbar(calls, [interval.mean for interval in curve], half, fmt="o-", capsize=3, label=name)
        best = max(range(len(calls)), key=lambda i: curve[i].mean)
        four = curve[calls.index(4)].mean
        text.append(f"{name} best at {calls[best]} calls, {curve[best].mean:.4g} dB, at 4 {four:.4g} dB")
    axes.axvline(4, color="0.5", lw=0.8)
    ticks = (1, 2, 3, 4, 5, 8, 10, 25, 50)
    axes.set(title="One network, samplers of other lengths", xlabel="network calls", ylabel="PSNR (dB)", xscale="log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=8)
    show(figure, alt="; ".join(text))

# %%
say(
    "c2f.C2",
    supported="Four calls are the coarse network's best number.",
    contradicted="Another number does as well, to .1 dB, or better: four is no optimum of the coarse network.",
    not_resolved="Whether four calls beat the best other number by .1 dB is open: quote the curve.",
)
say(
    "c2f.C3",
    supported="The fine network is tied to the sampler it was trained with: change it, and it loses.",
    contradicted="Tied by less than half a dB, if at all: another number of calls loses less than that, or wins.",
    not_resolved="How strongly the fine network is tied to its sampler is open.",
)
say("c2f.C8", supported="Fine training beats more calls of a network trained as long, at a sixth of the cost or less.",
    contradicted="Many calls of a coarse network, trained as long, come within half a dB, or win; the cost differs.",
    not_resolved="Whether fine training beats many calls by half a dB is open.")  # fmt: skip

# %% [markdown]
# "The best other number" is picked on the crops it is judged on, so C2, C3 and C8 ask four calls to beat a rival that
# was chosen in hindsight, which is what "optimal" means. Nobody should *set* the number of calls this way.
#
# ## Is the noise estimate to blame? (C4, C4b)
#
# The paper's motivation: inaccurate noise estimates spoil restoration in few steps, and fine training is the remedy.
# Two things can be looked at. Left: how wrong is the noise that the network predicts on a truly noisy image, before and
# after fine training? Right: what if the first call is answered by the oracle?

# %%
c4 = current("c2f.C4")
if c4:
    figure, axes = plots.subplots(1, 2, width=7.6, height=2.7)
    for name in ("coarse", "fine"):
        found = [over_seeds(c4, f"eps {t}", name) for t in times]
        half = [interval.high - interval.mean for interval in found]
        axes[0].errorbar(range(4), [interval.mean for interval in found], half, fmt="o-", capsize=3, label=name)
    axes[0].set_xticks(range(4), times)
    axes[0].set(title="Error of the noise", xlabel="time t", ylabel="mean absolute error", yscale="log")
    axes[0].legend(fontsize=8)
    arms = ("coarse", "coarse, oracle", "fine", "fine, oracle")
    found = [over_seeds(c4, "psnr", arm) for arm in arms]
    half = [interval.high - interval.mean for interval in found]
    axes[1].errorbar(range(4), [interval.mean for interval in found], half, fmt="o", capsize=4)
    axes[1].set(title="The oracle at the first call", ylabel="PSNR (dB)", xlim=(-0.5, 3.5))
    axes[1].set_xticks(range(4), [arm.replace(", ", ",\n") for arm in arms], fontsize=8)
    show(figure, alt="PSNR over seeds: " + "; ".join(f"{arm} {i}" for arm, i in zip(arms, found, strict=True)))

# %%
if c4:
    for t in times:
        found = over_seeds(c4, f"eps {t}", "fine", "coarse")
        side = statistics.verdict(found)
        print(f"t = {t:<4} fine - coarse {found}: {({'above': 'worse', 'below': 'better'}).get(side, side)}")
    print(f"four calls, fine - coarse {over_seeds(c4, 'psnr', 'fine', 'coarse')} dB")
say("c2f.C4b", supported="Both early noises get worse. Where the image gets better, it does not need accurate ones.",
    contradicted="One of the first two noises does not get worse by .002: some of the gain may come from better noise.",
    not_resolved="Whether fine training worsens the early noise by .002 is open.")  # fmt: skip
say("c2f.C4", supported="With the true noise at the first call the coarse network restores better. Cause found?",
    contradicted="Even the true noise at the first call gains less than half a dB: look at the later calls.",
    not_resolved="Whether the true noise at the first call helps is open.")  # fmt: skip

# %% [markdown]
# ### Exercise 4: what does the oracle prove? (criticise, 5 minutes, hard)
#
# Suppose the oracle gains many dB. "Hence a network that estimates the noise at $t = 999$ better would restore better
# by as much." What is wrong with that?
#
# - **a** an oracle should answer all four calls, or the test is unfair
# - **b** the gain must be measured on training images
# - **c** from $x_T$ and the true noise the clean image follows exactly, so the oracle brings information that no
#   estimate made from $y$ can have
# - **d** noise cannot be known to float precision

# %% tags=["solution"]
### BEGIN SOLUTION
oracle_answer = "c"
### END SOLUTION

# %%
check("10.oracle", oracle_answer)

# %%
x_T = diffusion.randn(x.shape, diffusion.BatchGenerator(10 + seed, 0))
truth = diffusion.eps_from_x0(x_T, images.to_model_range(x), schedule[999])
again = images.to_unit_range(diffusion.x0_from_eps(x_T, truth, schedule[999]))
print(f"clean image back from x_T and its true noise: largest error {(again - x).abs().max() * 255:.2g} of 255")
print(f"weight of the image in a truly noisy picture at t = 999: {schedule[999].sqrt():.4g}; in x_T it is 0")

# %% [markdown]
# If the oracle gains, something was lost before $t = 666$; if not, look at the later calls. It bounds nothing: a first
# answer that is *wrong* as noise, such as one made from a picture more contrasty than the clean one, can lead the later
# calls to a better result still. Fine training is free to find such answers.
#
# ## The time embedding and the patch cycle (C5, C6)
#
# C5 adds the time embedding $T$ to both halves of every block, to one of them, or to none. $T$ has no parameters, so
# all four networks have equally many: a rare, clean ablation. C6 compares crops of 16, 32 and 64 pixels in turn with
# crops of 32 throughout, at the same number of pixels a step. It is made for a GPU.

# %%
c5 = current("c2f.C5")
if c5:
    arms = ("T in none", "T in attention", "T in feed_forward", "T in both")
    found = [over_seeds(c5, "eps", arm) for arm in arms]
    figure, axes = plots.subplots(width=5.6, height=2.4)
    for i, (arm, interval) in enumerate(zip(arms, found, strict=True)):
        axes.plot([i + 0.15] * len(seeds_of(c5)), [mean_of(c5, "eps", s, arm) for s in seeds_of(c5)], ".", color="0.6")
        axes.errorbar(i, interval.mean, interval.high - interval.mean, fmt="o", capsize=4, color=plots.COLOURS[0])
    axes.set_xticks(range(4), [arm.replace("feed_forward", "feed-forward") for arm in arms])
    axes.set(title="Where the time enters", ylabel="error of the noise")
    show(figure, alt="Error of the noise: " + "; ".join(f"{arm} {i}" for arm, i in zip(arms, found, strict=True)))
    for arm in arms[:3]:
        print(f"{arm + ' - T in both':<30} error {over_seeds(c5, 'eps', arm, arms[3])}")
        print(f"{'':<30} PSNR  {over_seeds(c5, 'psnr', arm, arms[3])} dB")
say("c2f.C5", supported="Both halves of a block make use of the time: either alone predicts noise less well.",
    contradicted="One half is enough at this budget: the better one predicts noise as well, to .002, or better.",
    not_resolved="Whether the second half gains from the time is open at this budget.")  # fmt: skip

# %%
c6 = current("c2f.C6")
if c6:
    print(f"cycle {over_seeds(c6, 'psnr', 'cycle')}, fixed {over_seeds(c6, 'psnr', 'fine')} dB")
say("c2f.C6", supported="The cycle pays when the test images are larger than the training crops.",
    contradicted="At equal pixels per step the cycle gains less than the smallest effect of interest.",
    not_resolved="Whether the cycle pays is open.")  # fmt: skip

# %% [markdown]
# The claim says *both* halves, so both must beat the better single one; to beat `T in none` would show only that the
# time is of use somewhere. A single half passes the time on: what it adds to the features reaches all later layers, so
# one half may be enough.
#
# ## A term that does nothing (C7)
#
# The fine loss is $\lambda (1 - \mathrm{SSIM}) + (1 - \lambda)\, L_1$ with $\lambda = .84$. The released code takes a
# five-scale SSIM and tells it that images range over **255**, but they lie in $[-1, 1]$. The two constants that keep
# SSIM finite are then so large that they drown the images. You need no training to see what that does: compare
# gradients.
#
# ### Exercise 5: do two losses pull the same way? (code, 10 minutes, medium)
#
# Write `gradient_agreement(loss_a, loss_b, image)`: both losses take the image and return a scalar tensor. Return the
# cosine between their gradients with respect to the image, over all its entries, as a float. `image` may not require
# gradients yet; leave it as it is.


# %% tags=["solution"]
def gradient_agreement(loss_a, loss_b, image):
    """Cosine of the angle between the gradients of two losses at ``image``."""
    ### BEGIN SOLUTION
    leaf = image.detach().clone().requires_grad_()
    a, b = (torch.autograd.grad(loss(leaf), leaf)[0].flatten() for loss in (loss_a, loss_b))
    return (a @ b / (a.norm() * b.norm())).item()
    ### END SOLUTION


# %%
check("10.agreement", gradient_agreement)

# %%
target, guess = images.to_model_range(x), images.to_model_range(restored["fine"][window])
losses = {"L1": ("none", 2.0), "MS-SSIM, range 255": ("ms_ssim", 255.0), "MS-SSIM, range 2": ("ms_ssim", 2.0)}
losses["SSIM, range 2"] = ("ssim", 2.0)
weight = models["fine"].config.ssim_weight


def slope(function):
    """Gradient of a scalar function of the restored image, (N,)."""
    point = guess.clone().requires_grad_()
    return torch.autograd.grad(function(point), point)[0].flatten()


def parts(kind, value_range):
    """Gradients of the similarity's share of the loss, of L1's share, and of their sum."""
    whole = slope(lambda z: paper.fine_loss(z, target, kind, value_range, weight)["loss"])
    if kind == "none":
        return torch.zeros_like(whole), whole, whole
    flat = slope(lambda z: paper.fine_loss(z, target, kind, value_range, weight)["l1"]) * (1 - weight)
    return whole - flat, flat, whole


# %%
gradients = {name: parts(*options) for name, options in losses.items()}
plain = gradients["L1"][2]
agreement = {name: F.cosine_similarity(whole, plain, dim=0).item() for name, (_, _, whole) in gradients.items()}
table = {n: [s.norm(), f.norm(), s.norm() / f.norm(), agreement[n]] for n, (s, f, _) in gradients.items()}
show_table(["similarity", "L1", "ratio", "cosine to L1"], {n: [float(v) for v in row] for n, row in table.items()})
released = agreement["MS-SSIM, range 255"]
print(f"released loss against L1: cosine {released:.6g}: {'the same' if released > 0.99 else 'not the same'} direction")

# %% [markdown]
# The columns are the lengths of the two gradients, each with its weight .84 or .16, their ratio, and the cosine between
# the whole loss and L1 alone. AdamW divides by the gradient's usual size, so the factor .16 before L1 hardly matters
# either (it does where gradients are clipped: here at length 1, in the released code never). Does training agree?

# %%
c7 = current("c2f.C7")
if c7:
    for metric, unit in (("psnr", " dB"), ("ssim", "")):
        for arm in ("released loss", "fine"):
            name = "range 2" if arm == "fine" else arm
            print(f"{name + ' - L1, ' + metric:<26} {over_seeds(c7, metric, arm, 'L1')}{unit}")
    found = over_seeds(c7, "psnr", "released loss", "L1")
    inside, mean_inside = max(abs(found.low), abs(found.high)) < 0.2, abs(found.mean) < 0.2
    said = "equal to within .2 dB" if inside else "not shown to be equal to within .2 dB"
    print(f"released loss and L1 are {said} (estimate {'inside' if mean_inside else 'outside'})")
say("c2f.C7", supported="With the right range the similarity term raises SSIM.",
    contradicted="Even with the right range the similarity term gains less SSIM than the smallest effect of interest.",
    not_resolved="What the similarity term gains with the right range is open.")  # fmt: skip

# %% [markdown]
# A claim about "SSIM + L1" that was measured with the released code would be a claim about L1. Not finding a difference
# is no proof of equality: for that, the *whole interval* must lie within a margin named beforehand.
#
# ## Any size (C9)
#
# Attention between channels costs the same per pixel at any size, so photographs are restored whole although training
# saw small crops. But its matrix is made of cosines along *all* pixels of the view: a statistic of the image, and
# another one for another view. Left, from the ledger: the same 48 pixels, restored within views of several sizes and by
# overlapping tiles; lines are 95 % intervals over photographs. Right, measured now: how far the attention matrix of two
# blocks is from that of the central 48 pixels, relative to its mean entry.

# %%
caught = {}
blocks = {"first block": models["fine"].network.encoder[0][0], "latent block": models["fine"].network.latent[0]}


def catch(name):
    """A hook that keeps the attention matrices of a block under this name."""
    return lambda module, inputs: caught.update({name: module.attention(*inputs)[0].cpu()})


hooks = [block.attention.register_forward_pre_hook(catch(name)) for name, block in blocks.items()]
where = next(models["fine"].parameters()).device
noise = diffusion.randn(clean.shape, diffusion.BatchGenerator(900 + seed, 0))
halfway = diffusion.add_noise(images.to_model_range(clean), noise, schedule[333])


def matrices(side, left=None):
    """Attention matrices of both blocks at t = 333 for the central (or a corner's) square of every crop."""
    first = (128 - side) // 2 if left is None else left
    view = (..., slice(first, first + side), slice(first, first + side))
    y, x_t = (z[view].to(where) for z in (images.to_model_range(rainy), halfway))
    with torch.no_grad():
        models["fine"](y, x_t, y.new_full((len(y),), 333.0))
    return dict(caught)


# %%
sides, reference, elsewhere = (32, 48, 64, 96, 128), matrices(48), matrices(48, left=0)
apart = {name: [] for name in blocks}
for found in map(matrices, sides):
    for name, base in reference.items():
        apart[name].append(((found[name] - base).abs().mean() / base.mean()).item())
content = {name: ((elsewhere[name] - base).abs().mean() / base.mean()).item() for name, base in reference.items()}
for hook in hooks:
    hook.remove()
text = "; ".join(f"{n} at 32 {v[0]:.4g}, at 128 {v[-1]:.4g}, other place {content[n]:.4g}" for n, v in apart.items())
print(f"attention matrix against that of 48 pixels: {text}")

# %%
c9 = current("c2f.C9")
figure, axes = plots.subplots(1, 2, width=7.6, height=2.7)
for name, values in apart.items():
    (line,) = axes[1].plot(sides, values, "o-", label=name)
    axes[1].axhline(content[name], color=line.get_color(), lw=0.8, ls=":")
axes[1].set(title="Attention, against 48 px", xlabel="side of the view (px)", ylabel="relative difference")
axes[1].set_xticks(sides)
axes[1].set_ylim(top=1.4 * max(*content.values(), *map(max, apart.values())))
axes[1].legend(fontsize=7, title="dotted: another place, 48 px", title_fontsize=7)
value, sizes = {}, ("64", "96", "125", "128", "tiles")
for row in c9:
    value.setdefault((row["arm"], row["image"]), []).append(row["psnr"])
for i, size in enumerate(sizes[1:] if c9 else ()):
    inside = sorted({row["image"] for row in c9})
    change = [(torch.tensor(value[size, n]) - torch.tensor(value["64", n])).mean().item() for n in inside]
    found = statistics.clustered_intervals(change, [n.split("/")[0] for n in inside], 0)[1]
    axes[0].errorbar(i, found.mean, found.high - found.mean, fmt="o", capsize=4, color=plots.COLOURS[0])
    text += f"; PSNR at {size} against 64 {found} dB"
axes[0].axhline(0, color="0.5", lw=0.8)
axes[0].set_xticks(range(4), ["96", "125", "128", "tiles"])
axes[0].set(title="The same 48 pixels", xlabel="side of the view (px)", ylabel="PSNR against 64 px (dB)")
show(figure, alt=f"Attention against 48 px: {text}")

# %%
say(
    "c2f.C9",
    supported="Larger views lose nothing that matters here: whole images work.",
    contradicted="Larger views lose more than half a dB: restore by tiles, if `tiles` does better in the figure.",
    not_resolved="Whether larger views lose half a dB is open.",
)
grows = {name: values[-1] > content[name] for name, values in apart.items()}
for name, answer in grows.items():
    than = "more" if answer else "less"
    print(f"{name}: from 48 to 128 pixels the matrix changes {than} than between two places of one picture")

# %% [markdown]
# 125 is no multiple of 8: the picture is padded by reflection and cropped back. A larger view changes the matrix for
# two reasons: it shows other *content* (the dotted lines say how much content alone does), and cosines along few pixels
# scatter more than along many. Where a curve stays below its dotted line, another size is no greater change for the
# network than another place. Training crops reveal neither; whether it costs PSNR is the left panel. At the published
# sizes (crops up to 256, whole photographs) the question is open.
#
# ## Other rain (C11)
#
# The paper's tables suggested robustness. Here the controls share everything but the training, and heavy rain (denser,
# more slanted, longer, other blending, haze) is the shift.

# %%
c11 = current("c2f.C11")
if c11:
    figure, axes = plots.subplots(width=5.6, height=2.5)
    text, arms = [], ledger["c2f.C11"].protocol.arms
    for i, arm in enumerate(arms):
        found = [over_seeds(c11, "psnr", arm, condition=rain) for rain in ("light", "heavy")]
        places, half = [0 + 0.05 * i, 1 + 0.05 * i], [interval.high - interval.mean for interval in found]
        axes.errorbar(places, [interval.mean for interval in found], half, fmt="o-", capsize=3, label=arm)
        text.append(f"{arm} light {found[0]}, heavy {found[1]}")
    untouched = {rain: [metrics.psnr(y, x).item() for x, y in (tested.pair(f"{n[:-5]}{rain}", seed) for n in crops)]
                 for rain in ("light", "heavy")}  # fmt: skip
    inputs = [sum(values) / len(values) for values in untouched.values()]
    axes.plot([0, 1], inputs, "k--", lw=1, label="input")
    axes.set_xticks([0.05, 1.05], ["light rain (training)", "heavy rain"])
    axes.set(title="Under another rain", ylabel="PSNR (dB)", xlim=(-0.3, 1.4))
    axes.legend(fontsize=8)
    show(figure, alt="PSNR in dB: " + "; ".join(text) + f"; input {inputs[0]:.4g}, {inputs[1]:.4g}")
    above = [over_seeds(c11, "psnr", arm, condition="heavy").mean - inputs[1] for arm in arms]
    print("above the input in heavy rain:", ", ".join(f"{arm} {v:.4g} dB" for arm, v in zip(arms, above, strict=True)))
say("c2f.C11", supported="Under this shift the method loses less than the regressor, as in the paper's tables.",
    contradicted="Under this shift the method does not lose less than a regressor by the smallest effect of interest.",
    not_resolved="Whether the method is more robust than a regressor is open.")  # fmt: skip

# %% [markdown]
# A difference of differences: it asks who *loses* less, not who is better, and there is a floor: an arm that ends near
# its input has nothing more to lose. If all arms end there, the one that began lowest "wins", whatever the verdict. So
# read the printed line with it. A fair test of robustness needs a shift that leaves every arm well above its input.
#
# ## The ledger
#
# All claims as they stand. Where something is trained, intervals are over training seeds, else over photographs. "Holm"
# says whether a verdict survives the correction for looking at all claims with results (notebook 01). In the plot every
# row is in units of its own smallest effect.

# %%
if any(row["effect"] is not None for row in claims.status_rows(PAPER)):
    show(claims.forest(PAPER), alt=claims.alt_text(PAPER))

# %%
claims.print_report(PAPER)

# %% [markdown]
# Rows that say `not run` or `stale` need their command. On a machine with a GPU the whole queue is one line,
#
#     minirestore claims run --paper c2f_dft --device cuda --minutes 60
#
# and it may be stopped: finished jobs are kept, an interrupted training goes on, and arms that several claims share
# (the fine network is one of eight claims') are trained once. C6 alone takes six times the steps of the others. With
# `--ledger FOLDER` the results go elsewhere, so that you can repeat a claim that has some and compare.
#
# A claim can be rehearsed in seconds: the same code on a miniature, nothing is written.

# %%
run = claims.run_claim("c2f.C9", "quick", device="cpu", log=lambda line: None)
print(f"{run.id}: {run.jobs_done} of {run.jobs} jobs, {len(run.rows)} rows, finished: {run.finished}")
for row in run.rows:
    print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))

# %% [markdown]
# ## Look inside: your own number of calls
#
# Choose the number of calls and the rain. When does more help the coarse network, and what does the fine one do with a
# sampler it has never seen?

# %%
scene = photos.crops("motorcycle")[1:2, :, 24:104, 24:104]


def draw(figure, calls, rain):
    """Coarse and fine on one crop, with a sampler of so many calls."""
    wet = degradations.rain(scene, 60 + seed, degradations.RAIN_DOMAINS[rain])
    found = {name: recipes.restore(models[name], wet, seed=30 + seed, steps=calls) for name in ("coarse", "fine")}
    found = {"rainy": wet, **found}
    values = {name: metrics.psnr(image, scene).item() for name, image in found.items()}
    for part, (name, image) in zip(figure.subplots(1, 3), found.items(), strict=True):
        plots.image_axes(part, image, f"{name}\n{values[name]:.4g} dB")
    return ", ".join(f"{name} {value:.4g} dB" for name, value in values.items())


states = [{"calls": calls, "rain": "light"} for calls in (1, 4, 25)]
explore(draw, size=(2.6, 1.25), states=states, calls=(1, 2, 3, 4, 5, 8, 10, 25), rain=("light", "heavy"))

# %% [markdown]
# ## Paper against code
#
# What a replication has to decide, because the paper and its released code differ. Most are options of `C2FDFTConfig`;
# start and data are options of the training. Notebook 09 shows what they change.
#
# | matter | paper | released code | here | touches |
# |---|---|---|---|---|
# | similarity in the fine loss | SSIM | five-scale, range 255 on $[-1, 1]$ | `ssim`, `ssim_range` | C1, C7 |
# | number of steps | 4 | `3`, which makes four calls | `sampling_steps`, `step_rule` | C2, C3 |
# | where the time enters attention | after the projections, in one reading | before them | `time_position` | C5 |
# | attention scale | divided by it | multiplied by it | `attention_scale` | the training only: same functions |
# | start of the fine stage | the coarse network | its last, not its averaged weights | `--start` | C1 |
# | monitoring | | validates on a picture of the test set (disclosed) | never on evaluation crops | all |
#
# The first row matters most for the claims: whoever tests "SSIM + L1" with the released code tests L1.
#
# ## What it costs

# %%
from torch.utils.flop_counter import FlopCounterMode

published = recipes.build(recipes.METHODS[PAPER], recipes.plan(recipes.METHODS[PAPER], "full")[0], device="meta")
zeros = [torch.zeros(1, 3, 128, 128, device="meta"), torch.zeros(1, 3, 128, 128, device="meta")]
macs = {}
for name, network in {"here": models["fine"], "published": published}.items():
    inputs = zeros if name == "published" else [torch.zeros_like(z, device=where) for z in zeros]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs, torch.zeros(1, device=inputs[0].device))
    macs[name] = counter.get_total_flops() // 2
fixed = {"parameters": cards["fine"]["parameters"], "MACs of four calls, 128 x 128": 4 * macs["here"]}
fixed["parameters, published"] = sum(p.numel() for p in published.parameters())
fixed["MACs of four calls, published"] = 4 * macs["published"]
fixed["jobs of c2f.C1"] = len(headline.protocol.arms) * len(headline.protocol.seeds)
measured = {"trained on": cards["fine"]["device"], "fine training (s)": cards["fine"]["wall_time_s"]}
show_cost("Judging C2F-DFT", fixed=fixed, measured=measured)

# %% [markdown]
# ## You can now
# - give a two-stage method the controls that spend its budget otherwise, and read the figure either way it comes out;
# - say why a diffusion model that was trained through its deterministic sampler is a recurrent regressor;
# - bound what its remaining diversity is worth;
# - ask of an oracle what it knows that no estimate can;
# - show by a cosine that a term of a loss is inert, and by an interval within a margin that two arms are equal.
#
# **Try next**: run C6 with a GPU, `minirestore claims run c2f.C6 --minutes 30`; or give C10 a larger budget in a copy
# of its protocol and see whether the arms change places. Notebook 11 turns to super-resolution, and to a map of where a
# one-step model has lost detail.
#
# **References**: L. Wang et al., *Learning a coarse-to-fine diffusion transformer for image restoration*, 2023, and
# *Coarse-to-fine mechanisms mitigate diffusion limitations on image restoration*, 2024. S. W. Zamir et al.,
# *Restormer*, 2022. Z. Luo et al., *Image restoration with mean-reverting stochastic differential equations* (IR-SDE),
# 2023. L. Chen et al., *Simple baselines for image restoration* (NAFNet), 2022. V. Monga, Y. Li and Y. Eldar,
# *Algorithm unrolling*, 2021. Z. Wang, E. Simoncelli and A. Bovik, *Multiscale structural similarity*, 2003.
