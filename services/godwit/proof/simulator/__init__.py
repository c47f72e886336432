"""A deterministic simulator: the real cores and shells of all services in a world made of a seed.

Clock, log, link, disk, memory and processes are simulated; everything that decides is the real
code. The same seed gives the same run, event by event.
"""
