"""Where vGPUs go: exact placement on the slices of GPUs, by policy, over any number of them. Pure.

``geometry`` says what may sit where on one GPU, ``shapes`` what still fits and what a choice
would leave, ``fleet`` chooses among many GPUs, ``layouts`` counts what is possible, and
``clearing`` names what would have to move.
"""
