"""The native hypervisor: a Linux process a machine, its memory really tracked."""
