"""The service that decides which migration starts, with which limits, and how it ends."""
