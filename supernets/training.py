"""The training loop: one process, or one rank of many.

Every random draw comes from the seed, the rank and the step, and batches are a function of the step. So a
training that was stopped goes on from its checkpoint as if nothing had happened: bit for bit on a CPU.

With several ranks every rank trains architectures of its own drawing, and a weight's gradient is the mean
over the ranks; a weight that no rank used keeps no gradient, so no momentum or decay moves it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Architecture
from supernets import checkpoint
from supernets.recipe import Training
from supernets.samplers.plan import Plan, Probe, Sampler
from supernets.supernet import Supernet

log = logging.getLogger(__name__)

LOOK = 20  # steps between two looks at the loss: on a GPU each look waits for it
MOST_ROLLBACKS = 3


class Source(Protocol):
    """Where batches come from: a function of the step, and how many of its steps make an epoch."""

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), normalised, and labels (N,), on the training's device."""

    def steps_per_epoch(self, ranks: int = 1) -> int: ...


@dataclass
class Watcher:
    """What the outside hears and says: the only callbacks of the loop.

    `point(step, values)` gets the curves at every look, `saved(step)` every checkpoint, `warn(text)` what
    went wrong and was mended. `stop()` is asked between steps; a stopped training saves a checkpoint first.
    """

    point: Callable[[int, Mapping[str, float]], None] = lambda step, values: None
    saved: Callable[[int], None] = lambda step: None
    warn: Callable[[str], None] = log.warning
    stop: Callable[[], bool] = lambda: False


class Diverged(RuntimeError):
    """The loss was not a number, or back at chance, more often than a lower rate could mend."""


