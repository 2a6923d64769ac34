/* Requests to a release. */
#define _GNU_SOURCE
#include "fuse_release.h"

#include "events.h"
#include "push.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Seconds; the kernel takes the most that it can count. */
#define ENDLESS ((uint64_t)1 << 62)
/* The size that a directory is shown with. */
#define DIRECTORY_SIZE 4096
#define STATFS_BLOCK 4096
/* The longest list of entries in one answer; the kernel asks for less. */
#define ENTRIES_MAX (128u << 10)

/* A READ that waits for blocks. */
struct pending {
	struct orion_served *served;
	struct orion_session *session;
	uint64_t unique;
	struct orion_read *read;
	uint64_t traced; /* number of its record */
	struct orion_bundle_wait wait; /* for a frame of the bundle */
	struct pending *next, *previous;
};

struct orion_served {
	const struct orion_manifest *manifest;
	struct orion_fetch *fetch;
	struct orion_served_settings settings;
	struct orion_bundle *bundle; /* NULL: none */
	atomic_bool pushes; /* what is about to be asked for */
	uint64_t generation;
	struct orion_pusher *pusher;
	pthread_mutex_t lock; /* of what follows */
	struct pending *pending;
	uint64_t in_flight;
};

static void push(void *context, const struct orion_push *push);

int orion_served_create(const struct orion_manifest *manifest, struct orion_fetch *fetch,
			const struct orion_served_settings *settings, struct orion_served **ret)
{
	struct orion_served *served = calloc(1, sizeof(*served));

	if (!served)
		return -ENOMEM;

	const int error = orion_pusher_create(push, served, &served->pusher);

	if (error) {
		free(served);
		return error;
	}
	served->manifest = manifest;
	served->fetch = fetch;
	served->settings = *settings;
	served->pushes = !settings->first_touches && !settings->learns;
	memcpy(&served->generation, manifest->header->digest, sizeof(served->generation));
	pthread_mutex_init(&served->lock, NULL);
	*ret = served;
	return 0;
}

void orion_served_push(struct orion_served *served)
{
	served->pushes = true;
}

void orion_served_destroy(struct orion_served *served)
{
	if (!served)
		return;
	orion_pusher_destroy(served->pusher);
	pthread_mutex_destroy(&served->lock);
	free(served);
}

void orion_served_stop(struct orion_served *served)
{
	orion_pusher_stop(served->pusher);
}

uint64_t orion_served_in_flight(struct orion_served *served)
{
	pthread_mutex_lock(&served->lock);
	const uint64_t found = served->in_flight;

	pthread_mutex_unlock(&served->lock);
	return found;
}

/* A node id's inode number; of ids that were never given, one that no manifest has. */
static uint32_t number_of(uint64_t node)
{
	return node - 1 < UINT32_MAX ? (uint32_t)(node - 1) : UINT32_MAX;
}

static void fill_attributes(const struct orion_served *served, uint32_t number, const struct orion_inode *inode,
			    struct fuse_attr *ret)
{
	const uint64_t size = S_ISDIR(inode->mode) ? DIRECTORY_SIZE : inode->size;
	const uint64_t taken = S_ISREG(inode->mode) ? orion_manifest_allocated(served->manifest, inode) : 0;

	*ret = (struct fuse_attr){
		.ino = (uint64_t)number + 1,
		.size = size,
		.blocks = (taken + 511) / 512,
		.atime = (uint64_t)inode->mtime,
		.mtime = (uint64_t)inode->mtime,
		.ctime = (uint64_t)inode->mtime,
		.atimensec = inode->mtime_nsec,
		.mtimensec = inode->mtime_nsec,
		.ctimensec = inode->mtime_nsec,
		.mode = inode->mode,
		.nlink = inode->nlink,
		.uid = inode->uid,
		.gid = inode->gid,
		.rdev = inode->rdev,
		.blksize = served->manifest->header->block_size,
	};
}

static int fill_entry(const struct orion_served *served, uint32_t number, struct fuse_entry_out *ret)
{
	const struct orion_inode *inode;
	const int error = orion_manifest_inode(served->manifest, number, &inode);

	if (error)
		return error;
	*ret = (struct fuse_entry_out){
		.nodeid = (uint64_t)number + 1,
		.generation = served->generation,
		.entry_valid = ENDLESS,
		.attr_valid = ENDLESS,
	};
	fill_attributes(served, number, inode, &ret->attr);
	return 0;
}

