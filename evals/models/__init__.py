"""Which model is meant, and its weights: from a name to a loaded model."""
