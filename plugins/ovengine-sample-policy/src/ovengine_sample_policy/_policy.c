/* The policy `fewest_rows`, and the capsule in which it travels. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>
#include "ovengine_policy.h"

static atomic_ullong decision_count;

static int32_t select_lane(void* context, const struct ovengine_dispatch* dispatch) {
    (void)context;
    int32_t best = OVENGINE_ANY_LANE;
    for (uint32_t i = 0; i < dispatch->lane_count; ++i) {
        const struct ovengine_lane_view* lane = &dispatch->lanes[i];
        if (lane->idle && (best < 0 || lane->rows < dispatch->lanes[best].rows)) best = (int32_t)i;
    }
    atomic_fetch_add_explicit(&decision_count, 1, memory_order_relaxed); /* a figure to look at, it orders nothing */
    return best;
}

/* The policy has no state: one struct serves all models, and nothing is to be freed. */
static struct ovengine_policy policy = {
    .abi_version = OVENGINE_POLICY_ABI_VERSION,
    .struct_size = sizeof(struct ovengine_policy),
    .context = NULL,
    .select_lane = select_lane,
    .destroy = NULL,
};

static PyObject* make_policy(PyObject* module, PyObject* unused) {
    (void)module, (void)unused;
    return PyCapsule_New(&policy, OVENGINE_POLICY_CAPSULE, NULL);
}

static PyObject* decisions(PyObject* module, PyObject* unused) {
    (void)module, (void)unused;
    return PyLong_FromUnsignedLongLong(atomic_load_explicit(&decision_count, memory_order_relaxed));
}

static PyMethodDef methods[] = {
    {"make_policy", make_policy, METH_NOARGS, "make_policy()\n--\n\nA capsule for `SchedulerPolicy.native`."},
    {"decisions", decisions, METH_NOARGS, "decisions()\n--\n\nHow often the policy was asked so far."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_policy",
    .m_doc = "The native half of ovengine_sample_policy.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__policy(void) { return PyModule_Create(&module); }
