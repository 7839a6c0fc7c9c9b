"""Comparing ways to begin: the comparison as it runs, and its record."""
