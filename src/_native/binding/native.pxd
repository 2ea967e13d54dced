"""The C++ core's declarations, as far as the binding uses them."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.map cimport map as cmap
from libcpp.memory cimport shared_ptr, unique_ptr
from libcpp.optional cimport optional
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

cdef extern from "<cstddef>" nogil:
    ctypedef struct byte "std::byte":
        pass

cdef extern from "device/executor.hpp" namespace "ovengine" nogil:
    cdef cppclass NativePort "ovengine::Port":
        vector[string] names
        vector[int64_t] shape
        cbool rank_is_static
        string dtype
        string element_type
        size_t bits
        vector[int64_t] least
        vector[int64_t] most

    cdef cppclass ShapedInput:
        const byte* data
        vector[int64_t] shape

    cdef cppclass ShapedOutput:
        vector[int64_t] shape
        vector[byte] data
        vector[string] text

    cdef cppclass Executor:
        void infer(uint32_t binding, byte** inputs, byte** outputs) except +
        vector[ShapedOutput] infer_shaped(const vector[ShapedInput]& inputs) except +

    cdef cppclass StatefulExecutor:
        const vector[NativePort]& states()
        void reset_state() except +
        ShapedOutput state(size_t variable) except +
        void set_state(size_t variable, const ShapedInput& value) except +

    cdef cppclass CompiledModel:
        const vector[NativePort]& inputs()
        const vector[NativePort]& outputs()
        string property(const string& name) except +
        string export_blob() except +
        unique_ptr[Executor] make_executor() except +
        shared_ptr[NativeOwnRequest] make_own_request() except +
        vector[ShapedOutput] try_infer(const vector[ShapedInput]& inputs, double seconds) except +

cdef extern from "device/own_request.hpp" namespace "ovengine" nogil:
    cdef cppclass NodeProfile:
        int status
        int64_t real_us, cpu_us
        string node_name, exec_type, node_type

    cdef cppclass NativeOwnRequest "ovengine::OwnRequest":
        void interrupt() except +
        void bind_input(size_t port, const void* tensor) except +
        void bind_inputs(size_t port, const vector[const void*]& tensors) except +
        void bind_output(size_t port, const void* tensor, cbool keep) except +
        const vector[NativePort]& states()
        void read_state(size_t variable, const void* tensor) except +
        void write_state(size_t variable, const void* tensor) except +
        void reset_state() except +
        void reset_state(size_t variable) except +
        vector[NodeProfile] profile() except +

cdef extern from "device/fake_executor.hpp" namespace "ovengine" nogil:
    cdef cppclass FakeBehavior:
        double service_time_us
        double service_time_per_row_us
        uint32_t fail_every

cdef extern from "device/openvino_executor.hpp" namespace "ovengine" nogil:
    cdef cppclass NativeInputValues "ovengine::InputValues":
        double low, high
        cbool is_free, fears_nan
        string unknown

    cdef cppclass NativeRowProof "ovengine::RowProof":
        vector[optional[int64_t]] inputs, outputs
        cbool is_refuted
        string unproven

    cdef cppclass NativeGraph "ovengine::Graph":
        const string& name()
        const vector[NativePort]& inputs()
        const vector[NativePort]& outputs()
        size_t constant_bytes()
        cbool has_state()
        cbool is_quantized()
        size_t borrowed_bytes() except +
        shared_ptr[NativeGraph] with_own_constants() except +
        shared_ptr[NativeGraph] reshaped(const cmap[size_t, string]& shapes) except +
        string content() except +
        size_t tensor_bytes() except +
        cmap[size_t, optional[int64_t]] layout_batch_axes() except +
        vector[vector[int64_t]] symbolic_batch_axes(const vector[optional[int64_t]]& inputs) except +
        shared_ptr[NativeGraph] batch_first(const vector[optional[int64_t]]& inputs,
                                            const vector[optional[int64_t]]& outputs) except +
        shared_ptr[NativeGraph] padded_inside(size_t input, int64_t axis, const vector[int64_t]& lengths) except +
        vector[NativeInputValues] input_values() except +
        NativeRowProof prove_rows(const vector[vector[optional[int64_t]]]& choices) except +

    cdef cppclass NativeRuntime "ovengine::Runtime":
        NativeRuntime() except +
        vector[string] available_devices() except +
        string device_property(const string& device, const string& name) except +
        cmap[string, cbool] supported_properties(const string& device) except +
        void register_plugin(const string& library, const string& device) except +
        void set_property(const string& device, const cmap[string, string]& properties) except +
        shared_ptr[NativeGraph] read_model(const string& path, const string& weights) except +
        shared_ptr[NativeGraph] read_model_bytes(const string& model, const char* weights, size_t size) except +
        shared_ptr[NativeGraph] adopt(const void* model) except +
        shared_ptr[CompiledModel] compile(const NativeGraph& graph, const string& device,
                                          const cmap[string, string]& properties) except +
        shared_ptr[CompiledModel] import_blob(const string& blob, const string& device,
                                              const cmap[string, string]& properties) except +

    string native_openvino_version "ovengine::openvino_version"()
    shared_ptr[CompiledModel] native_adopt_compiled "ovengine::adopt_compiled"(const void* model) except +
    const void* openvino_model_type_info()
    const void* openvino_compiled_model_type_info()
    const void* openvino_tensor_type_info()

cdef extern from "ovengine_policy.h" nogil:
    ctypedef struct ovengine_policy:
        uint32_t abi_version
        uint32_t struct_size
        void* context
        void* select_lane

    int OVENGINE_POLICY_ABI_VERSION
    size_t OVENGINE_POLICY_LEAST_SIZE
    const char* OVENGINE_POLICY_CAPSULE

cdef extern from "platform/exit.hpp" namespace "ovengine::platform" nogil:
    cdef cppclass AtWork:
        @staticmethod
        cbool wait_for_none(TimePoint deadline)
        @staticmethod
        void forget_all()

    void skip_destructors_at_exit()

cdef extern from "platform/futex.hpp" namespace "ovengine::platform" nogil:
    cdef cppclass Deadline:
        Deadline()

    cpdef enum class WaitResult "ovengine::platform::WaitResult":
        woken
        timed_out
        interrupted

cdef extern from "batch/mailbox.hpp" namespace "ovengine" nogil:
    cdef cppclass Notice:
        Notice() except +
        Notice* next
        NativeMailbox* mailbox
        void* future

    cdef cppclass NativeMailbox "ovengine::Mailbox":
        int fd()
        Notice* take_all()
        void retain()
        void release()

cdef extern from "batch/completion.hpp" namespace "ovengine" nogil:
    cdef enum class Outcome "ovengine::Outcome":
        pending
        ok
        cancelled
        failed
        closed
        lease_lost
        expired
        superseded
        no_memory

    cdef cppclass Completion:
        cbool done()
        string failure(uint32_t row) except +
        void retain(uint32_t count)

cdef extern from "requests/job.hpp" namespace "ovengine" nogil:
    cdef cppclass Job:
        cbool is_shaped()
        vector[ShapedOutput]& shaped_outputs()

cdef extern from "diagnostics/stats.hpp" namespace "ovengine" nogil:
    cdef cppclass Counter:
        uint64_t load()

    cdef cppclass Histogram:
        uint64_t sum()
        uint64_t max()

    cdef cppclass LaneStats:
        Counter requests, rows, batches, failed, cancelled, lost, closed
        Counter reasons[6]
        Histogram queue_ns, inference_ns
        void add(const LaneStats& other)

cdef extern from "platform/thread.hpp" namespace "ovengine::platform" nogil:
    void take_short_turns()

cdef extern from "platform/futex.hpp" namespace "ovengine::platform" nogil:
    ctypedef struct TimePoint "ovengine::platform::Clock::time_point":
        pass

cdef extern from "lanes/cpu_budget.hpp" namespace "ovengine" nogil:
    cdef cppclass NativeCpuBudget "ovengine::CpuBudget":
        NativeCpuBudget(uint32_t cpus)
        uint32_t cpus()

cdef extern from "binding/bridge.hpp" namespace "ovengine::bridge" nogil:
    TimePoint after(double seconds)
    Deadline deadline_after(double seconds)
    int64_t deadline_ns_after(double seconds)
    cbool is_over(Deadline deadline)
    Deadline sooner(Deadline deadline, int64_t deadline_ns)
    shared_ptr[CompiledModel] make_fake(const vector[NativePort]& inputs, const vector[NativePort]& outputs,
                                        FakeBehavior behavior, cbool has_poison, float poison) except +
    NativeMailbox* try_make_mailbox()
    double measure(const CompiledModel& model, const vector[ShapedInput]& inputs, int min_runs, double max_seconds,
                   double max_one) except +
    cbool has_state(const CompiledModel& model) except +
    void forget_policies() except +

    cdef cppclass Builder:
        Builder()
        vector[size_t] input_row_bytes
        vector[size_t] output_row_bytes
        vector[uint32_t] sizes
        vector[double] cost_us
        uint32_t max_queue_size
        int64_t max_queue_delay_ns
        shared_ptr[NativeCpuBudget] budget
        void add_lane(uint32_t device, const vector[shared_ptr[CompiledModel]]& ladder, uint32_t cpus) except +
        void set_policy(const string& kind)
        void set_native_policy(const ovengine_policy* policy, void (*release)(void*) noexcept nogil, void* owner)
        shared_ptr[ModelCore] build() except +
        void install(ModelCore& core) except +

    cdef cppclass Percentiles:
        double p50_us, p90_us, p99_us, max_us, mean_us
        uint64_t count

    Percentiles queue_percentiles(const vector[shared_ptr[LaneStats]]& lanes)
    Percentiles inference_percentiles(const vector[shared_ptr[LaneStats]]& lanes)

cdef extern from "requests/request.hpp" namespace "ovengine" nogil:
    int kPriorities

    cdef cppclass Group:
        uint32_t approx_waiting()

    cdef cppclass Terms:
        Terms()
        uint64_t key
        uint32_t priority
        int64_t deadline_ns
        shared_ptr[Group] group
        cbool latest_only
        cbool is_plain()

cdef extern from "requests/session.hpp" namespace "ovengine" nogil:
    cdef cppclass NativeSession "ovengine::Session":
        StatefulExecutor& executor()

    cdef cppclass NativeSessions "ovengine::Sessions":
        cbool try_hold(NativeSession& session, cbool& reset) except +
        WaitResult wait_for_rest(NativeSession& session, Deadline deadline) except +
        void reset(NativeSession& session) except +
        void close(NativeSession& session) except +
        cbool ended(const NativeSession& session) except +
        size_t count() except +

cdef extern from "core/model_core.hpp" namespace "ovengine" nogil:
    cdef cppclass Slot:
        pass

    cdef cppclass Request:
        void set_terms(const Terms& terms)

    cdef cppclass Ticket:
        Ticket()
        Slot* slot
        Completion* batch
        Request* request
        Job* job
        uint32_t row
        uint32_t rows

    cdef enum class Admission "ovengine::Admission":
        ok
        full
        closed
        unmeetable

    cdef cppclass InUse "ovengine::Dispatcher::InUse":
        size_t slots, batches, requests, rows

    cdef cppclass ModelCore:
        void start() except +
        uint32_t capacity()
        vector[pair[uint32_t, double]] costs() except +
        double slowest_us()
        double unknown_us()
        uint32_t max_batch_rows()
        size_t ring_capacity()
        void set_max_batch_rows(uint32_t rows)
        void set_max_queue_delay_ns(int64_t delay_ns)
        void set_max_queue_size(uint32_t size)
        size_t lane_count()
        cbool forked()
        Admission begin(uint32_t rows, Ticket& ticket, const Terms& terms) except +
        byte* destination(const Ticket& ticket, size_t port) except +
        @staticmethod
        void share(const Ticket& ticket, vector[byte*] inputs) except +
        Admission publish(Ticket& ticket)
        Admission publish(Ticket& ticket, cbool wake)
        void abandon(Ticket& ticket)
        WaitResult wait_for_room(Deadline deadline, const Group* group)
        Admission begin_shared(uint32_t rows, Ticket& ticket) except +
        int try_borrow_lane()
        int try_borrow_lane(uint64_t lanes)
        void run_borrowed(int lane)
        void run_borrowed_job(int lane, const Ticket& ticket, TimePoint until)
        void return_lane(int lane)
        Admission submit_rows(vector[byte*] inputs, uint32_t rows, Ticket& ticket, const Terms& terms) except +
        Admission submit_shaped(vector[ShapedInput] inputs, Ticket& ticket, const Terms& terms) except +
        Admission submit_own(shared_ptr[NativeOwnRequest] own, Ticket& ticket, cbool wake) except +
        shared_ptr[Group] make_group(const string& name) except +
        shared_ptr[NativeSession] open_session() except +
        NativeSessions& sessions()
        uint64_t lanes_of(const NativeSession& session)
        Admission submit_in_session(const shared_ptr[NativeSession]& session, vector[ShapedInput] inputs,
                                    Ticket& ticket, cbool wake) except +
        WaitResult wait_for_session_room(Deadline deadline) except +
        void end_session(NativeSession& session) except +
        void let_go(const shared_ptr[NativeSession]& session) except +
        Admission begin_lease(uint32_t rows, Ticket& ticket) except +
        cbool publish_lease(Ticket& ticket, Admission& admission)
        void abandon_lease(Ticket& ticket)
        Slot* hold(const Ticket& lease)
        void let_go(Slot* slot)
        @staticmethod
        Completion* completion(Ticket& ticket)
        @staticmethod
        Outcome outcome(Ticket& ticket)
        @staticmethod
        WaitResult wait(Ticket& ticket, Deadline deadline)
        @staticmethod
        cbool cancel(Ticket& ticket)
        @staticmethod
        cbool attach(Ticket& ticket, Notice* notice)
        @staticmethod
        cbool may_read_input(const Ticket& ticket)
        void drop_request(Ticket& ticket)
        byte* output(const Ticket& ticket, size_t port)
        void release(Ticket& ticket)
        void begin_close(Deadline deadline)
        cbool wait_closed(Deadline until)
        cbool all_served()
        void mark_forked() except +
        InUse in_use() except +
        uint64_t approx_waiting()
        const LaneStats& lane_stats(size_t lane)
        uint32_t lane_device(size_t lane)
        uint64_t closed_requests()
        uint64_t cancelled_requests()
        uint64_t expired_requests()
        uint64_t superseded_requests()
        uint64_t refused_requests()
        uint64_t policy_faults()
