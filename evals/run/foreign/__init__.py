"""Logs of other harnesses as run folders: their scores doc by doc, marked as theirs wherever they are shown."""