/* A file that somebody looked up may be read soon. */
static void trace_lookup(struct orion_served *served, const struct orion_request *request, uint64_t arrived,
			 uint32_t number)
{
	const struct orion_trace_record record = {
		.t_ns = arrived, .inode = number, .pid = request->header->pid, .kind = ORION_TRACE_LOOKUP};

	orion_trace_end(served->settings.trace, orion_trace_begin(served->settings.trace, &record), ORION_TRACE_HIT, 0);
}

static void lookup(struct orion_served *served, const struct orion_request *request)
{
	const uint64_t unique = request->header->unique;
	const uint64_t arrived = served->settings.trace ? orion_now_ns() : 0;
	struct fuse_entry_out out = {.entry_valid = ENDLESS};
	uint32_t number;
	size_t length;
	const char *name = orion_request_name(request, 0, &length);
	int error = -EINVAL;

	if (name)
		error = orion_manifest_lookup(served->manifest, number_of(request->header->nodeid), name, length, &number);
	/* Node 0: the kernel remembers that there is no such name. */
	if (!error)
		error = fill_entry(served, number, &out);
	else if (error == -ENOENT)
		error = 0;
	if (served->settings.trace && out.nodeid && S_ISREG(out.attr.mode))
		trace_lookup(served, request, arrived, number);
	if (error)
		orion_reply_error(request->session, unique, error);
	else
		orion_reply(request->session, unique, &out, sizeof(out));
}

static void getattr(struct orion_served *served, const struct orion_request *request)
{
	const uint32_t number = number_of(request->header->nodeid);
	struct fuse_attr_out out = {.attr_valid = ENDLESS};
	const struct orion_inode *inode;
	const int error = orion_manifest_inode(served->manifest, number, &inode);

	if (error) {
		orion_reply_error(request->session, request->header->unique, error);
		return;
	}
	fill_attributes(served, number, inode, &out.attr);
	orion_reply(request->session, request->header->unique, &out, sizeof(out));
}

static void readlink_of(struct orion_served *served, const struct orion_request *request)
{
	const char *target;
	size_t length;
	const int error =
		orion_manifest_target(served->manifest, number_of(request->header->nodeid), &target, &length);

	if (error)
		orion_reply_error(request->session, request->header->unique, error);
	else
		orion_reply(request->session, request->header->unique, target, length);
}

static void forget_pending(struct pending *pending)
{
	struct orion_served *served = pending->served;

	if (pending->previous)
		pending->previous->next = pending->next;
	else
		served->pending = pending->next;
	if (pending->next)
		pending->next->previous = pending->previous;
	served->in_flight--;
}

bool orion_served_is_in_flight(struct orion_served *served, uint32_t inode, uint64_t offset, uint64_t length)
{
	const struct pending *pending;

	pthread_mutex_lock(&served->lock);
	for (pending = served->pending; pending; pending = pending->next)
		if (pending->read->inode == inode && pending->read->offset < offset + length &&
		    offset < pending->read->offset + pending->read->length)
			break;
	pthread_mutex_unlock(&served->lock);
	return pending != NULL;
}

/* In the pusher's thread. The kernel would have it wait for a READ that is in flight, perhaps for a dead server's
 * deadline; one that comes after this look finds the block here, and is answered at once. */
static void push(void *context, const struct orion_push *push)
{
	struct orion_served *served = context;

	if (orion_served_is_in_flight(served, number_of(push->node), push->offset, push->block->length))
		return;
	orion_session_store(push->session, push->node, push->offset, push->block->bytes, push->block->length);
	orion_fetch_given(served->fetch, push->number);
}

/* Parts of blocks that were given may be followed by the rest. */
static void push_rests(const struct pending *pending)
{
	const struct orion_served *served = pending->served;
	const struct orion_read *read = pending->read;
	const uint64_t first = read->offset & -(uint64_t)served->manifest->header->block_size;

	if (!served->pushes)
		return;
	for (uint32_t i = 0; read->kept && !read->error && i < read->slot_count; i++) {
		const struct orion_slot *slot = &read->slots[i];

		if (slot->block && slot->length < slot->block->length)
			orion_pusher_given(served->pusher,
					   &(struct orion_push){pending->session, (uint64_t)read->inode + 1,
								first + ((uint64_t)i << served->manifest->block_shift),
								slot->number, slot->block});
	}
}

/* The record's last part; before the answer, so that whoever has it can see the record. */
static void trace_answer(const struct pending *pending, bool cancelled)
{
	const struct orion_read *read = pending->read;
	enum orion_trace_outcome outcome = ORION_TRACE_HIT;

	if (read->error || cancelled)
		outcome = ORION_TRACE_ERROR;
	else if (read->missed)
		outcome = read->missed > read->late ? ORION_TRACE_MISS : ORION_TRACE_LATE;
	orion_trace_end(pending->served->settings.trace, pending->traced, outcome, read->missed);
}

