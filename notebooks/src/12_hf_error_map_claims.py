# %% [markdown]
# # 12 High-frequency error maps: does it hold?
#
# **You will be able to**
# - test a table of six cells, and say what a noise floor of re-runs covers and what it does not;
# - show why a score without a reference can reward detail that is wrong, and report an honest pair of numbers instead;
# - read from that pair how much of the detail is right, whatever its strength;
# - plan the controls that a new term of a loss needs, with a metric and a smallest effect decided beforehand;
# - read all of the paper's claims, with intervals and noise, and say which are open.
#
# **You need** only a CPU: about 30 seconds for all cells, about two hours for you. Notebook 11 builds the method that
# is judged here, 08 explains the ledger and its verdicts, 01 intervals. The profile `reduced` uses notebook 11's
# networks, trains them if they are missing, and goes on with the open claims: minutes on a GPU.

# %% tags=["parameters"]
profile = "quick"
seed = 0
teacher_steps = 20
student_steps = 6
map_steps = 6
minutes = 0.0

# %% tags=["setup"]
import itertools
import math
import textwrap
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from minirestore import checkpoints, claims, diffusion, images, metrics, plots, recipes, statistics
from minirestore.claims import hf_error_map as tested
from minirestore.claims.report import effect_text
from minirestore.claims.shared import crop_names, mean_of, seeds_of
from minirestore.exercises import check
from minirestore.plots import show, show_cost, show_table
from minirestore.wavelets import dwt2, idwt2
from minirestore.widgets import explore

PAPER = "hf_error_map"
R, ERROR = "high_frequency_energy_ratio", "high_frequency_error"

# %% [markdown]
# ## The idea as a picture
#
# The paper adds one loss to SinSR's three. It shows a one-step super-resolver where its fine detail is wrong, and the
# results are said to be sharper and better. Three trained networks come with the course: the `teacher` (ResShift), the
# `student` (SinSR), and `student and map`, which is the student trained on with the map. All restore two textured crops
# of each evaluation photograph (of the rocket one), shrunk by 4, as in training.
#
# The picture also has two **impostors**, the student's results with their finest wavelet details multiplied by a
# number, and with white noise: just so much that every crop has the *right amount* of fine detail (up to clipping).
# Before you read on: which column would you call the best restored, if you had not seen the last one?

# %%
quick = profile == "quick"
root = Path(f"../runs/11-{profile}-{teacher_steps}-{student_steps}-{map_steps}-{seed}")
steps_of = {"teacher": teacher_steps, "student": student_steps, "map": map_steps}


def trained(name, start=None, **options):
    """Checkpoint of one of notebook 11's networks, trained now unless it is there."""
    method, part = tested.SHIPPED[name][0], name.split()[-1]
    options = {"seed": seed, "steps": steps_of[part], **options}
    recipes.train(method, profile, options, run_dir=root / part, start=start)
    return root / part / f"{method}.safetensors"


paths = {name: checkpoint for name, (_, checkpoint) in tested.SHIPPED.items()}
if not quick:
    paths["teacher"] = trained("teacher", stage="teacher")
    for name, start, stage in (("student", "teacher", {"stage": "student"}), ("student and map", "student", {})):
        paths[name] = trained(name, paths[start], teacher=str(paths["teacher"]), **stage)
models = {name: recipes.load_method(tested.SHIPPED[name][0], path, "cpu") for name, path in paths.items()}
cards = {name: checkpoints.read_card(path) for name, path in paths.items()}
for name, card in cards.items():
    print(f"{name:<15} {card['parameters']:>9,} parameters, last stage {card['steps']:,} steps")


