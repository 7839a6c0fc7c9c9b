"""Libraries: how each one writes modules, with its configurations' fields and its tensors' names.

A file's first word is the library: `peft`, `adapterhub`, `opendelta`, or `own` for what only Headstart writes. Here
configurations and shapes become layouts; no file is opened.
"""
