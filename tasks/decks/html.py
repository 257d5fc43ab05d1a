"""HTML fragments for Decks and the report. They escape every value; callers never write a tag.

Values may be content of rows, answers and names of files, so characters that hide or reorder text are shown as escapes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from zlib import crc32

import pandas as pd

from configs.printable import one_line, printable, table_cell

STYLE = """<style>
.ft{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:#1c2733;max-width:1080px;
margin:0 auto;padding:8px 16px}
.ft h1{font-size:26px;margin:16px 0 4px}.ft h2{font-size:19px;margin:30px 0 8px;border-bottom:1px solid #d8dee6}
.ft p{margin:6px 0}.ft .note{color:#5b6b7c}.ft .warn{background:#fff4d6;border-left:4px solid #e0a100;padding:6px 10px}
.ft table{border-collapse:collapse;font-family:inherit!important;margin:8px 0}
.ft .wide{overflow-x:auto}.ft .dense table{font-size:13px}.ft .dense td,.ft .dense th{padding:4px 6px!important}
.ft td,.ft th{text-align:left!important;vertical-align:top;max-width:560px;padding:5px 8px!important}
.ft td{white-space:pre-wrap;overflow-wrap:break-word}.ft th{white-space:normal}
.ft pre{background:#f4f6f9;padding:10px;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}
.ft .card{border:1px solid #d8dee6;border-radius:6px;padding:8px 12px;margin:10px 0}
.ft .card b{color:#5b6b7c;font-weight:600}.ft .card span{white-space:pre-wrap;overflow-wrap:anywhere}
.ft .card div{display:grid;grid-template-columns:104px 1fr;margin:3px 0}
.ft mark{background:#d3f2dd;color:inherit}
.ft .stacked{margin:14px 0}.ft .stacked>div{position:relative;display:flex;height:22px;background:#f4f6f9}
.ft .stacked u{position:absolute;top:-4px;bottom:-4px;border-left:3px solid #1c2733}
.ft .stacked span{margin-right:14px;white-space:nowrap}.ft .stacked span i{display:inline-block;width:11px;height:11px;
margin-right:5px}
.ft .box{border-left:5px solid;border-radius:4px;padding:10px 14px;font-size:17px;font-weight:600}
.ft .box.good{background:#e3f5e9;border-color:#0a7d38}.ft .box.bad{background:#fbe9e7;border-color:#b3261e}
.ft .box.unclear{background:#eef1f5;border-color:#64748b;color:#1c2733}
.ft .filters>label{margin-right:14px;white-space:nowrap;cursor:pointer}
.ft .filters .card>div{grid-template-columns:128px 1fr}
.ft .filters .card span{max-height:190px;overflow-y:auto;color:#1c2733}.ft .filters .card i{color:#5b6b7c}
.ft .filters .good b{color:#0a7d38}.ft .filters .bad b{color:#b3261e}.ft .legend ins{margin-left:10px}
.ft ins{background:#fddcd8;text-decoration:none}.ft del{background:#d9f0e1;color:#3f4f5f}.ft .card{overflow:hidden}
.ft .filters:has(.f-wrong:checked) .card:not(.k-wrong),.ft .filters:has(.f-right:checked) .card:not(.k-right),
.ft .filters:has(.f-changed:checked) .card:not(.k-changed){display:none}
.ft .good{color:#0a7d38}.ft .bad{color:#b3261e}.ft svg{max-width:100%;height:auto}
</style>"""


def document(title: str, body: str) -> str:
    """Return a whole HTML page that loads nothing and holds no script."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f'<meta name="viewport" content="width=device-width"><title>{_line(title)}</title></head>'
        f"<body>{fragment(body)}</body></html>"
    )


def fragment(body: str) -> str:
    """Return `body` with the style sheet, for a Deck."""
    return f'{STYLE}<div class="ft">{body}</div>'


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{_line(text)}</h{level}>"


def paragraph(text: str, css_class: str = "") -> str:
    """Return a paragraph; `css_class` is one of note, warn, good, bad."""
    return f'<p class="{css_class}">{_text(text)}</p>'


def preformatted(text: str) -> str:
    """Return `text`, such as a config file, with its line breaks."""
    return f"<pre>{_text(text)}</pre>"


def marked(spans: Sequence[tuple[str, bool]]) -> str:
    """Return preformatted text. `spans` are (text, is marked): marked ones stand out in green."""
    parts = (f"<mark>{_text(text)}</mark>" if is_marked else _text(text) for text, is_marked in spans)
    return f"<pre>{''.join(parts)}</pre>"


def table(rows: Sequence[Sequence[object]], header: Sequence[str], is_dense: bool = False) -> str:
    """Return a table by Flyte's standard TableRenderer, or the word `none` if there are no rows.

    Lines of a cell end between words, and within long ones such as paths, so that tables fit the console's dialog. A
    cell that a spreadsheet would compute has an apostrophe before it: tables are copied from the page. A dense table
    has smaller letters, for columns that would not fit a narrow dialog.
    """
    if not rows:
        return paragraph("none", "note")
    with warnings.catch_warnings(), pd.option_context("display.max_colwidth", None):
        warnings.simplefilter("ignore", FutureWarning)
        from flytekitplugins.deck.renderer import TableRenderer

        cells = [[_breakable(table_cell(str(cell))) for cell in row] for row in rows]
        frame = pd.DataFrame(cells, columns=[table_cell(name) for name in header], dtype=object)
        # a browser ends lines at <wbr>, and text copied from the page does not have it
        css = "wide dense" if is_dense else "wide"
        return f'<div class="{css}">{TableRenderer().to_html(frame).replace(_BREAK, "<wbr>")}</div>'


def _text(text: str) -> str:
    return escape(printable(text))


def _line(text: str) -> str:
    return escape(one_line(text))


def _breakable(text: str) -> str:
    """Return `text` with marks within words of more than 16 characters where a line may end."""
    return re.sub(r"\S{17,}", lambda word: _PIECE.sub(rf"\g<0>{_BREAK}", word[0]), text.replace(_BREAK, ""))


# up to 12 characters that end, if possible, with one that separates parts of a path, a setting or a name
_PIECE = re.compile(r"[^\s/._:=,-]{0,11}[/._:=,-]|[^\s/._:=,-]{12}")
_BREAK = "\ue000"  # of Unicode's private use area: no text has it


_COLOURS = ("#3b6fb6", "#5fa463", "#d08c2f", "#8a63b3", "#c2555a", "#4aa3a8", "#9aa5b1", "#c9d1d9")


def stacked(label: str, parts: Sequence[tuple[str, float]], capacity: float) -> str:
    """Return a horizontal bar of the parts (name, size), with a line at `capacity`, into which they have to fit."""
    total = sum(size for _, size in parts)
    scale = 100 / max(total, capacity, 1e-9)
    shares = zip(parts, _COLOURS * (1 + len(parts) // len(_COLOURS)), strict=False)
    bars, names = "", ""
    for (name, size), colour in shares:
        if size * scale < 0.05:
            continue
        bars += f'<i style="width:{size * scale:.2f}%;background:{colour}"></i>'
        names += f'<span><i style="background:{colour}"></i>{_line(name)} {size:.3g}</span>'
    end = f'<u style="left:{capacity * scale:.2f}%"></u>'
    return f'<div class="stacked"><p>{_line(label)}</p><div>{bars}{end}</div><p class="note">{names}</p></div>'


def boxed(text: str, css_class: str) -> str:
    """Return a box with a sentence that stands out; `css_class` is one of good, bad, unclear."""
    return f'<p class="box {css_class}">{_text(text)}</p>'


_SPANS = {"same": "{}", "whole": "{}", "added": "<ins>{}</ins>", "removed": "<del>{}</del>", "remark": "<i>{}</i>"}


def spans(parts: Sequence[tuple[str, str]]) -> str:
    """Return a paragraph of texts with their kind: same, added, removed or remark."""
    return f'<p class="note legend">{_spans(parts)}</p>'


def _spans(parts: Sequence[tuple[str, str]]) -> str:
    return "".join(_SPANS[kind].format(_text(text)) for text, kind in parts)


def filtered(
    filters: Mapping[str, str], items: Sequence[tuple[Sequence[tuple[str, Sequence[tuple[str, str]], str]], str]]
) -> str:
    """Return cards under a row of filters, of which one is chosen at a time without a script.

    `filters` maps a filter (all, wrong, right or changed) to its words. An item is the lines of a card, (label, spans
    of text with their kind, CSS class), and the filters that show it, with blanks between them.
    """
    drawn = ""
    for lines, kinds in items:
        body = "".join(
            f'<div class="{css}"><b>{_line(label)}</b><span>{_spans(parts)}</span></div>' for label, parts, css in lines
        )
        classes = " ".join(f"k-{kind}" for kind in kinds.split())
        drawn += f'<div class="card {classes}">{body}</div>'
    # buttons of one name are one choice, also across the filters of a page
    group = f"shown-{crc32(drawn.encode()):08x}"
    buttons = "".join(
        f'<label><input type="radio" name="{group}" class="f-{name}"{"" if place else " checked"}> {_line(text)}'
        "</label>"
        for place, (name, text) in enumerate(filters.items())
    )
    return f'<div class="filters">{buttons}{drawn}</div>'


def cards(items: Sequence[Sequence[tuple[str, str, str]]]) -> str:
    """Return one card per item. An item is lines of (label, text, CSS class); lines without text are left out."""
    return "".join(
        '<div class="card">'
        + "".join(
            f'<div class="{css}"><b>{_line(label)}</b><span>{_text(text)}</span></div>'
            for label, text, css in item
            if text
        )
        + "</div>"
        for item in items
    )
