"""Events, as logs and terminals get them."""

import logging

import pytest

from orioncache.events import KEPT, Events


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
