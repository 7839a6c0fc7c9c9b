"""Task embeddings, one file each: vectors that stand for a task, computed from the module tuned on it.

What is done with vectors, such as searching among them, is decided elsewhere (`indicators`, `ranking`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
