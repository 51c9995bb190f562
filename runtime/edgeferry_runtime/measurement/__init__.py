"""Measuring a model, and saying whether the figures can be trusted.

`run` times the calls, `statistics` describes the samples, `watch` reads the machine between them, `marks` says what
speaks against them. `local.bench` puts them together in this process; `fresh.bench_fresh` does so in a new one.
The public names are in `edgeferry_runtime.benchmark`.
"""
