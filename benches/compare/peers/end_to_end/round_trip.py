"""Encoding by the probability-flow ODE and guided sampling, with diffusers' DPM-Solver++ schedulers."""

import numpy as np
import torch
import torch._inductor.config as inductor
from diffusers import DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler


class Direction:
    """A scheduler with the network times of its evaluations, and alpha and sigma there.

    Times are evenly spread from the first training step to the noise level. diffusers would round them to training steps, which
    is another grid than ours: the scheduler is given the sigmas at the times as they are. Its own table, of the training steps
    up to the noise level, then serves only to count steps.
    """

    def __init__(self, kind, schedule, settings, rising, **options):
        total = schedule["steps"]
        betas = np.linspace(schedule["beta_start"], schedule["beta_end"], total)
        times = np.linspace(1 / total, settings["noise_level"], settings["steps"] + 1)
        times = times if rising else times[::-1]
        # ln(alpha) at t = 0, 1/T, 2/T, ... 1, and by straight lines between.
        log_alphas = np.concatenate([[0], 0.5 * np.log1p(-betas).cumsum()])
        log_alpha = np.interp(times * total, np.arange(total + 1), log_alphas)
        alphas, sigmas = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
        self.alphas, self.sigmas = alphas.tolist(), sigmas.tolist()
        # In units of alpha, as diffusers has them.
        self.relative = torch.from_numpy(sigmas / alphas).float()
        self.network_times = [torch.tensor([t * total - 1], dtype=torch.float32) for t in times[:-1]]
        self.steps = settings["steps"]
        used = round(settings["noise_level"] * total)
        self.scheduler = kind(
            num_train_timesteps=used, trained_betas=betas[:used], solver_order=settings["order"], **options
        )

    def start(self):
        self.scheduler.set_timesteps(self.steps)
        self.scheduler.sigmas = self.relative
        return self.scheduler


class RoundTrip:
    def __init__(self, model, compiled=False):
        self.unet, self.classifier, self.settings = model.unet, model.classifier, model.settings
        if compiled:
            # Weights are constants where no gradient is asked for.
            inductor.freezing = True
            self.unet = torch.compile(model.unet, dynamic=False)
            self.classifier = torch.compile(model.classifier, dynamic=False)
        of = (model.config["schedule"], model.settings)
        self.encoding = Direction(
            DPMSolverMultistepInverseScheduler, *of, rising=True, prediction_type="v_prediction"
        )
        # Guidance and limits work on x0, so the scheduler is given x0.
        self.sampling = Direction(
            DPMSolverMultistepScheduler, *of, rising=False, prediction_type="sample", final_sigmas_type="sigma_min"
        )

    def encode(self, images, x_seg):
        """The state of images (B, C, H, W) at the noise level; inside x_seg (B, 1, H, W) the middle of all noise, 0."""
        shown = self.network_input(images, torch.zeros_like(x_seg))
        label = torch.tensor([self.settings["encode_label"]])
        scheduler, state = self.encoding.start(), images
        for step, time in zip(scheduler.timesteps, self.encoding.network_times):
            state = scheduler.step(self.predict(shown, state, time, label), step, state, return_dict=False)[0]
        return state * (1 - x_seg)

    def sample(self, state, images, x_seg):
        """The healthy reconstruction."""
        shown = self.network_input(images, x_seg)
        label = torch.tensor([self.settings["sample_label"]])
        scheduler = self.sampling.start()
        scale = self.settings["guidance_scale"]
        at = zip(scheduler.timesteps, self.sampling.network_times, self.sampling.alphas, self.sampling.sigmas)
        for step, time, alpha, sigma in at:
            x0 = alpha * state - sigma * self.predict(shown, state, time, label)
            x0.add_(self.gradient(state, time), alpha=scale * sigma**2 / alpha)
            if self.settings["clip_x0"]:
                x0.clamp_(-1, 1)
            state = scheduler.step(x0, step, state, return_dict=False)[0]
        return state

    def network_input(self, images, coarse):
        """State, image, coarse map: the state's channels are filled in at every evaluation."""
        return torch.cat([torch.empty_like(images), images, coarse], dim=1)

    def predict(self, shown, state, time, label):
        shown[:, : state.shape[1]] = state
        # Time and label are the same for the whole batch, and so is their embedding.
        return self.unet(shown, time, label)

    def gradient(self, state, time):
        """Of ln p(label | state) in the state."""
        # A tensor of inference mode has no gradient; a copy made outside of it has.
        with torch.inference_mode(False):
            x = state.clone().requires_grad_()
            logits = self.classifier(x, time)
            likely = logits.log_softmax(1)[:, self.settings["sample_label"]].sum()
            return torch.autograd.grad(likely, x)[0]