# %%
def sharpen(z, amount):
    """Unsharp mask: the image plus so many times its difference from its 3 x 3 mean."""
    smooth = F.avg_pool2d(F.pad(z, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return (z + amount * (z - smooth)).clamp(0, 1)


def gain(z, factor):
    """The image with its finest Haar details multiplied by a factor."""
    low, details = dwt2(z)
    return idwt2((low, tuple(factor * band for band in details))).clamp(0, 1)


def grainy(z, sd):
    """The image with white noise of this standard deviation."""
    return (z + sd * diffusion.randn(z.shape, diffusion.BatchGenerator(120 + seed, 0))).clamp(0, 1)


def middle(z):
    """The middle half of a picture, for figures."""
    n = z.shape[-1] // 4
    return z[..., n : 3 * n, n : 3 * n]


# %%
crops = crop_names("bicubic")
pairs = [tested.pair(name, seed) for name in crops]
clean, lq = (torch.cat(part) for part in zip(*pairs, strict=True))
bicubic = F.interpolate(lq, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)
restored = {"bicubic": bicubic} | {name: recipes.restore(model, lq, seed=seed) for name, model in models.items()}
student = restored["student"]
amount = metrics.high_frequency_energy_ratio(student, clean).float().view(-1, 1, 1, 1)
detail = torch.stack(dwt2(clean)[1]).square().sum((0, 2, 3, 4)).view(-1, 1, 1, 1)  # energy; white noise has 3/4 in it
sd = ((1 - amount).clamp(min=0) * detail / (0.75 * clean[0].numel())).sqrt()
impostors = {"multiplied": gain(student, amount**-0.5), "with noise": grainy(student, sd)}

# %%
shown = [crops.index(f"{name}/bicubic") for name in ("astronaut/2", "motorcycle/1")]
columns = {"student": student, **impostors, "and map": restored["student and map"], "clean": clean}
grid = [[middle(z[i : i + 1]) for z in columns.values()] for i in shown]
figure = plots.image_grid(grid, list(columns), [crops[i].split("/")[0] for i in shown], width=4.6)
pair = {name: [metrics.METRICS[m].function(z, clean).mean().item() for m in (R, ERROR)] for name, z in columns.items()}
text = "; ".join(f"{name} {a:.4g} and {b:.4g}" for name, (a, b) in pair.items())
show(figure, alt=f"Two crops; energy and error of the fine detail, means of {len(crops)} crops: {text}")

# %% [markdown]
# Noise and hard edges look like texture at first sight, above all in a small print and when there is nothing to compare
# with. The paper's scores, CLIPIQA and MUSIQ, have nothing to compare with either: they are networks that judge a
# picture **without a reference**. We cannot run them here (their weights are not part of the course), so two questions
# come first: what do the printed scores show, and what can scores of this kind show at all?
#
# ## Reading the six cells
#
# Two scores on three sets of images, higher is better. The paper's row for SinSR agrees with SinSR's own paper, so it
# seems to be copied and not measured again. SinSR's repository also lists what it found when it ran SinSR **again**:
# that gives a noise floor, which the paper leaves out.

# %%
rerun = {}
for cell, (_, before, again) in tested.PRINTED.items():
    metric = cell.split("/")[1]
    rerun[metric] = max(rerun.get(metric, 0.0), abs(again - before))
rows = {}
for cell, (ours, before, again) in tested.PRINTED.items():
    gains = [100 * (ours / before - 1), ours - before, ours - again]
    rows[cell] = [ours, before, again, *gains, rerun[cell.split("/")[1]]]
show_table(["with map", "SinSR", "again", "gain (%)", "gain", "over again", "noise"], rows)
noisy = [cell for cell, row in rows.items() if min(row[4:6]) <= row[6]]
print(f"not above the noise: {', '.join(noisy)}")

# %%
figure, axes = plots.subplots(1, 2, width=7, height=2.5)
for part, (metric, floor) in zip(axes, rerun.items(), strict=True):
    cells = [cell for cell in rows if cell.endswith(metric)]
    part.axhspan(-floor, floor, color="0.85", label="a second run")
    part.axhline(0, color="k", lw=0.8)
    for column, label, marker in ((4, "over SinSR as printed", "o"), (5, "over the second run", "x")):
        part.plot(range(len(cells)), [rows[cell][column] for cell in cells], marker, label=label)
    part.set_xticks(range(len(cells)), [cell.split("/")[0] for cell in cells])
    part.set(title=f"Gain in {metric}", xlim=(-0.5, len(cells) - 0.5))
axes[1].legend(fontsize=7, loc="upper right")
axes[1].set_ylim(top=1.7)
text = "; ".join(f"{cell} {row[4]:.4g} and {row[5]:.4g}" for cell, row in rows.items())
floors = ", ".join(f"{metric} {floor:.4g}" for metric, floor in rerun.items())
show(figure, alt=f"Gain over SinSR as printed and over its second run: {text}. Largest change by that run: {floors}")

# %% [markdown]
# Grey is the largest change that running SinSR again made to this score. One cell is a loss, some gains lie in the
# grey, and in one the second run of SinSR beats the method. The gain in CLIPIQA on ImageNet-Test is far above it.
#
# Mind what the grey does **not** cover. It comes from evaluating again. *Training* again, with another seed, is another
# and usually larger source of change, and no cell knows it: there is one training in each row. Lists by others differ
# more than the grey, too: for ResShift on ImageNet-Test one finds .603 / 53.897, .592 / 53.660 and .586 / 53.182.
#
# ### Exercise 1: the sign test (code, 8 minutes, easy)
#
# Suppose the map did nothing, and each of `n` cells fell to either side like a fair coin. Write `sign_test(wins, n)`:
# the probability that the two sides differ *at least* as much as `wins` to `n - wins`, in either direction. Without a
# library: `math.comb(n, k)` counts the ways to get `k` heads.


# %% tags=["solution"]
def sign_test(wins, n):
    """Two-sided p-value of so many wins among n fair coins."""
    ### BEGIN SOLUTION
    more = max(wins, n - wins)
    tail = sum(math.comb(n, k) for k in range(more, n + 1)) / 2**n
    return min(1.0, 2 * tail)
    ### END SOLUTION


# %%
check("12.sign", sign_test)

# %%
wins = [float(ours > before) for ours, before, _ in tested.PRINTED.values()]
print(f"{sum(wins):g} of {len(wins)} cells: p = {statistics.binomial_p(wins):.4g}")
print(f"share of cells won: {statistics.binomial_interval(wins)}, exact")
for n, what in ((6, "six cells"), (3, "three sets of images")):
    print(f"smallest p that {what} allow, all of them won: {statistics.binomial_p([1.0] * n):.4g}")

# %% [markdown]
# Five of six is what fair coins do about once in five times. Six of six would just pass at 5 %, if the cells were
# independent; but two cells each come from the *same* images, restored by the same network. Count sets of images and no
# result whatever can pass. A sign test also throws away how large a gain is: the table above does not. Neither repairs
# the main gap: no cell compares two things that differ **only in the map**.
#
# The ledger holds both readings of the table as claims. First a few helpers, as in notebook 10: rows of a claim,
# intervals over training seeds, and a sentence that depends on the verdict and nothing else.

# %%
if minutes > 0:  # profiles reduced and full: go on with the claims that have no results
    claims.run_claims([], PAPER, minutes=minutes)

# %%
standing, ledger = {row["id"]: row for row in claims.status_rows(PAPER)}, claims.load_claims()


def current(name):
    """Rows of a claim with current results, and in each ``rho`` (see below); without any, say how to measure it."""
    if standing[name]["effect"] is None:
        print(f"{name}: {standing[name]['verdict']}; {standing[name]['command']}")
        return []
    found = claims.read_results(name).rows
    return [{**row, "rho": rho_of(row[R], row[ERROR])} if R in row else row for row in found]


def per_seed(rows, metric, arm, minus=None):
    """For each training seed an arm's mean, or its difference from that of another arm."""
    other = {s: 0.0 if minus is None else mean_of(rows, metric, s, minus) for s in seeds_of(rows)}
    return [mean_of(rows, metric, s, arm) - other[s] for s in seeds_of(rows)]


# %%
def say(name, **readings):
    """Print a claim's effect and verdict, and the reading that belongs to this verdict."""
    row = standing[name]
    print(f"{name}: {row['contrast']}: {effect_text(row)}: {row['verdict']}")
    if reading := readings.get(row["verdict"].replace(" ", "_")):
        print(textwrap.fill(reading, 112))


# %%
say("hf.B4", not_resolved="Six cells cannot tell whether the map wins more than half of such cells.")
say("hf.B4b", not_resolved="Ask for a gain above the noise of a second run, and fewer cells are left.")

# %% [markdown]
# ### Exercise 2: criticise the table (5 minutes, medium)
#
# Somebody defends the paper: "On ImageNet-Test, CLIPIQA rises by 6 %. That is more than twenty times what a second run
# of SinSR changed there. Hence the map works." What is the strongest objection?
#
# - **a** 6 % of a score may be too little for anybody to see
# - **b** the gain is one network against another, and the two differ in more than the map: another training, another
#   seed, a perceptual loss at four scales that would be there without a map, too
# - **c** six cells are needed for a sign test, one is not enough
# - **d** CLIPIQA must be computed on RealSR to count

# %% tags=["solution"]
### BEGIN SOLUTION
table_answer = "b"
### END SOLUTION

# %%
check("12.table", table_answer)

# %% [markdown]
# ## Two numbers instead of one
#
# Now the other question: what can a score without a reference show? Take the finest Haar details (notebook 03) of the
# result, $d$, and of the clean image, $d_0$, each as one long vector. Two numbers:
#
# $$R = \frac{\|d\|^2}{\|d_0\|^2}\quad\text{(energy: how much detail)},\qquad
# F = \frac{\|d - d_0\|^2}{\|d_0\|^2}\quad\text{(error: how much of it is wrong)}.$$
#
# $R$ is right at 1, $F$ at 0; a result without any detail has $F = 1$. Multiplied out, with $\rho$ the cosine between
# $d$ and $d_0$:
#
# $$F = 1 + R - 2\rho\sqrt{R},\qquad\text{hence}\qquad \rho = \frac{1 + R - F}{2\sqrt{R}} .$$
#
# So a pair $(R, F)$ tells a third thing: $\rho$, how well the detail points the right way, whatever its strength. To
# turn up the detail that is there is to move along a curve of one $\rho$. To add detail that has nothing to do with the
# picture, of energy $n$ (in units of the clean detail's), is to add $n$ to $R$ *and* to $F$.
#
# ### Exercise 3: the pair (code, 10 minutes, medium)
#
# Write `detail_pair(restored, clean)` for images (1, 3, H, W) with even sides: return $R$ and $F$ as a tuple, from the
# three finest Haar bands of all channels. Haar bands of a block $a, b$ above $c, d$: $(a + b - c - d)/2$,
# $(a - b + c - d)/2$, $(a - b - c + d)/2$. With `x[..., ::2, ::2]` you get all $a$.


# %% tags=["solution"]
def detail_pair(restored, clean):
    """Energy ratio and error of the finest Haar details."""
    ### BEGIN SOLUTION

    def details(x):
        a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
        return torch.stack([a + b - c - d, a - b + c - d, a - b - c + d]) / 2

    found, right = details(restored), details(clean)
    energy = right.square().sum()
    return (found.square().sum() / energy).item(), ((found - right).square().sum() / energy).item()
    ### END SOLUTION


# %%
check("12.pair", detail_pair)

# %% [markdown]
# ### Exercise 4: turn it up (predict, 6 minutes, medium)
#
# A result has $R = .64$ and $F = .36$: too smooth. Multiply all its fine details by **1.25**, so that $R = 1$, the
# right amount of detail. What is $F$ now? Answer with a number (two decimals).

# %% tags=["solution"]
### BEGIN SOLUTION
gain_answer = 1 + 1 - (1 + 0.64 - 0.36) / 0.64**0.5
### END SOLUTION

# %%
check("12.sharpen", gain_answer)

# %% [markdown]
# The error went *up* when the amount became right. For a given $\rho$ the least error is $1 - \rho^2$, at $R = \rho^2$:
# whoever minimises an error and is not sure of the detail ends **too smooth**, and must. With the right amount of
# detail the error is $2(1 - \rho)$, which is always more. This is the trade between distortion and perception (Blau and
# Michaeli) in two numbers. It says that "$R$ rose and $F$ did not" is a lot to ask (claim B6), and that one of the two
# numbers alone can be had for free.
#
# ### A cheap way to be sharper
#
# Take the student's results and change them in three ways, each in rising doses: the gain of exercise 4 (`gain`), the
# unsharp mask of every photo editor (`sharpen`), and `noise`. As a score without reference we take the variance of the
# Laplacian (the sum of the four neighbours minus four times the pixel), an old measure of focus. It is **our
# stand-in**: CLIPIQA and MUSIQ are networks and not that simple. Means over the crops.


# %%
def sharpness(z):
    """Variance of the Laplacian of the luma; needs no reference."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
    return F.conv2d(images.luma(z), kernel).var((1, 2, 3))


def rho_of(r, f):
    """Cosine between the details of result and clean image, from the pair."""
    return (1 + r - f) / (2 * r**0.5)


def judged(z):
    """Sharpness in units of the clean crops', R, F, rho, PSNR and HaarPSI, means over the crops."""
    r, f, psnr, haarpsi = (metrics.METRICS[m].function(z, clean) for m in (R, ERROR, "psnr", "haarpsi"))
    ratio = sharpness(z).mean() / sharpness(clean).mean()
    return [v.mean().item() for v in (ratio, r, f, rho_of(r, f), psnr, haarpsi)]


# %%
ways = {"gain": (gain, (1.25, 1.5, 2.0)), "sharpen": (sharpen, (0.5, 1.0, 2.0)), "noise": (grainy, (0.01, 0.02, 0.04))}
rows = {name: judged(z) for name, z in {**restored, "clean": clean}.items()}
rows |= {f"student, {way} {much:g}": judged(act(student, much)) for way, (act, doses) in ways.items() for much in doses}
show_table(["sharpness", "R", "F", "rho", "PSNR (dB)", "HaarPSI"], rows)
tracks = {way: [row for name, row in rows.items() if name in ("student", *(f"student, {way} {d:g}" for d in doses))]
          for way, (_, doses) in ways.items()}  # fmt: skip
for way, track in tracks.items():
    least = min(range(len(track)), key=lambda i: track[i][2])
    at = f"dose {ways[way][1][least - 1]:g}" if least else "none"
    sharp, r, f = ([f"{row[i]:.4g}" for row in (track[0], track[-1])] for i in range(3))
    print(f"{way}: sharpness {' to '.join(sharp)}, R {' to '.join(r)}, F {' to '.join(f)}; least F at {at}")


# %%
def plane(axes, points, rhos, around=()):
    """Points (R, F) by name in the plane of both, with curves of constant rho; ``around`` lies in the view, too."""
    r, f = zip(*(row[1:3] for row in [*points.values(), *around]), strict=True)
    x, y = 0.12 * (max(r) - min(r)) + 0.005, 0.12 * (max(f) - min(f)) + 0.005
    grid = torch.linspace(max(min(r) - x, 1e-3), max(r) + x, 200)
    for rho in rhos:
        curve = 1 + grid - 2 * rho * grid.sqrt()
        axes.plot(grid, curve, color="0.75", lw=0.8, zorder=0)
        axes.text(grid[-1], curve[-1], f" {rho:.3g}", fontsize=6, color="0.5", va="center", clip_on=True)
    for i, (name, row) in enumerate(points.items()):
        axes.plot(row[1], row[2], "osD^vPX"[i], ms=6, color=plots.COLOURS[i], label=name)
        axes.set(xlim=(grid[0], max(r) + 2 * x), ylim=(min(f) - y, max(f) + y), xlabel="R, energy", ylabel="F, error")


every = {name: row for name, row in rows.items() if name != "clean"}

# %%
figure, axes = plots.subplots(1, 2, width=7.8, height=3)
plane(axes[1], {n: every[n] for n in restored}, [0.1 * i for i in range(1, 10)], every.values())
for (way, track), style in zip(tracks.items(), ("^-", "v--", "x:"), strict=True):
    sharp, r, f = zip(*(row[:3] for row in track), strict=True)
    axes[0].plot(sharp, f, style, ms=4, color="0.3", lw=1, label=f"student, {way}")
    axes[1].plot(r, f, style, ms=4, color="0.3", lw=1)
axes[0].set(title="What pays without a reference", xlabel="sharpness (of the clean crops')", ylabel="F, error")
axes[1].set_title("The plane of the pair; grey: one rho each", fontsize=9)
for part in axes:
    part.legend(fontsize=7, loc="upper left")
text = "; ".join(f"{name} R {row[1]:.4g}, F {row[2]:.4g}, rho {row[3]:.4g}" for name, row in every.items())
show(figure, alt=f"Sharper and wronger: {text}")

# %% [markdown]
# All three run to the right in the left panel: whoever is paid for sharpness can have it from a filter of three lines,
# or from a random generator. What becomes of the error, the printed lines say. Noise makes it worse from the first
# dose. The gain stays on its curve of $\rho$ (up to clipping, and to taking means over crops): where the student is
# smoother than its $\rho$ asks for, the first dose may even help, and after that it hurts. The unsharp mask favours the
# very finest detail; where it falls off the curve, it has turned up what was wrong more than what was right. A
# no-reference network may or may not fall for these three. The point is that it *cannot tell* detail that is right from
# detail that merely fits.
#
# Hence the rules of this notebook. The **primary metric** is $F$, the high-frequency error. It was decided upon before
# any training. It is no part of any loss; if anything it favours the map, which is made from the same bands. $R$ stands
# beside it.
#
# ## What would decide
#
# The question is what the *map* does. So everything else must be equal. Every arm goes on from the same shipped
# student, for equally many steps, with the same batches and the same noise; SinSR's three losses are in each of them.
#
# | arm | what is added to SinSR's losses | objection that it answers |
# |---|---|---|
# | base | nothing | "more steps would have done the same" |
# | no map | the distance at four scales, $E = 1$ | "any perceptual loss would have done the same" |
# | one plus | the distance at four scales, images times $1 + E$ | "equation 1 is blind to what leaves details alone" |
# | map | equation 1: images times $E$ | |
# | one scale | equation 1 at full size alone | "why a pyramid?" |
# | reversed | equation 1, weights from small to large | "why these weights?" |
#
# The second is the one that the paper lacks and needs most.

# %%
main = ledger["hf.B8"]
budget = main.protocol.settings
print(f"{main.id}: {main.statement}")
print(f"contrast   {main.contrast}, smallest effect of interest {main.sign * main.smallest:g} {main.unit}")
print(f"data       {', '.join(main.protocol.data)}; {len(main.protocol.images)} crops")
print(f"budget     {budget['steps']} steps of {budget['batch_size']} crops, {len(main.protocol.seeds)} seeds per arm")
print(f"test       {budget['draws']} draws of the first noise for each crop, and their mean")
for n in (3, 5):
    ends = statistics.t_interval([math.sqrt((n - 1) / 2), -math.sqrt((n - 1) / 2), *[0.0] * (n - 2)])
    print(f"{n} seeds: the 95 % interval is the mean +- {ends.high:.4g} sd of the differences")

# %% [markdown]
# The smallest effect of interest is .01: a hundredth of the energy of the clean detail. The last lines say how quiet
# the differences must be to resolve it with so few seeds; that is why "not resolved" is a likely answer.
#
# Beside every difference stand **two kinds of noise**, both for one seed's mean. *Draws*: the same network with another
# first noise $x_T$ (as if both arms drew on their own; they share their draws, so it is less). *Trainings*: the
# standard deviation of the difference between training seeds. The first noise is drawn anew for each seed, but the same
# for all arms.
#
# ## Is it the map? (B8)


# %%
def deltas(rows, first, others, metric=ERROR):
    """Table of paired differences from ``first`` with interval, and both kinds of noise."""
    table, count = {}, len({row["image"] for row in rows}) * budget["draws"]
    for other in others:
        values = per_seed(rows, metric, first, other)
        found = statistics.t_interval(values)
        variance = {a: [row["spread"] ** 2 for row in rows if row["arm"] == a] for a in (first, other)}
        draws = math.sqrt(sum(sum(v) / len(v) for v in variance.values()) / count)
        table[f"{first} - {other}"] = [found.mean, found.low, found.high, torch.tensor(values).std().item(), draws]
    show_table(["F, delta", "from", "to", "trainings", "draws"], table)


def pairs_of(rows, arms):
    """For each arm nothing, R, F and rho, means over seeds and crops; as `plane` wants them."""
    return {a: [0.0, *(sum(per_seed(rows, m, a)) / len(seeds_of(rows)) for m in (R, ERROR, "rho"))] for a in arms}


controls, scales = current("hf.B8"), current("hf.B7")
rivals = [arm for arm in main.protocol.arms if arm != "map"]
if controls:
    deltas(controls, "map", rivals)

# %%
alone = [row for row in scales if row["arm"] != "map"] if controls else scales
both, arms = [*controls, *alone], list(dict.fromkeys(row["arm"] for row in [*controls, *alone]))
origin = "base" if controls else "map"
if both:
    figure, axes = plots.subplots(1, 2, width=7.8, height=3)
    text, points = [], pairs_of(both, arms)
    for i, arm in enumerate(arms):
        seeds = per_seed(both, ERROR, arm, origin)
        found = statistics.t_interval(seeds)
        axes[0].plot([i + 0.2] * len(seeds), seeds, ".", color="0.6")
        axes[0].errorbar(i, found.mean, found.high - found.mean, fmt="o", capsize=4, color=plots.COLOURS[i])
        text.append(f"{arm} {found}, R {points[arm][1]:.4g}, F {points[arm][2]:.4g}, rho {points[arm][3]:.4g}")
    axes[0].axhline(0, color="k", lw=0.8)
    axes[0].set_xticks(range(len(arms)), [arm.replace(" ", "\n") for arm in arms], fontsize=8)
    axes[0].set(title="Equal steps, equal batches", ylabel=f"F minus that of {origin}")
    plane(axes[1], points, [rho_of(*points[arm][1:3]) for arm in dict.fromkeys((origin, "map"))])
    axes[1].set_title(f"R and F, means of all; grey: rho of {origin} and map", fontsize=9)
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    show(figure, alt=f"F minus that of {origin}: {'; '.join(text)}")

# %%
if controls:
    order = sorted([*rivals, "map"], key=lambda arm: points[arm][2])
    print("from least to most error:", " < ".join(f"{arm} {points[arm][2]:.4g}" for arm in order))
    for metric, name in ((R, "R"), ("rho", "rho"), ("psnr", "PSNR"), ("haarpsi", "HaarPSI")):
        found = [f"{rival} {statistics.t_interval(per_seed(controls, metric, 'map', rival))}" for rival in rivals[:1]]
        found += [f"base {statistics.t_interval(per_seed(controls, metric, 'map', 'base'))}"]
        print(f"{name:<8} map minus {', minus '.join(found)}")
say("hf.B8", supported="The map itself helps: with the same distance but no map, more of the detail stays wrong.",
    contradicted="Without a map the same distance does as well, to .01, or better. Whatever the added loss does here, "
    "the map's share in it is smaller than the smallest effect of interest, or harmful.",
    not_resolved="Whether the map adds anything to the same distance without it is open.")  # fmt: skip

# %% [markdown]
# ### What this means
#
# Left: differences from base, seed by seed (grey dots), with means and 95 % intervals. They are paired: the seeds
# differ in the first noise of the test, too, but that moves all arms together. Right: the arms in the plane, with the
# curves on which base and map lie (of their mean $R$ and $F$; the mean of the crops' own $\rho$, printed above, is a
# little lower). How to read it:
#
# | if an arm moves from base ... | then |
# |---|---|
# | along its grey curve, to the right | it turns its detail up; no new detail is right |
# | off its curve, downwards: a larger $\rho$ | more of its detail is right |
# | up and to the right at once | it invents, as noise does |
# | hardly at all, against *trainings* | the added loss did nothing that can be seen at this budget |
#
# Why may no map do as well as a map? The distance compares features, and those react to wrong detail *without being
# told*: with $E = 1$ its gradient is already large where the images differ, and zero where they agree. The map adds
# contrast to that and takes the rest away. Notebook 11 found the gradients of several readings to point in much the
# same direction; arms whose gradients agree end close together.
#
# ## Four scales, or one? (B7)

# %%
if scales:
    deltas(scales, "map", [arm for arm in ledger["hf.B7"].protocol.arms if arm != "map"])
say("hf.B7", supported="Four scales leave less wrong detail than the full size alone.",
    contradicted="The full size alone does as well, to .01, or better: the pyramid earns nothing measurable here.",
    not_resolved="Whether four scales are better than one is open.")  # fmt: skip

# %% [markdown]
# Be fair to the pyramid: $F$ looks at the *finest* details only, which the full size alone is about. What the smaller
# sizes could repair, errors of 4 to 16 pixels, would show in other columns:

# %%
for metric in ("haarpsi", "spectrum_distance", "low_frequency_rmse", "colour_offset") if scales else ():
    found = [f"{a} {statistics.t_interval(per_seed(scales, metric, 'map', a))}" for a in ("one scale", "reversed")]
    print(f"{metric:<19} map minus {', minus '.join(found)}")

# %% [markdown]
# Secondary columns are for suspicion, not for proof: with four of them and two rivals, one of eight intervals misses
# zero by chance about a third of the time (if they were independent).
#
# ## Better than SinSR, on three kinds of images? (B1 to B3)
#
# The paper has ImageNet-Test, degraded as in training, and two sets of real photographs. Ours are photographs, while
# training saw discs; the **degradation** is that of the training (B1: shrunk and nothing else), somewhat more (B2: blur,
# noise and JPEG besides) or much more (B3: longer kernels, more noise, stronger JPEG). The base is trained as long as
# the map. For comparison, the two shipped networks: there the second has had **more steps** than the first, so their
# difference mixes the two causes.

# %%
kinds = {"hf.B1": "as in training", "hf.B2": "somewhat more", "hf.B3": "much more"}
results = {kinds[id]: rows for id in kinds if (rows := current(id))}
for kind, rows in results.items():
    print(kind)
    deltas(rows, "map", ["base"])
    deltas(rows, "student and map", ["student"])

# %%
if results:
    figure, axes = plots.subplots(1, 2, width=7.8, height=2.7)
    text = []
    for i, (kind, rows) in enumerate(results.items()):
        found = statistics.t_interval(per_seed(rows, ERROR, "map", "base"))
        shipped = statistics.t_interval(per_seed(rows, ERROR, "student and map", "student")).mean
        axes[0].errorbar(i, found.mean, found.high - found.mean, fmt="o", capsize=4, color=plots.COLOURS[0])
        axes[0].plot(i + 0.2, shipped, "x", color=plots.COLOURS[1])
        levels = {arm: row[2] for arm, row in pairs_of(rows, ledger["hf.B1"].protocol.arms).items()}
        for j, (arm, level) in enumerate(levels.items()):
            name = arm if i == 0 else None
            axes[1].plot(i + 0.1 * j - 0.15, level, "osDX"[j], color=plots.COLOURS[j], label=name)
        text.append(f"{kind} {found}, shipped {shipped:.4g}, levels {', '.join(f'{v:.4g}' for v in levels.values())}")
    axes[0].axhline(0, color="k", lw=0.8)
    axes[0].axhline(-ledger["hf.B1"].smallest, color="0.5", lw=0.8, ls=":")
    axes[0].set(title="map - base; cross: the shipped pair", ylabel="difference of F")
    axes[1].set(title="Levels", ylabel="F, error")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    for part in axes:
        part.set_xticks(range(len(results)), results)
    show(figure, alt="Difference of F, map - base: " + "; ".join(text))

# %%
for id, kind in kinds.items():
    say(id, supported=f"Degraded {kind}: with the map less of the detail is wrong.",
        contradicted=f"Degraded {kind}: the map gains less than .01 over as many steps without it, or loses.",
        not_resolved=f"Degraded {kind}: whether the map gains .01 over as many steps without it is open.")  # fmt: skip

# %% [markdown]
# Below the dotted line lies the smallest effect of interest. An $F$ above 1 (right panel) would be more error than no
# detail at all; there the safest way to gain is to become smoother, and a lower $F$ is no proof of better detail. Look
# at $R$ as well before you rejoice, which is B6's part.
#
# ### Exercise 5: criticise (5 minutes, medium)
#
# A report says: "We took the released student, trained it on with the error map for 1,000 steps, and compared it with
# the released student on 3,000 photographs, five draws each: the HF error falls by .03, interval [.028, .032]. The map
# works." What is the strongest objection?
#
# - **a** five draws are too few to tell .03 from the noise of the draws
# - **b** photographs are not independent, so the interval is too narrow
# - **c** the same 1,000 steps without the map are missing; the student may not have been finished
# - **d** the HF error needs the clean image, and in practice there is none

# %% tags=["solution"]
### BEGIN SOLUTION
steps_answer = "c"
### END SOLUTION

# %%
check("12.base", steps_answer)

# %% [markdown]
# ## Sharper, and rightly so? (B6)
#
# The paper shows crops with crisper texture. As numbers: with the map, $R$ must come nearer to 1 than without, *and*
# $F$ must not rise. The claim's effect is the smaller of two margins: how much nearer $R$ comes, and .02 less the rise
# of $F$. Neither can pay for the other, and the smallest effect of interest, .02, is reached only if $F$ does not rise
# at all on average.

# %%
sharper = current("hf.B6")
if sharper:
    for arm in ("base", "map"):
        found = [f"{label} {statistics.t_interval(per_seed(sharper, m, arm))}" for m, label in ((R, "R"), (ERROR, "F"))]
        print(f"{arm:<5}{', '.join(found)}")
    for metric, label in ((R, "R"), (ERROR, "F"), ("rho", "rho")):
        print(f"map - base, {label:<4}{statistics.t_interval(per_seed(sharper, metric, 'map', 'base'))}")
say("hf.B6", supported="Sharper, and rightly so: nearer to the right amount of detail, without more error.",
    contradicted="Not both: the amount of detail comes nearer to right by less than .02, or the error rises.",
    not_resolved="Whether the map makes results sharper and right at once is open.")  # fmt: skip

# %% [markdown]
# $\rho$ was not decided upon beforehand; it is a description here. By exercise 4, an arm whose $\rho$ stays the same
# can only trade: nearer to 1 in $R$ *or* less $F$, once $R$ is above $\rho^2$.
#
# Whom does this credit? `base` lacks the map *and* the distance that it is multiplied to, so B1 and B6 speak for both
# together. Go back to B8's figure before you credit the map: there `no map` has the distance alone.
#
# ## Is the order right? (B5)
#
# The paper's table sorts the methods: ResShift in 15 steps, then SinSR in one, then SinSR with the map. Its own cells
# break it, in MUSIQ: on ImageNet-Test ResShift has 53.897 and SinSR 53.357, and on RealSR the map loses. Here are the
# shipped networks by $F$; nothing is trained, so intervals are over photographs and cover no other training.

# %%
order = current("hf.B5")
names = list(tested.SHIPPED)
if order:
    psnr = {arm: sum(per_seed(order, "psnr", arm)) / len(seeds_of(order)) for arm in names}
    table = {arm: [*row[1:], psnr[arm]] for arm, row in pairs_of(order, names).items()}
    show_table(["R", "F", "rho", "PSNR (dB)"], table)
    photo = [row["image"].split("/")[0] for row in order if row["arm"] == names[0]]
    error = {a: torch.tensor([row[ERROR] for row in order if row["arm"] == a]) for a in names}
    for first, then in itertools.pairwise(names):
        found = statistics.clustered_intervals(error[first] - error[then], photo, seed)
        print(f"F falls from {first} to {then} by {found[0]}, t [{found[1].low:.4g}, {found[1].high:.4g}]")
more = {name: f"{cards[name]['steps']:,} steps of its last stage" for name in names}
print("; ".join(f"{name}: {steps}" for name, steps in more.items()))
say("hf.B5", supported="In this order each step has less wrong detail than the one before.",
    contradicted="One of the two steps gains less than .01, or loses: no such order here.",
    not_resolved="Whether both steps of the order hold is open.")  # fmt: skip

# %% [markdown]
# Even where the order holds, it does not speak for the map: `student and map` is the student **with more steps**, and
# each network was trained once. That comparison is B1's. And the metric decides what an order is: a network that
# averages has less $F$ than one that draws detail, because it is smoother (exercise 4 again), and one would expect it
# of the single call beside the sampler. Compare $R$ and $\rho$ as well: whoever has more of both, and less $F$, is not
# smoother but better. A student learns from its teacher; what it did not learn shows here.
#
# ## What holds
#
# All claims as they stand. Where something is trained, intervals are over training seeds; B5's are over photographs,
# B4's and B4b's exact over cells. In the plot every row is in units of its own smallest effect.

# %%
if any(row["effect"] is not None for row in standing.values()):
    show(claims.forest(PAPER), alt=claims.alt_text(PAPER))

# %%
claims.print_report(PAPER)

# %% [markdown]
# Rows that say `not run` or `stale` need their command. The whole queue is one line,
#
#     minirestore claims run --paper hf_error_map --minutes 60
#
# and it may be stopped: finished jobs are kept, an interrupted training goes on, and arms that several claims share are
# trained once. With `--ledger FOLDER` the results go elsewhere, so that you can repeat a claim that has some.
#
# ## Train a pair of arms yourself
#
# The rehearsal of B8: `map` and `no map` from the shipped student, two seeds, **two steps** of one crop. This shows how
# an experiment is put together and nothing else; **no verdict** can come from it.

# %%
run = claims.run_claim("hf.B8", "quick", device="cpu", log=lambda line: None)
rehearsed = [{**row, "rho": rho_of(row[R], row[ERROR])} for row in run.rows]
cells = {}
for row in rehearsed:
    name = f"seed {row['seed']}, {row['arm']}, {row['image'].split('/')[0]}"
    cells[name] = [row[m] for m in (R, ERROR, "rho", "spread")]
show_table(["R", "F", "rho", "sd of F, draws"], cells)
apart = [abs(a - mean_of(rehearsed, ERROR, s, "no map")) for a, s in zip(
    per_seed(rehearsed, ERROR, "map"), seeds_of(rehearsed), strict=True)]  # fmt: skip
drawn = sum(row["spread"] for row in rehearsed) / len(rehearsed)
print(f"arms apart by {', '.join(f'{v:.2g}' for v in apart)} in F; one crop's F changes by {drawn:.2g} between draws")

# %% [markdown]
# Compare the two numbers of the last line. A difference between arms that is small beside what a new draw changes needs
# many crops and draws to be seen at all; with other seeds it may turn round. The ledger's arms had the budget that is
# printed above.
#
# ## Look inside: cheat yourself
#
# Turn both knobs on one crop. Can you find a setting that is sharper *and* has less error than the student's result?
# One that you would print in a paper, though its $F$ is worse?

# %%
at = crops.index("motorcycle/1/bicubic")
one, one_clean = student[at : at + 1], clean[at : at + 1]


def view(figure, amount, noise):
    """The student's result, sharpened and with noise, and its pair."""
    z = grainy(sharpen(one, amount), noise)
    r, f = (metrics.METRICS[m].function(z, one_clean).item() for m in (R, ERROR))
    sharp = (sharpness(z) / sharpness(one_clean)).item()
    for axis, (title, picture) in zip(figure.subplots(1, 2), {f"R {r:.3g}, F {f:.3g}": z, "clean": one_clean}.items(),
                                      strict=True):  # fmt: skip
        plots.image_axes(axis, middle(picture), title)
    return f"sharpness {sharp:.4g}, R {r:.4g}, F {f:.4g}, rho {rho_of(r, f):.4g}"


states = [{"amount": 0.0, "noise": 0.0}, {"amount": 1.0, "noise": 0.0}, {"amount": 1.0, "noise": 0.03}]
explore(view, size=(2.7, 1.6), states=states, amount=(0.0, 0.5, 1.0, 2.0, 3.0), noise=(0.0, 0.01, 0.03, 0.06))

# %% [markdown]
# ## Paper against this test
#
# | matter | paper | here | touches |
# |---|---|---|---|
# | metric | CLIPIQA, MUSIQ: no reference | HF error with its energy, against the clean image | all but B4 |
# | baseline | numbers copied from SinSR's paper | trained as long, same batches, same noise | B1 to B3, B6 |
# | trainings per row | 1 | 3 seeds | B1 to B3, B6 to B8 |
# | without the map, one scale | not there | `no map`, `one plus`, `one scale`, `reversed` | B7, B8 |
# | images | ImageNet-Test, RealSR, RealSet65 | six photographs, two crops each | all but B4 |
# | out of domain | real cameras | another degradation of the same crops | B2, B3 |
# | distance | LPIPS, trunk not named | the course's feature distance, where LPIPS is not on disk | all trained |
# | network | SinSR's, 119 million parameters | see the first cell | all trained |
# | reading of the map | two pages | one of two dozen readings (notebook 11) | all trained |
#
# **Limits.** A contradicted claim is contradicted *here*: for this reading, this distance, this size and 200 more
# steps. Equal steps are not equal time: an arm with a distance pays for decoding and for features (cost card), so
# `base` could have had more steps in the same time. Six photographs are few, and one test set serves all claims, so
# their verdicts are not independent. And nobody looked at pictures: whether people prefer one arm is not measured.
#
# ## What it costs


# %%
def seconds(**options):
    """One training step of an arm on one crop, forward and backward."""
    model = recipes.build(recipes.METHODS[PAPER], recipes.config.override(models["student and map"].config, options))
    checkpoints.fill(model, checkpoints.load(paths["student and map"])[0], paths["student and map"])
    began = time.perf_counter()
    batch = {"clean": clean[:1], "degraded": lq[:1]}
    model.training_losses(batch, diffusion.BatchGenerator(seed, 1), 0)["loss"].backward()
    return time.perf_counter() - began


measured = {f"one step of one crop, {name} (s)": seconds(**options) for name, options in (
    ("base", {"hf_weight": 0.0}), ("no map", {"mode": "none"}), ("map", {}))}  # fmt: skip
measured |= {"trained on": cards["student and map"]["device"]}
jobs = {
    id: len(claim.protocol.arms) * len(claim.protocol.seeds) for id, claim in ledger.items() if claim.paper == PAPER
}
fixed = {"parameters": cards["student and map"]["parameters"], "trainings of all claims": 3 * len(tested.ARMS)}
fixed |= {"steps of each": budget["steps"], "jobs of all claims": sum(jobs.values())}
show_cost("Judging the error map", fixed=fixed, measured=measured)

# %% [markdown]
# ## You can now
# - test a table of six cells, and say why even six of six would not be enough;
# - raise sharpness by cheap means, and catch others at it with the pair $(R, F)$;
# - say why the least error is too smooth, and what $\rho$ adds to the pair;
# - name the control that a new term of a loss needs: the same term without its new part;
# - put the noise of draws and of trainings beside a difference before believing it.
#
# **Try next**: one plus at several gains, `minirestore train hf_error_map --set mode=one_plus --set gain=3 --start
# resshift_student`; or give B8 more seeds in a copy of its protocol. Notebook 13 turns to a large generative prior, and
# to how it is told what to restore.
#
# **References**: Seo and Lee, *Diffusion SR with multi-scale high frequency error maps*. Y. Wang et al., *SinSR*, CVPR
# 2024. Z. Yue, J. Wang and C. C. Loy, *ResShift*, NeurIPS 2023. J. Wang, K. C. K. Chan and C. C. Loy, *Exploring CLIP
# for assessing the look and feel of images* (CLIPIQA), AAAI 2023. J. Ke et al., *MUSIQ: multi-scale image quality
# transformer*, ICCV 2021. Y. Blau and T. Michaeli, *The perception-distortion tradeoff*, CVPR 2018. C. Clopper and E.
# Pearson, *The use of confidence or fiducial limits illustrated in the case of the binomial*, 1934.
