"""The catalogue of GPU models: a TOML file a model, each figure with its source; and the loader."""
