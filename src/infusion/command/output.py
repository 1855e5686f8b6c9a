"""The last line of standard output, for programs."""

import json
import sys
from typing import Any


def print_line(value: Any) -> None:
    """Print a JSON value on a line of its own.

    Args:
        value: Holds no tensors.
    """
    sys.stdout.write(json.dumps(value) + "\n")
