"""Ranking a hub for a task: which modules take part, what they are scored on, and in which order they come out."""
