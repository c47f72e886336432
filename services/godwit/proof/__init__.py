"""The proof: a model checker over the real cores, and a simulator of the whole system beside it."""
