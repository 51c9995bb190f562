"""Names of dtypes in the Open Inference Protocol.

Source: Open Inference Protocol v2, "Tensor Data Types".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from edgeferry_runtime.errors import UnknownNameError
from edgeferry_runtime.tensors import TensorSpec

DTYPES: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        **{f"UINT{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
        **{f"INT{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
        **{f"FP{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
        "BYTES": np.dtype(object),
    }
)
"""NumPy's dtype of each name. BYTES holds elements of any length."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_of(name: str) -> np.dtype[np.generic]:
    """Return NumPy's dtype of a name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in DTYPES:
        raise UnknownNameError("datatype", name[:40], DTYPES)
    return DTYPES[name]


def datatype(spec: TensorSpec, stored: bool = False) -> str:
    """Return the name of a tensor's datatype: of a quantized one FP32, unless its stored values are meant."""
    return "FP32" if spec.quantization and not stored else NAMES.get(np.dtype(spec.dtype), "BYTES")
