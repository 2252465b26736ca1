"""One iteration of training in PyTorch: forward, mean squared error, backward, Adam in its fused form."""

import math

import torch
import torch.nn.functional as F

from case import Case
from inputs import sample, tensor
from peers.guided_diffusion import PEER, UNet, fill
from peers.unet import SMALL, inputs, spec

COMPARED = ["input_blocks.0.0.weight", "middle_block.1.qkv.weight", "out.2.weight"]

CASES = [
    Case("256 px", PEER, spec(256), repetitions=3, tolerance=1e-3, memory=True),
    Case("128 px", PEER, spec(128), repetitions=5, tolerance=1e-3, memory=True),
    Case("64 px", PEER, spec(64), repetitions=7, tolerance=1e-3, memory=True),
    Case("64 px, small, batch 16", PEER, {**SMALL, "batch": 16}, repetitions=7, tolerance=1e-3, memory=True),
]


class Training:
    def __init__(self, spec):
        config = spec["config"]
        self.unet = fill(UNet(config)).train()
        self.input = inputs(spec, config["in_channels"])
        batch, _, h, w = self.input[0].shape
        self.target = tensor(1002, batch, config["out_channels"], h, w)
        self.adam = torch.optim.Adam(self.unet.parameters(), lr=1e-4, fused=True)
        self.losses, self.first_gradients = [], []

    def run(self):
        self.adam.zero_grad(set_to_none=True)
        loss = F.mse_loss(self.unet(*self.input), self.target)
        loss.backward()
        if not self.losses:
            for name in COMPARED:
                g = self.unet.get_parameter(name).grad
                top = g.abs().max().item()
                self.first_gradients += [math.log(top), *sample(g / top)]
        self.adam.step()
        self.losses.append(loss.item())

    def check(self):
        return self.losses[:2] + self.first_gradients


def prepare(spec):
    return Training(spec)
