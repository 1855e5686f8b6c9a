"""Plain modules, one file per architecture."""
