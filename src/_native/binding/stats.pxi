# _Tally: the figures of a model and of its row classes, added up; debug_counters.

_REASONS = ("full", "idle", "delay", "caller", "bulk", "session")


cdef class _Tally:
    cdef vector[shared_ptr[LaneStats]] lanes  # lane by lane: children run on the same devices as their parent
    cdef list devices
    cdef uint64_t cancelled, closed, expired, superseded, refused, policy_faults, waiting
    cdef long rejected_full, rejected_input, rejected_closed, rejected_deadline, timeouts

    def __cinit__(self):
        self.devices = []

    cdef add(self, NativeModel model):
        cdef size_t i
        cdef ModelCore* core = model.core.get()
        for i in range(core.lane_count()):
            self._add_lane(i, model._devices[core.lane_device(i)], core.lane_stats(i))
        self.cancelled += core.cancelled_requests()
        self.closed += core.closed_requests()
        self.expired += core.expired_requests()
        self.superseded += core.superseded_requests()
        self.refused += core.refused_requests()
        self.policy_faults += core.policy_faults()
        self.waiting += core.approx_waiting()
        self.rejected_full += model._rejected_full
        self.rejected_input += model._rejected_input
        self.rejected_closed += model._rejected_closed
        self.rejected_deadline += model._rejected_deadline
        self.timeouts += model._timeouts

    cdef add_tally(self, _Tally other):
        cdef size_t i
        for i in range(other.lanes.size()):
            self._add_lane(i, other.devices[i], other.lanes[i].get()[0])
        self.cancelled += other.cancelled
        self.closed += other.closed
        self.expired += other.expired
        self.superseded += other.superseded
        self.refused += other.refused
        self.policy_faults += other.policy_faults
        self.rejected_full += other.rejected_full
        self.rejected_input += other.rejected_input
        self.rejected_deadline += other.rejected_deadline
        self.timeouts += other.timeouts

    cdef _add_lane(self, size_t index, object device, const LaneStats& stats):
        if index == self.lanes.size():
            self.lanes.push_back(make_shared[LaneStats]())
            self.devices.append(device)
        self.lanes[index].get().add(stats)

    cdef dict as_dict(self):
        cdef const LaneStats* lane
        cdef size_t i
        cdef int reason
        totals = dict.fromkeys(("requests", "rows", "batches", "failed", "cancelled", "lost", "closed"), 0)
        dispatch = dict.fromkeys(_REASONS, 0)
        lanes = []
        for i in range(self.lanes.size()):
            lane = self.lanes[i].get()
            totals["requests"] += lane.requests.load()
            totals["rows"] += lane.rows.load()
            totals["batches"] += lane.batches.load()
            totals["failed"] += lane.failed.load()
            totals["cancelled"] += lane.cancelled.load()
            totals["lost"] += lane.lost.load()
            for reason in range(len(_REASONS)):
                dispatch[_REASONS[reason]] += lane.reasons[reason].load()
            lanes.append((self.devices[i], lane.batches.load(), lane.rows.load()))
        return {
            "requests": totals["requests"],
            "rows": totals["rows"],
            "batches": totals["batches"],
            "dispatch": dispatch,
            "rows_per_batch": totals["rows"] / totals["batches"] if totals["batches"] else 0.0,
            "queue_us": _percentiles(queue_percentiles(self.lanes)),
            "inference_us": _percentiles(inference_percentiles(self.lanes)),
            "lanes": lanes,
            "failures": {
                "inference": totals["failed"],
                "cancelled": totals["cancelled"] + self.cancelled,
                "lease_lost": totals["lost"],
                "engine_closed": self.closed,
                "timeout": self.timeouts,
                "deadline_exceeded": self.expired,
                "superseded": self.superseded,
                "out_of_memory": self.refused,
            },
            "rejections": {
                "queue_full": self.rejected_full,
                "invalid_input": self.rejected_input,
                "closed": self.rejected_closed,
                "deadline_unmeetable": self.rejected_deadline,
            },
            "pending_requests": self.waiting,
            "policy_faults": self.policy_faults,
        }


cdef dict _percentiles(Percentiles p):
    return {"p50": p.p50_us, "p90": p.p90_us, "p99": p.p99_us, "max": p.max_us, "mean": p.mean_us}


def debug_counters():
    """Count what the whole process has in use: slots, batches, requests, rows, sessions and notices. All are zero at
    rest.
    """
    cdef NativeModel model
    cdef InUse in_use
    cdef size_t sessions
    _sweep_abandoned()
    _sweep_lingering()
    totals = dict.fromkeys(("slots", "batches", "requests", "rows", "sessions"), 0)
    for model in list(_models):
        if model.core.get().forked():
            continue
        with nogil:  # it may have to wait for a close(), which may wait for a thread that waits for the GIL
            in_use = model.core.get().in_use()
            sessions = model.core.get().sessions().count()
        totals["slots"] += in_use.slots
        totals["batches"] += in_use.batches
        totals["requests"] += in_use.requests
        totals["rows"] += in_use.rows
        totals["sessions"] += sessions
    mailboxes = [*_loop_mailboxes.values(), *_abandoned, *([_callback_mailbox] if _callback_mailbox else [])]
    totals["notices"] = sum([(<_Mailbox>mailbox).outstanding for mailbox in mailboxes])
    return totals
