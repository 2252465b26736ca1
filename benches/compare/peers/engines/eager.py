"""PyTorch as it is."""

import torch

from peers.engines.common import THREADS

torch.set_num_threads(THREADS)


def load(network, inputs, names, folder):
    def run():
        with torch.inference_mode():
            return network(*inputs)

    return run
