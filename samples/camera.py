"""Name what each frame of a folder shows, and tell at what rate: python camera.py BUNDLE FOLDER."""

import os
import sys
import time
from pathlib import Path

from edgeferry_runtime import BenchOptions, ModelPool, bench

frames = sorted(Path(sys.argv[2]).iterdir())
alone_ms = bench(sys.argv[1], BenchOptions(delegate="cpu:1")).median_ms  # the engine without decoding, on one core
with ModelPool(sys.argv[1], os.cpu_count() or 1) as pool:  # each core decodes one frame while the others infer
    begin = time.perf_counter()
    for frame, best in zip(frames, pool.classify_all(frames, top=1), strict=True):
        print(f"{frame.name}: {best[0].label} {best[0].score:.2f}")
    frame_ms = (time.perf_counter() - begin) * 1e3 / len(frames)
print(f"{1e3 / frame_ms:.0f} frames/s: {frame_ms:.1f} ms a frame; the engine alone takes {alone_ms:.1f} ms")
