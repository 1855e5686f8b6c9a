"""Cases: a dataset with the model trained on it, handed over, audited, undone."""
