"""Layer plans: a short text that says what trains, and at which learning rate.

A plan is a comma-separated list of items, read from left to right; where two items name the same tensors, the later wins.
:data:`SYNTAX` has the items.

This module turns text into names of tensors. It knows nothing of files and models: a model's tensors come in as a
mapping from name to :class:`Part`, a profile as a function that returns its layers, best first.
"""

import difflib
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onelayer.errors import UserError
from onelayer.models.part import MODULES, OUTER, Part

SYNTAX = """\
all                       everything
14  9-13  0,4,8           decoder layers by index (0 is the layer next to the embedding)
every:4                   layers 0, 4, 8, ...
mid:5                     the 5 middle layers, the paper's Mid-k
first:3  last:3           the 3 lowest, the 3 highest layers
random:3@7                3 layers drawn with seed 7
best:5@profile.json       the 5 best layers of a profile; worst:5@... likewise
boost:10@profile.json     everything, the 10 best layers of the profile at twice the learning rate
14.attn  14.mlp  14.norm  one kind of module in a layer; after every item above, e.g. mid:5.mlp, all.norm
embed  final_norm  head   what is outside the layers
lora:16                   rank 16 on every linear module of the decoder layers
lora:16@14                the same on what follows the @, e.g. lora:8@all.attn, lora:16@mid:5.mlp
lisa:2/20@0               embedding and head, with 2 random layers drawn anew every 20 updates with seed 0
...*m                     m times the learning rate: all,9-13*2; *0 freezes: all,14*0
"""
"""The items of a plan, for people: ``lora`` and ``lisa`` are in lora.py and lisa.py, ``boost`` is the paper's section 4."""

BOOST = 2.0
"""The paper's boost: the chosen layers at 1e-5, the rest at 5e-6."""

ReadRanking = Callable[[str, str], Sequence[int]]
"""``(path, "best" or "worst") -> layers``, in that order."""


@dataclass(frozen=True)
class Lisa:
    """Which layers train when: ``layers`` of them, drawn anew every ``interval`` optimizer updates."""

    layers: int
    interval: int
    seed: int

    def active(self, num_layers: int, update: int) -> tuple[int, ...]:
        """The layers that train in an update (counted from 0): a function of seed and period, as random_layers is."""
        return _draw(num_layers, self.layers, f"lisa:{self.seed}:{update // self.interval}")


@dataclass(frozen=True)
class Item:
    """One item of a plan: layers (None for parts outside them) with a module (None: all), and a multiplier."""

    text: str
    layers: tuple[int, ...] | None
    module: str | None
    multiplier: float
    everything: bool = False
    rank: int | None = None
    """Rank of the LoRA pair that trains in the place of each linear module's weight; None trains the tensors."""
    lisa: Lisa | None = None
    """The schedule of an item that trains embedding, head and changing layers."""

    def covers(self, part: Part) -> bool:
        """Whether the item names this part of a model."""
        if self.everything:
            return True
        if self.lisa:
            return part.layer is not None or part.module in ("embed", "head")
        if self.layers is None:
            return part.layer is None and part.module == self.module
        return part.layer in self.layers and self.module in (None, part.module)


def mid_layers(num_layers: int, k: int) -> tuple[int, ...]:
    """The k middle layers as the paper counts them: Mid-5 is 11..15 of 28 and 15..19 of 36, Mid-10 is 9..18 of 28."""
    start = (num_layers - k) // 2
    return tuple(range(start, start + k))


def random_layers(num_layers: int, k: int, seed: int) -> tuple[int, ...]:
    """k layers drawn without replacement; the same everywhere and for ever, since no library's generator is involved."""
    return _draw(num_layers, k, str(seed))


def _draw(num_layers: int, k: int, key: str) -> tuple[int, ...]:
    order = sorted(range(num_layers), key=lambda layer: hashlib.sha256(f"{key}:{layer}".encode()).digest())
    return tuple(sorted(order[:k]))


