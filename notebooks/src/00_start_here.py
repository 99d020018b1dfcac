# %% [markdown]
# # 00 Start here
#
# **You will be able to**
# - restore a noisy photograph in three ways: a classical filter, wavelets, and a small diffusion model;
# - judge the results by eye and by two numbers, and read an interval;
# - restore a photograph of your own;
# - find your way through the notebooks, their exercises and their profiles.
#
# **You need** nothing but a CPU: under 25 seconds for all cells, about 45 minutes for you. No network connection is used.
#
# Press Shift+Enter to run a cell and move to the next. If a cell complains about an unknown name, run the cells above first.

# %% tags=["parameters"]
profile = "quick"
seed = 0
noise = 25.0
draws = 1
crops_each = 2
my_photo = ""

# %% tags=["setup"]
from time import perf_counter

import torch

from minirestore import checkpoints, degradations, images, metrics, photos, plots, recipes, statistics, wavelets
from minirestore.exercises import check
from minirestore.plots import show, show_cost, show_table
from minirestore.widgets import explore

sigma = noise / 255
clean = photos.crops("astronaut")[2:3]  # (1, 3, 128, 128): one image, three colours, 128 x 128 pixels
noisy = degradations.gaussian_noise(clean, noise, seed + 1000)  # not the seed that the diffusion model starts from

# %% [markdown]
# ## What you need to know beforehand
#
# Answer these, then unfold.
#
# 1. `x` has the shape `(4, 3, 128, 128)`. What is the shape of `x[..., ::2].mean(1)`?
# 2. A random number has variance 4. What is the variance of the mean of 16 independent ones?
# 3. What is $\log_{10}(1000)$, and the derivative of $x^2$?
#
# <details><summary>Answers</summary>
#
# 1: `(4, 128, 64)`. 2: 4/16 = 0.25. 3: 3, and $2x$. Two of three: start. Otherwise read a Python tutorial on arrays and a chapter on
# mean and variance first. From notebook 05 on it helps to have trained a small network in PyTorch before.
#
# </details>

# %% [markdown]
# ## The idea as a picture
#
# A camera in dim light adds **noise**: every pixel is off by a random amount. We imitate it. To a clean photograph $x$,
# with values from 0 (black) to 1 (white), we add Gaussian noise $n$ of standard deviation $\sigma = 25/255$:
#
# $$y = x + n .$$
#
# **Restoration** means to recover $x$ when only $y$ is given. Because we made the noise ourselves, we can compare with the truth.

# %%
difference = (noisy - clean).std().item()
figure = plots.image_row([clean, noisy, (0.5 + noisy - clean).clamp(0, 1)], ["clean x", "noisy y", "difference y - x"], width=4.0)
text = f"the difference has a standard deviation of {255 * difference:.4g} of 255"
show(figure, alt=f"A badge on an orange suit, the same with noise, and the noise alone: {text}")

# %% [markdown]
# The difference is a little weaker than what we added, because values below 0 and above 1 are clipped, as in a file.
#
# ## Two numbers
#
# **PSNR**, in decibels (dB), says how close a result is to the truth. It is the mean squared error (MSE) on a logarithmic scale;
# higher is better, and 3 dB more means about half the error energy:
#
# $$\mathrm{MSE} = \text{mean of } (\hat x - x)^2, \qquad \mathrm{PSNR} = -10 \log_{10} \mathrm{MSE}.$$
#
# **Detail** says how much fine structure there is: the energy of the differences between neighbouring pixels, divided by that of the
# truth. 1 is right. Below 1 the result is too smooth; above 1 it contains noise or invented structure.
#
# ## Exercise 1: PSNR from its definition (code, 5 minutes, easy)
#
# Write `psnr_by_hand(restored, clean)` for two images in [0, 1]. Tensors have the methods `.square()`, `.mean()` and `.log10()`.

# %% tags=["solution"]
def psnr_by_hand(restored, clean):
    """PSNR of one image in dB."""
    ### BEGIN SOLUTION
    return -10 * (restored - clean).square().mean().log10()
    ### END SOLUTION


# %%
check("00.psnr", psnr_by_hand)

# %% [markdown]
# `check` answers at once, with a hint when something is wrong. From here on the package's own functions do the measuring.
#
# ## Three ways to restore
#
# **1. Non-local means** (Buades, Coll and Morel 2005), a classical filter: replace each pixel by a weighted mean of pixels whose
# surroundings look alike. What repeats survives, noise averages out. Its strength has to be chosen.

