"""Test session: one thread, no front end, no network beyond loopback, this clone importable, in every child process.

Lives at the root so that ``pytest --nbval notebooks/NN_name.ipynb`` gets it as well.
"""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CHILD_PATH = [str(ROOT / "tests" / "offline"), str(ROOT)]

os.environ["PYTHONPATH"] = os.pathsep.join(
    [
        *CHILD_PATH,
        *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part not in ("", *CHILD_PATH)),
    ]
)
os.environ["MINIRESTORE_HEADLESS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("MINIRESTORE_DATA", None)
os.environ.pop("JPY_SESSION_NAME", None)

for folder in [*CHILD_PATH, str(ROOT / "tests")]:
    if folder not in sys.path:
        sys.path.insert(0, folder)

import sitecustomize

if not hasattr(sitecustomize, "block"):
    sys.modules.pop("sitecustomize")
    import sitecustomize
sitecustomize.block()


# ---------------------------------------------------------------- numbers that nbval compares

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
LAST_PLACES = 5  # units of the fourth digit by which two processors may differ
NOISE = 1e-6  # below, a number is what rounding left


def last_place(number: str) -> float:
    """One unit in the last printed place of a rounded number; 0 if it is exact (fewer than four digits, an integer)."""
    mantissa, _, exponent = number.partition("e")
    whole, _, decimals = mantissa.partition(".")
    rounded = decimals and len((whole + decimals).lstrip("0")) >= 4
    return 10.0 ** (int(exponent or 0) - len(decimals)) if rounded else 0.0


class Printed(str):
    """Printed text; equal to another one if they differ in rounded numbers alone, and by `LAST_PLACES` at most.

    Processors add in different orders, and a few steps of training make more of it than a digit rounded the other way.
    """

    __hash__ = str.__hash__

    def __eq__(self, other):
        if str.__eq__(self, other):
            return True
        if not isinstance(other, str) or NUMBER.sub("0", self) != NUMBER.sub("0", other):
            return False
        pairs = zip(NUMBER.findall(self), NUMBER.findall(other), strict=True)
        return all(
            a == b
            or (last_place(a) and max(float(a), float(b)) < NOISE)
            or abs(float(a) - float(b)) <= 1.01 * LAST_PLACES * max(last_place(a), last_place(b))
            for a, b in pairs
        )

    def __ne__(self, other):
        return not self == other


def tolerate_last_places() -> None:
    """Let nbval compare `Printed` texts."""
    from nbval.plugin import IPyNbCell

    exact = IPyNbCell.sanitize

    def sanitize(self, s):
        s = exact(self, s)
        return Printed(s) if isinstance(s, str) else s

    IPyNbCell.sanitize = sanitize


tolerate_last_places()
