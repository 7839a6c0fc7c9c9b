"""Merge spaces, one file each: what the weighted sum is taken of."""
