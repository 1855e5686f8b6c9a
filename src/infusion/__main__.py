"""``python -m infusion``."""

from infusion.command.cli import main

main()
