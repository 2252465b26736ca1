"""Surface distances in medpy, surface-distance and SimpleITK; AUROC and average precision in scikit-learn."""

import importlib.metadata
import os

import numpy as np

from case import Case
from inputs import floats

SHAPE = (240, 240, 155)
PIXELS = 240 * 240 * 155

# Semi-axes in voxels and centres along the first axis, of result and reference.
PAIRS = {
    "lesion of 60 mm": {"axes": [30, 26, 22], "result": 118, "reference": 122},
    "whole head": {"axes": [112, 108, 72], "result": 119, "reference": 121},
    # Where a look around a point finds nothing.
    "90 mm apart": {"axes": [60, 55, 50], "result": 75, "reference": 165},
}


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def distances(metric, peer, pair, repetitions, tolerance=1e-9):
    what = {
        "medpy": "HD95 and ASSD",
        "surface_distance": "HD95 and averages",
        "simpleitk": "Hausdorff and average",
        "simpleitk_contours": "HD95 and ASSD",
    }[metric]
    spec = {"metric": metric, **PAIRS[pair]}
    return Case(f"{what}, {pair}", peer, spec, repetitions=repetitions, tolerance=tolerance, memory=True)


MEDPY = f"medpy {version('medpy')}"
SURFACE_DISTANCE = f"surface-distance {version('Surface-Distance-Based-Measures')}"
SIMPLEITK = f"SimpleITK {version('SimpleITK')}"
SKLEARN = f"scikit-learn {version('scikit-learn')}"

CASES = [
    distances("medpy", MEDPY, "lesion of 60 mm", 3),
    distances("medpy", MEDPY, "whole head", 3),
    distances("medpy", MEDPY, "90 mm apart", 3),
    distances("surface_distance", SURFACE_DISTANCE, "lesion of 60 mm", 9),
    distances("surface_distance", SURFACE_DISTANCE, "whole head", 3),
    distances("surface_distance", SURFACE_DISTANCE, "90 mm apart", 3),
    distances("simpleitk", SIMPLEITK + ", filter", "lesion of 60 mm", 5),
    distances("simpleitk", SIMPLEITK + ", filter", "whole head", 5),
    distances("simpleitk", SIMPLEITK + ", filter", "90 mm apart", 5),
    # Its distance maps are in single precision.
    distances("simpleitk_contours", SIMPLEITK + ", contours and distance maps", "lesion of 60 mm", 5, tolerance=1e-6),
    distances("simpleitk_contours", SIMPLEITK + ", contours and distance maps", "whole head", 5, tolerance=1e-6),
    Case(
        "AUROC and AP, 8.9 million pixels",
        SKLEARN,
        {"metric": "ranking", "levels": 0},
        repetitions=5,
        tolerance=1e-9,
        memory=True,
    ),
    Case(
        "AUROC and AP, 8.9 million pixels of 256 levels",
        SKLEARN,
        {"metric": "ranking", "levels": 256},
        repetitions=5,
        tolerance=1e-9,
        memory=True,
    ),
]


def mask(axes, centre):
    """An ellipsoid with a rough surface, in integers alone: src/topics/metrics.rs has the same."""
    x, y, z = (a.astype(np.int64) for a in np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]])
    a, b, c = (axis * axis for axis in axes)
    squared = (x - centre) ** 2 * b * c + (y - 120) ** 2 * a * c + (z - 77) ** 2 * a * b
    rough = (x // 5 * 31 + y // 7 * 17 + z // 3 * 13) % 11
    return squared * (100 + rough) < a * b * c * 105


class Medpy:
    def __init__(self, result, reference):
        from medpy.metric import binary

        self.binary, self.result, self.reference = binary, result, reference

    def run(self):
        pair = (self.result, self.reference, (1.0, 1.0, 1.0))
        self.values = [self.binary.hd95(*pair), self.binary.assd(*pair)]


class SurfaceDistance:
    def __init__(self, result, reference):
        import surface_distance

        self.peer, self.result, self.reference = surface_distance, result, reference

    def run(self):
        found = self.peer.compute_surface_distances(self.reference, self.result, (1.0, 1.0, 1.0))
        self.values = [
            self.peer.compute_robust_hausdorff(found, 95),
            *self.peer.compute_average_surface_distance(found),
        ]


def images(result, reference):
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(int(os.environ["OMP_NUM_THREADS"]))
    return sitk, *(sitk.GetImageFromArray(m.astype(np.uint8)) for m in (result, reference))


class SimpleItk:
    """The filter of that name: distances over all voxels."""

    def __init__(self, result, reference):
        self.sitk, self.result, self.reference = images(result, reference)

    def run(self):
        found = self.sitk.HausdorffDistanceImageFilter()
        found.Execute(self.result, self.reference)
        self.values = [found.GetHausdorffDistance(), found.GetAverageHausdorffDistance()]


class SimpleItkContours:
    """Contours, and the distance map of one read at the contour of the other, as SimpleITK's notebooks have it."""

    def __init__(self, result, reference):
        self.sitk, self.result, self.reference = images(result, reference)

    def run(self):
        sitk = self.sitk
        contour, far = [], []
        for image in (self.result, self.reference):
            # A view doesn't keep its image alive.
            edge = sitk.LabelContour(image, fullyConnected=True)
            contour.append(sitk.GetArrayViewFromImage(edge) != 0)
            signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
            far.append(np.abs(sitk.GetArrayViewFromImage(signed)))
        found = np.concatenate([far[1][contour[0]], far[0][contour[1]]]).astype(np.float64)
        self.values = [np.percentile(found, 95), found.mean()]


class Ranking:
    def __init__(self, spec):
        from sklearn.metrics import average_precision_score, roc_auc_score

        self.metrics = (roc_auc_score, average_precision_score)
        noise = floats(1, PIXELS)
        self.labels = floats(2, PIXELS) > np.float32(0.96)
        self.scores = noise + self.labels.astype(np.float32) * np.float32(0.5)
        if spec["levels"]:
            self.scores = np.floor(self.scores * np.float32(spec["levels"] / 2))

    def run(self):
        self.values = [metric(self.labels, self.scores) for metric in self.metrics]

    def check(self):
        return self.values


PEERS = {
    "medpy": Medpy,
    "surface_distance": SurfaceDistance,
    "simpleitk": SimpleItk,
    "simpleitk_contours": SimpleItkContours,
}
for peer in PEERS.values():
    peer.check = lambda self: self.values


def prepare(spec):
    if spec["metric"] == "ranking":
        return Ranking(spec)
    result, reference = (mask(spec["axes"], spec[side]) for side in ("result", "reference"))
    return PEERS[spec["metric"]](result, reference)
