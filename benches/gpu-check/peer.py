"""The same timings in PyTorch: the networks of ../compare, eager and compiled, in f32, TF32 and bf16, with cuDNN's benchmark.

    python3 benches/gpu-check/peer.py [--size PX] [--batch N] [--slices N] [--json FILE]

One JSON object a line, as gpu_check writes them.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "compare"))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from peers.guided_diffusion import Classifier, UNet, classifier_config, unet_config  # noqa: E402

WARM_UP, REPETITIONS = 3, 20


def repeat(run, n=REPETITIONS):
    for _ in range(min(WARM_UP, n)):
        run()
    times = []
    for _ in range(n):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return times


class Setting:
    def __init__(self, precision, compiled):
        self.precision, self.compiled = precision, compiled
        self.name = precision
        self.side = "torch.compile" if compiled else "eager"

    def enter(self):
        tf32 = self.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True

    def autocast(self):
        return torch.autocast("cuda", torch.bfloat16, enabled=self.precision == "bf16")

    def network(self, net, narrow):
        """bf16 inference has narrow weights in channels-last; training has autocast over f32 weights."""
        if self.precision == "bf16":
            net = net.to(memory_format=torch.channels_last)
            if narrow:
                net = net.to(torch.bfloat16)
        return torch.compile(net) if self.compiled else net

    def image(self, x, narrow):
        if self.precision == "bf16":
            x = x.to(memory_format=torch.channels_last)
            if narrow:
                x = x.to(torch.bfloat16)
        return x


class BfUNet(torch.nn.Module):
    """Weights in bf16 with the embedding's input in bf16, which the plain network would leave in f32."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        embed = net.embed

        def narrow_embed(t):
            with torch.autocast(t.device.type, torch.bfloat16):
                return embed(t).to(torch.bfloat16)

        net.embed = narrow_embed

    def forward(self, x, t, y):
        return self.net(x, t, y)


def batch(options, channels):
    b, size = options.batch, options.size
    values = torch.sin(0.7 * torch.arange(b * channels * size * size, dtype=torch.float32))
    t = 500.0 - 7.0 * torch.arange(b, dtype=torch.float32)
    return values.reshape(b, channels, size, size), t, torch.arange(b) % 2


def forward(options, setting):
    narrow = setting.precision == "bf16"
    net = UNet(unet_config(options.size, 4, 8)).eval()
    net = setting.network(BfUNet(net) if narrow else net, narrow)
    x, t, y = batch(options, 4)
    x = setting.image(x, narrow)

    def run():
        with torch.inference_mode():
            net(x, t, y)

    return f"forward, {options.size} px, batch {options.batch}", repeat(run)


def training_step(options, setting):
    net = setting.network(UNet(unet_config(options.size, 4, 8)).train(), narrow=False)
    x, t, y = batch(options, 4)
    target = batch(options, 8)[0]
    x = setting.image(x, narrow=False)
    adam = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

    def run():
        adam.zero_grad(set_to_none=True)
        with setting.autocast():
            out = net(x, t, y)
        F.mse_loss(out.float(), target).backward()
        adam.step()

    return f"training step, {options.size} px, batch {options.batch}", repeat(run)


def round_trip(options, setting):
    """50 evaluations there and 50 back, with a gradient of the classifier at each of the latter: the networks' work alone."""
    narrow = setting.precision == "bf16"
    net = UNet(unet_config(options.size, 9, 4)).eval()
    net = setting.network(BfUNet(net) if narrow else net, narrow)
    # The classifier stays in f32, as ours does.
    classifier = Classifier(classifier_config(options.size, 4)).eval()
    x, t, y = batch(options, 9)
    x = setting.image(x, narrow)

    def guide(n):
        state = x[:n, :4].float().detach().requires_grad_(True)
        log_prob = classifier(state, t[:n]).log_softmax(-1)
        torch.autograd.grad(log_prob.gather(1, y[:n, None]).sum(), state)

    def run():
        for first in range(0, options.slices, options.batch):
            n = min(options.batch, options.slices - first)
            with torch.inference_mode():
                for _ in range(100):
                    net(x[:n], t[:n], y[:n])
            for _ in range(50):
                guide(n)

    return f"round trip of {options.slices} slices, {options.size} px, 50 + 50", repeat(run, 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("peer: no GPU that PyTorch can use", file=sys.stderr)
        return 3
    torch.set_default_device("cuda")
    out = options.json.open("a") if options.json else None
    for precision in ["f32", "tf32", "bf16"]:
        for compiled in [False, True]:
            setting = Setting(precision, compiled)
            setting.enter()
            for case in [forward, training_step] + ([round_trip] if precision == "bf16" else []):
                try:
                    name, times = case(options, setting)
                except Exception as e:  # One case that fails must not hide the others.
                    print(f"FAILED {case.__name__}, {setting.side}, {precision}: {e}", file=sys.stderr)
                    continue
                finally:
                    torch.cuda.empty_cache()
                row = {
                    "side": setting.side, "case": name, "setting": precision,
                    "ms": statistics.median(times), "min": min(times), "max": max(times),
                }
                print(f"{setting.side} {name}, {precision}: {row['ms']:.2f} ms", flush=True)
                if out:
                    out.write(json.dumps(row) + "\n")
                    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
