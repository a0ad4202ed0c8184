"""Damaged files through reading, checking and predict: `python -m tests.fuzz`."""
