"""Characters that hide, reorder or begin lines are shown as escapes; text of every language is left alone."""

from __future__ import annotations

import io

import pytest

from configs.addresses import first_line
from configs.errors import DataError
from configs.printable import one_line, print_line, print_text, printable, table_cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\x00b\x07c\x7fd\x9be", r"a\x00b\x07c\x7fd\x9be"),
        ("over\rwritten so\xadft", r"over\rwritten so\xadft"),
        ("cod\u202egpj.exe", r"cod\u202egpj.exe"),
        ("\u2066a\u2069\u200e\u200f\u061c", r"\u2066a\u2069\u200e\u200f\u061c"),
        ("a\u2028b\u2029c\x85d\x0be", r"a\u2028b\u2029c\x85d\x0be"),
        (
            "ad\u200bmin ad\u200cmin ad\u200dmin \ufeffx so\xadft",
            r"ad\u200bmin ad\u200cmin ad\u200dmin \ufeffx so\xadft",
        ),
        ("lone \udcff \ud800", r"lone \udcff \ud800"),
        # a message in tags, which a model reads and a person does not
        ("hi\U000e0041\U000e0042", r"hi\U000e0041\U000e0042"),
        # bytes hidden in selectors after one letter
        ("a\ufe01\ufe02\U000e0101", "a\ufe01" + r"\ufe02\U000e0101"),
        ("\u3164\uffa0", r"\u3164\uffa0"),
        # invisible outside their own scripts, and what no script has yet
        ("ad\u115fmin ad\u1160min", r"ad\u115fmin ad\u1160min"),
        ("ad\u17b4min ad\u17b5min", r"ad\u17b4min ad\u17b5min"),
        ("ad\u180bmin ad\u180dmin ad\u180fmin", r"ad\u180bmin ad\u180dmin ad\u180fmin"),
        ("ad\ufff0min ad\ufff8min", r"ad\ufff0min ad\ufff8min"),
        ("ad\U0001d159min", r"ad\U0001d159min"),
        # a joiner between Latin letters, also beyond ASCII
        ("é\u200cé \u200dx x\u200d.", r"é\u200cé \u200dx x\u200d."),
    ],
)
def test_characters_that_hide_or_reorder_are_shown(text: str, shown: str) -> None:
    assert printable(text) == one_line(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Привет, мир! 你好，世界。 日本語テキスト 한국어",
        "שלום עולם, مرحبا بالعالم",
        "می\u200cخواهم کتاب\u200cها را بخوانم",  # Persian with ZWNJ
        "PDF\u200cها و API\u200cهای",  # Persian suffixes on Latin words
        "അവന്\u200d വന്നു, അവള്\u200d.",  # Malayalam chillus at the end of words
        "क्\u200d x",
        "\u1112\u1161\u11ab \u115f\u1161 \u1112\u1160",  # Korean in letters, with fillers
        "ក\u17b4 ក\u17b5",
        "ᠮᠣ\u180b ᠮᠣ\u180d ᠮᠣ\u180f",
        "क\u094d\u200dष और क\u094d\u200cष",  # Hindi with both
        "ខ្មែរ\u200bភាសា",  # Khmer with ZWSP between words
        "e\u0301a\u0308o\u0302 Việt Nam",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 1\ufe0f\u20e3 ❤\ufe0f",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
        "葛\U000e0100城",
        "ᠮᠣᠩᠭᠣᠯ\u180eᠠ",
        "1\u00a0000\u202f€ — «é» \\x1b `C:\\new`",
    ],
)
def test_text_of_every_language_is_left_alone(text: str) -> None:
    assert printable(text) == one_line(text) == text


def test_line_breaks_stay_in_texts_and_not_in_names() -> None:
    assert printable("a\r\nb\n\tc\x1b") == "a\nb\n\tc\\x1b"
    assert one_line("a\r\nb\n\tc") == r"a\r\nb\n\tc"


def test_first_line_of_a_message() -> None:
    assert first_line(ValueError("\n bad\x1b[0m\x85second")) == r"bad\x1b[0m"
    assert first_line(ValueError("abcdef"), 3) == "abc"
    assert first_line(KeyError()) == "KeyError"
    assert first_line("") == ""


@pytest.mark.parametrize("text", ["=cmd|'/C calc'!A0", "+SUM(1,2)", "-2+3", "@SUM(1)", "\tx", " =1+1", "\n=1", "＝1+1"])
def test_a_cell_is_no_formula(text: str) -> None:
    assert table_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-0.25", "+3", "-", "1,234", "-1.5e-05", "-3 %", "a=b", "x@y", ""])
def test_numbers_and_other_cells_stay(text: str) -> None:
    assert table_cell(text) == text


def test_printed_lines_and_texts() -> None:
    stream = io.StringIO()
    print_line("read a\ntrain: step 9/9\x1b", stream)
    print_text("a\nb\u202e", stream)
    assert stream.getvalue() == "read a\\ntrain: step 9/9\\x1b\na\nb\\u202e\n"


def test_a_log_that_is_not_utf8_gets_escapes() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", write_through=True) as stream:
        print_line("größer 你", stream)
        assert raw.getvalue() == b"gr\\xf6\\xdfer \\u4f60\n"


def test_no_error_carries_a_character_that_hides() -> None:
    error = DataError("rows.jsonl\x1b[2J \u202eis\x07 bad\nfix it")
    assert str(error) == "rows.jsonl\\x1b[2J \\u202eis\\x07 bad\nfix it"
    assert error.exit_code == f"Error: {error}"
    assert error.args == (str(error),)
