"""The architecture generator: from a cost to architectures of that cost, without a search.

After Zhang et al., "ShiftNAS: Improving One-shot NAS via Probability Shift", ICCV 2023: an LSTM of one layer
emits decision after decision, each kind of decision through a linear head of its own, made discrete by a
straight-through Gumbel-softmax, and learns to hit the cost that was asked for.

Our deviations, each with its reason (methods section 1.5 has the pitfalls):
- the cost is no sum over decisions, since their effects multiply, but the exact one: the multilinear extension
  of any function of one-hot decisions has at a one-hot point the derivative cost(x with decision d changed
  to o) in p[d, o], so a table of all single changes is the gradient, of MACs as of a predicted latency;
- beside the decision before, the LSTM reads what each option would leave of the budget: where the target
  stands between a cheapest and a dearest way to go on;
- errors are relative to the target, so that the cheap are as exact as the dear;
- heads are paid for entropy, or they would agree on one architecture per cost;
- an answer is the nearest of some draws, of which the later ones are nearer to an even choice: where few
  architectures cost about what was asked for, heads agree too soon on some that are a little off;
- and one that is still off is mended by single changes, whose costs are in that table anyway.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from search_spaces import Architecture, Decision, SearchSpace

Cost = Callable[[np.ndarray], np.ndarray]

HIDDEN = 64
EMBEDDING = 32
BATCH = 64
RATE = 1e-2  # Adam's; a tenth of it at the end of `fit` and in `learn`
TEMPERATURES = 5.0, 0.5  # of the Gumbel-softmax, at the start and at the end of `fit`
ENTROPY = 1e-3  # what the mean entropy of a decision, 0 to 1, is worth in squared relative error
CANDIDATES, SOFTEST = 8, 16.0  # draws for one answer, and what divides the logits of the last of them
NEAR = 0.01  # the relative error from which on an answer is mended
MENDS, ROUNDS = 8, 3  # by how many changes at most, and how often one that stays off is drawn again
GOOD, LATELY = (
    0.03,
    20,
)  # `fit` ends early where so many median errors of single draws are on average so small
ASKED = np.linspace(0.95, 1.1, 16)  # `best` asks for so much of the target; aiming higher often lands nearer
SHARPNESS = 1.0, 10.0, 100.0  # the LSTM tells distances of all, a tenth, a hundredth of the target apart
UNIFORM = 4096  # architectures by which the options of a decision are compared
STARTS = 8
TRUSTED = 0.03  # the median relative error above which `learn` trains the cost alone
MOMENTS = "exp_avg", "exp_avg_sq"  # Adam's, in torch's names


def kind_of(name: str) -> str:
    """What is decided, without where: `stage 0 block 1 operator` is an `operator`."""
    return re.sub(r"\b(stage|block|normal|reduction|node|input) \d+ ", "", name)


def single_changes(vectors: np.ndarray, cost: Cost, options: np.ndarray) -> np.ndarray:
    """The cost of each vector with one decision changed, (n, decisions, most options); 0 beyond a decision's.

    Args:
        vectors: (n, decisions) integers from 1.
        options: (decisions,) how many each has.
    """
    places = np.repeat(np.arange(len(options)), options)
    numbers = np.concatenate([np.arange(count) for count in options])
    changed = np.repeat(vectors[:, None], len(places), axis=1)
    changed[:, np.arange(len(places)), places] = numbers + 1
    table = np.zeros((len(vectors), len(options), options.max()))
    table[:, places, numbers] = cost(changed.reshape(-1, len(options))).reshape(len(vectors), -1)
    return table


class ExactCost(torch.autograd.Function):
    """The cost of drawn architectures, differentiable in their decisions: (n, decisions, options) one-hot to (n,)."""

    @staticmethod
    def forward(ctx, one_hot: Tensor, cost: Cost, options: np.ndarray) -> Tensor:
        vectors = one_hot.argmax(dim=2).numpy() + 1
        ctx.changes, ctx.dtype = partial(single_changes, vectors, cost, options), one_hot.dtype
        return torch.from_numpy(np.asarray(cost(vectors), float))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return (gradient[:, None, None] * torch.from_numpy(ctx.changes())).to(ctx.dtype), None, None


@dataclass(frozen=True)
class Drawn:
    """What one pass through all decisions drew, for n targets.

    `vectors` is (n, D), from 1, whether a decision arises or not; `one_hot` (n, D, O) carries the gradient of
    the soft draw; `log_probabilities` are those of the options drawn, (n, D); `entropies` (n, D), 1 for an
    even choice.
    """

    vectors: np.ndarray
    one_hot: Tensor
    log_probabilities: Tensor
    entropies: Tensor


class _Network(nn.Module):
    """(decision before, budget) to the logits of the next decision."""

    def __init__(self, decisions: Sequence[Decision]):
        super().__init__()
        options = [len(decision.options) for decision in decisions]
        kinds = [kind_of(decision.name) for decision in decisions]
        widths = {
            kind: max(n for n, one in zip(options, kinds, strict=True) if one == kind) for kind in kinds
        }
        self.head_of = [list(widths).index(kind) for kind in kinds]
        self.options = options
        self.starts = np.cumsum([1, *options]).tolist()  # of each decision's rows; row 0 begins
        self.embedding = nn.Parameter(0.3 * torch.randn(self.starts[-1], EMBEDDING))
        self.cell = nn.LSTMCell(EMBEDDING + _features(max(options)), HIDDEN)
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, width) for width in widths.values())

    def logits(
        self, place: int, before: Tensor, budget: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        state = self.cell(torch.cat([before, budget], dim=1), state)
        return self.heads[self.head_of[place]](state[0])[:, : self.options[place]], state

    def embedded(self, place: int, one_hot: Tensor) -> Tensor:
        return one_hot @ self.embedding[self.starts[place] : self.starts[place + 1]]


class Generator:
    """
    Args:
        space: a space of whichever topology with at least one decision.
        cost: costs of encoded architectures, (n, decisions) to (n,), all above 0.
        low: the least cost that will be asked for; above 0.
        high: the most.
        seed: of its weights and of `fit`. The global generators are left alone.

    Raises:
        ValueError: the space has no decision.
    """

    def __init__(self, space: SearchSpace, cost: Cost, low: float, high: float, seed: int = 0):
        if not space.decisions:
            raise ValueError(
                f"the space {space.name} has a single architecture: there is nothing to generate"
            )
        self.space, self.low, self.high, self.seed = space, float(low), float(high), seed
        self.cost = lambda vectors: cost(space.canonical(vectors))
        self.options = np.array([len(decision.options) for decision in space.decisions])
        self.cheapest, self.dearest = self._end(1), self._end(-1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = _Network(space.decisions)
        self.optimizer = torch.optim.Adam(self.network.parameters())

    # -- asking --------------------------------------------------------------------------------

    def sample(self, target: float, random: Random) -> Architecture:
        """An architecture of about this cost."""
        return self.samples([target], random)[0]

    def samples(self, targets: Sequence[float], random: Random) -> list[Architecture]:
        """An architecture of about each cost: the nearest of CANDIDATES draws, mended where it is off. Where that
        does not bring it within NEAR, the best of ROUNDS attempts, the last of which mends the best one yet, or an
        end of the range."""
        wanted = np.array(targets, float)
        ends = np.stack([self.cheapest, self.dearest])
        off = np.abs(self.cost(ends) / wanted[:, None] - 1)
        found, errors = ends[off.argmin(axis=1)], off.min(axis=1)
        for number in range(ROUNDS):
            far = np.flatnonzero(errors > (NEAR if number else -1))
            if not len(far):
                break
            start = found[far] if number == ROUNDS - 1 else self._nearest(wanted[far], random)
            vectors = self._mended(start, wanted[far], random)
            off = self._off(vectors[:, None], wanted[far])[:, 0]
            better = (off < errors[far]) | (off <= NEAR)
            found[far[better]], errors[far[better]] = vectors[better], off[better]
        return [self._decoded(row) for row in found]

    def _nearest(self, targets: np.ndarray, random: Random) -> np.ndarray:
        """The nearest of CANDIDATES draws to each target, (n, decisions)."""
        softness = np.tile(np.geomspace(1, SOFTEST, CANDIDATES), len(targets))
        drawn = self.draw(np.repeat(targets, CANDIDATES), random, softness)
        drawn = drawn.reshape(len(targets), CANDIDATES, -1)
        return drawn[np.arange(len(targets)), self._off(drawn, targets).argmin(axis=1)]

    def _mended(self, vectors: np.ndarray, targets: np.ndarray, random: Random) -> np.ndarray:
        """Vectors (n, decisions) nearer to their targets by single changes, each to any that is near enough or,
        while none is, to one of the nearest; those from which every change leads away are left as they are."""
        dice, beyond = np.random.default_rng(random.getrandbits(63)), self._beyond()
        vectors, left = vectors.copy(), np.arange(len(vectors))
        for _ in range(MENDS):
            now = self._off(vectors[left, None], targets[left])[:, 0]
            left, now = left[now > NEAR], now[now > NEAR]
            if not len(left):
                break
            costs = single_changes(vectors[left], self.cost, self.options)
            off = np.where(beyond, np.inf, np.abs(costs / targets[left, None, None] - 1)).reshape(
                len(left), -1
            )
            chosen = (np.maximum(off, NEAR) + 1e-9 * dice.random(off.shape)).argmin(axis=1)
            no_worse = off[np.arange(len(left)), chosen] <= now  # equals may have nearer neighbours
            left, (places, options) = left[no_worse], np.divmod(chosen[no_worse], beyond.shape[1])
            vectors[left, places] = options + 1
        return vectors

    def _off(self, vectors: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Relative errors (n, m) of vectors (n, m, decisions) for n targets."""
        costs = self.cost(vectors.reshape(-1, vectors.shape[-1])).reshape(vectors.shape[:2])
        return np.abs(costs / targets[:, None] - 1)

    def _beyond(self) -> np.ndarray:
        """(decisions, most options): where a decision has no such option."""
        return np.arange(self.options.max()) >= self.options[:, None]

    def best(self, target: float) -> Architecture:
        """The architecture whose every decision is the arg-max of its head, of at most this cost.

        No option is taken after which even the cheapest known way to go on is above the target. Asked for
        less than `cheapest` costs, the least that a descent by single changes finds, it is the cheapest. Of the
        answers to requests from 5 % below the target to 10 % above, the dearest is returned.
        """
        if self.cost(self.cheapest[None])[0] > target:
            return self._decoded(self.cheapest)
        with torch.no_grad():
            vectors = self._pass(target * ASKED, ceiling=target).vectors
        return self._decoded(vectors[self.cost(vectors).argmax()])

    def draw(self, targets: np.ndarray, random: Random, softness: np.ndarray | None = None) -> np.ndarray:
        """One draw for each target, (n,): vectors (n, decisions) from 1, not yet canonical.

        Args:
            softness: (n,) what divides the logits: the more, the nearer to an even choice; 1 if left out.
        """
        with torch.no_grad():
            return self._pass(targets, noise=_noise(random.getrandbits(63)), softness=softness).vectors

    def _decoded(self, vector: np.ndarray) -> Architecture:
        return self.space.decode(vector.tolist())

    # -- learning ------------------------------------------------------------------------------

    def fit(self, steps: int, on_step: Callable[[int, float], None] = lambda step, error: None) -> None:
        """Learn to hit costs, from costs alone, in so many steps at most.

        Args:
            on_step: called with the step, from 1, and the median relative error of its single draws.
        """
        first, last = TEMPERATURES
        dice, errors = np.random.default_rng(self.seed), []
        for step in range(steps):
            done = step / steps
            noise = _noise(int(dice.integers(2**63)))
            loss, error = self._cost_loss(self._targets(dice), first * (last / first) ** done, noise)
            self._descend(loss, RATE * (1 - 0.9 * done))
            errors.append(error)
            on_step(step + 1, error)
            if step >= LATELY and np.mean(errors[-LATELY:]) <= GOOD:
                break

    def learn(
        self,
        vectors: np.ndarray,
        targets: np.ndarray,
        advantages: np.ndarray,
        random: Random,
        mean_over_ranks: Callable[[np.ndarray], np.ndarray] = lambda values: values,
    ) -> float:
        """One step on the cost and on the loss of what it drew, by the score function (REINFORCE).

        Args:
            vectors: (n, decisions) from `draw`.
            targets: (n,) what was asked for.
            advantages: (n,) how much worse each did than expected, in units of squared relative error.
            mean_over_ranks: averages the gradient over the training processes.

        Returns:
            The median relative error of single draws before the step.
        """
        dice = np.random.default_rng(random.getrandbits(63))
        loss, error = self._cost_loss(self._targets(dice), TEMPERATURES[1], _noise(random.getrandbits(63)))
        drawn = self._pass(targets, given=vectors)
        arises = torch.from_numpy(self.space.canonical(vectors) > 0)
        scores = (drawn.log_probabilities * arises).sum(dim=1)
        if float(mean_over_ranks(np.array([error]))[0]) <= TRUSTED:
            loss = loss + (torch.from_numpy(advantages) * scores).mean()
        self._descend(loss, RATE / 10, mean_over_ranks)
        return error

    def _targets(self, dice: np.random.Generator) -> np.ndarray:
        """(BATCH,): half spread evenly over the range, half over its logarithm, where the cheap are as many."""
        share = dice.random(BATCH)
        even = self.low + share * (self.high - self.low)
        return np.where(np.arange(BATCH) % 2, even, self.low * (self.high / self.low) ** share)

    def _cost_loss(
        self, targets: np.ndarray, temperature: float, noise: torch.Generator
    ) -> tuple[Tensor, float]:
        """The mean squared relative error less what entropy is worth, and the median relative error."""
        drawn = self._pass(targets, noise=noise, temperature=temperature)
        costs = ExactCost.apply(drawn.one_hot, self.cost, self.options)
        errors = costs / torch.from_numpy(targets) - 1
        return errors.square().mean() - ENTROPY * drawn.entropies.mean(), errors.abs().median().item()

    def _descend(self, loss: Tensor, rate: float, mean_over_ranks: Callable | None = None) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        parameters = list(self.network.parameters())
        if mean_over_ranks:
            for parameter in parameters:
                parameter.grad = torch.as_tensor(
                    mean_over_ranks(parameter.grad.numpy()), dtype=parameter.dtype
                )
        clip_grad_norm_(parameters, 1.0)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()

    # -- one pass ------------------------------------------------------------------------------

    def _pass(
        self,
        targets: np.ndarray,
        noise: torch.Generator | None = None,
        temperature: float = 1.0,
        given: np.ndarray | None = None,
        ceiling: float = np.inf,
        softness: np.ndarray | None = None,
    ) -> Drawn:
        """Decide everything, in order, for each target (n,): as `given`, or by noise, or by arg-max."""
        network, most = self.network, int(self.options.max())
        vectors = np.tile(self.cheapest, (len(targets), 1))
        before, state = network.embedding[:1].expand(len(targets), -1), None
        divisor = 1.0 if softness is None else torch.from_numpy(softness).float()[:, None]
        one_hots, scores, entropies = [], [], []
        for place, count in enumerate(self.options.tolist()):
            least, greatest = self._reach(vectors, place)
            logits, state = network.logits(place, before, self._budget(targets, least, greatest), state)
            logits = (logits / divisor).masked_fill(torch.from_numpy(least > ceiling), -torch.inf)
            if given is not None:
                one_hot = F.one_hot(torch.from_numpy(given[:, place] - 1), count).float()
            elif noise is None:
                one_hot = F.one_hot(logits.argmax(dim=1), count).float()
            else:
                one_hot = _gumbel_softmax(logits, temperature, noise)
            vectors[:, place] = one_hot.argmax(dim=1).numpy() + 1
            before = network.embedded(place, one_hot)
            one_hots.append(F.pad(one_hot, (0, most - count)))
            log_probabilities = logits.log_softmax(dim=1)
            scores.append(log_probabilities.gather(1, one_hot.argmax(dim=1, keepdim=True))[:, 0])
            entropies.append(torch.special.entr(log_probabilities.exp()).sum(dim=1) / np.log(count))
        return Drawn(vectors, *(torch.stack(rows, dim=1) for rows in (one_hots, scores, entropies)))

    def _reach(self, vectors: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
        """(n, options) of one decision: the costs if all decisions after it are as in `cheapest`, and in `dearest`."""
        count = int(self.options[place])
        ways = np.tile(vectors[:, None, None], (1, 2, count, 1))
        ways[..., place] = np.arange(1, count + 1)
        ways[:, 0, :, place + 1 :] = self.cheapest[place + 1 :]
        ways[:, 1, :, place + 1 :] = self.dearest[place + 1 :]
        costs = self.cost(ways.reshape(-1, ways.shape[-1])).reshape(-1, 2, count)
        return costs[:, 0], costs[:, 1]

    def _budget(self, targets: np.ndarray, least: np.ndarray, greatest: np.ndarray) -> Tensor:
        """What the LSTM reads of the budget, (n, features): where the target stands in the range of all costs and,
        for each option, in what the option leaves within reach."""
        targets = targets[:, None]
        between = (targets - least) / np.maximum(greatest - least, 1e-9 * targets)
        above, below = 1 - least / targets, greatest / targets - 1
        distances = [np.tanh(sharp * one) for sharp in SHARPNESS for one in (above, below)]
        options = np.stack([np.clip(between, -1, 2), *distances], axis=2)
        missing = int(self.options.max()) - options.shape[1]
        options = np.pad(options, ((0, 0), (0, missing), (0, 0))).reshape(len(targets), -1)
        whole = (targets - self.low) / max(self.high - self.low, 1e-9 * self.high)
        return torch.from_numpy(np.concatenate([whole, options], axis=1)).float()

    # -- the ends ------------------------------------------------------------------------------

    def _end(self, sign: int) -> np.ndarray:
        """The cheapest vector (the dearest for -1), (D,), that a descent by single changes finds.

        It starts from the option of every decision that is cheapest on average, and from the cheapest of some
        architectures drawn uniformly per decision.
        """
        dice = np.random.default_rng(0)  # of any seed: what was learned goes by these ends
        vectors = dice.integers(1, self.options + 1, (UNIFORM, len(self.options)))
        costs = sign * self.cost(vectors)
        means = [
            [costs[column == option].mean() for option in range(1, count + 1)]
            for column, count in zip(vectors.T, self.options, strict=True)
        ]
        starts = [[1 + int(np.argmin(row)) for row in means], *vectors[np.argsort(costs)[:STARTS]].tolist()]
        vectors = np.array(starts)
        beyond = self._beyond()
        while True:
            now = sign * self.cost(vectors)
            changes = np.where(beyond, np.inf, sign * single_changes(vectors, self.cost, self.options))
            changes = changes.reshape(len(vectors), -1)
            better = np.flatnonzero(changes.min(axis=1) < now)
            if not len(better):
                return vectors[now.argmin()]
            places, options = np.divmod(changes[better].argmin(axis=1), beyond.shape[1])
            vectors[better, places] = options + 1

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Weights and Adam's moments: float32 in base64, all parameters in a row."""
        parameters = list(self.network.parameters())
        known = [self.optimizer.state[one] for one in parameters if one in self.optimizer.state]
        rows = {"weights": parameters}
        rows |= {name: [one[name] for one in known] for name in MOMENTS if known}
        state = {name: _text(parameters_to_vector(tensors)) for name, tensors in rows.items()}
        return state | {"steps": int(known[0]["step"]) if known else 0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: it is the state of a generator of another space.
        """
        parameters = list(self.network.parameters())
        sizes = [one.numel() for one in parameters]
        rows = {name: _tensor(text) for name, text in state.items() if name != "steps"}
        for row in rows.values():
            if len(row) != sum(sizes):
                raise ValueError(
                    f"a generator for {self.space.name} has {sum(sizes)} weights, not {len(row)}; this one is of "
                    "another space, so fit a new one"
                )
        with torch.no_grad():
            vector_to_parameters(rows["weights"], parameters)
        self.optimizer.state.clear()
        for number, one in enumerate(parameters if state["steps"] else []):
            own = {name: rows[name].split(sizes)[number].view_as(one).clone() for name in MOMENTS}
            self.optimizer.state[one] = {"step": torch.tensor(float(state["steps"])), **own}


def _features(options: int) -> int:
    """How many numbers `Generator._budget` gives of decisions with at most so many options."""
    return 1 + options * (1 + 2 * len(SHARPNESS))


def _noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gumbel_softmax(logits: Tensor, temperature: float, noise: torch.Generator) -> Tensor:
    """One-hot draws, (n, options), with the gradient of the soft ones (straight-through)."""
    gumbel = -torch.empty_like(logits).exponential_(generator=noise).log()
    soft = ((logits + gumbel) / temperature).softmax(dim=1)
    hard = F.one_hot(soft.argmax(dim=1), soft.shape[1]).float()
    return hard + soft - soft.detach()


def _text(row: Tensor) -> str:
    return base64.b64encode(row.detach().numpy().astype("<f4").tobytes()).decode()


def _tensor(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy())
