"""The interactive figures of the page, as Plotly figures with a caption. Colours of text and grid are the page's.

A trace or line without a colour is drawn in the page's text colour, light or dark. Every text that may come from a
model, a file name or a data set goes through `shown`, because Plotly reads a little HTML in labels.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onelayer.errors import UserError
from onelayer.report import wording
from onelayer.report.data import Arm, Entry, Scan, View
from onelayer.report.quantity import Quantity
from onelayer.report.verdicts import GREY, LOOKS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

METRICS = {
    "eval/score": "Held-out score (selection problems)",
    "reward": "Training reward",
    "frac_reward_zero_std": "Share of groups without reward variance",
    "completions/mean_length": "Completion length, tokens",
    "completions/clipped_ratio": "Share of completions cut off",
    "entropy": "Entropy, nats",
    "kl": "KL to the base",
    "grad_norm": "Gradient norm",
}
"""The metrics that get a learning curve, where they were logged: TRL's name and what the axis says."""


@dataclass(frozen=True)
class Picture:
    """A figure of the page with the words around it."""

    key: str
    title: str
    caption: str
    figure: "Figure"
    height: int


def shown(text: object) -> str:
    """Text as a Plotly label that shows every character as it is."""
    return html.escape(str(text), quote=False)


def _figure(height: int, **layout: Any) -> "Figure":
    try:
        from plotly.graph_objects import Figure
    except ImportError as error:
        raise UserError("The HTML report needs plotly: pip install 'onelayer[report]'.") from error
    axis = {"showgrid": True, "zeroline": False, "showline": True, "ticks": "outside", "ticklen": 4}
    return Figure(
        layout={
            "template": "none",
            "height": height,
            "margin": {"l": 60, "r": 24, "t": 24, "b": 56},
            "font": {"size": 13},
            "hoverlabel": {"align": "left"},
            "hovermode": "closest",
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "meta": {"narrow_margin": {"l": 44, "r": 8}},
        }
    ).update_layout(**layout)


def _mark(figure: "Figure", value: float, text: str, vertical: bool = False) -> None:
    """A dashed line at a value everyone compares with (the base, full training), named at its end."""
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    if vertical:
        figure.add_vline(value, line=line, annotation={"text": text, "yref": "paper", "y": 1, "yanchor": "bottom"})
    else:
        figure.add_hline(
            value,
            line=line,
            annotation={"text": text, "x": 1, "xanchor": "right", "yanchor": "bottom", "showarrow": False},
        )


def _hover(view: View, quantity: Quantity, row: Entry) -> str:
    """All that is known of an arm, line by line."""
    interval = quantity.interval(row)
    lines = [f"<b>{shown(row.name.capitalize())}</b>"]
    if (depth := row.depth) is not None:
        lines[0] += f" · depth {depth:.2f}"
    lines.append(f"{quantity.symbol} = {wording.number(quantity.value(row), quantity.decimals)}")
    if interval:
        lines[-1] += f" ({wording.interval(interval, quantity.decimals)})"
    lines.append(f"score {wording.number(row.score, wording.score_decimals(view))}")
    if row.verdict:
        lines.append(row.verdict)
    if (rate := row.truncation) is not None:
        lines.append(f"{wording.percent(rate)} cut off")
    if (length := row.length) is not None:
        lines.append(f"{length:.1f} tokens on average")
    return "<br>".join(lines).replace("-", "−")


