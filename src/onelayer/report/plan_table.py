"""The table of what trains: printed before a run, and by ``onelayer plan``."""

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from onelayer.arms.lora import SCALE
from onelayer.arms.spec import ArmSpec
from onelayer.models.base import BaseModel
from onelayer.models.part import OUTER, Part
from onelayer.storage.screen import literal


def plan_table(base: BaseModel, spec: ArmSpec, learning_rate: float) -> RenderableType:
    """What trains, how many parameters, at which rate, and the memory it takes, as a rich renderable."""
    table = Table(
        title=f"plan '{spec.plan}' on {base.name}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
    )
    for column in ("trains", "parameters", "share", "rate", "weights", "masters", "optimizer"):
        table.add_column(column, justify="left" if column == "trains" else "right", no_wrap=True)
    for label, names in _rows(base, spec):
        table.add_row(*_cells(label, names, base, spec, learning_rate * spec.rates[names[0]]))
    table.add_section()
    table.add_row(*_cells("together", list(spec.rates), base, spec, None))
    total = spec.trained_parameters(base, spec.rates)
    weights = base.num_parameters * base.dtype.itemsize
    kind = str(base.dtype).removeprefix("torch.")
    notes = [f"frozen base: {base.num_parameters:,} parameters, {_size(weights)} of weights ({kind})"]
    notes.append(f"and {_size(4 * total)} of fp32 gradients during an update")
    if spec.lisa:
        notes.append(f"LISA: {spec.lisa.layers} of the layers at a time, drawn anew every {spec.lisa.interval} updates")
    if spec.ranks:
        ranks = ", ".join(map(str, sorted(set(spec.ranks.values()))))
        notes.append(f"LoRA of rank {ranks}, alpha {SCALE:g} times the rank; its weights are W + {SCALE:g} B A")
    elif base.dtype.itemsize == 4:
        notes.append("with a float32 base the masters are the weights")
    if base.tied_head:
        embedding = any(base.parts[name] == Part(None, "embed") for name in spec.rates)
        state = "trains with it" if embedding else "stays frozen with it"
        notes.append(f"the head is tied to the embedding and {state}")
    return Group(table, *(literal(note, "dim") for note in notes))


def _rows(base: BaseModel, spec: ArmSpec) -> list[tuple[str, list[str]]]:
    """Label and tensors of each row: what lies outside the layers, and runs of layers that train alike."""
    outer = {name: [tensor for tensor in spec.rates if base.parts[tensor] == Part(None, name)] for name in OUTER}
    alike = [(_trained_alike(base, spec, layer), layer) for layer in range(base.num_layers)]
    rows = []
    for groups, run in groupby(alike, key=lambda pair: pair[0]):
        layers = [layer for _, layer in run]
        where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}-{layers[-1]}"
        for rate, modules in groups:
            tensors = [
                tensor
                for tensor, multiplier in spec.rates.items()
                if base.parts[tensor].layer in layers and multiplier == rate and base.parts[tensor].module in modules
            ]
            everything = {part.module for part in base.parts.values() if part.layer == layers[0]}
            rows.append((where if set(modules) == everything else f"{where} {'+'.join(modules)}", tensors))
    ordered = [("embed", outer["embed"]), *rows, ("final_norm", outer["final_norm"]), ("head", outer["head"])]
    return [(label, tensors) for label, tensors in ordered if tensors]


def _trained_alike(base: BaseModel, spec: ArmSpec, layer: int) -> tuple[tuple[float, tuple[str, ...]], ...]:
    """Which modules of a layer train at which multiplier: layers for which this is equal share a row."""
    modules: dict[float, dict[str, None]] = {}
    for tensor, rate in spec.rates.items():
        if base.parts[tensor].layer == layer:
            modules.setdefault(rate, {})[base.parts[tensor].module] = None
    return tuple((rate, tuple(names)) for rate, names in modules.items())


def _cells(label: str, names: Sequence[str], base: BaseModel, spec: ArmSpec, rate: float | None) -> list[str]:
    count = spec.trained_parameters(base, names)
    # What is worn besides the masters: nothing where they are of the base's own type, which a LoRA pair never is.
    shared = base.dtype.itemsize == 4 and not spec.ranks
    worn = 0 if shared else sum(base.tensor(name).nbytes for name in names)
    sizes = [_size(size) for size in (worn, 4 * count, 8 * count)]
    return [label, f"{count:,}", f"{count / base.num_parameters:.1%}", "" if rate is None else f"{rate:.3g}", *sizes]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
