/* Answers that are given again for a while: a bounded map from requests to replies. */
#ifndef ORION_ANSWERS_H
#define ORION_ANSWERS_H

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The longest request and the longest reply that are remembered. */
#define ORION_ASKED_MAX 320
#define ORION_ANSWER_MAX 1024

/* What makes two requests the same. */
struct orion_asked {
	uint64_t node;
	uint32_t opcode;
	uint32_t length;
	uint8_t body[ORION_ASKED_MAX];
};

struct orion_answer {
	int32_t error;
	uint32_t length;
	uint8_t bytes[ORION_ANSWER_MAX];
};

struct orion_answers;

/* ttl_ns: for how long an answer holds; 0: nothing is remembered. */
int orion_answers_create(uint64_t ttl_ns, struct orion_answers **ret);
void orion_answers_destroy(struct orion_answers *answers);

/* Whether this kind of request may be answered from memory; fills ret if so. */
bool orion_answers_covers(const struct orion_answers *answers, const struct fuse_in_header *header, const uint8_t *body,
			  size_t length, struct orion_asked *ret);
bool orion_answers_find(struct orion_answers *answers, const struct orion_asked *asked, struct orion_answer *ret);

/* A request was handed on; its answer, when it comes, is kept. */
void orion_answers_expect(struct orion_answers *answers, uint64_t unique, const struct orion_asked *asked);
void orion_answers_came(struct orion_answers *answers, uint64_t unique, int32_t error, const uint8_t *bytes,
			size_t length);

/* The kernel forgot an inode, or asks for its attributes anew: what is known of it does not hold any more. */
void orion_answers_forget(struct orion_answers *answers, uint64_t node);

#endif