def _verdict_traces(figure: "Figure", view: View, rows: Sequence[Entry], horizontal: bool) -> None:
    """One trace a verdict, in the order of the verdicts: values with their interval bars."""
    quantity = Quantity.of(view)
    for verdict in LOOKS:
        points = [(row, value) for row, value in quantity.points(rows) if row.verdict == verdict]
        if not points:
            continue
        look = LOOKS[verdict]
        values = [value for _, value in points]
        places: list[Any] = [shown(row.name) if horizontal else row.depth for row, _ in points]
        # A point without an interval gets a bar of no length.
        intervals = [quantity.interval(row) or (value, value) for row, value in points]
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [high - value for (_, high), value in zip(intervals, values, strict=True)],
            "arrayminus": [value - low for (low, _), value in zip(intervals, values, strict=True)],
            "color": look.colour,
            "thickness": 1.6,
            "width": 0,
        }
        figure.add_scatter(
            x=values if horizontal else places,
            y=places if horizontal else values,
            mode="markers",
            name=verdict,
            marker={"color": look.colour, "symbol": look.plotly, "size": 14 if look.plotly == "star" else 11},
            error_x=bars if horizontal else None,
            error_y=None if horizontal else bars,
            hovertext=[_hover(view, quantity, row) for row, _ in points],
            hoverinfo="text",
        )


def contribution(view: View) -> Picture:
    """C (or S - S_base) of every layer against relative depth k / (L - 1), with intervals, coloured by verdict."""
    quantity = Quantity.of(view)
    points = quantity.points(view.layers)
    figure = _figure(430, yaxis_title_text=quantity.axis, xaxis_title_text="Relative depth k / (L − 1)", margin_t=70)
    step = 1 if len(points) <= 16 else 2 if len(points) <= 32 else 4
    ticks = [row for row, _ in points][::step]
    figure.add_scatter(
        x=[row.depth for row, _ in points],
        y=[value for _, value in points],
        xaxis="x2",
        mode="lines",
        line={"color": GREY, "width": 1},
        opacity=0.6,
        hoverinfo="skip",
        showlegend=False,
    )
    _verdict_traces(figure, view, view.layers, horizontal=False)
    _mark(figure, 0.0, "base")
    _mark(figure, quantity.full, "full training")
    figure.update_layout(
        yaxis_range=list(quantity.extent(view.layers)),
        xaxis_range=[-0.03, 1.03],
        xaxis2={
            "overlaying": "x",
            "matches": "x",
            "side": "top",
            "title": {"text": "Layer k"},
            "tickvals": [row.depth for row in ticks],
            "ticktext": [str(row.layer) for row in ticks],
            "showgrid": False,
            "zeroline": False,
        },
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
    )
    return Picture("contribution", quantity.axis, f"{wording.bars(view)} {wording.basis(view)}", figure, 430)


def strategies(view: View) -> Picture:
    """The same quantity for the further arms of the scan, one row each, beside the best single layer."""
    quantity = Quantity.of(view)
    rows = [*view.ranked[:1], *view.strategies]
    height = 150 + 34 * len(rows)
    figure = _figure(height, xaxis_title_text=quantity.axis)
    _verdict_traces(figure, view, rows, horizontal=True)
    _mark(figure, 0.0, "base", vertical=True)
    _mark(figure, quantity.full, "full training", vertical=True)
    figure.update_layout(
        margin_t=40,
        xaxis_range=list(quantity.extent(rows)),
        yaxis={
            "categoryorder": "array",
            "categoryarray": [shown(row.name) for row in reversed(rows)],
            "automargin": True,
        },
        legend={"orientation": "h", "x": 0, "y": -72 / height, "yref": "container", "yanchor": "bottom"},
    )
    caption = f"The best single layer and the further arms, scored on the same problems. {wording.bars(view)} "
    caption += wording.basis(view)
    return Picture("strategies", "Strategies", caption, figure, height)


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


