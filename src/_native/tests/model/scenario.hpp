// What all scenarios need: the checker, and the classes under test, into which it reaches.
#pragma once

#include "checker.hpp"

// After all of the standard library's: the scenarios reach into the classes under test.
#define private public
#include "batch/batch.hpp"
#include "batch/claim_word.hpp"
#include "batch/event.hpp"
#include "batch/free_list.hpp"
#include "batch/mailbox.hpp"
#include "core/model_core.hpp"
#include "device/fake_executor.hpp"
#include "lanes/idle_lanes.hpp"
#include "queue/bounded_ring.hpp"
#undef private

namespace ovengine::scenarios {

// Plain memory that a race on is an error.
using Plain = rl::var<int>;
#define EXPECT(condition) RL_ASSERT(condition)

}  // namespace ovengine::scenarios
