"""The role machines: ``step(state, input, now_ns) -> (state, effects)``. Frozen data on both sides.

``table`` is how a role says what is legal; ``inputs`` and ``effects`` are what goes in and out.
"""
