from .entry import main
from .program import app

__all__ = ["app", "main"]
