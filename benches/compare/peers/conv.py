"""One convolution with bias in PyTorch."""

import math
import os

import torch
import torch.nn.functional as F

from case import Case
from inputs import sample, tensor

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

PEER = "torch " + torch.__version__.split("+")[0]


def case(what, b, ci, h, w, co, k=3, stride=1, passes="forward", repetitions=9):
    spec = {"batch": b, "in": ci, "height": h, "width": w, "out": co, "kernel": k, "stride": stride, "pass": passes}
    return Case(f"{what} {b}x{ci}x{h}x{w} to {co}", PEER, spec, repetitions=repetitions)


SHAPES = [
    (1, 128, 256, 256, 128),
    (1, 256, 256, 256, 128),
    (1, 128, 128, 128, 128),
    (1, 256, 64, 64, 256),
    (1, 512, 64, 64, 256),
    (1, 256, 32, 32, 256),
    (4, 256, 32, 32, 256),
    (1, 512, 16, 16, 512),
    (4, 512, 16, 16, 512),
    (1, 512, 8, 8, 512),
]

CASES = (
    [case("3x3", *s) for s in SHAPES]
    + [case("3x3 input gradient", *s, passes="input gradient", repetitions=5) for s in SHAPES[::3]]
    + [case("3x3 training", *s, passes="training", repetitions=5) for s in SHAPES[::3]]
    + [
        case("3x3 stride 2", 1, 128, 256, 256, 128, stride=2),
        case("3x3 stride 2", 1, 256, 64, 64, 256, stride=2),
        case("1x1", 1, 384, 128, 128, 128, k=1),
        case("1x1", 1, 512, 16, 16, 1536, k=1),
        case("3x3, few channels", 1, 9, 256, 256, 128),
        case("3x3, few outputs", 1, 128, 256, 256, 4),
        case("3x3, ragged edge", 1, 64, 181, 217, 64),
    ]
)


class Conv:
    def __init__(self, spec):
        b, ci, h, w = spec["batch"], spec["in"], spec["height"], spec["width"]
        co, k, self.stride = spec["out"], spec["kernel"], spec["stride"]
        self.k = k
        self.x = tensor(1, b, ci, h, w)
        self.w = tensor(2, co, ci, k, k) / math.sqrt(ci * k * k)
        self.b = tensor(3, co)
        self.dy = tensor(4, b, co, -(-h // self.stride), -(-w // self.stride))
        self.wanted = {
            "forward": [],
            "input gradient": [self.x],
            "training": [self.x, self.b, self.w],
        }[spec["pass"]]
        for t in self.wanted:
            t.requires_grad_(True)
        self.out = None

    def run(self):
        self.out = None
        with torch.set_grad_enabled(bool(self.wanted)):
            y = F.conv2d(self.x, self.w, self.b, stride=self.stride, padding=self.k // 2)
            if self.wanted:
                self.out = torch.autograd.grad(y, self.wanted, self.dy)[-1]
            else:
                self.out = y

    def check(self):
        return sample(self.out)


def prepare(spec):
    return Conv(spec)
