"""HTTP: one module for each protocol, put together in `app`."""
