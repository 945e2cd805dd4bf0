"""The interactive figures of the page, as Plotly figures with a caption. Colours of text and grid are the page's.

A trace or line without a colour is drawn in the page's text colour, light or dark. Every text that may come from a
model, a file name or a data set goes through `shown`, because Plotly reads a little HTML in labels.
"""

import html
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onelayer.judging.compare import FEWEST, correlate
from onelayer.report import wording
from onelayer.report.data import Entry, View
from onelayer.report.quantity import Quantity
from onelayer.report.verdicts import GREY, LOOKS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Picture:
    """A figure of the page with the words around it; ``key`` is unique on the page."""

    key: str
    title: str
    caption: str
    figure: "Figure"

    @property
    def height(self) -> int:
        """In pixels, on a wide page."""
        return int(self.figure.layout.height)


def shown(text: object) -> str:
    """Text as a Plotly label that shows every character as it is."""
    return html.escape(str(text), quote=False)


def legend_height(names: Collection[str], width: int) -> int:
    """Pixels that a horizontal legend takes whose entries flow in lines of a given width."""
    lines, used = (1 if names else 0), 0
    for name in names:
        # Plotly's symbol and gaps, and the mean width of a character at 13 pixels.
        entry = 46 + 7 * len(name)
        if used and used + entry > width:
            lines, used = lines + 1, 0
        used += entry
    return 20 * lines


def new_figure(plot_height: int, legend: Collection[str] = (), top: int = 24, **layout: Any) -> "Figure":
    """An empty figure whose plot area stays ``plot_height`` pixels high however long the legend below it is."""
    from plotly.graph_objects import Figure

    axis = {"showgrid": True, "zeroline": False, "showline": True, "ticks": "outside", "ticklen": 4}
    below = {"orientation": "h", "tracegroupgap": 0, "x": 0, "y": 0, "yanchor": "bottom"}
    below |= {"xref": "container", "yref": "container"}
    bottom, narrow = (64 + legend_height(legend, width) for width in (940, 270))
    return Figure(
        layout={
            "template": "none",
            "height": top + plot_height + bottom,
            "margin": {"l": 62, "r": 40, "t": top, "b": bottom},
            "font": {"size": 13},
            "hoverlabel": {"align": "left"},
            "hovermode": "closest",
            "xaxis": axis,
            "yaxis": axis,
            "legend": below,
            # What the page changes on a phone.
            "meta": {"narrow_margin": {"l": 48, "r": 32, "b": narrow}},
        }
    ).update_layout(**layout)


def mark(figure: "Figure", value: float, name: str, vertical: bool = False) -> None:
    """A dashed line at a value that everyone compares with (the base, full training), named at its end."""
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    if vertical:
        place = {"x": value, "xref": "x", "y": 1, "yref": "paper", "yanchor": "bottom"}
        figure.add_vline(value, line=line)
    else:
        place = {"x": 1, "xref": "paper", "xanchor": "left", "y": value, "yref": "y"}
        figure.add_hline(value, line=line)
    figure.add_annotation(text=name, showarrow=False, **place)


def hover(view: View, quantity: Quantity, row: Entry) -> str:
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
        places: list[Any] = [shown(row.name) if horizontal else row.place for row, _ in points]
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
            hovertext=[hover(view, quantity, row) for row, _ in points],
            hoverinfo="text",
        )


def contribution(view: View) -> Picture:
    """C (or S - S_base) of every layer against relative depth k / (L - 1), with intervals, coloured by verdict."""
    quantity = Quantity.of(view)
    points = quantity.points(view.layers)
    figure = new_figure(
        300,
        legend={row.verdict or "" for row, _ in points},
        top=70,
        yaxis_title_text=quantity.axis,
        xaxis_title_text="Relative depth k / (L − 1)",
    )
    step = 1 if len(points) <= 16 else 2 if len(points) <= 32 else 4
    ticks = [row for row, _ in points][::step]
    figure.add_scatter(
        x=[row.place for row, _ in points],
        y=[value for _, value in points],
        xaxis="x2",
        mode="lines",
        line={"color": GREY, "width": 1},
        opacity=0.6,
        hoverinfo="skip",
        showlegend=False,
    )
    _verdict_traces(figure, view, view.layers, horizontal=False)
    mark(figure, 0.0, "base")
    mark(figure, quantity.full, "full")
    figure.update_layout(
        yaxis_range=list(quantity.extent(view.layers)),
        xaxis_range=[-0.03, 1.03],
        xaxis2={
            "overlaying": "x",
            "matches": "x",
            "side": "top",
            "title": {"text": "Layer k"},
            "tickvals": [row.place for row in ticks],
            "ticktext": [str(row.layer) for row in ticks],
            "showgrid": False,
            "zeroline": False,
        },
    )
    return Picture("contribution", quantity.axis, f"{wording.bars(view)} {wording.basis(view)}", figure)


def strategies(view: View) -> Picture:
    """The same quantity for the further arms of the scan, one row each, beside the best single layer."""
    quantity = Quantity.of(view)
    rows = [*view.ranked[:1], *view.strategies]
    verdicts = {row.verdict or "" for row, _ in quantity.points(rows)}
    figure = new_figure(20 + 34 * len(rows), legend=verdicts, top=32, xaxis_title_text=quantity.axis)
    _verdict_traces(figure, view, rows, horizontal=True)
    mark(figure, 0.0, "base", vertical=True)
    mark(figure, quantity.full, "full", vertical=True)
    figure.update_layout(
        xaxis_range=list(quantity.extent(rows)),
        yaxis={
            "categoryorder": "array",
            "categoryarray": [shown(row.name) for row in reversed(rows)],
            "automargin": True,
        },
    )
    caption = f"The best single layer and the further arms, scored on the same problems. {wording.bars(view)} "
    caption += wording.basis(view)
    return Picture("strategies", "Strategies", caption, figure)


def change(view: View, norms: Mapping[int, float]) -> Picture | None:
    """C (or S - S_base) of each layer against the norm of its change under full training; None without both.

    The paper finds that this norm does not predict C.
    """
    quantity = Quantity.of(view)
    known = quantity.points(view.layers)
    points = [(row, value, norms[row.layer]) for row, value in known if row.layer is not None and row.layer in norms]
    if len(points) < FEWEST:
        return None
    figure = new_figure(
        300, xaxis_title_text="Norm of the layer's change under full training", yaxis_title_text=quantity.axis
    )
    figure.add_scatter(
        x=[norm for _, _, norm in points],
        y=[value for _, value, _ in points],
        mode="markers+text",
        text=[str(row.layer) for row, _, _ in points],
        textposition="top center",
        cliponaxis=False,
        marker={"size": 9, "color": GREY},
        hovertext=[f"{hover(view, quantity, row)}<br>norm {norm:.4g}" for row, _, norm in points],
        hoverinfo="text",
    )
    found = correlate(
        np.array([norm for _, _, norm in points]), np.array([value for _, value, _ in points]), "spearman"
    )
    caption = (
        f"{wording.correlation('Spearman', found)}; {len(points)} layers, marked by their number. "
        f"The norms are of one run of full training. {wording.basis(view)}"
    )
    return Picture("change", "Does the size of a layer's change tell its contribution?", caption, figure)
