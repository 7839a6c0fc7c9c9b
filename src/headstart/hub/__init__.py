"""Collections of modules: a folder that holds them, and a catalogue that makes them quick to list."""

from headstart.hub.hub import Admission, Hub, Problem

__all__ = ["Admission", "Hub", "Problem"]
