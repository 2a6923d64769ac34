/* The ring of events. */
#define _GNU_SOURCE
#include "events.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define RING 256

struct orion_events {
	int fd;
	pthread_mutex_t lock; /* of what follows */
	uint64_t told, taken, lost;
	struct orion_event ring[RING];
};

uint64_t orion_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int orion_events_create(struct orion_events **ret)
{
	struct orion_events *events = calloc(1, sizeof(*events));

	if (!events)
		return -ENOMEM;
	events->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (events->fd < 0) {
		const int error = -errno;

		free(events);
		return error;
	}
	pthread_mutex_init(&events->lock, NULL);
	*ret = events;
	return 0;
}

void orion_events_destroy(struct orion_events *events)
{
	if (!events)
		return;
	close(events->fd);
	pthread_mutex_destroy(&events->lock);
	free(events);
}

/* How many fields a format has; what it is given, such as names from a server, may look like more. */
static uint32_t count_fields(const char *format)
{
	uint32_t count = 0;

	for (; (format = strchr(format, ORION_FIELD_MARK)); format++)
		count++;
	return count;
}

static void note(struct orion_events *events, enum orion_severity severity, enum orion_event_kind kind, const char *format,
		 va_list arguments)
{
	if (!events)
		return;
	pthread_mutex_lock(&events->lock);
	struct orion_event *event = &events->ring[events->told++ % RING];

	if (events->told - events->taken > RING) {
		events->taken++;
		events->lost++;
	}
	event->monotonic_ns = orion_now_ns();
	event->severity = severity;
	event->kind = kind;
	event->field_count = count_fields(format);

	const int length = vsnprintf(event->text, sizeof(event->text), format, arguments);

	if (event->field_count && (length < 0 || (size_t)length >= sizeof(event->text))) {
		event->text[strcspn(event->text, (char[]){ORION_FIELD_MARK, '\0'})] = '\0';
		event->field_count = 0;
	}
	pthread_mutex_unlock(&events->lock);
	(void)!write(events->fd, &(uint64_t){1}, sizeof(uint64_t));
}

void orion_events_tell(struct orion_events *events, enum orion_severity severity, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	note(events, severity, ORION_EVENT_OTHER, format, arguments);
	va_end(arguments);
}

void orion_events_note(struct orion_events *events, enum orion_severity severity, enum orion_event_kind kind,
		       const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	note(events, severity, kind, format, arguments);
	va_end(arguments);
}

bool orion_events_next(struct orion_events *events, struct orion_event *ret, uint64_t *ret_lost)
{
	uint64_t ignored;

	pthread_mutex_lock(&events->lock);
	const bool found = events->taken < events->told;

	if (found) {
		*ret = events->ring[events->taken++ % RING];
		*ret_lost = events->lost;
		events->lost = 0;
	}
	if (events->taken == events->told)
		(void)!read(events->fd, &ignored, sizeof(ignored));
	pthread_mutex_unlock(&events->lock);
	return found;
}

int orion_events_fd(const struct orion_events *events)
{
	return events->fd;
}
