/* Events: kinds, fields, and what becomes of those that are too many or too long. */
#include "events.h"

#include "check.h"

#include <poll.h>
#include <string.h>

static struct orion_events *events;
static struct orion_event event;
static uint64_t lost;

static bool readable(void)
{
	return poll(&(struct pollfd){.fd = orion_events_fd(events), .events = POLLIN}, 1, 0) == 1;
}

static void test_what_was_told_is_taken_in_order(void)
{
	CHECK(!readable() && !orion_events_next(events, &event, &lost));
	orion_events_tell(events, ORION_WARNING, "%s failed", "a");
	orion_events_note(events, ORION_INFO, ORION_EVENT_SWITCH, "from %s to %s" ORION_FIELD("to") "%s", "a", "b", "b");
	CHECK(readable() && orion_events_next(events, &event, &lost));
	CHECK(event.severity == ORION_WARNING && event.kind == ORION_EVENT_OTHER && event.field_count == 0 && lost == 0);
	CHECK(strcmp(event.text, "a failed") == 0 && event.monotonic_ns <= orion_now_ns());
	CHECK(readable() && orion_events_next(events, &event, &lost));
	CHECK(event.severity == ORION_INFO && event.kind == ORION_EVENT_SWITCH && event.field_count == 1);
	CHECK(strcmp(event.text, "from a to b\x1fto=b") == 0);
	CHECK(!readable());
}

static void test_fields_are_counted_in_the_format_alone(void)
{
	orion_events_note(events, ORION_INFO, ORION_EVENT_STATE, "%s" ORION_FIELD("server") "%u", "odd\x1fname=x", 3u);
	CHECK(orion_events_next(events, &event, &lost) && event.field_count == 1);
	CHECK(strcmp(event.text, "odd\x1fname=x\x1fserver=3") == 0);
}

static void test_what_is_too_long_keeps_its_text(void)
{
	char name[2 * ORION_EVENT_TEXT];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	orion_events_note(events, ORION_INFO, ORION_EVENT_STATE, "short" ORION_FIELD("name") "%s", name);
	CHECK(orion_events_next(events, &event, &lost) && event.field_count == 0 && strcmp(event.text, "short") == 0);
	orion_events_note(events, ORION_INFO, ORION_EVENT_STATE, "%s" ORION_FIELD("name") "x", name);
	CHECK(orion_events_next(events, &event, &lost) && event.field_count == 0);
	CHECK(strlen(event.text) == ORION_EVENT_TEXT - 1);
}

static void test_the_oldest_are_lost_and_counted(void)
{
	for (unsigned i = 0; i < 1000; i++)
		orion_events_tell(events, ORION_INFO, "%u", i);
	CHECK(orion_events_next(events, &event, &lost) && lost > 0);

	const unsigned first = (unsigned)lost;
	unsigned next = first;

	do
		CHECK((unsigned)atoi(event.text) == next++);
	while (orion_events_next(events, &event, &lost) && lost == 0);
	CHECK(next == 1000);
}

int main(void)
{
	CHECK(orion_events_create(&events) == 0);
	test_what_was_told_is_taken_in_order();
	test_fields_are_counted_in_the_format_alone();
	test_what_is_too_long_keeps_its_text();
	test_the_oldest_are_lost_and_counted();
	orion_events_destroy(events);
	orion_events_tell(NULL, ORION_INFO, "nobody");
	puts("test_events: ok");
	return 0;
}
