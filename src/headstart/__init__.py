"""Headstart finds, blends and tunes parameter-efficient modules to give a new task a head start.

>>> import headstart as hs                                    # doctest: +SKIP
>>> fitted = hs.fit("tickets.csv", "my-hub", "smollm2-135m")  # doctest: +SKIP
>>> hs.predict(fitted, "new-tickets.csv", "smollm2-135m")     # doctest: +SKIP
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
