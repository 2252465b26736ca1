"""MNN: `precision: normal`, which is float32 on x86 and faster than `high`; Winograd as it chooses, from the ONNX file by its converter."""

import os
import subprocess
import sys

import MNN
import torch

from peers.engines.common import THREADS, onnx_file


def load(network, inputs, names, folder):
    source, target = onnx_file(network, inputs, names, folder), os.path.join(folder, "network.mnn")
    converter = os.path.join(os.path.dirname(sys.executable), "mnnconvert")
    convert = [converter, "-f", "ONNX", "--modelFile", source, "--MNNModel", target, "--bizCode", "compare"]
    subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
    manager = MNN.nn.create_runtime_manager(
        ({"backend": "CPU", "numThread": THREADS, "precision": "normal", "memory": "normal", "power": "high"},)
    )
    module = MNN.nn.load_module_from_file(target, names, ["out"], runtime_manager=manager)

    def variable(x):
        # Its whole numbers have 32 bits.
        x = x.int().numpy() if x.dtype == torch.int64 else x.numpy()
        of = MNN.numpy.int32 if x.dtype == "int32" else MNN.numpy.float32
        v = MNN.expr.placeholder(list(x.shape), MNN.expr.NCHW, of)
        v.write(x)
        return v

    variables = [variable(x) for x in inputs]

    def run():
        out = module.forward(variables)
        out = out[0] if isinstance(out, (list, tuple)) else out
        return MNN.expr.convert(out, MNN.expr.NCHW).read()

    return run
