"""Files of rows as people and programs write them: one reader for all commands."""

import codecs
import gzip
import json
from pathlib import Path

import pytest

from onelayer.errors import UserError
from onelayer.judging.score_csv import read_csv
from onelayer.storage.lines import decode, numbered_lines, parse_json
from onelayer.storage.records import read_lines
from onelayer.tasks.graders.grade_file import read_rows
from onelayer.tasks.sources import read_file
from tests.conftest import Command

SEPARATORS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei"
"""Everything at which str.splitlines ends a line and JSON text does not; JSON wants the control characters escaped."""
ROW = {"prompt": SEPARATORS, "completion": SEPARATORS, "answer": "1", "step": 0}
IN_TEXT = json.dumps(ROW).replace("\\u2028", "\u2028").replace("\\u2029", "\u2029").replace("\\u0085", "\x85")


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


# Lines ----------------------------------------------------------------------------------------------------------------
def test_a_line_ends_at_a_line_feed_and_nowhere_else() -> None:
    assert numbered_lines(f"{SEPARATORS}\r\n\n \t\r\nlast") == [(1, f"{SEPARATORS}\r"), (4, "last")]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_no_reader_cuts_a_row_in_two(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / "rows.jsonl", f"{IN_TEXT}{ending}{ending}{IN_TEXT}{ending}")
    assert "\u2028" in IN_TEXT and "\u2029" in IN_TEXT and "\x85" in IN_TEXT
    assert read_file(path) == [ROW, ROW]
    assert read_rows(path, "math") == [ROW, ROW]
    assert [row for row, _ in read_lines(path)] == [ROW, ROW]


def test_a_list_of_rows_may_hold_them_too(tmp_path: Path) -> None:
    assert read_file(write(tmp_path / "rows.json", f"[\n{IN_TEXT},\n{IN_TEXT}]")) == [ROW, ROW]


def test_places_count_lines_as_an_editor_does(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", f"{IN_TEXT}\n\n{IN_TEXT}\n{{\n")
    with pytest.raises(UserError, match=r"rows.jsonl', line 4: not JSON"):
        read_file(path)
    with pytest.raises(UserError, match=r"rows.jsonl, line 4: this is not JSON"):
        read_rows(path, "math")
    with pytest.raises(UserError, match=r"rows.jsonl, line 4, is not valid JSON"):
        read_lines(path)


def test_a_line_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    assert read_lines(write(tmp_path / "metrics.jsonl", '{"step": 0}\n{"step": 1')) == [
        ({"step": 0}, f"{tmp_path / 'metrics.jsonl'}, line 1,")
    ]


# Encodings ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_what_the_text_is(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "rows.jsonl", f"{IN_TEXT}\n{IN_TEXT}\n", encoding)
    assert read_file(path) == [ROW, ROW]
    assert read_rows(path, "math") == [ROW, ROW]
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_file(packed) == read_rows(packed, "math") == [ROW, ROW]
    scores = "setting,layer,math\nbase,,0.1\nfull,,0.5\nlayer,0,0.3\n"
    assert read_csv(write(tmp_path / "scores.csv", scores, encoding)).layers == {0: "layer-00"}


@pytest.mark.parametrize(("mark", "encoding"), [(codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")])
def test_either_order_of_bytes_is_read(mark: bytes, encoding: str) -> None:
    assert decode(mark + "ä€😀".encode(encoding)) == "ä€😀"


def test_marks_of_files_that_were_joined_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", f"\ufeff{IN_TEXT}\n\ufeff{IN_TEXT}\n")
    assert read_file(path) == [ROW, ROW]


def test_what_is_no_text_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(IN_TEXT.encode() + b"\n" + '{"prompt": "caf\xe9"}\n'.encode("latin-1"))
    for read in (read_file, lambda file: read_rows(file, "math"), read_lines, read_csv):
        with pytest.raises(UserError, match=r"cannot be read.*line 2 is no UTF-8 text.*save the file as UTF-8"):
            read(path)
    path.write_bytes(codecs.BOM_UTF16_LE + b"a")
    with pytest.raises(UserError, match="line 1 is no UTF-16-LE text"):
        read_file(path)


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b'{"prompt": "1"}' * 9, mtime=0)[:-9], b"\x1f\x8b\x08\0\0\0\0\0\0\0junk"],
    ids=["text", "cut short", "no blocks"],
)
def test_a_damaged_archive_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"rows.jsonl.gz' cannot be read: "):
        read_file(path)


# JSON -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": NaN}', "NaN is no value of JSON; write null"),
        ('{"a": [1, -Infinity]}', "-Infinity is no value of JSON"),
        ('{"a": -1e999}', "the number -1e999 is too large"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' twice"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' twice"),
        ("[" * 200_000, "nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ('{"a": 1} {"a": 2}', "Extra data"),
        ("{'a': 1}", "Expecting property name"),
    ],
)
def test_what_json_has_not_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    path = write(tmp_path / "rows.jsonl", f'{{"prompt": "1"}}\n{text}\n')
    with pytest.raises(UserError, match=rf"line 2: not JSON \(.*{reason}"):
        read_file(path)


def test_what_json_has_is_read() -> None:
    text = '{"a": [1.5e-300, 0.1, 123456789012345678901234567890, null, true], "": {"a": "\\ud83d\\ude00"}}'
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize("row", ["3", '"text"', "[1]", "null"])
def test_a_row_is_an_object(tmp_path: Path, row: str) -> None:
    path = write(tmp_path / "rows.jsonl", f'{{"prompt": "1"}}\n{row}\n')
    with pytest.raises(UserError, match="line 2: not a JSON object"):
        read_file(path)
    with pytest.raises(UserError, match="entry 2: not a JSON object"):
        read_file(write(tmp_path / "rows.json", f'[{{"prompt": "1"}}, {row}]'))


def test_the_grader_of_a_file_reads_what_a_spreadsheet_wrote(onelayer: Command, tmp_path: Path) -> None:
    row = '{"completion": "it is \u2028 \\\\boxed{4}", "answer": 4}'
    write(tmp_path / "in.jsonl", f"{row}\r\n\r\n{row}\r\n", "utf-8-sig")
    code, _, err = onelayer("grade in.jsonl --grader math --output out.jsonl")
    assert (code, err) == (0, "")
    assert [json.loads(line)["reward"] for line in (tmp_path / "out.jsonl").read_text().split("\n") if line] == [1, 1]