static void answer_read(struct orion_read *read)
{
	struct pending *pending = read->context;

	pthread_mutex_lock(&pending->served->lock);
	forget_pending(pending);
	pthread_mutex_unlock(&pending->served->lock);
	trace_answer(pending, false);
	if (read->error)
		orion_reply_error(pending->session, pending->unique, read->error);
	else
		orion_reply_parts(pending->session, pending->unique, read->parts, read->part_count);
	push_rests(pending);
	orion_read_destroy(read);
	free(pending);
}

/* Bytes that the bundle brought: they need no block. */
static void answer_from_bundle(struct pending *pending, struct orion_bundle_answer *answer)
{
	struct iovec parts[ORION_BUNDLE_PARTS + 1];

	pthread_mutex_lock(&pending->served->lock);
	forget_pending(pending);
	pthread_mutex_unlock(&pending->served->lock);
	trace_answer(pending, false);
	memcpy(parts + 1, answer->parts, answer->count * sizeof(*parts));
	orion_reply_parts(pending->session, pending->unique, parts, answer->count + 1);
	orion_bundle_answer_release(answer);
	orion_read_destroy(pending->read);
	free(pending);
}

/* From here on the pending read may be answered, and gone, at any moment. */
static void begin(struct pending *pending)
{
	struct orion_served *served = pending->served;
	struct orion_read *read = pending->read;
	struct orion_bundle_answer answer;

	/* What the kernel does not keep is not what the bundle is for. */
	if (served->bundle && read->kept)
		switch (orion_bundle_ask(served->bundle, read->inode, read->offset, (uint32_t)read->length, &answer,
					 &pending->wait)) {
		case ORION_BUNDLE_HERE:
			answer_from_bundle(pending, &answer);
			return;
		case ORION_BUNDLE_COMES:
			return;
		case ORION_BUNDLE_NOT:
			break;
		}
	read->alone = served->bundle && orion_bundle_streams(served->bundle);
	if (orion_fetch_read(served->fetch, read))
		answer_read(read);
}

/* The frame that it waited for has landed, or will not. */
static void begin_again(struct orion_bundle_wait *wait)
{
	struct pending *pending = (struct pending *)((char *)wait - offsetof(struct pending, wait));

	pending->read->missed = pending->read->late = 1;
	begin(pending);
}

void orion_served_use_bundle(struct orion_served *served, struct orion_bundle *bundle)
{
	served->bundle = bundle;
}

static void read_file(struct orion_served *served, const struct orion_request *request)
{
	const struct fuse_read_in *in = orion_request_argument(request, sizeof(*in));
	const uint64_t unique = request->header->unique;
	const uint64_t arrived = served->settings.trace ? orion_now_ns() : 0;
	struct pending *pending = NULL;
	struct orion_read *read;
	int error = -EINVAL;

	if (in && in->size <= ORION_READ_MAX)
		error = orion_read_create(served->fetch, number_of(request->header->nodeid), in->offset, in->size, 1, &read);
	if (!error && !(pending = calloc(1, sizeof(*pending)))) {
		orion_read_destroy(read);
		error = -ENOMEM;
	}
	if (error) {
		orion_reply_error(request->session, unique, error);
		return;
	}
	*pending = (struct pending){.served = served, .session = request->session, .unique = unique, .read = read};
	read->kept = !(in->flags & O_DIRECT);
	read->done = answer_read;
	read->context = pending;
	pending->wait.ready = begin_again;
	pending->traced = orion_trace_begin(served->settings.trace, &(struct orion_trace_record){
		.t_ns = arrived,
		.offset = read->offset,
		.length = (uint32_t)read->length,
		.inode = read->inode,
		.pid = request->header->pid,
		.kind = ORION_TRACE_READ,
	});
	pthread_mutex_lock(&served->lock);
	pending->next = served->pending;
	if (pending->next)
		pending->next->previous = pending;
	served->pending = pending;
	served->in_flight++;
	pthread_mutex_unlock(&served->lock);
	begin(pending);
}

