/* A fuzz target's input, taken from its beginning on. Where it ends, everything is zero. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct input {
	const uint8_t *next;
	size_t left;
};

static inline const uint8_t *input_take(struct input *input, size_t length)
{
	const uint8_t *taken = input->next;

	input->next += length;
	input->left -= length;
	return taken;
}

static inline uint32_t input_byte(struct input *input)
{
	return input->left ? *input_take(input, 1) : 0;
}

static inline uint32_t input_short(struct input *input)
{
	const uint32_t low = input_byte(input);

	return low | input_byte(input) << 8;
}

/* As many bytes as there are, up to most, in memory of their own; for the caller to free. */
static inline uint8_t *input_copy(struct input *input, size_t most, size_t *ret_length)
{
	const size_t length = most < input->left ? most : input->left;
	uint8_t *copy = malloc(length ? length : 1);

	if (!copy)
		abort();
	memcpy(copy, input_take(input, length), length);
	*ret_length = length;
	return copy;
}

/* Changes bytes here and there, as the input wants it: each time bytes of its own, or such as are there already, for
 * fields that must be the same as another. Returns how often. */
static inline uint32_t input_change(struct input *input, uint8_t *bytes, size_t size)
{
	const uint32_t changes = input_byte(input) & 7;

	for (uint32_t i = 0; i < changes; i++) {
		const size_t to = input_short(input) % size;
		const uint32_t how = input_byte(input);
		const size_t from = how & 0x80 ? input_short(input) % size : 0;
		size_t length = how & 0x7f;

		if (length > size - to)
			length = size - to;
		if (how & 0x80)
			memmove(bytes + to, bytes + from, length < size - from ? length : size - from);
		else if (length <= input->left)
			memcpy(bytes + to, input_take(input, length), length);
	}
	return changes;
}

#endif
