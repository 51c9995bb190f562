"""From the values that activations take to their ranges, without regard to the engine that computed them.

An engine's driver runs the float model over the samples, one at a time, and shows every activation to a `Statistics`
(`observer.py`); a method (`methods.py`) then makes one range of each. What is kept of a tensor does not grow with the
number of samples, so one pass serves every method.
"""
