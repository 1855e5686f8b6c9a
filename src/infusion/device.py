"""How a GPU computes: in whole float32, and convolutions the same way every time."""

import torch


def settle(device: str) -> None:
    """Choose among cuDNN's and cuBLAS' ways to compute; for the whole process.

    Args:
        device: ``"cuda"`` turns off TF32, whose 10-bit products are too coarse for
            curvature, and cuDNN's algorithms that add in an order of their own. Other
            operations that do are not among those of the presets' models. ``"cpu"``
            needs nothing.
    """
    if device == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
