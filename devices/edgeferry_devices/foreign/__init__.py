"""A program that measures and is not ours: the ``benchmark_model`` of TensorFlow Lite or LiteRT that the user gives."""
