/* The policy `weighted_fair`: a table of weights, and the capsule in which it travels. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "ovengine_policy.h"

struct weight {
    char* name;
    size_t bytes;
    double weight;
};

/* Immutable once it is in force. */
struct table {
    size_t count;
    double other;            /* of groups that are not in it */
    struct weight weights[]; /* by name, ascending */
};

/* Lookups come from lanes, without the GIL, and must not wait; a table is freed when no lookup can have it any more:
 * it is out of `current`, and after that nobody was seen inside. Both are sequentially consistent, so a lookup either
 * counts before that look, or finds the new table. */
struct state {
    struct ovengine_policy policy;
    _Atomic(struct table*) current;
    atomic_uint inside;
};

static void free_table(struct table* table) {
    if (table == NULL) return;
    for (size_t i = 0; i < table->count; ++i) free(table->weights[i].name);
    free(table);
}

/* As Python orders bytes. */
static int compare(const struct weight* weight, const char* name, size_t bytes) {
    size_t shorter = weight->bytes < bytes ? weight->bytes : bytes;
    int order = memcmp(weight->name, name, shorter);
    return order != 0 ? order : (weight->bytes > bytes) - (weight->bytes < bytes);
}

static double find(const struct table* table, const char* name, size_t bytes) {
    size_t first = 0, last = table->count;
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        int order = compare(&table->weights[middle], name, bytes);
        if (order == 0) return table->weights[middle].weight;
        if (order < 0)
            first = middle + 1;
        else
            last = middle;
    }
    return table->other;
}

static double group_weight(void* context, const struct ovengine_group_view* group) {
    struct state* state = context;
    atomic_fetch_add(&state->inside, 1);
    double weight = find(atomic_load(&state->current), group->name, group->name_bytes);
    atomic_fetch_sub(&state->inside, 1);
    return weight;
}

static int32_t select_lane(void* context, const struct ovengine_dispatch* dispatch) {
    (void)context, (void)dispatch;
    return OVENGINE_ANY_LANE;
}

static struct state* state_of(PyObject* capsule) {
    struct ovengine_policy* policy = PyCapsule_GetPointer(capsule, OVENGINE_POLICY_CAPSULE);
    return policy == NULL ? NULL : policy->context;
}

/* Models that use the policy hold the capsule: nobody looks anything up any more. */
static void free_state(PyObject* capsule) {
    struct state* state = state_of(capsule);
    free_table(atomic_load(&state->current));
    free(state);
}

static PyObject* make_policy(PyObject* module, PyObject* unused) {
    (void)module, (void)unused;
    struct state* state = calloc(1, sizeof *state);
    struct table* empty = calloc(1, sizeof *empty);
    if (state == NULL || empty == NULL) {
        free(state), free(empty);
        return PyErr_NoMemory();
    }
    empty->other = 1;
    atomic_init(&state->current, empty);
    state->policy = (struct ovengine_policy){
        .abi_version = OVENGINE_POLICY_ABI_VERSION,
        .struct_size = sizeof(struct ovengine_policy),
        .context = state,
        .select_lane = select_lane,
        .group_weight = group_weight,
    };
    PyObject* capsule = PyCapsule_New(&state->policy, OVENGINE_POLICY_CAPSULE, free_state);
    if (capsule == NULL) free(empty), free(state);
    return capsule;
}

static PyObject* set_weights(PyObject* module, PyObject* arguments) {
    (void)module;
    PyObject *capsule, *list;
    double other;
    if (!PyArg_ParseTuple(arguments, "OO!d", &capsule, &PyList_Type, &list, &other)) return NULL;
    struct state* state = state_of(capsule);
    if (state == NULL) return NULL;
    Py_ssize_t count = PyList_GET_SIZE(list);
    struct table* table = calloc(1, sizeof *table + (size_t)count * sizeof(struct weight));
    if (table == NULL) return PyErr_NoMemory();
    table->other = other;
    for (Py_ssize_t i = 0; i < count; ++i) {
        const char* name;
        Py_ssize_t bytes;
        struct weight* weight = &table->weights[i];
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, i), "y#d", &name, &bytes, &weight->weight)) goto failed;
        weight->name = malloc((size_t)bytes + 1);
        if (weight->name == NULL) {
            PyErr_NoMemory();
            goto failed;
        }
        memcpy(weight->name, name, (size_t)bytes);
        weight->bytes = (size_t)bytes;
        table->count = (size_t)i + 1;
    }
    struct table* old = atomic_exchange(&state->current, table);
    while (atomic_load(&state->inside) != 0) sched_yield(); /* nanoseconds: a search in a table */
    free_table(old);
    Py_RETURN_NONE;
failed:
    free_table(table);
    return NULL;
}

static PyMethodDef methods[] = {
    {"make_policy", make_policy, METH_NOARGS, "make_policy()\n--\n\nA capsule for `SchedulerPolicy.native`."},
    {"set_weights", set_weights, METH_VARARGS,
     "set_weights(policy, weights, default)\n--\n\nReplaces the weights: pairs of name and weight, sorted by name."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_policy",
    .m_doc = "The native half of ovengine_weighted_fair.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__policy(void) { return PyModule_Create(&module); }
