"""How a process computes: threads; a GPU in whole float32, the same way every time."""

import torch


def settle(device: str, threads: int) -> None:
    """Choose among PyTorch's, cuDNN's and cuBLAS' ways to compute, process by process.

    Every job calls it: where it runs, nothing else may have.

    Args:
        device: ``"cuda"`` turns off TF32, whose 10-bit products are too coarse for
            curvature, and cuDNN's algorithms that add in an order of their own. Other
            operations that do are not among those of the presets' models. ``"cpu"``
            needs nothing.
        threads: Of a CPU's operations.
    """
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
