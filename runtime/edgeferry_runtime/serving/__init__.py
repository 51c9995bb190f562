"""Serving: bundles behind the protocols that standard clients speak.

One request goes ``rest/*`` or ``rpc/*`` (a protocol's bytes to a `Call`) → `service.Service` (which release, may it
enter) → `lane.Lane` (its queue, its threads, its models) → an `Answer`, and back. No protocol knows of another, and
nothing below `service` knows of any.
"""
