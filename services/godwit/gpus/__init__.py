"""A host's GPUs as they are: through NVML where a driver is there, else simulated."""
