"""Everything people read exists in Simplified Chinese, says the same placeholders, and is not a guess."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po
from django.utils import translation

from tests.parts import need

ROOT = Path(__file__).resolve().parent.parent
CATALOGUES = ROOT / "locale" / "zh_Hans" / "LC_MESSAGES"
SOURCES = ["accounts", "billing", "derp_portal", "fleet", "resellers", "serials", "templates", "static", "manage.py"]
PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[sdif]|\{\w*\}")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source without its catalogues, so that extracting never touches the real ones."""
    need("gettext")
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    (folder / "locale").mkdir()
    return folder


def extract(folder: Path, domain: str) -> Catalog:
    """What the source says now."""
    environment = {**os.environ, "DATA_DIR": str(folder / "data")}
    subprocess.run(
        [
            *(sys.executable, "manage.py", "makemessages", "--domain", domain, "--locale", "zh_Hans"),
            *("--keep-pot", "--no-location", "--no-wrap"),
        ],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    template = folder / "locale" / f"{domain}.pot"
    if not template.exists():
        return Catalog()
    # A template has a stand-in where the number of plural forms belongs, which Babel cannot read.
    text = template.read_text().replace("nplurals=INTEGER; plural=EXPRESSION;", "nplurals=2; plural=(n != 1);")
    return read_po(StringIO(text))


def translated(domain: str) -> Catalog:
    path = CATALOGUES / f"{domain}.po"
    assert path.exists(), f"{path.relative_to(ROOT)} is missing: make messages"
    with path.open("rb") as file:
        return read_po(file, locale="zh_Hans")


def faults(source: Catalog, catalogue: Catalog) -> list[str]:
    """One line for each message that is not properly translated."""
    found = []
    for message in source:
        if forms := _texts(message.id):
            ours = catalogue.get(forms[0], message.context)
            # Chinese has one form, which speaks of any number: the one to compare with is the plural.
            fault = _fault(forms[-1], ours)
            found += [f"{fault}: {forms[0]!r}"] if fault else []
    return found


def _texts(value: str | Sequence[str | None] | None) -> list[str]:
    """A message is one text or its plural forms; empty ones are left out."""
    return [text for text in ([value] if isinstance(value, str) else value or []) if text]


def _fault(original: str, ours: Message | None) -> str:
    if ours is None:
        return "missing"
    texts = _texts(ours.string)
    if not texts:
        return "untranslated"
    if ours.fuzzy:
        return "fuzzy"
    expected = sorted(PLACEHOLDER.findall(original))
    if any(sorted(PLACEHOLDER.findall(text)) != expected for text in texts):
        return "placeholders differ"
    return ""


@pytest.mark.parametrize("domain", ["django", "djangojs"])
def test_everything_people_read_is_in_chinese(copied: Path, domain: str) -> None:
    source = extract(copied, domain)
    if domain == "djangojs" and not len(source):
        return  # No script of ours speaks to people.
    assert faults(source, translated(domain)) == []


def test_no_words_for_people_stand_inside_an_f_string() -> None:
    # xgettext looks into no f-string: what is marked there never reaches the catalogue.
    markers = {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy", "pgettext", "pgettext_lazy"}
    found = []
    for path in sorted(path for name in SOURCES for path in (ROOT / name).glob("**/*.py")):
        for text in ast.walk(ast.parse(path.read_text())):
            if isinstance(text, ast.JoinedStr):
                calls = [node for node in ast.walk(text) if isinstance(node, ast.Call) and node.args]
                named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in markers]
                marked = any(isinstance(call.args[0], ast.Constant) for call in named)
                found += [f"{path.relative_to(ROOT)}:{text.lineno}"] if marked else []
    assert found == []


@pytest.mark.parametrize(
    ("english", "context", "chinese"),
    [
        ("Primary", "relay", "主用"),
        ("Primary", None, "主邮箱"),  # allauth's page of addresses
        ("paid", "settlement", "已打款"),
        ("paid", None, "已付款"),
        ("Paid by", "who pays", "打款方"),
        ("Paid by", None, "支付方式"),
        ("created", "container", "已创建"),
        ("created", None, "创建时间"),
        ("code", "serial number", "序列号"),
        ("code", None, "代码"),
        ("Back", "pages", "上一页"),
        ("Back", None, "返回"),
    ],
)
def test_one_english_word_has_a_chinese_one_for_each_meaning(english: str, context: str | None, chinese: str) -> None:
    with translation.override("zh-hans"):
        assert (translation.pgettext(context, english) if context else translation.gettext(english)) == chinese
    with translation.override("en"):
        assert (translation.pgettext(context, english) if context else translation.gettext(english)) == english


def test_the_catalogue_itself_is_not_marked_as_a_guess() -> None:
    # Babel's compiler leaves out a whole catalogue whose header is fuzzy, without failing.
    for path in sorted((ROOT / "locale").glob("**/*.po")):
        with path.open("rb") as file:
            assert not read_po(file).fuzzy, f"the header of {path.relative_to(ROOT)} is marked fuzzy"


@pytest.mark.parametrize(
    ("chinese", "flags", "fault"),
    [
        ("还剩 %(count)s 天", (), []),
        ("", (), ["untranslated: '%(count)s days left'"]),
        ("还剩 %(count)s 天", ("fuzzy",), ["fuzzy: '%(count)s days left'"]),
        ("还剩 %(days)s 天", (), ["placeholders differ: '%(count)s days left'"]),
    ],
)
def test_the_check_sees_each_kind_of_fault(chinese: str, flags: tuple[str, ...], fault: list[str]) -> None:
    source, ours = Catalog(), Catalog(locale="zh_Hans")
    source.add("%(count)s days left")
    ours.add("%(count)s days left", chinese, flags=flags)
    assert faults(source, ours) == fault
    assert faults(source, Catalog(locale="zh_Hans")) == ["missing: '%(count)s days left'"]
