"""A judge's questions about MT-Bench answers, and its ratings."""
