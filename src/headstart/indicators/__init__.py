"""The indicators, one file each; every one is oriented so that higher means more similar."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
