"""Claims on feature alignment: depth.C8 to C12, with the random teacher as the control."""

from minirestore.claims.depthmaster.common import difference, trained_claim

TEACHERS = ("aligned", "plain", "aligned per token", "random teacher")

trained_claim(
    TEACHERS,
    id="depth.C8",
    where="table IV, M.FA; here the course's features in the place of DINOv2",
    statement="Aligning the middle with a semantic encoder improves accuracy.",
    paper_effect="AbsRel 8.7 -> 8.3 (KITTI), 5.1 -> 5.0, 5.5 -> 5.3, 5.8 -> 5.5, 21.8 -> 21.6 %; F1 .306 -> .309",
    paper_value=-0.004,
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, aligned - not",
    unit="AbsRel",
    smallest=0.001,
)
trained_claim(
    TEACHERS,
    id="depth.C8b",
    where="the reduction of the divergence, which the text does not state (ours)",
    statement="Without the division by the number of channels, alignment improves accuracy more.",
    paper_effect="not compared; with it the weight of 1 is small",
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, divergence per token - divided by the channels, too",
    unit="AbsRel",
    smallest=0.001,
    effect=difference("abs_rel", "aligned per token", "aligned"),
)
trained_claim(
    TEACHERS,
    id="depth.C9",
    where="figure 6, which shows pictures; here twins of other materials",
    statement="Alignment keeps texture out of the depth.",
    paper_effect="pictures, no number",
    primary="texture_spread",
    direction="lower",
    contrast="difference between twins, aligned per token - not aligned",
    unit="of the depth",
    smallest=0.002,
    effect=difference("texture_spread", "aligned per token", "plain"),
)
trained_claim(
    TEACHERS,
    id="depth.C10",
    where="table V; here the control that it lacks",
    statement="It is what the teacher knows that helps: a random one is worse.",
    paper_effect="AbsRel on KITTI: DINOv2 8.3, SAM 8.3, AIMv2 8.4, OpenCLIP 8.5, none 8.7 %; no random one",
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, semantic teacher - random teacher, both divided by the channels",
    unit="AbsRel",
    smallest=0.001,
    effect=difference("abs_rel", "aligned", "random teacher"),
)
trained_claim(
    ("aligned", "aligned, down1"),
    id="depth.C12",
    where="table VI",
    statement="The deeper the aligned features, the better.",
    paper_effect="AbsRel on KITTI: D1 8.5, D2 8.4, middle 8.3 %; not monotone on ETH3D and DIODE",
    paper_value=-0.002,
    primary="abs_rel",
    direction="lower",
    contrast="AbsRel, aligned in the middle - in the first block of the way down",
    unit="AbsRel",
    smallest=0.001,
)
