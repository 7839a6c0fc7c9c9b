"""Checks for authors of plug-ins: `check_kind`, `check_indicator`, `check_embedding` test that contracts are kept."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
