"""Guests to try machines with, and the shape that any guest has."""
