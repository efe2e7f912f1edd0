"""Train the pocket family, one command per model: `python -m routet2i.pocket.train MODEL`.

Order: `text` (CLIP's text tower) and `autoencoder`, independent; then `vision` (CLIP's other half, needs
`text`), `edge` and `cloud` (the denoisers, need `text` and `autoencoder`), independent; then `assemble`,
which writes the packaged folders. Each run lies in its own folder, resumes from its checkpoint, and leaves
its loss curve there. It knows no queue, no database and no worker.
"""

import argparse
import json
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.model import CLIP
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from routet2i import pocket
from routet2i.metrics import MetricSet, read_metrics
from routet2i.pocket import data, networks, world
from routet2i.pocket.loop import Loss, Plan, Run
from routet2i.pocket.losses import (
    AutoencoderLoss,
    DenoiserLoss,
    Grounding,
    TextLoss,
    VisionLoss,
    last_states,
    pad_texts,
    text_states,
    to_unit,
)
from routet2i.pocket.tokens import build_tokenizer, save_tokenizer
from routet2i.tiers import packaged

WEIGHTS = Path(__file__).parent / "weights"
SCENES, DAMAGED, CAPTIONED = 40_000, 30_000, 12_000
PLANS = {  # where to begin; what the shipped weights really saw is in weights/manifest.json and the card
    "text": Plan(steps=1_450, batch=64, learning_rate=1e-3, weight_decay=0.05),
    "autoencoder": Plan(steps=13_000, batch=8, learning_rate=2e-3, weight_decay=0.0),
    "vision": Plan(steps=1_000, batch=64, learning_rate=1e-3, weight_decay=0.05),
    "edge": Plan(steps=2_400, batch=32, learning_rate=1e-3),
    "cloud": Plan(steps=3_000, batch=32, learning_rate=8e-4),
}


def metric_texts(metrics: MetricSet) -> list[str]:
    """Return the metrics' positive texts, then their negative ones."""
    return [m.positive for m in metrics.metrics] + [m.negative for m in metrics.metrics]


def make_tokenizer() -> CLIPTokenizer:
    """Return the family's tokenizer: words of the grammar, of the metric texts, and punctuation."""
    texts = metric_texts(read_metrics(packaged("metrics")))
    words = {word for text in texts for word in text.lower().replace("-", " ").split()}
    return build_tokenizer({*world.vocabulary(), *words, "picture", *".,;:!?-'\""})


Builder = Callable[[str, Plan], tuple[dict[str, torch.nn.Module], Loss]]


