"""One step of DPM-Solver++ in the middle of a run, by diffusers' scheduler and by the authors' own program.

The latter is on no package index: it is one file, taken from its repository at a fixed commit.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import urllib.request

import numpy as np
import torch

from case import Case
from inputs import sample, tensor

# src/topics/solver.rs has the same.
STEPS, DONE = 25, 5

COMMIT = "52bc3fbcd5de56d60917b826b15d2b69460fc2fa"
DPM_SOLVER = f"https://raw.githubusercontent.com/LuChengTHU/dpm-solver/{COMMIT}/dpm_solver_pytorch.py"
SHA256 = "673c59fd6ec4ce40f339d7335bc00711552cf87ea15acfa3548f5dcca026d9d2"


def dpm_solver_file():
    """The authors' program: the file that FNDM_COMPARE_DPM_SOLVER names, else a download that is kept."""
    if chosen := os.environ.get("FNDM_COMPARE_DPM_SOLVER"):
        path = pathlib.Path(chosen)
    else:
        path = pathlib.Path(__file__).resolve().parents[3] / "target" / "compare" / "dpm_solver_pytorch.py"
        if not path.exists():
            data = urllib.request.urlopen(DPM_SOLVER, timeout=10).read()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise RuntimeError(f"{path} isn't dpm_solver_pytorch.py of commit {COMMIT}")
    return path


def cases():
    diffusers = f"diffusers {importlib.metadata.version('diffusers')}"
    peers = [("diffusers", diffusers)]
    try:
        dpm_solver_file()
        peers.append(("dpm_solver", f"dpm-solver {COMMIT[:7]}"))
    except (OSError, RuntimeError) as e:
        print(f"solver: left out dpm-solver: {e}", file=sys.stderr)
    shapes = [(2, 1, 256), (2, 8, 256), (3, 8, 256), (2, 1, 64)]
    return [
        Case(
            f"order {order}, {batch}x4x{size}x{size}",
            name,
            {"peer": peer, "order": order, "batch": batch, "size": size},
            repetitions=21,
        )
        for peer, name in peers
        for order, batch, size in shapes
    ]


def inputs(spec):
    shape = (spec["batch"], 4, spec["size"], spec["size"])
    return tensor(1, *shape), [tensor(10 + i, *shape) for i in range(DONE + 1)]


class Diffusers:
    def __init__(self, spec):
        from diffusers import DPMSolverMultistepScheduler

        self.scheduler = DPMSolverMultistepScheduler(solver_order=spec["order"])
        self.scheduler.set_timesteps(STEPS)
        x, outputs = inputs(spec)
        for t, output in zip(self.scheduler.timesteps, outputs[:DONE]):
            x = self.scheduler.step(output, t, x, return_dict=False)[0]
        self.x, self.output, self.t = x, outputs[DONE], self.scheduler.timesteps[DONE]
        self.history = list(self.scheduler.model_outputs)

    def run(self):
        # Back to before the step.
        self.scheduler._step_index = DONE
        self.scheduler.model_outputs = list(self.history)
        self.after = self.scheduler.step(self.output, self.t, self.x, return_dict=False)[0]

    def check(self):
        return sample(self.after)


class DpmSolver:
    """An iteration of the loop in its `sample`, from the network's output at a state to the next state."""

    def __init__(self, spec):
        found = importlib.util.spec_from_file_location("dpm_solver_pytorch", dpm_solver_file())
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        scale = np.linspace(1e-4, 0.02, 1000, dtype=np.float64)
        schedule = module.NoiseScheduleVP("discrete", betas=torch.from_numpy(scale).float())
        self.solver = module.DPM_Solver(lambda x, t: self.output, schedule, algorithm_type="dpmsolver++")
        self.order = spec["order"]
        times = self.solver.get_time_steps("time_uniform", 1.0, 1e-3, STEPS, "cpu")
        x, outputs = inputs(spec)
        self.models, self.times = [], []
        for i in range(DONE):
            self.output = outputs[i]
            self.models.append(self.solver.model_fn(x, times[i]))
            self.times.append(times[i])
            x = self.update(x, self.models, self.times, times[i + 1], min(i + 1, self.order))
        self.models, self.times = self.models[-self.order :], self.times[-self.order :]
        self.x, self.output = x, outputs[DONE]
        self.t, self.next = times[DONE], times[DONE + 1]

    def update(self, x, models, times, t, order):
        return self.solver.multistep_dpm_solver_update(x, models[-order:], times[-order:], t, order)

    def run(self):
        with torch.no_grad():
            models = self.models[1:] + [self.solver.model_fn(self.x, self.t)]
            times = self.times[1:] + [self.t]
            self.after = self.update(self.x, models, times, self.next, self.order)

    def check(self):
        return sample(self.after)


CASES = cases()


def prepare(spec):
    return {"diffusers": Diffusers, "dpm_solver": DpmSolver}[spec["peer"]](spec)
