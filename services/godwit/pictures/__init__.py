"""The log as people and programs read it: folds, figures, words, pages. Writes nothing to it."""
