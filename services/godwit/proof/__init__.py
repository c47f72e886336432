"""The proof: a model checker over the real cores; a simulator of the whole system comes beside it."""
