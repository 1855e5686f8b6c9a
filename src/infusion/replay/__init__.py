"""The exact derivative of a measurement through retraining."""
