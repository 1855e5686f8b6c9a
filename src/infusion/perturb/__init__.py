"""Edits of documents: gradient, budgets, projected ascent, delivery, controls."""
