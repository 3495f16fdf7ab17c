"""Running: what to run, on which model, and what is kept."""

__version__ = "0.1.0"
