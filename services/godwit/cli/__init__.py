"""The command godwit."""
