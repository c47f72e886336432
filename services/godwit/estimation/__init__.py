"""Histories in the log, and what is made of them: shared by services and commands."""
