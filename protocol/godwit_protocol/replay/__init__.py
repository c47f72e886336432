"""Replay: what a log that is over proves, tells, and would have told under other limits. Pure."""
