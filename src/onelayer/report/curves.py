"""Learning curves: every logged metric of every arm over the steps of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from onelayer.report import wording
from onelayer.report.data import ArmView
from onelayer.report.figures import Picture, new_figure, shown
from onelayer.storage.arm_names import FULL

METRICS = {
    "eval/score": "Held-out score",
    "reward": "Training reward",
    "frac_reward_zero_std": "Share of groups without reward variance",
    "completions/mean_length": "Completion length, tokens",
    "completions/clipped_ratio": "Share of completions cut off",
    "entropy": "Entropy, nats",
    "kl": "KL to the base",
    "grad_norm": "Gradient norm",
}
"""The metrics that get a learning curve, where they were logged: TRL's name and what the axis says."""


DASHES = ("dot", "dash", "dashdot", "longdash")


def depth_colour(share: float) -> str:
    """From blue (first layer) over purple to vermilion (last), which colour-blind readers tell apart."""
    stops = ((0, 114, 178), (150, 110, 176), (213, 94, 0))
    left, right, weight = (*stops[:2], 2 * share) if share < 0.5 else (*stops[1:], 2 * share - 1)
    mixed = (round(a + (b - a) * weight) for a, b in zip(left, right, strict=True))
    return f"rgb({','.join(map(str, mixed))})"


def trailing_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to ``window - 1`` values before it."""
    slices = [values[max(0, end - window) : end] for end in range(1, len(values) + 1)]
    return [sum(part) / len(part) for part in slices]


def _name(arm: ArmView) -> str:
    """What the legend says: the bare number for a layer."""
    return arm.plan if arm.layer is None else str(arm.layer)


def curves(arms: Sequence[ArmView], num_layers: int, settings: Mapping[str, Any]) -> list[Picture]:
    """A figure for each logged metric, a line for every arm: full in the page's text colour, layers by depth."""
    pictures: list[Picture] = []
    arms = sorted(arms, key=lambda arm: (arm.plan != FULL, arm.layer is None, arm.layer or 0, arm.name))
    further = list(dict.fromkeys(arm.plan for arm in arms if arm.layer is None and arm.plan != FULL))
    for metric, axis in METRICS.items():
        logged = [(arm, *arm.curve(metric)) for arm in arms]
        logged = [(arm, steps, values) for arm, steps, values in logged if steps]
        if not logged:
            continue
        window = 1 if metric == "eval/score" else max(1, max(len(steps) for _, steps, _ in logged) // 20)
        names = [_name(arm) for arm, _, _ in logged if arm.seed == 0]
        figure = new_figure(330, legend=names, xaxis_title_text="Step", yaxis_title_text=axis)
        for arm, steps, values in logged:
            line: dict[str, Any] = {"width": 1.6}
            if arm.layer is not None:
                line["color"] = depth_colour(arm.layer / max(1, num_layers - 1))
            elif arm.plan in further:
                line["dash"] = DASHES[further.index(arm.plan) % len(DASHES)]
            else:
                line["width"] = 2.6
            figure.add_scatter(
                x=steps,
                y=trailing_mean(values, window),
                mode="lines" if len(steps) > 1 else "markers",
                name=shown(_name(arm)),
                legendgroup=shown(arm.plan),
                showlegend=arm.seed == 0,
                opacity=1.0 if arm.seed == 0 else 0.5,
                line=line,
                hovertext=shown(arm.name),
                hovertemplate="<b>%{hovertext}</b><br>step %{x}: %{y:.4g}<extra></extra>",
            )
        batch = [settings.get(key) for key in ("train_batch_size", "num_generations")]
        source = "Selection problems. " if metric == "eval/score" else ""
        if not source and all(batch):
            source = f"A step draws {batch[0]} prompts with {batch[1]} completions each. "
        smoothing = f"Each point is the mean of the last {window} logged steps. " if window > 1 else ""
        caption = (
            f"{wording.count(len(logged), 'training run')}, one line each; numbers are layers, from blue (first) to "
            f"vermilion (last). {source}{smoothing}There are no bars: a line is a single run. "
            "A double click on a name shows it alone."
        )
        pictures.append(Picture(f"curve-{len(pictures)}", axis, caption, figure))
    return pictures