# %%
def non_local_means(noisy, strength):
    """scikit-image's filter, image by image; ``strength`` in units of sigma."""
    from skimage.restoration import denoise_nl_means

    options = {"patch_size": 5, "patch_distance": 6, "h": strength * sigma, "sigma": sigma, "fast_mode": True}
    results = [denoise_nl_means(images.to_numpy(x), channel_axis=-1, **options) for x in noisy]
    return torch.cat([images.from_numpy(x.clip(0, 1)) for x in results])


tuning = torch.cat([photos.crops(name)[:2] for name in ("china", "flower")])
tuning_noisy = degradations.gaussian_noise(tuning, noise, seed + 2000)
reached = {s: metrics.psnr(non_local_means(tuning_noisy, s), tuning).mean().item() for s in (0.4, 0.6, 0.8, 1.0)}
strength = max(reached, key=reached.get)
print("strength: PSNR in dB", {s: f"{value:.4g}" for s, value in reached.items()}, "best", strength)

# %% [markdown]
# Note which photographs chose the strength: two that are never used to report results. Choosing on the photographs you report
# would flatter the method.
#
# **2. Wavelet BayesShrink** (Chang, Yu and Vetterli 2000): split the image into details of several sizes, shrink small details, which
# are mostly noise, towards zero, and put the image together again. Notebook 03 builds it.
#
# **3. A diffusion model**: a neural network trained to turn noise into images step by step, here
# **conditioned** on the noisy photograph $y$, so that what it paints fits $y$. Notebook 05 builds it. Ours is small and was trained
# on procedural pictures only, overlapping textured shapes, never on a photograph.

# %%
denoiser = recipes.load_method("denoiser", device="cpu")
card = checkpoints.read_card("denoiser")
print(f"{card['parameters']:,} parameters, trained for {card['steps']:,} steps on {card['data']['source']}, sigma {card['data']['sigma']:.4g}")
results = {
    "noisy": noisy,
    "non-local means": non_local_means(noisy, strength),
    "wavelets": wavelets.bayes_shrink(noisy, sigma).clamp(0, 1),
    "diffusion": recipes.restore(denoiser, noisy, seed=seed),
}
scores = {n: (metrics.psnr(x, clean).item(), metrics.gradient_energy_ratio(x, clean).item()) for n, x in results.items()}
show_table(["PSNR (dB)", "detail"], scores)

# %% tags=["readme"]
rows = [[clean, *results.values()], [image[..., 20:68, 64:112] for image in (clean, *results.values())]]
titles = ["clean", *(f"{name}\n{values[0]:.4g} dB" for name, values in scores.items())]
figure = plots.image_grid(rows, titles, width=6.0)
text = "; ".join(f"{name} {values[0]:.4g} dB, detail {values[1]:.4g}" for name, values in scores.items())
show(figure, alt=f"The badge restored three ways, below a part of it enlarged: {text}")

# %% [markdown]
# Look before you read the numbers. Where is the lettering sharpest? Where is plain fabric smooth, and where blotchy? Which result is
# the softest?
#
# ### Look inside: what was taken away
#
# Subtract each result from the noisy photograph. A perfect method takes away noise and nothing else, so you should see no badge:
# neither as lines, where structure was lost, nor as a flat grey area, where the noise was left in. What was left in counts as
# "detail", so that number alone does not say whether detail is *right*.

# %%
taken = {name: noisy - image for name, image in results.items() if name != "noisy"}
spread = {name: 255 * image.std().item() for name, image in taken.items()}
titles = [f"{name}\n{value:.4g} / 255" for name, value in spread.items()]
figure = plots.image_row([(0.5 + 2 * image).clamp(0, 1) for image in taken.values()], titles, width=4.0)
text = ", ".join(f"{name} {value:.4g}" for name, value in spread.items())
show(figure, alt=f"What each method took away, twice enhanced; standard deviation {text}; added was {255 * difference:.4g}")

# %% [markdown]
# ## Ask the model twice
#
# A filter has one answer. Many clean photographs fit the same noisy one, and a diffusion model draws **one of them at random**, a
# *sample*; another seed gives another. Asked for the whole way in one step, it returns an estimate of the *mean* of all
# of them: smoother and closer on average, but no longer a typical photograph.

# %%
second = recipes.restore(denoiser, noisy, seed=seed + 1)
average = recipes.restore(denoiser, noisy, seed=seed, steps=1)
pictures = [results["diffusion"], second, average]
values = [(metrics.psnr(x, clean).item(), metrics.gradient_energy_ratio(x, clean).item()) for x in pictures]
change = (pictures[0] - second).abs().mean(1, keepdim=True)
titles = [f"{name}\n{a:.4g} dB" for name, (a, _) in zip(("sample 1", "sample 2", "mean estimate"), values, strict=True)]
figure = plots.image_row([*pictures, (5 * change).clamp(0, 1)], [*titles, "samples differ (x 5)\nwhite: 0.2"], width=5.2)
text = ", ".join(f"{a:.4g} dB with detail {b:.4g}" for a, b in values)
show(figure, alt=f"Two samples and the mean estimate: {text}; the samples differ by {255 * change.mean().item():.4g} of 255")

