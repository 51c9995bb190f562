"""Fake quantization by the rules of `compress.grid`, as modules that torchao's PT2E puts into a graph.

torchao's own ones do not fit: its learned ranges get their parameters in the first batch, after the optimizer was made,
and PyTorch's kernel for channels multiplies by the reciprocal of a scale, which rounds some weights to another integer
than dividing does. The classes are PyTorch's, so this module is imported where they are used, and never before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase

from edgeferry_converter.compress import grid
from edgeferry_converter.compress.grid import HIGHEST, LOWEST, Moments


class Kernel(FakeQuantizeBase):  # type: ignore[misc]
    """Puts a kernel on its grid: symmetric, a scale per output channel.

    The scale is that of the largest weight as it is. After `learn` it is trained along (Esser et al. 2020,
    "Learned Step Size Quantization"), from the one of least error, and never above that.
    """

    def __init__(self, bits: int, groups: int, **_: Any) -> None:
        super().__init__()
        self.bits, self.groups, self.learned = bits, groups, False

    def learn(self, kernel: Any) -> None:
        """Train the scale along from here on."""
        first = grid.clipped_scale(self.rows(kernel.detach()).cpu().numpy(), (0,), self.bits)
        self.register_buffer("first", torch.from_numpy(first))
        self.share, self.learned = nn.Parameter(torch.ones_like(self.first)), True

    def forward(self, kernel: Any) -> Any:
        """Return the kernel as its integers say it."""
        rows, largest = self.rows(kernel.float()), grid.LARGEST[self.bits]
        scale = self.scale(rows)
        made = _rounded(rows / scale).clamp(-largest, largest) * scale  # a peak may come out a trifle above largest
        return self._kernel(made, kernel.shape)

    def scale(self, rows: Any) -> Any:
        """Return the scale of each channel, of [channels, 1]."""
        peak, largest = rows.detach().abs().amax(1, keepdim=True), grid.LARGEST[self.bits]
        full = peak.clamp_min(grid.SMALLEST_BOUND) / largest
        if not self.learned:
            return full
        share = _slower(self.share, (rows.shape[1] * largest) ** -0.5)
        return torch.clamp(self.first * share, full * grid.NARROWEST, full)

    def snapped(self, kernel: Any) -> Any:
        """Return a kernel as `grid.snap` does."""
        with torch.no_grad():
            rows = self.rows(kernel)
            made = grid.snap(rows.cpu().numpy(), (0,), self.bits, self.scale(rows).cpu().numpy())
            return self._kernel(torch.from_numpy(made), kernel.shape)

    def calculate_qparams(self, kernel: Any) -> tuple[Any, Any]:
        """Return scale and zero point of each channel, as torchao asks for them."""
        scale = self.scale(self.rows(kernel)).flatten()
        return scale, torch.zeros_like(scale, dtype=torch.int32)

    def rows(self, kernel: Any) -> Any:
        """Return [output channels, what each sums over]; a transposed kernel has its outputs second, by group."""
        if not self.groups:
            return kernel.flatten(1)
        return kernel.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)

    def _kernel(self, rows: Any, shape: Any) -> Any:
        if not self.groups:
            return rows.reshape(shape)
        split = (self.groups, shape[1], shape[0] // self.groups, *shape[2:])
        return rows.reshape(split).transpose(1, 2).reshape(shape)


class Activation(FakeQuantizeBase):  # type: ignore[misc]
    """Rounds an activation; its range is observed (a moving average), learned, or fixed.

    A learned range is a factor of what calibration found, so that one learning rate does for all; its gradient is
    that of LSQ+ (Bhalgat et al. 2020, section 3.1), scaled as in LSQ (Esser et al. 2020, section 2.2). What has
    no range yet passes as it is.

    Attributes:
        batches: How many batches were observed.
        watching: Whether more will be.
        seen: What passed since `watch`, which is let through: lowest and highest value, and moments; else None.
    """

    def __init__(self, learned: bool = False, fixed: tuple[float, float] | None = None, **_: Any) -> None:
        super().__init__()
        low, high = fixed or (0.0, 0.0)
        self.learned, self.fixed = learned and fixed is None, fixed is not None
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))
        self.register_buffer("batches", torch.tensor(int(self.fixed)))
        self.register_buffer("watching", torch.tensor(not self.fixed))
        self.seen: list[Moments] | None = None
        if self.learned:
            self.factors = nn.Parameter(torch.ones(2))

    def forward(self, x: Any, follows: bool = False) -> Any:
        """Round; a tensor that follows another takes its range, and is not observed."""
        if self.seen is not None:
            self.seen += [] if follows else [grid.moments(x.detach().float().cpu().numpy())]
            return x
        x = x.float()
        if self.training and not follows and self.watching and not (self.learned and self.batches):
            self._observe(x.detach())
        return self.rounded(x) if self.batches else x

    def _observe(self, x: Any) -> None:
        low, high = torch.aminmax(x)
        share = (1 / (1 + self.batches)).clamp(min=1 - grid.MOMENTUM)
        self.low += share * (low - self.low)
        self.high += share * (high - self.high)
        self.batches += 1

    def rounded(self, x: Any) -> Any:
        """Round to the steps of the range, as `grid.fake` does."""
        if not self.learned:
            scale, zero = parameters(self.low, self.high)
            return torch.fake_quantize_per_tensor_affine(x, scale, zero.round().to(torch.int32), LOWEST, HIGHEST)
        scale, zero = parameters(*self._learned((x[:1].numel() * HIGHEST) ** -0.5))
        return (_rounded((x / scale + zero).clamp(LOWEST, HIGHEST)) - zero) * scale

    def _learned(self, share: float) -> tuple[Any, Any]:
        factors = _slower(self.factors, share)
        return self.low * factors[0], self.high * factors[1]

    def calculate_qparams(self) -> tuple[Any, Any]:
        """Return scale and zero point, as torchao asks for them."""
        low, high = self._learned(1.0) if self.learned else (self.low, self.high)
        scale, zero = parameters(low, high)
        return scale.detach(), zero.detach().round().to(torch.int32)

    def calibrate(self, low: float, high: float) -> None:
        """Take a range, as if the moving average had come to it."""
        self.low.fill_(low)
        self.high.fill_(high)
        self.batches.fill_(round(1 / (1 - grid.MOMENTUM)))

    def bounds(self) -> tuple[float, float]:
        """Return the lowest and highest value that it lets through."""
        scale, zero = (float(value) for value in self.calculate_qparams())
        return (LOWEST - zero) * scale, (HIGHEST - zero) * scale


def parameters(low: Any, high: Any) -> tuple[Any, Any]:
    """Return scale and zero point of a range as `grid.activation_scale` computes them, with gradients; both float."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low).clamp_min(grid.SMALLEST_BOUND) / grid.STEPS
    return scale, _rounded(LOWEST - low / scale)


def _rounded(x: Any) -> Any:
    """Round, with the gradient of what was rounded."""
    return x + (x.round() - x).detach()


def _slower(x: Any, share: float) -> Any:
    """Return a value with a share of its gradient."""
    return x.detach() + (x * share - (x * share).detach())
