"""The pure core of Godwit: events, roles and decisions. No I/O, no clock, no randomness."""
