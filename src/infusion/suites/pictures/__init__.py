"""Suites of pictures: what is tried, and how their edits are made."""