def train(
    supernet: Supernet,
    batches: Source,
    probe_batch: Callable[[int], tuple[Tensor, Tensor]],
    sampler: Sampler,
    settings: Training,
    path: Path,
    watcher: Watcher | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> bool:
    """Train from the checkpoint at `path`, or from the start if there is none, to the last step.

    Args:
        supernet: on the device where it is trained; its weights are replaced by the checkpoint's.
        probe_batch: validation images and labels by number, for samplers that look at the loss.
        path: rank 0 keeps the checkpoint there, every rank reads it; the folder is made.

    Returns:
        Whether it came to the end; False if the watcher stopped it.

    Raises:
        Diverged: after three rollbacks to the last good checkpoint, each at half the rate.
        ValueError: the checkpoint is damaged or of another training.
    """
    watcher = watcher or Watcher()
    steps = settings.steps(batches.steps_per_epoch(ranks))
    loop = _Loop(supernet, sampler, settings, steps, path, rank, ranks)
    probe = Probe(lambda one, number: loop.validation_loss(one, *probe_batch(number)), mean_over_ranks)
    if path.is_file():
        loop.restore()
    else:
        loop.save()
    since, begun = loop.step, time.perf_counter()
    while loop.step < steps:
        loop.train_step(*batches(loop.step, rank, ranks))
        sampler.update(loop.step, loop.random("update"), probe)
        checkpoint_due = loop.step % settings.checkpoint_every == 0 or loop.step == steps
        look = checkpoint_due or loop.step % LOOK == 0
        if look:
            loss = loop.mean_loss()
            if not loop.healthy(loss):
                watcher.warn(loop.roll_back(loss))
                since, begun = loop.step, time.perf_counter()
                continue
            speed = (loop.step - since) * settings.batch_size * ranks / (time.perf_counter() - begun)
            values = {"loss": loss, "learning_rate": loop.rate(), "images_per_second": speed}
            watcher.point(loop.step, values | dict(sampler.observables()))
            since, begun = loop.step, time.perf_counter()
        stopped = _any_rank(watcher.stop()) if look or ranks == 1 else False
        if checkpoint_due or (stopped and loop.finite()):
            loop.save()
            watcher.saved(loop.step)
        if stopped:
            return loop.step == steps
    return True


class _Loop:
    """One training: where it is, and its step. Separate from `train` so that each can be read at once."""

    def __init__(
        self,
        supernet: Supernet,
        sampler: Sampler,
        settings: Training,
        steps: int,
        path: Path,
        rank: int,
        ranks: int,
    ):
        self.supernet, self.sampler, self.settings = supernet, sampler, settings
        self.steps, self.path, self.rank, self.ranks = steps, path, rank, ranks
        self.named = dict(supernet.named_parameters())
        self.device = next(iter(self.named.values())).device
        self.optimizer = _optimizer(supernet, settings)
        self.constrained = [module for module in supernet.modules() if hasattr(module, "constrain")]
        self.scheduled = [module for module in supernet.modules() if hasattr(module, "schedule")]
        self.step = self.rollbacks = 0
        self.best_loss = math.inf  # the lowest mean loss of any look so far
        self.losses: list[Tensor] = []  # since the last look, still on the device

    def random(self, purpose: str) -> Random:
        return Random(f"{self.settings.seed}/{self.rank}/{self.step}/{purpose}")

    def rate(self) -> float:
        return self.settings.rate(self.step, self.steps) * 0.5**self.rollbacks

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """One optimiser step through what the sampler plans, gradients of all its architectures added."""
        self.supernet.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate() * group["factor"]
        # None, not zero: what was not trained must get no momentum and no decay
        self.optimizer.zero_grad(set_to_none=True)
        plan = self.sampler.plan(
            self.step, self.random("plan"), lambda one: self.validation_loss(one, images, labels)
        )
        for module in self.scheduled:
            module.schedule(self.step / self.steps, self.random("schedule").getrandbits(63))
        loss = self.backward(plan, images, labels)
        for module in self.scheduled:
            module.schedule(0.0, 0)  # what looks at the network between steps sees all of it
        if self.ranks > 1:
            average_gradients(list(self.named.values()))
        norm = nn.utils.clip_grad_norm_(self.supernet.parameters(), self.settings.clip)
        # a gradient that is not a number ruins the weights before any loss shows it
        self.losses.append(torch.where(norm.isfinite(), loss, math.nan))
        self.optimizer.step()
        with torch.no_grad():
            for module in self.constrained:
                module.constrain()
        self.step += 1

    def backward(self, plan: Plan, images: Tensor, labels: Tensor) -> Tensor:
        """Leave the summed gradients in the weights; the loss of the first architecture."""
        teacher, first = None, None
        for architecture in plan.architectures:
            with autocast(self.device, self.settings):
                logits = self.supernet(images, architecture).float()
                if teacher is None:
                    loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
                else:
                    loss = F.cross_entropy(logits, teacher)  # soft labels: the largest's predictions
            loss.backward()
            if first is None:
                first = loss.detach()
                teacher = logits.detach().softmax(1) if plan.distil else None
        return first

    @torch.no_grad()
    def validation_loss(self, architecture: Architecture, images: Tensor, labels: Tensor) -> float:
        """By batch statistics, as in training: running ones mean nothing in a supernet."""
        self.supernet.train()
        with autocast(self.device, self.settings):
            return F.cross_entropy(self.supernet(images, architecture).float(), labels).item()

    def mean_loss(self) -> float:
        """Over the steps and ranks since the last look."""
        loss = torch.stack(self.losses).mean().item()
        self.losses = []
        return float(mean_over_ranks(np.array([loss]))[0])

    def finite(self) -> bool:
        """Whether every loss since the last look is a number."""
        return all(math.isfinite(loss) for loss in self.losses)

    def healthy(self, loss: float) -> bool:
        """A number, and not back at chance after having been well below."""
        chance = math.log(self.supernet.space.classes)
        if not math.isfinite(loss) or (self.best_loss < 0.8 * chance and loss > 0.97 * chance):
            return False
        self.best_loss = min(self.best_loss, loss)
        return True

    def roll_back(self, loss: float) -> str:
        """Go on from the last checkpoint at half the rate; what happened, in words."""
        at, rollbacks = self.step, self.rollbacks + 1
        what = "is not a number" if not math.isfinite(loss) else f"is back at chance ({loss:.2f})"
        if rollbacks > MOST_ROLLBACKS:
            raise Diverged(
                f"training diverged: at step {at} the loss {what}, after {MOST_ROLLBACKS} rollbacks; the last "
                f"good checkpoint is kept. Lower training.learning_rate ({self.settings.learning_rate}) and "
                "start again with --fresh"
            )
        self.restore()
        self.rollbacks = rollbacks
        self.save()  # so that a kill does not forget the lower rate
        return (
            f"at step {at} the loss {what}; back to step {self.step} at half the learning rate "
            f"(rollback {rollbacks} of at most {MOST_ROLLBACKS})"
        )

    # -- checkpoint ----------------------------------------------------------------------------

    def save(self) -> None:
        samplers = _gathered(self.sampler.state_dict())
        if self.rank == 0:
            momentum = {
                f"momentum.{name}": state["momentum_buffer"]
                for name, parameter in self.named.items()
                if (state := self.optimizer.state.get(parameter)) and state.get("momentum_buffer") is not None
            }
            weights = {f"supernet.{name}": tensor for name, tensor in self.supernet.state_dict().items()}
            facts = {
                "step": self.step,
                "steps": self.steps,
                "rollbacks": self.rollbacks,
                "best_loss": None if math.isinf(self.best_loss) else self.best_loss,
                "losses": [loss.item() for loss in self.losses],
                "samplers": samplers,
                "training": asdict(self.settings),
            }
            checkpoint.save(self.path, weights | momentum, facts)
        if self.ranks > 1:
            dist.barrier()

    def restore(self) -> None:
        tensors, facts = checkpoint.load(self.path)
        check_ranks(self.path, facts, self.ranks)
        if facts["training"] != asdict(self.settings) or facts["steps"] != self.steps:
            raise ValueError(
                f"the checkpoint {self.path} is of a training with other settings; give the run another --name, "
                "or start over with --fresh"
            )
        load_weights(self.supernet, tensors, self.path)
        self.optimizer = _optimizer(self.supernet, self.settings)
        for name, parameter in self.named.items():
            if (momentum := tensors.get(f"momentum.{name}")) is not None:
                # the layout of the weight, or the update would round differently than without a stop
                kept = torch.empty_like(parameter).copy_(momentum)
                self.optimizer.state[parameter]["momentum_buffer"] = kept
        self.sampler.load_state_dict(facts["samplers"][self.rank])
        self.step, self.rollbacks = facts["step"], facts["rollbacks"]
        self.best_loss = math.inf if facts["best_loss"] is None else facts["best_loss"]
        self.losses = [torch.tensor(loss, device=self.device) for loss in facts["losses"]]


def load_weights(supernet: Supernet, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put a checkpoint's weights into the supernet.

    Raises:
        ValueError: they are of another space.
    """
    weights = {
        name.removeprefix("supernet."): one for name, one in tensors.items() if name.startswith("supernet.")
    }
    own = supernet.state_dict()
    wrong = [
        name
        for name in own.keys() | weights.keys()
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    ]
    if wrong:
        raise ValueError(
            f"the checkpoint {path} is of another search space ({len(wrong)} tensors differ, such as {min(wrong)}); "
            "give the run another --name, or start over with --fresh"
        )
    supernet.load_state_dict(weights)


def progress(path: Path) -> tuple[int, int]:
    """(steps done, steps in all) of the training at `path`; (0, 0) if there is none."""
    if not path.is_file():
        return 0, 0
    _, facts = checkpoint.load(path)
    return facts["step"], facts["steps"]


def check_ranks(path: Path, facts: Mapping[str, Any], ranks: int) -> None:
    """
    Raises:
        ValueError: the checkpoint is of a training on another number of ranks.
    """
    if (before := len(facts["samplers"])) != ranks:
        workers = "--workers 1, or without it" if before == 1 else f"--workers {before}"
        raise ValueError(
            f"the training in {path} ran on {before} worker{'s' * (before > 1)}, now there are {ranks}; go on with as "
            f"many ({workers}), or start over with --fresh"
        )


def training_device(settings: Training) -> torch.device:
    """The device that the settings ask for.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("training.device is cuda, but torch sees no GPU here; allowed here: cpu, auto")
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def autocast(device: torch.device, settings: Training):
    """bfloat16 where the settings want it; float32 is faster on most CPUs."""
    wanted = settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks, absent ones counting as zero, in one message.

    A weight that no rank trained keeps no gradient.
    """
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
    flat = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        + [used.to(parameters[0].device)]
    )
    dist.all_reduce(flat)
    flat[: -len(parameters)] /= dist.get_world_size()
    anywhere = (flat[-len(parameters) :] > 0).tolist()
    start = 0
    for parameter, trained in zip(parameters, anywhere, strict=True):
        stop = start + parameter.numel()
        parameter.grad = flat[start:stop].view(parameter.shape).clone() if trained else None
        start = stop


def mean_over_ranks(values: np.ndarray) -> np.ndarray:
    """The mean of an array over the training processes; itself where there is one."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.cpu().numpy() / dist.get_world_size()


def _any_rank(stop: bool) -> bool:
    return bool(mean_over_ranks(np.array([float(stop)]))[0] > 0)


def _gathered(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all ranks, in order."""
    if not dist.is_initialized():
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


def _optimizer(supernet: nn.Module, settings: Training) -> torch.optim.SGD:
    """SGD with Nesterov momentum; what has one dimension, norms and biases, does not decay, nor does what
    an operator lets learn at a rate of its own."""
    own = {
        getattr(module, name): factor
        for module in supernet.modules()
        for name, factor in getattr(module, "rates", {}).items()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in supernet.parameters():
        decay = settings.weight_decay if parameter.ndim > 1 and parameter not in own else 0.0
        groups.setdefault((own.get(parameter, 1.0), decay), []).append(parameter)
    return torch.optim.SGD(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (factor, decay), parameters in groups.items()
        ],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
    )
