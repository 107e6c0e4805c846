//go:build rbd && cgo

#include "shim.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct lunar_ring *lunar_ring_new(uint32_t slots)
{
	struct lunar_ring *r = calloc(1, sizeof *r);
	if (!r)
		return NULL;
	r->slots = slots;
	r->ops = calloc(slots, sizeof *r->ops);
	r->cmds = calloc(slots, sizeof *r->cmds);
	r->ends = calloc(slots, sizeof *r->ends);
	r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!r->ops || !r->cmds || !r->ends || r->fd < 0) {
		lunar_ring_free(r);
		return NULL;
	}
	for (uint32_t i = 0; i < slots; i++) {
		r->ops[i].ring = r;
		r->ops[i].slot = i;
	}
	return r;
}

// No request is in flight and the image is closed; a callback may be about to return.
void lunar_ring_free(struct lunar_ring *r)
{
	while (__atomic_load_n(&r->inside, __ATOMIC_ACQUIRE))
		sched_yield();
	if (r->fd >= 0)
		close(r->fd);
	free(r->ops);
	free(r->cmds);
	free(r->ends);
	free(r);
}

void lunar_wake(struct lunar_ring *r)
{
	uint64_t one = 1;
	ssize_t n = write(r->fd, &one, sizeof one); // fails only when it was written 2^64 times
	(void)n;
}

