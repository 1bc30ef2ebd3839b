"""Muon: momentum, orthogonalized, for the matrices inside the layers."""

import torch


def orthogonalize(gradients, steps=5):
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrices, for a batch of matrices."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (gradients / (gradients.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Steps have the same root mean square for every shape."""

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self.step_shape(parameters, group)

    def step_shape(self, parameters, group):
        """Updates parameters of one shape together."""
        directions = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            directions.append(parameter.grad.lerp(state["momentum"], group["momentum"]))
        updates = orthogonalize(torch.stack(directions))
        scale = max(1.0, updates.shape[-2] / updates.shape[-1]) ** 0.5
        for parameter, update in zip(parameters, updates):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(group["lr"] * scale * update)
