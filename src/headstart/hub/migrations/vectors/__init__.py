"""The schema of the file of vectors beside the catalogue: numbered SQL files, as those of the catalogue."""
