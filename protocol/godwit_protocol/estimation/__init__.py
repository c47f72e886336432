"""Estimates: what a migration would cost, from what was measured before it. Pure."""
