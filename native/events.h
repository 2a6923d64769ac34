/* What happened, told by any thread and read by Python: a bounded ring that never makes the teller wait. */
#ifndef ORION_EVENTS_H
#define ORION_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

/* Two servers' sources, and the same once more as fields. */
#define ORION_EVENT_TEXT 1024

enum orion_severity { ORION_INFO, ORION_WARNING, ORION_ERROR };

/* What an event is about; orioncache/events.py has the words. */
enum orion_event_kind {
	ORION_EVENT_OTHER,
	ORION_EVENT_SWITCH, /* another server is current */
	ORION_EVENT_STATE, /* of a server */
	ORION_EVENT_HEDGE,
	ORION_EVENT_STALL, /* a read waited too long */
	ORION_EVENT_QUARANTINE,
	ORION_EVENT_SERVER, /* added, removed, drained */
	ORION_EVENT_MOUNT,
	ORION_EVENT_DAEMON,
	ORION_EVENT_KINDS,
};

/* Begins a field in a format, behind the text: "%s is dead" ORION_FIELD("server") "%s" ORION_FIELD("after_ms") "%u". Values
 * that look like numbers become numbers. */
#define ORION_FIELD(name) "\x1f" name "="
#define ORION_FIELD_MARK '\x1f'

struct orion_event {
	uint64_t monotonic_ns;
	uint32_t severity; /* enum orion_severity */
	uint32_t kind; /* enum orion_event_kind */
	uint32_t field_count; /* how many stand at the text's end */
	char text[ORION_EVENT_TEXT];
};

struct orion_events;

int orion_events_create(struct orion_events **ret);
void orion_events_destroy(struct orion_events *events);

/* Tells of something; when the ring is full the oldest one is lost, and counted. NULL: tells nobody. */
__attribute__((format(printf, 3, 4))) void orion_events_tell(struct orion_events *events, enum orion_severity severity,
							     const char *format, ...);

/* The same with what it is about, and fields. They are left out when all of it is too long. */
__attribute__((format(printf, 4, 5))) void orion_events_note(struct orion_events *events, enum orion_severity severity,
							     enum orion_event_kind kind, const char *format, ...);

/* Takes the oldest one; false if there is none. ret_lost: how many were lost before it. */
bool orion_events_next(struct orion_events *events, struct orion_event *ret, uint64_t *ret_lost);

/* Becomes readable (poll) when there is one to take; an eventfd that belongs to the ring. */
int orion_events_fd(const struct orion_events *events);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t orion_now_ns(void);

#endif
