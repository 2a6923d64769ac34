/* A builder's memory: the arena, files' extents, inodes and blocks found by key. */
#include "builder_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK (256u << 10)

struct chunk {
	struct chunk *next;
	_Alignas(16) uint8_t bytes[];
};

void *arena_take(struct arena *arena, size_t size)
{
	size = (size + 7) & ~(size_t)7;
	if (size > arena->left) {
		const size_t room = size > CHUNK / 4 ? size : CHUNK;
		struct chunk *chunk = malloc(sizeof *chunk + room);

		if (!chunk)
			return NULL;
		chunk->next = arena->chunks;
		arena->chunks = chunk;
		if (room == size)
			return chunk->bytes; /* a chunk of its own; what is left of the last one stays in use */
		arena->next = chunk->bytes;
		arena->left = room;
	}
	void *taken = arena->next;

	arena->next += size;
	arena->left -= size;
	return taken;
}

char *arena_copy(struct arena *arena, const char *text, size_t length)
{
	char *copy = arena_take(arena, length + 1);

	if (copy) {
		memcpy(copy, text, length);
		copy[length] = 0;
	}
	return copy;
}

void arena_free(struct arena *arena)
{
	for (struct chunk *chunk = arena->chunks, *next; chunk; chunk = next) {
		next = chunk->next;
		free(chunk);
	}
	*arena = (struct arena){0};
}

struct inode_slot {
	uint64_t device, inode;
	uint32_t number;
};

static struct inode_slot *inode_slot(const struct inode_map *map, uint64_t device, uint64_t inode)
{
	/* Inode numbers come in runs: a multiplication spreads them. */
	size_t at = (size_t)((inode * 0x9e3779b97f4a7c15u ^ device * 0xc2b2ae3d27d4eb4fu) >> 20);

	for (;; at++) {
		struct inode_slot *slot = map->slots + (at & (map->capacity - 1));

		if (slot->number == NOWHERE || (slot->inode == inode && slot->device == device))
			return slot;
	}
}

static int inode_map_grow(struct inode_map *map)
{
	struct inode_map grown = {.capacity = map->capacity ? map->capacity * 2 : 1024, .count = map->count};

	grown.slots = malloc(grown.capacity * sizeof *grown.slots);
	if (!grown.slots)
		return -ENOMEM;
	for (size_t i = 0; i < grown.capacity; i++)
		grown.slots[i].number = NOWHERE;
	for (size_t i = 0; i < map->capacity; i++)
		if (map->slots[i].number != NOWHERE)
			*inode_slot(&grown, map->slots[i].device, map->slots[i].inode) = map->slots[i];
	free(map->slots);
	*map = grown;
	return 0;
}

int inode_map_add(struct inode_map *map, uint64_t device, uint64_t inode, uint32_t number, uint32_t *ret)
{
	if (map->count * 2 >= map->capacity && inode_map_grow(map))
		return -ENOMEM;
	struct inode_slot *slot = inode_slot(map, device, inode);

	if (slot->number == NOWHERE) {
		*slot = (struct inode_slot){device, inode, number};
		map->count++;
	}
	*ret = slot->number;
	return 0;
}

uint32_t inode_map_find(const struct inode_map *map, uint64_t device, uint64_t inode)
{
	return map->capacity ? inode_slot(map, device, inode)->number : NOWHERE;
}

void inode_map_free(struct inode_map *map)
{
	free(map->slots);
	*map = (struct inode_map){0};
}

const struct orion_extent *node_extents(const struct node *node)
{
	return node->count > 1 ? node->many.list : &node->single;
}

static int push_extent(struct node *node, struct orion_extent extent)
{
	if (node->count == 0) {
		node->single = extent;
	} else if (node->count == 1) {
		struct orion_extent *list = malloc(4 * sizeof *list);

		if (!list)
			return -ENOMEM;
		list[0] = node->single;
		list[1] = extent;
		node->many.list = list;
		node->many.capacity = 4;
	} else {
		if (node->count == node->many.capacity) {
			const uint32_t capacity = node->many.capacity * 2;
			struct orion_extent *list = realloc(node->many.list, capacity * sizeof *list);

			if (!list)
				return -ENOMEM;
			node->many.list = list;
			node->many.capacity = capacity;
		}
		node->many.list[node->count] = extent;
	}
	node->count++;
	return 0;
}

