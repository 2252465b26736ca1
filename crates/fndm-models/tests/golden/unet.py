"""Writes reference data of guided-diffusion: outputs, maps and gradients of small networks, computed with PyTorch.

python unet.py GUIDED_DIFFUSION OUT SET   (torch 2.11, safetensors 0.8)

GUIDED_DIFFUSION is a checkout of openai/guided-diffusion at 22e0df8. SET is `small`, the part that travels with the crate, or
`other`: more options, larger, and cases that the original refuses. The format is that of the whole reference data.
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file

source, out, chosen = sys.argv[1:]
sys.path.insert(0, source)
from guided_diffusion.nn import timestep_embedding  # noqa: E402
from guided_diffusion.unet import EncoderUNetModel, UNetModel  # noqa: E402

os.makedirs(out, exist_ok=True)
torch.set_num_threads(1)
torch.manual_seed(18)

UNET = dict(image_size=8, in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1, channel_mult=[1])
ENCODER = dict(image_size=8, in_channels=3, model_channels=32, out_channels=2, num_res_blocks=1, channel_mult=[1])
LOSS = "mean over all elements of (model(x,t,y) - target)^2"
OPTIMISER = "Adam lr 1e-4 betas 0.9 0.999 eps 1e-8, no weight decay, 3 steps on the same batch"
EMA = "starts as a copy of the first weights, updated after every step: ema = rate*ema + (1-rate)*weights"

SETS = {
    # name, class, config, input, options
    "small": [
        ("u_small", UNetModel, dict(UNET, attention_resolutions=[], num_classes=2, use_scale_shift_norm=True, num_heads=2),
         [2, 3, 8, 8], dict(train=3000)),
        ("c_small", EncoderUNetModel, dict(ENCODER, attention_resolutions=[1], pool="adaptive", use_scale_shift_norm=True),
         [2, 3, 8, 8], {}),
    ],
    "other": [
        ("o_noattention", UNetModel, dict(UNET, image_size=32, attention_resolutions=[], channel_mult=[1, 2, 2], num_heads=4,
         num_heads_upsample=2, dropout=0.2), [1, 3, 32, 16], dict(f32=True, pt="legacy", fractional=True)),
        ("o_heads", UNetModel, dict(UNET, attention_resolutions=[1, 2], channel_mult=[2, 1], num_head_channels=32,
         use_new_attention_order=True, resblock_updown=True, num_res_blocks=2), [2, 3, 8, 8], dict(train=1 << 30)),
        ("o_pool", UNetModel, dict(UNET, attention_resolutions=[2], channel_mult=[1, 1], conv_resample=False, num_classes=4,
         use_checkpoint=True, out_channels=6), [4, 3, 8, 8], dict(f32=True, pt="zip")),
        ("o_attention", EncoderUNetModel, dict(ENCODER, attention_resolutions=[], channel_mult=[1, 2], pool="attention",
         num_head_channels=16), [2, 3, 8, 8], {}),
        ("o_spatial", EncoderUNetModel, dict(ENCODER, attention_resolutions=[2], channel_mult=[1, 2], pool="spatial",
         resblock_updown=True), [2, 3, 8, 16], dict(f32=True)),
        ("o_spatial_v2", EncoderUNetModel, dict(ENCODER, attention_resolutions=[], pool="spatial_v2"), [2, 3, 8, 8], {}),
        ("o_volume", UNetModel, dict(UNET, attention_resolutions=[], dims=3), [1, 3, 4, 8, 8], {}),
        ("r_channels", UNetModel, dict(UNET, attention_resolutions=[], model_channels=48), [1, 3, 8, 8], {}),
        ("r_heads", UNetModel, dict(UNET, attention_resolutions=[1], num_head_channels=24), [1, 3, 8, 8], {}),
        ("r_pool", EncoderUNetModel, dict(ENCODER, attention_resolutions=[], pool="max"), [1, 3, 8, 8], {}),
        ("r_side", UNetModel, dict(UNET, attention_resolutions=[], channel_mult=[1, 1]), [1, 3, 7, 8], {}),
        ("r_attention", EncoderUNetModel, dict(ENCODER, attention_resolutions=[], pool="attention"), [1, 3, 8, 8], {}),
    ],
}


def arguments(config):
    c = dict(config)
    # The original compares sizes in tuples and lists alike.
    c["channel_mult"] = tuple(c["channel_mult"])
    return c


def scatter(model, f32):
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.1 if p.dim() == 1 else 0.5 / max(1, p[0].numel()) ** 0.5))
            if not f32:
                p.copy_(p.half().float())


def run(name, cls, config, shape, options):
    entry = dict(name=name, kind=cls.__name__, peer="guided-diffusion", config=config, input_shape=shape)
    kept = {}
    try:
        model = cls(**arguments(config)).eval()
        scatter(model, options.get("f32"))
        model.middle_block.register_forward_hook(lambda m, i, o: kept.update(middle=o.detach()))
        x = torch.randn(shape)
        t = torch.randint(0, 1000, (shape[0],)).float()
        if options.get("fractional"):
            t = t + 0.375
        unet = cls is UNetModel
        classes = config.get("num_classes") if unet else config["out_channels"]
        y = torch.arange(shape[0]) % classes if classes else None
        x.requires_grad_()
        output = model(x, t, y) if unet else model(x, t)
    except Exception as e:
        return dict(entry, raises=type(e).__name__, message=str(e).split("\n")[0])
    io = dict(x=x, t=t, output=output, middle_block=kept["middle"])
    if y is not None:
        io["y"] = y
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    f16 = {k: v.half() for k, v in weights.items()}
    entry.update(parameters=sum(p.numel() for p in model.parameters()),
                 weights_stored_as="F32" if options.get("f32") else "F16 (exact)",
                 output_abs_max=output.abs().max().item())
    if unet:
        emb = model.time_embed(timestep_embedding(t, model.model_channels))
        io["embedding"] = emb + model.label_emb(y) if classes else emb
        entry["t_dtype"] = "torch.float32" if options.get("fractional") else "torch.int64"
    else:
        log = torch.log_softmax(output, 1)
        chosen = log[torch.arange(len(y)), y].sum()
        io["log_softmax"] = log
        io["grad_x_of_selected_log_prob"] = torch.autograd.grad(chosen, x)[0]
        entry["grad_abs_max"] = io["grad_x_of_selected_log_prob"].abs().max().item()
    entry["pt_file"] = options.get("pt")
    if options.get("pt"):
        torch.save(weights, f"{out}/{name}.pt", _use_new_zipfile_serialization=options["pt"] == "zip")
    if options.get("train"):
        target = io["target"] = torch.randn(output.shape)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
        averages = {rate: {k: v.clone() for k, v in weights.items()} for rate in (0.9999, 0.5)}
        losses, train = [], {}
        for step in range(3):
            optimiser.zero_grad()
            loss = ((model(x.detach(), t, y) - target) ** 2).mean()
            losses.append(loss.item())
            loss.backward()
            if step == 0:
                grads = {k: p.grad.clone() for k, p in model.named_parameters()}
                entry["grad_norm"] = torch.stack([g.double().norm() for g in grads.values()]).norm().item()
            optimiser.step()
            for rate, average in averages.items():
                for k, v in model.state_dict().items():
                    average[k].mul_(rate).add_(v, alpha=1 - rate)
        # The smaller tensors alone, where the set is to stay small.
        few = [k for k, v in weights.items() if v.numel() <= options["train"]]
        for k in few:
            train[f"grad/{k}"], train[f"adam3/{k}"] = grads[k], model.state_dict()[k]
            for rate, average in averages.items():
                train[f"ema{rate}/{k}"] = average[k]
        entry["train"] = dict(loss=LOSS, losses_before_each_step=losses, optimiser=OPTIMISER, ema=EMA)
        save_file({k: v.detach().clone().contiguous() for k, v in train.items()}, f"{out}/{name}.train.safetensors")
    save_file({k: v.contiguous() for k, v in (weights if options.get("f32") else f16).items()},
              f"{out}/{name}.weights.safetensors")
    save_file({k: v.detach().clone().contiguous() for k, v in io.items()}, f"{out}/{name}.io.safetensors")
    return entry


models = [run(*case) for case in SETS[chosen]]
times = torch.tensor([0.0, 1.0, 17.5, 999.0])
table = {f"dim{d}": timestep_embedding(times, d) for d in (32, 33)}
save_file(dict(table, t=times), f"{out}/timestep_embedding.safetensors")
errors = {}
if chosen == "other":
    models[2]["autocast"] = "bfloat16"
    errors["nobody has checked this"] = dict(raises="ValueError", message="")
with open(f"{out}/manifest.json", "w") as f:
    json.dump(dict(set=chosen, torch=torch.__version__, models=models, errors=errors), f, indent=1)
    f.write("\n")
for entry in models:
    print(entry["name"], entry.get("raises") or entry["output_abs_max"], entry.get("message", ""))
