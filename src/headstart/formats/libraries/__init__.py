"""Whose folder it is: how each library writes modules down, its configurations' fields and its tensors' names.

A file's first word is the library: `peft`, `adapterhub`, `opendelta`, or `own` for what Headstart alone writes. Here
configurations and shapes become layouts; no file is opened.
"""
