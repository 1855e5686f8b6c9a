"""The one training loop, its checkpoints, and retraining one or many models."""
