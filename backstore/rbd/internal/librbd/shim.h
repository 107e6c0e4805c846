#ifndef LUNAR_RBD_SHIM_H
#define LUNAR_RBD_SHIM_H

#include <rados/librados.h>
#include <rbd/librbd.h>
#include <stdint.h>

enum { LUNAR_READ, LUNAR_WRITE, LUNAR_FLUSH, LUNAR_DISCARD, LUNAR_ZEROES, LUNAR_CAW };

// A command as Go queues it. Addresses are numbers, so that Go's collector sees no pointer in C's memory.
struct lunar_cmd {
	uint32_t slot;
	uint16_t op;
	uint16_t thick; // LUNAR_ZEROES: the range stays allocated
	int32_t flags;  // LIBRADOS_OP_FLAG_…
	uint64_t off, len, buf, cmp;
};

// A request that has ended.
struct lunar_end {
	uint32_t slot;
	int64_t ret;
	uint64_t mismatch; // LUNAR_CAW: where the data differs, within the request, behind where the object begins in the image
};

struct lunar_ring;

struct lunar_op {
	struct lunar_op *next;
	struct lunar_ring *ring;
	uint32_t slot;
	int64_t ret;
	uint64_t mismatch;
};

struct lunar_ring {
	struct lunar_op *ended; // the newest first; atomic
	int fd;                 // an eventfd
	int inside;             // callbacks that run; atomic
	int updated;            // the image's header has changed; atomic
	uint32_t slots;
	struct lunar_op *ops;   // one a slot
	struct lunar_cmd *cmds; // one a slot: what is queued
	struct lunar_end *ends; // one a slot: what the last reap found
};

struct lunar_ring *lunar_ring_new(uint32_t slots);
void lunar_ring_free(struct lunar_ring *r);
void lunar_submit(struct lunar_ring *r, rbd_image_t image, uint32_t n);
int64_t lunar_reap(struct lunar_ring *r); // how many; below 0: -1 - how many, and the image has changed
void lunar_wake(struct lunar_ring *r);
int lunar_watch(struct lunar_ring *r, rbd_image_t image, uint64_t *handle);

// lunar_config copies what the image has for an option of Ceph's, by its own metadata, its pool's or the client's configuration; -ENOENT: there is none.
int lunar_config(rbd_image_t image, const char *name, char *out, size_t room);

// How far long work is; Go reads and writes it beside.
struct lunar_progress {
	uint64_t done, total;
	int cancel;
};
int lunar_resize(rbd_image_t image, uint64_t size, int shrink, struct lunar_progress *p);
int lunar_flatten(rbd_image_t image, struct lunar_progress *p);
int lunar_rollback(rbd_image_t image, const char *snap, struct lunar_progress *p);
int lunar_remove(rados_ioctx_t io, const char *name, struct lunar_progress *p);
int lunar_trash_remove(rados_ioctx_t io, const char *id, int force, struct lunar_progress *p);
int lunar_snap_create(rbd_image_t image, const char *name);
int lunar_snap_remove(rbd_image_t image, const char *name, struct lunar_progress *p);

// What diff_iterate tells, as extents that are there, adjacent ones joined.
struct lunar_extent {
	uint64_t off, len;
};
struct lunar_diff {
	struct lunar_extent *ext;
	uint32_t n, room;
	int full;
};
int lunar_diff(rbd_image_t image, uint64_t off, uint64_t len, struct lunar_diff *d);

#endif
