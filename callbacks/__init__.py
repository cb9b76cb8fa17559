"""Training tricks, one a file. They are found by scanning this folder (`nastricks.modules.registry`)."""