static void interrupt(struct orion_served *served, const struct orion_request *request)
{
	const struct fuse_interrupt_in *in = orion_request_argument(request, sizeof(*in));
	struct pending *pending;
	bool cancelled = false;

	if (!in)
		return;
	pthread_mutex_lock(&served->lock);
	for (pending = served->pending; pending && pending->unique != in->unique; pending = pending->next)
		;
	/* If it cannot be cancelled, it waits for nothing yet, or is being answered and waits for this lock. */
	cancelled = pending && ((served->bundle && orion_bundle_cancel(served->bundle, &pending->wait)) ||
				orion_fetch_cancel(served->fetch, pending->read));
	if (cancelled)
		forget_pending(pending);
	pthread_mutex_unlock(&served->lock);
	if (cancelled) {
		trace_answer(pending, true);
		orion_reply_error(pending->session, pending->unique, -EINTR);
		orion_read_destroy(pending->read);
		free(pending);
	} else {
		/* Another thread may just be about to begin with it: the kernel asks again, or knows that it is answered. */
		orion_reply_error(request->session, request->header->unique, -EAGAIN);
	}
}

/* One entry of a directory: positions 0 and 1 are . and .. */
static int entry_at(const struct orion_served *served, uint32_t directory, uint64_t position, struct orion_name *ret)
{
	const struct orion_inode *inode;
	const int error = orion_manifest_inode(served->manifest, directory, &inode);

	if (error)
		return error;
	if (!S_ISDIR(inode->mode))
		return -ENOTDIR;
	if (position < 2) {
		*ret = (struct orion_name){"..", (uint32_t)position + 1, position ? inode->parent : directory, DT_DIR};
		return 0;
	}
	if (position - 2 >= UINT32_MAX)
		return -ENOENT;
	return orion_manifest_entry(served->manifest, directory, (uint32_t)(position - 2), ret);
}

static void readdir_of(struct orion_served *served, const struct orion_request *request, bool plus)
{
	const struct fuse_read_in *in = orion_request_argument(request, sizeof(*in));
	const uint32_t directory = number_of(request->header->nodeid);
	const size_t fixed = plus ? sizeof(struct fuse_direntplus) : sizeof(struct fuse_dirent);
	size_t room = in ? in->size : 0, used = 0;
	int error = in ? 0 : -EINVAL;

	if (room > ENTRIES_MAX)
		room = ENTRIES_MAX;
	uint8_t *buffer = malloc(room + 1);

	if (!buffer)
		error = -ENOMEM;
	for (uint64_t position = in ? in->offset : 0; !error; position++) {
		struct orion_name name;

		error = entry_at(served, directory, position, &name);
		if (error)
			break;
		const size_t size = FUSE_DIRENT_ALIGN(fixed + name.length);

		if (used + size > room)
			break;
		struct fuse_dirent *entry = (struct fuse_dirent *)(buffer + used);

		memset(buffer + used, 0, size);
		if (plus) {
			struct fuse_direntplus *with = (struct fuse_direntplus *)(buffer + used);

			entry = &with->dirent;
			/* The kernel takes nothing but the name from these two. */
			if (position >= 2 && (error = fill_entry(served, name.inode, &with->entry_out)))
				break;
		}
		entry->ino = (uint64_t)name.inode + 1;
		entry->off = position + 1;
		entry->namelen = name.length;
		entry->type = name.type;
		memcpy(entry->name, name.text, name.length);
		used += size;
	}
	/* What came before a broken entry is given first. */
	if (error && error != -ENOENT && !used)
		orion_reply_error(request->session, request->header->unique, error);
	else
		orion_reply(request->session, request->header->unique, buffer, used);
	free(buffer);
}

/* The size if nothing but that is asked for, else the bytes. */
static void reply_xattr(const struct orion_request *request, uint32_t asked, const void *bytes, size_t length)
{
	const struct fuse_getxattr_out size = {.size = (uint32_t)length};

	if (!asked)
		orion_reply(request->session, request->header->unique, &size, sizeof(size));
	else if (asked < length)
		orion_reply_error(request->session, request->header->unique, -ERANGE);
	else
		orion_reply(request->session, request->header->unique, bytes, length);
}

static void getxattr(struct orion_served *served, const struct orion_request *request)
{
	const struct fuse_getxattr_in *in = orion_request_argument(request, sizeof(*in));
	const uint8_t *value = NULL;
	size_t length, size = 0;
	const char *name = orion_request_name(request, sizeof(*in), &length);
	int error = -EINVAL;

	/* If there are none at all, the kernel need not ask again. */
	if (!(served->manifest->header->flags & ORION_HAS_XATTRS))
		error = -ENOSYS;
	else if (in && name)
		error = orion_manifest_xattr(served->manifest, number_of(request->header->nodeid), name, length, &value,
					     &size);
	if (error)
		orion_reply_error(request->session, request->header->unique, error);
	else
		reply_xattr(request, in->size, value, size);
}

