"""Containers, one per file: what a file on disk is, read within limits and without torch. None knows of modules."""
