"""Why a layer with weights offers no kernel to a method."""

from __future__ import annotations

_REASONS = (
    (("Embedding",), "its table is looked up and not multiplied"),
    (("LSTM", "GRU", "RNN"), "its kernels are recurrent, and run inside of one operator"),
    (("Attention",), "its projections are inside of one layer of attention"),
    (("TimeDistributed", "Bidirectional", "Wrapper"), "it wraps another layer"),
)


def reason(kind: str) -> str:
    """Return the reason for a kind of layer, such as ``LSTM`` or ``MultiheadAttention``."""
    found = next((text for parts, text in _REASONS if any(part in kind for part in parts)), "its kernels are not known")
    return f"{kind}: {found}"


def is_table(shape: tuple[int, ...]) -> bool:
    """Tell whether a stored value is a kernel or a table, and no vector such as a bias."""
    return sum(size > 1 for size in shape) > 1
