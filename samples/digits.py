"""The handwritten digits that scikit-learn ships: 1,797 pictures of 8x8 pixels, with their labels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Digits(NamedTuple):
    """Pictures are float32 of [N, 8, 8, 1] in 0..1, labels int64 of [N]."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def load() -> Digits:
    """Split the digits into 1,347 for training and 450 for testing, always the same way."""
    pictures, labels = load_digits(return_X_y=True)
    x = (pictures.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(x, labels, test_size=450, random_state=0, stratify=labels)
    return Digits(train_x, train_y, test_x, test_y)


def save_calibration(folder: Path) -> tuple[Path, Path]:
    """Write 200 training pictures for calibration: one file for channels-last models, one for channels-first."""
    pictures = load().train_x[:200]
    nhwc, nchw = folder / "calibration_nhwc.npy", folder / "calibration_nchw.npy"
    np.save(nhwc, pictures)
    np.save(nchw, pictures.transpose(0, 3, 1, 2))
    return nhwc, nchw
