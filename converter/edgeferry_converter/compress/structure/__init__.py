"""Channels that belong together, whichever framework holds them: traced, ranked, chosen, removed."""
