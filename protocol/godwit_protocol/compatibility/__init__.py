"""Whether a machine can run on another host: checks that fail closed. Pure.

A verdict is ``ok`` only from facts of both sides; a fact that is missing refuses, and says so.
"""
