# How finished futures reach event loops, callbacks and as_completed.

# How many forks this process is away from the first one.
cdef long _process = 0


cdef class _Mailbox:
    """Owner of a native mailbox. Notices carry a reference to the object that wants to be told."""
    cdef NativeMailbox* native
    cdef readonly long outstanding  # notices that have not come back
    cdef long process               # as `_process` was

    def __cinit__(self):
        self.process = _process
        self.native = try_make_mailbox()
        if self.native == NULL:
            code = errno
            raise OSError(
                code, f"{os.strerror(code)}: waiting for futures takes one file descriptor for each event loop, for "
                "callbacks, and for each wait() and as_completed(); close some, or raise the limit (ulimit -n)"
            )

    def __dealloc__(self):
        if self.native != NULL:
            self.native.release()

    cdef int fd(self):
        return self.native.fd()

    cdef bint attach(self, Ticket& ticket, object receiver):
        """Asks for one delivery of `receiver`; False when the ticket's outcome is known already."""
        cdef Notice* notice = new Notice()
        notice.mailbox = self.native
        notice.future = <void*><PyObject*>receiver
        # The reference that the notice carries; all under the GIL, so it is there before anybody can take it.
        Py_INCREF(receiver)
        self.native.retain()
        self.outstanding += 1
        if ModelCore.attach(ticket, notice):
            return True
        del notice
        Py_DECREF(receiver)
        self.native.release()
        self.outstanding -= 1
        return False

    cdef list take(self):
        """All receivers that were delivered, oldest first; none in the child of a fork, which shares the descriptor
        with its parent: to clear it would take the parent's news away."""
        cdef Notice* notice
        cdef Notice* following
        cdef list receivers = []
        if self.process != _process:
            return receivers
        notice = self.native.take_all()
        while notice != NULL:
            receivers.append(<object>notice.future)
            Py_DECREF(<object>notice.future)
            following = notice.next
            del notice
            self.native.release()
            self.outstanding -= 1
            notice = following
        receivers.reverse()
        return receivers


# Mailboxes whose owner went away while notices were on their way; emptied when somebody comes by.
cdef list _abandoned = []


cdef _abandon(_Mailbox mailbox):
    if mailbox.process == _process:
        _abandoned.append(mailbox)
        _sweep_abandoned()


cdef _sweep_abandoned():
    cdef _Mailbox mailbox
    # Without a lock, and changed in place: a garbage collection in here may come back here.
    for key, loop_mailbox in list(_loop_mailboxes.items()):
        if (<_LoopMailbox>loop_mailbox).is_over() and _loop_mailboxes.pop(key, None) is not None:
            _abandoned.append(loop_mailbox)
    for mailbox in list(_abandoned):
        mailbox.take()
        if not mailbox.outstanding and mailbox in _abandoned:
            _abandoned.remove(mailbox)


# One mailbox per event loop, by the loop's address, and read by the loop itself, which holds it.
cdef dict _loop_mailboxes = {}


cdef class _LoopMailbox(_Mailbox):
    cdef object loop  # a weak reference: a loop that nobody closes goes, too

    def _deliver(self):
        cdef _Awaiter awaiter
        for awaiter in self.take():
            awaiter._finish()

    cdef bint is_over(self) except -1:
        loop = self.loop()
        return loop is None or loop.is_closed()


cdef _LoopMailbox _mailbox_of(object loop):
    mailbox = _loop_mailboxes.get(<size_t><PyObject*>loop)
    if mailbox is not None and (<_LoopMailbox>mailbox).loop() is loop:
        return <_LoopMailbox>mailbox
    return _new_loop_mailbox(loop)


cdef _LoopMailbox _new_loop_mailbox(object loop):
    cdef _LoopMailbox mailbox = _LoopMailbox.__new__(_LoopMailbox)
    mailbox.loop = weakref.ref(loop)
    loop.add_reader(mailbox.fd(), mailbox._deliver)
    _sweep_abandoned()
    _loop_mailboxes[<size_t><PyObject*>loop] = mailbox
    return mailbox


# Callbacks run on a thread of their own: never on a lane, which would need the GIL for it.
cdef class _CallbackMailbox(_Mailbox):
    def _run(self):
        cdef Future future
        take_short_turns()  # lanes are on the CPUs when their results come
        poll = select.poll()
        poll.register(self.fd(), select.POLLIN)
        while True:
            poll.poll()
            for future in self.take():
                while True:
                    try:
                        future._run_callbacks()
                        break
                    except BaseException:
                        # sys.exit() in a callback ends neither this thread nor the callbacks behind it.
                        _logger.exception("a done callback of %r raised", future)
            future = None  # or the last one would be held until the next


cdef _CallbackMailbox _callback_mailbox = None
cdef object _callback_lock = threading.RLock()  # a signal handler may come back here on the same thread


cdef _CallbackMailbox _callbacks():
    global _callback_mailbox
    if _callback_mailbox is None:
        with _callback_lock:
            if _callback_mailbox is None:
                mailbox = _CallbackMailbox.__new__(_CallbackMailbox)
                threading.Thread(target=mailbox._run, name="ovengine-callbacks", daemon=True).start()
                _callback_mailbox = mailbox
    return _callback_mailbox


def _forget_after_fork():
    """In the child of a fork: the parent's threads and loops are not here."""
    global _callback_mailbox, _callback_lock, _process
    _process += 1
    AtWork.forget_all()
    forget_policies()
    for model in list(_models):
        model._mark_forked()
    _callback_mailbox = None
    _loop_mailboxes.clear()
    _abandoned.clear()
    _callback_lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_after_fork)


def end_process(double seconds):
    """At the interpreter's exit: close all models that are left, and give lanes up to so many seconds to come back from
    their last inference. If one does not, or 0 is given, the process will end without the destructors of OpenVINO's
    libraries, which it might still use.
    """
    cdef cbool is_over = False
    cdef TimePoint until = after(seconds)
    models = list(_models)
    try:
        for model in models:
            NativeModel._begin_close(model, 0)
        for model in models:
            NativeModel._finish_close(model)
        if seconds > 0:
            with nogil:
                is_over = AtWork.wait_for_none(until)
    finally:  # also when a signal ends the wait
        if not is_over:
            skip_destructors_at_exit()
