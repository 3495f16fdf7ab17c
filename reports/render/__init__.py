"""Tables and pictures as text and files."""
