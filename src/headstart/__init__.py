"""Headstart finds, blends and tunes parameter-efficient modules to give a new task a head start.

>>> import headstart as hs                                   # doctest: +SKIP
>>> backbone = hs.Backbone.load("smollm2-135m")              # doctest: +SKIP
>>> start = hs.ensemble(hs.Task.load("task.jsonl"), hs.Hub.open("my-hub"), backbone)  # doctest: +SKIP
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
