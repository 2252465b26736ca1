"""Writes the layouts of trainers' checkpoints with PyTorch itself: a small state dict, and what stands beside it.

python make.py   (torch 2.11)

state.json: the values that the state dict has everywhere here.
"""

import collections
import json
import os

import torch

os.chdir(os.path.dirname(os.path.abspath(__file__)))
torch.manual_seed(0)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)


net = Net()
with torch.no_grad():
    net.layer.weight.copy_(torch.arange(6.0).reshape(2, 3))
    net.layer.bias.copy_(torch.tensor([-1.0, 0.5]))
sd = net.state_dict()
ema = {k: v * 0.5 for k, v in sd.items()}
optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
net.layer(torch.ones(1, 3)).sum().backward()
optimizer.step()
with torch.no_grad():
    net.layer.weight.copy_(torch.arange(6.0).reshape(2, 3))
    net.layer.bias.copy_(torch.tensor([-1.0, 0.5]))
rng = torch.get_rng_state()[:64].clone()
json.dump({k: v.flatten().tolist() for k, v in sd.items()}, open("state.json", "w"))


def save(name, value):
    torch.save(value, name + ".pt")


# One state dict, beside what isn't one.
save("accuracy", {"epoch": 4, "best_acc1": torch.tensor(71.3), "state_dict": sd, "optimizer": optimizer.state_dict()})
save("rng", {"model": sd, "rng_state": rng, "cuda_rng_state": [rng, rng]})
save("history", {"model": sd, "loss": torch.rand(20)})
save("nested", {"checkpoint": {"model": sd, "step": 3}})
save(
    "lightning",
    {
        "state_dict": sd,
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.3)}},
        "optimizer_states": [optimizer.state_dict()],
    },
)
save("scaler", {"net": sd, "scaler": {"_scale": torch.tensor(65536.0)}})
by_name = {k: {"exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.zeros(2, 3)} for k in sd}
save("by_name", {"model": sd, "optim": {"state": by_name}})
save("beside_itself", {**sd, "optim": {"state": by_name}})
save("distributed", {"best_acc1": torch.tensor(1.0), "state_dict": {"module." + k: v for k, v in sd.items()}})
# Several: which one, nobody can know.
save("averages", {"model": sd, "ema": ema, "rng_state": rng})
save("two_levels", {"a": {"model": sd, "ema": ema}})
save("bare", {"model": collections.OrderedDict(weight=torch.ones(2, 3), bias=torch.ones(2)), "loss": torch.rand(20)})
save("extra", {**sd, "extra": {"a.b": torch.ones(3)}})
# Tensors without names.
save("numbered", {0: torch.ones(2), 1: torch.ones(3)})
save("half_numbered", {"layer.weight": torch.ones(2, 3), 7: torch.ones(2)})
save("numbered_below", {"model": {0: torch.ones(2)}, "shadow_params": [torch.ones(2)]})
save("numbered_beside", {"model": sd, "ema": {0: torch.ones(2), 1: torch.ones(2)}})
