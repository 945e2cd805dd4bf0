"""Names of arms: what is made is taken apart again, and nothing is taken for what it is not."""

import pytest

from onelayer.commands.scan_phases import leave_one_out, pairs, rate_check, sublayers
from onelayer.storage import arm_names
from onelayer.storage.arm_names import (
    FULL,
    Name,
    all_without,
    at_triple_rate,
    layer_alone,
    module_alone,
    parse,
    with_seed,
)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("full", Name("full", None, 0)),
        ("full-seed1", Name("full", None, 1)),
        ("layer-07", Name("layer-07", 7, 0)),
        ("layer-107-seed12", Name("layer-107", 107, 12)),
        ("layer-07-attn", Name("layer-07-attn", None, 0)),
        ("layer-07-rate-x3-seed2", Name("layer-07-rate-x3", None, 2)),
        ("only-best-5", Name("only-best-5", None, 0)),
        ("random-2-seed", Name("random-2-seed", None, 0)),
        ("two\nlines-seed3", Name("two\nlines", None, 3)),
    ],
)
def test_a_name_is_taken_apart(name: str, parts: Name) -> None:
    assert parse(name) == parts
    assert arm_names.arm_of(name) == parts.arm
    assert with_seed(parts.arm, parts.seed) == name


def test_the_layer_of_a_name_is_that_of_its_kind_only() -> None:
    assert arm_names.layer_at_triple_rate(at_triple_rate(3)) == arm_names.layer_left_out(all_without(3)) == 3
    others = [FULL, layer_alone(3), module_alone(3, "mlp"), "pair-03-04", "mid-2-rate-x3"]
    assert [arm_names.layer_at_triple_rate(name) for name in [*others, all_without(3)]] == [None] * 6
    assert [arm_names.layer_left_out(name) for name in [*others, at_triple_rate(3)]] == [None] * 6


def test_the_names_in_the_folders_of_scans_stay_what_they_are() -> None:
    extras = [*leave_one_out([4]), *rate_check([4], 1), *sublayers(4), *pairs([4, 11], 2)]
    assert [extra.name for extra in extras] == [
        *("without-04", "layer-04-rate-x3", "layer-04-attn", "layer-04-mlp", "layer-04-norm", "pair-04-11")
    ]
    assert arm_names.in_order(["layer-01", "full", "boost", "base"]) == ["base", "full", "boost", "layer-01"]
