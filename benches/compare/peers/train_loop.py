"""The whole training loop in PyTorch, as a good engineer would write it: a loader of its own for slices, masks and
corruption, forward and backward pass, clipping, Adam and moving average in their fused forms.

The data are drawn from the same distributions in kind (mirror images, contrast, strokes and blobs, four corruptions,
sloppy coarse maps, withheld conditions), not number by number; the corruptions are the cheaper ones.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from case import Case
from inputs import floats, sample, tensor
from peers.guided_diffusion import PEER, UNet, fill, small_unet_config, unet_config

SLICES = 256
STEPS = 1000


def case(name, config, batch, workers, repetitions, layout="contiguous_format"):
    spec = {"config": config, "batch": batch, "workers": workers, "layout": layout}
    return Case(name, PEER, spec, repetitions=repetitions, tolerance=1e-3)


CASES = [
    case("64 px, batch 8, loader in the loop", small_unet_config(7, 3), 8, 0, 15),
    case("64 px, batch 8, loader in a process", small_unet_config(7, 3), 8, 1, 15),
    case("64 px, batch 8, channels last", small_unet_config(7, 3), 8, 0, 15, "channels_last"),
    case("64 px, batch 3, the paper's network", unet_config(64, 7, 3), 3, 0, 3),
]


class Slices(torch.utils.data.IterableDataset):
    """Endless batches: state, conditions, target, times, labels."""

    def __init__(self, channels, size, batch):
        rough = floats(2001, SLICES, channels, size, size)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        centre = (size - 1) / 2
        self.head = np.hypot(y - centre, x - centre) < 0.42 * size
        self.images = np.where(self.head, np.float32(0.4) * rough, np.float32(-1)).astype(np.float32)
        self.batch, self.size, self.grid = batch, size, (y, x)
        beta = np.linspace(1e-4, 0.02, STEPS)
        self.alpha = np.sqrt(np.cumprod(1 - beta)).astype(np.float32)
        self.sigma = np.sqrt(1 - np.cumprod(1 - beta)).astype(np.float32)

    def blob(self, rng):
        y, x = self.grid
        n = self.size
        v, u = y - rng.uniform(0.25, 0.75) * n, x - rng.uniform(0.25, 0.75) * n
        turn = rng.uniform(0, math.tau)
        angle = np.arctan2(v, u) - turn
        border = rng.uniform(0.06, 0.18) * n * (1 + 0.2 * np.cos(3 * angle) + rng.uniform(0, 0.5) * np.cos(2 * angle))
        return np.hypot(v, u) < border

    def strokes(self, rng):
        y, x = self.grid
        n = self.size
        mask = np.zeros((n, n), bool)
        for _ in range(rng.integers(1, 3)):
            a = rng.uniform(0, n, 2)
            width = rng.uniform(0.05, 0.16) * n
            for segment in range(rng.integers(2, 7)):
                angle = rng.uniform(2 * math.pi / 5 - 0.4, 2 * math.pi / 5 + 0.4) + (segment % 2) * math.pi
                length = abs(rng.normal(0.14, 0.07)) * n
                b = np.clip(a + length * np.array([math.sin(angle), math.cos(angle)]), 0, n - 1)
                d = b - a
                along = np.clip(((y - a[0]) * d[0] + (x - a[1]) * d[1]) / max(d @ d, 1e-6), 0, 1)
                mask |= np.hypot(y - a[0] - along * d[0], x - a[1] - along * d[1]) < width / 2
                a = b
        return mask

    def corrupt(self, rng, image, mask):
        kind = rng.integers(4)
        c = image.shape[0]
        if kind == 0:
            image[:, mask] += 0.5 * rng.standard_normal((c, int(mask.sum())), dtype=np.float32)
        elif kind == 1:
            image[:, mask] = rng.uniform(-1, 1, (c, 1))
        elif kind == 2:
            image[:, mask] = 0.7 * image[:, mask] + rng.uniform(-0.6, 0.6, (c, 1))
        else:
            image[:, mask] = 0.5 * image[:, mask] + 0.5 * self.images[rng.integers(SLICES)][:, mask]
        np.clip(image, -1, 1, out=image)

    def __iter__(self):
        rng = np.random.default_rng(1)
        while True:
            yield self.draw(rng)

    def draw(self, rng):
        chosen = rng.integers(SLICES, size=self.batch)
        x0 = self.images[chosen]
        c = x0.shape[1]
        flipped = rng.random(self.batch) < 0.5
        x0[flipped] = x0[flipped, :, :, ::-1]
        power = np.exp(rng.uniform(-0.05, 0.05, (self.batch, c, 1, 1))).astype(np.float32)
        gain = rng.uniform(0.95, 1.05, (self.batch, c, 1, 1)).astype(np.float32)
        unit = np.clip(0.5 * (x0 + 1), 0, 1)
        x0 = np.minimum(gain * unit**power, 1) * 2 - 1
        image, coarse = x0.copy(), np.zeros((self.batch, 1, self.size, self.size), np.float32)
        for i in range(self.batch):
            withheld = rng.random()
            if withheld < 0.15:
                image[i] = 0
            elif withheld >= 0.25 and rng.random() >= 0.2:
                mask = (self.blob(rng) if rng.random() < 0.5 else self.strokes(rng)) & self.head
                self.corrupt(rng, image[i], mask)
                coarse[i, 0] = mask
        x0, image, coarse = torch.from_numpy(x0), torch.from_numpy(image), torch.from_numpy(coarse)
        if rng.random() < 0.75:
            radius = int(rng.integers(0, 4))
            coarse = F.max_pool2d(coarse, 2 * radius + 1, stride=1, padding=radius)
        t = rng.integers(STEPS, size=self.batch)
        alpha = torch.from_numpy(self.alpha[t])[:, None, None, None]
        sigma = torch.from_numpy(self.sigma[t])[:, None, None, None]
        noise = torch.randn_like(x0)
        state, target = alpha * x0 + sigma * noise, alpha * noise - sigma * x0
        return torch.cat([state, image, coarse], 1), target, torch.from_numpy(t), torch.from_numpy(chosen % 2)


class Average:
    """A moving average of the parameters."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in self.parameters]

    def update(self, decay):
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)


