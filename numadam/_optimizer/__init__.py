"""The optimiser object, the functional API, and the dispatch on the type of an array."""
