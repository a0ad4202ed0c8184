"""Damaged tables and images through reading, checking and predict: `python -m tests.fuzz`."""
