"""Whether what `convert` writes is what PyTorch, the safetensors library and guided-diffusion itself expect.

    cargo build --release -p fndm-cli
    python check_convert.py --fndm target/release/fndm --golden ../shared/golden/unet \
        [--original PATH_OF_A_CHECKOUT_OF_guided-diffusion]

For every model of the golden folder's manifest, in f32, f16 and bf16: saved by torch.save in today's and the old format,
converted to safetensors and back, and both files loaded by the Python libraries, with `weights_only=True`, into memory
and mapped. Keys, shapes, types and all bits must be equal. With --original, the converted files are also loaded strictly
into guided-diffusion's own classes, whose outputs must be the recorded ones.
Needs torch and safetensors.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file


def equal(a, b, what):
    assert a.keys() == b.keys(), f"{what}: keys differ: {a.keys() ^ b.keys()}"
    for k in a:
        assert a[k].shape == b[k].shape and a[k].dtype == b[k].dtype, f"{what}: {k}: {a[k].shape} {a[k].dtype}, {b[k].shape} {b[k].dtype}"
        x, y = (t.contiguous().flatten().view(torch.uint8) for t in (a[k], b[k]))
        assert torch.equal(x, y), f"{what}: {k}: values differ"


def convert(args, source, target, *more):
    done = subprocess.run([args.fndm, "convert", source, target, *more], capture_output=True, text=True)
    assert done.returncode == 0, f"{source} -> {target}: {done.stderr}"
    return done.stdout


def original_output(args, model, state):
    from guided_diffusion.unet import EncoderUNetModel, UNetModel

    unet = model["kind"] == "UNetModel"
    net = (UNetModel if unet else EncoderUNetModel)(**model["config"]).eval()
    net.load_state_dict(state, strict=True)
    io = load_file(args.golden / f"{model['name']}.io.safetensors")
    with torch.no_grad():
        if unet:
            out = net(io["x"], io["t"], io["y"] if model["config"].get("num_classes") else None)
        else:
            out = net(io["x"], io["t"])
    return ((out - io["output"]).abs().max() / io["output"].abs().max()).item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fndm", required=True, type=lambda p: str(pathlib.Path(p).resolve()))
    parser.add_argument("--golden", required=True, type=pathlib.Path)
    parser.add_argument("--original", type=pathlib.Path)
    args = parser.parse_args()
    if args.original:
        sys.path.insert(0, str(args.original))
    files = 0
    for model in json.loads((args.golden / "manifest.json").read_text())["models"]:
        name = model["name"]
        path = args.golden / f"{name}.weights.safetensors"
        if not path.exists():
            print(f"{name}: no weights here, skipped")
            continue
        weights = {k: v.float() for k, v in load_file(path).items()}
        with tempfile.TemporaryDirectory() as folder:
            flags = f"{folder}/flags.json"
            config = dict(model["config"])
            if model["peer"] == "diffusion-anomaly" and config.get("pool") == "spatial":
                config["pool"] = "spatial_average8"
            pathlib.Path(flags).write_text(json.dumps(config))
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                sd = {k: v.to(dtype) for k, v in weights.items()}
                for form in ("zip", "legacy"):
                    here = f"{name} {dtype} {form}"
                    source, safe, back = (f"{folder}/{n}" for n in ("a.pt", "b.safetensors", "c.pt"))
                    torch.save(sd, source, _use_new_zipfile_serialization=form == "zip")
                    convert(args, source, safe, "--config", flags)
                    equal(sd, load_file(safe), here + " to safetensors")
                    convert(args, safe, back)
                    equal(sd, torch.load(back, weights_only=True), here + " and back")
                    equal(sd, torch.load(back, weights_only=True, mmap=True), here + " and back, mapped")
                    files += 2
            golden_pt = args.golden / f"{name}.pt"
            if golden_pt.exists():
                said = convert(args, str(golden_pt), safe, "--config", flags)
                said += convert(args, safe, back)
                equal(torch.load(golden_pt, weights_only=True), torch.load(back, weights_only=True), name + ".pt")
                print(said.replace(folder, "DIR"), end="")
                files += 2
            line = f"{name}: {len(weights)} tensors equal in all forms"
            if args.original and not (model["peer"] == "diffusion-anomaly" and config.get("pool") == "spatial_average8"):
                torch.save(weights, source)
                convert(args, source, safe, "--config", flags)
                convert(args, safe, back)
                errors = [original_output(args, model, s) for s in (load_file(safe), torch.load(back, weights_only=True))]
                line += f"; loaded into guided-diffusion, output within {max(errors):.1e} of the recorded one"
                assert max(errors) < 1e-5, line
            print(line)
    assert files, "nothing was checked"
    print(f"{files} converted files equal")


if __name__ == "__main__":
    main()
