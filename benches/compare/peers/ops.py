"""The operations beside convolution in PyTorch."""

import torch
import torch.nn.functional as F

from case import Case
from inputs import sample, tensor
from peers.guided_diffusion import PEER

OPS = {
    "group_norm": lambda x, w, b: F.group_norm(x, 32, w, b),
    "group_norm_silu": lambda x, w, b: F.silu(F.group_norm(x, 32, w, b)),
    "group_norm_scale_shift_silu": lambda x, w, b, scale, shift: F.silu(
        F.group_norm(x, 32, w, b) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    ),
    "silu": F.silu,
    # Channels before tokens, as the networks have them.
    "attention": lambda q, k, v: F.scaled_dot_product_attention(
        q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3)
    ).transpose(2, 3).contiguous(),
    "upsample": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "upsample_conv": lambda x, w: F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), w, padding=1),
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "cat": lambda a, b: torch.cat([a, b], dim=1),
    "add": lambda a, b: a + b,
    "combine": lambda a, b, c: 0.75 * a + 0.5 * b - 0.25 * c,
}


def cases():
    out = []

    def both(op, *shapes):
        size = "x".join(map(str, shapes[0]))
        spec = {"op": op, "shapes": [list(s) for s in shapes]}
        out.append(Case(f"{op} {size}", PEER, spec))
        out.append(Case(f"{op} {size}, training", PEER, {**spec, "training": True}))

    for b, c, n in [(1, 128, 256), (1, 256, 64), (1, 512, 16), (16, 64, 32)]:
        x = (b, c, n, n)
        both("group_norm_silu", x, (c,), (c,))
        both("group_norm_scale_shift_silu", x, (c,), (c,), (b, c), (b, c))
    large, middle = (1, 128, 256, 256), (16, 64, 32, 32)
    for x in (large, middle):
        both("silu", x)
        both("add", x, x)
        both("cat", x, x)
        both("avg_pool", x)
    for b, c, n in [(1, 128, 128), (1, 256, 32), (16, 96, 16)]:
        both("upsample", (b, c, n, n))
        both("upsample_conv", (b, c, n, n), (c, c, 3, 3))
    for shape in [(1, 1, 512, 256), (1, 8, 64, 1024), (16, 3, 32, 256), (1, 1, 64, 4096)]:
        both("attention", shape, shape, shape)
    images = (8, 4, 256, 256)
    solver = {"op": "combine", "shapes": [list(images)] * 3}
    out.append(Case("combine 8x4x256x256", PEER, solver, repetitions=15))
    for op in ("adam", "ema"):
        out.append(Case(f"{op} 16M parameters", PEER, {"op": op, "shapes": [[1 << 24]]}))
    return out


CASES = cases()


class Operation:
    def __init__(self, spec):
        self.op = OPS[spec["op"]]
        self.inputs = [tensor(i, *s) for i, s in enumerate(spec["shapes"])]
        self.dy, self.out = None, None
        if spec.get("training"):
            for x in self.inputs:
                x.requires_grad_(True)
            with torch.no_grad():
                self.dy = tensor(99, *self.op(*self.inputs).shape)

    def run(self):
        self.out = None
        if self.dy is None:
            with torch.inference_mode():
                self.out = self.op(*self.inputs)
        else:
            self.out = torch.autograd.grad(self.op(*self.inputs), self.inputs, self.dy)[0]

    def check(self):
        return sample(self.out)


class Update:
    def __init__(self, spec):
        self.ema = spec["op"] == "ema"
        self.gradient = tensor(0, *spec["shapes"][0])
        self.parameter = torch.zeros_like(self.gradient)
        self.adam = torch.optim.Adam([self.parameter], lr=1e-4, fused=True)
        self.parameter.grad = self.gradient

    @torch.no_grad()
    def run(self):
        if self.ema:
            self.parameter.lerp_(self.gradient, 1 - 0.999)
        else:
            self.adam.step()

    def check(self):
        return sample(self.parameter)


def prepare(spec):
    return (Update if spec["op"] in ("adam", "ema") else Operation)(spec)
