"""The report as a page: whole, safe with any text, readable by anyone, and true to the comparison."""

from __future__ import annotations

import getpass
import platform
import re
from typing import Any

import pytest

from pefttune.evaluation import interval, render_report
from pefttune.evaluation.report import wording

TEXTS = [f"text number {i} is here" for i in range(40)]
HOSTILE = [
    "<script>alert('x')</script> <img src=x onerror=alert(1)> </style></section>",
    "\"><svg onload=alert(1)> ' onmouseover='alert(1) {{ 7 * 7 }} {% raw %}",
    "שלום עולם \u202eevil\u202c مرحبا",
    "👩‍👩‍👧‍👦 emoji 🎉 zażółć \x00\x1b[31m \x85 &amp; &#60;b&#62; ]]> -->",
    "w" * 10_000,
]
LABELS = ("<b>bad</b>", "\"good' & better", "שלום")


def every_variant(findings_of: Any) -> list[Any]:
    return [
        findings_of(TEXTS),
        findings_of(TEXTS, zero_shot=False, marked=True),
        findings_of(HOSTILE * 4, LABELS, marked=True, name="mine"),
        findings_of(TEXTS * 10, [f"class {i}" for i in range(30)], steps=700),
        findings_of(TEXTS * 2, [f"class {i}" for i in range(130)]),
        findings_of(TEXTS, steps=1, inputs=["question", "context"], prompt="<|user|>{text}"),
        findings_of(["only one"]),
    ]


@pytest.fixture(scope="module")
def variants(findings_of: Any) -> list[str]:
    return [render_report(findings) for findings in every_variant(findings_of)]


def test_every_page_is_well_formed(variants: list[str], page_of: Any) -> None:
    for html in variants:
        page = page_of(html)
        assert page.faults == []
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids)) >= 8
        links = [attributes["href"] for attributes in page.of("a")]
        assert len(links) >= 6
        assert {link.removeprefix("#") for link in links} <= set(ids)


def test_no_page_needs_anything_else(variants: list[str], page_of: Any) -> None:
    for html in variants:
        page = page_of(html)
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "image", "use", "form"}
        for _, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "xlink:href")]
            assert attributes.get("href", "#").startswith("#")
        assert not re.search(r"url\(|@import|@font-face|expression\(", "".join(page.styles))
        assert "://" not in html


def test_every_page_can_be_read_without_seeing_it(variants: list[str], page_of: Any) -> None:
    for html in variants:
        page = page_of(html)
        assert page.of("html") == [{"lang": "en"}]
        assert len(page.of("title")) >= 1
        assert len(page.of("table")) == len(page.of("caption")) >= 5
        assert {cell.get("scope") for cell in page.of("th")} == {"row", "col"}
        drawings = page.of("svg")
        assert len(drawings) >= 5
        for drawing in drawings:
            assert drawing["role"] == "img"
            assert drawing["aria-label"]


def test_hostile_texts_are_texts(findings_of: Any, page_of: Any) -> None:
    html = render_report(findings_of(HOSTILE * 4, LABELS, marked=True))
    page = page_of(html)
    for text in HOSTILE[:3]:
        first, _, rest = text.partition(" ")
        assert first in page.text
        assert " ".join(rest.split()) in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert not wording.UNSHOWABLE.search(html)
    assert "\ufffd" in page.text  # what cannot be shown is not hidden
    for label in LABELS:
        assert label in page.text


def test_a_long_text_is_cut_and_whole_below(findings_of: Any) -> None:
    html = render_report(findings_of([f"{i} " + "long " * 2000 for i in range(60)]))
    whole = re.findall(r"<details><summary>all 10,00[23] characters</summary>", html)
    assert len(whole) >= 10
    assert "long " * 1999 in html
    endless = render_report(findings_of([f"{i} " + "long " * 20_000 for i in range(20)]))
    assert "a page is no place for the rest" in endless
    assert "long " * 5_000 not in endless


def test_the_numbers_are_those_of_the_comparison(findings_of: Any, page_of: Any) -> None:
    findings = findings_of(TEXTS)
    comparison, text = findings.comparison, page_of(render_report(findings)).text
    for metrics in comparison.everybody.values():
        for key in comparison.shown:
            assert f"{100 * metrics[key]:.1f} %" in text
    for each in comparison.differences:
        difference, low, high = (
            f"{100 * value:+.1f}".replace("-", "−") for value in (each.difference, each.low, each.high)
        )
        assert f"{each.against} {difference} points {low} to {high}" in text
        assert f"{each.fixed} {each.broken} {each.sign_test_p:.2g}" in text
    for label, metrics in comparison.adapter["per_class"].items():
        shares = " ".join(f"{100 * metrics[key]:.1f} %" for key in ("precision", "recall", "f1"))
        assert f"{label} {shares}" in text
    for scored in (*findings.others, findings.adapter):
        low, high = interval(scored.tallies, findings.task.primary_of, 1000, 0.95, findings.manifest["recipe"]["seed"])
        assert f"{scored.name} {100 * scored.metrics['accuracy']:.1f} % {100 * low:.1f} to {100 * high:.1f} %" in text


def test_a_page_of_a_thousand_rows_is_small(findings_of: Any) -> None:
    texts = [f"row {i} " + "and some more words of an ordinary length " * 4 for i in range(1000)]
    html = render_report(findings_of(texts, [f"class {i}" for i in range(77)], steps=2000))
    assert len(html.encode()) < 500_000


def test_the_same_findings_give_the_same_page(findings_of: Any) -> None:
    assert render_report(findings_of(TEXTS, marked=True)) == render_report(findings_of(TEXTS, marked=True))


def test_marks_are_drawn_with_their_tags(findings_of: Any, page_of: Any) -> None:
    html = render_report(findings_of(TEXTS, marked=True))
    assert re.search(r'<mark class="t0">text<small>bad</small></mark> number \d+ is here', html)
    assert "<mark" not in render_report(findings_of(TEXTS))


@pytest.mark.parametrize(
    ("classes", "table", "map_"), [(2, True, False), (20, True, False), (21, False, True), (121, False, False)]
)
def test_a_confusion_is_shown_as_can_be_read(
    findings_of: Any, page_of: Any, classes: int, table: bool, map_: bool
) -> None:
    page = page_of(render_report(findings_of(TEXTS * 4, [f"class {i}" for i in range(classes)])))
    assert ({"class": "matrix"} in page.of("table")) == table
    assert any(drawing.get("class") == "map" for drawing in page.of("svg")) == map_
    assert ("the pairs confused most often" in page.text) == (classes > 2)


def test_a_page_of_a_real_run(recipe_of: Any, tmp_path: Any, page_of: Any) -> None:
    from pefttune import run

    done = run(recipe_of({"training.max_steps": 3, "evaluation.bootstrap_samples": 100}))
    html = done.report.read_text(encoding="utf-8")
    page = page_of(html)
    assert page.faults == []
    assert done.report == done.run_folder / "report.html"
    assert f"{100 * done.comparison.adapter['accuracy']:.1f} %" in page.text
    weights = (done.folder / "adapter_model.safetensors").stat().st_size
    [told] = re.findall(r"([\d,]+) KiB beside a frozen base", page.text)
    assert weights / 1.3 < int(told) * 1024 <= weights + 512  # beside the tensors, the file has names
    for secret in (str(tmp_path), str(tmp_path.parent), tmp_path.name, getpass.getuser() + "@", platform.node()):
        assert secret not in html
