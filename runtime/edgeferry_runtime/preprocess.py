"""From a picture or raw samples to a model's input, as the recipe says."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgeferry_runtime.errors import DataError, MissingExtraError, MissingFileError, UnknownNameError, UsageError
from edgeferry_runtime.tensors import Array

LAYOUTS = ("NHWC", "NCHW")
COLORS = ("rgb", "bgr", "gray")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
"""By content; Pillow knows others, some of which start programs."""
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, MemoryError, OverflowError, IndexError, KeyError, TypeError)
"""What Pillow raises where a file is damaged."""
UNSCALED = 1 << 25
"""Pixels of a picture that is not resized, at most; each takes 12 bytes as a model's input."""


@dataclass(frozen=True)
class Preprocess:
    """How pixels of 0..255 become the values that the model was trained on: (pixel * scale - mean) / std.

    Attributes:
        resize: Height and width in pixels; None keeps the picture's own.
        scale: Factor on each pixel, such as 1/255.
        mean: Subtracted per channel, after `scale`; one value serves all channels.
        std: Divided by per channel; one value serves all channels.
        layout: ``NHWC`` or ``NCHW``.
        color: Channel order: ``rgb``, ``bgr`` or ``gray`` (one channel).
    """

    resize: tuple[int, int] | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NHWC"
    color: str = "rgb"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UnknownNameError("preprocess.layout", self.layout, LAYOUTS)
        if self.color not in COLORS:
            raise UnknownNameError("preprocess.color", self.color, COLORS)
        channels = 1 if self.color == "gray" else 3
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (1, channels):
                raise UsageError(
                    f"preprocess.{key}",
                    f"has {len(getattr(self, key))} values for {channels} channels",
                    f"give one value or {channels}",
                )
        if 0 in self.std:
            raise UsageError(
                "preprocess.std", "holds a zero, which cannot be divided by", "give the training set's std"
            )
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise UsageError("preprocess.resize", f"is {list(self.resize)}", "give [height, width] in pixels")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocess:
        """Read the JSON or TOML form.

        Raises:
            UnknownNameError: For a key that is none of the attributes.
            UsageError: For a value that does not fit.
        """
        names = [f.name for f in fields(cls)]
        for key in data:
            if key not in names:
                raise UnknownNameError("preprocess", key, names)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if v is not None}
        for key in ("mean", "std"):
            if isinstance(values.get(key), (int, float)):
                values[key] = (float(values[key]),)
        return cls(**values)

    def apply(self, pixels: Array) -> Array:
        """Scale, normalize and lay out pixels.

        Args:
            pixels: uint8 of [height, width, channels], already resized.

        Returns:
            float32 of [1, height, width, channels] or [1, channels, height, width].
        """
        import numpy as np

        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        values = pixels.astype(np.float32)
        values *= np.float32(self.scale)
        values -= mean
        values /= std
        if self.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[np.newaxis], dtype=np.float32)


def read_image(image: Path | bytes | Array, preprocess: Preprocess) -> Array:
    """Read a picture as a model's float32 input with a batch of one.

    Args:
        image: A PNG, JPEG, BMP or WebP file, the bytes of one, or uint8 pixels of [height, width], or of
            [height, width, channels] with 1, 3 (red, green, blue) or 4 channels.
        preprocess: What was done to the pictures in training.

    Returns:
        float32 of [1, height, width, channels] or [1, channels, height, width].

    Raises:
        MissingFileError: If there is no such file.
        MissingExtraError: If Pillow is needed and not installed. Pixels that already fit do not need it.
        DataError: If it is no picture, or a bomb of more pixels than Pillow's limit.
    """
    import numpy as np

    pixels = image if isinstance(image, np.ndarray) and _fits(image, preprocess) else _fitted(image, preprocess)
    return preprocess.apply(pixels[:, :, ::-1] if preprocess.color == "bgr" else pixels)


def _fits(pixels: Array, preprocess: Preprocess) -> bool:
    channels = 1 if preprocess.color == "gray" else 3
    wanted = preprocess.resize or pixels.shape[:2]
    return pixels.dtype == "uint8" and pixels.shape == (*wanted, channels) and pixels.size > 0


def _fitted(image: Path | bytes | Array, preprocess: Preprocess) -> Array:
    """Return uint8 pixels of the wanted size, with one channel or red, green and blue."""
    import numpy as np

    subject = image if isinstance(image, Path) else "the picture"
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError(subject, "images", "Pillow") from None
    mode = "L" if preprocess.color == "gray" else "RGB"
    if isinstance(image, np.ndarray):
        picture = Image.fromarray(_drawable(image)).convert(mode)
    else:
        most = Image.MAX_IMAGE_PIXELS or 2**27
        picture = _decoded(image, subject, mode, most if preprocess.resize else min(most, UNSCALED))
    if preprocess.resize is not None:
        height, width = preprocess.resize
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels: Array = np.asarray(picture, dtype=np.uint8)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def _drawable(pixels: Array) -> Array:
    """Check that an array is a picture, and drop an axis that Pillow does not have."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != "uint8" or pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or not pixels.size:
        given = f"{pixels.dtype}[{'x'.join(map(str, pixels.shape))}]"
        fix = "give uint8 of [height, width, channels], or call the model itself with its own input"
        raise DataError("the picture", f"is an array {given}, which holds no pixels", fix)
    return pixels[:, :, 0] if pixels.ndim == 3 and channels == 1 else pixels


def _decoded(image: Path | bytes, subject: object, mode: str, most: int) -> Any:
    """Return the picture that a file holds, of so many pixels at most."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(image, Path) and not image.is_file():
        raise MissingFileError(image, "no such picture", "check the path")
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=IMAGE_FORMATS) as opened:
            if opened.width * opened.height > most:
                raise DataError(subject, f"is {opened.width}x{opened.height} pixels", "give a smaller picture")
            return opened.convert(mode)
    except (*DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        if isinstance(error, DataError):
            raise
        why = "of no known kind" if isinstance(error, UnidentifiedImageError) else error
        reason = f"cannot be read as a picture ({why})"
        raise DataError(subject, reason, f"give one of {', '.join(IMAGE_SUFFIXES)}") from error
