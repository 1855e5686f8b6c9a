"""Many small experiments on one base model: which edit, retrained how, moves it."""
