"""The training loop: one process, or one rank of many.

Every random draw comes from the seed, the rank and the step, and batches are a function of the step. So a
training that was stopped goes on from its checkpoint as if nothing had happened: bit for bit on a CPU.

With several ranks every rank trains architectures of its own drawing, and a weight's gradient is the mean
over the ranks; a weight that no rank used keeps no gradient, so no momentum or decay moves it.

A step may take several batches one after the other (`accumulate`): all of them go through the architectures of
its one plan, and the gradient is their mean. Inside a step of one process nothing waits for a GPU, unless the
sampler looks at the loss; several ranks wait once, to learn which weights any of them trained.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace
from supernets import checkpoint
from supernets.averaging import WeightAverage
from supernets.cost import Costs
from supernets.drop_path import StochasticDepth, is_largest
from supernets.losses import DISTILLATIONS, label_loss
from supernets.mixing import mix
from supernets.recipe import Training
from supernets.samplers.plan import Plan, Probe, Sampler, Watch, Wrapper
from supernets.samplers.sandwich import Sandwich
from supernets.slicing import Slices
from supernets.supernet import Supernet
from supernets.tally import Tally

log = logging.getLogger(__name__)

LOOK = 20  # steps between two looks at the loss: on a GPU each look waits for it
MOST_ROLLBACKS = 3
WELL_BELOW, AT_CHANCE = 0.8, 0.97  # shares of the loss at chance, ln(classes)
WILD = 3.0  # nats above chance; trainings of all presets stay within 0.7, first steps and warm-up included


class Source(Protocol):
    """Where batches come from: a function of the step, and how many of its steps make an epoch."""

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), normalised, and labels (N,), on the training's device."""

    def steps_per_epoch(self, ranks: int = 1) -> int: ...


@dataclass
class Watcher:
    """What the outside hears and says: the only callbacks of the loop.

    `point(step, values)` gets the curves at every look, `saved(step)` every checkpoint, `warn(text)` what
    went wrong and was mended, `preparing(what, step, steps)` what takes long before the first step. `stop()`
    is asked between steps; a stopped training saves a checkpoint first.
    """

    point: Callable[[int, Mapping[str, float]], None] = lambda step, values: None
    saved: Callable[[int], None] = lambda step: None
    preparing: Callable[[str, int, int], None] = lambda what, step, steps: None
    warn: Callable[[str], None] = log.warning
    stop: Callable[[], bool] = lambda: False


class Diverged(RuntimeError):
    """The loss was not a number, far above chance or back at it, more often than a lower rate could mend."""


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
    costs: Costs | None = None,
) -> bool:
    """Train from the checkpoint at `path`, or from the start if there is none, to the last step.

    With `settings.average` the checkpoint's weights, those that everybody else loads, are the averaged ones; the
    supernet itself ends with the weights of the last step.

    Args:
        supernet: on the device where it is trained; its weights are replaced by the checkpoint's.
        probe_batch: validation images and labels by number, for samplers that look at the loss.
        path: rank 0 keeps the checkpoint there, every rank reads it; the folder is made.
        costs: if given, the MACs that are trained are counted: in the curves as `macs`, per image and step, and in
            the checkpoint as `sampled`, a histogram of all architectures trained.

    Returns:
        Whether it came to the end; False if the watcher stopped it.

    Raises:
        Diverged: after three rollbacks to the last good checkpoint, each at half the rate.
        ValueError: the checkpoint is damaged or of another training.
    """
    watcher = watcher or Watcher()
    loop = _Loop(supernet, batches, sampler, settings, path, rank, ranks, costs)
    if settings.drop_path and rank == 0 and not trains_the_largest(sampler, supernet.space):
        watcher.warn(
            f"training.drop_path is {settings.drop_path:g}, but only the largest architecture loses paths, which this "
            "sampler hardly ever trains; put a sandwich around it, {name: sandwich, of: ...}, or set it to 0"
        )
    with batch_statistics(supernet):
        ended = _to_the_end(loop, probe_batch, watcher)
    if ended and loop.best_loss > AT_CHANCE * loop.chance:
        watcher.warn(
            f"the loss never fell below chance ({loop.chance:.2f}), the lowest was {loop.best_loss:.2f}: next to "
            f"nothing was learned; give another training.learning_rate ({settings.learning_rate:g}), or more "
            f"training.epochs ({settings.epochs:g}), and start again with --fresh"
        )
    return ended


