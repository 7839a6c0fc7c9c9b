"""Benchmarks: each file is a script that measures one thing. A package, so that names do not clash with the demo's."""
