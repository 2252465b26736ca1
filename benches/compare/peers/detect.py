"""Lesions of whole patients, from NIfTI files to NIfTI files: the method of `fndm detect --method fndm` by PyTorch and diffusers.

Networks are loaded before the clock starts. The program does more than is done here: it loads the model, checks the input against
the training's patients, asks the student how likely each slice is diseased, draws a sheet and a thumbnail of each patient, hashes
its inputs, and brings every file to the disk.

Alone, in benches/compare: OMP_NUM_THREADS=2 python -m peers.detect --model DIR --data DIR --output DIR
"""

import argparse
import contextlib
import importlib.metadata
import pathlib
import tempfile
import time

import numpy as np
import torch

from case import Case
from peers.end_to_end import anomaly, model, preprocess, volumes
from peers.end_to_end.coarse import CoarseMap
from peers.end_to_end.phantoms import ROOT, phantoms
from peers.end_to_end.round_trip import RoundTrip
from peers.guided_diffusion import PEER

MODEL = ROOT / "assets" / "phantom"
DIFFUSERS = "diffusers " + importlib.metadata.version("diffusers")

# The largest difference of anomaly maps that counts as rounding, relative to the largest value.
TOLERANCE = 1e-3

CASES = [
    Case("10 patients", f"{PEER}, {DIFFUSERS}", {"patients": 10}, repetitions=3, tolerance=TOLERANCE),
    Case("1 patient", f"{PEER}, {DIFFUSERS}", {"patients": 1}, repetitions=7, tolerance=TOLERANCE),
]

STAGES = ["read", "preprocess", "coarse", "encode", "sample", "mask", "write"]


class Clock:
    """Seconds spent in each stage."""

    def __init__(self):
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def stage(self, name):
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


class Detector:
    def __init__(self, folder, compiled=False):
        self.model = model.load(folder)
        self.coarse = CoarseMap(self.model)
        self.trip = RoundTrip(self.model, compiled)

    @torch.inference_mode()
    def detect(self, patient, output, clock):
        """Examines the patient of a folder, writes what is found, and gives the anomaly map in the axes of the files."""
        config, settings = self.model.config, self.model.settings
        with clock.stage("read"):
            stacks, grid = volumes.read(patient, config["sequences"])
        with clock.stage("preprocess"):
            images, head = preprocess.slices(stacks, config["preprocess"])
        with clock.stage("coarse"):
            soft, x_seg = self.coarse.find(images, head)
        healthy = self.reconstruct(images, x_seg, clock)
        with clock.stage("mask"):
            found = anomaly.anomaly_map(images, healthy, soft, self.coarse.calibrated, settings)
            mask, thresholds = anomaly.masks(found, head, settings)
            found, mask = volumes.restore(found, grid), volumes.restore(mask, grid)
        with clock.stage("write"):
            report = {
                "patient": patient.name,
                "mask_voxels": int(mask.sum()),
                "thresholds": thresholds.tolist(),
                "evaluations": 2 * settings["steps"],
                "settings": settings,
            }
            volumes.write(output / patient.name, grid, mask, found, report)
        return found

    def reconstruct(self, images, x_seg, clock):
        """Healthy slices, a batch after the other."""
        healthy = np.empty_like(images)
        size = self.model.settings["batch"]
        for first in range(0, len(images), size):
            part = slice(first, first + size)
            batch = torch.from_numpy(images[part])
            region = torch.from_numpy(x_seg[part, None]).float()
            with clock.stage("encode"):
                state = self.trip.encode(batch, region)
            with clock.stage("sample"):
                healthy[part] = self.trip.sample(state, batch, region).numpy()
        return healthy


def patients(folder):
    """Folders of patients, in the order of their ids."""
    return sorted(path for path in pathlib.Path(folder).iterdir() if path.is_dir())


class Detect:
    def __init__(self, spec):
        self.patients = patients(phantoms(spec["patients"]))
        self.detector = Detector(MODEL, spec.get("compiled", False))
        self.first = None

    def run(self):
        self.first = None
        with tempfile.TemporaryDirectory() as output:
            for patient in self.patients:
                found = self.detector.detect(patient, pathlib.Path(output), Clock())
                self.first = found if self.first is None else self.first

    def check(self):
        """Values of the first patient's anomaly map, evenly spread over the order of its file."""
        return self.first.ravel(order="F")[::997].tolist()


def prepare(spec):
    return Detect(spec)


def main():
    parser = argparse.ArgumentParser(prog="python -m peers.detect", description=__doc__.splitlines()[0])
    for option in ("model", "data", "output"):
        parser.add_argument("--" + option, type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--compiled", action="store_true", help="the networks by torch.compile, whose time is in the stages")
    args = parser.parse_args()
    start, detector, clock = time.perf_counter(), Detector(args.model, args.compiled), Clock()
    print(f"{'load':10} {time.perf_counter() - start:7.3f} s")
    for patient in patients(args.data):
        detector.detect(patient, args.output, clock)
    for name, seconds in clock.seconds.items():
        print(f"{name:10} {seconds:7.3f} s")
    print(f"{'all':10} {sum(clock.seconds.values()):7.3f} s")


if __name__ == "__main__":
    main()
