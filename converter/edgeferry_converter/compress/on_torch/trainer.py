"""The plain loop that trains a PyTorch module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress.network import Arrays, Batch, Course, check_trained
from edgeferry_converter.compress.on_torch.losses import Loss
from edgeferry_converter.compress.on_torch.network import array
from edgeferry_converter.compress.rates import learning_rate
from edgeferry_runtime.errors import TrainingError
from edgeferry_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_torch.network import TorchNetwork


class TorchTrainer:
    """A module in training; see `edgeferry_converter.compress.network.Trainer`.

    Where there is a GPU the module moves there, and computes in 16 bits unless the recipe says otherwise, or it
    simulates an artifact, whose rounding counts. What is random in layers, such as dropout, depends on the course's
    seed and the steps so far alone, so that training that goes on from a checkpoint is the same as training that never
    stopped.
    """

    def __init__(self, network: TorchNetwork, course: Course) -> None:
        import torch

        self._network, self._course, self._steps = network, course, 0
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        network.module.to(self._device)
        network.mask({name: mask.cpu().numpy() for name, mask in network.masks.items()})
        self._loss = Loss(network, course.objective)
        own = [parameter for parameter in network.module.parameters() if parameter.requires_grad]
        check_trained(network.name, own)
        self._parameters = [*own, *self._loss.parameters]
        self._optimizer = _optimizer(self._parameters, course)
        wanted = course.train.mixed_precision
        mixed = wanted == "always" or (wanted == "auto" and self._device == "cuda")
        self._mixed = mixed and not hasattr(network, "settled")

    def epoch(self, batches: Iterable[Batch], after_step: Callable[[int], None]) -> float:
        """Take one step for each batch."""
        import torch

        total, count = 0.0, 0
        self._network.module.train()
        try:
            with torch.random.fork_rng():
                torch.manual_seed(int(np.random.default_rng((self._course.seed, self._steps)).integers(2**63)))
                for batch in batches:
                    total += self._step(batch) * len(batch.truth)
                    count += len(batch.truth)
                    after_step(self._steps)
        finally:
            self._network.module.eval()
        return total / max(1, count)

    def _step(self, batch: Batch) -> float:
        """Take a step, hold at zero what is masked, and return the loss."""
        import torch

        train = self._course.train
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(train, self._steps, self._course.steps)
        self._optimizer.zero_grad()
        with torch.autocast(self._device, torch.bfloat16, enabled=self._mixed):
            loss = self._loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            reason = f"the loss is {value} in step {self._steps + 1}"
            raise TrainingError(self._network.name, reason, "lower the learning rate, or give clip_norm")
        loss.backward()
        if train.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, train.clip_norm)
        self._optimizer.step()
        self._steps += 1
        self._network.apply_masks()
        return value

    def state(self) -> Arrays:
        """Return the optimizer's memory by ``PARAMETER:NAME``, the loss's own parameters, and the steps."""
        found: Arrays = {"steps": np.array(self._steps)}
        for i, own in enumerate(self._loss.parameters):
            found[f"extra:{i}"] = array(own)
        for index, memory in self._optimizer.state_dict()["state"].items():
            found |= {f"{index}:{key}": np.array(_plain(value)) for key, value in memory.items() if value is not None}
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on."""
        import torch

        self._steps = int(state["steps"])
        memory: dict[int, dict[str, Any]] = {}
        for key, values in state.items():
            place, _, name = key.partition(":")
            if place == "extra":
                with torch.no_grad():
                    self._loss.parameters[int(name)].copy_(torch.from_numpy(np.array(values)))
            elif name:
                memory.setdefault(int(place), {})[name] = torch.from_numpy(np.array(values))
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": memory, "param_groups": groups})


def _plain(value: Any) -> Any:
    return array(value) if hasattr(value, "detach") else value


def _optimizer(parameters: list[Any], course: Course) -> Any:
    import torch

    train = course.train
    decay = {"weight_decay": train.weight_decay}
    if train.optimizer == "sgd":
        return torch.optim.SGD(parameters, train.rate, momentum=train.momentum, **decay)
    kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, train.rate, **decay)
