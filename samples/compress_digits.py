"""Make a Keras and a PyTorch network smaller by one recipe, compress.toml: python compress_digits.py [OUT].

Prune, distill, train for int8, convert and measure; `OUT/keras/bundle` and `OUT/torch/bundle` can be pushed to a board.
"""

from __future__ import annotations

import sys
from pathlib import Path

import digits
import digits_keras
import digits_torch
import numpy as np

from edgeferry_converter.commands.compress_text import history_table
from edgeferry_converter.compress import compress

HERE = Path(__file__).parent


def main(out: Path) -> None:
    """Train both networks for some seconds, make both smaller, and print a table of the steps of each."""
    out.mkdir(parents=True, exist_ok=True)
    digits_keras.train(str(out / "digits.keras"))
    digits_torch.train(str(out / "digits.pt"))
    data = digits.load()
    train, test = (data.train_x, data.train_y), (data.test_x, data.test_y)
    options = {"weights": out / "digits.pt", "shape": {"image": (-1, 1, 8, 8)}}
    sources = {"keras": (out / "digits.keras", {}), "torch": (f"{HERE / 'digits_torch.py'}:DigitNet", options)}
    for framework, (source, own) in sources.items():
        layout = (0, 1, 2, 3) if framework == "keras" else (0, 3, 1, 2)
        lessons, exam = ((np.ascontiguousarray(x.transpose(layout)), y) for x, y in (train, test))
        made = compress(source, out / framework, HERE / "compress.toml", data=lessons, evaluate=exam, **own)
        made.check()
        print(f"{framework}\n{history_table(made.history)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/compress"))
