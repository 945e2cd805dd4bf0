"""What reaches the model of a prompt: every key of its messages, and no token that it has no embedding of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.tasks.dataset import DatasetTask, load_rows
from onelayer.tasks.messages import as_messages, as_text
from onelayer.training.prompts import check_stop_tokens, encode_prompt, encode_split
from tests.conftest import Command, character_tokenizer, save_model

EVERYTHING = (
    "{% for t in tools or [] %}tool {{ t.function.name }}.{% endfor %}"
    "{% for m in messages %}{{ m.role }}"
    "{% if m.name %} name {{ m.name }}{% endif %}"
    "{% if m.reasoning_content %} thinks {{ m.reasoning_content }}{% endif %}"
    "{% if m.content %} {{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %} calls {{ c.function.name }} {% for k, v in c.function.arguments.items() %}"
    "{{ k }}={{ v }}{% endfor %}{% endfor %}"
    "{% if m.tool_call_id %} id {{ m.tool_call_id }}{% endif %}.{% endfor %}"
    "{% if quick %}quick{% endif %}{% if add_generation_prompt %}assistant{% endif %}"
)
TEXT_ONLY = "{% for m in messages %}{{ '(' + m['role'] + ')' + m['content'] }}{% endfor %}"
PRINTING = "{% for m in messages %}({{ m['role'] }}){{ m['content'] | trim }}{% endfor %}"
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "what is 1+2"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}],
    },
    {"role": "tool", "name": "add", "tool_call_id": "c1", "content": "3"},
]
KEPT = [CALLS[0], {key: value for key, value in CALLS[1].items() if key != "content"}, CALLS[2]]
SEEN = "user what is 1+2.assistant thinks hm calls add a=1b=2.tool name add 3 id c1.assistant"
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}


def with_template(base: BaseModel, template: str) -> BaseModel:
    base.tokenizer.chat_template = template
    return base


def shown(base: BaseModel, prompt: Any, template: dict[str, Any] | None = None) -> str:
    ids = encode_prompt(base, prompt, template)
    return "".join(base.tokenizer.convert_ids_to_tokens(ids))


def task_of(rows: list[dict[str, Any]]) -> DatasetTask:
    return DatasetTask("d", rows, lambda **columns: [0.0], "prompt", 1, 1)


def numbered(rows: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": [{"role": "user", "content": f"{n}+1="}], **more} for n in range(rows)]


# Keys -----------------------------------------------------------------------------------------------------------------
def test_every_key_of_a_message_reaches_the_template(base: BaseModel) -> None:
    with_template(base, EVERYTHING)
    assert shown(base, as_messages(CALLS, "")) == SEEN
    assert (
        shown(base, CALLS, {"tools": [TOOL], "quick": True})
        == f"tool add.{SEEN.removesuffix('assistant')}quickassistant"
    )


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "arrow"])
def test_messages_are_the_same_from_every_kind_of_file(base: BaseModel, tmp_path: Path, suffix: str) -> None:
    with_template(base, EVERYTHING)
    # The second call has another argument: Arrow gives both rows both.
    other = json.loads(json.dumps(CALLS).replace('"b": 2', '"c": 3').replace("1+2", "1+3"))
    rows = [{"prompt": prompt, "tools": [TOOL]} for prompt in (CALLS, other)]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_file(path, table.schema) as out:
            out.write_table(table)
    found = [as_messages(row["prompt"], "") for row in load_rows(str(path))]
    assert found[0] == KEPT
    assert found[1] == json.loads(json.dumps(KEPT).replace('"b": 2', '"c": 3').replace("1+2", "1+3"))
    assert [shown(base, prompt) for prompt in found] == [SEEN, SEEN.replace("b=2", "c=3").replace("1+2", "1+3")]
    assert load_rows(str(path))[0]["tools"] == [TOOL]


def test_a_null_that_a_row_of_json_has_itself_is_kept_inside_of_a_call(tmp_path: Path) -> None:
    calls = [{"function": {"name": "f", "arguments": {"unit": None}}}]
    prompt = [
        {"role": "assistant", "content": None, "tool_calls": calls, "name": None},
        {"role": "tool", "content": "1"},
    ]
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": prompt}))
    (row,) = load_rows(str(tmp_path / "d.jsonl"))
    assert as_messages(row["prompt"], "") == [{"role": "assistant", "tool_calls": calls}, prompt[1]]


def test_tools_and_keywords_are_part_of_a_prompt() -> None:
    rows = [
        *numbered(4),
        *numbered(1, tools=[TOOL]),
        *numbered(1, tools=json.dumps([TOOL]), chat_template_kwargs={"quick": True, "slow": None}),
        *numbered(1, tools="", chat_template_kwargs="{}"),
    ]
    task = task_of(rows)
    problems = [p for split in ("train", "selection", "test") for p in task.problems(split)]  # type: ignore[arg-type]
    templates = {problem.id: problem.template for problem in problems}
    assert templates[4] == {"tools": [TOOL]}
    assert templates[5] == {"tools": [TOOL], "quick": True}
    assert [templates.get(n, {}) for n in (0, 1, 2, 3, 6)] == [{}] * 5
    text = DatasetTask("d", [{"prompt": str(n), "tools": "hammer"} for n in range(4)], lambda **c: [], "prompt", 1, 1)
    assert text.problems("train")[0].template == {}
    assert text.problems("train")[0].columns == {"tools": "hammer"}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"tools": "hammer"}, "column 'tools' is not JSON"),
        ({"tools": ["hammer"]}, "column 'tools' is no list of function schemas"),
        ({"tools": {"name": "f"}}, "column 'tools' is no list of function schemas"),
        ({"chat_template_kwargs": ["x"]}, "'chat_template_kwargs' is no object"),
        ({"chat_template_kwargs": {"tokenize": False}}, "'tokenize' in 'chat_template_kwargs' is no keyword"),
        ({"chat_template_kwargs": '{"add_generation_prompt": false}'}, "'add_generation_prompt' in"),
    ],
)
def test_tools_that_are_none_are_a_sentence(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"data set 'd', row 0: .*{sentence}"):
        task_of(numbered(4, **more))


# Content --------------------------------------------------------------------------------------------------------------
PARTS = [{"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "2"}]}]
READS_PARTS = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}({{ part.text }}){% endfor %}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [TEXT_ONLY, PRINTING])
def test_parts_are_joined_for_a_template_that_knows_only_text(base: BaseModel, template: str) -> None:
    # The tiny tokenizer has no line feed.
    assert shown(with_template(base, template), PARTS) == "(user)1+<pad>2"
    assert as_text(PARTS) == [{"role": "user", "content": "1+\n2"}]


def test_parts_are_left_to_a_template_that_reads_them(base: BaseModel) -> None:
    assert shown(with_template(base, READS_PARTS), PARTS) == "(1+)(2)"


def test_a_call_without_content_is_no_text(base: BaseModel) -> None:
    prompt = as_messages([{"role": "user", "content": "a"}, CALLS[1]], "")
    assert shown(with_template(base, PRINTING), prompt) == "(user)a(assistant)"
    with pytest.raises(UserError, match="refuses the messages: 'dict object' has no attribute 'content'"):
        shown(with_template(base, TEXT_ONLY), prompt)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("", "column 'prompt' is empty"),
        (" \n", "column 'prompt' is empty"),
        (None, "neither text nor a list of messages"),
        ([], "neither text nor a list of messages"),
        (["a"], "neither text nor a list of messages"),
        ({"role": "user", "content": "a"}, "neither text nor a list of messages"),
        ([{"from": "human", "value": "a"}], "message 0 has no role"),
        ([{"role": 1, "content": "a"}], "message 0 has no role"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": None}], "message 1 has no content"),
        ([{"role": "user", "content": 3}], "message 0 has a content of int"),
        ([{"role": "user", "content": {"text": "a"}}], "message 0 has a content of dict"),
        ([{"role": "user", "content": [{"type": "image", "image": "x.png"}]}], "message 0 has a part of type 'image'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 0 has a part of type 'text'"),
        ([{"role": "user", "content": ["a"]}], "message 0 has a part of type None"),
        ([{"role": "user", "content": ""}], "the messages are empty"),
        ([{"role": "system", "content": " "}, {"role": "user", "content": []}], "the messages are empty"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_row(prompt: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=f"data set 'd', row 3: .*{sentence}"):
        task_of([*numbered(3), {"prompt": prompt}])


# Templates that refuse ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('System role\n not supported') }}", "System role not supported"),
        ("{{ messages[0].nothing.more }}", "has no attribute 'nothing'"),
        ("{{ 'a' + messages[0] }}", "can only concatenate str"),
        ("{{ messages[7].content.x }}", "no element 7"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_refuses_is_quoted_with_the_row(base: BaseModel, template: str, words: str) -> None:
    task = task_of(numbered(4))
    with pytest.raises(UserError, match=rf"'d', row \d: the chat template of '.*' refuses the messages: .*{words}"):
        encode_split(with_template(base, template), task, "train", 99)


def test_a_refused_role_ends_a_command_with_code_2(onelayer: Command, tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    save_model(tmp_path / "m", layers=2, tokenizer=tokenizer)
    rows = numbered(8)
    rows[5]["prompt"].insert(0, {"role": "system", "content": "be brief"})
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "zeros.py").write_text("def rew(completions, **kw): return [0.0 for _ in completions]\n")
    code, _, err = onelayer(
        "train --model m --dataset d.jsonl --reward zeros.py:rew --selection-size 2 --test-size 2 --steps 1 --output run"
    )
    assert code == 2
    assert err == "error: 'd', row 5: the chat template of 'm' refuses the messages: System role not supported\n"
    assert not (tmp_path / "run").exists()


# Tokens ---------------------------------------------------------------------------------------------------------------
def test_a_token_beyond_the_embedding_is_named_before_anything_runs(base: BaseModel) -> None:
    base.tokenizer.add_tokens(["<extra>", "<more>"])
    size = base.head.out_features
    sentence = (
        f"row 3: the token '<extra>' has the id {size}, but model '.*' has {size} embeddings \\(0 to {size - 1}\\)"
    )
    with pytest.raises(UserError, match=sentence):
        encode_prompt(base, "1<extra>2", where="row 3")
    with pytest.raises(UserError, match="the token '<more>' has the id"):
        encode_prompt(with_template(base, TEXT_ONLY + "<more>"), numbered(1)[0]["prompt"])
    assert encode_prompt(base, "1+2") == base.tokenizer("1+2").input_ids


def test_an_end_of_sequence_beyond_the_head_is_named(base: BaseModel) -> None:
    base.tokenizer.add_tokens(["<end>"])
    size = base.head.out_features
    check_stop_tokens(base)
    check_stop_tokens(replace(base, stop_token_ids=(size - 1,)))
    wrong = replace(base, stop_token_ids=(1, size))
    for look in (check_stop_tokens, lambda model: encode_split(model, task_of(numbered(4)), "train", 99)):
        with pytest.raises(UserError, match=rf"the end of sequence: the token '<end>' has the id {size}"):
            look(wrong)


def test_added_tokens_are_refused_for_data_sets_and_for_houses(tmp_path: Path, onelayer: Command) -> None:
    tokenizer = character_tokenizer()
    save_model(tmp_path / "m", layers=2, context=4096, tokenizer=tokenizer)
    tokenizer.add_tokens(["look", "<extra>"])
    tokenizer.save_pretrained(tmp_path / "m")
    (tmp_path / "zeros.py").write_text("def rew(completions, **kw): return [0.0 for _ in completions]\n")
    (tmp_path / "d.jsonl").write_text("".join(f'{{"prompt": "<extra>{n}+1="}}\n' for n in range(8)))
    own = "--dataset d.jsonl --reward zeros.py:rew --selection-size 2 --test-size 2"
    for what, token in (
        (own, "<extra>"),
        ("--task household --max-prompt-length 2000 --max-completion-length 8", "look"),
    ):
        code, _, err = onelayer(f"train --model m {what} --steps 1 --output run")
        assert code == 2
        assert f"the token '{token}' has the id" in err
        assert len(err.splitlines()) == 1


def test_a_prompt_gets_one_begin_of_sequence(base: BaseModel) -> None:
    tokenizer = base.tokenizer
    tokenizer.bos_token = "#"
    first = tokenizer.bos_token_id
    tokenizer.add_bos_token = True
    if tokenizer("1").input_ids[0] != first:  # as the tokenizers of Llama do
        from tokenizers.processors import TemplateProcessing

        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="# $A", special_tokens=[("#", first)])
    one, two = tokenizer("1").input_ids[-1], tokenizer("2").input_ids[-1]
    assert tokenizer("#1").input_ids == [first, first, one]
    assert encode_prompt(base, "1") == encode_prompt(base, "#1") == [first, one]
    assert encode_prompt(base, "##1") == [first, first, first, one]
    assert encode_prompt(base, "2#1") == [first, two, first, one]
    chat = "{{ bos_token }}{{ messages[0].content }}"
    assert encode_prompt(with_template(base, chat), [{"role": "user", "content": "1"}]) == [first, one]
    for empty in ("", "\u200b" if not tokenizer("\u200b", add_special_tokens=False).input_ids else ""):
        with pytest.raises(UserError, match="has no tokens under the tokenizer"):
            encode_prompt(base, empty)
    assert encode_prompt(base, "#") == [first]


@pytest.mark.parametrize("text", ["1\ud83d", "\udc00", "1 \ud83d 2"])
def test_half_a_character_is_a_sentence(base: BaseModel, text: str) -> None:
    for prompt in (text, [{"role": "user", "content": text}]):
        with pytest.raises(UserError, match=r"row 9: the text has U\+D(83D|C00), half of a surrogate pair"):
            encode_prompt(with_template(base, TEXT_ONLY), prompt, where="row 9")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["text", "user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "tool_calls", "name"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), VALUES, min_size=1), max_size=3)
    | VALUES
)
def test_any_value_is_a_prompt_or_a_sentence(base: BaseModel, value: Any) -> None:
    for template in (EVERYTHING, TEXT_ONLY):
        try:
            task = task_of([*numbered(3), {"prompt": value, "tools": value}])
            for problem in task.problems("train"):
                assert encode_prompt(with_template(base, template), problem.prompt, problem.template)
        except UserError as error:
            assert "\n" not in str(error)
