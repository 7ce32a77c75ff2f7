"""Edits one member of a HuJSON file (JSON with comments and trailing commas) and leaves every other byte as it is.

Tailscale's policy files are written in it by people: what they wrote around our entries, and how, stays theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DEEPEST = 100

_SPACE = re.compile(r"(?:[ \t\r\n]+|//[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_WORD = re.compile(r"-?[0-9A-Za-z.+-]+")


class NotHuJson(ValueError):
    """The text cannot be read; the message says where."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object: its name, and where it and its value stand in the text."""

    name: str
    start: int
    value_start: int
    value_end: int


@dataclass(frozen=True, slots=True)
class Object:
    """Where an object stands, its braces included, and its members in order."""

    start: int
    end: int
    members: tuple[Member, ...]

    def get(self, name: str) -> Member | None:
        """The last member of that name, in any case: that is the one Go reads."""
        return next((m for m in reversed(self.members) if m.name.casefold() == name.casefold()), None)


def read_object(text: str, at: int = 0) -> Object:
    """The object that begins there, after comments. Raises NotHuJson for what is none, or is broken inside."""
    start = _skip(text, at)
    if text[start : start + 1] != "{":
        raise NotHuJson(f"no object at character {start}")
    end, members = _object(text, start, 0)
    return Object(start, end, tuple(members))


def check(text: str) -> None:
    """Raises NotHuJson unless the text is one object and nothing after it."""
    if _skip(text, read_object(text).end) != len(text):
        raise NotHuJson("something follows the policy")


def value_of(text: str, member: Member) -> Any:
    """What the member says, as JSON. Raises NotHuJson."""
    try:
        return json.loads(plain(text[member.value_start : member.value_end]))
    except (ValueError, RecursionError) as error:
        raise NotHuJson(f"the value of {member.name} cannot be read") from error


def plain(text: str) -> str:
    """The same as plain JSON: without comments and without commas after the last member."""
    pieces = [piece for piece in _pieces(text) if piece]
    kept = [
        piece
        for index, piece in enumerate(pieces)
        if not (piece == "," and index + 1 < len(pieces) and pieces[index + 1] in "]}")
    ]
    return " ".join(kept)


def set_entries(text: str, outer: str, inner: str, entries: Mapping[str, Any], gone: frozenset[str]) -> str:
    """The text with these entries of `{outer: {inner: {…}}}` set to these values, and those in `gone` taken out.

    Members that are missing on the way are added. Raises NotHuJson.
    """
    check(text)
    for name, value in entries.items():
        text = _set(text, (outer, inner, name), value)
    for name in sorted(gone - entries.keys()):
        text = _remove(text, (outer, inner, name))
    return text


def set_flag(text: str, outer: str, name: str, is_set: bool) -> str:
    """The text with `{outer: {name: true}}`, or without that member."""
    check(text)
    return _set(text, (outer, name), True) if is_set else _remove(text, (outer, name))


def entries_of(text: str, outer: str, inner: str) -> dict[str, Any]:
    """What stands in `{outer: {inner: {…}}}`; nothing where a part of the way is missing. Raises NotHuJson."""
    check(text)
    found = _walk(text, (outer, inner))
    return {} if found is None else {member.name: value_of(text, member) for member in found.members}


def _walk(text: str, way: tuple[str, ...]) -> Object | None:
    here = read_object(text)
    for name in way:
        member = here.get(name)
        if member is None or text[member.value_start] != "{":
            return None
        here = read_object(text, member.value_start)
    return here


def _set(text: str, way: tuple[str, ...], value: Any) -> str:
    here = read_object(text)
    for depth, name in enumerate(way):
        member = here.get(name)
        rest = way[depth + 1 :]
        if member is None:
            for missing in reversed(rest):
                value = {missing: value}
            return _add(text, here, name, value)
        if not rest:
            return text[: member.value_start] + _write(text, member.start, value) + text[member.value_end :]
        if text[member.value_start] != "{":
            # A derpMap of null, say: nothing in it could be kept.
            for missing in reversed(rest):
                value = {missing: value}
            return text[: member.value_start] + _write(text, member.start, value) + text[member.value_end :]
        here = read_object(text, member.value_start)
    return text