static void listxattr(struct orion_served *served, const struct orion_request *request)
{
	const struct fuse_getxattr_in *in = orion_request_argument(request, sizeof(*in));
	char *names = malloc(XATTR_LIST_MAX);
	size_t used = 0, length;
	const char *name;
	int error = !in ? -EINVAL : names ? 0 : -ENOMEM;

	if (!(served->manifest->header->flags & ORION_HAS_XATTRS))
		error = -ENOSYS;
	for (uint32_t i = 0; !error; i++) {
		error = orion_manifest_xattr_name(served->manifest, number_of(request->header->nodeid), i, &name, &length);
		if (!error && used + length + 1 > XATTR_LIST_MAX)
			error = -E2BIG;
		if (!error) {
			memcpy(names + used, name, length);
			names[used + length] = 0;
			used += length + 1;
		}
	}
	if (error != -ENOENT)
		orion_reply_error(request->session, request->header->unique, error);
	else
		reply_xattr(request, in->size, names, used);
	free(names);
}

static void statfs_of(struct orion_served *served, const struct orion_request *request)
{
	const struct orion_header *header = served->manifest->header;
	const struct fuse_statfs_out out = {.st = {
		.blocks = (header->content_bytes + STATFS_BLOCK - 1) / STATFS_BLOCK,
		.files = served->manifest->inode_count,
		.bsize = STATFS_BLOCK,
		.frsize = STATFS_BLOCK,
		.namelen = ORION_NAME_MAX,
	}};

	orion_reply(request->session, request->header->unique, &out, sizeof(out));
}

static void lseek_of(struct orion_served *served, const struct orion_request *request)
{
	const struct fuse_lseek_in *in = orion_request_argument(request, sizeof(*in));
	struct fuse_lseek_out out;
	int error = -EINVAL;

	if (in && (in->whence == SEEK_DATA || in->whence == SEEK_HOLE))
		error = orion_manifest_seek(served->manifest, number_of(request->header->nodeid), in->offset,
					    in->whence == SEEK_DATA, &out.offset);
	if (error)
		orion_reply_error(request->session, request->header->unique, error);
	else
		orion_reply(request->session, request->header->unique, &out, sizeof(out));
}

static void open_anything(const struct orion_request *request, uint64_t without, uint32_t flags)
{
	const struct fuse_open_out out = {.open_flags = flags};

	/* A kernel that can do without does not ask again. */
	if (orion_session_flags(request->session) & without)
		orion_reply_error(request->session, request->header->unique, -ENOSYS);
	else
		orion_reply(request->session, request->header->unique, &out, sizeof(out));
}

static void handle(void *context, const struct orion_request *request)
{
	struct orion_served *served = context;

	switch (request->header->opcode) {
	case FUSE_LOOKUP:
		lookup(served, request);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
		break;
	case FUSE_GETATTR:
		getattr(served, request);
		break;
	case FUSE_READLINK:
		readlink_of(served, request);
		break;
	case FUSE_OPEN:
		open_anything(request, FUSE_NO_OPEN_SUPPORT, FOPEN_KEEP_CACHE);
		break;
	case FUSE_OPENDIR:
		open_anything(request, FUSE_NO_OPENDIR_SUPPORT, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR);
		break;
	case FUSE_READ:
		read_file(served, request);
		break;
	case FUSE_READDIR:
		readdir_of(served, request, false);
		break;
	case FUSE_READDIRPLUS:
		readdir_of(served, request, true);
		break;
	case FUSE_GETXATTR:
		getxattr(served, request);
		break;
	case FUSE_LISTXATTR:
		listxattr(served, request);
		break;
	case FUSE_STATFS:
		statfs_of(served, request);
		break;
	case FUSE_LSEEK:
		lseek_of(served, request);
		break;
	case FUSE_INTERRUPT:
		interrupt(served, request);
		break;
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_DESTROY:
		orion_reply_error(request->session, request->header->unique, 0);
		break;
	/* What would change something; the kernel asks for none of it, for the mount is read-only. */
	case FUSE_SETATTR:
	case FUSE_SYMLINK:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_LINK:
	case FUSE_WRITE:
	case FUSE_CREATE:
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_FALLOCATE:
		orion_reply_error(request->session, request->header->unique, -EROFS);
		break;
	default:
		orion_reply_error(request->session, request->header->unique, -ENOSYS);
	}
}

void orion_served_options(struct orion_served *served, struct orion_session_options *ret)
{
	ret->no_readahead = served->settings.first_touches;
	ret->flags = FUSE_CACHE_SYMLINKS | FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT;
	if (served->manifest->header->flags & ORION_HAS_ACLS)
		ret->flags |= FUSE_POSIX_ACL;
	ret->handle = handle;
	ret->context = served;
}
