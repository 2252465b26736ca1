"""Whole networks and convolutions in the engines that people deploy with, from one definition in PyTorch."""

import importlib
import importlib.metadata
import tempfile

import torch
from torch import nn

from case import Case
from inputs import sample, tensor
from peers import conv, unet
from peers.guided_diffusion import Classifier, UNet, classifier_config, fill
from peers.segmenter import Segmenter, segmenter_config

# Each engine's module, and the package that its version is of.
ENGINES = {
    "eager": ("torch", "torch"),
    "compiled": ("torch", "torch.compile"),
    "onnxruntime": ("onnxruntime", "ONNX Runtime"),
    "openvino": ("openvino", "OpenVINO"),
    "ncnn": ("ncnn", "ncnn"),
    "mnn": ("MNN", "MNN"),
}


def classifier_spec(size):
    return {"network": "classifier", "size": size, "batch": 1, "config": classifier_config(size, 4)}


def student_spec(size, sequences, batch=1):
    return {"network": "segmenter", "size": size, "batch": batch, "config": segmenter_config(size, sequences)}


def unet_spec(*of):
    return {"network": "unet", **unet.spec(*of)}


def convolution(shape):
    case = conv.case("3x3", *shape)
    return (case.name, {"network": "conv", **case.spec}, 9)


# A name, what is prepared, pairs of runs.
WHAT = [
    ("UNet 256 px", unet_spec(256), 5),
    ("UNet 128 px", unet_spec(128), 7),
    ("UNet 64 px", unet_spec(64), 9),
    ("UNet 256 px, batch 4", unet_spec(256, 4), 3),
    ("UNet 128 px, batch 4", unet_spec(128, 4), 3),
    ("UNet 64 px, batch 4", unet_spec(64, 4), 5),
    ("small UNet 64 px", {"network": "unet", **unet.SMALL}, 9),
    ("small UNet 64 px, batch 4", {"network": "unet", **unet.SMALL, "batch": 4}, 9),
    ("classifier 256 px", classifier_spec(256), 7),
    ("classifier 64 px", classifier_spec(64), 9),
    ("student 64 px", student_spec(64, 3), 9),
    ("student 128 px", student_spec(128, 3), 9),
    *[convolution(s) for s in conv.SHAPES if min(s[2:4]) >= 16],
]


def version(package):
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


CASES = [
    Case(name, f"{title} {version(package)}", {**spec, "engine": engine}, ("tuned",), repetitions, tolerance=1e-3)
    for name, spec, repetitions in WHAT
    for engine, (package, title) in ENGINES.items()
]


class Embedded(nn.Module):
    """A network that is given its embedding: not every converter knows sines, cosines and labels."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, emb):
        return self.network.embedded(x, emb)


def convolution_network(spec):
    """The convolution of the topic `conv`, with its input."""
    given = conv.Conv(spec)
    network = nn.Conv2d(given.x.shape[1], given.w.shape[0], given.k, given.stride, given.k // 2)
    with torch.no_grad():
        network.weight.copy_(given.w)
        network.bias.copy_(given.b)
    return network, {"x": given.x}


def network_of(spec):
    """The network, and its inputs by name."""
    config = spec.get("config")
    if spec["network"] == "conv":
        return convolution_network(spec)
    if spec["network"] == "segmenter":
        x = tensor(1001, spec["batch"], 3 * config["sequences"], spec["size"], spec["size"])
        return fill(Segmenter(config)), {"x": x}
    x, t, y = unet.inputs(spec, config["in_channels"])
    if spec["network"] == "classifier":
        return fill(Classifier(config)), {"x": x, "t": t}
    return fill(UNet(config)), {"x": x, "t": t, "y": y}


class Engine:
    def __init__(self, spec):
        network, inputs = network_of(spec)
        network = network.eval().requires_grad_(False)
        if spec["engine"] == "ncnn" and "t" in inputs:
            # Two small products, left out of its time.
            emb = network.embedding(*list(inputs.values())[1:])
            network, inputs = Embedded(network), {"x": inputs["x"], "emb": emb}
        module = importlib.import_module("peers.engines." + spec["engine"])
        # What is converted is read into memory, or mapped, before the folder goes.
        with tempfile.TemporaryDirectory() as folder:
            self.once = module.load(network, tuple(inputs.values()), list(inputs), folder)
            self.out = self.once()

    def run(self):
        self.out = None
        self.out = self.once()

    def check(self):
        return sample(torch.as_tensor(self.out))


def prepare(spec):
    return Engine(spec)
