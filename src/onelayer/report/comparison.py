"""Several profiles side by side: their curves over relative depth, and how far they agree."""

from collections.abc import Sequence

from onelayer.report import wording
from onelayer.report.data import Scan
from onelayer.report.figures import Picture, hover, mark, new_figure, shown
from onelayer.report.quantity import Quantity

PROFILE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B2699A", "#C98A00", "#8A8F98")


def overlay(scans: Sequence[Scan]) -> Picture:
    """C against relative depth for several profiles, those with a refusal left out."""
    figure = new_figure(
        340,
        legend=[scan.name for scan in scans],
        xaxis_title_text="Relative depth k / (L − 1)",
        yaxis_title_text="Contribution C",
    )
    views = [(scan.name, scan.view) for scan in scans if scan.view is not None and scan.view.profile.refused is None]
    for index, (name, view) in enumerate(views):
        points = Quantity.of(view).points(view.layers)
        figure.add_scatter(
            x=[row.place for row, _ in points],
            y=[value for _, value in points],
            mode="lines+markers",
            name=shown(name),
            line={"color": PROFILE_COLOURS[index % len(PROFILE_COLOURS)], "width": 2},
            marker={"symbol": index % 20, "size": 9},
            hovertext=[hover(view, Quantity.of(view), row) for row, _ in points],
            hoverinfo="text+name",
        )
    mark(figure, 0.0, "base")
    mark(figure, 1.0, "full")
    figure.update_layout(xaxis_range=[-0.03, 1.03])
    caption = (
        f"{wording.count(len(views), 'profile')}; what each rests on, and its intervals, are in its own section below. "
        "Profiles without a clear gain of full training are left out."
    )
    return Picture("overlay", "Contribution by depth", caption, figure)


def heat_map(
    key: str, title: str, caption: str, names: Sequence[str], matrix: Sequence[Sequence[float | None]]
) -> Picture:
    """A matrix of correlations between profiles (-1 vermilion, 0 neutral, 1 blue), with the numbers in the cells."""
    figure = new_figure(56 * len(names))
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
    return Picture(key, title, caption, figure)
