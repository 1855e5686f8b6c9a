"""Influence of every training document, and which of them to edit."""
