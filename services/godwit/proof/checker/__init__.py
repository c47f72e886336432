"""Searches all interleavings of the real cores in a small, hostile world, breadth first."""