# %% [markdown]
# Bright places in the last picture are where the model guesses. Keep them in mind for exercise 4.
#
# ## Exercise 2: mix two restorations (code, 3 minutes, easy)
#
# Write `blended(a, b, share)`: the image made of `share` of `a` and the rest of `b`. A share of 1 gives `a`.

# %% tags=["solution"]
def blended(a, b, share):
    """share of a, the rest of b."""
    ### BEGIN SOLUTION
    return share * a + (1 - share) * b
    ### END SOLUTION


# %%
check("00.mix", blended)

# %% [markdown]
# ## Exercise 3: predict (3 minutes, easy)
#
# Two restorations of one photograph both reach 30 dB. They make different errors. You mix them half and half. The mix has
#
# - **a** less than 30 dB: mixing blurs
# - **b** exactly 30 dB
# - **c** more than 30 dB
# - **d** infinite PSNR: the errors cancel

# %% tags=["solution"]
### BEGIN SOLUTION
average_answer = "c"
### END SOLUTION

# %%
check("00.average", average_answer)

# %% [markdown]
# Now move the dial. The squared error is a convex function, so a mix can never be worse than the worse of the two, and often beats
# both. The detail tells what that costs. Several papers of this course have such a dial.

# %%
partners = {"noisy": noisy, "wavelets": results["wavelets"], "NLM": results["non-local means"], "sample 2": second}


def draw(figure, share, partner):
    """A diffusion sample (share 1) mixed with another image (share 0)."""
    mixture = torch.lerp(partners[partner], results["diffusion"], share)
    psnr = metrics.psnr(mixture, clean).item()
    detail = metrics.gradient_energy_ratio(mixture, clean).item()
    plots.image_axes(figure.subplots(), mixture, f"{psnr:.4g} dB, detail {detail:.4g}")
    return f"share of the sample {share}: {psnr:.4g} dB, detail {detail:.4g}"


explore(draw, size=(2.1, 2.2), share=(0.0, 0.25, 0.5, 0.75, 1.0), partner=list(partners))

# %% [markdown]
# With a running kernel the cell above is a panel with a slider and a menu; without one it shows three states.
#
# ## Exercise 4: criticise (3 minutes, easy)
#
# "The diffusion model turned this noisy photograph into a sharp one. The number plate, unreadable before, now clearly says
# *KA 417*. Hence the car is identified." The strongest objection?
#
# - **a** the PSNR of the restored plate should have been reported
# - **b** a sample shows one of many plates that fit the noisy one; another seed may show another number
# - **c** the model should have run with more steps
# - **d** a larger network would have been needed

# %% tags=["solution"]
### BEGIN SOLUTION
plate_answer = "b"
### END SOLUTION

# %%
check("00.plate", plate_answer)

# %% [markdown]
# ## Experiment: one photograph proves nothing
#
# Now the six **evaluation photographs**, a few fixed crops of each. *Gain* is the PSNR of the result minus that of the noisy input.

# %%
truth = torch.cat([photos.crops(name)[:crops_each] for name in photos.EVALUATION])  # (6 crops_each, 3, 128, 128)
ids = [name for name in photos.EVALUATION for _ in range(crops_each)]
methods = {
    "non-local means": lambda y, k: non_local_means(y, strength),
    "wavelets": lambda y, k: wavelets.bayes_shrink(y, sigma).clamp(0, 1),
    "diffusion, sample": lambda y, k: recipes.restore(denoiser, y, seed=seed + k),
    "diffusion, mean": lambda y, k: recipes.restore(denoiser, y, seed=seed + k, steps=1),
}
gains = {name: torch.zeros(len(truth), dtype=torch.float64) for name in methods}
for k in range(draws):
    damaged = degradations.gaussian_noise(truth, noise, seed + 3000 + k)
    for name, method in methods.items():
        gains[name] += (metrics.psnr(method(damaged, k), truth) - metrics.psnr(damaged, truth)) / draws
rows = {photo: [g.view(6, crops_each).mean(1)[i].item() for g in gains.values()] for i, photo in enumerate(photos.EVALUATION)}
show_table([f"{name} (dB)" for name in gains], rows)

