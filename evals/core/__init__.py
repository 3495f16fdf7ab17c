"""The floor of the house: errors, files, cards, requests and statistics; imports no other room."""
