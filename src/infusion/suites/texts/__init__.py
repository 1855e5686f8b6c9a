"""Suites of texts: what is tried, and how their edits are made."""