def parse_plan(text: str, num_layers: int, read_ranking: ReadRanking | None = None) -> list[Item]:
    """Read a plan for a model of ``num_layers`` decoder layers.

    Raises:
        UserError: an item that is not understood, a layer that does not exist, an empty plan.
    """
    items: list[Item] = []
    for raw in text.split(","):
        item = raw.strip()
        if not item:
            raise UserError(f"plan '{text}' has an empty item; write for example 14, 9-13 or mid:5")
        if number := re.search(r"\d{20,}", item):
            raise UserError(
                f"plan item '{item[:30]}...': {number[0][:20]}... is too large for a layer, a seed or a rank"
            )
        items += _parse_item(item, num_layers, read_ranking)
    if len({item.rank is None for item in items}) > 1:
        raise UserError(f"plan '{text}' mixes LoRA with tensors that train themselves; write lora: before each item")
    if len(items) > 1 and any(item.lisa for item in items):
        raise UserError(f"plan '{text}' has lisa beside other items; lisa says alone what trains, so write only it")
    return items


def _parse_item(item: str, num_layers: int, read_ranking: ReadRanking | None) -> list[Item]:
    selector, multiplier = item, 1.0
    if match := re.fullmatch(r"(.+?)\*([^*@]*)", item):
        selector = match[1]
        try:
            multiplier = float(match[2])
        except ValueError:
            multiplier = math.nan
        if not (0 <= multiplier < math.inf):
            raise UserError(f"plan item '{item}': '{match[2]}' is no learning-rate multiplier; write for example 14*2")
    if selector.startswith("lisa:"):
        match = re.fullmatch(r"lisa:([1-9]\d*)/([1-9]\d*)@(\d+)", selector)
        if not match:
            raise UserError(f"plan item '{item}': LISA is written lisa:LAYERS/UPDATES@SEED, for example lisa:2/20@0")
        lisa = Lisa(int(match[1]), int(match[2]), int(match[3]))
        if lisa.layers > num_layers:
            raise UserError(f"plan item '{item}': the number of layers is 1 to {num_layers} for this model")
        return [Item(item, None, None, multiplier, lisa=lisa)]
    rank = None
    if selector.startswith("lora:"):
        match = re.fullmatch(r"lora:([1-9]\d*)(?:@(.+))?", selector)
        if not match:
            raise UserError(f"plan item '{item}': a rank of at least 1 follows lora; write lora:16 or lora:16@14")
        rank, selector = int(match[1]), match[2] or "all"
    module = None
    if match := re.fullmatch(rf"(.+)\.({'|'.join(MODULES)})", selector):
        selector, module = match[1], match[2]
    elif match := re.fullmatch(r"([\w:-]+)\.(\w+)", selector):
        raise UserError(f"plan item '{item}': a layer has no module '{match[2]}'; it has {', '.join(MODULES)}")
    if rank is not None:
        if selector in OUTER or module == "norm":
            raise UserError(f"plan item '{item}': LoRA is for the linear modules of layers; write lora:{rank}@all.attn")
        return [Item(item, _layers(item, selector, num_layers, read_ranking), module, multiplier, rank=rank)]
    if selector in OUTER:
        if module:
            raise UserError(f"plan item '{item}': {selector} has no modules inside; write {selector}")
        return [Item(item, None, selector, multiplier)]
    if selector == "all" and module is None:
        return [Item(item, None, None, multiplier, everything=True)]
    if selector.startswith("boost:"):
        chosen = _layers(item, "best:" + selector.removeprefix("boost:"), num_layers, read_ranking)
        return [Item(item, None, None, multiplier, everything=True), Item(item, chosen, module, multiplier * BOOST)]
    return [Item(item, _layers(item, selector, num_layers, read_ranking), module, multiplier)]


