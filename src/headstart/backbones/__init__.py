"""Backbones: loading, identity, and the forward passes that everything above shares. Nothing here knows of kinds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
