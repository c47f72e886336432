"""The hypervisor interface, and behind it the drivers: ``native`` (and QEMU, later).

The interface is narrow on purpose. Rounds are asked for and their figures returned, so that a
driver may perform them (native) or observe them (QEMU moves its own memory).
"""
