"""Godwit: live migration of running AI machines, every step an event."""
