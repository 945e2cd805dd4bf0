"""Several profiles side by side: their curves over relative depth, and how far they agree."""

from collections.abc import Sequence

from onelayer.judging.compare import Comparison, Correlation, Pair
from onelayer.report import wording
from onelayer.report.data import Scan
from onelayer.report.figures import Picture, hover, mark, new_figure, shown
from onelayer.report.quantity import Quantity
from onelayer.report.tables import Table, plain_table

PROFILE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B2699A", "#C98A00", "#8A8F98")


def overlay(scans: Sequence[Scan]) -> Picture:
    """C against relative depth for several profiles, those with a refusal left out."""
    figure = new_figure(
        340,
        legend=[scan.folder.name for scan in scans],
        xaxis_title_text="Relative depth k / (L − 1)",
        yaxis_title_text="Contribution C",
    )
    views = [
        (scan.folder.name, scan.view) for scan in scans if scan.view is not None and scan.view.profile.refused is None
    ]
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


def heat_map(comparison: Comparison) -> Picture:
    """Spearman's correlation between all profiles: -1 vermilion, 0 neutral, 1 blue, with the numbers in the cells."""
    numbers = [str(index) for index in range(1, len(comparison.names) + 1)]
    figure = new_figure(56 * len(numbers))
    figure.add_heatmap(
        z=comparison.matrix,
        x=numbers,
        y=[shown(f"{number}. {name}") for number, name in zip(numbers, comparison.names, strict=True)],
        zmin=-1,
        zmax=1,
        colorscale=[[0, "#D55E00"], [0.5, "#A3A8AF"], [1, "#0072B2"]],
        text=[[wording.number(value, 2) for value in row] for row in comparison.matrix],
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
    caption = (
        "Spearman's rank correlation of C between profiles, over the layers they share. "
        + " ".join(comparison.notes)
        + " Intervals are in the table below. Neighbouring layers are alike, so that p-values are too small."
    )
    return Picture("heat-map", "Do the profiles agree?", caption, figure)


def pairs_table(comparison: Comparison) -> Table:
    """Every pair of profiles: the three correlations with intervals, and how many of the best layers they share."""

    def cell(found: Correlation) -> str:
        if found.value is None:
            return wording.UNKNOWN
        return f"{found.value:.2f}" + (f" ({wording.interval(found.ci)})" if found.ci else "")

    def shared(pair: Pair, k: int) -> str:
        found = next((top for top in pair.top if top.k == k), None)
        return wording.UNKNOWN if found is None else f"{found.overlap} ({found.expected:.1f})"

    return plain_table(
        "Correlations",
        ("Profiles",),
        ("Points", "Spearman", "p", "Kendall", "Pearson", "Best 3", "Best 5"),
        [
            (
                f"{pair.first} / {pair.second}",
                str(pair.points),
                cell(pair.spearman),
                wording.UNKNOWN if pair.spearman.p_value is None else f"{pair.spearman.p_value:.3g}",
                cell(pair.kendall),
                cell(pair.pearson),
                shared(pair, 3),
                shared(pair, 5),
            )
            for pair in comparison.pairs
        ],
        "95 % intervals in brackets; p from permutations of the layers. Best 3: how many of them are shared, in "
        "brackets how many are by chance.",
    )


def stability_table(comparison: Comparison) -> Table | None:
    """How far each ranking survives other problems; None where no profile has scores per problem."""
    rows = [
        (
            found.name,
            f"{found.spearman:.2f} ({wording.interval(found.spearman_range)})",
            wording.percent(found.best_stays, 0),
        )
        for found in comparison.stability
    ]
    caption = "The ranking against itself with the test problems resampled: mean and 95 % range, same best layer."
    return plain_table("Stability", ("Profile",), ("Spearman", "Best layer stays"), rows, caption) if rows else None
