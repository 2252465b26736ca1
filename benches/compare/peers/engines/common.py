"""What several engines need."""

import os
import warnings

import torch

THREADS = int(os.environ["OMP_NUM_THREADS"])


def onnx_file(network, inputs, names, folder):
    """The network as an ONNX file, by PyTorch's own exporter."""
    path = os.path.join(folder, "network.onnx")
    with warnings.catch_warnings():
        # Of values that are fixed by the trace: they are fixed in the networks too.
        warnings.simplefilter("ignore")
        torch.onnx.export(network, inputs, path, input_names=names, output_names=["out"], opset_version=17, dynamo=False)
    return path
