"""sg.A12 and sg.A13: what to diffuse, and adversarial adaptation."""

from minirestore.claims.definitions import Claim, register
from minirestore.claims.structure_guidance.common import PAPER
from minirestore.claims.structure_guidance.generalisation import rehearsal, trained_claim, trained_protocol

trained_claim(
    id="sg.A12",
    where="DvSR",
    statement="Diffusing the residual is better than diffusing the image at the same number of network calls.",
    paper_effect="up to 7 times faster at equal quality; entropy 7.42 -> 3.91 bits",
    protocol=trained_protocol(("unguided", "image", "refine"), ("linear",), 3),
    rehearsal=rehearsal("astronaut/2/linear", "coffee/2/linear"),
    primary="psnr",
    contrast="unguided (residual) - image",
    unit="dB",
    smallest=0.5,
)

register(
    Claim(
        id="sg.A13",
        paper=PAPER,
        where="comparison with domain adaptation",
        statement="Adversarial adaptation to the target domain hurts.",
        paper_effect="worse than guidance",
        not_testable="it needs unlabelled pictures of the target domain during training, which changes the task",
    )
)
