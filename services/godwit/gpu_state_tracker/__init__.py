"""The service that knows the cluster's GPUs and holds reservations."""
