"""The gradient of guided-diffusion's classifier with respect to its input in PyTorch."""

import torch

from case import Case
from inputs import sample
from peers.guided_diffusion import PEER, Classifier, classifier_config, fill
from peers.unet import inputs


def spec(size, batch=1):
    return {"size": size, "batch": batch, "config": classifier_config(size, 4)}


CASES = [
    Case("256 px", PEER, spec(256), repetitions=9, tolerance=1e-3, memory=True),
    Case("128 px", PEER, spec(128), repetitions=15, tolerance=1e-3, memory=True),
    Case("64 px", PEER, spec(64), repetitions=15, tolerance=1e-3, memory=True),
]


class Guidance:
    def __init__(self, spec):
        config = spec["config"]
        self.classifier = fill(Classifier(config)).eval().requires_grad_(False)
        self.x, self.t, self.y = inputs(spec, config["in_channels"])
        self.x.requires_grad_(True)
        self.out = None

    def run(self):
        self.out = None
        log_prob = torch.log_softmax(self.classifier(self.x, self.t), dim=-1)
        selected = log_prob[torch.arange(len(self.y)), self.y]
        self.out = torch.autograd.grad(selected.sum(), self.x)[0]

    def check(self):
        return sample(self.out)


def prepare(spec):
    return Guidance(spec)
