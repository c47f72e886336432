"""The service that runs a host's machines and sends them away."""
