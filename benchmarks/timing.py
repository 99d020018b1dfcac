"""Functions timed in turns, for ratios that hold on a busy machine too."""

import statistics
import time
from collections.abc import Callable


def interleaved_medians(functions: list[Callable[[], object]], repeats: int, warm_up: int = 5) -> list[float]:
    """Median seconds of each function over ``repeats`` calls; they take turns, so that all see the same load."""
    seconds = [[] for _ in functions]
    for repeat in range(repeats + warm_up):
        for function, record in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            if repeat >= warm_up:
                record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in seconds]
