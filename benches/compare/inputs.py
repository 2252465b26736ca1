"""Numbers that both sides make from the same formula; src/inputs.rs is the other half."""

import numpy as np


def floats(seed, *shape):
    """Floats in [-1, 1) that follow from seed by integer arithmetic alone."""
    n = int(np.prod(shape))
    with np.errstate(over="ignore"):
        x = np.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B1)
        x += np.uint32(seed * 0x85EBCA77 & 0xFFFFFFFF)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
        x = (x ^ (x >> np.uint32(12))) * np.uint32(0x297A2D39)
        x ^= x >> np.uint32(15)
    values = (x >> np.uint32(8)).astype(np.float32) / np.float32(8388608) - np.float32(1)
    return values.reshape(shape)


def tensor(seed, *shape):
    """floats as a PyTorch tensor."""
    import torch

    return torch.from_numpy(floats(seed, *shape))


def sample(x):
    """Up to 64 values of x, evenly spaced in its memory."""
    flat = x.detach().reshape(-1)
    step = max(1, -(-flat.numel() // 64))
    return flat[::step].double().tolist()
