/* What is noted of requests that libfuse has. That processes which are killed are found is tested on a real mount. */
#include "forwarded.h"

#include "check.h"

#include <unistd.h>

static struct orion_forwarded *forwarded;
static struct fuse_in_header asked;
static uint64_t unique;

static void add(uint64_t number, uint32_t opcode)
{
	orion_forwarded_add(forwarded, &(struct fuse_in_header){.unique = number, .opcode = opcode, .nodeid = 7, .pid = (uint32_t)getpid()});
}

static void test_an_answer_is_handed_on_once(void)
{
	add(2, FUSE_READ);
	CHECK(orion_forwarded_take(forwarded, 2, &asked) && asked.unique == 2 && asked.nodeid == 7);
	asked.unique = 0;
	CHECK(orion_forwarded_take(forwarded, 2, &asked) && asked.unique == 0);
}

static void test_a_signal_has_who_waits_watched_until_the_answer(void)
{
	for (uint64_t number = 2; number < 4000; number += 2)
		add(number, FUSE_LOOKUP);
	CHECK(!orion_forwarded_watches(forwarded));
	orion_forwarded_interrupt(forwarded, 1000);
	orion_forwarded_interrupt(forwarded, 1000);
	CHECK(orion_forwarded_watches(forwarded));
	/* It lives, and shall not hear of it. */
	CHECK(!orion_forwarded_killed(forwarded, &unique));
	for (uint64_t number = 2; number < 4000; number += 2)
		CHECK(orion_forwarded_take(forwarded, number, &asked) && asked.unique == number);
	CHECK(!orion_forwarded_watches(forwarded));
}

static void test_what_cannot_be_undone_is_not_noted(void)
{
	add(2, FUSE_READDIRPLUS);
	add(4, FUSE_INIT);
	orion_forwarded_interrupt(forwarded, 2);
	orion_forwarded_interrupt(forwarded, 4);
	orion_forwarded_interrupt(forwarded, 6);
	CHECK(!orion_forwarded_watches(forwarded));
}

int main(void)
{
	CHECK(orion_forwarded_create(&forwarded) == 0);
	test_an_answer_is_handed_on_once();
	test_a_signal_has_who_waits_watched_until_the_answer();
	test_what_cannot_be_undone_is_not_noted();
	add(8, FUSE_OPEN);
	orion_forwarded_destroy(forwarded);
	puts("test_forwarded: ok");
	return 0;
}
