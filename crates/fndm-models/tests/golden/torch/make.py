"""Writes the small files of this folder with PyTorch itself, and what is in them with the safetensors library.

python make.py   (torch 2.11, safetensors 0.8)
"""

import collections
import os
import warnings

import torch
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
os.chdir(os.path.dirname(os.path.abspath(__file__)))
torch.manual_seed(0)


def state():
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8 - 1
    return collections.OrderedDict(
        {
            "conv.weight": torch.randn(2, 3, 3, 3),
            "conv.bias": torch.randn(2),
            "half": torch.randn(5).half(),
            "bfloat": torch.randn(2, 2).bfloat16(),
            "double": torch.randn(3).double(),
            "count": torch.tensor(7),
            "bytes": torch.tensor([0, 1, 255], dtype=torch.uint8),
            "empty": torch.zeros(0, 3),
            # Four views of one storage.
            "view.rows": whole[1:3],
            "view.transposed": whole.t(),
            "view.every_second": whole[::2, ::3],
            "view.expanded": whole[0, :1].expand(4, 5),
        }
    )


def expected(name, tensors):
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, name + ".safetensors")


sd = state()
expected("plain", sd)
torch.save(sd, "plain.pt")
torch.save(dict(sd), "dict.pt")
torch.save(sd, "protocol4.pt", pickle_protocol=4)
torch.save(sd, "protocol5.pt", pickle_protocol=5)
torch.save(sd, "legacy.pt", _use_new_zipfile_serialization=False)
torch.save(sd, "legacy_protocol4.pt", _use_new_zipfile_serialization=False, pickle_protocol=4)
torch.save({k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in sd.items()}, "parameters.pt")
torch.save({"module." + k: v for k, v in sd.items()}, "data_parallel.pt")

# A module's own state dict, which carries _metadata.
module = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4))
expected("module", module.state_dict())
torch.save(module.state_dict(), "module.pt")

# What trainers write: several state dicts, an optimiser's state, numbers and words.
ema = {k: v.double().mul(0.5).to(v.dtype) for k, v in module.state_dict().items()}
expected("ema", ema)
optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
module(torch.randn(2, 2, 5, 5)).sum().backward()
optimizer.step()
training = {
    "epoch": 3,
    "loss": [0.5, 0.25],
    "best": None,
    "done": False,
    "step": 2**40,
    "name": "run",
    "state_dict": module.state_dict(),
    "ema": ema,
    "optimizer": optimizer.state_dict(),
}
expected("trained", module.state_dict())
torch.save(training, "training.pt")
torch.save(training, "training_legacy.pt", _use_new_zipfile_serialization=False)

# A whole module: to read it, its class would have to be imported and called.
torch.save(module, "code.pt")