int node_add(struct node *node, uint32_t file_block, uint32_t count, uint32_t block)
{
	if (node->count) {
		struct orion_extent *last = node->count > 1 ? node->many.list + node->count - 1 : &node->single;

		if (block == ORION_HOLE ? last->block == ORION_HOLE :
					  last->block != ORION_HOLE && last->block + last->count == block) {
			last->count += count;
			return 0;
		}
	}
	return push_extent(node, (struct orion_extent){.file_block = file_block, .count = count, .block = block});
}

void node_clear(struct node *node)
{
	if (!S_ISREG(node->mode))
		return;
	if (node->count > 1)
		free(node->many.list);
	node->count = 0;
}

static uint32_t *block_slot(const struct block_table *table, const uint8_t *digest)
{
	uint64_t key;

	/* A digest's bytes are as good as random. */
	memcpy(&key, digest, sizeof key);
	for (size_t at = (size_t)key;; at++) {
		uint32_t *slot = table->slots + (at & (table->slot_count - 1));

		if (*slot == NOWHERE ||
		    memcmp(table->digests + (size_t)*slot * table->digest_size, digest, table->digest_size) == 0)
			return slot;
	}
}

static int grow_slots(struct block_table *table)
{
	const size_t count = table->slot_count ? table->slot_count * 2 : 4096;
	uint32_t *slots = malloc(count * sizeof *slots);

	if (!slots)
		return -ENOMEM;
	memset(slots, 0xff, count * sizeof *slots);
	free(table->slots);
	table->slots = slots;
	table->slot_count = count;
	for (uint32_t i = 0; i < table->count; i++)
		*block_slot(table, table->digests + (size_t)i * table->digest_size) = i;
	return 0;
}

static int grow_records(struct block_table *table)
{
	const uint32_t capacity = table->capacity ? table->capacity + table->capacity / 2 : 4096;
	struct place *places;
	uint8_t *digests;

	if (capacity <= table->capacity || capacity >= NOWHERE)
		return -EOVERFLOW;
	places = realloc(table->places, capacity * sizeof *places);
	if (!places)
		return -ENOMEM;
	table->places = places;
	digests = realloc(table->digests, (size_t)capacity * table->digest_size);
	if (!digests)
		return -ENOMEM;
	table->digests = digests;
	table->capacity = capacity;
	return 0;
}

int block_table_add(struct block_table *table, const uint8_t *digest, const struct place *place, uint32_t *ret,
		    bool *ret_new)
{
	int result;

	if ((size_t)table->count * 2 >= table->slot_count && grow_slots(table))
		return -ENOMEM;
	uint32_t *slot = block_slot(table, digest);

	*ret_new = *slot == NOWHERE;
	if (*ret_new) {
		if (table->count == table->capacity && (result = grow_records(table)))
			return result;
		table->places[table->count] = *place;
		memcpy(table->digests + (size_t)table->count * table->digest_size, digest, table->digest_size);
		*slot = table->count++;
	}
	*ret = *slot;
	return 0;
}

uint32_t block_table_find(const struct block_table *table, const uint8_t *digest)
{
	return table->slot_count ? *block_slot(table, digest) : NOWHERE;
}

bool node_is_whole(const struct node *node, const struct block_table *table, uint32_t block_size)
{
	const struct orion_extent *extents = node_extents(node);
	const uint32_t tail = (uint32_t)(node->stamp.size % block_size);
	const uint64_t blocks = node->stamp.size / block_size + !!tail;
	uint64_t at = 0;

	for (uint32_t i = 0; i < node->count; i++) {
		const struct orion_extent *extent = extents + i;

		if (extent->file_block != at || !extent->count || extent->count > blocks - at)
			return false;
		for (uint32_t j = 0; extent->block != ORION_HOLE && j < extent->count; j++)
			if (table->places[extent->block + j].length != (tail && at + j + 1 == blocks ? tail : block_size))
				return false;
		at += extent->count;
	}
	return at == blocks;
}

void block_table_free(struct block_table *table)
{
	free(table->places);
	free(table->digests);
	free(table->slots);
	*table = (struct block_table){.digest_size = table->digest_size};
}
