"""Call a served model with nothing but NumPy and the standard library: python call_a_server.py URL MODEL input.npy.

The Open Inference Protocol with tensors as bytes: the JSON's length in a header, the bytes behind the JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.request import Request, urlopen

import numpy as np


def main(url: str, model: str, path: str) -> None:
    """Print the most likely class of each sample in a ``.npy`` file of [N, ...]."""
    with urlopen(f"{url}/v2/models/{model}") as answer:
        described = json.load(answer)
    samples = np.load(path, allow_pickle=False)[:5].astype(np.float32)
    scores = infer(url, model, described["inputs"][0]["name"], samples)
    for sample in scores:
        print(f"class {sample.argmax()} with {sample.max():.3f}")


def infer(url: str, model: str, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the first output, float32 [N, ...], of a float32 input."""
    size = {"binary_data_size": values.nbytes}
    tensor = {"name": name, "shape": values.shape, "datatype": "FP32", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = "Inference-Header-Content-Length"
    request = Request(f"{url}/v2/models/{model}/infer", head + values.tobytes(), {length: str(len(head))})
    with urlopen(request) as answer:
        body, split = answer.read(), int(answer.headers[length])
    output = json.loads(body[:split])["outputs"][0]
    count = int(np.prod(output["shape"]))
    return np.frombuffer(body, np.float32, count, split).reshape(output["shape"])


if __name__ == "__main__":
    main(*sys.argv[1:4])
