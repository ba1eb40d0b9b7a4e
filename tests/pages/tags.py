"""A page taken apart by Python's own parser."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = frozenset({"meta", "img", "br", "rect", "path", "circle", "image"})
"""Elements that hold nothing; those of SVG close themselves."""


class Tags(HTMLParser):
    """Every start tag with its attributes, the text outside of the style, and tags left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.style = ""
        self.feed(page)
        self.close()
        assert self.open == []

    @property
    def names(self) -> list[str]:
        return [tag for tag, _ in self.seen]

    @property
    def addresses(self) -> list[str | None]:
        """Of everything that a browser would fetch."""
        wanted = ("src", "href", "srcset", "data", "action", "xlink:href")
        return [value for _, attributes in self.seen for key, value in attributes.items() if key in wanted]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data
