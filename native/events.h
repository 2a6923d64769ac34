/* What happened, told by any thread and read by Python: a bounded ring that never makes the teller wait. */
#ifndef ORION_EVENTS_H
#define ORION_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#define ORION_EVENT_TEXT 256

enum orion_severity { ORION_INFO, ORION_WARNING, ORION_ERROR };

struct orion_event {
	uint64_t monotonic_ns;
	uint32_t severity; /* enum orion_severity */
	char text[ORION_EVENT_TEXT];
};

struct orion_events;

int orion_events_create(struct orion_events **ret);
void orion_events_destroy(struct orion_events *events);

/* Tells of something; when the ring is full the oldest one is lost, and counted. NULL: tells nobody. */
__attribute__((format(printf, 3, 4))) void orion_events_tell(struct orion_events *events, enum orion_severity severity,
							     const char *format, ...);

/* Takes the oldest one; false if there is none. ret_lost: how many were lost before it. */
bool orion_events_next(struct orion_events *events, struct orion_event *ret, uint64_t *ret_lost);

/* Becomes readable (poll) when there is one to take; an eventfd that belongs to the ring. */
int orion_events_fd(const struct orion_events *events);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t orion_now_ns(void);

#endif
