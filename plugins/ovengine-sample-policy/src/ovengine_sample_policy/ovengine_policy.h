/* Native scheduler policies for ovengine: the stable C interface.
 *
 * A plugin hands over a PyCapsule named OVENGINE_POLICY_CAPSULE around a `struct ovengine_policy`. Models hold the
 * capsule, and the struct must not change, until the last one that uses the policy is gone (closed, and dropped by all
 * who referred to it). Then `destroy` is called, once, on any thread without the GIL, and the policy must not be handed
 * out again. One that is meant for models to come leaves `destroy` NULL and frees what it has with the capsule.
 *
 * `select_lane` is called without the GIL, possibly from several threads at once, each time when a batch is there and
 * more than one lane is idle. It must not block, allocate or call Python. An answer that names no idle lane counts as
 * a fault; the engine then takes the first idle lane.
 *
 * `group_weight` is called like it, each time when a request of a group is put into a batch.
 *
 * Members are added at the ends of the structs: `struct_size` says which ones there are. A policy that was built
 * before a member was added is taken as one that leaves it NULL.
 */
#ifndef OVENGINE_POLICY_H
#define OVENGINE_POLICY_H

#include <stddef.h>
#include <stdint.h>

#define OVENGINE_POLICY_ABI_VERSION 1u
#define OVENGINE_POLICY_CAPSULE "ovengine.policy"
#define OVENGINE_ANY_LANE (-1)

#ifdef __cplusplus
extern "C" {
#endif

/* One lane, as the policy sees it. A snapshot: `batches` and `rows` may be a moment old. */
struct ovengine_lane_view {
    uint32_t device;  /* index of the lane's device in the plan's order, 0 = preferred */
    uint32_t idle;    /* 1 when the lane can take a batch now */
    uint64_t batches; /* batches that it has run */
    uint64_t rows;    /* rows that it has run */
};

/* One decision. Fields may be added at the end in later minor versions: check struct_size before reading those. */
struct ovengine_dispatch {
    uint32_t struct_size;
    uint32_t lane_count;
    const struct ovengine_lane_view* lanes;
    uint32_t pending_rows; /* rows that wait for a lane, this batch included */
    uint32_t priority;     /* of the batch, 1 = highest */
};

/* Requests that share what there is with those of other groups: `submit(..., group=key)`. */
struct ovengine_group_view {
    uint32_t struct_size;
    uint32_t waiting;  /* requests of the group that wait, roughly */
    const char* name;  /* str(key) in UTF-8, ends with a zero byte that is not counted */
    size_t name_bytes; /* it may have zero bytes of its own */
};

struct ovengine_policy {
    uint32_t abi_version; /* OVENGINE_POLICY_ABI_VERSION */
    uint32_t struct_size; /* sizeof(struct ovengine_policy) */
    void* context;        /* handed to every call */
    /* Index of the idle lane that shall take the batch, or OVENGINE_ANY_LANE. Required: OVENGINE_ANY_LANE where the
     * policy is about groups only. */
    int32_t (*select_lane)(void* context, const struct ovengine_dispatch* dispatch);
    /* Frees `context`; see above. May be NULL. */
    void (*destroy)(void* context);
    /* The group's share beside the others', as rows: with weights of 3 and 1, three rows run for each one of the other
     * group, as long as both wait. Positive and finite; anything else counts as a fault, and as 1. May be NULL: equal
     * shares. */
    double (*group_weight)(void* context, const struct ovengine_group_view* group);
};

/* What a policy has at least. */
#define OVENGINE_POLICY_LEAST_SIZE (offsetof(struct ovengine_policy, group_weight))

#ifdef __cplusplus
}
#endif
#endif
