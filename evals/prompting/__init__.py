"""From a doc to text, from text to tokens, from tokens to requests."""