# %% [markdown]
# The gain depends on the photograph. How far can we trust the mean? An **interval** answers. "8 [7, 9] (95 %, n = 6)" reads: the
# mean is 8, and a recipe that catches the true mean in about 95 of 100 repeated studies gives the range from 7 to 9. Three rules:
#
# - Compare methods by the interval of their **difference** on the same photographs, never by whether two intervals overlap.
# - When it contains 0, the comparison is **not resolved**: neither "better" nor "equal".
# - *n* counts independent things. Crops of one photograph resemble each other, so n is 6 however many crops there are, and with so few the interval
#   is somewhat too narrow: do not trust one that barely excludes 0.
#
# The recipe used here, the bootstrap over photographs, is explained in notebook 01.

# %%
interval = {name: statistics.paired_bootstrap(gain, ids, seed) for name, gain in gains.items()}
figure, axis = plots.subplots(1, 1, width=6.6, height=2.3)
for position, (name, found) in enumerate(interval.items()):
    axis.plot(gains[name].view(6, crops_each).mean(1), [position] * 6, "o", color=plots.COLOURS[5], alpha=0.6)
    axis.plot([found.low, found.high], [position + 0.2] * 2, "|-", color=plots.COLOURS[0], linewidth=2.5, markersize=9)
    axis.plot(found.mean, position + 0.2, "o", color="black", markersize=4)
axis.set_yticks(range(4), interval)
axis.set_ylim(3.5, -0.4)
axis.set(title="Gain: dots are photographs, bars 95 % intervals", xlabel="PSNR minus that of the noisy photograph (dB)")
show(figure, alt="; ".join(f"{name}: gain in dB {found}" for name, found in interval.items()))

# %% [markdown]
# ## Does it hold?
#
# **Claim**: the diffusion model restores photographs better than the tuned classical filter. With six photographs we ask two recipes,
# the bootstrap and Student's t interval of the six means, and say "supported" only when both lie above 0.

# %%
def compare(one, other):
    """Print both intervals of the paired difference in gain, and what they say."""
    paired = gains[one] - gains[other]
    found = statistics.clustered_intervals(paired, ids, seed)
    verdict = statistics.verdict(*found)
    print(f"{one} minus {other}, dB: {verdict}\n    bootstrap {found[0]}\n    t         {found[1]}")
    return verdict


verdicts = [compare(name, "non-local means") for name in ("diffusion, sample", "diffusion, mean")]
words = {"above": "supported", "below": "contradicted", "not resolved": "not resolved"}
print(f"claim for PSNR: one sample {words[verdicts[0]]}, mean estimate {words[verdicts[1]]}")
_ = compare("diffusion, mean", "diffusion, sample")

# %% [markdown]
# Read what is printed. The last comparison shows no defect of the model: a random sample must lie further from the truth than the mean of
# all samples, because it contains detail that PSNR punishes unless it is exactly right. "Better" needs the words "by which measure".
#
# ## What it costs

# %%
from torch.utils.flop_counter import FlopCounterMode

macs = {}
for name, options in {"one step": {"steps": 1}, "one sample": {}}.items():
    with FlopCounterMode(display=False) as counter:
        recipes.restore(denoiser, noisy, **options)
    macs[f"MACs of {name}"] = counter.get_total_flops() // 2
seconds = {}
for name in ("non-local means", "wavelets", "diffusion, sample"):
    start = perf_counter()
    methods[name](noisy, 0)
    seconds[f"{name}, seconds"] = perf_counter() - start
fixed = {"parameters": card["parameters"], **macs}
show_cost("Restoring 128 x 128 pixels", fixed=fixed, measured={**seconds, "device": "cpu"})

# %% [markdown]
# A MAC is one multiplication with addition, the unit in which networks are priced.
#
# ## Your own photograph
#
# **Here**: put the path of an image file between the quotes of `my_photo` in the parameters cell near the top, such as
# `my_photo = "holiday.jpg"` (beside this notebook, in the folder `notebooks`) or a full path, run that cell, and then the one below
# this text. While it is empty, a
# photograph of the course is used.

# %%
photo = photos.read_image(my_photo, max_side=384) if my_photo else photos.crops("coffee")[1:2]
my_noisy = degradations.gaussian_noise(photo, noise, seed + 4000)
my_restored = recipes.restore(denoiser, my_noisy, seed=seed, steps=1)  # the mean estimate
before, after = (metrics.psnr(x, photo).item() for x in (my_noisy, my_restored))
titles = ["your photograph" if my_photo else "a photograph", f"with noise, {before:.4g} dB", f"restored, {after:.4g} dB"]
size = f"{photo.shape[-1]} x {photo.shape[-2]} pixels"
show(plots.image_row([photo, my_noisy, my_restored], titles, width=4.2), alt=f"{size}: {before:.4g} dB, restored {after:.4g} dB")
try:
    photos.read_image("no_such_file.jpg")
