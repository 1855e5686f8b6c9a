"""Whether scores keep their word: predicted against realised, on retrained models."""