static void end(struct lunar_op *op, int64_t ret)
{
	struct lunar_ring *r = op->ring;
	struct lunar_op *head = __atomic_load_n(&r->ended, __ATOMIC_RELAXED);
	op->ret = ret;
	do
		op->next = head;
	while (!__atomic_compare_exchange_n(&r->ended, &head, op, 1, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
	if (!head) // else whoever found it empty has woken the reader, who takes all
		lunar_wake(r);
}

static void aio_done(rbd_completion_t c, void *arg)
{
	struct lunar_op *op = arg;
	struct lunar_ring *r = op->ring;
	int64_t ret = rbd_aio_get_return_value(c);
	__atomic_add_fetch(&r->inside, 1, __ATOMIC_ACQ_REL);
	rbd_aio_release(c);
	end(op, ret);
	__atomic_sub_fetch(&r->inside, 1, __ATOMIC_ACQ_REL);
}

void lunar_submit(struct lunar_ring *r, rbd_image_t image, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct lunar_cmd *m = &r->cmds[i];
		struct lunar_op *op = &r->ops[m->slot];
		rbd_completion_t c;
		op->mismatch = 0;
		int64_t ret = rbd_aio_create_completion(op, aio_done, &c);
		if (ret < 0) {
			end(op, ret);
			continue;
		}
		switch (m->op) {
		case LUNAR_READ:
			ret = rbd_aio_read2(image, m->off, m->len, (char *)(uintptr_t)m->buf, c, m->flags);
			break;
		case LUNAR_WRITE:
			ret = rbd_aio_write2(image, m->off, m->len, (const char *)(uintptr_t)m->buf, c, m->flags);
			break;
		case LUNAR_FLUSH:
			ret = rbd_aio_flush(image, c);
			break;
		case LUNAR_DISCARD:
			ret = rbd_aio_discard(image, m->off, m->len, c);
			break;
		case LUNAR_ZEROES:
			ret = rbd_aio_write_zeroes(image, m->off, m->len, c, m->thick ? RBD_WRITE_ZEROES_FLAG_THICK_PROVISION : 0, m->flags);
			break;
		case LUNAR_CAW:
			ret = rbd_aio_compare_and_write(image, m->off, m->len, (const char *)(uintptr_t)m->cmp, (const char *)(uintptr_t)m->buf, c,
							&op->mismatch, m->flags);
			break;
		default:
			ret = -EINVAL;
		}
		if (ret < 0) { // it was not begun, and c never completes
			rbd_aio_release(c);
			end(op, ret);
		}
	}
}

int64_t lunar_reap(struct lunar_ring *r)
{
	uint64_t count;
	ssize_t got = read(r->fd, &count, sizeof count); // before the list is taken: what comes after wakes again
	(void)got;
	int changed = __atomic_exchange_n(&r->updated, 0, __ATOMIC_ACQ_REL);
	struct lunar_op *op = __atomic_exchange_n(&r->ended, NULL, __ATOMIC_ACQUIRE);
	uint32_t n = 0;
	for (struct lunar_op *o = op; o; o = o->next)
		n++;
	for (uint32_t i = n; op; op = op->next) { // the oldest first
		i--;
		r->ends[i] = (struct lunar_end){op->slot, op->ret, op->mismatch};
	}
	return changed ? -1 - (int64_t)n : n; // one number: a pointer to Go's memory would allocate
}

static void updated(void *arg)
{
	struct lunar_ring *r = arg;
	__atomic_add_fetch(&r->inside, 1, __ATOMIC_ACQ_REL);
	__atomic_store_n(&r->updated, 1, __ATOMIC_RELEASE);
	lunar_wake(r);
	__atomic_sub_fetch(&r->inside, 1, __ATOMIC_ACQ_REL);
}

int lunar_watch(struct lunar_ring *r, rbd_image_t image, uint64_t *handle)
{
	return rbd_update_watch(image, handle, updated, r);
}

int lunar_config(rbd_image_t image, const char *name, char *out, size_t room)
{
	rbd_config_option_t *all = NULL;
	int n = 0, ret = rbd_config_image_list(image, NULL, &n);
	while (ret == -ERANGE) {
		free(all);
		all = calloc(n, sizeof *all);
		if (!all)
			return -ENOMEM;
		ret = rbd_config_image_list(image, all, &n);
	}
	if (ret >= 0) {
		ret = -ENOENT;
		for (int i = 0; i < n; i++)
			if (!strcmp(all[i].name, name))
				ret = (size_t)snprintf(out, room, "%s", all[i].value) < room ? 0 : -ERANGE;
		rbd_config_image_list_cleanup(all, n);
	}
	free(all);
	return ret;
}

static int progress(uint64_t done, uint64_t total, void *arg)
{
	struct lunar_progress *p = arg;
	__atomic_store_n(&p->total, total, __ATOMIC_RELAXED);
	__atomic_store_n(&p->done, done, __ATOMIC_RELAXED);
	return __atomic_load_n(&p->cancel, __ATOMIC_RELAXED) ? -ECANCELED : 0;
}

int lunar_resize(rbd_image_t image, uint64_t size, int shrink, struct lunar_progress *p)
{
	return rbd_resize2(image, size, shrink, progress, p);
}

int lunar_flatten(rbd_image_t image, struct lunar_progress *p) { return rbd_flatten_with_progress(image, progress, p); }

int lunar_rollback(rbd_image_t image, const char *snap, struct lunar_progress *p)
{
	return rbd_snap_rollback_with_progress(image, snap, progress, p);
}

int lunar_remove(rados_ioctx_t io, const char *name, struct lunar_progress *p)
{
	return rbd_remove_with_progress(io, name, progress, p);
}

int lunar_trash_remove(rados_ioctx_t io, const char *id, int force, struct lunar_progress *p)
{
	return rbd_trash_remove_with_progress(io, id, force, progress, p);
}

int lunar_snap_create(rbd_image_t image, const char *name) { return rbd_snap_create(image, name); }

int lunar_snap_remove(rbd_image_t image, const char *name, struct lunar_progress *p)
{
	return rbd_snap_remove2(image, name, 0, progress, p);
}

static int extent(uint64_t off, size_t len, int exists, void *arg)
{
	struct lunar_diff *d = arg;
	if (!exists)
		return 0;
	if (d->n && d->ext[d->n - 1].off + d->ext[d->n - 1].len == off) {
		d->ext[d->n - 1].len += len;
		return 0;
	}
	if (d->n == d->room) {
		d->full = 1;
		return -ECANCELED;
	}
	d->ext[d->n++] = (struct lunar_extent){off, len};
	return 0;
}

int lunar_diff(rbd_image_t image, uint64_t off, uint64_t len, struct lunar_diff *d)
{
	int ret = rbd_diff_iterate2(image, NULL, off, len, 1, 0, extent, d);
	return d->full ? 0 : ret;
}
