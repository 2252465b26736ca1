"""ncnn: Winograd and sgemm, float32 throughout, from TorchScript by pnnx.

It knows no batches: the slices of one run one after the other.
"""

import os
import subprocess
import sys

import ncnn
import numpy as np
import torch

from peers.engines.common import THREADS


def load(network, inputs, names, folder):
    one = tuple(x[:1] for x in inputs)
    path = os.path.join(folder, "network.pt")
    with torch.no_grad():
        torch.jit.trace(network, one).save(path)
    pnnx = os.path.join(os.path.dirname(sys.executable), "pnnx")
    shapes = ",".join(f"[{','.join(map(str, x.shape))}]" + {torch.int64: "i64"}.get(x.dtype, "f32") for x in one)
    command = [pnnx, path, f"inputshape={shapes}", "fp16=0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    net = ncnn.Net()
    net.opt.num_threads = THREADS
    net.opt.use_winograd_convolution = True
    net.opt.use_sgemm_convolution = True
    net.opt.use_packing_layout = True
    for reduced in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, "use_" + reduced, False)
    for load_, name in ((net.load_param, "network.ncnn.param"), (net.load_model, "network.ncnn.bin")):
        if load_(os.path.join(folder, name)):
            raise RuntimeError(f"ncnn can't read {name}")
    # Copies: it reads beyond what an array of NumPy holds. Its blobs have no batch.
    slices = [[ncnn.Mat(x[i].numpy()).clone() for x in inputs] for i in range(len(inputs[0]))]

    def run_one(blobs):
        extractor = net.create_extractor()
        for i, x in enumerate(blobs):
            extractor.input(f"in{i}", x)
        failed, out = extractor.extract("out0")
        if failed:
            raise RuntimeError(f"ncnn gave {failed}")
        return np.array(out)

    return lambda: np.stack([run_one(blobs) for blobs in slices])
