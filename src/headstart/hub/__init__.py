"""Hubs: a folder that holds modules, and a catalogue of it that can be listed quickly."""

from headstart.hub.admission import Admission
from headstart.hub.hub import Hub, as_hub
from headstart.hub.ref import ModuleRef

__all__ = ["Admission", "Hub", "ModuleRef", "as_hub"]
