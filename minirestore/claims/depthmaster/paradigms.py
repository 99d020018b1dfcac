"""Claims on how the network is called: depth.C2 and C4, and C6 once more with trained networks."""

from minirestore.claims.depthmaster.common import difference, trained_claim

DENOISING = {
    "ten steps": {"arm": "denoising", "calls": 10},
    "one step": {"arm": "denoising", "calls": 1},
    "ten steps, 2023": {"arm": "denoising, 2023", "calls": 10},
    "one step, 2023": {"arm": "denoising, 2023", "calls": 1},
}
AGAINST_DENOISING = ("plain", *DENOISING)
REPEATED = {"called twice": {"arm": "plain", "calls": 2}}

trained_claim(
    AGAINST_DENOISING,
    sampling=DENOISING,
    id="depth.C2",
    where="table II; the rival is repaired (trailing timesteps, training up to pure noise)",
    statement="One step is at least as accurate as denoising.",
    paper_effect="AbsRel 10.4 -> 10.3, 5.7 -> 5.3, 6.9 -> 6.0, 30.9 -> 29.9, 6.4 -> 6.5 %; F1 .274 -> .304",
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, single step - ten steps of the repaired rival",
    unit="AbsRel",
    smallest=0.0,
    effect=difference("abs_rel", "plain", "ten steps"),
)
trained_claim(
    AGAINST_DENOISING,
    sampling=DENOISING,
    id="depth.C2b",
    where="table II, the rival's samples in few steps (ours)",
    statement="With timesteps as in 2023 the rival fails in one step, and repaired it does not.",
    paper_effect="not shown; the repair is later than the paper's rival",
    primary="abs_rel",
    contrast="AbsRel in one step, timesteps of 2023 - repaired",
    unit="AbsRel",
    smallest=0.02,
    effect=difference("abs_rel", "one step, 2023", "one step"),
)
trained_claim(
    ("unrolled", "plain", "plain, longer", "called twice"),
    sampling=REPEATED,
    id="depth.C4",
    where="table II, iterative; here two calls, trained unrolled",
    statement="Feeding the result back improves accuracy a little.",
    paper_effect="AbsRel 10.3 -> 10.0, 6.5 -> 6.1, 29.9 -> 29.4 %; F1 .304 -> .310, for twice the time",
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, two calls, trained unrolled - one call",
    unit="AbsRel",
    smallest=0.001,
)
trained_claim(
    ("unrolled", "plain", "plain, longer", "called twice"),
    sampling=REPEATED,
    id="depth.C4b",
    where="the control of equal arithmetic (ours)",
    statement="It improves more than training one call with as much arithmetic does.",
    paper_effect="not compared",
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, two calls, trained unrolled - one call, twice the steps",
    unit="AbsRel",
    smallest=0.001,
    effect=difference("abs_rel", "unrolled", "plain, longer"),
)
trained_claim(
    ("plain", "disparity", "depth"),
    id="depth.C6b",
    where="table III, with trained networks",
    statement="Trained to predict it, 1/sqrt(D) is better than 1/D.",
    paper_effect="AbsRel 8.9 -> 8.7 (KITTI), 5.3 -> 5.1, 6.7 -> 5.5, 22.4 -> 21.8; ScanNet 5.7 -> 5.8 %",
    paper_value=-0.002,
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, trained for 1/sqrt(D) - for 1/D, each aligned in its own space",
    unit="AbsRel",
    smallest=0.001,
)
trained_claim(
    ("plain", "random weights"),
    id="depth.C2c",
    where="the use of a prior, which the paper takes for granted (ours)",
    statement="Beginning with the weights of a diffusion prior is better than with random ones.",
    paper_effect="not compared; the prior here has seen the same kind of scenes",
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, the prior's weights - random weights",
    unit="AbsRel",
    smallest=0.005,
)
