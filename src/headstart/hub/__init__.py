"""Collections of modules: a folder that holds them, and a catalogue that makes them quick to list."""

from headstart.hub.hub import Admission, Hub
from headstart.hub.ref import ModuleRef

__all__ = ["Admission", "Hub", "ModuleRef"]
