"""A whole cluster on this machine, of real processes: for the demo, for trying it, for tests."""

from typing import Final

CLUSTER_FILE: Final = "cluster.json"
"""In the cluster's folder: where its event log is, for the commands."""
