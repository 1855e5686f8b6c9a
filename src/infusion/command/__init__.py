"""The command: its line and its verbs."""
