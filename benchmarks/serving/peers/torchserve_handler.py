"""A handler for TorchServe: the body is a float32 tensor."""

from __future__ import annotations

import numpy as np


class ImageHandler:
    """The model in each worker."""

    def initialize(self, context) -> None:
        """Load it."""
        from ai_edge_litert.interpreter import Interpreter

        folder = context.system_properties["model_dir"]
        self.interpreter = Interpreter(f"{folder}/model.tflite", num_threads=1)
        self.interpreter.allocate_tensors()
        self.source = self.interpreter.get_input_details()[0]["index"]
        self.target = self.interpreter.get_output_details()[0]["index"]

    def handle(self, data: list, context) -> list:
        """Run each request of a batch, which has one."""
        return [self._run(np.frombuffer(item["body"], np.float32).reshape(1, 32, 32, 3)) for item in data]

    def _run(self, image: np.ndarray) -> dict:
        self.interpreter.set_tensor(self.source, image)
        self.interpreter.invoke()
        return {"scores": self.interpreter.get_tensor(self.target)[0].tolist()}
