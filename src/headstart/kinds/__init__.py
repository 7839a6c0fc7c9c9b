"""The kinds of modules, one file each, and their loading and saving. What files must hold belongs in `formats`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
