"""Tuning modules on a task: recipes, the loop, and what a module scores. Nothing here ranks or blends."""
