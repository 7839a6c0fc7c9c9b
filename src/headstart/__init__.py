"""Headstart finds, blends and tunes parameter-efficient modules to give a new task a head start."""

__version__ = "0.1.0"