def _add(text: str, here: Object, name: str, value: Any) -> str:
    """Behind the last member, in its indentation; a comma after it if there was one after that."""
    if not here.members:
        outer = _indent_of(text, here.start)
        body = _dump(value, outer + "\t")
        inside = text[here.start + 1 : here.end - 1].rstrip()
        return f"{text[: here.start + 1]}{inside}\n{outer}\t{json.dumps(name)}: {body},\n{outer}{text[here.end - 1 :]}"
    last = here.members[-1]
    indent = _indent_of(text, last.start)
    comma = _skip(text, last.value_end)
    has_comma = text[comma : comma + 1] == ","
    at = comma + 1 if has_comma else last.value_end
    added = f"{'' if has_comma else ','}\n{indent}{json.dumps(name)}: {_dump(value, indent)}{',' if has_comma else ''}"
    # What is said of the last member on its own line stays with it.
    remark = re.match(r"[ \t]*//[^\n]*", text[at:])
    if remark and has_comma:
        at += remark.end()
        return text[:at] + added + text[at:]
    return text[:at] + added + text[at:]


def _remove(text: str, way: tuple[str, ...]) -> str:
    here = _walk(text, way[:-1])
    member = here.get(way[-1]) if here else None
    if here is None or member is None:
        return text
    end = member.value_end
    comma = _skip(text, end)
    if text[comma : comma + 1] == ",":
        end = comma + 1
        start = member.start
    else:
        # It is the last one: the comma before it has nothing to separate any more.
        start = member.start
        before = [m for m in here.members if m.start < member.start]
        if before:
            gap = _skip(text, before[-1].value_end)
            text = text[:gap] + " " + text[gap + 1 :] if text[gap : gap + 1] == "," else text
    line = text.rfind("\n", 0, start) + 1
    if not text[line:start].strip() and (rest := re.match(r"[ \t]*\r?\n", text[end:])):
        return text[:line] + text[end + rest.end() :]
    return text[:start] + text[end:]


def _write(text: str, at: int, value: Any) -> str:
    return _dump(value, _indent_of(text, at))


def _dump(value: Any, indent: str) -> str:
    return json.dumps(value, indent="\t", ensure_ascii=False).replace("\n", "\n" + indent)


def _indent_of(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _object(text: str, start: int, depth: int) -> tuple[int, list[Member]]:
    members: list[Member] = []
    at = _skip(text, start + 1)
    while text[at : at + 1] != "}":
        name = _STRING.match(text, at)
        if name is None:
            raise NotHuJson(f"a name is missing at character {at}")
        colon = _skip(text, name.end())
        if text[colon : colon + 1] != ":":
            raise NotHuJson(f"a colon is missing at character {colon}")
        value = _skip(text, colon + 1)
        end = _value(text, value, depth + 1)
        try:
            members.append(Member(json.loads(name[0]), at, value, end))
        except ValueError as error:
            raise NotHuJson(f"the name at character {at} cannot be read") from error
        at = _after(text, end, "}")
    return at + 1, members


def _after(text: str, end: int, closing: str) -> int:
    """Where the next member begins, or the closing bracket."""
    at = _skip(text, end)
    if text[at : at + 1] == ",":
        return _skip(text, at + 1)
    if text[at : at + 1] != closing:
        raise NotHuJson(f"a comma or {closing} is missing at character {at}")
    return at


def _value(text: str, at: int, depth: int) -> int:
    """Where the value that begins there ends."""
    if depth > DEEPEST:
        raise NotHuJson("too deep")
    first = text[at : at + 1]
    if first == "{":
        return _object(text, at, depth)[0]
    if first == "[":
        at = _skip(text, at + 1)
        while text[at : at + 1] != "]":
            at = _after(text, _value(text, at, depth + 1), "]")
        return at + 1
    found = (_STRING if first == '"' else _WORD).match(text, at)
    if found is None:
        raise NotHuJson(f"a value is missing at character {at}")
    return found.end()


def _pieces(text: str) -> Iterator[str]:
    at = _skip(text, 0)
    while at < len(text):
        found = (_STRING if text[at] == '"' else _WORD).match(text, at)
        end = found.end() if found else at + 1
        yield text[at:end]
        at = _skip(text, end)
