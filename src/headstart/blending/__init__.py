"""Blending a hub into a start: `rules` give weights, `spaces` compute the weighted sum, `ensemble` does both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
