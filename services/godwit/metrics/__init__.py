"""What a service tells of itself in figures: what is measured, by whom, and how it is shown."""
