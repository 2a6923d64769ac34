/* The thread that pushes blocks, and which blocks it is told of. */
#include "push.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* A thread needs little, and all its pages may be locked. */
#define STACK_BYTES (64u << 10)
#define QUEUE 32
/* Blocks of which parts were given lately; a power of two. */
#define SEEN 256

struct seen {
	uint64_t node, offset;
	uint32_t times;
};

struct orion_pusher {
	void (*push)(void *context, const struct orion_push *push);
	void *context;
	pthread_t thread;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	bool running, stopping;
	uint32_t first, count;
	struct orion_push queue[QUEUE];
	struct seen seen[SEEN];
};

int orion_pusher_create(void (*push)(void *context, const struct orion_push *push), void *context,
			struct orion_pusher **ret)
{
	struct orion_pusher *pusher = calloc(1, sizeof(*pusher));

	if (!pusher)
		return -ENOMEM;
	pusher->push = push;
	pusher->context = context;
	pthread_mutex_init(&pusher->lock, NULL);
	pthread_cond_init(&pusher->changed, NULL);
	*ret = pusher;
	return 0;
}

/* Locked: the next of the queue, which is the caller's now. */
static struct orion_push take(struct orion_pusher *pusher)
{
	const struct orion_push push = pusher->queue[pusher->first];

	pusher->first = (pusher->first + 1) % QUEUE;
	pusher->count--;
	return push;
}

static void *serve(void *argument)
{
	struct orion_pusher *pusher = argument;

	pthread_mutex_lock(&pusher->lock);
	while (!pusher->stopping) {
		if (!pusher->count) {
			pthread_cond_wait(&pusher->changed, &pusher->lock);
			continue;
		}
		const struct orion_push push = take(pusher);

		pthread_mutex_unlock(&pusher->lock);
		pusher->push(pusher->context, &push);
		orion_block_release(push.block);
		pthread_mutex_lock(&pusher->lock);
	}
	pthread_mutex_unlock(&pusher->lock);
	return NULL;
}

/* Locked: whether there is a thread, now at the latest. */
static bool start(struct orion_pusher *pusher)
{
	pthread_attr_t attributes;

	if (pusher->running || pusher->stopping)
		return pusher->running;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pusher->running = pthread_create(&pusher->thread, &attributes, serve, pusher) == 0;
	pthread_attr_destroy(&attributes);
	return pusher->running;
}

void orion_pusher_stop(struct orion_pusher *pusher)
{
	pthread_mutex_lock(&pusher->lock);
	const bool running = pusher->running;

	pusher->stopping = true;
	pusher->running = false;
	pthread_cond_signal(&pusher->changed);
	pthread_mutex_unlock(&pusher->lock);
	if (running)
		pthread_join(pusher->thread, NULL);
}

void orion_pusher_destroy(struct orion_pusher *pusher)
{
	if (!pusher)
		return;
	while (pusher->count)
		orion_block_release(take(pusher).block);
	pthread_cond_destroy(&pusher->changed);
	pthread_mutex_destroy(&pusher->lock);
	free(pusher);
}

/* Locked: whether it is the second part of the block, and no more than that. */
static bool is_second(struct orion_pusher *pusher, uint64_t node, uint64_t offset)
{
	const uint64_t hash = (node * 31 + (offset >> 12)) * 0x9e3779b97f4a7c15u; /* Knuth's golden ratio */
	struct seen *seen = &pusher->seen[(hash >> 32) % SEEN];

	if (seen->node != node || seen->offset != offset)
		*seen = (struct seen){.node = node, .offset = offset};
	return ++seen->times == 2;
}

void orion_pusher_given(struct orion_pusher *pusher, const struct orion_push *part)
{
	pthread_mutex_lock(&pusher->lock);
	if (is_second(pusher, part->node, part->offset) && pusher->count < QUEUE && start(pusher)) {
		orion_block_hold(part->block);
		pusher->queue[(pusher->first + pusher->count++) % QUEUE] = *part;
		pthread_cond_signal(&pusher->changed);
	}
	pthread_mutex_unlock(&pusher->lock);
}
