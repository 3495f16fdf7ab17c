"""The engine: token requests in, log-probabilities and generated tokens out. Knows no benchmark. See README.md here."""

ENGINE_VERSION = "3"  # to be raised whenever results change: stored results of other versions are not used
