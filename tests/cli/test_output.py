"""What is printed is what was said: nothing in it is taken for markup."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from godwit.cli import output

ODD = ("fe80:b:100::1", ":x: :b: :100:", "[/dev/nvidia0]", "[red]x[/red]", "[link=a]", "\\[x]")


@pytest.fixture(autouse=True)
def _fresh_consoles() -> Iterator[None]:
    """Each test has streams of its own."""
    for console in (output.stdout, output.stderr):
        console.cache_clear()
    yield
    for console in (output.stdout, output.stderr):
        console.cache_clear()


@pytest.mark.parametrize("text", ODD)
def test_lines_tables_and_facts_hold_what_they_were_given(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output.print_line(text)
    output.print_table((text, ">N"), [(text, "1")], "none")
    output.print_facts([(text, text)])
    output.print_table((text,), [], text)
    assert capsys.readouterr().out.count(text) == 1 + 2 + 2 + 1
    output.stderr().print(text, soft_wrap=True)
    assert capsys.readouterr().err == f"{text}\n"