def trains_the_largest(sampler: Sampler, space: SearchSpace) -> bool:
    """Whether some architecture of full size, whatever its operators, is in every step or at least 1 % of all."""
    while isinstance(sampler, Wrapper):
        if isinstance(sampler, Sandwich):
            return True
        sampler = sampler.of
    random = Random(0)
    return sum(is_largest(space, space.sample(random)) for _ in range(1000)) >= 10


@contextmanager
def batch_statistics(supernet: nn.Module) -> Iterator[None]:
    """Let no batch norm, an operator's own plain ones included, keep running statistics: those of one
    architecture are wrong for every other, and each subnet gets its own before use."""
    norms = [
        module
        for module in supernet.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _to_the_end(loop: _Loop, probe_batch: Callable[[int], tuple[Tensor, Tensor]], watcher: Watcher) -> bool:
    """Whether it came there; False if the watcher stopped it."""
    settings, sampler, steps, ranks = loop.settings, loop.sampler, loop.steps, loop.ranks
    probe = Probe(lambda one, number: loop.validation_loss(one, *probe_batch(number)), mean_over_ranks)
    if loop.path.is_file():
        loop.restore()
    else:
        loop.save()
    try:
        _prepare(loop, partial(_watched, watcher, ranks))
    except _Stopped:
        return False  # the checkpoint is that of before
    since, begun = loop.step, time.perf_counter()
    while loop.step < steps:
        loop.train_step()
        sampler.update(loop.step, loop.random("update"), probe)
        checkpoint_due = loop.step % settings.checkpoint_every == 0 or loop.step == steps
        look = checkpoint_due or loop.step % LOOK == 0
        if look:
            loss = loop.mean_loss()
            if not loop.healthy(loss):
                watcher.warn(loop.roll_back(loss))
                since, begun = loop.step, time.perf_counter()
                continue
            images = (loop.step - since) * settings.batch_size * settings.accumulate * ranks
            speed = images / (time.perf_counter() - begun)
            values = {"loss": loss, "learning_rate": loop.rate(), "images_per_second": speed}
            watcher.point(loop.step, values | loop.mean_macs() | dict(sampler.observables()))
            since, begun = loop.step, time.perf_counter()
        stopped = _any_rank(watcher.stop()) if look or ranks == 1 else False
        if checkpoint_due or (stopped and loop.tame()):
            loop.save()
            watcher.saved(loop.step)
        if stopped:
            return loop.step == steps
    return True


def _prepare(loop: _Loop, watch: Watch) -> None:
    """Prepare the sampler, before the first step of several ranks on the first alone: the others take what it has.

    Then no sampler has learned anything of its own yet, and machines that round otherwise would not fit the same.
    """
    if loop.step > 0 or loop.ranks == 1:
        return loop.sampler.prepare(watch)
    if loop.rank == 0:
        loop.sampler.prepare(watch)
    state = [loop.sampler.state_dict()]
    dist.broadcast_object_list(state, src=0)
    loop.sampler.load_state_dict(state[0])


class _Stopped(Exception):
    """The watcher stopped what is prepared before the first step."""


def _watched(watcher: Watcher, ranks: int, what: str, step: int, total: int) -> None:
    watcher.preparing(what, step, total)
    if ranks == 1 and watcher.stop():  # of several, none may leave the others alone
        raise _Stopped


class _Loop:
    """One training: where it is, and its step. Separate from `train` so that each can be read at once."""

    def __init__(
        self,
        supernet: Supernet,
        batches: Source,
        sampler: Sampler,
        settings: Training,
        path: Path,
        rank: int,
        ranks: int,
        costs: Costs | None,
    ):
        self.supernet, self.batches, self.sampler, self.settings = supernet, batches, sampler, settings
        self.path, self.rank, self.ranks = path, rank, ranks
        self.steps = settings.steps(batches.steps_per_epoch(ranks))
        self.named = dict(supernet.named_parameters())
        self.parameters = list(self.named.values())
        self.device = self.parameters[0].device
        self.slices = Slices()
        self.trained = self.parameters  # in the last step; before the first, all may have old gradients
        self.optimizer = make_optimizer(supernet, settings)
        self.average = WeightAverage(self.parameters, settings.average) if settings.average else None
        self.tally = None if costs is None else Tally(costs)
        self.constrained = [module for module in supernet.modules() if hasattr(module, "constrain")]
        self.scheduled = [module for module in supernet.modules() if hasattr(module, "schedule")]
        self.chance = math.log(supernet.space.classes)
        self.step = self.rollbacks = 0
        self.best_loss = math.inf  # the lowest mean loss of any look so far
        self.losses: list[Tensor] = []  # since the last look, still on the device

    def random(self, purpose: str) -> Random:
        return Random(f"{self.settings.seed}/{self.rank}/{self.step}/{purpose}")

    def rate(self) -> float:
        return self.settings.rate(self.step, self.steps) * 0.5**self.rollbacks

    def part(self, number: int) -> tuple[Tensor, Tensor]:
        """Images and labels: one of the step's batches."""
        return self.batches(self.step * self.settings.accumulate + number, self.rank, self.ranks)

    def train_step(self) -> None:
        """One optimiser step through what the sampler plans, gradients of all its architectures added."""
        images, labels = self.part(0)
        parts = self.settings.accumulate
        if not self.supernet.training:  # asked of the module, since telling all of them takes a while
            self.supernet.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate() * group["factor"]
        for parameter in self.trained:  # no other has a gradient
            parameter.grad = None  # not zero: what was not trained must get no momentum and no decay
        plan = self.sampler.plan(
            self.step, self.random("plan"), lambda one: self.validation_loss(one, images, labels)
        )
        for module in self.scheduled:
            module.schedule(self.step / self.steps, self.random("schedule").getrandbits(63))
        loss = self.backward(plan, images, labels, 1 / parts) / parts
        for number in range(1, parts):
            loss += self.backward(plan, *self.part(number), 1 / parts, number) / parts
        for module in self.scheduled:
            module.schedule(0.0, 0)  # what looks at the network between steps sees all of it
        if self.ranks > 1:
            average_gradients(self.parameters)
        self.trained = [parameter for parameter in self.parameters if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
        # a gradient that is not finite ruins the weights before any loss shows it; 0 times that is not a number
        self.losses.append(loss + 0 * norm)
        self.optimizer.step()
        with torch.no_grad():
            for module in self.constrained:
                module.constrain()
        if self.average is not None:
            self.average.update(self.step)
        if self.tally is not None:
            self.tally.add(plan.architectures)
        self.step += 1

    def backward(
        self, plan: Plan, images: Tensor, labels: Tensor, scale: float = 1.0, part: int = 0
    ) -> Tensor:
        """Add the gradients of all architectures, times `scale`, to the weights; the first one's cross entropy.

        Args:
            part: of the step's batch, if it comes in several: each is mixed, and loses paths, in its own way.
        """
        settings, space = self.settings, self.supernet.space
        if settings.mixup or settings.cutmix:
            dice = self.random(f"mixing/{part}")
            images, labels = mix(images, labels, space.classes, settings.mixup, settings.cutmix, dice)
        teacher, first = None, None
        for number, architecture in enumerate(plan.architectures):
            options = {}
            if settings.drop_path and (number == 0 if plan.distil else is_largest(space, architecture)):
                seed = self.random(f"drop_path/{part}/{number}").getrandbits(63)
                options["drop"] = StochasticDepth(settings.drop_path, seed, self.device)
            with self.slices.gathered():
                with autocast(self.device, settings):
                    features = self.supernet.features(images, architecture, **options)
                    logits = self.supernet.classify(features, architecture).float()
                    if teacher is None:
                        loss, shown = label_loss(
                            settings.loss, logits, labels, features, settings.label_smoothing
                        )
                    else:
                        loss = DISTILLATIONS[settings.distillation](logits, teacher)
                loss.backward(torch.full_like(loss, scale))
            if first is None:
                first = shown
                teacher = logits.detach() if plan.distil else None
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

    def mean_macs(self) -> dict[str, float]:
        """MACs trained per image and step, over the steps and ranks since the last look, if they are counted."""
        if self.tally is None:
            return {}
        return {"macs": float(mean_over_ranks(np.array([self.tally.mean_macs()]))[0])}

    def tame(self) -> bool:
        """Whether every loss since the last look is a number, and none far above chance."""
        return all(math.isfinite(loss) and loss <= self.chance + WILD for loss in self.losses)

    def healthy(self, loss: float) -> bool:
        """Nothing is wrong with it; it then counts for the lowest."""
        if self.wrong(loss):
            return False
        self.best_loss = min(self.best_loss, loss)
        return True

    def wrong(self, loss: float) -> str | None:
        """What is wrong with a loss, in words: not a number, far above chance, or back at it after having been well
        below."""
        if not math.isfinite(loss):
            return "is not a number"
        if loss > self.chance + WILD:
            return f"is far above chance ({loss:.4g} against {self.chance:.2f})"
        if self.best_loss < WELL_BELOW * self.chance and loss > AT_CHANCE * self.chance:
            return f"is back at chance ({loss:.2f})"
        return None

    def roll_back(self, loss: float) -> str:
        """Go on from the last checkpoint at half the rate; what happened, in words."""
        at, rollbacks, what = self.step, self.rollbacks + 1, self.wrong(loss)
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
        samplers, sampled = _gathered(self.sampler.state_dict()), self._sampled()
        if self.rank == 0:
            facts = {
                "step": self.step,
                "steps": self.steps,
                "rollbacks": self.rollbacks,
                "best_loss": None if math.isinf(self.best_loss) else self.best_loss,
                "losses": [loss.item() for loss in self.losses],
                "samplers": samplers,
                "training": asdict(self.settings),
            }
            checkpoint.save(self.path, self._tensors(), facts | sampled)
        if self.ranks > 1:
            dist.barrier()

    def _tensors(self) -> dict[str, Tensor]:
        """`supernet.*`, the weights for use, `momentum.*`, and, if those are averages, `raw.*`, the trained weights."""
        tensors = {f"supernet.{name}": tensor for name, tensor in self.supernet.state_dict().items()}
        if self.average is not None:
            tensors |= {f"raw.{name}": weight for name, weight in self.named.items()}
            averages = zip(self.named, self.average.average, strict=True)
            tensors |= {f"supernet.{name}": average for name, average in averages}
        momentum = {
            f"momentum.{name}": state["momentum_buffer"]
            for name, parameter in self.named.items()
            if (state := self.optimizer.state.get(parameter))
        }
        return tensors | momentum

    def _sampled(self) -> dict[str, Any]:
        """What was trained, on all ranks together, if it is counted."""
        if self.tally is None:
            return {}
        state = self.tally.state_dict()
        counts = mean_over_ranks(np.array(state["counts"], dtype=float)) * self.ranks
        return {"sampled": state | {"counts": [round(count) for count in counts]}}

    def restore(self) -> None:
        tensors, facts = checkpoint.load(self.path)
        check_ranks(self.path, facts, self.ranks)
        # what was written before there was a setting was trained with its default
        if asdict(Training()) | facts["training"] != asdict(self.settings) or facts["steps"] != self.steps:
            raise ValueError(
                f"the checkpoint {self.path} is of a training with other settings; give the run another --name, "
                "or start over with --fresh"
            )
        load_weights(self.supernet, tensors, self.path)
        if self.average is not None:
            self.average.load(self.parameters)
            with torch.no_grad():
                for name, weight in self.named.items():
                    weight.copy_(tensors[f"raw.{name}"])
        self.optimizer = make_optimizer(self.supernet, self.settings)
        for name, parameter in self.named.items():
            if (momentum := tensors.get(f"momentum.{name}")) is not None:
                self.optimizer.state[parameter]["momentum_buffer"].copy_(momentum)
        self.sampler.load_state_dict(facts["samplers"][self.rank])
        self.step, self.rollbacks = facts["step"], facts["rollbacks"]
        self.best_loss = math.inf if facts["best_loss"] is None else facts["best_loss"]
        self.losses = [torch.tensor(loss, device=self.device) for loss in facts["losses"]]
        if self.tally is not None:
            self.tally.load_state_dict(facts.get("sampled"), self.rank)


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


@torch.no_grad()
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
        # in the layout of the weight, as the fused optimiser wants it
        mean = torch.empty_like(parameter).copy_(flat[start:stop].view(parameter.shape))
        parameter.grad = mean if trained else None
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


def make_optimizer(supernet: nn.Module, settings: Training) -> torch.optim.SGD:
    """SGD with Nesterov momentum; what has one dimension, norms and biases, does not decay, nor does what
    an operator lets learn at a rate of its own.

    All updates are one call, which wants every momentum to exist, in the layout of its weight.
    """
    own = {
        getattr(module, name): factor
        for module in supernet.modules()
        for name, factor in getattr(module, "rates", {}).items()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in supernet.parameters():
        decay = settings.weight_decay if parameter.ndim > 1 and parameter not in own else 0.0
        groups.setdefault((own.get(parameter, 1.0), decay), []).append(parameter)
    optimizer = torch.optim.SGD(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (factor, decay), parameters in groups.items()
        ],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        fused=True,
    )
    if settings.momentum:
        for parameter in supernet.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
