"""A slice's map by anomalib's rivals, with what the other side fitted: it prepares first and leaves its weights in a folder."""

import json
import os
import pathlib

import anomalib
import torch
import torch.nn.functional as F
import torchvision
from anomalib.models.components import TimmFeatureExtractor
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from case import Case
from inputs import sample, tensor

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

PEER = "anomalib " + anomalib.__version__
HERE = pathlib.Path(__file__).resolve().parent.parent.parent.parent / "target" / "compare" / "baselines"
SIDE = 64
# The largest layer of anomalib's CS-Flow is 128 times smaller than its picture, so a slice is enlarged for it.
CSFLOW_SIDE = 256
LAYERS = ["layer1", "layer2", "layer3"]


def case(method, name, backbone="resnet18", maps=LAYERS, slices=4, **more):
    spec = {
        "method": method,
        "backbone": backbone,
        "weights": str(HERE / f"{backbone}.safetensors"),
        "maps": maps,
        "slices": slices,
        "side": SIDE,
        "folder": str(HERE / method),
        **more,
    }
    return Case(f"{name}, {backbone}", PEER, spec, repetitions=15, tolerance=1e-3)


CASES = [
    case("stfpm", "STFPM"),
    case("reverse_distillation", "Reverse Distillation"),
    case("cflow", "CFlow"),
    case("csflow", "CS-Flow, enlarged to 256 px", "efficientnet_b5", ["features.6"], image=CSFLOW_SIDE),
    case("fastflow", "FastFlow"),
    case("padim", "PaDiM", slices=32),
    # One layer: with more, anomalib joins their channels as they are, and PatchCore's authors average them to one number.
    case("patch_core", "PatchCore, a bank of 3200 rows", maps=["layer2"], slices=500, dimension=128),
]


def make_backbones():
    """Networks with weights by chance, made once: times don't depend on them."""
    HERE.mkdir(parents=True, exist_ok=True)
    for name in ("resnet18", "efficientnet_b5"):
        file = HERE / f"{name}.safetensors"
        if file.exists():
            continue
        torch.manual_seed(0)
        state = getattr(torchvision.models, name)(weights=None).state_dict()
        for key, value in state.items():
            # As after a training: norms that do something.
            if key.endswith("running_mean"):
                value.normal_(0, 0.1)
            if key.endswith("running_var"):
                value.uniform_(0.8, 1.2)
        new = HERE / f"{name}.new"
        save_file(state, new)
        new.replace(file)


make_backbones()


def fitted(spec):
    """The other side's weights, by their names, and the config that is kept with them."""
    file = next(pathlib.Path(spec["folder"]).glob("*.safetensors"))
    with safe_open(file, "pt") as opened:
        return load_file(file), opened.metadata() or {}


