"""Train a small convolutional network on the digits with Keras: python digits_keras.py digits.keras."""

from __future__ import annotations

import sys

import digits
import keras


def train(path: str) -> float:
    """Train for some seconds, save the model, and return its accuracy on the test digits (0 to 1)."""
    keras.utils.set_random_seed(0)
    data = digits.load()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.train_x, data.train_y, epochs=12, batch_size=64, verbose=0)
    model.save(path)
    return float(model.evaluate(data.test_x, data.test_y, verbose=0)[1])


if __name__ == "__main__":
    print(f"test accuracy {train(sys.argv[1]):.4f}")
