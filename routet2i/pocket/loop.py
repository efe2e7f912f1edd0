"""One resumable training run: optimiser, schedule, averaged weights, checkpoints, loss curve.

Every step draws its batch from a generator seeded by (seed, step), so a run that was interrupted continues
with the very batches it would have seen. Checkpoints are safetensors and JSON. It knows no particular model:
the caller brings modules and a loss.
"""

import csv
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

Loss = Callable[[torch.Generator], Mapping[str, torch.Tensor]]  # must hold the key "loss"
_CHECKPOINT_SECONDS = 120.0
_LOG_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast a run learns."""

    steps: int
    batch: int  # examples per step
    learning_rate: float  # peak; linear warm-up over 2 % of the steps, then cosine to a hundredth
    weight_decay: float = 0.01
    ema: float = 0.998  # decay of the averaged weights, which are the product
    seed: int = 0


def learning_rate_factor(step: int, *, steps: int) -> float:
    """Return the share of the peak learning rate at a step: warm-up, then a cosine down to 0.01."""
    warmup = max(1, steps // 50)
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Run:
    """Trains modules in place, in a folder that it can resume from."""

    def __init__(self, folder: Path, modules: Mapping[str, nn.Module], *, plan: Plan, device: str) -> None:
        self.folder, self.plan, self.device = folder, plan, device
        self.step = 0
        self.seconds = 0.0  # of training, over all resumptions
        # Half the memory traffic and 1.6 times the speed where the processor multiplies bfloat16 itself.
        self._bfloat16 = device.startswith("cuda") or torch.cpu._is_avx512_bf16_supported()
        self._parameters = {
            f"{name}.{key}": parameter
            for name, module in modules.items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._average = {key: parameter.detach().clone() for key, parameter in self._parameters.items()}
        self._optimiser = torch.optim.AdamW(
            list(self._parameters.values()),
            lr=plan.learning_rate,
            weight_decay=plan.weight_decay,
            betas=(0.9, 0.99),
            fused=device.startswith("cuda"),
        )
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.json").exists():
            self._resume()

    def train(self, loss: Loss, *, title: str) -> None:
        """Train up to the plan's last step, with a progress bar, a log and checkpoints."""
        started, saved = time.monotonic() - self.seconds, time.monotonic()
        sums: dict[str, torch.Tensor] = {}
        counted = 0
        bar = tqdm(total=self.plan.steps, initial=self.step, desc=title, mininterval=5.0)
        while self.step < self.plan.steps:
            generator = torch.Generator(self.device).manual_seed(self.plan.seed * 10_000_019 + self.step)
            for group in self._optimiser.param_groups:
                group["lr"] = self.plan.learning_rate * learning_rate_factor(self.step, steps=self.plan.steps)
            with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self._bfloat16):
                parts = loss(generator)
            self._optimiser.zero_grad(set_to_none=True)
            parts["loss"].backward()
            nn.utils.clip_grad_norm_(list(self._parameters.values()), 1.0)
            self._optimiser.step()
            self._update_average()
            self.step += 1
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach()
            counted += 1
            bar.update()
            if self.step % _LOG_STEPS == 0 or self.step == self.plan.steps:
                self.seconds = time.monotonic() - started
                means = {name: float(value) / counted for name, value in sums.items()}
                self._log(means)
                bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()}, refresh=False)
                sums, counted = {}, 0
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
        bar.close()
        self.save()
        self.plot(title=title)

    @torch.no_grad()
    def use_average_(self) -> None:
        """Put the averaged weights into the modules: the product of the run."""
        for key, parameter in self._parameters.items():
            parameter.copy_(self._average[key])

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))  # follow quickly at first
        torch._foreach_lerp_(
            list(self._average.values()), [p.detach() for p in self._parameters.values()], 1 - decay
        )

    def save(self) -> None:
        """Write the checkpoint: one replaceable file for tensors, one for numbers."""
        tensors = {f"parameter.{key}": value.detach() for key, value in self._parameters.items()}
        tensors |= {f"average.{key}": value for key, value in self._average.items()}
        for key, parameter in self._parameters.items():
            for name, value in self._optimiser.state[parameter].items():
                tensors[f"optimiser.{name}.{key}"] = value.reshape(-1) if value.ndim == 0 else value
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        temporary = self.folder / "state.safetensors.tmp"
        save_file(tensors, str(temporary), metadata={"step": str(self.step)})
        os.replace(temporary, self.folder / "state.safetensors")  # noqa: PTH105 - atomic on one disk
        (self.folder / "state.json").write_text(json.dumps({"step": self.step, "seconds": self.seconds}))

    def _resume(self) -> None:
        tensors = load_file(str(self.folder / "state.safetensors"), device=self.device)
        numbers = json.loads((self.folder / "state.json").read_text())
        self.step, self.seconds = numbers["step"], numbers["seconds"]
        with torch.no_grad():
            for key, parameter in self._parameters.items():
                parameter.copy_(tensors[f"parameter.{key}"])
                self._average[key].copy_(tensors[f"average.{key}"])
                self._optimiser.state[parameter] = {
                    "step": tensors[f"optimiser.step.{key}"].reshape(()),  # saved as one element
                    "exp_avg": tensors[f"optimiser.exp_avg.{key}"],
                    "exp_avg_sq": tensors[f"optimiser.exp_avg_sq.{key}"],
                }

    def _log(self, means: Mapping[str, float]) -> None:
        path = self.folder / "losses.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", "seconds", *means])
            writer.writerow([self.step, round(self.seconds, 1), *(round(v, 6) for v in means.values())])

    def plot(self, *, title: str) -> None:
        """Draw the loss curve into `losses.png`."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with (self.folder / "losses.csv").open() as file:
            rows = list(csv.DictReader(file))
        figure = Figure(figsize=(7, 4), layout="tight")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for name in list(rows[0])[2:]:
            axes.plot(
                [int(r["step"]) for r in rows], [float(r[name]) for r in rows], label=name, linewidth=0.8
            )
        axes.set(title=title, xlabel="step", yscale="log")
        axes.legend()
        figure.savefig(self.folder / "losses.png", dpi=100)