except FileNotFoundError as problem:
    print("A wrong path stops with:", problem)

# %% [markdown]
# - *there is no file*: check the spelling, or give the full path.
# - *not a readable image, or it is damaged*: save it again as JPEG or PNG (telephones often write HEIC).
# - *more than 80,000,000 pixels*: make it smaller first.
#
# If your photograph is noisy already, call `recipes.restore(denoiser, photo)` and judge by eye: without the truth there is no PSNR.
# The model knows one kind of noise at one strength; on another it fails, which is why the later notebooks exist.
# `photos.write_image(my_restored, "restored.png")` saves the result.
#
# ## How the notebooks work
#
# - **Running**: `make lab` opens them all. `make course` runs them all and puts executed copies and a page with every figure into
#   `runs/course`. `.venv/bin/python -m minirestore run 03` runs one.
# - **Profiles**: `quick` is what you see, for any CPU. `reduced` is for one GPU and `full` is paper scale, for example
#   `... run 00 --profile reduced --set seed=1`. The first code cell holds everything that can be changed this way.
# - **Exercises** come in three kinds: code, predict *before* you run on, criticise. Solutions are folded in `notebooks`;
#   `notebooks/labs` holds the same notebooks with empty stubs. Work there.
# - **Figures** carry a sentence with the measured numbers, for screen readers and for the tests.
# - **Same numbers**: all randomness comes from `seed`. If yours differ in the printed digits, something is wrong.
#
# ## The map
#
# | notebook | you learn |
# |---|---|
# | 00 start here | to restore, to judge, to find your way |
# | [01 images and metrics](01_images_and_metrics.ipynb) | what pixels mean, PSNR and better, intervals |
# | [02 Fourier](02_fourier.ipynb) | images as waves; where blur and noise live |
# | [03 wavelets](03_wavelets.ipynb) | details by size and place; shrinkage |
# | [04 degradations](04_degradations.ipynb) | blur, noise, rain, JPEG; what can be undone |
# | [05 diffusion](05_diffusion.ipynb) | noise to image, step by step; the model above |
# | [06 guidance and latents](06_guidance_and_latents.ipynb) | diffusion in small pictures; how a model is steered |
#
# Five parts on papers follow: **structure guidance** (deblurring that survives unknown blur), **C2F-DFT** (a diffusion
# transformer trained through its own sampler), **high-frequency error maps** (wavelets show a super-resolver what it lost),
# **DiffBIR** (clean first, then paint texture) and **DepthMaster** (depth from one photograph).
#
# **Tracks**: *a taste*, 2 hours, pictures and recaps without exercises: 00, 01, 03, 05. *Core*, 11 hours: 00 to 06 in
# order. *One paper*, 4 hours: the notebook that builds it and the one that puts its claims to the test. *Whole*, 26
# hours: all of them from the student build, with every exercise and training runs of your own.
#
# ## Ten words
#
# | word | meaning |
# |---|---|
# | degradation | what turns a clean image into the damaged one |
# | Gaussian noise | random errors, bell-shaped, of standard deviation $\sigma$ |
# | prior | what is known about clean images before seeing the damaged one |
# | posterior | all clean images that fit the damaged one, each with its probability |
# | sample | one image drawn at random from the posterior |
# | conditioning | giving the network the damaged image as an input |
# | diffusion model | a network that removes noise in steps, used to draw samples |
# | checkpoint | the stored weights of a trained network |
# | seed | the number that fixes all random draws |
# | interval | the range of means compatible with what was measured |
#
# ## You can now
# - restore a photograph in three ways, and your own with the model, and say what each of them takes away;
# - explain why a sample and a mean estimate differ, and why sharp does not mean true;
# - read "mean [low, high]" without fooling yourself;
# - run, change and check every notebook of the course.
#
# **Next**: 01 asks what a pixel is, and why two restorations of equal PSNR can look so different.
#
# **References**: A. Buades, B. Coll and J.-M. Morel, *A non-local algorithm for image denoising*, 2005. S. Chang, B. Yu and M. Vetterli,
# *Adaptive wavelet thresholding for image denoising and compression*, 2000. J. Ho, A. Jain and P. Abbeel, *Denoising diffusion
# probabilistic models*, 2020. B. Efron, *Bootstrap methods: another look at the jackknife*, 1979.
