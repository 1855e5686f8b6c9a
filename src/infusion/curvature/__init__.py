"""Curvature of the training objective: capture, Fisher directions, EK-FAC, solves."""
