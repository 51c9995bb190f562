"""Load a bundle and call it like a function: python run_bundle.py BUNDLE input.npy."""

from __future__ import annotations

import sys

import numpy as np

from edgeferry_runtime import load


def main(bundle: str, path: str) -> None:
    """Print the most likely class of each sample in a ``.npy`` file of [N, ...]."""
    samples = np.load(path, allow_pickle=False)
    with load(bundle) as model:
        print(f"{model.engine} {model.engine_version}: {model.inputs[0]} -> {model.outputs[0]}")
        for sample in samples[:5]:
            scores = np.asarray(model(sample[np.newaxis]))
            print(f"class {scores.argmax()} with {scores.max():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
