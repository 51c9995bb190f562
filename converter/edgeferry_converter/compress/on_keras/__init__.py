"""Networks of Keras 3, on TensorFlow."""
