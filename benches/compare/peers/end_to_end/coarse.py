"""The memory bank's coarse map: how far the features of a slice's patches are from healthy ones."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from peers.end_to_end import maps

# Queries compared with the bank at a time: 16 MB of products. More take no less time.
QUERIES = 1024

# Neighbours by sides and corners, in the slice alone.
NEIGHBOURS = np.zeros((3, 3, 3), bool)
NEIGHBOURS[1] = True


class CoarseMap:
    def __init__(self, model):
        self.bank, self.classifier, self.settings = model.bank, model.classifier, model.settings
        features = model.config["features"]
        self.blocks, self.time = features["blocks"], torch.tensor([features["model_time"]])
        self.kernels = patch_kernels(self.bank)
        self.norms = self.bank.rows.square().sum(1)
        self.transposed = self.bank.rows.T.contiguous()
        self.keys = torch.empty(QUERIES, len(self.bank.rows))
        coarse = self.bank.config["coarse"]
        probabilities, scores = self.bank.probabilities.numpy(), self.bank.scores.numpy()
        self.calibrated = np.float32(np.interp(coarse["quantile"], probabilities, scores))

    def find(self, images, head):
        """The soft map and x_seg, both (N, H, W), of images (N, C, H, W)."""
        coarse = self.bank.config["coarse"]
        soft = np.zeros(head.shape, np.float32)
        size = self.bank.config["batch_size"]
        for first in range(0, len(images), size):
            part = slice(first, first + size)
            queries = self.queries(torch.from_numpy(images[part]), torch.from_numpy(head[part]))
            soft[part][head[part]] = self.distances(queries).numpy()
        sigma = coarse["smoothing"]["at256"] * max(head.shape[1:]) / 256
        soft = maps.smooth(soft, sigma)
        soft[~head] = 0
        return soft, self.binarise(soft, head)

    def queries(self, images, head):
        """Features (Q, D) of the patches of the head, one for each of its pixels."""
        found = self.feature_maps(images)
        grid = found[0].shape[2:]
        if grid != head.shape[1:]:
            raise NotImplementedError(f"patches of {tuple(grid)}: expected one for each pixel")
        patches = torch.zeros(len(images), self.kernels[0].targets, *grid)
        for values, mean, factor, kernel in zip(found, self.bank.means, self.bank.factors, self.kernels):
            part = F.conv2d((values - mean) * factor, kernel.weight, padding=kernel.weight.shape[-1] // 2)
            if part.shape[2:] != grid:
                part = F.interpolate(part, grid, mode="bilinear", align_corners=False)
            patches[:, kernel.part] += part
        return torch.cat([patches.permute(0, 2, 3, 1)[head], self.places(head)], dim=1)

    def feature_maps(self, images):
        """Outputs of some blocks of the classifier's encoder."""
        embedding, outputs = self.classifier.embedding(self.time), []
        h = images
        for block in self.classifier.input_blocks[: max(self.blocks) + 1]:
            h = block(h, embedding)
            outputs.append(h)
        return [outputs[block] for block in self.blocks]

    def places(self, head):
        """Column and row of each patch of the head, in [-1, 1] times a weight: (Q, 2)."""
        weight = self.bank.config["position_weight"] * self.kernels[0].targets ** 0.5
        _, rows, columns = head.nonzero(as_tuple=True)
        place = lambda i, n: ((2 * i + 1) / n - 1) * weight
        return torch.stack([place(columns, head.shape[2]), place(rows, head.shape[1])], dim=1)

    def distances(self, queries):
        """The distance of each query (Q, D) to its nearest row. A product finds the row, and the distance is taken anew,
        without the cancellation of |q|^2 - 2 q.r + |r|^2."""
        found = torch.empty(len(queries))
        for part, out in zip(queries.split(QUERIES), found.split(QUERIES)):
            keys = torch.addmm(self.norms, part, self.transposed, alpha=-2, out=self.keys[: len(part)])
            torch.linalg.vector_norm(part - self.bank.rows[keys.argmin(1)], dim=1, out=out)
        return found

    def binarise(self, soft, head):
        """Above the calibrated threshold and Otsu's, inside the head, no small parts, grown."""
        coarse = self.bank.config["coarse"]
        threshold = maps.thresholds(soft, maps.inner(head, coarse["head_erosion"]))
        above = soft > np.maximum(threshold, self.calibrated)[:, None, None]
        # Unlike the one that Otsu's threshold sees, this erosion takes nothing off at the border of the slice.
        above &= ndimage.binary_erosion(head, maps.disc(coarse["head_erosion"]), border_value=1)
        parts, _ = ndimage.label(above, NEIGHBOURS)
        large = np.bincount(parts.ravel()) >= coarse["min_component"]
        large[0] = False
        return ndimage.binary_dilation(large[parts], maps.disc(self.settings["coarse_dilation"])) & head


class Kernel:
    """Patch features of one map as a convolution: the values that it takes part in, and its weights for them."""

    def __init__(self, weight):
        taking_part = weight.flatten(1).any(1).nonzero()[:, 0]
        self.targets = len(weight)
        self.part = slice(int(taking_part[0]), int(taking_part[-1]) + 1)
        self.weight = weight[self.part].contiguous()


def patch_kernels(bank):
    """PatchCore's features (Roth et al. 2022): the values of a neighbourhood, averaged to so many for each map, and those of all
    maps together to so many again. That is linear: what it makes of unit vectors are the weights."""
    patch = bank.config["patch"]
    side, channels = patch["patch_size"], [mean.shape[1] for mean in bank.means]
    if patch["stride"] != 1 or side % 2 == 0:
        raise NotImplementedError("patches at a stride, or of an even size")
    counts = [c * side * side for c in channels]
    average = lambda rows, dimension: F.adaptive_avg_pool1d(rows[None], dimension)[0]
    each = [average(torch.eye(n, dtype=torch.float64), patch["pretrain_dimension"]) for n in counts]
    joined = average(torch.block_diag(*each), patch["target_dimension"]).float()
    return [Kernel(part.T.reshape(-1, c, side, side)) for part, c in zip(joined.split(counts), channels)]
