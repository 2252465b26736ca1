"""The student's network in PyTorch, with the parameter names of fndm-models' Segmenter."""

import torch
import torch.nn.functional as F
from torch import nn


def segmenter_config(size, sequences):
    """SegmenterConfig::small_64 and small_128."""
    mult = [1.0, 2.0, 4.0, 6.0] + [8.0] * (size > 64)
    return {"image_size": size, "sequences": sequences, "channel_mult": mult}


class NormSilu(nn.GroupNorm):
    def __init__(self, channels):
        super().__init__(8, channels)

    def forward(self, x):
        return F.silu(super().forward(x))


class Residual(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.in_norm, self.in_conv = NormSilu(i), nn.Conv2d(i, o, 3, padding=1)
        self.out_norm, self.out_conv = NormSilu(o), nn.Conv2d(o, o, 3, padding=1)
        self.skip = nn.Identity() if i == o else nn.Conv2d(i, o, 1)

    def forward(self, x):
        return self.skip(x) + self.out_conv(self.out_norm(self.in_conv(self.in_norm(x))))


class Segmenter(nn.Module):
    def __init__(self, c):
        super().__init__()
        levels = [int(m * 16) for m in c["channel_mult"]]
        # The slice and one neighbour on each side.
        self.stem = nn.Conv2d(3 * c["sequences"], levels[0], 3, padding=1)
        encoder = [[Residual(i, o)] for i, o in zip(levels[:1] + levels, levels)]
        decoder = [[Residual(below + o, o)] for below, o in list(zip(levels[1:], levels))[::-1]]
        self.encoder = nn.ModuleList(nn.ModuleList(blocks) for blocks in encoder)
        # Numbered from the deepest on, by level as the encoder is.
        named = {str(len(decoder) - 1 - i): nn.ModuleList(blocks) for i, blocks in enumerate(decoder)}
        self.decoder = nn.ModuleDict(named)
        self.out = nn.ModuleDict({"norm": NormSilu(levels[0]), "conv": nn.Conv2d(levels[0], 1, 1)})

    def forward(self, x):
        h, skips = self.stem(x), []
        for level, blocks in enumerate(self.encoder):
            h = F.avg_pool2d(h, 2) if level else h
            for block in blocks:
                h = block(h)
            skips.append(h)
        skips.pop()
        for blocks in self.decoder.values():
            h = torch.cat([F.interpolate(h, scale_factor=2, mode="nearest"), skips.pop()], dim=1)
            for block in blocks:
                h = block(h)
        return self.out["conv"](self.out["norm"](h))
