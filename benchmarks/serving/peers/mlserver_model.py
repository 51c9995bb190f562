"""A runtime for MLServer, which brings none for TFLite."""

from __future__ import annotations

import os

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class ImageModel(MLModel):
    """The model in each worker."""

    async def load(self) -> bool:
        """Load it."""
        self.interpreter = Interpreter(os.environ["MODEL"], num_threads=1)
        self.interpreter.allocate_tensors()
        self.source = self.interpreter.get_input_details()[0]["index"]
        self.target = self.interpreter.get_output_details()[0]["index"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run."""
        image = NumpyCodec.decode_input(payload.inputs[0])
        self.interpreter.set_tensor(self.source, image.astype(np.float32, copy=False))
        self.interpreter.invoke()
        scores = self.interpreter.get_tensor(self.target)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
