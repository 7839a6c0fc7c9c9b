"""The command line: parse, make one library call, print. Light commands never import torch."""

from headstart.cli.app import main

__all__ = ["main"]
