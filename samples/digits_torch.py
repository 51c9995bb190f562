"""Train a small convolutional network on the digits with PyTorch: python digits_torch.py digits.pt.

`DigitNet` is also the factory that ``ferry convert digits_torch.py:DigitNet --weights digits.pt`` calls.
"""

from __future__ import annotations

import sys

import torch
from torch import nn


class DigitNet(nn.Module):
    """Pictures of [N, 1, 8, 8] in 0..1 become probabilities of [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the probability of each digit."""
        return torch.softmax(self.classifier(self.features(image)), dim=1)


def train(path: str) -> float:
    """Train for some seconds, save the weights, and return the accuracy on the test digits (0 to 1)."""
    import digits

    torch.manual_seed(0)
    data = digits.load()
    x, y = torch.from_numpy(data.train_x).permute(0, 3, 1, 2), torch.from_numpy(data.train_y)
    model = DigitNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(12):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.nll_loss(model(x[batch]).clamp_min(1e-9).log(), y[batch]).backward()
            optimizer.step()
    torch.save(model.state_dict(), path)
    model.eval()
    with torch.no_grad():
        predicted = model(torch.from_numpy(data.test_x).permute(0, 3, 1, 2)).argmax(1).numpy()
    return float((predicted == data.test_y).mean())


if __name__ == "__main__":
    print(f"test accuracy {train(sys.argv[1]):.4f}")
