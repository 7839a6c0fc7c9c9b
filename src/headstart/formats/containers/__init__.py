"""What a file is: one container a file, read within limits and without torch. Nothing here knows of modules."""
