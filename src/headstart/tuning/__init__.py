"""Tuning modules on a task: recipes, the loop, and evaluation. Nothing here ranks or blends."""
