"""Run folders: artefacts, rows, configurations, jobs side by side."""