def take(module, state):
    """Loads a state; only counts of batches may be missing, and last layers that take no part."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    unexpected = [k for k in unexpected if not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{type(module).__name__}: missing {missing[:4]}, unexpected {unexpected[:4]}")


def part(state, prefix):
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


class Rival:
    """A model of anomalib's, its backbone the same network as the other side's."""

    def __init__(self, spec):
        self.spec = spec
        self.weights = load_file(spec["weights"])
        state, metadata = fitted(spec)
        self.model = self.make(state, metadata).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.slice = tensor(2, 1, 3, SIDE, SIDE)

    def encode(self, module):
        """Gives an encoder the backbone's weights, as far as it goes."""
        network = module.feature_extractor if isinstance(module, TimmFeatureExtractor) else module
        own = set(network.state_dict())
        take(network, {k: v for k, v in self.weights.items() if k in own})

    def pictures(self, slices):
        """Slices in [-1, 1] as ImageNet's pictures."""
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        return ((slices + 1) / 2 - mean) / std

    @torch.inference_mode()
    def run(self):
        x = self.slice
        side = self.spec.get("image")
        if side:
            x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        maps = self.model(self.pictures(x)).anomaly_map
        if side:
            maps = F.interpolate(maps, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        self.maps = maps

    def check(self):
        return sample(self.maps)


class Stfpm(Rival):
    def make(self, state, _):
        from anomalib.models.image.stfpm import torch_model

        # Its teacher would be loaded from the network.
        kind = torch_model.TimmFeatureExtractor
        torch_model.TimmFeatureExtractor = lambda **given: kind(**{**given, "pre_trained": False})
        model = torch_model.STFPMModel(layers=self.spec["maps"], backbone="resnet18")
        self.encode(model.teacher_model)
        take(model.student_model.feature_extractor, state)
        return model


class ReverseDistillation(Rival):
    def make(self, state, _):
        from anomalib.models.image.reverse_distillation import torch_model
        from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode

        model = torch_model.ReverseDistillationModel(
            "resnet18", (SIDE, SIDE), self.spec["maps"], AnomalyMapGenerationMode.ADD, pre_trained=False
        )
        self.encode(model.encoder)
        # Both make a fourth convolution that takes no part; ours isn't saved.
        spare = {k: v for k, v in model.bottleneck.state_dict().items() if k.startswith(("conv4.", "bn4."))}
        take(model.bottleneck, {**spare, **part(state, "bn.")})
        take(model.decoder, part(state, "decoder."))
        return model


class Cflow(Rival):
    def make(self, state, _):
        from anomalib.models.image.cflow.torch_model import CflowModel

        model = CflowModel("resnet18", self.spec["maps"], pre_trained=False)
        self.encode(model.encoder)
        for n, decoder in enumerate(model.decoders):
            take(decoder, part(state, f"decoder{n}."))
        return model


class CsFlow(Rival):
    def make(self, state, _):
        from anomalib.models.image.csflow import torch_model

        network = torchvision.models.efficientnet_b5(weights=None)
        network.load_state_dict(self.weights)
        torch_model.efficientnet_b5 = lambda weights: network.eval()
        side = self.spec["image"]
        model = torch_model.CsFlowModel((side, side), 1024)
        take(model.graph.graph, {csflow_name(key): value for key, value in state.items()})
        return model


def csflow_name(key):
    """The official code's names, block by block, as anomalib's."""
    _, place, network, rest = key.split(".", 3)
    return f"module_list.{int(place) - 3}.cross_convolution{network[1]}.{rest}"


class FastFlow(Rival):
    def make(self, state, _):
        from anomalib.models.image.fastflow.torch_model import FastflowModel

        model = FastflowModel((SIDE, SIDE), "resnet18", pre_trained=False)
        self.encode(model.feature_extractor)
        for n, (norm, flow) in enumerate(zip(model.norms, model.fast_flow_blocks)):
            take(norm, part(state, f"norms.{n}."))
            take(flow, part(state, f"nf_flows.{n}."))
        return model


class Padim(Rival):
    """Fits itself, to the same slices and channels."""

    def make(self, _, metadata):
        from anomalib.models.image.padim.torch_model import PadimModel

        model = PadimModel("resnet18", self.spec["maps"], pre_trained=False)
        self.encode(model.feature_extractor)
        model.idx = torch.tensor(json.loads(metadata["fndm.config"])["channels"])
        with torch.no_grad():
            model.train()
            model(self.pictures(tensor(1, self.spec["slices"], 3, SIDE, SIDE)))
            model.fit()
        return model


class PatchCore(Rival):
    def make(self, state, _):
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        model = PatchcoreModel(self.spec["maps"], "resnet18", pre_trained=False)
        self.encode(model.feature_extractor)
        model.memory_bank = state["rows"]
        return model

    @torch.inference_mode()
    def check(self):
        """anomalib enlarges its distances without interpolation; what is compared is enlarged as the authors do it."""
        enlarge = F.interpolate
        F.interpolate = lambda x, size: enlarge(x, size=size, mode="bilinear", align_corners=False)
        try:
            self.run()
        finally:
            F.interpolate = enlarge
        return super().check()


def prepare(spec):
    makers = {
        "stfpm": Stfpm,
        "reverse_distillation": ReverseDistillation,
        "cflow": Cflow,
        "csflow": CsFlow,
        "fastflow": FastFlow,
        "padim": Padim,
        "patch_core": PatchCore,
    }
    return makers[spec["method"]](spec)
