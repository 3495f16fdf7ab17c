"""The floor of the house: errors, files, cards, metrics, requests, run logs and statistics; imports no other room."""
