"""PyTorch modules with all that the artifact fuses, shares or fixes, opened as networks."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as f

from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.network import Course, Objective
from edgeferry_converter.compress.on_torch.network import TorchNetwork
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.sources.torch_shapes import call_by_name
from edgeferry_runtime.tensors import TensorSpec

SAMPLES = np.random.default_rng(0).normal(size=(32, 1, 8, 8)).astype(np.float32)
LABELS = np.arange(32) % 10


class Blocks(nn.Module):
    """Pictures of [N, 1, 8, 8] become 10 probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.b1, self.r1 = nn.BatchNorm2d(8), nn.ReLU6(inplace=True)
        self.d1, self.b2, self.r2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU()
        self.c2, self.b3, self.r3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.c3, self.mp = nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2)
        self.t1, self.b4 = nn.ConvTranspose2d(16, 6, 2, stride=2), nn.BatchNorm2d(6)
        self.ap, self.drop = nn.AvgPool2d(2), nn.Dropout(0.2)
        self.fc1, self.fc2 = nn.Linear(96, 16), nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = self.r1(self.b1(self.c1(image)))
        x = self.b3(self.c2(self.r2(self.b2(self.d1(first)))))
        second = self.r3(x + first)
        x = self.mp(torch.cat([f.relu(self.c3(second)), second], 1))
        x = self.ap(f.relu(self.b4(self.t1(x)))).flatten(1)
        return self.fc2(self.fc1(self.drop(x)).tanh()).softmax(-1)


def network(module: nn.Module, example: torch.Tensor | None = None) -> TorchNetwork:
    """Open a module of one input, ``image``, and one output; without an example of [N, 1, 8, 8]."""
    example = torch.zeros(1, 1, 8, 8) if example is None else example
    call = call_by_name(module.eval(), {next(iter(inspect.signature(module.forward).parameters)): example}, ())
    with torch.no_grad():
        answer = module(example)
    specs = [TensorSpec(n, (-1, *t.shape[1:]), "float32") for n, t in (("image", example), ("output_0", answer))]
    return TorchNetwork("blocks", call, ((specs[0],), (specs[1],)))


def seeded(made: Any) -> Any:
    """Give a module's normalizations statistics and factors that matter."""
    generator = torch.Generator().manual_seed(1)
    for part in made.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 1.5 + 0.5)
    return made


def train(made: Any, steps: int = 3, *, probabilities: bool = True) -> None:
    """Take a few steps on all samples."""
    course = Course(Objective("cross-entropy", "output_0", probabilities), Train(learning_rate=0.01), steps)
    trainer = made.trainer(course)
    for _ in range(steps):
        trainer.epoch(Lessons({"image": SAMPLES}, LABELS).in_order(32), lambda step: None)
