"""The networks of guided-diffusion in PyTorch, written for this comparison, with the parameter names of the original."""

import math
import os

import torch
import torch.nn.functional as F
from torch import nn

from inputs import floats

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

PEER = "torch " + torch.__version__.split("+")[0]

# UNetConfig::paper_256 and its smaller sisters, ClassifierConfig likewise, and the networks of the quickstart.
PAPER = {
    256: [1, 1, 2, 2, 4, 4],
    128: [1, 1, 2, 3, 4],
    64: [1, 2, 3, 4],
}


def unet_config(size, in_channels, out_channels):
    return {
        "image_size": size, "in_channels": in_channels, "out_channels": out_channels, "model_channels": 128,
        "num_res_blocks": 2, "attention_resolutions": [size // 16], "channel_mult": PAPER[size], "num_classes": 2,
        "num_heads": 1, "num_head_channels": None, "use_scale_shift_norm": False, "resblock_updown": False,
    }


def small_unet_config(in_channels, out_channels):
    return {
        "image_size": 64, "in_channels": in_channels, "out_channels": out_channels, "model_channels": 32,
        "num_res_blocks": 1, "attention_resolutions": [4, 8], "channel_mult": [1, 2, 3, 3], "num_classes": 2,
        "num_heads": 1, "num_head_channels": 32, "use_scale_shift_norm": True, "resblock_updown": False,
    }


def classifier_config(size, in_channels):
    return {
        "image_size": size, "in_channels": in_channels, "out_channels": 2, "model_channels": 32,
        "num_res_blocks": 4, "attention_resolutions": [size // 32, size // 16, size // 8],
        "channel_mult": PAPER[size], "num_heads": 1, "num_head_channels": 64 if size == 256 else 32,
        "use_scale_shift_norm": True, "resblock_updown": True, "pool": "attention",
    }


def norm(channels):
    return nn.GroupNorm(32, channels)


def attention(qkv, heads, new_order):
    """(B, 3 C, T) to (B, C, T)."""
    b, width, t = qkv.shape
    c = width // (3 * heads)
    if new_order:
        q, k, v = qkv.reshape(b, 3, heads, c, t).unbind(1)
    else:
        q, k, v = qkv.reshape(b, heads, 3, c, t).unbind(2)
    # Contiguous: PyTorch's attention is slower otherwise.
    q, k, v = (x.transpose(2, 3).contiguous() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, heads * c, t)


class Attention(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.norm, self.qkv, self.proj_out = norm(c), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)
        self.heads = heads

    def forward(self, x, emb):
        flat = x.flatten(2)
        h = self.proj_out(attention(self.qkv(self.norm(flat)), self.heads, new_order=False))
        return x + h.reshape(x.shape)


class Residual(nn.Module):
    def __init__(self, i, o, emb, scale_shift, resample=None):
        super().__init__()
        self.in_layers = nn.Sequential(norm(i), nn.SiLU(), nn.Conv2d(i, o, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * o if scale_shift else o))
        self.out_layers = nn.Sequential(norm(o), nn.SiLU(), nn.Identity(), nn.Conv2d(o, o, 3, padding=1))
        self.skip_connection = nn.Identity() if i == o else nn.Conv2d(i, o, 1)
        self.resample, self.scale_shift = resample, scale_shift

    def forward(self, x, emb):
        h = self.in_layers[1](self.in_layers[0](x))
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.in_layers[2](h)
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[3](self.out_layers[1](h))
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


class Plain(nn.Module):
    """A convolution, under the name that the original has for it."""

    def __init__(self, name, conv, up=False):
        super().__init__()
        self.add_module(name, conv)
        self.conv_name, self.up = name, up

    def forward(self, x, emb):
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return getattr(self, self.conv_name)(x)


class First(nn.Conv2d):
    def forward(self, x, emb):
        return super().forward(x)


class Layers(nn.Sequential):
    def forward(self, x, emb):
        for layer in self:
            x = layer(x, emb)
        return x


class Encoder(nn.Module):
    """Time embedding, input blocks and middle block."""

    def __init__(self, c):
        super().__init__()
        self.config = c
        width = c["model_channels"]
        self.emb = emb = 4 * width
        scale_shift = c["use_scale_shift_norm"]
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        ch = int(c["channel_mult"][0] * width)
        blocks, self.channels = [Layers(First(c["in_channels"], ch, 3, padding=1))], [ch]
        for level, mult in enumerate(c["channel_mult"]):
            for _ in range(c["num_res_blocks"]):
                out = int(mult * width)
                layers = [Residual(ch, out, emb, scale_shift)]
                ch = out
                if 1 << level in c["attention_resolutions"]:
                    layers.append(Attention(ch, self.heads(ch)))
                blocks.append(Layers(*layers))
                self.channels.append(ch)
            if level + 1 < len(c["channel_mult"]):
                if c["resblock_updown"]:
                    blocks.append(Layers(Residual(ch, ch, emb, scale_shift, "down")))
                else:
                    blocks.append(Layers(Plain("op", nn.Conv2d(ch, ch, 3, stride=2, padding=1))))
                self.channels.append(ch)
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = Layers(
            Residual(ch, ch, emb, scale_shift), Attention(ch, self.heads(ch)), Residual(ch, ch, emb, scale_shift)
        )
        self.deepest = ch

    def heads(self, channels):
        per_head = self.config["num_head_channels"]
        return channels // per_head if per_head else self.config["num_heads"]

    def embed(self, t):
        half = self.config["model_channels"] // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angles = t[:, None].float() * frequencies[None]
        return self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1))


