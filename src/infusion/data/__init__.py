"""Documents in, edited documents out, each row with its own hash."""
