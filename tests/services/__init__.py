"""The services as processes: what they do is seen in the log alone."""
