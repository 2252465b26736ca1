"""torch.compile: weights frozen, shapes fixed, kernels tried out."""

import torch
import torch._inductor.config as inductor

from peers.engines.common import THREADS

torch.set_num_threads(THREADS)


def load(network, inputs, names, folder):
    inductor.freezing = True
    compiled = torch.compile(network, dynamic=False)

    def run():
        with torch.no_grad():
            return compiled(*inputs)

    return run
