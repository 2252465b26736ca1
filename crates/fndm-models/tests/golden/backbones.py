"""Writes backbones.json: what torchvision's ResNets give, in f64, for weights and images of a formula.

python backbones.py   (torch 2.11, torchvision 0.26)

Number i of a tensor is u = top 24 bits of splitmix64(fnv1a(name) + i) / 2^24. Variances and gains of norms are 0.5 + u,
their means and shifts u - 0.5, weights (2 u - 1) sqrt(3 / fan_in), the classifier's bias u - 0.5, images 2 u - 1.
"""

import json
import math
import os

import numpy as np
import torch
import torchvision


def uniform(name, n):
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(n, dtype=np.uint64)
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def weight(name, shape):
    u = uniform(name, math.prod(shape))
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        v = 0.5 + u
    elif len(shape) == 1:
        v = u - 0.5
    else:
        v = (2 * u - 1) * math.sqrt(3 / math.prod(shape[1:]))
    return torch.from_numpy(v.astype(np.float32).reshape(shape))


def summary(x):
    x = x.detach()
    at = x[0, :8, x.shape[2] // 2, x.shape[3] // 2] if x.dim() == 4 else x[0, :8]
    return {"shape": list(x.shape), "mean": x.mean().item(), "std": x.std(correction=0).item(), "first8_center": at.tolist()}


out = {"torchvision": torchvision.__version__, "input_shape": [2, 3, 48, 64], "models": {}}
for name in ["resnet18", "resnet50", "wide_resnet50_2"]:
    model = getattr(torchvision.models, name)(weights=None).eval()
    names = {k: list(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    model.load_state_dict({k: weight(k, s) for k, s in names.items()}, strict=False)
    model.double()
    maps = {}
    for layer, module in {"stem": model.maxpool, **{f"layer{i}": getattr(model, f"layer{i}") for i in range(1, 5)}}.items():
        module.register_forward_hook(lambda _, __, y, layer=layer: maps.__setitem__(layer, summary(y)))
    x = torch.from_numpy((2 * uniform("image", math.prod(out["input_shape"])) - 1).reshape(out["input_shape"]))
    with torch.no_grad():
        logits = model(x)
    trainable = sum(p.numel() for p in model.parameters())
    out["models"][name] = {"parameters": trainable, "shapes": names, "maps": maps, "logits": summary(logits)}
folder = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(folder, "backbones.json"), "w") as f:
    json.dump(out, f, separators=(",", ":"))
    f.write("\n")
