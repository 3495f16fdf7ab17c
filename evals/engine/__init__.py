"""The engine: token requests in, log-probabilities and generated tokens out. Knows no benchmark."""