def step(unet, adam, average, batch, decay):
    """One iteration; the loss and the gradient's norm before it was clipped."""
    x, target, t, y = batch
    adam.zero_grad(set_to_none=True)
    loss = F.mse_loss(unet(x, t, y), target)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0, foreach=True)
    adam.step()
    average.update(decay)
    return loss.item(), norm.item()


class Loop:
    def __init__(self, spec):
        self.config, self.batch = spec["config"], spec["batch"]
        self.layout = getattr(torch, spec["layout"])
        channels, size = self.config["out_channels"], self.config["image_size"]
        torch.manual_seed(1)
        self.unet = UNet(self.config).train().to(memory_format=self.layout)
        self.adam = torch.optim.Adam(self.unet.parameters(), lr=3e-4, fused=True)
        self.average = Average(self.unet.parameters())
        workers = spec["workers"]
        loader = torch.utils.data.DataLoader(
            Slices(channels, size, self.batch),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        self.batches, self.made = iter(loader), 0

    def run(self):
        for group in self.adam.param_groups:
            group["lr"] = 3e-4 * min(1, (self.made + 1) / 100)
        decay = min(0.999, (1 + self.made) / (10 + self.made))
        batch = self.laid_out(next(self.batches))
        step(self.unet, self.adam, self.average, batch, decay)
        self.made += 1

    def laid_out(self, batch):
        x, target, t, y = batch
        return x.contiguous(memory_format=self.layout), target.contiguous(memory_format=self.layout), t, y

    def check(self):
        c, size = self.config, self.config["image_size"]
        unet = fill(UNet(c)).train().to(memory_format=self.layout)
        adam = torch.optim.Adam(unet.parameters(), lr=1e-4, fused=True)
        average = Average(unet.parameters())
        batch = self.laid_out((
            tensor(1001, self.batch, c["in_channels"], size, size),
            tensor(1002, self.batch, c["out_channels"], size, size),
            500.0 - 37.0 * torch.arange(self.batch),
            torch.arange(self.batch) % 2,
        ))
        values = []
        for _ in range(2):
            values += step(unet, adam, average, batch, 0.5)
        x, target, t, y = batch
        with torch.no_grad():
            values.append(F.mse_loss(unet(x, t, y), target).item())
            for p, average in zip(unet.parameters(), average.values):
                p.copy_(average)
            output = unet(x, t, y)
            values.append(F.mse_loss(output, target).item())
        return values + sample(output)


def prepare(spec):
    return Loop(spec)
