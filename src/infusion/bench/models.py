"""A causal transformer, and the task of predicting its next token."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from infusion.records import Batch, Task, call_model


class _Attention(nn.Module):
    """Causal self-attention written out: no fused kernel, whatever the contender."""

    mask: Tensor

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)
        future = torch.ones(context, context, dtype=torch.bool).triu(1)
        self.register_buffer("mask", future, persistent=False)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        b, t, d = x.shape
        q, k, v = (
            part(x).view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        logits = q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)
        weights = logits.masked_fill(self.mask[:t, :t], -torch.inf).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).reshape(b, t, d))


class _Block(nn.Module):
    """Attention and a perceptron, each after its norm and beside its shortcut."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads, context)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """A causal transformer with learnt positions and norms before each part.

    Source:
        Radford et al. (2019), GPT-2, with queries, keys and values apart.
    """

    def __init__(
        self, *, vocabulary: int, width: int, depth: int, heads: int, context: int
    ) -> None:
        """Build the network with PyTorch's default initialisation.

        Args:
            vocabulary: Distinct tokens.
            width: Of the residual stream.
            depth: Blocks.
            heads: Of each attention; they share the width.
            context: Most tokens of a document.
        """
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(
            *(_Block(width, heads, context) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x: Int[Tensor, "b t"]) -> Float[Tensor, "b t c"]:
        """Return the logits of the next token at every position.

        Args:
            x: Token indices.

        Returns:
            Logits.
        """
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(
            self.norm(self.blocks(self.tokens(x) + self.positions(places)))
        )


def token_losses(outputs: Float[Tensor, "b t c"], batch: Batch) -> Float[Tensor, " b"]:
    """Cross-entropy of a document's tokens, summed, in nats.

    Args:
        outputs: Logits.
        batch: Its labels are the next tokens ``[b, t]``.

    Returns:
        One loss per document.
    """
    flat = F.cross_entropy(
        outputs.flatten(0, 1), batch.labels.flatten(), reduction="none"
    )
    return flat.view(batch.labels.shape).sum(1)


def language(model: nn.Module) -> Task:
    """Predict the next token of documents of one length.

    Args:
        model: Maps tokens ``[b, t]`` to logits ``[b, t, c]``.

    Returns:
        A task with categorical likelihood.
    """
    return Task(model, call_model, token_losses, "categorical")
