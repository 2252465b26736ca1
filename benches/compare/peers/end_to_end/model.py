"""Reading a model folder: settings, networks, memory bank."""

import json
import pathlib
from dataclasses import dataclass

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from peers.guided_diffusion import Classifier, UNet


@dataclass
class Bank:
    """Rows of healthy patch features, with what a query goes through before it is compared with them."""

    config: dict
    rows: torch.Tensor
    # Of each feature map, (1, C, 1, 1): what is subtracted, and what it is multiplied by.
    means: list
    factors: list
    # Scores of healthy pixels at these probabilities.
    probabilities: torch.Tensor
    scores: torch.Tensor


@dataclass
class Model:
    config: dict
    # How a slice is examined: model.json's settings of the method.
    settings: dict
    unet: UNet
    classifier: Classifier
    bank: Bank


def load(folder, method="fndm"):
    folder = pathlib.Path(folder)
    config = json.loads((folder / "model.json").read_text())
    settings = config["detect"][method]
    check(config, settings)
    return Model(
        config,
        settings,
        network(UNet(config["unet"]), folder / "unet.safetensors"),
        network(Classifier(config["classifier"]), folder / "classifier.safetensors"),
        bank(folder / "memory.safetensors"),
    )


def network(network, file):
    """The network with the weights of a file, widened to float32, for inference."""
    network.load_state_dict({name: weight.float() for name, weight in load_file(file).items()})
    # No gradient of a weight is ever asked for, only the classifier's in its image.
    return network.eval().requires_grad_(False)


def bank(file):
    with safe_open(file, "pt") as stored:
        header = json.loads(json.loads(stored.metadata()["fndm-memory"])["bank"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}
    maps = range(header["maps"])
    column = lambda name: tensors[name][None, :, None, None]
    deviations = [column(f"deviation.{i}") for i in maps]
    return Bank(
        header["config"],
        tensors["rows"],
        [column(f"mean.{i}") for i in maps],
        # A channel that never changes says nothing.
        [torch.where(d > 0, 1 / d, 0) for d in deviations],
        tensors["calibration.probabilities"],
        tensors["calibration.scores"],
    )


def check(config, settings):
    """Fails where the settings ask for what is not written here."""
    preprocess = config["preprocess"]
    for what, got, expected in [
        ("prediction", config["prediction"], "v"),
        ("schedule", config["schedule"]["kind"], "linear"),
        ("from_image", config.get("from_image", False), False),
        ("parts", set(settings["parts"].values()), {True}),
        ("start", settings.get("start", "encoded"), "encoded"),
        ("solver", settings.get("solver"), None),
        ("encode_steps", settings.get("encode_steps"), None),
        ("label_condition", settings["label_condition"], True),
        ("residual_sides", settings.get("residual_sides", []), []),
        ("coarse_source", settings["coarse_source"], "bank"),
        ("coarse_rule", settings["coarse_rule"], "slice"),
        ("coarse_threshold", settings["coarse_threshold"], None),
        ("coarse_when_encoding", settings["coarse_when_encoding"], False),
        ("blank_condition", settings["blank_condition"], False),
        ("keep_outside", settings["keep_outside"], False),
        # Only noise of deviation 0 is known here: no random numbers are drawn.
        ("region_noise", settings["region_noise"], 0.0),
        ("threshold", settings["threshold"], "slice"),
        ("map_power", settings["map_power"], 1.0),
        ("z_smoothing", settings["z_smoothing"], 0.0),
        ("empty_when_healthy", settings["empty_when_healthy"], False),
        ("plane", preprocess["plane"], "axial"),
        ("head", preprocess["head"]["method"], "otsu"),
        ("normalization", preprocess["normalization"]["method"], "percentile"),
        ("z_range", preprocess["z_range"], [0.0, 1.0]),
        ("drop_lower", preprocess["drop_lower"], 0),
        ("drop_upper", preprocess["drop_upper"], 0),
        ("min_head_fraction", preprocess["min_head_fraction"], 0.0),
        ("crop_to", preprocess["crop_to"], None),
        ("pad_to", preprocess["pad_to"], None),
        ("brain_mask", preprocess.get("brain_mask"), None),
    ]:
        if got != expected:
            raise NotImplementedError(f"{what} {got!r}: expected {expected!r}")
