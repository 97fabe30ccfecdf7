"""Tables of clips that are damaged in every way we could think of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

Cells = list[list[str]]


def text(cells: Sequence[Sequence[str]], end: str = "\n") -> bytes:
    return "".join("\t".join(row) + end for row in cells).encode()


def damages(cells: Cells) -> list[tuple[str, dict[str, bytes]]]:
    """What was done, and the files that replace those of the collection.

    Args:
        cells: a whole table, header first.
    """
    header, rows = cells[0], cells[1:]
    who, path = header.index("client_id"), header.index("path")
    whole = text(cells)

    def table(what: str, data: bytes) -> tuple[str, dict[str, bytes]]:
        return what, {"train.tsv": data}

    def cell(row: int, column: int, value: str | Callable[[str], str]) -> bytes:
        changed = [list(one) for one in cells]
        changed[row][column] = value if isinstance(value, str) else value(changed[row][column])
        return text(changed)

    def without(column: int, names: Cells) -> Cells:
        return [row[:column] + row[column + 1 :] for row in names]

    def renamed(names: Sequence[str]) -> bytes:
        return text([list(names), *rows])

    out = [table(f"no column {name}", text(without(k, cells))) for k, name in enumerate(header)]
    out += [table(f"no {name} in the header", text([*without(k, [header]), *rows])) for k, name in enumerate(header)]
    out += [
        table("no header", text(rows)),
        table("no header, one row", text(rows[:1])),
        table("header twice", text([header, *cells])),
        table("header in the middle", text([header, *rows[:2], header, *rows[2:]])),
        table("empty", b""),
        table("header alone", text([header])),
        table("one line", text(cells, " ")),
        table("line ends of old", text(cells, "\r")),
        table("commas", whole.replace(b"\t", b",")),
        table("blanks for tabs", whole.replace(b"\t", b" ")),
        table("as UTF-16", whole.decode().encode("utf-16")),
        table("with a byte order mark", b"\xef\xbb\xbf" + whole),
        table("upside down", text(cells[::-1])),
    ]
    # the header stands over other columns
    for a, b in ((who, path), *((one, other) for one in (who, path) for other in range(len(header)) if other not in (who, path))):
        names = list(header)
        names[a], names[b] = names[b], names[a]
        out.append(table(f"{header[a]} and {header[b]} exchanged", renamed(names)))
    for trio in permutations((who, path, (path + 1) % len(header)), 3):
        names = list(header)
        for to, name in zip(sorted(trio), trio, strict=True):
            names[to] = header[name]
        out.append(table(f"header turned round {trio}", renamed(names)))
    for shift in (1, 2, len(header) - 1):
        out.append(table(f"header moved by {shift}", renamed(header[shift:] + header[:shift])))
    single = {row[who]: row for row in reversed(rows)}.values()  # one clip of each speaker: no name comes twice
    for a in range(len(header)):
        names = list(header)
        names[path], names[a], names[who] = names[a], "x", "path"
        names[a] = "client_id" if a not in (who, path) else names[a]
        out.append(table(f"path over the speakers, one clip each ({a})", text([names, *single])))
    for row in {1, len(rows) // 2, len(rows)}:
        line = cells[row]
        out += [
            table(f"line {row} twice", text([*cells[: row + 1], line, *cells[row + 1 :]])),
            table(f"clip of line {row} of another speaker, too", text([*cells, [*line[:who], rows[-row][who], *line[who + 1 :]]])),
            table(f"line {row} cut", text(cells[:row]) + text([line])[:70] + b"\n" + text(cells[row + 1 :])),
            table(f"line {row} cut at the end of the file", text(cells[:row]) + text([line])[:70]),
            table(f"line {row} with a tab more", cell(row, who, lambda one: f"{one[:40]}\t{one[40:]}")),
            table(f"line {row} with a line end in it", cell(row, who, lambda one: f"{one[:40]}\n{one[40:]}")),
            table(f"line {row} with a return in it", cell(row, who, lambda one: f"{one[:40]}\r{one[40:]}")),
            table(f"line {row} without a speaker", cell(row, who, " ")),
            table(f"line {row} without a clip", cell(row, path, "")),
            table(f"line {row}: the speaker for a clip", cell(row, path, line[who])),
            table(f"line {row}: the speaker in the clip's name", cell(row, path, f"../{line[who]}.mp3")),
            table(f"line {row}: the speaker as a wav", cell(row, path, f"{line[who]}.wav")),
            table(f"line {row}: the clip for a speaker", cell(row, who, line[path])),
            table(f"line {row}: a quote opens at the speaker", cell(row, who, lambda one: f'"{one}')),
            table(f"line {row}: a quoted speaker", cell(row, who, lambda one: f'"{one}"')),
            table(f"line {row}: a quote in the speaker", cell(row, who, lambda one: f'{one[:9]}"{one[9:]}')),
            table(f"line {row}: zero bytes", cell(row, who, lambda one: f"{one}\0\0")),
            table(f"line {row}: not UTF-8", cell(row, who, lambda one: f"{one}?").replace(b"?\t", b"\xff\xfe\t")),
        ]
    # the list of durations is another table
    for name in ("clip_durations.tsv", "times.txt"):
        out += [
            (f"{name} is the table", {name: whole}),
            (f"{name} is the table without a header", {name: text(rows)}),
            (f"{name} has speakers", {name: text([["clip", "duration[ms]"], *([row[who], "1000"] for row in rows)])}),
            (f"{name} has speakers for durations", {name: text([["clip", "duration[ms]"], *([row[path], row[who]] for row in rows)])}),
            (f"{name} has speakers, no header", {name: text([[row[who], "1000"] for row in rows])}),
            (f"{name} has a line cut", {name: text([["clip", "duration[ms]"], [rows[0][path], "1000"], [rows[0][who]]])}),
            (f"{name} is not UTF-8", {name: text([["clip", "duration[ms]"], [rows[0][who] + "?", "1"]]).replace(b"?", b"\xff")}),
        ]
    return out
