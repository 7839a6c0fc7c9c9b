"""The indicators, one file each; every one is oriented so that higher means more similar.

What belongs here: how a score is computed from what the engine gives, the engine, and the table that it returns. What
never does: running the backbone inside of an indicator, and deciding what scores are used for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
