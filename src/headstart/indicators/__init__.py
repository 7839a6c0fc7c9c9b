"""The indicators, one file each; each one is oriented so that higher means more similar.

The engine that runs the backbone for them and the table of scores that it returns are here too. An indicator itself
never runs the backbone, and what scores are used for is decided elsewhere (`ranking`, `blending`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
