"""Muon: momentum whose updates are orthogonal, for the convolutions inside a network.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. The momentum of a
weight, seen as a matrix, is replaced by the nearest matrix whose singular values are all about
one, so that every direction of the matrix learns at the same rate. PyTorch's own class takes
matrices only.
"""

from collections import defaultdict

import torch
from torch import Tensor

# Of the iteration in `orthogonal`: they bring singular values of 0 to 1 near 1 fast, not exactly.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum with Nesterov's look-ahead, made orthogonal.

    Arguments:
        parameters: tensors of two dimensions or more; all but the first count as one.
        lr: the spectral norm of an update of a wide or square matrix.
        momentum: share of the old average kept each step.
    """

    def __init__(self, parameters, lr: float = 1e-2, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            updates = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    momentum = state["momentum"]
                    momentum.lerp_(parameter.grad, 1 - group["momentum"])
                    update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
                    updates[update.shape].append((parameter, update))
            for (rows, columns), pairs in updates.items():  # equal shapes go together
                size = group["lr"] * max(1, rows / columns) ** 0.5
                new = orthogonal(torch.stack([update for _, update in pairs]))
                for (parameter, _), update in zip(pairs, new, strict=True):
                    parameter.add_(update.view(parameter.shape).to(parameter), alpha=-size)


def orthogonal(matrices: Tensor) -> Tensor:
    """U V^T of each matrix U S V^T, nearly: singular values come out between about 0.7 and 1.2.

    A Newton-Schulz iteration of fifth order on matrices (count, rows, columns), in bfloat16 on a
    GPU, which is fast in it. The result has that type and the same shape.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
