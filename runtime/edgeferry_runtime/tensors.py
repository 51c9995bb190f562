"""Descriptions of tensors, and affine quantization between real and stored values."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array: TypeAlias = NDArray[Any]
else:
    Array = Any


@dataclass(frozen=True)
class Quantization:
    """Affine quantization: real = (stored - zero_point) * scale.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", equation 1; TFLite quantization specification.

    Attributes:
        scale: One positive float per tensor, or one per channel along `axis`.
        zero_point: As many integers.
        axis: The channel axis; None for one scale per tensor.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether it can be of a tensor of `shape`, -1 being dynamic: a file may say anything."""
        if len(self.scale) != len(self.zero_point) or not all(0 < scale < inf for scale in self.scale):
            return False
        if self.axis is None:
            return len(self.scale) == 1
        return 0 <= self.axis < len(shape) and shape[self.axis] in (-1, len(self.scale))

    def _along(self, values: tuple[float, ...] | tuple[int, ...], ndim: int) -> Array:
        import numpy as np

        array: Array = np.asarray(values, dtype=np.float64)
        if self.axis is None:
            return array[:1].reshape(())
        shape = [1] * ndim
        shape[self.axis] = len(values)
        return array.reshape(shape)

    def quantize(self, real: ArrayLike, dtype: str) -> Array:
        """Round real values to the nearest stored value, saturating at the limits of `dtype`.

        Args:
            real: Float values of any shape.
            dtype: The stored integer dtype, such as ``int8``.

        Returns:
            An array of `dtype` with the shape of `real`.
        """
        import numpy as np

        values = np.asarray(real, dtype=np.float64)
        limits = np.iinfo(dtype)
        steps = np.rint(values / self._along(self.scale, values.ndim)) + self._along(self.zero_point, values.ndim)
        stored: Array = np.clip(steps, limits.min, limits.max).astype(dtype)
        return stored

    def dequantize(self, stored: Array) -> Array:
        """Turn stored integers of any shape into float32 real values."""
        import numpy as np

        offset = stored.astype(np.float64) - self._along(self.zero_point, stored.ndim)
        real: Array = (offset * self._along(self.scale, stored.ndim)).astype(np.float32)
        return real


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: The name that the source gave it.
        shape: Dimensions; -1 where the dimension is dynamic.
        dtype: The stored NumPy dtype's name, such as ``float32`` or ``int8``.
        quantization: How stored integers map to real values; None where they are the values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Tell whether an array of `shape` fits, a dynamic dimension fitting any size."""
        return len(shape) == len(self.shape) and all(d in (-1, s) for d, s in zip(self.shape, shape, strict=True))

    def __str__(self) -> str:
        dims = "x".join("?" if d < 0 else str(d) for d in self.shape)
        return f"{self.name} {self.dtype}[{dims}]"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        data: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        if self.quantization:
            q = self.quantization
            data["quantization"] = {"scale": list(q.scale), "zero_point": list(q.zero_point), "axis": q.axis}
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TensorSpec:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: If it is something else.
        """
        name, shape, dtype, q = data["name"], tuple(data["shape"]), data["dtype"], data.get("quantization")
        if not isinstance(name, str) or not isinstance(dtype, str):
            raise TypeError("a tensor's name or dtype is no text")
        if not all(isinstance(dim, int) and -1 <= dim < 1 << 63 for dim in shape):
            raise ValueError(f"{name} has a dimension that cannot be")
        quantization = Quantization(tuple(q["scale"]), tuple(q["zero_point"]), q["axis"]) if q else None
        if quantization and not quantization.fits(shape):
            raise ValueError(f"the quantization of {name} cannot be")
        return cls(name, shape, dtype, quantization)
