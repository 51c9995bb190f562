"""Make the small trained models of this folder again: python make.py.

A network with two outputs, trained on scikit-learn's digits, in both formats, and 64 pictures it has not seen.
They let tests of real artifacts run without a training framework.
"""

from __future__ import annotations

from pathlib import Path

import litert_torch
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent


class Net(nn.Module):
    """Pictures of [1, 1, 8, 8] in 0..1 become the probability of each digit and the mean of each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(256, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs by name."""
        features = torch.relu(self.second(torch.relu(self.first(image))))
        return {
            "digit": torch.softmax(self.head(features.flatten(1)), dim=1),
            "features": features.mean((2, 3), keepdim=True),
        }


def main() -> None:
    """Train, export, and write the pictures."""
    torch.manual_seed(0)
    pictures, labels = load_digits(return_X_y=True)
    x = torch.tensor(pictures.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    y = torch.tensor(labels)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        for batch in torch.randperm(1700).split(64):
            optimizer.zero_grad()
            nn.functional.nll_loss(model(x[batch])["digit"].clamp_min(1e-9).log(), y[batch]).backward()
            optimizer.step()
    model.eval()
    sample = {"image": x[:1]}
    litert_torch.convert(model, sample_kwargs=sample).export(str(HERE / "digits.tflite"))
    program = torch.onnx.export(model, kwargs=sample, dynamo=True, output_names=["digit", "features"])
    for node in program.model.graph:
        node.metadata_props.clear()  # traces of this machine's paths
    program.save(str(HERE / "digits.onnx"))
    np.savez(HERE / "digits.npz", image=x[1700:1764].numpy())
    accuracy = (model(x[1700:])["digit"].argmax(1) == y[1700:]).float().mean()
    print(f"accuracy on {len(x) - 1700} unseen pictures: {accuracy:.3f}")


if __name__ == "__main__":
    main()
