"""``python -m godwit.hypervisor.native``: the launcher of a host's native machines."""

from .launcher import main

main()
