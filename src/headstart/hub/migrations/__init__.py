"""The catalogue's schema: numbered SQL files, applied in order, never changed once released.

Every statement ends with a semicolon at the end of a line, and no other line ends with one. A change of ModuleCard's
schema version, or of what a row means, needs a migration that empties both tables, so that the folders are read again.
From 0003 on, every migration ends with `UPDATE schema SET version = N`.
"""
