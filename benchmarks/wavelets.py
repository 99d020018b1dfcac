"""Wavelet transforms against ptwt, forward and inverse: interleaved medians and their ratio, in one run.

    python benchmarks/wavelets.py

Ratios above 1 mean that minirestore is faster. Milliseconds depend on the machine, ratios hardly do.
"""

import ptwt
import torch
from timing import interleaved_medians
from torch import Tensor

from minirestore import wavelets

REPEATS = 200
# name, shape, wavelet, mode here, mode of ptwt (Haar needs no border, so its cheapest mode), ratio to reach
CASES = (
    ("haar 4x3x128x128", (4, 3, 128, 128), "haar", "periodization", "zero", 1.5),
    ("haar 1x3x512x512", (1, 3, 512, 512), "haar", "periodization", "zero", None),
    ("db4 4x3x128x128", (4, 3, 128, 128), "db4", "symmetric", "symmetric", None),
    ("bior4.4 4x3x128x128", (4, 3, 128, 128), "bior4.4", "symmetric", "symmetric", None),
)


def main() -> int:
    """Print one line per case; exit code 1 if a ratio that is promised is missed."""
    torch.set_num_threads(1)
    missed = False
    print(f"{'forward + inverse':22} {'minirestore':>12} {'ptwt':>9} {'ratio':>6}")
    for name, shape, wavelet, mode, ptwt_mode, promised in CASES:
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))

        def ours(x=x, wavelet=wavelet, mode=mode) -> Tensor:
            return wavelets.idwt2(wavelets.dwt2(x, wavelet, mode), wavelet, mode)

        def theirs(x=x, wavelet=wavelet, mode=ptwt_mode) -> Tensor:
            return ptwt.waverec2(ptwt.wavedec2(x, wavelet, level=1, mode=mode), wavelet)

        if not (torch.allclose(ours(), x, atol=1e-5) and torch.allclose(theirs(), x, atol=1e-5)):
            raise AssertionError(f"{name}: a round trip does not return the image")
        first, second = interleaved_medians([ours, theirs], REPEATS)
        missed |= promised is not None and second / first < promised
        goal = f"  (promised {promised})" if promised else ""
        print(f"{name:22} {1e3 * first:9.3f} ms {1e3 * second:6.3f} ms {second / first:6.2f}{goal}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
