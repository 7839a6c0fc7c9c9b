"""Hubs: a folder that holds modules, and a catalogue of it that can be listed quickly."""

from headstart.hub.hub import Admission, Hub, as_hub
from headstart.hub.ref import ModuleRef

__all__ = ["Admission", "Hub", "ModuleRef", "as_hub"]
