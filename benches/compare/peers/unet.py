"""One pass through guided-diffusion's UNet in PyTorch, for inference."""

import torch

from case import Case
from inputs import sample, tensor
from peers.guided_diffusion import PEER, UNet, fill, small_unet_config, unet_config


def spec(size, batch=1, in_channels=4, out_channels=8):
    """DiffANO's configuration: four sequences, learned variance."""
    return {"size": size, "batch": batch, "config": unet_config(size, in_channels, out_channels)}


SMALL = {"size": 64, "batch": 1, "config": small_unet_config(9, 4)}

CASES = [
    Case("forward 256 px", PEER, spec(256), repetitions=5, tolerance=1e-3, memory=True),
    Case("forward 128 px", PEER, spec(128), repetitions=9, tolerance=1e-3, memory=True),
    Case("forward 64 px", PEER, spec(64), repetitions=15, tolerance=1e-3, memory=True),
    Case("forward 64 px, batch 4", PEER, spec(64, 4), repetitions=7, tolerance=1e-3, memory=True),
    Case("forward 64 px, small", PEER, SMALL, repetitions=15, tolerance=1e-3, memory=True),
    Case("forward 64 px, small, batch 16", PEER, {**SMALL, "batch": 16}, repetitions=9, tolerance=1e-3, memory=True),
]


def inputs(spec, channels):
    batch, size = spec["batch"], spec["size"]
    x = tensor(1001, batch, channels, size, size)
    t = torch.tensor([500.0 - 37 * i for i in range(batch)])
    return x, t, torch.arange(batch) % 2


class Forward:
    def __init__(self, spec):
        config = spec["config"]
        self.unet = fill(UNet(config)).eval()
        self.input = inputs(spec, config["in_channels"])
        self.out = None

    def run(self):
        self.out = None
        with torch.inference_mode():
            self.out = self.unet(*self.input)

    def check(self):
        return sample(self.out)


def prepare(spec):
    return Forward(spec)
