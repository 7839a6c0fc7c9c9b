"""The command line: each command parses, makes one library call and prints. Light commands never import torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
