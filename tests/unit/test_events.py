"""Events, as logs and terminals get them."""

import logging
import re

import pytest

from orioncache.events import KEPT, KINDS, Events
from tests.checkout import TOP


def test_control_characters_of_names_are_shown_and_not_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    with caplog.at_level(logging.INFO):
        events.warning("/a\x1b[2Jb\nc\x7fd\x9be é is damaged")
    text = r"/a\x1b[2Jb\x0ac\x7fd\x9be é is damaged"
    assert [event["text"] for event in events.last()] == [text]
    assert caplog.messages == [text]


def test_the_last_events_are_kept() -> None:
    events = Events()
    for number in range(KEPT + 5):
        events.info(str(number))
    kept = events.last()
    assert (len(kept), kept[0]["text"], kept[-1]["text"]) == (KEPT, "5", str(KEPT + 4))


def test_events_have_numbers_kinds_and_fields() -> None:
    events = Events()
    events.info("one")
    events.warning("b instead of a", "switch", to="b", took_ms=3)
    events.note("error", "stall", "three", {}, at=12.5)
    one, two, three = events.last()
    assert (one["seq"], one["kind"], one["fields"]) == (1, "other", {})
    assert (two["severity"], two["kind"], two["fields"]) == ("warning", "switch", {"to": "b", "took_ms": 3})
    assert (three["severity"], three["time"]) == ("error", 12.5)


def test_events_since_a_number_say_how_many_are_lost() -> None:
    events = Events()
    assert events.since(0) == ([], 0)
    for number in range(KEPT + 5):
        events.info(str(number))
    found, lost = events.since(2)
    assert (len(found), lost, found[0]["seq"]) == (KEPT, 3, 6)
    found, lost = events.since(KEPT + 3)
    assert ([event["seq"] for event in found], lost) == ([KEPT + 4, KEPT + 5], 0)
    assert events.since(KEPT + 5) == events.since(10**9) == ([], 0)


def test_watchers_are_called_until_they_end() -> None:
    events, called = Events(), []
    end = events.watch(lambda: called.append(1))
    events.info("a")
    end()
    events.info("b")
    assert called == [1]


def test_kinds_are_those_of_c() -> None:
    header = (TOP / "native/events.h").read_text()
    names = re.findall(r"\bORION_EVENT_([A-Z]+),", header)
    assert tuple(name.lower() for name in names) == (*KINDS, "kinds")
