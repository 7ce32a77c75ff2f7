"""Editing a policy file that somebody else wrote: our entries change, every other byte stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.derp.hujson import NotHuJson, check, entries_of, plain, set_entries, set_flag

POLICY = """// Our tailnet. Ask Zoë before you change anything.
{
	/* who may what */
	"acls": [
		{"action": "accept", "src": ["*"], "dst": ["*:*"]}, // everybody, everything
	],
	"ssh": [],

	// the relay in the cellar
	"derpMap": {
		"OmitDefaultRegions": false,
		"Regions": {
			"901": {"RegionID": 901, "RegionCode": "cellar", "Nodes": [],}, // do not touch
		},
	},
	"url": "https://example.com/not-a-comment", "text": "a \\"quoted\\" // word /* and */ more",
}
"""
OURS = {"RegionID": 950, "RegionCode": "hk", "RegionName": "香港", "Nodes": [{"Name": "950a", "DERPPort": 21000}]}


def set_ours(text: str, entries: dict[str, Any], gone: frozenset[str] = frozenset()) -> str:
    return set_entries(text, "derpMap", "Regions", entries, gone)


def as_json(text: str) -> Any:
    return json.loads(plain(text))


def test_an_entry_is_added_beside_others_and_everything_else_stays() -> None:
    edited = set_ours(POLICY, {"950": OURS})
    lines = POLICY.splitlines()
    assert [line for line in edited.splitlines() if line in lines] == lines
    assert as_json(edited)["derpMap"]["Regions"] == {**as_json(POLICY)["derpMap"]["Regions"], "950": OURS}
    assert "// do not touch" in edited
    assert edited.index("// do not touch") < edited.index('"950"')


def test_an_entry_is_replaced_and_taken_out_without_a_trace() -> None:
    edited = set_ours(POLICY, {"950": OURS})
    moved = {**OURS, "RegionName": "Osaka"}
    again = set_ours(edited, {"950": moved})
    assert as_json(again)["derpMap"]["Regions"]["950"] == moved
    assert set_ours(again, {"950": OURS}) == edited
    assert set_ours(again, {}, frozenset({"950"})) == POLICY
    assert set_ours(POLICY, {}, frozenset({"950"})) == POLICY


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{\n}",
        "{ // nothing yet\n}",
        '{"acls": []}',
        '{"acls": [] /* all */ }',
        '{\n  "acls": [],\n}\n',
        '{\n  "acls": [] // last, without a comma\n}\n',
        '{"derpMap": null}',
        '{"derpMap": {}}',
        '{"derpMap": {"Regions": {}}}',
        '{"derpMap": {"Regions": {},},}',
        '{"DerpMap": {"regions": {"901": null}}}',
        '{"derpMap": {"Regions": {"901": {}, /* here */ }, "OmitDefaultRegions": true}, "x": 1}',
    ],
)
def test_whatever_is_there_already(text: str) -> None:
    edited = set_ours(text, {"950": OURS, "951": OURS})
    assert entries_of(edited, "derpMap", "Regions") | {} == {
        **entries_of(text, "derpMap", "Regions"),
        "950": OURS,
        "951": OURS,
    }
    for comment in ("// nothing yet", "/* all */", "// last, without a comma", "/* here */"):
        assert (comment in edited) == (comment in text)
    emptied = set_ours(edited, {}, frozenset({"950", "951"}))
    check(emptied)
    assert entries_of(emptied, "derpMap", "Regions") == entries_of(text, "derpMap", "Regions")


def test_a_flag_is_set_and_taken_out() -> None:
    with_flag = set_flag("{}", "derpMap", "OmitDefaultRegions", True)
    assert as_json(with_flag) == {"derpMap": {"OmitDefaultRegions": True}}
    assert as_json(set_flag(with_flag, "derpMap", "OmitDefaultRegions", False)) == {"derpMap": {}}
    assert as_json(set_flag(POLICY, "derpMap", "OmitDefaultRegions", True))["derpMap"]["OmitDefaultRegions"] is True


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "{", "}", '{"a"}', '{"a": }', '{"a": 1 "b": 2}', '{"a": [1}', "{} {}", '{"a": /* open }'),
        *("{a: 1}", '{"a": "x\ny"}', '{"a": ,}', "{,}", '{"a": 1,, }', '{"a":' * 200 + "1" + "}" * 200),
    ],
)
def test_what_cannot_be_read_is_not_touched(text: str) -> None:
    with pytest.raises(NotHuJson):
        set_ours(text, {"950": OURS})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)
SPACE = st.sampled_from(["", " ", "\n\t", "// remark\n", "/* remark */", " /* } , ] */ "])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A JSON object spread out with blanks, comments and commas after the last member."""
    value = draw(st.dictionaries(st.text(max_size=6), JSON, max_size=4))
    if draw(st.booleans()):
        value["derpMap"] = {"Regions": draw(st.dictionaries(st.sampled_from(["901", "902"]), JSON, max_size=2))}

    def write(node: Any) -> str:
        if not isinstance(node, (dict, list)):
            return json.dumps(node)
        if isinstance(node, dict):
            inside = [f"{json.dumps(name)}{draw(SPACE)}:{draw(SPACE)}{write(part)}" for name, part in node.items()]
        else:
            inside = [write(part) for part in node]
        brackets = "{}" if isinstance(node, dict) else "[]"
        last = draw(st.sampled_from([",", ""])) if inside else ""
        body = f"{draw(SPACE)},{draw(SPACE)}".join(inside)
        return f"{brackets[0]}{draw(SPACE)}{body}{draw(SPACE)}{last}{draw(SPACE)}{brackets[1]}"

    return f"{draw(SPACE)}{write(value)}{draw(SPACE)}"


@settings(max_examples=300, deadline=None)
@given(documents(), st.sets(st.sampled_from(["901", "950", "951"])), st.sets(st.sampled_from(["901", "950"])))
def test_of_any_policy_only_our_entries_change(text: str, ours: set[str], gone: set[str]) -> None:
    before = as_json(text)
    after = as_json(set_ours(text, dict.fromkeys(ours, OURS), frozenset(gone)))
    regions = (before.get("derpMap") or {}).get("Regions", {}) if isinstance(before.get("derpMap"), dict) else {}
    expected = {name: value for name, value in regions.items() if name not in gone} | dict.fromkeys(ours, OURS)
    if expected or "derpMap" in before:
        got = after["derpMap"].get("Regions", {}) if isinstance(after["derpMap"], dict) else {}
        assert got == expected
    assert {k: v for k, v in after.items() if k != "derpMap"} == {k: v for k, v in before.items() if k != "derpMap"}


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='{}[]",:/*\\n0a \n', max_size=40))
def test_nothing_brings_it_down(text: str) -> None:
    try:
        set_ours(text, {"950": OURS})
    except NotHuJson:
        return
    check(text)
