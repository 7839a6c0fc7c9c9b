"""The kinds of modules, one file each, and the one place that turns folders into modules and back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