class Workshop:
    """Where runs, data and devices are; builds each model and its loss."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, args.device
        self.tokenizer = self._tokenizer()

    def _tokenizer(self) -> CLIPTokenizer:
        """Return the one tokenizer of all runs: learned a second time, it may number its tokens otherwise."""
        packaged_folder, own = pocket.folder("cloud") / "tokenizer", self.args.runs / "tokenizer"
        if not self.args.warm and not own.exists():
            save_tokenizer(make_tokenizer(), own)
        return CLIPTokenizer.from_pretrained(str(packaged_folder if self.args.warm else own))

    def train(self, name: str) -> None:
        """Train one model to the end of its plan."""
        plan = PLANS[name]
        changes = {key: value for key in ("steps", "batch", "seed") if (value := getattr(self.args, key))}
        plan = Plan(**{**plan_values(plan), **changes})
        builders: dict[str, Builder] = {
            "text": self._text,
            "vision": self._vision,
            "autoencoder": self._autoencoder,
        }
        build = builders.get(name, self._denoiser)
        torch.manual_seed(plan.seed)
        modules, loss = build(name, plan)
        if self.args.warm:
            load_packaged_(modules[name], name)
        if self.device.startswith("cuda"):
            torch.set_float32_matmul_precision("high")
            if self.args.compile:
                for part in compiled_parts(modules[name]):
                    part.compile()
        run = Run(self.args.runs / name, modules, plan=plan, device=self.device)
        legs = [*_read_legs(run.folder), self._leg(run, name)]
        (run.folder / "legs.json").write_text(json.dumps(legs, indent=2) + "\n")
        run.train(loss, title=name)

    def load(self, name: str) -> Any:
        """Return a trained model with its averaged weights, on the device, for use."""
        run_folder = self.args.runs / name
        modules = {name: self._build(name).to(self.device)}
        if not (run_folder / "state.json").exists():
            if not self.args.warm:
                raise SystemExit(
                    f"{run_folder} holds no run; type: python -m routet2i.pocket.train {name}, "
                    "or add --warm to use the packaged weights"
                )
            load_packaged_(modules[name], name)
            return modules[name].eval()
        if name == "text":
            modules["grounding"] = Grounding().to(self.device)
        Run(run_folder, modules, plan=PLANS[name], device=self.device).use_average_()
        return modules[name].eval()

    def _build(self, name: str) -> torch.nn.Module:
        """Return a model as its run trains it: what another run has made is there already, and frozen."""
        if name == "text":
            clip = networks.build_clip(len(self.tokenizer))
            return _only(clip, lambda key: not key.startswith(("visual.", "text_projection", "logit_scale")))
        if name == "vision":
            clip = self.load("text")
            return _only(clip, lambda key: key.startswith(("visual.", "text_projection", "logit_scale")))
        if name == "autoencoder":
            return networks.build_autoencoder()
        return networks.build_unet(name)

    def _scenes(self) -> dict[str, torch.Tensor]:
        arrays = data.training_scenes(
            seed=0,
            count=self.args.scenes,
            cache=self.args.runs / "data",
            encode=lambda texts: pad_texts(self.tokenizer, texts).numpy(),
        )
        return {key: torch.from_numpy(value[:]).to(self.device) for key, value in arrays.items()}

    def _quality_tokens(self) -> torch.Tensor:
        texts = metric_texts(read_metrics(packaged("metrics")))
        return pad_texts(self.tokenizer, texts).to(self.device)

    def _text(self, name: str, plan: Plan) -> tuple[dict[str, torch.nn.Module], TextLoss]:
        clip, grounding = self._build(name).to(self.device), Grounding().to(self.device)
        scenes = self._scenes()
        loss = TextLoss(
            clip,
            grounding,
            tables=scenes["tables"],
            tokens=scenes["tokens"],
            quality_tokens=self._quality_tokens(),
            batch=plan.batch,
        )
        return {name: clip, "grounding": grounding}, loss

    def _vision(self, name: str, plan: Plan) -> tuple[dict[str, torch.nn.Module], VisionLoss]:
        clip = self._build(name).to(self.device)
        grounding = Grounding(networks.VISION_WIDTH).to(self.device)
        scenes = self._scenes()
        damaged = data.damaged_pictures(seed=0, count=self.args.damaged, cache=self.args.runs / "data")
        hurt = {key: torch.from_numpy(value[:]).to(self.device) for key, value in damaged.items()}
        used = scenes["tokens"][: self.args.captioned]
        loss = VisionLoss(
            clip,
            grounding,
            pictures=scenes["pictures"],
            tables=scenes["tables"],
            texts=self._last_states(clip, used.flatten(0, 1)).unflatten(0, used.shape[:2]),
            quality_texts=self._last_states(clip, self._quality_tokens()),
            damaged=hurt["pictures"],
            metrics=hurt["metrics"],
            severities=hurt["severities"],
            batch=plan.batch,
        )
        return {name: clip, "grounding": grounding}, loss

    @torch.no_grad()
    def _last_states(self, clip: CLIP, tokens: torch.Tensor) -> torch.Tensor:
        """Return the last text states (B, 128) of token ids (B, 77)."""
        parts = [part.long() for part in tokens.split(500)]
        return torch.cat([last_states(text_states(clip, part), part) for part in parts])

    def _autoencoder(self, name: str, plan: Plan) -> tuple[dict[str, torch.nn.Module], AutoencoderLoss]:
        model = self._build(name).to(self.device)
        return {name: model}, AutoencoderLoss(model, pictures=self._scenes()["pictures"], batch=plan.batch)

    def _denoiser(self, name: str, plan: Plan) -> tuple[dict[str, torch.nn.Module], DenoiserLoss]:
        scenes = self._scenes()
        latents = self._latents(scenes["pictures"])
        text_encoder = networks.build_text_encoder(self.load("text")).to(self.device).requires_grad_(False)
        unet = self._build(name).to(self.device)
        loss = DenoiserLoss(
            unet,
            latents=latents,
            tables=scenes["tables"],
            tokens=scenes["tokens"],
            empty=pad_texts(self.tokenizer, [""])[0].to(self.device),
            text_encoder=text_encoder,
            scheduler=networks.build_scheduler(),
            batch=plan.batch,
        )
        return {name: unet}, loss

    @torch.no_grad()
    def _latents(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return normalised latents (N, 4, 16, 16) of pictures (N, 64, 64, 3); kept beside the run."""
        path = self.args.runs / "autoencoder" / f"latents-{len(pictures)}.npy"
        if not path.exists():
            model = self.autoencoder(pictures)
            parts = [model.encode(to_unit(part)).latent_dist.mode() for part in pictures.split(500)]
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, torch.cat(parts).half().cpu().numpy())
        return torch.from_numpy(np.load(path)).to(self.device)

    @torch.no_grad()
    def autoencoder(self, pictures: torch.Tensor) -> AutoencoderKL:
        """Return the trained autoencoder with normalisation folded in, measured on 4,000 pictures."""
        model = self.load("autoencoder")
        parts = [model.encode(to_unit(part)).latent_dist.mode() for part in pictures[:4000].split(500)]
        latents = torch.cat(parts)
        networks.fold_normalisation_(model, mean=latents.mean((0, 2, 3)), std=latents.std((0, 2, 3)))
        return model

    def assemble(self) -> None:
        """Write the packaged folders from the trained runs, with a manifest of where they come from."""
        clip: CLIP = self.load("vision")
        pictures = self._scenes()["pictures"]
        networks.write_clip_folder(clip, self.tokenizer, self.args.weights / "clip")
        for tier in ("edge", "cloud"):
            unet: UNet2DConditionModel = self.load(tier)
            networks.write_pipeline_folder(
                self.args.weights / tier,
                autoencoder=self.autoencoder(pictures),
                text_encoder=networks.build_text_encoder(clip),
                tokenizer=self.tokenizer,
                unet=unet,
            )
        runs = {name: self._recorded(name) for name in PLANS}
        files = {
            str(path.relative_to(self.args.weights)): pocket.sha256(path)
            for path in sorted(self.args.weights.rglob("*.safetensors"))
        }
        manifest = json.dumps({"runs": runs, "sha256": files}, indent=2)
        (self.args.weights / "manifest.json").write_text(manifest + "\n", encoding="utf-8")

    def _recorded(self, name: str) -> dict[str, Any]:
        """Return what repeats a run; without a run here, the packaged weights' record."""
        folder = self.args.runs / name
        packaged_record: dict[str, Any] = json.loads((WEIGHTS / "manifest.json").read_text())["runs"][name]
        legs = _read_legs(folder)
        if not legs:
            return packaged_record
        state = json.loads((folder / "state.json").read_text())
        record = {"steps": state["step"], "seconds": round(state["seconds"]), "legs": legs}
        return record | ({"began_with": packaged_record} if legs[0]["warm"] else {})

    def _leg(self, run: Run, name: str) -> dict[str, Any]:
        """Return how a run begins or goes on from here."""
        on_gpu = self.device.startswith("cuda")
        return {
            "from_step": run.step,
            **plan_values(run.plan),
            "warm": self.args.warm,
            "scenes": self.args.scenes,
            **({"damaged": self.args.damaged, "captioned": self.args.captioned} if name == "vision" else {}),
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "torch": version("torch"),
            "commit": self.args.commit or _commit(),
        }


