"""gRPC: one module for each service, put together in `server`."""
