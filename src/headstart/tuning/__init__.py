"""Tuning modules on a task: recipes and the loop. Nothing here ranks or blends."""
