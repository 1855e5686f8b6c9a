"""``python -m infusion``."""

from infusion.cli import main

main()
