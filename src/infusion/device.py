"""How a GPU computes: in whole float32, and the same way every time."""

import torch


def settle(device: str) -> None:
    """Let equal trainings give equal bits, and derivatives their digits.

    Args:
        device: ``"cuda"`` turns off TF32, whose 10-bit products are too coarse for
            curvature, and algorithms that add in a random order; ``"cpu"`` needs
            nothing.
    """
    if device == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
