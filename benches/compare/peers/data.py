"""Reading a volume of BraTS's size to a float32 array by nibabel."""

import gzip
import pathlib

import nibabel
import numpy as np

from case import Case

PEER = "nibabel " + nibabel.__version__
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


CASES = [reading(name, suffix, path) for (name, suffix), path in files().items()]


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


def prepare(spec):
    return Read(spec)