def _layers(item: str, selector: str, num_layers: int, read_ranking: ReadRanking | None) -> tuple[int, ...]:
    every = tuple(range(num_layers))
    if selector == "all":
        return every
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", selector):
        first, last = int(match[1]), int(match[2] or match[1])
        if max(first, last) >= num_layers:
            raise UserError(
                f"plan item '{item}': the model has no layer {max(first, last)}; its layers are 0 to {num_layers - 1}"
            )
        if first > last:
            raise UserError(f"plan item '{item}': the range runs backwards; write {last}-{first}")
        return every[first : last + 1]
    if match := re.fullmatch(r"every:(\d+)", selector):
        if int(match[1]) == 0:
            raise UserError(f"plan item '{item}': the stride is at least 1")
        return every[:: int(match[1])]
    if match := re.fullmatch(r"(mid|first|last|random|best|worst):(\d+)(?:@(.+))?", selector):
        kind, k, source = match[1], int(match[2]), match[3]
        if not 1 <= k <= num_layers:
            raise UserError(f"plan item '{item}': the number of layers is 1 to {num_layers} for this model")
        if kind in ("mid", "first", "last"):
            if source is not None:
                raise UserError(f"plan item '{item}': nothing follows the number; write {kind}:{k}")
            return {"mid": mid_layers(num_layers, k), "first": every[:k], "last": every[-k:]}[kind]
        if kind == "random":
            if source is None or not source.isdecimal():
                raise UserError(f"plan item '{item}': a seed follows the number; write random:{k}@0")
            return random_layers(num_layers, k, int(source))
        if source is None or read_ranking is None:
            raise UserError(f"plan item '{item}': a profile follows the number; write {kind}:{k}@profile.json")
        ranking = read_ranking(source, kind)
        if len(ranking) < k:
            raise UserError(f"plan item '{item}': the profile ranks {len(ranking)} layers, so k is at most that")
        if max(ranking) >= num_layers:
            raise UserError(
                f"plan item '{item}': the profile is of a model with a layer {max(ranking)}; "
                f"this one has layers 0 to {num_layers - 1}"
            )
        return tuple(sorted(ranking[:k]))
    names = ["all", "every:4", "mid:5", "first:3", "last:3", "random:3@0", "best:5@profile.json"]
    names += ["worst:5@profile.json", "boost:10@profile.json", "lora:16", "lisa:2/20@0", *OUTER]
    near = difflib.get_close_matches(selector, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "write for example 14, 9-13, every:4, mid:5, all or embed"
    raise UserError(f"plan item '{item}' is not understood; {hint}")


def resolve(items: Sequence[Item], parts: Mapping[str, Part], tied_head: bool) -> dict[str, float]:
    """Learning-rate multiplier of every tensor that trains.

    Args:
        items: a parsed plan.
        parts: the part of each of the model's tensors, in the model's order; a tied head is not among them.
        tied_head: the head's tensor is the embedding's, so it trains exactly when the embedding does.

    Returns:
        tensor name -> multiplier > 0, in the model's order whatever the order of the plan, so that two plans that choose
        the same tensors are the same run.

    Raises:
        UserError: an item that matches no tensor, or nothing left to train.
    """
    rates: dict[str, float] = {}
    for item in items:
        chosen = [name for name, part in parts.items() if item.covers(part)]
        if not chosen and not (tied_head and item.module == "head" and item.layers is None):
            what = f"module '{item.module}'" if item.module else "tensors"
            raise UserError(f"plan item '{item.text}': the model has no {what} there that could be told apart by name")
        rates.update(dict.fromkeys(chosen, item.multiplier))
    if tied_head and any(item.module == "head" and item.layers is None for item in items):
        embedding = [name for name, part in parts.items() if part == Part(None, "embed")]
        if not any(rates.get(name, 0) > 0 for name in embedding):
            raise UserError(
                "the head of this model is tied to its embedding and stays frozen with it; "
                "add embed to the plan to train both, or leave head out"
            )
    trained = {name: rates[name] for name in parts if rates.get(name, 0) > 0}
    if not trained:
        raise UserError("the plan trains nothing: every chosen tensor has the learning-rate multiplier 0")
    return trained


def ranks_of(items: Sequence[Item], parts: Mapping[str, Part], trained: Iterable[str]) -> dict[str, int]:
    """LoRA rank of every trained tensor, the last item's that names it; empty for a plan without LoRA."""
    ranks = {name: item.rank for item in items for name in trained if item.covers(parts[name])}
    return {name: rank for name, rank in ranks.items() if rank is not None}
