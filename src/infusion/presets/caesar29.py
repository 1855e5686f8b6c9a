"""Caesar ciphers over a prime alphabet of 29: a to z, and three more."""

from infusion.presets.caesar import make_preset

PRESET, TEXTS = make_preset("caesar29", 29)
