import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelayer.arms.plan import SYNTAX, mid_layers, parse_plan, random_layers, resolve
from onelayer.errors import UserError
from onelayer.models.part import MODULES, Part


def parts_of(num_layers: int, tied: bool = False) -> dict[str, Part]:
    """A model of two tensors a module: names as transformers has them."""
    parts = {"model.embed_tokens.weight": Part(None, "embed")}
    for layer in range(num_layers):
        for module in MODULES:
            for tensor in ("a", "b"):
                parts[f"model.layers.{layer}.{module}.{tensor}"] = Part(layer, module)
    parts["model.norm.weight"] = Part(None, "final_norm")
    if not tied:
        parts["lm_head.weight"] = Part(None, "head")
    return parts


def rates(text: str, num_layers: int = 28, tied: bool = False) -> dict[str, float]:
    return resolve(parse_plan(text, num_layers), parts_of(num_layers, tied), tied)


def test_what_the_help_shows_is_a_plan() -> None:
    shown = [item.replace("...*m", "14*2") for line in SYNTAX.splitlines() for item in line[:26].split()]
    for item in [*shown, "mid:5.mlp", "all.norm", "lora:8@all.attn", "lora:16@mid:5.mlp", "all,9-13*2", "all,14*0"]:
        assert parse_plan(item, 28, lambda path, which: range(28)), item
    assert {"14", "boost:10@profile.json", "head", "lora:16", "lisa:2/20@0", "14*2"} <= set(shown)


def layers(text: str, num_layers: int = 28) -> set[int | None]:
    parts = parts_of(num_layers)
    return {parts[name].layer for name in rates(text, num_layers)}


@pytest.mark.parametrize(
    ("text", "num_layers", "expected"),
    [
        ("14", 28, {14}),
        ("1", 28, {1}),  # never 10 to 19
        ("9-13", 28, {9, 10, 11, 12, 13}),
        ("0,4,8", 28, {0, 4, 8}),
        ("every:4", 10, {0, 4, 8}),
        ("mid:5", 28, {11, 12, 13, 14, 15}),
        ("mid:5", 36, {15, 16, 17, 18, 19}),
        ("mid:10", 28, set(range(9, 19))),
        ("mid:10", 36, set(range(13, 23))),
        ("first:3", 28, {0, 1, 2}),
        ("last:3", 28, {25, 26, 27}),
        (" 3 , 5 ", 28, {3, 5}),
    ],
)
def test_layers_of_a_plan(text: str, num_layers: int, expected: set[int]) -> None:
    assert layers(text, num_layers) == expected


def test_modules_inside_a_layer() -> None:
    assert set(rates("14.attn")) == {"model.layers.14.attn.a", "model.layers.14.attn.b"}
    assert set(rates("14.attn,14.mlp,14.norm")) == set(rates("14"))
    assert set(rates("mid:2.norm")) == {f"model.layers.{k}.norm.{t}" for k in (13, 14) for t in "ab"}
    assert len(rates("all.mlp")) == 2 * 28


def test_all_is_the_same_as_all_spelled_out() -> None:
    assert list(rates("all").items()) == list(rates("head,0-27,final_norm,embed").items())
    assert list(rates("all", tied=True)) == list(rates("0-27,embed,final_norm,head", tied=True))


def test_multipliers_the_later_item_wins() -> None:
    boosted = rates("all,9-13*2")
    assert boosted["model.layers.9.attn.a"] == 2
    assert boosted["model.layers.8.attn.a"] == 1
    assert boosted["lm_head.weight"] == 1
    assert rates("9-13*2,9-13")["model.layers.9.attn.a"] == 1
    assert rates("14.attn*5e-1")["model.layers.14.attn.a"] == 0.5


def test_multiplier_zero_freezes() -> None:
    assert layers("all,14*0") == {None, *range(28)} - {14}


def test_plans_read_profiles() -> None:
    ranking = {"best": [7, 3, 1, 0, 2, 4, 5, 6], "worst": [6, 5, 4, 2, 0, 1, 3, 7]}

    def read(path: str, which: str) -> list[int]:
        assert path == "runs/a.b/profile.json"
        return ranking[which]

    def chosen(text: str) -> dict[str, float]:
        return resolve(parse_plan(text, 8, read), parts_of(8), tied_head=False)

    parts = parts_of(8)
    assert {parts[name].layer for name in chosen("best:2@runs/a.b/profile.json")} == {3, 7}
    assert {parts[name].layer for name in chosen("worst:2@runs/a.b/profile.json")} == {5, 6}
    boosted = chosen("boost:2@runs/a.b/profile.json")
    assert {parts[name].layer for name, rate in boosted.items() if rate == 2} == {3, 7}
    assert boosted.keys() == parts.keys()


def test_random_layers_are_fixed_for_ever() -> None:
    assert random_layers(28, 5, 0) == (7, 15, 18, 20, 25)
    assert layers("random:5@0") == {7, 15, 18, 20, 25}
    assert random_layers(28, 5, 1) != random_layers(28, 5, 0)


def test_a_tied_head_follows_the_embedding() -> None:
    with pytest.raises(UserError, match="tied to its embedding"):
        rates("14,head", tied=True)
    assert "model.embed_tokens.weight" in rates("14,embed,head", tied=True)
    assert "lm_head.weight" in rates("14,head", tied=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("28", "no layer 28; its layers are 0 to 27"),
        ("9-40", "no layer 40"),
        ("13-9", "write 9-13"),
        ("", "empty item"),
        ("3,,5", "empty item"),
        ("mid:0", "1 to 28"),
        ("mid:29", "1 to 28"),
        ("every:0", "at least 1"),
        ("midd:5", "did you mean mid:5"),
        ("14.attention", "attn, mlp, norm"),
        ("embed.mlp", "no modules inside"),
        ("14*fast", "multiplier"),
        ("14*-1", "multiplier"),
        ("14*inf", "multiplier"),
        ("14*0", "trains nothing"),
        ("random:3", "seed"),
        ("first:3@2", "nothing follows"),
        ("best:3", "profile"),
        ("-1", "not understood"),
    ],
)
def test_a_wrong_plan_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        rates(text)
    assert "\n" not in str(error.value)


def test_a_module_the_model_does_not_have_is_an_error() -> None:
    parts = {name: part for name, part in parts_of(4).items() if part.module != "mlp"}
    with pytest.raises(UserError, match="no module 'mlp'"):
        resolve(parse_plan("2.mlp", 4), parts, tied_head=False)


@given(st.integers(1, 80), st.data())
def test_mid_layers_are_in_the_middle(num_layers: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, num_layers))
    chosen = mid_layers(num_layers, k)
    below, above = chosen[0], num_layers - 1 - chosen[-1]
    assert len(chosen) == k
    assert 0 <= above - below <= 1


@given(st.text(max_size=12))
def test_no_text_is_more_than_a_user_error(text: str) -> None:
    try:
        assert rates(text, 12)
    except UserError as error:
        assert str(error)


@given(st.lists(st.sampled_from(["3", "1-5", "mid:3", "2.attn", "embed", "every:3*2", "5*0"]), min_size=1, max_size=5))
def test_the_order_of_tensors_is_the_models(items: list[str]) -> None:
    try:
        chosen = rates(",".join(items), 12)
    except UserError as error:
        assert "trains nothing" in str(error)
        return
    assert list(chosen) == [name for name in parts_of(12) if name in chosen]
