/* What is believed about a server, moment by moment: no thread, no clock, only times that are handed in. */
#include "check.h"
#include "health.h"

#include <stdio.h>
#include <string.h>

#define MS 1000000ull
#define SECOND 1000000000ull

static struct orion_health health;

static void answer(uint64_t now, uint32_t count, uint64_t latency)
{
	for (uint32_t i = 0; i < count; i++)
		orion_health_answered(&health, now, latency, true);
}

static void test_from_unknown_to_dead_and_back(void)
{
	orion_health_init(&health, SECOND);
	CHECK(health.state == ORION_UNKNOWN && orion_health_is_well(&health) && health.probe_at == SECOND);
	CHECK(orion_health_answered(&health, 2 * SECOND, MS, true) && health.state == ORION_GOOD && !health.reason[0]);
	CHECK(!orion_health_answered(&health, 2 * SECOND, MS, true));
	CHECK(orion_health_failed(&health, 3 * SECOND, "no answer") && health.state == ORION_SUSPECT);
	CHECK(!orion_health_failed(&health, 3 * SECOND, "again") && strcmp(health.reason, "no answer") == 0);
	CHECK(!orion_health_is_well(&health) && !orion_health_tick(&health, 4 * SECOND));
	CHECK(orion_health_tick(&health, 5 * SECOND) && health.state == ORION_DEAD);
	CHECK(!orion_health_tick(&health, 6 * SECOND));
	/* Back: asked again at once when it must be, but not trusted with all for a while. */
	CHECK(orion_health_answered(&health, 9 * SECOND, MS, true) && health.state == ORION_GOOD);
	CHECK(health.trusted_at == 11 * SECOND);
}

static void test_a_moments_absence_costs_no_trust(void)
{
	orion_health_init(&health, 0);
	answer(SECOND, 1, MS);
	orion_health_failed(&health, 2 * SECOND, "no answer");
	CHECK(orion_health_answered(&health, 2 * SECOND + 100 * MS, MS, true) && health.trusted_at == 0);
}

static void test_probes_of_the_dead_become_rarer(void)
{
	static const uint64_t waits[] = {1, 2, 4, 8, 16, 30, 30};

	orion_health_init(&health, 0);
	orion_health_failed(&health, 0, "gone");
	orion_health_tick(&health, 2 * SECOND);
	for (size_t i = 0; i < sizeof waits / sizeof *waits; i++) {
		orion_health_schedule_probe(&health, 100 * SECOND, true);
		CHECK(health.probe_at == (100 + waits[i]) * SECOND);
	}
	orion_health_answered(&health, 200 * SECOND, MS, true);
	orion_health_schedule_probe(&health, 200 * SECOND, true);
	CHECK(health.probe_at == 201 * SECOND);
	orion_health_schedule_probe(&health, 200 * SECOND, false);
	CHECK(health.probe_at == 210 * SECOND);
}

static void test_when_another_is_asked_too(void)
{
	orion_health_init(&health, 0);
	CHECK(orion_health_hedge_after(&health, 20 * MS, 500 * MS) == 100 * MS);
	answer(0, 100, MS);
	CHECK(orion_health_hedge_after(&health, 20 * MS, 500 * MS) == 20 * MS);
	answer(0, 128, 30 * MS);
	CHECK(orion_health_hedge_after(&health, 20 * MS, 500 * MS) == 30 * MS);
	CHECK(orion_health_hedge_after(&health, 20 * MS, 10 * MS) == 10 * MS);
	/* One in twenty is half a second late: p95 is of no use. */
	orion_health_init(&health, 0);
	for (int i = 0; i < 6; i++) {
		answer(0, 18, MS);
		answer(0, 2, 500 * MS);
	}
	CHECK(health.p95 == 500 * MS && orion_health_hedge_after(&health, 20 * MS, 500 * MS) == 24 * MS);
}

static void test_patience(void)
{
	orion_health_init(&health, 0);
	CHECK(orion_health_patience(&health, 10 * SECOND) == 250 * MS);
	answer(0, 20, MS);
	CHECK(orion_health_patience(&health, 10 * SECOND) == 100 * MS);
	answer(0, 128, 50 * MS);
	CHECK(orion_health_patience(&health, 10 * SECOND) == 200 * MS);
	CHECK(orion_health_patience(&health, 150 * MS) == 150 * MS);
}

static void test_who_is_better(void)
{
	struct orion_health near, far;

	orion_health_init(&health, 0);
	CHECK(!orion_health_is_better(&health, &health));
	answer(0, 8, MS);
	near = health;
	answer(0, 8, 2 * MS);
	far = health;
	/* A millisecond is not worth a change. */
	CHECK(!orion_health_is_better(&near, &far) && !orion_health_is_slow(&far, &near));
	answer(0, 8, 20 * MS);
	CHECK(orion_health_is_better(&near, &health) && !orion_health_is_better(&health, &near));
	CHECK(orion_health_is_slow(&health, &near) && !orion_health_is_slow(&near, &health));
	/* As near, but others must answer in its place now and then. */
	for (int i = 0; i < 3; i++)
		orion_health_lost(&far);
	CHECK(orion_health_is_better(&near, &far) && !orion_health_is_better(&far, &near));
	for (int i = 0; i < 200; i++)
		orion_health_answered(&far, 0, 2 * MS, true);
	CHECK(!orion_health_is_better(&near, &far));
}

static void test_liars_stay_out(void)
{
	orion_health_init(&health, 0);
	answer(0, 1, MS);
	CHECK(orion_health_condemn(&health, SECOND, ORION_QUARANTINED, "it lied"));
	CHECK(!orion_health_condemn(&health, SECOND, ORION_QUARANTINED, "it lied again"));
	CHECK(!orion_health_answered(&health, 2 * SECOND, MS, true) && health.state == ORION_QUARANTINED);
	CHECK(!orion_health_failed(&health, 2 * SECOND, "gone") && health.state == ORION_QUARANTINED);
	CHECK(orion_health_condemn(&health, SECOND, ORION_FOREIGN, "another release"));
	CHECK(strcmp(orion_state_name(health.state), "quarantined") == 0);
}

int main(void)
{
	test_from_unknown_to_dead_and_back();
	test_a_moments_absence_costs_no_trust();
	test_probes_of_the_dead_become_rarer();
	test_when_another_is_asked_too();
	test_patience();
	test_who_is_better();
	test_liars_stay_out();
	printf("test_health: ok\n");
	return 0;
}
