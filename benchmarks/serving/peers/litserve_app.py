"""LitServe, as its documentation shows it: a request of JSON, a list of numbers."""

from __future__ import annotations

import os
import sys

import litserve as ls
import numpy as np


class ImageApi(ls.LitAPI):
    """The model in each worker."""

    def setup(self, device: str) -> None:
        """Load it."""
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(os.environ["MODEL"], num_threads=1)
        self.interpreter.allocate_tensors()
        self.source = self.interpreter.get_input_details()[0]["index"]
        self.target = self.interpreter.get_output_details()[0]["index"]

    def decode_request(self, request: dict) -> np.ndarray:
        """Take the picture out."""
        return np.asarray(request["image"], np.float32).reshape(1, 32, 32, 3)

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Run."""
        self.interpreter.set_tensor(self.source, image)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.target)[0]

    def encode_response(self, scores: np.ndarray) -> dict:
        """Put the scores in."""
        return {"scores": scores.tolist()}


if __name__ == "__main__":
    port, workers = map(int, sys.argv[1:])
    server = ls.LitServer(ImageApi(), accelerator="cpu", workers_per_device=workers, fast_queue=True)
    quiet = {"log_level": "error", "generate_client_file": False}
    server.run(host="127.0.0.1", port=port, num_api_servers=workers, **quiet)