class UNet(Encoder):
    def __init__(self, c):
        super().__init__(c)
        width, emb, ch, skips = c["model_channels"], self.emb, self.deepest, list(self.channels)
        self.label_emb = nn.Embedding(c["num_classes"], emb)
        blocks = []
        for level, mult in reversed(list(enumerate(c["channel_mult"]))):
            for i in range(c["num_res_blocks"] + 1):
                out = int(mult * width)
                layers = [Residual(ch + skips.pop(), out, emb, c["use_scale_shift_norm"])]
                ch = out
                if 1 << level in c["attention_resolutions"]:
                    layers.append(Attention(ch, self.heads(ch)))
                if level and i == c["num_res_blocks"]:
                    layers.append(Plain("conv", nn.Conv2d(ch, ch, 3, padding=1), up=True))
                blocks.append(Layers(*layers))
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(norm(ch), nn.SiLU(), nn.Conv2d(ch, c["out_channels"], 3, padding=1))

    def embedding(self, t, y):
        return self.embed(t) + self.label_emb(y)

    def forward(self, x, t, y):
        return self.embedded(x, self.embedding(t, y))

    def embedded(self, x, emb):
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)


class AttentionPool(nn.Module):
    def __init__(self, side, c, heads, out):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(c, side * side + 1))
        self.qkv_proj, self.c_proj = nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, out, 1)
        self.heads = heads

    def forward(self, x):
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1) + self.positional_embedding
        return self.c_proj(attention(self.qkv_proj(x), self.heads, new_order=True))[:, :, 0]


class Classifier(Encoder):
    def __init__(self, c):
        super().__init__(c)
        ch = self.deepest
        side = c["image_size"] >> (len(c["channel_mult"]) - 1)
        pool = AttentionPool(side, ch, ch // c["num_head_channels"], c["out_channels"])
        self.out = nn.Sequential(norm(ch), nn.SiLU(), pool)

    def embedding(self, t):
        return self.embed(t)

    def forward(self, x, t):
        return self.embedded(x, self.embedding(t))

    def embedded(self, x, emb):
        h = x
        for block in self.input_blocks:
            h = block(h, emb)
        return self.out(self.middle_block(h, emb))


def fill(network):
    """Gives every parameter the values that src/parameters.rs gives it."""
    with torch.no_grad():
        for seed, (name, p) in enumerate(sorted(network.named_parameters())):
            values = torch.from_numpy(floats(seed, *p.shape))
            if p.dim() >= 2:
                fan_in = p[0].numel()
                p.copy_(values / math.sqrt(fan_in))
            else:
                p.copy_(values * 0.1 + (1.0 if name.endswith("weight") else 0.0))
    return network
