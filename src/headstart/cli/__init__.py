"""The command line: parse, make one library call, print. Light commands never import torch."""

from headstart.cli.program import app, main

__all__ = ["app", "main"]
