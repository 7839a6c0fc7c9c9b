"""Benchmarks, each a script of its own; a package so that names here do not clash with the demo's."""
