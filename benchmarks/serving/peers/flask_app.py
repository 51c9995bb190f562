"""The handler that most tutorials show, with the model that MODEL names: a TFLite file, or a Keras one."""

from __future__ import annotations

import os
import threading

import numpy as np
from flask import Flask, jsonify, request
from PIL import Image

app = Flask(__name__)
lock = threading.Lock()


def load(path: str):
    """Return a function from float32 [1, 32, 32, 3] to scores [10]."""
    if path.endswith(".keras"):
        import keras

        model = keras.models.load_model(path)
        return lambda image: model.predict(image, verbose=0)[0]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, image)
        interpreter.invoke()
        return interpreter.get_tensor(target)[0]

    return run


model = load(os.environ["MODEL"])


@app.post("/predict")
def predict():
    """Name what a picture shows."""
    picture = Image.open(request.files["file"].stream).convert("RGB").resize((32, 32))
    image = np.asarray(picture, np.float32)[np.newaxis]
    with lock:
        scores = model(image)
    return jsonify({"label": int(scores.argmax()), "scores": scores.tolist()})


@app.get("/ready")
def ready():
    """Tell that the model is loaded."""
    return jsonify({})
