"""Name what each frame of a folder shows, decoding and inferring on all cores: python camera.py BUNDLE FOLDER."""

import os
import sys
from pathlib import Path

from edgeferry_runtime import ModelPool

frames = sorted(Path(sys.argv[2]).iterdir())
with ModelPool(sys.argv[1], os.cpu_count() or 1) as pool:
    for frame, best in zip(frames, pool.classify_all(frames, top=1), strict=True):
        print(f"{frame.name}: {best[0].label} {best[0].score:.2f}")
