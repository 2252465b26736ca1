"""Reading a volume of BraTS's size to a float32 array by nibabel; batches of slices from memory by PyTorch."""

import gzip
import importlib.metadata
import pathlib

import nibabel
import numpy as np

from case import Case
from inputs import floats

PEER = "nibabel " + nibabel.__version__
# Imported where it is needed alone: it would count as memory of the volumes.
TORCH = "torch " + importlib.metadata.version("torch").split("+")[0]
FOLDER = pathlib.Path(__file__).resolve().parents[3] / "target" / "compare" / "data"
SHAPE = (240, 240, 155)


def brain():
    """Smooth tissue with noise in an ellipsoid, 0 around it, as skull-stripped volumes are."""
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    inside = ((i - 120) / 68) ** 2 + ((j - 125) / 85) ** 2 + ((k - 75) / 66) ** 2 < 1
    tissue = 500 + 150 * np.sin(i / 9) * np.cos(j / 11) * np.sin(k / 7)
    noise = np.random.default_rng(7).normal(0, 20, SHAPE)
    return np.where(inside, tissue + noise, 0).clip(0)


def files():
    """Writes the files once. Packed by gzip's usual level, 6."""
    made = {}
    for name, kind, slope in [("int16", np.int16, 1), ("int16 scaled", np.int16, 0.25), ("float32", np.float32, 1)]:
        for suffix in (".nii", ".nii.gz"):
            path = made[name, suffix] = FOLDER / (name.replace(" ", "_") + suffix)
            if path.exists():
                continue
            FOLDER.mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(brain().astype(kind), np.diag([-1.0, -1.0, 1.0, 1.0]))
            if slope != 1:
                image.header.set_slope_inter(slope, -3)
            data = image.to_bytes()
            new = path.with_suffix(".new")
            new.write_bytes(gzip.compress(data, 6) if suffix == ".nii.gz" else data)
            new.replace(path)
    return made


def reading(name, suffix, path):
    # nibabel maps a float32 .nii and reads nothing until it is used: here it is told to read.
    spec = {"file": str(path), "mmap": (name, suffix) != ("float32", ".nii")}
    peer = PEER if spec["mmap"] else PEER + ", mmap=False"
    return Case(f"{name} {suffix} to float32", peer, spec, repetitions=15, tolerance=1e-6, memory=True)


# Six batches are an epoch. Slices are held as 16-bit integers on both sides.
EPOCH = {"slices": 96, "batch": 16, "channels": 4, "size": 128}

CASES = [reading(name, suffix, path) for (name, suffix), path in files().items()] + [
    Case("6 batches of 16 x 4 x 128 x 128 from memory", TORCH, EPOCH, repetitions=25)
]


class Read:
    def __init__(self, spec):
        self.file, self.mmap = spec["file"], spec["mmap"]
        self.data = None

    def run(self):
        self.data = None
        self.data = nibabel.load(self.file, mmap=self.mmap).get_fdata(dtype=np.float32)

    def check(self):
        assert self.data.dtype == np.float32 and self.data.shape == SHAPE
        return self.data.ravel(order="F")[:: 9973 * 13].tolist() + [float(self.data.mean(dtype=np.float64))]


class Epoch:
    """Every slice once, in a new order each time, gathered and scaled by all threads."""

    def __init__(self, spec):
        import torch

        self.torch = torch
        n, size = spec["slices"], spec["size"]
        images = floats(31, n, spec["channels"], size, size)
        self.images = torch.from_numpy(np.round(images * np.float32(32767)).astype(np.int16))
        i, y, x = np.ogrid[:n, :size, :size]
        self.head = torch.from_numpy((7 * i + 3 * y + x) % 5 != 0)
        self.labels = (torch.arange(n) % 3 == 0).to(torch.uint8)
        self.batch = spec["batch"]

    def batches(self):
        for chosen in self.torch.randperm(len(self.images)).split(self.batch):
            images = self.images[chosen].to(self.torch.float32).mul_(1 / 32767)
            yield chosen, images, self.head[chosen], self.labels[chosen]

    def run(self):
        for batch in self.batches():
            self.last = batch

    def check(self):
        values = self.torch.zeros(len(self.images), 3, dtype=self.torch.float64)
        for chosen, images, head, labels in self.batches():
            values[chosen, 0] = images.double().mean((1, 2, 3))
            values[chosen, 1] = head.double().mean((1, 2))
            values[chosen, 2] = labels.double()
        return values.flatten().tolist()


def prepare(spec):
    return Read(spec) if "file" in spec else Epoch(spec)
