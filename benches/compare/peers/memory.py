"""Exact nearest neighbours in faiss; PatchCore's approximate greedy coreset in PyTorch."""

import os

import faiss
import numpy as np
import torch

from case import Case
from inputs import floats

THREADS = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(THREADS)
faiss.omp_set_num_threads(THREADS)

FAISS = "faiss-cpu " + faiss.__version__
TORCH = "torch " + torch.__version__.split("+")[0]


def search(queries, rows, columns, k, rank=0):
    spec = {"what": "search", "rows": rows, "columns": columns, "rank": rank, "queries": queries, "neighbours": k}
    name = f"{k} nearest of {rows} x {columns}, {queries} queries{', smooth' if rank else ''}"
    # A flat index allocates little: the allocator makes no difference.
    return Case(name, FAISS, spec, settings=("default",), repetitions=9)


def coreset(rank, our_projection=None):
    spec = {
        "what": "coreset",
        "rows": 50_000,
        "columns": 384,
        "rank": rank,
        "count": 5_000,
        "starts": 10,
        "projection": 128,
        "our projection": our_projection,
    }
    kind = "smooth features" if rank else "noise"
    ours = f"ours projected to {our_projection} too" if our_projection else "ours not projected"
    name = f"coreset, 5000 of 50000 x 384, {kind}, {ours}"
    # Other projections and starts: the chosen rows aren't the same, but should cover the features alike.
    return Case(
        name, TORCH, spec, settings=("default",), repetitions=3, tolerance=0.15, memory="working"
    )


CASES = [
    search(4096, 20_000, 384, 1),
    search(4096, 20_000, 384, 1, rank=24),
    search(4096, 20_000, 384, 9),
    search(1024, 4096, 128, 1),
    coreset(24),
    coreset(24, our_projection=128),
    coreset(0),
]


def features(seed, rows, columns, rank):
    """Rows of `rank` smooth factors and a tenth of noise, as neighbouring patches are alike; rank 0 is noise alone."""
    values = floats(seed, rows, columns)
    if rank:
        values *= np.float32(0.1)
        for start in range(0, rows, 4096):
            part = slice(start, start + 4096)
            values[part] += floats(seed + 1, rows, rank)[part] @ floats(seed + 2, rank, columns)
    return values


class Search:
    def __init__(self, spec):
        shape = spec["columns"], spec["rank"]
        self.index = faiss.IndexFlatL2(spec["columns"])
        self.index.add(features(1, spec["rows"], *shape))
        self.queries = features(4, spec["queries"], *shape)
        self.k = spec["neighbours"]

    def run(self):
        self.distances, self.rows = self.index.search(self.queries, self.k)

    def check(self):
        step = max(1, -(-len(self.queries) // 32))
        values = []
        for distances, rows in zip(self.distances[::step], self.rows[::step]):
            for d, row in zip(distances, rows):
                values += [d, row * 37 % 101]
        return values


class Coreset:
    """Roth et al. 2022, section 3.2 and its code's approximation: distances in a random linear projection; the first
    choice by the mean distance to some random points; then the farthest point from those chosen, one after the other.

    Squared norms are taken once, while PatchCore's own code takes them at every step: this is the faster peer.
    """

    def __init__(self, spec):
        self.features = torch.from_numpy(features(1, spec["rows"], spec["columns"], spec["rank"]))
        self.spec = spec
        # What PyTorch loads at the first product isn't the sampler's memory.
        torch.nn.functional.linear(torch.ones(8, 8), torch.ones(8, 8)).sum().sqrt()

    @torch.no_grad()
    def run(self):
        torch.manual_seed(0)
        spec, n = self.spec, len(self.features)
        x = torch.nn.Linear(spec["columns"], spec["projection"], bias=False)(self.features)
        norms = torch.linalg.vector_norm(x, dim=1).square_()

        def distances(i):
            return (norms - 2 * (x @ x[i]) + norms[i]).clamp_(min=0).sqrt_()

        starts = torch.randperm(n)[: spec["starts"]]
        nearest = torch.stack([distances(i) for i in starts]).mean(0)
        chosen = []
        for _ in range(spec["count"]):
            i = int(nearest.argmax())
            chosen.append(i)
            torch.minimum(nearest, distances(i), out=nearest)
        self.chosen = chosen

    def check(self):
        rows = self.features[self.chosen]
        nearest = torch.cat([torch.cdist(part, rows).min(1).values for part in self.features.split(2048)])
        return [float(nearest.mean()), float(nearest.max()), len(self.chosen) / len(self.features)]


def prepare(spec):
    return {"search": Search, "coreset": Coreset}[spec["what"]](spec)
