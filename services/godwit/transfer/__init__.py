"""The data plane: pages from a memfd to a socket to a memfd."""
