"""Writes optimizer.json: PyTorch's Adam and AdamW, and guided-diffusion's moving average, on a few small parameters.

    python make.py > optimizer.json        # PyTorch 2.11.0, CPU

The gradients are given, so no network is needed. Among them are zeros, tiny and large ones, and changes of sign.
"""
import json
import torch

torch.manual_seed(18)
torch.set_num_threads(1)
STEPS = 6
# The last has the rate change from step to step, as a warm-up does.
CASES = [
    dict(name="adam_paper", optimizer="Adam", betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0, rates=[1e-4] * STEPS),
    dict(name="adam_fast", optimizer="Adam", betas=[0.5, 0.9], eps=1e-3, weight_decay=0.0, rates=[3e-2] * STEPS),
    dict(name="adamw", optimizer="AdamW", betas=[0.9, 0.999], eps=1e-8, weight_decay=0.05, rates=[1e-2] * STEPS),
    dict(name="adamw_warm_up", optimizer="AdamW", betas=[0.9, 0.99], eps=1e-8, weight_decay=0.3,
         rates=[1e-2 * (i + 1) / STEPS for i in range(STEPS)]),
]
DECAYS = [0.9999, 0.5]
SHAPES = {"conv.weight": [2, 3, 1, 1], "norm.bias": [3], "scalar": [1]}


def values(tensor):
    return [float(v) for v in tensor.detach().flatten()]


def gradient(shape, step):
    g = torch.randn(shape)
    scale = torch.tensor([1.0, 1e-3, 1e-9, 1e4])[torch.randint(0, 4, shape)]
    g = g * scale
    if step == 2:
        g = torch.zeros(shape)
    return g


def run(case):
    weights = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}
    out = dict(case, shapes=SHAPES, start={n: values(w) for n, w in weights.items()}, steps=[])
    kind = getattr(torch.optim, case["optimizer"])
    optimizer = kind(weights.values(), lr=case["rates"][0], betas=tuple(case["betas"]), eps=case["eps"],
                     weight_decay=case["weight_decay"])
    averages = {d: {n: w.detach().clone() for n, w in weights.items()} for d in DECAYS}
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = case["rates"][step]
        gradients = {}
        for name, w in weights.items():
            w.grad = gradient(SHAPES[name], step)
            gradients[name] = values(w.grad)
        optimizer.step()
        # guided_diffusion.nn.update_ema
        for decay, average in averages.items():
            for name, w in weights.items():
                average[name].mul_(decay).add_(w.detach(), alpha=1 - decay)
        out["steps"].append(dict(
            gradients=gradients,
            weights={n: values(w) for n, w in weights.items()},
            averages={str(d): {n: values(a) for n, a in average.items()} for d, average in averages.items()},
        ))
    return out


print(json.dumps(dict(torch=torch.__version__, cases=[run(case) for case in CASES]), indent=None, separators=(",", ":")))
