"""What a defender asks of data and a model: nothing here edits or trains."""
