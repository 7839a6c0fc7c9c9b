"""Formats of module folders: read, validated and hashed without torch. How a module computes belongs in `kinds`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
