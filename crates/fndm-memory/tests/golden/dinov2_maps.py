"""Writes dinov2.safetensors: a small DINOv2 of Meta's own code with drawn weights, images, and its maps.

    git clone https://github.com/facebookresearch/dinov2 && PYTHONPATH=dinov2 python dinov2_maps.py

With dinov2 at commit b8931f7 (Apache-2.0), PyTorch 2.11.0 and safetensors. Every fourth cell of a map is kept.
"""

import torch
from dinov2.layers import MemEffAttention, NestedTensorBlock
from dinov2.models.vision_transformer import DinoVisionTransformer
from functools import partial
from safetensors.torch import save_file

torch.manual_seed(20260101)
SIDE = 37 * 14
model = DinoVisionTransformer(
    img_size=SIDE,
    patch_size=14,
    embed_dim=8,
    depth=3,
    num_heads=2,
    init_values=1.0,
    block_fn=partial(NestedTensorBlock, attn_class=MemEffAttention),
    block_chunks=0,
).eval()
with torch.no_grad():
    for name, p in model.named_parameters():
        middle = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma")) else 0.0
        wide = 0.3 if p.dim() == 1 or name.endswith(("token", "pos_embed")) else p[0].numel() ** -0.5
        p.copy_(middle + wide * torch.randn_like(p))

# Two settings of candle-transformers differ: the norms' epsilon is 1e-5 there, not 1e-6, and GELU is approximated. They move these
# maps by up to 1.3e-3; with them alike, all else can be held to rounding.
for module in model.modules():
    if isinstance(module, torch.nn.LayerNorm):
        module.eps = 1e-5
    if isinstance(module, torch.nn.GELU):
        module.approximate = "tanh"

mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def maps(pictures):
    """Of pictures (N, 3, H, W) in [-1, 1]: blocks 0 and 2, (N, 8, 37, 37) each."""
    x = torch.nn.functional.interpolate(pictures, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return model.get_intermediate_layers(((x + 1) / 2 - mean) / std, [0, 2], reshape=True)


out = {f"weights.{name}": p.detach().contiguous() for name, p in model.state_dict().items()}
with torch.no_grad():
    grey = 2 * torch.rand(2, 2, 32, 40) - 1
    colour = 2 * torch.rand(1, 3, 32, 32) - 1
    # Each sequence as a grey picture; the maps of an image's sequences one after the other.
    for block, m in zip((0, 2), maps(grey.reshape(4, 1, 32, 40).expand(4, 3, 32, 40))):
        out[f"grey.block{block}"] = m.reshape(2, 16, 37, 37)[..., ::4, ::4].contiguous()
    for block, m in zip((0, 2), maps(colour)):
        out[f"colour.block{block}"] = m[..., ::4, ::4].contiguous()
out["grey.images"], out["colour.images"] = grey, colour
save_file(out, "dinov2.safetensors")
for name, t in out.items():
    print(name, list(t.shape), float(t.std()))