def curves(arms: Sequence[Arm], num_layers: int) -> list[Picture]:
    """A figure for each logged metric, a line for every arm: full in the page's text colour, layers by depth."""
    pictures: list[Picture] = []
    for metric, axis in METRICS.items():
        logged = [(arm, *arm.curve(metric)) for arm in arms]
        logged = [(arm, steps, values) for arm, steps, values in logged if steps]
        if not logged:
            continue
        window = 1 if metric == "eval/score" else max(1, max(len(steps) for _, steps, _ in logged) // 20)
        figure = _figure(440, xaxis_title_text="Step", yaxis_title_text=axis)
        for arm, steps, values in logged:
            name = arm.plan if arm.layer is None else f"{arm.layer}"
            line: dict[str, Any] = {"width": 2.6} if arm.plan == "full" else {"width": 1.6, "dash": "dot"}
            if arm.layer is not None:
                line = {"width": 1.6, "color": depth_colour(arm.layer / max(1, num_layers - 1))}
            figure.add_scatter(
                x=steps,
                y=trailing_mean(values, window),
                mode="lines" if len(steps) > 1 else "markers",
                name=shown(name),
                legendgroup=shown(arm.plan),
                showlegend=arm.seed == 0,
                opacity=1.0 if arm.seed == 0 else 0.5,
                line=line,
                hovertemplate=f"<b>{shown(arm.name)}</b><br>step %{{x}}: %{{y:.4g}}<extra></extra>",
            )
        figure.update_layout(
            legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "title": {"text": "layer  "}}
        )
        smoothing = f"Each point is the mean of the last {window} logged steps. " if window > 1 else ""
        caption = (
            f"{wording.count(len(logged), 'training run')}, one line each; numbers are layers, from blue (first) to "
            f"vermilion (last). {smoothing}There are no bars: a line is a single run. "
            "A double click on a name shows it alone."
        )
        pictures.append(Picture(f"curve-{len(pictures)}", axis, caption, figure, 440))
    return pictures


PROFILE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B2699A", "#C98A00", "#8A8F98")


def overlay(scans: Sequence[Scan]) -> Picture:
    """C against relative depth for several profiles, those with a refusal left out."""
    figure = _figure(460, xaxis_title_text="Relative depth k / (L − 1)", yaxis_title_text="Contribution C", margin_t=40)
    views = [(scan.name, scan.view) for scan in scans if scan.view is not None and scan.view.profile.refused is None]
    for index, (name, view) in enumerate(views):
        points = Quantity.of(view).points(view.layers)
        figure.add_scatter(
            x=[row.depth for row, _ in points],
            y=[value for _, value in points],
            mode="lines+markers",
            name=shown(name),
            line={"color": PROFILE_COLOURS[index % len(PROFILE_COLOURS)], "width": 2},
            marker={"symbol": index % 20, "size": 9},
            hovertext=[_hover(view, Quantity.of(view), row) for row, _ in points],
            hoverinfo="text+name",
        )
    _mark(figure, 0.0, "base")
    _mark(figure, 1.0, "full training")
    figure.update_layout(xaxis_range=[-0.03, 1.03], legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"})
    caption = (
        f"{wording.count(len(views), 'profile')}; what each rests on, and its intervals, are in its own section below. "
        "Profiles without a clear gain of full training are left out."
    )
    return Picture("overlay", "Contribution by depth", caption, figure, 460)


def heat_map(
    key: str, title: str, caption: str, names: Sequence[str], matrix: Sequence[Sequence[float | None]]
) -> Picture:
    """A matrix of correlations between profiles (-1 vermilion, 0 neutral, 1 blue), with the numbers in the cells."""
    height = 170 + 56 * len(names)
    figure = _figure(height)
    labels = [shown(f"{index + 1}. {name}") for index, name in enumerate(names)]
    figure.add_heatmap(
        z=matrix,
        x=[f"{index + 1}" for index in range(len(names))],
        y=labels,
        zmin=-1,
        zmax=1,
        colorscale=[[0, "#D55E00"], [0.5, "rgba(138,143,152,0.15)"], [1, "#0072B2"]],
        text=[[wording.number(value, 2) for value in row] for row in matrix],
        texttemplate="%{text}",
        hovertemplate="%{y}<br>with %{x}: %{text}<extra></extra>",
        xgap=2,
        ygap=2,
        colorbar={"thickness": 12, "outlinewidth": 0, "tickvals": [-1, 0, 1]},
    )
    figure.update_layout(
        yaxis={"autorange": "reversed", "automargin": True, "showgrid": False},
        xaxis={"showgrid": False, "type": "category"},
    )
    return Picture(key, title, caption, figure, height)
