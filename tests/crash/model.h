/* SPDX-License-Identifier: BSD-3-Clause */
/* What the origin's bytes are, and those of each snapshot, as far as a
 * client can know.
 *
 * A request that changes the origin is a change; from when it is sent until
 * it is answered nobody knows whether it has been done.  A snapshot is frozen
 * at some instant while it is being asked for: each change under way in that
 * time is in it with all of its bytes, or with none, and the first read of
 * one of them tells which, for good.
 */

#ifndef FSSNAP_TEST_MODEL_H
#define FSSNAP_TEST_MODEL_H

#include <stdint.h>

struct model;
struct change;
struct frozen;

/* The model of an origin that has BYTES. */
struct model *model_create (const uint8_t *bytes, uint64_t size);
void model_free (struct model *model);

uint64_t model_size (const struct model *model);

/* A time that no event has had before. */
uint64_t model_now (struct model *model);

/* A request is about to be sent.  DATA: what it writes; NULL: it may make
 * each byte zero or leave it.  Nothing else that is under way touches the
 * same bytes.  May wait for a snapshot to be taken.
 */
struct change *model_begin (struct model *model, uint64_t offset,
                            uint64_t length, const uint8_t *data);

/* It was answered, and IS is there now; the change is gone. */
void model_end (struct model *model, struct change *change, const uint8_t *is);

/* It was refused, and has changed nothing. */
void model_refused (struct model *model, struct change *change);

/* The server has ended, and the origin is IS: each byte of what was under way
 * is as before or as after that change, all others are known.  NULL; or a
 * message, to be freed, that says what is wrong.
 */
char *model_settle (struct model *model, const uint8_t *is);

/* The same, with nothing under way. */
char *model_check (struct model *model, const uint8_t *is, uint64_t offset,
                   uint64_t length);

/* A snapshot is about to be asked for. */
struct frozen *frozen_begin (struct model *model);

/* It will not be answered, but may be taken as long as the server lives. */
void frozen_unanswered (struct frozen *frozen);

/* It was answered, or the server has ended. */
void frozen_end (struct frozen *frozen);

/* A range may read as zeros.  Before the first check. */
void frozen_set_free (struct frozen *frozen, uint64_t offset, uint64_t length);

/* LENGTH bytes of the snapshot were read, at OFFSET.  NULL: they may be so,
 * and what was not known of them is known by this; or a message, to be freed.
 */
char *frozen_check (struct frozen *frozen, const uint8_t *is, uint64_t offset,
                    uint64_t length);

void frozen_free (struct frozen *frozen);

#endif
