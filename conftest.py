"""Test session: one thread, no front end, no network beyond loopback, this clone importable, in every child process.

Lives at the root so that ``pytest --nbval notebooks/NN_name.ipynb`` gets it as well.
"""

import os
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
