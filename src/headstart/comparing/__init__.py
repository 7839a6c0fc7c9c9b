"""Comparing ways to begin tuning: the comparison as it runs, and its record. Tables and plots belong in `reports`."""
