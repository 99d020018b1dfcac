"""Claims on pixels, gradients and the Fourier block: depth.C13 to C18, with controls of equal size and equal length.

The paper adds the parts one after another to a training in pixels from the start, and has two stages only in the end.
Here all second stages go on from one first stage, for equally many steps; from the start is an arm of its own.
"""

from minirestore.claims.depthmaster.common import difference, trained_claim

LOSSES = ("pixels + L_h", "pixels", "pixels + Huber")
STAGES = ("pixels", "plain", "latents again", "pixels at once")
BLOCKS = ("Fourier", "pixels + L_h", "spatial", "Fourier, released")

F1 = {"primary": "boundary_f1", "unit": "F1"}

trained_claim(
    STAGES,
    id="depth.C13",
    where="table VII, M.Pixel",
    statement="A loss in pixels from the start does not improve boundaries.",
    paper_effect="F1 .306 -> .307; AbsRel 8.7 -> 8.7 % (KITTI)",
    direction="lower",
    contrast="boundary F1, pixels at once (700 steps of 4) - latents only (500 of 8)",
    smallest=-0.01,
    null=-0.01,
    effect=difference("boundary_f1", "pixels at once", "plain"),
    **F1,
)
trained_claim(
    LOSSES,
    id="depth.C14",
    where="table VII, M.Pixel + L_h; here in a second stage",
    statement="The weighted gradient loss improves boundaries.",
    paper_effect="F1 .307 -> .308; AbsRel 8.7 -> 8.5 % (KITTI)",
    paper_value=0.001,
    contrast="boundary F1, pixels and L_h - pixels alone",
    smallest=0.001,
    **F1,
)
trained_claim(
    LOSSES,
    id="depth.C14b",
    where="equation 9 against the text (ours)",
    statement="Reversed, as in equation 9, it is better than the Huber loss of the text.",
    paper_effect="not compared; the text describes the one and the equation is the other",
    contrast="boundary F1, L_h of equation 9 - Huber",
    smallest=0.001,
    effect=difference("boundary_f1", "pixels + L_h", "pixels + Huber"),
    **F1,
)
trained_claim(
    ("Fourier at once", "pixels + L_h at once"),
    id="depth.C15",
    where="table VII, + FE",
    statement="In a single stage, the Fourier block improves boundaries.",
    paper_effect="F1 .308 -> .314; AbsRel 8.5 -> 8.3 % (KITTI)",
    paper_value=0.006,
    contrast="boundary F1, pixels at once with the block - without",
    smallest=0.001,
    tier="gpu",
    **F1,
)
trained_claim(
    STAGES,
    id="depth.C16",
    where="table VII, two stages",
    statement="Two stages draw better boundaries than pixels from the start.",
    paper_effect="F1 .314 -> .337; AbsRel 8.3 -> 8.2 % (KITTI)",
    paper_value=0.023,
    contrast="boundary F1, latents (500 steps of 8) then pixels (200 of 4) - pixels at once (700 of 4)",
    smallest=0.005,
    effect=difference("boundary_f1", "pixels", "pixels at once"),
    **F1,
)
trained_claim(
    STAGES,
    id="depth.C17",
    where="table IV, M.Stage2",
    statement="A second stage in pixels improves boundaries, without the Fourier block.",
    paper_effect="F1 .309 -> .330, for thirty more hours of training",
    paper_value=0.021,
    contrast="boundary F1, second stage in pixels - first stage alone",
    smallest=0.005,
    effect=difference("boundary_f1", "pixels", "plain"),
    **F1,
)
trained_claim(
    STAGES,
    id="depth.C17b",
    where="the control of equal length (ours)",
    statement="It improves them more than as many further steps of the first stage.",
    paper_effect="not compared",
    contrast="boundary F1, second stage in pixels - as many further steps in latents",
    smallest=0.005,
    effect=difference("boundary_f1", "pixels", "latents again"),
    **F1,
)
trained_claim(
    BLOCKS,
    id="depth.C18",
    where="tables IV and VII, M.Full",
    statement="The Fourier block improves boundaries.",
    paper_effect="F1 .330 -> .337 (Hypersim)",
    paper_value=0.007,
    contrast="boundary F1, second stage with the block - without",
    smallest=0.001,
    **F1,
)
trained_claim(
    BLOCKS,
    id="depth.C18b",
    where="the control of equal size (ours)",
    statement="It improves them more than the same convolutions without the transforms.",
    paper_effect="not compared",
    contrast="boundary F1, Fourier block - spatial block with as many parameters",
    smallest=0.001,
    effect=difference("boundary_f1", "Fourier", "spatial"),
    **F1,
)
trained_claim(
    BLOCKS,
    id="depth.C18c",
    where="the start of the block (ours)",
    statement="Begun as the identity it is better than as released, where it erases the middle of stage 1.",
    paper_effect="not compared",
    contrast="boundary F1, begun as the identity - begun as released",
    smallest=0.001,
    effect=difference("boundary_f1", "Fourier", "Fourier, released"),
    **F1,
)
