"""Ranking a hub for a task: which modules take part, what they are scored on, and the order that results."""