def _read_legs(folder: Path) -> list[dict[str, Any]]:
    """Return how a run began and each time it was resumed, with the plan of each time."""
    path = folder / "legs.json"
    return json.loads(path.read_text()) if path.exists() else []


def load_packaged_(module: torch.nn.Module, name: str) -> None:
    """Begin with the packaged weights of a model, in place; the optimiser begins anew."""
    files = {
        "autoencoder": ("cloud", "vae/diffusion_pytorch_model.safetensors"),
        "edge": ("edge", "unet/diffusion_pytorch_model.safetensors"),
        "cloud": ("cloud", "unet/diffusion_pytorch_model.safetensors"),
    }
    family, file = files.get(name, ("clip", "open_clip_model.safetensors"))
    module.load_state_dict(load_file(str(pocket.folder(family) / file)))


def _only(module: CLIP, wanted: Callable[[str], bool]) -> CLIP:
    """Let only the named parameters learn, in place."""
    for key, parameter in module.named_parameters():
        parameter.requires_grad_(wanted(key))
    return module


def compiled_parts(module: Any) -> list[torch.nn.Module]:
    """Return what of a model the losses call as a module: compilation acts on calls."""
    if isinstance(module, CLIP):
        return [module.visual, module.transformer]
    if isinstance(module, AutoencoderKL):
        return [module.encoder, module.decoder]
    return [module]


def plan_values(plan: Plan) -> dict[str, Any]:
    """Return a plan's fields as plain data."""
    return {key: getattr(plan, key) for key in plan.__dataclass_fields__}


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m routet2i.pocket.train", description=__doc__)
    parser.add_argument("model", choices=[*PLANS, "assemble"])
    parser.add_argument("--runs", type=Path, default=Path("runs/pocket"), help="folder of runs and data")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder that assemble writes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, default=SCENES, help="rendered training scenes")
    parser.add_argument("--damaged", type=int, default=DAMAGED, help="damaged training pictures (vision)")
    parser.add_argument("--captioned", type=int, default=CAPTIONED, help="scenes whose captions vision sees")
    parser.add_argument("--steps", type=int, help="instead of the plan's")
    parser.add_argument("--batch", type=int, help="instead of the plan's")
    parser.add_argument("--seed", type=int, help="instead of the plan's")
    parser.add_argument(
        "--warm",
        action="store_true",
        help="begin with the packaged weights, and use them for what has no run here",
    )
    parser.add_argument("--compile", action="store_true", help="compile the model (CUDA)")
    parser.add_argument("--commit", help="recorded where git is not at hand")
    args = parser.parse_args()
    workshop = Workshop(args)
    if args.model == "assemble":
        workshop.assemble()
    else:
        workshop.train(args.model)


if __name__ == "__main__":
    main()
